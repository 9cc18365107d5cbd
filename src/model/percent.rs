//! Percent-encoding (RFC 3986 section 2.1).

/// The byte that is encoded at the beginning of a text, by three of its bytes; `None` where none is.
pub fn encoded(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// The first byte of a text, decoded where it is encoded, and how many bytes stand for it. What is no encoding stands for
/// itself. `None` at the end.
pub fn first(text: &[u8]) -> Option<(u8, usize)> {
    encoded(text).map(|byte| (byte, 3)).or_else(|| text.first().map(|byte| (*byte, 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_of_either_case_behind_a_percent_sign_are_a_byte_and_all_else_is_itself() {
        for (text, expected) in [
            ("%41b", Some((b'A', 3))),
            ("%4a", Some((b'J', 3))),
            ("%4A", Some((b'J', 3))),
            ("%ff", Some((0xff, 3))),
            ("%4", Some((b'%', 1))),
            ("%+1", Some((b'%', 1))),
            ("%g1", Some((b'%', 1))),
            ("a%41", Some((b'a', 1))),
            ("", None),
        ] {
            assert_eq!(first(text.as_bytes()), expected, "{text}");
        }
    }
}
