//! Sizes that are honest and pass, and what becomes of odd hosts and lengths over HTTP/2. What is refused is among the attacks.

use http::Request;
use http::header::{HOST, TE};

use crate::support::{backend, collect, empty, file, frames, http2, proxy};

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
async fn of_two_lengths_over_http_2_only_one_that_the_body_has_is_ever_forwarded() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    for (first, second) in [("5", "6"), ("6", "5"), ("5", "5")] {
        let mut client = http2(proxy.pipe().await).await;
        let (feed, stream) = frames();
        let request = Request::post("http://shop.example/");
        let request = request.header("content-length", first).header("content-length", second);
        let sent = client.send_request(request.body(stream).unwrap());
        let _ = feed.send(Ok(http_body::Frame::data("hello".into()))).await;
        drop(feed);
        let _ = sent.await;
    }
    for received in v1.received() {
        assert_eq!(
            (received.header("content-length").as_deref(), &received.body[..]),
            (Some("5"), &b"hello"[..])
        );
    }
}

#[tokio::test]
async fn over_http_2_the_crumbs_of_a_cookie_count_as_the_one_line_that_they_are() {
    let v1 = backend("v1").start().await;
    for (limits, crumbs, lines, status) in [
        ("", 120, 0, 200),
        ("", 120, 100, 431),
        ("", 0, 101, 431),
        ("[limits]\nheader_count = 20", 120, 19, 200),
        ("[limits]\nheader_count = 20", 120, 20, 431),
        ("[limits]\nheader_count = 20", 1, 20, 431),
    ] {
        let proxy = proxy(&file().top(limits).version("v1", &v1, 100)).await;
        let mut client = http2(proxy.pipe().await).await;
        let mut request = Request::get("http://shop.example/").body(empty()).unwrap();
        for number in 0..crumbs {
            request.headers_mut().append("cookie", format!("c{number}=1").parse().unwrap());
        }
        for _ in 0..lines {
            request.headers_mut().append("x-a", "1".parse().unwrap());
        }
        let answer = collect(client.send_request(request).await.unwrap()).await;
        assert_eq!(answer.status, status, "{limits}: {crumbs} crumbs, {lines} lines");
        if status == 200 {
            let cookie: Vec<_> = (0..crumbs).map(|number| format!("c{number}=1")).collect();
            assert_eq!(v1.last().header("cookie"), Some(cookie.join("; ")));
        }
    }
}

#[tokio::test]
async fn over_http_2_a_flood_of_crumbs_is_bounded_by_the_size_of_the_head() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut client = http2(proxy.pipe().await).await;
    // What a field costs beside its name and value is 32 bytes (RFC 9113 section 6.5.2).
    for (crumbs, status) in [((60 << 10) / 41, 200), ((64 << 10) / 41 + 1, 431)] {
        let mut request = Request::get("http://shop.example/").body(empty()).unwrap();
        for _ in 0..crumbs {
            request.headers_mut().append("cookie", "a=b".parse().unwrap());
        }
        let answer = collect(client.send_request(request).await.unwrap()).await;
        assert_eq!(answer.status, status, "{crumbs} crumbs");
    }
    assert_eq!(v1.received().len(), 1);
}
