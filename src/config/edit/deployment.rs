//! Another deployment in the place of the present one, key by key.

use std::ops::Range;

use toml_edit::{ArrayOfTables, InlineTable, Table, Value};

use super::lists::{self, Shares};
use super::place::{Entry, Form, Place};
use super::text::{
    Splice, comments, date_time, gap, indent, line_after, line_break, line_start, next_line, spliced,
    starts_line, string,
};
use super::{EditError, NewDeployment, parse};
use crate::model::name::WorkerName;

/// The keys of a deployment in the order in which a new one is put among them.
const ORDER: [&str; 7] = ["id", "created_on", "author", "source", "message", "versions", "ring"];

/// What a key is to say.
#[derive(Clone, Copy, Debug)]
enum Wanted<'a> {
    /// Nothing.
    Nothing,
    Text(&'a str),
    Time(&'a str),
    List(&'a Shares),
}

/// The text with another deployment of a worker.
pub(super) fn set(text: &str, worker: &WorkerName, new: &NewDeployment) -> Result<String, EditError> {
    let [author, source, message] = [&new.author, &new.source, &new.message]
        .map(|text| text.as_deref().map_or(Wanted::Nothing, Wanted::Text));
    let ring = new.ring.as_deref().map_or(Wanted::Nothing, Wanted::List);
    let wanted = [
        Wanted::Text(&new.id),
        Wanted::Time(&new.created_on),
        author,
        source,
        message,
        Wanted::List(&new.versions),
        ring,
    ];
    let mut text = with_header(text, worker)?;
    for (name, wanted) in ORDER.into_iter().zip(wanted) {
        // Each key is put into a text that is whole, so that no two changes meet.
        text = set_key(&text, worker, name, wanted)?;
    }
    Ok(text)
}

/// The text with a header for the deployment, where it is made of nothing but `[[worker.deployment.versions]]` and the like.
fn with_header(text: &str, worker: &WorkerName) -> Result<String, EditError> {
    let document = parse(text)?;
    let place = Place::find(&document, text, worker)?;
    let sections = place.sections.iter().flat_map(|(_, tables)| tables.iter()).filter_map(Table::span);
    let first = sections.min_by_key(|span| span.start);
    let (Form::Lines(None), [], Some(first)) = (&place.form, &place.entries[..], first) else {
        return Ok(text.to_owned());
    };
    let header = text.get(first.clone()).unwrap_or_default();
    let path = header.trim_matches(['[', ']']).rsplit_once('.').map_or("", |(path, _)| path.trim());
    let line_break = line_break(text);
    let header = format!("[{path}]{line_break}{line_break}{}", indent(text, first.start));
    Ok(spliced(text, vec![(first.start..first.start, header)]))
}

fn set_key(text: &str, worker: &WorkerName, name: &str, wanted: Wanted<'_>) -> Result<String, EditError> {
    let document = parse(text)?;
    let place = Place::find(&document, text, worker)?;
    if let Some(entry) = place.entry(name) {
        let splices = match wanted {
            Wanted::Nothing => remove(text, &place, entry),
            wanted => replace(text, &place, entry, wanted).into_iter().collect(),
        };
        return Ok(spliced(text, splices));
    }
    if let Some(tables) = place.sections(name) {
        if let Wanted::List(shares) = wanted
            && let Some(splices) = shares_in_place(text, tables, shares)
        {
            return Ok(spliced(text, splices));
        }
        return set_key(&without_sections(text, tables), worker, name, wanted);
    }
    match wanted {
        Wanted::Nothing => Ok(text.to_owned()),
        wanted => {
            let splice = insert(text, &place, name, wanted);
            splice
                .map(|splice| spliced(text, vec![splice]))
                .ok_or_else(|| EditError::NoDeployment(worker.clone()))
        }
    }
}

/// Another value, unless the present one says the same.
fn replace(text: &str, place: &Place<'_>, entry: &Entry<'_>, wanted: Wanted<'_>) -> Option<Splice> {
    let says_so = match (wanted, entry.value) {
        (Wanted::Text(new), Value::String(old)) => old.value() == new,
        (Wanted::Time(new), _) => text.get(entry.span.clone()) == Some(new),
        (Wanted::List(shares), Value::Array(array)) => lists::says(text, array, shares),
        _ => false,
    };
    let new = match (wanted, entry.value) {
        (Wanted::List(shares), Value::Array(array)) => {
            let lines = matches!(place.form, Form::Lines(_));
            let layout = lists::layout(text, entry.start, lines);
            lists::rewritten(text, array, entry.span.clone(), shares, layout)
        }
        _ => value(text, entry.start, wanted, matches!(place.form, Form::Lines(_))),
    };
    (!says_so).then_some((entry.span.clone(), new))
}

/// What a key says whose line is that of a byte.
fn value(text: &str, at: usize, wanted: Wanted<'_>, lines: bool) -> String {
    match wanted {
        Wanted::Nothing => String::new(),
        Wanted::Text(value) => string(value),
        Wanted::Time(value) => date_time(value),
        Wanted::List(shares) => lists::written(shares, lists::layout(text, at, lines)),
    }
}

/// A key away, its comments left.
fn remove(text: &str, place: &Place<'_>, entry: &Entry<'_>) -> Vec<Splice> {
    match place.form {
        Form::Lines(_) => vec![without_lines(text, entry.start..entry.span.end)],
        Form::Inline(braces, statement) => without_item(text, braces, entry, statement),
    }
}

/// The lines of a statement away, its comments left as lines of their own.
fn without_lines(text: &str, statement: Range<usize>) -> Splice {
    let (start, end) = (line_start(text, statement.start), next_line(text, statement.end));
    let (indent, line_break) = (indent(text, statement.start), line_break(text));
    let comments = comments(text, statement.start..end).into_iter();
    let before = text.get(..start).unwrap_or_default().trim_end_matches(['\r', '\n']);
    match text.get(..end) {
        // The last line of the text has no end, and neither has the one before it then.
        Some(whole) if !whole.ends_with('\n') => {
            (before.len()..end, comments.map(|comment| format!("{line_break}{indent}{comment}")).collect())
        }
        _ => (start..end, comments.map(|comment| format!("{indent}{comment}{line_break}")).collect()),
    }
}

/// An item of a table in braces away, with one comma; its comments go above the statement.
fn without_item(text: &str, braces: &InlineTable, entry: &Entry<'_>, statement: usize) -> Vec<Splice> {
    let inside = braces.span().unwrap_or_default();
    let ends = braces.get_values().into_iter().filter_map(|(_, value)| Some(value.span()?.end));
    let before = ends.filter(|&end| end <= entry.start).max().unwrap_or(inside.start + 1);
    let behind = gap(text, entry.span.end..end_of_gap(text, braces, entry.span.end));
    let blank = |at: usize| {
        let rest = text.get(at..).unwrap_or_default();
        at + rest.len() - rest.trim_start_matches([' ', '\t']).len()
    };
    let away = |range: Range<usize>| (range, String::new());
    let comma = behind.comma.map(|comma| away(comma..comma + 1));
    let mut splices = match (comma, gap(text, before..entry.start).comma) {
        // What follows takes its place.
        (Some((comma, _)), _) if comma.start == blank(entry.span.end) => {
            vec![away(entry.start..blank(comma.end))]
        }
        (Some(comma), _) => vec![away(entry.start..entry.span.end), comma],
        (None, Some(comma)) if blank(comma + 1) == entry.start => vec![away(comma..entry.span.end)],
        (None, Some(comma)) => vec![away(comma..comma + 1), away(entry.start..entry.span.end)],
        (None, None) => vec![away(entry.start..entry.span.end)],
    };
    let (indent, line_break) = (indent(text, statement), line_break(text));
    let comments = comments(text, entry.span.clone()).into_iter();
    let comments = comments.map(|comment| format!("{indent}{comment}{line_break}"));
    splices.push((statement..statement, comments.collect()));
    splices
}

/// Where what stands between an item's end and the next item, or the closing brace, ends.
fn end_of_gap(text: &str, braces: &InlineTable, item_end: usize) -> usize {
    let close = braces.span().map_or(text.len(), |span| span.end.saturating_sub(1));
    let values = braces.get_values().into_iter();
    let next = values.filter_map(|(path, value)| {
        let start = path.last()?.span()?.start;
        (value.span()?.end > item_end && start >= item_end).then_some(start)
    });
    next.min().map_or(close, |start| start.min(close))
}

/// A key more.
fn insert(text: &str, place: &Place<'_>, name: &str, wanted: Wanted<'_>) -> Option<Splice> {
    let rank = |name: &str| ORDER.iter().position(|key| *key == name);
    let own = rank(name)?;
    let before = place
        .entries
        .iter()
        .filter(|entry| rank(entry.name) < Some(own))
        .max_by_key(|entry| rank(entry.name));
    let after = place
        .entries
        .iter()
        .filter(|entry| rank(entry.name) > Some(own))
        .min_by_key(|entry| rank(entry.name));
    let pair = |like: &Entry<'_>, lines: bool| {
        let prefix = text.get(like.start..like.leaf).unwrap_or_default();
        format!("{prefix}{name} = {}", value(text, like.start, wanted, lines))
    };
    match (&place.form, before, after) {
        (Form::Lines(Some(header)), None, first) => {
            let at = first.map_or(header.start, |first| first.start);
            let line = format!("{}{name} = {}", indent(text, at), value(text, at, wanted, true));
            Some(line_after(text, header.end, &line))
        }
        (Form::Lines(_), Some(like), _) | (Form::Lines(None), None, Some(like)) => {
            let line = format!("{}{}", indent(text, like.start), pair(like, true));
            Some(line_after(text, like.span.end, &line))
        }
        (Form::Inline(..), None, Some(next)) if !starts_line(text, next.start) => {
            Some((next.start..next.start, format!("{}, ", pair(next, false))))
        }
        (Form::Inline(..), _, Some(next)) if starts_line(text, next.start) => {
            let line = format!("{},{}{}", pair(next, false), line_break(text), indent(text, next.start));
            Some((next.start..next.start, line))
        }
        (Form::Inline(..), Some(last), _) => {
            let lines = text.get(last.span.clone()).is_some_and(|value| value.contains('\n'));
            Some((last.span.end..last.span.end, format!(", {}", pair(last, lines))))
        }
        (Form::Inline(..) | Form::Lines(_), _, _) => None,
    }
}

/// Only the shares changed, where sections are about these versions in this order; `None` where they are not.
fn shares_in_place(text: &str, tables: &ArrayOfTables, shares: &Shares) -> Option<Vec<Splice>> {
    let ids = tables.iter().map(|table| lists::id_of(table));
    if !ids.eq(shares.iter().map(|(id, _)| Some(id.as_str()))) {
        return None;
    }
    let splices = tables.iter().zip(shares).map(|(table, (_, share))| lists::share_in(text, table, *share));
    Some(splices.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
}

/// The text without the headers and keys of sections, their comments left.
fn without_sections(text: &str, tables: &ArrayOfTables) -> String {
    let mut statements = Vec::new();
    for table in tables {
        statements.extend(table.span());
        for (path, value) in table.get_values() {
            let start = path.first().and_then(|key| key.span()).map(|span| span.start);
            statements.extend(start.zip(value.span()).map(|(start, span)| start..span.end));
        }
    }
    // From the end, so that what is still to go stays where it was.
    statements.sort_by_key(|statement| std::cmp::Reverse(statement.start));
    let without = |text: String, statement| spliced(&text, vec![without_lines(&text, statement)]);
    statements.into_iter().fold(text.to_owned(), without)
}
