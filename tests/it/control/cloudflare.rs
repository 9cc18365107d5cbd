//! Cloudflare's API on the admin address, as wrangler uses it.

use gradual::config;
use gradual::store::journal::{Entry, Journal};
use serde_json::{Value, json};

use super::stage::{ANY_PORT, Answer, Stage, file};

const V1: &str = "db7cd8d3-4425-4fe7-8c81-01bf963b6067";
const V2: &str = "dc8dcd28-271b-4367-9840-6c244f84cb40";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const WORKER: &str = "/client/v4/accounts/any/workers/scripts/shop";

pub(super) fn get(stage: &Stage, path: &str) -> Answer {
    stage.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any"))
}

pub(super) fn send(stage: &Stage, method: &str, path: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any");
    stage.ask(&format!("{head}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"))
}

pub(super) fn result(answer: &Answer) -> Value {
    let body = answer.json();
    assert_eq!((answer.status, &body["success"], &body["errors"]), (200, &true.into(), &json!([])), "{body}");
    body["result"].clone()
}

/// Status, code and message of an error.
pub(super) fn error(answer: &Answer) -> (u16, u64, String) {
    let body = answer.json();
    assert_eq!((&body["success"], &body["result"]), (&false.into(), &Value::Null), "{body}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let error = &body["errors"][0];
    (answer.status, error["code"].as_u64().unwrap(), error["message"].as_str().unwrap().to_owned())
}

fn deployment(split: &[(&str, f64)]) -> String {
    let versions: Vec<_> =
        split.iter().map(|(id, percentage)| json!({ "version_id": id, "percentage": percentage })).collect();
    json!({ "strategy": "percentage", "versions": versions, "annotations": { "workers/message": "" } })
        .to_string()
}

fn deploy(stage: &Stage, body: &str) -> Answer {
    send(stage, "POST", &format!("{WORKER}/deployments"), body)
}

#[test]
fn versions_are_listed_newest_first_and_count_from_the_first_of_the_file() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let listed = result(&get(&stage, &format!("{WORKER}/versions?deployable=true")));
    let of = |version: &Value| (version["id"].clone(), version["number"].clone());
    let items: Vec<_> = listed["items"].as_array().unwrap().iter().map(of).collect();
    assert_eq!(items, [(json!(V2), json!(2)), (json!(V1), json!(1))]);
    // wrangler sorts by this, although nothing in the file says it.
    let made = |place: usize| listed["items"][place]["metadata"]["created_on"].as_str().unwrap().to_owned();
    assert_eq!(
        (made(1).as_str(), made(0).as_str()),
        ("1970-01-01T00:00:00.000000Z", "1970-01-01T00:00:00.000001Z")
    );
    let paged = get(&stage, &format!("{WORKER}/versions?page=2&per_page=1"));
    assert_eq!(result(&paged)["items"][0]["id"], V1);
    let info = json!({ "page": 2, "per_page": 1, "count": 1, "total_count": 2, "total_pages": 2 });
    assert_eq!(paged.json()["result_info"], info);
    assert_eq!(error(&get(&stage, &format!("{WORKER}/versions?page=0"))).0, 400);
}

#[test]
fn a_version_says_what_wrangler_prints_of_it() {
    let text = file(ANY_PORT, 90).replace(
        "tag = \"v1\"",
        "tag = \"v1\"\nmessage = \"first\"\ncreated_on = 2026-11-20T13:00:00+01:00\nmigration = \"m1\"",
    );
    let text = text.replace(&format!("\nid = \"{V2}\""), &format!("\nid = \"{V2}\"\nmigration = \"m1\""));
    let stage = Stage::new(&text);
    let version = result(&get(&stage, &format!("{WORKER}/versions/{V1}")));
    assert_eq!(version["metadata"]["created_on"], "2026-11-20T12:00:00.000000Z");
    assert_eq!(version["annotations"], json!({ "workers/tag": "v1", "workers/message": "first" }));
    assert_eq!(version["resources"]["script"]["handlers"], json!(["fetch"]));
    let bindings = json!([
        { "type": "plain_text", "name": "UPSTREAM", "text": "http://127.0.0.1:9" },
        { "type": "plain_text", "name": "MIGRATION", "text": "m1" },
    ]);
    assert_eq!(version["resources"]["bindings"], bindings);
}

