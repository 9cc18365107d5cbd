//! One worker's objects that are live: which version has which, and who waits for it.
//!
//! An object has an entry only while a request or tunnel holds a [`Permit`] for it. Entries lie in buckets, each under a lock
//! of its own, with the plan that holds for them: so for each object the change from one deployment to the next is one
//! moment, whatever thread sees it, and it happens before any shard serves the new deployment.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::fence::Claimed;
use super::{Common, Outcome, Plan};
use crate::metrics::ObjectSeries;

/// How many locks the objects of a worker share.
const BUCKETS: usize = 64;
/// The most requests that wait for one object.
pub(in crate::proxy) const MOST_WAITING_FOR_ONE: usize = 256;
/// The most requests that wait for objects, of all workers together.
pub(in crate::proxy) const MOST_WAITING: usize = 8192;

/// The live objects of a worker, over all its deployments.
#[derive(Debug)]
pub(in crate::proxy) struct Domain {
    common: Arc<Common>,
    series: Arc<ObjectSeries>,
    hasher: RandomState,
    buckets: Vec<Mutex<Bucket>>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Says which version each object belongs to; `None`: the worker has no objects any more.
    plan: Option<Arc<Plan>>,
    /// What another process has claimed; `None` where this one serves alone.
    claimed: Option<Arc<Claimed>>,
    live: HashMap<Arc<[u8]>, Entry>,
}

/// A live object.
#[derive(Debug)]
struct Entry {
    tenancy: Arc<Tenancy>,
    /// How many permits there are.
    permits: usize,
    /// `Some` where it belongs to another version by now, or somebody waits for its end.
    moving: Option<Moving>,
}

#[derive(Debug)]
struct Moving {
    /// When what is live is cut; `None` where somebody else sees to that.
    due: Option<Instant>,
    gate: Arc<Gate>,
}

/// Where requests wait for an object to be free.
#[derive(Debug, Default)]
struct Gate {
    opens: Arc<Notify>,
    waiting: AtomicUsize,
}

/// A version's time with an object: from the first permit to the last.
#[derive(Debug)]
pub(in crate::proxy) struct Tenancy {
    version: Arc<str>,
    over: AtomicBool,
    ends: Notify,
}

impl Tenancy {
    /// Whether what is still under way for the object has to end.
    pub(in crate::proxy) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Resolves when what is still under way for the object has to end.
    pub(in crate::proxy) async fn over(&self) {
        let ends = self.ends.notified();
        if !self.is_over() {
            ends.await;
        }
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.ends.notify_waiters();
    }
}

/// The right to serve one object at its version. Dropping the last one lets the next version have the object.
#[derive(Debug)]
pub(in crate::proxy) struct Permit {
    domain: Arc<Domain>,
    name: Arc<[u8]>,
    tenancy: Arc<Tenancy>,
}

impl Permit {
    pub(in crate::proxy) fn tenancy(&self) -> &Arc<Tenancy> {
        &self.tenancy
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.domain.release(&self.name, &self.tenancy);
    }
}

/// What a request for an object is told.
#[derive(Debug)]
pub(in crate::proxy) enum Answer {
    /// Its version has the object.
    Granted(Permit),
    /// Another version still has it.
    Busy(Place),
    /// The request decided by a deployment that is not the newest any more, and in which the object had another version.
    Stale(Place),
    /// Too many requests wait.
    Full,
    /// The object has moved, and another process serves it.
    Elsewhere,
}

/// A place among those that wait for an object. When it is called, the request decides anew.
#[derive(Debug)]
pub(in crate::proxy) struct Place {
    called: Pin<Box<OwnedNotified>>,
    gate: Option<Arc<Gate>>,
    common: Arc<Common>,
    series: Arc<ObjectSeries>,
}

impl Place {
    /// Resolves when it is worth while to ask again.
    pub(in crate::proxy) async fn called(&mut self) {
        self.called.as_mut().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(gate) = &self.gate {
            gate.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        self.common.waiting.fetch_sub(1, Ordering::AcqRel);
        self.series.waits(false);
    }
}

/// An object that is to be cut if it has not ended by itself.
#[derive(Debug)]
pub(super) struct Overdue {
    name: Arc<[u8]>,
    tenancy: Weak<Tenancy>,
}

/// A live object that belongs to another version by now.
#[derive(Debug)]
pub(in crate::proxy) struct Moved {
    pub(in crate::proxy) name: Arc<[u8]>,
    pub(in crate::proxy) version: Arc<str>,
}

/// Adds one, where that is not more than there may be.
fn add(number: &AtomicUsize, most: usize) -> bool {
    let more = |count| (count < most).then_some(count + 1);
    number.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
}

impl Domain {
    pub(super) fn new(common: &Arc<Common>, series: Arc<ObjectSeries>) -> Self {
        Self {
            common: Arc::clone(common),
            series,
            hasher: RandomState::new(),
            buckets: (0..BUCKETS).map(|_| Mutex::default()).collect(),
        }
    }

