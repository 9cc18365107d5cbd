//! A shard: one thread with a runtime of its own, its own accept sockets and its own upstream connections. Shards share
//! nothing that changes; the control thread talks to them by messages.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Services;
use super::connection::{self, ListenerSlot};
use super::retire::{self, Tenures};
use super::snapshot::{Blueprint, Snapshot};
use super::socket::Listening;
use super::stream::Socket;
use super::upstream::{Endpoint, EndpointKey};
use crate::export::access::Sink;

/// What the control thread tells a shard.
pub(super) enum Command {
    /// Serve this from now on.
    Commit { blueprint: Arc<Blueprint>, sockets: Vec<Accept>, done: oneshot::Sender<()> },
    /// Stop accepting, end connections as soon as they have answered, and say when all have.
    Drain { done: oneshot::Sender<()> },
}

/// Where a listener of a blueprint accepts.
pub(super) struct Accept {
    /// Tells the same listener apart over generations.
    pub(super) id: u64,
    /// Its place in the blueprint.
    pub(super) index: usize,
    /// A socket where the listener is new to the shard.
    pub(super) socket: Option<Listening>,
}

/// What a shard has under way: written by it alone, read by the control thread.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    pub(super) connections: AtomicU64,
    pub(super) requests: AtomicU64,
}

/// A shard's state, as everything on its thread sees it.
pub(super) struct Shard {
    index: usize,
    services: Services,
    sink: Sink,
    random: RefCell<fastrand::Rng>,
    snapshot: RefCell<Rc<Snapshot>>,
    /// Every endpoint in use, so that a reload keeps the connections of those that it does not change.
    endpoints: RefCell<HashMap<EndpointKey, Weak<Endpoint>>>,
    accepting: RefCell<HashMap<u64, Accepting>>,
    gauge: Arc<Gauge>,
    drain: Drain,
    warned: Cell<Option<Instant>>,
    /// Connections that are looked through for those on which nothing happens.
    watched: RefCell<Slab<Rc<Watch>>>,
    tenures: Tenures,
}

/// How much longer a connection may wait for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Patience {
    /// It may go on.
    Left,
    /// It should end as soon as what was written to it is on its way.
    Over,
    /// It ends now, whatever its client has not read.
    Lost,
}

/// What tells whether a client connection waits for a request, and since when.
pub(super) struct Watch {
    requests: Cell<u32>,
    /// Whether there was any request yet.
    asked: Cell<bool>,
    /// Over HTTP/1.1, the tenure of the version that serves the request, or served the last one.
    tenure: Cell<u32>,
    /// When the connection began to wait for the next request's head.
    waits_since: Cell<Instant>,
    patience: Cell<Patience>,
    /// How often the connection was looked at: a clock that costs nothing to read.
    looks: Cell<u32>,
    /// The look before which a piece of a response was last handed over.
    moved: Cell<u32>,
    /// Responses of which a piece was handed over that the client has not taken yet.
    handed_over: Cell<u32>,
    /// How many looks they may stand still for.
    stall_limit: Cell<u32>,
    /// Wakes the connection's task then.
    waker: Cell<Option<Waker>>,
}

impl Watch {
    pub(super) fn request_began(&self) {
        self.requests.set(self.requests.get() + 1);
        self.asked.set(true);
    }

    pub(super) fn request_ended(&self, now: Instant) {
        self.requests.set(self.requests.get().saturating_sub(1));
        self.waits_since.set(now);
    }

    /// For how long the client may leave what waits for it, rounded up to whole looks.
    pub(super) fn stall_limit(&self, limit: Duration) {
        let looks = limit.as_secs().div_ceil(HOUSEKEEPING.as_secs()).saturating_add(1);
        self.stall_limit.set(u32::try_from(looks).unwrap_or(u32::MAX));
    }

    /// A piece of a response was handed over for the client; until the next one is asked for it is the client's turn.
    pub(super) fn handed_over(&self) {
        self.handed_over.set(self.handed_over.get() + 1);
        self.moved();
    }

    /// A piece of a response moved.
    pub(super) fn moved(&self) {
        self.moved.set(self.looks.get());
    }

    /// The client has taken what was handed over.
    pub(super) fn taken(&self) {
        self.handed_over.set(self.handed_over.get().saturating_sub(1));
    }

