//! What the running configuration and the journal say.

use serde_json::{Value, json};

use super::{V1, V2, problem, shop, split};

#[test]
fn workers_are_listed_with_their_routes_and_the_deployment_that_serves() {
    let stage = shop();
    let answer = stage.get("/workers").json();
    let worker = &answer["workers"][0];
    assert_eq!(answer["workers"].as_array().unwrap().len(), 1);
    assert_eq!((&worker["name"], &worker["versions"]), (&json!("shop"), &json!(2)));
    assert_eq!(worker["routes"], json!(["*/*"]));
    assert_eq!(worker["deployment"]["versions"], split(&[(V1, 90.0), (V2, 10.0)]));
    assert_eq!(worker["deployment"]["active"], true);
    assert_eq!(&stage.get("/workers/shop").json(), worker);
}

#[test]
fn versions_are_listed_from_the_newest_with_their_place_in_the_file() {
    let stage = shop();
    let versions = stage.get("/workers/shop/versions").json()["versions"].clone();
    let expected = json!({
        "id": V1, "number": 1, "tag": "v1", "message": null, "created_on": null, "migration": null,
        "upstreams": ["http://127.0.0.1:9"], "deployable": true, "percentage": 90,
    });
    assert_eq!((&versions[0]["id"], &versions[0]["number"]), (&json!(V2), &json!(2)));
    assert_eq!(versions[1], expected);
    assert_eq!(stage.get(&format!("/workers/shop/versions/{V1}")).json(), expected);
    let newest = stage.get("/workers/shop/versions?limit=1").json();
    assert_eq!(newest["versions"].as_array().unwrap().len(), 1);
    assert_eq!(newest["versions"][0]["id"], V2);
}

#[test]
fn only_the_last_hundred_versions_are_deployable() {
    let stage = shop();
    let version =
        |n: u32| format!("[[worker.version]]\nid = \"x{n}\"\nupstreams = [\"http://127.0.0.1:9\"]\n");
    let more: String = (1..=99).map(version).collect();
    let text = stage.text().replace("[worker.deployment]", &format!("{more}\n[worker.deployment]"));
    stage.write(&text);
    stage.reload().unwrap();
    let deployable =
        |id: &str| stage.get(&format!("/workers/shop/versions/{id}")).json()["deployable"].clone();
    assert_eq!((deployable(V1), deployable(V2)), (json!(false), json!(true)));
    let old = json!({ "versions": [{ "version_id": V1, "percentage": 0 }, { "version_id": V2, "percentage": 100 }] });
    let new = json!({ "versions": [{ "version_id": V2, "percentage": 100 }] });
    assert_eq!(stage.post("/workers/shop/deployments", &new).status, 201);
    assert_eq!(problem(&stage.post("/workers/shop/deployments", &old)), (409, "not-deployable".to_owned()));
}

#[test]
fn the_active_deployment_is_the_first_even_where_the_journal_has_not_got_it() {
    let stage = shop();
    let deployments = stage.get("/workers/shop/deployments").json();
    let first = &deployments["deployments"][0];
    assert_eq!((&first["active"], &first["source"]), (&json!(true), &Value::Null));
    assert_eq!(first["versions"], split(&[(V1, 90.0), (V2, 10.0)]));
    let id = first["id"].as_str().unwrap();
    assert_eq!(&stage.get(&format!("/workers/shop/deployments/{id}")).json(), first);
    assert_eq!(first["id"], stage.status()["workers"][0]["deployment"]["id"]);
}