#[test]
fn a_deployment_is_written_and_served_and_shown() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let mut body: Value = serde_json::from_str(&deployment(&[(V1, 33.3333), (V2, 66.6667)])).unwrap();
    body["annotations"]["workers/message"] = "third".into();
    body["code_update_strategy"] = json!({ "mode": "deferred", "max_delay": 300 });
    let made = result(&send(&stage, "POST", &format!("{WORKER}/deployments?force=true"), &body.to_string()));
    let versions = json!([
        { "version_id": V1, "percentage": 33.333 },
        { "version_id": V2, "percentage": 66.667 },
    ]);
    assert_eq!(made["versions"], versions);
    assert_eq!((&made["source"], &made["annotations"]["workers/message"]), (&json!("api"), &json!("third")));
    let status = stage.status();
    assert_eq!(status["generation"], 2);
    let active = &status["workers"][0]["deployment"];
    assert_eq!((&active["id"], &active["message"]), (&made["id"], &json!("third")));
    assert_eq!(active["versions"][0]["percentage"], 33.333);
    let listed = result(&get(&stage, &format!("{WORKER}/deployments")));
    assert_eq!(listed["deployments"][0], made);
    let viewed = get(&stage, &format!("{WORKER}/deployments/{}", made["id"].as_str().unwrap()));
    assert_eq!(result(&viewed), made);
    assert!(std::fs::read_to_string(stage.path()).unwrap().contains("source = \"api\""));
}

#[test]
fn wrangler_is_named_as_the_source_and_an_empty_message_is_none() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let body = deployment(&[(V2, 100.0)]);
    let head = format!("POST {WORKER}/deployments HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any");
    let length = body.len();
    let request = format!("{head}\r\nUser-Agent: wrangler/4.0.0\r\nContent-Length: {length}\r\n\r\n{body}");
    let made = result(&stage.ask(&request));
    assert_eq!((&made["source"], &made["annotations"]), (&json!("wrangler"), &json!({})));
}

#[test]
fn what_cannot_be_deployed_is_refused_with_cloudflares_codes_and_changes_nothing() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let before = std::fs::read_to_string(stage.path()).unwrap();
    for (body, status, code, says) in [
        (deployment(&[(V1, 50.0), (V2, 49.0)]), 400, 10001, "99"),
        (deployment(&[(V1, -1.0), (V2, 101.0)]), 400, 10001, "-1 is no percentage"),
        (deployment(&[(V1, 50.0), (V1, 50.0)]), 400, 10001, V1),
        (deployment(&[]), 400, 10001, "version"),
        (deployment(&[("nonsense", 100.0)]), 404, 100_146, "nonsense"),
        (
            deployment(&[(V1, 100.0)]).replace("\"strategy\":\"percentage\"", "\"strategy\":\"x\""),
            400,
            10001,
            "`x`",
        ),
        (r#"{"versions":[{"version_id":"x","percentage":NaN}]}"#.into(), 400, 10001, "JSON"),
        (r#"{"versions":"all"}"#.into(), 400, 10001, "JSON"),
        (String::new(), 400, 10001, "JSON"),
        ("[".repeat(70_000), 400, 10001, "longer than"),
    ] {
        let (got, number, message) = error(&deploy(&stage, &body));
        assert_eq!((got, number), (status, code), "{body:.200}: {message}");
        assert!(message.contains(says), "{body:.200}: {message}");
    }
    assert_eq!(std::fs::read_to_string(stage.path()).unwrap(), before);
    assert_eq!(stage.status()["generation"], 1);
}

#[test]
fn a_version_of_another_migration_is_refused() {
    let text = file(ANY_PORT, 100).replace(&format!("  {{ version_id = \"{V2}\", percentage = 0 }},\n"), "");
    let text = text.replace(&format!("\nid = \"{V2}\""), &format!("\nid = \"{V2}\"\nmigration = \"m2\""));
    let stage = Stage::new(&text);
    for split in [&[(V1, 50.0), (V2, 50.0)][..], &[(V2, 100.0)]] {
        let answer = deploy(&stage, &deployment(split));
        let (status, code, message) = error(&answer);
        assert_eq!((status, code), (409, 10001), "{message}");
        assert!(answer.json()["errors"][0]["kind"].as_str().unwrap().starts_with("migration-"), "{message}");
    }
    assert_eq!(stage.status()["generation"], 1);
}

#[test]
fn unknown_workers_and_versions_have_cloudflares_codes() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let scripts = "/client/v4/accounts/any/workers/scripts";
    for path in ["versions", "versions/x", "deployments", "settings"] {
        let (status, code, message) = error(&get(&stage, &format!("{scripts}/shpo/{path}")));
        assert_eq!((status, code), (404, 10007), "{path}");
        assert!(message.contains("did you mean `shop`?"), "{message}");
    }
    let services = "/client/v4/accounts/any/workers/services";
    assert_eq!(error(&get(&stage, &format!("{services}/nope"))).1, 10090);
    assert_eq!(
        result(&get(&stage, &format!("{services}/shop")))["default_environment"]["script"]["tag"],
        "shop"
    );
    for id in ["nonsense", &V1[..8]] {
        let (status, code, _) = error(&get(&stage, &format!("{WORKER}/versions/{id}")));
        assert_eq!((status, code), (404, 100_146), "{id}");
    }
    // wrangler would go on with the short id.
    let (_, _, message) = error(&get(&stage, &format!("{WORKER}/versions/{}", &V1[..8])));
    assert!(message.contains(&format!("did you mean `{V1}`?")), "{message}");
}

