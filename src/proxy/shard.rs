//! A shard: one thread with a runtime of its own, its own accept sockets and its own upstream connections. Shards share
//! nothing that changes; the control thread talks to them by messages.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc, oneshot};

use super::accept::Accepting;
use super::census::Census;
use super::objects::{self, Holders};
use super::retire::{self, Tenures};
use super::snapshot::{Blueprint, Snapshot};
use super::socket::Listening;
use super::standing::Standings;
use super::upstream::{Endpoint, EndpointKey};
use super::watch::Watch;
use super::{Common, Services};
use crate::config::Limits;
use crate::export::access::Sink;
use crate::metrics::Limit;
use crate::rules::Scratch;

/// What the control thread tells a shard.
pub(super) enum Command {
    /// Serve this from now on.
    Commit { blueprint: Arc<Blueprint>, sockets: Vec<Accept>, done: oneshot::Sender<()> },
    /// Stop accepting, end connections as soon as they have answered, and say when all have.
    Drain { replaced: bool, done: oneshot::Sender<()> },
}

/// Where a listener of a blueprint accepts.
pub(super) struct Accept {
    /// Tells the same listener apart over generations.
    pub(super) id: u64,
    /// Its place in the blueprint.
    pub(super) index: usize,
    /// Sockets where the listener is new to the shard.
    pub(super) sockets: Vec<Listening>,
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
    standings: Arc<Standings>,
    census: Arc<Census>,
    sink: Sink,
    random: RefCell<fastrand::Rng>,
    /// What rules are evaluated in.
    scratch: RefCell<Scratch>,
    snapshot: RefCell<Rc<Snapshot>>,
    /// Every endpoint in use, so that a reload keeps the connections of those that it does not change.
    endpoints: RefCell<HashMap<EndpointKey, Weak<Endpoint>>>,
    accepting: RefCell<HashMap<u64, Accepting>>,
    gauge: Arc<Gauge>,
    drain: Drain,
    warned: Cell<Option<Instant>>,
    warned_of_connections: Cell<Option<Instant>>,
    /// Connections that are looked through for those on which nothing happens.
    watched: RefCell<Slab<Rc<Watch>>>,
    /// Told when there is a connection to watch, after there was none.
    connected: Rc<Notify>,
    tenures: Tenures,
    /// Requests that hold objects.
    holders: Holders,
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
    /// Whether another process accepts in this one's place.
    replaced: Cell<bool>,
    begin: Notify,
    /// Told whenever a connection or request ends.
    ended: Notify,
}