    /// A request wants an object for the version that owns it by `plan`, by which the request decided. Short, and never waits
    /// but for the lock.
    pub(in crate::proxy) fn acquire(self: &Arc<Self>, plan: &Arc<Plan>, name: &[u8]) -> Answer {
        let owner = plan.owner(name);
        let mut bucket = self.bucket(name);
        let is_newest = bucket.plan.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, plan));
        if !is_newest && bucket.plan.as_ref().is_none_or(|newest| newest.owner(name) != owner) {
            return self.stale();
        }
        if let Some(entry) = bucket.live.get_mut(name) {
            if entry.tenancy.version != *owner || entry.tenancy.is_over() {
                return self.busy(entry);
            }
            entry.permits += 1;
            return Answer::Granted(self.permit(Arc::clone(&entry.tenancy), name.into()));
        }
        // What is not live here may be so in the other process, at any version that it was claimed for.
        if bucket.claimed.as_ref().is_some_and(|claimed| !claimed.always(name, owner)) {
            return self.stale();
        }
        let tenancy = Arc::new(Tenancy {
            version: Arc::clone(owner),
            over: AtomicBool::new(false),
            ends: Notify::new(),
        });
        let name: Arc<[u8]> = name.into();
        let entry = Entry { tenancy: Arc::clone(&tenancy), permits: 1, moving: None };
        bucket.live.insert(Arc::clone(&name), entry);
        self.series.lives(true);
        Answer::Granted(self.permit(tenancy, name))
    }

    fn permit(self: &Arc<Self>, tenancy: Arc<Tenancy>, name: Arc<[u8]>) -> Permit {
        Permit { domain: Arc::clone(self), name, tenancy }
    }

    fn busy(&self, entry: &mut Entry) -> Answer {
        let moving = entry.moving.get_or_insert_with(|| Moving { due: None, gate: Arc::default() });
        if !add(&moving.gate.waiting, MOST_WAITING_FOR_ONE) {
            return Answer::Full;
        }
        let gate = Arc::clone(&moving.gate);
        if !add(&self.common.waiting, MOST_WAITING) {
            gate.waiting.fetch_sub(1, Ordering::AcqRel);
            return Answer::Full;
        }
        // Made under the lock, it misses no call.
        let called = Box::pin(Arc::clone(&gate.opens).notified_owned());
        Answer::Busy(self.place(called, Some(gate)))
    }

    fn stale(&self) -> Answer {
        // Before the look, so that no change after it is missed.
        let called = Box::pin(Arc::clone(&self.common.changed).notified_owned());
        if self.common.is_replaced() {
            return Answer::Elsewhere;
        }
        if !add(&self.common.waiting, MOST_WAITING) {
            return Answer::Full;
        }
        Answer::Stale(self.place(called, None))
    }

    fn place(&self, called: Pin<Box<OwnedNotified>>, gate: Option<Arc<Gate>>) -> Place {
        self.series.waits(true);
        Place { called, gate, common: Arc::clone(&self.common), series: Arc::clone(&self.series) }
    }

    fn release(&self, name: &[u8], tenancy: &Arc<Tenancy>) {
        let mut bucket = self.bucket(name);
        let Some(entry) = bucket.live.get_mut(name).filter(|entry| Arc::ptr_eq(&entry.tenancy, tenancy))
        else {
            return;
        };
        entry.permits -= 1;
        if entry.permits > 0 {
            return;
        }
        let moving = entry.moving.take();
        bucket.live.remove(name);
        drop(bucket);
        self.series.lives(false);
        if let Some(moving) = moving {
            let cut = tenancy.is_over();
            self.series.handed_over(if cut { Outcome::Cut } else { Outcome::Drained });
            moving.gate.opens.notify_waiters();
        }
    }

    /// From now on this plan says which version each object belongs to. What is live at another version than its own may go on
    /// until `due`; an object whose version is again the one that has it stays. Returns what is live and is to be
    /// cut then, and not earlier by an older deployment.
    pub(super) fn install(&self, plan: Option<&Arc<Plan>>, now: Instant) -> Vec<Overdue> {
        self.change(plan, None, now)
    }

    /// As [`Self::install`], with what another process claims. What has no entry here is begun here no more, unless all
    /// that was claimed since the last plan of this process's own gives it the same version.
    pub(super) fn yield_to(&self, plan: &Arc<Plan>, now: Instant) -> Vec<Overdue> {
        // They all have the same.
        let before = self.bucket(b"").claimed.clone();
        let claimed = Claimed::with(before.as_deref(), plan);
        self.change(Some(plan), Some(&Arc::new(claimed)), now)
    }

    fn change(&self, plan: Option<&Arc<Plan>>, claimed: Option<&Arc<Claimed>>, now: Instant) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        for bucket in &self.buckets {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.plan = plan.cloned();
            bucket.claimed = claimed.cloned();
            for (name, entry) in &mut bucket.live {
                let stays = plan.is_none_or(|plan| entry.tenancy.version == *plan.owner(name));
                if stays {
                    entry.stay();
                } else if let Some(due) = plan.map(|plan| plan.due(now)) {
                    // What is to be cut earlier, or at this moment, by an older deployment is so already.
                    if entry.leave(due) {
                        let tenancy = Arc::downgrade(&entry.tenancy);
                        overdue.push(Overdue { name: Arc::clone(name), tenancy });
                    }
                }
            }
        }
        overdue
    }

    /// Cuts what should have ended by now, and is still to move. Whether there was any.
    pub(super) fn cut(&self, overdue: &[Overdue], now: Instant) -> bool {
        let mut any = false;
        for Overdue { name, tenancy } in overdue {
            let Some(tenancy) = tenancy.upgrade() else { continue };
            let bucket = self.bucket(name);
            let entry = bucket.live.get(name).filter(|entry| Arc::ptr_eq(&entry.tenancy, &tenancy));
            let due = entry.and_then(|entry| entry.moving.as_ref()?.due);
            if due.is_some_and(|due| due <= now) && !tenancy.is_over() {
                tenancy.end();
                any = true;
            }
        }
        any
    }

    /// Cuts all that is live.
    pub(super) fn end(&self) {
        for bucket in &self.buckets {
            let bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.live.values().for_each(|entry| entry.tenancy.end());
        }
    }

    /// What is live and belongs to another version by now.
    pub(super) fn moved(&self) -> Vec<Moved> {
        let mut all = Vec::new();
        for bucket in &self.buckets {
            let bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(plan) = &bucket.plan else { continue };
            for (name, entry) in &bucket.live {
                if entry.tenancy.version != *plan.owner(name) {
                    let version = Arc::clone(&entry.tenancy.version);
                    all.push(Moved { name: Arc::clone(name), version });
                }
            }
        }
        all
    }

    /// An object that is live in another process; it is for as long as the permit lives. `None`: it is live here already,
    /// at another version.
    pub(super) fn enter(self: &Arc<Self>, name: &[u8], version: &str) -> Option<Permit> {
        let mut bucket = self.bucket(name);
        let name: Arc<[u8]> = name.into();
        let entry = bucket.live.entry(Arc::clone(&name)).or_insert_with(|| {
            self.series.lives(true);
            let (over, ends) = (AtomicBool::new(false), Notify::new());
            let tenancy = Arc::new(Tenancy { version: version.into(), over, ends });
            Entry { tenancy, permits: 0, moving: None }
        });
        if *entry.tenancy.version != *version {
            return None;
        }
        entry.permits += 1;
        Some(self.permit(Arc::clone(&entry.tenancy), name))
    }

    /// Calls whoever waits until the end of an object.
    pub(super) fn wait_for(&self, name: &[u8]) -> Option<OwnedNotified> {
        let mut bucket = self.bucket(name);
        let entry = bucket.live.get_mut(name)?;
        let moving = entry.moving.get_or_insert_with(|| Moving { due: None, gate: Arc::default() });
        Some(Arc::clone(&moving.gate.opens).notified_owned())
    }

    /// A request for an object was answered 503.
    pub(in crate::proxy) fn refused(&self) {
        self.series.refused();
    }

    /// Whether nothing is live.
    pub(super) fn is_empty(&self) -> bool {
        let is_empty =
            |bucket: &Mutex<Bucket>| bucket.lock().unwrap_or_else(PoisonError::into_inner).live.is_empty();
        self.buckets.iter().all(is_empty)
    }

    fn bucket(&self, name: &[u8]) -> MutexGuard<'_, Bucket> {
        let at = usize::try_from(self.hasher.hash_one(name) % BUCKETS as u64).unwrap_or(0);
        // A panic of another holder leaves maps that are still whole: each change of them is one call.
        self.buckets[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Its version is the one that has it: whoever waits may go on, unless it was cut.
    fn stay(&mut self) {
        if let Some(moving) = &mut self.moving {
            moving.due = None;
            moving.gate.opens.notify_waiters();
        }
        if !self.tenancy.is_over() {
            self.moving = None;
        }
    }

    /// It belongs to another version: what is live may go on until `due`, or an earlier moment at which it was to end. Whether
    /// it was not to end by then.
    fn leave(&mut self, due: Instant) -> bool {
        let moving = self.moving.get_or_insert_with(|| Moving { due: None, gate: Arc::default() });
        let is_first = moving.due.is_none_or(|before| due < before);
        if is_first {
            moving.due = Some(due);
        }
        is_first
    }
}
