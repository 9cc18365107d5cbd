//! `gradual check`: every mistake of a file, or one line that there is none.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::{Config, parse};
use crate::diag::{Report, counted};
use crate::proxy::Shards;
use crate::store::file;

/// Checks a file and all that it names, and prints what is wrong: for people on standard error, with a line on
/// standard output if nothing is; for machines as one JSON object on standard output. Success means no errors.
pub fn check(path: &Path, json: bool, color: bool) -> ExitCode {
    let (config, report) = match load(path) {
        Ok((config, report)) => (Some(config), report),
        Err(report) => (None, report),
    };
    let printed = if json { print_json(&report) } else { print_text(config.as_ref(), &report, color) };
    if report.has_errors() || printed.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The configuration of a file and its warnings, everything read that it names; or every mistake.
///
/// # Errors
/// The report of the file, of what is in it, or of what it names.
pub fn load(path: &Path) -> Result<(Config, Report), Report> {
    let source = file::read(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let (config, report) = parse(&file::name(path), &source, folder)?;
    match Shards::read_files(&config) {
        Ok(()) => Ok((config, report)),
        Err(more) => {
            let report = report.with(more);
            if report.has_errors() { Err(report) } else { Ok((config, report)) }
        }
    }
}

fn print_text(config: Option<&Config>, report: &Report, color: bool) -> io::Result<()> {
    if !report.diagnostics.is_empty() {
        let mut errors = io::stderr().lock();
        writeln!(errors, "{}\n{}", report.render(color), report.summary())?;
    }
    match config {
        Some(config) => writeln!(io::stdout().lock(), "{}", good(config, report)),
        None => Ok(()),
    }
}

/// The one line about a good file.
fn good(config: &Config, report: &Report) -> String {
    let versions = config.workers.iter().map(|worker| worker.versions.len()).sum();
    let ok = Report { file: report.file.clone(), ..Report::default() }.summary();
    let (listeners, workers) = (config.listeners.len(), config.workers.len());
    format!(
        "{ok}: {}, {}, {}",
        counted(listeners, "listener"),
        counted(workers, "worker"),
        counted(versions, "version")
    )
}

/// One object; control characters are escaped, also those that JSON itself allows, as a terminal may be reading.
fn print_json(report: &Report) -> io::Result<()> {
    let text = format!("{:#}", report.to_json());
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    writeln!(io::stdout().lock(), "{escaped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_file_is_summed_up_in_one_line() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/minimal.toml");
        let (config, report) = load(&file).unwrap();
        let line = good(&config, &Report { file: "minimal.toml".to_owned(), ..report });
        assert_eq!(line, "minimal.toml: ok: 1 listener, 1 worker, 2 versions");
    }

    #[test]
    fn paths_are_relative_to_the_folder_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gradual.toml");
        let text = "[log]\naccess = \"a.log\"\n".to_owned() + include_str!("../../config/minimal.toml");
        std::fs::write(&file, text).unwrap();
        let (config, _) = load(&file).unwrap();
        let access = crate::config::AccessTarget::File(folder.path().join("a.log"));
        assert_eq!(config.log.access, access);
    }
}
