//! Where a request ends: lengths, transfer codings and chunks that two readers could read differently.
//!
//! Chunks, line ends and HTTP/1.0 cannot be said over HTTP/2: frames are what ends its messages. A transfer coding can, and
//! is malformed there whatever it says (`http2`).

use super::frames::{DATA, END_STREAM, Outcome, request as fields};
use super::language::{CANARY, HTTP2, OK, Reaches, Stage, Trial, Upstream, chunked, heard, request};
use super::strict::Heard;
use crate::support::eventually;

/// A POST with these framing fields, whose body would end at once.
fn framed(fields: &str) -> Vec<u8> {
    request("POST /", fields, "0\r\n\r\n")
}

#[tokio::test]
async fn a_length_beside_a_transfer_coding_is_refused_in_either_order() {
    let stage = Stage::new().await;
    let cases = [
        ("length first", framed("Content-Length: 5\r\nTransfer-Encoding: chunked")),
        ("coding first", framed("Transfer-Encoding: chunked\r\nContent-Length: 5")),
        ("far apart", framed("content-length: 5\r\nA: b\r\nC: d\r\nTRANSFER-ENCODING: CHUNKED\r\nE: f")),
        ("a length of nothing", framed("Transfer-Encoding: chunked\r\nContent-Length: 0")),
        ("two lengths", framed("Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 5")),
        ("a length that is none", framed("Transfer-Encoding: chunked\r\nContent-Length: x")),
        ("on a GET", request("GET /", "Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n")),
    ];
    stage.refuses(&[400], Reaches::Nothing, &cases).await;
}

#[tokio::test]
async fn lengths_that_differ_or_are_no_plain_number_are_refused() {
    let stage = Stage::new().await;
    let cases = [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 6\r\nX: y\r\ncontent-length: 5",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 0_5",
        "Content-Length: 5 5",
        "Content-Length: 5,",
        "Content-Length: 5.0",
        "Content-Length: \"5\"",
        "Content-Length: 18446744073709551621",
        "Content-Length: 18446744073709551616",
        "Content-Length:",
        "Content-Length:  ",
    ];
    let cases: Vec<_> = cases.iter().map(|&fields| (fields, framed(fields))).collect();
    stage.refuses(&[400], Reaches::Nothing, &cases).await;
}

#[tokio::test]
async fn a_length_that_is_said_twice_or_with_zeros_is_refused_or_becomes_one_plain_number() {
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    for lines in ["Content-Length: 5\r\nContent-Length: 5", "Content-Length: 005", "Content-Length: 5, 5"] {
        let before = stage.upstream.requests().len();
        let replies =
            stage.answers(request("POST /", &format!("{lines}\r\nConnection: close"), "hello")).await;
        let judged = match &replies.as_deref() {
            Ok([reply]) if reply.status == 400 && stage.upstream.requests().len() == before => Ok(()),
            Ok([reply]) if reply.status == 200 => {
                let heard = stage.upstream.last();
                let one = heard.field("content-length").as_deref() == Some("5") && heard.body == b"hello";
                if one { Ok(()) } else { Err(format!("{heard:?}")) }
            }
            other => Err(format!("{other:?}")),
        };
        trial.note(lines, judged);
    }
    for way in HTTP2 {
        for lengths in [&["5", "5"][..], &["005"], &["5, 5"]] {
            let before = stage.upstream.requests().len();
            let mut frames = stage.http2(way).await;
            let mut all = fields("POST", "/");
            all.extend(lengths.iter().map(|&length| ("content-length", length)));
            frames.headers(1, false, &all);
            frames.frame(DATA, END_STREAM, 1, b"hello");
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            let heard = stage.upstream.requests().split_off(before);
            let one = |heard: &Heard| {
                let length = heard.field("content-length");
                length.is_none_or(|length| length == "5") && heard.body == b"hello"
            };
            let fine = if outcome == Outcome::Status(200) {
                heard.len() == 1 && one(&heard[0])
            } else {
                outcome.is_malformed() && heard.is_empty()
            };
            trial.same(&format!("{way:?} {lengths:?}: {outcome:?} {heard:?}"), fine, true);
        }
    }
    trial.end();
}

