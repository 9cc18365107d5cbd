//! Bodies on their way: counted, watched for standing still, and recorded once when they end.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::failure::Source;
use super::idle::Idle;
use super::panics;
use super::piece::Piece;
use super::record::Meter;
use super::trailers;
use super::unread::Unread;
use super::upstream::{HEADER_LIST, Lease};

/// A request's body on its way to an upstream, whatever codec reads it.
pub(super) struct RequestBody {
    /// `None`: there is no body. Boxed so that upstream connections need not know where bodies come from.
    inner: Option<(AnyBody, Rc<Progress>)>,
    /// Whether what is left is taken where nobody wants it: over HTTP/1.1.
    drained: bool,
    /// The most bytes of trailers.
    most_trailers: u32,
}

type AnyBody = Pin<Box<dyn Body<Data = Bytes, Error = Source>>>;

/// How far a request's body has come; shared with whoever waits for the response.
pub(super) struct Progress {
    /// When the last piece passed.
    pub(super) last: Cell<Instant>,
    /// Bytes that passed.
    pub(super) bytes: Cell<u64>,
    /// Whether it is the client that the next piece is waited for from.
    waiting: Cell<bool>,
    /// Whether the client's side failed.
    pub(super) failed: Cell<bool>,
    /// Whether it was lost to a panic.
    pub(super) panicked: Cell<bool>,
    /// The most bytes that there may be.
    most: u64,
    /// Whether there were more.
    pub(super) is_too_large: Cell<bool>,
    /// How long the client was waited for, but for the wait that goes on.
    waited: Cell<Duration>,
    /// When the wait that goes on began.
    waits_since: Cell<Instant>,
    /// Bytes that had passed when the client's rate was last measured, and how long it had been waited for; `None` where
    /// the length is unknown, and so the rate is free.
    measured: Cell<Option<(u64, Duration)>>,
    /// Whether all of it has passed.
    ended: Cell<bool>,
    /// Whether nobody wants the rest: the answer is complete.
    unwanted: Cell<bool>,
    /// Wakes who waits for the next piece.
    waker: Cell<Option<Waker>>,
}

impl Progress {
    /// Of a body of at most so many bytes that begins now; whether its length is known.
    pub(super) fn new(now: Instant, most: u64, length_is_known: bool) -> Self {
        Self {
            last: Cell::new(now),
            bytes: Cell::new(0),
            waiting: Cell::new(false),
            failed: Cell::new(false),
            panicked: Cell::new(false),
            most,
            is_too_large: Cell::new(false),
            waited: Cell::new(Duration::ZERO),
            waits_since: Cell::new(now),
            measured: Cell::new(length_is_known.then_some((0, Duration::ZERO))),
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

    /// Notes whose turn it is: the client's to send, or the upstream's to take.
    fn turn(&self, waiting: bool) {
        if self.waiting.replace(waiting) == waiting {
            return;
        }
        let now = Instant::now();
        if waiting {
            self.waits_since.set(now);
        } else {
            self.waited.set(self.waited.get() + now.saturating_duration_since(self.waits_since.get()));
        }
    }

    /// When to look at the client's rate again; `None` where it is free. The error: it was waited for it as long as
    /// `grace`, and fewer than `rate` bytes a second came.
    pub(super) fn pace(&self, now: Instant, rate: u32, grace: Duration) -> Result<Option<Instant>, TooSlow> {
        let Some((bytes, waited)) = self.measured.get().filter(|_| rate > 0) else { return Ok(None) };
        let goes_on = match self.waiting.get() {
            true => now.saturating_duration_since(self.waits_since.get()),
            false => Duration::ZERO,
        };
        let total = self.waited.get() + goes_on;
        let span = total.saturating_sub(waited);
        if span < grace {
            return Ok(Some(now + (grace - span)));
        }
        let came = u128::from(self.bytes.get() - bytes) * 1000;
        if came < u128::from(rate) * span.as_millis() {
            return Err(TooSlow);
        }
        self.measured.set(Some((self.bytes.get(), total)));
        Ok(Some(now + grace))
    }

    /// Since when the client has been waited for; `None` if it is not.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.waiting.get().then(|| self.waits_since.get())
    }
}

/// A client sends more slowly than it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooSlow;

impl RequestBody {
    /// No body.
    pub(super) const EMPTY: Self = Self { inner: None, drained: false, most_trailers: 0 };