    /// Whether the client takes nothing of anything that waits for it.
    fn is_stalled(&self) -> bool {
        let still = self.looks.get().wrapping_sub(self.moved.get());
        let waiting = self.handed_over.get();
        waiting > 0 && waiting == self.requests.get() && still > self.stall_limit.get()
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

    /// Whether no request is under way, and none has ended for so long.
    pub(super) fn waits_for(&self, long: Duration) -> bool {
        self.requests.get() == 0 && self.waits_since.get().elapsed() >= long
    }

    /// How much longer the connection may wait.
    pub(super) fn patience(&self) -> Patience {
        self.patience.get()
    }

    pub(super) fn wake_by(&self, waker: &Waker) {
        self.waker.set(Some(waker.clone()));
    }

    fn look(&self, now: Instant) {
        let waited = now.saturating_duration_since(self.waits_since.get());
        self.looks.set(self.looks.get().wrapping_add(1));
        let patience = match self.requests.get() {
            _ if self.is_stalled() => Patience::Lost,
            0 if waited >= HEAD * 2 => Patience::Lost,
            0 if waited >= HEAD => Patience::Over,
            _ => Patience::Left,
        };
        if self.patience.get() < patience {
            self.ends(patience);
        }
        self.patience.set(patience);
    }

    /// Has the connection end, now or as soon as it can.
    pub(super) fn ends(&self, patience: Patience) {
        self.patience.set(patience);
        let waker = self.waker.take();
        if let Some(waker) = &waker {
            waker.wake_by_ref();
        }
        self.waker.set(waker);
    }

    pub(super) fn tenure(&self) -> u32 {
        self.tenure.get()
    }

    pub(super) fn served_in(&self, tenure: u32) {
        self.tenure.set(tenure);
    }
}

/// A connection's place among those that are watched.
pub(super) struct Watched {
    shard: Rc<Shard>,
    place: usize,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shard.watched.borrow_mut().remove(self.place);
    }
}

#[derive(Default)]
struct Drain {
    begun: Cell<bool>,
    begin: Notify,
    /// Told whenever a connection or request ends.
    ended: Notify,
}

/// An accept loop. Dropping `stop` ends it.
struct Accepting {
    slot: Rc<ListenerSlot>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// How often idle upstream connections are looked through.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// How long a client connection may take from its beginning, or from the end of its last response, to the end of the next
/// request's head. Connections are looked at now and then: it may be a housekeeping interval longer.
pub(super) const HEAD: Duration = Duration::from_secs(60);
/// How long log lines may wait for more.
const LOG_DELAY: Duration = Duration::from_millis(100);
/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Runs a shard until its control thread is gone. The first command is a commit: before it there is nothing to serve.
pub(super) async fn run(
    index: usize,
    services: Services,
    gauge: Arc<Gauge>,
    mut inbox: mpsc::UnboundedReceiver<Command>,
) {
    let mut shard: Option<Rc<Shard>> = None;
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Commit { blueprint, sockets, done } => {
                let shard = shard.get_or_insert_with(|| Shard::new(index, &services, &gauge, &blueprint));
                shard.commit(&blueprint, sockets).await;
                let _ = done.send(());
            }
            Command::Drain { done } => {
                if let Some(shard) = &shard {
                    tokio::task::spawn_local(drain(Rc::clone(shard), done));
                }
            }
        }
    }
}

async fn drain(shard: Rc<Shard>, done: oneshot::Sender<()>) {
    shard.drain.begun.set(true);
    shard.drain.begin.notify_waiters();
    let all: Vec<_> = shard.accepting.borrow_mut().drain().map(|(_, accepting)| accepting).collect();
    for accepting in all {
        accepting.end().await;
    }
    while shard.is_busy() {
        shard.drain.ended.notified().await;
    }
    shard.sink.flush();
    let _ = done.send(());
}

impl Shard {
    fn new(index: usize, services: &Services, gauge: &Arc<Gauge>, blueprint: &Arc<Blueprint>) -> Rc<Self> {
        let shard = Rc::new(Self {
            index,
            services: services.clone(),
            sink: services.log.sink(),
            random: RefCell::new(fastrand::Rng::new()),
            snapshot: RefCell::new(Rc::new(Snapshot::empty(blueprint, index, services))),
            endpoints: RefCell::default(),
            accepting: RefCell::default(),
            gauge: Arc::clone(gauge),
            drain: Drain::default(),
            warned: Cell::new(None),
            watched: RefCell::default(),
            tenures: Tenures::default(),
        });
        tokio::task::spawn_local(keep_house(Rc::downgrade(&shard)));
        shard
    }

