//! What belongs to one hop goes no further, in either direction; and nobody takes away what the proxy itself says.

use super::frames::{Outcome, request as fields};
use super::language::{HTTP2, Stage, Trial, Upstream, request};

/// A request whose connection closes behind it.
async fn heard_of(stage: &Stage, lines: &str) -> super::strict::Heard {
    let replies = stage.answers(request("GET /", lines, "")).await.unwrap();
    assert_eq!((replies.len(), replies[0].status), (1, 200), "{lines}");
    stage.upstream.last()
}

#[tokio::test]
async fn nominated_and_customary_hop_by_hop_fields_of_a_request_go_no_further() {
    let stage = Stage::new().await;
    let heard = heard_of(
        &stage,
        "Connection: X-Hop, close\r\nConnection: x-other\r\nX-Hop: 1\r\nX-Other: 2\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX-Stays: 3",
    )
    .await;
    let mut trial = Trial::default();
    for name in [
        "x-hop",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "http2-settings",
        "connection",
    ] {
        trial.same(name, heard.field(name), None);
    }
    trial.same("x-stays", heard.field("x-stays").as_deref(), Some("3"));
    trial.end();
}

#[tokio::test]
async fn no_client_takes_away_what_the_proxy_says_or_what_framing_and_the_decision_need() {
    let stage = Stage::new().await;
    let ours = "X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Via, Host, Gradual-Version-Id, Gradual-Worker, \
                Cloudflare-Workers-Version-Key, Content-Length, Authorization, Cookie";
    let lines = format!(
        "Connection: close, {ours}\r\nCloudflare-Workers-Version-Key: k\r\nAuthorization: Basic eA==\r\nCookie: a=b\r\n\
         Content-Length: 0"
    );
    let heard = heard_of(&stage, &lines).await;
    let mut trial = Trial::default();
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.example"),
        ("via", "1.1 gradual"),
        ("host", "shop.example"),
        ("gradual-version-id", "v1"),
        ("gradual-worker", "shop"),
        ("cloudflare-workers-version-key", "k"),
        ("authorization", "Basic eA=="),
        ("cookie", "a=b"),
    ] {
        trial.same(name, heard.field(name).as_deref(), Some(value));
    }
    trial.end();
}

// `Trailer` is for all recipients (RFC 9110 section 6.6.2): it goes on, because a codec of HTTP/1.1 sends no trailers but
// those that it announces.
#[tokio::test]
async fn trailer_goes_on_in_both_directions_with_the_trailers_that_it_announces() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                  2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n";
    let stage = Stage::before(Upstream::answering(answer).await).await;
    let lines = "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\nConnection: close, TE";
    let post = request("POST /", lines, "2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n");
    let said = stage.exchange(post).await.unwrap();
    let heard = stage.upstream.last();
    let mut trial = Trial::default();
    trial.same("trailer", heard.field("trailer").as_deref(), Some("X-Sum"));
    trial.same("trailers", &heard.trailers[..], &[("x-sum".to_owned(), "1".to_owned())]);
    let said = String::from_utf8(said).unwrap();
    trial.same(&format!("{said:?}"), said.contains("\r\ntrailer: X-Sum\r\n"), true);
    trial.same(&format!("{said:?}"), said.ends_with("0\r\nx-sum: 2\r\n\r\n"), true);
    trial.end();
}

#[tokio::test]
async fn over_http_1_1_te_may_say_trailers_and_nothing_else() {
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    for (te, expected) in [
        ("trailers", Some("trailers")),
        ("Trailers", Some("trailers")),
        ("gzip, trailers", Some("trailers")),
        ("gzip", None),
        ("", None),
    ] {
        let heard = heard_of(&stage, &format!("TE: {te}\r\nConnection: close, TE")).await;
        trial.same(te, heard.field("te").as_deref(), expected);
        // Who sends it says that it is for the next hop alone (RFC 9110 section 10.1.4).
        trial.same(te, heard.field("connection").as_deref(), expected.map(|_| "te"));
    }
    trial.end();
}

