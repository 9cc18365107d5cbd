//! `gradual explain`, on configurations built by hand.

use clap::Parser;
use gradual::cli::explain::{ExplainArgs, explain};
use gradual::config::{Affinity, Config};
use gradual::model::decision::{Senders, Sent};
use gradual::rules::{Edit, Expression, Filter, Operation, Rule, Rules};
use serde_json::{Value, json};

use crate::fixture;

/// The command line of `gradual explain`, without the program's other commands.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    explain: ExplainArgs,
}

fn args(arguments: &[&str]) -> ExplainArgs {
    Line::try_parse_from([&["explain"], arguments].concat()).unwrap().explain
}

fn ask(config: &Config, arguments: &[&str]) -> Result<Value, String> {
    let question = args(arguments).question().map_err(|mistake| mistake.to_string())?;
    explain(config, &question).map(|answer| answer.to_json()).map_err(|mistake| mistake.to_string())
}

fn text(config: &Config, arguments: &[&str]) -> String {
    explain(config, &args(arguments).question().unwrap()).unwrap().to_text()
}

fn one() -> Config {
    fixture::config(
        vec![fixture::worker("my-worker", &["*/*"], &[("v2", 10_000), ("v1", 90_000), ("v0", 0)])],
        &[],
    )
}

fn two() -> Config {
    let shop = fixture::worker("shop", &["example.com/shop/*"], &[("s1", 100_000)]);
    let blog = fixture::worker("blog", &["*.example.com/*", "example.com/*"], &[("b1", 100_000)]);
    fixture::config(vec![shop, blog], &[])
}

#[test]
fn a_key_is_explained_with_position_and_ring() {
    let expected = json!({
        "worker": "my-worker", "version_id": "v1", "reason": "key", "key": "user-123", "position": 64_510,
        "override": null, "rules": [],
        "ring": [
            { "version_id": "v2", "from": 0, "to": 10_000 },
            { "version_id": "v1", "from": 10_000, "to": 100_000 },
        ],
    });
    assert_eq!(ask(&one(), &["--key", "user-123"]), Ok(expected.clone()));
    assert_eq!(ask(&one(), &["--header", "Cloudflare-Workers-Version-Key:  user-123 ", "/"]), Ok(expected));
}

#[test]
fn an_assets_pin_is_explained_as_the_proxy_obeys_it() {
    let text = r#"
        listener = [{ address = "127.0.0.1:0" }]
        [[worker]]
        name = "shop"
        assets = { paths = ["/assets/*"], retain = ["v0"] }
        version = [
          { id = "v0", upstreams = ["http://127.0.0.1:1"] },
          { id = "v1", tag = "a b", upstreams = ["http://127.0.0.1:2"] },
          { id = "v2", upstreams = ["http://127.0.0.1:3"] },
        ]
        deployment = { versions = [{ version_id = "v1", percentage = 100 }, { version_id = "v2", percentage = 0 }] }
    "#;
    let (config, _) = gradual::config::parse("gradual.toml", text, std::path::Path::new("/")).unwrap();
    for (arguments, version, reason) in [
        (&["/assets/a.js?dpl=v0"][..], json!("v0"), "asset"),
        (&["/assets/a.js?x=y&dpl=a%20b#z"], json!("v1"), "asset"),
        (&["--header", "X-Deployment-Id: v0", "shop.example/assets/a.js"], json!("v0"), "asset"),
        (&["/assets/a.js?dpl=v2"], Value::Null, "random"),
        (&["/page?dpl=v0"], Value::Null, "random"),
        (&["/assets/a.js#?dpl=v0"], Value::Null, "random"),
        (&["--method", "HEAD", "/assets/a.js?dpl=v0"], json!("v0"), "asset"),
        (&["--method", "POST", "/assets/a.js?dpl=v0"], Value::Null, "random"),
        (&["/assets/../api?dpl=v0"], Value::Null, "random"),
        (&["/assets/x/..%2f%2e%2E/api?dpl=v0"], Value::Null, "random"),
    ] {
        let answer = ask(&config, arguments).unwrap();
        assert_eq!((&answer["version_id"], &answer["reason"]), (&version, &json!(reason)), "{arguments:?}");
    }
}

