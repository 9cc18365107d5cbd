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

use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use super::census::Descriptor;
use super::cork::Corked;
use super::executor::StreamExecutor;
use super::failure::Kind;
use super::frames::{Ledger, Observer};
use super::handler::{self, Client};
use super::panics;
use super::proxy_protocol::{self, Named, Parsed};
use super::record;
use super::refusals;
use super::shard::{Shard, Watched};
use super::snapshot::Blueprint;
use super::stream::{Peeked, Socket, Stream};
use super::turned_away;
use super::watch::{Patience, Watch};
use super::wire::Wire;
use crate::config::{Limits, Listener};
use crate::metrics::Limit;

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

    fn limits(&self) -> &Limits {
        &self.blueprint.config.limits
    }

    fn tls(&self) -> Option<TlsAcceptor> {
        self.blueprint.listener_tls[self.index].clone().map(TlsAcceptor::from)
    }
}

/// When the proxy ends, a connection that has asked for nothing yet may still do so for as long: its request may be on the
/// way. One that was opened in advance must not hold the end up.
const LAST_CHANCE: Duration = Duration::from_secs(2);
/// The same where another process accepts already, so that the end is waited for by nobody: a handshake whose packets are lost
/// twice takes longer than two seconds, and an upgrade is no reason to fail it. It is how long a handshake may take by default.
const LAST_CHANCE_OF_REPLACED: Duration = Duration::from_secs(10);
/// An HTTP/2 connection without traffic is asked so often whether it is alive, and given so long to say so.
const PING: Duration = Duration::from_secs(60);
const PONG: Duration = Duration::from_secs(20);
/// The most header lines that the codec of HTTP/1.1 takes without being told.
const CODEC_HEADERS: usize = 100;
/// What the codec of HTTP/1.1 may read of a request's body at once.
const READ_BUFFER: usize = 64 << 10;
/// What TLS may hold of records that are not sent.
const RECORDS: usize = 16 << 10;
/// What one stream of HTTP/2 may hold before it is asked for more: one that is not read leaves room for others.
const SEND_BUFFER: usize = 16 << 10;

/// What starts an HTTP/2 connection (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Begins to serve a connection that was accepted, in a task of its own; whether it may stay. It counts from here on: were
/// that left to its task, many could be accepted before the first is counted.
pub(super) fn begin(
    shard: &Rc<Shard>,
    slot: &Rc<ListenerSlot>,
    socket: Socket,
    address: Option<SocketAddr>,
) -> bool {
    let listener = slot.current();
    let Some(descriptor) = shard.census().client(listener.limits().connections) else {
        tokio::task::spawn_local(turn_away(Rc::clone(shard), listener, socket));
        return false;
    };
    socket.send_at_most(listener.limits().kernel_buffer);
    tokio::task::spawn_local(serve(Rc::clone(shard), Rc::clone(slot), socket, descriptor, address));
    true
}

