//! Bodies: JSON within bounds, without a member that is not known, and every mistake said.

use std::io::{Read, Write};
use std::net::TcpStream;

use gradual::config::Address;
use serde_json::{Value, json};

use super::{V1, problem, shop, split};

#[test]
fn every_mistake_of_a_body_is_said_with_its_place() {
    let stage = shop();
    let body =
        json!({ "versions": [{ "version_id": V1, "percentage": "100" }, {}], "mesage": "x", "dry_run": 1 });
    let answer = stage.post("/workers/shop/deployments", &body);
    assert_eq!(problem(&answer), (400, "body".to_owned()));
    let errors = answer.json()["errors"].clone();
    let pointers: Vec<_> =
        errors.as_array().unwrap().iter().map(|one| one["pointer"].as_str().unwrap()).collect();
    assert_eq!(
        pointers,
        ["/dry_run", "/mesage", "/versions/0/percentage", "/versions/1/version_id", "/versions/1/percentage",]
    );
    assert!(errors[1]["detail"].as_str().unwrap().contains("did you mean `message`?"), "{errors}");
    for pointer in pointers {
        assert!(answer.json()["detail"].as_str().unwrap().contains(pointer), "{answer:?}");
    }
}

#[test]
fn what_is_no_json_of_the_right_form_is_400_everywhere() {
    let stage = shop();
    let paths = ["versions", "deployments", "rollback", "plan"].map(|name| format!("/workers/shop/{name}"));
    let paths = paths.iter().map(String::as_str).chain(["/explain", "/reload", "/upgrade"]);
    let deep = "[".repeat(50_000);
    for path in paths {
        for body in
            ["[", "null", "[]", "1", "\"\"", "{}x", r#"{"a":1e999}"#, r#"{"unknown":1}"#, "\u{c}", &deep]
        {
            assert_eq!(problem(&stage.post_text(path, body)), (400, "body".to_owned()), "{path} {body:.20}");
        }
    }
    assert_eq!(stage.handle.status().generation(), 1);
}

#[test]
fn numbers_of_any_size_are_refused_and_not_rounded() {
    let stage = shop();
    for number in ["101", "-1", "1e300", "100.0000001", "9223372036854775808", "18446744073709551616", "-0.5"]
    {
        let body = format!(r#"{{"versions":[{{"version_id":"{V1}","percentage":{number}}}]}}"#);
        assert_eq!(problem(&stage.post_text("/workers/shop/deployments", &body)).0, 400, "{number}");
    }
    for number in ["99.9999", "0.0000000001", "5e-324"] {
        let body = format!(r#"{{"versions":[{{"version_id":"{V1}","percentage":{number}}}]}}"#);
        let answer = stage.post_text("/workers/shop/deployments", &body);
        assert_eq!(problem(&answer), (422, "bad-percentage".to_owned()), "{number}");
    }
}

#[test]
fn a_member_that_is_there_twice_is_refused() {
    let stage = shop();
    let versions = split(&[(V1, 100.0)]);
    let body = format!(r#"{{"versions":{versions},"message":"a","message":"b"}}"#);
    let answer = stage.post_text("/workers/shop/deployments", &body);
    assert_eq!(problem(&answer), (400, "body".to_owned()));
    assert!(answer.json()["detail"].as_str().unwrap().contains("duplicate field `message`"), "{answer:?}");
}

#[test]
fn a_body_that_is_no_utf_8_is_refused() {
    let stage = shop();
    let Some(Address::Tcp(address)) = stage.handle.admin() else { panic!("not TCP") };
    let body = b"{\"key\":\"\xff\"}";
    let mut client = TcpStream::connect(address).unwrap();
    let head = "POST /api/v1/explain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
    write!(client, "{head}\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
    client.write_all(body).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn a_body_longer_than_64_kib_is_413_and_one_of_another_type_415() {
    let stage = shop();
    let long = json!({ "key": "x".repeat(70_000) }).to_string();
    assert_eq!(problem(&stage.post_text("/explain", &long)), (413, "body".to_owned()));
    for path in ["/explain", "/workers/shop/versions", "/workers/shop/deployments", "/workers/shop/rollback"]
    {
        let text = format!("POST /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain");
        let answer = stage.ask(&format!("{text}\r\nContent-Length: 2\r\n\r\n{{}}"));
        assert_eq!(problem(&answer), (415, "content-type".to_owned()), "{path}");
    }
}

#[test]
fn a_body_that_would_take_its_time_is_not_waited_for_by_who_may_not_write() {
    let stage = shop();
    let head = "POST /api/v1/explain HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json";
    // No byte of the body comes: the answer does not need it.
    let answer = stage.ask(&format!("{head}\r\nContent-Length: 60000"));
    assert_eq!(problem(&answer), (403, "host".to_owned()));
}

#[test]
fn where_nothing_has_to_be_said_the_body_may_be_empty() {
    let stage = shop();
    let head = "POST /api/v1/explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    assert_eq!(stage.ask(head).json()["worker"], "shop");
    assert_eq!(stage.post_text("/reload", " \r\n").status, 200);
    let kind = |answer: &Value| answer["kind"].clone();
    assert_eq!(kind(&stage.post_text("/workers/shop/rollback", "").json()), "no-previous-deployment");
    assert_eq!(problem(&stage.post_text("/workers/shop/plan", "")), (400, "body".to_owned()));
}
