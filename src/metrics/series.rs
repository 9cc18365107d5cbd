//! What a shard records: plain memory with one writer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::decision::Reason;
use crate::model::overrides::OverrideProblem;

/// What one shard records of one version of one worker; or of requests that reached no version.
#[derive(Debug, Default)]
pub struct VersionSeries {
    /// By reason (none first, then [`Reason::ALL`]) and status class (`1xx` first).
    pub(super) requests: [[Counter; CLASSES.len()]; REASONS],
    /// Requests by duration: not cumulative; the last is above every bound.
    pub(super) buckets: [Counter; BOUNDS.len() + 1],
    /// All durations, in microseconds.
    pub(super) micros: Counter,
    /// Requests and tunnels under way, and how many of them are tunnels.
    pub(super) under_way: Counter,
    pub(super) tunnels: Counter,
    /// Asset misses: not rescued, rescued.
    pub(super) misses: [Counter; 2],
    /// Requests that were sent a second time, or should have been, by [`Retry`].
    pub(super) retries: [Counter; RETRIES.len()],
    /// Requests that found no room at their upstream.
    pub(super) shed: Counter,
    /// Requests and tunnels that were ended because the version had left the deployment.
    pub(super) retired: Counter,
}

/// What became of a request whose first attempt failed in a way that allows a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The second was answered.
    Success,
    /// The second failed, too.
    Failure,
    /// There was none: the budget was spent.
    Budget,
}

/// What became of asking another version for an asset that a request's own has not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssetRequest {
    /// It had it.
    Hit,
    /// It had not got it either.
    Miss,
    /// It failed, or did not say.
    Failure,
    /// It was not asked: the budget was spent.
    Budget,
}

/// What one shard records of one worker.
#[derive(Debug, Default)]
pub struct WorkerSeries {
    /// Applied first, then [`OverrideProblem::ALL`].
    pub(super) overrides: [Counter; RESULTS],
    /// Headers that a rule could not set.
    pub(super) rule_values_dropped: Counter,
    /// Assets asked of other versions, by [`AssetRequest`].
    pub(super) assets_asked: [Counter; ASSET_REQUESTS.len()],
}

/// [`Retry`] as labels, in its order.
pub(super) const RETRIES: [&str; 3] = ["success", "failure", "budget"];
/// [`AssetRequest`] as labels, in its order.
pub(super) const ASSET_REQUESTS: [&str; 4] = ["hit", "miss", "failure", "budget"];
/// The status classes as labels.
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// No reason, and every reason.
pub(super) const REASONS: usize = Reason::ALL.len() + 1;
/// Applied, and every problem.
pub(super) const RESULTS: usize = OverrideProblem::ALL.len() + 1;

/// The upper bounds of the histogram's buckets, inclusive: microseconds, and the label in seconds.
pub(super) const BOUNDS: [(u64, &str); 15] = [
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (30_000_000, "30"),
    (60_000_000, "60"),
];

