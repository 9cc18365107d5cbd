//! Sizes: what is honest passes, what is not ends the request on both sides, and no refusal is left without a word.

use super::frames::{DATA, ENHANCE_YOUR_CALM, Outcome, request as fields};
use super::language::{CANARY, HTTP2, Reaches, Stage, Trial, chunked, request};
use super::strict::Heard;
use crate::support::eventually;

#[tokio::test]
async fn honest_sizes_pass() {
    let stage = Stage::new().await;
    let target = format!("/{}", "a".repeat(8000));
    let cookie = format!("Cookie: a={}\r\nConnection: close", "b".repeat(16_000));
    assert_eq!(stage.answers(request(&format!("GET {target}"), &cookie, "")).await.unwrap()[0].status, 200);
    let heard = stage.upstream.last();
    assert_eq!(heard.line, format!("GET {target} HTTP/1.1"));
    assert_eq!(heard.field("cookie").map(|cookie| cookie.len()), Some(16_002));
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        let cookie = format!("a={}", "b".repeat(16_000));
        frames.large_headers(1, &[fields("GET", &target), vec![("cookie", &cookie)]].concat());
        frames.flush().await;
        assert_eq!(frames.outcome(1).await, Outcome::Status(200), "{way:?}");
        assert_eq!(stage.upstream.last(), Heard { fields: stage.upstream.last().fields, ..heard.clone() });
        assert_eq!(stage.upstream.last().field("cookie"), Some(cookie), "{way:?}");
    }
}

#[tokio::test]
async fn targets_and_heads_beyond_reason_are_refused_and_reach_nobody() {
    let stage = Stage::new().await;
    let target = |length| request(&format!("GET /{}", "a".repeat(length)), "", "");
    stage.refuses(&[414], Reaches::Nothing, &[("a target of 20 KB", target(20_000))]).await;
    // What the whole head is too large for is not looked at more closely.
    let cases = [
        ("a target of 70 KB", target(70_000)),
        ("a field of 1 MiB", request("GET /", &format!("X: {}", "y".repeat(1 << 20)), "")),
        ("a name of 1 MiB", request("GET /", &format!("{}: y", "x".repeat(1 << 20)), "")),
        ("10,000 fields", request("GET /", "X: y\r\n".repeat(10_000).trim_end(), "")),
        ("a method of 1 MiB", request(&format!("{} /", "G".repeat(1 << 20)), "", "")),
    ];
    stage.refuses(&[431], Reaches::Nothing, &cases).await;
}

#[tokio::test]
async fn trailers_beyond_reason_end_the_request_on_both_sides() {
    let stage = Stage::new().await;
    let cases = [
        ("1 MiB", chunked(&format!("2\r\nok\r\n0\r\nX: {}\r\n\r\n", "y".repeat(1 << 20)))),
        ("20,000 fields", chunked(&format!("2\r\nok\r\n0\r\n{}\r\n", "X: y\r\n".repeat(20_000)))),
    ];
    stage.refuses(&[400, 431], Reaches::Part, &cases).await;
    assert!(!stage.upstream.all().contains(CANARY));
}

#[tokio::test]
async fn over_http_2_trailers_beyond_reason_end_the_request_on_both_sides() {
    let stage = Stage::new().await;
    let field = "y".repeat(1 << 20);
    let (large, many) = ("y".repeat(60 << 10), "y".repeat(1 << 10));
    let sections = [
        ("1 MiB", vec![("x", &field[..])]),
        ("20,000 fields", vec![("x", "y"); 20_000]),
        // The codec would leave fields of these out without a word.
        ("2,000 fields", vec![("x", "y"); 2_000]),
        ("70 fields of 1 KiB", vec![("x", &many[..]); 70]),
        ("one of 60 KiB beside a small one", vec![("a", "b"), ("x", &large[..])]),
    ];
    let mut trial = Trial::default();
    for way in HTTP2 {
        for (name, section) in &sections {
            let ended_before = stage.upstream.ended();
            let posts = stage.upstream.all().matches("POST / ").count();
            let mut frames = stage.http2(way).await;
            frames.headers(1, false, &fields("POST", "/"));
            frames.frame(DATA, 0, 1, b"ok");
            frames.flush().await;
            eventually("the upstream hears of it", || {
                stage.upstream.all().matches("POST / ").count() > posts
            })
            .await;
            frames.large_headers(1, section);
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            let ended = matches!(
                outcome,
                Outcome::Status(400 | 431) | Outcome::Reset(_) | Outcome::GoAway(_) | Outcome::Closed
            );
            trial.same(&format!("{way:?} {name}: {outcome:?}"), ended, true);
            drop(frames);
            eventually("the upstream is hung up on", || stage.upstream.ended() > ended_before).await;
        }
    }
    trial.end();
    let whole = stage.upstream.requests();
    assert!(whole.is_empty(), "what was ended was heard whole: {whole:?}");
    stage.serves_neighbours().await;
}

#[tokio::test]
async fn over_http_2_too_large_heads_end_the_stream_or_the_connection_and_reach_nobody() {
    let target = |length| format!("/{}", "a".repeat(length));
    let (long, large) = (target(20_000), target(70_000));
    let field = "y".repeat(1 << 20);
    let many = vec![("x", "y"); 10_000];
    // The codec does not read on where a head is larger than it can be even with all that it lets pass.
    let calm = Outcome::GoAway(ENHANCE_YOUR_CALM);
    let attacks = [
        ("a target of 20 KB", Outcome::Status(414), &long[..], vec![]),
        ("a target of 70 KB", Outcome::Status(431), &large[..], vec![]),
        ("a field of 1 MiB", calm, "/", vec![("x", &field[..])]),
        ("10,000 fields", Outcome::Status(431), "/", many),
    ];
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    for way in HTTP2 {
        for (name, expected, path, more) in &attacks {
            let mut frames = stage.http2(way).await;
            frames.large_headers(1, &[fields("GET", path), more.clone()].concat());
            frames.flush().await;
            trial.same(&format!("{way:?} {name}"), &frames.outcome(1).await, expected);
        }
    }
    trial.note("the upstream", stage.heard_nothing_but_honest(Reaches::Nothing).await);
    trial.end();
}
