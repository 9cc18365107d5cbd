//! The id that a deployment without one derives from its content.

use gradual::model::deployment::Deployment;
use gradual::model::name::WorkerName;
use gradual::model::ring::Ring;

use crate::fixture::{deployment, shares};

fn worker() -> WorkerName {
    WorkerName::new("my-worker").unwrap()
}

fn canary() -> Deployment {
    Deployment {
        created_on: Some("2026-11-20T12:00:00Z".into()),
        author: Some("ana".into()),
        message: Some("canary".into()),
        ..deployment("my-worker", &[("v2", 10_000), ("v1", 90_000)])
    }
}

/// Computed with Python's `uuid.uuid5` over the content as written down by hand.
#[test]
fn the_derived_id_is_the_same_for_every_release() {
    assert_eq!(canary().derived_id(&worker()), "9d018b9d-f09c-5af8-b8fb-801379c67dc9");
}

#[test]
fn the_derived_id_agrees_for_equal_content_whatever_the_id() {
    let renamed = Deployment { id: "another".into(), ..canary() };
    assert_eq!(renamed.derived_id(&worker()), canary().derived_id(&worker()));
}

#[test]
fn the_derived_id_differs_when_anything_differs() {
    let base = canary();
    let arcs: Vec<_> = [1, 0, 1].into_iter().zip(shares(&[40_000, 10_000, 50_000])).collect();
    let others = [
        base.clone(),
        Deployment { created_on: None, ..base.clone() },
        Deployment { author: Some("bob".into()), ..base.clone() },
        Deployment { author: None, source: Some("ana".into()), ..base.clone() },
        Deployment { message: Some("canary 2".into()), ..base.clone() },
        Deployment { message: Some("canary\n0 \n".into()), ..base.clone() },
        deployment("my-worker", &[("v2", 10_000), ("v1", 90_000)]),
        deployment("my-worker", &[("v2", 10_001), ("v1", 89_999)]),
        deployment("my-worker", &[("v1", 90_000), ("v2", 10_000)]),
        deployment("my-worker", &[("v2", 10_000), ("v1", 90_000), ("v0", 0)]),
        deployment("my-worker", &[("v3", 10_000), ("v1", 90_000)]),
        Deployment {
            ring: Ring::with_arcs(b"my-worker", &shares(&[10_000, 90_000]), &arcs).unwrap(),
            ..base.clone()
        },
    ];
    let mut ids: Vec<_> = others.iter().map(|other| other.derived_id(&worker())).collect();
    ids.push(base.derived_id(&WorkerName::new("another").unwrap()));
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn a_version_is_found_by_its_exact_id_and_back() {
    let deployment = deployment("my-worker", &[("v2", 10_000), ("v1", 90_000), ("v0", 0)]);
    for id in ["v2", "v1", "v0"] {
        let member = deployment.member(id).unwrap();
        assert_eq!(deployment.version(member).unwrap().as_str(), id);
    }
    for id in ["V2", "v", "v22", ""] {
        assert_eq!(deployment.member(id), None, "{id}");
    }
}
