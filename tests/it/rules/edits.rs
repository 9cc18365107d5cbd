//! Rules: which run, on what, and what becomes of headers.

use gradual::rules::{Edit, Expression, Filter, Operation, Outcome, Rule, Rules, Scratch, header};

use super::{Sample, get};

fn rule(filter: &str, edits: Vec<Edit>) -> Rule {
    Rule { filter: Filter::parse(filter).unwrap(), description: None, enabled: true, edits }
}

fn compute(name: &str, expression: &str) -> Edit {
    let operation = Operation::Compute(Expression::parse(expression).unwrap());
    Edit { name: header::name(name, false).unwrap(), operation }
}

fn set(name: &str, value: &str) -> Edit {
    Edit {
        name: header::name(name, false).unwrap(),
        operation: Operation::Set(header::value(value).unwrap()),
    }
}

fn remove(name: &str) -> Edit {
    Edit { name: header::name(name, true).unwrap(), operation: Operation::Remove }
}

/// Every edit, as `rule name=value`, `rule name-` where the header is removed, `rule name!` where its value is dropped.
fn run(rules: Vec<Rule>, request: &Sample) -> Vec<String> {
    let mut found = Vec::new();
    Rules::new(rules).run(&request.facts(), &mut Scratch::default(), &mut |rule, name, outcome| {
        found.push(match outcome {
            Outcome::Set(value) => format!("{rule} {name}={}", value.as_bytes().escape_ascii()),
            Outcome::Remove => format!("{rule} {name}-"),
            Outcome::Dropped => format!("{rule} {name}!"),
        });
    });
    found
}

#[test]
fn rules_run_in_order_on_the_request_as_it_came() {
    let rules = vec![
        rule("true", vec![set("X-A", "1"), remove("x-b")]),
        rule("http.host == \"no\"", vec![set("x-a", "2")]),
        // Neither the removal nor the new value is seen.
        rule(
            "http.request.headers[\"x-b\"][0] == \"b\"",
            vec![compute("x-a", "http.request.headers[\"x-b\"][0]")],
        ),
        rule("any(http.request.headers.names[*] == \"x-a\")", vec![set("x-a", "4")]),
        Rule { enabled: false, ..rule("true", vec![set("x-a", "5")]) },
    ];
    let found = run(rules, &get("/").with("x-b", "b"));
    assert_eq!(found, ["0 x-a=1", "0 x-b-", "2 x-a=b"]);
}

#[test]
fn a_value_that_is_missing_or_empty_removes_the_header() {
    let key = "Cloudflare-Workers-Version-Key";
    let of = |request: &Sample| {
        run(
            vec![rule(
                "http.cookie contains \"user_id\"",
                vec![compute(key, "http.request.cookies[\"user_id\"][0]")],
            )],
            request,
        )
    };
    assert_eq!(of(&get("/").with("cookie", "user_id=1")), ["0 cloudflare-workers-version-key=1"]);
    assert_eq!(of(&get("/").with("cookie", "my_user_id=1")), ["0 cloudflare-workers-version-key-"]);
    assert_eq!(of(&get("/").with("cookie", "user_id=")), ["0 cloudflare-workers-version-key-"]);
    assert!(of(&get("/").with("cookie", "other=1")).is_empty());
}

#[test]
fn a_value_that_can_stand_in_no_header_is_dropped() {
    let of = |value: &[u8]| {
        run(
            vec![rule("true", vec![compute("x", "url_decode(http.cookie)")])],
            &get("/").with("cookie", value),
        )
    };
    assert_eq!(of(b"a%0d%0ab"), ["0 x!"]);
    assert_eq!(of(b"%00"), ["0 x!"]);
    assert_eq!(of(b"a%7f"), ["0 x!"]);
    assert_eq!(of(&[b'a'; 4096])[0].len(), "0 x=".len() + 4096);
    assert_eq!(of(&[b'a'; 4097]), ["0 x!"]);
    assert_eq!(of(b"+%09a+b+"), ["0 x=a b"]);
    assert_eq!(of(b"+"), ["0 x-"]);
    assert_eq!(of(b"\xff%c3%a9"), ["0 x=\\xff\\xc3\\xa9"]);
}

#[test]
fn numbers_addresses_and_booleans_become_text() {
    let edits = ["http.request.timestamp.msec", "ip.src", "ssl"].map(|value| compute("x", value));
    assert_eq!(run(vec![rule("true", edits.into())], &get("/")), ["0 x=123", "0 x=203.0.113.7", "0 x=true"]);
}

#[test]
fn rules_without_one_in_force_are_empty() {
    assert!(Rules::default().is_empty());
    assert!(Rules::new(vec![Rule { enabled: false, ..rule("true", vec![]) }]).is_empty());
    assert!(!Rules::new(vec![rule("false", vec![])]).is_empty());
}

#[test]
fn headers_that_are_not_a_rules_are_refused() {
    for (name, set, remove) in [
        ("Cloudflare-Workers-Version-Key", true, true),
        ("Cloudflare-Workers-Version-Overrides", true, true),
        ("X_Custom-1", true, true),
        ("Authorization", true, true),
        ("cookie", false, true),
        ("Accept-Encoding", false, true),
        ("Referer", false, true),
        ("X-Forwarded-For", false, true),
        ("X-Real-IP", false, true),
        ("Forwarded", false, true),
        ("True-Client-IP", false, true),
        ("Sec-Fetch-Dest", false, true),
        ("CF-Connecting-IP", false, true),
        ("cf-ray", false, false),
        ("X-CF-Foo", false, false),
        ("Host", false, false),
        ("Connection", false, false),
        ("Transfer-Encoding", false, false),
        ("TE", false, false),
        ("Content-Length", false, false),
        ("Expect", false, false),
        ("Via", false, false),
        ("HTTP2-Settings", false, false),
        ("Gradual-Worker", false, false),
        ("Sec-WebSocket-Key", false, false),
        ("", false, false),
        ("a b", false, false),
        ("é", false, false),
        ("a:b", false, false),
    ] {
        assert_eq!(header::name(name, false).is_ok(), set, "set {name}");
        assert_eq!(header::name(name, true).is_ok(), remove, "remove {name}");
    }
    for (value, good) in
        [("a b\tc", true), ("", false), (" a", false), ("a\n", false), ("é", false), ("\u{7f}", false)]
    {
        assert_eq!(header::value(value).is_ok(), good, "{value:?}");
    }
    assert!(header::value(&"a".repeat(4096)).is_ok() && header::value(&"a".repeat(4097)).is_err());
}
