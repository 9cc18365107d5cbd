//! `gradual schema`.

use std::process::ExitCode;

/// Prints the JSON schema of the file.
pub fn schema() -> ExitCode {
    ExitCode::FAILURE
}
