//! Which of a version's endpoints a request goes to.

use std::rc::Rc;
use std::time::Instant;

use super::ejection::{Fitness, Trial};
use super::upstream::Endpoint;

/// The endpoint that a request goes to.
pub(super) struct Choice {
    pub(super) endpoint: Rc<Endpoint>,
    /// The endpoint is ejected, and this request tries it.
    pub(super) trial: Option<Trial>,
}

impl Choice {
    pub(super) fn plain(endpoint: &Rc<Endpoint>) -> Self {
        Self { endpoint: Rc::clone(endpoint), trial: None }
    }

    /// One that may be ejected: then the request is its trial, if it has none.
    fn of(endpoint: &Rc<Endpoint>) -> Self {
        Self { endpoint: Rc::clone(endpoint), trial: Trial::begin(endpoint.standing()) }
    }

    /// The endpoint has answered; whether that brought it back.
    pub(super) fn answered(&mut self) -> bool {
        self.endpoint.standing().ejection.succeeded();
        self.trial.take().map(|trial| trial.succeeded(Instant::now())).is_some()
    }

    /// The endpoint has failed; whether that ejected it, or did so again. It is not ejected as the last of `all`.
    pub(super) fn failed(&mut self, all: &[Rc<Endpoint>], jitter: u64) -> bool {
        let now = Instant::now();
        if let Some(trial) = self.trial.take() {
            return trial.failed(now, jitter);
        }
        let standing = self.endpoint.standing();
        let is_other = |other: &&Rc<Endpoint>| !Rc::ptr_eq(other, &self.endpoint);
        let serves =
            |other: &Rc<Endpoint>| matches!(other.standing().fitness(now), Fitness::Full | Fitness::Part(_));
        standing.ejection.failed(now, all.iter().filter(is_other).any(serves), jitter)
    }
}

/// The less loaded of two random endpoints; `draw` decides which two. Those that are down or ejected are left out, as long
/// as there are others. `once`: whether the request can be sent only once. `None` where there are none, or the health checks
/// say of all that they are down.
pub(super) fn choose(endpoints: &[Rc<Endpoint>], draw: u64, once: bool) -> Option<Choice> {
    let (first, second) = two(endpoints, draw)?;
    if first.standing().is_settled() && second.standing().is_settled() {
        return Some(Choice::plain(less_loaded(first, second)));
    }
    let all: Vec<_> = endpoints.iter().collect();
    choose_carefully(&all, draw, once, Instant::now())
}

/// The same, but for those that were tried already.
pub(super) fn choose_other(
    endpoints: &[Rc<Endpoint>],
    tried: &[Rc<Endpoint>],
    draw: u64,
    once: bool,
) -> Option<Choice> {
    let is_new = |one: &&Rc<Endpoint>| !tried.iter().any(|old| Rc::ptr_eq(old, one));
    let left: Vec<_> = endpoints.iter().filter(is_new).collect();
    choose_carefully(&left, draw, once, Instant::now())
}

fn two<T>(all: &[T], draw: u64) -> Option<(&T, &T)> {
    let count = all.len() as u64;
    let (first, second) = match count {
        0 => return None,
        1 => (0, 0),
        _ => {
            let first = (draw & u64::from(u32::MAX)) % count;
            (first, (first + 1 + (draw >> 32) % (count - 1)) % count)
        }
    };
    let at = |index: u64| usize::try_from(index).ok().and_then(|index| all.get(index));
    Some((at(first)?, at(second)?))
}

fn less_loaded<'a>(first: &'a Rc<Endpoint>, second: &'a Rc<Endpoint>) -> &'a Rc<Endpoint> {
    if second.load() < first.load() { second } else { first }
}

