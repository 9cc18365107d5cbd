//! What lies on disk: written by one at a time, whole at every moment, and never lost.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gradual::config::edit::add_version;
use gradual::model::name::{VersionId, WorkerName};
use gradual::store::file::read;
use gradual::store::journal::{Entry, Journal};
use gradual::store::write::{WriteError, check, lock, replace, resolve};
use tempfile::TempDir;

use self::journal::entry;
use crate::edit::version;

mod journal;
mod kill;

const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a file `gradual.toml` of this text.
fn written(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gradual.toml");
    fs::write(&file, text).unwrap();
    (folder, file)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// This program as a process of its own, in which only one test runs, told a folder.
fn process(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--ignored", "--nocapture"]).env(FOLDER, folder);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The folder that a process of [`process`] is told.
const FOLDER: &str = "GRADUAL_TEST_FOLDER";

fn told() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

#[test]
fn a_file_is_replaced_whole_with_its_permissions_and_nothing_is_left_behind() {
    let (folder, file) = written("old");
    set_mode(&file, 0o640);
    let before = fs::metadata(&file).unwrap();
    replace(&file, "new").unwrap();
    let after = fs::metadata(&file).unwrap();
    assert_eq!(read(&file).unwrap(), "new");
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_ne!(after.ino(), before.ino(), "it was written in place");
    assert_eq!(names(folder.path()), ["gradual.toml"]);
}

#[test]
fn links_are_followed_to_the_file_that_they_lead_to_and_stay() {
    let (folder, file) = written("old");
    fs::create_dir(folder.path().join("etc")).unwrap();
    let link = folder.path().join("etc/link.toml");
    symlink("../gradual.toml", &link).unwrap();
    let second = folder.path().join("second.toml");
    symlink("etc/link.toml", &second).unwrap();
    let real = resolve(&second).unwrap();
    assert_eq!(real, fs::canonicalize(&file).unwrap());
    replace(&real, "new").unwrap();
    assert!(link.is_symlink() && second.is_symlink());
    assert_eq!(read(&second).unwrap(), "new");
    assert_eq!(resolve(&folder.path().join("none")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

/// The refusal to write a file, which has not changed.
fn refused(file: &Path) -> String {
    let before = fs::read(file).ok();
    let folder = names(file.parent().unwrap());
    let checked = check(file).unwrap_err();
    let error = replace(file, "new").unwrap_err();
    assert_eq!((fs::read(file).ok(), names(file.parent().unwrap())), (before, folder));
    assert_eq!((error.kind(), checked.kind()), ("file-is-managed-elsewhere", "file-is-managed-elsewhere"));
    let text = error.to_string();
    assert!(text.contains(&file.display().to_string()) && text.contains("gradual reload"), "{text}");
    text
}

#[test]
fn a_file_that_is_made_elsewhere_is_not_written_and_it_is_said_where_to_change_it() {
    let (folder, file) = written("old");
    set_mode(&file, 0o444);
    assert!(refused(&file).contains("its permissions let nobody write it"));
    set_mode(&file, 0o644);
    set_mode(folder.path(), 0o555);
    assert!(refused(&file).contains("permissions of its folder"));
    set_mode(folder.path(), 0o755);
    // As Kubernetes mounts a ConfigMap.
    let data = folder.path().join("..2026_11_22_05_00_00.1");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("app.toml"), "old").unwrap();
    symlink("..2026_11_22_05_00_00.1", folder.path().join("..data")).unwrap();
    symlink("..data/app.toml", folder.path().join("app.toml")).unwrap();
    let real = resolve(&folder.path().join("app.toml")).unwrap();
    assert!(refused(&real).contains("such as a ConfigMap"));
    assert!(refused(folder.path()).contains("not a regular file"));
}

#[test]
fn what_killed_writers_left_is_removed_by_the_next_and_what_living_ones_write_is_not() {
    let (folder, file) = written("old");
    let left = |name: &str| folder.path().join(name);
    fs::write(left(".gradual.toml.aaaaaa.gradual-new"), "half").unwrap();
    fs::write(left(".gradual.toml.bbbbbb.gradual-new"), "half").unwrap();
    fs::write(left(".other.toml.cccccc.gradual-new"), "another's").unwrap();
    let alive = File::open(left(".gradual.toml.bbbbbb.gradual-new")).unwrap();
    alive.lock().unwrap();
    replace(&file, "new").unwrap();
    let expected = [".gradual.toml.bbbbbb.gradual-new", ".other.toml.cccccc.gradual-new", "gradual.toml"];
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn a_lock_is_had_by_one_at_a_time_and_the_other_is_told_who_has_it() {
    let (folder, _) = written("old");
    let state = folder.path().join("deep/state");
    let first = lock(&state, "gradual", PATIENCE).unwrap();
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    let second = lock(&state, "gradual", Duration::from_millis(50)).unwrap_err();
    assert_eq!(second.kind(), "busy");
    let text = second.to_string();
    let own = format!("process {} is writing", std::process::id());
    assert!(text.contains(&own) && text.contains("gradual.lock") && text.contains("try again"), "{text}");
    let other = lock(&state, "other", Duration::ZERO).unwrap();
    drop((first, other));
    lock(&state, "gradual", Duration::ZERO).unwrap();
}

#[test]
fn a_lock_that_cannot_be_made_is_an_error_at_once() {
    let (folder, file) = written("old");
    fs::create_dir(folder.path().join("a.lock")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.path().join("b.lock")).status().unwrap().success());
    for (folder, stem) in [(folder.path(), "a"), (folder.path(), "b"), (file.as_path(), "c")] {
        let error = lock(folder, stem, PATIENCE).unwrap_err();
        assert!(matches!(error, WriteError::Io { .. }), "{error}");
        assert!(error.to_string().contains(".lock cannot be locked"), "{error}");
    }
}

const FILE: &str = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[worker]]\nname = \"a\"\n[[worker.version]]\nid = \"v\"\n\
                    upstreams = [\"http://a\"]\n[worker.deployment]\nversions = [{ version_id = \"v\", percentage = 100 }]\n";

#[test]
fn of_writers_at_once_none_loses_what_another_wrote() {
    const EACH: usize = 12;
    let (folder, file) = written(FILE);
    let writer = |writer: usize| {
        for turn in 0..EACH {
            let _lock = lock(folder.path(), "gradual", PATIENCE).unwrap();
            let id = VersionId::new(&format!("{writer}-{turn}")).unwrap();
            let new = gradual::config::edit::NewVersion { id, ..version() };
            let text = add_version(&read(&file).unwrap(), &WorkerName::new("a").unwrap(), &new).unwrap();
            replace(&file, &text).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for number in 0..3 {
            scope.spawn(move || writer(number));
        }
    });
    let config = crate::edit::config(&read(&file).unwrap());
    assert_eq!(config.workers[0].versions.len(), 1 + 3 * EACH);
    assert_eq!(names(folder.path()), ["gradual.lock", "gradual.toml"]);
}

#[test]
#[ignore = "run by the tests of disks, in a process of its own"]
fn writes_more_than_fits() {
    let Some(folder) = told() else { return };
    let error = replace(&folder.join("gradual.toml"), &"x".repeat(1 << 20)).unwrap_err();
    println!("{}: {error}", error.kind());
    let message = Some("m".repeat(1 << 20));
    let error =
        Journal::new(&folder, "gradual").append(&[Entry { message, ..entry("a", "d2") }]).unwrap_err();
    println!("journal: {error}");
}

/// What [`writes_more_than_fits`] says, run by a shell in which `$@` is that process, and `$0` its folder.
fn tried(shell: &str, script: &str, folder: &Path) -> String {
    let test = process("store::writes_more_than_fits", folder);
    let mut command = Command::new("sh");
    if !shell.is_empty() {
        command = Command::new("unshare");
        command.args(shell.split(' ')).arg("sh");
    }
    command.args(["-c", script]).arg(folder).arg(test.get_program()).args(test.get_args());
    let output = command.env(FOLDER, folder).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_disk_without_room_leaves_the_old_file_the_old_journal_and_nothing_else() {
    let (folder, file) = written("old");
    let journal = Journal::new(folder.path(), "gradual");
    journal.append(&[entry("a", "d1")]).unwrap();
    let before = fs::read(journal.path()).unwrap();
    // A bound on the length of files stands for a bound on the disk: writing fails in the midst in the same way.
    let said = tried("", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", folder.path());
    assert!(said.contains("write-failed") && said.contains("nothing has changed; make room"), "{said}");
    assert!(said.contains("journal: the journal of deployments"), "{said}");
    assert_eq!((read(&file).unwrap(), fs::read(journal.path()).unwrap()), ("old".to_owned(), before));
    let expected =
        ["gradual.deployments.jsonl", "gradual.deployments.lock", "gradual.toml"].map(str::to_owned);
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn a_full_disk_a_read_only_one_and_a_file_that_is_a_mount_are_told_apart() {
    const ROOM: &str = "--map-root-user --mount";
    let folder = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=64k tmpfs \"$0\" && echo old > \"$0\"/gradual.toml && echo mounted";
    if !tried(ROOM, mount, folder.path()).contains("mounted") {
        eprintln!("not tried: this system does not let its users mount anything");
        return;
    }
    for (then, expected) in [
        ("true", "write-failed: "),
        ("mount -o remount,ro \"$0\"", "its file system is read-only"),
        (
            "mount -o remount,size=64m \"$0\" && mount --bind \"$0\"/gradual.toml \"$0\"/gradual.toml",
            "it is a mount point",
        ),
    ] {
        let script = format!("{mount} && {then} && \"$@\"; cat \"$0\"/gradual.toml; ls -A \"$0\"");
        let said = tried(ROOM, &script, folder.path());
        assert!(said.contains(expected), "{then}: {said}");
        assert!(said.contains("old\n") && !said.contains("gradual-new"), "{then}: {said}");
    }
    let full = tried(ROOM, &format!("{mount} && \"$@\""), folder.path());
    assert!(full.contains("as the disk is full"), "{full}");
}

/// Kills a process if a test fails before.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
