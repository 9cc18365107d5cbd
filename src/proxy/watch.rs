//! What a shard watches its client connections by: who waits for whom, since when, and how much waits for the client.

use std::cell::{Cell, OnceCell, RefCell};
use std::iter::repeat_n;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::AbortHandle;

use super::frames::Ledger;
use super::piece::Piece;
use super::unread::Unread;
use super::wire::Turn;
use crate::config::Limits;
use crate::metrics::Limit;

/// How much longer a connection may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Patience {
    /// It may go on.
    Left,
    /// It should end as soon as what was written to it is on its way.
    Over,
    /// It ends now, with a word where the protocol has one: a request's head comes too slowly.
    Slow,
    /// It ends now, whatever its client has not read.
    Lost,
}

/// Bytes that came from a client. Shared with the stream, which the codec wants to be able to send to other threads.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    bytes: AtomicU64,
    /// How many had come when the codec last waited for more.
    waited_at: AtomicU64,
    /// Whether the stream is to say whether the client has left.
    asked: AtomicBool,
}

impl Pulse {
    /// The stream is the only writer.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.store(self.get().wrapping_add(bytes as u64), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The codec waits for more, and so hears of an end.
    pub(super) fn waits(&self) {
        self.waited_at.store(self.get(), Ordering::Relaxed);
    }

    /// Whether the codec has something, and does not look for more.
    fn is_deaf(&self) -> bool {
        self.waited_at.load(Ordering::Relaxed) != self.get()
    }

    /// Whether the stream is asked whether the client has left; once.
    pub(super) fn is_asked(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked {
            self.asked.store(false, Ordering::Relaxed);
        }
        asked
    }
}

/// What tells whether a client connection waits for a request, and since when; and whether its client takes what waits.
pub(super) struct Watch {
    requests: Cell<u32>,
    /// Whether there was any request yet.
    asked: Cell<bool>,
    /// Over HTTP/1.1, the tenure of the version that serves the request, or served the last one.
    tenure: Cell<u32>,
    /// When the connection began to wait for the next request's head.
    waits_since: Cell<Instant>,
    /// Bytes that came (HTTP/1.1 only), and how many of them had come when the last request ended.
    pub(super) pulse: Arc<Pulse>,
    pulse_before: Cell<u64>,
    /// Whether it has become a tunnel.
    tunnels: Cell<bool>,
    /// When a look first found a request's head begun and not ended.
    head_since: Cell<Option<Instant>>,
    patience: Cell<Patience>,
    /// What it was told from elsewhere, which no look takes back.
    told: Cell<Patience>,
    /// Responses whose next piece waits for the client to take earlier ones.
    handed_over: Cell<u32>,
    /// For how long they may stand still, by the settings of their worker.
    stall_limit: Cell<Duration>,
    /// Bytes of bodies that were handed over and have not left yet.
    held: Cell<usize>,
    /// How many there may be: no response is asked for more beyond it. But streams of HTTP/2 that are not read must not hold
    /// up others that are: as long as the connection itself takes all, small pieces go beyond it, up to `most`.
    room: usize,
    most: usize,
    /// Whether the connection takes all that is written to it, and is one of several streams.
    flows: Cell<bool>,
    /// Bytes of bodies that have left.
    taken: Cell<u64>,
    /// Since when the client takes too little, and how much it had taken then.
    span: Cell<(Instant, u64)>,
    /// When a look last found that something had left, and how much.
    moved: Cell<(Instant, u64)>,
    /// Pieces that were handed over, and the newest of them of which something has left.
    pieces: Cell<(u64, u64)>,
    /// Responses of HTTP/2 that may be longer than their windows.
    unread: RefCell<Vec<Weak<Unread>>>,
    /// Responses that wait for room.
    blocked: RefCell<Vec<Waker>>,
    /// HTTP/2 frames.
    ledger: OnceCell<Rc<Ledger>>,
    /// Wakes the connection's task.
    waker: Cell<Option<Waker>>,
    /// What an HTTP/1.1 connection's stream knows the requests by.
    turn: Arc<Turn>,
}

