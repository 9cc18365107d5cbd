//! HTTP/1.1 connections to upstreams: one request at a time each, and kept between two requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::failure::{Failure, Kind};
use super::objects::{self, Hold};
use super::panics::EndsWithTask;
use super::standing::Standing;
use super::stream::{LARGE_PIECE, Stream};
use super::tap::{Tap, Tapped, Unanswered};
use super::upload::RequestBody;
use super::watch::Watch;

/// What drives a connection, shared by its task and its users; empty when the connection has ended, or is asleep.
pub(super) type Codec<C> = Rc<RefCell<Option<C>>>;
type Http1 = http1::Connection<TokioIo<Tapped>, RequestBody>;

/// An HTTP/1.1 connection and the codec that drives it, which its task and the pool share.
pub(super) struct Single {
    pub(super) sender: http1::SendRequest<RequestBody>,
    codec: Codec<Http1>,
    /// What it is read from and written to; `None` where it was made to become a tunnel, and is not kept.
    tap: Option<Rc<Tap>>,
    /// The task that drives it.
    task: AbortHandle,
    /// Of the request that is under way, where it is for an object: until the upstream can have nothing more to do for it.
    pub(super) hold: Option<Rc<Hold>>,
}

impl Single {
    pub(super) async fn speak(stream: Stream, label: &Rc<str>) -> Result<Self, Failure> {
        let tap = Tap::new(stream);
        let (sender, connection) = handshake(Tapped(Rc::clone(&tap))).await?;
        let codec: Codec<Http1> = Rc::new(RefCell::new(Some(connection)));
        let driven = drive(until_the_end(Rc::clone(&codec)), Rc::clone(label));
        let task = tokio::task::spawn_local(driven).abort_handle();
        Ok(Self { sender, codec, tap: Some(tap), task, hold: None })
    }

    /// A connection that may become a tunnel: its codec hands the stream over then, and so cannot be shared.
    pub(super) async fn speak_upgradable(mut stream: Stream, label: &Rc<str>) -> Result<Self, Failure> {
        stream.insist();
        let (sender, connection) = handshake(stream).await?;
        let connection = connection.with_upgrades();
        let task = tokio::task::spawn_local(drive(connection, Rc::clone(label))).abort_handle();
        Ok(Self { sender, codec: Rc::default(), tap: None, task, hold: None })
    }

    /// Sends a request; the future waits for the response's head.
    pub(super) fn send(&mut self, request: Request<RequestBody>) -> impl Future<Output = Sent> + use<> {
        if let Some(tap) = &self.tap {
            tap.begin(request.body().is_end_stream());
        }
        self.sender.try_send_request(request)
    }

    /// The response is large and for this client.
    pub(super) fn read_for(&self, client: &Rc<Watch>) {
        if let Some(tap) = &self.tap {
            tap.read_for(client);
        }
    }

    /// The request that was sent last, where it can be sent again as it was: it is known to the byte, and nothing of an
    /// answer has come.
    pub(super) fn unanswered(&self) -> Option<Unanswered> {
        self.tap.as_ref().and_then(|tap| tap.unanswered())
    }

    /// Whether nothing has ended it, at this very moment.
    fn is_quiet(&self) -> bool {
        self.tap.as_ref().is_some_and(|tap| tap.is_quiet())
    }
}

impl Drop for Single {
    /// A connection that is dropped with its request under way ends now. Its codec would first send what it has, and an
    /// upstream that takes no more of an upload would keep it for ever. What may become a tunnel belongs to its task.
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            objects::end_connection(hold, self.tap.clone(), self.task.clone());
        } else if self.tap.is_some() && !self.sender.is_ready() {
            self.task.abort();
        }
    }
}

/// What comes of a request that was sent.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

type Shaken<T> = (http1::SendRequest<RequestBody>, http1::Connection<TokioIo<T>, RequestBody>);

