//! What is written, served and answered; and what is refused, and changes nothing.

use serde_json::{Value, json};

use super::{V1, V2, active, problem, shop, split};
use crate::control::stage::{ANY_PORT, Stage, file};

const DEPLOYMENTS: &str = "/workers/shop/deployments";

#[test]
fn a_deployment_is_in_the_file_and_served_when_it_is_answered() {
    let stage = shop();
    let body =
        json!({ "versions": split(&[(V2, 25.5), (V1, 74.5)]), "message": "a \"quarter\"", "author": "ann" });
    let answer = stage.post(DEPLOYMENTS, &body);
    assert_eq!(answer.status, 201, "{answer:?}");
    let json = answer.json();
    let deployment = &json["deployment"];
    assert_eq!((&json["generation"], &json["dry_run"]), (&json!(2), &json!(false)));
    // The order is that of the deployment before, so that no more keys move than must.
    assert_eq!(deployment["versions"], split(&[(V1, 74.5), (V2, 25.5)]));
    assert_eq!((&deployment["author"], &deployment["source"]), (&json!("ann"), &json!("api")));
    assert_eq!((&deployment["message"], &deployment["active"]), (&json!("a \"quarter\""), &json!(true)));
    assert_eq!((&json["plan"]["moved"], &json["plan"]["least"]), (&json!(15.5), &json!(15.5)));
    let id = deployment["id"].as_str().unwrap();
    let place = answer.header("location").unwrap();
    assert_eq!(place, format!("/api/v1/workers/shop/deployments/{id}"));
    assert_eq!(stage.get(place.strip_prefix("/api/v1").unwrap()).json()["id"], id);
    assert_eq!(stage.status()["workers"][0]["deployment"]["id"], id);
    assert_eq!(stage.handle.status().generation(), 2);
    assert!(stage.text().contains(id));
    let first = stage.get(DEPLOYMENTS).json()["deployments"][0].clone();
    assert_eq!((&first["id"], &first["active"]), (&json!(id), &json!(true)));
    assert!(first["live_since"].as_str().unwrap().ends_with('Z'), "the journal has it: {first}");
}

#[test]
fn a_version_is_uploaded_without_a_request_reaching_it() {
    let stage = shop();
    let body =
        json!({ "upstreams": ["http://127.0.0.1:3003"], "tag": "v3", "message": "new", "migration": "m1" });
    let answer = stage.post("/workers/shop/versions", &body);
    assert_eq!(answer.status, 201, "{answer:?}");
    let version = answer.json()["version"].clone();
    let id = version["id"].as_str().unwrap();
    assert_eq!((id.len(), &version["number"], &version["percentage"]), (36, &json!(3), &Value::Null));
    assert_eq!((&version["tag"], &version["migration"]), (&json!("v3"), &json!("m1")));
    assert_eq!(answer.header("location"), Some(&*format!("/api/v1/workers/shop/versions/{id}")));
    assert_eq!(stage.get(&format!("/workers/shop/versions/{id}")).json(), version);
    assert_eq!(active(&stage), [(V1.to_owned(), 90.0), (V2.to_owned(), 10.0)]);

    // Its migration is a new one: only all at once, and not back.
    let part = json!({ "versions": split(&[(id, 1.0), (V1, 99.0)]) });
    assert_eq!(problem(&stage.post(DEPLOYMENTS, &part)).0, 409);
    let whole = |migrate: bool| json!({ "versions": split(&[(id, 100.0)]), "migrate": migrate });
    let refused = stage.post(DEPLOYMENTS, &whole(false));
    assert_eq!(problem(&refused), (409, "migration-needs-deploy".to_owned()));
    assert_eq!(stage.post(DEPLOYMENTS, &whole(true)).status, 201);
    let back = stage.post("/workers/shop/rollback", &json!({ "version_id": V1 }));
    assert_eq!(problem(&back), (409, "migration-back".to_owned()));
    assert_eq!(active(&stage), [(id.to_owned(), 100.0)]);
}

#[test]
fn migrate_takes_one_version_with_everything() {
    let stage = shop();
    let body = json!({ "versions": split(&[(V1, 50.0), (V2, 50.0)]), "migrate": true });
    assert_eq!(problem(&stage.post(DEPLOYMENTS, &body)), (422, "migration-needs-deploy".to_owned()));
}

