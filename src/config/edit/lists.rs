//! The lists of versions with their shares: what stays keeps its words and its comments.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use toml_edit::{Array, Item, TableLike, Value};

use super::text::{Line, Splice, comments, gap, indent, line_break, spliced, starts_line, string};
use crate::diag::Span;
use crate::model::name::VersionId;
use crate::model::share::Share;

/// Versions with their shares, in order.
pub(super) type Shares = [(VersionId, Share)];

/// How a list is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout<'a> {
    /// Whether each entry has a line of its own.
    pub(super) lines: bool,
    /// The white space before the key of the list.
    pub(super) indent: &'a str,
    pub(super) line_break: &'static str,
}

impl Layout<'_> {
    /// The white space before an entry.
    fn entry_indent(&self) -> String {
        format!("{}{}", self.indent, if self.indent.starts_with('\t') { "\t" } else { "  " })
    }
}

/// A list of which nothing was there before.
pub(super) fn written(shares: &Shares, layout: Layout<'_>) -> String {
    if !layout.lines {
        let entries: Vec<_> = shares.iter().map(|(id, share)| entry(id, *share)).collect();
        return format!("[{}]", entries.join(", "));
    }
    let (indent, line_break) = (layout.entry_indent(), layout.line_break);
    let lines = shares.iter().map(|(id, share)| format!("{line_break}{indent}{},", entry(id, *share)));
    format!("[{}{line_break}{}]", lines.collect::<String>(), layout.indent)
}

fn entry(id: &VersionId, share: Share) -> String {
    format!("{{ version_id = {}, percentage = {share} }}", string(id.as_str()))
}

/// The same version with another share, where an entry's share is not this one; `None`: it is not known where it stands.
pub(super) fn share_in(text: &str, table: &dyn TableLike, share: Share) -> Option<Vec<Splice>> {
    let value = table.get("percentage").and_then(Item::as_value)?;
    let span = value.span()?;
    let old = value.as_str().or_else(|| text.get(span.clone()))?;
    Some(if Share::parse(old) == Ok(share) { Vec::new() } else { vec![(span, share.to_string())] })
}

/// The version that an entry is about.
pub(super) fn id_of(table: &dyn TableLike) -> Option<&str> {
    table.get("version_id").and_then(Item::as_str)
}

/// Whether a list already says this.
pub(super) fn says(text: &str, array: &Array, shares: &Shares) -> bool {
    array.len() == shares.len()
        && array.iter().zip(shares).all(|(value, (id, share))| {
            value.as_inline_table().is_some_and(|table| {
                id_of(table) == Some(id.as_str())
                    && share_in(text, table, *share).is_some_and(|splices| splices.is_empty())
            })
        })
}

/// A list in the place of another: an entry of a version that was there keeps its words and comments.
pub(super) fn rewritten(
    text: &str,
    array: &Array,
    span: Range<usize>,
    shares: &Shares,
    layout: Layout<'_>,
) -> String {
    let Old { opening, mut entries, mut tail, breaks } = Old::read(text, array, span.clone());
    let mut places: HashMap<&str, VecDeque<usize>> = HashMap::new();
    for (index, old) in entries.iter().enumerate() {
        places.entry(old.id.unwrap_or_default()).or_default().push_back(index);
    }
    let mut next = |id: &str| places.get_mut(id)?.pop_front();
    let taken = shares.iter().map(|(id, share)| {
        let index = next(id.as_str());
        let words = index.and_then(|index| entries.get_mut(index)?.take(text, *share));
        New { from: index.filter(|_| words.is_some()), words: words.unwrap_or_else(|| entry(id, *share)) }
    });
    let taken: Vec<_> = taken.collect();
    if !layout.lines && !breaks {
        let taken: Vec<_> = taken.into_iter().map(|new| new.words).collect();
        return format!("[{}]", taken.join(", "));
    }
    // Comments of entries that are gone go where the next one that is left stands, or to the end.
    let mut left = Vec::new();
    for old in &mut entries {
        if old.is_taken {
            old.inherited = std::mem::take(&mut left);
        } else {
            left.extend(old.comments(text));
        }
    }
    let entry_indent = entries.iter().map(|old| old.span.start).chain(tail.iter().filter_map(Line::place));
    let entry_indent = entry_indent
        .clone()
        .find(|&at| starts_line(text, at))
        .map_or_else(|| layout.entry_indent(), |at| indent(text, at).to_owned());
    let line_break = layout.line_break;
    let mut new = format!("[{}{line_break}", opening.map_or("", |span| text.get(span).unwrap_or_default()));
    let mut line = |words: &str| {
        let indent = if words.is_empty() { "" } else { &entry_indent };
        new.push_str(&format!("{indent}{words}{line_break}"));
    };
    for entry in taken {
        let old = entry.from.and_then(|index| entries.get(index));
        old.iter().flat_map(|old| &old.inherited).for_each(|comment| line(comment));
        old.iter().flat_map(|old| &old.leading).for_each(|above| line(above.words(text)));
        let behind = old.and_then(|old| text.get(old.trailing.clone()?)).unwrap_or_default();
        line(&format!("{},{behind}", entry.words));
    }
    left.iter().for_each(|comment| line(comment));
    tail.drain(..).for_each(|below| line(below.words(text)));
    let close = span.end.saturating_sub(1);
    let close_indent = if starts_line(text, close) { indent(text, close) } else { layout.indent };
    format!("{new}{close_indent}]")
}

