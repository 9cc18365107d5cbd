//! Properties of failover: only what must move moves, to whom, and that it comes back.

use gradual::model::decision::{Decision, Policy, Reason, Selection, Sent};
use gradual::model::ring::{Member, Ring};
use gradual::model::share::POSITIONS;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::fixture::{policy, ring};

/// Two to eight shares that total exactly 100 %; some are zero.
fn splits() -> impl Strategy<Value = Vec<u32>> {
    let cut = prop_oneof![4 => 0..=POSITIONS, 1 => Just(0), 1 => Just(POSITIONS)];
    prop::collection::vec(cut, 1..8).prop_map(|mut cuts| {
        cuts.extend([0, POSITIONS]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    })
}

fn hashes() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(any::<u64>(), 256)
}

/// Who is up, by index.
fn up(down: &[bool]) -> impl Fn(Member) -> bool {
    |member| !down[member.index()]
}

fn first_up(ring: &Ring, hash: u64, down: &[bool]) -> Option<usize> {
    ring.first_up(hash, up(down)).map(Member::index)
}

proptest! {
    #[test]
    fn only_what_versions_that_are_down_would_have_had_moves_and_only_to_versions_that_are_up_and_have_a_share(
        split in splits(), down in prop::collection::vec(any::<bool>(), 9), hashes in hashes(),
    ) {
        let ring = ring("w", &split);
        let nobody_is_left = split.iter().zip(&down).all(|(share, down)| *share == 0 || *down);
        for hash in hashes {
            let own = first_up(&ring, hash, &[false; 9]).unwrap();
            match first_up(&ring, hash, &down) {
                None => prop_assert!(nobody_is_left),
                Some(now) if down[own] => prop_assert!(!down[now] && split[now] > 0),
                Some(now) => prop_assert_eq!(now, own),
            }
        }
    }

    #[test]
    fn when_another_version_goes_down_only_what_is_on_it_moves(
        split in splits(), down in prop::collection::vec(any::<bool>(), 9), another in any::<Index>(),
        hashes in hashes(),
    ) {
        let ring = ring("w", &split);
        let another = another.index(split.len());
        let mut then = down.clone();
        then[another] = true;
        for hash in hashes {
            let (before, after) = (first_up(&ring, hash, &down), first_up(&ring, hash, &then));
            prop_assert!(before == after || before == Some(another));
        }
    }

    #[test]
    fn a_key_goes_where_its_hash_does_and_a_draw_where_the_number_does(
        split in splits(), down in prop::collection::vec(any::<bool>(), 9), key in "[a-z]{1,40}", draw: u64,
    ) {
        let versions: Vec<_> = (0..split.len()).map(|index| format!("v{index}")).collect();
        let versions: Vec<_> = versions.iter().map(String::as_str).zip(split).collect();
        let policy = policy("w", &versions);
        let ring = &policy.deployment.ring;
        let with_key = Sent { key: Some(key.as_bytes()), draw, ..Sent::default() };
        for (sent, hash) in [(with_key, ring.hash(key.as_bytes())), (Sent { draw, ..Sent::default() }, draw)] {
            let selection = policy.select(&sent);
            let position = selection.decision.position;
            let expected = ring.first_up(hash, up(&down));
            let expected = expected.map(|member| Decision { member, reason: Reason::Failover, position });
            prop_assert_eq!(policy.fail_over(&selection, draw, up(&down)), expected);
        }
    }
}

/// How many of these numbers each version gets.
fn counts(ring: &Ring, down: &[bool], hashes: impl Iterator<Item = u64>) -> Vec<u32> {
    let mut counts = vec![0; down.len()];
    for hash in hashes {
        counts[first_up(ring, hash, down).unwrap()] += 1;
    }
    counts
}

#[test]
fn those_who_are_up_share_in_proportion_to_their_shares() {
    const KEYS: u32 = 200_000;
    let split = [40_000, 25_000, 20_000, 10_000, 5_000, 0];
    let ring = ring("w", &split);
    for down in [[0_usize, 5].as_slice(), &[2], &[0, 1], &[0, 3, 4], &[1, 2, 3]] {
        let down: Vec<_> = (0..split.len()).map(|index| down.contains(&index)).collect();
        let total: u32 = split.iter().zip(&down).filter(|(_, down)| !**down).map(|(share, _)| share).sum();
        let keys = (0..KEYS).map(|key| ring.hash(format!("user-{key}").as_bytes()));
        let mut rng = fastrand::Rng::with_seed(11);
        let draws = (0..KEYS).map(move |_| rng.u64(..));
        for counts in [counts(&ring, &down, keys), counts(&ring, &down, draws)] {
            for (index, count) in counts.into_iter().enumerate() {
                let part = if down[index] { 0.0 } else { f64::from(split[index]) / f64::from(total) };
                let sigma = (f64::from(KEYS) * part * (1.0 - part)).sqrt();
                let off = (f64::from(count) - f64::from(KEYS) * part).abs();
                assert!(off <= 4.0 * sigma, "{index} of {down:?}: {count} is {off} off, sigma {sigma}");
            }
        }
    }
}

#[test]
fn what_a_version_loses_is_spread_over_the_others_by_their_shares() {
    const KEYS: u32 = 200_000;
    let ring = ring("w", &[50_000, 30_000, 20_000]);
    let of_first = (0..KEYS).map(|key| ring.hash(format!("user-{key}").as_bytes()));
    let of_first: Vec<_> = of_first.filter(|hash| first_up(&ring, *hash, &[false; 3]) == Some(0)).collect();
    let total = f64::from(u32::try_from(of_first.len()).unwrap());
    let counts = counts(&ring, &[true, false, false], of_first.into_iter());
    let off = (f64::from(counts[1]) - total * 0.6).abs();
    assert!(off <= 4.0 * (total * 0.24).sqrt(), "{counts:?}");
}

/// The same on every replica and in every release: a change here moves keys.
#[test]
fn the_order_of_versions_is_fixed_for_ever() {
    let ring = ring("my-worker", &[40_000, 30_000, 20_000, 10_000]);
    let order = |key: &str| {
        let mut down = [false; 4];
        let mut order = Vec::new();
        while let Some(next) = first_up(&ring, ring.hash(key.as_bytes()), &down) {
            down[next] = true;
            order.push(next);
        }
        order
    };
    let orders: Vec<_> = ["alice", "bob", "carol", "dave", "erin", "frank"].map(order).into();
    assert_eq!(orders, [[0, 1, 3, 2], [1, 0, 2, 3], [2, 1, 0, 3], [0, 3, 2, 1], [1, 0, 3, 2], [1, 0, 3, 2]]);
}

#[test]
fn an_override_never_moves() {
    let policy: Policy = policy("w", &[("v1", 50_000), ("v2", 50_000), ("v3", 0)]);
    for id in ["v1", "v3"] {
        let field = format!("w=\"{id}\"");
        let sent = Sent { key: Some(b"alice"), overrides: Some(field.as_bytes()), ..Sent::default() };
        let selection: Selection<'_> = policy.select(&sent);
        assert_eq!(selection.decision.reason, Reason::Override);
        assert_eq!(policy.fail_over(&selection, 7, |_| true), None);
    }
}

#[test]
fn where_nobody_is_up_nothing_moves() {
    let policy = policy("w", &[("v1", 50_000), ("v2", 50_000), ("v3", 0)]);
    let selection = policy.select(&Sent { key: Some(b"alice"), ..Sent::default() });
    assert_eq!(policy.fail_over(&selection, 7, |member| member.index() == 2), None);
}