/// How often idle upstream connections are looked through.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// How often client connections are looked through at the most, and at the least: often enough for the shortest deadline,
/// which comes late by a quarter of itself or a second; and for a client that leaves where only a look finds that out, which
/// its upstream is to hear of within a second.
const LOOK: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(900);
/// The same at the least while requests are under way.
const LOOK_AT_REQUESTS: Duration = Duration::from_millis(400);
/// How long log lines may wait for more.
const LOG_DELAY: Duration = Duration::from_millis(100);
/// Runs a shard until its control thread is gone. The first command is a commit: before it there is nothing to serve.
pub(super) async fn run(
    index: usize,
    common: Common,
    gauge: Arc<Gauge>,
    mut inbox: mpsc::UnboundedReceiver<Command>,
) {
    let mut shard: Option<Rc<Shard>> = None;
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Commit { blueprint, sockets, done } => {
                let shard = shard.get_or_insert_with(|| Shard::new(index, &common, &gauge, &blueprint));
                shard.commit(&blueprint, sockets).await;
                let _ = done.send(());
            }
            Command::Drain { replaced, done } => {
                if let Some(shard) = &shard {
                    shard.drain.replaced.set(replaced);
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
    Accepting::end_all(all).await;
    while shard.is_busy() {
        shard.drain.ended.notified().await;
    }
    shard.sink.flush();
    let _ = done.send(());
}

impl Shard {
    fn new(index: usize, common: &Common, gauge: &Arc<Gauge>, blueprint: &Arc<Blueprint>) -> Rc<Self> {
        let Common { services, standings, census, objects } = common;
        let shard = Rc::new(Self {
            index,
            services: services.clone(),
            standings: Arc::clone(standings),
            census: Arc::clone(census),
            holders: Holders::default(),
            sink: services.log.sink(),
            random: RefCell::new(fastrand::Rng::new()),
            scratch: RefCell::default(),
            snapshot: RefCell::new(Rc::new(Snapshot::empty(blueprint, index, services))),
            endpoints: RefCell::default(),
            accepting: RefCell::default(),
            gauge: Arc::clone(gauge),
            drain: Drain::default(),
            warned: Cell::new(None),
            warned_of_connections: Cell::new(None),
            watched: RefCell::default(),
            connected: Rc::default(),
            tenures: Tenures::default(),
        });
        tokio::task::spawn_local(keep_house(Rc::downgrade(&shard)));
        tokio::task::spawn_local(objects::end_cut(Rc::downgrade(&shard), Arc::clone(objects.cuts())));
        tokio::task::spawn_local(watch_clients(Rc::downgrade(&shard), Rc::clone(&shard.connected)));
        shard
    }

    /// Swaps to a blueprint. Requests that are under way keep the snapshot that they began with.
    async fn commit(self: &Rc<Self>, blueprint: &Arc<Blueprint>, sockets: Vec<Accept>) {
        let snapshot = Rc::new(Snapshot::build(blueprint, self));
        // What goes with the old one, connections among it, goes when nothing is borrowed.
        drop(self.snapshot.replace(snapshot));
        self.holders.committed.notify_waiters();
        retire::committed(self, blueprint.config.limits.retired_grace);
        let mut before = std::mem::take(&mut *self.accepting.borrow_mut());
        let mut now = HashMap::new();
        for Accept { id, index, sockets } in sockets {
            if let Some(accepting) = before.remove(&id) {
                accepting.replace(blueprint, index);
                now.insert(id, accepting);
            } else {
                now.insert(id, Accepting::start(self, blueprint, index, sockets));
            }
        }
        *self.accepting.borrow_mut() = now;
        Accepting::end_all(before.into_values()).await;
        self.endpoints.borrow_mut().retain(|_, endpoint| endpoint.strong_count() > 0);
    }

    pub(super) fn tenures(&self) -> &Tenures {
        &self.tenures
    }

    pub(super) fn holders(&self) -> &Holders {
        &self.holders
    }

    pub(super) fn for_each_watch(&self, look: impl Fn(&Watch)) {
        self.watched.borrow().iter().for_each(|(_, watch)| look(watch));
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn services(&self) -> &Services {
        &self.services
    }

    /// How endpoints stand.
    pub(super) fn standings(&self) -> &Standings {
        &self.standings
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

    /// What rules are evaluated in. Nothing else may be evaluated while it is held.
    pub(super) fn scratch(&self) -> RefMut<'_, Scratch> {
        self.scratch.borrow_mut()
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

    /// Those endpoints that there still are. The others are forgotten: a name may have other addresses every minute.
    fn endpoints(&self) -> Vec<Rc<Endpoint>> {
        let mut endpoints = self.endpoints.borrow_mut();
        endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
        endpoints.values().filter_map(Weak::upgrade).collect()
    }

    /// Counts a connection for as long as the guard lives.
    pub(super) fn connection_opened(self: &Rc<Self>) -> ConnectionGuard {
        add(&self.gauge.connections, 1);
        ConnectionGuard(Rc::clone(self))
    }

    /// Watches a connection for as long as the guard lives.
    pub(super) fn watch(self: &Rc<Self>, watch: &Rc<Watch>) -> Watched {
        let mut watched = self.watched.borrow_mut();
        if watched.is_empty() {
            self.connected.notify_one();
        }
        let place = watched.insert(Rc::clone(watch));
        drop(watched);
        Watched { shard: Rc::clone(self), place }
    }

    /// How many connections the process has.
    pub(super) fn census(&self) -> &Arc<Census> {
        &self.census
    }

    /// Counts that a client met a bound.
    pub(super) fn limited(&self, limit: Limit) {
        self.services.registry.limited(limit);
    }

    pub(super) fn request_began(&self) {
        add(&self.gauge.requests, 1);
    }

    pub(super) fn request_ended(&self) {
        subtract(&self.gauge.requests);
        self.ended();
    }

    /// Something has ended that the end of the shard may have waited for.
    pub(super) fn ended(&self) {
        if self.drain.begun.get() {
            self.drain.ended.notify_one();
        }
    }

    fn is_busy(&self) -> bool {
        let gauge = &self.gauge;
        gauge.connections.load(Ordering::Relaxed) > 0
            || gauge.requests.load(Ordering::Relaxed) > 0
            || !self.holders.is_empty()
    }

    /// Whether connections should end as soon as they can.
    pub(super) fn is_draining(&self) -> bool {
        self.drain.begun.get()
    }

    /// Whether another process accepts in this one's place, so that the end is in no hurry.
    pub(super) fn is_replaced(&self) -> bool {
        self.drain.replaced.get()
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
        is_due(&self.warned, Duration::from_secs(1))
    }

    /// Whether a warning may be written about connections that cannot be had: at most one a minute.
    pub(super) fn may_warn_of_connections(&self) -> bool {
        is_due(&self.warned_of_connections, Duration::from_secs(60))
    }
}

/// Whether something was last done at least so long ago; then it is done now.
fn is_due(last: &Cell<Option<Instant>>, pause: Duration) -> bool {
    let now = Instant::now();
    let due = last.get().is_none_or(|last| now.duration_since(last) >= pause);
    if due {
        last.set(Some(now));
    }
    due
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
        shard.endpoints().iter().for_each(|endpoint| endpoint.close_idle());
    }
}

/// Looks for clients that take too long. As long as there are none, nothing happens.
async fn watch_clients(shard: Weak<Shard>, connected: Rc<Notify>) {
    let mut pause = LOOK_AT_REQUESTS;
    loop {
        tokio::time::sleep(pause).await;
        let Some(shard) = shard.upgrade() else { return };
        let config = Arc::clone(&shard.snapshot().blueprint.config);
        let now = Instant::now();
        for (_, watch) in shard.watched.borrow().iter() {
            if let Some(limit) = watch.look(now, &config.limits) {
                shard.limited(limit);
            } else {
                watch.end_unread(now, &config.limits).for_each(|limit| shard.limited(limit));
            }
        }
        let mut is_idle = shard.gauge.requests.load(Ordering::Relaxed) == 0;
        if shard.watched.borrow().is_empty() {
            drop(shard);
            connected.notified().await;
            is_idle = false;
        }
        pause = look_interval(&config.limits, is_idle);
    }
}

fn look_interval(limits: &Limits, is_idle: bool) -> Duration {
    let deadlines = [
        limits.header_timeout,
        limits.keep_alive_timeout,
        limits.body_idle_timeout,
        limits.min_rate_grace,
        limits.send_buffer_grace,
    ];
    let shortest = deadlines.into_iter().fold(Duration::MAX, Duration::min);
    let longest = if is_idle { *LOOK.end() } else { LOOK_AT_REQUESTS };
    (shortest / 4).clamp(*LOOK.start(), longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_looked_at_often_enough_for_every_deadline_and_for_those_that_leave() {
        let limits = Limits::default();
        assert_eq!(look_interval(&limits, false), LOOK_AT_REQUESTS);
        assert_eq!(look_interval(&limits, true), *LOOK.end());
        let limits = Limits { send_buffer_grace: Duration::from_millis(100), ..limits };
        assert_eq!(look_interval(&limits, true), Duration::from_millis(25));
        let limits = Limits { header_timeout: Duration::from_millis(1), ..limits };
        assert_eq!(look_interval(&limits, true), *LOOK.start());
    }
}