/// Where the kernel takes what waits for a slow client, it takes as much as this at a time.
const LUMP: u64 = 32 << 10;
/// About what a response that waits for its client costs besides the bytes that are held: its request's state and the
/// buffers of the codec that reads from its upstream. Measured were 20 to 50 KiB with upstreams of HTTP/1.1. With those of
/// HTTP/2 it may be up to 100 KiB: reckoned so, two responses that a client pauses would be too many.
const EXCHANGE: usize = 34 << 10;
/// A piece that is handed over although there is no room: for a stream that is read it is gone at once.
const SMALL: usize = 2 << 10;
/// What such a piece may have where there is enough for all streams: as much as a frame.
const FRAME: usize = 16 << 10;

impl Watch {
    /// For a connection that begins now, and may hold so many bytes of bodies; of several streams that are not read, `most`.
    pub(super) fn new(now: Instant, room: usize, most: usize) -> Self {
        Self {
            requests: Cell::new(0),
            asked: Cell::new(false),
            tenure: Cell::new(0),
            waits_since: Cell::new(now),
            pulse: Arc::default(),
            pulse_before: Cell::new(0),
            tunnels: Cell::new(false),
            head_since: Cell::new(None),
            patience: Cell::new(Patience::Left),
            told: Cell::new(Patience::Left),
            handed_over: Cell::new(0),
            stall_limit: Cell::new(Duration::MAX),
            held: Cell::new(0),
            room,
            most,
            flows: Cell::new(false),
            taken: Cell::new(0),
            span: Cell::new((now, 0)),
            moved: Cell::new((now, 0)),
            pieces: Cell::new((0, 0)),
            unread: RefCell::default(),
            blocked: RefCell::default(),
            ledger: OnceCell::new(),
            waker: Cell::new(None),
            turn: Arc::default(),
        }
    }

    /// Watches the frames of an HTTP/2 connection, too.
    pub(super) fn frames(&self, ledger: &Rc<Ledger>) {
        let _ = self.ledger.set(Rc::clone(ledger));
    }

    pub(super) fn request_began(&self) {
        self.requests.set(self.requests.get() + 1);
        self.asked.set(true);
        self.turn.request_began();
    }

    pub(super) fn request_ended(&self, now: Instant) {
        self.requests.set(self.requests.get().saturating_sub(1));
        self.waits_since.set(now);
        self.pulse_before.set(self.pulse.get());
        self.turn.request_ended();
        self.forget_ended();
    }

