//! Requests over HTTP/2 that are malformed (RFC 9113 section 8): each is reset, and nothing of it reaches an upstream.
//!
//! Pseudo-fields and streams have no counterpart in HTTP/1.1; bad names, values and targets have theirs in `heads` and
//! `targets`.

use super::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, REFUSED_STREAM, RST_STREAM, block, request as fields,
};
use super::language::{CANARY, HTTP2, OK, Reaches, Stage, Trial, Upstream, When};
use crate::support::{File, eventually};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A plain GET with a field changed or added.
fn get_with(name: &[u8], value: &[u8]) -> Fields {
    let mut all: Fields =
        fields("GET", "/attack").into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    match all.iter_mut().find(|(found, _)| found == name) {
        Some(field) => field.1 = value.to_vec(),
        None => all.push((name.to_vec(), value.to_vec())),
    }
    all
}

/// A list of fields as it is.
fn exactly(all: &[(&str, &str)]) -> Fields {
    all.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// Each of these requests is malformed by both ways, and the connection's end or a reset says so.
async fn malformed(stage: &Stage, cases: &[(String, Fields)]) {
    assert!(!cases.is_empty());
    let mut trial = Trial::default();
    for way in HTTP2 {
        for (name, all) in cases {
            let mut frames = stage.http2(way).await;
            frames.frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(all));
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            trial.same(&format!("{way:?} {name}: {outcome:?}"), outcome.is_malformed(), true);
        }
    }
    trial.note("the upstream", stage.heard_nothing_but_honest(Reaches::Nothing).await);
    trial.end();
}

#[tokio::test]
async fn names_and_values_that_could_become_lines_of_http_1_1_are_malformed() {
    let stage = Stage::new().await;
    let mut cases = Vec::new();
    for name in [
        "X-Upper", "x\r\ny", "x\ny", "x\ry", "x\0", "x y", " x", "x:", ":", "", "x\u{7f}", "x\u{e9}", "x\t",
        "(x)",
    ] {
        cases.push((format!("name {name:?}"), get_with(name.as_bytes(), b"y")));
    }
    for value in ["a\r\nX: y", "a\r\n b", "a\n\tb", "a\nb", "a\rb", "a\0b", "\r\n", "\0", "a\u{1}", "a\u{7f}"]
    {
        cases.push((format!("value {value:?}"), get_with(b"x", value.as_bytes())));
    }
    malformed(&stage, &cases).await;
}

#[tokio::test]
async fn pseudo_fields_that_are_wrong_repeated_unknown_missing_or_late_are_malformed() {
    let stage = Stage::new().await;
    let mut cases = Vec::new();
    for path in [
        "",
        "a",
        "/a b",
        "/a\r\nX: y",
        "/a\nb",
        "/a\0b",
        "/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "*",
        "/\u{7f}",
        "http://a/",
    ] {
        cases.push((format!("path {path:?}"), get_with(b":path", path.as_bytes())));
    }
    for method in ["", "GET / HTTP/1.1\r\nX: y\r\n\r\nGET", "G T", "GET\r\n", "GET\0", "(GET)", "G\u{e9}T"] {
        cases.push((format!("method {method:?}"), get_with(b":method", method.as_bytes())));
    }
    for authority in [
        "",
        "a b",
        "a\r\nX: y",
        "a/b",
        "u@shop.example",
        "a, b",
        "a:x",
        "a:99999",
        "[::1",
        "a\0",
        "a?b",
        "a#b",
    ] {
        cases.push((format!("authority {authority:?}"), get_with(b":authority", authority.as_bytes())));
    }
    for scheme in ["", "h ttp", "http\r\n", "ftp", "://", "http://shop.example/"] {
        cases.push((format!("scheme {scheme:?}"), get_with(b":scheme", scheme.as_bytes())));
    }
    for name in [":unknown", ":status", ":Path", ":path ", ":protocol"] {
        cases.push((format!("pseudo {name:?}"), get_with(name.as_bytes(), b"200")));
    }
    let all = fields("GET", "/attack");
    for repeated in 0..4 {
        let mut twice = all.clone();
        twice.push(all[repeated]);
        cases.push((format!("twice {}", all[repeated].0), exactly(&twice)));
        let missing: Vec<_> =
            all.iter().enumerate().filter(|(at, _)| *at != repeated).map(|(_, &field)| field).collect();
        if repeated < 3 {
            cases.push((format!("no {}", all[repeated].0), exactly(&missing)));
        }
        let mut late = missing;
        late.extend([("x", "y"), all[repeated]]);
        cases.push((format!("late {}", all[repeated].0), exactly(&late)));
    }
    cases.push(("neither authority nor host".into(), exactly(&all[..3])));
    malformed(&stage, &cases).await;
}

