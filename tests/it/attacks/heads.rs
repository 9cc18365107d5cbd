//! Header sections that are not what they should be, and the log lines that such heads leave.
//!
//! Lines that are folded, have no colon or none of their parts cannot be said over HTTP/2; bytes that would make such lines
//! of its names and values can, and are malformed (`http2`).

use serde_json::json;

use crate::support::File;

use super::language::{OK, Reaches, Stage, Trial, Upstream, request};

#[tokio::test]
async fn malformed_field_lines_are_refused() {
    let stage = Stage::new().await;
    let mut cases: Vec<(&str, Vec<u8>)> = [
        ": x",
        "no colon",
        "X : a",
        "X\t: a",
        " X: a",
        "X: a\x00b",
        "X: \x01",
        "X: a\x7fb",
        "X\x00: a",
        "X Y: a",
        "(X): a",
        "X\u{e9}: a",
        "\"X\": a",
        "X: a\x0bb",
    ]
    .into_iter()
    .map(|field| (field, request("GET /", field, "")))
    .collect();
    cases.push(("no fields end", b"GET / HTTP/1.1\r\nHost: shop.example\r\nX\r\n\r\n".to_vec()));
    stage.refuses(&[400], Reaches::Nothing, &cases).await;
}

#[tokio::test]
async fn malformed_request_lines_are_refused() {
    let stage = Stage::new().await;
    let with = |line: &str| format!("{line}\r\nHost: shop.example\r\n\r\n").into_bytes();
    let cases = [
        "GET  / HTTP/1.1",
        "GET /",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "GET / HTTP/1.1 x",
        "GET / HTTPS/1.1",
        "G\x00T / HTTP/1.1",
        "G(T / HTTP/1.1",
        " GET / HTTP/1.1",
        "/ HTTP/1.1",
        "GET\t/\tHTTP/1.1",
        "GET /\tHTTP/1.1",
        "\u{e9} / HTTP/1.1",
        "HTTP/1.1 200 OK",
    ];
    let cases: Vec<_> = cases.iter().map(|&line| (line, with(line))).collect();
    stage.refuses(&[400], Reaches::Nothing, &cases).await;
}

#[tokio::test]
async fn folded_lines_are_refused() {
    let stage = Stage::new().await;
    let cases = [
        ("by space", request("GET /", "X: a\r\n b", "")),
        ("by tab", request("GET /", "X: a\r\n\tb", "")),
        ("after the name", request("GET /", "X:\r\n a", "")),
        ("the first line", b"GET / HTTP/1.1\r\n Host: shop.example\r\n\r\n".to_vec()),
        ("a length", request("POST /", "Content-Length:\r\n 5", "hello")),
    ];
    stage.refuses(&[400], Reaches::Nothing, &cases).await;
}

#[tokio::test]
async fn a_missing_repeated_or_malformed_host_is_refused() {
    let stage = Stage::new().await;
    let with = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n").into_bytes();
    let mut cases = vec![
        ("missing".to_owned(), with("")),
        ("two that differ".to_owned(), with("Host: shop.example\r\nHost: evil.example\r\n")),
        ("two alike".to_owned(), with("Host: shop.example\r\nHost: shop.example\r\n")),
        ("two beside a target".to_owned(), b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec()),
    ];
    for host in [
        "", "a, b", "a/x", "/x", "u@a", "u:p@a", "a b", "a:b", "a:-1", "a:99999", "a:80:80", "::1", "[::1",
        "[::1]x", "a#", "a?b", "a\\b", "\u{e9}", "http://a", "a%00b", "<a>", "a;b", "\"a\"",
    ] {
        cases.push((format!("{host:?}"), with(&format!("Host: {host}\r\n"))));
    }
    let cases: Vec<_> = cases.iter().map(|(name, bytes)| (&name[..], bytes.clone())).collect();
    stage.refuses(&[400], Reaches::Nothing, &cases).await;
}

