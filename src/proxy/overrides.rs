//! What of the overrides field goes on to an upstream.

use std::ops::Range;

use http::{HeaderMap, HeaderValue};

use super::head::OVERRIDES;
use crate::model::head::Lines;
use crate::model::overrides;

/// Cuts the tokens of a worker that has a secret from the overrides field: its upstreams need not know it. Exactly those
/// bytes go; every other, those of other workers' members included, stays in its line. Where the field is no Dictionary,
/// and so nobody can say where a token would be, all of it is removed.
pub(super) fn cut_tokens(headers: &mut HeaderMap, worker: &str) {
    let cut = headers.joined(OVERRIDES.as_str()).and_then(|field| {
        let tokens = overrides::tokens(&field, worker)?;
        cut_lines(headers, &tokens).or_else(|| Some(vec![without(&field, &tokens, 0)?]))
    });
    let Some(lines) = cut else {
        headers.remove(OVERRIDES);
        return;
    };
    if let http::header::Entry::Occupied(mut entry) = headers.entry(OVERRIDES) {
        if lines.len() == entry.iter().count() {
            entry.iter_mut().zip(lines).for_each(|(line, cut)| *line = cut);
        } else if let Some(whole) = lines.into_iter().next() {
            entry.insert(whole);
        }
    }
}

/// The lines without the tokens. `None` where one spans lines: a String may have what joins them in it, and so the field
/// can only go on as one line.
fn cut_lines(headers: &HeaderMap, tokens: &[Range<usize>]) -> Option<Vec<HeaderValue>> {
    let (mut lines, mut start, mut cut) = (Vec::new(), 0, 0);
    for line in headers.get_all(OVERRIDES) {
        let end = start + line.len();
        let within: Vec<_> =
            tokens.iter().filter(|token| start <= token.start && token.end <= end).cloned().collect();
        cut += within.len();
        lines.push(if within.is_empty() { line.clone() } else { without(line.as_bytes(), &within, start)? });
        start = end + JOINT;
    }
    (cut == tokens.len()).then_some(lines)
}

/// The length of what joins lines: `, `.
const JOINT: usize = 2;

/// A text without some ranges, which are in order and count from `base`.
fn without(text: &[u8], ranges: &[Range<usize>], base: usize) -> Option<HeaderValue> {
    let (mut rest, mut at) = (Vec::with_capacity(text.len()), 0);
    for range in ranges {
        rest.extend_from_slice(text.get(at..range.start.checked_sub(base)?)?);
        at = range.end.checked_sub(base)?;
    }
    rest.extend_from_slice(text.get(at..)?);
    HeaderValue::from_bytes(&rest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(lines: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(OVERRIDES, HeaderValue::from_static(line));
        }
        cut_tokens(&mut headers, "a");
        headers.get_all(OVERRIDES).iter().map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn tokens_are_cut_in_the_lines_in_which_they_stand() {
        for (lines, left) in [
            (&[r#"a="v";token="s""#][..], &[r#"a="v""#][..]),
            (&[r#"b="v";token="t""#, r#"a="v";x;token="s";y"#], &[r#"b="v";token="t""#, r#"a="v";x;y"#]),
            (&[r#"a="v";token="s""#, "c", r#"a="w";token="t""#], &[r#"a="v""#, "c", r#"a="w""#]),
            (&["b", "b"], &["b", "b"]),
        ] {
            assert_eq!(cut(lines), left);
        }
    }

    #[test]
    fn where_a_token_spans_lines_the_field_goes_on_as_one() {
        assert_eq!(cut(&[r#"c, a="v";token="s"#, r#"t";x, b"#]), [r#"c, a="v";x, b"#]);
        assert_eq!(cut(&[r#"a="v";token="1""#, r#"a="w";token="s"#, r#"t""#]), [r#"a="v", a="w""#]);
    }

    #[test]
    fn a_field_that_is_no_dictionary_does_not_go_on() {
        assert_eq!(cut(&[r#"a="v";token="s""#, "="]), [""; 0]);
    }
}