#[tokio::test]
async fn unknown_repeated_and_disguised_transfer_codings_are_refused() {
    let stage = Stage::new().await;
    let cases = [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;a",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding:",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: \x00chunked",
        "Transfer-Encoding: chunked\x0c",
        "Transfer-Encoding:\r\n chunked",
        "Transfer\x00-Encoding: chunked",
    ];
    let cases: Vec<_> = cases.iter().map(|&fields| (fields, framed(fields))).collect();
    stage.refuses(&[400, 501], Reaches::Nothing, &cases).await;
}

#[tokio::test]
async fn a_transfer_coding_in_http_1_0_is_refused() {
    let stage = Stage::new().await;
    let old = |fields: &str| {
        format!("POST / HTTP/1.0\r\nHost: shop.example\r\n{fields}\r\n\r\n0\r\n\r\n").into_bytes()
    };
    let cases = [
        ("kept alive", old("Connection: keep-alive\r\nTransfer-Encoding: chunked")),
        ("closing", old("Transfer-Encoding: chunked")),
        ("with a length", old("Content-Length: 5\r\nTransfer-Encoding: chunked")),
        ("after a length", old("Transfer-Encoding: chunked\r\nContent-Length: 5")),
    ];
    stage.refuses(&[400], Reaches::Nothing, &cases).await;
}

#[tokio::test]
async fn bare_carriage_returns_are_refused_and_bare_line_feeds_refused_or_made_canonical() {
    let stage = Stage::new().await;
    let cases = [
        ("in a value", request("GET /", "X: a\rb", "")),
        ("in a name", request("GET /", "X\rY: b", "")),
        ("instead of a line end", request("GET /", "X: a\rY: b", "")),
        ("before a line end", request("GET /", "X: a\r", "")),
        ("in the request line", request("GET /\r", "", "")),
        ("after the version", b"GET / HTTP/1.1\rHost: shop.example\r\n\r\n".to_vec()),
    ];
    stage.refuses(&[400], Reaches::Nothing, &cases).await;
    let mut trial = Trial::default();
    for head in [
        "GET /lf HTTP/1.1\nHost: shop.example\nConnection: close\n\n",
        "GET /lf HTTP/1.1\r\nHost: shop.example\nX: y\r\nConnection: close\r\n\r\n",
        "GET /lf HTTP/1.1\r\nHost: shop.example\r\nConnection: close\n\r\n",
    ] {
        let replies = stage.answers(head).await;
        let statuses: Result<Vec<_>, _> = replies.map(|all| all.iter().map(|reply| reply.status).collect());
        let fine = statuses.as_ref().is_ok_and(|all| all == &[200] || all == &[400]);
        trial.note(head, if fine { Ok(()) } else { Err(format!("{statuses:?}")) });
    }
    trial.end();
    // Whatever was forwarded has canonical line ends: the strict reader fails otherwise.
    stage.serves_neighbours().await;
    assert!(stage.upstream.requests().iter().all(|heard| heard.line.starts_with("GET /")));
}

#[tokio::test]
async fn chunk_sizes_that_are_no_plain_number_end_the_request_on_both_sides() {
    let stage = Stage::new().await;
    let zeros = format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(1000));
    let cases = [
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5g\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "\"5\"\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a=b\r\nhello\r\n0\r\n\r\n",
        &zeros,
    ];
    let cases: Vec<_> = cases.iter().map(|&body| (body, chunked(body))).collect();
    stage.refuses(&[400], Reaches::Part, &cases).await;
}

#[tokio::test]
async fn chunks_whose_line_ends_are_missing_or_bare_end_the_request_on_both_sides() {
    let stage = Stage::new().await;
    let cases = [
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\r\n",
        "5\r\nhello\r\n0\r\n\n",
    ];
    let cases: Vec<_> = cases.iter().map(|&body| (body, chunked(body))).collect();
    stage.refuses(&[400], Reaches::Part, &cases).await;
}