    /// A body that reports its progress. `drained`: what nobody wants of it is taken all the same, for a while.
    /// `most_trailers`: bytes of a trailer section, as [`trailers::clean`] has it.
    pub(super) fn new<B>(body: B, progress: &Rc<Progress>, drained: bool, most_trailers: u32) -> Self
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<Source>,
    {
        Self {
            inner: Some((Box::pin(body.map_err(Into::into)), Rc::clone(progress))),
            drained,
            most_trailers,
        }
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

/// Takes what a client still sends of a body whose request goes nowhere, for a while.
pub(super) fn decline<B>(body: B)
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Source>,
{
    tokio::task::spawn_local(drain(Box::pin(body.map_err(Into::into))));
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
        // An upstream's codec would end with all that share its connection, or let the answer be waited for in vain.
        panics::caught(|| self.next_frame(cx)).unwrap_or_else(|| self.lost())
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|(inner, _)| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |(inner, _)| inner.size_hint())
    }
}

impl RequestBody {
    /// The end of one that a panic was in. What the client still sends of it is taken all the same, so that it gets its answer.
    #[cold]
    fn lost(&self) -> Poll<Option<Result<Frame<Bytes>, Source>>> {
        if let Some((_, progress)) = &self.inner {
            progress.panicked.set(true);
        }
        Poll::Ready(Some(Err("the request is lost to a panic".into())))
    }

    fn next_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Source>>> {
        let most_trailers = self.most_trailers;
        let Some((inner, progress)) = &mut self.inner else { return Poll::Ready(None) };
        if progress.unwanted.get() {
            return Poll::Ready(Some(Err("the answer was complete before the request".into())));
        }
        let polled = inner.as_mut().poll_frame(cx);
        progress.turn(polled.is_pending());
        if polled.is_pending() {
            progress.waker.set(Some(cx.waker().clone()));
        }
        let frame = ready!(polled);
        progress.last.set(Instant::now());
        progress.ended.set(frame.is_none() || inner.is_end_stream());
        Poll::Ready(match frame {
            Some(Ok(mut frame)) => {
                #[cfg(test)]
                panics::provoke(frame.data_ref().map_or(b"", |data| data), "upload");
                progress.bytes.set(progress.bytes.get() + frame.data_ref().map_or(0, Bytes::len) as u64);
                if progress.bytes.get() > progress.most {
                    progress.is_too_large.set(true);
                    return Poll::Ready(Some(Err("the request's body is too large".into())));
                }
                if let Some(trailers) = frame.trailers_mut()
                    && let Err(error) = trailers::clean(trailers, most_trailers as usize)
                {
                    progress.failed.set(true);
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                progress.failed.set(true);
                Some(Err(error))
            }
            None => None,
        })
    }
}

/// A response's body on its way to the client.
pub(super) struct ResponseBody {
    content: Content,
    /// Records the request when it is dropped; `None` where nobody counts.
    meter: Option<Box<Meter>>,
    /// Whether it is the client's turn: a piece was handed over and no other was asked for since, or there is no room to
    /// hold another.
    handed_over: bool,
    /// Where it may be longer than its stream's window.
    unread: Option<Rc<Unread>>,
}

enum Content {
    /// Of the proxy's own, in one piece; `None` when it has been taken.
    Own(Option<Bytes>),
    Upstream(Upstreamed),
}

impl Content {
    fn is_over(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Upstream(upstreamed) => upstreamed.rest.is_empty() && upstreamed.incoming.is_end_stream(),
        }
    }
}

struct Upstreamed {
    incoming: Incoming,
    /// What is left of the last piece, of which only a part was to be handed over.
    rest: Bytes,
    /// Goes back to the pool when the body has ended well; dropped (and so closed) otherwise.
    lease: Option<Lease>,
    idle: Idle,
    /// Why it is cut short: told one poll later, so that the codec first sends what came before.
    cut: Option<Source>,
}

impl ResponseBody {
    /// A body of the proxy's own.
    pub(super) fn own(bytes: Bytes, meter: Option<Box<Meter>>) -> Self {
        let content = Content::Own((!bytes.is_empty()).then_some(bytes));
        let mut body = Self { content, meter, handed_over: false, unread: None };
        body.end_if_over();
        body
    }

