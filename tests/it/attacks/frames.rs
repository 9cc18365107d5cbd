//! HTTP/2 with frames that are written by hand, so that anything can be sent; and as much of an answer as tests need.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;

pub(super) use crate::support::wire::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PADDED,
    PING, PRIORITY, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, request,
};
use crate::support::wire::{PREFACE, frame, frame_head};
use crate::support::{Pipe, eventually};

/// For what must come at once; only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A frame as it came.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered with this status.
    Status(u16),
    /// RST_STREAM with this code, and no answer before.
    Reset(u32),
    /// The connection ended, with this code in GOAWAY.
    GoAway(u32),
    /// The connection ended without a word.
    Closed,
    /// Nothing came.
    Silence,
}

impl Outcome {
    /// Whether it is what a malformed request gets (RFC 9113 section 8.1.1).
    pub(super) fn is_malformed(&self) -> bool {
        matches!(self, Self::Reset(PROTOCOL_ERROR) | Self::GoAway(PROTOCOL_ERROR) | Self::Status(400))
    }
}

/// A client's connection: what is to be sent is collected, and leaves at a flush.
pub(super) struct Frames {
    write: WriteHalf<Pipe>,
    unsent: Vec<u8>,
    came: Arc<Mutex<Came>>,
    reading: JoinHandle<()>,
}

#[derive(Default)]
struct Came {
    frames: Vec<Frame>,
    closed: bool,
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Frames {
    /// Greets, and waits for the proxy's greeting.
    pub(super) async fn open(pipe: Pipe) -> Self {
        let (read, write) = tokio::io::split(pipe);
        let came = Arc::new(Mutex::new(Came::default()));
        let reading = tokio::spawn(keep(read, Arc::clone(&came)));
        let mut frames = Self { write, unsent: Vec::new(), came, reading };
        frames.unsent.extend_from_slice(PREFACE);
        frames.frame(SETTINGS, 0, 0, &[]);
        frames.flush().await;
        let came = Arc::clone(&frames.came);
        eventually("the proxy greets", || !came.lock().unwrap().frames.is_empty()).await;
        frames.frame(SETTINGS, ACK, 0, &[]);
        frames
    }

    /// Any frame.
    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.unsent.extend_from_slice(&frame(kind, flags, stream, payload));
    }

    /// Exact bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// A whole header section.
    pub(super) fn headers(&mut self, stream: u32, end: bool, fields: &[(&str, &str)]) {
        let flags = if end { END_STREAM | END_HEADERS } else { END_HEADERS };
        self.frame(HEADERS, flags, stream, &block(fields));
    }

