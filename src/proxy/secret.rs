//! Files that hold a secret: the admin token, and what overrides must show. Read at start and at each reload.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::{Spanned, Worker};
use crate::diag::Diagnostic;
use crate::model::secret::{LONGEST, SHORTEST, Secret};

/// Reads the secret that a path in the configuration names; `what` it is (`token`, `secret`) is for messages. Warns in
/// the log where other users may read the file, too.
///
/// # Errors
/// The file cannot be read, or holds no secret; at the place of the path in the configuration.
pub(crate) fn read(file: &Spanned<PathBuf>, what: &str) -> Result<Secret, Diagnostic> {
    let path = file.value.display();
    let (bytes, mode) = read_bytes(&file.value).map_err(|error| {
        let title = format!("the {what} file {path} cannot be read: {error}");
        Diagnostic::error(title, file.span.clone())
    })?;
    let secret = Secret::new(&bytes).ok_or_else(|| {
        Diagnostic::error(format!("the {what} file {path} holds no {what}"), file.span.clone())
            .expected(format!("{SHORTEST} to {LONGEST} visible ASCII characters, and nothing else"))
            .help("for example: openssl rand -hex 32")
    })?;
    if let Some(exposed) = exposed(file, what, mode) {
        tracing::warn!("{}", exposed.title);
    }
    Ok(secret)
}

/// A warning where other users may read a file that can be read.
pub(crate) fn warning(file: &Spanned<PathBuf>, what: &str) -> Option<Diagnostic> {
    exposed(file, what, std::fs::metadata(&file.value).ok()?.permissions().mode())
}

/// What overrides for a worker must show; `None` where they need not show anything.
pub(super) fn of_worker(worker: &Worker) -> Result<Option<Secret>, Diagnostic> {
    worker.overrides_secret_file.as_ref().map(|file| read(file, "secret")).transpose()
}

fn exposed(file: &Spanned<PathBuf>, what: &str, mode: u32) -> Option<Diagnostic> {
    let title = format!(
        "other users have access to the {what} file {} (mode {:04o})",
        file.value.display(),
        mode & 0o7777
    );
    (mode & 0o007 != 0)
        .then(|| Diagnostic::warning(title, file.span.clone()).help("chmod 600 keeps it to its owner"))
}

/// The file's bytes, no more than needed to see that there are too many, and its mode.
fn read_bytes(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    // Before it is opened: to open a pipe would wait for somebody to write to it.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST as u64 * 2).read_to_end(&mut bytes)?;
    Ok((bytes, metadata.permissions().mode()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_a_folder_or_too_short_is_an_error_at_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let short = folder.path().join("short");
        std::fs::write(&short, "secret\n").unwrap();
        for path in [folder.path().join("missing"), folder.path().to_owned(), short] {
            let error = read(&Spanned { value: path, span: 3..7 }, "token").unwrap_err();
            assert_eq!(error.span, 3..7);
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let file = Spanned { value: path.clone(), span: 3..7 };
        for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(warning(&file, "token").is_some(), warned, "{mode:o}");
        }
    }
}
