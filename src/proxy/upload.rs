//! Requests' bodies on their way to an upstream: counted, and watched for standing still and for their pace.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use super::failure::Source;
use super::panics;
use super::trailers;

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
    pub(super) fn stop(&self) {
        if !self.ended.get() {
            self.unwanted.set(true);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    /// Whether all of it has passed.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
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
