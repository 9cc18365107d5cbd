//! WebSockets: HTTP/1.1 upgrades and HTTP/2 extended CONNECT, and every way between them.

use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::server;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

use super::kit::{
    ANY, Answer, Backend, Content, Proxy, Speaks, ask2, backend, file, get1, get2, http1, http2, listen,
    read_head, run, says, whole,
};

/// Sends every message back until the other side has closed.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) {
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            socket.send(message).await.unwrap();
        }
    }
}

type Heads = Arc<Mutex<Vec<(String, HeaderMap)>>>;

/// An HTTP/1.1 upstream that echoes, and the heads that it saw.
async fn echo_http1() -> (Backend, Heads) {
    let heads = Heads::default();
    let seen = Arc::clone(&heads);
    let upstream = listen(move |stream| {
        let seen = Arc::clone(&seen);
        async move {
            #[allow(clippy::result_large_err)]
            let note = |request: &server::Request, mut response: server::Response| {
                let line = format!("{} {}", request.method(), request.uri());
                seen.lock().unwrap().push((line, request.headers().clone()));
                response.headers_mut().insert("x-room", "chat".parse().unwrap());
                Ok(response)
            };
            echo(accept_hdr_async(stream, note).await.unwrap()).await;
        }
    })
    .await;
    (upstream, heads)
}

/// An h2c upstream that echoes on extended CONNECT, and the heads that it saw.
async fn echo_h2c() -> (Backend, Heads) {
    let heads = Heads::default();
    let seen = Arc::clone(&heads);
    let upstream = backend(Speaks::Http2, move |mut request| {
        let protocol = request.extensions().get::<Protocol>().map(|name| name.as_str().to_owned());
        let line = format!("{} {} {protocol:?}", request.method(), request.uri());
        seen.lock().unwrap().push((line, request.headers().clone()));
        let on_upgrade = hyper::upgrade::on(&mut request);
        async move {
            tokio::spawn(async move {
                let upgraded = TokioIo::new(on_upgrade.await.unwrap());
                echo(WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await).await;
            });
            Response::builder().header("x-room", "chat").body(whole("")).unwrap()
        }
    })
    .await;
    (upstream, heads)
}

async fn proxy(scheme: &str, upstream: &Backend) -> Proxy {
    Proxy::start(&file(ANY, "", &upstream.upstream(scheme))).await
}

pub(super) async fn by_http1(proxy: &Proxy) -> (WebSocketStream<TcpStream>, HeaderMap) {
    let request = "ws://example.com/chat?room=1";
    let (socket, response) = client_async(request, proxy.connect().await).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    (socket, response.headers().clone())
}

fn extended_connect(protocol: &'static str) -> Request<Content> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://example.com/chat?room=1")
        .header("sec-websocket-version", "13")
        .body(whole(""))
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    request
}

pub(super) async fn by_http2(proxy: &Proxy) -> (WebSocketStream<TokioIo<Upgraded>>, HeaderMap) {
    let response = connect_by_http2(proxy).await;
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    let upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    (WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await, headers)
}

