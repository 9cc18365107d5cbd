//! A cursor over a parsed TOML text that knows where everything stands and goes on after every mistake.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::Spanned;
use super::keys::{Key, Kind, Section};
use super::quoting;
use super::texts::Problem;
use crate::diag::{Diagnostic, Lines, Span, nearest, quoted, visible};

/// What is known while a file is walked: its text, its folder, and every mistake so far.
#[derive(Debug)]
pub(super) struct Walk<'s> {
    source: &'s str,
    folder: &'s Path,
    lines: Lines<'s>,
    found: Vec<Diagnostic>,
    /// The lines with syntax errors. Where there are any, only what surely stands as it is read is judged.
    broken: Vec<usize>,
    /// The byte from which nothing is as it was meant.
    sound_until: usize,
}

/// What is wrong with the syntax of a text.
#[derive(Debug)]
pub(super) struct Syntax {
    /// The mistakes.
    pub(super) errors: Vec<Diagnostic>,
    /// The byte from which nothing is read as it was meant.
    pub(super) sound_until: usize,
}

impl<'s> Walk<'s> {
    /// A walk over a text, given its syntax errors.
    pub(super) fn new(source: &'s str, folder: &'s Path, syntax: Syntax) -> Self {
        let lines = Lines::new(source);
        let Syntax { errors: found, sound_until } = syntax;
        let mut broken: Vec<_> = found.iter().map(|error| lines.line(error.span.start)).collect();
        broken.sort_unstable();
        Self { source, folder, lines, found, broken, sound_until }
    }

    /// Every mistake.
    pub(super) fn finish(self) -> Vec<Diagnostic> {
        self.found
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, span: &Span) -> usize {
        self.lines.line(span.start)
    }

