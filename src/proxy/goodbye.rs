//! How the proxy itself ends a WebSocket: with a close frame in each direction, where one may stand.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One side of a tunnel. Where it says goodbye, what is read from it ends after the frame that is under way: with a close
/// frame that says 1001, "going away" (RFC 6455 section 7.4.1), as if its peer had sent that.
pub(super) struct Side<T> {
    inner: T,
    frames: Frames,
    stage: Stage,
    /// Whether it is time to say goodbye; both sides have the same.
    goodbye: Rc<Cell<bool>>,
    /// Whether the peer is a WebSocket's client, whose frames are masked.
    is_client: bool,
}

enum Stage {
    /// Everything passes.
    Open,
    /// The close frame is on its way; so much of it has been read.
    Closing([u8; CLOSE], usize),
    /// There is nothing more to read.
    Closed,
}

/// The length of a masked close frame with a status.
const CLOSE: usize = 8;

impl<T> Side<T> {
    pub(super) fn new(inner: T, goodbye: &Rc<Cell<bool>>, is_client: bool) -> Self {
        Self { inner, frames: Frames::default(), stage: Stage::Open, goodbye: Rc::clone(goodbye), is_client }
    }

    pub(super) fn into_inner(self) -> T {
        self.inner
    }

    /// What stands where the peer's next frame would begin; nothing after a close frame of its own.
    fn close(&self) -> Stage {
        const AWAY: [u8; 2] = 1001_u16.to_be_bytes();
        if self.frames.closed {
            return Stage::Closed;
        }
        if !self.is_client {
            return Stage::Closing([0, 0, 0, 0, 0x88, 2, AWAY[0], AWAY[1]], CLOSE - 4);
        }
        let [a, b, c, d] = fastrand::u32(..).to_ne_bytes();
        Stage::Closing([0x88, 0x82, a, b, c, d, AWAY[0] ^ a, AWAY[1] ^ b], 0)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Side<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.stage, Stage::Open) && this.goodbye.get() && this.frames.is_between() {
            this.stage = this.close();
        }
        match &mut this.stage {
            Stage::Open => {}
            Stage::Closing(frame, read) => {
                let rest = &frame[*read..];
                let count = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..count]);
                *read += count;
                if *read == CLOSE {
                    this.stage = Stage::Closed;
                }
                return Poll::Ready(Ok(()));
            }
            Stage::Closed => return Poll::Ready(Ok(())),
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let mut passed = before;
        while passed < buf.filled().len() {
            passed += this.frames.pass(&buf.filled()[passed..]);
            if this.goodbye.get() && this.frames.is_between() {
                // What stands behind the frame would come after the close frame, where nobody may say anything.
                buf.set_filled(passed);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Side<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// Where one direction of a WebSocket stands: RFC 6455 section 5.2, as far as it says where frames end.
#[derive(Debug, Default)]
struct Frames {
    /// How many bytes of the frame's header have passed.
    header: u8,
    /// How many there are, as far as is known.
    header_length: u8,
    /// How many bytes of the payload are still to come, as far as is known.
    payload: u64,
    /// How many bytes of the header say how long the payload is, behind the first two.
    length_bytes: u8,
    /// Whether a close frame has begun.
    closed: bool,
}

impl Frames {
    /// Whether the last frame has ended, and no other has begun.
    fn is_between(&self) -> bool {
        self.header == 0
    }

    /// Lets bytes pass, to the end of the frame at most; how many.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while self.header < 2 || self.header < self.header_length {
            let Some(byte) = bytes.get(passed) else { return passed };
            passed += 1;
            self.header_byte(*byte);
        }
        let rest = bytes.len() - passed;
        let payload = usize::try_from(self.payload).unwrap_or(usize::MAX).min(rest);
        self.payload -= payload as u64;
        if self.payload == 0 {
            *self = Self { closed: self.closed, ..Self::default() };
        }
        passed + payload
    }

    fn header_byte(&mut self, byte: u8) {
        match self.header {
            0 => self.closed |= byte & 0x0f == 8,
            1 => {
                (self.length_bytes, self.payload) = match byte & 0x7f {
                    126 => (2, 0),
                    127 => (8, 0),
                    length => (0, u64::from(length)),
                };
                let mask = if byte & 0x80 == 0 { 0 } else { 4 };
                self.header_length = 2 + self.length_bytes + mask;
            }
            at if at < 2 + self.length_bytes => self.payload = self.payload << 8 | u64::from(byte),
            _ => {}
        }
        self.header += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A frame with a payload of so many bytes.
    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match u8::try_from(length) {
            Ok(short @ 0..126) => frame.push(short | mask),
            _ if length <= 0xffff => {
                frame.push(126 | mask);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(127 | mask);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(7, if masked { 4 } else { 0 }));
        frame.extend(std::iter::repeat_n(0x88, length));
        frame
    }

    #[test]
    fn frames_end_where_they_end_however_they_are_cut() {
        let lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000];
        let all = lengths.into_iter().flat_map(|length| [(length, false), (length, true)]);
        let frames: Vec<_> = all.map(|(length, masked)| frame(2, length, masked)).collect();
        let (bytes, ends) = frames.iter().fold((Vec::new(), Vec::new()), |(mut bytes, mut ends), frame| {
            bytes.extend_from_slice(frame);
            ends.push(bytes.len());
            (bytes, ends)
        });
        for piece in [1, 2, 3, 7, 100, 65_537, bytes.len()] {
            let (mut state, mut found, mut at) = (Frames::default(), Vec::new(), 0);
            for piece in bytes.chunks(piece) {
                let mut passed = 0;
                while passed < piece.len() {
                    passed += state.pass(&piece[passed..]);
                    if state.is_between() {
                        found.push(at + passed);
                    }
                }
                at += piece.len();
            }
            assert_eq!(found, ends, "pieces of {piece}");
            assert!(!state.closed);
        }
    }

    #[tokio::test]
    async fn goodbye_comes_after_the_frame_that_is_under_way_and_nothing_after_it() {
        for is_client in [false, true] {
            let goodbye = Rc::new(Cell::new(false));
            let (near, mut far) = tokio::io::duplex(1 << 10);
            let mut side = Side::new(near, &goodbye, is_client);
            let (whole, cut) = (frame(1, 3, is_client), frame(2, 200, is_client));
            far.write_all(&[&whole[..], &cut[..50]].concat()).await.unwrap();
            let mut read = vec![0; whole.len() + 50];
            side.read_exact(&mut read).await.unwrap();
            goodbye.set(true);
            far.write_all(&[&cut[50..], &whole[..]].concat()).await.unwrap();
            let mut rest = Vec::new();
            side.read_to_end(&mut rest).await.unwrap();
            let (before, close) = rest.split_at(cut.len() - 50);
            assert_eq!(before, &cut[50..]);
            match (is_client, close) {
                (false, close) => assert_eq!(close, [0x88, 2, 3, 0xe9]),
                (true, [0x88, 0x82, a, b, _, _, high, low]) => assert_eq!([high ^ a, low ^ b], [3, 0xe9]),
                (true, close) => panic!("{close:?}"),
            }
        }
    }

    #[tokio::test]
    async fn who_has_said_goodbye_does_not_say_it_again() {
        let goodbye = Rc::new(Cell::new(false));
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let mut side = Side::new(near, &goodbye, false);
        far.write_all(&frame(8, 2, false)).await.unwrap();
        let mut read = [0; 4];
        side.read_exact(&mut read).await.unwrap();
        goodbye.set(true);
        assert_eq!(side.read(&mut read).await.unwrap(), 0);
    }
}
