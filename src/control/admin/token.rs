//! The bearer token.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use http::HeaderValue;
use subtle::ConstantTimeEq;

use crate::config::Spanned;
use crate::diag::Diagnostic;

/// The shortest token, in bytes: a shorter one could be guessed.
const SHORTEST: usize = 16;
/// The longest token, in bytes.
const LONGEST: usize = 4096;

/// What a client must show: 16 to 4096 visible ASCII characters. Never printed.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl Token {
    /// A token from a file's text; white space around it does not count. `None` where it is no token.
    fn new(text: &[u8]) -> Option<Self> {
        let token = text.trim_ascii();
        let good = (SHORTEST..=LONGEST).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
        good.then(|| Self(token.into()))
    }

    /// As a client shows it: the value of an Authorization field. Never printed either.
    pub(crate) fn bearer(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_bytes(&[b"Bearer ", &*self.0].concat()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Whether a client showed it. The time this takes says nothing about where the two differ.
    pub fn is(&self, shown: &[u8]) -> bool {
        self.0.ct_eq(shown).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Reads the file that `token_file` names. Warns in the log where other users may read it, too.
///
/// # Errors
/// The file cannot be read, or holds no token; at the place of the path in the configuration.
pub fn read_token(file: &Spanned<PathBuf>) -> Result<Token, Diagnostic> {
    let path = file.value.display();
    let (bytes, mode) = read(&file.value).map_err(|error| {
        let title = format!("the token file {path} cannot be read: {error}");
        Diagnostic::error(title, file.span.clone())
    })?;
    let token = Token::new(&bytes).ok_or_else(|| {
        Diagnostic::error(format!("the token file {path} holds no token"), file.span.clone())
            .expected(format!("{SHORTEST} to {LONGEST} visible ASCII characters, and nothing else"))
            .help("for example: openssl rand -hex 32")
    })?;
    if let Some(exposed) = exposed(file, mode) {
        tracing::warn!("{}", exposed.title);
    }
    Ok(token)
}

/// What is wrong with the file that `token_file` names, for whoever checks a configuration: the error of [`read_token`],
/// or a warning where other users may read it.
pub fn check_token(file: &Spanned<PathBuf>) -> Option<Diagnostic> {
    match read_token(file) {
        Err(error) => Some(error),
        Ok(_) => exposed(file, std::fs::metadata(&file.value).ok()?.permissions().mode()),
    }
}

fn exposed(file: &Spanned<PathBuf>, mode: u32) -> Option<Diagnostic> {
    let title = format!(
        "other users have access to the token file {} (mode {:04o})",
        file.value.display(),
        mode & 0o7777
    );
    (mode & 0o007 != 0)
        .then(|| Diagnostic::warning(title, file.span.clone()).help("chmod 600 keeps it to its owner"))
}

/// The file's bytes, no more than needed to see that there are too many, and its mode.
fn read(path: &Path) -> io::Result<(Vec<u8>, u32)> {
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
    use crate::diag::Severity;

    #[test]
    fn a_token_is_16_to_4096_visible_ascii_characters_after_trimming() {
        for good in ["0123456789abcdef", " 0123456789abcdef\r\n", &"~".repeat(4096)] {
            assert!(Token::new(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdéf", &"x".repeat(4097)] {
            assert!(Token::new(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_the_very_token_is_the_token() {
        let token = Token::new(b"0123456789abcdef").unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_token_file_that_is_missing_or_a_folder_or_too_short_is_an_error_at_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let short = folder.path().join("short");
        std::fs::write(&short, "secret\n").unwrap();
        for path in [folder.path().join("missing"), folder.path().to_owned(), short] {
            let error = read_token(&Spanned { value: path, span: 3..7 }).unwrap_err();
            assert_eq!(error.span, 3..7);
        }
    }

    #[test]
    fn a_check_warns_of_a_token_file_that_others_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let file = Spanned { value: path.clone(), span: 3..7 };
        for (mode, severity) in [(0o600, None), (0o640, None), (0o644, Some(Severity::Warning))] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_token(&file).map(|one| one.severity), severity, "{mode:o}");
        }
    }
}