    /// Swaps to a blueprint. Requests that are under way keep the snapshot that they began with.
    async fn commit(self: &Rc<Self>, blueprint: &Arc<Blueprint>, sockets: Vec<Accept>) {
        let snapshot = Rc::new(Snapshot::build(blueprint, self));
        // What goes with the old one, connections among it, goes when nothing is borrowed.
        drop(self.snapshot.replace(snapshot));
        retire::committed(self, blueprint.config.limits.retired_grace);
        let mut before = std::mem::take(&mut *self.accepting.borrow_mut());
        let mut now = HashMap::new();
        for Accept { id, index, socket } in sockets {
            if let Some(accepting) = before.remove(&id) {
                accepting.slot.replace(blueprint, index);
                now.insert(id, accepting);
            } else if let Some(socket) = socket {
                now.extend(self.accept(blueprint, index, socket).map(|accepting| (id, accepting)));
            }
        }
        *self.accepting.borrow_mut() = now;
        for accepting in before.into_values() {
            accepting.end().await;
        }
        self.endpoints.borrow_mut().retain(|_, endpoint| endpoint.strong_count() > 0);
    }

    pub(super) fn tenures(&self) -> &Tenures {
        &self.tenures
    }

    pub(super) fn for_each_watch(&self, look: impl Fn(&Watch)) {
        self.watched.borrow().iter().for_each(|(_, watch)| look(watch));
    }

    fn accept(
        self: &Rc<Self>,
        blueprint: &Arc<Blueprint>,
        index: usize,
        socket: Listening,
    ) -> Option<Accepting> {
        let slot = ListenerSlot::new(blueprint, index);
        let listener = match Listener::new(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "a bound socket cannot be listened on");
                return None;
            }
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::task::spawn_local(accept(Rc::clone(self), Rc::clone(&slot), listener, stopped));
        Some(Accepting { slot, stop, task })
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn services(&self) -> &Services {
        &self.services
    }

    pub(super) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// The snapshot that a request which begins now is served by.
    pub(super) fn snapshot(&self) -> Rc<Snapshot> {
        Rc::clone(&self.snapshot.borrow())
    }

    /// A random number.
    pub(super) fn draw(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// The endpoint of a key: the one that there is, or a new one.
    pub(super) fn endpoint(
        &self,
        key: EndpointKey,
        make: impl FnOnce(EndpointKey) -> Endpoint,
    ) -> Rc<Endpoint> {
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(endpoint) = endpoints.get(&key).and_then(Weak::upgrade) {
            return endpoint;
        }
        let endpoint = Rc::new(make(key.clone()));
        endpoints.insert(key, Rc::downgrade(&endpoint));
        endpoint
    }

    /// Counts a connection for as long as the guard lives.
    pub(super) fn connection_opened(self: &Rc<Self>) -> ConnectionGuard {
        add(&self.gauge.connections, 1);
        ConnectionGuard(Rc::clone(self))
    }

    /// Watches a connection for as long as the guard lives.
    pub(super) fn watch(self: &Rc<Self>) -> (Rc<Watch>, Watched) {
        let watch = Rc::new(Watch {
            requests: Cell::new(0),
            asked: Cell::new(false),
            tenure: Cell::new(0),
            waits_since: Cell::new(Instant::now()),
            patience: Cell::new(Patience::Left),
            looks: Cell::new(0),
            moved: Cell::new(0),
            handed_over: Cell::new(0),
            stall_limit: Cell::new(u32::MAX),
            waker: Cell::new(None),
        });
        let place = self.watched.borrow_mut().insert(Rc::clone(&watch));
        (watch, Watched { shard: Rc::clone(self), place })
    }

    pub(super) fn request_began(&self) {
        add(&self.gauge.requests, 1);
    }

    pub(super) fn request_ended(&self) {
        subtract(&self.gauge.requests);
        self.ended();
    }

    fn ended(&self) {
        if self.drain.begun.get() {
            self.drain.ended.notify_one();
        }
    }

    fn is_busy(&self) -> bool {
        let gauge = &self.gauge;
        gauge.connections.load(Ordering::Relaxed) > 0 || gauge.requests.load(Ordering::Relaxed) > 0
    }

    /// Whether connections should end as soon as they can.
    pub(super) fn is_draining(&self) -> bool {
        self.drain.begun.get()
    }

    /// Resolves when connections should end as soon as they can.
    pub(super) async fn draining(&self) {
        let begins = self.drain_begins();
        if !self.is_draining() {
            begins.await;
        }
    }

    /// Resolves when draining begins after this call.
    pub(super) fn drain_begins(&self) -> Notified<'_> {
        self.drain.begin.notified()
    }

