//! What a shard remembers of assets that versions have not got: where else they were, and that nobody had them.
//!
//! Paths are many and come from anybody. So what is remembered is bounded by number, of each path only a hash of 128 bits is
//! kept, under keys that nobody knows, and all of it ends by itself: no path is ever bound to a version for good.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::model::ring::Member;

/// One worker's memory of assets, on one shard, within one generation.
#[derive(Default)]
pub(super) struct Memory {
    keys: [RandomState; 2],
    found: Generations<(Member, Instant)>,
    missed: Generations<Instant>,
}

/// An asset: its host and path, without the query.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Place<'a> {
    pub(super) host: &'a [u8],
    pub(super) path: &'a str,
}

/// How long it is remembered which version had an asset that another had not. Then that one is asked again.
const FOUND: Duration = Duration::from_secs(60);
/// How long it is remembered that nobody had an asset.
const MISSED: Duration = Duration::from_secs(10);
/// The same, where some version could not say.
const UNSURE: Duration = Duration::from_secs(1);

impl Memory {
    /// The version that had an asset when this one had not.
    pub(super) fn found(&self, place: Place<'_>, missed: Member, now: Instant) -> Option<Member> {
        if self.found.is_empty() {
            return None;
        }
        let (member, until) = self.found.get(self.key((place, missed)))?;
        (now < *until).then_some(*member)
    }

    /// Remembers which version had an asset that this one had not.
    pub(super) fn remember_found(&mut self, place: Place<'_>, missed: Member, by: Member, now: Instant) {
        self.found.insert(self.key((place, missed)), (by, now + FOUND));
    }

    /// Forgets which version had an asset: it has not got it any more, or does not answer.
    pub(super) fn forget_found(&mut self, place: Place<'_>, missed: Member) {
        self.found.remove(self.key((place, missed)));
    }

    /// Whether nobody had an asset a moment ago.
    pub(super) fn is_missed(&self, place: Place<'_>, now: Instant) -> bool {
        !self.missed.is_empty() && self.missed.get(self.key(place)).is_some_and(|until| now < *until)
    }

    /// Remembers that nobody had an asset; `surely`: every version has said so.
    pub(super) fn remember_missed(&mut self, place: Place<'_>, surely: bool, now: Instant) {
        self.missed.insert(self.key(place), now + if surely { MISSED } else { UNSURE });
    }

    fn key(&self, what: impl std::hash::Hash) -> u128 {
        let [high, low] = [0, 1].map(|at: usize| u128::from(self.keys[at].hash_one(&what)));
        high << 64 | low
    }
}

/// A map of bounded size: when the young generation is full it becomes the old one, and what was old is forgotten.
struct Generations<V> {
    young: HashMap<u128, V>,
    old: HashMap<u128, V>,
}

/// The most of one generation.
const GENERATION: usize = 2048;

impl<V> Default for Generations<V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<V> Generations<V> {
    fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    fn get(&self, key: u128) -> Option<&V> {
        self.young.get(&key).or_else(|| self.old.get(&key))
    }

    fn insert(&mut self, key: u128, value: V) {
        self.old.remove(&key);
        if self.young.len() >= GENERATION && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn remove(&mut self, key: u128) {
        self.young.remove(&key);
        self.old.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ring::Ring;
    use crate::model::share::Share;

    fn members() -> (Member, Member) {
        let half = Share::from_thousandths(50_000).unwrap();
        let ring = Ring::cumulative(b"w", &[half, half]).unwrap();
        (ring.member(0).unwrap(), ring.member(1).unwrap())
    }

    fn place(path: &str) -> Place<'_> {
        Place { host: b"example.com", path }
    }

    fn seconds(count: f64) -> Duration {
        Duration::from_secs_f64(count)
    }

    #[test]
    fn where_an_asset_was_is_known_for_this_host_path_and_version_and_for_a_minute() {
        let ((a, b), now) = (members(), Instant::now());
        let mut memory = Memory::default();
        memory.remember_found(place("/x.js"), a, b, now);
        assert_eq!(memory.found(place("/x.js"), a, now + seconds(59.9)), Some(b));
        assert_eq!(memory.found(place("/x.js"), b, now), None);
        assert_eq!(memory.found(place("/y.js"), a, now), None);
        assert_eq!(memory.found(Place { host: b"other", path: "/x.js" }, a, now), None);
        assert_eq!(memory.found(place("/x.js"), a, now + seconds(60.0)), None);
        memory.forget_found(place("/x.js"), a);
        assert_eq!(memory.found(place("/x.js"), a, now), None);
    }

    #[test]
    fn that_nobody_had_an_asset_is_known_for_ten_seconds_and_for_one_where_not_all_have_said_so() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.remember_missed(place("/x.js"), true, now);
        memory.remember_missed(place("/y.js"), false, now);
        assert!(memory.is_missed(place("/x.js"), now + seconds(9.9)));
        assert!(!memory.is_missed(place("/x.js"), now + seconds(10.0)));
        assert!(memory.is_missed(place("/y.js"), now + seconds(0.9)));
        assert!(!memory.is_missed(place("/y.js"), now + seconds(1.0)));
        assert!(!memory.is_missed(place("/z.js"), now));
    }

    #[test]
    fn a_flood_of_random_paths_fills_a_bounded_room_and_the_last_ones_are_known() {
        let ((a, b), now) = (members(), Instant::now());
        let mut memory = Memory::default();
        let path = |number: usize| format!("/{number}.js");
        for number in 0..100_000 {
            memory.remember_missed(place(&path(number)), true, now);
            memory.remember_found(place(&path(number)), a, b, now);
            assert!(memory.missed.young.len() <= GENERATION && memory.missed.old.len() <= GENERATION);
            assert!(memory.found.young.len() <= GENERATION && memory.found.old.len() <= GENERATION);
        }
        for number in 100_000 - GENERATION..100_000 {
            assert!(memory.is_missed(place(&path(number)), now), "{number}");
            assert_eq!(memory.found(place(&path(number)), a, now), Some(b), "{number}");
        }
        assert!(!memory.is_missed(place(&path(0)), now));
    }

    #[test]
    fn what_is_said_again_is_there_once_and_what_is_forgotten_not_at_all() {
        let mut map = Generations::default();
        for round in 0..3 {
            (0..GENERATION as u128).for_each(|key| map.insert(key, round));
        }
        assert_eq!((map.young.len(), map.old.len()), (GENERATION, 0));
        map.insert(u128::MAX, 3);
        map.insert(7, 4);
        assert_eq!((map.get(7), map.old.len(), map.young.len()), (Some(&4), GENERATION - 1, 2));
        map.remove(7);
        map.remove(8);
        assert_eq!((map.get(7), map.get(8), map.get(9)), (None, None, Some(&2)));
    }
}
