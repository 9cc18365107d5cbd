//! Tails: whoever wants to see the requests of a worker as they end.
//!
//! A tail is a [`Subscription`] with a [`Filter`]. Shards put messages into its queue, which is bounded in number and in
//! bytes: where it is full, they are dropped and counted. A shard never waits, and while there is no tail it keeps nothing
//! of a request and does nothing for one. Values that may be credentials are left out before a message leaves the shard.

mod filter;
mod message;
mod redact;

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Version};
use tokio::sync::mpsc;

pub use self::filter::{Condition, Filter};
use super::Interest;
use super::access::Record;

/// The most tails of one worker; Cloudflare's number.
pub const MOST_OF_A_WORKER: usize = 10;
/// The most tails of all workers together.
pub const MOST: usize = 32;
/// How many messages may wait for a reader.
const ROOM: usize = 1024;
/// How many bytes of messages may wait for a reader.
const ROOM_BYTES: usize = 1 << 20;

/// All tails of a process. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct Tails(Arc<All>);

#[derive(Debug)]
struct All {
    interest: Arc<Interest>,
    /// Grows with every change of the list, so that a shard sees by one load whether its copy is the newest.
    edition: AtomicU64,
    list: Mutex<Vec<Arc<Subscriber>>>,
}

/// A tail as those see it who write into it.
#[derive(Debug)]
struct Subscriber {
    worker: Box<str>,
    filter: Filter,
    queue: mpsc::Sender<Arc<str>>,
    /// Bytes that wait in the queue.
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

/// A tail. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    tails: Tails,
    own: Arc<Subscriber>,
    queue: mpsc::Receiver<Arc<str>>,
}

/// There are as many tails as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// Of this worker: [`MOST_OF_A_WORKER`].
    OfThisWorker,
    /// Of all workers: [`MOST`].
    OfAll,
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfThisWorker => {
                write!(f, "this worker has {MOST_OF_A_WORKER} tails already: end one first")
            }
            Self::OfAll => write!(f, "there are {MOST} tails already: end one first"),
        }
    }
}

impl std::error::Error for TooMany {}

/// What a tail shows of a request besides its record.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The header fields as they came.
    pub headers: &'a HeaderMap,
    /// The protocol that the client speaks.
    pub protocol: Version,
    /// Why the proxy answered in the upstream's place.
    pub problem: Option<&'a str>,
}

impl Tails {
    pub(super) fn new(interest: Arc<Interest>) -> Self {
        Self(Arc::new(All { interest, edition: AtomicU64::new(0), list: Mutex::default() }))
    }

    /// A new tail of a worker's requests, from those on that begin after this.
    ///
    /// # Errors
    /// There are too many already.
    pub fn subscribe(&self, worker: &str, filter: Filter) -> Result<Subscription, TooMany> {
        let (queue, messages) = mpsc::channel(ROOM);
        let own = Arc::new(Subscriber {
            worker: worker.into(),
            filter,
            queue,
            waiting: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
        });
        let mut list = self.list();
        if list.len() >= MOST {
            return Err(TooMany::OfAll);
        }
        if list.iter().filter(|other| *other.worker == *worker).count() >= MOST_OF_A_WORKER {
            return Err(TooMany::OfThisWorker);
        }
        list.push(Arc::clone(&own));
        self.changed(&list);
        Ok(Subscription { tails: self.clone(), own, queue: messages })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list().len()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Subscriber>>> {
        // Every change is one push or one removal: the list is whole whoever panicked.
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, list: &[Arc<Subscriber>]) {
        self.0.edition.fetch_add(1, Ordering::Release);
        self.0.interest.set(Interest::TAILS, !list.is_empty());
    }
}

impl Subscription {
    /// Waits for the next message: a JSON object of Cloudflare's `trace-v1`. Safe to cancel.
    pub async fn next(&mut self) -> Arc<str> {
        match self.queue.recv().await {
            Some(message) => {
                self.own.waiting.fetch_sub(message.len(), Ordering::Relaxed);
                message
            }
            // This holds a sender itself: the queue is never closed.
            None => std::future::pending().await,
        }
    }

    /// How many messages were dropped since this was asked last, because nobody read those before them.
    pub fn dropped(&self) -> u64 {
        self.own.dropped.swap(0, Ordering::Relaxed)
    }

    /// The message that says so many were dropped, in a form that wrangler prints.
    pub fn overload(&self, dropped: u64, timestamp_ms: u64) -> String {
        message::overload(&self.own.worker, dropped, timestamp_ms)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut list = self.tails.list();
        list.retain(|other| !Arc::ptr_eq(other, &self.own));
        self.tails.changed(&list);
    }
}

impl Subscriber {
    /// Whether there is room for a message; counts it as dropped otherwise.
    fn has_room(&self) -> bool {
        let has = self.queue.capacity() > 0 && self.waiting.load(Ordering::Relaxed) < ROOM_BYTES;
        if !has {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        has
    }

    fn offer(&self, message: &Arc<str>) {
        self.waiting.fetch_add(message.len(), Ordering::Relaxed);
        if self.queue.try_send(Arc::clone(message)).is_err() {
            self.waiting.fetch_sub(message.len(), Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A shard's view of the tails: a copy of their list, so that no request takes a lock.
#[derive(Debug)]
pub(super) struct View {
    tails: Tails,
    copy: RefCell<(u64, Vec<Arc<Subscriber>>)>,
}

impl View {
    pub(super) fn of(tails: &Tails) -> Self {
        Self { tails: tails.clone(), copy: RefCell::default() }
    }

    /// Whether there is a tail of a worker.
    pub(super) fn has(&self, worker: &str) -> bool {
        self.renew();
        self.copy.borrow().1.iter().any(|tail| *tail.worker == *worker)
    }

    /// Shows a request that has ended to those tails of its worker that want to see it.
    pub(super) fn show(&self, record: &Record<'_>, seen: &Seen<'_>) {
        self.renew();
        let Some(worker) = record.worker else { return };
        let copy = self.copy.borrow();
        let mut made = None;
        let url = message::url(record);
        for tail in copy.1.iter().filter(|tail| *tail.worker == *worker) {
            if tail.filter.admits(record, seen, &url) && tail.has_room() {
                let message = made.get_or_insert_with(|| Arc::from(message::request(record, seen, &url)));
                tail.offer(message);
            }
        }
    }

    fn renew(&self) {
        let edition = self.tails.0.edition.load(Ordering::Acquire);
        let mut copy = self.copy.borrow_mut();
        if copy.0 != edition {
            *copy = (edition, self.tails.list().clone());
        }
    }
}