#[tokio::test]
async fn over_http_2_te_may_say_trailers_and_nothing_else() {
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    for way in HTTP2 {
        for (te, passes) in [("trailers", true), ("gzip", false), ("trailers, gzip", false)] {
            let mut frames = stage.http2(way).await;
            let mut all = fields("GET", "/te");
            all.push(("te", te));
            frames.headers(1, true, &all);
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            let case = format!("{way:?} te: {te}");
            if outcome == Outcome::Status(200) {
                let expected = passes.then_some("trailers");
                trial.same(&case, stage.upstream.last().field("te").as_deref(), expected);
            } else {
                trial.same(&case, (passes, outcome.is_malformed()), (false, true));
            }
        }
        let (heard, expected) = (stage.upstream.requests(), "trailers");
        let te: Vec<_> = heard.iter().filter_map(|heard| heard.field("te")).collect();
        trial.same(&format!("{way:?}"), te.iter().all(|te| te == expected) && !te.is_empty(), true);
    }
    trial.end();
}

#[tokio::test]
async fn connection_fields_over_http_2_are_malformed_or_stripped() {
    let stage = Stage::new().await;
    let mut cases = Vec::new();
    for (name, value) in [
        ("connection", "x-hop"),
        ("connection", "x-forwarded-for, gradual-version-id"),
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("http2-settings", "AAMAAABk"),
    ] {
        cases.push((name, value));
    }
    let mut trial = Trial::default();
    for way in HTTP2 {
        for (name, value) in &cases {
            let mut frames = stage.http2(way).await;
            let mut all = fields("GET", "/");
            all.push((name, value));
            frames.headers(1, true, &all);
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            let stripped = outcome == Outcome::Status(200) && stage.upstream.last().field(name).is_none();
            trial.same(&format!("{way:?} {name}: {outcome:?}"), outcome.is_malformed() || stripped, true);
        }
    }
    // Whatever of it was forwarded, what the proxy says itself was said.
    stage.serves_neighbours().await;
    for heard in stage.upstream.requests() {
        trial.same("x-forwarded-for", heard.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        trial.same("gradual-version-id", heard.field("gradual-version-id").as_deref(), Some("v1"));
    }
    trial.end();
}

#[tokio::test]
async fn nominated_and_customary_hop_by_hop_fields_of_a_response_go_no_further() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                  Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTE: trailers\r\nGradual-Error: forged\r\n\
                  Gradual-Version: \"forged\"\r\nX-Stays: 3\r\nContent-Length: 2\r\n\r\nok";
    let stage = Stage::before(Upstream::answering(answer).await).await;
    let reply = stage.answers(request("GET /", "Connection: close", "")).await.unwrap().remove(0);
    let mut trial = Trial::default();
    for name in
        ["x-hop", "keep-alive", "proxy-connection", "upgrade", "te", "gradual-error", "gradual-version"]
    {
        trial.same(name, reply.field(name), None);
    }
    trial.same("connection", reply.field("connection"), Some("close"));
    trial.same("x-stays", reply.field("x-stays"), Some("3"));
    // Over HTTP/2 any of them would make the answer malformed: a client would reset it.
    for way in HTTP2 {
        let mut client = crate::support::http2(stage.pipe(way).await).await;
        let request = http::Request::get(format!("{}://shop.example/", way.scheme()));
        let response = client.send_request(request.body(crate::support::empty()).unwrap()).await;
        let answer = crate::support::collect(response.unwrap()).await;
        trial.same(&format!("{way:?}"), (answer.status, answer.text(), answer.whole), (200, "ok", true));
        for name in ["x-hop", "connection", "keep-alive", "upgrade", "gradual-error"] {
            trial.same(&format!("{way:?} {name}"), answer.header(name), None);
        }
    }
    trial.end();
}
