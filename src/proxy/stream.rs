//! Byte streams: what clients and upstreams are connected by, with or without TLS.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket of which some bytes were already read, to find out what is spoken.
#[derive(Debug)]
pub(super) struct Peeked {
    socket: Socket,
    /// Read but not consumed; given back first.
    prefix: Bytes,
    writing: Writing,
}

/// What becomes of writing when the other side takes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// It fails.
    Strict,
    /// What is written goes nowhere, and reading goes on: an upstream that refuses an upload and closes has said why.
    Patient,
    /// So it has become: after what there is to be read, the stream does not end but breaks.
    Broken,
}

/// A stream that HTTP is spoken on.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Peeked),
    /// Boxed: the TLS state is a kilobyte that plain connections need not carry.
    ServerTls(Box<server::TlsStream<Peeked>>),
    ClientTls(Box<client::TlsStream<Peeked>>),
}

impl Peeked {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, prefix: Bytes::new(), writing: Writing::Strict }
    }

    /// A socket to an upstream, whose answer counts even where it takes no more of the request.
    pub(super) fn to_upstream(socket: Socket) -> Self {
        Self { socket, prefix: Bytes::new(), writing: Writing::Patient }
    }

    /// What a write of so many bytes has come to.
    fn written(&mut self, polled: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Err(error)) if self.writing != Writing::Strict && is_gone(&error) => {
                self.writing = Writing::Broken;
                Poll::Ready(Ok(length))
            }
            polled => polled,
        }
    }

    /// What was read and not consumed yet.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Consumes bytes of the prefix.
    pub(super) fn advance(&mut self, count: usize) {
        self.prefix.advance(count.min(self.prefix.len()));
    }

    /// Reads more into the prefix; 0 at the end of the stream.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        // The scratch space lives within one poll, so that waiting connections do not hold it.
        std::future::poll_fn(|context| {
            let mut scratch = [0; PEEK];
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer))?;
            let read = buffer.filled();
            if !read.is_empty() {
                self.prefix = match self.prefix.is_empty() {
                    true => Bytes::copy_from_slice(read),
                    false => [&self.prefix, read].concat().into(),
                };
            }
            Poll::Ready(Ok(read.len()))
        })
        .await
    }
}

impl Stream {
    /// Whether an idle stream is as it should be: open, and without bytes that nobody asked for.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(self).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

/// The most that one look at a new connection reads: a usual request's head.
const PEEK: usize = 2048;

/// Below this many bytes, gathering slices into one buffer and sending that once costs less than a vectored send.
const GATHER: usize = 4096;

thread_local! {
    /// Where slices are gathered: one for all connections of a shard, used within one poll.
    static GATHERED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(GATHER));
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total <= GATHER && slices.len() > 1 {
            return GATHERED.with_borrow_mut(|gathered| {
                gathered.clear();
                slices.iter().for_each(|slice| gathered.extend_from_slice(slice));
                Pin::new(socket).poll_write(cx, gathered)
            });
        }
        match socket {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer of ours to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Peeked {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            if this.writing != Writing::Broken {
                return Pin::new(&mut this.socket).poll_read(cx, buf);
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
            // The reset has been told to who wrote; now it would look like an end.
            let is_end = buf.filled().len() == before && buf.remaining() > 0;
            return Poll::Ready(if is_end { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) });
        }
        let count = this.prefix.len().min(buf.remaining());
        buf.put_slice(&this.prefix[..count]);
        this.prefix.advance(count);
        if this.prefix.is_empty() {
            this.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether an error of writing says that the other side has closed.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncWrite for Peeked {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.socket).poll_write(cx, buf);
        this.written(polled, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        this.written(polled, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::ServerTls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::ClientTls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::ServerTls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::ClientTls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::ServerTls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::ClientTls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::ServerTls(stream) => Pin::new(stream).poll_flush(cx),
            Self::ClientTls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::ServerTls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::ClientTls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A socket whose other side has answered and then closed, with something unread.
    async fn refused() -> Socket {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        near.write_all(b"request").await.unwrap();
        far.readable().await.unwrap();
        far.write_all(b"answer").await.unwrap();
        drop(far);
        // The kernel has both the answer and the reset by now, as it all happens within it.
        Socket::Tcp(near)
    }

    #[tokio::test]
    async fn an_upstream_that_closes_on_a_request_has_its_answer_read_and_then_breaks() {
        let mut stream = Peeked::to_upstream(refused().await);
        for _ in 0..3 {
            assert_eq!(stream.write(b"more").await.unwrap(), 4);
        }
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        // Never an end in order: a body that ends with its connection would pass for whole.
        assert_eq!(stream.read(&mut answer).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(Peeked::new(refused().await).write(b"more").await.is_err());
    }
}
