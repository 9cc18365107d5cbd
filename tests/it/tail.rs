//! Tails: what is kept for whom, who sees what, and what happens to those that nobody reads.

use std::net::IpAddr;
use std::time::Duration;

use gradual::config::AccessTarget;
use gradual::export::access::{AccessLog, Outcome, Record, Sink};
use gradual::export::tail::{Condition, Filter, MOST, MOST_OF_A_WORKER, Seen, TooMany};
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use serde_json::{Value, json};

use crate::export;

fn record<'a>() -> Record<'a> {
    Record { wall_time: Duration::from_micros(12_500), ..export::record() }
}

fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    lines.iter().map(field).collect()
}

fn log() -> AccessLog {
    AccessLog::open(&AccessTarget::Off).unwrap()
}

fn show(sink: &Sink, record: &Record<'_>, headers: &HeaderMap) {
    sink.show(record, &Seen { headers, protocol: Version::HTTP_2, problem: None });
}

/// Whether a tail with one condition shows a request.
async fn is_shown(condition: Condition, record: &Record<'_>, headers: &HeaderMap) -> bool {
    let log = log();
    let mut tail = log.tails().subscribe("shop", Filter::new(vec![condition])).unwrap();
    show(&log.sink(), record, headers);
    tokio::time::timeout(Duration::ZERO, tail.next()).await.is_ok()
}

#[test]
fn while_there_is_no_tail_nobody_wants_to_know_of_a_request() {
    let log = log();
    let sink = log.sink();
    let wants = || (sink.wanted().by_a_tail(), sink.wanted().by_the_log());
    assert_eq!(wants(), (false, false));
    let tail = log.tails().subscribe("shop", Filter::default()).unwrap();
    assert_eq!(wants(), (true, false));
    assert!(sink.is_tailed("shop") && !sink.is_tailed("blog"));
    drop(tail);
    assert_eq!(wants(), (false, false));
    assert!(!sink.is_tailed("shop"));
}

#[tokio::test]
async fn a_message_has_cloudflares_members_and_ours() {
    let log = log();
    let mut tail = log.tails().subscribe("shop", Filter::default()).unwrap();
    let headers = fields(&[("accept", "*/*"), ("cookie", "sid=1")]);
    show(&log.sink(), &record(), &headers);
    let message: Value = serde_json::from_str(&tail.next().await).unwrap();
    let expected = json!({
        "outcome": "ok",
        "scriptName": "shop",
        "scriptVersion": { "id": "v1", "tag": "stable" },
        "exceptions": [],
        "logs": [],
        "eventTimestamp": 1_795_233_600_123_u64,
        "event": {
            "request": {
                "url": "https://example.com/cart?a=1",
                "method": "GET",
                "headers": { "accept": "*/*", "cookie": "REDACTED" },
                "cf": { "httpProtocol": "HTTP/2" },
            },
            "response": { "status": 200 },
            "rayId": "0123456789abcdef",
        },
        "wallTime": 12.5,
        "truncated": false,
        "gradual": {
            "reason": "key",
            "override": null,
            "upstream": "http://127.0.0.1:3001",
            "clientIp": "192.0.2.1",
            "requestBytes": 0,
            "responseBytes": 1024,
        },
    });
    assert_eq!(message, expected);
}

#[tokio::test]
async fn no_control_character_reaches_the_terminal_of_whoever_watches() {
    let log = log();
    let mut tail = log.tails().subscribe("shop", Filter::default()).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-a", HeaderValue::from_bytes("\u{9b}31m \u{202e}".as_bytes()).unwrap());
    show(&log.sink(), &Record { target: "/a\u{9b}31mRED\u{202e}", ..record() }, &headers);
    let message = tail.next().await;
    assert!(!message.contains(['\u{9b}', '\u{202e}']), "{message}");
    let request = &serde_json::from_str::<Value>(&message).unwrap()["event"]["request"];
    assert_eq!(request["url"], "https://example.com/a\u{fffd}31mRED\u{fffd}");
    assert_eq!(request["headers"]["x-a"], "\u{fffd}31m \u{fffd}");
}

#[tokio::test]
async fn a_failure_is_an_exception() {
    let log = log();
    let mut tail = log.tails().subscribe("shop", Filter::default()).unwrap();
    let failed = Record { error: Some("upstream-refused"), outcome: Outcome::Exception, ..record() };
    let headers = HeaderMap::new();
    let seen = Seen { headers: &headers, protocol: Version::HTTP_11, problem: Some("nobody is there") };
    log.sink().show(&failed, &seen);
    let message: Value = serde_json::from_str(&tail.next().await).unwrap();
    assert_eq!(message["outcome"], "exception");
    let exception = json!([{ "name": "upstream-refused", "message": "nobody is there", "timestamp": 1_795_233_600_135_u64 }]);
    assert_eq!(message["exceptions"], exception);
}

