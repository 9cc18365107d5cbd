//! A decision allocates nothing. A binary of its own, because the counting allocator is a global one.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use allocation_counter::measure;
use gradual::config::AccessTarget;
use gradual::export::access::{AccessLog, Outcome, Record, VersionRef};
use gradual::model::decision::{Policy, Reason, Senders, Sent};
use gradual::model::deployment::Deployment;
use gradual::model::head::Uniform;
use gradual::model::name::{VersionId, WorkerName};
use gradual::model::ring::Ring;
use gradual::model::route::{Pattern, Router};
use gradual::model::secret::Secret;
use gradual::model::share::Share;
use gradual::rules::{Expression, Facts, Filter, Scratch};

const V1: &str = "db7cd8d3-4425-4fe7-8c81-01bf963b6067";
const V2: &str = "dc8dcd28-271b-4367-9840-6c244f84cb40";

fn policy() -> Policy {
    let shares = [10_000, 90_000].map(|share| Share::from_thousandths(share).unwrap());
    let deployment = Deployment {
        id: "d1".into(),
        created_on: None,
        author: None,
        source: None,
        message: None,
        versions: [V2, V1].map(|id| VersionId::new(id).unwrap()).into(),
        ring: Ring::cumulative(b"my-worker", &shares).unwrap(),
    };
    let name = WorkerName::new("my-worker").unwrap();
    Policy { name, keys: Senders::Anyone, overrides: Senders::Anyone, deployment }
}

/// How many allocations a selection makes; and its reason, so that a test knows what it measured.
fn allocations(sent: &Sent<'_>) -> (u64, Reason) {
    let policy = policy();
    let mut reason = Reason::Random;
    let info = measure(|| reason = policy.select(sent).decision.reason);
    (info.count_total, reason)
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(std::hint::black_box(vec![1]))).count_total, 1);
}

#[test]
fn a_keyed_decision_allocates_nothing() {
    let sent = Sent { key: Some(b" 6ba7b810-9dad-11d1-80b4-00c04fd430c8 "), ..Sent::default() };
    assert_eq!(allocations(&sent), (0, Reason::Key));
}

#[test]
fn an_override_decision_allocates_nothing() {
    let field = format!("other=\"x\";a=1, my-worker=\"{V2}\", third=(1 2)");
    let sent = Sent { key: Some(b"user-123"), overrides: Some(field.as_bytes()), ..Sent::default() };
    assert_eq!(allocations(&sent), (0, Reason::Override));
}

#[test]
fn an_override_that_does_not_count_allocates_nothing() {
    for field in ["my-worker=\"nope\"", "my-worker=1", "my-worker=\"", ",,,", "my-worker=@1"] {
        let sent = Sent { overrides: Some(field.as_bytes()), draw: 1 << 63, ..Sent::default() };
        assert_eq!(allocations(&sent), (0, Reason::Random), "{field}");
    }
}

#[test]
fn an_override_that_must_show_a_secret_allocates_nothing() {
    let secret = Secret::new(b"0123456789abcdef").unwrap();
    for (token, reason) in [("0123456789abcdef", Reason::Override), ("wrong", Reason::Random)] {
        let field = format!("other=\"x\";token=\"y\", my-worker=\"{V2}\";token=\"{token}\"");
        let sent = Sent {
            overrides: Some(field.as_bytes()),
            secret: Some(&secret),
            draw: 1 << 63,
            ..Sent::default()
        };
        assert_eq!(allocations(&sent), (0, reason), "{field}");
    }
}

#[test]
fn routing_allocates_nothing() {
    let patterns = ["example.com/shop/*", "*.example.com/*", "*.shop.example.com/cart", "*/*"];
    let router =
        Router::new(patterns.iter().enumerate().map(|(at, text)| (Pattern::parse(text).unwrap(), at)));
    for (authority, path, target) in [
        ("example.com", "/shop/cart", Ok(Some(0))),
        ("Example.COM:8080", "/shop/cart", Ok(Some(0))),
        ("a.shop.example.com.", "/cart", Ok(Some(2))),
        ("a.shop.example.com", "/other", Ok(Some(1))),
        ("[::1]:80", "/%2e%2e/x", Ok(Some(3))),
    ] {
        let mut found = Ok(None);
        let info = measure(|| found = router.route(authority, path));
        assert_eq!((info.count_total, found), (0, target), "{authority}{path}");
    }
}

#[test]
fn an_access_log_line_allocates_nothing_but_the_buffer_that_all_lines_share() {
    let log = AccessLog::open(&AccessTarget::File(Path::new("/dev/null").into())).unwrap();
    let sink = log.sink();
    let record = Record {
        timestamp_ms: 1_795_233_600_123,
        outcome: Outcome::Ok,
        worker: Some("my-worker"),
        version: Some(VersionRef { id: V1, message: Some("the \"stable\" one"), tag: Some("v1") }),
        scheme: "https",
        authority: b"example.com",
        target: "/shop/cart?a=1",
        method: "GET",
        status: 200,
        ray: 1,
        wall_time: Duration::from_micros(12_345),
        reason: Some("key"),
        overridden: Some("invalid"),
        upstream: Some("http://127.0.0.1:3001"),
        error: None,
        client: Some([192, 0, 2, 1].into()),
        request_bytes: 0,
        response_bytes: 1024,
    };
    assert!(sink.write(&record));
    let info = measure(|| (0..50).for_each(|_| assert!(!sink.write(&record))));
    assert_eq!(info.count_total, 0);
}

