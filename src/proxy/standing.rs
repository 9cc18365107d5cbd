//! How endpoints stand: what all shards, and the health checks, know of each one together.
//!
//! A shard has connections of its own, but whether an endpoint is well is a fact about the endpoint. What is kept here is
//! written when something fails, or is set right again, and only read otherwise: a request on a healthy endpoint costs
//! plain loads.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Instant, SystemTime};

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
    /// The last health check. Never looked at by a request.
    last_check: Mutex<Option<LastCheck>>,
    /// Whether real requests find it well.
    pub(super) ejection: Ejection,
    /// How many connections there are to it, and how many requests wait for one.
    pub(super) caps: Caps,
}

/// What came of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCheck {
    /// When it ended.
    pub time: SystemTime,
    /// Why it failed; `None`: it did not.
    pub error: Option<String>,
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

    /// The standing of a key, if there is one.
    pub(super) fn get(&self, key: &EndpointKey) -> Option<Arc<Standing>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).get(key).and_then(Weak::upgrade)
    }
}

// What real requests say: ejection, and coming back.
impl Standing {
    /// Whether it can be given its full part of the requests, as far as anybody knows.
    pub(super) fn is_settled(&self) -> bool {
        self.ejection.is_settled() && !self.fails_checks()
    }

    /// What it can be given now.
    pub(super) fn fitness(&self, now: Instant) -> Fitness {
        // Whether nobody listens there is not asked: that is what its one request finds out.
        if self.fails_checks() { Fitness::Out } else { self.ejection.fitness(now) }
    }

    /// Whether it is ejected, though the health checks have nothing against it.
    pub(super) fn is_only_ejected(&self) -> bool {
        self.ejection.is_ejected() && !self.fails_checks()
    }
}

/// After so many refused connections in a row an endpoint counts as down.
const REFUSED_IN_A_ROW: u32 = 5;

impl Standing {
    /// No connection was made. Counts where nobody listens or the way there is closed; not where this process itself is at
    /// its end (descriptors, ports), and not where nobody answered.
    pub(super) fn refused(&self, error: &io::Error) {
        if is_refusal(error) {
            // Wraps only after four thousand million refusals without one success.
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection was made.
    pub(super) fn connected(&self) {
        if self.refused.load(Ordering::Relaxed) > 0 {
            self.refused.store(0, Ordering::Relaxed);
        }
    }

    /// Connections refused one after the other.
    pub(super) fn refused_in_a_row(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What the health checks say from now on. An endpoint that comes back gets its requests bit by bit.
    pub(super) fn judge(&self, is_well: bool) {
        let was_down = self.failed_checks.swap(!is_well, Ordering::Relaxed);
        if was_down && is_well {
            self.ejection.came_back(Instant::now());
        }
    }

    /// Notes a health check, whatever it means for the verdict.
    pub(super) fn checked(&self, check: LastCheck) {
        *self.last_check.lock().unwrap_or_else(PoisonError::into_inner) = Some(check);
    }

    /// The last health check; `None`: there was none.
    pub(super) fn last_check(&self) -> Option<LastCheck> {
        self.last_check.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the health checks say that it is down: then no request is sent there.
    pub(super) fn fails_checks(&self) -> bool {
        self.failed_checks.load(Ordering::Relaxed)
    }

    /// Whether so many connections were refused one after the other that it counts as down.
    pub(super) fn is_refused(&self) -> bool {
        self.refused_in_a_row() >= REFUSED_IN_A_ROW
    }

    /// Whether no request can be served there: by the health checks, or because nobody listens. Where it is only the
    /// latter, a request that has nowhere else to go may still try.
    pub(super) fn is_down(&self) -> bool {
        self.fails_checks() || self.is_refused()
    }
}

fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, NotFound};
    // Of a Unix socket the file is not found.
    let refusals = [ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, NotFound];
    refusals.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_refused_connections_in_a_row_are_down_and_one_that_is_made_is_up() {
        let standing = Standing::default();
        for errno in [111, 111, 113, 2, 101] {
            assert!(!standing.is_down());
            standing.refused(&io::Error::from_raw_os_error(errno));
        }
        assert!(standing.is_down() && !standing.fails_checks());
        standing.connected();
        assert!(!standing.is_down());
    }

    #[test]
    fn a_process_without_descriptors_or_ports_says_nothing_about_an_endpoint() {
        let standing = Standing::default();
        // EMFILE, ENFILE, EADDRNOTAVAIL, ENOBUFS, EAGAIN, ETIMEDOUT.
        for errno in [24, 23, 99, 105, 11, 110].repeat(3) {
            standing.refused(&io::Error::from_raw_os_error(errno));
        }
        assert!(!standing.is_down());
    }

    #[test]
    fn what_the_health_checks_say_counts_until_they_say_otherwise() {
        let standing = Standing::default();
        standing.judge(false);
        standing.connected();
        assert!(standing.is_down() && standing.fails_checks());
        standing.judge(true);
        assert!(!standing.is_down());
    }
}
