//! What the HTTP/2 codec refuses by itself, before there is a request: recorded as it is over HTTP/1.1.

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Outcome, PING, PROTOCOL_ERROR, block,
    request as fields,
};
use super::language::{HTTP2, OK, Stage, Trial, Upstream, When};
use crate::support::eventually;

/// Ends a stage: each request that its log has, as status and kind, and its metrics.
async fn recorded(stage: Stage) -> (Vec<(u64, String)>, String) {
    let (metrics, lines) = stage.records().await;
    let said = |line: &serde_json::Value| {
        let status = line["Event"]["Response"]["Status"].as_u64().unwrap();
        (status, line["Error"].as_str().unwrap_or_default().to_owned())
    };
    (lines.iter().map(said).collect(), metrics)
}

fn count(said: &[(u64, String)], status: u64, error: &str) -> usize {
    said.iter().filter(|(found, kind)| (*found, &kind[..]) == (status, error)).count()
}

/// A plain GET with one more field.
fn get_with(name: &str, value: &str) -> Vec<u8> {
    let mut all = fields("GET", "/");
    all.push((name, value));
    block(&all)
}

async fn is_served(frames: &mut Frames, stream: u32) {
    frames.get(stream, "/honest");
    frames.flush().await;
    assert_eq!(frames.outcome(stream).await, Outcome::Status(200));
}

#[tokio::test]
async fn malformed_requests_are_recorded_and_those_whose_trailers_are_only_once() {
    let stage = Stage::new().await;
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        // One by one, and several at once among requests that are served.
        frames.frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_with("connection", "x"));
        frames.flush().await;
        assert_eq!(frames.outcome(1).await, Outcome::Reset(PROTOCOL_ERROR), "{way:?}");
        for stream in [3, 7, 11] {
            frames.get(stream, "/honest");
            frames.frame(HEADERS, END_HEADERS | END_STREAM, stream + 2, &get_with("connection", "x"));
        }
        frames.flush().await;
        for stream in [3, 7, 11] {
            assert_eq!(frames.outcome(stream).await, Outcome::Status(200), "{way:?} {stream}");
            assert_eq!(frames.outcome(stream + 2).await, Outcome::Reset(PROTOCOL_ERROR), "{way:?} {stream}");
        }
        // This one is a request, which is then cut.
        frames.headers(15, false, &fields("POST", "/attack"));
        frames.frame(DATA, 0, 15, b"hello");
        frames.headers(15, true, &[("connection", "x")]);
        frames.flush().await;
        assert!(frames.outcome(15).await.is_malformed());
        is_served(&mut frames, 17).await;
    }
    let (said, metrics) = recorded(stage).await;
    assert_eq!((count(&said, 400, "bad-request"), count(&said, 200, "")), (2 * 4, 2 * 4), "{said:?}");
    assert_eq!(said.len(), 2 * 9, "{said:?}");
    assert!(metrics.contains(r#"gradual_requests_total{worker="",version="",reason="",status="4xx"} 8"#));
}

/// Waits for an answer, whose status may stand in the table of both sides by now.
async fn is_refused(frames: &Frames, stream: u32) {
    let answered = || frames.came().iter().any(|frame| (frame.kind, frame.stream) == (HEADERS, stream));
    eventually("the stream is answered", answered).await;
}

#[tokio::test]
async fn heads_that_are_too_large_are_counted_and_recorded_however_they_come() {
    let stage =
        Stage::with(Upstream::answering(OK).await, |file| file.top("[limits]\nheader_bytes = \"8KiB\""))
            .await;
    let large = "y".repeat(9000);
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        frames.frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_with("x", &large));
        frames.flush().await;
        assert_eq!(frames.outcome(1).await, Outcome::Status(431), "{way:?}");
        // Without an end, which is a reset besides.
        frames.frame(HEADERS, END_HEADERS, 3, &get_with("x", &large));
        frames.flush().await;
        is_refused(&frames, 3).await;
        // In pieces, between which the proxy has something else to do.
        let all = get_with("x", &large);
        frames.frame(HEADERS, END_STREAM, 5, &all[..100]);
        frames.flush().await;
        stage.serves_neighbours().await;
        let mut last = Vec::new();
        last.extend_from_slice(&u32::try_from(all.len() - 100).unwrap().to_be_bytes()[1..]);
        last.extend_from_slice(&[CONTINUATION, END_HEADERS, 0, 0, 0, 5]);
        last.extend_from_slice(&all[100..]);
        for piece in last.chunks(4000) {
            frames.bytes(piece);
            frames.flush().await;
            stage.serves_neighbours().await;
        }
        is_refused(&frames, 5).await;
        // Each says what it is, in a field that leaves the tables of both sides as they were.
        let answers: Vec<_> = frames.came().into_iter().filter(|frame| frame.kind == HEADERS).collect();
        assert_eq!(answers.len(), 3);
        assert!(
            answers.iter().all(|frame| frame.payload.ends_with(b"\0\x0dgradual-error\x0ehead-too-large"))
        );
        is_served(&mut frames, 7).await;
        // What is far too large ends the connection.
        frames.large_headers(9, &[fields("GET", "/"), vec![("x", &"y".repeat(60_000))]].concat());
        frames.flush().await;
        eventually("the connection ends", || frames.is_closed()).await;
    }
    let (said, metrics) = recorded(stage).await;
    assert_eq!(count(&said, 431, "head-too-large"), 2 * 4, "{said:?}");
    assert!(said.iter().all(|(status, _)| matches!(status, 200 | 431)), "{said:?}");
    assert!(metrics.contains(r#"gradual_limited_total{limit="header_bytes"} 8"#), "{metrics}");
    assert!(!metrics.contains("http2_control_frames"), "{metrics}");
}

#[tokio::test]
async fn streams_beyond_the_limit_are_counted_and_are_no_requests() {
    let few = |file: crate::support::File| file.top("[limits]\nhttp2_streams = 8");
    let stage = Stage::with(Upstream::start(OK, When::Honest).await, few).await;
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        for number in 0..20 {
            frames.get(number * 2 + 1, "/held");
        }
        frames.flush().await;
        eventually("what is too much is refused", || frames.count(super::frames::RST_STREAM) == 12).await;
    }
    let (said, metrics) = recorded(stage).await;
    assert!(metrics.contains(r#"gradual_limited_total{limit="http2_streams"} 24"#), "{metrics}");
    assert_eq!(said.len(), 16, "{said:?}");
}

#[tokio::test]
async fn a_connection_whose_frames_are_no_http_2_is_recorded_like_an_unreadable_head() {
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    let attacks: [(&str, &[u8]); 4] = [
        ("a short ping", &[0, 0, 1, PING, 0, 0, 0, 0, 0, 0]),
        ("a table index that is not there", &[0, 0, 1, HEADERS, 5, 0, 0, 0, 1, 0xff]),
        ("a continuation of nothing", &[0, 0, 1, CONTINUATION, 4, 0, 0, 0, 1, 0x82]),
        ("a frame that is too large", &[1, 0, 0, DATA, 0, 0, 0, 0, 1]),
    ];
    for way in HTTP2 {
        for (name, attack) in attacks {
            let mut frames = stage.http2(way).await;
            frames.bytes(attack);
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            trial.same(&format!("{way:?} {name}: {outcome:?}"), matches!(outcome, Outcome::GoAway(_)), true);
        }
        // An honest client that just leaves is none.
        is_served(&mut stage.http2(way).await, 1).await;
    }
    trial.end();
    let (said, _) = recorded(stage).await;
    assert_eq!((count(&said, 400, "bad-request"), said.len()), (8, 10), "{said:?}");
}
