//! What a connection or stream is asked to become: nothing passes before both sides have agreed.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frames::{DATA, END_STREAM, Outcome};
use super::language::{CANARY, HTTP2, Reaches, Stage, Trial, Upstream, Way, When, refusal, request};
use crate::support::eventually;

#[tokio::test]
async fn connect_is_refused_and_dials_nobody() {
    let stage = Stage::new().await;
    let cases = [
        ("authority", b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n\r\n".to_vec()),
        ("another host", b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n".to_vec()),
        ("a length", request("CONNECT shop.example:443", "Content-Length: 5", "hello")),
    ];
    stage.refuses(&[405, 501], Reaches::Nothing, &cases).await;
    // A path is no target of CONNECT at all.
    stage.refuses(&[400, 405], Reaches::Nothing, &[("path", request("CONNECT /", "", ""))]).await;
}

#[tokio::test]
async fn over_http_2_connect_is_for_websockets_only() {
    let stage = Stage::new().await;
    let base = |scheme, path| {
        vec![(":method", "CONNECT"), (":scheme", scheme), (":path", path), (":authority", "shop.example")]
    };
    let mut trial = Trial::default();
    for way in HTTP2 {
        let mut cases = vec![
            ("plain", vec![(":method", "CONNECT"), (":authority", "shop.example:443")]),
            ("with a path", base(way.scheme(), "/")),
        ];
        for protocol in ["connect-udp", "connect-ip", "webtransport", "", "websocket2", "http/1.1"] {
            let mut extended = base(way.scheme(), "/");
            extended.insert(1, (":protocol", protocol));
            cases.push((protocol, extended));
        }
        for (name, all) in cases {
            let mut frames = stage.http2(way).await;
            frames.headers(1, false, &all);
            frames.frame(DATA, END_STREAM, 1, CANARY.as_bytes());
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            let refused = outcome.is_malformed() || matches!(outcome, Outcome::Status(405 | 501));
            trial.same(&format!("{way:?} {name}: {outcome:?}"), refused, true);
        }
    }
    trial.note("the upstream", stage.heard_nothing_but_honest(Reaches::Nothing).await);
    trial.end();
}

// Over HTTP/2 both of its fields are malformed, as all that belongs to a connection is.
#[tokio::test]
async fn an_upgrade_to_h2c_is_stripped_and_answered_as_http_1_1() {
    let stage = Stage::new().await;
    let h2c =
        "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__";
    for (line, fields) in [("GET /", h2c.to_owned()), ("GET /", h2c.replace("h2c", "H2C"))] {
        let replies = stage.answers(request(line, &fields, "")).await.unwrap();
        assert_eq!((replies.len(), replies[0].status), (1, 200));
        let heard = stage.upstream.last();
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(heard.field(name), None, "{heard:?}");
        }
    }
}

#[tokio::test]
async fn before_a_101_no_byte_behind_the_request_passes() {
    for (name, answer, status) in [
        ("refused", super::language::OK, 200),
        ("asked for more", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", 426),
    ] {
        let stage = Stage::before(Upstream::answering(answer).await).await;
        let bytes =
            [request("GET /tunnel", "Connection: Upgrade\r\nUpgrade: foo", ""), CANARY.into()].concat();
        let mut pipe = stage.pipe(Way::Http1).await;
        pipe.write_all(&bytes).await.unwrap();
        let mut said = vec![0; 12];
        pipe.read_exact(&mut said).await.unwrap();
        assert_eq!(said, format!("HTTP/1.1 {status}").as_bytes(), "{name}");
        drop(pipe);
        // On the connection that might have become a tunnel, nothing was sent behind the request for it.
        eventually("the connection of the tunnel ends", || stage.upstream.ended() > 0).await;
        let wires = stage.upstream.wires();
        let tunnel = wires.iter().find(|wire| wire.starts_with(b"GET /tunnel ")).unwrap();
        assert!(!String::from_utf8_lossy(tunnel).contains("/canary"), "{name}");
        // What was behind it is an ordinary request, if anything: the strict reader says so.
        assert!(stage.upstream.requests().iter().all(|heard| heard.body.is_empty()), "{name}");
    }
}

#[tokio::test]
async fn over_http_2_no_byte_passes_before_a_websocket_is_granted() {
    for (name, answer, when, status) in [
        // As an answer to CONNECT it would open the tunnel that was refused.
        ("refused", super::language::OK, When::Whole, 502),
        ("asked for more", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", When::Whole, 426),
        ("no answer", "", When::Never, 504),
    ] {
        let brief = "timeouts = { response = \"300ms\" }";
        let stage = Stage::with(Upstream::start(answer, when).await, |file| file.worker(brief)).await;
        for way in HTTP2 {
            let before = stage.upstream.ended();
            let mut frames = stage.http2(way).await;
            let fields = [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", way.scheme()),
                (":path", "/tunnel"),
                (":authority", "shop.example"),
                ("sec-websocket-version", "13"),
            ];
            frames.headers(1, false, &fields);
            frames.frame(DATA, 0, 1, CANARY.as_bytes());
            frames.flush().await;
            assert_eq!(frames.outcome(1).await, Outcome::Status(status), "{way:?} {name}");
            drop(frames);
            eventually("the connection of the tunnel ends", || stage.upstream.ended() > before).await;
        }
        let heard = stage.upstream.requests();
        assert!(heard.iter().all(|heard| heard.line == "GET /tunnel HTTP/1.1"), "{name}: {heard:?}");
        assert!(!heard.is_empty() && !stage.upstream.all().contains("/canary"), "{name}");
    }
}

#[tokio::test]
async fn while_the_upstream_has_not_answered_an_upgrade_nothing_passes() {
    let brief = "timeouts = { response = \"300ms\" }";
    let stage = Stage::with(Upstream::start("", When::Never).await, |file| file.worker(brief)).await;
    let mut pipe = stage.pipe(Way::Http1).await;
    let bytes = [request("GET /tunnel", "Connection: Upgrade\r\nUpgrade: foo", ""), CANARY.into()].concat();
    pipe.write_all(&bytes).await.unwrap();
    // It never answers: whatever was going to be passed on has been by the time it is hung up on.
    eventually("the upstream is hung up on", || stage.upstream.ended() >= 1).await;
    let tunnel = String::from_utf8(stage.upstream.wires()[0].clone()).unwrap();
    assert!(tunnel.starts_with("GET /tunnel ") && !tunnel.contains("/canary"), "{tunnel}");
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_502_by_every_way() {
    for granted in ["foo", "websocket", "h2c", ""] {
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {granted}\r\n\r\nPOISON"
        );
        let stage = Stage::before(Upstream::answering(answer).await).await;
        let said = stage.exchange(request("GET /", "Connection: close", "")).await.unwrap();
        assert!(refusal(&[502], &said).is_ok(), "{granted}: {:?}", String::from_utf8_lossy(&said));
        assert!(!String::from_utf8_lossy(&said).contains("POISON"));
        for way in HTTP2 {
            let mut frames = stage.http2(way).await;
            frames.get(1, "/");
            frames.flush().await;
            assert_eq!(frames.outcome(1).await, Outcome::Status(502), "{way:?} {granted}");
            assert!(!String::from_utf8_lossy(&frames.finished(1).await.0).contains("POISON"));
        }
    }
}

// A client of HTTP/2 can ask for a WebSocket only, and its tests have the same case.
#[tokio::test]
async fn a_switch_to_another_protocol_than_was_asked_for_is_a_502() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: bar\r\n\r\nPOISON";
    let stage = Stage::before(Upstream::answering(answer).await).await;
    let bytes = request("GET /", "Connection: Upgrade, close\r\nUpgrade: foo", "");
    let said = tokio::time::timeout(Duration::from_secs(20), stage.exchange(bytes)).await.unwrap().unwrap();
    assert!(refusal(&[502], &said).is_ok(), "{:?}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_an_ordinary_request() {
    let stage = Stage::new().await;
    let fields = format!("Connection: Upgrade, close\r\nUpgrade: foo\r\nContent-Length: {}", CANARY.len());
    let replies = stage.answers(request("POST /", &fields, CANARY)).await.unwrap();
    assert_eq!((replies.len(), replies[0].status), (1, 200));
    let heard = stage.upstream.last();
    assert_eq!((heard.field("upgrade"), &heard.body[..]), (None, CANARY.as_bytes()));
}
