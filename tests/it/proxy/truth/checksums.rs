//! What arrives is what was sent, whole, at clients that read slowly.

#[path = "../../../faults/content.rs"]
mod content;

use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpSocket;
use tokio_rustls::TlsAcceptor;
use xxhash_rust::xxh3::Xxh3;

use crate::proxy::kit::{Backend, Proxy, listen, run};
use crate::proxy::tls::connector;
use crate::support::Pipe;

use self::content::Content;
use super::{ALL, Certificates, Protocol, accepted, before};

/// Answers `/SEED/LENGTH/sized` and `/SEED/LENGTH/unsized`.
async fn upstream(acceptor: Option<TlsAcceptor>, to: Protocol) -> Backend {
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Some(stream) = accepted(stream, acceptor.as_ref()).await else { return };
            let service = hyper::service::service_fn(async |request: Request<Incoming>| {
                let words: Vec<_> = request.uri().path().split('/').collect();
                let number = |at: usize| words[at].parse().unwrap();
                let content = Content::new(number(1), number(2), words[3] == "sized");
                Ok::<_, Infallible>(Response::new(content))
            });
            let io = TokioIo::new(stream);
            if to.http2 {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(io, service).await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            }
        }
    })
    .await
}

/// A connection whose kernel takes little ahead of its reader.
async fn narrow(proxy: &Proxy, by: Protocol) -> Pipe {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(proxy.address_of(usize::from(by.tls))).await.unwrap();
    if !by.tls {
        return Box::new(stream);
    }
    let connector = connector(proxy.folder.path(), &[by.alpn()], None);
    let name = rustls::pki_types::ServerName::try_from("a").unwrap();
    Box::new(connector.connect(name, stream).await.unwrap())
}

type Empty = http_body_util::Empty<bytes::Bytes>;

/// One connection's requests, one after the other over HTTP/1.1 and all at once over HTTP/2.
async fn reads_slowly(proxy: &Proxy, by: Protocol, to: Protocol, seed: u64) {
    let io = TokioIo::new(narrow(proxy, by).await);
    let mut random = fastrand::Rng::with_seed(seed);
    let asked: Vec<_> =
        (0..RESPONSES).map(|_| (random.u64(..), length(&mut random), random.bool())).collect();
    let request = |(seed, length, is_sized): (u64, u64, bool)| {
        let path = format!("/{seed}/{length}/{}", if is_sized { "sized" } else { "unsized" });
        let uri = if by.http2 { format!("http://a{path}") } else { path };
        Request::get(uri).header("host", "a").body(Empty::new()).unwrap()
    };
    if by.http2 {
        let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        client.initial_stream_window_size(random.u32(1000..100_000));
        client.initial_connection_window_size(random.u32(66_000..200_000));
        let (sender, connection) = client.handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        join_all(asked.into_iter().map(|asked| {
            let answer = sender.clone().send_request(request(asked));
            async move { is_whole(answer.await.unwrap(), asked, &format!("{by:?}: {to:?}")).await }
        }))
        .await;
        connection.abort();
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        for asked in asked {
            sender.ready().await.unwrap();
            let answer = sender.send_request(request(asked)).await.unwrap();
            is_whole(answer, asked, &format!("{by:?}: {to:?}")).await;
        }
        connection.abort();
    }
}

/// How many responses each client gets.
const RESPONSES: usize = 8;

/// Most responses are short, and some long: 1 KB to 2 MB.
fn length(random: &mut fastrand::Rng) -> u64 {
    (1000 << random.u32(0..=11)) + random.u64(0..1000)
}

async fn is_whole(answer: Response<Incoming>, (seed, length, is_sized): (u64, u64, bool), who: &str) {
    let case = format!("{who}, {length} bytes of {seed}, sized: {is_sized}");
    let (mut body, mut sum, mut read) = (answer.into_body(), Xxh3::new(), 0);
    let mut random = fastrand::Rng::with_seed(seed);
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap_or_else(|error| panic!("{case}: cut after {read}: {error:?}"));
        let data = data.into_data().unwrap();
        sum.update(&data);
        read += data.len() as u64;
        match random.u8(..) {
            0..4 => tokio::time::sleep(Duration::from_millis(random.u64(0..3))).await,
            4..100 => tokio::task::yield_now().await,
            _ => {}
        }
    }
    assert_eq!((read, sum.digest()), (length, content::sum(seed, length)), "{case}");
}

#[test]
fn checksums_never_differ_and_no_end_is_missing_under_slow_readers_over_all_protocols() {
    run(async {
        let all = ALL.map(async |to| {
            let certificates = Certificates::new();
            let upstream = upstream(certificates.acceptor(to), to).await;
            let proxy = before(certificates, &upstream, to).await;
            let clients = (0..8).map(|at| reads_slowly(&proxy, ALL[at % 4], to, at as u64));
            join_all(clients).await;
        });
        join_all(all).await;
    });
}
