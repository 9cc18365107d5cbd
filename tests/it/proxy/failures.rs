//! Upstreams that fail, each with its kind and status; and what must not be taken for a failure.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::support::{
    Answer, Backend, backend, collect, empty, file, frames, http2, proxy, raw_backend, soon,
};

use super::{answering, read_head};

/// The answer by way of a proxy in front of this backend.
async fn through(backend: &Backend, worker: &str) -> Answer {
    let proxy = proxy(&file().worker(worker).version("v1", backend, 100)).await;
    proxy.get("/").await
}

#[tokio::test]
async fn a_refused_connection_is_503_connect_failed() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for url in [format!("http://{free}"), format!("h2c://{free}"), "unix:missing.sock".into()] {
        let proxy = proxy(&file().version_at("v1", &[&url], 100)).await;
        let answer = proxy.get("/").await;
        assert_eq!(answer.failure(), (503, "connect-failed".into()), "{url}");
        assert_eq!(answer.json()["error"], "connect-failed");
        assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
    }
}

#[tokio::test]
async fn an_upstream_that_speaks_nonsense_is_502_upstream_protocol() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(5000));
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    for nonsense in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 000 No\r\n\r\n",
        "HTTP/1.1 99 No\r\n\r\n",
        "HTTP/3.7 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        &*many.leak(),
        &*long.leak(),
    ] {
        let (v1, _) = answering(nonsense).await;
        let answer = through(&v1, "").await;
        assert_eq!(answer.failure(), (502, "upstream-protocol".into()), "{nonsense:.60}");
    }
}

#[tokio::test]
async fn an_upstream_that_closes_before_its_answer_is_there_is_502_upstream_closed() {
    // A GET is sent once more where not a byte of an answer came.
    for (start, sent) in [("", 2), ("H", 1), ("HTTP/1.1 200 OK\r\nX: ", 1)] {
        let (v1, heads) = answering(start).await;
        assert_eq!(through(&v1, "").await.failure(), (502, "upstream-closed".into()), "{start:?}");
        assert_eq!(heads.lock().unwrap().len(), sent, "{start:?}");
    }
}

#[tokio::test]
async fn an_upstream_of_http_2_that_closes_or_speaks_http_1_is_502() {
    let (v1, _) = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let url = v1.url().replace("http://", "h2c://");
    let proxy = proxy(&file().version_at("v1", &[&url], 100)).await;
    assert_eq!(proxy.get("/").await.status, 502);
}

