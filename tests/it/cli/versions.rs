//! `gradual versions`.

use serde_json::{Value, json};

use super::stage::{Place, V1, V2};

#[test]
fn versions_are_uploaded_listed_shown_and_deployed() {
    Place::new().transcript("versions.txt", &[
        "versions upload --upstream http://127.0.0.1:3003 http://127.0.0.1:3004 --tag v3 --message faster",
        "versions list",
        "versions view dc8d",
        "versions deploy $1@10% db7cd8d3@90%",
        "versions deploy db7cd8d3 --version-tag v3@20 --version-id dc8dcd28 --percentage 30 --message three",
        "versions list --limit 1",
        "deployments status",
    ]);
}

#[test]
fn a_dry_run_says_what_it_would_do_and_writes_nothing() {
    let place = Place::new();
    let before = place.text();
    place.transcript(
        "dry_run.txt",
        &[
            "versions upload --upstream http://127.0.0.1:3003 --dry-run",
            "versions deploy dc8d@50 db7c --dry-run",
            "deploy --upstream http://127.0.0.1:3003 --dry-run",
            "deploy dc8d --dry-run",
            "rollback db7c --dry-run",
        ],
    );
    assert_eq!(place.text(), before);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn versions_without_a_percentage_share_what_the_others_leave() {
    let place = Place::new();
    let v3 = place.upload(&[]);
    for (specs, shares) in [
        (&[V1, V2][..], &["50", "50"][..]),
        (&[&format!("{V1}@70%"), V2], &["70", "30"]),
        (&[&format!("{V1}@100"), V2], &["100", "0"]),
        (&[V1, V2, &v3], &["33.333", "33.334", "33.333"]),
        (&[V2, "--version-id", V1, "--percentage", "12.5"], &["12.5", "87.5"]),
        (&[V2, "--version-tag", "v1@1%"], &["1", "99"]),
        (&[&format!("{V1}@10"), &format!("{V1}@40"), V2], &["40", "60"]),
    ] {
        place.good(&[&["versions", "deploy"], specs].concat());
        let split = place.split();
        let found: Vec<_> = split.iter().map(|(_, share)| share.as_str()).collect();
        assert_eq!(found, shares, "{specs:?}");
    }
}

#[test]
fn machines_get_versions_in_wranglers_shape() {
    let place = Place::new();
    let id = place.upload(&["--tag", "v3", "--message", "faster"]);
    let list = place.good(&["versions", "list", "--json"]).json();
    assert_eq!(list.as_array().unwrap().len(), 3);
    let version = &list[2];
    assert_eq!((&version["id"], &version["number"]), (&json!(id), &json!(3)));
    assert_eq!(version["annotations"], json!({ "workers/tag": "v3", "workers/message": "faster" }));
    assert!(version["metadata"]["created_on"].as_str().unwrap().ends_with('Z'));
    assert_eq!((&version["percentage"], &version["migration"]), (&Value::Null, &Value::Null));
    assert_eq!(version["upstreams"], json!(["http://127.0.0.1:9"]));
    assert_eq!((&list[0]["id"], &list[0]["percentage"]), (&json!(V1), &json!(90)));
    assert_eq!(place.good(&["versions", "view", &id, "--json"]).json(), *version);
}

#[test]
fn machines_get_what_was_deployed_with_its_plan() {
    let place = Place::new();
    let said = place.good(&["versions", "deploy", &format!("{V1}@80"), V2, "--json", "--message", "on"]);
    let result = said.json();
    let deployment = &result["deployment"];
    assert_eq!((&result["worker"], &result["dry_run"]), (&json!("shop"), &json!(false)));
    assert_eq!((&deployment["strategy"], &deployment["source"]), (&json!("percentage"), &json!("cli")));
    assert_eq!((&deployment["author_email"], &result["version"]), (&json!("alex"), &Value::Null));
    assert_eq!(deployment["annotations"], json!({ "workers/message": "on" }));
    let versions = json!([{ "version_id": V1, "percentage": 80 }, { "version_id": V2, "percentage": 20 }]);
    assert_eq!(deployment["versions"], versions);
    assert_eq!((&result["plan"]["moved"], &result["plan"]["least"]), (&json!(10), &json!(10)));
    assert_eq!(result["plan"]["moves"], json!([{ "from": V1, "to": V2, "percentage": 10 }]));
    let ring = json!([
        { "version_id": V1, "from": 0, "to": 80_000 },
        { "version_id": V2, "from": 80_000, "to": 100_000 },
    ]);
    assert_eq!((&result["plan"]["ring"], &result["proxy"]["serves"]), (&ring, &json!(false)));
    assert_eq!(place.good(&["deployments", "status", "--json"]).json()["id"], deployment["id"]);
}

#[test]
fn from_three_versions_on_a_warning_says_so_and_the_deployment_is_made() {
    let place = Place::new();
    let v3 = place.upload(&[]);
    let said = place.good(&["versions", "deploy", V1, V2, &v3]);
    assert!(said.err.starts_with("warning: 3 versions share this deployment"), "{}", said.err);
    assert_eq!(place.split().len(), 3);
}

#[test]
fn a_version_keeps_the_place_that_it_had_so_that_no_more_keys_move_than_must() {
    let place = Place::new();
    let v3 = place.upload(&[]);
    place.good(&["versions", "deploy", &format!("{v3}@10"), &format!("{V2}@10"), &format!("{V1}@80")]);
    let plan = place.good(&["versions", "deploy", &format!("{V2}@30"), &format!("{v3}@10"), V1, "--json"]);
    let plan = &plan.json()["plan"];
    assert_eq!((&plan["moved"], &plan["least"]), (&json!(20), &json!(20)));
    assert_eq!(plan["moves"], json!([{ "from": V1, "to": V2, "percentage": 20 }]));
}

#[test]
fn the_author_is_the_one_given_else_the_environments() {
    let place = Place::new();
    let author = || place.good(&["deployments", "status", "--json"]).json()["author_email"].clone();
    place.good(&["rollback", V1, "--author", "kim"]);
    assert_eq!(author(), "kim");
    for (variables, expected) in [
        (&[("GRADUAL_AUTHOR", "sam"), ("USER", "root")][..], "sam"),
        (&[("GRADUAL_AUTHOR", ""), ("USER", "root"), ("LOGNAME", "x")], "root"),
        (&[("GRADUAL_AUTHOR", ""), ("LOGNAME", "x")], "x"),
    ] {
        let mut program = place.program(&["deploy", V2]);
        let output = program.envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(author(), expected);
    }
}

#[test]
fn a_worker_is_named_where_there_are_several() {
    let text = super::super::control::stage::file(super::stage::ADMIN, 90);
    let routed = |name: &str| format!("name = \"{name}\"\nroutes = [\"{name}.example/*\"]");
    let shop = text.replace("name = \"shop\"", &routed("shop"));
    let blog = text[text.find("[[worker]]").unwrap()..].replace("name = \"shop\"", &routed("blog"));
    let place = Place::with(&(shop + &blog));
    assert_eq!(place.run(&["versions", "list", "--json"]).kind(), "unknown-worker");
    assert_eq!(place.run(&["versions", "list", "--json", "--worker", "blok"]).kind(), "unknown-worker");
    place.good(&["deploy", V2, "--worker", "blog"]);
    let active = |worker| place.good(&["deployments", "status", "--name", worker, "--json"]).json();
    assert_eq!(active("blog")["versions"][0]["version_id"], V2);
    assert_eq!(active("shop")["versions"].as_array().unwrap().len(), 2);
}
