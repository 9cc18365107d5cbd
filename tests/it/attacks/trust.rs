//! Who is believed: about the client's address, about overrides and about keys.

use serde_json::Value;

use super::frames::{Outcome, request as fields};
use super::language::{HTTP2, OK, Stage, Trial, Upstream, answered_by_each_way, request};
use super::strict::Heard;

const OVERRIDES: &str = "cloudflare-workers-version-overrides";
const KEY: &str = "cloudflare-workers-version-key";

const CLAIMS: [(&str, &str); 9] = [
    ("x-forwarded-for", "6.6.6.6"),
    ("x-forwarded-for", "7.7.7.7, 8.8.8.8"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-port", "6666"),
    ("x-forwarded-prefix", "/evil"),
    ("forwarded", "for=6.6.6.6;host=evil.example"),
    ("x-real-ip", "6.6.6.6"),
    ("gradual-version-id", "evil"),
];

/// What the upstream hears of these fields, by each way.
async fn heard_by_each_way(stage: &Stage, sent: &[(&str, &str)]) -> Vec<(String, Heard)> {
    let lines: Vec<_> = sent.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let fields_of_one = format!("{}\r\nConnection: close", lines.join("\r\n"));
    let replies = stage.answers(request("GET /", &fields_of_one, "")).await.unwrap();
    assert_eq!((replies.len(), replies[0].status), (1, 200), "{sent:?}");
    let mut all = vec![("Http1".to_owned(), stage.upstream.last())];
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        let mut head = fields("GET", "/");
        head.extend(sent);
        frames.headers(1, true, &head);
        frames.flush().await;
        assert_eq!(frames.outcome(1).await, Outcome::Status(200), "{way:?} {sent:?}");
        all.push((format!("{way:?}"), stage.upstream.last()));
    }
    all
}

#[tokio::test]
async fn at_the_edge_claims_about_the_client_are_replaced() {
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    for (way, heard) in heard_by_each_way(&stage, &CLAIMS).await {
        let proto = if way == "Tls" { "https" } else { "http" };
        for (name, value) in [
            ("x-forwarded-for", Some("127.0.0.1")),
            ("x-forwarded-proto", Some(proto)),
            ("x-forwarded-host", Some("shop.example")),
            ("x-forwarded-port", None),
            ("x-forwarded-prefix", None),
            ("forwarded", None),
            ("x-real-ip", None),
            ("gradual-version-id", Some("v1")),
        ] {
            trial.same(&format!("{way} {name}"), heard.field(name).as_deref(), value);
        }
    }
    trial.end();
    assert!(!stage.upstream.all().contains("evil") && !stage.upstream.all().contains("6.6.6.6"));
}

