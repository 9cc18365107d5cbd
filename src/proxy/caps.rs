//! How many connections there are to an endpoint, how many requests wait, and the most of both: counted over all
//! shards, and touched only where a connection is made or closed, or a request has to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::standing::Standing;

/// One endpoint's connections and waiting requests.
#[derive(Debug, Default)]
pub(super) struct Caps {
    connections: AtomicUsize,
    /// Requests that wait, for whatever.
    waiting: AtomicUsize,
    /// Those of them that can go on as soon as a connection is closed or given back.
    pending: AtomicUsize,
    /// The most connections, as it was last asked for.
    limit: AtomicUsize,
    /// Wakes one of the waiting requests when a connection was closed.
    pub(super) freed: Notify,
}

/// The right to one connection; it ends with the connection.
#[derive(Debug)]
pub(super) struct Slot(Arc<Standing>);

/// A place among those that wait.
#[derive(Debug)]
pub(super) struct Waits<'a>(&'a Caps);

/// A place among those that wait for a connection.
#[derive(Debug)]
pub(super) struct Pending<'a>(Waits<'a>);

impl Caps {
    /// How many requests wait for a connection, on all shards.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Whether so many of the connections that there may be are in use that idle ones should not be kept unseen.
    pub(super) fn is_crowded(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit > 0 && self.connections.load(Ordering::Relaxed) * 2 >= limit
    }

    /// A place among those that wait, for something else than a connection; `None` where that many wait already.
    pub(super) fn wait(&self, most: usize) -> Option<Waits<'_>> {
        add(&self.waiting, most).then(|| Waits(self))
    }

    /// A place among those that wait for a connection; `None` where that many wait already, for whatever.
    pub(super) fn wait_for_connection(&self, most: usize) -> Option<Pending<'_>> {
        let waits = self.wait(most)?;
        self.pending.fetch_add(1, Ordering::AcqRel);
        Some(Pending(waits))
    }
}

impl Slot {
    /// The right to make a connection; `None` where there are as many as there may be.
    pub(super) fn take(standing: &Arc<Standing>, most: usize) -> Option<Self> {
        standing.caps.limit.store(most, Ordering::Relaxed);
        add(&standing.caps.connections, most).then(|| Self(Arc::clone(standing)))
    }
}

/// Adds one, where that is not more than there may be.
fn add(number: &AtomicUsize, most: usize) -> bool {
    let more = |count| (count < most).then_some(count + 1);
    number.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok()
}

impl Drop for Slot {
    fn drop(&mut self) {
        let caps = &self.0.caps;
        caps.connections.fetch_sub(1, Ordering::AcqRel);
        if caps.pending() > 0 {
            caps.freed.notify_one();
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.0.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_connections_than_there_may_be_and_an_ended_one_makes_room() {
        let standing = Arc::<Standing>::default();
        let slots: Vec<_> = (0..3).filter_map(|_| Slot::take(&standing, 2)).collect();
        assert_eq!(slots.len(), 2);
        drop(slots);
        assert!(Slot::take(&standing, 1).is_some());
    }

    #[test]
    fn there_are_never_more_waiting_than_there_may_be() {
        let caps = Caps::default();
        let first = caps.wait_for_connection(1);
        assert!(first.is_some() && caps.wait_for_connection(1).is_none() && caps.wait(1).is_none());
        drop(first);
        assert_eq!(caps.pending(), 0);
        assert!(caps.wait_for_connection(0).is_none());
    }

    #[test]
    fn who_waits_for_something_else_takes_a_place_and_wants_no_connection() {
        let caps = Caps::default();
        let first = caps.wait(1);
        assert!(first.is_some() && caps.wait_for_connection(1).is_none());
        assert_eq!(caps.pending(), 0);
        drop(first);
        assert!(caps.wait_for_connection(1).is_some());
    }
}