    /// Has those register again that wait for room, where more than half of those known to wait may have ended.
    fn forget_ended(&self) {
        let most = 2 * self.requests.get() as usize;
        if self.blocked.borrow().len() > most {
            self.blocked.take().into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn turn(&self) -> &Arc<Turn> {
        &self.turn
    }

    /// For how long the client may leave what waits for it.
    pub(super) fn stall_limit(&self, limit: Duration) {
        self.stall_limit.set(limit);
    }

    /// A response waits for the client to take what was handed over.
    pub(super) fn handed_over(&self) {
        self.handed_over.set(self.handed_over.get() + 1);
    }

    /// The client has taken what was handed over.
    pub(super) fn taken(&self) {
        self.handed_over.set(self.handed_over.get().saturating_sub(1));
    }

    /// How large a piece may be asked for that is to be held for the client; `None`: none, and the task is woken when one may.
    pub(super) fn allowance(&self, cx: &Context<'_>) -> Option<usize> {
        let held = self.held.get();
        if held < self.room {
            return Some(usize::MAX);
        }
        if held < self.bound() {
            let share = (self.bound() - held) / self.requests.get().max(1) as usize;
            return Some(share.clamp(SMALL, FRAME));
        }
        self.wake_when_room(cx);
        None
    }

    /// Whether a piece of any size may be held for the client; if not, the task is woken when one may.
    pub(super) fn has_room(&self, cx: &Context<'_>) -> bool {
        let has_room = self.held.get() < self.room;
        if !has_room {
            self.wake_when_room(cx);
        }
        has_room
    }

    fn wake_when_room(&self, cx: &Context<'_>) {
        let mut blocked = self.blocked.borrow_mut();
        if !blocked.iter().any(|waker| waker.will_wake(cx.waker())) {
            blocked.push(cx.waker().clone());
        }
    }

    /// How much may be held as things are.
    fn bound(&self) -> usize {
        if self.flows.get() { self.most } else { self.room }
    }

    /// Notes whether an HTTP/2 connection has taken all that was written to it.
    pub(super) fn flows(&self, flows: bool) {
        self.flows.set(flows);
        // What streams hold that are not read may leave little room for the others, but while there is any, these go on: once
        // a turn of the connection.
        if flows && self.held.get() < self.most {
            self.wake_all();
        }
    }

    /// Wakes responses that wait for room, if there is enough: each of them would be looked at for every byte otherwise.
    fn wake_blocked(&self) {
        // Over HTTP/1.1 there is one response, and what its upstream is read for is to agree with what it asks for.
        let enough = if self.is_http2() { self.bound() / 4 * 3 } else { self.room - 1 };
        if self.held.get() <= enough {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        if !self.blocked.borrow().is_empty() {
            self.blocked.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Holds a piece of a response for the client.
    pub(super) fn hold(self: &Rc<Self>, bytes: Bytes, unread: Option<&Rc<Unread>>) -> Piece {
        self.held.set(self.held.get() + bytes.len());
        let (handed, newest) = self.pieces.get();
        self.pieces.set((handed + 1, newest));
        if let Some(unread) = unread {
            unread.hold(bytes.len());
        }
        Piece::held(bytes, handed + 1, self, unread)
    }

    /// Bytes of a piece have left.
    pub(super) fn left(&self, count: usize, number: u64) {
        self.taken.set(self.taken.get() + count as u64);
        let (handed, newest) = self.pieces.get();
        self.pieces.set((handed, newest.max(number)));
        self.given_up(count);
    }

    /// Bytes are held no longer.
    pub(super) fn given_up(&self, count: usize) {
        self.held.set(self.held.get().saturating_sub(count));
        self.wake_blocked();
    }

    pub(super) fn is_http2(&self) -> bool {
        self.ledger.get().is_some()
    }

    /// So long may a response be that fits into its stream's window in any case; over HTTP/1.1, any.
    pub(super) fn window(&self) -> u64 {
        self.ledger.get().map_or(u64::MAX, |ledger| ledger.least_window().into())
    }

    /// Looks after a response that may be longer, which is driven by this task and may stand still for so long.
    pub(super) fn follow(&self, task: AbortHandle, limit: Duration) -> Rc<Unread> {
        let unread = Rc::new(Unread::new(task, limit, Instant::now(), self.pieces.get().0));
        self.unread.borrow_mut().push(Rc::downgrade(&unread));
        unread
    }

    /// Ends the responses that are left unread for too long while others go on, and those that cost more than the client's
    /// share; the bound that each of them has met.
    pub(super) fn end_unread(&self, now: Instant, limits: &Limits) -> impl Iterator<Item = Limit> + use<> {
        let (mut left, mut costly) = (0, 0);
        if !self.unread.borrow().is_empty() {
            left = self.end_left(now);
            let surplus = self.surplus(self.excess(now, limits)).unwrap_or_default();
            costly = surplus.len();
            surplus.iter().for_each(|unread| unread.end());
            if left + costly > 0 {
                // What they held may leave with them.
                self.moved.set((now, self.taken.get()));
            }
        }
        repeat_n(Limit::BodyIdleTimeout, left).chain(repeat_n(Limit::SendBuffer, costly))
    }

    fn end_left(&self, now: Instant) -> usize {
        let (pieces, stands) = (self.pieces.get(), now.saturating_duration_since(self.moved.get().0));
        let mut ended = 0;
        self.unread.borrow_mut().retain(|unread| {
            let Some(unread) = unread.upgrade() else { return false };
            let is_left = unread.is_left(now, pieces, stands);
            if is_left {
                unread.end();
                ended += 1;
            }
            !is_left
        });
        ended
    }

    /// By how much what waits for the client costs more than its share; 0 as long as it may, or takes anything. A slow
    /// network takes something within the grace.
    fn excess(&self, now: Instant, limits: &Limits) -> usize {
        let waiting = self.handed_over.get() as usize;
        let stands = now.saturating_duration_since(self.moved.get().0);
        // A single response is never too much: how little one may hold, the file says.
        if waiting < 2 || stands < limits.send_buffer_grace {
            return 0;
        }
        waiting.saturating_mul(EXCHANGE).saturating_add(self.held.get()).saturating_sub(limits.send_buffer)
    }

    /// The responses that have waited longest, so many that the rest costs that much less; `None` where there are not so
    /// many that can be ended alone.
    fn surplus(&self, excess: usize) -> Option<Vec<Rc<Unread>>> {
        let (mut excess, mut surplus) = (excess, Vec::new());
        if excess == 0 {
            return Some(surplus);
        }
        let mut waiting: Vec<_> = self.unread.borrow().iter().filter_map(Weak::upgrade).collect();
        waiting.retain(|unread| unread.waits());
        waiting.sort_by_key(|unread| unread.since());
        for unread in waiting {
            if excess == 0 || surplus.len() + 1 >= self.handed_over.get() as usize {
                return Some(surplus);
            }
            excess = excess.saturating_sub(EXCHANGE + unread.held());
            surplus.push(unread);
        }
        (excess == 0).then_some(surplus)
    }

    /// Whether something is held that does not belong to a response that can be ended alone.
    fn holds_others(&self) -> bool {
        let alone: usize = self.unread.borrow().iter().filter_map(Weak::upgrade).map(|one| one.held()).sum();
        self.held.get() > alone
    }

    /// Notes that the connection has become a tunnel: its ends are the tunnel's business.
    pub(super) fn tunnels(&self) {
        self.tunnels.set(true);
    }

    /// Whether nothing of any body waits for the client.
    pub(super) fn holds_nothing(&self) -> bool {
        self.held.get() == 0
    }

    /// Whether the connection has made a request.
    pub(super) fn has_asked(&self) -> bool {
        self.asked.get()
    }

    /// Whether a request is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.requests.get() > 0
    }

    /// How many requests are under way.
    pub(super) fn requests(&self) -> u32 {
        self.requests.get()
    }

    pub(super) fn tenure(&self) -> u32 {
        self.tenure.get()
    }

    pub(super) fn served_in(&self, tenure: u32) {
        self.tenure.set(tenure);
    }

    /// Whether no request is under way, and none has ended for so long.
    pub(super) fn waits_for(&self, long: Duration) -> bool {
        self.requests.get() == 0 && self.waits_since.get().elapsed() >= long
    }

    /// How many bytes have come since the last request ended.
    pub(super) fn bytes_of_head(&self) -> u64 {
        self.pulse.get().wrapping_sub(self.pulse_before.get())
    }

    /// How much longer the connection may wait.
    pub(super) fn patience(&self) -> Patience {
        self.patience.get()
    }

    pub(super) fn wake_by(&self, waker: &Waker) {
        self.waker.set(Some(waker.clone()));
    }

    /// Looks whether anybody has waited for too long. The bound that was met is returned once.
    pub(super) fn look(&self, now: Instant, limits: &Limits) -> Option<Limit> {
        if let Some(ledger) = self.ledger.get() {
            ledger.pass_time(now);
        }
        if self.is_deaf() {
            self.pulse.asked.store(true, Ordering::Relaxed);
            self.wake();
        }
        let (judged, limit) = self.judge(now, limits);
        let (before, patience) = (self.patience.get(), judged.max(self.told.get()));
        self.patience.set(patience);
        if before >= patience {
            return None;
        }
        self.wake();
        limit.filter(|_| before == Patience::Left)
    }

    /// Has the connection end, now or as soon as it can.
    pub(super) fn ends(&self, patience: Patience) {
        self.told.set(patience);
        self.patience.set(patience);
        self.wake();
    }

    /// Whether a request is under way over HTTP/1.1, and its codec does not read because it has something already, such as
    /// the next request, or more of a body than the upstream takes: it would not hear of the client's end. It may be that it
    /// reads again at any moment; but what the client had sent before it left might keep it busy for long.
    fn is_deaf(&self) -> bool {
        self.is_busy() && !self.is_http2() && !self.tunnels.get() && self.pulse.is_deaf()
    }

    fn wake(&self) {
        let waker = self.waker.take();
        if let Some(waker) = &waker {
            waker.wake_by_ref();
        }
        self.waker.set(waker);
    }

    fn judge(&self, now: Instant, limits: &Limits) -> (Patience, Option<Limit>) {
        let taken = self.taken.get();
        if taken != self.moved.get().1 || (self.held.get() == 0 && self.handed_over.get() == 0) {
            self.moved.set((now, taken));
        }
        if self.has_begun_head() {
            let since = self.head_since.get().unwrap_or(now);
            self.head_since.set(Some(since));
            if now.saturating_duration_since(since) >= limits.header_timeout {
                return (Patience::Slow, Some(Limit::HeaderTimeout));
            }
        } else {
            self.head_since.set(None);
        }
        if self.requests.get() > 0 {
            return match self.slowness(now, limits) {
                Some(limit) => (Patience::Lost, Some(limit)),
                None => (Patience::Left, None),
            };
        }
        let waited = now.saturating_duration_since(self.waits_since.get());
        let patience = match self.head_since.get() {
            None if waited >= limits.keep_alive_timeout.saturating_mul(2) => Patience::Lost,
            None if waited >= limits.keep_alive_timeout => Patience::Over,
            _ => Patience::Left,
        };
        (patience, Some(Limit::KeepAliveTimeout))
    }

    /// Whether a part of a request's head has come, and the rest has not.
    fn has_begun_head(&self) -> bool {
        match self.ledger.get() {
            Some(ledger) => ledger.is_within_head(),
            None => self.requests.get() == 0 && self.bytes_of_head() > 0,
        }
    }

    /// Which bound on reading the connection's client has met, if any.
    fn slowness(&self, now: Instant, limits: &Limits) -> Option<Limit> {
        let (waiting, taken) = (self.handed_over.get(), self.taken.get());
        let waits_for_client = waiting > 0 && waiting == self.requests.get();
        let stands = now.saturating_duration_since(self.moved.get().0);
        if stands >= limits.body_idle_timeout.min(self.stall_limit.get())
            && (waits_for_client || self.holds_others())
        {
            return Some(Limit::BodyIdleTimeout);
        }
        let excess = self.excess(now, limits);
        if excess > 0 && self.surplus(excess).is_none() {
            return Some(Limit::SendBuffer);
        }
        // The rate is the connection's: which stream has how much of it, the codec decides, and it is only fair where all of
        // them are counted together.
        if !waits_for_client {
            self.span.set((now, taken));
            return None;
        }
        // What it takes buys it time: so a lump that the kernel took at once counts for as long as it lasts.
        let rate = u64::from(limits.min_rate);
        let (since, before) = self.span.get();
        let bought = (taken - before + LUMP).saturating_mul(1000).checked_div(rate)?;
        let patience = limits.min_rate_grace.saturating_add(Duration::from_millis(bought));
        (now.saturating_duration_since(since) >= patience).then_some(Limit::MinRate)
    }
}

#[cfg(test)]
mod tests;