    /// Takes a mistake that is one whatever the rest of the text says.
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        let line = self.line(&diagnostic.span);
        if diagnostic.span.start < self.sound_until && self.broken.binary_search(&line).is_err() {
            self.found.push(diagnostic);
        }
    }

    /// Takes a mistake that depends on the rest of the text: something missing, or not in keeping with something else.
    pub(super) fn conclude(&mut self, diagnostic: Diagnostic) {
        if self.broken.is_empty() {
            self.found.push(diagnostic);
        }
    }

    /// Whether a mistake has been found in a place.
    pub(super) fn has_mistake(&self, place: &Span) -> bool {
        self.found.iter().any(|found| found.span.start < place.end && place.start < found.span.end)
    }

    /// A path of the file, joined to its folder.
    pub(super) fn path(&mut self, text: &Text<'_>) -> Option<Spanned<PathBuf>> {
        let folder = self.folder;
        let joined = self.parsed(text, "a path", &PATH_FORM, |text| match text {
            "" => Err(Problem::new("it is empty")),
            text if text.contains('\0') => Err(Problem::new("it has a NUL character")),
            text => Ok(folder.join(text)),
        });
        joined.map(|value| Spanned { value, span: text.span.clone() })
    }

    /// The folder that paths are relative to.
    pub(super) fn folder(&self) -> &'s Path {
        self.folder
    }

    /// What a text says, or a diagnostic that it is not `what`.
    pub(super) fn parsed<T>(
        &mut self,
        text: &Text<'_>,
        what: &str,
        kind: &Kind,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let problem = match parse(text.value) {
            Ok(value) => return Some(value),
            Err(problem) => problem,
        };
        let span = problem.at.map_or_else(|| text.span.clone(), |at| self.place(text, at));
        let title = format!("{} is not {what}", quoted(text.value));
        let diagnostic = Diagnostic::error(title, span).label(problem.label).expected(kind.describe());
        self.report(Diagnostic { help: problem.help, ..diagnostic });
        None
    }

    /// Where a part of a string stands in the source; the whole string where that is not known. An empty part is shown as
    /// the character behind it.
    pub(super) fn place(&self, text: &Text<'_>, part: Span) -> Span {
        let places = quoting::places(self.written(&text.span), text.value).unwrap_or_default();
        let place = |at: usize| places.get(at).map(|place| text.span.start + place);
        match (place(part.start), place(part.end.max(part.start))) {
            (Some(start), Some(end)) if start < end => start..end,
            (Some(start), Some(_)) => {
                let after = self.source.get(start..).and_then(|rest| rest.chars().next());
                start..start + after.map_or(0, char::len_utf8)
            }
            _ => text.span.clone(),
        }
    }

    /// The source of a place.
    pub(super) fn written(&self, span: &Span) -> &'s str {
        self.source.get(span.clone()).unwrap_or_default()
    }

    /// Checks a table and all in it against its section: unknown keys, wrong types, words and numbers that are not
    /// allowed, and what is missing.
    pub(super) fn check(&mut self, fields: &Fields<'_>) {
        for (key, value) in fields.table {
            match fields.section.key(key.get_ref()) {
                Some(known) => self.check_value(
                    known,
                    &known.kind,
                    &Value { value: value.get_ref(), span: value.span() },
                ),
                None => self.unknown(fields.section, key.get_ref(), key.span()),
            }
        }
        for key in fields.section.keys.iter().filter(|key| key.required) {
            if !fields.has(key.name) {
                self.missing(fields, key);
            }
        }
    }

    fn check_value(&mut self, key: &Key, kind: &Kind, value: &Value<'_>) {
        match (kind, value.value) {
            (Kind::Table(section), DeValue::Table(table)) => {
                self.check(&Fields { table, span: value.span.clone(), section });
            }
            (Kind::Map(section), DeValue::Table(table)) => {
                for (_, entry) in table {
                    let value = Value { value: entry.get_ref(), span: entry.span() };
                    self.check_value(key, &Kind::Table(section), &value);
                }
            }
            (Kind::List { of, least }, DeValue::Array(entries)) => {
                for entry in entries {
                    self.check_value(key, of, &Value { value: entry.get_ref(), span: entry.span() });
                }
                if entries.len() < *least {
                    let title = format!("`{}` is empty", key.name);
                    self.report(Diagnostic::error(title, value.span.clone()).expected(kind.describe()));
                }
            }
            (Kind::Choice(words), DeValue::String(text)) if !words.contains(&text.as_ref()) => {
                let title = format!("{} is not allowed for `{}`", quoted(text), key.name);
                let diagnostic = Diagnostic::error(title, value.span.clone()).expected(kind.describe());
                let near = nearest(text, words.iter().copied());
                self.report(Diagnostic {
                    help: near.map(|near| format!("did you mean `\"{near}\"`?")),
                    ..diagnostic
                });
            }
            (Kind::Integer { least, most }, DeValue::Integer(number)) => {
                let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
                if !number.is_some_and(|number| (*least..=*most).contains(&number)) {
                    let title = format!("`{}` is out of range", key.name);
                    self.report(Diagnostic::error(title, value.span.clone()).expected(kind.describe()));
                }
            }
            _ if admits(kind, value.value) => {}
            _ => self.wrong_type(key, kind, value),
        }
    }

    fn wrong_type(&mut self, key: &Key, kind: &Kind, value: &Value<'_>) {
        let found = with_article(value.value);
        let title = format!("`{}` has a value of the wrong type", key.name);
        let diagnostic = Diagnostic::error(title, value.span.clone())
            .label(format!("this is {found}"))
            .expected(kind.describe());
        let help = match (kind, value.value) {
            (Kind::List { of: Kind::Table(section), .. }, DeValue::Table(_))
                if section.name.starts_with("[[") =>
            {
                Some(format!("write `{}`, with two brackets on either side", section.name))
            }
            (Kind::Table(section), DeValue::Array(_)) if section.name.starts_with('[') => {
                Some(format!("write `{}`, once and with one bracket on either side", section.name))
            }
            (Kind::List { .. }, DeValue::String(_)) => {
                Some(format!("write `[{}]`", visible(self.written(&value.span))))
            }
            _ => None,
        };
        self.report(Diagnostic { help, ..diagnostic });
    }

    fn unknown(&mut self, section: &Section, name: &str, span: Span) {
        let names = section.keys.iter().map(|key| key.name);
        let near = nearest(name, names.clone());
        let list: Vec<_> = names.map(|name| format!("`{name}`")).collect();
        let diagnostic = Diagnostic::error(format!("unknown key {}", quoted(name)), span)
            .label(format!("not a key of {}", shown(section)))
            .expected(format!("{}{}", if list.len() > 1 { "one of " } else { "" }, list.join(", ")));
        self.report(Diagnostic { help: near.map(|near| format!("did you mean `{near}`?")), ..diagnostic });
    }

    fn missing(&mut self, fields: &Fields<'_>, key: &Key) {
        let what = match key.kind {
            Kind::List { of: &Kind::Table(section), .. } | Kind::Table(section)
                if section.name.starts_with('[') =>
            {
                shown(section)
            }
            _ => format!("`{}`", key.name),
        };
        let title = format!("{} has no {what}", shown(fields.section));
        // What the whole file lacks is best added at its end.
        let end = self.source.trim_end().len();
        let span = if fields.section.name.starts_with("the ") { end..end } else { fields.span.clone() };
        let label = format!("{what} is required");
        self.conclude(Diagnostic::error(title, span).label(label).expected(key.kind.describe()));
    }
}

/// What a path is.
const PATH_FORM: Kind = Kind::Text { form: "a path, relative to the folder of this file", pattern: "" };

/// A value and where it stands.
struct Value<'a> {
    value: &'a DeValue<'a>,
    span: Span,
}

/// A table of the file, of a known section. What it hands out is of the type that the section says; a value of another
/// type is as if it were not there, and was reported by [`Walk::check`].
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    table: &'a DeTable<'a>,
    /// Where it stands: its header, or all of it where it is written inline.
    pub(super) span: Span,
    section: &'static Section,
}

/// A string of the file.
#[derive(Clone, Debug)]
pub(super) struct Text<'a> {
    /// What it says.
    pub(super) value: &'a str,
    /// Where it stands, quotes included.
    pub(super) span: Span,
}

