//! How many requests may be sent a second time: for each worker, over all threads, one for every five requests and ten a
//! second. What is not spent goes again within about ten seconds. Linkerd's retry budget has these three figures, too. Assets
//! that a version has not got are asked of others within a budget of their own (`super::assets`), of the same figures: then
//! its requests are those for assets, and its retries what is asked of other versions.
//!
//! A request costs an addition to its shard's own tally. The tallies are added up only when a retry is wanted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::model::name::WorkerName;

/// The budgets of all workers. Lives on the control thread.
#[derive(Debug, Default)]
pub(super) struct Budgets(HashMap<WorkerName, Weak<Budget>>);

impl Budgets {
    /// The budgets of a configuration's workers on so many shards, in its order.
    pub(super) fn of_all(&mut self, config: &Config, shards: usize) -> Vec<Arc<Budget>> {
        config.workers.iter().map(|worker| self.of(&worker.policy.name, shards)).collect()
    }

    /// A worker's budget: the one that there is where a configuration in use has the worker, or else a new one.
    fn of(&mut self, worker: &WorkerName, shards: usize) -> Arc<Budget> {
        self.0.retain(|_, budget| budget.strong_count() > 0);
        if let Some(budget) = self.0.get(worker).and_then(Weak::upgrade) {
            return budget;
        }
        let budget = Arc::new(Budget::new(shards, Instant::now()));
        self.0.insert(worker.clone(), Arc::downgrade(&budget));
        budget
    }
}

/// One worker's budget.
#[derive(Debug)]
pub(super) struct Budget {
    /// By shard.
    tallies: Box<[Arc<Tally>]>,
    /// Locked only when a retry is wanted, for some nanoseconds: the connection that it is to have costs far more.
    ledger: Mutex<Ledger>,
}

/// The requests of one worker on one shard, which is the only writer. On cache lines of its own (two, as processors fetch
/// them in pairs), so that shards do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Tally(AtomicU64);