    /// A body that comes from an upstream, and must not stand still for longer than `idle`.
    pub(super) fn upstream(incoming: Incoming, lease: Lease, idle: Duration, meter: Box<Meter>) -> Self {
        let upstreamed =
            Upstreamed { incoming, rest: Bytes::new(), lease: Some(lease), idle: Idle::new(idle), cut: None };
        meter.client.watch.stall_limit(idle);
        let content = Content::Upstream(upstreamed);
        let mut body = Self { content, meter: Some(meter), handed_over: false, unread: None };
        body.end_if_over();
        body
    }

    /// Notes the end as soon as it is certain: codecs need not ask for a frame after the last.
    fn end_if_over(&mut self) {
        if !self.content.is_over() {
            return;
        }
        if let Some(unread) = &self.unread {
            unread.ends_with(None);
            self.release();
        } else {
            self.finish();
        }
    }

    /// Where a large body is the only one of its connection, the next piece is read when this one has left. So pieces may be
    /// larger, as nothing that is read ahead must fit beside what is held; over TLS there are records, too.
    fn read_on_demand(&self, length: usize) {
        if length >= LARGE
            && let Some(meter) = &self.meter
            && let Content::Upstream(Upstreamed { lease: Some(lease), .. }) = &self.content
            && !meter.client.tls
            && !meter.client.watch.is_http2()
        {
            lease.read_for(&meter.client.watch);
        }
    }

    /// From when on it may be longer than its stream's window, it is looked after by itself.
    fn follow(&mut self) {
        if self.unread.is_none()
            && let Some(meter) = &self.meter
            && meter.response_bytes > meter.client.watch.window()
        {
            self.look_after();
        }
    }

    /// Over HTTP/2, it can be ended without the others of its connection from now on.
    fn look_after(&mut self) {
        if self.unread.is_none()
            && let Some(meter) = &self.meter
            && let Some(task) = meter.task()
        {
            let limit = meter.limits().body_idle_timeout.min(meter.idle_limit());
            let unread = meter.client.watch.follow(task, limit);
            unread.turn(self.handed_over);
            self.unread = Some(unread);
        }
    }

    /// There is no room to hold any more of it for the client.
    fn wait_for_room(&mut self) {
        self.turn(true);
        self.look_after();
        if let Some(unread) = &self.unread {
            unread.waits_for_room();
        }
    }

    /// The end of a body that is looked after: not before all of it has left, since nobody could end it then.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Piece>>> {
        if self.unread.as_ref().is_some_and(|unread| !unread.has_left(cx)) {
            return Poll::Pending;
        }
        let trailers = self.unread.take().and_then(|unread| unread.take_trailers());
        self.finish();
        Poll::Ready(trailers.map(Frame::trailers))
    }

    /// Notes whose turn it is: the client's to take what was handed over, or the upstream's to send more.
    fn turn(&mut self, handed_over: bool) {
        if let Some(meter) = &self.meter {
            let watch = &meter.client.watch;
            match (self.handed_over, handed_over) {
                (false, true) => watch.handed_over(),
                (true, false) => watch.taken(),
                (true, true) | (false, false) => {}
            }
            self.handed_over = handed_over;
            if let Some(unread) = &self.unread {
                unread.turn(handed_over);
            }
        }
    }

    /// A frame on its way to the client.
    fn held(&self, frame: Frame<Bytes>) -> Frame<Piece> {
        frame.map_data(|bytes| match (&self.meter, &self.content) {
            (Some(meter), Content::Upstream(_)) => meter.client.watch.hold(bytes, self.unread.as_ref()),
            _ => Piece::own(bytes),
        })
    }

    fn finish(&mut self) {
        self.turn(false);
        self.release();
        if let Some(meter) = &mut self.meter {
            meter.whole();
        }
    }

