//! Sizes: what is honest passes, what is not ends the request on both sides, and no refusal is left without a word.

use super::language::{CANARY, Reaches, Stage, chunked, request};

#[tokio::test]
async fn honest_sizes_pass() {
    let stage = Stage::new().await;
    let target = format!("/{}", "a".repeat(8000));
    let cookie = format!("Cookie: a={}\r\nConnection: close", "b".repeat(16_000));
    assert_eq!(stage.answers(request(&format!("GET {target}"), &cookie, "")).await.unwrap()[0].status, 200);
    let heard = stage.upstream.last();
    assert_eq!(heard.line, format!("GET {target} HTTP/1.1"));
    assert_eq!(heard.field("cookie").map(|cookie| cookie.len()), Some(16_002));
}

#[tokio::test]
async fn targets_and_heads_beyond_reason_are_refused_and_reach_nobody() {
    let stage = Stage::new().await;
    let target = format!("GET /{}", "a".repeat(70_000));
    stage.refuses(&[414, 431], Reaches::Nothing, &[("a target of 70 KB", request(&target, "", ""))]).await;
    let cases = [
        ("a field of 1 MiB", request("GET /", &format!("X: {}", "y".repeat(1 << 20)), "")),
        ("a name of 1 MiB", request("GET /", &format!("{}: y", "x".repeat(1 << 20)), "")),
        ("10,000 fields", request("GET /", "X: y\r\n".repeat(10_000).trim_end(), "")),
        ("a method of 1 MiB", request(&format!("{} /", "G".repeat(1 << 20)), "", "")),
    ];
    stage.refuses(&[400, 431], Reaches::Nothing, &cases).await;
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
