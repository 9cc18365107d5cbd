//! A stream that keeps small writes together until the connection's task has nothing more to write.
//!
//! The HTTP/2 codec flushes after every DATA frame, which over TLS makes a record and a system call of each response.
//! Held back until the task is done, the answers of all streams that were ready leave in one (`docs/performance.md`).

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Observer;
use super::refusals;

/// A stream with a cork in it. Clones are the same stream: the codec has one, and the task that drives it another.
#[derive(Debug)]
pub(super) struct Corked<S>(Rc<RefCell<Held<S>>>);

#[derive(Debug)]
struct Held<S> {
    stream: S,
    /// Written by the codec, and not yet by us: up to `sent` it is on its way.
    buffer: Vec<u8>,
    sent: usize,
    /// Whether the stream may still hold something of it: TLS does where the kernel takes no more.
    unflushed: bool,
    /// Sees every frame of either direction.
    observer: Option<Observer>,
}

/// What is kept together at the most. A writer that has more waits until the stream has taken it.
const MOST: usize = 32 << 10;

impl<S> Corked<S> {
    /// A stream on which an HTTP/2 server's frames are observed.
    pub(super) fn new(stream: S, observer: Option<Observer>) -> Self {
        Self(Rc::new(RefCell::new(Held { stream, buffer: Vec::new(), sent: 0, unflushed: false, observer })))
    }

    /// Reads what comes without looking at its frames.
    pub(super) fn raw(&self) -> impl AsyncRead + Unpin
    where
        S: AsyncRead + Unpin,
    {
        self.0.borrow_mut().observer = None;
        self.clone()
    }

    /// Puts the frame that ends the connection behind what is held back, if none is cut there.
    pub(super) fn say_goaway(&self) {
        let mut held = self.0.borrow_mut();
        if let Some(frame) = held.observer.as_ref().and_then(Observer::goaway) {
            held.buffer.extend_from_slice(&frame);
        }
    }
}

impl<S> Clone for Corked<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    /// Writes what is held back. To be called whenever the codec has nothing more to write.
    pub(super) fn poll_uncork(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.borrow_mut();
        if let Some(observer) = &held.observer {
            observer.turn_ends();
        }
        held.poll_send(cx)
    }
}

impl<S: AsyncWrite + Unpin> Held<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        while self.sent < self.buffer.len() {
            self.unflushed = true;
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.sent = 0;
        self.buffer.clear();
        // A connection that has sent much once need not hold the room for it.
        self.buffer.shrink_to(MOST / 4);
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.borrow_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut held.stream).poll_read(cx, buf))?;
        if let Some(observer) = &mut held.observer
            && !observer.read(&buf.filled()[before..])
        {
            // The task that polls this sees it, and ends the connection.
            buf.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut held = self.0.borrow_mut();
        if held.buffer.len() + buf.len() > MOST && !held.buffer.is_empty() {
            ready!(held.poll_send(cx))?;
        }
        let taken = &buf[..buf.len().min(MOST)];
        let before = held.buffer.len();
        held.buffer.extend_from_slice(taken);
        if let Some(observer) = &mut held.observer {
            // From the last one on, so that those before it stay where they are.
            for at in observer.written(taken).into_iter().rev() {
                refusals::dress(&mut held.buffer, before + at);
            }
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task uncorks when it is done.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.borrow_mut();
        ready!(held.poll_send(cx))?;
        Pin::new(&mut held.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_written_leaves_together_when_it_is_uncorked() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut corked = Corked::new(near, None);
        corked.write_all(b"one ").await.unwrap();
        corked.flush().await.unwrap();
        corked.write_all(b"two").await.unwrap();
        let mut read = [0; 7];
        assert!(tokio::time::timeout(std::time::Duration::ZERO, far.read(&mut read)).await.is_err());
        std::future::poll_fn(|context| corked.poll_uncork(context)).await.unwrap();
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one two");
    }

    #[tokio::test]
    async fn nothing_is_lost_or_reordered_by_a_slow_reader() {
        let (near, mut far) = tokio::io::duplex(1000);
        let sent: Vec<u8> = (0..300_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let expected = sent.clone();
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            read
        });
        let mut corked = Corked::new(near, None);
        for piece in sent.chunks(7001) {
            corked.write_all(piece).await.unwrap();
        }
        corked.shutdown().await.unwrap();
        drop(corked);
        assert_eq!(reader.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn what_the_stream_itself_holds_leaves_too_when_its_reader_goes_on() {
        let (near, mut far) = tokio::io::duplex(10);
        let mut corked = Corked::new(tokio::io::BufWriter::with_capacity(1 << 16, near), None);
        corked.write_all(&[7; 1000]).await.unwrap();
        let mut read = Vec::new();
        let uncorking = std::future::poll_fn(|context| {
            // As a connection's task does: whenever it is woken, whatever for.
            let _ = corked.poll_uncork(context);
            Poll::<()>::Pending
        });
        let reading = async {
            while read.len() < 1000 {
                far.read_buf(&mut read).await.unwrap();
            }
        };
        tokio::select! {
            () = uncorking => {}
            all = tokio::time::timeout(std::time::Duration::from_secs(60), reading) => all.unwrap(),
        }
        assert_eq!(read, [7; 1000]);
    }
}