#[tokio::test]
async fn chunk_extensions_are_bounded_and_never_forwarded() {
    let stage = Stage::new().await;
    let large = |size: usize| "a".repeat(size);
    let cases = [
        ("64 KiB", chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", large(64 << 10)))),
        ("400 of 1 KiB", chunked(&(format!("1;{}\r\nh\r\n", large(1 << 10)).repeat(400) + "0\r\n\r\n"))),
        ("64 KiB behind the last", chunked(&format!("5\r\nhello\r\n0;{}\r\n\r\n", large(64 << 10)))),
        ("NUL", chunked("5;a\x00b\r\nhello\r\n0\r\n\r\n")),
    ];
    stage.refuses(&[400], Reaches::Part, &cases).await;
    let small = request(
        "POST /",
        "Transfer-Encoding: chunked\r\nConnection: close",
        "5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n",
    );
    assert_eq!(stage.answers(small).await.unwrap()[0].status, 200);
    heard(&stage.upstream, 2).await;
    assert_eq!(stage.upstream.last().body, b"hello");
    assert!(!stage.upstream.all().contains(";a="));
}

#[tokio::test]
async fn a_get_with_a_body_is_framed_through_and_its_body_is_never_a_request() {
    let stage = Stage::new().await;
    let length = CANARY.len();
    for (name, bytes) in [
        ("length", request("GET /", &format!("Connection: close\r\nContent-Length: {length}"), CANARY)),
        (
            "chunked",
            request(
                "GET /",
                "Connection: close\r\nTransfer-Encoding: chunked",
                &format!("{length:x}\r\n{CANARY}\r\n0\r\n\r\n"),
            ),
        ),
    ] {
        let replies = stage.answers(bytes).await.unwrap();
        assert_eq!((replies.len(), replies[0].status), (1, 200), "{name}");
        assert_eq!(stage.upstream.last().body, CANARY.as_bytes(), "{name}");
    }
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        frames.headers(1, false, &fields("GET", "/"));
        frames.frame(DATA, END_STREAM, 1, CANARY.as_bytes());
        frames.flush().await;
        assert_eq!(frames.outcome(1).await, Outcome::Status(200), "{way:?}");
        assert_eq!(stage.upstream.last().body, CANARY.as_bytes(), "{way:?}");
    }
    assert_eq!(stage.upstream.requests().len(), 4);
}

#[tokio::test]
async fn split_anywhere_an_attack_is_the_same_attack() {
    let stage = Stage::new().await;
    let attack = framed("Transfer-Encoding: chunked\r\nX: y\r\nContent-Length: 5");
    for at in [1, 20, 45, 70, 90, attack.len() - 6] {
        let mut connection = stage.proxy.connect().await;
        connection.send(&attack[..at]).await;
        // Another client is served between the two parts.
        stage.serves_neighbours().await;
        connection.send_what_can_be([&attack[at..], CANARY.as_bytes()].concat()).await;
        let answer = connection.answer().await;
        assert_eq!(answer.failure(), (400, "bad-request".to_owned()), "{at}");
        assert!(connection.is_closed().await, "{at}");
    }
    assert!(stage.heard_nothing_but_honest(Reaches::Nothing).await.is_ok());
}

#[tokio::test]
async fn behind_another_request_an_ambiguous_length_never_reaches_the_upstream_as_one() {
    let stage = Stage::before(Upstream::answering(OK).await).await;
    for first in [
        request("GET /first", "", ""),
        request("POST /first", "Content-Length: 5", "hello"),
        request("POST /first", "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let attack = request(
            "POST /second",
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "2\r\nab\r\n0\r\n\r\n",
        );
        let replies = stage.answers([&first, &attack, CANARY.as_bytes()].concat()).await.unwrap();
        // The coding wins, or it is refused; either way nothing behind it is read.
        assert_eq!((replies.len(), replies[0].status), (2, 200), "{replies:?}");
        assert!(matches!(replies[1].status, 200 | 400), "{replies:?}");
        assert_eq!(replies[1].field("connection"), Some("close"), "{replies:?}");
    }
    eventually("the upstream heard all", || stage.upstream.requests().len() >= 3).await;
    assert!(!stage.upstream.all().contains("/canary"));
    let second: Vec<_> = stage
        .upstream
        .requests()
        .into_iter()
        .filter(|heard| heard.line.starts_with("POST /second "))
        .collect();
    assert!(second.iter().all(|heard| heard.field("content-length").is_none() && heard.body == b"ab"));
}
