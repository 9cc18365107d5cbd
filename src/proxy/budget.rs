//! How many requests may be sent a second time: for each worker, over all threads, one for every five requests and ten a
//! second. What is not spent goes again within about ten seconds. Linkerd's retry budget has these three figures, too. Assets
//! that a version has not got are asked of others within a budget of their own (`super::assets`), of the same figures: then
//! its requests are those for assets, and its retries what is asked of other versions. What a search that found its asset has
//! taken is given back (`Toll`); while others may still give back, and once it has begun, it takes on credit.
//!
//! A request costs an addition to its shard's own tally. The tallies are added up only when a retry is wanted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::model::name::WorkerName;

/// The budgets of all workers. Lives on the control thread.
#[derive(Debug)]
pub(super) struct Budgets {
    of: HashMap<WorkerName, Weak<Budget>>,
    /// What a new one has at first.
    first: i64,
}

impl Budgets {
    /// Those for sending requests again.
    pub(super) fn of_retries() -> Self {
        Self { of: HashMap::new(), first: 1000 * MILLISECOND }
    }

    /// Those for asking other versions for assets. They begin with all that time brings: a page of many files may be what is
    /// asked for first.
    pub(super) fn of_assets() -> Self {
        Self { of: HashMap::new(), first: STAYS * MILLISECOND }
    }

    /// The budgets of a configuration's workers on so many shards, in its order.
    pub(super) fn of_all(&mut self, config: &Config, shards: usize) -> Vec<Arc<Budget>> {
        config.workers.iter().map(|worker| self.of(&worker.policy.name, shards)).collect()
    }

    /// A worker's budget: the one that there is where a configuration in use has the worker, or else a new one.
    fn of(&mut self, worker: &WorkerName, shards: usize) -> Arc<Budget> {
        self.of.retain(|_, budget| budget.strong_count() > 0);
        if let Some(budget) = self.of.get(worker).and_then(Weak::upgrade) {
            return budget;
        }
        let budget = Arc::new(Budget::new(shards, self.first, Instant::now()));
        self.of.insert(worker.clone(), Arc::downgrade(&budget));
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
    /// In millionths of a retry: what goes in a millisecond is little. Below 0 is what was taken on credit.
    balance: i64,
    /// How many retries were taken that may be given back.
    held: i64,
    /// Up to when, and up to how many requests, it was earned.
    until: Instant,
    requests: u64,
}

/// What one retry costs.
const RETRY: i64 = 1_000_000;
/// What each request adds.
const REQUEST: i64 = RETRY / 5;
/// What each millisecond adds.
const MILLISECOND: i64 = 10 * RETRY / 1000;
/// For about so many milliseconds what is not spent stays: then there is never more than so much time brings.
const STAYS: i64 = 10_000;
/// The most that is taken on credit: three times what time brings, so that as many searches as that come to their end, the
/// fourth version.
const CREDIT: i64 = 3 * STAYS * MILLISECOND;

impl Budget {
    fn new(shards: usize, first: i64, now: Instant) -> Self {
        let ledger = Ledger { balance: first, held: 0, until: now, requests: 0 };
        Self { tallies: (0..shards).map(|_| Arc::default()).collect(), ledger: Mutex::new(ledger) }
    }

    /// Where a shard counts the worker's requests.
    pub(super) fn tally(&self, shard: usize) -> Arc<Tally> {
        self.tallies.get(shard).cloned().unwrap_or_default()
    }

    /// Takes what one retry costs; whether it was there.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut ledger = self.earned(now);
        let affordable = ledger.balance >= RETRY;
        if affordable {
            ledger.balance -= RETRY;
        }
        affordable
    }

    fn earned(&self, now: Instant) -> MutexGuard<'_, Ledger> {
        // A panic of another holder leaves a ledger that is at most a retry off.
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = self.tallies.iter().map(|tally| tally.0.load(Ordering::Relaxed));
        ledger.earn(now, requests.fold(0, u64::wrapping_add));
        ledger
    }
}

/// What a search takes of a budget while it goes on. What it does not give back is spent when it is dropped.
#[derive(Debug)]
pub(super) struct Toll {
    budget: Arc<Budget>,
    /// How many retries it has taken, and since when.
    count: i64,
    since: Instant,
}

impl Toll {
    pub(super) fn of(budget: &Arc<Budget>, now: Instant) -> Self {
        Self { budget: Arc::clone(budget), count: 0, since: now }
    }

