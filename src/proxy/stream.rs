//! Byte streams: what clients and upstreams are connected by, with or without TLS.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf, Take};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

use super::caps::Slot;
use super::census::{Descriptor, Place};

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket of which some bytes were already read, to find out what is spoken.
#[derive(Debug)]
pub(super) struct Peeked {
    /// Reads at most `piece` at a time.
    socket: Take<Socket>,
    /// [`PIECE`], or [`LARGE_PIECE`].
    piece: u64,
    /// Read but not consumed; given back first.
    prefix: Bytes,
    /// Counts the connection for as long as the socket is open, whatever becomes of it.
    _descriptor: Option<Descriptor>,
    /// What is given back with the end of the connection, where it counts.
    _slot: Option<Slot>,
    place: Option<Place>,
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
    /// A client's connection.
    pub(super) fn new(socket: Socket, descriptor: Descriptor) -> Self {
        Self { _descriptor: Some(descriptor), ..Self::uncounted(socket) }
    }

    /// A connection to an upstream, which counts until its end, and whose answer counts even where it takes no more of
    /// the request.
    pub(super) fn to_upstream(socket: Socket, descriptor: Descriptor, slot: Slot) -> Self {
        Self { _slot: Some(slot), writing: Writing::Patient, ..Self::new(socket, descriptor) }
    }

