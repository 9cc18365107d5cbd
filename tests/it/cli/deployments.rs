//! `gradual deployments`, `gradual deploy` and `gradual rollback`.

use serde_json::json;

use super::stage::{Place, V1, V2};

/// A place whose first deployment was live.
fn served() -> Place {
    let place = Place::new();
    place.lived();
    place
}

#[test]
fn deployments_are_listed_shown_and_rolled_back() {
    let place = served();
    place.transcript_with(
        "deployments.txt",
        &[
            "rollback",
            "deploy dc8dcd28 --message all",
            "deploy --upstream http://127.0.0.1:3003 --tag v3 --message next",
            "deployments list --limit 3",
            "deployments status",
            "deployments view",
            "rollback",
            "rollback db7cd8d3 --message Oops",
            "deployments view zzzz",
            "deployments view zz",
        ],
        Place::lived,
    );
}

#[test]
fn every_deployment_that_was_live_is_in_the_journal_and_is_found_by_the_beginning_of_its_id() {
    let place = served();
    place.good(&["deploy", V2]);
    place.lived();
    place.good(&["versions", "deploy", &format!("{V2}@40"), V1, "--message", "back a little"]);
    place.lived();
    let list = place.good(&["deployments", "list", "--json"]).json();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 3, "{list:?}");
    let messages: Vec<_> = list.iter().map(|one| &one["annotations"]["workers/message"]).collect();
    assert_eq!(messages[2], "back a little");
    let newest = place.good(&["deployments", "list", "--limit", "1", "--json"]).json();
    assert_eq!(newest[0], list[2]);
    for one in list {
        let id = one["id"].as_str().unwrap();
        assert_eq!(place.good(&["deployments", "view", &id[..12], "--json"]).json(), *one);
    }
    assert_eq!(place.good(&["deployments", "status", "--json"]).json(), list[2]);
    assert_eq!(place.run(&["deployments", "view", "zzzz", "--json"]).kind(), "unknown-deployment");
}

#[test]
fn a_rollback_without_a_version_goes_to_the_last_one_that_had_everything() {
    let place = served();
    place.good(&["deploy", V1]);
    place.lived();
    place.good(&["versions", "deploy", &format!("{V1}@50"), V2]);
    place.lived();
    place.good(&["deploy", V2]);
    place.lived();
    place.good(&["rollback"]);
    place.lived();
    assert_eq!(place.split(), [(V1.to_owned(), "100".to_owned())]);
    let active = place.good(&["deployments", "status", "--json"]).json();
    assert_eq!(active["annotations"], json!({ "workers/message": "Rollback" }));
}

#[test]
fn a_deployment_from_a_split_warns_of_it_and_goes_on_where_nobody_can_be_asked() {
    let place = Place::new();
    let said = place.good(&["deploy", V2]);
    assert!(said.err.contains("the active deployment has 2 versions"), "{}", said.err);
    assert_eq!(place.split(), [(V2.to_owned(), "100".to_owned())]);
    let again = place.good(&["deploy", V1]);
    assert_eq!(again.err, "");
}

#[test]
fn a_new_migration_comes_by_deploy_alone_and_none_goes_back() {
    let place = Place::new();
    let id = place.upload(&["--migration", "carts-2", "--tag", "m"]);
    let kind = |arguments: &[&str]| place.run(&[arguments, &["--json"]].concat()).kind();
    assert_eq!(kind(&["versions", "deploy", &format!("{id}@10"), V1]), "migration-mixed");
    assert_eq!(kind(&["versions", "deploy", &id]), "migration-needs-deploy");
    assert_eq!(kind(&["rollback", &id]), "migration-needs-deploy");
    place.good(&["deploy", "--version-tag", "m"]);
    assert_eq!(kind(&["rollback", V1]), "migration-back");
    assert_eq!(kind(&["deploy", V1]), "migration-back");
    // What is uploaded then needs the same.
    let next = place.upload(&[]);
    place.good(&["versions", "deploy", &format!("{next}@10"), &id]);
}