impl VersionSeries {
    /// Counts a request when its response has ended. `reason` is `None` where no version was chosen. A status outside of
    /// 100 to 599 counts as `5xx`, as RFC 9110 section 15 has clients treat it. Durations are kept in microseconds,
    /// rounded to the nearest.
    pub fn request(&self, reason: Option<Reason>, status: u16, duration: Duration) {
        let reason = reason.map_or(0, |reason| reason as usize + 1);
        let class = usize::from((status / 100).wrapping_sub(1)).min(CLASSES.len() - 1);
        if let Some(counter) = self.requests.get(reason).and_then(|classes| classes.get(class)) {
            counter.add(1);
        }
        let micros = duration.as_secs().saturating_mul(1_000_000);
        let micros = micros.saturating_add(u64::from((duration.subsec_nanos() + 500) / 1000));
        let bucket = BOUNDS.iter().position(|(bound, _)| micros <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add(1);
        self.micros.add(micros);
    }

    /// Notes that a request goes to the version, until [`Self::ended`].
    pub fn began(&self) {
        self.under_way.add(1);
    }

    /// Notes that a request under way has become a tunnel.
    pub fn tunnel_opened(&self) {
        self.tunnels.add(1);
    }

    /// Notes that what [`Self::began`] has ended.
    pub fn ended(&self, is_tunnel: bool) {
        self.under_way.subtract(1);
        self.tunnels.subtract(u64::from(is_tunnel));
    }

    /// Requests that came because their own version is down.
    pub(super) fn failovers(&self) -> u64 {
        let classes = self.requests.get(Reason::Failover as usize + 1);
        classes.into_iter().flatten().fold(0, |sum, class| sum.wrapping_add(class.get()))
    }

    /// How many requests that are no tunnels, and how many tunnels, are under way.
    pub fn under_way(&self) -> (u64, u64) {
        let tunnels = self.tunnels.get();
        (self.under_way.get().saturating_sub(tunnels), tunnels)
    }

    /// Counts an asset that the version has not got; `rescued`: another version had it.
    pub fn asset_miss(&self, rescued: bool) {
        self.misses[usize::from(rescued)].add(1);
    }

    /// Counts a request whose first attempt failed in a way that allows a second.
    pub fn retried(&self, result: Retry) {
        self.retries[result as usize].add(1);
    }

    /// Counts a request that was refused because its upstream has as many as it may have.
    pub fn shed(&self) {
        self.shed.add(1);
    }

    /// Counts a request or tunnel that was ended because the version had left the deployment.
    pub fn retired(&self) {
        self.retired.add(1);
    }
}

impl WorkerSeries {
    /// Counts an override that named this worker: applied (`None`), or why not.
    pub fn overridden(&self, problem: Option<OverrideProblem>) {
        let result = problem.map_or(0, |problem| problem as usize + 1);
        if let Some(counter) = self.overrides.get(result) {
            counter.add(1);
        }
    }

    /// Counts an asset that was asked of another version.
    pub fn asset_asked(&self, result: AssetRequest) {
        self.assets_asked[result as usize].add(1);
    }

    /// Counts a header that was removed because the value that a rule has for it can stand in none.
    pub fn rule_value_dropped(&self) {
        self.rule_values_dropped.add(1);
    }
}

/// A number that one thread adds to and any thread reads. Two writers would lose counts, but nothing worse.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Not `fetch_add`: with one writer a locked instruction would buy nothing.
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    fn subtract(&self, less: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(less), Ordering::Relaxed);
    }

    /// The value at some moment between two additions.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<const N: usize>(counters: &[Counter; N]) -> [u64; N] {
        std::array::from_fn(|index| counters[index].get())
    }

    #[test]
    fn a_status_counts_in_its_class_and_an_impossible_one_as_5xx() {
        let series = VersionSeries::default();
        for status in [0, 99, 100, 101, 200, 299, 304, 404, 499, 500, 599, 600, 999, u16::MAX] {
            series.request(None, status, Duration::ZERO);
        }
        assert_eq!(values(&series.requests[0]), [2, 2, 1, 2, 7]);
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_whose_bound_is_not_below_it() {
        let series = VersionSeries::default();
        for micros in [0, 1_000, 1_001, 60_000_000, 60_000_001] {
            series.request(None, 200, Duration::from_micros(micros));
        }
        let mut expected = [0; BOUNDS.len() + 1];
        (expected[0], expected[1], expected[14], expected[15]) = (2, 1, 1, 1);
        assert_eq!(values(&series.buckets), expected);
        assert_eq!(series.micros.get(), 120_002_002);
    }

    #[test]
    fn the_longest_duration_there_is_does_not_panic() {
        let series = VersionSeries::default();
        series.request(Some(Reason::Random), 200, Duration::MAX);
        series.request(Some(Reason::Random), 200, Duration::MAX);
        assert_eq!(series.buckets[BOUNDS.len()].get(), 2);
    }

    #[test]
    fn reasons_and_problems_have_the_places_that_their_lists_give_them() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, problem) in OverrideProblem::ALL.into_iter().enumerate() {
            assert_eq!(problem as usize, index);
        }
    }

    #[test]
    fn durations_are_rounded_to_the_nearest_microsecond() {
        let series = VersionSeries::default();
        series.request(None, 200, Duration::from_nanos(1_499));
        series.request(None, 200, Duration::from_nanos(1_500));
        assert_eq!(series.micros.get(), 3);
    }
}
