//! Properties of the ring: exact shares, stickiness, growth, edges.

use gradual::model::decision::{Ask, Reason};
use gradual::model::ring::{Ring, RingError};
use gradual::model::share::{POSITIONS, Position};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::fixture::{ring, shares};

/// The least hash that falls on a position.
fn hash_at(position: u32) -> u64 {
    let hash = (u128::from(position) << 64).div_ceil(u128::from(POSITIONS));
    u64::try_from(hash).unwrap()
}

fn owner(ring: &Ring, position: u32) -> usize {
    ring.owner(Position::of(hash_at(position))).index()
}

/// The owner of every position.
fn owners(ring: &Ring) -> Vec<usize> {
    (0..POSITIONS).map(|position| owner(ring, position)).collect()
}

fn count(owners: &[usize], member: usize) -> u32 {
    u32::try_from(owners.iter().filter(|&&owner| owner == member).count()).unwrap()
}

/// One to eight shares that total exactly 100 %; some are zero.
fn splits() -> impl Strategy<Value = Vec<u32>> {
    let cut = prop_oneof![4 => 0..=POSITIONS, 1 => Just(0), 1 => Just(POSITIONS)];
    prop::collection::vec(cut, 0..8).prop_map(|mut cuts| {
        cuts.extend([0, POSITIONS]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    })
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_share_is_exact_on_the_ring(split in splits()) {
        let owners = owners(&ring("w", &split));
        for (member, share) in split.iter().enumerate() {
            prop_assert_eq!(count(&owners, member), *share);
        }
    }

    #[test]
    fn positions_are_owned_in_the_order_listed(split in splits()) {
        prop_assert!(owners(&ring("w", &split)).is_sorted());
    }

    #[test]
    fn with_the_same_order_and_one_version_growing_no_key_leaves_it(
        split in splits(), grown in any::<Index>(), taken in prop::collection::vec(0..=1000_u32, 8),
    ) {
        let grown = grown.index(split.len());
        let mut after = split.clone();
        for (member, share) in after.iter_mut().enumerate().filter(|(member, _)| *member != grown) {
            *share -= *share * taken[member] / 1000;
        }
        after[grown] += POSITIONS - after.iter().sum::<u32>();
        let (before, after) = (owners(&ring("w", &split)), owners(&ring("w", &after)));
        for (before, after) in before.iter().zip(&after).filter(|(before, _)| **before == grown) {
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn a_version_at_zero_is_never_reached_by_key_or_draw(
        split in splits(), at in any::<Index>(), keys in prop::collection::vec(keys(), 64),
        draws in prop::collection::vec(any::<u64>(), 64),
    ) {
        let mut split = split;
        let zero = at.index(split.len() + 1);
        split.insert(zero, 0);
        let ring = ring("w", &split);
        prop_assert_eq!(count(&owners(&ring), zero), 0);
        prop_assert!(ring.member(zero).is_some());
        for key in &keys {
            prop_assert_ne!(ring.decide(&Ask { key: Some(key), ..Ask::default() }).member.index(), zero);
        }
        for draw in draws.into_iter().chain([0, u64::MAX]) {
            prop_assert_ne!(ring.decide(&Ask { draw, ..Ask::default() }).member.index(), zero);
        }
    }

    #[test]
    fn between_two_versions_growth_from_0_to_100_in_any_steps_moves_each_key_exactly_once(
        steps in prop::collection::vec(0..=POSITIONS, 0..8), first in any::<bool>(),
    ) {
        let mut steps = steps;
        steps.extend([0, POSITIONS]);
        steps.sort_unstable();
        let split = |new: u32| if first { [new, POSITIONS - new] } else { [POSITIONS - new, new] };
        let rings: Vec<_> = steps.into_iter().map(|new| ring("w", &split(new))).collect();
        for position in 0..POSITIONS {
            let moves = rings.windows(2).filter(|pair| owner(&pair[0], position) != owner(&pair[1], position));
            prop_assert_eq!(moves.count(), 1);
        }
    }

    #[test]
    fn a_total_off_by_a_thousandth_is_settled_with_the_first_of_the_largest(
        split in splits(), at in any::<Index>(), more in any::<bool>(),
    ) {
        let mut given = split;
        let at = at.index(given.len());
        prop_assume!(if more { given[at] < POSITIONS } else { given[at] > 0 });
        if more { given[at] += 1 } else { given[at] -= 1 }
        let most = *given.iter().max().unwrap();
        let mut expected = given.clone();
        let largest = given.iter().position(|&share| share == most).unwrap();
        if more { expected[largest] -= 1 } else { expected[largest] += 1 }
        let ring = ring("w", &given);
        prop_assert_eq!(ring.shares(), &shares(&expected)[..]);
        let owners = owners(&ring);
        for (member, share) in expected.iter().enumerate() {
            prop_assert_eq!(count(&owners, member), *share);
        }
    }

    #[test]
    fn a_total_off_by_more_is_refused(given in prop::collection::vec(0..=POSITIONS, 0..6)) {
        let total: u64 = given.iter().map(|&share| u64::from(share)).sum();
        prop_assume!(total.abs_diff(u64::from(POSITIONS)) > 1);
        prop_assert_eq!(Ring::cumulative(b"w", &shares(&given)), Err(RingError::Total { total }));
    }

    #[test]
    fn arcs_own_what_they_say_and_total_each_versions_share(
        widths in splits(), members in prop::collection::vec(0..4_usize, 9),
    ) {
        let arcs: Vec<_> = members.into_iter().zip(shares(&widths)).collect();
        let mut split = [0; 4];
        let mut expected = Vec::new();
        for (member, width) in &arcs {
            split[*member] += width.thousandths();
            expected.extend(vec![*member; width.thousandths() as usize]);
        }
        let ring = Ring::with_arcs(b"w", &shares(&split), &arcs).unwrap();
        prop_assert_eq!(owners(&ring), expected);
        prop_assert_eq!(ring.shares(), &shares(&split)[..]);
    }

    #[test]
    fn arcs_are_half_open_and_follow_each_other_without_gap(split in splits()) {
        let ring = ring("w", &split);
        let mut from = 0;
        for arc in ring.arcs() {
            prop_assert!(arc.from == from && arc.from < arc.to);
            let edges = [hash_at(arc.from), hash_at(arc.to - 1)];
            for hash in edges {
                prop_assert_eq!(ring.owner(Position::of(hash)), arc.member);
            }
            if let Some(before) = hash_at(arc.from).checked_sub(1) {
                prop_assert_eq!(Position::of(before).index(), arc.from - 1);
                prop_assert_ne!(ring.owner(Position::of(before)), arc.member);
            }
            from = arc.to;
        }
        prop_assert_eq!(from, POSITIONS);
    }

    #[test]
    fn the_same_key_and_deployment_give_the_same_version_on_every_thread_and_after_a_restart(
        split in splits(), keys in prop::collection::vec(keys(), 32), salt in "[a-z]{1,20}",
    ) {
        let decide = |ring: &Ring| -> Vec<_> {
            keys.iter().map(|key| ring.decide(&Ask { key: Some(key), draw: fastrand::u64(..), ..Ask::default() })).collect()
        };
        let first = ring(&salt, &split);
        let expected = decide(&first);
        std::thread::scope(|scope| {
            let same = (0..4).map(|_| scope.spawn(|| decide(&first)));
            let restarted = (0..4).map(|_| scope.spawn(|| decide(&ring(&salt, &split))));
            for thread in same.chain(restarted).collect::<Vec<_>>() {
                assert_eq!(thread.join().unwrap(), expected);
            }
        });
    }

    #[test]
    fn an_override_beats_the_key_which_beats_the_draw(
        split in splits(), forced in any::<Index>(), key in keys(), draw: u64,
    ) {
        let ring = ring("w", &split);
        let forced = ring.member(forced.index(split.len()));
        let decision = ring.decide(&Ask { forced, key: Some(&key), draw, ..Ask::default() });
        prop_assert_eq!((Some(decision.member), decision.reason), (forced, Reason::Override));
        let decision = ring.decide(&Ask { key: Some(&key), draw, ..Ask::default() });
        prop_assert_eq!(decision.reason, Reason::Key);
        prop_assert_eq!(decision.position, Some(ring.position(&key)));
        prop_assert_eq!(decision.member, ring.owner(ring.position(&key)));
        let decision = ring.decide(&Ask { draw, ..Ask::default() });
        prop_assert_eq!((decision.reason, decision.position), (Reason::Random, None));
        prop_assert_eq!(decision.member, ring.owner(Position::of(draw)));
    }
}

#[test]
fn a_thousandth_with_arcs_goes_to_the_largest_versions_first_arc() {
    let arcs: Vec<_> = [1, 0, 1, 0].into_iter().zip(shares(&[20_000, 30_000, 20_000, 29_999])).collect();
    let ring = Ring::with_arcs(b"w", &shares(&[59_999, 40_000]), &arcs).unwrap();
    let spans: Vec<_> = ring.arcs().iter().map(|arc| (arc.member.index(), arc.from, arc.to)).collect();
    assert_eq!(spans, [(1, 0, 20_000), (0, 20_000, 50_001), (1, 50_001, 70_001), (0, 70_001, 100_000)]);
}

#[test]
fn an_arc_of_a_version_that_is_not_listed_is_refused() {
    let arcs = [(1, shares(&[POSITIONS])[0])];
    let error = Ring::with_arcs(b"w", &shares(&[POSITIONS]), &arcs).unwrap_err();
    assert_eq!(error, RingError::UnknownMember { member: 1 });
}
