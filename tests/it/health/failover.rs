//! Versions that are down: what moves, where to, and that it comes back.

use std::collections::BTreeMap;

use super::{
    CHECK, Fate, Local, Patient, eventually_up, get, get_with_key, get_with_override, hall, series, stage,
    version,
};
use crate::control::stage::{Stage, eventually};
use crate::fixture::ring;
use crate::support::file;

const REMAP: &str = "on_unavailable = \"remap\"";

/// What becomes of forty keys.
fn keys(stage: &Stage) -> BTreeMap<u32, Fate> {
    (0..40).map(|key| (key, get_with_key(stage, &format!("key-{key}")))).collect()
}

/// The same, where each is answered.
fn versions(stage: &Stage, reasons: &[&str]) -> BTreeMap<u32, String> {
    let all = keys(stage);
    let bad = all.values().find(|fate| fate.status != 200 || !reasons.contains(&&*fate.reason));
    assert_eq!(bad, None);
    all.into_iter().map(|(key, fate)| (key, fate.version)).collect()
}

#[test]
fn the_keys_of_a_version_that_is_down_move_alone_and_come_back_with_it() {
    let hall = hall();
    let [one, two, three] = ["v1", "v2", "v3"].map(|name| Patient::new(&hall, name));
    let file = file().worker(REMAP).version("v1", &one.backend, 40).version_with(CHECK);
    let file = file.version("v2", &two.backend, 30).version_with(CHECK);
    let stage = stage(&file.version("v3", &three.backend, 30).version_with(CHECK));
    let before = versions(&stage, &["key"]);
    one.answers(500);
    eventually_up(&stage, "v1", false);
    let during = keys(&stage);
    for (key, fate) in &during {
        let moved = before[key] == "v1";
        assert!(fate.is_good(if moved { "failover" } else { "key" }), "{fate:?}");
        assert!(fate.version != "v1" && (moved || fate.version == before[key]), "{key} {fate:?}");
    }
    for to in ["v2", "v3"] {
        assert!(during.iter().any(|(key, fate)| before[key] == "v1" && fate.version == to));
    }
    // Another goes down: what had moved to the third stays there.
    two.answers(500);
    eventually_up(&stage, "v2", false);
    assert!(versions(&stage, &["key", "failover"]).values().all(|version| version == "v3"));
    two.answers(200);
    eventually_up(&stage, "v2", true);
    assert_eq!(keys(&stage), during);
    one.answers(200);
    eventually_up(&stage, "v1", true);
    assert_eq!(versions(&stage, &["key"]), before);
    let counted = "gradual_requests_total{worker=\"shop\",version=\"v2\",reason=\"failover\",status=\"2xx\"}";
    eventually("failovers are counted", || series(&stage, counted).is_some_and(|count| count > 0.0));
    let shown = |id| version(&stage, id)["failovers"].as_u64().unwrap();
    assert_eq!(shown("v1"), 0, "nothing moved to it");
    assert!(shown("v2") > 0 && shown("v3") > 0);
    let none = serde_json::json!({ "success": 0, "failure": 0, "budget": 0 });
    assert_eq!(version(&stage, "v1")["retries"], none);
}

#[test]
fn draws_move_as_keys_do() {
    let hall = hall();
    let [one, two] = ["v1", "v2"].map(|name| Patient::new(&hall, name));
    let file = file().worker(REMAP).version("v1", &one.backend, 50).version_with(CHECK);
    let stage = stage(&file.version("v2", &two.backend, 50));
    one.answers(500);
    eventually_up(&stage, "v1", false);
    let fates: Vec<_> = (0..40).map(|_| get(&stage, "")).collect();
    assert!(fates.iter().all(|fate| fate.version == "v2" && fate.status == 200), "{fates:?}");
    // All of one kind with a chance of one in 10^11.
    for reason in ["random", "failover"] {
        assert!(fates.iter().any(|fate| fate.reason == reason), "{reason}");
    }
}

#[test]
fn an_override_never_moves() {
    let hall = hall();
    let [one, two, zero] = ["v1", "v2", "v0"].map(|name| Patient::new(&hall, name));
    let file = file().worker(REMAP).version("v1", &one.backend, 50).version_with(CHECK);
    let file = file.version("v0", &zero.backend, 0).version_with(CHECK);
    let stage = stage(&file.version("v2", &two.backend, 50));
    one.answers(500);
    zero.answers(500);
    eventually_up(&stage, "v1", false);
    eventually_up(&stage, "v0", false);
    for id in ["v1", "v0"] {
        let fate = get_with_override(&stage, id);
        assert!(fate.is_bad("no-healthy-upstream", "override") && fate.version == id, "{fate:?}");
    }
    assert!(get_with_override(&stage, "v2").is_good("override"));
}