    /// A header section of any size, that ends the stream.
    pub(super) fn large_headers(&mut self, stream: u32, fields: &[(&str, &str)]) {
        let block = block(fields);
        let mut pieces = block.chunks(16 << 10).peekable();
        let mut first = true;
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            match std::mem::take(&mut first) {
                true => self.frame(HEADERS, end | END_STREAM, stream, piece),
                false => self.frame(CONTINUATION, end, stream, piece),
            }
        }
    }

    /// A GET of a path.
    pub(super) fn get(&mut self, stream: u32, path: &str) {
        self.headers(stream, true, &request("GET", path));
    }

    /// Sends what was collected, as far as the proxy takes it.
    pub(super) async fn flush(&mut self) {
        let unsent = std::mem::take(&mut self.unsent);
        let sending = async {
            let _ = self.write.write_all(&unsent).await;
            let _ = self.write.flush().await;
        };
        // A proxy that does not read any more has ended the connection, or will.
        let _ = tokio::time::timeout(PATIENCE, sending).await;
    }

    /// Every frame that came so far.
    pub(super) fn came(&self) -> Vec<Frame> {
        self.came.lock().unwrap().frames.clone()
    }

    /// Whether the proxy has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        self.came.lock().unwrap().closed
    }

    /// How often a kind of frame came.
    pub(super) fn count(&self, kind: u8) -> usize {
        self.came.lock().unwrap().frames.iter().filter(|frame| frame.kind == kind).count()
    }

    /// How a stream goes on: waits for its answer, its reset or the end of the connection.
    pub(super) async fn outcome(&self, stream: u32) -> Outcome {
        let waiting = async {
            loop {
                if let Some(outcome) = self.so_far(stream) {
                    return outcome;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or(Outcome::Silence)
    }

    fn so_far(&self, stream: u32) -> Option<Outcome> {
        let came = self.came.lock().unwrap();
        let of_stream = came.frames.iter().find_map(|frame| match frame.kind {
            HEADERS if frame.stream == stream => Some(Outcome::Status(status(&frame.payload))),
            RST_STREAM if frame.stream == stream => Some(Outcome::Reset(number(&frame.payload))),
            _ => None,
        });
        let went = || came.frames.iter().find_map(|frame| (frame.kind == GOAWAY).then(|| code(frame)));
        of_stream
            .or_else(|| went().filter(|&code| code != 0).map(Outcome::GoAway))
            .or_else(|| came.closed.then(|| went().map_or(Outcome::Closed, Outcome::GoAway)))
    }

    /// The status of every header section that came, in their order.
    pub(super) fn statuses(&self) -> Vec<u16> {
        let came = self.came.lock().unwrap();
        came.frames.iter().filter(|frame| frame.kind == HEADERS).map(|frame| status(&frame.payload)).collect()
    }

    /// The bytes of a stream's DATA frames, and whether the last said that it was the last.
    pub(super) fn body(&self, stream: u32) -> (Vec<u8>, bool) {
        let of_stream = |frame: &Frame| frame.stream == stream && matches!(frame.kind, DATA | HEADERS);
        let frames: Vec<_> = self.came().into_iter().filter(of_stream).collect();
        let whole = frames.last().is_some_and(|frame| frame.flags & END_STREAM != 0);
        let data = frames.into_iter().filter(|frame| frame.kind == DATA);
        (data.flat_map(|frame| frame.payload).collect(), whole)
    }

    /// Waits until a stream is over: told so, reset, or its connection closed. What its DATA said, and whether it was whole.
    pub(super) async fn finished(&self, stream: u32) -> (Vec<u8>, bool) {
        let reset = |frame: &Frame| frame.kind == RST_STREAM && frame.stream == stream;
        eventually("the stream is over", || {
            self.body(stream).1 || self.is_closed() || self.came().iter().any(reset)
        })
        .await;
        self.body(stream)
    }
}

async fn keep(mut read: ReadHalf<Pipe>, came: Arc<Mutex<Came>>) {
    loop {
        let mut head = [0; 9];
        if read.read_exact(&mut head).await.is_err() {
            break;
        }
        let (length, kind, flags, stream) = frame_head(head);
        let mut payload = vec![0; length];
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        came.lock().unwrap().frames.push(Frame { kind, flags, stream, payload });
    }
    came.lock().unwrap().closed = true;
}

fn number(bytes: &[u8]) -> u32 {
    bytes.get(..4).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
}

fn code(goaway: &Frame) -> u32 {
    number(goaway.payload.get(4..).unwrap_or_default())
}

/// The status that a header block begins with: one of the static table, or three digits, Huffman-coded or not.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let start = match block {
        [0x3f, rest @ ..] => rest.iter().position(|byte| byte & 0x80 == 0).map_or(0, |last| last + 2),
        [0x20..=0x3e, ..] => 1,
        _ => 0,
    };
    match &block[start..] {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        [0x08 | 0x18 | 0x48, length, value @ ..] => {
            let value = &value[..usize::from(length & 0x7f)];
            if length & 0x80 == 0 { digits(value.iter().map(|digit| digit - b'0')) } else { huffman(value) }
        }
        _ => panic!("not a status: {block:?}"),
    }
}

fn digits(digits: impl Iterator<Item = u8>) -> u16 {
    digits.fold(0, |all, digit| all * 10 + u16::from(digit))
}

/// Three digits (RFC 7541, Appendix B): `0` to `2` have five bits, the others six.
fn huffman(bytes: &[u8]) -> u16 {
    let bits = bytes.iter().fold(0_u32, |all, &byte| all << 8 | u32::from(byte)) << (32 - 8 * bytes.len());
    let mut rest = bits;
    let next = |rest: &mut u32| {
        let (five, six) = ((*rest >> 27) as u8, (*rest >> 26) as u8);
        let (digit, length) = if five < 3 { (five, 5) } else { (six - 0x19 + 3, 6) };
        *rest <<= length;
        digit
    };
    digits((0..3).map(|_| next(&mut rest)))
}

#[test]
fn statuses_are_read_in_every_form() {
    assert_eq!(status(&[0x88]), 200);
    assert_eq!(status(&[0x3f, 0xe1, 0x1f, 0x8c]), 400);
    assert_eq!(status(&[0x48, 3, b'4', b'1', b'3']), 413);
    // 405: 011010 00000 011011, padded with ones.
    assert_eq!(status(&[0x48, 0x83, 0b0110_1000, 0b0000_1101, 0b1111_1111]), 405);
}
