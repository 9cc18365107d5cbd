//! Which versions an asset may be asked of.

use gradual::model::assets::{Eligible, MOST_OTHERS};
use gradual::model::deployment::Metadata;
use gradual::model::name::{Tag, VersionId};
use gradual::model::ring::Member;
use proptest::prelude::*;

use crate::fixture;

fn id(name: &str) -> VersionId {
    VersionId::new(name).unwrap()
}

fn metadata(name: &str, tag: Option<&str>) -> Metadata {
    Metadata {
        id: id(name),
        tag: tag.map(|tag| Tag::new(tag).unwrap()),
        message: None,
        created_on: None,
        migration: None,
    }
}

/// Shares of versions `v0`, `v1`, … that total 100 %, some of them 0; and which of `v0` up to `v11` are retained, in which
/// order.
fn worlds() -> impl Strategy<Value = (Vec<u32>, Vec<usize>)> {
    let shares = prop::collection::vec(prop_oneof![Just(0u32), 1..50_000u32], 1..8).prop_map(|mut shares| {
        let before: u32 = shares[1..].iter().map(|share| *share / 8).sum();
        shares[1..].iter_mut().for_each(|share| *share /= 8);
        shares[0] = 100_000 - before;
        shares
    });
    let retained = Just((0..12).collect::<Vec<usize>>()).prop_shuffle();
    (shares, retained, 0..=8usize).prop_map(|(shares, retained, count)| (shares, retained[..count].to_vec()))
}

/// Every version that is asked when nobody has an asset, the own one first.
fn all_asked(eligible: &Eligible, own: Member, is_up: impl Fn(Member) -> bool) -> Vec<Member> {
    let mut asked = vec![own];
    while let Some(next) = eligible.next(&asked, &is_up) {
        asked.push(next);
    }
    asked
}

proptest! {
    #[test]
    fn others_are_asked_once_each_in_order_at_most_four_and_none_at_0_per_cent_that_is_not_retained(
        (shares, retained) in worlds(),
        own in 0usize..7,
        down in prop::collection::btree_set(0usize..20, 0..6),
    ) {
        let names: Vec<_> = (0..12).map(|number| format!("v{number}")).collect();
        let listed: Vec<_> = shares.iter().enumerate().map(|(at, share)| (&*names[at], *share)).collect();
        let deployment = fixture::deployment("w", &listed);
        let kept: Vec<_> = retained.iter().map(|at| id(&names[*at])).collect();
        let all: Vec<_> = names.iter().map(|name| metadata(name, None)).collect();
        let eligible = Eligible::new(&deployment, &kept, all.iter().map(|one| (one, None)));
        // The names that members stand for: the deployment's, then the retained ones that are not in it.
        let beyond = retained.iter().filter(|at| **at >= shares.len()).map(|at| names[*at].clone());
        let in_use: Vec<_> = listed.iter().map(|(name, _)| (*name).to_owned()).chain(beyond).collect();
        let with_share = (0..shares.len()).filter(|at| shares[*at] > 0);
        let mut expected: Vec<String> = with_share.map(|at| names[at].clone()).collect();
        for at in &retained {
            if !expected.contains(&names[*at]) {
                expected.push(names[*at].clone());
            }
        }
        let found: Vec<_> = eligible.members().iter().map(|member| in_use[member.index()].clone()).collect();
        prop_assert_eq!(&found, &expected);
        let own = deployment.ring.member(own.min(shares.len() - 1)).unwrap();
        let asked = all_asked(&eligible, own, |member| !down.contains(&member.index()));
        let asked: Vec<_> = asked.iter().map(|member| in_use[member.index()].clone()).collect();
        let own = in_use[own.index()].clone();
        let is_up = |name: &String| !down.contains(&in_use.iter().position(|one| one == name).unwrap());
        let others = expected.iter().filter(|name| **name != own && is_up(name)).take(MOST_OTHERS).cloned();
        prop_assert_eq!(asked, [own.clone()].into_iter().chain(others).collect::<Vec<_>>());
        // By its id exactly who is eligible can be named.
        for name in &names {
            let named = eligible.named(name.as_bytes()).map(|member| in_use[member.index()].clone());
            prop_assert_eq!(named, expected.contains(name).then(|| name.clone()));
        }
    }

    #[test]
    fn no_header_and_no_query_makes_naming_a_version_panic(header in prop::collection::vec(any::<u8>(), 0..40), query in "\\PC{0,40}|(dpl=|[%&0-9a-f]){0,60}") {
        let deployment = fixture::deployment("w", &[("v0", 100_000)]);
        let all = [metadata("v0", Some("t"))];
        let eligible = Eligible::new(&deployment, &[], all.iter().map(|one| (one, None)));
        let _ = eligible.pinned(Some(&header), Some(&query));
    }
}

#[test]
fn a_tag_names_the_newest_that_is_eligible_and_one_without_a_time_is_older() {
    let deployment = fixture::deployment("w", &[("a", 50_000), ("b", 50_000), ("c", 0)]);
    let all = ["a", "b", "c", "d"].map(|name| metadata(name, Some("release")));
    let named = |times: [Option<i128>; 4]| {
        let eligible = Eligible::new(&deployment, &[], all.iter().zip(times));
        eligible.named(b"release").unwrap().index()
    };
    assert_eq!(named([Some(2), Some(1), Some(9), Some(9)]), 0);
    assert_eq!(named([Some(1), Some(2), None, None]), 1);
    assert_eq!(named([Some(1), None, Some(9), None]), 0);
    assert_eq!(named([None; 4]), 1);
}
