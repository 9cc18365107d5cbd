//! How large heads and bodies of requests may be.

use http::Request;

use super::{is_met, limited, met};
use crate::support::{Answer, Proxy, backend, body, collect, empty, frames, http2};

/// The answer to a request, and whether the connection is closed after it.
async fn refusal(proxy: &Proxy, request: &str) -> (Answer, bool) {
    let mut connection = proxy.connect().await;
    connection.send_what_can_be(request).await;
    let answer = connection.answer().await;
    (answer, connection.is_closed().await)
}

fn get(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n")
}

/// A target of so many bytes.
fn target(length: usize) -> String {
    format!("/{}", "a".repeat(length - 1))
}

#[tokio::test]
async fn a_target_may_have_uri_bytes_and_more_is_414() {
    let v1 = backend("v1").start().await;
    let proxy = limited("uri_bytes = \"8000B\"", &v1).await;
    assert_eq!(proxy.get(&target(8000)).await.status, 200);
    let (answer, closed) = refusal(&proxy, &get(&target(8001), "")).await;
    assert_eq!((answer.failure(), closed), ((414, "uri-too-long".into()), true));
    let mut client = http2(proxy.pipe().await).await;
    for (length, status) in [(8000, 200), (8001, 414)] {
        let request = Request::get(format!("http://shop.example{}", target(length))).body(empty()).unwrap();
        assert_eq!(collect(client.send_request(request).await.unwrap()).await.status, status);
    }
    assert_eq!((met(&proxy, "uri_bytes"), v1.received().len()), (2, 2));
}

#[tokio::test]
async fn a_head_may_have_header_count_lines_and_more_is_431() {
    // Over HTTP/2 it takes any number.
    let v1 = backend("v1").h2c().start().await;
    for most in [20, 150] {
        let proxy = limited(&format!("header_count = {most}"), &v1).await;
        // `Host` is one of them.
        assert_eq!(proxy.send(get("/", &"X: y\r\n".repeat(most - 1))).await.status, 200);
        let (answer, closed) = refusal(&proxy, &get("/", &"X: y\r\n".repeat(most))).await;
        assert_eq!((answer.status, closed), (431, true), "{most}");
        let mut client = http2(proxy.pipe().await).await;
        for (count, status) in [(most, 200), (most + 1, 431)] {
            let mut request = Request::get("http://shop.example/").body(empty()).unwrap();
            for _ in 0..count {
                request.headers_mut().append("x", "y".parse().unwrap());
            }
            assert_eq!(collect(client.send_request(request).await.unwrap()).await.status, status);
        }
        assert_eq!(met(&proxy, "header_count"), 2, "{most}");
    }
}

#[tokio::test]
async fn a_head_may_have_header_bytes_and_more_is_431() {
    let v1 = backend("v1").start().await;
    let proxy = limited("header_bytes = \"4KiB\"", &v1).await;
    let around = get("/", "X: \r\nConnection: close\r\n").len();
    let head =
        |length: usize| get("/", &format!("X: {}\r\nConnection: close\r\n", "y".repeat(length - around)));
    assert_eq!(refusal(&proxy, &head(4096)).await.0.status, 200);
    for length in [4097, 100_000] {
        let (answer, closed) = refusal(&proxy, &head(length)).await;
        assert_eq!((answer.status, closed), (431, true));
    }
    // It is counted when the connection is over, which the client may see first.
    is_met(&proxy, "header_bytes", 2).await;
    let mut client = http2(proxy.pipe().await).await;
    // Again and again on one connection: what the codec answers for itself leaves its other answers as they are.
    for (length, status, kind) in [(3000, 200, ""), (4096, 431, "head-too-large")].repeat(3) {
        let request = Request::get("http://shop.example/").header("x", "y".repeat(length));
        let answered = client.send_request(request.body(empty()).unwrap()).await.unwrap();
        let answer = collect(answered).await;
        assert_eq!(answer.failure(), (status, kind.to_owned()));
        assert_eq!(answer.header("x-backend").is_some(), status == 200);
    }
    is_met(&proxy, "header_bytes", 5).await;
}

#[tokio::test]
async fn a_declared_body_may_have_request_body_bytes_and_more_is_413_at_once() {
    let v1 = backend("v1").start().await;
    let proxy = limited("request_body_bytes = \"1KiB\"", &v1).await;
    let post =
        |length: usize| format!("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {length}\r\n\r\n");
    assert_eq!(proxy.send(post(1024) + &"x".repeat(1024)).await.status, 200);
    // Nothing of the body is sent.
    let (answer, closed) = refusal(&proxy, &post(1025)).await;
    assert_eq!((answer.failure(), closed), ((413, "body-too-large".into()), true));
    let mut client = http2(proxy.pipe().await).await;
    for (length, status) in [(1024, 200), (1025, 413)] {
        let request = Request::post("http://shop.example/").body(body(vec![b'x'; length])).unwrap();
        assert_eq!(collect(client.send_request(request).await.unwrap()).await.status, status);
    }
    assert_eq!((met(&proxy, "request_body_bytes"), v1.received().len()), (2, 2));
}

#[tokio::test]
async fn a_body_of_unknown_length_is_413_as_soon_as_it_is_too_large() {
    let v1 = backend("v1").start().await;
    let proxy = limited("request_body_bytes = \"1KiB\"", &v1).await;
    let head = "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let kib = format!("400\r\n{}\r\n", "x".repeat(1024));
    assert_eq!(proxy.send(format!("{head}{kib}0\r\n\r\n")).await.status, 200);
    let (answer, closed) = refusal(&proxy, &format!("{head}{kib}1\r\nx\r\n")).await;
    assert_eq!((answer.failure(), closed), ((413, "body-too-large".into()), true));
    let mut client = http2(proxy.pipe().await).await;
    let (feed, stream) = frames();
    let sent = client.send_request(Request::post("http://shop.example/").body(stream).unwrap());
    let feeding = tokio::spawn(async move {
        while feed.send(Ok(http_body::Frame::data(vec![b'x'; 1000].into()))).await.is_ok() {}
    });
    assert_eq!(collect(sent.await.unwrap()).await.failure(), (413, "body-too-large".into()));
    feeding.await.unwrap();
    assert_eq!((met(&proxy, "request_body_bytes"), v1.received().len()), (2, 1));
}