#[test]
fn a_rollback_gives_a_version_everything_again() {
    let stage = shop();
    let answer = stage.post("/workers/shop/rollback", &json!({ "version_id": V1, "author": "ann" }));
    assert_eq!(answer.status, 201, "{answer:?}");
    let deployment = answer.json()["deployment"].clone();
    assert_eq!((&deployment["message"], &deployment["author"]), (&json!("Rollback"), &json!("ann")));
    assert_eq!(active(&stage), [(V1.to_owned(), 100.0)]);
    let unknown = stage.post("/workers/shop/rollback", &json!({ "version_id": "v9" }));
    assert_eq!(problem(&unknown), (422, "unknown-version".to_owned()));
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let stage = shop();
    let before = stage.text();
    let dry = |path: &str, mut body: Value| {
        body["dry_run"] = true.into();
        let answer = stage.post(path, &body);
        assert_eq!((answer.status, answer.header("location")), (200, None), "{answer:?}");
        assert_eq!((&answer.json()["dry_run"], &answer.json()["generation"]), (&json!(true), &Value::Null));
        answer.json()
    };
    let deployed = dry(DEPLOYMENTS, json!({ "versions": split(&[(V1, 50.0), (V2, 50.0)]) }));
    assert_eq!((&deployed["plan"]["moved"], &deployed["deployment"]["active"]), (&json!(40), &json!(false)));
    dry("/workers/shop/versions", json!({ "upstreams": ["http://127.0.0.1:3003"] }));
    dry("/workers/shop/rollback", json!({ "version_id": V2 }));
    assert_eq!((stage.text(), stage.handle.status().generation()), (before, 1));
    let bad = json!({ "versions": split(&[(V1, 1.0)]), "dry_run": true });
    assert_eq!(problem(&stage.post(DEPLOYMENTS, &bad)), (422, "bad-total".to_owned()));
}

#[test]
fn what_cannot_be_deployed_is_refused_with_its_kind_and_changes_nothing() {
    let stage = shop();
    let before = stage.text();
    let long = "x".repeat(1001);
    for (path, body, status, kind) in [
        (DEPLOYMENTS, json!({ "versions": split(&[("v9", 100.0)]) }), 422, "unknown-version"),
        (DEPLOYMENTS, json!({ "versions": split(&[(V1, 50.0), (V1, 50.0)]) }), 422, "repeated-version"),
        (DEPLOYMENTS, json!({ "versions": split(&[(V1, 50.0)]) }), 422, "bad-total"),
        (
            DEPLOYMENTS,
            json!({ "versions": split(&[(V1, 100.0)]), "message": "ü".repeat(600) }),
            422,
            "bad-message",
        ),
        (DEPLOYMENTS, json!({ "versions": split(&[(V1, 100.0)]), "message": long }), 400, "body"),
        (DEPLOYMENTS, json!({ "versions": [] }), 400, "body"),
        ("/workers/nobody/deployments", json!({ "versions": split(&[(V1, 100.0)]) }), 404, "unknown-worker"),
        ("/workers/shop/versions", json!({ "upstreams": ["ftp://127.0.0.1"] }), 422, "bad-version"),
        (
            "/workers/shop/versions",
            json!({ "upstreams": ["http://127.0.0.1:1"], "tag": "ü" }),
            422,
            "bad-version",
        ),
        ("/workers/shop/versions", json!({ "upstreams": [] }), 400, "body"),
        ("/workers/shop/rollback", json!({}), 409, "no-previous-deployment"),
    ] {
        assert_eq!(problem(&stage.post(path, &body)), (status, kind.to_owned()), "{path} {body}");
    }
    assert_eq!((stage.text(), stage.handle.status().generation()), (before, 1));
}

#[test]
fn a_change_that_was_decided_upon_another_deployment_is_refused() {
    let stage = shop();
    let base = stage.get("/workers/shop").json()["deployment"]["id"].clone();
    let body = |share: f64| json!({ "versions": split(&[(V1, share), (V2, 100.0 - share)]), "base": base });
    assert_eq!(stage.post(DEPLOYMENTS, &body(80.0)).status, 201);
    let late = stage.post(DEPLOYMENTS, &body(70.0));
    assert_eq!(problem(&late), (409, "deployment-changed".to_owned()));
    assert!(late.json()["help"].is_string());
    let upload = json!({ "upstreams": ["http://127.0.0.1:1"], "base": base });
    assert_eq!(
        problem(&stage.post("/workers/shop/versions", &upload)),
        (409, "deployment-changed".to_owned())
    );
    assert_eq!(active(&stage)[0].1, 80.0);
}

