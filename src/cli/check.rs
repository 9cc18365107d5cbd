//! `gradual check`: every mistake of a file, or one line that there is none.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use crate::config::{Config, parse};
use crate::control::admin::check_token;
use crate::control::check_log;
use crate::diag::{Report, counted};
use crate::proxy::{Shards, secret};
use crate::store::file;

/// Checks a file and all that it names, and prints what is wrong: for people on standard error, with a line on
/// standard output if nothing is; for machines as one JSON object on standard output. Success means no errors.
pub fn check(path: &Path, json: bool, color: bool) -> ExitCode {
    let mut streams = Streams { out: io::stdout().lock(), err: io::stderr().lock() };
    match run(path, json, color, &mut streams) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Where results and reports are written.
struct Streams<O, E> {
    out: O,
    err: E,
}

/// Whether the file is good, after that was printed.
fn run<O: Write, E: Write>(path: &Path, json: bool, color: bool, to: &mut Streams<O, E>) -> io::Result<bool> {
    let (config, report) = match load(path) {
        Ok((config, report)) => (Some(config), report),
        Err(report) => (None, report),
    };
    if json {
        writeln!(to.out, "{}", json_text(&report.to_json()))?;
        return Ok(config.is_some());
    }
    if !report.diagnostics.is_empty() {
        // Where nobody takes the report, the exit code still tells.
        let _ = writeln!(to.err, "{}\n{}", report.render(color), report.summary());
    }
    if let Some(config) = &config {
        writeln!(to.out, "{}", good(config, &report))?;
    }
    Ok(config.is_some())
}

/// The configuration of a file and its warnings, everything read that it names; or every mistake.
///
/// # Errors
/// The report of the file, of what is in it, or of what it names.
pub fn load(path: &Path) -> Result<(Config, Report), Report> {
    let source = file::read(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let (config, report) = parse(&file::name(path), &source, folder)?;
    let named = Shards::read_files(&config).err().into_iter().flatten();
    let token = config.admin.token_file.as_ref().and_then(check_token);
    let secrets = config.workers.iter().filter_map(|worker| worker.overrides_secret_file.as_ref());
    let exposed = secrets.filter_map(|file| secret::warning(file, "secret"));
    let report = report.with(named.chain(token).chain(exposed).chain(check_log(&config.log.access)));
    if report.has_errors() { Err(report) } else { Ok((config, report)) }
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
pub(super) fn json_text(json: &Value) -> String {
    let text = format!("{json:#}");
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(path: &Path, json: bool) -> (bool, String, String) {
        let mut streams = Streams { out: Vec::new(), err: Vec::new() };
        let good = run(path, json, false, &mut streams).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (good, text(streams.out), text(streams.err))
    }

    fn written(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gradual.toml");
        std::fs::write(&file, text).unwrap();
        (folder, file)
    }

    const MINIMAL: &str = include_str!("../../config/minimal.toml");

    #[test]
    fn a_good_file_is_summed_up_in_one_line() {
        let (_folder, file) = written(MINIMAL);
        let (good, out, err) = checked(&file, false);
        assert_eq!((good, err.as_str()), (true, ""));
        assert_eq!(out, format!("{}: ok: 1 listener, 1 worker, 2 versions\n", file.display()));
    }

    #[test]
    fn warnings_are_printed_and_the_file_is_good() {
        let (_folder, file) = written(&MINIMAL.replace("127.0.0.1:8080", "127.0.0.1:9900"));
        let (good, out, err) = checked(&file, false);
        assert!(
            good && out.contains(": ok: ") && err.contains("warning: there will be no admin address"),
            "{err}"
        );
    }

    #[test]
    fn a_bad_file_is_reported_on_standard_error() {
        let (_folder, file) = written("");
        let (good, out, err) = checked(&file, false);
        assert_eq!((good, out.as_str()), (false, ""));
        assert!(err.ends_with(": 2 errors\n"), "{err}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let (good, _, err) = checked(Path::new("no-such-folder/gradual.toml"), false);
        assert!(
            !good && err.contains("no-such-folder/gradual.toml") && err.contains("no such file"),
            "{err}"
        );
    }

    #[test]
    fn the_secret_of_overrides_is_read_and_a_warning_says_when_others_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let name = "overrides_secret_file = \"secret\"";
        let (folder, file) = written(&MINIMAL.replace("[[worker]]\n", &format!("[[worker]]\n{name}\n")));
        let (good, _, err) = checked(&file, false);
        assert!(!good && err.contains("cannot be read") && err.ends_with(": 1 error\n"), "{err}");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "0123456789abcdef\n").unwrap();
        for (mode, warned) in [(0o600, false), (0o644, true)] {
            std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
            let (good, _, err) = checked(&file, false);
            assert!(good && err.contains("other users have access to the secret file") == warned, "{err}");
        }
    }

    #[test]
    fn machines_get_one_object_on_standard_output_without_control_characters() {
        let (_folder, file) = written("'\u{9b}x' = 1\n\u{7f}");
        let (good, out, err) = checked(&file, true);
        assert_eq!((good, err.as_str()), (false, ""));
        assert!(!out.contains(|c: char| c.is_control() && c != '\n'), "{out:?}");
        let json: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json["diagnostics"][0]["text"], "'\u{9b}x'");
        let (_folder, file) = written(MINIMAL);
        let json: Value = serde_json::from_str(&checked(&file, true).1).unwrap();
        assert_eq!(json["errors"], 0);
    }

    #[test]
    fn paths_are_relative_to_the_folder_of_the_file() {
        let (folder, file) = written(&format!("[log]\naccess = \"a.log\"\n{MINIMAL}"));
        let (config, _) = load(&file).unwrap();
        let access = crate::config::AccessTarget::File(folder.path().join("a.log"));
        assert_eq!(config.log.access.value, access);
    }
}
