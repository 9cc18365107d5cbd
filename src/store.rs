//! What lies on disk: the configuration file, the lock of those who write it, and the journal of deployments.

pub mod file;
pub mod journal;
pub mod write;

use std::path::{Path, PathBuf};

use crate::config::Config;

/// The folder of the journal and the lock: as the configuration says, else that of the file. For the lock that
/// is the file that links lead to, so that there is one for all of its names.
pub fn state_folder(config: &Config, file: &Path) -> PathBuf {
    match &config.server.state {
        Some(folder) => folder.value.clone(),
        None => match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        },
    }
}

/// What the names of the journal and the lock begin with: the file's name without its extension.
pub fn stem(file: &Path) -> String {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    stem.filter(|stem| !stem.is_empty()).unwrap_or_else(|| "gradual".to_owned())
}
