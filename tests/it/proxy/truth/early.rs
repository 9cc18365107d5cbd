//! Answers that come before the request's body has: they arrive, and what follows is never taken for something else.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::support::{Body, body, collect, empty, frames, soon};

use crate::proxy::kit::{ANY, Backend, Proxy, file, listen, run};

use super::{ALL, Certificates, Client, Protocol, accepted, before, connect};

/// What an HTTP/1.1 upstream does after an early answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It reads the rest and throws it away.
    Drains,
    /// It reads nothing more, and stays.
    Stays,
    /// It closes at once, with something unread: a reset follows the answer.
    Closes,
}

/// An upstream that refuses uploads by their heads; how many requests it was sent that nobody had meant.
async fn upstream(acceptor: Option<TlsAcceptor>, to: Protocol, then: Then) -> (Backend, Arc<AtomicUsize>) {
    let canaries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&canaries);
    let backend = listen(move |stream| {
        let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
        async move {
            let Some(mut stream) = accepted(stream, acceptor.as_ref()).await else { return };
            if to.http2 {
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    count.fetch_add(usize::from(request.uri().path() == "/canary"), Ordering::SeqCst);
                    refusing(request, then)
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
                return;
            }
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            count.fetch_add(usize::from(head.starts_with(b"GET /canary")), Ordering::SeqCst);
            let answer = match head.starts_with(b"GET") {
                true => "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
                false => "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge",
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            match then {
                Then::Drains => drop(stream.read_to_end(&mut Vec::new()).await),
                Then::Stays => std::future::pending().await,
                Then::Closes => {}
            }
        }
    });
    (backend.await, canaries)
}

async fn refusing(request: Request<Incoming>, then: Then) -> Result<Response<Body>, Infallible> {
    if request.method() == http::Method::GET {
        return Ok(Response::new(body("ok")));
    }
    if then == Then::Stays {
        // Held for ever: nothing more of it is read, and it is not given up either.
        tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(request);
        });
    }
    Ok(Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE).body(body("large")).unwrap())
}

/// More than what fits in buffers on the way.
const UPLOAD: usize = 32 << 20;

async fn uploads(client: Client, case: &str) {
    match client {
        Client::Http1(mut connection) => {
            // Only the beginning: a client that waits for the answer before it goes on.
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {UPLOAD}\r\n\r\n");
            connection.send(head + "beginning").await;
            let answer = connection.answer().await;
            assert_eq!((answer.status, answer.text(), answer.whole), (413, "large", true), "{case}");
            connection.send_what_can_be("GET /canary HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(connection.rest().await, b"", "{case}");
        }
        Client::Http2(mut sender, _) => {
            let (feed, stream) = frames();
            let sent = sender.send_request(Request::post("http://a/").body(stream).unwrap());
            let sent = tokio::spawn(sent);
            let uploading = tokio::spawn(async move {
                let piece = Bytes::from(vec![b'x'; 64 << 10]);
                while feed.send(Ok(Frame::data(piece.clone()))).await.is_ok() {}
            });
            let answer = collect(soon(case, sent).await.unwrap().unwrap()).await;
            assert_eq!((answer.status, answer.text(), answer.whole), (413, "large", true), "{case}");
            // The client is told to stop (RST_STREAM with NO_ERROR), and the connection goes on.
            soon("the upload stops", uploading).await.unwrap();
            let request = Request::get("http://a/").body(empty()).unwrap();
            let next = collect(soon(case, sender.send_request(request)).await.unwrap()).await;
            assert_eq!((next.status, next.text()), (200, "ok"), "{case}");
        }
    }
}

async fn refused_over_all_clients(to: Protocol, then: Then) {
    let certificates = Certificates::new();
    let (upstream, canaries) = upstream(certificates.acceptor(to), to, then).await;
    let proxy = before(certificates, &upstream, to).await;
    let all = ALL.map(async |by| {
        let client = Client::new(connect(&proxy, by, false).await, by).await;
        uploads(client, &format!("{by:?}: {to:?} {then:?}")).await;
    });
    join_all(all).await;
    assert_eq!(canaries.load(Ordering::SeqCst), 0, "{to:?} {then:?}");
}

#[test]
fn an_early_answer_to_an_upload_arrives_over_all_protocols() {
    run(async {
        let all = [Then::Drains, Then::Stays, Then::Closes].into_iter();
        join_all(all.flat_map(|then| ALL.map(|to| refused_over_all_clients(to, then)))).await;
    });
}

#[test]
fn a_client_that_sends_its_whole_body_whatever_happens_gets_the_early_answer() {
    run(async {
        for to in ALL {
            let certificates = Certificates::new();
            let (upstream, _) = upstream(certificates.acceptor(to), to, Then::Drains).await;
            let proxy = before(certificates, &upstream, to).await;
            for by in ALL.into_iter().filter(|by| !by.http2) {
                let Client::Http1(mut connection) = Client::new(connect(&proxy, by, false).await, by).await
                else {
                    unreachable!("HTTP/1.1")
                };
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {UPLOAD}\r\n\r\n");
                connection.send_what_can_be(head).await;
                connection.send_what_can_be(vec![b'x'; UPLOAD]).await;
                let answer = connection.answer().await;
                assert_eq!((answer.status, answer.text()), (413, "large"), "{by:?}: {to:?}");
            }
        }
    });
}

/// What comes back to a client that reads nothing before it has sent everything, though the answer is there before that.
async fn answer_after_all_is_sent(proxy: &Proxy, listener: usize, head: &str, length: usize) -> String {
    let mut stream = TcpStream::connect(proxy.address_of(listener)).await.unwrap();
    let (piece, mut answer) = (vec![b'x'; 8 << 10], String::new());
    let exchange = async {
        stream.write_all(&[head.as_bytes(), &piece].concat()).await?;
        stream.readable().await?;
        for _ in 1..length / piece.len() {
            stream.write_all(&piece).await?;
        }
        stream.read_to_string(&mut answer).await
    };
    soon("the answer", exchange).await.unwrap_or_else(|error| panic!("{error}: {head}"));
    answer
}

#[test]
fn a_client_that_sends_its_whole_body_first_gets_a_refusal_for_which_the_head_was_enough() {
    run(async {
        let limits = "[limits]\nrequest_body_bytes = \"2MiB\"\n";
        let listeners = format!("{ANY}\n[[listener]]\n{ANY}\nredirect = \"https\"");
        let version = "upstreams = [\"http://127.0.0.1:9\"]";
        let text = format!("{limits}{}", file(&listeners, "routes = [\"a/*\"]", version));
        let proxy = Proxy::start(&text).await;
        // The last is refused by the codec, after which less is taken.
        let cases = [
            (413, 0, "Host: a", 4 << 20),
            (404, 0, "Host: b", 1 << 20),
            (308, 1, "Host: a", 1 << 20),
            (400, 0, "Host a", 200 << 10),
        ];
        for (status, listener, host, length) in cases {
            let head = format!("POST / HTTP/1.1\r\n{host}\r\nConnection: close\r\n");
            let head = format!("{head}Content-Length: {length}\r\n\r\n");
            for time in 0..20 {
                let answer = answer_after_all_is_sent(&proxy, listener, &head, length).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{time}: {answer}");
            }
        }
    });
}
