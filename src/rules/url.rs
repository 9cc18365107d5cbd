//! Percent-encoding.

use bumpalo::collections::Vec as BumpVec;

use super::context::Context;

/// How `url_decode` decodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Decoding {
    /// Until nothing is left to decode, or [`MOST_ROUNDS`] are done.
    pub(super) recursive: bool,
    /// `%uXXXX`, too.
    pub(super) unicode: bool,
}

/// How often a recursive decoding decodes: each round is as long as the text.
const MOST_ROUNDS: usize = 16;

/// A byte that is encoded at the beginning of a text.
fn encoded(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Whether a text is a key once its percent-encodings are decoded. What is no encoding stands for itself.
pub(super) fn decodes_to(mut text: &[u8], key: &[u8]) -> bool {
    for &expected in key {
        let (found, length) = match (encoded(text), text.first()) {
            (Some(byte), _) => (byte, 3),
            (None, Some(&byte)) => (byte, 1),
            (None, None) => return false,
        };
        if found != expected {
            return false;
        }
        text = text.get(length..).unwrap_or_default();
    }
    text.is_empty()
}

/// The name of a cookie, decoded.
pub(super) fn decoded_name<'s>(context: &Context<'s>, name: &'s [u8]) -> &'s [u8] {
    if !name.contains(&b'%') {
        return name;
    }
    let mut decoded = BumpVec::with_capacity_in(name.len(), context.bump);
    let mut rest = name;
    while let Some(&first) = rest.first() {
        let byte = encoded(rest);
        decoded.push(byte.unwrap_or(first));
        rest = rest.get(if byte.is_some() { 3 } else { 1 }..).unwrap_or_default();
    }
    decoded.into_bump_slice()
}

/// A text decoded as forms are: `+` is a space, too. What is no encoding stands for itself. `None` where that would be too
/// much work.
pub(super) fn decode<'s>(context: &Context<'s>, text: &'s [u8], decoding: Decoding) -> Option<&'s [u8]> {
    let mut text = text;
    for _ in 0..if decoding.recursive { MOST_ROUNDS } else { 1 } {
        if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
            break;
        }
        let mut decoded = context.buffer(text.len())?;
        decode_once(text, decoding.unicode, &mut decoded);
        if decoded[..] == *text {
            break;
        }
        text = decoded.into_bump_slice();
    }
    Some(text)
}

fn decode_once(mut rest: &[u8], unicode: bool, decoded: &mut BumpVec<'_, u8>) {
    while let Some(&first) = rest.first() {
        let length = if first == b'+' {
            decoded.push(b' ');
            1
        } else if let Some(byte) = encoded(rest) {
            decoded.push(byte);
            3
        } else if let Some((c, length)) = unicode.then(|| character(rest)).flatten() {
            decoded.extend_from_slice_copy(c.encode_utf8(&mut [0; 4]).as_bytes());
            length
        } else {
            decoded.push(first);
            1
        };
        rest = rest.get(length..).unwrap_or_default();
    }
}

/// The character that `%uXXXX` stands for at the beginning of a text, of two such where they are surrogates; and how long
/// they are.
fn character(text: &[u8]) -> Option<(char, usize)> {
    let unit = |text: &[u8]| -> Option<u16> {
        let [b'%', b'u' | b'U', digits @ ..] = text else { return None };
        let digits = digits.get(..4)?;
        digits.iter().try_fold(0, |value: u16, digit| {
            Some(value << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?)
        })
    };
    let first = unit(text)?;
    if let Some(c) = char::from_u32(first.into()) {
        return Some((c, 6));
    }
    let second = unit(text.get(6..)?)?;
    let c = char::decode_utf16([first, second]).next()?.ok()?;
    Some((c, 12))
}
