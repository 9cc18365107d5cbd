//! Targets, routes, hosts and framing: what is forwarded as it came, and what is refused.

use crate::support::{Proxy, backend, file, proxy};

use super::answering;

const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn the_raw_path_and_query_are_forwarded_byte_for_byte() {
    let (v1, heads) = answering(EMPTY).await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let targets =
        ["/%2e%2e//a?b=%zz", "/a/../b/./c", "//", "/?", "/a;b=c|d?x=[1]&y={}", "/%0d%0a?%22", "/%C3%A4"];
    for target in targets {
        assert_eq!(proxy.get(target).await.status, 200, "{target}");
        let line = format!("GET {target} HTTP/1.1\r\n");
        let head = heads.lock().unwrap().pop().unwrap();
        assert!(head.starts_with(&line), "{target}: {head}");
    }
}

#[tokio::test]
async fn dot_segments_are_refused_where_routes_name_paths() {
    let v1 = backend("v1").start().await;
    let by_path = file().worker("routes = [\"shop.example/shop/*\", \"*/*\"]").version("v1", &v1, 100);
    let proxy = proxy(&by_path).await;
    for target in ["/shop/../x", "/.", "/a/%2e%2E/b", "/a/..", "/./a", "/a/.%2e"] {
        assert_eq!(proxy.get(target).await.failure(), (400, "bad-request".into()), "{target}");
    }
    assert_eq!(v1.connections(), 0);
    for target in ["/shop/...", "/.a/b..", "/a?x=/../y", "/%2e%2ea"] {
        assert_eq!(proxy.get(target).await.status, 200, "{target}");
    }
}

/// Three workers beside `shop`, which takes the rest.
async fn routed() -> (Proxy, [crate::support::Backend; 4]) {
    let backends = [
        backend("rest").start().await,
        backend("exact").start().await,
        backend("suffix").start().await,
        backend("path").start().await,
    ];
    let worker = |name: &str, route: &str, url: &str| {
        format!(
            "[[worker]]\nname = \"{name}\"\nroutes = [\"{route}\"]\n[[worker.version]]\nid = \"w1\"\n\
             upstreams = [\"{url}\"]\n[worker.deployment]\n\
             versions = [{{ version_id = \"w1\", percentage = 100 }}]\n"
        )
    };
    let file = file()
        .version("v1", &backends[0], 100)
        .end(&worker("exact", "a.example.com/*", backends[1].url()))
        .end(&worker("suffix", "*.example.com/*", backends[2].url()))
        .end(&worker("path", "*.example.com/deep/*", backends[3].url()));
    (proxy(&file).await, backends)
}

#[tokio::test]
async fn an_exact_host_beats_a_suffix_beats_any_host_and_then_the_longest_path_wins() {
    let (proxy, _backends) = routed().await;
    for (host, path, reached) in [
        ("a.example.com", "/deep/x", "exact"),
        ("A.Example.COM:8443", "/", "exact"),
        ("b.example.com", "/x", "suffix"),
        ("b.example.com:1", "/deep/x", "path"),
        ("example.com", "/deep/x", "rest"),
        ("other.test", "/", "rest"),
    ] {
        let answer = proxy.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.text(), reached, "{host}{path}");
    }
}

#[tokio::test]
async fn without_a_worker_the_answer_is_404_with_a_json_body_that_names_the_problem() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().worker("routes = [\"a.example/*\"]").version("v1", &v1, 100)).await;
    let answer = proxy.get("/").await;
    assert_eq!(answer.failure(), (404, "no-worker".into()));
    assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    assert_eq!(answer.json()["error"], "no-worker");
    assert_eq!(answer.json()["message"], "no worker has a route for this host and path");
    assert_eq!(v1.connections(), 0);
}

