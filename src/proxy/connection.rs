//! One client connection: who it is, what it speaks, and its requests until it ends.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_rustls::TlsAcceptor;

use super::handler::{self, Client};
use super::proxy_protocol::{self, Parsed};
use super::shard::{LocalExecutor, Shard};
use super::snapshot::Blueprint;
use super::stream::{Peeked, Socket, Stream};
use crate::config::Listener;

/// A listener's settings as they are now: a reload changes them for connections that are already there, too.
pub(super) struct ListenerSlot(RefCell<Rc<ListenerState>>);

/// A listener of one generation.
pub(super) struct ListenerState {
    blueprint: Arc<Blueprint>,
    index: usize,
}

impl ListenerSlot {
    pub(super) fn new(blueprint: &Arc<Blueprint>, index: usize) -> Rc<Self> {
        Rc::new(Self(RefCell::new(Rc::new(ListenerState { blueprint: Arc::clone(blueprint), index }))))
    }

    pub(super) fn replace(&self, blueprint: &Arc<Blueprint>, index: usize) {
        *self.0.borrow_mut() = Rc::new(ListenerState { blueprint: Arc::clone(blueprint), index });
    }

    pub(super) fn current(&self) -> Rc<ListenerState> {
        Rc::clone(&self.0.borrow())
    }
}

impl ListenerState {
    pub(super) fn settings(&self) -> &Listener {
        &self.blueprint.config.listeners[self.index]
    }

    fn tls(&self) -> Option<TlsAcceptor> {
        self.blueprint.listener_tls[self.index].clone().map(TlsAcceptor::from)
    }
}

/// For the PROXY header and the TLS handshake: a client that has connected has no reason to wait with them.
const GREETING: Duration = Duration::from_secs(10);
/// From the connection, or the last response, to the end of the next request's head.
const HEAD: Duration = Duration::from_secs(60);
/// When the proxy ends, a connection that has asked for nothing yet may still do so for as long: its request may be on the
/// way. One that was opened in advance must not hold the end up.
const LAST_CHANCE: Duration = Duration::from_secs(2);
/// An HTTP/2 connection without traffic is asked so often whether it is alive, and given so long to say so.
const PING: Duration = Duration::from_secs(60);
const PONG: Duration = Duration::from_secs(20);
/// HTTP/2 flow control towards clients.
const MAX_STREAMS: u32 = 256;
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
const SEND_BUFFER: usize = 64 << 10;
const HEADER_LIST: u32 = 64 << 10;

/// What starts an HTTP/2 connection (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection until it ends. Errors are the client's, or its network's: nothing to tell anybody about.
///
/// What happens once, or seldom, is boxed, so that the many idle connections of HTTP/1.1 clients do not hold room for it.
pub(super) async fn serve(
    shard: Rc<Shard>,
    slot: Rc<ListenerSlot>,
    socket: Socket,
    address: Option<SocketAddr>,
) {
    let _guard = shard.connection_opened();
    let greeting = Box::pin(async {
        tokio::select! {
            biased;
            greeted = greet(Rc::clone(&shard), slot, socket, address) => greeted,
            () = last_chance(&shard) => Err(io::ErrorKind::TimedOut.into()),
        }
    });
    let ended = match greeting.await {
        Ok(Greeted { client, stream, http2: false }) => speak_http1(client, stream).await,
        Ok(Greeted { client, stream, http2: true }) => Box::pin(speak_http2(client, stream)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::debug!(?address, %error, "a client connection ended");
    }
}

/// Resolves a while after the end of the proxy has begun.
async fn last_chance(shard: &Shard) {
    shard.draining().await;
    tokio::time::sleep(LAST_CHANCE).await;
}

/// Resolves a while from now if nothing was asked for until then.
async fn silence(asked: &Cell<bool>) {
    tokio::time::sleep(LAST_CHANCE).await;
    if asked.get() {
        std::future::pending::<()>().await;
    }
}

/// A connection of which it is known who it is and what it speaks.
struct Greeted {
    client: Rc<Client>,
    stream: Stream,
    http2: bool,
}

async fn greet(
    shard: Rc<Shard>,
    slot: Rc<ListenerSlot>,
    socket: Socket,
    mut address: Option<SocketAddr>,
) -> io::Result<Greeted> {
    let listener = slot.current();
    let mut stream = Peeked::new(socket);
    if listener.settings().proxy_protocol {
        if !listener.settings().trusted_proxies.contain(address) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not a trusted proxy"));
        }
        let named = within(GREETING, read_proxy_header(&mut stream)).await?;
        address = named.or(address);
    }
    let (stream, http2, tls) = match listener.tls() {
        Some(acceptor) => {
            let stream = within(GREETING, acceptor.accept(stream)).await?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (Stream::ServerTls(Box::new(stream)), http2, true)
        }
        None => {
            let http2 = within(HEAD, is_http2(&mut stream)).await?;
            (Stream::Plain(stream), http2, false)
        }
    };
    let text = address.map(|address| address.ip().to_canonical().to_string());
    let address_text = text.and_then(|text| HeaderValue::from_str(&text).ok());
    let client = Rc::new(Client { shard, listener: slot, address, address_text, tls });
    Ok(Greeted { client, stream, http2 })
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Reads and consumes the PROXY header that a connection must start with.
async fn read_proxy_header(stream: &mut Peeked) -> io::Result<Option<SocketAddr>> {
    loop {
        match proxy_protocol::parse(stream.prefix()) {
            Parsed::Header { length, client } => {
                stream.advance(length);
                return Ok(client);
            }
            Parsed::Invalid => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not a PROXY protocol header"));
            }
            Parsed::Partial => more(stream).await?,
        }
    }
}

/// Whether a connection without TLS speaks HTTP/2 by prior knowledge: decided at the first byte that differs.
async fn is_http2(stream: &mut Peeked) -> io::Result<bool> {
    loop {
        let start = stream.prefix();
        let compared = start.len().min(PREFACE.len());
        if start[..compared] != PREFACE[..compared] {
            return Ok(false);
        }
        if compared == PREFACE.len() {
            return Ok(true);
        }
        more(stream).await?;
    }
}

async fn more(stream: &mut Peeked) -> io::Result<()> {
    match stream.fill().await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn speak_http1(client: Rc<Client>, stream: Stream) -> io::Result<()> {
    let shard = Rc::clone(&client.shard);
    let asked = Cell::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        asked.set(true);
        handler::handle(&client, request)
    });
    let connection = http1_settings().serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection.with_upgrades());
    let ended = tokio::select! {
        // First: told to end before it has read anything, the codec would close in front of a request that is here.
        biased;
        ended = connection.as_mut() => ended,
        () = shard.draining() => {
            connection.as_mut().graceful_shutdown();
            // The codec would wait for the rest of a first request's head for as long as ever.
            Box::pin(async {
                tokio::select! {
                    biased;
                    ended = connection => ended,
                    () = silence(&asked) => Ok(()),
                }
            })
            .await
        }
    };
    ended.map_err(io::Error::other)
}

async fn speak_http2(client: Rc<Client>, stream: Stream) -> io::Result<()> {
    let shard = Rc::clone(&client.shard);
    let service = service_fn(move |request: Request<Incoming>| handler::handle(&client, request));
    let mut connection = pin!(http2_settings().serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = shard.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

fn http1_settings() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
}

fn http2_settings() -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST)
        .enable_connect_protocol();
    builder
}