async fn handshake<T>(stream: T) -> Result<Shaken<T>, Failure>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // Requests are mostly heads: one buffer costs less than a list of slices.
    let mut builder = http1::Builder::new();
    let shaken = builder.writev(false).max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await;
    shaken.map_err(|error| Failure::because(Kind::ConnectFailed, error))
}

/// One endpoint's connections without a request.
pub(super) struct Pool {
    standing: Arc<Standing>,
    /// The longest idle first.
    idle: RefCell<VecDeque<Idle>>,
    /// Counts ticks: a clock that costs nothing to read.
    tick: Cell<u32>,
    /// Whether a task counts ticks, because connections are idle and awake.
    ticking: Cell<bool>,
    /// For how many more requests each kept connection is looked at before it is used: the upstream has closed one under
    /// a request.
    wary: Cell<u32>,
    /// Requests of this shard that wait for a connection, whether kept or new.
    pub(super) waiting: Cell<usize>,
    /// Wakes one of them when a connection was given back.
    pub(super) given_back: Notify,
}

/// An HTTP/1.1 connection without a request.
struct Idle {
    state: IdleState,
    /// The pool's tick at which it became idle.
    since: u32,
    /// How often it was looked at since.
    looks: u32,
}

pub(super) enum IdleState {
    /// Ready for the next request.
    Awake(Single),
    /// Idle for longer: the codec with its buffers, twenty kilobytes, is gone, and only the stream is left.
    Asleep(Stream),
}

impl Idle {
    fn is_closed(&mut self) -> bool {
        match &mut self.state {
            IdleState::Awake(single) => single.sender.is_closed(),
            IdleState::Asleep(stream) => !stream.is_quiet(),
        }
    }

    /// Gives the buffers up, where nothing is in them. A connection that is not ready, or has bytes that nobody asked for,
    /// stays as it is: it is looked at again when it is to be used.
    fn fall_asleep(&mut self) {
        let IdleState::Awake(single) = &mut self.state else { return };
        if !single.sender.is_ready() {
            return;
        }
        let codec = single.codec.try_borrow_mut().ok().and_then(|mut codec| codec.take());
        let Some(parts) = codec.map(http1::Connection::into_parts) else { return };
        single.task.abort();
        // With the codec gone the sender is closed; so bytes that nobody asked for end the connection.
        let stream = single.tap.as_ref().and_then(|tap| tap.take_stream());
        if let Some(stream) = stream.filter(|_| parts.read_buf.is_empty()) {
            self.state = IdleState::Asleep(stream);
        }
    }
}

/// The most that the codec's buffer grows to: a piece of a large body, which is also the most that a response's head may
/// have.
const BUFFER: usize = LARGE_PIECE;
/// The most idle connections kept to one endpoint, per shard.
const MAX_IDLE: usize = 1024;
/// The length of a tick, while there are idle connections that are awake. One that stays idle for a whole tick falls
/// asleep.
const TICK: Duration = Duration::from_millis(100);
/// For how many looks (one each housekeeping interval) an idle connection is kept: a minute.
const IDLE_KEPT: u32 = 12;
/// For how many requests a pool is wary.
const WARY: u32 = 1000;

impl Pool {
    pub(super) fn new(standing: Arc<Standing>) -> Self {
        Self {
            standing,
            idle: RefCell::default(),
            tick: Cell::new(0),
            ticking: Cell::new(false),
            wary: Cell::new(0),
            waiting: Cell::new(0),
            given_back: Notify::new(),
        }
    }

    /// Whether nothing is awake, for tests.
    #[cfg(test)]
    pub(super) fn sleeps(&self) -> bool {
        !self.ticking.get()
    }

    /// The upstream has closed a kept connection under a request.
    pub(super) fn be_wary(&self) {
        self.wary.set(WARY);
    }

