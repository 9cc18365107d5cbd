//! Bodies on their way: counted, watched for standing still, and recorded once when they end.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::failure::Source;
use super::head;
use super::record::Meter;
use super::upstream::Lease;

/// A request's body on its way to an upstream, whatever codec reads it.
pub(super) struct RequestBody {
    /// `None`: there is no body. Boxed so that upstream connections need not know where bodies come from.
    inner: Option<(AnyBody, Rc<Progress>)>,
    /// Whether what is left is taken where nobody wants it: over HTTP/1.1.
    drained: bool,
}

type AnyBody = Pin<Box<dyn Body<Data = Bytes, Error = Source>>>;

/// How far a request's body has come; shared with whoever waits for the response.
pub(super) struct Progress {
    /// When the last piece passed.
    pub(super) last: Cell<Instant>,
    /// Bytes that passed.
    pub(super) bytes: Cell<u64>,
    /// Whether it is the client that the next piece is waited for from.
    pub(super) waiting: Cell<bool>,
    /// Whether the client's side failed.
    pub(super) failed: Cell<bool>,
    /// Whether all of it has passed.
    ended: Cell<bool>,
    /// Whether nobody wants the rest: the answer is complete.
    unwanted: Cell<bool>,
    /// Wakes who waits for the next piece.
    waker: Cell<Option<Waker>>,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: Cell::new(now),
            bytes: Cell::new(0),
            waiting: Cell::new(false),
            failed: Cell::new(false),
            ended: Cell::new(false),
            unwanted: Cell::new(false),
            waker: Cell::new(None),
        }
    }

    /// Stops a body that is still under way when its answer has ended. What an upstream that has answered would still read
    /// of it decides nothing any more, and the client is not to be kept at it.
    fn stop(&self) {
        if !self.ended.get() {
            self.unwanted.set(true);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

impl RequestBody {
    /// No body.
    pub(super) const EMPTY: Self = Self { inner: None, drained: false };

    /// A body that reports its progress. `drained`: what nobody wants of it is taken all the same, for a while.
    pub(super) fn new<B>(body: B, progress: &Rc<Progress>, drained: bool) -> Self
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<Source>,
    {
        Self { inner: Some((Box::pin(body.map_err(Into::into)), Rc::clone(progress))), drained }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some((body, progress)) = self.inner.take() else { return };
        if self.drained && !progress.ended.get() && !progress.failed.get() {
            tokio::task::spawn_local(drain(body));
        }
    }
}

/// Takes what a client still sends of a body that nobody wants, for a while. To close on it would reset the connection, and
/// a reset may overtake the answer.
async fn drain(mut body: AnyBody) {
    let all = async { while let Ok(Some(Ok(_))) = tokio::time::timeout(SILENCE, body.frame()).await {} };
    let _ = tokio::time::timeout(DRAIN, all).await;
}

/// How long what nobody wants is taken; less where the client sends nothing for [`SILENCE`].
const DRAIN: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_millis(500);

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Source;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Source>>> {
        let Some((inner, progress)) = &mut self.inner else { return Poll::Ready(None) };
        if progress.unwanted.get() {
            return Poll::Ready(Some(Err("the answer was complete before the request".into())));
        }
        let polled = inner.as_mut().poll_frame(cx);
        progress.waiting.set(polled.is_pending());
        if polled.is_pending() {
            progress.waker.set(Some(cx.waker().clone()));
        }
        let frame = ready!(polled);
        progress.last.set(Instant::now());
        progress.ended.set(frame.is_none() || inner.is_end_stream());
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                #[cfg(test)]
                super::panics::provoke(frame.data_ref().map_or(b"", |data| data), "upload");
                progress.bytes.set(progress.bytes.get() + frame.data_ref().map_or(0, Bytes::len) as u64);
                Some(Ok(clean_trailers(frame)))
            }
            Some(Err(error)) => {
                progress.failed.set(true);
                Some(Err(error))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|(inner, _)| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |(inner, _)| inner.size_hint())
    }
}

/// A response's body on its way to the client.
pub(super) struct ResponseBody {
    content: Content,
    /// Records the request when it is dropped; `None` where nobody counts.
    meter: Option<Meter>,
    /// Whether a piece was handed over and no other was asked for since: the client's connection cannot take more.
    handed_over: bool,
}

enum Content {
    /// Of the proxy's own, in one piece; `None` when it has been taken.
    Own(Option<Bytes>),
    Upstream(Upstreamed),
}

