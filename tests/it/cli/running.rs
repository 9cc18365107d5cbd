//! Commands and the running proxy.

use serde_json::json;

use super::stage::{ADMIN, Place, V1, V2};
use crate::control::stage::{Stage, eventually, file, worker};

#[test]
fn a_deployment_serves_on_every_thread_when_the_command_returns() {
    let stage = Stage::new(&file(ADMIN, 90));
    let place = Place::at(stage.folder.path());
    let said = place.good(&["versions", "deploy", &format!("{V1}@40"), V2, "--json"]).json();
    assert_eq!(said["proxy"], json!({ "serves": true, "generation": 2, "why": null }));
    let status = stage.status();
    assert_eq!(status["workers"][0]["deployment"]["id"], said["deployment"]["id"]);
    assert_eq!(status["workers"][0]["deployment"]["versions"][0]["percentage"], 40);
    let said = place.good(&["deploy", V2]);
    assert!(said.out.ends_with("Generation 3 serves it on every thread.\n"), "{said:?}");
}

#[test]
fn what_a_proxy_served_is_listed_and_rolled_back_to() {
    let stage = Stage::new(&file(ADMIN, 100));
    let place = Place::at(stage.folder.path());
    let listed = || place.good(&["deployments", "list", "--json"]).json();
    place.good(&["deploy", V2, "--message", "all"]);
    eventually("both are in the journal", || listed()[1]["generation"] == 2);
    assert_eq!((listed().as_array().unwrap().len(), &listed()[0]["generation"]), (2, &json!(1)));
    place.good(&["rollback"]);
    assert_eq!(place.split(), [(V1.to_owned(), "100".to_owned())]);
    eventually("it is in the journal", || listed()[2]["generation"] == 3);
    assert_eq!(listed()[2]["annotations"]["workers/message"], "Rollback");
}

#[test]
fn what_the_proxy_refuses_is_taken_back_and_said() {
    let stage = Stage::new(&file(ADMIN, 90));
    let place = Place::at(stage.folder.path());
    // Good as a text, but what it names is not there.
    let log = |text: &str| format!("[log]\naccess = \"missing/a.log\"\n{text}");
    stage.write(&log(&file(ADMIN, 90)));
    let before = place.text();
    let said = place.run(&["deploy", V2, "--json"]);
    assert_eq!((said.code, said.kind().as_str()), (1, "refused-by-proxy"), "{said:?}");
    assert!(said.err.contains("missing/a.log") && said.err.contains("line 2"), "{said:?}");
    assert_eq!(place.text(), before);
    assert_eq!(stage.status()["generation"], 1);
    let said = place.run(&["reload", "--json"]);
    assert_eq!((said.code, said.kind().as_str()), (1, "refused-by-proxy"), "{said:?}");
}

#[test]
fn a_proxy_that_runs_another_file_is_not_told() {
    let stage = Stage::new(&file(ADMIN, 90));
    let admin = format!("address = \"unix:{}\"", stage.folder.path().join("admin.sock").display());
    let place = Place::with(&file(&admin, 90));
    let said = place.good(&["deploy", V2]);
    assert!(said.out.contains("No proxy runs this file") && said.out.contains("runs /"), "{said:?}");
    assert_eq!(stage.status()["generation"], 1);
    assert_eq!(place.run(&["reload", "--json"]).kind(), "no-proxy");
    assert_eq!(place.run(&["status", "--json"]).kind(), "no-proxy");
    // By whatever name it is the same file.
    let link = stage.folder.path().join("link.toml");
    std::os::unix::fs::symlink(stage.path(), &link).unwrap();
    let said = place.good(&["deploy", V2, "--file", link.to_str().unwrap(), "--json"]);
    assert_eq!(said.json()["proxy"]["serves"], true);
    assert!(link.is_symlink());
}

#[test]
fn without_a_proxy_a_command_says_so_and_is_done() {
    let place = Place::with(&file("address = \"127.0.0.1:0\"", 90));
    let said = place.good(&["deploy", V2]);
    assert!(said.out.contains("No proxy runs this file") && said.out.contains("port 0"), "{said:?}");
    let place = Place::new();
    let said = place.good(&["deploy", V2, "--json"]).json();
    assert_eq!(said["proxy"]["serves"], false);
    assert!(said["proxy"]["why"].as_str().unwrap().contains("nobody answers at the admin address"));
}

#[test]
fn where_the_proxy_does_not_answer_the_change_stays_and_the_exit_code_says_that_it_is_not_certain() {
    let place = Place::new();
    let silent = std::os::unix::net::UnixListener::bind(place.path().join("admin.sock")).unwrap();
    std::thread::spawn(move || drop(silent.accept()));
    let said = place.run(&["deploy", V2, "--json"]);
    assert_eq!((said.code, &said.json()["proxy"]["serves"]), (1, &json!(null)), "{said:?}");
    assert!(said.err.contains("it is not known whether the running proxy serves it"), "{said:?}");
    assert_eq!(place.split(), [(V2.to_owned(), "100".to_owned())]);
}

#[test]
fn the_status_is_told_to_people_and_machines() {
    let stage = Stage::new(&worker(ADMIN, 90, "http://127.0.0.1:9"));
    let place = Place::at(stage.folder.path());
    let said = place.good(&["status"]).out;
    for words in [
        "generation  1",
        "listeners   unix:",
        "worker shop: deployment ",
        &format!("     90%  up    {V1} (v1)\n"),
        &format!("     10%  up    {V2}\n"),
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let json = place.good(&["status", "--json"]).json();
    assert_eq!((&json["generation"], &json["workers"][0]["name"]), (&json!(1), &json!("shop")));
}

#[test]
fn a_reload_returns_once_the_file_serves() {
    let stage = Stage::new(&file(ADMIN, 90));
    let place = Place::at(stage.folder.path());
    stage.write(&file(ADMIN, 20));
    let said = place.good(&["reload"]);
    assert_eq!(said.out, "generation 2 serves on every thread\n");
    assert_eq!(stage.status()["workers"][0]["deployment"]["versions"][0]["percentage"], 20);
    assert_eq!(place.good(&["reload", "--json"]).json()["generation"], 3);
}

#[test]
fn a_proxy_with_a_token_is_shown_it() {
    let admin = format!("{ADMIN}\ntoken_file = \"token\"");
    let stage = Stage::start(&file(&admin, 90), false, |folder| {
        std::fs::write(folder.join("token"), "0123456789abcdef").unwrap();
    });
    let place = Place::at(stage.folder.path());
    assert_eq!(place.good(&["deploy", V2, "--json"]).json()["proxy"]["serves"], true);
    std::fs::write(place.path().join("token"), "fedcba9876543210").unwrap();
    let said = place.run(&["status", "--json"]);
    assert_eq!((said.code, said.kind().as_str()), (1, "no-answer"), "{said:?}");
}