/// What rules see of a request with twelve headers.
fn with_facts<R>(use_facts: impl FnOnce(&Facts<'_>) -> R) -> R {
    let cookie = "theme=dark; session_id=abcdef; user_id=6ba7b810-9dad-11d1-80b4-00c04fd430c8; a=b";
    with_cookies(cookie, use_facts)
}

/// The same with cookies of one's own.
fn with_cookies<R>(cookie: &str, use_facts: impl FnOnce(&Facts<'_>) -> R) -> R {
    let mut lines = http::HeaderMap::new();
    for at in 0..11 {
        let name = http::HeaderName::try_from(format!("x-header-{at}")).unwrap();
        lines.insert(name, http::HeaderValue::from_static("some value"));
    }
    lines.insert(http::header::COOKIE, cookie.parse().unwrap());
    use_facts(&Facts {
        method: "GET",
        version: http::Version::HTTP_11,
        https: true,
        authority: "www.example.com",
        path: "/asset/img/logo.png",
        query: Some("a=b&c=d"),
        lines: &lines,
        client: Some([203, 0, 113, 7].into()),
        time: Duration::from_secs(1_795_233_600),
        seed: [1, 2],
        ray: 3,
    })
}

#[test]
fn filters_over_fields_and_operators_allocate_nothing() {
    for filter in [
        "true",
        "http.cookie contains \"user_id\"",
        "starts_with(http.request.uri.path, \"/asset/\") and ends_with(http.request.uri.path, \".png\")",
        "ip.src in {203.0.113.0/24} and http.request.method in {\"GET\" \"HEAD\"}",
        "http.request.headers[\"x-header-3\"][0] == \"some value\" and http.request.uri.args[\"c\"][0] == \"d\"",
        "len(http.request.cookies[\"user_id\"][0]) == 36 and not http.request.timestamp.msec in {1..5}",
    ] {
        let filter = Filter::parse(filter).unwrap();
        let mut scratch = Scratch::default();
        let (info, matched) = with_facts(|facts| {
            // A thread's scratch has its memory from the first request on.
            filter.matches(facts, &mut scratch);
            let mut matched = false;
            (measure(|| matched = filter.matches(facts, &mut scratch)), matched)
        });
        assert_eq!((info.count_total, matched), (0, true), "{}", filter.source());
    }
}

#[test]
fn the_documented_values_allocate_nothing() {
    for (value, expected) in [
        ("http.request.cookies[\"user_id\"][0]", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ("http.request.cookies[\"session_id\"][0]", "abcdef"),
        ("ip.src", "203.0.113.7"),
        ("lower(http.request.uri)", "/asset/img/logo.png?a=b&c=d"),
        ("regex_replace(http.request.uri.path, \"/asset/(.*)\", \"${1}\")", "img/logo.png"),
        ("regex_replace(http.request.uri.path, \"/other/(.*)\", \"${1}\")", "/asset/img/logo.png"),
        (
            "regex_replace(http.request.uri.path, \"(o|n)(?:g)([a-z]+)\", \"<${2}${1}>\")",
            "/asset/img/l<oo>.png",
        ),
        ("wildcard_replace(http.request.uri.path, \"/ASSET/*/*.png\", \"${2}-${1}\")", "logo-img"),
        ("wildcard_replace(http.request.uri.path, \"/other/*\", \"${1}\")", "/asset/img/logo.png"),
    ] {
        let value = Expression::parse(value).unwrap();
        let mut scratch = Scratch::default();
        with_facts(|facts| {
            assert_eq!(value.value(facts, &mut scratch).unwrap(), expected.as_bytes());
            let info = measure(|| assert!(value.value(facts, &mut scratch).is_some()));
            assert_eq!(info.count_total, 0, "{}", value.source());
        });
    }
}

#[test]
fn host_and_cookies_of_http_2_allocate_nothing() {
    let mut headers = http::HeaderMap::new();
    for crumb in ["theme=dark", "user_id=7", "a=b"] {
        headers.append(http::header::COOKIE, http::HeaderValue::from_static(crumb));
    }
    for (value, expected) in [
        ("http.request.headers[\"host\"][0]", "www.example.com"),
        ("http.request.cookies[\"user_id\"][0]", "7"),
        ("http.cookie", "theme=dark; user_id=7; a=b"),
    ] {
        let value = Expression::parse(value).unwrap();
        let mut scratch = Scratch::default();
        with_facts(|facts| {
            let mut run = || {
                let lines = Uniform::new(&headers, http::Version::HTTP_2, "www.example.com");
                let facts = Facts { authority: lines.host(), lines: &lines, ..*facts };
                assert_eq!(value.value(&facts, &mut scratch), Some(expected.as_bytes()));
            };
            run();
            assert_eq!(measure(run).count_total, 0, "{}", value.source());
        });
    }
}

#[test]
fn no_request_makes_rules_take_much_memory() {
    // With 64 KiB of cookies, one array of them is more than a megabyte.
    let filter = vec!["any(http.request.cookies[*][*] == \"b\")"; 90].join(" or ");
    let filter = Filter::parse(&filter).unwrap();
    let mut scratch = Scratch::default();
    with_cookies(&"a=;".repeat(21 * 1024), |facts| {
        let info = measure(|| assert!(!filter.matches(facts, &mut scratch)));
        assert!((1 << 20..24 << 20).contains(&info.bytes_max), "{} bytes", info.bytes_max);
    });
}
