//! The access log: one JSON line a request, with Cloudflare Logpush's names.
//!
//! A shard writes lines into a buffer of its own and hands full buffers to one writer thread through a bounded queue. A log
//! that cannot keep up loses lines, counted; it never delays a request.

mod line;
mod writer;

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use crate::config::AccessTarget;

use self::writer::{Lines, Shared};
use super::Wanted;
use super::tail::{Seen, Tails, View};

/// The process's access log. Cheap to clone; every clone is the same log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: SyncSender<Lines>,
    shared: Arc<Shared>,
    /// Who else is shown what the log has.
    tails: Tails,
}

/// A shard's end of the log: used by one thread at a time. Hands over what it still has when it is dropped.
#[derive(Debug)]
pub struct Sink {
    queue: SyncSender<Lines>,
    shared: Arc<Shared>,
    buffer: RefCell<Lines>,
    tails: View,
}

/// One request, when its response has ended. Text is as received; the log escapes it.
///
/// Its line is one JSON object whose members are always all present and in the same order, `null` where a record has
/// nothing to say, so that the lines load into tables:
///
/// `EventTimestampMs`, `EventType` (always `fetch`), `Outcome`, `ScriptName`, `ScriptVersion` (`null` where no version was
/// chosen; else an object of `id` and, only where the version has them, `message` and `tag`), `Event` (`RayID`, `Request`
/// with `URL` and `Method`, `Response` with `Status`), `WallTimeMs` (with up to three decimals), `Reason`, `Override`,
/// `Upstream`, `Error`, `ClientIP`, `RequestBytes`, `ResponseBytes`.
///
/// The URL is `scheme://authority` and the target. Control characters are escaped, and each ill-formed UTF-8 sequence
/// of the authority is written as U+FFFD: whatever a client sends, a record is one line of valid JSON.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When the request arrived, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The worker; `None` where no route matched.
    pub worker: Option<&'a str>,
    /// The version's id, message and tag; `None` where none was chosen.
    pub version: Option<VersionRef<'a>>,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host as the request names it.
    pub authority: &'a [u8],
    /// The raw path and query.
    pub target: &'a str,
    /// The method.
    pub method: &'a str,
    /// The status that the client was sent.
    pub status: u16,
    /// The identity of the request: written as 16 hexadecimal digits.
    pub ray: u64,
    /// From the request's head to the end of its response.
    pub wall_time: Duration,
    /// Why it went to its version; `None` where none was chosen.
    pub reason: Option<&'a str>,
    /// What became of an override: `applied`, or the problem's word; `None` where there was none.
    pub overridden: Option<&'a str>,
    /// The upstream that answered, or was tried last.
    pub upstream: Option<&'a str>,
    /// The failure's kind, where the proxy answered in the upstream's place.
    pub error: Option<&'a str>,
    /// The client's address; `None` on a Unix socket.
    pub client: Option<std::net::IpAddr>,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body that were handed to the client's connection.
    pub response_bytes: u64,
}

/// A version as the log names it.
#[derive(Clone, Copy, Debug)]
pub struct VersionRef<'a> {
    /// The id.
    pub id: &'a str,
    /// The message.
    pub message: Option<&'a str>,
    /// The tag.
    pub tag: Option<&'a str>,
}

/// How a request ended, in Cloudflare's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole response was sent.
    Ok,
    /// The client left.
    Canceled,
    /// The upstream failed, before or within its response; or the proxy itself, or it ended a version that was retired.
    Exception,
}

impl Outcome {
    /// Cloudflare's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Canceled => "canceled",
            Self::Exception => "exception",
        }
    }
}

/// The size in bytes from which a buffer is handed over.
const FULL: usize = 64 * 1024;

