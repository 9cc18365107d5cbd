//! Sizes that are honest and pass, and sizes that are not and end the connection.

use http::Request;
use http::header::{HOST, TE};

use crate::support::{Connection, Proxy, backend, collect, empty, file, frames, http2, proxy, raw_backend};

use super::{answering, read_head};

/// The answer to a request that may be refused before it is all sent, and whether the connection is closed after it.
async fn status_and_end(proxy: &Proxy, request: String) -> (u16, bool) {
    let (read, mut write) = tokio::io::split(proxy.pipe().await);
    let sending = tokio::spawn(async move {
        // Refused early, the rest cannot be written.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut write, request.as_bytes()).await;
        write
    });
    let mut connection = Connection::new(Box::new(tokio::io::join(read, tokio::io::sink())));
    let status = connection.answer().await.status;
    let closed = connection.is_closed().await;
    drop(sending.await);
    (status, closed)
}

#[tokio::test]
async fn long_targets_and_large_heads_pass_within_reason() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let target = format!("/{}", "a".repeat(8000));
    assert_eq!(proxy.get(&target).await.status, 200);
    assert_eq!(v1.last().target, target);
    let cookie = format!("Cookie: a={}", "b".repeat(16_000));
    assert_eq!(proxy.get_with("/", &[&cookie]).await.status, 200);
    let lines: Vec<String> = (0..80).map(|number| format!("X-{number}: y")).collect();
    assert_eq!(proxy.get_with("/", &lines.iter().map(String::as_str).collect::<Vec<_>>()).await.status, 200);
    assert_eq!(v1.last().header("x-79").as_deref(), Some("y"));
}

#[tokio::test]
async fn heads_beyond_reason_are_refused_and_close_and_reach_nobody() {
    let (v1, heads) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let get =
        |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n");
    for request in [
        get(&format!("/{}", "a".repeat(70_000)), ""),
        get("/", &format!("X: {}\r\n", "y".repeat(1 << 20))),
        get("/", &"X: y\r\n".repeat(10_000)),
    ] {
        let (status, closed) = status_and_end(&proxy, request).await;
        assert!(matches!(status, 414 | 431) && closed, "{status} {closed}");
    }
    assert!(heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn trailers_and_chunk_extensions_beyond_reason_end_the_request_on_both_sides() {
    for rest in [
        format!("2\r\nok\r\n0\r\nX: {}\r\n\r\n", "y".repeat(1 << 20)),
        format!("2\r\nok\r\n0\r\n{}\r\n", "X: y\r\n".repeat(20_000)),
        format!("2;{}\r\nok\r\n0\r\n\r\n", "a".repeat(64 << 10)),
        format!("{}0\r\n\r\n", format!("2;{}\r\nok\r\n", "a".repeat(1 << 10)).repeat(400)),
    ] {
        let v1 = backend("v1").start().await;
        let proxy = proxy(&file().version("v1", &v1, 100)).await;
        let head = "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        let shown = rest[..20].to_owned();
        let (status, closed) = status_and_end(&proxy, format!("{head}{rest}")).await;
        assert!(matches!(status, 400 | 431) && closed, "{shown:?} {status} {closed}");
        assert!(v1.received().is_empty(), "{shown:?}");
    }
}

#[tokio::test]
async fn folded_lines_are_refused_or_unfolded_but_never_forwarded() {
    let (v1, heads) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    proxy.get_with("/", &["X: a\r\n b"]).await;
    assert!(heads.lock().unwrap().iter().all(|head| !head.contains("\r\n b")));
}

#[tokio::test]
async fn a_fragment_is_refused_or_cut_but_never_forwarded() {
    let (v1, heads) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    proxy.get("/a?b#fragment").await;
    assert!(heads.lock().unwrap().iter().all(|head| !head.contains("fragment")));
}

#[tokio::test]
async fn a_body_that_was_answered_early_is_never_read_as_a_request() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().listener("health_path = \"/up\"").version("v1", &v1, 100)).await;
    let canary = "GET /canary HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    let mut connection = proxy.connect().await;
    let head = "GET /up HTTP/1.1\r\nHost: shop.example\r\n";
    connection.send(format!("{head}Content-Length: {}\r\n\r\n{canary}", canary.len())).await;
    assert_eq!(connection.answer().await.text(), "ok\n");
    connection
        .send_what_can_be("GET /next HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
        .await;
    connection.rest().await;
    assert!(v1.received().iter().all(|received| received.target != "/canary"));
}

#[tokio::test]
async fn thousands_of_interim_answers_end_well_or_not_at_all() {
    let v1 = raw_backend(async |mut socket| {
        read_head(&mut socket).await;
        let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(2000);
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, (many + last).as_bytes()).await;
    })
    .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    assert_eq!(proxy.get("/").await.status, 200);
}

#[tokio::test]
async fn huge_or_broken_overrides_and_keys_are_ignored_or_refused_and_nobody_else_notices() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().worker("expose_version = true").version("v1", &v1, 100)).await;
    let deep = format!("Cloudflare-Workers-Version-Overrides: {}", "shop=\"v1\",".repeat(6000));
    let answer = proxy.get_with("/", &[&deep]).await;
    assert!(answer.header("gradual-version").unwrap().ends_with("override=invalid"));
    let key = format!("Cloudflare-Workers-Version-Key: {}", "k".repeat(60_000));
    assert!(proxy.get_with("/", &[&key]).await.header("gradual-version").unwrap().ends_with("reason=key"));
}

#[tokio::test]
async fn over_http_2_the_authority_wins_over_host_and_other_te_is_not_forwarded() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().worker("routes = [\"good.example/*\"]").version("v1", &v1, 100)).await;
    let mut client = http2(proxy.pipe().await).await;
    let request = Request::get("http://good.example/").header(HOST, "evil.example").body(empty()).unwrap();
    let status = collect(client.send_request(request).await.unwrap()).await.status;
    assert_eq!(status, 200);
    assert_eq!(v1.last().header("host").as_deref(), Some("good.example"));
    let request = Request::get("http://good.example/").header(TE, "gzip").body(empty()).unwrap();
    if client.send_request(request).await.is_ok() {
        assert_eq!(v1.last().header("te"), None);
    }
}

#[tokio::test]
async fn an_http_2_body_that_differs_from_its_length_is_never_whole() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut client = http2(proxy.pipe().await).await;
    let (feed, stream) = frames();
    let request = Request::post("http://shop.example/").header("content-length", "10").body(stream).unwrap();
    let sent = client.send_request(request);
    let _ = feed.send(Ok(http_body::Frame::data("short".into()))).await;
    drop(feed);
    if let Ok(response) = sent.await {
        assert_ne!(collect(response).await.status, 200);
    }
    assert!(v1.received().is_empty());
}