#[tokio::test]
async fn of_a_large_head_as_much_is_shown_as_has_room_and_the_message_says_so() {
    let log = log();
    let mut tail = log.tails().subscribe("shop", Filter::default()).unwrap();
    let large = "a".repeat(10 << 10);
    let headers = fields(&[("a", &large), ("b", &large)]);
    show(&log.sink(), &record(), &headers);
    let message: Value = serde_json::from_str(&tail.next().await).unwrap();
    assert_eq!(message["truncated"], true);
    assert_eq!(message["event"]["request"]["headers"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn a_tail_shows_the_requests_of_its_worker_alone() {
    let log = log();
    let mut tail = log.tails().subscribe("shop", Filter::default()).unwrap();
    let mut other = log.tails().subscribe("blog", Filter::default()).unwrap();
    let (sink, headers) = (log.sink(), HeaderMap::new());
    show(&sink, &Record { worker: None, ..record() }, &headers);
    show(&sink, &Record { worker: Some("blog"), ..record() }, &headers);
    show(&sink, &record(), &headers);
    for (tail, worker) in [(&mut tail, "shop"), (&mut other, "blog")] {
        let message: Value = serde_json::from_str(&tail.next().await).unwrap();
        assert_eq!(message["scriptName"], worker);
        assert!(tokio::time::timeout(Duration::ZERO, tail.next()).await.is_err());
    }
}

#[tokio::test]
async fn each_condition_lets_through_what_meets_it_and_nothing_else() {
    let headers = fields(&[("x-show", "yes, please")]);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let header = |name: &'static str, text: Option<&str>| {
        Condition::Header(HeaderName::from_static(name), text.map(str::to_owned))
    };
    for (condition, shown) in [
        (Condition::Sampling(1.0), true),
        (Condition::Sampling(f64::MIN_POSITIVE), false),
        (Condition::Outcome(vec![Outcome::Canceled, Outcome::Ok]), true),
        (Condition::Outcome(vec![Outcome::Exception]), false),
        (Condition::Method(vec!["post".into(), "get".into()]), true),
        (Condition::Method(vec!["POST".into()]), false),
        (header("x-show", None), true),
        (header("x-show", Some("please")), true),
        (header("x-show", Some("no")), false),
        (header("x-hide", None), false),
        (Condition::Client(vec![address("192.0.2.7"), address("::ffff:192.0.2.1")]), true),
        (Condition::Client(vec![address("192.0.2.7")]), false),
        (Condition::Text("/cart".into()), true),
        (Condition::Text("127.0.0.1:3001".into()), true),
        (Condition::Text("basket".into()), false),
        (Condition::Version("v1".into()), true),
        (Condition::Version("v2".into()), false),
    ] {
        assert_eq!(is_shown(condition.clone(), &record(), &headers).await, shown, "{condition:?}");
    }
}

#[tokio::test]
async fn all_conditions_of_a_filter_must_be_met() {
    let log = log();
    let both = vec![Condition::Version("v1".into()), Condition::Method(vec!["POST".into()])];
    let mut tail = log.tails().subscribe("shop", Filter::new(both)).unwrap();
    let (sink, headers) = (log.sink(), HeaderMap::new());
    show(&sink, &record(), &headers);
    show(&sink, &Record { method: "POST", ..record() }, &headers);
    let message: Value = serde_json::from_str(&tail.next().await).unwrap();
    assert_eq!(message["event"]["request"]["method"], "POST");
}

#[tokio::test]
async fn what_nobody_reads_is_dropped_and_counted_and_what_waits_is_bounded() {
    let log = log();
    let mut tail = log.tails().subscribe("shop", Filter::default()).unwrap();
    let (sink, headers) = (log.sink(), HeaderMap::new());
    for (bytes, at_most) in [(0, 1024), (16 << 10, 70)] {
        let target = format!("/{}", "a".repeat(bytes));
        for _ in 0..2000 {
            show(&sink, &Record { target: &target, ..record() }, &headers);
        }
        let mut waited = 0;
        while tokio::time::timeout(Duration::ZERO, tail.next()).await.is_ok() {
            waited += 1;
        }
        let dropped = tail.dropped();
        assert!(waited > 0 && waited <= at_most, "{waited} waited");
        assert_eq!(waited + dropped, 2000);
        assert_eq!(tail.dropped(), 0);
    }
    let message: Value = serde_json::from_str(&tail.overload(7, 1)).unwrap();
    assert_eq!(message["event"]["type"], "overload");
    assert!(message["event"]["message"].as_str().unwrap().starts_with("7 requests are not shown"));
}

#[test]
fn there_are_ten_tails_of_a_worker_at_the_most_and_so_many_in_all() {
    let log = log();
    let tail = |worker: &str| log.tails().subscribe(worker, Filter::default());
    let mut tails: Vec<_> = (0..MOST_OF_A_WORKER).map(|_| tail("shop").unwrap()).collect();
    assert_eq!(tail("shop").unwrap_err(), TooMany::OfThisWorker);
    tails.extend((MOST_OF_A_WORKER..MOST).map(|number| tail(&format!("w{number}")).unwrap()));
    assert_eq!(tail("blog").unwrap_err(), TooMany::OfAll);
    tails.remove(0);
    assert!(tail("shop").is_ok());
}
