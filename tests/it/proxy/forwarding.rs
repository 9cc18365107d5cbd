//! What an upstream is told, and what belongs to one hop only.

use crate::support::{backend, collect, empty, file, http2, proxy};

use super::answering;

#[tokio::test]
async fn the_metadata_of_the_version_is_set_and_claims_of_the_client_are_removed() {
    let v1 = backend("v1").start().await;
    let file = file().version("v1", &v1, 100);
    let proxy = proxy(&file.version_with("tag = \"the tag\"\ncreated_on = 2026-11-20T12:00:00Z")).await;
    let claims = ["Gradual-Worker: x", "Gradual-Version-Id: x", "gradual-version-tag: x", "GRADUAL-Other: x"];
    proxy.get_with("/", &claims).await;
    let received = v1.last();
    let ours: Vec<_> = received.headers.iter().filter(|(name, _)| name.starts_with("gradual-")).collect();
    assert_eq!(ours.len(), 4, "{ours:?}");
    assert_eq!(received.header("gradual-worker").as_deref(), Some("shop"));
    assert_eq!(received.header("gradual-version-id").as_deref(), Some("v1"));
    assert_eq!(received.header("gradual-version-tag").as_deref(), Some("the tag"));
    assert_eq!(received.header("gradual-version-timestamp").as_deref(), Some("2026-11-20T12:00:00Z"));
}

#[tokio::test]
async fn a_version_without_tag_and_time_has_no_headers_for_them_even_if_the_client_sends_some() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100).version_with("message = \"m\"")).await;
    proxy.get_with("/", &["Gradual-Version-Tag: x", "Gradual-Version-Timestamp: x"]).await;
    let received = v1.last();
    assert_eq!(received.header("gradual-version-tag"), None);
    assert_eq!(received.header("gradual-version-timestamp"), None);
}

const CLAIMS: [&str; 7] = [
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-For: 5.6.7.8",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: claimed.example",
    "X-Forwarded-Port: 443",
    "Forwarded: for=1.2.3.4",
    "X-Real-IP: 1.2.3.4",
];