    /// Takes what one more retry costs; whether it may. The first one must be there, if all others that have taken gave it
    /// back.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let mut ledger = self.budget.earned(now);
        let hoped = ledger.balance.saturating_add(ledger.held.saturating_mul(RETRY));
        let affordable = ledger.balance >= RETRY - CREDIT && (self.count > 0 || hoped >= RETRY);
        if affordable {
            ledger.balance -= RETRY;
            ledger.held += 1;
            if self.count == 0 {
                self.since = now;
            }
            self.count += 1;
        }
        affordable
    }

    /// Gives back all that was taken, or one at the most. As much as would have gone since then is kept, so that there is
    /// never more than if it had not been taken.
    pub(super) fn give_back(&mut self, all: bool, now: Instant) {
        let count = if all { self.count } else { self.count.min(1) };
        if count == 0 {
            return;
        }
        // Whole ones are what the ledger counts: between two moments there may be one more.
        let elapsed = milliseconds(now.saturating_duration_since(self.since)).saturating_add(1);
        let left = STAYS.saturating_sub(elapsed).max(0);
        let mut ledger = self.budget.earned(now);
        ledger.balance = ledger.balance.saturating_add(count * RETRY * left / STAYS);
        ledger.held -= count;
        self.count -= count;
    }
}

impl Drop for Toll {
    fn drop(&mut self) {
        if self.count > 0 {
            let mut ledger = self.budget.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.held -= self.count;
        }
    }
}

impl Ledger {
    fn earn(&mut self, now: Instant, requests: u64) {
        let elapsed = milliseconds(now.saturating_duration_since(self.until));
        let new = i64::try_from(requests.wrapping_sub(self.requests)).unwrap_or(i64::MAX);
        let earned = elapsed.saturating_mul(MILLISECOND).saturating_add(new.saturating_mul(REQUEST));
        // What is owed does not go with time.
        let (balance, owed) = (self.balance.max(0), self.balance.min(0));
        self.balance = if elapsed <= STAYS {
            (balance.saturating_mul(STAYS - elapsed) / STAYS + owed).saturating_add(earned)
        } else {
            // When the requests came is not known: as much of them counts as of the time.
            (earned / elapsed * STAYS).min(earned.saturating_add(owed))
        };
        // Not `now`: what is left of a millisecond counts the next time.
        self.until += Duration::from_millis(elapsed.unsigned_abs());
        self.requests = requests;
    }
}

