//! A version more.

use std::ops::Range;

use toml_edit::{Array, ArrayOfTables, Item, Table, Value};

use super::place::Home;
use super::text::{Splice, date_time, gap, indent, line_break, next_line, spliced, starts_line, string};
use super::{EditError, NewVersion, parse};
use crate::model::name::WorkerName;

/// The text with one more version of a worker.
pub(super) fn add(text: &str, worker: &WorkerName, version: &NewVersion) -> Result<String, EditError> {
    let document = parse(text)?;
    let splices = match Home::find(&document, worker)?.get("version") {
        Some((_, Item::ArrayOfTables(tables))) => section(text, tables, version).map(|splice| vec![splice]),
        Some((_, Item::Value(Value::Array(array)))) => item(text, array, version),
        _ => None,
    };
    let splices = splices.ok_or_else(|| EditError::NoVersion(worker.clone()))?;
    Ok(spliced(text, splices))
}

/// The keys of the version and their values.
fn keys(version: &NewVersion) -> Vec<String> {
    let text = |name: &str, value: Option<&str>| value.map(|value| format!("{name} = {}", string(value)));
    let upstreams: Vec<_> = version.upstreams.iter().map(|upstream| string(upstream)).collect();
    let keys = [
        text("id", Some(version.id.as_str())),
        text("tag", version.tag.as_ref().map(|tag| tag.as_str())),
        text("message", version.message.as_deref()),
        Some(format!("created_on = {}", date_time(&version.created_on))),
        text("migration", version.migration.as_ref().map(|tag| tag.as_str())),
        Some(format!("upstreams = [{}]", upstreams.join(", "))),
    ];
    keys.into_iter().flatten().collect()
}

/// A section behind the last one, and behind what belongs to that.
fn section(text: &str, tables: &ArrayOfTables, version: &NewVersion) -> Option<Splice> {
    let last = tables.iter().last()?;
    let header = last.span()?;
    let first_key = last
        .get_values()
        .into_iter()
        .filter_map(|(path, _)| path.first()?.span())
        .min_by_key(|span| span.start);
    let key_indent = indent(text, first_key.map_or(header.start, |span| span.start));
    let line_break = line_break(text);
    let at = after_comments(text, next_line(text, end(last)));
    let before = text.get(..at)?;
    let mut new = String::new();
    if !before.ends_with('\n') {
        new.push_str(line_break);
    }
    new.push_str(&format!("{line_break}{}{}", indent(text, header.start), text.get(header)?));
    for key in keys(version) {
        new.push_str(&format!("{line_break}{key_indent}{key}"));
    }
    if before.ends_with('\n') {
        new.push_str(line_break);
    }
    let rest = text.get(at..)?;
    if !rest.is_empty() && !is_blank(rest) {
        new.push_str(line_break);
    }
    Some((at..at, new))
}

/// Where a section and all that belongs to it ends: its own values, and those of tables below it.
fn end(table: &Table) -> usize {
    let mut end = 0;
    let mut tables = vec![table];
    while let Some(table) = tables.pop() {
        let mut reaches = |span: Option<Range<usize>>| end = end.max(span.map_or(0, |span| span.end));
        if !table.is_implicit() {
            reaches(table.span());
        }
        for (_, item) in table.iter() {
            match item {
                Item::Value(value) => reaches(value.span()),
                Item::Table(below) => tables.push(below),
                Item::ArrayOfTables(below) => tables.extend(below.iter()),
                Item::None => {}
            }
        }
    }
    end
}

/// Behind the comments that follow without a blank line, unless they stand right above something else.
fn after_comments(text: &str, at: usize) -> usize {
    let mut after = at;
    loop {
        let rest = text.get(after..).unwrap_or_default();
        if rest.is_empty() || is_blank(rest) {
            return after;
        }
        if !rest.trim_start_matches([' ', '\t']).starts_with('#') {
            return at;
        }
        after = next_line(text, after);
    }
}

/// Whether the first line of a text has nothing but white space.
fn is_blank(text: &str) -> bool {
    text.lines().next().is_none_or(|line| line.trim().is_empty())
}

/// An item behind the last one of a list.
fn item(text: &str, array: &Array, version: &NewVersion) -> Option<Vec<Splice>> {
    let new = format!("{{ {} }}", keys(version).join(", "));
    let brackets = array.span()?;
    let Some(last) = array.iter().last().and_then(Value::span) else {
        return Some(vec![(brackets.start + 1..brackets.start + 1, new)]);
    };
    let behind = gap(text, last.end..brackets.end.saturating_sub(1));
    let put = |at: usize, what: String| (at..at, what);
    if !starts_line(text, last.start) {
        return Some(vec![match behind.comma {
            Some(comma) => put(comma + 1, format!(" {new},")),
            None => put(last.end, format!(", {new}")),
        }]);
    }
    let (indent, line_break) = (indent(text, last.start), line_break(text));
    let comma = if behind.comma.is_some() { "," } else { "" };
    let at = next_line(text, behind.comma.unwrap_or(last.end));
    if !behind.breaks || at >= brackets.end {
        return Some(vec![put(last.end, format!(",{line_break}{indent}{new}"))]);
    }
    let missing = behind.comma.is_none().then(|| put(last.end, ",".to_owned()));
    let line = put(at, format!("{indent}{new}{comma}{line_break}"));
    Some(missing.into_iter().chain([line]).collect())
}