/// Sends each request, followed by one that would be answered with 200; every one must be answered with 400, the
/// connection closed, and nothing may reach the upstream.
async fn refused(requests: &[&str]) {
    let (v1, heads) = answering(EMPTY).await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    for request in requests {
        let mut connection = proxy.connect().await;
        let canary = "GET /canary HTTP/1.1\r\nHost: shop.example\r\n\r\n";
        connection.send_what_can_be(format!("{request}{canary}")).await;
        let answer = connection.answer().await;
        assert_eq!(answer.status, 400, "{request:?}: {answer:?}");
        assert!(connection.is_closed().await, "{request:?}");
    }
    assert_eq!(*heads.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_repeated_or_malformed_host_is_400_and_closes() {
    let mut requests = vec![
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
        "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
    ];
    for host in ["", "a, b", "a/b", "u@a", "a b", "a:b", "a:99999", "::1", "[::1", "a#", "a?b", "\u{e9}"] {
        requests.push(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    refused(&requests.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn an_absolute_target_wins_over_host_and_is_what_the_upstream_sees() {
    let (v1, heads) = answering(EMPTY).await;
    let proxy = proxy(&file().worker("routes = [\"good.example/*\"]").version("v1", &v1, 100)).await;
    let request = "GET http://good.example/x?y HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_eq!(proxy.send(request).await.status, 200);
    let head = heads.lock().unwrap().pop().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /x?y http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: good.example\r\n") && !head.contains("evil.example"), "{head}");
    let request = "GET http://good.example HTTP/1.1\r\nHost: good.example\r\n\r\n";
    assert_eq!(proxy.send(request).await.status, 200);
    assert!(heads.lock().unwrap().pop().unwrap().starts_with("GET / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn http_1_0_without_host_reaches_the_worker_for_any_host_and_the_upstream_sees_its_own_name() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    connection.send("GET / HTTP/1.0\r\n\r\n").await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "v1"));
    assert!(connection.is_closed().await);
    assert_eq!(v1.last().header("host").as_deref(), Some(v1.url().trim_start_matches("http://")));
    assert_eq!(v1.last().header("x-forwarded-host"), None);
}

#[tokio::test]
async fn ambiguous_framing_is_400_and_closes() {
    let framed = |lines: &str| format!("POST / HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n\r\n0\r\n\r\n");
    let requests = [
        framed("Transfer-Encoding: xchunked"),
        framed("Transfer-Encoding: identity"),
        framed("Transfer-Encoding: chunked, gzip"),
        framed("Transfer-Encoding: chunked, chunked"),
        framed("Transfer-Encoding: gzip, chunked"),
        framed("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        framed("Transfer-Encoding: \"chunked\""),
        framed("Transfer-Encoding: chunked;a"),
        framed("Transfer-Encoding : chunked"),
        framed("Transfer-Encoding: \x0bchunked"),
        framed("Content-Length: 5\r\nContent-Length: 6"),
        framed("Content-Length: 5, 6"),
        framed("Content-Length: +5"),
        framed("Content-Length: -5"),
        framed("Content-Length: 0x5"),
        framed("Content-Length: 18446744073709551621"),
        framed("Content-Length:"),
        framed("X: a\x00b"),
        framed("X: a\rb"),
        framed(": x"),
        framed("no colon"),
        framed("X : a"),
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET t HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
    ];
    refused(&requests.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn chunked_beats_a_length_beside_it_which_is_dropped_and_the_connection_closes() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    for lines in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        let mut connection = proxy.connect().await;
        let head = format!("POST / HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n\r\n");
        let canary = "GET /canary HTTP/1.1\r\nHost: shop.example\r\n\r\n";
        connection.send_what_can_be(format!("{head}2\r\nab\r\n0\r\n\r\n{canary}")).await;
        let answer = connection.answer().await;
        assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));
        assert!(connection.is_closed().await, "{lines}");
        let received = v1.last();
        assert_eq!((&received.target[..], &received.body[..]), ("/", &b"ab"[..]));
        assert_eq!(received.header("transfer-encoding").as_deref(), Some("chunked"));
        assert_eq!(received.header("content-length"), None);
    }
    assert_eq!(v1.received().len(), 2);
}

#[tokio::test]
async fn bad_chunks_are_400_and_close_and_the_upstream_never_sees_a_whole_request() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    for body in [
        "-5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "5g\r\nhello\r\n",
        "\r\nhello",
        "5\r\nhello0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "5\nhello\r\n",
    ] {
        let head = "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut connection = proxy.connect().await;
        connection.send_what_can_be(format!("{head}{body}")).await;
        let answer = connection.answer().await;
        assert_eq!(answer.status, 400, "{body:?}: {answer:?}");
        assert!(connection.is_closed().await, "{body:?}");
    }
    assert!(v1.received().is_empty());
}

#[tokio::test]
async fn chunk_extensions_are_never_forwarded() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let head = "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = proxy.send(format!("{head}5;a=b\r\nhello\r\n0;c\r\n\r\n")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(v1.last().body, "hello");
}

#[tokio::test]
async fn the_health_path_is_answered_by_the_proxy_itself() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().listener("health_path = \"/healthz\"").version("v1", &v1, 100)).await;
    let answer = proxy.get("/healthz?x").await;
    assert_eq!((answer.status, answer.text()), (200, "ok\n"));
    assert_eq!(v1.connections(), 0);
    let post = "POST /healthz HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(proxy.send(post).await.text(), "v1");
    assert_eq!(proxy.get("/healthz/").await.text(), "v1");
}

#[tokio::test]
async fn redirects_to_https_keep_path_and_query_and_drop_the_port() {
    let v1 = backend("v1").start().await;
    let file = file().listener("redirect = \"https\"").version("v1", &v1, 100);
    let proxy = proxy(&file).await;
    for (host, target, location) in [
        ("shop.example:8080", "/a%20b/../?x=%zz", "https://shop.example/a%20b/../?x=%zz"),
        ("[::1]:80", "/", "https://[::1]/"),
    ] {
        let request = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: https\r\n");
        let answer = proxy.send(request + "Content-Length: 0\r\n\r\n").await;
        assert_eq!((answer.status, answer.header("location").as_deref()), (308, Some(location)));
    }
    assert_eq!(v1.connections(), 0);
}

#[tokio::test]
async fn a_trusted_proxy_that_was_asked_by_https_is_not_redirected() {
    let v1 = backend("v1").start().await;
    let trusting = "redirect = \"https\"\ntrusted_proxies = [\"127.0.0.1\"]";
    let proxy = proxy(&file().listener(trusting).version("v1", &v1, 100)).await;
    assert_eq!(proxy.get_with("/", &["X-Forwarded-Proto: https"]).await.text(), "v1");
    assert_eq!(proxy.get_with("/", &["X-Forwarded-Proto: http"]).await.status, 308);
    assert_eq!(proxy.get("/").await.status, 308);
}
