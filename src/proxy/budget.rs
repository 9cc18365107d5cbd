//! How many requests may be sent a second time: one in five, and ten a second.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Instant;

use crate::model::name::WorkerName;

/// One shard's budgets.
#[derive(Default)]
pub(super) struct Budgets(RefCell<HashMap<WorkerName, Weak<Budget>>>);

impl Budgets {
    /// A worker's budget: the one that there is, or a new one.
    pub(super) fn of(&self, worker: &WorkerName) -> Rc<Budget> {
        let mut all = self.0.borrow_mut();
        if let Some(budget) = all.get(worker).and_then(Weak::upgrade) {
            return budget;
        }
        // Those of workers that are gone leave with the arrival of a new one.
        all.retain(|_, budget| budget.strong_count() > 0);
        let budget = Rc::new(Budget::new(Instant::now()));
        all.insert(worker.clone(), Rc::downgrade(&budget));
        budget
    }
}

/// One worker's budget on one shard; it goes on over reloads. In thousandths of a retry.
pub(super) struct Budget {
    balance: Cell<u64>,
    /// Requests that were not counted into the balance yet.
    requests: Cell<u64>,
    since: Cell<Instant>,
}

/// What one retry costs.
const RETRY: u64 = 1000;
/// What each request adds.
const REQUEST: u64 = 200;
/// What each millisecond adds.
const MILLISECOND: u64 = 10;
/// What there is at first: that of a second.
const FIRST: u64 = 1000 * MILLISECOND;
/// The most that is saved up in quiet times.
const MOST: u64 = 1000 * RETRY;

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { balance: Cell::new(FIRST), requests: Cell::new(0), since: Cell::new(now) }
    }

    /// Counts a request.
    pub(super) fn request(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// Takes what one retry costs; whether it was there.
    pub(super) fn take(&self, now: Instant) -> bool {
        let millis = now.saturating_duration_since(self.since.get()).as_millis();
        let earned = u64::try_from(millis).unwrap_or(u64::MAX).saturating_mul(MILLISECOND);
        let earned = earned.saturating_add(self.requests.take().saturating_mul(REQUEST));
        if millis > 0 {
            self.since.set(now);
        }
        let balance = self.balance.get().saturating_add(earned).min(MOST);
        let affordable = balance >= RETRY;
        self.balance.set(if affordable { balance - RETRY } else { balance });
        affordable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// How many of so many retries are affordable.
    fn taken(budget: &Budget, now: Instant, wanted: usize) -> usize {
        (0..wanted).filter(|_| budget.take(now)).count()
    }

    #[test]
    fn one_in_five_requests_and_ten_a_second() {
        let now = Instant::now();
        let budget = Budget::new(now);
        assert_eq!(taken(&budget, now, 1000), 10);
        (0..1000).for_each(|_| budget.request());
        assert_eq!(taken(&budget, now, 1000), 200);
        assert_eq!(taken(&budget, now + Duration::from_secs(3), 1000), 30);
    }

    #[test]
    fn not_everything_is_saved_up() {
        let now = Instant::now();
        let budget = Budget::new(now);
        (0..1_000_000).for_each(|_| budget.request());
        assert_eq!(taken(&budget, now + Duration::from_secs(86_400), 5000), 1000);
    }
}
