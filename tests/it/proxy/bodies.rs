//! Bodies: framed through, whole or recognisably not, in both protocols.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64;

use crate::support::{
    Backend, backend, body, collect, empty, eventually, file, frames, http2, proxy, raw_backend, record,
    soon, trailers,
};

use super::{answering, read_head};

const POST: &str = "POST / HTTP/1.1\r\nHost: shop.example\r\n";

#[tokio::test]
async fn a_body_of_known_length_is_forwarded_with_its_length() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    for method in ["POST", "GET", "DELETE", "PATCH", "PROPFIND"] {
        let head = format!("{method} / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(proxy.send(head + "hello").await.status, 200);
        let received = v1.last();
        assert_eq!((&received.method[..], &received.body[..]), (method, &b"hello"[..]));
        assert_eq!(received.header("content-length").as_deref(), Some("5"), "{method}");
        assert_eq!(received.header("transfer-encoding"), None);
    }
}

#[tokio::test]
async fn a_chunked_body_is_forwarded_chunked_also_of_a_get() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    for method in ["POST", "GET", "DELETE"] {
        let head = format!("{method} / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(proxy.send(head + "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n").await.status, 200);
        let received = v1.last();
        assert_eq!((&received.method[..], &received.body[..]), (method, &b"hello"[..]));
        assert_eq!(received.header("transfer-encoding").as_deref(), Some("chunked"), "{method}");
        assert_eq!(received.header("content-length"), None);
    }
}

#[tokio::test]
async fn requests_without_body_have_no_framing_that_says_otherwise() {
    let (v1, heads) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    proxy.get("/").await;
    let mut client = http2(proxy.pipe().await).await;
    let request = Request::get("http://shop.example/").body(empty()).unwrap();
    collect(client.send_request(request).await.unwrap()).await;
    for head in heads.lock().unwrap().iter() {
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("transfer-encoding") && !head.contains("content-length"), "{head}");
    }
    proxy.send(format!("{POST}Content-Length: 0\r\n\r\n")).await;
    let head = heads.lock().unwrap().pop().unwrap().to_ascii_lowercase();
    assert!(head.contains("content-length: 0\r\n"), "{head}");
}

#[tokio::test]
async fn a_chunked_response_arrives_chunked_and_one_that_ends_by_closing_arrives_whole() {
    for response in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let (v1, _) = answering(response).await;
        let proxy = proxy(&file().version("v1", &v1, 100)).await;
        let answer = proxy.get("/").await;
        assert_eq!((answer.text(), answer.whole), ("hello", true), "{response}");
        assert_eq!(answer.header("transfer-encoding").as_deref(), Some("chunked"));
        assert_eq!(answer.header("content-length"), None);
        let old = proxy.send("GET / HTTP/1.0\r\n\r\n").await;
        assert_eq!((old.text(), old.header("transfer-encoding")), ("hello", None));
    }
}

#[tokio::test]
async fn responses_that_have_no_body_have_none_and_what_follows_them_is_never_delivered() {
    for (method, response) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 6\r\n\r\nPOISON"),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nPOISON",
        ),
        ("GET", "HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\nPOISON"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nConnection: keep-alive\r\nContent-Length: 6\r\n\r\nPOISON"),
        ("GET", "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\nPOISON"),
    ] {
        let (v1, _) = answering(response).await;
        let proxy = proxy(&file().version("v1", &v1, 100)).await;
        let mut connection = proxy.connect().await;
        for last in [false, true] {
            let close = if last { "Connection: close\r\n" } else { "" };
            let request = format!("{method} / HTTP/1.1\r\nHost: shop.example\r\n{close}\r\n");
            connection.send(request).await;
            let head = connection.head().await;
            assert!(head.status < 400, "{method} {response}: {head:?}");
        }
        assert_eq!(connection.rest().await, b"", "{method} {response}");
    }
}

async fn echoing_trailers() -> Backend {
    backend("v1")
        .answering(async |request| {
            let received = record(request).await.unwrap();
            let (feed, stream) = frames();
            tokio::spawn(async move {
                let text = format!("{:?}", received.trailers);
                let _ = feed.send(Ok(Frame::data(Bytes::from(text)))).await;
                let _ = feed.send(Ok(trailers(&TRAILERS))).await;
            });
            http::Response::builder().header("trailer", "x-sum, grpc-status").body(stream).unwrap()
        })
        .start()
        .await
}