#[test]
fn cookie_and_pin_are_explained_by_the_request_as_it_came() {
    let file = |edits: &str| {
        let text = format!(
            r#"
            listener = [{{ address = "127.0.0.1:0" }}]
            [[worker]]
            name = "shop"
            affinity = {{ cookie = "vk" }}
            assets = {{ paths = ["/assets/*"], retain = ["v0"] }}
            version = [
              {{ id = "v0", upstreams = ["http://127.0.0.1:1"] }},
              {{ id = "v1", upstreams = ["http://127.0.0.1:2"] }},
            ]
            deployment = {{ versions = [{{ version_id = "v1", percentage = 100 }}] }}
            [[worker.rule]]
            expression = 'true'
            headers = {{ {edits} }}
            "#
        );
        gradual::config::parse("gradual.toml", &text, std::path::Path::new("/")).unwrap().0
    };
    let page = ["-H", "Accept: text/html", "/"];
    let pin = ["-H", "X-Deployment-Id: v0", "/assets/a.js"];
    for (edits, arguments, reason) in [
        (r#""Accept" = { operation = "remove" }"#, &page[..], "key"),
        (r#""Accept" = { operation = "set", value = "text/html" }"#, &["/"], "random"),
        (r#""X-A" = { operation = "set", value = "1" }"#, &pin, "asset"),
        (r#""X-Deployment-Id" = { operation = "remove" }"#, &pin, "random"),
        (r#""X-Deployment-Id" = { operation = "set", value = "v0" }"#, &["/assets/a.js"], "asset"),
    ] {
        let nominates = ["-H", "Connection: accept, x-deployment-id"];
        for more in [&[][..], &nominates] {
            let answer = ask(&file(edits), &[more, arguments].concat()).unwrap();
            assert_eq!(answer["reason"], reason, "{edits} {more:?} {arguments:?}");
        }
    }
}

#[test]
fn an_object_is_explained_by_its_name_whatever_key_and_override_say() {
    let text = r#"
        listener = [{ address = "127.0.0.1:0" }]
        [[worker]]
        name = "my-worker"
        objects = { key = 'http.request.headers["x-room"][0]' }
        affinity = { cookie = "vk" }
        version = [{ id = "v1", upstreams = ["http://127.0.0.1:1"] }, { id = "v2", upstreams = ["http://127.0.0.1:2"] }]
        deployment = { versions = [{ version_id = "v1", percentage = 50 }, { version_id = "v2", percentage = 50 }] }
    "#;
    let (config, _) = gradual::config::parse("gradual.toml", text, std::path::Path::new("/")).unwrap();
    let room = ["-H", "X-Room: user-123"];
    let overrides = format!("{OVERRIDES}: my-worker=\"v1\"");
    for more in [&[][..], &["--key", "other"], &["-H", "Accept: text/html"]] {
        let answer = ask(&config, &[&room, more].concat()).unwrap();
        assert_eq!((&answer["reason"], &answer["key"]), (&json!("object"), &json!("user-123")), "{more:?}");
        assert_eq!((&answer["position"], &answer["version_id"]), (&json!(64_510), &json!("v2")), "{more:?}");
    }
    let answer = ask(&config, &[&room[..], &["-H", &overrides]].concat()).unwrap();
    assert_eq!((&answer["override"], &answer["version_id"]), (&json!("object"), &json!("v2")));
    assert_eq!(ask(&config, &["-H", "X-Room: ", "--key", "k"]).unwrap()["reason"], "key");
    let said = self::text(&config, &[&room[..], &["-H", "Accept: text/html"]].concat());
    for part in
        ["object    \"user-123\"\n", "key       none, and no valid cookie vk\n", "XXH3-64(object, seed)"]
    {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn the_answer_for_machines_has_the_published_members_in_every_case() {
    for arguments in
        [&[][..], &["--key", "k"], &["-H", "Cloudflare-Workers-Version-Overrides: my-worker=\"v0\""]]
    {
        let answer = ask(&one(), arguments).unwrap();
        let members: Vec<_> = answer.as_object().unwrap().keys().cloned().collect();
        let mut expected = ["worker", "version_id", "reason", "key", "position", "override", "rules", "ring"];
        expected.sort_unstable();
        assert_eq!(members, expected);
    }
}

#[test]
fn a_draw_has_no_version_and_no_position() {
    let answer = ask(&one(), &[]).unwrap();
    assert_eq!(answer["version_id"], Value::Null);
    assert_eq!((&answer["position"], &answer["key"]), (&Value::Null, &Value::Null));
    assert_eq!(answer["reason"], "random");
}

#[test]
fn an_override_is_explained_whether_it_applies_or_not() {
    for (field, version, reason, overridden) in [
        ("my-worker=\"v0\"", json!("v0"), "override", json!("applied")),
        ("my-worker=\"v9\"", json!("v1"), "key", json!("not-in-deployment")),
        ("my-worker=v2", json!("v1"), "key", json!("not-a-string")),
        ("my-worker=", json!("v1"), "key", json!("invalid")),
        ("other=\"v2\"", json!("v1"), "key", Value::Null),
    ] {
        let header = format!("Cloudflare-Workers-Version-Overrides: {field}");
        let answer = ask(&one(), &["--key", "user-123", "--header", &header]).unwrap();
        assert_eq!((&answer["version_id"], &answer["override"]), (&version, &overridden), "{field}");
        assert_eq!(answer["reason"], reason, "{field}");
    }
}

#[test]
fn the_worker_is_that_of_the_route_or_the_one_that_is_named_or_the_only_one() {
    for (arguments, worker) in [
        (&["https://example.com/shop/cart"][..], "shop"),
        (&["example.com:8080/"], "blog"),
        (&["http://a.example.com"], "blog"),
        (&["/shop/x", "-H", "Host: example.com"], "shop"),
        (&["--worker", "shop"], "shop"),
        (&["--worker", "shop", "elsewhere.org/"], "shop"),
    ] {
        assert_eq!(ask(&two(), arguments).unwrap()["worker"], worker, "{arguments:?}");
    }
    assert_eq!(ask(&one(), &[]).unwrap()["worker"], "my-worker");
}

#[test]
fn what_cannot_be_explained_is_a_clear_error() {
    for (arguments, part) in [
        (&[][..], "--worker: shop, blog"),
        (&["example.org/"], "no worker has a route for example.org/: the proxy answers 404"),
        (&["/shop/x"], "no worker has a route for /shop/x"),
        (&["example.com/shop/%2e%2e/"], "the proxy answers 400"),
        (&["--worker", "none"], "there is no worker \"none\"; there is shop, blog"),
        (&["ftp://example.com/"], "the scheme \"ftp\""),
        (&["--worker", "shop", "a b"], "must be percent-encoded"),
        (&["--worker", "shop", "-H", "no colon"], "has no colon"),
        (&["--worker", "shop", "-H", "a b: c"], "is not the name of a header"),
        (&["--worker", "shop", "--key", "a\nb"], "cannot be a header's value"),
        (&["--worker", "shop", "--method", "A B"], "is not a method"),
    ] {
        let error = ask(&two(), arguments).unwrap_err();
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
}

#[test]
fn the_gate_is_applied_to_the_address_as_the_proxy_would() {
    let mut worker = fixture::worker("my-worker", &["*/*"], &[("v2", 10_000), ("v1", 90_000)]);
    worker.policy.keys = Senders::Trusted;
    worker.policy.overrides = Senders::Never;
    let config = fixture::config(vec![worker], &["10.0.0.0/8"]);
    let field = "Cloudflare-Workers-Version-Overrides: my-worker=\"v2\"";
    let asked = |ip: &str| ask(&config, &["--key", "user-123", "-H", field, "--ip", ip]).unwrap();
    for (ip, reason) in [("10.1.2.3", "key"), ("::ffff:10.1.2.3", "key"), ("192.0.2.1", "random")] {
        assert_eq!(asked(ip)["reason"], reason, "{ip}");
        assert_eq!(asked(ip)["override"], "denied", "{ip}");
    }
    assert_eq!(ask(&config, &["--key", "user-123"]).unwrap()["key"], Value::Null);
}

#[test]
fn an_override_must_show_the_workers_secret_here_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let mut worker = fixture::worker("my-worker", &["*/*"], &[("v2", 0), ("v1", 100_000)]);
    worker.overrides_secret_file = Some(gradual::config::Spanned { value: path.clone(), span: 0..0 });
    let config = fixture::config(vec![worker], &[]);
    let asked = |token: &str| {
        let field = format!("Cloudflare-Workers-Version-Overrides: my-worker=\"v2\";token=\"{token}\"");
        ask(&config, &["-H", &field])
    };
    let error = asked("0123456789abcdef").unwrap_err();
    assert!(error.contains("cannot be read"), "{error}");
    std::fs::write(&path, "0123456789abcdef\n").unwrap();
    assert_eq!(asked("0123456789abcdef").unwrap()["version_id"], "v2");
    assert_eq!(asked("0123456789abcdeg").unwrap()["override"], "denied");
    let answer = text(&config, &["-H", "Cloudflare-Workers-Version-Overrides: my-worker=\"v2\""]);
    assert!(answer.contains("does not show this worker's secret"), "{answer}");
}

#[test]
fn the_answer_is_the_one_that_the_proxy_gives() {
    let config = one();
    for key in 0..100 {
        let key = format!("user-{key}");
        let policy = &config.workers[0].policy;
        let decision = policy.select(&Sent { key: Some(key.as_bytes()), ..Sent::default() }).decision;
        let version = policy.deployment.version(decision.member).unwrap().as_str();
        assert_eq!(ask(&config, &["--key", &key]).unwrap()["version_id"], version);
    }
}

#[test]
fn the_text_says_what_decides_and_how_to_recompute_it() {
    let expected = "\
worker    my-worker
version   v1 (tag-v1)
reason    key: the version key's position on the ring decides
key       \"user-123\"
position  64510 of 100000
override  ignored (not-in-deployment): the active deployment has no version of that id

ring of deployment d1:
       0 to  9999      10 %  v2
   10000 to 99999      90 %  v1
      by override       0 %  v0

position = (XXH3-64(key, seed) * 100000) >> 64
seed     = XXH3-64(\"my-worker\"), which is the salt";
    let field = "Cloudflare-Workers-Version-Overrides: my-worker=\"v9\"";
    assert_eq!(text(&one(), &["--key", "user-123", "--header", field]), expected);
}

#[test]
fn the_text_says_why_a_key_is_not_counted() {
    let mut config = one();
    config.workers[0].policy.keys = Senders::Never;
    let answer = text(&config, &["--key", "user-123"]);
    assert!(answer.contains("ignored: with keys = \"never\" no client may send it"), "{answer}");
}

const KEY: &str = "cloudflare-workers-version-key";
const OVERRIDES: &str = "cloudflare-workers-version-overrides";

/// A rule of one edit; `value` is computed, and with `=` before it as it stands.
fn rule(filter: &str, name: &'static str, value: Option<&str>) -> Rule {
    let operation = match value {
        None => Operation::Remove,
        Some(value) => match value.strip_prefix('=') {
            Some(value) => Operation::Set(value.parse().unwrap()),
            None => Operation::Compute(Expression::parse(value).unwrap()),
        },
    };
    let edits = vec![Edit { name: http::HeaderName::from_static(name), operation }];
    Rule { filter: Filter::parse(filter).unwrap(), description: None, enabled: true, edits }
}

fn ruled(rules: Vec<Rule>) -> Config {
    let mut config = one();
    config.workers[0].rules = Rules::new(rules);
    config
}

fn user_cookie() -> Rule {
    rule("http.cookie contains \"user_id\"", KEY, Some("http.request.cookies[\"user_id\"][0]"))
}

#[test]
fn each_rule_says_whether_it_matched_and_what_it_set() {
    let config = ruled(vec![
        user_cookie(),
        rule("http.host eq \"b.example\"", "x-b", Some("=1")),
        rule("true", "x-gone", None),
        rule("ssl", "x-secure", Some("=yes")),
        Rule { enabled: false, ..rule("true", "x-off", Some("=1")) },
    ]);
    let answer =
        ask(&config, &["https://a.example/", "-H", "Cookie: a=b; user_id=user-123", "-H", "X-Gone: 1"]);
    let answer = answer.unwrap();
    let expected = json!([
        { "matched": true, "set": { KEY: "user-123" } },
        { "matched": false, "set": {} },
        { "matched": true, "set": { "x-gone": null } },
        { "matched": true, "set": { "x-secure": "yes" } },
        { "matched": false, "set": {} },
    ]);
    assert_eq!(answer["rules"], expected);
    assert_eq!(answer["key"], "user-123");
    assert_eq!((&answer["version_id"], &answer["position"]), (&json!("v1"), &json!(64_510)));
}

#[test]
fn the_text_says_what_each_rule_did() {
    let config = ruled(vec![
        user_cookie(),
        rule("http.cookie contains \"user_id\"", "x-copy", Some("http.request.cookies[\"none\"][0]")),
        rule("not ssl", "x-gone", None),
        rule("ssl", "x-secure", Some("=yes")),
        rule("true", "x-bad", Some("url_decode(http.request.uri.query)")),
        Rule { enabled: false, ..rule("true", "x-off", Some("=1")) },
    ]);
    let answer = text(&config, &["/?%0d%0a", "-H", "Cookie: user_id=user-123"]);
    let rules = "\
rules, on the request as it came:
    1  matched   http.cookie contains \"user_id\"
                 cloudflare-workers-version-key set to \"user-123\"
    2  matched   http.cookie contains \"user_id\"
                 x-copy removed: its value is missing or empty
    3  matched   not ssl
                 x-gone removed
    4  no match  ssl
    5  matched   true
                 x-bad removed: its value can stand in no header
    6  disabled  true

ring of";
    assert!(answer.contains(rules), "{answer}");
    assert!(answer.contains("key       \"user-123\", which rule 1 sets\n"), "{answer}");
}

#[test]
fn a_filter_over_several_lines_is_shown_in_one() {
    let config = ruled(vec![rule("true\n  and not\tssl", "x-a", Some("=1"))]);
    assert!(text(&config, &[]).contains("1  matched   true and not\u{2409}ssl\n"));
}

#[test]
fn rules_see_the_original_request_and_the_last_one_of_a_header_wins() {
    let config = ruled(vec![
        rule("true", KEY, Some("=user-1")),
        rule(
            "any(http.request.headers[\"cloudflare-workers-version-key\"][*] eq \"user-1\")",
            "x-saw",
            Some("=1"),
        ),
        rule("true", KEY, Some("=user-2")),
    ]);
    let answer = ask(&config, &["--key", "user-0"]).unwrap();
    assert_eq!((&answer["key"], &answer["rules"][1]["matched"]), (&json!("user-2"), &json!(false)));
    assert!(text(&config, &[]).contains("\"user-2\", which rule 3 sets"));
    let removed = ruled(vec![rule("true", KEY, Some("=user-1")), rule("true", KEY, None)]);
    let answer = ask(&removed, &["--key", "user-0"]).unwrap();
    assert_eq!((&answer["key"], &answer["reason"]), (&Value::Null, &json!("random")));
}

#[test]
fn what_a_rule_sets_counts_and_what_the_gate_takes_away_no_rule_sees() {
    let sees = format!("len(http.request.headers[\"{KEY}\"]) > 0");
    let mut config = ruled(vec![
        rule(&sees, "x-saw", Some("=1")),
        rule("http.request.uri.path eq \"/rule\"", KEY, Some("=user-123")),
        rule("http.request.uri.path eq \"/rule\"", OVERRIDES, Some("=my-worker=\"v0\"")),
    ]);
    config.workers[0].policy.keys = Senders::Never;
    config.workers[0].policy.overrides = Senders::Never;
    let overrides = format!("{OVERRIDES}: my-worker=\"v2\"");
    let client = ask(&config, &["/client", "--key", "user-123", "-H", &overrides]).unwrap();
    assert_eq!((&client["reason"], &client["override"]), (&json!("random"), &json!("denied")));
    assert_eq!(client["rules"][0]["matched"], false);
    let rule = ask(&config, &["/rule", "--key", "no", "-H", &overrides]).unwrap();
    assert_eq!((&rule["version_id"], &rule["reason"]), (&json!("v0"), &json!("override")));
    assert_eq!((&rule["key"], &rule["override"]), (&json!("user-123"), &json!("applied")));
}

#[test]
fn rules_see_all_that_the_arguments_say_of_the_request() {
    for (filter, arguments) in [
        ("http.request.method eq \"PURGE\"", &["--method", "PURGE"][..]),
        ("ssl", &["https://a.example/"]),
        ("not ssl and http.host eq \"a.example:81\"", &["a.example:81/x"]),
        ("http.request.headers[\"host\"][0] eq \"a.example\"", &["http://a.example/x"]),
        ("http.host eq \"b.example\"", &["/", "-H", "Host: b.example"]),
        ("http.request.uri eq \"/x?a=1&b\"", &["/x?a=1&b#c"]),
        ("http.request.version eq \"HTTP/1.1\"", &[]),
        ("ip.src eq 192.0.2.7", &["--ip", "192.0.2.7"]),
        ("ip.src eq 192.0.2.7", &["--ip", "::ffff:192.0.2.7"]),
        ("not ip.src in {0.0.0.0/0 ::/0}", &[]),
        ("http.request.timestamp.sec > 1700000000", &[]),
        ("len(cf.ray_id) eq 16", &[]),
        ("http.user_agent eq \"x\"", &["-H", "User-Agent: x"]),
    ] {
        let config = ruled(vec![rule(filter, "x-a", Some("=1"))]);
        let answer = ask(&config, arguments).unwrap();
        assert_eq!(answer["rules"][0]["matched"], true, "{filter} {arguments:?}");
    }
}

#[test]
fn the_clients_address_and_scheme_are_those_that_a_trusted_proxy_says() {
    let mut worker = fixture::worker("my-worker", &["*/*"], &[("v1", 100_000)]);
    worker.rules = Rules::new(vec![rule("ssl", KEY, Some("ip.src")), rule("not ssl", KEY, Some("ip.src"))]);
    let config = fixture::config(vec![worker], &["10.0.0.0/8"]);
    let lines =
        ["-H", "X-Forwarded-For: 198.51.100.1, 192.0.2.1, 10.9.9.9", "-H", "X-Forwarded-Proto: https"];
    for (ip, key, https) in [("10.0.0.1", "192.0.2.1", true), ("203.0.113.1", "203.0.113.1", false)] {
        let answer = ask(&config, &[&["--ip", ip], &lines[..]].concat()).unwrap();
        assert_eq!((&answer["key"], &answer["rules"][0]["matched"]), (&json!(key), &json!(https)), "{ip}");
    }
}

fn with_cookie(rules: Vec<Rule>) -> Config {
    let mut config = ruled(rules);
    config.workers[0].affinity = Some(Affinity { cookie: "vk".to_owned(), forward: true });
    config
}

const PAGE: [&str; 2] = ["-H", "Accept: text/html"];

#[test]
fn a_cookie_is_the_key_of_who_has_no_other() {
    let config = with_cookie(vec![]);
    let cookie = ["-H", "Cookie: vk=\"no\"; vk=user-123"];
    let answer = ask(&config, &[&cookie, &PAGE[..]].concat()).unwrap();
    assert_eq!((&answer["key"], &answer["position"]), (&json!("user-123"), &json!(64_510)));
    assert!(text(&config, &cookie).contains("key       \"user-123\", from the cookie vk\n"));
    let answer = ask(&config, &[&cookie[..], &["--key", "user-1"]].concat()).unwrap();
    assert_eq!(answer["key"], "user-1");
    let ruled = with_cookie(vec![rule("true", KEY, Some("=user-2"))]);
    assert_eq!(ask(&ruled, &cookie).unwrap()["key"], "user-2");
    let overrides = format!("{OVERRIDES}: my-worker=\"v0\"");
    let answer = ask(&config, &[&cookie[..], &["-H", &overrides]].concat()).unwrap();
    assert_eq!((&answer["version_id"], &answer["key"]), (&json!("v0"), &json!("user-123")));
}

#[test]
fn a_cookie_that_wants_https_is_made_for_no_page_over_http() {
    let mut config = with_cookie(vec![]);
    config.workers[0].affinity = Some(Affinity { cookie: "__Host-vk".to_owned(), forward: true });
    for (url, reason) in [("http://a.example/", "random"), ("https://a.example/", "key")] {
        assert_eq!(ask(&config, &[&PAGE[..], &[url]].concat()).unwrap()["reason"], reason, "{url}");
    }
    let said =
        "none, and no valid cookie __Host-vk; the request asks for no page over https, as the name demands";
    assert!(text(&config, &PAGE).contains(said));
}

#[test]
fn where_the_proxy_makes_the_key_no_version_is_said() {
    let config = with_cookie(vec![]);
    let answer = ask(&config, &PAGE).unwrap();
    assert_eq!(answer["reason"], "key");
    for member in ["version_id", "key", "position"] {
        assert_eq!(answer[member], Value::Null, "{member}");
    }
    let answer = text(&config, &PAGE);
    for part in [
        "version   that of the id which the proxy makes",
        "reason    key: the proxy makes an id",
        "key       made by the proxy, which gives it to the client as the cookie vk\n",
        "position  that of the id\n",
    ] {
        assert!(answer.contains(part), "{answer}");
    }
    let claimed = "any(http.request.headers.names[*] eq \"gradual-worker\")";
    let answer = ask(&ruled(vec![rule(claimed, KEY, Some("=k"))]), &["-H", "Gradual-Worker: x"]).unwrap();
    assert_eq!(answer["rules"][0]["matched"], false);
    let removed = with_cookie(vec![rule("true", "cookie", None)]);
    let answer = ask(&removed, &[&PAGE[..], &["-H", "Cookie: vk=user-123"]].concat()).unwrap();
    assert_eq!(answer["key"], "user-123");
    let post = [&PAGE[..], &["--method", "POST"]].concat();
    for arguments in [&[][..], &post, &[&PAGE[..], &["/app.js"]].concat()] {
        let answer = ask(&config, arguments).unwrap();
        assert_eq!(answer["reason"], "random", "{arguments:?}");
    }
    assert!(text(&config, &[]).contains("none, and no valid cookie vk; the request asks for no page"));
    let invalid = [&PAGE[..], &["-H", "Cookie: vk=a b"]].concat();
    assert_eq!(ask(&config, &invalid).unwrap()["reason"], "key");
    let overrides = format!("{OVERRIDES}: my-worker=\"v0\"");
    let answer = ask(&config, &[&PAGE[..], &["-H", &overrides]].concat()).unwrap();
    assert_eq!((&answer["reason"], &answer["key"]), (&json!("override"), &Value::Null));
}
