//! Versions that have left their worker's deployment, and what is still under way on them.
//!
//! A request keeps the snapshot that it began with, so a version lives on until its last request and tunnel have ended.
//! With `[limits] retired_grace` they are ended when so long has passed since the commit that took the version out: an
//! HTTP/1.1 client's connection is closed, without a final chunk; an HTTP/2 stream is reset ([`Tenures::cut`]), and the
//! connection told to go (GOAWAY) where nothing else is under way on it; a WebSocket is closed with 1001, any other tunnel cut
//! (`super::tunnel`). A share of 0 % is no retirement, and a version that comes back in time keeps its streams.
//!
//! What it costs a request: over HTTP/1.1 a number in its connection's [`Watch`], over HTTP/2 a place in a list.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};

use super::handler::Client;
use super::shard::Shard;
use super::watch::{Patience, Watch};
use crate::metrics::VersionSeries;
use crate::model::name::{VersionId, WorkerName};

/// A version's time in its worker's deployment, as one shard sees it: one for all generations.
pub(super) struct Tenure {
    /// Tells it apart from the shard's others; never 0.
    id: u32,
    /// When a commit took the version out; `None` while it is in.
    left: Cell<Option<Instant>>,
    /// Whether what was still under way has been told to end.
    over: Cell<bool>,
    /// Tells tunnels.
    ends: Notify,
    series: Arc<VersionSeries>,
}

impl Tenure {
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Whether what was still under way on the version has been told to end.
    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Resolves when what is still under way on the version has to end.
    pub(super) async fn over(&self) {
        let ends = self.ends.notified();
        if !self.over.get() {
            ends.await;
        }
    }

    /// Notes that the version is in use.
    fn goes_on(&self) {
        self.left.set(None);
        self.over.set(false);
    }

    /// When what is still under way has to end; `None` where it need not, or has been told to.
    fn due(&self, grace: Duration) -> Option<Instant> {
        self.left.get().filter(|_| !self.over.get())?.checked_add(grace)
    }
}

/// What a version serves as. One that has left the deployment and is retained has two tenures: what it serves as a retained
/// one goes on when what it had begun before is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Service {
    /// It is in the deployment.
    Deployed,
    /// It is not, and retained for its assets.
    Retained,
}

/// The tenure of what has no version yet.
pub(super) const NOBODYS: u32 = 0;

/// Every tenure of one shard that anything holds, and the HTTP/2 streams that are under way.
#[derive(Default)]
pub(super) struct Tenures {
    known: RefCell<HashMap<(WorkerName, VersionId, Service), Weak<Tenure>>>,
    last_id: Cell<u32>,
    streams: RefCell<Slab<Stream>>,
    /// The task that ends what is overdue.
    ending: RefCell<Option<AbortHandle>>,
}

/// A request of an HTTP/2 client.
struct Stream {
    tenure: u32,
    watch: Rc<Watch>,
    /// What drives it; dropped unfinished, it resets the stream.
    task: Option<JoinHandle<()>>,
    /// Whether it has been told to end.
    is_cut: bool,
    /// Wakes its response's body, once that has had to wait.
    waker: Option<Waker>,
}

/// How long a response that is cut has to end with an error of its own: the codec does not ask for one while the client gives
/// the stream no room.
const LAST_WORD: Duration = Duration::from_millis(500);

impl Tenures {
    /// The tenure of a version: the one that there is, or a new one.
    pub(super) fn of(
        &self,
        worker: &WorkerName,
        version: &VersionId,
        service: Service,
        series: &Arc<VersionSeries>,
    ) -> Rc<Tenure> {
        let mut known = self.known.borrow_mut();
        let key = (worker.clone(), version.clone(), service);
        if let Some(tenure) = known.get(&key).and_then(Weak::upgrade) {
            return tenure;
        }
        self.last_id.set(self.last_id.get().wrapping_add(1).max(1));
        let tenure = Rc::new(Tenure {
            id: self.last_id.get(),
            left: Cell::new(None),
            over: Cell::new(false),
            ends: Notify::new(),
            series: Arc::clone(series),
        });
        known.insert(key, Rc::downgrade(&tenure));
        tenure
    }

    /// A place for a request of an HTTP/2 client, until [`Self::leave`].
    pub(super) fn enter(&self, client: &Client, tenure: u32) -> usize {
        let watch = Rc::clone(&client.watch);
        let stream = Stream { tenure, watch, task: None, is_cut: false, waker: None };
        let place = self.streams.borrow_mut().insert(stream);
        client.begun.set(Some(place));
        place
    }

    /// Notes that the request of a place is another version's from now on.
    pub(super) fn moves(&self, place: usize, tenure: u32) {
        if let Some(stream) = self.streams.borrow_mut().get_mut(place) {
            stream.tenure = tenure;
        }
    }

    pub(super) fn leave(&self, place: usize) {
        let left = self.streams.borrow_mut().try_remove(place);
        drop(left);
    }

    /// Notes what drives the request of a place.
    pub(super) fn driven_by(&self, place: usize, task: JoinHandle<()>) {
        if let Some(stream) = self.streams.borrow_mut().get_mut(place) {
            stream.task = Some(task);
        }
    }

    /// What drives the request of a place.
    pub(super) fn task(&self, place: usize) -> Option<AbortHandle> {
        self.streams.borrow().get(place)?.task.as_ref().map(JoinHandle::abort_handle)
    }

