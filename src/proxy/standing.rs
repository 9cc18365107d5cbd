//! How endpoints stand: what all shards, and the health checks, know of each one together.
//!
//! A shard has connections of its own, but whether an endpoint is well is a fact about the endpoint. What is kept here is
//! written when something fails, or is set right again, and only read otherwise: a request on a healthy endpoint costs
//! plain loads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::caps::Caps;
use super::ejection::{Ejection, Fitness, Timing};
use super::upstream::EndpointKey;

/// The standings of all endpoints in use. Locked only when endpoints are made, never by a request on a known one.
#[derive(Debug, Default)]
pub(super) struct Standings {
    timing: Timing,
    all: Mutex<HashMap<EndpointKey, Weak<Standing>>>,
}

/// How one endpoint stands. Two shards' endpoints of one key share it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Connections refused one after the other, by any shard.
    refused: AtomicU32,
    /// Whether the active health checks say that it is down.
    failed_checks: AtomicBool,
    /// Whether real requests find it well.
    pub(super) ejection: Ejection,
    /// How many connections there are to it, and how many requests wait for one.
    pub(super) caps: Caps,
}

impl Standings {
    pub(super) fn new(timing: Timing) -> Self {
        Self { timing, all: Mutex::default() }
    }

    /// The standing of a key: the one that there is, or a new one of which nothing bad is known.
    pub(super) fn of(&self, key: &EndpointKey) -> Arc<Standing> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = all.get(key).and_then(Weak::upgrade) {
            return standing;
        }
        // Those that nobody uses any more leave with the arrival of a new one.
        all.retain(|_, standing| standing.strong_count() > 0);
        let standing = Arc::new(Standing { ejection: Ejection::new(self.timing), ..Standing::default() });
        all.insert(key.clone(), Arc::downgrade(&standing));
        standing
    }
}

// What real requests say: ejection, and coming back.
impl Standing {
    /// Whether it can be given its full part of the requests, as far as anybody knows.
    pub(super) fn is_settled(&self) -> bool {
        self.ejection.is_settled() && !self.failed_checks.load(Ordering::Relaxed)
    }

    /// What it can be given now.
    pub(super) fn fitness(&self, now: Instant) -> Fitness {
        // Whether nobody listens there is not asked: that is what its one request finds out.
        if self.failed_checks.load(Ordering::Relaxed) { Fitness::Out } else { self.ejection.fitness(now) }
    }

    /// Whether it is ejected, though the health checks have nothing against it.
    pub(super) fn is_only_ejected(&self) -> bool {
        self.ejection.is_ejected() && !self.failed_checks.load(Ordering::Relaxed)
    }
}

/// After so many refused connections in a row an endpoint counts as down where there are no health checks.
const REFUSED_IN_A_ROW: u32 = 5;

impl Standing {
    /// A connection was refused.
    pub(super) fn refused(&self) {
        // Wraps only after four thousand million refusals without one success.
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was made.
    pub(super) fn connected(&self) {
        if self.refused.load(Ordering::Relaxed) > 0 {
            self.refused.store(0, Ordering::Relaxed);
        }
    }

    /// What the health checks say from now on.
    pub(super) fn checked(&self, is_well: bool) {
        self.failed_checks.store(!is_well, Ordering::Relaxed);
    }

    /// Whether no request can be served there: by the health checks, or because nobody listens.
    pub(super) fn is_down(&self) -> bool {
        self.failed_checks.load(Ordering::Relaxed) || self.refused.load(Ordering::Relaxed) >= REFUSED_IN_A_ROW
    }
}
