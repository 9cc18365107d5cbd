//! The OpenAPI document, and what really answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{V1, shop};
use crate::control::stage::{ANY_PORT, Stage, file};

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"];

fn document(stage: &Stage) -> Value {
    let answer = stage.get("/openapi.json");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

#[test]
fn the_methods_of_every_path_are_those_that_the_document_names() {
    let stage = shop();
    let document = document(&stage);
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 10, "{paths:?}");
    for (path, operations) in paths {
        let documented: BTreeSet<_> =
            operations.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        let real = path.replace("{worker}", "shop").replace("{version}", V1).replace("{deployment}", "x");
        for method in METHODS.into_iter().filter(|method| !documented.contains(*method)) {
            let answer = stage.ask(&format!("{method} {real} HTTP/1.1\r\nHost: localhost"));
            assert_eq!(answer.status, 405, "{method} {real}: {answer:?}");
            let allowed = answer.header("allow").unwrap().split(',').filter(|method| *method != "HEAD");
            assert_eq!(allowed.map(str::to_owned).collect::<BTreeSet<_>>(), documented, "{path}");
        }
    }
}

#[test]
fn every_answer_has_the_members_that_the_document_gives_it() {
    let stage = shop();
    let document = document(&stage);
    let asked = json!({ "versions": [{ "version_id": V1, "percentage": 100 }], "dry_run": true });
    let plan = json!({ "versions": [{ "version_id": V1, "percentage": 100 }] });
    let upload = json!({ "upstreams": ["http://127.0.0.1:1"], "dry_run": true });
    for (schema, answer) in [
        ("Status", stage.get("/status")),
        ("Workers", stage.get("/workers")),
        ("Worker", stage.get("/workers/shop")),
        ("Versions", stage.get("/workers/shop/versions")),
        ("Version", stage.get(&format!("/workers/shop/versions/{V1}"))),
        ("Deployments", stage.get("/workers/shop/deployments")),
        ("Deployed", stage.post("/workers/shop/deployments", &asked)),
        ("Uploaded", stage.post("/workers/shop/versions", &upload)),
        ("Plan", stage.post("/workers/shop/plan", &plan)),
        ("Explained", stage.post("/explain", &json!({}))),
        ("Reloaded", stage.post("/reload", &json!({}))),
    ] {
        let schema = &document["components"]["schemas"][schema];
        let documented: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().collect();
        let json = answer.json();
        assert_eq!(json.as_object().unwrap().keys().collect::<BTreeSet<_>>(), documented, "{answer:?}");
    }
}

#[test]
fn a_token_is_a_security_scheme_where_there_is_one_and_probes_need_none() {
    let open = document(&shop());
    assert_eq!((&open["security"], &open["components"]["securitySchemes"]), (&Value::Null, &Value::Null));
    let token = "0123456789abcdef0123456789abcdef";
    for (metrics, security) in [("open", json!([{}])), ("token", Value::Null)] {
        let admin = format!("{ANY_PORT}\ntoken_file = \"admin.token\"\nmetrics = \"{metrics}\"");
        let stage = Stage::start(&file(&admin, 90), false, |folder| {
            std::fs::write(folder.join("admin.token"), token).unwrap();
        });
        let request =
            format!("GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}");
        let document = stage.ask(&request).json();
        assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
        assert_eq!(document["security"], json!([{ "token": [] }]));
        for probe in ["/healthz", "/readyz"] {
            assert_eq!(document["paths"][probe]["get"]["security"], json!([{}]), "{probe}");
        }
        assert_eq!(document["paths"]["/metrics"]["get"]["security"], security, "{metrics}");
    }
}

#[test]
fn every_status_of_what_checks_a_request_is_documented() {
    let document = document(&shop());
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let statuses = operation["responses"].as_object().unwrap();
            let mut needed = Vec::new();
            if !path.ends_with('z') {
                needed.extend(["401", "403"]);
            }
            if method == "post" {
                needed.extend(["400", "408", "413", "415"]);
            }
            if path.contains('{') {
                needed.push("404");
            }
            for status in needed {
                assert!(statuses.contains_key(status), "{method} {path}: {status}");
            }
        }
    }
}