#[test]
fn garbage_in_the_journal_is_counted_and_keeps_nothing_from_being_read() {
    let stage = shop();
    let journal = stage.folder.path().join("gradual.deployments.jsonl");
    let versions =
        format!(r#"[{{"version_id":"{V1}","percentage":12.5}},{{"version_id":"{V2}","percentage":87.5}}]"#);
    let entry = format!(
        r#"{{"id":"before","time":"2026-11-20T12:00:00Z","worker":"shop","author":"ann","versions":{versions},"generation":7}}"#
    );
    let mut bytes = format!("{entry}\n{{\"id\":\n").into_bytes();
    bytes.extend(b"\xff\x00\n");
    std::fs::write(&journal, bytes).unwrap();
    let deployments = stage.get("/workers/shop/deployments").json();
    assert_eq!(deployments["unreadable"], 2, "{deployments}");
    let before = stage.get("/workers/shop/deployments/before").json();
    assert_eq!((&before["author"], &before["active"]), (&json!("ann"), &json!(false)));
    assert_eq!(before["live_since"], "2026-11-20T12:00:00Z");
    assert_eq!(before["versions"], split(&[(V1, 12.5), (V2, 87.5)]));
}

#[test]
fn what_is_not_there_is_404_and_a_name_that_is_no_text_400() {
    let stage = shop();
    for (path, status, kind) in [
        ("/workers/nobody", 404, "unknown-worker"),
        ("/workers/nobody/versions", 404, "unknown-worker"),
        ("/workers/Shop", 404, "unknown-worker"),
        ("/workers/%73hop%00", 404, "unknown-worker"),
        ("/workers/shop/versions/v9", 404, "not-found"),
        ("/workers/shop/versions/db7cd8d3", 404, "not-found"),
        ("/workers/shop/deployments/x%2Fy", 404, "not-found"),
        ("/workers/%ff", 400, "path"),
        ("/workers/shop/versions/%ff", 400, "path"),
        ("/workers/shop/versions?limit=0", 400, "query"),
        ("/workers/shop/versions?limit=1&limit=1", 400, "query"),
        ("/workers/shop/deployments?page=1", 400, "query"),
        ("/workers/", 404, "not-found"),
        ("/nothing", 404, "not-found"),
    ] {
        assert_eq!(problem(&stage.get(path)), (status, kind.to_owned()), "{path}");
    }
    assert_eq!(stage.get("/workers/%73hop").status, 200);
}

#[test]
fn a_plan_says_what_a_split_moves_the_least_possible_and_the_arcs_that_reach_it() {
    let stage = shop();
    stage.write(&stage.text().replace(
        "[worker.deployment]",
        "[[worker.version]]\nid = \"v3\"\nupstreams = [\"http://127.0.0.1:9\"]\n\n[worker.deployment]",
    ));
    stage.reload().unwrap();
    let wanted = json!({ "versions": split(&[("v3", 12.5), (V2, 10.0), (V1, 77.5)]) });
    let before = stage.text();
    let plan = stage.post("/workers/shop/plan", &wanted).json();
    assert_eq!(
        (&plan["worker"], &plan["moved"], &plan["least"]),
        (&json!("shop"), &json!(12.5), &json!(12.5))
    );
    assert_eq!(plan["moves"], json!([{ "from": V1, "to": "v3", "percentage": 12.5 }]));
    // In the order of the versions, v2 would have been pushed along: arcs keep it where it is.
    let arcs = plan["ring"].as_array().unwrap();
    assert!(arcs.contains(&json!({ "version_id": V2, "from": 90_000, "to": 100_000 })), "{plan}");
    let width = |arc: &Value| arc["to"].as_u64().unwrap() - arc["from"].as_u64().unwrap();
    assert_eq!(arcs.iter().map(width).sum::<u64>(), 100_000);
    assert_eq!((stage.text(), stage.handle.status().generation()), (before, 2));
}

#[test]
fn a_plan_of_what_cannot_be_says_why() {
    let stage = shop();
    for (parts, kind) in [
        (split(&[("v9", 100.0)]), "unknown-version"),
        (split(&[(V1, 50.0), (V1, 50.0)]), "repeated-version"),
        (split(&[(V1, 50.0), (V2, 49.0)]), "bad-total"),
        (split(&[(V1, 33.3333), (V2, 66.6667)]), "bad-percentage"),
    ] {
        let answer = stage.post("/workers/shop/plan", &json!({ "versions": parts }));
        assert_eq!(problem(&answer), (422, kind.to_owned()), "{parts}");
    }
    let answer = stage.post("/workers/nobody/plan", &json!({ "versions": split(&[(V1, 100.0)]) }));
    assert_eq!(problem(&answer), (404, "unknown-worker".to_owned()));
}

#[test]
fn a_request_is_explained_as_the_command_explains_it() {
    let stage = shop();
    let overrides = format!("shop=\"{V2}\"");
    let asked = json!({
        "worker": "shop", "url": "https://shop.test/cart?x=1", "method": "POST", "key": "alice", "ip": "192.0.2.7",
        "headers": [{ "name": "Cloudflare-Workers-Version-Overrides", "value": overrides }],
    });
    let answer = stage.post("/explain", &asked).json();
    let by_command = std::process::Command::new(env!("CARGO_BIN_EXE_gradual"))
        .args([
            "explain",
            "--json",
            "--worker",
            "shop",
            "--method",
            "POST",
            "--key",
            "alice",
            "--ip",
            "192.0.2.7",
        ])
        .args(["--header", &format!("Cloudflare-Workers-Version-Overrides: {overrides}")])
        .args(["https://shop.test/cart?x=1", "--file"])
        .arg(stage.path())
        .output()
        .unwrap();
    assert_eq!(answer, serde_json::from_slice::<Value>(&by_command.stdout).unwrap());
    assert_eq!((&answer["reason"], &answer["version_id"]), (&json!("override"), &json!(V2)));
    assert_eq!(stage.post("/explain", &json!({})).json()["reason"], "random");
}

#[test]
fn it_is_the_running_configuration_that_is_explained_and_not_the_file() {
    let stage = shop();
    let id = stage.get("/workers/shop").json()["deployment"]["id"].clone();
    stage.write("this is no configuration");
    let answer = stage.post("/explain", &json!({ "key": "alice" })).json();
    assert_eq!((&answer["worker"], &answer["reason"]), (&json!("shop"), &json!("key")));
    assert_eq!(stage.get("/workers/shop").json()["deployment"]["id"], id);
    assert_eq!(stage.get("/workers/shop/versions").status, 200);
    assert_eq!(stage.get("/workers/shop/deployments").status, 200);
}

#[test]
fn a_request_that_http_does_not_know_is_not_explained() {
    let stage = shop();
    for (asked, kind, status) in [
        (json!({ "worker": "nobody" }), "unknown-worker", 404),
        (json!({ "url": "ftp://x/" }), "unexplained", 422),
        (json!({ "method": "A B" }), "unexplained", 422),
        (json!({ "ip": "localhost" }), "unexplained", 422),
        (json!({ "headers": [{ "name": "a b", "value": "" }] }), "unexplained", 422),
        (json!({ "headers": [{ "name": "a", "value": "\n" }] }), "unexplained", 422),
        (json!({ "headers": { "a": "b" } }), "body", 400),
    ] {
        let answer = stage.post("/explain", &asked);
        assert_eq!(problem(&answer), (status, kind.to_owned()), "{asked}");
    }
}