impl<'a> Fields<'a> {
    /// The whole file.
    pub(super) fn new(table: &'a DeTable<'a>, section: &'static Section) -> Self {
        Self { table, span: 0..0, section }
    }

    /// Whether the key is there, of whatever type.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    fn get(&self, name: &str) -> Option<(&'static Kind, Value<'a>)> {
        // A name that is not declared would never be accepted: a mistake of the program, found by any test that gets here.
        debug_assert!(self.section.key(name).is_some(), "{name} is not declared");
        let kind = &self.section.key(name)?.kind;
        let value = self.table.get(name)?;
        Some((kind, Value { value: value.get_ref(), span: value.span() }))
    }

    /// What the key holds, in words.
    pub(super) fn kind(&self, name: &str) -> &'static Kind {
        self.section.key(name).map_or(&PATH_FORM, |key| match &key.kind {
            Kind::List { of, .. } => of,
            kind => kind,
        })
    }

    /// The default of a key, as the file would say it; empty where there is none.
    pub(super) fn default(&self, name: &str) -> &'static str {
        self.section.key(name).and_then(|key| key.default).unwrap_or_default()
    }

    /// Where the value of a key stands.
    pub(super) fn span_of(&self, name: &str) -> Option<Span> {
        self.get(name).map(|(_, value)| value.span)
    }

    /// A string.
    pub(super) fn text(&self, name: &str) -> Option<Text<'a>> {
        text_of(&self.get(name)?.1)
    }

    /// One of the words of a choice; `None` also for other words.
    pub(super) fn word(&self, name: &str) -> Option<&'a str> {
        let (kind, value) = self.get(name)?;
        let text = text_of(&value)?.value;
        matches!(kind, Kind::Choice(words) if words.contains(&text)).then_some(text)
    }

    /// The strings of a list.
    pub(super) fn texts(&self, name: &str) -> Vec<Text<'a>> {
        self.entries(name).iter().filter_map(text_of).collect()
    }

    /// A number within its range.
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            (Kind::Integer { least, most }, Value { value: DeValue::Integer(number), .. }) => {
                let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
                (*least..=*most).contains(&number).then_some(number)
            }
            _ => None,
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        self.get(name)?.1.value.as_bool()
    }

    /// A value of any type that the key admits, and where it stands.
    pub(super) fn any(&self, name: &str) -> Option<(&'a DeValue<'a>, Span)> {
        let (kind, value) = self.get(name)?;
        admits(kind, value.value).then_some((value.value, value.span))
    }

    /// A table.
    pub(super) fn table(&self, name: &str) -> Option<Fields<'a>> {
        let (kind, value) = self.get(name)?;
        fields_of(kind, &value)
    }

    /// The tables of a table whose keys are free names, with these.
    pub(super) fn named(&self, name: &str) -> Vec<(Text<'a>, Fields<'a>)> {
        let Some((Kind::Map(section), value)) = self.get(name) else { return Vec::new() };
        let Some(entries) = value.value.as_table() else { return Vec::new() };
        let entries = entries.iter().filter_map(|(key, entry)| {
            let name = Text { value: key.get_ref().as_ref(), span: key.span() };
            let table = entry.get_ref().as_table()?;
            Some((name, Fields { table, span: entry.span(), section }))
        });
        entries.collect()
    }

    /// The tables of a list.
    pub(super) fn tables(&self, name: &str) -> Vec<Fields<'a>> {
        let kind = self.kind(name);
        self.entries(name).iter().filter_map(|value| fields_of(kind, value)).collect()
    }

    fn entries(&self, name: &str) -> Vec<Value<'a>> {
        let entries = self.get(name).and_then(|(_, value)| value.value.as_array());
        let entries = entries.into_iter().flat_map(|entries| entries.iter());
        entries.map(|entry| Value { value: entry.get_ref(), span: entry.span() }).collect()
    }
}

fn text_of<'a>(value: &Value<'a>) -> Option<Text<'a>> {
    let text = value.value.as_str()?;
    Some(Text { value: text, span: value.span.clone() })
}

fn fields_of<'a>(kind: &Kind, value: &Value<'a>) -> Option<Fields<'a>> {
    match (kind, value.value) {
        (Kind::Table(section), DeValue::Table(table)) => {
            Some(Fields { table, span: value.span.clone(), section })
        }
        _ => None,
    }
}

/// Whether a value is of a type that the kind allows.
fn admits(kind: &Kind, value: &DeValue<'_>) -> bool {
    match kind {
        Kind::Text { .. } | Kind::Choice(_) => value.is_str(),
        Kind::Boolean => value.is_bool(),
        Kind::Integer { .. } => value.is_integer(),
        Kind::Percentage => value.is_integer() || value.is_float() || value.is_str(),
        Kind::DateTime => value.is_datetime() || value.is_str(),
        Kind::List { .. } => value.is_array(),
        Kind::Table(_) | Kind::Map(_) => value.is_table(),
    }
}

fn with_article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a decimal point or exponent",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn shown(section: &Section) -> String {
    if section.name.starts_with('[') { format!("`{}`", section.name) } else { section.name.to_owned() }
}
