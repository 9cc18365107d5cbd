//! Bad input: each has a message, nothing is lost and nothing half-written.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::stage::{ADMIN, Place, V1, V2};
use crate::control::stage::file;

#[test]
fn every_refusal_says_what_and_why_and_what_to_do() {
    let place = Place::new();
    place.transcript(
        "refusals.txt",
        &[
            "versions view 00000000",
            "versions view db7",
            "versions deploy v1",
            "versions deploy --version-tag v9",
            "versions deploy",
            "versions deploy --yes",
            "versions deploy db7cd8d3@10 dc8dcd28@80",
            "versions deploy db7cd8d3@NaN",
            "versions deploy db7cd8d3@-5 dc8dcd28",
            "versions deploy db7cd8d3@101",
            "versions deploy db7cd8d3@0.0001 dc8dcd28",
            "versions deploy db7cd8d3@10@20",
            "versions deploy --version-id db7cd8d3 --percentage -1",
            "versions deploy --version-id db7cd8d3 --percentage 10 20",
            "versions deploy db7cd8d3 --percentage 10",
            "versions deploy --version-tag v1@101",
            "versions upload --upstream nonsense",
            "versions upload --upstream http://127.0.0.1:9 --tag é",
            "deploy 00000000",
            "deploy --version-tag v9",
            "rollback 00000000",
            "rollback",
            "versions list --worker shpo",
            "deployments view 00000000",
            "deployments view --file missing.toml",
        ],
    );
    assert_eq!(place.text(), file(ADMIN, 90));
}

#[test]
fn what_is_wrong_is_told_to_machines_on_standard_output_too() {
    let place = Place::new();
    for (arguments, kind, code) in [
        (&["versions", "view", "00000000"][..], "unknown-version", 1),
        (&["versions", "deploy", "db7cd8d3@x"], "bad-percentage", 2),
        (&["versions", "deploy"], "no-version", 2),
        (&["versions", "deploy", "db7cd8d3@1"], "bad-total", 1),
        (&["versions", "upload", "--upstream", "x"], "bad-version", 1),
        (&["versions", "upload"], "no-upstream", 2),
        (&["rollback"], "no-previous-deployment", 1),
        (&["deployments", "view", "x"], "unknown-deployment", 1),
        (&["versions", "list", "--file", "missing.toml"], "bad-file", 1),
        (&["status"], "no-proxy", 1),
        (&["reload"], "no-proxy", 1),
    ] {
        let said = place.run(&[arguments, &["--json"]].concat());
        assert_eq!((said.code, said.kind().as_str()), (code, kind), "{arguments:?}: {said:?}");
        let error = &said.json()["error"];
        assert!(error["message"].is_string() && error.get("help").is_some(), "{error}");
        assert!(said.err.contains("error"), "{said:?}");
    }
}

#[test]
fn ambiguous_prefixes_and_tags_are_refused_with_what_they_may_mean() {
    let place = Place::new();
    let twin = format!(
        "[[worker.version]]\nid = \"{}0\"\ntag = \"v1\"\nupstreams = [\"http://127.0.0.1:9\"]\n\n",
        &V1[..35]
    );
    place.write(&place.text().replace("[worker.deployment]", &format!("{twin}[worker.deployment]")));
    for arguments in [&["versions", "view", "db7cd8d3"][..], &["versions", "deploy", "--version-tag", "v1"]] {
        let said = place.run(&[arguments, &["--json"]].concat());
        assert_eq!(said.kind(), "ambiguous-version");
        assert!(said.err.contains(V1) && said.err.contains(&format!("{}0", &V1[..35])), "{said:?}");
    }
    // A whole id is never ambiguous.
    place.good(&["versions", "view", V1]);
}