    /// A connection of the few that are not counted: of a health check.
    pub(super) fn uncounted(socket: Socket) -> Self {
        Self {
            socket: socket.take(PIECE),
            piece: PIECE,
            prefix: Bytes::new(),
            _descriptor: None,
            _slot: None,
            place: None,
            writing: Writing::Strict,
        }
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

    /// Reads where something is unusual: the prefix first, at most a piece, and a reset rather than an end.
    #[inline(never)]
    fn poll_unusual(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let count = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..count]);
            self.prefix.advance(count);
            if self.prefix.is_empty() {
                self.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        self.socket.set_limit(self.piece);
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        // The reset has been told to who wrote; now it would look like an end.
        let is_end = buf.filled().len() == before && buf.remaining() > 0 && self.writing == Writing::Broken;
        Poll::Ready(if is_end { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) })
    }

    /// Counts the connection as one of its address, too.
    pub(super) fn hold(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Counts it no longer: its place and its descriptor are free for another.
    pub(super) fn uncount(&mut self) {
        (self.place, self._descriptor) = (None, None);
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
            ready!(Pin::new(self.socket.get_mut()).poll_read(context, &mut buffer))?;
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
    /// Whether an idle stream is as it should be at this very moment: open, and without bytes that nobody asked for. The
    /// system is asked: the runtime hears of an end only at its next turn.
    pub(super) fn is_quiet(&mut self) -> bool {
        if !self.peeked().socket.get_ref().is_quiet() {
            // What came may be TLS's own business, which ends here; an end or data does not.
            return !matches!(self, Self::Plain(_))
                && self.reads_nothing()
                && self.peeked().socket.get_ref().is_quiet();
        }
        self.reads_nothing()
    }

    /// Whether the other side has ended or reset it, whatever there is still to be read.
    pub(super) fn has_ended(&self) -> bool {
        self.peeked().socket.get_ref().has_ended()
    }

    /// Has writes fail where the other side is gone: in a tunnel there is no answer to wait for.
    pub(super) fn insist(&mut self) {
        self.peeked_mut().writing = Writing::Strict;
    }

    /// Whether reads may be as large as [`LARGE_PIECE`], because nothing is read ahead.
    pub(super) fn read_large(&mut self, large: bool) {
        self.peeked_mut().piece = if large { LARGE_PIECE as u64 } else { PIECE };
    }

    fn peeked(&self) -> &Peeked {
        match self {
            Self::Plain(stream) => stream,
            Self::ServerTls(stream) => stream.get_ref().0,
            Self::ClientTls(stream) => stream.get_ref().0,
        }
    }

    fn peeked_mut(&mut self) -> &mut Peeked {
        match self {
            Self::Plain(stream) => stream,
            Self::ServerTls(stream) => stream.get_mut().0,
            Self::ClientTls(stream) => stream.get_mut().0,
        }
    }

    fn reads_nothing(&mut self) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(self).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

impl Socket {
    /// Has the kernel keep at most so many bytes of what is sent, where that is bounded. It counts what it needs besides
    /// itself, and has bounds of its own.
    pub(super) fn send_at_most(&self, bytes: Option<u32>) {
        let Some(bytes) = bytes else { return };
        // That is refused for no open socket.
        let _ = match self {
            Self::Tcp(socket) => SockRef::from(socket).set_send_buffer_size(bytes as usize),
            Self::Unix(socket) => SockRef::from(socket).set_send_buffer_size(bytes as usize),
        };
    }

    /// The same for what is received.
    pub(super) fn receive_at_most(&self, bytes: Option<u32>) {
        let Some(bytes) = bytes else { return };
        let _ = match self {
            Self::Tcp(socket) => SockRef::from(socket).set_recv_buffer_size(bytes as usize),
            Self::Unix(socket) => SockRef::from(socket).set_recv_buffer_size(bytes as usize),
        };
    }

    /// Whether the system has neither bytes nor an end or error for it.
    fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match self {
            Self::Tcp(socket) => SockRef::from(socket).peek(&mut byte),
            Self::Unix(socket) => SockRef::from(socket).peek(&mut byte),
        };
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the system has told of its end. Bytes that nobody has read do not hide that.
    pub(super) fn has_ended(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let polled = match self {
            Self::Tcp(socket) => pin!(socket.ready(Interest::READABLE)).poll(&mut context),
            Self::Unix(socket) => pin!(socket.ready(Interest::READABLE)).poll(&mut context),
        };
        matches!(polled, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }
}

/// The most that is read at once, in bytes, and so the most that a piece of a body has. A codec that is given as much as it
/// has room for makes more room, up to some hundred kilobytes, and then holds as much for a client that does not read; hence
/// one byte less than a power of two.
const PIECE: u64 = (64 << 10) - 1;

/// The most where nothing is read ahead of who takes it. What is held and the codec's next buffer, which the last piece but
/// one was in, fit into a quarter of a mebibyte together (`tests/it/limits/memory.rs`).
pub(super) const LARGE_PIECE: usize = 96 << 10;

/// The most that one look at a new connection reads: a usual request's head.
const PEEK: usize = 2048;

/// Below this many bytes, gathering slices into one buffer and sending that once costs less than a vectored send.
const GATHER: usize = 4096;

thread_local! {
    /// Where slices are gathered: one for all connections of a shard, used within one poll.
    static GATHERED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(GATHER));
}

impl AsyncRead for Socket {
    #[inline]
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
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // As nearly always, several times a request.
        if this.prefix.is_empty() && this.writing != Writing::Broken && buf.remaining() as u64 <= this.piece {
            return Pin::new(this.socket.get_mut()).poll_read(cx, buf);
        }
        this.poll_unusual(cx, buf)
    }
}

/// Whether an error of writing says that the other side has closed.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncWrite for Peeked {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(this.socket.get_mut()).poll_write(cx, buf);
        this.written(polled, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(this.socket.get_mut()).poll_write_vectored(cx, slices);
        this.written(polled, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().socket.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().socket.get_mut()).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    #[inline]
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
    async fn the_kernel_is_told_how_much_it_may_keep() {
        let (near, _far) = UnixStream::pair().unwrap();
        let socket = Socket::Unix(near);
        let sizes = |socket: &Socket| {
            let Socket::Unix(socket) = socket else { unreachable!() };
            let socket = SockRef::from(socket);
            (socket.send_buffer_size().unwrap(), socket.recv_buffer_size().unwrap())
        };
        let before = sizes(&socket);
        socket.send_at_most(None);
        socket.receive_at_most(None);
        assert_eq!(sizes(&socket), before);
        socket.send_at_most(Some(8 << 10));
        let (sends, receives) = sizes(&socket);
        assert!(sends <= 16 << 10 && receives == before.1, "{sends} {receives}");
        socket.receive_at_most(Some(8 << 10));
        assert!(sizes(&socket).1 <= 16 << 10);
    }

    #[tokio::test]
    async fn an_upstream_that_closes_on_a_request_has_its_answer_read_and_then_breaks() {
        let mut stream = Peeked { writing: Writing::Patient, ..Peeked::uncounted(refused().await) };
        for _ in 0..3 {
            assert_eq!(stream.write(b"more").await.unwrap(), 4);
        }
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        // Never an end in order: a body that ends with its connection would pass for whole.
        assert_eq!(stream.read(&mut answer).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(Peeked::uncounted(refused().await).write(b"more").await.is_err());
    }
}