impl Tally {
    /// Counts a request. With one writer no locked instruction is needed.
    pub(super) fn request(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// What can be spent.
#[derive(Debug)]
struct Ledger {
    /// In millionths of a retry: what goes in a millisecond is little.
    balance: u64,
    /// Up to when, and up to how many requests, it was earned.
    until: Instant,
    requests: u64,
}

/// What one retry costs.
const RETRY: u64 = 1_000_000;
/// What each request adds.
const REQUEST: u64 = RETRY / 5;
/// What each millisecond adds.
const MILLISECOND: u64 = 10 * RETRY / 1000;
/// What there is at first: that of a second.
const FIRST: u64 = 1000 * MILLISECOND;
/// For about so many milliseconds what is not spent stays: then there is never more than so much time brings.
const STAYS: u64 = 10_000;

impl Budget {
    fn new(shards: usize, now: Instant) -> Self {
        let ledger = Ledger { balance: FIRST, until: now, requests: 0 };
        Self { tallies: (0..shards).map(|_| Arc::default()).collect(), ledger: Mutex::new(ledger) }
    }

    /// Where a shard counts the worker's requests.
    pub(super) fn tally(&self, shard: usize) -> Arc<Tally> {
        self.tallies.get(shard).cloned().unwrap_or_default()
    }

    /// Takes what one retry costs; whether it was there.
    pub(super) fn take(&self, now: Instant) -> bool {
        // A panic of another holder leaves a ledger that is at most a retry off.
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = self.tallies.iter().map(|tally| tally.0.load(Ordering::Relaxed));
        ledger.earn(now, requests.fold(0, u64::wrapping_add));
        let affordable = ledger.balance >= RETRY;
        if affordable {
            ledger.balance -= RETRY;
        }
        affordable
    }
}

impl Ledger {
    fn earn(&mut self, now: Instant, requests: u64) {
        let elapsed = now.saturating_duration_since(self.until).as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let new = requests.wrapping_sub(self.requests);
        let earned = elapsed.saturating_mul(MILLISECOND).saturating_add(new.saturating_mul(REQUEST));
        self.balance = match STAYS.checked_sub(elapsed) {
            Some(left) => (self.balance.saturating_mul(left) / STAYS).saturating_add(earned),
            // When the requests came is not known: as much of them counts as of the time.
            None => earned / elapsed * STAYS,
        };
        // Not `now`: what is left of a millisecond counts the next time.
        self.until += Duration::from_millis(elapsed);
        self.requests = requests;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn budget() -> (Budget, Instant) {
        let now = Instant::now();
        (Budget::new(4, now), now)
    }

    /// So many requests, spread over all shards.
    fn requests(budget: &Budget, count: usize) {
        (0..count).for_each(|at| budget.tally(at % 4).request());
    }

    /// How many of so many retries are affordable.
    fn taken(budget: &Budget, now: Instant, wanted: usize) -> usize {
        (0..wanted).filter(|_| budget.take(now)).count()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn one_in_five_requests_and_ten_a_second_of_all_shards_together() {
        let (budget, now) = budget();
        assert_eq!(taken(&budget, now, 1000), 10);
        requests(&budget, 1000);
        assert_eq!(taken(&budget, now, 1000), 200);
        assert_eq!(taken(&budget, now + seconds(3), 1000), 30);
    }

    #[test]
    fn threads_that_want_retries_at_once_get_no_more_than_there_are_and_no_fewer() {
        let (budget, now) = budget();
        let all = |now: Instant| {
            thread::scope(|scope| {
                let each = |shard| {
                    let budget = &budget;
                    scope.spawn(move || {
                        (0..250).for_each(|_| budget.tally(shard).request());
                        taken(budget, now, 500)
                    })
                };
                let threads: Vec<_> = (0..4).map(each).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
            })
        };
        assert_eq!(all(now), 10 + 200);
        assert_eq!(all(now + seconds(1)), 10 + 200);
    }

    #[test]
    fn a_second_brings_ten_however_often_it_is_asked() {
        let (budget, now) = budget();
        assert_eq!(taken(&budget, now, 1000), 10);
        let taken: usize = (0..5000).map(|at| taken(&budget, now + Duration::from_micros(at * 700), 5)).sum();
        // In three and a half seconds.
        assert!((34..=35).contains(&taken), "{taken}");
    }

    #[test]
    fn after_an_idle_night_there_is_what_ten_seconds_bring() {
        let (budget, now) = budget();
        assert_eq!(taken(&budget, now + seconds(8 * 3600), 5000), 100);
        // Nor is more of a day with requests saved up than ten seconds of its mean.
        requests(&budget, 10 * 16 * 3600);
        assert_eq!(taken(&budget, now + seconds(24 * 3600), 5000), 100 + 20);
    }

    #[test]
    fn what_is_not_spent_is_at_most_what_ten_seconds_bring_however_often_it_is_asked() {
        let (budget, mut now) = budget();
        for _ in 0..10_000 {
            now += Duration::from_millis(10);
            requests(&budget, 10);
            assert!(taken(&budget, now, 1) == 1);
        }
        // In ten seconds 2,100, of which 1,000 were spent.
        let left = taken(&budget, now, 5000);
        assert!((1090..=1100).contains(&left), "{left}");
    }

    #[test]
    fn a_worker_keeps_its_budget_for_as_long_as_a_configuration_has_it() {
        let mut budgets = Budgets::default();
        let name = |name| WorkerName::new(name).unwrap();
        let first = budgets.of(&name("shop"), 2);
        assert!(Arc::ptr_eq(&first, &budgets.of(&name("shop"), 2)));
        assert!(!Arc::ptr_eq(&first, &budgets.of(&name("other"), 2)));
        assert!(taken(&first, Instant::now(), 1000) >= 10);
        drop(first);
        assert_eq!(taken(&budgets.of(&name("shop"), 2), Instant::now(), 10), 10);
        assert_eq!(budgets.0.len(), 1);
    }
}
