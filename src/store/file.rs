//! Reading the configuration file, bounded and with a report that says what is wrong with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::diag::{Diagnostic, Report};

/// The longest file that is read, in bytes.
pub const MAX_LENGTH: u64 = 4 * 1024 * 1024;

/// What to do where there is no file.
const MAKE_ONE: &str = "name the file, as in `gradual run FILE`; to make one, begin with a copy of config/minimal.toml from \
                        the source, or see the file that `gradual demo` makes";

/// The text of a file, which may be a pipe.
///
/// # Errors
/// A report that names the file and why it has no text: missing, a folder, unreadable, longer than [`MAX_LENGTH`], not
/// UTF-8.
pub fn read(file: &Path) -> Result<String, Report> {
    let bytes = read_bytes(file).map_err(|error| unreadable(file, &error))?;
    if bytes.len() as u64 > MAX_LENGTH {
        let title = format!("the file is longer than {} MiB", MAX_LENGTH / 1024 / 1024);
        return Err(report(file, title, Some("is this the right file?".to_owned())));
    }
    String::from_utf8(bytes)
        .map_err(|error| not_text(file, error.as_bytes(), error.utf8_error().valid_up_to()))
}

/// The name of a file in messages.
pub fn name(file: &Path) -> String {
    file.display().to_string()
}

/// All bytes of a file, and at most one more than allowed.
fn read_bytes(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(file)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    file.take(MAX_LENGTH + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(file: &Path, error: &io::Error) -> Report {
    let (title, help) = match error.kind() {
        io::ErrorKind::NotFound if file.is_symlink() => {
            ("this is a link to a file that does not exist", None)
        }
        io::ErrorKind::NotFound => ("there is no such file", Some(MAKE_ONE)),
        io::ErrorKind::IsADirectory => ("this is a folder, not a file", Some("name the file in it")),
        io::ErrorKind::PermissionDenied => {
            ("the file may not be read", Some("check its owner and permissions"))
        }
        _ => return report(file, format!("the file cannot be read: {error}"), None),
    };
    report(file, title, help.map(str::to_owned))
}

/// The report of a file that is text up to a byte and not behind it.
fn not_text(file: &Path, bytes: &[u8], valid_up_to: usize) -> Report {
    let (good, rest) = bytes.split_at(valid_up_to.min(bytes.len()));
    let good = String::from_utf8_lossy(good);
    let what = match rest {
        [0xff | 0xfe, ..] if good.is_empty() => "it looks like UTF-16",
        _ => "this line is not UTF-8",
    };
    // What is shown of the text ends where it stops being text.
    let source = format!("{good}{}\n", char::REPLACEMENT_CHARACTER);
    let span = valid_up_to..valid_up_to + char::REPLACEMENT_CHARACTER.len_utf8();
    let found = rest.first().map_or(0, |byte| *byte);
    let diagnostic = Diagnostic::error("the file is not UTF-8 text", span)
        .label(format!("{what}: byte 0x{found:02x} is not text"))
        .help("save the file as UTF-8");
    Report::new(name(file), source, vec![diagnostic])
}

fn report(file: &Path, title: impl Into<String>, help: Option<String>) -> Report {
    Report::without_source(name(file), title, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gradual.toml");
        std::fs::write(&file, content).unwrap();
        (folder, file)
    }

    fn title(file: &Path) -> String {
        let report = read(file).unwrap_err();
        assert_eq!(report.errors(), 1);
        assert!(report.render(false).contains(&name(file)));
        report.diagnostics[0].title.clone()
    }

    #[test]
    fn a_file_is_read_whole() {
        let (_folder, file) = written("é = 1\n".as_bytes());
        assert_eq!(read(&file).as_deref(), Ok("é = 1\n"));
    }

    #[test]
    fn a_missing_file_a_folder_and_a_dangling_link_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(title(&folder.path().join("x")), "there is no such file");
        assert_eq!(title(folder.path()), "this is a folder, not a file");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert_eq!(title(&link), "this is a link to a file that does not exist");
    }

    #[test]
    fn a_file_longer_than_the_bound_is_not_read_further() {
        let (_folder, file) = written(b"");
        File::options().write(true).open(&file).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(title(&file), "the file is longer than 4 MiB");
    }

    #[test]
    fn a_file_that_is_not_utf_8_is_refused_with_its_line() {
        let (_folder, file) = written(b"a = 1\nb = '\xff'\n");
        let report = read(&file).unwrap_err();
        assert_eq!(report.line_column(report.diagnostics[0].span.start), (2, 6));
        assert!(report.render(false).contains("0xff"));
    }
}
