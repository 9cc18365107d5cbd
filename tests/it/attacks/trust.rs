//! Who is believed: about the client's address, about overrides and about keys.

use serde_json::Value;

use super::frames::{Outcome, request as fields};
use super::language::{HTTP2, OK, Stage, Trial, Upstream, request};
use super::strict::Heard;

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
    let stage = Stage::with(Upstream::answering(OK).await, |file| file.listener(trusting)).await;
    let lines: Vec<_> = CLAIMS.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let bytes = request("GET /", &format!("{}\r\nConnection: close", lines.join("\r\n")), "");
    assert_eq!(stage.answers(bytes).await.unwrap()[0].status, 200);
    let heard = stage.upstream.last();
    assert_eq!(heard.field("x-forwarded-for").as_deref(), Some("6.6.6.6, 7.7.7.7, 8.8.8.8, 127.0.0.1"));
    assert_eq!(heard.field("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(heard.field("gradual-version-id").as_deref(), Some("v1"));
}

#[tokio::test]
async fn overrides_and_keys_of_a_client_that_is_not_trusted_count_for_nothing_and_are_stripped() {
    let guarded = "overrides = \"trusted\"\nkeys = \"trusted\"\nexpose_version = true";
    let stage = Stage::with(Upstream::answering(OK).await, |file| {
        file.worker(guarded).version_at("v2", &["http://127.0.0.1:9"], 0)
    })
    .await;
    let sent =
        [("cloudflare-workers-version-overrides", "shop=\"v2\""), ("cloudflare-workers-version-key", "k")];
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
        let line = format!("Cloudflare-Workers-Version-Overrides: {sent}\r\nConnection: close");
        let reply = stage.answers(request("GET /", &line, "")).await.unwrap().remove(0);
        let said = reply.field("gradual-version").unwrap_or_default().to_owned();
        let shown: String = sent.chars().take(20).collect();
        trial.same(&format!("{shown}: {said}"), said.ends_with(&format!("override={why}")), true);
        trial.same(&shown, reply.status, 200);
    }
    trial.end();
    let (metrics, lines) = stage.records().await;
    assert!(metrics.contains(r#"gradual_overrides_total{worker="shop",result="invalid"} 6"#), "{metrics}");
    assert_eq!(lines.iter().filter(|line| line["Override"] == "invalid").count(), 6);
}

#[tokio::test]
async fn a_key_that_is_sent_twice_is_one_key_by_a_fixed_rule_and_an_empty_one_is_none() {
    let both = |file: crate::support::File| {
        file.worker("expose_version = true").version_at("v2", &["http://127.0.0.1:9"], 0)
    };
    let stage = Stage::with(Upstream::answering(OK).await, both).await;
    let mut reasons = Vec::new();
    for lines in [&["a", "b"][..], &["a, b"], &["b", "a"], &[""], &[" \t"]] {
        let lines: Vec<_> =
            lines.iter().map(|key| format!("Cloudflare-Workers-Version-Key: {key}\r\n")).collect();
        let bytes = request("GET /", &format!("{}Connection: close", lines.concat()), "");
        let reply = stage.answers(bytes).await.unwrap().remove(0);
        let said = reply.field("gradual-version").unwrap_or_default();
        reasons.push(said.rsplit("reason=").next().unwrap_or_default().to_owned());
    }
    assert_eq!(reasons, ["key", "key", "key", "random", "random"]);
    // The rule: lines are joined with ", " (what the ring makes of it is in the decision's own tests).
    let heard = stage.upstream.requests();
    let keys: Vec<_> =
        heard.iter().map(|heard| heard.field("cloudflare-workers-version-key").unwrap_or_default()).collect();
    assert_eq!(&keys[..3], ["a | b", "a, b", "b | a"]);
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