/// Writes a journal of deployments that gave one version everything or not, oldest first, and reads the list.
fn after(stage: &Stage, shares: &[(&str, u32)]) -> Vec<Value> {
    let text = std::fs::read_to_string(stage.path()).unwrap();
    let (config, _) = config::parse("gradual.toml", &text, stage.folder.path()).unwrap();
    let journal = Journal::of(&config, &stage.path());
    let entries: Vec<Entry> = shares
        .iter()
        .enumerate()
        .map(|(at, (id, percentage))| {
            let versions = json!([
                { "version_id": id, "percentage": percentage },
                { "version_id": V2, "percentage": 100 - percentage },
            ]);
            let time = format!("2026-11-{:02}T12:00:00Z", at + 1);
            let entry = json!({
                "id": format!("d{at}"), "time": time, "worker": "shop", "versions": versions, "generation": at,
            });
            serde_json::from_value(entry).unwrap()
        })
        .collect();
    journal.append(&entries).unwrap();
    let listed = result(&get(stage, &format!("{WORKER}/deployments")));
    listed["deployments"].as_array().unwrap().clone()
}

#[test]
fn ten_deployments_are_listed_newest_first_and_more_where_it_takes_more_to_find_one_to_go_back_to() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let active = stage.status()["workers"][0]["deployment"]["id"].clone();
    let mut shares = vec![(V1, 100), (V1, 100)];
    shares.extend((1..=15).map(|percentage| (V1, percentage)));
    let listed = after(&stage, &shares);
    assert_eq!(listed[0]["id"], active);
    // The active one, fifteen splits, and the newest that is none.
    assert_eq!(listed.len(), 17);
    assert_eq!(listed[16]["id"], "d1");
    let dates: Vec<_> = listed.iter().map(|one| one["created_on"].as_str().unwrap()).collect();
    assert!(dates.windows(2).all(|pair| pair[0] > pair[1]), "{dates:?}");
    assert_eq!(listed[1]["source"], "file");
    assert_eq!(after(&stage, &[(V1, 100), (V1, 60), (V1, 61)]).len(), 10);
}

#[test]
fn a_version_that_served_once_is_shown_although_the_file_has_it_no_more() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let gone = "11111111-2222-4333-8444-555555555555";
    after(&stage, &[(gone, 100)]);
    let version = result(&get(&stage, &format!("{WORKER}/versions/{gone}")));
    assert_eq!((&version["id"], &version["number"]), (&json!(gone), &json!(0)));
    assert_eq!(version["annotations"]["workers/message"], "no longer in the file");
    assert_eq!(error(&deploy(&stage, &deployment(&[(gone, 100.0)]))).1, 100_146);
}

