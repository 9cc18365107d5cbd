//! The access log: one JSON line a request, with Cloudflare Logpush's names.
//!
//! A shard writes lines into a buffer of its own and hands full buffers to one writer thread through a bounded queue. A log
//! that cannot keep up loses lines, counted; it never delays a request.

use std::io;
use std::time::Duration;

use crate::config::AccessTarget;

/// The process's access log. Cheap to clone; every clone is the same log.
#[derive(Clone, Debug)]
pub struct AccessLog {}

/// A shard's end of the log.
#[derive(Debug)]
pub struct Sink {}

/// One request, when its response has ended. Text is as received; the log escapes it.
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
    /// The upstream failed, before or within its response.
    Exception,
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the writer thread cannot be started.
    pub fn open(_target: &AccessTarget) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Opens `target` (again: the file may have been renamed by a rotation) and goes on there.
    ///
    /// # Errors
    /// The file cannot be opened; the log goes on where it was.
    pub fn reopen(&self, _target: &AccessTarget) -> io::Result<()> {
        Ok(())
    }

    /// A new end for a shard.
    pub fn sink(&self) -> Sink {
        Sink {}
    }

    /// How many lines were dropped.
    pub fn dropped(&self) -> u64 {
        0
    }

    /// Waits, at most so long, until everything that was handed over is written.
    pub fn flush(&self, _patience: Duration) {}
}

impl Sink {
    /// Whether lines are wanted at all: ask before a record is made.
    pub fn is_on(&self) -> bool {
        false
    }

    /// Adds a line. Returns whether it was the first in the buffer, so that the shard plans a [`Sink::flush`].
    pub fn write(&self, _record: &Record<'_>) -> bool {
        false
    }

    /// Hands the buffer over, if there is anything in it.
    pub fn flush(&self) {}
}
