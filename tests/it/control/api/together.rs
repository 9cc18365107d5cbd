//! Several at once: one after the other, and nothing lost.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use gradual::config::Address;
use serde_json::json;

use super::{V1, V2, active, shop, split};
use crate::control::stage::eventually;

#[test]
fn uploads_at_once_are_all_there_afterwards() {
    let stage = shop();
    const WRITERS: usize = 6;
    let upload = |n: usize| {
        let body = json!({ "upstreams": [format!("http://127.0.0.1:{}", 3000 + n)], "tag": format!("t{n}") });
        let answer = stage.post("/workers/shop/versions", &body);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["version"]["id"].as_str().unwrap().to_owned()
    };
    let upload = &upload;
    let ids: BTreeSet<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS).map(|n| scope.spawn(move || upload(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), WRITERS);
    let versions = stage.get("/workers/shop/versions").json();
    let listed: BTreeSet<_> = versions["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect();
    assert!(ids.is_subset(&listed) && listed.len() == WRITERS + 2, "{versions}");
    assert!(ids.iter().all(|id| stage.text().contains(id)));
}

#[test]
fn of_two_deployments_upon_the_same_one_only_one_is_made() {
    let stage = shop();
    let base = stage.get("/workers/shop").json()["deployment"]["id"].clone();
    let deploy = |share: f64| {
        let body = json!({ "versions": split(&[(V1, share), (V2, 100.0 - share)]), "base": base });
        stage.post("/workers/shop/deployments", &body)
    };
    let deploy = &deploy;
    let mut answers: Vec<_> = std::thread::scope(|scope| {
        let threads = [20.0, 30.0].map(|share| scope.spawn(move || (deploy(share).status, share)));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    answers.sort_by_key(|(status, _)| *status);
    assert_eq!((answers[0].0, answers[1].0), (201, 409));
    assert_eq!(active(&stage)[0].1, answers[0].1);
}

#[test]
fn a_ninth_change_is_not_kept_waiting_where_eight_wait_for_another_writer() {
    let stage = shop();
    let upload = || {
        let answer = stage.post("/workers/shop/versions", &json!({ "upstreams": ["http://127.0.0.1:3003"] }));
        (answer.status, answer.json()["kind"].clone())
    };
    let other = gradual::store::write::lock(stage.folder.path(), "gradual", Duration::ZERO).unwrap();
    let mut answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..9).map(|_| scope.spawn(upload)).collect();
        eventually("one is refused", || threads.iter().any(|thread| thread.is_finished()));
        drop(other);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    answers.sort_by_key(|(status, _)| *status);
    assert_eq!(answers.pop(), Some((503, json!("busy"))));
    assert!(answers.iter().all(|(status, _)| *status == 201), "{answers:?}");
    assert_eq!(stage.get("/workers/shop").json()["versions"], 10);
}

#[test]
fn a_process_that_is_about_to_end_changes_nothing_and_says_so() {
    let mut stage = shop();
    let before = stage.text();
    let other = gradual::store::write::lock(stage.folder.path(), "gradual", Duration::ZERO).unwrap();
    let upload = || {
        let answer = stage.post("/workers/shop/versions", &json!({ "upstreams": ["http://127.0.0.1:3003"] }));
        (answer.status, answer.json()["kind"].clone())
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..9).map(|_| scope.spawn(upload)).collect();
        // That one is refused says that the others wait for the lock.
        eventually("one is refused", || threads.iter().any(|thread| thread.is_finished()));
        stage.handle.stop();
        drop(other);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|(status, _)| *status == 503), "{answers:?}");
    assert_eq!(answers.iter().filter(|(_, kind)| *kind == json!("stopping")).count(), 8, "{answers:?}");
    stage.end();
    assert_eq!(stage.text(), before);
}

#[test]
fn a_change_is_whole_even_where_its_asker_has_left() {
    let stage = shop();
    let Some(Address::Tcp(address)) = stage.handle.admin() else { panic!("not TCP") };
    let body = json!({ "versions": split(&[(V1, 100.0)]), "message": "left" }).to_string();
    let head =
        "POST /api/v1/workers/shop/deployments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    let mut client = TcpStream::connect(address).unwrap();
    write!(client, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    eventually("it is written", || stage.text().contains("\"left\""));
    drop(client);
    eventually("it is served", || active(&stage) == [(V1.to_owned(), 100.0)]);
}

#[test]
fn changes_and_questions_under_load_fail_no_request() {
    let stage = shop();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for share in [10.0, 20.0, 30.0, 40.0, 50.0] {
                let body = json!({ "versions": split(&[(V1, share), (V2, 100.0 - share)]) });
                assert_eq!(stage.post("/workers/shop/deployments", &body).status, 201);
            }
        });
        let mut seen = BTreeSet::new();
        while !writer.is_finished() {
            let shares = active(&stage);
            assert_eq!(shares.iter().map(|(_, share)| share).sum::<f64>(), 100.0);
            seen.insert(format!("{shares:?}"));
        }
        assert!(!seen.is_empty());
    });
    assert_eq!(stage.handle.status().generation(), 6);
}
