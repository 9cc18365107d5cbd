//! Objects over HTTP/2, on either side; and what is recorded of their requests.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use h2::Reason;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::read_head;
use super::storm::Chronicle;
use super::{
    Feeds, RESET, answered, asks2, echoes, endless, get, get2, is_cut, named, nothing_is_left, plain,
    position, room_of, served_by, split,
};
use crate::support::{
    Backend, Body, Proxy, backend, body, empty, eventually, http2, proxy, raw_backend, reset_reason, soon,
};

#[tokio::test]
async fn an_http_2_upstream_s_stream_is_reset_when_its_object_is_cut_and_its_connection_goes_on() {
    let feeds = Feeds::default();
    let endless = backend("v1").h2c().answering(endless(&feeds));
    let (one, two) = (endless.start().await, backend("v2").h2c().start().await);
    let file = |share| split([&one, &two], share, RESET).top("[server]\nthreads = 1");
    let mut proxy = proxy(&file(0)).await;
    let (moves, stays) = (named("a", 50_000..100_000), named("a", 0..50_000));
    let (mut first, mut second) = (proxy.connect().await, proxy.connect().await);
    for (connection, room) in [(&mut first, &moves), (&mut second, &stays)] {
        connection.send(get(room)).await;
        assert_eq!(connection.head().await.status, 200);
        assert_eq!(connection.bytes(8).await, b"3\r\none\r\n");
    }
    proxy.reload(&file(50)).await.unwrap();
    assert_eq!(served_by(&proxy, &moves).await, "v2");
    assert_eq!(first.rest().await, b"", "no last chunk");
    let (cut, goes_on) = {
        let mut feeds = feeds.lock().unwrap();
        (feeds.remove(&moves).unwrap(), feeds.remove(&stays).unwrap())
    };
    eventually("the upstream knows", || cut.is_closed()).await;
    goes_on.send(Ok(Frame::data(Bytes::from_static(b"two")))).await.unwrap();
    drop(goes_on);
    assert_eq!(second.bytes(13).await, b"3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!(one.connections(), 1);
    nothing_is_left(&proxy).await;
}

/// A server whose answers come without end, as fast as they are taken.
async fn flood() -> Backend {
    raw_backend(async |mut socket| {
        if !read_head(&mut socket).await.is_empty() {
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while socket.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
        }
    })
    .await
}

/// Some clients take CANCEL for an end.
#[tokio::test]
async fn an_http_2_client_is_told_of_an_error_when_its_response_is_cut_whether_it_waits_or_takes_all_the_time()
 {
    let feeds = Feeds::default();
    let endless = backend("v1").answering(endless(&feeds)).start().await;
    let endless2 = backend("v1").h2c().answering(self::endless(&feeds)).start().await;
    for one in [endless, endless2, flood().await] {
        let two = plain("v2").await;
        let mut proxy = proxy(&split([&one, &two], 0, RESET)).await;
        let mut client = http2(proxy.pipe().await).await;
        let mut cut = soon("an answer", client.send_request(get2("lobby"))).await.unwrap().into_body();
        let piece = soon("a piece", cut.frame()).await.unwrap().unwrap();
        assert!(piece.is_data());
        let taken = tokio::spawn(async move { reset_reason(&mut cut).await });
        proxy.reload(&split([&one, &two], 100, RESET)).await.unwrap();
        assert_eq!(soon("the reset", taken).await.unwrap(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(answered(asks2(&mut client, "lobby")).await.body, b"v2", "its connection goes on");
        nothing_is_left(&proxy).await;
    }
}

#[tokio::test]
async fn an_http_2_client_that_takes_nothing_does_not_keep_an_object_from_moving() {
    let (one, two) = (flood().await, plain("v2").await);
    let mut proxy = proxy(&split([&one, &two], 0, RESET)).await;
    let mut client = http2(proxy.pipe().await).await;
    let unread = soon("an answer", client.send_request(get2("lobby"))).await.unwrap();
    proxy.reload(&split([&one, &two], 100, RESET)).await.unwrap();
    assert_eq!(served_by(&proxy, "lobby").await, "v2");
    nothing_is_left(&proxy).await;
    assert!(soon("the reset", reset_reason(&mut unread.into_body())).await.is_some());
}

/// An HTTP/2 server with WebSockets that send back what they receive, and plain answers.
async fn echoing(version: &'static str, chronicle: &Arc<Chronicle>) -> Backend {
    let chronicle = Arc::clone(chronicle);
    let echo = backend(version).h2c().answering(move |mut request| {
        let stay = chronicle.begins(&room_of(&request), version);
        async move {
            if request.method() != Method::CONNECT {
                return Response::new(body(version));
            }
            let on_upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let upgraded = TokioIo::new(on_upgrade.await.unwrap());
                let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() {
                        let _ = socket.send(message).await;
                    }
                }
                drop(stay);
            });
            Response::new(empty())
        }
    });
    echo.start().await
}