/// The whole milliseconds of a time.
fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn budget() -> (Budget, Instant) {
        let now = Instant::now();
        (Budget::new(4, 1000 * MILLISECOND, now), now)
    }

    /// One for assets.
    fn full() -> (Arc<Budget>, Instant) {
        let now = Instant::now();
        (Arc::new(Budget::new(4, STAYS * MILLISECOND, now)), now)
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
        let mut budgets = Budgets::of_retries();
        let name = |name| WorkerName::new(name).unwrap();
        let first = budgets.of(&name("shop"), 2);
        assert!(Arc::ptr_eq(&first, &budgets.of(&name("shop"), 2)));
        assert!(!Arc::ptr_eq(&first, &budgets.of(&name("other"), 2)));
        assert!(taken(&first, Instant::now(), 1000) >= 10);
        drop(first);
        assert_eq!(taken(&budgets.of(&name("shop"), 2), Instant::now(), 10), 10);
        assert_eq!(budgets.of.len(), 1);
        assert_eq!(taken(&Budgets::of_assets().of(&name("shop"), 2), Instant::now(), 100), 100);
    }

    /// A search that has begun, where it may, and wants so many in all.
    fn search(budget: &Arc<Budget>, now: Instant, wanted: usize) -> Toll {
        let mut toll = Toll::of(budget, now);
        for _ in 0..wanted {
            toll.take(now);
        }
        toll
    }

    #[test]
    fn what_is_given_back_at_once_is_there_again_and_after_ten_seconds_it_is_gone() {
        let (budget, now) = full();
        for _ in 0..10 {
            let mut toll = search(&budget, now, 90);
            assert_eq!(toll.count, 90);
            toll.give_back(true, now);
        }
        // Each time without the millisecond that the ledger may have counted more.
        let mut toll = search(&budget, now, 99);
        assert!(!budget.take(now));
        toll.give_back(true, now + seconds(5));
        assert_eq!(taken(&budget, now + seconds(5), 1000), 99);
        let (budget, now) = full();
        let mut toll = search(&budget, now, 100);
        toll.give_back(true, now + seconds(10));
        assert_eq!(taken(&budget, now + seconds(10), 1000), 100);
        let (budget, now) = full();
        let mut toll = search(&budget, now, 100);
        toll.give_back(true, now + seconds(3600));
        assert_eq!(taken(&budget, now + seconds(3600), 1000), 100);
    }

    #[test]
    fn many_that_may_give_back_go_on_at_once_and_what_they_do_not_is_earned_before_another_begins() {
        let (budget, now) = full();
        let mut all: Vec<_> = (0..500).map(|_| search(&budget, now, 1)).collect();
        assert_eq!(all.iter().map(|toll| toll.count).sum::<i64>(), 400);
        // Half of them find what they look for.
        all.truncate(400);
        all.iter_mut().step_by(2).for_each(|toll| toll.give_back(true, now));
        drop(all);
        assert_eq!(search(&budget, now + seconds(10), 1).count, 0);
        assert_eq!(search(&budget, now + seconds(11), 1).count, 1);
    }

    #[test]
    fn one_that_has_begun_comes_to_its_end_on_credit() {
        let (budget, now) = full();
        assert_eq!(taken(&budget, now, 99), 99);
        assert_eq!(search(&budget, now, 4).count, 4);
        // That one has found nothing.
        assert_eq!(search(&budget, now, 4).count, 0);
        assert_eq!(search(&budget, now + seconds(1), 4).count, 4);
    }

    #[test]
    fn what_is_owed_does_not_go_with_time_and_is_earned() {
        let owing = || {
            let (budget, now) = full();
            assert_eq!(search(&budget, now, 1000).count, 400);
            (budget, now)
        };
        let (budget, now) = owing();
        assert!(!budget.take(now + seconds(30)) && budget.take(now + seconds(31)));
        let (budget, now) = owing();
        (1..=35).for_each(|second| drop(budget.earned(now + seconds(second))));
        // What was earned beyond it goes, where somebody looks.
        assert_eq!(taken(&budget, now + seconds(35), 1000), 40);
        let (budget, now) = owing();
        assert_eq!(taken(&budget, now + seconds(35), 1000), 50);
        let (budget, now) = owing();
        assert_eq!(taken(&budget, now + seconds(3600), 1000), 100);
    }

    /// One thing that happens to a budget, after so many milliseconds.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Requests(usize),
        /// So many are taken, and given back after some of the events that follow.
        Found(usize, usize),
        /// So many are taken for nothing.
        Lost(usize),
    }

    fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
        let event = prop_oneof![
            (0..50_usize).prop_map(Event::Requests),
            (1..30_usize, 0..6_usize).prop_map(|(count, later)| Event::Found(count, later)),
            (1..30_usize).prop_map(Event::Lost),
        ];
        let elapsed = prop_oneof![4 => 0..50_u64, 2 => 0..3000_u64, 1 => 0..30_000_u64];
        prop::collection::vec((elapsed, event), 1..60)
    }

    proptest! {
        #[test]
        fn whatever_is_found_no_more_is_lost_than_requests_and_time_have_brought(events in events()) {
            let (budget, mut now) = full();
            let begun = now;
            let (mut lost, mut sent) = (0, 0);
            let mut held: Vec<(usize, Toll)> = Vec::new();
            for (at, (elapsed, event)) in events.into_iter().enumerate() {
                now += Duration::from_millis(elapsed);
                match event {
                    Event::Requests(count) => {
                        requests(&budget, count);
                        sent += count;
                    }
                    Event::Found(count, later) => held.push((at + later, search(&budget, now, count))),
                    Event::Lost(count) => lost += search(&budget, now, count).count,
                }
                let over = held.extract_if(.., |(until, _)| *until <= at);
                over.for_each(|(_, mut toll)| toll.give_back(true, now));
                let time = (now - begun).as_millis();
                let most = 100 + 300 + sent / 5 + usize::try_from(time).unwrap() / 100 + 1;
                prop_assert!(lost <= i64::try_from(most).unwrap(), "{lost} of {sent} in {time} ms");
                let under_way: i64 = held.iter().map(|(_, toll)| toll.count).sum();
                prop_assert_eq!(budget.ledger.lock().unwrap().held, under_way);
            }
        }

        #[test]
        fn what_was_given_back_is_never_more_than_had_it_not_been_taken(
            events in prop::collection::vec((0..4000_u64, 0..30_usize, 1..20_usize, 0..5_usize), 1..40),
        ) {
            // Nothing is taken of one of them; of the other all is given back.
            let ((plain, mut now), (used, _)) = (full(), full());
            let mut held: Vec<(usize, Toll)> = Vec::new();
            plain.ledger.lock().unwrap().until = now;
            used.ledger.lock().unwrap().until = now;
            for (at, (elapsed, count, wanted, later)) in events.into_iter().enumerate() {
                now += Duration::from_micros(elapsed * 1000 + 300);
                for budget in [&plain, &used] {
                    requests(budget, count);
                }
                held.push((at + later, search(&used, now, wanted)));
                let over = held.extract_if(.., |(until, _)| *until <= at);
                over.for_each(|(_, mut toll)| toll.give_back(true, now));
                let [plain, used] = [&plain, &used].map(|budget| budget.earned(now).balance);
                // Each event rounds by less than a millionth.
                prop_assert!(used <= plain + 100, "{used} of {plain}");
            }
        }
    }
}