/// An entry of the new list.
struct New {
    words: String,
    /// Which entry of the old list it was.
    from: Option<usize>,
}

/// A list as it is written.
struct Old<'a> {
    /// The comment behind the opening bracket.
    opening: Option<Span>,
    entries: Vec<OldEntry<'a>>,
    /// The lines behind the last entry.
    tail: Vec<Line>,
    /// Whether it has more than one line.
    breaks: bool,
}

struct OldEntry<'a> {
    id: Option<&'a str>,
    value: &'a Value,
    span: Span,
    /// The comments of entries above it that are gone.
    inherited: Vec<String>,
    /// The lines above it.
    leading: Vec<Line>,
    /// The comment behind it.
    trailing: Option<Span>,
    /// Whether the new list has it.
    is_taken: bool,
}

impl<'a> Old<'a> {
    fn read(text: &str, array: &'a Array, span: Span) -> Self {
        let mut old = Self { opening: None, entries: Vec::new(), tail: Vec::new(), breaks: false };
        let mut at = span.start + 1;
        for value in array {
            let span = value.span().unwrap_or(at..at);
            let gap = gap(text, at..span.start);
            old.breaks |= gap.breaks;
            old.comment(gap.same_line);
            at = span.end;
            let id = value.as_inline_table().and_then(|table| id_of(table));
            old.entries.push(OldEntry {
                id,
                value,
                span,
                inherited: Vec::new(),
                leading: gap.lines,
                trailing: None,
                is_taken: false,
            });
        }
        let gap = gap(text, at..span.end.saturating_sub(1));
        old.breaks |= gap.breaks;
        old.comment(gap.same_line);
        old.tail = gap.lines;
        old
    }

    /// Notes the comment behind the last entry, or behind the bracket.
    fn comment(&mut self, comment: Option<Span>) {
        match self.entries.last_mut() {
            Some(entry) => entry.trailing = comment,
            None => self.opening = comment,
        }
    }
}

impl OldEntry<'_> {
    /// Its words with another share, for the new list; `None` where they cannot be had.
    fn take(&mut self, text: &str, share: Share) -> Option<String> {
        let splices = share_in(text, self.value.as_inline_table()?, share)?;
        let from = self.span.start;
        let splices = splices.into_iter().map(|(range, with)| (range.start - from..range.end - from, with));
        self.is_taken = true;
        Some(spliced(text.get(self.span.clone())?, splices.collect()))
    }

    /// All comments that are about it.
    fn comments(&self, text: &str) -> Vec<String> {
        let above = self.leading.iter().map(|line| line.words(text)).filter(|words| !words.is_empty());
        let within = comments(text, self.span.clone());
        let behind = self.trailing.clone().and_then(|span| text.get(span)).map(str::trim);
        above.chain(within).chain(behind).map(str::to_owned).collect()
    }
}

impl Line {
    fn words<'a>(&self, text: &'a str) -> &'a str {
        match self {
            Self::Blank => "",
            Self::Comment(span) => text.get(span.clone()).unwrap_or_default(),
        }
    }

    fn place(&self) -> Option<usize> {
        match self {
            Self::Blank => None,
            Self::Comment(span) => Some(span.start),
        }
    }
}

/// The layout of a list whose key begins at a byte.
pub(super) fn layout(text: &str, key: usize, lines: bool) -> Layout<'_> {
    Layout { lines, indent: indent(text, key), line_break: line_break(text) }
}