struct Upstreamed {
    incoming: Incoming,
    /// Goes back to the pool when the body has ended well; dropped (and so closed) otherwise.
    lease: Option<Lease>,
    idle: Idle,
    /// Why it is cut short: told one poll later, so that the codec first sends what came before.
    cut: Option<Source>,
}

impl ResponseBody {
    /// A body of the proxy's own.
    pub(super) fn own(bytes: Bytes, meter: Option<Meter>) -> Self {
        let content = Content::Own((!bytes.is_empty()).then_some(bytes));
        let mut body = Self { content, meter, handed_over: false };
        body.end_if_over();
        body
    }

    /// A body that comes from an upstream, and must not stand still for longer than `idle`.
    pub(super) fn upstream(incoming: Incoming, lease: Lease, idle: Duration, meter: Meter) -> Self {
        let upstreamed = Upstreamed { incoming, lease: Some(lease), idle: Idle::new(idle), cut: None };
        meter.client.watch.stall_limit(idle);
        let mut body =
            Self { content: Content::Upstream(upstreamed), meter: Some(meter), handed_over: false };
        body.end_if_over();
        body
    }

    /// Notes the end as soon as it is certain: codecs need not ask for a frame after the last.
    fn end_if_over(&mut self) {
        if self.is_end_stream() {
            self.finish();
        }
    }

    /// Notes whose turn it is: the client's to take what was handed over, or the upstream's to send more.
    fn turn(&mut self, handed_over: bool) {
        if let Some(meter) = &self.meter {
            let watch = &meter.client.watch;
            match (self.handed_over, handed_over) {
                (false, true) => watch.handed_over(),
                (true, true) => watch.moved(),
                (true, false) => watch.taken(),
                (false, false) => {}
            }
            self.handed_over = handed_over;
        }
    }

    fn finish(&mut self) {
        self.turn(false);
        if let Content::Upstream(upstreamed) = &mut self.content
            && let Some(lease) = upstreamed.lease.take()
        {
            lease.give_back();
        }
        if let Some(meter) = &mut self.meter {
            meter.whole();
            if let Some(progress) = &meter.progress {
                progress.stop();
            }
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.turn(false);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Source;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Source>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::Own(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::Upstream(upstreamed) => match upstreamed.poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    this.turn(false);
                    return Poll::Pending;
                }
            },
        };
        this.turn(matches!(frame, Some(Ok(_))));
        match &frame {
            Some(Ok(frame)) => {
                #[cfg(test)]
                super::panics::provoke(frame.data_ref().map_or(b"", |data| data), "body");
                if let (Some(meter), Some(data)) = (&mut this.meter, frame.data_ref()) {
                    meter.response_bytes += data.len() as u64;
                }
                this.end_if_over();
            }
            Some(Err(_)) => {
                if let Some(meter) = &mut this.meter {
                    meter.upstream_failed();
                }
            }
            None => this.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_none(),
            Content::Upstream(upstreamed) => upstreamed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Content::Upstream(upstreamed) => upstreamed.incoming.size_hint(),
        }
    }
}

impl Upstreamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Source>>> {
        if let Some(cut) = self.cut.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                self.cut = Some(error.into());
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(frame) => {
                self.idle.touch();
                Poll::Ready(frame.map(|frame| frame.map(clean_trailers).map_err(Source::from)))
            }
            Poll::Pending => {
                ready!(self.idle.poll_expired(cx));
                let error =
                    std::io::Error::new(std::io::ErrorKind::TimedOut, "the upstream's body stands still");
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

/// Expires when nothing has happened for so long. Costs a timer only once something had to be waited for.
pub(super) struct Idle {
    limit: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, last: Instant::now(), timer: None }
    }

    pub(super) fn touch(&mut self) {
        if self.timer.is_some() {
            self.last = Instant::now();
        }
    }

    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| {
            self.last = Instant::now();
            Box::pin(tokio::time::sleep(self.limit))
        });
        loop {
            ready!(timer.as_mut().poll(cx));
            let due = self.last + self.limit;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due.into());
        }
    }
}

/// Removes what may not stand in a trailer section (RFC 9110 section 6.5.1).
fn clean_trailers(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        remove_forbidden(trailers);
    }
    frame
}

fn remove_forbidden(trailers: &mut HeaderMap) {
    let forbidden: Vec<_> =
        trailers.keys().filter(|name| head::forbidden_in_trailers(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
}
