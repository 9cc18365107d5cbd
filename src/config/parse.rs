//! The whole file: syntax, then sections, then what they must agree on.

use std::path::Path;

use toml::de::DeTable;

use super::fields::{Fields, Syntax, Walk};
use super::keys::FILE;
use super::{Config, limits, sections, worker};
use crate::diag::{Diagnostic, Lines, Report};

/// A configuration from the text of a file, with its warnings; or every mistake in it, in the order of the text. `file`
/// is its name in messages, `folder` what relative paths are joined to.
///
/// The text should have at most 4 MiB, which whoever reads it sees to: time and memory grow with its length.
///
/// # Errors
/// The report of every mistake, syntax errors included, and of the warnings. Where the syntax is broken, what depends
/// on other parts of the text (missing keys, totals, references) is not judged.
pub fn parse(file: &str, source: &str, folder: &Path) -> Result<(Config, Report), Report> {
    let (root, errors) = DeTable::parse_recoverable(source);
    let mut walk = Walk::new(source, folder, syntax(source, &errors));
    let fields = Fields::new(root.get_ref(), &FILE);
    walk.check(&fields);
    let config = config(&mut walk, &fields);
    let report = limited(Report::new(file, source, walk.finish()));
    match config {
        Some(config) if !report.has_errors() => Ok((config, report)),
        _ => Err(report),
    }
}

fn config(walk: &mut Walk<'_>, fields: &Fields<'_>) -> Option<Config> {
    let (listeners, mut taken) = sections::listeners(walk, &fields.tables("listener"));
    let server = sections::server(walk, fields.table("server").as_ref());
    let limits = limits::limits(walk, fields.table("limits").as_ref());
    let log = sections::log(walk, fields.table("log").as_ref());
    let admin = sections::admin(walk, fields.table("admin").as_ref(), &mut taken);
    let workers = worker::workers(walk, &fields.tables("worker"), &listeners);
    Some(Config { server, listeners, limits, log, admin: admin?, workers })
}

/// What the TOML parser says, without what only follows from an earlier mistake: of each line its first, and behind a
/// list that is not closed nothing, as all of the rest is read as part of it.
fn syntax(source: &str, errors: &[toml::de::Error]) -> Syntax {
    let unclosed = errors.iter().any(|error| error.message().starts_with(UNCLOSED));
    let lines = Lines::new(source);
    let mut found: Vec<Diagnostic> = Vec::new();
    let mut last_line = 0;
    for error in errors {
        let diagnostic = syntax_error(source, error);
        let line = lines.line(diagnostic.span.start);
        if line == last_line {
            continue;
        }
        last_line = line;
        if unclosed && error.message().starts_with("missing comma between array elements") {
            let sound_until = diagnostic.span.start;
            found.push(diagnostic.label("is a `]` missing before this?"));
            return Syntax { errors: found, sound_until };
        }
        found.push(diagnostic);
    }
    Syntax { errors: found, sound_until: usize::MAX }
}

/// How the TOML parser's message about a list without end begins.
const UNCLOSED: &str = "unclosed array";

/// What the TOML parser says about one place, in our words where its own name something else.
fn syntax_error(source: &str, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or_default();
    let before = source.get(..span.start).unwrap_or_default().trim_end_matches([' ', '\t']);
    if before.ends_with('=') && error.message().starts_with("invalid literal string") {
        return Diagnostic::error("not TOML: a value is missing", span);
    }
    let (what, expected) = match error.message().split_once(", expected ") {
        Some((what, "literal string")) => (what, Some("a string in quotes")),
        Some((what, expected)) => (what, Some(expected)),
        None => (error.message(), None),
    };
    let diagnostic = Diagnostic::error(format!("not TOML: {what}"), span);
    Diagnostic { expected: expected.map(str::to_owned), ..diagnostic }
}

/// The report without what nobody reads: a text of another kind has more mistakes than it has lines.
fn limited(mut report: Report) -> Report {
    const MOST: usize = 1000;
    if let Some(last) = report.diagnostics.get(MOST) {
        let title = format!("and {} more mistakes, not listed", report.diagnostics.len() - MOST);
        let more = Diagnostic::error(title, last.span.clone());
        report.diagnostics.truncate(MOST);
        report.diagnostics.push(more);
    }
    report
}
