//! An upstream that is cut short is a client that is cut short.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::support::{Body, body, collect, empty, frames, soon};

use crate::proxy::kit::{Backend, listen, run};

use super::{ALL, Certificates, Client, Protocol, accepted, before, connect, reset_when_closed};

/// How an upstream ends a response of which `part` has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Its connection ends; with TLS, without a word about it.
    Closed,
    /// Its connection is reset.
    Reset,
    /// HTTP/2: only the stream is reset.
    Stream,
    /// HTTP/2: the stream ends in order, but before its length.
    Short,
}

/// An answer's head and the beginning of its body.
const FRAMINGS: [&str; 4] = [
    "Content-Length: 100\r\n\r\npart",
    "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
    "Transfer-Encoding: chunked\r\n\r\n10\r\npart",
    // Only a reset, or TLS, can tell that it is not over yet.
    "\r\npart",
];

/// Answers every request with such an answer, and cuts it when told so; `/whole` is answered well.
async fn upstream1(
    acceptor: Option<TlsAcceptor>,
    framing: &'static str,
    cut: Cut,
    now: &Arc<Semaphore>,
) -> Backend {
    let now = Arc::clone(now);
    listen(move |stream| {
        let (acceptor, now) = (acceptor.clone(), Arc::clone(&now));
        async move {
            if cut == Cut::Reset {
                reset_when_closed(&stream);
            }
            let Some(mut stream) = accepted(stream, acceptor.as_ref()).await else { return };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            if head.starts_with(b"GET /whole ") {
                let whole = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwhole";
                stream.write_all(whole.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return;
            }
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            now.acquire().await.unwrap().forget();
        }
    })
    .await
}

async fn upstream2(acceptor: Option<TlsAcceptor>, cut: Cut, now: &Arc<Semaphore>) -> Backend {
    let now = Arc::clone(now);
    listen(move |stream: TcpStream| {
        let (acceptor, now) = (acceptor.clone(), Arc::clone(&now));
        async move {
            if cut == Cut::Reset {
                reset_when_closed(&stream);
            }
            let Some(stream) = accepted(stream, acceptor.as_ref()).await else { return };
            let over = Arc::new(Semaphore::new(0));
            let ends = Arc::clone(&over);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let answer = answer2(&request, cut, Arc::clone(&now), Arc::clone(&over));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::select! {
                _ = server.serve_connection(TokioIo::new(stream), service) => {}
                _ = ends.acquire() => {}
            }
        }
    })
    .await
}

fn answer2(
    request: &Request<Incoming>,
    cut: Cut,
    now: Arc<Semaphore>,
    over: Arc<Semaphore>,
) -> Response<Body> {
    if request.uri().path() == "/whole" {
        return Response::new(body("whole"));
    }
    let (feed, stream) = frames();
    tokio::spawn(async move {
        feed.send(Ok(Frame::data(Bytes::from("part")))).await.unwrap();
        now.acquire().await.unwrap().forget();
        match cut {
            Cut::Closed | Cut::Reset => over.add_permits(1),
            Cut::Stream => feed.send(Err("cut".into())).await.unwrap(),
            Cut::Short => {}
        }
        if matches!(cut, Cut::Closed | Cut::Reset) {
            feed.closed().await;
        }
    });
    let mut response = Response::new(stream);
    if cut == Cut::Short {
        response.headers_mut().insert("content-length", "100".parse().unwrap());
    }
    response
}

/// Asks, tells the upstream to cut once everything that it has sent has arrived, and looks at the end.
async fn is_cut(client: &mut Client, now: &Semaphore, case: &str) {
    match client {
        Client::Http1(connection) => {
            connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let head = connection.head().await;
            assert_eq!(head.status, 200, "{case}");
            let chunked = head.header("transfer-encoding").is_some();
            let part: &[u8] = if chunked { b"4\r\npart\r\n" } else { b"part" };
            assert_eq!(connection.bytes(part.len()).await, part, "{case}");
            now.add_permits(1);
            // Closed, and no final chunk before that.
            assert_eq!(connection.rest().await, b"", "{case}");
        }
        Client::Http2(sender, _) => {
            let request = Request::get("http://a/").body(empty()).unwrap();
            let mut incoming = soon("an answer", sender.send_request(request)).await.unwrap().into_body();
            let piece = soon("a piece", incoming.frame()).await.unwrap().unwrap();
            assert_eq!(piece.into_data().unwrap(), "part", "{case}");
            now.add_permits(1);
            assert!(soon("the end", incoming.frame()).await.is_some_and(|end| end.is_err()), "{case}");
            // The stream was reset, and nothing else: the connection goes on.
            let request = Request::get("http://a/whole").body(empty()).unwrap();
            let next = collect(soon("the next answer", sender.send_request(request)).await.unwrap()).await;
            assert_eq!((next.text(), next.whole), ("whole", true), "{case}");
        }
    }
}

async fn over_all_clients(
    certificates: Certificates,
    upstream: Backend,
    to: Protocol,
    now: &Semaphore,
    case: &str,
) {
    let proxy = before(certificates, &upstream, to).await;
    for by in ALL {
        let mut client = Client::new(connect(&proxy, by, false).await, by).await;
        is_cut(&mut client, now, &format!("{by:?}: {case}")).await;
    }
}

#[test]
fn a_response_that_an_http_1_1_upstream_cuts_is_cut_for_every_client() {
    run(async {
        for to in ALL.into_iter().filter(|to| !to.http2) {
            for framing in FRAMINGS {
                for cut in [Cut::Closed, Cut::Reset] {
                    if framing == FRAMINGS[3] && cut == Cut::Closed && !to.tls {
                        continue;
                    }
                    let (certificates, now) = (Certificates::new(), Arc::new(Semaphore::new(0)));
                    let upstream = upstream1(certificates.acceptor(to), framing, cut, &now).await;
                    let case = format!("{to:?} {framing:?} {cut:?}");
                    over_all_clients(certificates, upstream, to, &now, &case).await;
                }
            }
        }
    });
}

#[test]
fn a_response_that_an_http_2_upstream_cuts_is_cut_for_every_client() {
    run(async {
        for to in ALL.into_iter().filter(|to| to.http2) {
            for cut in [Cut::Closed, Cut::Reset, Cut::Stream, Cut::Short] {
                let (certificates, now) = (Certificates::new(), Arc::new(Semaphore::new(0)));
                let upstream = upstream2(certificates.acceptor(to), cut, &now).await;
                over_all_clients(certificates, upstream, to, &now, &format!("{to:?} {cut:?}")).await;
            }
        }
    });
}