#[tokio::test]
async fn from_a_trusted_proxy_the_chain_is_appended_to_and_only_our_own_names_are_replaced() {
    let trusting = "trusted_proxies = [\"127.0.0.0/8\"]";
    let stage = Stage::listening(Upstream::answering(OK).await, trusting, |file| file).await;
    let mut trial = Trial::default();
    for (way, heard) in heard_by_each_way(&stage, &CLAIMS).await {
        for (name, value) in [
            ("x-forwarded-for", "6.6.6.6, 7.7.7.7, 8.8.8.8, 127.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("gradual-version-id", "v1"),
            ("host", "shop.example"),
        ] {
            trial.same(&format!("{way} {name}"), heard.field(name).as_deref(), Some(value));
        }
    }
    trial.end();
    // The log has the address that is known for sure, whatever the chain claims.
    let (_, lines) = stage.records().await;
    let clients: Vec<_> = lines.iter().map(|line| line["ClientIP"].as_str().unwrap_or_default()).collect();
    assert_eq!(clients, ["127.0.0.1"; 3]);
}

#[tokio::test]
async fn overrides_and_keys_of_a_client_that_is_not_trusted_count_for_nothing_and_are_stripped() {
    let guarded = "overrides = \"trusted\"\nkeys = \"trusted\"\nexpose_version = true";
    let stage = Stage::with(Upstream::answering(OK).await, |file| {
        file.worker(guarded).version_at("v2", &["http://127.0.0.1:9"], 0)
    })
    .await;
    let sent = [(OVERRIDES, "shop=\"v2\""), (KEY, "k")];
    let mut trial = Trial::default();
    for (way, heard) in heard_by_each_way(&stage, &sent).await {
        for (name, _) in sent {
            trial.same(&format!("{way} {name}"), heard.field(name), None);
        }
        trial.same(&way, heard.field("gradual-version-id").as_deref(), Some("v1"));
    }
    trial.end();
    let (metrics, _) = stage.records().await;
    assert!(metrics.contains(r#"gradual_overrides_total{worker="shop",result="denied"} 3"#), "{metrics}");
}

#[tokio::test]
async fn overrides_that_are_broken_unknown_or_huge_are_as_none_and_are_counted() {
    let stage = Stage::with(Upstream::answering(OK).await, |file| file.worker("expose_version = true")).await;
    let huge = "shop=\"v1\",".repeat(4000);
    let mut trial = Trial::default();
    for (sent, why) in [
        ("shop=\"v9\"", "not-in-deployment"),
        ("shop=v1", "not-a-string"),
        ("shop=1", "not-a-string"),
        ("shop=\"v1", "invalid"),
        ("shop==\"v1\"", "invalid"),
        ("Shop=\"v1\"", "invalid"),
        ("shop=\"v1\",", "invalid"),
        ("shop=\"\u{e9}\"", "invalid"),
        (&huge[..], "invalid"),
    ] {
        let shown: String = sent.chars().take(20).collect();
        for (way, reply) in answered_by_each_way(&stage, &[(OVERRIDES, sent)]).await {
            let said = reply.field("gradual-version").unwrap_or_default().to_owned();
            let case = format!("{way} {shown}: {said}");
            trial.same(&case, said.ends_with(&format!("override={why}")), true);
            trial.same(&case, reply.status, 200);
        }
        // Each is heard once by each way, and what is refused here is no reason to go where it says.
        for heard in stage.upstream.requests() {
            trial.same(&shown, heard.field("gradual-version-id").as_deref(), Some("v1"));
        }
    }
    // One that is larger than any head may be does not get so far.
    let enormous = "shop=\"v1\",".repeat(7000);
    for (way, reply) in answered_by_each_way(&stage, &[(OVERRIDES, &enormous)]).await {
        trial.same(&format!("{way} enormous"), reply.status, 431);
    }
    trial.same("heard", stage.upstream.requests().len(), 9 * 3);
    trial.end();
    let (metrics, lines) = stage.records().await;
    assert!(metrics.contains(r#"gradual_overrides_total{worker="shop",result="invalid"} 18"#), "{metrics}");
    assert_eq!(lines.iter().filter(|line| line["Override"] == "invalid").count(), 18);
}

#[tokio::test]
async fn a_key_that_is_sent_twice_is_one_key_by_a_fixed_rule_and_an_empty_one_is_none() {
    let both = |file: crate::support::File| {
        file.worker("expose_version = true").version_at("v2", &["http://127.0.0.1:9"], 0)
    };
    let stage = Stage::with(Upstream::answering(OK).await, both).await;
    let mut trial = Trial::default();
    for (keys, reason, passed) in [
        (&["a", "b"][..], "key", Some("a | b")),
        (&["a, b"], "key", Some("a, b")),
        (&["b", "a"], "key", Some("b | a")),
        (&[""], "random", Some("")),
    ] {
        let before = stage.upstream.requests().len();
        let sent: Vec<_> = keys.iter().map(|&key| (KEY, key)).collect();
        for (way, reply) in answered_by_each_way(&stage, &sent).await {
            let said = reply.field("gradual-version").unwrap_or_default().to_owned();
            trial.same(&format!("{way} {keys:?}"), said.rsplit("reason=").next(), Some(reason));
        }
        // The rule: lines are joined with ", " (what the ring makes of it is in the decision's own tests).
        let heard = stage.upstream.requests().split_off(before);
        trial.same(&format!("{keys:?}"), heard.len(), 3);
        for heard in heard {
            trial.same(&format!("{keys:?}"), heard.field(KEY).as_deref(), passed);
        }
    }
    // White space alone is no value over HTTP/1.1, and no value at all over HTTP/2 (RFC 9113 section 8.2.1).
    let blank = request("GET /", &format!("{KEY}:  \t\r\nConnection: close"), "");
    let reply = stage.answers(blank).await.unwrap().remove(0);
    let said = reply.field("gradual-version").unwrap_or_default();
    trial.same("blank", said.ends_with("reason=random"), true);
    trial.end();
}

#[tokio::test]
async fn over_http_2_every_log_line_is_one_line_of_valid_json_whatever_stands_in_the_request() {
    let stage = Stage::new().await;
    let paths = ["/%0d%0a%1b[31m", "/\"}{\"", "/\\", "/?a='\"", "/%00%ff%fe", "/,\"Status\":200"];
    for way in HTTP2 {
        for path in paths {
            let mut frames = stage.http2(way).await;
            let mut all = fields("GET", path);
            all.extend([("user-agent", "\"},{\""), ("referer", "\\\"")]);
            frames.headers(1, true, &all);
            frames.flush().await;
            assert_ne!(frames.outcome(1).await, Outcome::Silence, "{way:?} {path}");
        }
    }
    let (_, lines) = stage.records().await;
    // Each line was parsed as JSON on the way here.
    assert!(!lines.is_empty() && lines.len() <= paths.len() * 2);
    assert!(lines.iter().all(|line: &Value| line["EventType"] == "fetch"));
}
