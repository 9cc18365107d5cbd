//! Reading the file.

use std::path::Path;

use crate::diag::{Diagnostic, Report};

/// The file's text.
///
/// # Errors
/// A report that names the file and says why it cannot be read.
pub fn read(file: &Path) -> Result<String, Report> {
    std::fs::read_to_string(file).map_err(|error| Report {
        file: file.display().to_string(),
        source: String::new(),
        diagnostics: vec![Diagnostic::error(format!("cannot read {}: {error}", file.display()), 0..0)],
    })
}
