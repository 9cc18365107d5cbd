//! Connections and flow: reuse, pipelining, and nobody who does not read makes the proxy hold what is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Authority, Connection, Proxy, backend, collect, empty, file, http2, proxy, raw_backend, soon, tls_client,
};

use super::read_head;

#[tokio::test]
async fn requests_of_one_client_reuse_one_upstream_connection() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().top("[server]\nthreads = 1").version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    for _ in 0..50 {
        connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        assert_eq!(connection.answer().await.text(), "v1");
    }
    assert_eq!(v1.connections(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_upstream_closed_costs_nobody_a_request() {
    let v1 = raw_backend(async |mut socket| {
        read_head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let proxy = proxy(&file().top("[server]\nthreads = 1").version("v1", &v1, 100)).await;
    for requests in 1..=50 {
        let post = "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\n\r\nab";
        assert_eq!(proxy.send(post).await.status, 200, "request {requests}");
    }
    assert_eq!(v1.connections(), 50);
}

#[tokio::test]
async fn a_connection_is_not_kept_where_either_side_says_close() {
    let v1 = raw_backend(async |mut socket| {
        while !read_head(&mut socket).await.is_empty() {
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
            socket.write_all(answer).await.unwrap();
        }
    })
    .await;
    let proxy = proxy(&file().top("[server]\nthreads = 1").version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    for _ in 0..3 {
        connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        assert_eq!(connection.answer().await.text(), "ok");
    }
    assert_eq!(v1.connections(), 3);
    connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await;
    assert_eq!(connection.answer().await.text(), "ok");
    assert!(connection.is_closed().await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let v1 = backend("v1")
        .answering(async |request| http::Response::new(crate::support::body(request.uri().to_string())))
        .start()
        .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    let request = |number| format!("GET /{number} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    connection.send((0..20).map(request).collect::<String>()).await;
    for number in 0..20 {
        assert_eq!(connection.answer().await.text(), format!("/{number}"));
    }
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_understood() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    for byte in b"POST /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\n\r\nok" {
        connection.send([*byte]).await;
    }
    assert_eq!(connection.answer().await.text(), "v1");
    assert_eq!(v1.last().body, "ok");
}

/// More than the buffers of all sockets and windows on the way hold, and far less than the test's memory.
const TOO_MUCH: usize = 48 << 20;
/// A writer that has made no progress for so long has been stopped. If the machine is so slow that it only seems so,
/// the test passes although it saw nothing.
const STOPPED: Duration = Duration::from_millis(300);

/// Writes until nobody takes any more; how much was taken.
async fn write_until_stopped(socket: &mut (impl tokio::io::AsyncWrite + Unpin)) -> usize {
    let piece = vec![b'x'; 64 << 10];
    let mut taken = 0;
    while taken < TOO_MUCH {
        match tokio::time::timeout(STOPPED, socket.write(&piece)).await {
            Ok(written) => taken += written.unwrap(),
            Err(_) => break,
        }
    }
    taken
}

#[tokio::test]
async fn an_upstream_that_streams_endlessly_to_a_client_that_does_not_read_is_stopped() {
    for over_http2 in [false, true] {
        let (told, taken) = tokio::sync::mpsc::channel(1);
        let v1 = raw_backend(move |mut socket: TcpStream| {
            let told = told.clone();
            async move {
                read_head(&mut socket).await;
                socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                told.send(write_until_stopped(&mut socket).await).await.unwrap();
            }
        })
        .await;
        let mut taken = taken;
        let proxy = proxy(&file().version("v1", &v1, 100)).await;
        let taken = if over_http2 {
            let mut client = http2(proxy.pipe().await).await;
            let request = Request::get("http://shop.example/").body(empty()).unwrap();
            let _unread = client.send_request(request).await.unwrap();
            soon("the upstream is stopped", taken.recv()).await.unwrap()
        } else {
            let mut connection = proxy.connect().await;
            connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
            soon("the upstream is stopped", taken.recv()).await.unwrap()
        };
        assert!(taken < TOO_MUCH, "{taken} bytes were taken");
    }
}

#[tokio::test]
async fn a_client_that_uploads_endlessly_to_an_upstream_that_does_not_read_is_stopped() {
    let v1 = raw_backend(async |mut socket| {
        read_head(&mut socket).await;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut pipe = proxy.pipe().await;
    let head = format!("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40);
    pipe.write_all(head.as_bytes()).await.unwrap();
    let taken = write_until_stopped(&mut pipe).await;
    assert!(taken < TOO_MUCH, "{taken} bytes were taken");
}

#[tokio::test]
async fn a_slow_reader_gets_everything() {
    const LENGTH: usize = 8 << 20;
    let v1 = backend("v1")
        .answering(async |_| http::Response::new(crate::support::body(vec![b'x'; LENGTH])))
        .start()
        .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut pipe = proxy.pipe().await;
    pipe.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut total, mut piece) = (0, vec![0; 4096]);
    loop {
        match pipe.read(&mut piece).await.unwrap() {
            0 => break,
            read => total += read,
        }
        tokio::task::yield_now().await;
    }
    assert!(total > LENGTH, "{total}");
}

#[tokio::test]
async fn many_clients_at_once_are_all_served_by_few_threads() {
    let v1 = backend("v1").start().await;
    let proxy = Arc::new(proxy(&file().version("v1", &v1, 100)).await);
    let served = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (proxy, served) = (Arc::clone(&proxy), Arc::clone(&served));
        clients.spawn(async move {
            let mut connection = proxy.connect().await;
            for _ in 0..5 {
                connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
                served.fetch_add(usize::from(connection.answer().await.status == 200), Ordering::SeqCst);
            }
        });
    }
    clients.join_all().await;
    assert_eq!(served.load(Ordering::SeqCst), 500);
    // A connection more than there are requests at once, on any thread, would mean that one was not given back.
    assert!(v1.connections() <= 100, "{} connections", v1.connections());
}

#[tokio::test]
async fn clients_are_served_by_tls_and_are_told_apart_from_plain_ones() {
    let v1 = backend("v1").start().await;
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.write(folder.path(), "server", &["shop.example"]);
    let tls = "tls = [{ certificate = \"server.pem\", key = \"server.key\" }]";
    let file = file().listener(tls).version("v1", &v1, 100);
    let proxy = Proxy::start(folder, &file.text()).await;
    let config = authority.client(&["http/1.1"]);
    let stream = tls_client(proxy.pipe().await, config, "shop.example").await.unwrap();
    let mut connection = Connection::new(Box::new(stream));
    connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert_eq!(connection.answer().await.text(), "v1");
    assert_eq!(v1.last().header("x-forwarded-proto").as_deref(), Some("https"));
    let config = authority.client(&["h2"]);
    let stream = tls_client(proxy.pipe().await, config, "shop.example").await.unwrap();
    let mut client = http2(Box::new(stream)).await;
    let request = Request::get("https://shop.example/").body(empty()).unwrap();
    assert_eq!(collect(client.send_request(request).await.unwrap()).await.text(), "v1");
    let plain = proxy.connect().await.bytes_after("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert!(!plain.starts_with(b"HTTP/"), "{plain:?}");
}
