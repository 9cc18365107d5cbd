//! How slowly clients may send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::wire::{HEADERS, Wire, block, frame, get};
use super::{is_met, limited, with_limits};
use crate::support::{
    Authority, Connection, Proxy, backend, body, collect, frames, http2, raw_backend, soon,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";

#[tokio::test]
async fn silent_clients_and_halves_of_a_preface_are_closed_at_the_detection_timeout() {
    let v1 = backend("v1").start().await;
    let proxy = limited("detection_timeout = \"100ms\"", &v1).await;
    for (count, begun) in ["", "P", "PRI * HTTP/2.0\r\n"].into_iter().enumerate() {
        let mut connection = proxy.connect().await;
        connection.send(begun).await;
        assert!(connection.is_closed().await, "{begun:?}");
        is_met(&proxy, "detection_timeout", count as u64 + 1).await;
    }
    assert_eq!(proxy.get("/").await.status, 200);
}

#[tokio::test]
async fn tls_handshakes_and_proxy_headers_that_do_not_come_are_closed_at_their_timeout() {
    let v1 = backend("v1").start().await;
    for listener in [
        "tls = [{ certificate = \"a.pem\", key = \"a.key\" }]",
        "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\"]",
    ] {
        let folder = tempfile::tempdir().unwrap();
        Authority::new().write(folder.path(), "a", &["shop.example"]);
        let file = with_limits("tls_handshake_timeout = \"100ms\"").listener(listener);
        let proxy = Proxy::start(folder, &file.version("v1", &v1, 100).text()).await;
        assert!(proxy.connect().await.is_closed().await, "{listener}");
        is_met(&proxy, "tls_handshake_timeout", 1).await;
    }
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_408_on_a_new_connection_and_on_a_kept_one() {
    let v1 = backend("v1").start().await;
    let proxy = limited("header_timeout = \"100ms\"", &v1).await;
    let mut fresh = proxy.connect().await;
    let mut kept = proxy.connect().await;
    kept.send(GET).await;
    assert_eq!(kept.answer().await.status, 200);
    for (count, connection) in [&mut fresh, &mut kept].into_iter().enumerate() {
        connection.send("GET / HTTP/1.1\r\nHost: sh").await;
        let answer = connection.answer().await;
        assert_eq!(answer.failure(), (408, "request-timeout".into()));
        assert_eq!(answer.header("connection").as_deref(), Some("close"));
        assert!(connection.is_closed().await);
        is_met(&proxy, "header_timeout", count as u64 + 1).await;
    }
    assert_eq!(v1.received().len(), 1);
}

#[tokio::test]
async fn bytes_that_go_on_coming_do_not_lengthen_the_time_for_a_head() {
    let v1 = backend("v1").start().await;
    let proxy = limited("header_timeout = \"200ms\"", &v1).await;
    let (read, mut write) = tokio::io::split(proxy.pipe().await);
    let trickle = tokio::spawn(async move {
        let head = GET.replace("\r\n\r\n", "\r\nX: ") + &"y".repeat(10_000);
        for byte in head.bytes() {
            if write.write_u8(byte).await.is_err() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    });
    let mut connection = Connection::new(Box::new(tokio::io::join(read, tokio::io::sink())));
    assert_eq!(connection.answer().await.status, 408);
    assert!(trickle.await.unwrap(), "it could send its head to the end");
}

#[tokio::test]
async fn an_http_2_head_that_does_not_end_ends_the_connection() {
    let v1 = backend("v1").start().await;
    let proxy = limited("header_timeout = \"100ms\"", &v1).await;
    let mut wire = Wire::open(&proxy, 65_535).await;
    wire.send(&frame(HEADERS, 0, 1, &block("GET"))).await;
    wire.end().await;
    is_met(&proxy, "header_timeout", 1).await;
    // Nor may its one frame stop halfway.
    let mut wire = Wire::open(&proxy, 65_535).await;
    wire.send(&get(1)[..20]).await;
    wire.end().await;
    is_met(&proxy, "header_timeout", 2).await;
}

#[tokio::test]
async fn a_kept_connection_is_closed_without_a_word_at_the_keep_alive_timeout() {
    let v1 = backend("v1").start().await;
    let proxy = limited("keep_alive_timeout = \"100ms\"", &v1).await;
    let mut connection = proxy.connect().await;
    connection.send(GET).await;
    assert_eq!(connection.answer().await.status, 200);
    assert!(connection.is_closed().await);
    is_met(&proxy, "keep_alive_timeout", 1).await;
    let mut wire = Wire::open(&proxy, 65_535).await;
    wire.end().await;
    is_met(&proxy, "keep_alive_timeout", 2).await;
}

#[tokio::test]
async fn an_upload_that_stands_still_is_408_at_the_body_idle_timeout() {
    let v1 = backend("v1").start().await;
    let proxy = limited("body_idle_timeout = \"100ms\"", &v1).await;
    for (count, framing) in ["Content-Length: 10", "Transfer-Encoding: chunked"].into_iter().enumerate() {
        let head = format!("POST / HTTP/1.1\r\nHost: shop.example\r\n{framing}\r\n\r\n");
        let mut connection = proxy.connect().await;
        connection.send(head).await;
        assert_eq!(connection.answer().await.failure(), (408, "request-timeout".into()));
        assert!(connection.is_closed().await);
        is_met(&proxy, "body_idle_timeout", count as u64 + 1).await;
    }
    assert!(v1.received().is_empty());
}

/// More than the bytes that come here in the time that is given.
const SLOW: &str = "min_rate = 10000\nmin_rate_grace = \"200ms\"";

#[tokio::test]
async fn an_upload_of_known_length_that_is_slower_than_the_minimum_is_408() {
    let v1 = backend("v1").start().await;
    let proxy = limited(SLOW, &v1).await;
    let (read, mut write) = tokio::io::split(proxy.pipe().await);
    let head = "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 100000\r\n\r\n";
    let trickle = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        while write.write_u8(b'x').await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut connection = Connection::new(Box::new(tokio::io::join(read, tokio::io::sink())));
    assert_eq!(connection.answer().await.failure(), (408, "request-timeout".into()));
    soon("the connection is closed", trickle).await.unwrap();
    is_met(&proxy, "min_rate", 1).await;
    let mut client = http2(proxy.pipe().await).await;
    let (feed, stream) = frames();
    let request =
        Request::post("http://shop.example/").header("content-length", "100000").body(stream).unwrap();
    let trickle = tokio::spawn(async move {
        while feed.send(Ok(http_body::Frame::data("x".into()))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(collect(client.send_request(request).await.unwrap()).await.status, 408);
    soon("the stream is ended", trickle).await.unwrap();
    is_met(&proxy, "min_rate", 2).await;
}

#[tokio::test]
async fn an_upload_of_unknown_length_may_be_as_slow_as_it_likes() {
    let v1 = backend("v1").start().await;
    let proxy = limited(SLOW, &v1).await;
    let mut connection = proxy.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..30 {
        connection.send("1\r\nx\r\n").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    connection.send("0\r\n\r\n").await;
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(v1.last().body.len(), 30);
}

#[tokio::test]
async fn an_upload_that_the_upstream_does_not_take_is_not_the_clients_fault() {
    let go_on = Arc::new(Notify::new());
    let told = Arc::clone(&go_on);
    let v1 = backend("v1")
        .answering(move |request: Request<Incoming>| {
            let told = Arc::clone(&told);
            async move {
                told.notified().await;
                let length = request.into_body().collect().await.map_or(0, |all| all.to_bytes().len());
                Response::new(body(length.to_string()))
            }
        })
        .start()
        .await;
    let proxy = limited(SLOW, &v1).await;
    let length = 32 << 20;
    let head = format!("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {length}\r\n\r\n");
    let (read, mut write) = tokio::io::split(proxy.pipe().await);
    let sending = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&vec![b'x'; length]).await.unwrap();
        write
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!sending.is_finished(), "the upstream has taken all: nothing is shown");
    go_on.notify_one();
    let mut connection = Connection::new(Box::new(tokio::io::join(read, tokio::io::sink())));
    assert_eq!(connection.answer().await.text(), length.to_string());
}

#[tokio::test]
async fn a_client_that_leaves_an_upload_that_nobody_takes_leaves_no_connection_to_its_upstream_behind() {
    let connections = Arc::new(AtomicUsize::new(0));
    let v1 = raw_backend(move |mut socket| {
        let is_first = connections.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            socket.read_u8().await.unwrap();
            if is_first {
                std::future::pending::<()>().await;
            }
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let proxy = limited("upstream_connections = 1", &v1).await;
    let mut client = TcpStream::connect(proxy.authority()).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1000000000\r\n\r\n";
    client.write_all(head).await.unwrap();
    let stuck = Duration::from_millis(300);
    while let Ok(written) = tokio::time::timeout(stuck, client.write(&[b'x'; 64 << 10])).await {
        written.unwrap();
    }
    // It is reset: an end would wait behind what was sent.
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    // There may be no other connection before that one has ended.
    soon("another request is served", async { while proxy.get("/").await.status != 200 {} }).await;
}
