//! What a shard remembers of assets that versions have not got: where else they were, and that nobody had them.
//!
//! Paths are many and come from anybody. So what is remembered is bounded by number, of each path only a hash of 128 bits is
//! kept, under keys that nobody knows. What is remembered says who is asked first when a version has missed, and who need not be
//! asked; it never keeps a request from its own version.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::{Duration, Instant};

use crate::model::percent;
use crate::model::ring::Member;

/// One worker's memory of assets, on one shard, within one generation.
#[derive(Default)]
pub(super) struct Memory {
    keys: [RandomState; 2],
    found: Generations<Member>,
    /// Under which name a file was found first, as the key of the asset.
    paths: Generations<u128>,
    missed: Generations<Instant>,
}

/// An asset: its host, path and query. What the query says of the page's version (`dpl`) is no part of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) host: &'a [u8],
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
}

impl Hash for Place<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.host, self.path).hash(state);
        let pairs = self.query.into_iter().flat_map(|query| query.split('&'));
        pairs.filter(|pair| !pair.starts_with("dpl=")).for_each(|pair| pair.hash(state));
    }
}

/// A path as servers of files read it: decoded, and without empty segments.
struct Alike<'a>(&'a str);

impl Hash for Alike<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (mut rest, mut last) = (self.0.as_bytes(), 0);
        while let Some((byte, width)) = percent::first(rest) {
            if (byte, last) != (b'/', b'/') {
                state.write_u8(byte);
            }
            last = byte;
            rest = rest.get(width..).unwrap_or_default();
        }
        state.write_u8(0xff);
    }
}

/// How long it is remembered that nobody had an asset.
const MISSED: Duration = Duration::from_secs(10);
/// The same, where some version could not say.
const UNSURE: Duration = Duration::from_secs(1);

impl Memory {
    /// The version that had an asset when this one had not.
    pub(super) fn found(&self, place: Place<'_>, missed: Member) -> Option<Member> {
        if self.found.is_empty() {
            return None;
        }
        self.found.get(self.key((place, missed))).copied()
    }

    /// Remembers which version had an asset that this one had not; whether no file was found before that may be the same under
    /// another name: with another query or host, or a path that only looks different.
    pub(super) fn remember_found(&mut self, place: Place<'_>, missed: Member, by: Member) -> bool {
        let (key, path) = (self.key((place, missed)), self.key((Alike(place.path), missed)));
        self.found.insert(key, by);
        let first = self.paths.get(path).copied().unwrap_or(key);
        self.paths.insert(path, first);
        first == key
    }

    /// Forgets which version had an asset: it has not got it any more, or does not answer.
    pub(super) fn forget_found(&mut self, place: Place<'_>, missed: Member) {
        self.found.remove(self.key((place, missed)));
    }

    /// Whether this version and those that were asked for it had not got an asset a moment ago.
    pub(super) fn is_missed(&self, place: Place<'_>, by: Member, now: Instant) -> bool {
        !self.missed.is_empty() && self.missed.get(self.key((place, by))).is_some_and(|until| now < *until)
    }

    /// Remembers that neither this version nor those that were asked for it had an asset; `surely`: each of them has said so.
    pub(super) fn remember_missed(&mut self, place: Place<'_>, by: Member, surely: bool, now: Instant) {
        self.missed.insert(self.key((place, by)), now + if surely { MISSED } else { UNSURE });
    }

    fn key(&self, what: impl Hash) -> u128 {
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
        Place { host: b"example.com", path, query: None }
    }

    fn seconds(count: f64) -> Duration {
        Duration::from_secs_f64(count)
    }

    #[test]
    fn where_an_asset_was_is_known_for_this_host_path_query_and_version() {
        let (a, b) = members();
        let mut memory = Memory::default();
        memory.remember_found(place("/x.js"), a, b);
        assert_eq!(memory.found(place("/x.js"), a), Some(b));
        assert_eq!(memory.found(place("/x.js"), b), None);
        assert_eq!(memory.found(place("/y.js"), a), None);
        assert_eq!(memory.found(Place { host: b"other", ..place("/x.js") }, a), None);
        assert_eq!(memory.found(Place { query: Some("a=b"), ..place("/x.js") }, a), None);
        memory.forget_found(place("/x.js"), a);
        assert_eq!(memory.found(place("/x.js"), a), None);
    }