/// Two that may be in trailers, and many that may not.
const TRAILERS: [(&str, &str); 10] = [
    ("x-sum", "1"),
    ("grpc-status", "0"),
    ("content-length", "3"),
    ("transfer-encoding", "chunked"),
    ("host", "evil"),
    ("x-forwarded-for", "1.2.3.4"),
    ("gradual-version-id", "v9"),
    ("cloudflare-workers-version-key", "k"),
    ("set-cookie", "a=b"),
    ("authorization", "x"),
];

const PASSED: &str = r#"[("x-sum", "1"), ("grpc-status", "0")]"#;

#[tokio::test]
async fn trailers_pass_both_ways_over_http_1_1_but_for_fields_that_may_not_be_there() {
    let v1 = echoing_trailers().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let names: Vec<_> = TRAILERS.iter().map(|(name, _)| *name).collect();
    let mut request = format!("{POST}TE: trailers\r\nConnection: TE\r\nTrailer: {}\r\n", names.join(", "));
    request.push_str("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n");
    for (name, value) in TRAILERS {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    let answer = proxy.send(request + "\r\n").await;
    assert_eq!((answer.text(), answer.whole), (PASSED, true));
    assert_eq!(format!("{:?}", answer.trailers), PASSED);
}

#[tokio::test]
async fn trailers_pass_both_ways_between_http_2_and_either_protocol() {
    let h1 = echoing_trailers().await;
    let h2 = backend("v2")
        .h2c()
        .answering(async |request| {
            let received = record(request).await.unwrap();
            let (feed, stream) = frames();
            tokio::spawn(async move {
                let text = format!("{:?}", received.trailers);
                let _ = feed.send(Ok(Frame::data(Bytes::from(text)))).await;
                let _ = feed.send(Ok(trailers(&TRAILERS[..2]))).await;
            });
            http::Response::new(stream)
        })
        .start()
        .await;
    let fields = &TRAILERS[..2];
    for (upstream, declared) in [(&h1, Some("x-sum, grpc-status")), (&h2, None)] {
        let proxy = proxy(&file().version("v1", upstream, 100)).await;
        let mut client = http2(proxy.pipe().await).await;
        let (feed, stream) = frames();
        let mut request = Request::post("http://shop.example/").header("te", "trailers");
        if let Some(names) = declared {
            request = request.header("trailer", names);
        }
        let sent = client.send_request(request.body(stream).unwrap());
        feed.send(Ok(Frame::data(Bytes::from("hello")))).await.unwrap();
        feed.send(Ok(trailers(fields))).await.unwrap();
        drop(feed);
        let answer = collect(sent.await.unwrap()).await;
        assert_eq!(answer.text(), PASSED);
        assert_eq!(format!("{:?}", answer.trailers), PASSED);
    }
}

#[tokio::test]
async fn who_expects_100_continue_gets_it_and_then_the_answer() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    connection.send(format!("{POST}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")).await;
    assert_eq!(connection.head().await.status, 100);
    connection.send("hello").await;
    assert_eq!(connection.answer().await.text(), "v1");
    assert_eq!(v1.last().body, "hello");
    connection.send("GET /next HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert_eq!(connection.answer().await.text(), "v1");
}

#[tokio::test]
async fn interim_responses_do_not_stand_for_the_final_one() {
    let (v1, _) = answering(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    let mut answer = connection.answer().await;
    while answer.status < 200 {
        answer = connection.answer().await;
    }
    assert_eq!((answer.status, answer.text()), (200, "ok"));
}

#[tokio::test]
async fn an_early_answer_to_an_upload_reaches_the_client_and_the_rest_is_never_a_request() {
    let (v1, heads) = answering("HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge").await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    connection.send(format!("{POST}Content-Length: 1000000\r\n\r\npart of it")).await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.text()), (413, "large"));
    connection.send_what_can_be("GET /canary HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert!(connection.is_closed().await);
    assert_eq!(heads.lock().unwrap().len(), 1);
    let mut client = http2(proxy.pipe().await).await;
    let (feed, stream) = frames();
    let request = Request::post("http://shop.example/").body(stream).unwrap();
    let sent = client.send_request(request);
    feed.send(Ok(Frame::data(Bytes::from("part of it")))).await.unwrap();
    let answer = collect(sent.await.unwrap()).await;
    assert_eq!((answer.status, answer.text()), (413, "large"));
}

#[tokio::test]
async fn a_response_cut_short_upstream_is_cut_short_downstream() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\npart",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nnonsense\r\n",
    ] {
        let (v1, _) = answering(response).await;
        let proxy = proxy(&file().version("v1", &v1, 100)).await;
        let mut connection = proxy.connect().await;
        connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        let answer = connection.answer().await;
        assert_eq!((answer.status, answer.whole), (200, false), "{response}: {answer:?}");
        assert!(connection.is_closed().await);
        let mut client = http2(proxy.pipe().await).await;
        let request = Request::get("http://shop.example/").body(empty()).unwrap();
        let answer = collect(client.send_request(request).await.unwrap()).await;
        assert_eq!((answer.status, answer.whole), (200, false), "{response}: {answer:?}");
    }
}

