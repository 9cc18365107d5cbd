//! What an HTTP/1.1 connection to an upstream is read from and written to, with a copy of the head that was last sent.
//!
//! The codec consumes a request, and with it the chance to send it again. The copy is what was really sent, byte for byte;
//! it costs one `memcpy` of a few hundred bytes a request, where a clone of the head costs an allocation and two counters
//! a field.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;
use super::upload::RequestBody;
use super::watch::Watch;

/// The codec's end of a connection.
pub(super) struct Tapped(pub(super) Rc<Tap>);

/// What the pool sees of a connection that a codec has.
pub(super) struct Tap {
    /// `None` once the stream was taken out, to fall asleep.
    stream: RefCell<Option<Stream>>,
    /// What was sent of the request, where it is kept.
    sent: RefCell<Vec<u8>>,
    /// Whether what is written is copied.
    copies: Cell<bool>,
    /// Whether a byte of the request was taken by the system.
    written: Cell<bool>,
    /// Whether a byte came back since.
    heard: Cell<bool>,
    /// The client that a large body is for: while something waits for it, nothing is read ahead.
    reader: RefCell<Option<Rc<Watch>>>,
    /// Whether there is one; asked at every read.
    is_large: Cell<bool>,
}

/// A request that failed, and that can be sent again as it was.
pub(super) struct Unanswered {
    pub(super) request: Request<RequestBody>,
    /// Whether the upstream may have seen any of it.
    pub(super) written: bool,
}

/// Longer heads are not copied.
const MOST: usize = 16 << 10;

impl Tap {
    pub(super) fn new(stream: Stream) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(Some(stream)),
            sent: RefCell::default(),
            copies: Cell::new(false),
            written: Cell::new(false),
            heard: Cell::new(false),
            reader: RefCell::new(None),
            is_large: Cell::new(false),
        })
    }

    /// A request is about to be sent; `copies`: it has no body, so that its head is all of it.
    pub(super) fn begin(&self, copies: bool) {
        self.copies.set(copies);
        self.written.set(false);
        self.heard.set(false);
        self.sent.borrow_mut().clear();
    }

    /// The response is large and for this client.
    pub(super) fn read_for(&self, client: &Rc<Watch>) {
        if !self.is_large.replace(true) {
            self.reader.replace(Some(Rc::clone(client)));
            if let Some(stream) = &mut *self.stream.borrow_mut() {
                stream.read_large(true);
            }
        }
    }

    /// The response is over.
    pub(super) fn rest(&self) {
        if self.is_large.replace(false) {
            self.reader.take();
            if let Some(stream) = &mut *self.stream.borrow_mut() {
                stream.read_large(false);
            }
        }
    }

    /// Whether the client of a large body has taken what it was sent; the task is woken when it has.
    #[inline(never)]
    fn is_wanted(&self, cx: &Context<'_>) -> bool {
        self.reader.borrow().as_ref().is_none_or(|client| client.has_room(cx))
    }

    /// The request that was begun last, where it was copied and not a byte came back.
    pub(super) fn unanswered(&self) -> Option<Unanswered> {
        if !self.copies.get() || self.heard.get() {
            return None;
        }
        Some(Unanswered { request: parse(&self.sent.borrow())?, written: self.written.get() })
    }

    /// Whether the stream is open, and without bytes that nobody asked for, at this very moment.
    pub(super) fn is_quiet(&self) -> bool {
        self.stream.borrow_mut().as_mut().is_some_and(Stream::is_quiet)
    }

    /// The stream, of which nobody else reads or writes any more.
    pub(super) fn take_stream(&self) -> Option<Stream> {
        self.stream.borrow_mut().take()
    }

    fn note(&self, polled: &Poll<io::Result<usize>>, bytes: &[u8]) {
        let taken = match polled {
            Poll::Ready(Ok(count)) => {
                self.written.set(true);
                bytes.get(..*count).unwrap_or(bytes)
            }
            // What could not be sent belongs to the request all the same.
            Poll::Ready(Err(_)) => bytes,
            Poll::Pending => return,
        };
        let mut sent = self.sent.borrow_mut();
        if sent.len() + taken.len() > MOST {
            self.copies.set(false);
            return;
        }
        sent.extend_from_slice(taken);
    }
}

/// A request of the bytes that were sent; `None` where they are not exactly one head.
fn parse(bytes: &[u8]) -> Option<Request<RequestBody>> {
    let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
    let mut fields = vec![httparse::EMPTY_HEADER; lines];
    let mut parsed = httparse::Request::new(&mut fields);
    if parsed.parse(bytes) != Ok(httparse::Status::Complete(bytes.len())) {
        return None;
    }
    let mut request = Request::new(RequestBody::EMPTY);
    *request.method_mut() = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(parsed.path?).ok()?;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(field.value).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}

/// What a stream that was taken out says.
fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl AsyncRead for Tapped {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tap = &*self.get_mut().0;
        if tap.is_large.get() && !tap.is_wanted(cx) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let mut stream = tap.stream.borrow_mut();
        let Some(stream) = stream.as_mut() else { return Poll::Ready(Err(gone())) };
        let polled = Pin::new(stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            tap.heard.set(true);
        }
        polled
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tap = &*self.get_mut().0;
        let mut stream = tap.stream.borrow_mut();
        let Some(stream) = stream.as_mut() else { return Poll::Ready(Err(gone())) };
        let polled = Pin::new(stream).poll_write(cx, bytes);
        if tap.copies.get() {
            tap.note(&polled, bytes);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.0.stream.borrow_mut();
        stream.as_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.0.stream.borrow_mut();
        stream.as_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_as_it_was_sent() {
        let sent = b"GET /a%2Fb?c=\xc3\xa9 HTTP/1.1\r\nhost: a\r\nx: 1\r\nx: \xff\r\nempty: \r\n\r\n";
        let request = parse(sent).unwrap();
        assert_eq!((request.method(), request.headers().len()), (&Method::GET, 4));
        assert_eq!(request.uri().to_string().as_bytes(), b"/a%2Fb?c=\xc3\xa9");
        let all: Vec<_> = request.headers().get_all("x").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(all, [&b"1"[..], b"\xff"]);
    }

    #[test]
    fn what_is_not_exactly_one_head_does_not_come_back() {
        for sent in ["", "GET / HTTP/1.1\r\nhost: a\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\nx"] {
            assert!(parse(sent.as_bytes()).is_none(), "{sent:?}");
        }
    }
}
