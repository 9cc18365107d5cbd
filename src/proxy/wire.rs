//! The stream that the HTTP/1.1 codec speaks with a client on: it sees what the codec does by itself.
//!
//! A head that the codec cannot read never becomes a request: the codec answers it with a bare status. That answer is
//! given here what every refusal of this proxy has, and is recorded like one. And the codec drops a `Content-Length` beside
//! `Transfer-Encoding` without a word, and reads chunks leniently: so the head of a chunked request is looked at as it was
//! on the wire, and the lines between its chunks are.

use std::cell::RefCell;
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunks::{Chunks, Malformed, SharedChunks};
use super::failure::Kind;
use super::stream::Stream;
use super::watch::Pulse;

/// Whose turn it is on a connection. Its stream must be `Send`, as upgrades demand, so this is atomic; but only one
/// thread ever touches it, and no locked instruction is needed.
#[derive(Debug, Default)]
pub(super) struct Turn {
    state: AtomicU8,
    /// What the codec has of the next head: nothing new, bytes (`READ`), or a request that began with them (`TAKEN`).
    head: AtomicU8,
    /// The status of the codec's own answer; 0 where there was none.
    refused: AtomicU16,
    /// The chunked body that is under way.
    chunks: SharedChunks,
}

/// No request is under way, and everything is sent: the codec reads a head. What it writes now, it says by itself.
const OPEN: u8 = 0;
/// A request is under way.
const BUSY: u8 = 1;
/// Its answer is complete, but parts of it may not be sent yet.
const ENDING: u8 = 2;

/// Bytes of a head were read.
const READ: u8 = 1;
/// A request began with them.
const TAKEN: u8 = 2;

impl Turn {
    pub(super) fn request_began(&self) {
        self.state.store(BUSY, Ordering::Relaxed);
        // The next request that begins without a read in between was sent behind this one.
        let read = self.head.load(Ordering::Relaxed) == READ;
        self.head.store(if read { TAKEN } else { 0 }, Ordering::Relaxed);
        // A body that was answered before its end may have been read to it unseen.
        self.chunks.stop();
    }

    pub(super) fn request_ended(&self) {
        self.state.store(ENDING, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) == OPEN
    }

    /// Whether an answer has just been sent to its end.
    fn ends(&self) -> bool {
        let ends = self.state.load(Ordering::Relaxed) == ENDING;
        if ends {
            self.state.store(OPEN, Ordering::Relaxed);
        }
        ends
    }

    /// Why the codec refused the connection's last head, if it did.
    pub(super) fn refused(&self) -> Option<Kind> {
        kind(self.refused.load(Ordering::Relaxed))
    }

    fn id(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }
}

/// What the codec's own statuses mean.
fn kind(status: u16) -> Option<Kind> {
    match status {
        400 => Some(Kind::BadRequest("the request's head is malformed")),
        414 => Some(Kind::UriTooLong),
        431 => Some(Kind::HeadTooLarge),
        _ => None,
    }
}

/// A client's stream.
pub(super) struct Wire<S> {
    stream: S,
    turn: Arc<Turn>,
    /// How much comes.
    pulse: Arc<Pulse>,
    /// The beginning of a head that came in pieces.
    partial: Vec<u8>,
    /// The answer that is sent in place of the codec's.
    answer: Vec<u8>,
}

/// What was last read while a head was waited for: one for all connections of a shard, as a head that came in one
/// piece, as nearly all do, is asked for in the very turn in which it was read.
struct Last {
    owner: usize,
    bytes: Vec<u8>,
    /// Whether there was more.
    cut: bool,
}

/// The most that is kept. What stands behind it is not looked at here, and what the codec does with it is safe, too.
const KEPT: usize = 64 << 10;

thread_local! {
    static LAST: RefCell<Last> = const { RefCell::new(Last { owner: 0, bytes: Vec::new(), cut: false }) };
}

/// Looks at a chunked request as it was on the wire, and from now on at the lines between its chunks. A `Content-Length`
/// beside the transfer coding is ambiguous (RFC 9112 section 6.3).
///
/// A request that was sent behind another one, without waiting for its answer, cannot be looked at: what the codec does with
/// it is safe (the coding wins, and the connection closes), though it is no refusal.
pub(super) fn check_chunked(turn: &Arc<Turn>, method: &str) -> Result<(), Kind> {
    LAST.with_borrow(|last| {
        if last.owner != turn.id() || turn.head.load(Ordering::Relaxed) != TAKEN {
            return Ok(());
        }
        let bytes = last.bytes.trim_ascii_start();
        if bytes.strip_prefix(method.as_bytes()).is_none_or(|rest| !rest.starts_with(b" ")) {
            return Ok(());
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if line.trim_ascii_end().is_empty() {
                if last.cut {
                    break;
                }
                let mut chunks = Chunks::BEGIN;
                chunks
                    .read(rest)
                    .map_err(|Malformed| Kind::BadRequest("the request's chunks are malformed"))?;
                turn.chunks.set(chunks);
                break;
            }
            if is_named(line, "content-length") {
                return Err(Kind::BadRequest("the request's length is ambiguous"));
            }
        }
        Ok(())
    })
}

