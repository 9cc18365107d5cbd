//! Which program this process was started as, so that its next version can be started in the same way.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A program and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Where its file is, absolute. A symlink stays one: an upgrade may turn it elsewhere.
    pub(crate) path: PathBuf,
    /// What follows its name.
    pub(crate) arguments: Vec<OsString>,
}

impl Program {
    /// This process's own, as it was started. To be asked for at the start: when the file has been replaced, the system
    /// does not know its place any more.
    ///
    /// # Errors
    /// The system does not tell.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let file = std::env::current_exe()?;
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        let folder = std::env::current_dir().unwrap_or_default();
        let search = std::env::var_os("PATH").unwrap_or_default();
        Ok(Self { path: place(&name, &folder, &search, file), arguments: arguments.collect() })
    }
}

/// The path that a program was started by: what its name means in a folder, or on a search path, where that is the file
/// which runs; else that file.
fn place(name: &OsStr, folder: &Path, search: &OsStr, file: PathBuf) -> PathBuf {
    let is_path = name.as_encoded_bytes().contains(&b'/');
    let folders = if is_path { vec![PathBuf::new()] } else { std::env::split_paths(search).collect() };
    let mut places = folders.into_iter().map(|each| folder.join(each).join(name));
    let running = identity(&file);
    places.find(|place| running.is_some() && identity(place) == running).unwrap_or(file)
}

/// What two names of one file have in common.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_again_by_the_name_that_it_was_started_by() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir(at("bin")).unwrap();
        std::fs::write(at("gradual-1.0"), "").unwrap();
        std::fs::write(at("other"), "").unwrap();
        std::os::unix::fs::symlink(at("gradual-1.0"), at("bin/gradual")).unwrap();
        let found = |name: &str, search: &str| {
            place(OsStr::new(name), root.path(), OsStr::new(search), at("gradual-1.0"))
        };
        for (name, search, expected) in [
            (at("bin/gradual").to_str().unwrap(), "", "bin/gradual"),
            ("bin/gradual", "", "bin/gradual"),
            ("gradual", &format!("/nowhere:{}", at("bin").display()), "bin/gradual"),
            ("gradual", "/nowhere:bin", "bin/gradual"),
            // A name that means something else, or nothing.
            ("./other", "", "gradual-1.0"),
            ("gradual", "/nowhere", "gradual-1.0"),
            ("", "", "gradual-1.0"),
        ] {
            assert_eq!(found(name, search), at(expected), "{name} {search}");
        }
    }
}
