//! The thread that writes, and what it shares with those who hand lines over.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Access;

use crate::config::AccessTarget;
use crate::export::{Interest, Wanted};

/// How many buffers wait for the writer before further ones are dropped: 4 MiB of lines.
const QUEUE: usize = 64;
/// The time between two warnings of a writer that cannot write.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// The time between two attempts where another process has made a shared pipe or terminal non-blocking.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A buffer of whole lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The text.
    pub(super) bytes: Vec<u8>,
    /// How many lines it is.
    pub(super) count: u64,
}

/// What the log, its sinks and its writer have in common.
#[derive(Debug)]
pub(super) struct Shared {
    interest: Arc<Interest>,
    dropped: AtomicU64,
    handed: AtomicU64,
    written: Mutex<u64>,
    progress: Condvar,
    /// Where the writer shall go on. A slot and not the queue, so that no stuck writer holds the caller up.
    next: Mutex<Option<File>>,
    /// The writer's end of the queue, until the writer starts.
    receiver: Mutex<Option<Receiver<Lines>>>,
}

/// The queue, and a log that is off and has no writer yet.
pub(super) fn channel(interest: Arc<Interest>) -> (SyncSender<Lines>, Shared) {
    let (queue, receiver) = sync_channel(QUEUE);
    let shared = Shared {
        interest,
        dropped: AtomicU64::new(0),
        handed: AtomicU64::new(0),
        written: Mutex::new(0),
        progress: Condvar::new(),
        next: Mutex::new(None),
        receiver: Mutex::new(Some(receiver)),
    };
    (queue, shared)
}

/// Opens a target for appending; `None` where it is off.
pub(super) fn open(target: &AccessTarget) -> io::Result<Option<File>> {
    match target {
        AccessTarget::Off => Ok(None),
        // A descriptor of its own: a writer stuck in it holds no lock that others who print would wait for.
        AccessTarget::Stdout => io::stdout().as_fd().try_clone_to_owned().map(|fd| Some(fd.into())),
        AccessTarget::File(path) => open_file(path).map(Some),
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let fifo = path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
    OpenOptions::new().append(true).create(true).read(fifo).mode(0o640).open(path)
}

/// Whether a target could be opened, as far as this shows without making a file or waking a pipe's reader.
pub(super) fn check(target: &AccessTarget) -> io::Result<()> {
    let AccessTarget::File(path) = target else { return Ok(()) };
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(metadata) if metadata.is_file() => OpenOptions::new().append(true).open(path).map(drop),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => check_folder(path),
        Err(error) => Err(error),
    }
}

/// Whether the folder of a file that does not exist yet is there.
fn check_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.metadata()?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from)
}

impl Shared {
    pub(super) fn wanted(&self) -> Wanted {
        self.interest.now()
    }

    pub(super) fn switch(&self, on: bool) {
        self.interest.set(Interest::LOG, on);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Starts the writer, unless it runs already.
    pub(super) fn start(shared: &Arc<Self>) -> io::Result<()> {
        let mut receiver = lock(&shared.receiver);
        if receiver.is_none() {
            return Ok(());
        }
        // Only a thread that exists takes the receiver: after a failure the next reopening may try again.
        let (writer, taken) = (Arc::clone(shared), sync_channel::<Receiver<Lines>>(1));
        thread::Builder::new().name("access-log".into()).spawn(move || {
            if let Ok(receiver) = taken.1.recv() {
                Writer::new(&writer).run(&receiver);
            }
        })?;
        if let Some(receiver) = receiver.take() {
            let _ = taken.0.try_send(receiver);
        }
        Ok(())
    }

    /// Has the writer go on elsewhere from its next buffer on.
    pub(super) fn redirect(&self, output: File) {
        *lock(&self.next) = Some(output);
    }

    /// Gives lines to the writer, or drops and counts them. Never waits.
    pub(super) fn hand_over(&self, queue: &SyncSender<Lines>, lines: Lines) {
        let count = lines.count;
        match queue.try_send(lines) {
            Ok(()) => self.handed.fetch_add(count, Ordering::Relaxed),
            Err(_) => self.dropped.fetch_add(count, Ordering::Relaxed),
        };
    }

    /// Waits until all lines handed over so far have been written or given up.
    pub(super) fn wait(&self, patience: Duration) {
        let handed = self.handed.load(Ordering::Relaxed);
        let written = lock(&self.written);
        drop(self.progress.wait_timeout_while(written, patience, |written| *written < handed));
    }

    fn progressed(&self, count: u64) {
        *lock(&self.written) += count;
        self.progress.notify_all();
    }
}

/// What the locks here guard is whole at every moment, so a panic of another holder does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The writer's own state. It ends when the log and all its sinks are gone.
struct Writer<'a, W> {
    shared: &'a Shared,
    output: Option<W>,
    /// Whether the output ends within a line, because a write failed there.
    torn: bool,
    warned: Option<Instant>,
}

impl Writer<'_, File> {
    fn run(mut self, receiver: &Receiver<Lines>) {
        for lines in receiver {
            if let Some(next) = lock(&self.shared.next).take() {
                self.output = Some(next);
                self.torn = false;
            }
            self.write(&lines);
            self.shared.progressed(lines.count);
        }
    }
}

impl<'a, W: Write> Writer<'a, W> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, output: None, torn: false, warned: None }
    }

    /// Writes lines, and drops those that cannot be written.
    fn write(&mut self, lines: &Lines) {
        let (done, result) = self.try_write(&lines.bytes);
        if let Err(error) = result {
            let whole = lines.bytes[..done].iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.shared.dropped.fetch_add(lines.count.saturating_sub(whole), Ordering::Relaxed);
            self.warn(&error);
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let Some(output) = &mut self.output else { return (0, Err(ErrorKind::NotConnected.into())) };
        // The remains of a torn line get a line feed, so that only that line is lost.
        if self.torn && !bytes.is_empty() {
            if let (_, Err(error)) = write_all(output, b"\n") {
                return (0, Err(error));
            }
            self.torn = false;
        }
        let (done, result) = write_all(output, bytes);
        self.torn |= bytes[..done].last().is_some_and(|&byte| byte != b'\n');
        (done, result)
    }

    fn warn(&mut self, error: &io::Error) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
            self.warned = Some(Instant::now());
            tracing::warn!(%error, "the access log cannot be written; lines are dropped");
        }
    }
}

/// Writes as much as can be written, and says how much that was.
fn write_all(output: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match output.write(&bytes[done..]) {
            Ok(0) => return (done, Err(ErrorKind::WriteZero.into())),
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_INTERVAL),
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Disk {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(self.room).min(3);
            self.room -= count;
            self.written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_write_that_fails_within_a_line_loses_no_other_line_and_counts_what_it_lost() {
        let (_queue, shared) = channel(Arc::default());
        let mut writer = Writer::new(&shared);
        writer.output = Some(Disk { written: Vec::new(), room: 10 });
        let lines = || Lines { bytes: b"one\ntwo\nthree\n".to_vec(), count: 3 };
        writer.write(&lines());
        assert_eq!(shared.dropped(), 1);
        writer.write(&lines());
        assert_eq!(shared.dropped(), 4);
        writer.output.as_mut().unwrap().room = 100;
        writer.write(&lines());
        writer.write(&lines());
        assert_eq!(shared.dropped(), 4);
        let written = String::from_utf8(writer.output.unwrap().written).unwrap();
        assert_eq!(written, "one\ntwo\nth\none\ntwo\nthree\none\ntwo\nthree\n");
    }
}