#[tokio::test]
async fn what_the_codec_itself_cannot_read_is_counted_and_logged_like_every_refusal() {
    // So much may come that it is the codec that finds the target too long.
    let large = |file: File| file.top("[limits]\nheader_bytes = \"256KiB\"");
    let stage = Stage::with(Upstream::answering(OK).await, large).await;
    let none = |_| ();
    stage.exchange(request("GET /", "X : a", "")).await.map(none).unwrap();
    stage.exchange(request("GET /", &format!("X: {}", "y".repeat(1 << 20)), "")).await.map(none).unwrap();
    stage.exchange(request(&format!("GET /{}", "a".repeat(70_000)), "", "")).await.map(none).unwrap();
    // On a connection that had a request before, too.
    stage
        .exchange([request("GET /fine", "", ""), request("GET /", "X : a", "")].concat())
        .await
        .map(none)
        .unwrap();
    let (metrics, lines) = stage.records().await;
    let said: Vec<_> = lines
        .iter()
        .map(|line| {
            json!([line["Event"]["Response"]["Status"], line["Error"], line["Outcome"], line["ClientIP"]])
        })
        .collect();
    for (status, error, count) in
        [(400, "bad-request", 2), (431, "head-too-large", 1), (414, "uri-too-long", 1)]
    {
        let expected = json!([status, error, "ok", "127.0.0.1"]);
        assert_eq!(said.iter().filter(|line| **line == expected).count(), count, "{status}: {said:?}");
    }
    assert_eq!(lines.len(), 5);
    let refused = r#"gradual_requests_total{worker="",version="",reason="",status="4xx"} 4"#;
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_a_pipeline_follows_the_answers_before_it() {
    let stage = Stage::before(Upstream::answering(OK).await).await;
    let mut trial = Trial::default();
    for count in [1, 2, 5] {
        let bytes = [request("GET /fine", "", "").repeat(count), request("GET /", "X : a", "")].concat();
        let replies = stage.answers(bytes).await;
        let statuses = replies.map(|all| all.iter().map(|reply| reply.status).collect::<Vec<_>>());
        trial.same(&count.to_string(), statuses, Ok([vec![200; count], vec![400]].concat()));
    }
    trial.end();
}

#[tokio::test]
async fn an_upstreams_own_refusal_is_not_taken_for_the_codecs() {
    let answer = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let stage = Stage::before(Upstream::answering(answer).await).await;
    for _ in 0..3 {
        let bytes = request("GET /", "Connection: close", "");
        let replies = stage.answers(bytes).await.unwrap();
        assert_eq!((replies.len(), replies[0].status, replies[0].body.len()), (1, 400, 0));
        assert_eq!(replies[0].field("gradual-error"), None);
    }
}

#[tokio::test]
async fn whatever_stands_in_a_head_its_log_line_is_one_line_of_valid_json() {
    let stage = Stage::new().await;
    let mut attacks: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n".to_vec(),
        b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        request("GET /", "X: \x1b[31m", ""),
    ];
    for target in
        ["/%0d%0a%1b[31m", "/\\", "/a?\"b\"'", "/{}", "/\u{e4}\u{202e}", "/%00%ff", "/<script>", "/,\"a\":1"]
    {
        let fields = "X: \\\"\r\nUser-Agent: \"},{\"\r\nConnection: close";
        attacks.push(request(&format!("GET {target}"), fields, ""));
    }
    for host in ["a\"b", "\u{e9}", "a\\b"] {
        attacks.push(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes());
    }
    for attack in &attacks {
        stage.exchange(attack).await.unwrap();
    }
    let (_, lines) = stage.records().await;
    // Each line was parsed as JSON on the way here.
    assert_eq!(lines.len(), attacks.len());
    assert!(lines.iter().all(|line| line["EventType"] == "fetch"));
    let urls: Vec<_> = lines.iter().map(|line| line["Event"]["Request"]["URL"].as_str().unwrap()).collect();
    assert!(
        urls.contains(&"http://shop.example/%0d%0a%1b[31m") && urls.contains(&"http://a\"b/"),
        "{urls:?}"
    );
}