#[tokio::test]
async fn a_transfer_coding_over_http_2_is_malformed() {
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    for way in HTTP2 {
        for coding in ["chunked", "identity", "gzip, chunked", ""] {
            let mut frames = stage.http2(way).await;
            let mut all = fields("POST", "/attack");
            all.push(("transfer-encoding", coding));
            frames.headers(1, false, &all);
            frames.frame(DATA, END_STREAM, 1, format!("0\r\n\r\n{CANARY}").as_bytes());
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            trial.same(&format!("{way:?} {coding}: {outcome:?}"), outcome.is_malformed(), true);
        }
        for length in ["+5", "-5", "0x5", "5, 6", "18446744073709551621", "", "5 "] {
            let mut frames = stage.http2(way).await;
            let mut all = fields("POST", "/attack");
            all.push(("content-length", length));
            frames.headers(1, false, &all);
            frames.frame(DATA, END_STREAM, 1, b"hello");
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            trial.same(&format!("{way:?} length {length:?}: {outcome:?}"), outcome.is_malformed(), true);
        }
        let mut frames = stage.http2(way).await;
        let mut all = fields("POST", "/attack");
        all.extend([("content-length", "5"), ("content-length", "6")]);
        frames.headers(1, false, &all);
        frames.frame(DATA, END_STREAM, 1, b"hello");
        frames.flush().await;
        let outcome = frames.outcome(1).await;
        trial.same(&format!("{way:?} two lengths: {outcome:?}"), outcome.is_malformed(), true);
    }
    trial.note("the upstream", stage.heard_nothing_but_honest(Reaches::Part).await);
    trial.end();
}

#[tokio::test]
async fn pseudo_fields_in_trailers_are_malformed_or_dropped_and_never_forwarded() {
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    for way in HTTP2 {
        for (name, value) in [
            (":path", "/evil"),
            (":method", "EVIL"),
            (":authority", "evil.example"),
            (":status", "200"),
            (":evil", "x"),
        ] {
            let mut frames = stage.http2(way).await;
            frames.headers(1, false, &fields("POST", "/trailed"));
            frames.frame(DATA, 0, 1, b"hello");
            frames.headers(1, true, &[(name, value), ("x-sum", "1")]);
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            let safe = outcome.is_malformed() || outcome == Outcome::Status(200);
            trial.same(&format!("{way:?} {name}: {outcome:?}"), safe, true);
        }
    }
    trial.end();
    let heard = stage.upstream.requests();
    assert!(
        heard.iter().all(|heard| heard.line == "POST /trailed HTTP/1.1" && heard.body == b"hello"),
        "{heard:?}"
    );
    assert!(!stage.upstream.all().to_lowercase().contains("evil"));
}

#[tokio::test]
async fn trailers_that_do_not_end_the_stream_are_malformed() {
    let stage = Stage::new().await;
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        frames.headers(1, false, &fields("POST", "/attack"));
        frames.frame(DATA, 0, 1, b"hello");
        frames.headers(1, false, &[("x-sum", "1")]);
        frames.flush().await;
        let outcome = frames.outcome(1).await;
        assert!(outcome.is_malformed(), "{way:?} {outcome:?}");
    }
    stage.heard_nothing_but_honest(Reaches::Part).await.unwrap();
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_others_and_neighbours_are_served() {
    let streams = |file: File| file.top("[limits]\nhttp2_streams = 256");
    let stage = Stage::with(Upstream::start(OK, When::Honest).await, streams).await;
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        for number in 0..306 {
            frames.get(number * 2 + 1, "/held");
        }
        frames.flush().await;
        let refused = |frames: &super::frames::Frames| {
            let is = |frame: &&super::frames::Frame| {
                frame.kind == RST_STREAM && frame.payload == REFUSED_STREAM.to_be_bytes()
            };
            frames.came().iter().filter(is).map(|frame| frame.stream).collect::<Vec<_>>()
        };
        eventually("what is too much is refused", || refused(&frames).len() == 50).await;
        // The first that came are those that are served.
        assert!(refused(&frames).iter().all(|&stream| stream > 2 * 256), "{way:?}");
        stage.serves_neighbours().await;
        assert!(!frames.is_closed(), "{way:?}");
        assert_eq!(refused(&frames).len(), 50, "{way:?}");
    }
}
