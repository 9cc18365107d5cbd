//! How endpoints stand: what all shards, and the health checks, know of each one together.
//!
//! A shard has connections of its own, but whether an endpoint is well is a fact about the endpoint. What is kept here is
//! written when something fails, or is set right again, and only read otherwise: a request on a healthy endpoint costs
//! plain loads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::upstream::EndpointKey;

/// The standings of all endpoints in use. Locked only when endpoints are made, never by a request on a known one.
#[derive(Debug, Default)]
pub(super) struct Standings(Mutex<HashMap<EndpointKey, Weak<Standing>>>);

/// How one endpoint stands. Two shards' endpoints of one key share it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Connections refused one after the other, by any shard.
    refused: AtomicU32,
    /// Whether the active health checks say that it is down.
    failed_checks: AtomicBool,
}

impl Standings {
    /// The standing of a key: the one that there is, or a new one of which nothing bad is known.
    pub(super) fn of(&self, key: &EndpointKey) -> Arc<Standing> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = all.get(key).and_then(Weak::upgrade) {
            return standing;
        }
        // Those that nobody uses any more leave with the arrival of a new one.
        all.retain(|_, standing| standing.strong_count() > 0);
        let standing = Arc::new(Standing::default());
        all.insert(key.clone(), Arc::downgrade(&standing));
        standing
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