#[tokio::test]
async fn a_request_cut_short_is_cut_short_upstream_and_never_sent_again() {
    for framing in ["Content-Length: 100\r\n\r\npart", "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"] {
        let (told, rest) = oneshot::channel();
        let told = std::sync::Mutex::new(Some(told));
        let v1 = raw_backend(move |mut socket| {
            let told = told.lock().unwrap().take();
            async move {
                let head = read_head(&mut socket).await;
                let mut body = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut body).await;
                told.expect("one connection").send((head, body)).unwrap();
            }
        })
        .await;
        let proxy = proxy(&file().version("v1", &v1, 100)).await;
        let mut connection = proxy.connect().await;
        connection.send(format!("{POST}{framing}")).await;
        eventually("the upstream is connected", || v1.connections() == 1).await;
        drop(connection);
        let (head, body) = soon("the upstream sees the end", rest).await.unwrap();
        assert!(head.starts_with("POST / "), "{head}");
        let body = String::from_utf8(body).unwrap();
        assert!(!body.ends_with("0\r\n\r\n") && body.len() < 100, "{body:?}");
        assert_eq!(v1.connections(), 1);
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request_upstream() {
    for over_http2 in [false, true] {
        let (told, gone) = oneshot::channel();
        let (asked, waiting) = oneshot::channel();
        let script = std::sync::Mutex::new(Some((told, asked)));
        let v1 = raw_backend(move |mut socket| {
            let script = script.lock().unwrap().take();
            async move {
                let (told, asked) = script.expect("one connection");
                read_head(&mut socket).await;
                asked.send(()).unwrap();
                let mut rest = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut rest).await;
                told.send(rest).unwrap();
            }
        })
        .await;
        let proxy = proxy(&file().version("v1", &v1, 100)).await;
        if over_http2 {
            let mut client = http2(proxy.pipe().await).await;
            let request = Request::get("http://shop.example/").body(empty()).unwrap();
            let answer = tokio::spawn(async move { client.send_request(request).await.map(drop) });
            soon("the upstream is asked", waiting).await.unwrap();
            answer.abort();
        } else {
            let mut connection = proxy.connect().await;
            connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
            soon("the upstream is asked", waiting).await.unwrap();
        }
        assert_eq!(soon("the upstream's connection is closed", gone).await.unwrap(), b"");
    }
}

/// 20 MiB that do not repeat.
fn large() -> Bytes {
    let mut random = fastrand::Rng::with_seed(1);
    (0..20 << 20).map(|_| random.u8(..)).collect::<Vec<_>>().into()
}

/// A backend that answers with what it got.
async fn mirror(http2: bool) -> Backend {
    let building = backend("mirror")
        .answering(async |request| http::Response::new(body(record(request).await.unwrap().body)));
    if http2 { building.h2c().start().await } else { building.start().await }
}

#[tokio::test]
async fn large_bodies_pass_unharmed_both_ways_in_every_combination_of_protocols() {
    let large = large();
    let sum = xxh3_64(&large);
    for upstream in [mirror(false).await, mirror(true).await] {
        let proxy = proxy(&file().version("v1", &upstream, 100)).await;
        let mut connection = proxy.connect().await;
        connection.send(format!("{POST}Content-Length: {}\r\n\r\n", large.len())).await;
        connection.send(&large).await;
        let answer = connection.answer().await;
        assert_eq!((answer.whole, xxh3_64(&answer.body)), (true, sum), "HTTP/1.1 {}", upstream.url());
        let mut client = http2(proxy.pipe().await).await;
        let request = Request::post("http://shop.example/").body(body(large.clone())).unwrap();
        let answer = collect(client.send_request(request).await.unwrap()).await;
        assert_eq!((answer.whole, xxh3_64(&answer.body)), (true, sum), "HTTP/2 {}", upstream.url());
    }
}

