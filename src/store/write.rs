//! Writing the configuration file: one writer at a time, and at every moment either the old text whole or the new one.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, OFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;

/// The file itself, every symbolic link on the way followed: what replaces a link instead would cut it off from its target.
///
/// # Errors
/// There is no such file, or it cannot be reached.
pub fn resolve(file: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(file)
}

/// The right to write a file, until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    /// Closing it gives the right back.
    _file: File,
}

/// How long to wait between two attempts at a lock.
const STEP: Duration = Duration::from_millis(20);

/// Waits, up to `patience`, until nobody else has the lock `<folder>/<stem>.lock`, and takes it. The folder is made if it is
/// missing. The lock's file is never removed: somebody may wait for it.
///
/// # Errors
/// [`WriteError::Busy`] says who has it, [`WriteError::ManagedElsewhere`] that nothing may be written there.
pub fn lock(folder: &Path, stem: &str, patience: Duration) -> Result<Lock, WriteError> {
    let path = folder.join(format!("{stem}.lock"));
    let failed = |error| WriteError::of_lock(&path, error);
    make_folder(folder).map_err(failed)?;
    let mut file = open_lock(&path).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if begun.elapsed() >= patience => {
                return Err(WriteError::Busy { lock: path, holder: holder(&mut file), waited: patience });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(STEP),
        }
    }
    // For the message to whoever waits; a lock without it is as good.
    let _ = file.set_len(0).and_then(|()| file.rewind());
    let _ = file.write_all(format!("{}\n", std::process::id()).as_bytes());
    Ok(Lock { _file: file })
}

/// Makes a folder that only its owner can use, unless it is there.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::metadata(folder) {
        Ok(_) => Ok(()),
        Err(_) => fs::DirBuilder::new().recursive(true).mode(0o700).create(folder),
    }
}

/// Those of the file's group can take the lock as well: they need only read it.
fn open_lock(path: &Path) -> io::Result<File> {
    let options = |writes: bool| {
        let mut options = OpenOptions::new();
        options.read(true).write(writes).create(writes).mode(0o660);
        options.custom_flags(flags(OFlags::NONBLOCK | OFlags::NOFOLLOW)).open(path)
    };
    let file = match options(true) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => options(false).map_err(|_| error)?,
        opened => opened?,
    };
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Flags of the system as the standard library takes them.
pub(super) fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or_default()
}

/// The process that has written its number into a lock.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a file can be replaced, as far as can be told without doing it.
///
/// # Errors
/// As [`replace`].
pub fn check(real: &Path) -> Result<(), WriteError> {
    let old = fs::metadata(real).map_err(|error| WriteError::io(real, "cannot be read", error))?;
    may_replace(real, &old)
}

/// Puts a text in the place of a file's, which goes on to have its permissions and, where possible, its owner. A reader, a
/// crash or a power failure finds either the old text or the new one, whole.
///
/// The caller has the lock, and the path from [`resolve`].
///
/// # Errors
/// The old text is still there, and nothing besides it.
pub fn replace(real: &Path, text: &str) -> Result<(), WriteError> {
    let failed = |error| WriteError::of_write(real, error);
    let old = fs::metadata(real).map_err(failed)?;
    may_replace(real, &old)?;
    let folder = folder_of(real);
    let mut temporary = temporary(folder, real).map_err(failed)?;
    let file = temporary.as_file_mut();
    keep_owner(file, &old);
    let mode = Permissions::from_mode(old.permissions().mode() & 0o7777);
    file.set_permissions(mode).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    temporary.persist(real).map_err(|error| failed(error.error))?;
    if let Err(error) = sync_folder(folder) {
        // The new text is there; only whether it survives a power failure is open.
        tracing::warn!("{} is written, but its folder cannot be flushed to disk: {error}", real.display());
    }
    Ok(())
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes what was renamed or created in a folder survive a power failure. Some file systems do so by themselves and refuse.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Refuses what is not ours to write. Bits that deny writing to everybody are meant for root, too.
fn may_replace(real: &Path, old: &Metadata) -> Result<(), WriteError> {
    let managed = |why: &str| Err(WriteError::managed(real, why, None));
    if !old.is_file() {
        return managed("it is not a regular file");
    }
    // How Kubernetes mounts a ConfigMap or Secret: `file -> ..data/file`, `..data -> ..2026_11_22_05_00_00.1234`.
    let is_mounted = |part: Component<'_>| match part {
        Component::Normal(name) => name.as_encoded_bytes().starts_with(b".."),
        _ => false,
    };
    if real.components().any(is_mounted) {
        return managed("it is part of a volume that is replaced as a whole, such as a ConfigMap");
    }
    let denies_all = |metadata: &Metadata| metadata.permissions().mode() & 0o222 == 0;
    if denies_all(old) {
        return managed("its permissions let nobody write it");
    }
    let folder = folder_of(real);
    let failed = |error| WriteError::of_write(real, error);
    if denies_all(&fs::metadata(folder).map_err(failed)?) {
        return managed("the permissions of its folder let nobody write there");
    }
    rustix::fs::access(real, Access::WRITE_OK).map_err(|error| failed(error.into()))?;
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| failed(error.into()))
}

/// What the names of temporary files end with.
const SUFFIX: &str = ".gradual-new";