#[test]
fn a_version_at_zero_stands_in_for_nobody() {
    let hall = hall();
    let [one, zero] = ["v1", "v0"].map(|name| Patient::new(&hall, name));
    let file = file().worker(REMAP).version("v1", &one.backend, 100).version_with(CHECK);
    let stage = stage(&file.version("v0", &zero.backend, 0));
    one.answers(500);
    eventually_up(&stage, "v1", false);
    let fate = get_with_key(&stage, "alice");
    assert!(fate.is_bad("no-healthy-upstream", "key") && fate.version == "v1", "{fate:?}");
    assert!(get_with_override(&stage, "v0").is_good("override"));
}

#[test]
fn where_every_version_is_down_each_request_fails_as_its_own() {
    let hall = hall();
    let [one, two] = ["v1", "v2"].map(|name| Patient::new(&hall, name));
    let file = file().worker(REMAP).version("v1", &one.backend, 50).version_with(CHECK);
    let stage = stage(&file.version("v2", &two.backend, 50).version_with(CHECK));
    let before = versions(&stage, &["key"]);
    one.answers(500);
    two.answers(500);
    eventually_up(&stage, "v1", false);
    eventually_up(&stage, "v2", false);
    for (key, fate) in keys(&stage) {
        assert!(fate.is_bad("no-healthy-upstream", "key") && fate.version == before[&key], "{fate:?}");
    }
}

#[test]
fn by_default_a_key_never_changes_its_version() {
    let hall = hall();
    let [one, two] = ["v1", "v2"].map(|name| Patient::new(&hall, name));
    let file = file().version("v1", &one.backend, 50).version_with(CHECK);
    let stage = stage(&file.version("v2", &two.backend, 50));
    let before = versions(&stage, &["key"]);
    one.answers(500);
    eventually_up(&stage, "v1", false);
    for (key, fate) in keys(&stage) {
        assert_eq!(fate.version, before[&key]);
        assert!(if fate.version == "v1" {
            fate.is_bad("no-healthy-upstream", "key")
        } else {
            fate.is_good("key")
        });
    }
}

/// A key of the first of two versions of equal share.
fn key_of_the_first() -> String {
    let ring = ring("shop", &[50_000, 50_000]);
    let keys = (0..1000).map(|key| format!("key-{key}"));
    keys.into_iter().find(|key| ring.owner(ring.position(key.as_bytes())).index() == 0).unwrap()
}

#[test]
fn a_version_that_refuses_five_connections_in_a_row_is_down_until_somebody_listens_again() {
    let hall = hall();
    let two = Patient::new(&hall, "v2");
    let file = file().worker(REMAP).version_at("v1", &["unix:v1.sock"], 50);
    let stage = stage(&file.version("v2", &two.backend, 50));
    let key = key_of_the_first();
    let mut refused = 0;
    let moved = loop {
        let fate = get_with_key(&stage, &key);
        if fate.reason != "key" {
            break fate;
        }
        assert!(fate.is_bad("connect-failed", "key") && fate.version == "v1", "{fate:?}");
        refused += 1;
    };
    assert!((1..=5).contains(&refused), "{refused}");
    assert!(moved.is_good("failover") && moved.version == "v2", "{moved:?}");
    let shown = version(&stage, "v1");
    let endpoint = &shown["health"][0]["endpoints"][0];
    assert_eq!((&shown["up"], &endpoint["healthy"]), (&false.into(), &false.into()));
    assert!(endpoint["refused_in_a_row"].as_u64().unwrap() >= 5);
    assert_eq!(endpoint["fails_checks"], false);
    assert!(get_with_override(&stage, "v1").is_bad("connect-failed", "override"));
    // No request has to find out.
    let _local = Local::new(&hall, &stage.folder.path().join("v1.sock"), "v1");
    eventually_up(&stage, "v1", true);
    let back = get_with_key(&stage, &key);
    assert!(back.is_good("key") && back.version == "v1", "{back:?}");
}

#[test]
fn where_nothing_moves_every_request_tries_to_connect_and_the_first_that_can_is_served() {
    let hall = hall();
    let stage = stage(&file().version_at("v1", &["unix:v1.sock"], 100));
    for _ in 0..12 {
        assert!(get(&stage, "").is_bad("connect-failed", "random"));
    }
    let _local = Local::new(&hall, &stage.folder.path().join("v1.sock"), "v1");
    assert!(get(&stage, "").is_good("random"));
    assert_eq!(version(&stage, "v1")["up"], true);
}

#[test]
fn a_version_of_which_no_address_is_known_is_down() {
    let hall = hall();
    let two = Patient::new(&hall, "v2");
    let file = file().worker(REMAP).version_at("v1", &["http://no-such-name.invalid:80"], 50);
    let stage = stage(&file.version("v2", &two.backend, 50));
    let fate = get_with_key(&stage, &key_of_the_first());
    assert!(fate.is_good("failover") && fate.version == "v2", "{fate:?}");
    assert_eq!(version(&stage, "v1")["up"], false);
}