#[tokio::test]
async fn a_streamed_answer_arrives_piece_by_piece() {
    let (feed, stream) = frames();
    let stream = std::sync::Mutex::new(Some(stream));
    let v1 = backend("v1")
        .answering(move |_| {
            let stream = stream.lock().unwrap().take().expect("one request");
            async { http::Response::new(stream) }
        })
        .start()
        .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert_eq!(connection.head().await.header("transfer-encoding").as_deref(), Some("chunked"));
    for piece in ["one", "two"] {
        feed.send(Ok(Frame::data(Bytes::from(piece)))).await.unwrap();
        assert_eq!(connection.bytes(8).await, format!("3\r\n{piece}\r\n").as_bytes());
    }
    drop(feed);
    assert_eq!(connection.bytes(5).await, b"0\r\n\r\n");
}

#[tokio::test]
async fn an_early_head_reaches_the_client_while_the_upload_goes_on() {
    let v1 = backend("v1")
        .answering(async |request| {
            let (feed, stream) = frames();
            tokio::spawn(async move {
                let received = record(request).await.unwrap();
                let _ = feed.send(Ok(Frame::data(received.body))).await;
            });
            http::Response::new(stream)
        })
        .start()
        .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    connection.send(format!("{POST}Content-Length: 4\r\n\r\nab")).await;
    assert_eq!(connection.head().await.status, 200);
    connection.send("cd").await;
    assert_eq!(connection.bytes(14).await, b"4\r\nabcd\r\n0\r\n\r\n");
}

#[tokio::test]
async fn an_answer_that_has_begun_may_stand_still_for_as_long_as_the_upload_goes_on() {
    let v1 = backend("v1")
        .answering(async |request| {
            let (feed, stream) = frames();
            tokio::spawn(async move {
                let received = record(request).await.unwrap();
                let _ = feed.send(Ok(Frame::data(received.body))).await;
            });
            http::Response::new(stream)
        })
        .start()
        .await;
    let idle = "timeouts = { idle = \"2s\" }";
    let proxy = proxy(&file().worker(idle).version("v1", &v1, 100)).await;
    let mut connection = proxy.connect().await;
    let pieces = 50;
    connection.send(format!("{POST}Content-Length: {pieces}\r\n\r\n")).await;
    assert_eq!(connection.head().await.status, 200);
    for _ in 0..pieces {
        tokio::time::sleep(Duration::from_millis(100)).await;
        connection.send("x").await;
    }
    let all = format!("{pieces:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(pieces));
    assert_eq!(connection.bytes(all.len()).await, all.as_bytes());
}

#[tokio::test]
async fn a_raw_backend_that_answers_slowly_byte_by_byte_is_understood() {
    let v1 = raw_backend(async |mut socket| {
        read_head(&mut socket).await;
        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" {
            socket.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    assert_eq!(proxy.get("/").await.text(), "ok");
}

#[tokio::test]
async fn who_expects_100_continue_and_is_refused_first_may_not_go_on_with_something_else() {
    let proxy = proxy(&file().version_at("v1", &["http://127.0.0.1:9"], 100)).await;
    let mut connection = proxy.connect().await;
    connection.send(format!("{POST}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")).await;
    let mut answer = connection.answer().await;
    if answer.status == 100 {
        connection.send("hello").await;
        answer = connection.answer().await;
    }
    assert_eq!(answer.status, 503);
    connection.send_what_can_be("GET /canary HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert!(connection.is_closed().await);
}

#[tokio::test]
async fn a_repeated_or_padded_length_of_a_response_is_refused_or_delivered_as_one_plain_number() {
    for lines in ["Content-Length: 2\r\nContent-Length: 2", "Content-Length: 002", "Content-Length: 2, 2"] {
        let (v1, _) = answering(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nok").leak()).await;
        let proxy = proxy(&file().version("v1", &v1, 100)).await;
        let answer = proxy.get("/").await;
        match answer.status {
            502 => {}
            200 => assert_eq!(answer.header("content-length").as_deref(), Some("2"), "{lines}"),
            status => panic!("{lines}: {status}"),
        }
    }
}
