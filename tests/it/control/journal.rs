//! The journal of a running proxy: what became live, once each.

use gradual::control::status::Status;
use gradual::store::journal::{Entry, Journal};
use serde_json::Value;

use super::stage::{ANY_PORT, Stage, eventually, file};

/// All entries, once everything is noted: a start does not wait for that, but a reload does.
fn entries(stage: &Stage) -> Vec<Entry> {
    let _ = stage.reload();
    let history = Journal::new(stage.folder.path(), "gradual").read().unwrap();
    assert_eq!(history.unreadable, 0);
    history.entries
}

fn deployment_id(status: &Status) -> String {
    let status = status.to_json();
    status["workers"][0]["deployment"]["id"].as_str().unwrap().to_owned()
}

fn shares(entry: &Entry) -> Vec<String> {
    entry.versions.iter().map(|version| version.percentage.to_string()).collect()
}

#[test]
fn every_deployment_that_becomes_live_is_noted_once_edits_by_hand_included() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let first = entries(&stage);
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].worker.as_str(), first[0].generation), ("shop", 1));
    assert_eq!(
        (&first[0].id, shares(&first[0])),
        (&deployment_id(stage.handle.status()), vec!["90".to_owned(), "10".to_owned()])
    );
    assert_eq!(first[0].versions[0].version_id, "db7cd8d3-4425-4fe7-8c81-01bf963b6067");
    assert!(first[0].time.ends_with('Z') && first[0].source.is_none(), "{first:?}");
    // What leaves the deployment as it is is no new one, and what is refused is none.
    stage.write(&format!("# only a comment\n{}", file(ANY_PORT, 90)));
    stage.reload().unwrap();
    stage.write("nonsense");
    stage.reload().unwrap_err();
    assert_eq!(entries(&stage), first);
    stage.write(
        &file(ANY_PORT, 50)
            .replace("versions = [", "id = \"d2\"\nauthor = \"ana\"\nmessage = \"half\"\nversions = ["),
    );
    stage.reload().unwrap();
    let both = entries(&stage);
    assert_eq!(both.len(), 2, "{both:?}");
    assert_eq!(
        (both[1].id.as_str(), both[1].generation, shares(&both[1])),
        ("d2", 4, vec!["50".to_owned(), "50".to_owned()])
    );
    assert_eq!((both[1].author.as_deref(), both[1].message.as_deref()), (Some("ana"), Some("half")));
    assert_eq!(stage.status()["journal"], "on");
}

#[test]
fn a_restart_notes_nothing_and_an_edit_by_hand_has_the_same_id_everywhere() {
    let mut stage = Stage::new(&file(ANY_PORT, 90));
    let first = entries(&stage);
    assert_eq!(first.len(), 1);
    stage.end();
    let journal = std::fs::read(stage.folder.path().join("gradual.deployments.jsonl")).unwrap();
    // Another folder, as on another machine.
    let again = Stage::start(&file(ANY_PORT, 90), false, |folder| {
        std::fs::write(folder.join("gradual.deployments.jsonl"), &journal).unwrap();
    });
    assert_eq!((entries(&again), deployment_id(again.handle.status())), (first.clone(), first[0].id.clone()));
    // Changed while nothing ran: noted at the start.
    let changed = Stage::start(&file(ANY_PORT, 80), false, |folder| {
        std::fs::write(folder.join("gradual.deployments.jsonl"), &journal).unwrap();
    });
    let both = entries(&changed);
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    assert_ne!(both[1].id, both[0].id);
}

#[test]
fn the_journal_is_in_the_state_folder_which_is_made() {
    let text = format!("[server]\nstate = \"var/state\"\n{}", file(ANY_PORT, 90));
    let stage = Stage::new(&text);
    assert!(entries(&stage).is_empty());
    let history = Journal::new(&stage.folder.path().join("var/state"), "gradual").read().unwrap();
    assert_eq!(history.entries.len(), 1);
}

#[test]
fn a_journal_that_cannot_be_kept_stops_nothing_and_what_is_live_is_noted_as_soon_as_it_can_be() {
    let mut path = std::path::PathBuf::new();
    let stage = Stage::start(&file(ANY_PORT, 90), false, |folder| {
        path = folder.join("gradual.deployments.jsonl");
        std::fs::create_dir(&path).unwrap();
    });
    let journal = |stage: &Stage| -> Value { stage.status()["journal"].clone() };
    eventually("it is not kept", || journal(&stage) == "off");
    stage.write(&file(ANY_PORT, 50));
    assert_eq!(stage.reload().unwrap().generation, 2);
    assert_eq!(journal(&stage), "off");
    std::fs::remove_dir(&path).unwrap();
    stage.reload().unwrap();
    assert_eq!(journal(&stage), "on");
    let found = entries(&stage);
    assert_eq!((found.len(), shares(&found[0])), (1, vec!["50".to_owned(), "50".to_owned()]));
}