/// Serves a connection until it ends. Errors are the client's, or its network's: nothing to tell anybody about.
///
/// What happens once, or seldom, is boxed, so that the many idle connections of HTTP/1.1 clients do not hold room for it.
async fn serve(
    shard: Rc<Shard>,
    slot: Rc<ListenerSlot>,
    socket: Socket,
    descriptor: Descriptor,
    address: Option<SocketAddr>,
) {
    let _guard = shard.connection_opened();
    let stream = Peeked::new(socket, descriptor);
    let greeting = Box::pin(async {
        tokio::select! {
            biased;
            greeted = greet(Rc::clone(&shard), slot, stream, address) => greeted,
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

const OVERLOADED: &str = "the proxy has as many connections as it may have";

/// Ends a connection that is one too many: where HTTP is spoken without TLS, with a word.
async fn turn_away(shard: Rc<Shard>, listener: Rc<ListenerState>, mut socket: Socket) {
    shard.limited(Limit::Connections);
    if shard.may_warn_of_connections() {
        tracing::warn!("there are as many client connections as are allowed: more are turned away");
    }
    if let Some(_descriptor) = say_overloaded(&shard, &listener, &mut socket).await {
        turned_away::linger(&mut socket).await;
    }
}

/// Ends a connection that is one too many of its address. It does not count any more, and nobody waits until it is gone.
async fn turn_away_of_address(shard: &Shard, listener: &ListenerState, mut stream: Peeked) {
    shard.limited(Limit::ConnectionsPerAddress);
    stream.uncount();
    if let Some(descriptor) = say_overloaded(shard, listener, &mut stream).await {
        tokio::task::spawn_local(async move {
            turned_away::linger(&mut stream).await;
            drop((stream, descriptor));
        });
    }
}

/// Says without waiting that there are too many connections, where HTTP is spoken without TLS. Only where there is a
/// descriptor to spare for it, the client is to be listened to until the word has arrived.
async fn say_overloaded<S>(shard: &Shard, listener: &ListenerState, stream: &mut S) -> Option<Descriptor>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if listener.tls().is_some() {
        return None;
    }
    let descriptor = shard.census().leaving(listener.limits().connections);
    turned_away::say(stream, &overloaded()).await;
    descriptor
}

fn overloaded() -> Vec<u8> {
    turned_away::response(StatusCode::SERVICE_UNAVAILABLE, "overloaded", OVERLOADED)
}

/// Resolves a while after the end of the proxy has begun.
async fn last_chance(shard: &Shard) {
    shard.draining().await;
    tokio::time::sleep(chance(shard)).await;
}

/// How long a connection that has asked for nothing may still do so, and a client of HTTP/2 may be silent.
fn chance(shard: &Shard) -> Duration {
    if shard.is_replaced() { LAST_CHANCE_OF_REPLACED } else { LAST_CHANCE }
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
    mut stream: Peeked,
    mut address: Option<SocketAddr>,
) -> io::Result<Greeted> {
    let listener = slot.current();
    let limits = listener.limits();
    let mut named = true;
    if listener.settings().proxy_protocol {
        if !listener.settings().trusted_proxies.contain(address) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not a trusted proxy"));
        }
        let header = read_proxy_header(&mut stream);
        let bound = (limits.tls_handshake_timeout, Limit::TlsHandshakeTimeout);
        match within(&shard, bound, header).await? {
            Named::Client(client) => address = Some(client),
            Named::Sender => {}
            Named::Nobody => named = false,
        }
    }
    if !take_place(&shard, &listener, &mut stream, address) {
        turn_away_of_address(&shard, &listener, stream).await;
        return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many connections of its address"));
    }
    let (stream, http2, tls) = match listener.tls() {
        Some(acceptor) => {
            let bound = (limits.tls_handshake_timeout, Limit::TlsHandshakeTimeout);
            let stream = within(&shard, bound, acceptor.accept(stream)).await;
            let mut stream = stream.inspect_err(|error| warn_of_certificate(&shard, address, error))?;
            stream.get_mut().1.set_buffer_limit(Some(RECORDS));
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (Stream::ServerTls(Box::new(stream)), http2, true)
        }
        None => {
            let bound = (limits.detection_timeout, Limit::DetectionTimeout);
            let http2 = within(&shard, bound, is_http2(&mut stream)).await?;
            (Stream::Plain(stream), http2, false)
        }
    };
    let text = address.map(|address| address.ip().to_canonical().to_string());
    let address_text = text.and_then(|text| HeaderValue::from_str(&text).ok());
    // The piece that is one more than there is room for, the piece that is read ahead from the upstream, and what codec, TLS
    // and cork hold make up the rest.
    let room = limits.send_buffer / 16;
    let watch = Rc::new(Watch::new(Instant::now(), room, limits.send_buffer / 2));
    let watched = shard.watch(&watch);
    let client = Rc::new(Client {
        shard,
        listener: slot,
        address,
        named,
        address_text,
        tls,
        timer: Cell::new(None),
        watch,
        panicked: Cell::new(false),
        owes_answer: Cell::new(false),
        begun: Cell::new(None),
    });
    Ok(Greeted { client, _watched: watched, stream, http2 })
}

/// A client whose certificate is refused may be an honest one with an old certificate: that is worth a line. Other
/// handshakes fail all the time, for whoever tries.
fn warn_of_certificate(shard: &Shard, address: Option<SocketAddr>, error: &io::Error) {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    if let Some(error @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) =
        error
        && shard.may_warn()
    {
        tracing::warn!(?address, %error, "a client was refused for its certificate");
    }
}

/// Counts a connection as one of its address; false if there are too many. Those of trusted proxies, and of Unix sockets,
/// are of many clients.
fn take_place(
    shard: &Shard,
    listener: &ListenerState,
    stream: &mut Peeked,
    address: Option<SocketAddr>,
) -> bool {
    let most = listener.limits().connections_per_address;
    match address {
        Some(address) if most > 0 && !listener.settings().trusted_proxies.contain(Some(address)) => {
            shard.census().place(address.ip(), most).map(|place| stream.hold(place)).is_some()
        }
        _ => true,
    }
}

/// Work that a client may take so long for; a bound that is met is counted.
async fn within<T>(
    shard: &Shard,
    (long, limit): (Duration, Limit),
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::time::timeout(long, work).await.unwrap_or_else(|_| {
        shard.limited(limit);
        Err(io::ErrorKind::TimedOut.into())
    })
}

/// Reads and consumes the PROXY header that a connection must start with.
async fn read_proxy_header(stream: &mut Peeked) -> io::Result<Named> {
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
    let mut builder = http1::Builder::new();
    {
        let listener = client.listener.current();
        let limits = listener.limits();
        builder.max_header_size(limits.header_bytes).max_buf_size(limits.header_bytes.max(READ_BUFFER));
        if limits.header_count > CODEC_HEADERS {
            builder.max_headers(limits.header_count);
        }
    }
    let stream = Wire::new(stream, client.watch.turn(), &client.watch.pulse);
    let mut connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let shut_down = |connection: Pin<&mut _>| UpgradeableConnection::graceful_shutdown(connection);
    let ended = until_over(&client, Pin::new(&mut connection), shut_down, false).await;
    let refused = client.watch.turn().refused();
    if let Some(kind) = refused {
        // Before it counts as a request, with which the bytes of the next head begin.
        count_refusal(&client, kind);
        record::unread(&client, kind);
    }
    let last_words = match ended {
        Ok(Ended::Slow) if client.watch.holds_nothing() => {
            record::unread(&client, Kind::HeadTimeout);
            Some(Kind::HeadTimeout)
        }
        Ok(Ended::Panicked) if client.owes_answer.get() => Some(Kind::Internal),
        _ => None,
    };
    if (refused.is_some() || last_words.is_some())
        && let Some(parts) = connection.into_parts()
    {
        Box::pin(leave(last_words, parts.io.into_inner())).await;
    }
    ended.map(drop).map_err(io::Error::other)
}

/// Ends a connection so that its client hears the last answer: the codec's own, or one in place of a codec that does not
/// answer any more, such as where a request's head took too long (RFC 9110 section 15.5.9).
async fn leave<S: AsyncRead + AsyncWrite + Unpin>(last_words: Option<Kind>, mut stream: S) {
    if let Some(kind) = last_words {
        let answer = turned_away::response(kind.status(), kind.as_str(), kind.message());
        turned_away::say(&mut stream, &answer).await;
    }
    turned_away::linger(&mut stream).await;
}

/// Counts a head that the codec itself has refused, where it met a bound.
fn count_refusal(client: &Client, kind: Kind) {
    let listener = client.listener.current();
    let limits = listener.limits();
    match kind {
        Kind::UriTooLong => client.shard.limited(Limit::UriBytes),
        Kind::HeadTooLarge if client.watch.bytes_of_head() < limits.header_bytes as u64 => {
            client.shard.limited(Limit::HeaderCount);
        }
        Kind::HeadTooLarge => client.shard.limited(Limit::HeaderBytes),
        _ => {}
    }
}

async fn speak_http2(client: Rc<Client>, stream: Stream) -> io::Result<()> {
    let of_client = Rc::clone(&client);
    let listener = client.listener.current();
    let limits = listener.limits();
    let most_trailers = u32::try_from(limits.header_bytes / 4).unwrap_or(u32::MAX);
    let ledger = Rc::new(Ledger::new(limits.http2_control_frames, most_trailers, Instant::now()));
    client.watch.frames(&ledger);
    let of_ledger = Rc::clone(&ledger);
    let service = service_fn(move |request: Request<Incoming>| {
        of_ledger.refusals().request_began();
        handler::handle_among_others(&of_client, request)
    });
    let corked = Corked::new(stream, Some(Observer::new(&ledger, PREFACE.len())));
    let builder = http2_settings(&client, listener.limits());
    drop(listener);
    let connection = builder.serve_connection(TokioIo::new(corked.clone()), service);
    let ended = {
        let connection = pin!(connection);
        let shut_down = |connection: Pin<&mut _>| http2::Connection::graceful_shutdown(connection);
        let mut driven = pin!(until_over(&client, connection, shut_down, true));
        poll_fn(|context| {
            let ended = driven.as_mut().poll(context).map_err(io::Error::other);
            if ledger.is_overdrawn() {
                corked.say_goaway();
                return Poll::Ready(Ok(Ended::Flooded));
            }
            let uncorked = corked.poll_uncork(context);
            client.watch.flows(uncorked.is_ready());
            refusals::record(&client, &ledger);
            match uncorked {
                Poll::Ready(Err(error)) if ended.is_pending() => Poll::Ready(Err(error)),
                _ => ended,
            }
        })
        .await
    };
    refusals::record_end(&client, &ledger);
    // What the codec said last, such as why it ends.
    let said = poll_fn(|context| corked.poll_uncork(context));
    let _ = tokio::time::timeout(LAST_CHANCE, said).await;
    if matches!(ended, Ok(Ended::Flooded)) {
        turned_away::say(&mut corked.clone(), &[]).await;
        turned_away::linger(&mut corked.raw()).await;
    }
    ended.map(drop)
}

/// How the driving of a connection came to its end, without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It is over.
    Over,
    /// A request's head comes too slowly.
    Slow,
    /// The client sends too many frames that bring nothing on.
    Flooded,
    /// A panic has ended the request under way.
    Panicked,
}

/// Drives a connection to its end; tells it once when the shard drains, and drops it when it has waited too long for a
/// request. Signals are looked for only where the connection has nothing to do, and the wait is measured by the shard for
/// all connections together: timers and signals of its own would cost every request more than all routing.
async fn until_over<C>(
    client: &Client,
    mut connection: Pin<&mut C>,
    shut_down: impl Fn(Pin<&mut C>),
    http2: bool,
) -> hyper::Result<Ended>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut drain = pin!(client.shard.drain_begins());
    // From here on the signal reaches this task, whatever wakes it otherwise.
    drain.as_mut().enable();
    let (mut watched, mut told, mut linger, mut last_chance) = (false, false, None, None);
    let driven = poll_fn(|context| {
        // A request under way is to be answered with the word that the connection closes.
        if !told && client.shard.is_draining() && client.watch.is_busy() {
            told = true;
            shut_down(connection.as_mut());
        }
        if let Poll::Ready(ended) = poll_caught(client, connection.as_mut(), context) {
            return Poll::Ready(ended);
        }
        if !watched {
            // This registers the waker of this task, which stays the same for as long as the task lives.
            watched = true;
            client.watch.wake_by(context.waker());
            let _ = drain.as_mut().poll(context);
        }
        let (patience, draining) = (client.watch.patience(), client.shard.is_draining());
        match patience {
            Patience::Left if !draining => return Poll::Pending,
            Patience::Slow => return Poll::Ready(Ok(Ended::Slow)),
            Patience::Lost => return Poll::Ready(Ok(Ended::Over)),
            Patience::Over if !client.watch.has_asked() => return Poll::Ready(Ok(Ended::Over)),
            Patience::Left | Patience::Over => {}
        }
        // A connection that has asked for nothing yet may have a request on its way, or unread: told now, the codec would
        // close it. So may any other; but where nobody accepts in this process's place, the end does not wait for it.
        let may_wait = !http2 && client.shard.is_replaced() && !client.watch.is_busy();
        let tell = !told && (http2 || client.watch.has_asked());
        if tell && !(may_wait && is_pending(&mut last_chance, context)) {
            told = true;
            shut_down(connection.as_mut());
            if let Poll::Ready(ended) = poll_caught(client, connection.as_mut(), context) {
                return Poll::Ready(ended);
            }
        }
        if draining && lingers_too_long(client, &mut linger, http2, context) {
            Poll::Ready(Ok(Ended::Over))
        } else {
            Poll::Pending
        }
    });
    driven.await
}