fn is_named(line: &[u8], name: &str) -> bool {
    let end = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
    line[..end].eq_ignore_ascii_case(name.as_bytes())
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, turn: &Arc<Turn>, pulse: &Arc<Pulse>) -> Self {
        let (turn, pulse) = (Arc::clone(turn), Arc::clone(pulse));
        Self { stream, turn, pulse, partial: Vec::new(), answer: Vec::new() }
    }

    /// Keeps what was read of a head. Nearly all heads come in one piece, and end it: this is on every request's way.
    fn keep(&mut self, bytes: &[u8]) {
        self.turn.head.store(READ, Ordering::Relaxed);
        let owner = self.turn.id();
        if !self.partial.is_empty() || bytes.len() > KEPT || !bytes.ends_with(b"\r\n\r\n") {
            return self.keep_piece(owner, bytes);
        }
        LAST.with_borrow_mut(|last| {
            (last.owner, last.cut) = (owner, false);
            last.bytes.clear();
            last.bytes.extend_from_slice(bytes);
        });
    }

    /// Keeps a piece of a head, or a head and what came with it; and the pieces before it, which another connection may
    /// have driven out.
    #[cold]
    fn keep_piece(&mut self, owner: usize, bytes: &[u8]) {
        let kept = bytes.len().min(KEPT.saturating_sub(self.partial.len()));
        let before = &self.partial;
        LAST.with_borrow_mut(|last| {
            if last.owner != owner || last.bytes.len() != before.len() {
                last.owner = owner;
                last.bytes.clear();
                last.bytes.extend_from_slice(before);
            }
            last.bytes.extend_from_slice(&bytes[..kept]);
            last.cut = kept < bytes.len();
        });
        self.partial.extend_from_slice(&bytes[..kept]);
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    /// Takes the codec's own answer, and makes a refusal of this proxy of it.
    fn take(&mut self, bare: &[u8]) -> bool {
        let Some((status, answer)) = dressed(bare) else { return false };
        self.turn.refused.store(status, Ordering::Relaxed);
        // From now on this is the answer that is under way.
        self.turn.request_began();
        self.answer = answer;
        true
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.answer.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.answer))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => drop(self.answer.drain(..count)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The codec's bare answer with what every refusal has, and its status. Its status line and date stay.
fn dressed(bare: &[u8]) -> Option<(u16, Vec<u8>)> {
    let head = std::str::from_utf8(bare).ok()?.strip_suffix("\r\n\r\n")?;
    let status: u16 = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let kind = kind(status)?;
    let body = kind.body();
    let mut answer = Vec::with_capacity(512);
    let ours = ["content-length", "connection"];
    for line in head.split("\r\n").filter(|line| !ours.iter().any(|name| is_named(line.as_bytes(), name))) {
        answer.extend_from_slice(line.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    // Writing to a vector cannot fail.
    let _ = write!(
        answer,
        "content-type: application/json\r\ncache-control: no-store\r\ngradual-error: {}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        kind.as_str(),
        body.len(),
    );
    Some((status, answer))
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf)?;
        if polled.is_pending() {
            this.pulse.waits();
            return Poll::Pending;
        }
        this.pulse.add(buf.filled().len() - before);
        if this.turn.is_open() {
            this.keep(&buf.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        if !this.partial.is_empty() {
            this.partial = Vec::new();
        }
        let read = this.turn.chunks.read(&buf.filled()[before..]);
        Poll::Ready(read.map_err(|Malformed| io::Error::new(io::ErrorKind::InvalidData, "malformed chunks")))
    }
}

impl AsyncWrite for Wire<Stream> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.turn.is_open() && this.take(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.turn.is_open() {
            let bare = slices.iter().map(|slice| &slice[..]).collect::<Vec<_>>().concat();
            if this.take(&bare) {
                return Poll::Ready(Ok(bare.len()));
            }
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.answer.is_empty() {
            ready!(this.poll_answer(cx))?;
        }
        if this.pulse.is_asked() && this.stream.has_ended() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        if this.turn.ends() {
            this.partial = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_answer(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
