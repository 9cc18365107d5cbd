//! A client that leaves cancels its request upstream.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::support::{Body, empty, frames, soon};

use crate::proxy::kit::{Backend, listen, run};

use super::{ALL, Certificates, Client, Protocol, accepted, before, connect};

/// What an upstream sees of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Here,
    Gone,
}

/// When the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// It waits for the answer.
    Waiting,
    /// It has a part of the answer, and nothing moves.
    Answered,
    /// It has sent a part of its body.
    Uploading,
}

/// How the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Its connection ends.
    Closed,
    /// Its connection is reset.
    Reset,
    /// HTTP/2: only the stream is reset.
    Stream,
}

/// An upstream that says when a request comes and goes; after the head of an answer, if it is to give one, it is silent.
async fn upstream(
    acceptor: Option<TlsAcceptor>,
    to: Protocol,
    when: When,
) -> (Backend, mpsc::UnboundedReceiver<Seen>) {
    let (seen, events) = mpsc::unbounded_channel();
    let backend = listen(move |stream| {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        async move {
            let Some(mut stream) = accepted(stream, acceptor.as_ref()).await else { return };
            if to.http2 {
                let service = hyper::service::service_fn(move |request| silent2(request, when, seen.clone()));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
                return;
            }
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            if when == When::Uploading {
                let mut part = [0; 4];
                stream.read_exact(&mut part).await.unwrap();
            }
            if when == When::Answered {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await.unwrap();
                stream.flush().await.unwrap();
            }
            seen.send(Seen::Here).unwrap();
            // An end or an error, whichever it is.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            seen.send(Seen::Gone).unwrap();
        }
    });
    (backend.await, events)
}

/// Says that a request is gone when it is dropped.
struct Told(mpsc::UnboundedSender<Seen>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(Seen::Gone);
    }
}

async fn silent2(
    mut request: Request<Incoming>,
    when: When,
    seen: mpsc::UnboundedSender<Seen>,
) -> Result<Response<Body>, Infallible> {
    if when == When::Uploading {
        request.body_mut().frame().await.unwrap().unwrap();
    }
    let told = Told(seen);
    told.0.send(Seen::Here).unwrap();
    if when != When::Answered {
        std::future::pending::<()>().await;
    }
    let (feed, body) = frames();
    tokio::spawn(async move {
        feed.send(Ok(Frame::data(Bytes::from("part")))).await.unwrap();
        feed.closed().await;
        drop(told);
    });
    Ok(Response::new(body))
}

/// Brings a request to where it is to be left, and leaves it.
async fn leave(client: Client, events: &mut mpsc::UnboundedReceiver<Seen>, when: When, how: How) {
    match client {
        Client::Http1(mut connection) => {
            let body = if when == When::Uploading { "Content-Length: 100\r\n\r\npart" } else { "\r\n" };
            connection.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}")).await;
            assert_eq!(soon("the request", events.recv()).await, Some(Seen::Here));
            if when == When::Answered {
                assert_eq!(connection.head().await.status, 200);
            }
        }
        Client::Http2(mut sender, tasks) => {
            let (feed, body) = frames();
            let body = if when == When::Uploading { body } else { empty() };
            let answer = sender.send_request(Request::post("http://a/").body(body).unwrap());
            if when == When::Uploading {
                feed.send(Ok(Frame::data(Bytes::from("part")))).await.unwrap();
            }
            // Polled by a task of its own, so that it is under way without being waited for.
            let answer = tokio::spawn(answer);
            assert_eq!(soon("the request", events.recv()).await, Some(Seen::Here));
            if when == When::Answered {
                let mut incoming = soon("the answer", answer).await.unwrap().unwrap().into_body();
                soon("a piece", incoming.frame()).await.unwrap().unwrap();
                if how == How::Stream {
                    drop(incoming);
                    assert_eq!(soon("the stream's end", events.recv()).await, Some(Seen::Gone));
                    return;
                }
            } else if how == How::Stream {
                answer.abort();
                assert_eq!(soon("the stream's end", events.recv()).await, Some(Seen::Gone));
                return;
            }
            tasks.end();
        }
    }
}

#[test]
fn a_client_that_leaves_cancels_its_request_over_all_protocols() {
    run(async {
        for to in ALL {
            for when in [When::Waiting, When::Answered, When::Uploading] {
                let certificates = Certificates::new();
                let (upstream, mut events) = upstream(certificates.acceptor(to), to, when).await;
                let proxy = Arc::new(before(certificates, &upstream, to).await);
                for by in ALL {
                    for how in [How::Closed, How::Reset, How::Stream] {
                        if how == How::Stream && !by.http2 {
                            continue;
                        }
                        let case = format!("{by:?} {how:?} while {when:?}: {to:?}");
                        let client = Client::new(connect(&proxy, by, how == How::Reset).await, by).await;
                        leave(client, &mut events, when, how).await;
                        if how != How::Stream {
                            assert_eq!(soon(&case, events.recv()).await, Some(Seen::Gone), "{case}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn a_request_that_was_sent_behind_another_does_not_hide_that_the_client_leaves() {
    run(async {
        for when in [When::Waiting, When::Answered] {
            for by in ALL.into_iter().filter(|by| !by.http2) {
                for is_reset in [false, true] {
                    let to = ALL.into_iter().find(|to| !to.http2).unwrap();
                    let certificates = Certificates::new();
                    let (upstream, mut events) = upstream(certificates.acceptor(to), to, when).await;
                    let proxy = Arc::new(before(certificates, &upstream, to).await);
                    let client = Client::new(connect(&proxy, by, is_reset).await, by).await;
                    let Client::Http1(mut connection) = client else { unreachable!() };
                    connection
                        .send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
                        .await;
                    assert_eq!(soon("the request", events.recv()).await, Some(Seen::Here));
                    drop(connection);
                    let case = format!("{by:?} while {when:?}, reset: {is_reset}");
                    assert_eq!(soon(&case, events.recv()).await, Some(Seen::Gone), "{case}");
                }
            }
        }
    });
}