#[test]
fn scripts_and_secrets_are_refused_with_what_to_do_instead_whatever_is_sent() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let large = "x".repeat(3 << 20);
    for (method, path, body) in [
        ("POST", format!("{WORKER}/versions?bindings_inherit=strict"), large.as_str()),
        ("PUT", WORKER.to_owned(), large.as_str()),
        ("PUT", format!("{WORKER}/secrets"), "{}"),
        ("GET", format!("{WORKER}/secrets"), ""),
        ("PATCH", "/client/v4/accounts/any/workers/workers/shop/versions/latest".into(), "{}"),
    ] {
        let (status, code, message) = error(&send(&stage, method, &path, body));
        let expected = if method == "GET" { (404, 7000) } else { (405, 7001) };
        assert_eq!((status, code), expected, "{method} {path}");
        assert!(message.contains("gradual versions upload --worker shop --upstream "), "{message}");
        assert!(message.contains(&stage.path().display().to_string()), "{message}");
    }
    let (_, _, message) = error(&send(&stage, "DELETE", "/client/v4/accounts/a/workers/services/shop", ""));
    assert!(message.contains("gradual reload"), "{message}");
    let (status, code, message) = error(&get(&stage, "/client/v4/zones"));
    assert_eq!((status, code), (404, 7000));
    assert!(message.contains("/zones"), "{message}");
}

#[test]
fn settings_are_not_taken_and_do_not_stand_in_the_way() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let path = format!("{WORKER}/script-settings");
    let before = result(&get(&stage, &path));
    assert_eq!(before["logpush"], false);
    assert_eq!(result(&send(&stage, "PATCH", &path, r#"{"logpush":true}"#)), before);
}

#[test]
fn there_is_one_user_and_one_account() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    assert_eq!(result(&get(&stage, "/client/v4/user/tokens/verify"))["status"], "active");
    assert!(result(&get(&stage, "/client/v4/user"))["email"].is_string());
    assert_eq!(result(&get(&stage, "/client/v4/memberships"))[0]["account"]["id"], "gradual");
    assert_eq!(result(&get(&stage, "/client/v4/accounts"))[0]["id"], "gradual");
    assert_eq!(result(&get(&stage, "/client/v4/accounts/mine"))["id"], "mine");
}

#[test]
fn the_token_the_host_and_the_origin_are_checked_and_refusals_are_in_cloudflares_form() {
    let stage =
        Stage::start(&file(&format!("{ANY_PORT}\ntoken_file = \"admin.token\""), 90), false, |folder| {
            std::fs::write(folder.join("admin.token"), TOKEN).unwrap();
        });
    let versions = format!("GET {WORKER}/versions HTTP/1.1\r\n");
    let tails = format!("POST {WORKER}/tails HTTP/1.1\r\n");
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let body = "Content-Length: 2\r\n\r\n{}";
    for (request, status) in [
        (format!("{versions}Host: gradual.example\r\n{bearer}"), 200),
        (format!("{versions}Host: localhost\r\nAuthorization: Bearer wrong"), 401),
        (format!("{versions}Host: localhost"), 401),
        (format!("{tails}Host: localhost\r\n{body}"), 401),
        (format!("{tails}Host: localhost\r\n{bearer}Origin: https://evil.example\r\n{body}"), 403),
        (format!("{tails}Host: localhost\r\n{bearer}{body}"), 200),
        // Only the WebSocket of a tail needs no token.
        (format!("POST /client/v4/tails/x HTTP/1.1\r\nHost: localhost\r\n{body}"), 401),
        ("GET /client/v4/tails/x HTTP/1.1\r\nHost: localhost".to_owned(), 401),
        ("GET /client/v4/ HTTP/1.1\r\nHost: localhost".to_owned(), 401),
    ] {
        let answer = stage.ask(&request);
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        assert_eq!(answer.json()["success"], status == 200, "{request}");
    }
}

#[test]
fn without_a_token_a_foreign_page_can_change_nothing() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let body = deployment(&[(V2, 100.0)]);
    let post = format!("POST {WORKER}/deployments HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    for more in [
        "Host: localhost\r\nContent-Type: text/plain",
        "Host: localhost\r\nContent-Type: application/json",
        "Host: localhost\r\nAuthorization: Bearer any\r\nOrigin: https://evil.example",
        "Host: evil.example\r\nAuthorization: Bearer any",
    ] {
        let (status, code, _) = error(&stage.ask(&format!("{post}{more}\r\n\r\n{body}")));
        assert_eq!((status, code), (403, 9109), "{more}");
    }
    assert_eq!(stage.status()["generation"], 1);
}
