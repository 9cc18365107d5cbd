//! Whatever stands in the file: nothing panics, every mistake has a place in the text, and a refused file has an error.

use std::path::Path;

use gradual::diag::{Report, Severity};

/// The input is a file's text.
pub fn run(input: &[u8]) {
    let Ok(source) = std::str::from_utf8(input) else { return };
    let (report, refused) = match gradual::config::parse("gradual.toml", source, Path::new("/etc/gradual")) {
        Ok((_, report)) => (report, false),
        Err(report) => (report, true),
    };
    check(&report, refused);
}

fn check(report: &Report, refused: bool) {
    let errors = report.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    assert_eq!(errors, refused);
    for diagnostic in &report.diagnostics {
        assert!(report.source.get(diagnostic.span.clone()).is_some(), "{diagnostic:?}");
    }
    let text = report.render(false);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}
