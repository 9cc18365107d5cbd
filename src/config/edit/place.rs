//! Where a worker and its deployment stand in the text, in each of the forms that TOML has for them.

use std::ops::Range;

use toml_edit::{ArrayOfTables, Document, InlineTable, Item, Key, Table, TableLike, Value};

use super::EditError;
use super::text::line_start;
use crate::model::name::WorkerName;

/// A worker's table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Home<'a> {
    /// With a header: `[[worker]]`.
    Section(&'a Table),
    /// Within braces, in the list that is the value of the key.
    Inline(&'a InlineTable, &'a Key),
}

impl<'a> Home<'a> {
    /// The worker of a name.
    pub(super) fn find(document: &'a Document<&str>, name: &WorkerName) -> Result<Self, EditError> {
        let is_it = |table: &dyn TableLike| table.get("name").and_then(Item::as_str) == Some(name.as_str());
        let found = match document.get_key_value("worker") {
            Some((_, Item::ArrayOfTables(tables))) => {
                tables.iter().find(|table| is_it(*table)).map(Self::Section)
            }
            Some((key, Item::Value(Value::Array(array)))) => {
                let mut tables = array.iter().filter_map(Value::as_inline_table);
                tables.find(|table| is_it(*table)).map(|table| Self::Inline(table, key))
            }
            _ => None,
        };
        found.ok_or_else(|| EditError::NoWorker(name.clone()))
    }

    /// A key of the worker.
    pub(super) fn get(self, name: &str) -> Option<(&'a Key, &'a Item)> {
        match self {
            Self::Section(table) => table.get_key_value(name),
            Self::Inline(table, _) => table.get_key_value(name),
        }
    }
}

/// A worker's deployment.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// The keys with a value.
    pub(super) entries: Vec<Entry<'a>>,
    /// The keys that are lists of tables with headers, such as `[[worker.deployment.versions]]`.
    pub(super) sections: Vec<(&'a str, &'a ArrayOfTables)>,
    pub(super) form: Form<'a>,
}

/// How the entries are written.
#[derive(Debug)]
pub(super) enum Form<'a> {
    /// Each on a line of its own, below this header, or with dotted keys without one.
    Lines(Option<Range<usize>>),
    /// Within the braces of a table, in a statement that begins at this byte.
    Inline(&'a InlineTable, usize),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    /// The last part of the key.
    pub(super) name: &'a str,
    /// Where the whole key begins, with what stands before the dots.
    pub(super) start: usize,
    /// Where the last part of the key begins.
    pub(super) leaf: usize,
    pub(super) value: &'a Value,
    /// Where the value stands.
    pub(super) span: Range<usize>,
}

impl<'a> Place<'a> {
    /// The deployment of a worker.
    pub(super) fn find(
        document: &'a Document<&str>,
        text: &str,
        name: &WorkerName,
    ) -> Result<Self, EditError> {
        let home = Home::find(document, name)?;
        let place = match (home, home.get("deployment")) {
            (_, Some((_, Item::Table(table)))) => {
                let has_header = !table.is_dotted() && !table.is_implicit();
                let form = Form::Lines(table.span().filter(|_| has_header));
                Some(Self::new(text, table, table.is_dotted(), form))
            }
            (Home::Section(_), Some((key, Item::Value(Value::InlineTable(table))))) => {
                let form = Form::Inline(table, line_start(text, start(key)));
                Some(Self::new(text, table, false, form))
            }
            (Home::Inline(worker, key), Some((_, Item::Value(Value::InlineTable(table))))) => {
                let braces = if table.is_dotted() { worker } else { table };
                let form = Form::Inline(braces, line_start(text, start(key)));
                Some(Self::new(text, table, table.is_dotted(), form))
            }
            _ => None,
        };
        place.ok_or_else(|| EditError::NoDeployment(name.clone()))
    }

    fn new(text: &str, table: &'a dyn TableLike, is_dotted: bool, form: Form<'a>) -> Self {
        let mut place = Self { entries: Vec::new(), sections: Vec::new(), form };
        for (name, item) in table.iter() {
            match item {
                Item::Value(value) => {
                    let leaf = table.key(name).map_or(0, start);
                    let start = if is_dotted { path_start(text, leaf) } else { leaf };
                    let span = value.span().unwrap_or_default();
                    place.entries.push(Entry { name, start, leaf, value, span });
                }
                Item::ArrayOfTables(tables) => place.sections.push((name, tables)),
                Item::Table(_) | Item::None => {}
            }
        }
        place
    }

    /// The entry of a key.
    pub(super) fn entry(&self, name: &str) -> Option<&Entry<'a>> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The sections of a key.
    pub(super) fn sections(&self, name: &str) -> Option<&'a ArrayOfTables> {
        self.sections.iter().find(|(key, _)| *key == name).map(|(_, tables)| *tables)
    }
}

fn start(key: &Key) -> usize {
    key.span().map_or(0, |span| span.start)
}

/// Where a key of two parts begins, given where the second one does: the parser keeps only the first of several alike.
fn path_start(text: &str, leaf: usize) -> usize {
    let blank = [' ', '\t'];
    let before = text.get(..leaf).unwrap_or_default().trim_end_matches(blank);
    let before = before.strip_suffix('.').unwrap_or(before).trim_end_matches(blank);
    match before.chars().next_back() {
        Some(quote @ ('"' | '\'')) => before[..before.len() - 1].rfind(quote).unwrap_or(leaf),
        _ => {
            let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            before.trim_end_matches(is_bare).len()
        }
    }
}
