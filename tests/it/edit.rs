//! Edits of the file's text: what is asked for changes, and nothing else does.

use std::path::Path;

use gradual::config::edit::{NewDeployment, NewVersion, add_version, set_deployment};
use gradual::config::{Config, parse};
use gradual::model::name::{Tag, VersionId, WorkerName};
use gradual::model::share::Share;

mod forms;
mod random;

pub(crate) fn config(text: &str) -> Config {
    let parsed = parse("gradual.toml", text, Path::new("/etc/gradual"));
    parsed.unwrap_or_else(|report| panic!("{}\n{text}", report.render(false))).0
}

fn name(text: &str) -> WorkerName {
    WorkerName::new(text).unwrap()
}

fn id(text: &str) -> VersionId {
    VersionId::new(text).unwrap()
}

fn shares(parts: &[(&str, &str)]) -> Vec<(VersionId, Share)> {
    parts.iter().map(|(version, share)| (id(version), Share::parse(share).unwrap())).collect()
}

/// A version `v9` with every key.
pub(crate) fn version() -> NewVersion {
    NewVersion {
        id: id("v9"),
        tag: Some(Tag::new("2.0").unwrap()),
        message: Some("carts, \"again\"".to_owned()),
        created_on: "2026-11-22T05:00:00Z".to_owned(),
        migration: None,
        upstreams: vec!["http://127.0.0.1:3009".to_owned(), "unix:/run/v9.sock".to_owned()],
    }
}

/// A deployment without anything optional.
fn deployment(parts: &[(&str, &str)]) -> NewDeployment {
    NewDeployment {
        id: "d9".to_owned(),
        created_on: "2026-11-22T05:00:00Z".to_owned(),
        author: None,
        source: None,
        message: None,
        versions: shares(parts),
        ring: None,
    }
}

const ANNOTATED: &str = include_str!("../../config/gradual.toml");

#[test]
fn in_the_annotated_file_a_version_stands_behind_the_last_one_and_what_is_said_of_it() {
    let new = add_version(ANNOTATED, &name("my-worker"), &version()).unwrap();
    let behind = "# The standard health check of gRPC; `grpc = \"\"` asks about the whole server.\n\
                  # health = { grpc = \"shop.Cart\" }\n";
    let added = "\n[[worker.version]]\nid = \"v9\"\ntag = \"2.0\"\nmessage = \"carts, \\\"again\\\"\"\n\
                 created_on = 2026-11-22T05:00:00Z\nupstreams = [\"http://127.0.0.1:3009\", \"unix:/run/v9.sock\"]\n";
    assert_eq!(new, ANNOTATED.replace(behind, &format!("{behind}{added}")));
    assert_eq!(config(&new).workers[0].versions.len(), 3);
}

#[test]
fn in_the_annotated_file_a_deployment_changes_only_what_it_says_otherwise() {
    const V1: &str = "db7cd8d3-4425-4fe7-8c81-01bf963b6067";
    const V2: &str = "dc8dcd28-271b-4367-9840-6c244f84cb40";
    let deployment =
        NewDeployment { message: Some("half".to_owned()), ..deployment(&[(V2, "50"), (V1, "50")]) };
    let new = set_deployment(ANNOTATED, &name("my-worker"), &deployment).unwrap();
    let keys = "[worker.deployment]\nid = \"d9\"\ncreated_on = 2026-11-22T05:00:00Z\nmessage = \"half\"\n";
    let expected = ANNOTATED.replace("[worker.deployment]\n", keys);
    let expected = expected.replace("percentage = 10 },\n  {", "percentage = 50 },\n  {");
    let expected = expected.replace("percentage = 90 },\n]", "percentage = 50 },\n]");
    assert_eq!(new, expected);
    assert_eq!(config(&new).workers[0].policy.deployment.id, "d9");
    assert_eq!(
        set_deployment(&new, &name("my-worker"), &deployment).unwrap(),
        new,
        "once more changes nothing"
    );
}

#[test]
fn what_cannot_be_edited_is_an_error_that_says_why() {
    for (text, words) in [
        ("worker = ", "not TOML"),
        ("", "no worker `shop`"),
        ("[worker]\nname = \"shop\"", "no worker `shop`"),
        ("[[worker]]\nname = \"shops\"", "no worker `shop`"),
        ("[[worker]]\nname = \"shop\"", "of worker `shop`"),
    ] {
        let version = add_version(text, &name("shop"), &version()).unwrap_err();
        let deployment = set_deployment(text, &name("shop"), &deployment(&[("v1", "100")])).unwrap_err();
        for error in [version, deployment] {
            assert!(error.to_string().contains(words), "{text}: {error}");
        }
    }
}