/// Whether the last chance for another request, which begins with the first call, is not over yet.
fn is_pending(timer: &mut Option<Pin<Box<Sleep>>>, context: &mut Context<'_>) -> bool {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_CHANCE)));
    timer.as_mut().poll(context).is_pending()
}

/// Drives a connection for a while. A panic in it ends it.
fn poll_caught<C>(
    client: &Client,
    connection: Pin<&mut C>,
    context: &mut Context<'_>,
) -> Poll<hyper::Result<Ended>>
where
    C: Future<Output = hyper::Result<()>>,
{
    match panics::caught(|| connection.poll(context)) {
        Some(polled) => polled.map_ok(|()| Ended::Over),
        None => {
            client.panicked.set(true);
            Poll::Ready(Ok(Ended::Panicked))
        }
    }
}

/// Whether a connection without a request holds up the end: one that never asked, or an HTTP/2 client that does not
/// acknowledge that it was told.
fn lingers_too_long(
    client: &Client,
    timer: &mut Option<Pin<Box<Sleep>>>,
    http2: bool,
    context: &mut Context<'_>,
) -> bool {
    let patience = chance(&client.shard);
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
    while timer.as_mut().poll(context).is_ready() {
        if !client.watch.has_asked() || (http2 && client.watch.waits_for(patience)) {
            return true;
        }
        timer.as_mut().reset((Instant::now() + patience).into());
    }
    false
}

fn http2_settings(client: &Rc<Client>, limits: &Limits) -> http2::Builder<StreamExecutor> {
    let header_list = u32::try_from(limits.header_bytes).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(StreamExecutor(Rc::clone(client)));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .max_concurrent_streams(limits.http2_streams)
        .initial_stream_window_size(limits.http2_stream_window)
        .initial_connection_window_size(limits.http2_connection_window)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(header_list)
        .enable_connect_protocol();
    builder
}