    /// Whether the request of a place has been told to end; the task that asks, which is the one that drives it, is woken
    /// when it is.
    pub(super) fn is_cut(&self, place: usize, cx: &Context<'_>) -> bool {
        let mut streams = self.streams.borrow_mut();
        let Some(stream) = streams.get_mut(place) else { return false };
        // A task's waker stays the same for as long as the task lives.
        stream.waker.get_or_insert_with(|| cx.waker().clone());
        stream.is_cut
    }

    /// Ends the requests of these places. A response's body fails, and the stream is reset with INTERNAL_ERROR: there are
    /// clients that take CANCEL, with which the codec resets a stream whose task has ended, for an end like any other. But
    /// where no body waits, or its client gives it no room, it is that.
    pub(super) fn cut(&self, places: &[usize]) {
        let (mut silent, mut told) = (Vec::new(), Vec::new());
        for &place in places {
            let mut streams = self.streams.borrow_mut();
            let Some(stream) = streams.get_mut(place).filter(|stream| !stream.is_cut) else { continue };
            stream.is_cut = true;
            let Some(task) = stream.task.as_ref().map(JoinHandle::abort_handle) else { continue };
            match &stream.waker {
                Some(waker) => {
                    waker.wake_by_ref();
                    told.push(task);
                }
                None => silent.push(task),
            }
        }
        silent.iter().for_each(AbortHandle::abort);
        if !told.is_empty() {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(LAST_WORD).await;
                told.iter().for_each(AbortHandle::abort);
            });
        }
    }

    /// Notes which versions are in the deployment now.
    fn note(&self, shard: &Shard, now: Instant) {
        self.known.borrow_mut().retain(|_, tenure| tenure.strong_count() > 0);
        let all: Vec<_> = self.known.borrow().values().filter_map(Weak::upgrade).collect();
        let left: Vec<_> = all.iter().map(|tenure| tenure.left.get().or(Some(now))).collect();
        all.iter().zip(left).for_each(|(tenure, left)| tenure.left.set(left));
        for worker in &shard.snapshot().workers {
            for version in &worker.versions {
                version.tenure.goes_on();
                // What a version began as a retained one goes on when it is in the deployment again.
                let name = &worker.policy().name;
                let retained = (name.clone(), version.metadata.id.clone(), Service::Retained);
                if let Some(tenure) = self.known.borrow().get(&retained).and_then(Weak::upgrade) {
                    tenure.goes_on();
                }
            }
        }
    }

    fn next_due(&self, grace: Duration) -> Option<Instant> {
        let known = self.known.borrow();
        known.values().filter_map(Weak::upgrade).filter_map(|tenure| tenure.due(grace)).min()
    }

    /// Takes out what is overdue, and says so.
    fn overdue(&self, grace: Duration, now: Instant) -> Vec<Rc<Tenure>> {
        let mut overdue = Vec::new();
        for ((worker, version, _), tenure) in &*self.known.borrow() {
            let Some(tenure) = tenure.upgrade() else { continue };
            if tenure.due(grace).is_some_and(|due| due <= now) {
                let (requests, tunnels) = tenure.series.under_way();
                tracing::info!(
                    "worker {worker}: version {version} left the deployment {grace:?} ago; what is still under way on \
                     it is ended: {requests} requests, {tunnels} tunnels"
                );
                overdue.push(tenure);
            }
        }
        overdue
    }
}

/// To be called when a shard has a new snapshot: what left the deployment has so much longer, what came back stays.
pub(super) fn committed(shard: &Rc<Shard>, grace: Option<Duration>) {
    let tenures = shard.tenures();
    tenures.note(shard, Instant::now());
    let due = grace.filter(|grace| tenures.next_due(*grace).is_some());
    let task = due.map(|grace| tokio::task::spawn_local(end_overdue(Rc::downgrade(shard), grace)));
    let before = tenures.ending.replace(task.map(|task| task.abort_handle()));
    if let Some(before) = before {
        before.abort();
    }
}

async fn end_overdue(shard: Weak<Shard>, grace: Duration) {
    while let Some(due) = shard.upgrade().and_then(|shard| shard.tenures().next_due(grace)) {
        tokio::time::sleep_until(due.into()).await;
        let Some(shard) = shard.upgrade() else { return };
        let overdue = shard.tenures().overdue(grace, Instant::now());
        for tenure in &overdue {
            tenure.over.set(true);
            tenure.ends.notify_waiters();
        }
        let is_over = |id: u32| overdue.iter().any(|tenure| tenure.id == id);
        shard.for_each_watch(|watch| {
            if watch.is_busy() && is_over(watch.tenure()) {
                watch.ends(Patience::Lost);
            }
        });
        end_streams(&shard, is_over);
    }
}

/// Resets the streams of tenures that are over, and lets connections go that have nothing else.
fn end_streams(shard: &Shard, is_over: impl Fn(u32) -> bool) {
    let (mut ended, mut places): (Vec<(Rc<Watch>, u32)>, _) = (Vec::new(), Vec::new());
    for (place, stream) in &*shard.tenures().streams.borrow() {
        if stream.task.is_none() || !is_over(stream.tenure) {
            continue;
        }
        places.push(place);
        match ended.iter_mut().find(|(watch, _)| Rc::ptr_eq(watch, &stream.watch)) {
            Some((_, count)) => *count += 1,
            None => ended.push((Rc::clone(&stream.watch), 1)),
        }
    }
    shard.tenures().cut(&places);
    for (watch, count) in ended {
        if watch.requests() == count {
            watch.ends(Patience::Over);
        }
    }
}
