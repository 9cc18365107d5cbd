//! `gradual schema`: the JSON schema of the file.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::json_schema;

/// Prints the JSON schema of the file. Fails only if standard output takes no more.
pub fn schema() -> ExitCode {
    let written = writeln!(io::stdout().lock(), "{:#}", json_schema());
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
