//! Upstreams that answer badly: what is not exactly one answer never looks like one to a client, and never reaches the next.

use super::frames::{Frames, Outcome, request as fields};
use super::language::{HTTP2, Stage, Trial, Upstream, Way, When, refusal, replies, request};
use super::strict::find;
use crate::support::eventually;

/// The whole of what a client over HTTP/1.1 is told.
async fn told(stage: &Stage) -> Vec<u8> {
    stage.exchange(request("GET /", "Connection: close", "")).await.unwrap()
}

/// A GET by a way to HTTP/2.
async fn asked(stage: &Stage, way: Way) -> (Frames, Outcome) {
    let mut frames = stage.http2(way).await;
    frames.get(1, "/");
    frames.flush().await;
    let outcome = frames.outcome(1).await;
    (frames, outcome)
}

#[tokio::test]
async fn what_is_no_response_head_is_a_502() {
    let mut trial = Trial::default();
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", "X: y\r\n".repeat(5000));
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 2\r\n\r\nok", "y".repeat(1 << 20));
    let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok");
    for answer in [
        "garbage\r\n\r\n".to_owned(),
        "HTTP/1.1 000 None\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 99 Low\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 2000 High\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n".to_owned(),
        "\u{0}\u{1}\u{2}\u{3}\r\n\r\n".to_owned(),
        ok("Content-Length: 2\r\nContent-Length: 3"),
        ok("Content-Length: 2, 3"),
        ok("Content-Length: -2"),
        ok("Content-Length: +2"),
        ok("Content-Length: 2x"),
        ok("Content-Length: 18446744073709551618"),
        ok("X : y\r\nContent-Length: 2"),
        ok("X: a\u{0}b\r\nContent-Length: 2"),
        ok("no colon\r\nContent-Length: 2"),
        ok("X: a\r\n b\r\nContent-Length: 2"),
        ok("Transfer-Encoding: gzip"),
        ok("Transfer-Encoding: chunked, chunked"),
        many,
        large,
    ] {
        let shown: String = answer.chars().take(60).collect();
        let stage = Stage::before(Upstream::answering(answer).await).await;
        trial.note(&format!("{shown:?}"), refusal(&[502], &told(&stage).await));
        for way in HTTP2 {
            let (_, outcome) = asked(&stage, way).await;
            trial.same(&format!("{way:?} {shown:?}"), outcome, Outcome::Status(502));
        }
    }
    trial.end();
}

#[tokio::test]
async fn of_a_length_beside_a_transfer_coding_only_the_coding_counts_or_the_answer_is_a_502() {
    for lines in [
        "Content-Length: 99\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        let stage = Stage::before(Upstream::answering(answer).await).await;
        let said = String::from_utf8(told(&stage).await).unwrap();
        let canonical = said.starts_with("HTTP/1.1 200 ")
            && said.contains("transfer-encoding: chunked\r\n")
            && !said.contains("content-length")
            && said.ends_with("2\r\nok\r\n0\r\n\r\n");
        assert!(canonical || said.starts_with("HTTP/1.1 502 "), "{said:?}");
        for way in HTTP2 {
            let (frames, outcome) = asked(&stage, way).await;
            let body = frames.finished(1).await;
            assert!(
                outcome == Outcome::Status(502)
                    || (outcome, body) == (Outcome::Status(200), (b"ok".to_vec(), true))
            );
        }
    }
}

#[tokio::test]
async fn bytes_behind_an_answer_are_never_delivered_and_their_connection_is_not_used_again() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON";
    let mut trial = Trial::default();
    for (name, method, head) in [
        ("length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("204", "GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 47\r\n\r\n"),
        ("304", "GET", "HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 47\r\n\r\n"),
        ("HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 47\r\n\r\n"),
    ] {
        let stage = Stage::before(Upstream::answering(format!("{head}{poison}")).await).await;
        // One client that keeps its connection, and others after it.
        let mut connection = stage.proxy.connect().await;
        for last in [false, false, true] {
            let fields = if last { "Connection: close" } else { "X: y" };
            connection.send_what_can_be(request(&format!("{method} /"), fields, "")).await;
        }
        let mut said = connection.rest().await;
        said.extend(stage.exchange(request(&format!("{method} /"), "Connection: close", "")).await.unwrap());
        let text = String::from_utf8_lossy(&said).into_owned();
        trial.same(&format!("{name}: {text:?}"), text.contains("POISON"), false);
        trial.same(name, text.matches("HTTP/1.1 ").count(), 4);
        // Each request had a connection of its own.
        let requests = stage
            .upstream
            .wires()
            .iter()
            .map(|wire| String::from_utf8_lossy(wire).matches(" / ").count())
            .max();
        trial.same(&format!("{name}: requests on a connection"), requests, Some(1));
        for way in HTTP2 {
            let mut frames = stage.http2(way).await;
            frames.headers(1, true, &fields(method, "/"));
            frames.flush().await;
            let (body, whole) = frames.finished(1).await;
            trial.same(&format!("{way:?} {name}"), (find(&body, b"POISON"), whole), (None, true));
            trial.same(&format!("{way:?} {name}"), body.is_empty(), name != "length" && name != "chunked");
        }
    }
    trial.end();
}

#[tokio::test]
async fn behind_interim_answers_the_final_one_is_still_delivered() {
    let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(2000);
    for (name, interim) in [
        ("2000 x 102", many),
        ("103", "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n".to_owned()),
        ("100 unasked", "HTTP/1.1 100 Continue\r\n\r\n".to_owned()),
    ] {
        let answer = format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let stage = Stage::before(Upstream::answering(answer).await).await;
        let said = replies(&told(&stage).await).unwrap();
        assert_eq!((said.len(), said[0].status, &said[0].body[..]), (1, 200, &b"ok"[..]), "{name}");
        for way in HTTP2 {
            let (frames, outcome) = asked(&stage, way).await;
            assert_eq!(
                (outcome, frames.finished(1).await),
                (Outcome::Status(200), (b"ok".to_vec(), true)),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn a_response_that_is_cut_short_is_never_finished_as_if_it_were_whole() {
    let mut trial = Trial::default();
    for (name, answer) in [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"),
        ("chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n5\r\nag"),
        ("last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"),
        ("last line", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n"),
        ("bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nxx\r\n"),
    ] {
        let stage = Stage::before(Upstream::start(answer, When::HeadThenClose).await).await;
        let mut connection = stage.proxy.connect().await;
        connection.send(request("GET /", "", "")).await;
        let cut = connection.answer().await;
        trial.same(name, (cut.status, cut.whole), (200, false));
        let text = String::from_utf8_lossy(&cut.body).into_owned();
        trial.same(&format!("{name}: {text:?}"), text.starts_with("short"), true);
        for way in HTTP2 {
            let (frames, _) = asked(&stage, way).await;
            trial.same(&format!("{way:?} {name}"), frames.finished(1).await.1, false);
            let reset = || frames.came().iter().any(|frame| frame.kind == super::frames::RST_STREAM);
            eventually(&format!("{way:?} {name}: the stream is reset"), reset).await;
        }
        // It was asked for once by each: what had begun is not asked for again.
        trial.same(name, stage.upstream.requests().len(), 3);
    }
    trial.end();
}
