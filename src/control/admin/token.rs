//! The bearer token: the secret in the file that `token_file` names.

use std::path::PathBuf;

use crate::config::Spanned;
use crate::diag::Diagnostic;
pub use crate::model::secret::Secret as Token;
use crate::proxy::secret;

/// Reads the file that `token_file` names. Warns in the log where other users may read it, too.
///
/// # Errors
/// The file cannot be read, or holds no token; at the place of the path in the configuration.
pub fn read_token(file: &Spanned<PathBuf>) -> Result<Token, Diagnostic> {
    secret::read(file, "token")
}

/// What is wrong with the file that `token_file` names, for whoever checks a configuration: the error of [`read_token`],
/// or a warning where other users may read it.
pub fn check_token(file: &Spanned<PathBuf>) -> Option<Diagnostic> {
    read_token(file).err().or_else(|| secret::warning(file, "token"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::diag::Severity;

    #[test]
    fn a_check_says_what_is_wrong_with_a_token_file_and_warns_where_others_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let file = Spanned { value: path.clone(), span: 3..7 };
        assert_eq!(check_token(&file).map(|one| one.severity), Some(Severity::Error));
        std::fs::write(&path, "0123456789abcdef").unwrap();
        for (mode, severity) in [(0o600, None), (0o644, Some(Severity::Warning))] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_token(&file).map(|one| one.severity), severity, "{mode:o}");
        }
    }
}