/// A WebSocket for an object over HTTP/2 (RFC 8441).
async fn websocket2(proxy: &Proxy, room: &str) -> WebSocketStream<TokioIo<Upgraded>> {
    let mut client = http2(proxy.pipe().await).await;
    let asks = || {
        let request = Request::connect("http://shop.example/").header("sec-websocket-version", "13");
        let mut request: Request<Body> = request.header("x-room", room).body(empty()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        request
    };
    let response = loop {
        client.ready().await.unwrap();
        match soon("an answer", client.send_request(asks())).await {
            Ok(response) => break response,
            // The proxy has not said yet that it allows this: nothing was sent.
            Err(error) if error.is_user() => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(response.status(), 200);
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

#[tokio::test]
async fn a_websocket_over_http_2_belongs_to_its_object_and_is_closed_when_that_is_reset() {
    let chronicle = Arc::<Chronicle>::default();
    let (one, two) = (echoing("v1", &chronicle).await, echoing("v2", &chronicle).await);
    let mut proxy = proxy(&split([&one, &two], 50, RESET)).await;
    let room = named("a", 0..50_000);
    let mut socket = websocket2(&proxy, &room).await;
    echoes(&mut socket).await;
    assert_eq!(chronicle.version_of(&room), Some("v1"));
    proxy.reload(&split([&one, &two], 100, RESET)).await.unwrap();
    is_cut(socket).await;
    assert_eq!(served_by(&proxy, &room).await, "v2");
    assert_eq!(chronicle.violations(), [""; 0]);
    nothing_is_left(&proxy).await;
}

#[tokio::test]
async fn that_an_object_has_decided_is_logged_and_counted() {
    let (one, two) = (plain("v1").await, plain("v2").await);
    let proxy = proxy(&split([&one, &two], 50, "").top("[log]\naccess = \"access.log\"")).await;
    let room = named("a", 0..50_000);
    assert!(position(&room) < 50_000);
    assert_eq!(served_by(&proxy, &room).await, "v1");
    let overridden = format!("X-Room: {room}\r\nCloudflare-Workers-Version-Overrides: shop=\"v2\"");
    assert_eq!(proxy.get_with("/", &[&overridden]).await.body, b"v1");
    let (metrics, lines) = proxy.records().await;
    for series in [
        r#"gradual_requests_total{worker="shop",version="v1",reason="object",status="2xx"} 2"#,
        r#"gradual_overrides_total{worker="shop",result="object"} 1"#,
    ] {
        assert!(metrics.lines().any(|line| line == series), "no {series} in\n{metrics}");
    }
    let mut logged: Vec<_> =
        lines.iter().map(|line| (line["Reason"].clone(), line.get("Override").cloned())).collect();
    logged.sort_by_key(|(_, overridden)| overridden.as_ref().is_some_and(|text| text.is_string()));
    assert!(logged.iter().all(|(reason, _)| *reason == json!("object")), "{logged:?}");
    let overrides: Vec<_> =
        logged.iter().map(|(_, one)| one.as_ref().and_then(|text| text.as_str())).collect();
    assert_eq!(overrides, [None, Some("object")]);
}
