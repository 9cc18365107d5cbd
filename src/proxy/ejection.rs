//! Passive ejection: an endpoint that fails request after request gets none for a while, and comes back with one.
//!
//! What counts is that the proxy got no answer: no connection, a connection that ended or spoke nonsense before the
//! response's head was there, no head in time. An answer of whatever status is an answer: an application that says 500 or
//! 503 to everybody is not made better by sending its requests elsewhere, and one bad request must not take a machine out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::standing::Standing;

/// How long endpoints that fail are left alone.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The first ejection; each further one in a row is longer by as much.
    pub ejection: Duration,
    /// The longest ejection. To each, at most a tenth is added at random.
    pub longest_ejection: Duration,
    /// How long an endpoint that comes back takes until it has its full part of the requests.
    pub slow_start: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ejection: Duration::from_secs(30),
            longest_ejection: Duration::from_secs(300),
            slow_start: Duration::from_secs(10),
        }
    }
}

/// What an endpoint can be given at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fitness {
    /// Its full part of the requests.
    Full,
    /// So many thousandths of its part: it came back a moment ago.
    Part(u32),
    /// One request, to see whether it is well again.
    Due,
    /// None.
    Out,
}

/// One endpoint's failures, over all shards. Times are milliseconds of the monotonic clock since this was made: a change
/// of the machine's time does not matter.
#[derive(Debug)]
pub(super) struct Ejection {
    timing: Timing,
    made: Instant,
    /// 0: nothing to tell. With [`EJECTED`]: until when it is ejected. Otherwise since when it is back.
    state: AtomicU64,
    /// Failures one after the other.
    failures: AtomicU32,
    /// Ejections in a row.
    in_a_row: AtomicU32,
    /// All ejections.
    total: AtomicU64,
    /// Whether a request tries it.
    tried: AtomicBool,
}

/// Marks a state as an ejection.
const EJECTED: u64 = 1 << 63;
/// After so many failures one after the other an endpoint is ejected.
const FAILURES: u32 = 5;
/// What an endpoint that comes back is given at once, in thousandths. From there its part grows evenly: so does Envoy's slow
/// start with its defaults, an aggression of 1 and a least weight of 10 %.
const FIRST_PART: u64 = 100;

impl Default for Ejection {
    fn default() -> Self {
        Self::new(Timing::default())
    }
}

