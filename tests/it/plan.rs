//! Who moves when a deployment follows another, position by position, and the ring that moves no more than must.

use std::collections::BTreeMap;

use gradual::model::deployment::Deployment;
use gradual::model::name::VersionId;
use gradual::model::ring::Ring;
use gradual::model::share::{POSITIONS, Position, Share};
use gradual::plan::{Layout, Plan, arrange};
use proptest::prelude::*;

use crate::fixture::deployment;

type Shares = Vec<(VersionId, Share)>;

fn id(text: &str) -> VersionId {
    VersionId::new(text).unwrap()
}

fn wanted(split: &[(&str, u32)]) -> Shares {
    split.iter().map(|(name, share)| (id(name), Share::from_thousandths(*share).unwrap())).collect()
}

/// The deployment that a layout describes.
fn laid_out(old: &Deployment, layout: &Layout) -> Deployment {
    let shares: Vec<_> = layout.versions.iter().map(|(_, share)| *share).collect();
    let place = |id: &VersionId| layout.versions.iter().position(|(one, _)| one == id).unwrap();
    let ring = match &layout.ring {
        None => Ring::cumulative(old.ring.salt(), &shares),
        Some(arcs) => {
            let arcs: Vec<_> = arcs.iter().map(|(id, share)| (place(id), *share)).collect();
            Ring::with_arcs(old.ring.salt(), &shares, &arcs)
        }
    };
    let versions = layout.versions.iter().map(|(id, _)| id.clone()).collect();
    Deployment { versions, ring: ring.unwrap(), ..old.clone() }
}

fn next(old: &Deployment, split: &[(VersionId, Share)]) -> Deployment {
    laid_out(old, &arrange(old, split).unwrap())
}

/// The version of every position.
fn owners(deployment: &Deployment) -> Vec<&VersionId> {
    let hash =
        |position: u32| u64::try_from((u128::from(position) << 64).div_ceil(u128::from(POSITIONS))).unwrap();
    let owner = |position| deployment.ring.owner(Position::of(hash(position)));
    (0..POSITIONS).map(|position| deployment.version(owner(position)).unwrap()).collect()
}

/// The keys that move, counted one position at a time.
fn counted(old: &Deployment, new: &Deployment) -> BTreeMap<(String, String), u32> {
    let mut moves = BTreeMap::new();
    for (before, after) in owners(old).into_iter().zip(owners(new)) {
        if before != after {
            *moves.entry((before.to_string(), after.to_string())).or_default() += 1;
        }
    }
    moves
}

fn as_map(plan: &Plan) -> BTreeMap<(String, String), u32> {
    let moves = plan.moves.iter();
    moves.map(|one| ((one.from.to_string(), one.to.to_string()), one.share.thousandths())).collect()
}

fn share_of(deployment: &Deployment, version: &VersionId) -> u32 {
    let place = deployment.versions.iter().position(|one| one == version);
    place.map_or(0, |place| deployment.ring.shares()[place].thousandths())
}

/// One to six of six versions in any order, with shares that total exactly 100 %; some are zero.
fn splits() -> impl Strategy<Value = Shares> {
    let names = Just(["a", "b", "c", "d", "e", "f"].map(id).to_vec()).prop_shuffle();
    let cut = prop_oneof![4 => 0..=POSITIONS, 2 => (0..=20u32).prop_map(|part| part * 5000)];
    (names, prop::collection::vec(cut, 0..6)).prop_map(|(names, mut cuts)| {
        cuts.extend([0, POSITIONS]);
        cuts.sort_unstable();
        let shares = cuts.windows(2).map(|pair| Share::from_thousandths(pair[1] - pair[0]).unwrap());
        names.into_iter().zip(shares).collect()
    })
}