/// A hidden file beside another, empty, removed when dropped. What writers that were killed have left is removed first.
fn temporary(folder: &Path, real: &Path) -> io::Result<NamedTempFile> {
    let mut prefix = OsString::from(".");
    prefix.push(real.file_name().unwrap_or_default());
    prefix.push(".");
    clean_up(folder, &prefix);
    let temporary = tempfile::Builder::new().prefix(&prefix).suffix(SUFFIX).tempfile_in(folder)?;
    // As long as its writer lives, nobody takes it for left over.
    temporary.as_file().lock()?;
    match temporary.as_file().metadata()?.nlink() {
        0 => Err(io::Error::other("another process removed the temporary file")),
        _ => Ok(temporary),
    }
}

/// Removes temporary files whose writers are dead. Whatever goes wrong goes wrong again, and louder, when one is made.
fn clean_up(folder: &Path, prefix: &OsString) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let is_ours = name.starts_with(prefix.as_encoded_bytes()) && name.ends_with(SUFFIX.as_bytes());
        if is_ours && is_left(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_left(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags(OFlags::NONBLOCK | OFlags::NOFOLLOW));
    options
        .open(path)
        .is_ok_and(|file| file.metadata().is_ok_and(|data| data.is_file()) && file.try_lock().is_ok())
}

/// Gives a file the owner and group of another, as far as this process may.
fn keep_owner(file: &File, old: &Metadata) {
    let Ok(new) = file.metadata() else { return };
    if new.uid() != old.uid() && fchown(file, Some(old.uid()), Some(old.gid())).is_ok() {
        return;
    }
    if new.gid() != old.gid() {
        let _ = fchown(file, None, Some(old.gid()));
    }
}

/// Why a file was not written. What was there before is still there.
#[derive(Debug)]
pub enum WriteError {
    /// Whoever makes the file does not want it to be written here.
    ManagedElsewhere {
        /// The file, or the lock that cannot be had beside it.
        file: PathBuf,
        /// How that is known, as a clause.
        why: String,
        /// What the system said, if it was asked.
        source: Option<io::Error>,
    },
    /// Another process is writing.
    Busy {
        /// The lock that it has.
        lock: PathBuf,
        /// Its number, if known.
        holder: Option<u32>,
        /// How long was waited for it.
        waited: Duration,
    },
    /// It went wrong.
    Io {
        /// The file.
        file: PathBuf,
        /// What went wrong, as a clause.
        what: String,
        /// What to do about it.
        help: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl WriteError {
    /// The word for machines: `file-is-managed-elsewhere`, `busy` or `write-failed`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ManagedElsewhere { .. } => "file-is-managed-elsewhere",
            Self::Busy { .. } => "busy",
            Self::Io { .. } => "write-failed",
        }
    }

    /// What happened, without what to do about it.
    pub fn title(&self) -> String {
        match self {
            Self::ManagedElsewhere { file, why, .. } => {
                format!("{} cannot be written here: {why}", file.display())
            }
            Self::Busy { lock, holder, waited } => {
                let who = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
                format!("{who} is writing, and has had {} for more than {waited:?}", lock.display())
            }
            Self::Io { file, what, source, .. } => format!("{} {what}: {source}", file.display()),
        }
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::ManagedElsewhere { .. } => {
                "change it where it is made (a ConfigMap, an image, a configuration management, a repository), and then let \
                 the proxy read it: `gradual reload`"
            }
            Self::Busy { .. } => "wait until it is done, and try again",
            Self::Io { help, .. } => help,
        }
    }

    fn managed(file: &Path, why: &str, source: Option<io::Error>) -> Self {
        Self::ManagedElsewhere { file: file.to_owned(), why: why.to_owned(), source }
    }

    fn io(file: &Path, what: &str, source: io::Error) -> Self {
        let help = match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {
                "nothing has changed; make room, and try again"
            }
            _ => "nothing has changed; see to that, and try again",
        };
        Self::Io { file: file.to_owned(), what: what.to_owned(), help, source }
    }

    /// What a failed write means.
    fn of_write(file: &Path, error: io::Error) -> Self {
        let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ROFS) => "its file system is read-only",
            Some(Errno::BUSY) => "it is a mount point, such as a file that is mounted into a container",
            Some(Errno::ACCESS | Errno::PERM) => "this user may not write it or its folder",
            Some(Errno::NOSPC) => return Self::io(file, "cannot be written, as the disk is full", error),
            Some(Errno::DQUOT) => return Self::io(file, "cannot be written, as the quota is used up", error),
            _ => return Self::io(file, "cannot be written", error),
        };
        Self::managed(file, why, Some(error))
    }

    /// What it means that a lock cannot be opened.
    fn of_lock(path: &Path, error: io::Error) -> Self {
        let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ROFS) => "its file system is read-only",
            Some(Errno::ACCESS | Errno::PERM) => "this user may not write in this folder",
            _ => return Self::io(path, "cannot be locked", error),
        };
        Self::managed(path, why, Some(error))
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.title(), self.help())
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::ManagedElsewhere { source, .. } => source.as_ref().map(|source| source as _),
            Self::Io { source, .. } => Some(source),
            Self::Busy { .. } => None,
        }
    }
}
