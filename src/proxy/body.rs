//! Responses' bodies on their way to the client: counted, watched for standing still, and recorded once when they end.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::failure::Source;
use super::idle::Idle;
use super::piece::Piece;
use super::record::Meter;
use super::trailers;
use super::unread::Unread;
use super::upstream::{HEADER_LIST, Lease};

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

/// What the codec is told that asks for more.
type Polled = Poll<Option<Result<Frame<Piece>, Source>>>;

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

    /// There is nothing to hand over now; nor will there be, where the request has been told to end. The error is what clients
    /// know by that it is not whole.
    fn wait(&self, cx: &Context<'_>) -> Polled {
        match self.meter.as_ref().is_some_and(|meter| meter.is_cut(cx)) {
            true => Poll::Ready(Some(Err("its time is over".into()))),
            false => Poll::Pending,
        }
    }

    /// Where it is looked after, its end, or that it is cut: what its client takes slowly may never have to wait for its
    /// upstream.
    #[inline(always)]
    fn poll_looked_after(&mut self, cx: &mut Context<'_>) -> Option<Polled> {
        let is_over = self.unread.as_ref()?.is_over();
        let cut = self.wait(cx);
        if cut.is_ready() {
            return Some(cut);
        }
        is_over.then(|| self.poll_end(cx).map(|frame| frame.map(Ok)))
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
            && let Some(mut lease) = upstreamed.lease.take()
        {
            let held = self.meter.as_ref().filter(|meter| meter.held.is_some());
            let progress = held.and_then(|meter| meter.progress.as_ref());
            // An upstream that has not read all of the request may still be at it: its connection is closed first.
            if progress.is_none_or(|progress| progress.has_ended()) {
                if held.is_some() {
                    lease.hold(None);
                }
                lease.give_back();
            }
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
        if let Some(ends) = this.poll_looked_after(cx) {
            return ends;
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
                    return this.wait(cx);
                };
                match upstreamed.poll_frame_within(allowance, this.meter.as_deref(), cx) {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => {
                        this.turn(false);
                        return this.wait(cx);
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
                super::panics::provoke(frame.data_ref().map_or(b"", |data| data), "body");
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
