//! Responses of HTTP/2 that a client may leave unread while it takes others of its connection.
//!
//! What a stream's window has room for, nobody knows outside of the codec. But a response that is no longer than the
//! smallest window that the client has asked for fits; only a longer one is looked at on its own. Its end is withheld until
//! all before it has left, since the codec keeps a stream that has ended where nobody can end it.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::task::AbortHandle;

/// A response that may be longer than its stream's window.
pub(super) struct Unread {
    /// What drives it; ended, it resets the stream.
    task: AbortHandle,
    /// For how long it may stand still.
    limit: Duration,
    /// Bytes that were handed over and have not left.
    held: Cell<usize>,
    /// Bytes that have left.
    left: Cell<u64>,
    /// Whether it is the client's turn.
    waits: Cell<bool>,
    /// Whether it waits only because other responses of the connection hold all that may be held.
    is_crowded: Cell<bool>,
    /// When a look last found that something had left or nothing waited; how much had left, and how many pieces had been
    /// handed over on the connection then.
    seen: Cell<(Instant, u64, u64)>,
    /// Whether nothing comes any more but what `trailers` has.
    is_over: Cell<bool>,
    trailers: RefCell<Option<HeaderMap>>,
    /// Wakes who waits until all has left.
    waker: Cell<Option<Waker>>,
}

impl Unread {
    /// A response of which nothing waits yet, on a connection that so many pieces were handed over on.
    pub(super) fn new(task: AbortHandle, limit: Duration, now: Instant, pieces: u64) -> Self {
        Self {
            task,
            limit,
            held: Cell::new(0),
            left: Cell::new(0),
            waits: Cell::new(false),
            is_crowded: Cell::new(false),
            seen: Cell::new((now, 0, pieces)),
            is_over: Cell::new(false),
            trailers: RefCell::new(None),
            waker: Cell::new(None),
        }
    }

    pub(super) fn turn(&self, waits: bool) {
        self.waits.set(waits);
        self.is_crowded.set(false);
    }

    /// Other responses of the connection hold all that may be held.
    pub(super) fn waits_for_room(&self) {
        self.waits.set(true);
        self.is_crowded.set(true);
    }

    pub(super) fn waits(&self) -> bool {
        self.waits.get()
    }

    /// Since when it stands still, as far as looks have seen. What waits for others to leave room has only just begun to.
    pub(super) fn since(&self) -> Instant {
        self.seen.get().0
    }

    pub(super) fn hold(&self, count: usize) {
        self.held.set(self.held.get() + count);
    }

    pub(super) fn held(&self) -> usize {
        self.held.get()
    }

    /// Bytes have left.
    pub(super) fn left(&self, count: usize) {
        self.left.set(self.left.get() + count as u64);
        self.given_up(count);
    }

    /// Bytes are held no longer.
    pub(super) fn given_up(&self, count: usize) {
        self.held.set(self.held.get().saturating_sub(count));
        if self.held.get() == 0
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// Nothing comes any more, but perhaps trailers.
    pub(super) fn ends_with(&self, trailers: Option<HeaderMap>) {
        self.is_over.set(true);
        self.trailers.replace(trailers);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    pub(super) fn take_trailers(&self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// Whether all has left; the task is woken when it has.
    pub(super) fn has_left(&self, cx: &Context<'_>) -> bool {
        let all = self.held.get() == 0;
        if !all {
            self.waker.set(Some(cx.waker().clone()));
        }
        all
    }

    /// Whether the client has left it unread for too long. `pieces`: how many were handed over on the connection, and the
    /// newest of them of which something has left; `stands`: for how long nothing at all has left.
    ///
    /// The codec sends fairly: it gives what room the connection has to the stream that has waited longest. So where
    /// something has left that was handed over later than the last that this stream was seen to move, the room that it
    /// lacks is its own, and only its client can give it. Until then it may be that its fellows have their turn.
    pub(super) fn is_left(&self, now: Instant, (handed, newest): (u64, u64), stands: Duration) -> bool {
        let (since, left, mark) = self.seen.get();
        let waits = self.held.get() > 0 || (self.waits.get() && !self.is_crowded.get());
        if !waits || left != self.left.get() {
            self.seen.set((now, self.left.get(), handed));
            return false;
        }
        let is_overtaken = self.held.get() > 0 && newest > mark;
        now.saturating_duration_since(since) >= self.limit && (is_overtaken || stands >= self.limit)
    }

    /// Resets the stream, and cancels its request.
    pub(super) fn end(&self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_stream_is_left_only_where_later_pieces_have_left_or_nothing_has() {
        let task = tokio::spawn(std::future::pending::<()>());
        let begun = Instant::now();
        let unread = Unread::new(task.abort_handle(), LIMIT, begun, 4);
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(!unread.is_left(at(10), (4, 4), Duration::ZERO), "nothing waits");
        unread.hold(100);
        assert!(!unread.is_left(at(19), (9, 9), LIMIT), "not for so long");
        assert!(!unread.is_left(at(20), (9, 4), Duration::ZERO), "its fellows have their turn");
        assert!(unread.is_left(at(20), (9, 5), Duration::ZERO), "it was overtaken");
        assert!(unread.is_left(at(20), (9, 4), LIMIT), "nobody has a turn");
        unread.left(1);
        assert!(!unread.is_left(at(20), (9, 9), LIMIT), "something has left");
        assert!(!unread.is_left(at(30), (12, 9), Duration::ZERO), "what left since was handed over before");
        assert!(unread.is_left(at(30), (12, 10), Duration::ZERO));
    }
}