/// Waits until the proxy has said that it allows extended CONNECT, and sends one.
async fn connect_by_http2(proxy: &Proxy) -> Response<Incoming> {
    let (mut client, _) = http2(proxy.connect().await).await;
    loop {
        client.ready().await.unwrap();
        match client.send_request(extended_connect("websocket")).await {
            Ok(response) => return response,
            // The settings are not here yet: nothing was sent.
            Err(error) if error.is_user() => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Messages of every kind and size come back, in order; then the client closes.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) {
    for text in ["a", "b", "c"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    let large = Message::binary(vec![7; 1 << 20]);
    socket.send(large.clone()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), large);
    socket.send(Message::Ping("p".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("p".into()));
    let frame = CloseFrame { code: CloseCode::Library(4001), reason: "enough".into() };
    socket.close(Some(frame.clone())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Close(Some(frame)));
    assert!(socket.next().await.is_none());
}

#[test]
fn http1_to_http1_messages_and_the_close_pass_both_ways() {
    run(async {
        let (upstream, heads) = echo_http1().await;
        let proxy = proxy("http", &upstream).await;
        let (socket, headers) = by_http1(&proxy).await;
        assert_eq!(headers["x-room"], "chat");
        talk(socket).await;
        let heads = heads.lock().unwrap();
        assert_eq!(heads[0].0, "GET /chat?room=1");
        assert_eq!(heads[0].1["gradual-version-id"], "v1");
        assert_eq!(heads[0].1["host"], "example.com");
    });
}

#[test]
fn http2_to_http1_extended_connect_becomes_get_with_a_fresh_key() {
    run(async {
        let (upstream, heads) = echo_http1().await;
        let proxy = proxy("http", &upstream).await;
        for _ in 0..2 {
            let (socket, headers) = by_http2(&proxy).await;
            assert_eq!(headers["x-room"], "chat");
            for name in ["sec-websocket-accept", "upgrade", "connection"] {
                assert!(!headers.contains_key(name), "{name}");
            }
            talk(socket).await;
        }
        let heads = heads.lock().unwrap();
        assert_eq!(heads[0].0, "GET /chat?room=1");
        assert_eq!(heads[0].1["sec-websocket-version"], "13");
        assert_eq!(heads[0].1["host"], "example.com");
        assert_ne!(heads[0].1["sec-websocket-key"], heads[1].1["sec-websocket-key"]);
    });
}

#[test]
fn http2_to_h2c_extended_connect_stays_one() {
    run(async {
        let (upstream, heads) = echo_h2c().await;
        let proxy = proxy("h2c", &upstream).await;
        let (socket, headers) = by_http2(&proxy).await;
        assert_eq!(headers["x-room"], "chat");
        talk(socket).await;
        let heads = heads.lock().unwrap();
        assert_eq!(heads[0].0, r#"CONNECT http://example.com/chat?room=1 Some("websocket")"#);
        assert!(!heads[0].1.contains_key("sec-websocket-key"));
    });
}

#[test]
fn http1_to_h2c_an_upgrade_becomes_extended_connect_and_its_key_is_answered() {
    run(async {
        let (upstream, heads) = echo_h2c().await;
        let proxy = proxy("h2c", &upstream).await;
        let (socket, headers) = by_http1(&proxy).await;
        assert_eq!(headers["x-room"], "chat");
        talk(socket).await;
        let heads = heads.lock().unwrap();
        assert_eq!(heads[0].0, r#"CONNECT http://example.com/chat?room=1 Some("websocket")"#);
        for name in ["sec-websocket-key", "upgrade", "connection"] {
            assert!(!heads[0].1.contains_key(name), "{name}");
        }
    });
}

#[test]
fn an_upstream_that_closes_first_closes_the_client() {
    run(async {
        let upstream = listen(|stream| async move {
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            socket.send(Message::text("bye")).await.unwrap();
            let _ = socket.close(None).await;
            while socket.next().await.is_some() {}
        })
        .await;
        let proxy = proxy("http", &upstream).await;
        let (mut socket, _) = by_http1(&proxy).await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("bye"));
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Close(None));
        assert!(socket.next().await.is_none());
    });
}

#[test]
fn a_refused_upgrade_passes_as_an_ordinary_answer() {
    run(async {
        let refuse = |_: Request<Incoming>| async {
            Response::builder().status(403).header("x-why", "members only").body(whole("no")).unwrap()
        };
        let upstream = backend(Speaks::Http1, refuse).await;
        let front = proxy("http", &upstream).await;
        let refused = client_async("ws://example.com/", front.connect().await).await;
        let Err(Error::Http(response)) = refused else { panic!("{refused:?}") };
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()["x-why"], "members only");
        let answer = Answer::read(connect_by_http2(&front).await).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::FORBIDDEN, "no"));
        let upstream = backend(Speaks::Http2, refuse).await;
        let front = proxy("h2c", &upstream).await;
        let answer = Answer::read(connect_by_http2(&front).await).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::FORBIDDEN, "no"));
    });
}

/// An upstream that answers any request with these bytes.
async fn switching(answer: &'static str) -> Backend {
    listen(move |mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        super::kit::read_rest(&mut stream).await;
    })
    .await
}

#[test]
fn an_upstream_that_did_not_see_the_fresh_key_is_a_502() {
    run(async {
        for answer in [
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ] {
            let upstream = switching(answer).await;
            let proxy = proxy("http", &upstream).await;
            let answer = Answer::read(connect_by_http2(&proxy).await).await;
            assert_eq!((answer.status.as_u16(), answer.error()), (502, Some("unasked-upgrade")));
        }
    });
}

#[test]
fn a_switch_to_another_protocol_than_asked_for_is_a_502() {
    run(async {
        let upstream =
            switching("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n")
                .await;
        let proxy = proxy("http", &upstream).await;
        let refused = client_async("ws://example.com/", proxy.connect().await).await;
        let Err(Error::Http(response)) = refused else { panic!("{refused:?}") };
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(response.headers()["gradual-error"], "unasked-upgrade");
        let (mut client, _) = http1(proxy.connect().await).await;
        let unasked = super::kit::ask1(&mut client, get1("/")).await;
        assert_eq!((unasked.status.as_u16(), unasked.error()), (502, Some("unasked-upgrade")));
    });
}

#[test]
fn an_h2c_upstream_that_allows_no_extended_connect_is_a_502_and_goes_on_serving() {
    run(async {
        let upstream = listen(|stream| async move {
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(Response::new(whole("hello")))
            });
            let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        })
        .await;
        let proxy = proxy("h2c", &upstream).await;
        let answer = Answer::read(connect_by_http2(&proxy).await).await;
        assert_eq!((answer.status.as_u16(), answer.error()), (502, Some("upgrade-refused")));
        let (mut client, _) = http2(proxy.connect().await).await;
        assert_eq!(ask2(&mut client, get2("/")).await.text, "hello");
    });
}

#[test]
fn every_other_connect_is_a_405_and_no_upstream_is_dialed() {
    run(async {
        let upstream = says(Speaks::Http1, |_| "hello".to_owned()).await;
        let proxy = proxy("http", &upstream).await;
        let bytes = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n";
        let answer = super::kit::exchange(proxy.address(), bytes).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        let (mut client, _) = http2(proxy.connect().await).await;
        let plain = Request::connect("example.com:443").body(whole("")).unwrap();
        assert_eq!(ask2(&mut client, plain).await.status, StatusCode::METHOD_NOT_ALLOWED);
        let answer = ask2(&mut client, extended_connect("connect-udp")).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.error(), Some("connect-not-allowed"));
        assert_eq!(upstream.connections(), 0);
    });
}
