//! Diagnostics on standard error.
//!
//! Whoever logs hands its line to one thread that writes. Where standard error is a pipe whose reader stalls, lines are
//! dropped and counted; nobody waits for it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::color;

/// The most bytes of lines that wait for the writer; as many may be with it.
const QUEUED: usize = 256 * 1024;

/// How long the end of the program waits for lines to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// The log of this process, once it is started.
static LOG: OnceLock<Arc<Log>> = OnceLock::new();

/// Waits, when it is dropped, until what was said is written; not for a reader that stalls.
#[must_use]
pub(crate) struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(log) = LOG.get() {
            log.flush(PATIENCE);
        }
    }
}

/// Sends events of the program's own life to standard error: what `GRADUAL_LOG` names, else `RUST_LOG`, else `info`.
pub(crate) fn start() -> Guard {
    start_writer();
    let said = ["GRADUAL_LOG", "RUST_LOG"].into_iter().find_map(|name| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some((name, text))
    });
    let (filter, mistake) = match &said {
        Some((name, text)) => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new("info"), Some(format!("{name} is ignored: {error}"))),
        },
        None => (EnvFilter::new("info"), None),
    };
    let color = color(&io::stderr());
    // It fails only where a subscriber is set already: then that one gets the events.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_target(false)
        // Where standard error takes nothing, its own message about that would be a panic.
        .log_internal_errors(false)
        .with_writer(Clean { color })
        .try_init();
    if let Some(mistake) = mistake {
        tracing::warn!("{mistake}");
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!("{}", mistake_of_ours(panic.payload_as_str(), &place));
    }));
    Guard(())
}

/// Prints on standard error, behind what was logged. Where that takes nothing, the exit code has to tell.
pub(crate) fn say(text: &str) {
    put(text.as_bytes().to_vec());
}

/// Without a thread, which is to be had where anything is, lines are written by those who log.
fn start_writer() {
    let log = Arc::new(Log::default());
    let its = Arc::clone(&log);
    let write = move || its.write(&mut io::stderr());
    if thread::Builder::new().name("log".to_owned()).spawn(write).is_ok() {
        let _ = LOG.set(log);
    }
}

fn put(line: Vec<u8>) {
    match LOG.get() {
        Some(log) => log.put(line),
        None => drop(io::stderr().lock().write_all(&line)),
    }
}

/// Lines on their way to the writer.
#[derive(Debug, Default)]
struct Log {
    queue: Mutex<Queue>,
    /// Tells the writer that there is something.
    filled: Condvar,
    /// Tells [`Log::flush`] that there is nothing.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that found no room behind those that wait.
    dropped: u64,
    /// Whether the writer is writing.
    busy: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0
    }
}

impl Log {
    /// Adds a line. Behind one that was dropped, all are, so that it can be said where they are missing.
    fn put(&self, line: Vec<u8>) {
        let mut queue = self.queue();
        if queue.dropped > 0 || queue.bytes + line.len() > QUEUED {
            queue.dropped += 1;
        } else {
            queue.bytes += line.len();
            queue.lines.push_back(line);
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// Writes lines as they come, each by itself: what is short enough for the system stays whole where two processes share
    /// a pipe, as in an upgrade.
    fn write(&self, output: &mut impl Write) -> ! {
        loop {
            let waiting = self.filled.wait_while(self.queue(), |queue| queue.is_empty());
            let mut queue = waiting.unwrap_or_else(PoisonError::into_inner);
            let Queue { lines, dropped, .. } =
                std::mem::replace(&mut *queue, Queue { busy: true, ..Queue::default() });
            drop(queue);
            // Serving does not depend on whether anybody listens.
            lines.iter().for_each(|line| drop(output.write_all(line)));
            if dropped > 0 {
                let _ = output.write_all(missing(dropped).as_bytes());
            }
            let _ = output.flush();
            self.queue().busy = false;
            self.emptied.notify_all();
        }
    }

    /// Waits, at most so long, until all is written.
    fn flush(&self, patience: Duration) {
        let unwritten = |queue: &mut Queue| queue.busy || !queue.is_empty();
        drop(self.emptied.wait_timeout_while(self.queue(), patience, unwritten));
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(lines: u64) -> String {
    format!("{lines} lines are missing here: standard error was not read as fast as it was written to\n")
}

/// What is said of a panic, in one line: its message may hold anything that came over the network.
fn mistake_of_ours(message: Option<&str>, place: &str) -> String {
    let message = message.unwrap_or("no message").escape_debug();
    format!("panic at {place}: {message}; this is a mistake in gradual, please report it")
}

/// Standard error, as far as it takes anything, without control characters but line breaks and tabs: text from a file or the network must not steer
/// the terminal. With `color`, the escape sequences of the log itself pass; those in messages are made visible before
/// they get here.
#[derive(Clone, Copy, Debug)]
struct Clean {
    color: bool,
}

impl<'a> MakeWriter<'a> for Clean {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for Clean {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        put(cleaned(bytes, self.color));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn cleaned(bytes: &[u8], color: bool) -> Vec<u8> {
    let mut clean = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\n' | b'\t' => clean.push(byte),
            0x1b if color => clean.push(byte),
            byte if byte.is_ascii_control() => clean.extend(format!("\\x{byte:02x}").into_bytes()),
            byte => clean.push(byte),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Takes a line whenever it is allowed to.
    struct Reader {
        allowed: Receiver<()>,
        read: Sender<String>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.allowed.recv();
            let _ = self.read.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_find_no_room_are_counted_where_they_are_missing_and_those_before_and_after_are_written() {
        let log = Arc::new(Log::default());
        let ((allow, allowed), (read, lines)) = (channel(), channel());
        let its = Arc::clone(&log);
        thread::spawn(move || its.write(&mut Reader { allowed, read }));
        let line = |at: usize| format!("{at} {}\n", "x".repeat(QUEUED / 4)).into_bytes();
        (0..20).for_each(|at| log.put(line(at)));
        log.flush(Duration::ZERO);
        (0..20).for_each(|_| allow.send(()).unwrap());
        log.flush(Duration::from_secs(60));
        log.put(b"after\n".to_vec());
        log.flush(Duration::from_secs(60));
        let lines: Vec<String> = lines.try_iter().collect();
        let (after, lines) = lines.split_last().unwrap();
        let (said, written) = lines.split_last().unwrap();
        assert_eq!((after.as_str(), said), ("after\n", &missing(20 - written.len() as u64)));
        assert!((3..20).contains(&written.len()), "{}", written.len());
        assert!(written.iter().enumerate().all(|(at, text)| text.as_bytes() == line(at)));
    }

    #[test]
    fn a_panic_is_one_line_whatever_its_message_holds() {
        let line = mistake_of_ours(Some("no \"a\r\n\x1b[2J\u{9b}\""), "src/x.rs:1:2");
        assert!(line.starts_with(r#"panic at src/x.rs:1:2: no \"a\r\n\u{1b}[2J\u{9b}\"; "#), "{line}");
        assert!(!line.contains(char::is_control));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = b"a\r\x1b[2J\x07b\tc\n";
        assert_eq!(cleaned(text, false), b"a\\x0d\\x1b[2J\\x07b\tc\n");
        assert_eq!(cleaned(text, true), b"a\\x0d\x1b[2J\\x07b\tc\n");
    }
}