#[tokio::test]
async fn a_request_that_failed_on_a_kept_connection_after_it_was_sent_is_not_sent_again() {
    let posts = std::sync::Arc::new(AtomicUsize::new(0));
    let seen = std::sync::Arc::clone(&posts);
    let v1 = raw_backend(move |mut socket| {
        let seen = std::sync::Arc::clone(&seen);
        async move {
            while !read_head(&mut socket).await.starts_with("POST") {
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            }
            seen.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let proxy = proxy(&file().top("[server]\nthreads = 1").version("v1", &v1, 100)).await;
    assert_eq!(proxy.get("/").await.status, 200);
    let answer = proxy.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer.failure(), (502, "upstream-closed".into()));
    assert_eq!((posts.load(Ordering::SeqCst), v1.connections()), (1, 1));
}

#[tokio::test]
async fn no_answer_in_time_is_504_response_timeout_and_the_upstream_connection_is_closed() {
    let (told, closed) = tokio::sync::oneshot::channel();
    let told = std::sync::Mutex::new(Some(told));
    let v1 = raw_backend(move |mut socket| {
        let told = told.lock().unwrap().take().expect("one connection");
        async move {
            read_head(&mut socket).await;
            read_head(&mut socket).await;
            told.send(()).unwrap();
        }
    })
    .await;
    let answer = through(&v1, "timeouts = { response = \"50ms\" }").await;
    assert_eq!(answer.failure(), (504, "response-timeout".into()));
    soon("the upstream's connection is closed", closed).await.unwrap();
}

#[tokio::test]
async fn a_response_body_that_stands_still_is_cut_short() {
    let v1 = raw_backend(async |mut socket| {
        read_head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await.unwrap();
        read_head(&mut socket).await;
    })
    .await;
    let proxy = proxy(&file().worker("timeouts = { idle = \"50ms\" }").version("v1", &v1, 100)).await;
    let answer = proxy.get("/").await;
    assert_eq!((answer.status, answer.text(), answer.whole), (200, "part", false));
    let mut client = http2(proxy.pipe().await).await;
    let request = Request::get("http://shop.example/").body(empty()).unwrap();
    let answer = collect(client.send_request(request).await.unwrap()).await;
    assert_eq!((answer.status, answer.text(), answer.whole), (200, "part", false));
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_502() {
    let (v1, _) = answering("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\nraw").await;
    assert_eq!(through(&v1, "").await.failure(), (502, "unasked-upgrade".into()));
}

#[tokio::test]
async fn errors_of_the_upstream_itself_pass_as_they_are() {
    for status in [400, 404, 429, 500, 502, 503, 504, 599] {
        let text = format!("HTTP/1.1 {status} X\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nsays");
        let (v1, _) = answering(text.leak()).await;
        let answer = through(&v1, "").await;
        assert_eq!(answer.failure(), (status, String::new()));
        assert_eq!((answer.text(), answer.header("retry-after").as_deref()), ("says", Some("7")));
    }
}

#[tokio::test]
async fn a_failure_does_not_end_the_clients_connection() {
    let v1 = backend("v1").start().await;
    let worker = "[[worker]]\nname = \"down\"\nroutes = [\"down.example/*\"]\n[[worker.version]]\nid = \"w\"\n\
                  upstreams = [\"http://127.0.0.1:9\"]\n[worker.deployment]\n\
                  versions = [{ version_id = \"w\", percentage = 100 }]\n";
    let proxy = proxy(&file().version("v1", &v1, 100).end(worker)).await;
    let mut connection = proxy.connect().await;
    for (host, status) in [("down.example", 503), ("shop.example", 200), ("down.example", 503)] {
        connection.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(connection.answer().await.status, status);
    }
}

#[tokio::test]
async fn over_http_2_a_failure_is_the_answer_of_its_stream_alone() {
    let (v1, _) = answering("nonsense\r\n\r\n").await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut client = http2(proxy.pipe().await).await;
    for _ in 0..2 {
        let request = Request::get("http://shop.example/").body(empty()).unwrap();
        let answer = collect(client.send_request(request).await.unwrap()).await;
        assert_eq!(answer.failure(), (502, "upstream-protocol".into()));
        assert_eq!(answer.header("connection"), None);
    }
}

/// Tells that a backend's answer was given up.
struct GivenUp(Option<tokio::sync::oneshot::Sender<()>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.take().map(|told| told.send(()));
    }
}

/// A backend of HTTP/2 that never answers its first request; tells when it is asked, and when it is given up.
async fn silent() -> (Backend, tokio::sync::oneshot::Receiver<()>, tokio::sync::oneshot::Receiver<()>) {
    let (asked, is_asked) = tokio::sync::oneshot::channel();
    let (told, given_up) = tokio::sync::oneshot::channel();
    let script = std::sync::Mutex::new(Some((asked, GivenUp(Some(told)))));
    let silent = backend("v1").h2c().answering(move |_| {
        let (asked, guard) = script.lock().unwrap().take().expect("one request");
        async move {
            let _guard = guard;
            let _ = asked.send(());
            std::future::pending().await
        }
    });
    (silent.start().await, is_asked, given_up)
}

#[tokio::test]
async fn a_deadline_resets_the_stream_of_an_http_2_upstream() {
    let (v1, _asked, given_up) = silent().await;
    let answer = through(&v1, "timeouts = { response = \"50ms\" }").await;
    assert_eq!(answer.failure(), (504, "response-timeout".into()));
    soon("the stream is reset", given_up).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_resets_the_stream_of_an_http_2_upstream() {
    let (v1, asked, given_up) = silent().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    soon("the upstream is asked", asked).await.unwrap();
    drop(connection);
    soon("the stream is reset", given_up).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_an_http_2_upstream_resets_is_cut_short_downstream() {
    let v1 = backend("v1")
        .h2c()
        .answering(async |_| {
            let (feed, stream) = frames();
            tokio::spawn(async move {
                let _ = feed.send(Ok(http_body::Frame::data("part".into()))).await;
                let _ = feed.send(Err("cut".into())).await;
            });
            http::Response::new(stream)
        })
        .start()
        .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.whole), (200, false));
    assert!(connection.is_closed().await);
    let mut client = http2(proxy.pipe().await).await;
    let request = Request::get("http://shop.example/").body(empty()).unwrap();
    assert!(!collect(client.send_request(request).await.unwrap()).await.whole);
}