#[test]
fn only_the_last_hundred_uploaded_versions_can_be_deployed() {
    let place = Place::new();
    let more: String = (0..100)
        .map(|at| format!("[[worker.version]]\nid = \"more-{at:03}\"\ntag = \"t{at}\"\nupstreams = [\"http://127.0.0.1:9\"]\n\n"))
        .collect();
    place.write(&place.text().replace("[worker.deployment]", &format!("{more}[worker.deployment]")));
    // The deployed ones still serve, and may get another share.
    place.good(&["versions", "deploy", &format!("{V1}@50"), V2]);
    place.good(&["deploy", "more-000"]);
    let said = place.run(&["rollback", V1, "--json"]);
    assert_eq!(said.kind(), "not-deployable", "{said:?}");
    let said = place.run(&["versions", "deploy", "--version-tag", "v1", "--json"]);
    assert_eq!(said.kind(), "unknown-version");
    // All hundred can share a deployment; one more is none of the last hundred.
    let all: Vec<String> = (0..100).map(|at| format!("more-{at:03}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    place.good(&[&["versions", "deploy"], &*all].concat());
    assert_eq!(place.split().len(), 100);
    let said = place.run(&[&["versions", "deploy", V1, "--json"], &*all].concat());
    assert_eq!(said.kind(), "not-deployable");
}

#[test]
fn a_file_that_may_not_be_written_is_managed_elsewhere_and_stays_as_it_is() {
    for (target, mode) in [("gradual.toml", 0o444), (".", 0o555)] {
        let place = Place::new();
        let before = place.text();
        let target = place.path().join(target);
        let old = std::fs::metadata(&target).unwrap().permissions();
        std::fs::set_permissions(&target, PermissionsExt::from_mode(mode)).unwrap();
        let said = place.run(&["versions", "deploy", V1, V2, "--json"]);
        std::fs::set_permissions(&target, old).unwrap();
        assert_eq!((said.code, said.kind().as_str()), (1, "file-is-managed-elsewhere"), "{said:?}");
        assert!(said.json()["error"]["help"].is_string(), "{said:?}");
        assert_eq!(place.text(), before);
    }
}

#[test]
fn a_file_with_mistakes_is_shown_with_all_of_them_and_not_touched() {
    let place = Place::with("[[worker]]\nname = 1\n");
    let said = place.run(&["versions", "upload", "--upstream", "http://127.0.0.1:9"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("gradual.toml:2:8") && said.out.is_empty(), "{said:?}");
    assert_eq!(place.text(), "[[worker]]\nname = 1\n");
}

#[test]
fn writers_at_once_come_one_after_the_other() {
    let place = Place::new();
    let arguments = ["versions", "upload", "--upstream", "http://127.0.0.1:9"];
    let mut children: Vec<_> = (0..6)
        .map(|_| place.program(&arguments).stdout(std::process::Stdio::null()).spawn().unwrap())
        .collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(place.config().workers[0].versions.len(), 8);
}

#[test]
fn garbage_in_the_journal_is_said_and_hides_nothing_else() {
    let place = Place::new();
    let entry = json!({
        "id": "d-1", "time": "2026-11-20T12:00:00Z", "worker": "shop", "generation": 1,
        "versions": [{ "version_id": V1, "percentage": 100 }],
    });
    let journal = format!("{entry}\n\u{0}\u{1}garbage\n{{\"id\":\n");
    std::fs::write(place.path().join("gradual.deployments.jsonl"), journal).unwrap();
    let said = place.good(&["deployments", "list", "--json"]);
    assert_eq!(said.json().as_array().unwrap().len(), 2);
    assert!(said.err.contains("2 lines of the journal cannot be read"), "{said:?}");
    place.good(&["rollback"]);
    assert_eq!(place.split(), [(V1.to_owned(), "100".to_owned())]);
}

#[test]
fn nothing_of_a_file_is_obeyed_by_a_terminal() {
    let place = Place::new();
    place.upload(&["--message", "a\u{1b}[2Jb"]);
    let said = place.good(&["versions", "list"]);
    assert!(!said.out.contains('\u{1b}') && said.out.contains("a\u{241b}[2Jb"), "{said:?}");
}

#[test]
fn arguments_that_contradict_each_other_are_exit_code_2() {
    let place = Place::new();
    for arguments in [
        &["deploy"][..],
        &["deploy", V1, "--upstream", "http://127.0.0.1:9"],
        &["deploy", V1, "--version-tag", "v1"],
        &["deploy", V1, "--tag", "x"],
        &["rollback", V1, V2],
        &["plan", "gradual.toml"],
        &["versions"],
        &["versions", "list", "--limit", "x"],
    ] {
        assert_eq!(place.run(arguments).code, 2, "{arguments:?}");
        let said = place.run(&[arguments, &["--json"]].concat());
        assert_eq!((said.code, said.json()["error"].is_object()), (2, true), "{arguments:?}: {said:?}");
    }
}
