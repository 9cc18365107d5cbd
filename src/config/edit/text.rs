//! Lines, comments and strings of a TOML text, and splices into it. Every position lies on the border of a character.

use std::ops::Range;

use toml_edit::Datetime;

use crate::diag::Span;

/// What to put in the place of a part of a text.
pub(super) type Splice = (Range<usize>, String);

/// A text with some parts replaced, none of which overlap.
pub(super) fn spliced(text: &str, mut splices: Vec<Splice>) -> String {
    splices.sort_by_key(|(range, _)| (range.start, range.end));
    let mut new = String::with_capacity(text.len() + 512);
    let mut at = 0;
    for (range, with) in splices {
        new.push_str(text.get(at..range.start).unwrap_or_default());
        new.push_str(&with);
        at = range.end;
    }
    new + text.get(at..).unwrap_or_default()
}

/// How the text ends its lines, judged by the first.
pub(super) fn line_break(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

/// Where the line of a byte begins.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |line_end| line_end + 1)
}

/// Where the next line begins, or the text ends.
pub(super) fn next_line(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |length| at + length + 1)
}

/// The white space at the start of the line of a byte.
pub(super) fn indent(text: &str, at: usize) -> &str {
    let line = text.get(line_start(text, at)..at).unwrap_or_default();
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// Whether only white space stands before a byte on its line.
pub(super) fn starts_line(text: &str, at: usize) -> bool {
    line_start(text, at) + indent(text, at).len() == at
}

/// The text with a whole line more behind the line of a byte, and a line break only where one is needed.
pub(super) fn line_after(text: &str, at: usize, line: &str) -> Splice {
    let (next, line_break) = (next_line(text, at), line_break(text));
    let is_open = text.get(..next).is_some_and(|before| !before.is_empty() && !before.ends_with('\n'));
    (next..next, if is_open { format!("{line_break}{line}") } else { format!("{line}{line_break}") })
}

/// A string as TOML writes it, in one line, so that it says so whatever it contains.
pub(super) fn string(value: &str) -> String {
    let mut written = String::with_capacity(value.len() + 2);
    written.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => written.extend(['\\', c]),
            '\t' => written.push_str("\\t"),
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            // Text of either direction or none is shown as it is; what a terminal would obey is not.
            c if c.is_control() => written.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => written.push(c),
        }
    }
    written + "\""
}

/// A date-time as TOML writes it, or else a string.
pub(super) fn date_time(value: &str) -> String {
    match value.parse::<Datetime>() {
        Ok(Datetime { date: Some(_), time: Some(_), offset: Some(_) }) => value.to_owned(),
        _ => string(value),
    }
}

/// What stands between the items of a list, or between an item and a bracket: white space, comments, and at most one comma.
#[derive(Debug, Default)]
pub(super) struct Gap {
    /// Where the comma is.
    pub(super) comma: Option<usize>,
    /// The comment on the line where the gap begins, with the white space before it.
    pub(super) same_line: Option<Span>,
    /// The lines of their own.
    pub(super) lines: Vec<Line>,
    /// Whether it has a line end.
    pub(super) breaks: bool,
}

/// A line of a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Without anything.
    Blank,
    /// With a comment, given without the white space before it.
    Comment(Span),
}

/// Reads what stands between items.
pub(super) fn gap(text: &str, range: Span) -> Gap {
    let bytes = text.as_bytes().get(range.clone()).unwrap_or_default();
    let mut gap = Gap::default();
    let (mut at, mut is_blank, mut space) = (0, false, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b',' => {
                gap.comma = Some(range.start + at);
                (is_blank, space) = (false, at + 1);
            }
            b'\n' => {
                gap.lines.extend(is_blank.then_some(Line::Blank));
                (is_blank, gap.breaks) = (true, true);
            }
            b'#' => {
                let end = comment_end(bytes, at);
                match gap.breaks {
                    false => gap.same_line = Some(range.start + space..range.start + end),
                    true => gap.lines.push(Line::Comment(range.start + at..range.start + end)),
                }
                is_blank = false;
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    gap
}

/// All comments in a text that is TOML or part of it, none of them in a string.
pub(super) fn comments(text: &str, range: Span) -> Vec<&str> {
    let bytes = text.as_bytes().get(..range.end).unwrap_or_default();
    let mut found = Vec::new();
    let mut at = range.start;
    while let Some(&byte) = bytes.get(at) {
        at = match byte {
            b'"' | b'\'' => string_end(bytes, at),
            b'#' => {
                let end = comment_end(bytes, at);
                found.extend(text.get(at..end));
                end
            }
            _ => at + 1,
        };
    }
    found
}

/// Where a comment ends that begins at a byte.
fn comment_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
    let is_carriage = length > 0 && rest.get(length - 1) == Some(&b'\r');
    at + length - usize::from(is_carriage)
}

/// Where a string ends that begins at a byte.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(&quote) = rest.first() else { return at };
    let delimiter = [quote; 3];
    let delimiter = if rest.starts_with(&delimiter) { &delimiter[..] } else { &delimiter[..1] };
    let mut end = delimiter.len();
    while let Some(&byte) = rest.get(end) {
        if byte == b'\\' && quote == b'"' {
            end += 2;
        } else if rest.get(end..).is_some_and(|rest| rest.starts_with(delimiter)) {
            // Two quotes may stand before the closing three.
            let more = rest.get(end + 3..).unwrap_or_default().iter().take_while(|&&byte| byte == quote);
            return at + end + delimiter.len() + if delimiter.len() == 3 { more.count() } else { 0 };
        } else {
            end += 1;
        }
    }
    bytes.len()
}