    /// The connection that was used last, of those that can be used. `careful`: the request can be sent only once, so that
    /// it is worth a system call to see whether the upstream has closed the connection.
    pub(super) fn take(&self, careful: bool) -> Option<IdleState> {
        let wary = self.wary.get();
        if wary > 0 {
            self.wary.set(wary - 1);
        }
        let careful = careful || wary > 0;
        let mut idle = self.idle.borrow_mut();
        while let Some(mut connection) = idle.pop_back() {
            let usable = match &mut connection.state {
                // One that is neither ready nor closed still sends the last request's body: it is given up.
                IdleState::Awake(single) => single.sender.is_ready() && (!careful || single.is_quiet()),
                IdleState::Asleep(stream) => stream.is_quiet(),
            };
            if usable {
                return Some(connection.state);
            }
        }
        None
    }

    /// Keeps a connection for another request.
    pub(super) fn keep(self: &Rc<Self>, single: Single) {
        if let Some(tap) = &single.tap {
            tap.rest();
        }
        let mut idle = self.idle.borrow_mut();
        if single.tap.is_none()
            || single.sender.is_closed()
            || idle.len() >= MAX_IDLE
            || self.wanted_elsewhere() > 0
        {
            return;
        }
        idle.push_back(Idle { state: IdleState::Awake(single), since: self.tick.get(), looks: 0 });
        if !self.ticking.replace(true) {
            tokio::task::spawn_local(tick(Rc::downgrade(self)));
        }
    }

    /// Requests of other shards that wait for connections: what is idle here would keep them waiting.
    pub(super) fn wanted_elsewhere(&self) -> usize {
        self.standing.caps.pending().saturating_sub(self.waiting.get())
    }

    /// How many connections are idle.
    pub(super) fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Closes so many idle connections at the most, the longest idle first; how many.
    pub(super) fn give_up(&self, most: usize) -> usize {
        let mut idle = self.idle.borrow_mut();
        let count = most.min(idle.len());
        // Without its codec a connection closes at once.
        idle.drain(..count).for_each(|mut connection| connection.fall_asleep());
        count
    }

    /// Counts a tick and lets connections fall asleep; whether it is to be called again, because others are still awake.
    fn tick(&self) -> bool {
        let now = self.tick.get().wrapping_add(1);
        self.tick.set(now);
        let mut awake = false;
        // The longest idle come first: behind one that is too young there are only younger ones.
        for connection in self.idle.borrow_mut().iter_mut() {
            if now.wrapping_sub(connection.since) < 2 {
                awake = true;
                break;
            }
            connection.fall_asleep();
        }
        self.ticking.set(awake);
        awake
    }

    /// Closes connections that nobody has used for long, or that the upstream has closed.
    pub(super) fn close_idle(&self) {
        self.idle.borrow_mut().retain_mut(|connection| {
            connection.looks += 1;
            connection.looks <= IDLE_KEPT && !connection.is_closed()
        });
    }
}

async fn tick(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(TICK).await;
        if !pool.upgrade().is_some_and(|pool| pool.tick()) {
            return;
        }
    }
}

/// Drives a connection; when it has ended, nobody can send on it any more.
pub(super) async fn until_the_end<C>(codec: Codec<C>) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>> + Unpin,
{
    let codec = EndsWithTask(codec);
    poll_fn(|context| {
        let mut driven = codec.0.borrow_mut();
        let ended = match driven.as_mut() {
            Some(connection) => ready!(Pin::new(connection).poll(context)),
            None => Ok(()),
        };
        // Whoever waits on it is told when it is dropped; not while it is borrowed.
        let over = driven.take();
        drop(driven);
        drop(over);
        Poll::Ready(ended)
    })
    .await
}

/// Lets a connection go on until its end.
pub(super) async fn drive(connection: impl Future<Output = hyper::Result<()>>, label: Rc<str>) {
    if let Err(error) = connection.await {
        // Whoever has a request on the connection is told; an idle one that ends is nobody's problem.
        tracing::debug!(
            upstream = &*label,
            error = &error as &dyn std::error::Error,
            "an upstream connection ended"
        );
    }
}