    /// Nothing is wanted of the upstream any more.
    fn release(&mut self) {
        if let Content::Upstream(upstreamed) = &mut self.content
            && let Some(lease) = upstreamed.lease.take()
        {
            lease.give_back();
        }
        if let Some(progress) = self.meter.as_ref().and_then(|meter| meter.progress.as_ref()) {
            progress.stop();
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.turn(false);
    }
}

impl Body for ResponseBody {
    type Data = Piece;
    type Error = Source;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Source>>> {
        let this = self.get_mut();
        if this.unread.as_ref().is_some_and(|unread| unread.is_over()) {
            return this.poll_end(cx).map(|frame| frame.map(Ok));
        }
        let frame = match &mut this.content {
            Content::Own(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::Upstream(upstreamed) => {
                if this.handed_over {
                    // While the client took its time, the upstream was not asked for anything.
                    upstreamed.idle.touch();
                }
                let watch = this.meter.as_ref().map(|meter| &meter.client.watch);
                let Some(allowance) = watch.map_or(Some(usize::MAX), |watch| watch.allowance(cx)) else {
                    this.wait_for_room();
                    return Poll::Pending;
                };
                match upstreamed.poll_frame_within(allowance, this.meter.as_deref(), cx) {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => {
                        this.turn(false);
                        return Poll::Pending;
                    }
                }
            }
        };
        let frame = match (frame, &this.unread) {
            (Some(Ok(frame)), Some(unread)) if frame.is_trailers() => {
                unread.ends_with(frame.into_trailers().ok());
                this.turn(true);
                return this.poll_end(cx).map(|frame| frame.map(Ok));
            }
            (None, Some(unread)) => {
                unread.ends_with(None);
                this.turn(true);
                this.release();
                return this.poll_end(cx).map(|frame| frame.map(Ok));
            }
            (frame, _) => frame,
        };
        this.turn(matches!(frame, Some(Ok(_))));
        match &frame {
            Some(Ok(frame)) => {
                #[cfg(test)]
                panics::provoke(frame.data_ref().map_or(b"", |data| data), "body");
                if let (Some(meter), Some(data)) = (&mut this.meter, frame.data_ref()) {
                    let length = data.len();
                    meter.response_bytes += length as u64;
                    this.follow();
                    this.read_on_demand(length);
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
        Poll::Ready(frame.map(|frame| frame.map(|frame| this.held(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.unread.is_none() && self.content.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Content::Upstream(upstreamed) => upstreamed.incoming.size_hint(),
        }
    }
}

impl Upstreamed {
    /// The next frame, with so many bytes at the most.
    fn poll_frame_within(
        &mut self,
        allowance: usize,
        meter: Option<&Meter>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Source>>> {
        let mut frame = match self.rest.is_empty() {
            true => ready!(self.poll_frame(meter, cx)),
            false => Some(Ok(Frame::data(std::mem::take(&mut self.rest)))),
        };
        if let Some(Ok(frame)) = &mut frame
            && let Some(data) = frame.data_mut()
            && data.len() > allowance
        {
            self.rest = data.split_off(allowance);
        }
        Poll::Ready(frame)
    }

    fn poll_frame(
        &mut self,
        meter: Option<&Meter>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Source>>> {
        if let Some(cut) = self.cut.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                self.cut = Some(error.into());
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(mut frame) => {
                self.idle.touch();
                if let Some(Ok(frame)) = &mut frame
                    && let Some(trailers) = frame.trailers_mut()
                    && let Err(error) = trailers::clean(trailers, HEADER_LIST as usize / 2)
                {
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Source::from)))
            }
            Poll::Pending => {
                // An upstream that takes a long upload, or a call's messages, has nothing to say meanwhile.
                let upload = || Some(meter?.progress.as_ref()?.last.get());
                ready!(self.idle.poll_expired(cx, upload));
                let error =
                    std::io::Error::new(std::io::ErrorKind::TimedOut, "the upstream's body stands still");
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

/// A piece as large as comes only of a large body.
const LARGE: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(20);

    #[test]
    fn a_client_that_sends_less_than_the_rate_while_it_is_waited_for_is_too_slow() {
        let begun = Instant::now();
        let progress = Progress::new(begun, u64::MAX, true);
        progress.turn(true);
        progress.waits_since.set(begun);
        progress.bytes.set(4799);
        assert_eq!(progress.pace(begun + GRACE / 2, 240, GRACE), Ok(Some(begun + GRACE)));
        assert_eq!(progress.pace(begun + GRACE, 240, GRACE), Err(TooSlow));
        progress.bytes.set(4800);
        assert_eq!(progress.pace(begun + GRACE, 240, GRACE), Ok(Some(begun + GRACE * 2)));
        assert_eq!(progress.pace(begun + GRACE * 2, 240, GRACE), Err(TooSlow));
    }

    #[test]
    fn time_in_which_the_upstream_takes_nothing_and_bodies_of_unknown_length_are_free() {
        let begun = Instant::now();
        let progress = Progress::new(begun, u64::MAX, true);
        assert_eq!(progress.pace(begun + GRACE * 100, 240, GRACE), Ok(Some(begun + GRACE * 101)));
        let streamed = Progress::new(begun, u64::MAX, false);
        streamed.turn(true);
        assert_eq!(streamed.pace(begun + GRACE * 100, 240, GRACE), Ok(None));
    }
}