/// A deployment as it stands after some others.
fn deployments() -> impl Strategy<Value = Deployment> {
    prop::collection::vec(splits(), 1..4).prop_map(|steps| {
        let first = deployment("w", &[("a", POSITIONS)]);
        steps.iter().fold(first, |old, step| next(&old, step))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_plan_counts_every_key_that_moves(old in deployments(), split in splits()) {
        let shares: Vec<_> = split.iter().map(|(_, share)| *share).collect();
        let ring = Ring::cumulative(old.ring.salt(), &shares).unwrap();
        let versions = split.iter().map(|(id, _)| id.clone()).collect();
        let new = Deployment { versions, ring, ..old.clone() };
        let plan = Plan::between(&old, &new);
        prop_assert_eq!(as_map(&plan), counted(&old, &new));
        prop_assert_eq!(plan.moved, plan.moves.iter().map(|one| one.share.thousandths()).sum::<u32>());
        prop_assert!(plan.moved >= plan.least);
    }

    #[test]
    fn a_laid_out_deployment_moves_the_least_and_only_keys_of_versions_that_shrink(
        old in deployments(),
        split in splits(),
    ) {
        let new = next(&old, &split);
        let plan = Plan::between(&old, &new);
        prop_assert!(plan.is_least(), "{plan:?}");
        for one in &plan.moves {
            prop_assert!(share_of(&new, &one.from) < share_of(&old, &one.from));
            prop_assert!(share_of(&new, &one.to) > share_of(&old, &one.to));
        }
        for (version, share) in &split {
            prop_assert_eq!(share_of(&new, version), share.thousandths());
        }
    }

    #[test]
    fn a_layout_keeps_the_previous_order_and_puts_what_is_new_behind(old in deployments(), split in splits()) {
        let layout = arrange(&old, &split).unwrap();
        let ids: Vec<_> = layout.versions.iter().map(|(id, _)| id).collect();
        let kept: Vec<_> = old.versions.iter().filter(|id| ids.contains(id)).collect();
        let new: Vec<_> = split.iter().map(|(id, _)| id).filter(|id| !old.versions.contains(id)).collect();
        prop_assert_eq!(ids, [kept, new].concat());
    }

    #[test]
    fn between_two_versions_growth_in_any_steps_moves_each_key_once(mut steps in prop::collection::vec(0..=POSITIONS, 1..6)) {
        steps.sort_unstable();
        let mut at = deployment("w", &[("a", POSITIONS)]);
        let mut moved = 0;
        for share in steps.into_iter().chain([POSITIONS]) {
            let split = [(id("b"), Share::from_thousandths(share).unwrap()), (id("a"), Share::from_thousandths(POSITIONS - share).unwrap())];
            let new = next(&at, &split);
            moved += Plan::between(&at, &new).moved;
            prop_assert!(new.ring.arcs().len() <= 2);
            at = new;
        }
        prop_assert_eq!(moved, POSITIONS);
    }

    #[test]
    fn a_ring_stays_short_over_many_deployments(steps in prop::collection::vec(splits(), 200)) {
        let mut at = deployment("w", &[("a", POSITIONS)]);
        let mut most = 0;
        for step in steps {
            at = next(&at, &step);
            most = most.max(at.ring.arcs().len());
        }
        prop_assert!(most <= 40, "{most} arcs");
    }
}

#[test]
fn a_bystander_keeps_its_keys_where_plain_order_would_move_them() {
    let old = deployment("w", &[("a", 80_000), ("b", 10_000), ("c", 10_000)]);
    let split = wanted(&[("a", 70_000), ("b", 20_000), ("c", 10_000)]);
    // In this order the border of `a` and `b` moves, and nothing else.
    assert_eq!(arrange(&old, &split).unwrap().ring, None);
    // In this one `c` would be pushed aside.
    let old = deployment("w", &[("b", 10_000), ("c", 10_000), ("a", 80_000)]);
    let split = wanted(&[("b", 20_000), ("c", 10_000), ("a", 70_000)]);
    let layout = arrange(&old, &split).unwrap();
    let expected = wanted(&[("b", 10_000), ("c", 10_000), ("a", 70_000), ("b", 10_000)]);
    assert_eq!(layout.ring, Some(expected));
    let plain = deployment("w", &[("b", 20_000), ("c", 10_000), ("a", 70_000)]);
    let plan = Plan::between(&old, &plain);
    assert_eq!((plan.moved, plan.least, plan.is_least()), (20_000, 10_000, false));
}

#[test]
fn another_salt_draws_every_key_anew_and_the_plan_says_what_is_expected() {
    let old = deployment("w", &[("a", 90_000), ("b", 10_000)]);
    let new = deployment("other", &[("a", 90_000), ("b", 10_000)]);
    let plan = Plan::between(&old, &new);
    assert!(plan.rehashed && !plan.is_least());
    assert_eq!((plan.moved, plan.least), (18_000, 0));
}

#[test]
fn shares_that_do_not_total_100_are_refused_and_a_missing_thousandth_is_given_to_the_largest() {
    let old = deployment("w", &[("a", POSITIONS)]);
    assert!(arrange(&old, &wanted(&[("a", 90_000)])).is_err());
    let thirds = wanted(&[("a", 33_333), ("b", 33_333), ("c", 33_333)]);
    let layout = arrange(&old, &thirds).unwrap();
    assert_eq!(layout.versions, wanted(&[("a", 33_334), ("b", 33_333), ("c", 33_333)]));
}
