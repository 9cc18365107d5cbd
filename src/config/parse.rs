//! The whole file: syntax, then sections, then what they must agree on.

use std::path::Path;

use toml::de::DeTable;

use super::fields::{Fields, Walk};
use super::keys::FILE;
use super::{Config, sections, worker};
use crate::diag::{Diagnostic, Report};

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
    let mut walk = Walk::new(source, folder, errors.iter().map(syntax_error).collect());
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
    let server = sections::server(fields.table("server").as_ref());
    let limits = sections::limits(walk, fields.table("limits").as_ref());
    let log = sections::log(walk, fields.table("log").as_ref());
    let admin = sections::admin(walk, fields.table("admin").as_ref(), &mut taken);
    let open = listeners.iter().any(|listener| !listener.address.value.is_local());
    let workers = worker::workers(walk, &fields.tables("worker"), open);
    Some(Config { server, listeners, limits, log, admin: admin?, workers })
}

/// What the TOML parser says, in our words where it says where.
fn syntax_error(error: &toml::de::Error) -> Diagnostic {
    let message = error.message();
    let (what, expected) = match message.split_once(", expected ") {
        Some((what, expected)) => (what, Some(expected.to_owned())),
        None => (message, None),
    };
    let diagnostic = Diagnostic::error(format!("not TOML: {what}"), error.span().unwrap_or_default());
    Diagnostic { expected, ..diagnostic }
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
