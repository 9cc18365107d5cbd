//! Whatever stands in the file: nothing panics, every mistake has a place in the text, and a refused file has an error.
#![no_main]

use std::path::Path;

use gradual::diag::{Report, Severity};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let (report, refused) = match gradual::config::parse("gradual.toml", source, Path::new("/etc/gradual")) {
        Ok((_, report)) => (report, false),
        Err(report) => (report, true),
    };
    check(&report, refused);
});

fn check(report: &Report, refused: bool) {
    let errors = report.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    assert_eq!(errors, refused);
    for diagnostic in &report.diagnostics {
        assert!(report.source.get(diagnostic.span.clone()).is_some(), "{diagnostic:?}");
    }
}
