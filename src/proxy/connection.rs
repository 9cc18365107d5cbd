//! One client connection: who it is, what it speaks, and its requests until it ends.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use super::cork::Corked;
use super::executor::StreamExecutor;
use super::handler::{self, Client};
use super::proxy_protocol::{self, Parsed};
use super::shard::{HEAD, Patience, Shard, Watched};
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
        Ok(Greeted { client, _watched, stream, http2: false }) => speak_http1(client, stream).await,
        Ok(Greeted { client, _watched, stream, http2: true }) => Box::pin(speak_http2(client, stream)).await,
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

/// A connection of which it is known who it is and what it speaks.
struct Greeted {
    client: Rc<Client>,
    /// Held for as long as the connection lives.
    _watched: Watched,
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
    let (watch, watched) = shard.watch();
    let (timer, begun) = (Cell::new(None), Cell::new(None));
    let client = Rc::new(Client { shard, listener: slot, address, address_text, tls, timer, watch, begun });
    Ok(Greeted { client, _watched: watched, stream, http2 })
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
    let of_client = Rc::clone(&client);
    let service = service_fn(move |request: Request<Incoming>| handler::handle(&of_client, request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    until_over(&client, connection, |connection| connection.graceful_shutdown(), false).await
}

async fn speak_http2(client: Rc<Client>, stream: Stream) -> io::Result<()> {
    let of_client = Rc::clone(&client);
    let service = service_fn(move |request: Request<Incoming>| handler::handle(&of_client, request));
    let corked = Corked::new(stream);
    let connection = http2_settings(&client).serve_connection(TokioIo::new(corked.clone()), service);
    let ended = {
        let mut connection =
            pin!(until_over(&client, connection, |connection| connection.graceful_shutdown(), true));
        poll_fn(|context| {
            let ended = connection.as_mut().poll(context);
            match corked.poll_uncork(context) {
                Poll::Ready(Err(error)) if ended.is_pending() => Poll::Ready(Err(error)),
                _ => ended,
            }
        })
        .await
    };
    // What the codec said last, such as why it ends.
    let _ = within(LAST_CHANCE, poll_fn(|context| corked.poll_uncork(context))).await;
    ended
}

/// Drives a connection to its end; tells it once when the shard drains, and drops it when it has waited too long for a
/// request. Signals are looked for only where the connection has nothing to do, and the wait is measured by the shard for
/// all connections together: timers and signals of its own would cost every request more than all routing.
async fn until_over<C>(
    client: &Client,
    connection: C,
    shut_down: impl Fn(Pin<&mut C>),
    http2: bool,
) -> io::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut drain = pin!(client.shard.drain_begins());
    // From here on the signal reaches this task, whatever wakes it otherwise.
    drain.as_mut().enable();
    let (mut watched, mut told, mut linger) = (false, false, None);
    let driven = poll_fn(|context| {
        // A request under way is to be answered with the word that the connection closes.
        if !told && client.shard.is_draining() && client.watch.is_busy() {
            told = true;
            shut_down(connection.as_mut());
        }
        let ended = connection.as_mut().poll(context);
        if ended.is_ready() {
            return ended;
        }
        if !watched {
            // This registers the waker of this task, which stays the same for as long as the task lives.
            watched = true;
            client.watch.wake_by(context.waker());
            let _ = drain.as_mut().poll(context);
        }
        let (patience, draining) = (client.watch.patience(), client.shard.is_draining());
        if patience == Patience::Left && !draining {
            return ended;
        }
        if patience == Patience::Lost || (patience == Patience::Over && !client.watch.has_asked()) {
            return Poll::Ready(Ok(()));
        }
        // A connection that has asked for nothing yet may have a request on its way, or unread: told now, the codec would
        // close it.
        if !told && (http2 || client.watch.has_asked()) {
            told = true;
            shut_down(connection.as_mut());
            let ended = connection.as_mut().poll(context);
            if ended.is_ready() {
                return ended;
            }
        }
        if draining && lingers_too_long(client, &mut linger, http2, context) {
            Poll::Ready(Ok(()))
        } else {
            ended
        }
    });
    driven.await.map_err(io::Error::other)
}

/// Whether a connection without a request holds up the end: one that never asked, or an HTTP/2 client that does not
/// acknowledge that it was told.
fn lingers_too_long(
    client: &Client,
    timer: &mut Option<Pin<Box<Sleep>>>,
    http2: bool,
    context: &mut Context<'_>,
) -> bool {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_CHANCE)));
    while timer.as_mut().poll(context).is_ready() {
        if !client.watch.has_asked() || (http2 && client.watch.waits_for(LAST_CHANCE)) {
            return true;
        }
        timer.as_mut().reset((Instant::now() + LAST_CHANCE).into());
    }
    false
}

fn http2_settings(client: &Rc<Client>) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(StreamExecutor(Rc::clone(client)));
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