/// Where some are not as they should be.
///
/// What is ejected is tried by a request that can be sent once more if that fails; by one that cannot, only where no other
/// has come for a while.
#[cold]
fn choose_carefully(endpoints: &[&Rc<Endpoint>], draw: u64, once: bool, now: Instant) -> Option<Choice> {
    let mut random = fastrand::Rng::with_seed(draw);
    // From those that should be asked to those that are asked only where there is nobody else.
    let [mut fit, mut slow, mut ejected] = [const { Vec::new() }; 3];
    for &endpoint in endpoints {
        let standing = endpoint.standing();
        match standing.fitness(now) {
            Fitness::Full => fit.push(endpoint),
            Fitness::Part(part) if random.u32(..1000) < part => fit.push(endpoint),
            Fitness::Part(_) => slow.push(endpoint),
            Fitness::Due if once && !standing.ejection.is_overdue(now) => ejected.push(endpoint),
            Fitness::Due => match Trial::begin(standing) {
                Some(trial) => return Some(Choice { endpoint: Rc::clone(endpoint), trial: Some(trial) }),
                None => ejected.push(endpoint),
            },
            Fitness::Out if standing.is_only_ejected() => ejected.push(endpoint),
            // By its health checks.
            Fitness::Out => {}
        }
    }
    for some in [&fit, &slow] {
        if let Some((first, second)) = two(some, random.u64(..)) {
            return Some(Choice::plain(less_loaded(first, second)));
        }
    }
    two(&ejected, random.u64(..)).map(|(first, second)| Choice::of(less_loaded(first, second)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn endpoints(loads: &[u32]) -> Vec<Rc<Endpoint>> {
        loads.iter().map(|&load| Rc::new(Endpoint::under_load(load))).collect()
    }

    #[test]
    fn of_two_random_endpoints_the_less_loaded_is_chosen() {
        let two = endpoints(&[5, 3]);
        for draw in 0..100 {
            let chosen = choose(&two, fastrand::Rng::with_seed(draw).u64(..), false).unwrap().endpoint;
            assert_eq!(chosen.load(), 3);
        }
    }

    #[test]
    fn the_most_loaded_of_all_is_never_chosen_and_all_others_are() {
        let many = endpoints(&[0, 1, 2, 3, 9]);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut seen = [0; 10];
        for _ in 0..10_000 {
            seen[choose(&many, rng.u64(..), false).unwrap().endpoint.load() as usize] += 1;
        }
        assert_eq!(seen[9], 0);
        assert!(seen[..4].iter().all(|&count| count > 500), "{seen:?}");
        assert!(seen[0] > seen[3]);
    }

    #[test]
    fn without_endpoints_there_is_no_choice() {
        assert!(choose(&[], 1, false).is_none());
    }

    /// Whether a request so many seconds after an ejection tries what was ejected, beside an endpoint that is well.
    fn is_trial(once: bool, seconds: u64) -> bool {
        let (both, now) = (endpoints(&[0, 0]), Instant::now());
        let ejected = &both[0];
        assert!((0..5).any(|_| ejected.standing().ejection.failed(now, true, 0)));
        let all: Vec<_> = both.iter().collect();
        let choice = choose_carefully(&all, 1, once, now + Duration::from_secs(seconds)).unwrap();
        assert_eq!(choice.trial.is_some(), Rc::ptr_eq(&choice.endpoint, ejected));
        choice.trial.is_some()
    }

    #[test]
    fn what_is_ejected_is_tried_by_a_request_that_can_be_sent_again_and_by_another_only_where_none_comes() {
        assert!(!is_trial(false, 29) && is_trial(false, 31));
        assert!(!is_trial(true, 31) && !is_trial(true, 59) && is_trial(true, 61));
    }

    #[test]
    fn where_nothing_else_is_left_any_request_tries_what_is_ejected() {
        let (one, now) = (endpoints(&[0]), Instant::now());
        assert!((0..5).any(|_| one[0].standing().ejection.failed(now, true, 0)));
        let choice = choose_carefully(&[&one[0]], 1, true, now + Duration::from_secs(31)).unwrap();
        assert!(choice.trial.is_some());
    }
}
