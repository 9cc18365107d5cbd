//! Targets, routes and hosts: what is forwarded as it came, and what the proxy answers itself. What is refused is among the
//! attacks.

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

#[tokio::test]
async fn options_for_the_whole_server_are_forwarded_as_such() {
    let (v1, heads) = answering(EMPTY).await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    assert_eq!(proxy.send("OPTIONS * HTTP/1.1\r\nHost: shop.example\r\n\r\n").await.status, 200);
    let head = heads.lock().unwrap().pop().unwrap();
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    let h2 = backend("v2").h2c().start().await;
    let over_http2 = crate::support::proxy(&file().version("v2", &h2, 100)).await;
    let answer = over_http2.send("OPTIONS * HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert!(matches!(answer.status, 200 | 400), "{answer:?}");
}

#[tokio::test]
async fn an_absolute_target_without_path_is_the_root() {
    let (v1, heads) = answering(EMPTY).await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    for (target, forwarded) in [("http://a", "/"), ("http://a?x=1", "/?x=1"), ("https://a:1/b", "/b")] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: b\r\n\r\n");
        assert_eq!(proxy.send(request).await.status, 200, "{target}");
        let head = heads.lock().unwrap().pop().unwrap();
        assert!(head.starts_with(&format!("GET {forwarded} HTTP/1.1\r\n")), "{target}: {head}");
    }
}

#[tokio::test]
async fn bytes_beyond_ascii_pass_in_values_and_are_refused_or_pass_in_targets() {
    let got = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&got);
    let v1 = crate::support::raw_backend(move |mut socket| {
        let seen = std::sync::Arc::clone(&seen);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tokio::io::AsyncReadExt::read_u8(&mut socket).await.unwrap());
            }
            seen.lock().unwrap().push(head);
            tokio::io::AsyncWriteExt::write_all(&mut socket, EMPTY.as_bytes()).await.unwrap();
        }
    })
    .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let answer = proxy.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe9\xff\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    let head = got.lock().unwrap().pop().unwrap();
    assert!(head.windows(7).any(|bytes| bytes == b"x: \xe9\xff\r\n"));
    let answer = proxy.send("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n").await;
    match answer.status {
        400 => {}
        200 => assert!(got.lock().unwrap()[0].starts_with("GET /\u{e4} HTTP/1.1\r\n".as_bytes())),
        status => panic!("{status}"),
    }
}