    #[test]
    fn a_query_names_another_asset_but_for_what_it_says_of_the_pages_version() {
        let (a, b) = members();
        let mut memory = Memory::default();
        let with = |query| Place { query: Some(query), ..place("/image") };
        memory.remember_found(with("url=a&w=1"), a, b);
        for same in ["dpl=x&url=a&w=1", "url=a&dpl=x&w=1", "url=a&w=1&dpl=", "url=a&w=1&dpl=x&dpl=y"] {
            assert_eq!(memory.found(with(same), a), Some(b), "{same}");
        }
        for other in ["", "url=a", "url=aw=1", "w=1&url=a", "url=a&w=1&dp=x", "url=a&w=1&", "dpl=x"] {
            assert_eq!(memory.found(with(other), a), None, "{other}");
        }
    }

    #[test]
    fn a_file_is_new_until_it_is_found_under_another_name() {
        let (a, b) = members();
        let mut memory = Memory::default();
        let with = |query| Place { query, ..place("/x.js") };
        assert!(
            memory.remember_found(with(Some("v=1")), a, b) && memory.remember_found(with(Some("v=1")), a, b)
        );
        assert!(!memory.remember_found(with(Some("v=2")), a, b) && !memory.remember_found(with(None), a, b));
        assert!(memory.remember_found(with(Some("v=2")), b, a));
        assert!(memory.remember_found(place("/y.js"), a, b));
        for path in ["/%78.js", "//x.js", "/x%2Ejs", "/%2f/x.js"] {
            assert!(!memory.remember_found(place(path), a, b), "{path}");
        }
        assert!(!memory.remember_found(Place { host: b"other", ..place("/x.js") }, a, b));
        // However many queries there are, as long as the path is asked for.
        for number in 0..5 * GENERATION {
            let query = number.to_string();
            let made_up = Place { query: Some(&query), ..place("/x.js") };
            assert!(!memory.remember_found(made_up, a, b), "{number}");
        }
        assert!(memory.paths.young.len() + memory.paths.old.len() <= 4);
    }

    #[test]
    fn that_nobody_had_an_asset_is_known_for_ten_seconds_and_for_one_where_not_all_have_said_so() {
        let ((a, b), now) = (members(), Instant::now());
        let mut memory = Memory::default();
        memory.remember_missed(place("/x.js"), a, true, now);
        memory.remember_missed(place("/y.js"), a, false, now);
        assert!(memory.is_missed(place("/x.js"), a, now + seconds(9.9)));
        assert!(!memory.is_missed(place("/x.js"), a, now + seconds(10.0)));
        assert!(memory.is_missed(place("/y.js"), a, now + seconds(0.9)));
        assert!(!memory.is_missed(place("/y.js"), a, now + seconds(1.0)));
        assert!(!memory.is_missed(place("/z.js"), a, now));
        // Who was asked depends on whose request it was.
        assert!(!memory.is_missed(place("/x.js"), b, now));
    }

    #[test]
    fn a_flood_of_random_paths_fills_a_bounded_room_and_the_last_ones_are_known() {
        let ((a, b), now) = (members(), Instant::now());
        let mut memory = Memory::default();
        let path = |number: usize| format!("/{number}.js");
        for number in 0..100_000 {
            memory.remember_missed(place(&path(number)), a, true, now);
            memory.remember_found(place(&path(number)), a, b);
            assert!(memory.missed.young.len() <= GENERATION && memory.missed.old.len() <= GENERATION);
            assert!(memory.found.young.len() <= GENERATION && memory.found.old.len() <= GENERATION);
        }
        for number in 100_000 - GENERATION..100_000 {
            assert!(memory.is_missed(place(&path(number)), a, now), "{number}");
            assert_eq!(memory.found(place(&path(number)), a), Some(b), "{number}");
        }
        assert!(!memory.is_missed(place(&path(0)), a, now));
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
