//! What is counted of a worker's objects.

use std::sync::atomic::{AtomicU64, Ordering};

/// How an object went from one version to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverResult {
    /// What was live for it ended by itself.
    Drained,
    /// It was cut.
    Cut,
}

impl HandoverResult {
    /// Every result, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::Drained, Self::Cut];

    /// The word for it in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Cut => "cut",
        }
    }
}

/// A worker's objects, of all shards together.
#[derive(Debug, Default)]
pub struct ObjectSeries {
    pub(super) live: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) refused: AtomicU64,
    /// In the order of [`HandoverResult::ALL`].
    pub(super) handovers: [AtomicU64; 2],
}

impl ObjectSeries {
    /// An object became live, or ceased to be.
    pub fn lives(&self, lives: bool) {
        count(&self.live, lives);
    }

    /// A request began to wait for its object, or ceased to.
    pub fn waits(&self, waits: bool) {
        count(&self.waiting, waits);
    }

    /// A request was answered 503 because its object is not free.
    pub fn refused(&self) {
        count(&self.refused, true);
    }

    /// An object went from one version to the next.
    pub fn handed_over(&self, result: HandoverResult) {
        count(&self.handovers[result as usize], true);
    }
}

fn count(number: &AtomicU64, up: bool) {
    if up {
        number.fetch_add(1, Ordering::Relaxed);
    } else {
        number.fetch_sub(1, Ordering::Relaxed);
    }
}