    /// Hands log lines over in a while, unless more come first.
    pub(super) fn flush_soon(self: &Rc<Self>) {
        let shard = Rc::clone(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(LOG_DELAY).await;
            shard.sink.flush();
        });
    }

    /// Whether a warning about upstreams may be written: at most one a second.
    pub(super) fn may_warn(&self) -> bool {
        let now = Instant::now();
        let due = self.warned.get().is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1));
        if due {
            self.warned.set(Some(now));
        }
        due
    }
}

/// The only writer of these numbers is the shard itself, so that no locked instruction is needed.
fn add(number: &AtomicU64, count: u64) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

fn subtract(number: &AtomicU64) {
    number.store(number.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
}

/// A connection that is counted.
pub(super) struct ConnectionGuard(Rc<Shard>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        subtract(&self.0.gauge.connections);
        self.0.ended();
    }
}

async fn keep_house(shard: Weak<Shard>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        let Some(shard) = shard.upgrade() else { return };
        let endpoints: Vec<_> = shard.endpoints.borrow().values().filter_map(Weak::upgrade).collect();
        for endpoint in endpoints {
            endpoint.close_idle();
        }
        let now = Instant::now();
        shard.watched.borrow().iter().for_each(|(_, watch)| watch.look(now));
    }
}

impl Accepting {
    /// Stops accepting; returns when nothing is queued and the socket is closed.
    async fn end(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

/// A listening socket within the shard's runtime.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

type Accepted = io::Result<(Socket, Option<std::net::SocketAddr>)>;

impl Listener {
    fn new(socket: Listening) -> io::Result<Self> {
        Ok(match socket {
            Listening::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    async fn accept(&self) -> Accepted {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(socket, peer)| tcp(socket, peer)),
            Self::Unix(listener) => listener.accept().await.map(|(socket, _)| (Socket::Unix(socket), None)),
        }
    }

    /// Everything that the kernel has queued, asked of the kernel itself: the runtime may not know of it yet.
    fn rest(self) -> Vec<(Socket, Option<std::net::SocketAddr>)> {
        let accept: Box<dyn Fn() -> Accepted> = match self {
            Self::Tcp(listener) => match listener.into_std() {
                Ok(listener) => Box::new(move || {
                    let (socket, peer) = listener.accept()?;
                    socket.set_nonblocking(true)?;
                    Ok(tcp(tokio::net::TcpStream::from_std(socket)?, peer))
                }),
                Err(_) => return Vec::new(),
            },
            Self::Unix(listener) => match listener.into_std() {
                Ok(listener) => Box::new(move || {
                    let (socket, _) = listener.accept()?;
                    socket.set_nonblocking(true)?;
                    Ok((Socket::Unix(tokio::net::UnixStream::from_std(socket)?), None))
                }),
                Err(_) => return Vec::new(),
            },
        };
        let mut rest = Vec::new();
        loop {
            match accept() {
                Ok(connection) => rest.push(connection),
                // A client that has left by now, or a signal: what is behind it still waits.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return rest,
            }
        }
    }
}

fn tcp(socket: tokio::net::TcpStream, peer: std::net::SocketAddr) -> (Socket, Option<std::net::SocketAddr>) {
    // Small answers must not wait for acknowledgements of earlier ones. Where it fails the connection is broken anyway.
    let _ = socket.set_nodelay(true);
    (Socket::Tcp(socket), Some(peer))
}

async fn accept(
    shard: Rc<Shard>,
    slot: Rc<ListenerSlot>,
    listener: Listener,
    mut stopped: oneshot::Receiver<()>,
) {
    let spawn = |(socket, peer)| {
        tokio::task::spawn_local(connection::serve(Rc::clone(&shard), Rc::clone(&slot), socket, peer));
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(connection) => spawn(connection),
                Err(error) => {
                    if shard.may_warn() {
                        tracing::warn!(%error, "a connection cannot be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = &mut stopped => break,
        }
    }
    listener.rest().into_iter().for_each(spawn);
}