impl Ejection {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            timing,
            made: Instant::now(),
            state: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            in_a_row: AtomicU32::new(0),
            total: AtomicU64::new(0),
            tried: AtomicBool::new(false),
        }
    }

    /// Whether there is nothing to consider: one load.
    pub(super) fn is_settled(&self) -> bool {
        self.state.load(Ordering::Relaxed) == 0
    }

    /// What it can be given now.
    pub(super) fn fitness(&self, now: Instant) -> Fitness {
        let (state, now) = (self.state.load(Ordering::Relaxed), self.millis(now));
        if state & EJECTED != 0 {
            return if state & !EJECTED <= now { Fitness::Due } else { Fitness::Out };
        }
        let ramp = millis(self.timing.slow_start);
        let back = now.saturating_sub(state);
        if state == 0 || back >= ramp {
            // Only what was looked at is forgotten: it may have been ejected meanwhile.
            let _ = self.state.compare_exchange(state, 0, Ordering::Relaxed, Ordering::Relaxed);
            return Fitness::Full;
        }
        let part = (back * 1000 / ramp).max(FIRST_PART);
        Fitness::Part(u32::try_from(part).unwrap_or(1000))
    }

    /// Whether it is ejected, be its time over or not.
    pub(super) fn is_ejected(&self) -> bool {
        self.state.load(Ordering::Relaxed) & EJECTED != 0
    }

    /// Whether its time has been over for as long as a first ejection takes, and nothing has tried it.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        let until = (state & !EJECTED).saturating_add(millis(self.timing.ejection));
        state & EJECTED != 0 && until <= self.millis(now)
    }

    /// How often it was ejected.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// It has answered.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// It has failed; whether that ejected it. `may_eject`: there are others that can serve. `jitter`: a random number,
    /// which makes the ejection longer by at most a tenth, so that those that failed together do not come back together.
    pub(super) fn failed(&self, now: Instant, may_eject: bool, jitter: u64) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let state = self.state.load(Ordering::Relaxed);
        // Requests that were on their way when it was ejected say nothing new.
        failures >= FAILURES && may_eject && state & EJECTED == 0 && self.eject(state, now, jitter)
    }

    /// Ejects it, unless somebody else has changed the state.
    fn eject(&self, state: u64, now: Instant, jitter: u64) -> bool {
        let millis_now = self.millis(now);
        let step = millis(self.timing.ejection).max(1);
        // An ejection in a row is forgotten for as long a time as it adds.
        let well = if state & EJECTED == 0 { millis_now.saturating_sub(state) / step } else { 0 };
        let before = self.in_a_row.load(Ordering::Relaxed);
        let in_a_row = before.saturating_sub(u32::try_from(well).unwrap_or(u32::MAX)).saturating_add(1);
        let long = step.saturating_mul(in_a_row.into()).min(millis(self.timing.longest_ejection));
        let until = millis_now + long + jitter % (long / 10 + 1);
        let ejected = EJECTED | until;
        if self.state.compare_exchange(state, ejected, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return false;
        }
        self.in_a_row.store(in_a_row, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// It is back, from wherever: it gets its part of the requests bit by bit.
    pub(super) fn came_back(&self, now: Instant) {
        self.failures.store(0, Ordering::Relaxed);
        self.state.store(self.millis(now).max(1), Ordering::Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.made))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(EJECTED - 1)
}

/// The one request that an ejected endpoint is tried with. Without a verdict, because its client left, it makes way for
/// the next one.
pub(super) struct Trial(Arc<Standing>);

impl Trial {
    /// Takes the one place; `None` where another request has it, or the endpoint is not ejected.
    pub(super) fn begin(standing: &Arc<Standing>) -> Option<Self> {
        let ejection = &standing.ejection;
        if ejection.tried.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return None;
        }
        let trial = Self(Arc::clone(standing));
        ejection.is_ejected().then_some(trial)
    }

    /// The endpoint has answered: it is back.
    pub(super) fn succeeded(self, now: Instant) {
        self.0.ejection.came_back(now);
    }

    /// The endpoint has failed again: it is left alone for longer.
    pub(super) fn failed(self, now: Instant, jitter: u64) -> bool {
        let ejection = &self.0.ejection;
        let state = ejection.state.load(Ordering::Relaxed);
        state & EJECTED != 0 && ejection.eject(state, now, jitter)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.ejection.tried.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> (Arc<Standing>, Instant) {
        (Arc::default(), Instant::now())
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Fails it until it is ejected.
    fn eject(standing: &Arc<Standing>, now: Instant) {
        assert!((0..FAILURES).any(|_| standing.ejection.failed(now, true, 0)));
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let (standing, now) = standing();
        for _ in 0..20 {
            assert!((1..FAILURES).all(|_| !standing.ejection.failed(now, true, 0)));
            standing.ejection.succeeded();
        }
        assert!(standing.ejection.is_settled());
        eject(&standing, now);
        assert_eq!(standing.ejection.fitness(now), Fitness::Out);
        assert_eq!(standing.ejection.total(), 1);
    }

    #[test]
    fn the_last_one_is_not_ejected_but_as_soon_as_there_is_another_it_is() {
        let (standing, now) = standing();
        assert!((0..100).all(|_| !standing.ejection.failed(now, false, 0)));
        assert!(standing.ejection.failed(now, true, 0));
    }

    #[test]
    fn ejections_in_a_row_grow_to_their_longest_and_shrink_again_in_good_times() {
        let (standing, mut now) = standing();
        let ejection = &standing.ejection;
        let lasts =
            |now: Instant| (0..).find(|&s| ejection.fitness(now + seconds(s)) == Fitness::Due).unwrap();
        eject(&standing, now);
        for expected in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300] {
            assert_eq!(lasts(now), expected);
            now += seconds(expected);
            assert!(Trial::begin(&standing).unwrap().failed(now, 0));
        }
        now += seconds(300);
        Trial::begin(&standing).unwrap().succeeded(now);
        now += seconds(3600);
        eject(&standing, now);
        assert_eq!(lasts(now), 30);
    }

    #[test]
    fn jitter_makes_an_ejection_longer_by_at_most_a_tenth_and_never_shorter() {
        for jitter in [0, 1, 2999, 3000, 3001, u64::MAX] {
            let (standing, now) = standing();
            assert!((0..FAILURES).any(|_| standing.ejection.failed(now, true, jitter)));
            assert_eq!(standing.ejection.fitness(now + seconds(29)), Fitness::Out, "{jitter}");
            assert_eq!(standing.ejection.fitness(now + seconds(34)), Fitness::Due, "{jitter}");
        }
        let (standing, now) = standing();
        assert!((0..FAILURES).any(|_| standing.ejection.failed(now, true, 3000)));
        assert_eq!(standing.ejection.fitness(now + seconds(32)), Fitness::Out);
    }

    #[test]
    fn only_one_request_at_a_time_tries_it_and_one_without_a_verdict_makes_way() {
        let (standing, now) = standing();
        assert!(Trial::begin(&standing).is_none(), "it is not ejected");
        eject(&standing, now);
        let first = Trial::begin(&standing);
        assert!(first.is_some() && Trial::begin(&standing).is_none());
        drop(first);
        assert!(Trial::begin(&standing).is_some());
    }

    #[test]
    fn requests_that_were_on_their_way_when_it_was_ejected_neither_extend_nor_end_it() {
        let (standing, now) = standing();
        eject(&standing, now);
        assert!((0..100).all(|_| !standing.ejection.failed(now + seconds(20), true, 0)));
        standing.ejection.succeeded();
        assert_eq!(standing.ejection.fitness(now + seconds(29)), Fitness::Out);
        assert_eq!(standing.ejection.fitness(now + seconds(31)), Fitness::Due);
    }

    #[test]
    fn what_comes_back_gets_a_growing_part_until_all_is_forgotten() {
        let (standing, now) = standing();
        eject(&standing, now);
        Trial::begin(&standing).unwrap().succeeded(now + seconds(30));
        let fitness = |at| standing.ejection.fitness(now + Duration::from_millis(at));
        assert_eq!(fitness(30_000), Fitness::Part(100));
        assert_eq!(fitness(35_000), Fitness::Part(500));
        assert!(!standing.ejection.is_settled());
        assert_eq!(fitness(40_001), Fitness::Full);
        assert!(standing.ejection.is_settled());
    }
}
