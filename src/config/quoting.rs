//! How TOML writes a string: where each byte of its value stands in the file.

/// The place of each byte of a string's value in what the file writes for it, and the place where the last one ends; `None`
/// where the one does not come from the other.
pub(super) fn places(written: &str, value: &str) -> Option<Vec<usize>> {
    if written == value {
        return Some((0..=value.len()).collect());
    }
    let delimiter = ["'''", "\"\"\"", "'", "\""].into_iter().find(|quotes| {
        written.len() >= 2 * quotes.len() && written.starts_with(quotes) && written.ends_with(quotes)
    })?;
    let end = written.len() - delimiter.len();
    let mut at = delimiter.len();
    if delimiter.len() == 3 {
        // A line end right behind the opening quotes is no part of the value.
        at += ["\r\n", "\n"].into_iter().find(|line| written[at..end].starts_with(line)).map_or(0, str::len);
    }
    let mut places = Vec::with_capacity(value.len() + 1);
    for expected in value.chars() {
        let length = loop {
            let rest = written.get(at..end)?;
            match step(rest, delimiter.starts_with('"'), expected)? {
                Step::Character(length) => break length,
                Step::Nothing(length) => at += length,
            }
        };
        // The bytes of a character that is written as it is stand one after the other; those of an escape in one place.
        let plain = length == expected.len_utf8();
        places.extend((0..expected.len_utf8()).map(|byte| at + if plain { byte } else { 0 }));
        at += length;
    }
    places.push(at);
    Some(places)
}

/// What stands next in a written string, and how long it is.
enum Step {
    /// The character that the value has next.
    Character(usize),
    /// Something that the value has not.
    Nothing(usize),
}

fn step(rest: &str, escapes: bool, expected: char) -> Option<Step> {
    let first = rest.chars().next()?;
    if escapes && first == '\\' {
        return escape(rest, expected);
    }
    if first == expected {
        return Some(Step::Character(first.len_utf8()));
    }
    // The parser may take a carriage return out of a line end.
    (rest.starts_with("\r\n") && expected == '\n').then_some(Step::Nothing(1))
}

fn escape(rest: &str, expected: char) -> Option<Step> {
    let kind = rest.chars().nth(1)?;
    let hexadecimal = |digits: usize| {
        let code = u32::from_str_radix(rest.get(2..2 + digits)?, 16).ok()?;
        (char::from_u32(code)? == expected).then_some(Step::Character(2 + digits))
    };
    let simple = match kind {
        'x' => return hexadecimal(2),
        'u' => return hexadecimal(4),
        'U' => return hexadecimal(8),
        'b' => '\u{8}',
        't' => '\t',
        'n' => '\n',
        'f' => '\u{c}',
        'r' => '\r',
        'e' => '\u{1b}',
        '"' | '\\' => kind,
        // At the end of a line: the line end and all white space behind it are no part of the value.
        ' ' | '\t' | '\r' | '\n' => {
            let after = rest.get(1..)?.trim_start_matches([' ', '\t', '\r', '\n']);
            return Some(Step::Nothing(rest.len() - after.len()));
        }
        _ => return None,
    };
    (simple == expected).then_some(Step::Character(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the file writes for each character of the value.
    fn written_for(written: &str, value: &str) -> Vec<String> {
        let places = places(written, value).unwrap();
        let starts: Vec<_> = value.char_indices().map(|(at, _)| places[at]).collect();
        let ends = starts.iter().skip(1).copied().chain([places[value.len()]]);
        starts.iter().zip(ends).map(|(&start, end)| written[start..end].to_owned()).collect()
    }

    #[test]
    fn every_kind_of_string_says_where_its_characters_stand() {
        for (written, value, expected) in [
            ("'aé'", "aé", &["a", "é"][..]),
            ("\"a\\tb\"", "a\tb", &["a", "\\t", "b"]),
            (r#""\u00e9\"\\x""#, "é\"\\x", &["\\u00e9", "\\\"", "\\\\", "x"]),
            (r#""\U0001F600!\x41\e""#, "\u{1f600}!A\u{1b}", &["\\U0001F600", "!", "\\x41", "\\e"]),
            ("'''\na\nb'''", "a\nb", &["a", "\n", "b"]),
            ("'''\r\na'b'''", "a'b", &["a", "'", "b"]),
            ("\"\"\"\na \\\n   b\"\"\"", "a b", &["a", " \\\n   ", "b"]),
            ("\"\"\"a\"\"b\"\"\"", "a\"\"b", &["a", "\"", "\"", "b"]),
            ("bare", "bare", &["b", "a", "r", "e"]),
        ] {
            assert_eq!(written_for(written, value), expected, "{written}");
        }
    }

    #[test]
    fn carriage_returns_may_be_taken_out() {
        let places = places("'''a\r\nb'''", "a\nb").unwrap();
        assert_eq!(places, [3, 5, 6, 7]);
    }

    #[test]
    fn what_does_not_fit_has_no_places() {
        for (written, value) in [("'a'", "b"), ("\"\\q\"", "q"), ("'a", "ab"), ("''", "a")] {
            assert_eq!(places(written, value), None, "{written}");
        }
    }
}