impl AccessLog {
    /// Opens the log. A log that is off has no thread until it is switched on.
    ///
    /// A file is made with mode 0640 if it does not exist. A FIFO is opened for reading and writing, so that opening it
    /// waits for no reader and a reader may come and go; while nobody reads, it fills up and lines are dropped.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the writer thread cannot be started.
    pub fn open(target: &AccessTarget) -> io::Result<Self> {
        let interest = Arc::default();
        let (queue, shared) = writer::channel(Arc::clone(&interest));
        let log = Self { queue, shared: Arc::new(shared), tails: Tails::new(interest) };
        log.reopen(target)?;
        Ok(log)
    }

    /// Opens `target` (again: the file may have been renamed by a rotation) and goes on there, with what the writer has
    /// not begun to write yet. Switches all sinks on or off. Never waits for the writer: if that is stuck in a pipe that
    /// nobody reads, lines reach the new target when the pipe is read or closed, and are dropped until then.
    ///
    /// Where `target` is off, lines that sinks still hold go where they would have gone.
    ///
    /// # Errors
    /// The file cannot be opened, or the writer thread cannot be started; the log goes on where it was.
    pub fn reopen(&self, target: &AccessTarget) -> io::Result<()> {
        let Some(output) = writer::open(target)? else {
            self.shared.switch(false);
            return Ok(());
        };
        Shared::start(&self.shared)?;
        self.shared.redirect(output);
        self.shared.switch(true);
        // Wakes an idle writer, so that it closes the old file now; a writer that is not idle needs no waking.
        let _ = self.queue.try_send(Lines::default());
        Ok(())
    }

    /// Whether `target` could probably be opened, found out without making or changing anything.
    ///
    /// # Errors
    /// It could not.
    pub fn check(target: &AccessTarget) -> io::Result<()> {
        writer::check(target)
    }

    /// A new end for a shard.
    pub fn sink(&self) -> Sink {
        Sink {
            queue: self.queue.clone(),
            shared: Arc::clone(&self.shared),
            buffer: RefCell::default(),
            tails: View::of(&self.tails),
        }
    }

    /// Those who see requests as they end, whether the log is on or off.
    pub fn tails(&self) -> &Tails {
        &self.tails
    }

    /// How many lines were dropped, because the writer could not keep up or could not write.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped()
    }

    /// Waits, at most so long, until everything that was handed over is written.
    pub fn flush(&self, patience: Duration) {
        self.shared.wait(patience);
    }
}

impl Sink {
    /// Who wants to know of a request: ask before anything of it is kept.
    pub fn wanted(&self) -> Wanted {
        self.shared.wanted()
    }

    /// Whether lines are wanted at all: ask before a record is made.
    pub fn is_on(&self) -> bool {
        self.wanted().by_the_log()
    }

    /// Whether there is a tail of a worker: ask before what only tails show is kept of a request.
    pub fn is_tailed(&self, worker: &str) -> bool {
        self.tails.has(worker)
    }

    /// Shows a request that has ended to its worker's tails, whether the log is on or off.
    pub fn show(&self, record: &Record<'_>, seen: &Seen<'_>) {
        self.tails.show(record, seen);
    }

    /// Adds a line, unless the log is off. Returns whether it is now the only one in the buffer, so that the shard plans
    /// a [`Sink::flush`].
    pub fn write(&self, record: &Record<'_>) -> bool {
        if !self.is_on() {
            return false;
        }
        let mut buffer = self.buffer.borrow_mut();
        if buffer.bytes.capacity() == 0 {
            buffer.bytes.reserve(FULL + FULL / 8);
        }
        line::append(&mut buffer.bytes, record);
        buffer.count += 1;
        let (first, full) = (buffer.count == 1, buffer.bytes.len() >= FULL);
        drop(buffer);
        if full {
            self.flush();
        }
        first && !full
    }

    /// Hands the buffer over, if there is anything in it. Where the queue is full, its lines are dropped and counted.
    pub fn flush(&self) {
        let lines = self.buffer.take();
        if lines.count > 0 {
            self.shared.hand_over(&self.queue, lines);
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.flush();
    }
}