#[test]
fn what_the_running_proxy_refuses_is_taken_back() {
    let stage = shop();
    // Good to read, but its access log cannot be opened: that shows only when it is to be served.
    let text = format!("[log]\naccess = \"missing/a.log\"\n{}", file(ANY_PORT, 90));
    stage.write(&text);
    let answer = stage.post(DEPLOYMENTS, &json!({ "versions": split(&[(V1, 50.0), (V2, 50.0)]) }));
    assert_eq!(problem(&answer), (409, "refused-by-proxy".to_owned()));
    assert!(answer.json()["detail"].as_str().unwrap().contains("missing/a.log"), "{answer:?}");
    assert_eq!((stage.text(), stage.handle.status().generation()), (text, 1));
    assert_eq!(active(&stage)[0].1, 90.0);
}

#[test]
fn a_file_with_mistakes_is_not_written_but_what_runs_is_still_read() {
    let stage = shop();
    let broken = file(ANY_PORT, 90).replace("upstreams", "upstream");
    stage.write(&broken);
    for (path, body) in [
        (DEPLOYMENTS, json!({ "versions": split(&[(V1, 50.0), (V2, 50.0)]) })),
        (DEPLOYMENTS, json!({ "versions": split(&[(V1, 50.0), (V2, 50.0)]), "dry_run": true })),
        ("/workers/shop/versions", json!({ "upstreams": ["http://127.0.0.1:1"] })),
        ("/workers/shop/rollback", json!({ "version_id": V1 })),
    ] {
        let answer = stage.post(path, &body);
        assert_eq!(problem(&answer), (409, "bad-file".to_owned()), "{path}");
        let diagnostics = answer.json()["diagnostics"].clone();
        assert!(diagnostics[0]["title"].as_str().unwrap().contains("upstream"), "{diagnostics}");
    }
    assert_eq!(stage.text(), broken);
    assert_eq!(stage.get("/workers/shop").status, 200);
    assert_eq!(stage.get(DEPLOYMENTS).status, 200);
}

#[test]
fn a_file_that_is_managed_elsewhere_is_not_written() {
    use std::os::unix::fs::PermissionsExt;
    let stage = shop();
    let before = stage.text();
    std::fs::set_permissions(stage.path(), std::fs::Permissions::from_mode(0o444)).unwrap();
    let answer = stage.post(DEPLOYMENTS, &json!({ "versions": split(&[(V1, 50.0), (V2, 50.0)]) }));
    assert_eq!(problem(&answer), (409, "file-is-managed-elsewhere".to_owned()));
    assert!(answer.json()["help"].is_string(), "{answer:?}");
    assert_eq!((stage.text(), stage.handle.status().generation()), (before, 1));
}

#[test]
fn from_three_versions_on_there_is_a_warning() {
    let stage = shop();
    let upload = stage.post("/workers/shop/versions", &json!({ "upstreams": ["http://127.0.0.1:1"] })).json();
    let id = upload["version"]["id"].as_str().unwrap();
    let answer =
        stage.post(DEPLOYMENTS, &json!({ "versions": split(&[(V1, 80.0), (V2, 10.0), (id, 10.0)]) }));
    assert_eq!(answer.json()["warnings"].as_array().unwrap().len(), 1, "{answer:?}");
    // v2 has kept its place on the ring.
    assert_eq!(answer.json()["plan"]["moved"], 10);
    assert!(answer.json()["deployment"]["ring"].is_array());
}

#[test]
fn all_of_it_needs_the_token_where_there_is_one() {
    let token = "0123456789abcdef0123456789abcdef";
    let text = file(&format!("{ANY_PORT}\ntoken_file = \"admin.token\""), 90);
    let stage = Stage::start(&text, false, |folder| {
        std::fs::write(folder.join("admin.token"), token).unwrap();
    });
    let body = json!({ "versions": split(&[(V1, 100.0)]) });
    assert_eq!(problem(&stage.post(DEPLOYMENTS, &body)), (401, "token".to_owned()));
    for path in ["/workers", "/workers/shop", DEPLOYMENTS, "/openapi.json", "/workers/%ff", "/workers/nobody"]
    {
        assert_eq!(problem(&stage.get(path)), (401, "token".to_owned()), "{path}");
    }
    let head =
        format!("Host: any.example\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json");
    let request = |origin: &str| {
        let text = body.to_string();
        let length = text.len();
        format!(
            "POST /api/v1{DEPLOYMENTS} HTTP/1.1\r\n{head}{origin}\r\nContent-Length: {length}\r\n\r\n{text}"
        )
    };
    assert_eq!(problem(&stage.ask(&request("\r\nOrigin: http://evil.example"))), (403, "origin".to_owned()));
    assert_eq!(stage.ask(&request("")).status, 201);
}