#[tokio::test]
async fn what_an_untrusted_client_says_about_itself_is_replaced() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    for claims in [&CLAIMS[..], &[]] {
        proxy.get_with("/", claims).await;
        let received = v1.last();
        assert_eq!(received.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert_eq!(received.header("x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(received.header("x-forwarded-host").as_deref(), Some("shop.example"));
        for name in ["x-forwarded-port", "forwarded", "x-real-ip"] {
            assert_eq!(received.header(name), None, "{name}");
        }
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_kept_and_its_address_appended() {
    let v1 = backend("v1").start().await;
    let trusting = file().version("v1", &v1, 100).listener("trusted_proxies = [\"127.0.0.1\"]");
    let proxy = proxy(&trusting).await;
    proxy.get_with("/", &CLAIMS).await;
    let received = v1.last();
    assert_eq!(received.header("x-forwarded-for").as_deref(), Some("1.2.3.4, 5.6.7.8, 127.0.0.1"));
    assert_eq!(received.header("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(received.header("x-forwarded-host").as_deref(), Some("claimed.example"));
    assert_eq!(received.header("x-forwarded-port").as_deref(), Some("443"));
    assert_eq!(received.header("forwarded").as_deref(), Some("for=1.2.3.4"));
    assert_eq!(received.header("x-real-ip").as_deref(), Some("1.2.3.4"));
}

#[tokio::test]
async fn a_trusted_proxy_that_says_nothing_is_the_client() {
    let v1 = backend("v1").start().await;
    let trusting = file().version("v1", &v1, 100).listener("trusted_proxies = [\"127.0.0.0/8\"]");
    let proxy = proxy(&trusting).await;
    proxy.get("/").await;
    let received = v1.last();
    assert_eq!(received.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(received.header("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(received.header("x-forwarded-host").as_deref(), Some("shop.example"));
}

#[tokio::test]
async fn a_peer_on_a_unix_socket_has_no_address_and_is_trusted_only_where_the_file_says_so() {
    let v1 = backend("v1").start().await;
    let on_socket = file().version("v1", &v1, 100).address("unix:front.sock");
    let untrusting = proxy(&on_socket).await;
    untrusting.get_with("/", &CLAIMS).await;
    assert_eq!(v1.last().header("x-forwarded-for"), None);
    assert_eq!(v1.last().header("x-forwarded-proto").as_deref(), Some("http"));
    let trusting = proxy(&on_socket.listener("trusted_proxies = [\"unix\"]")).await;
    trusting.get_with("/", &CLAIMS[..3]).await;
    assert_eq!(v1.last().header("x-forwarded-for").as_deref(), Some("1.2.3.4 | 5.6.7.8"));
    assert_eq!(v1.last().header("x-forwarded-proto").as_deref(), Some("https"));
}

#[tokio::test]
async fn via_is_appended_with_the_protocol_that_the_request_came_by() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    proxy.get_with("/", &["Via: 1.0 fred, 1.1 p.example.net"]).await;
    assert_eq!(v1.last().header("via").as_deref(), Some("1.0 fred, 1.1 p.example.net | 1.1 gradual"));
    proxy.send("GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n").await;
    assert_eq!(v1.last().header("via").as_deref(), Some("1.0 gradual"));
    let mut client = http2(proxy.pipe().await).await;
    let request = http::Request::get("http://shop.example/").body(empty()).unwrap();
    collect(client.send_request(request).await.unwrap()).await;
    assert_eq!(v1.last().header("via").as_deref(), Some("2.0 gradual"));
}

#[tokio::test]
async fn more_than_5_via_entries_of_ours_are_a_loop() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let five = "Via: 1.1 gradual, 2.0 gradual, 1.1 other, 1.0 gradual, 1.1 gradual (x), 1.1  gradual";
    assert_eq!(proxy.get_with("/", &[five]).await.status, 200);
    let answer = proxy.get_with("/", &[five, "Via: 1.1 gradual"]).await;
    assert_eq!(answer.failure(), (508, "loop".into()));
    assert_eq!(v1.received().len(), 1);
}

#[tokio::test]
async fn a_request_that_is_routed_back_to_the_proxy_ends_as_a_loop() {
    let v1 = backend("v1").start().await;
    let mut proxy = proxy(&file().version("v1", &v1, 100)).await;
    let own = format!("http://{}", proxy.authority());
    proxy.reload(&file().version_at("v1", &[&own], 100)).await.unwrap();
    assert_eq!(proxy.get("/").await.failure(), (508, String::new()));
}

#[tokio::test]
async fn hop_by_hop_fields_of_a_request_are_removed_but_not_what_the_proxy_says() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let lines = [
        "Connection: X-Hop, X-Forwarded-For, keep-alive, Gradual-Version-Id",
        "Connection: X-Other, Cloudflare-Workers-Version-Key, Via, Host",
        "X-Hop: 1",
        "X-Other: 1",
        "X-Kept: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: gzip",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "Cloudflare-Workers-Version-Key: k",
    ];
    assert_eq!(proxy.get_with("/", &lines).await.status, 200);
    let received = v1.last();
    for name in ["connection", "x-hop", "x-other", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert_eq!(received.header(name), None, "{name}");
    }
    assert_eq!(received.header("http2-settings"), None);
    for (name, value) in [
        ("x-kept", "1"),
        ("host", "shop.example"),
        ("x-forwarded-for", "127.0.0.1"),
        ("gradual-version-id", "v1"),
        ("cloudflare-workers-version-key", "k"),
        ("via", "1.1 gradual"),
    ] {
        assert_eq!(received.header(name).as_deref(), Some(value), "{name}");
    }
}

#[tokio::test]
async fn te_trailers_is_forwarded_and_nominated_as_its_own_hop() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    proxy.get_with("/", &["TE: gzip;q=0.5, trailers", "Connection: TE"]).await;
    assert_eq!(v1.last().header("te").as_deref(), Some("trailers"));
    assert_eq!(v1.last().header("connection").as_deref(), Some("te"));
}

#[tokio::test]
async fn hop_by_hop_fields_of_a_response_and_claims_of_our_own_fields_are_removed() {
    let (v1, _) = answering(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: x\r\nGradual-Version: \"v9\"\r\nGradual-Error: none\r\nUpgrade: foo\r\n\
         X-Kept: 1\r\nX-Kept: 2\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let answer = proxy.get("/").await;
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    for name in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "gradual-version",
        "gradual-error",
        "upgrade",
    ] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-kept").as_deref(), Some("1 | 2"));
}

#[tokio::test]
async fn the_upstream_sees_the_host_that_the_worker_says() {
    let v1 = backend("v1").start().await;
    let own = v1.url().trim_start_matches("http://");
    for (setting, host) in [
        ("", "shop.example:99"),
        ("upstream_host = \"preserve\"", "shop.example:99"),
        ("upstream_host = \"upstream\"", own),
        ("upstream_host = \"internal.example\"", "internal.example"),
    ] {
        let proxy = proxy(&file().worker(setting).version("v1", &v1, 100)).await;
        proxy.send("GET / HTTP/1.1\r\nHost: shop.example:99\r\n\r\n").await;
        assert_eq!(v1.last().header("host").as_deref(), Some(host), "{setting}");
        assert_eq!(v1.last().header("x-forwarded-host").as_deref(), Some("shop.example:99"));
    }
}

#[tokio::test]
async fn everything_else_passes_in_order_and_byte_for_byte() {
    let (v1, heads) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    proxy
        .get_with("/", &["X-A: 1", "X-A:  2, \"q\" ", "Cookie: a=b; c=\"d\"", "Authorization: Basic eA=="])
        .await;
    let head = heads.lock().unwrap()[0].to_ascii_lowercase();
    assert!(head.contains("x-a: 1\r\nx-a: 2, \"q\"\r\n"), "{head}");
    assert!(head.contains("cookie: a=b; c=\"d\"\r\n") && head.contains("authorization: basic ea==\r\n"));
}
