//! Upstream connections: kept open, reused, and given to one request at a time (HTTP/1.1) or many (HTTP/2).
//!
//! Everything here belongs to one shard. A connection is driven by a task of its own; who sends on it holds a [`Lease`],
//! and gives it back when the response's body has ended well. A lease that is dropped closes an HTTP/1.1 connection, so
//! nothing of one response can ever be taken for the next.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use futures_util::future::Either;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::body::RequestBody;
use super::executor::LocalExecutor;
use super::failure::{Failure, Kind};
use super::panics::EndsWithTask;
use super::stream::{Peeked, Socket, Stream};
use super::tls::UpstreamConnector;
use crate::config::Scheme;

/// One place where requests of a version can go, as one shard knows it.
pub(super) struct Endpoint {
    pub(super) key: EndpointKey,
    /// As logs name it.
    pub(super) label: Rc<str>,
    /// The `Host` of this upstream's own.
    host: Option<HeaderValue>,
    tls: Option<(UpstreamConnector, ServerName<'static>)>,
    /// Requests and tunnels that are under way or wait for a connection: what balancing compares.
    in_flight: Cell<u32>,
    /// HTTP/1.1 connections without a request, the longest idle first.
    idle: RefCell<VecDeque<Idle>>,
    /// Counts ticks: a clock that costs nothing to read.
    tick: Cell<u32>,
    /// Whether a task counts ticks, because connections are idle and awake.
    ticking: Cell<bool>,
    /// HTTP/2 connections.
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
    /// Held while an HTTP/2 connection (or one that may turn out to be) is made: the others wait and share it.
    dialing: Semaphore,
    /// Whether ALPN chose HTTP/2 the last time.
    chose_http2: Cell<Option<bool>>,
}

/// What tells endpoints apart: two upstreams of one key share connections, also across reloads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct EndpointKey {
    pub(super) target: Target,
    pub(super) scheme: Scheme,
    /// The upstream's own host and port: names of one address are endpoints of their own.
    pub(super) authority: String,
    /// The identity of the TLS settings and the name that is verified.
    pub(super) tls: Option<(u64, String)>,
}

/// A resolved place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// An HTTP/1.1 connection without a request.
struct Idle {
    state: IdleState,
    /// The endpoint's tick at which it became idle.
    since: u32,
    /// How often it was looked at since.
    looks: u32,
}

enum IdleState {
    /// Ready for the next request.
    Awake(Single),
    /// Idle for longer: the codec with its buffers, twenty kilobytes, is gone, and only the stream is left.
    Asleep(Stream),
}

/// An HTTP/1.1 connection and the codec that drives it, which its task and the pool share.
struct Single {
    sender: http1::SendRequest<RequestBody>,
    codec: Codec<Http1>,
    /// The task that drives it.
    task: AbortHandle,
    /// Whether it may be kept: not where it was made to become a tunnel.
    kept: bool,
}

/// What drives a connection, shared by its task and its users; empty when the connection has ended, or is asleep.
type Codec<C> = Rc<RefCell<Option<C>>>;
type Http1 = http1::Connection<TokioIo<Stream>, RequestBody>;
type Http2 = Pin<Box<http2::Connection<TokioIo<Stream>, RequestBody, LocalExecutor>>>;

impl Idle {
    fn is_closed(&mut self) -> bool {
        match &mut self.state {
            IdleState::Awake(single) => single.sender.is_closed(),
            IdleState::Asleep(stream) => !stream.is_quiet(),
        }
    }

    /// Gives the buffers up, where nothing is in them. A connection that is not ready, or has bytes that nobody asked for,
    /// stays as it is: it is looked at again when it is to be used.
    fn fall_asleep(&mut self) {
        let IdleState::Awake(single) = &mut self.state else { return };
        if !single.sender.is_ready() {
            return;
        }
        let codec = single.codec.try_borrow_mut().ok().and_then(|mut codec| codec.take());
        let Some(parts) = codec.map(http1::Connection::into_parts) else { return };
        single.task.abort();
        // With the codec gone the sender is closed; so bytes that nobody asked for end the connection.
        if parts.read_buf.is_empty() {
            self.state = IdleState::Asleep(parts.io.into_inner());
        }
    }
}

struct Multiplexed {
    sender: http2::SendRequest<RequestBody>,
    streams: Cell<usize>,
    codec: Codec<Http2>,
    since: Instant,
}

impl Multiplexed {
    /// How many streams the upstream allows at once, as far as it has said so yet.
    fn allowed_streams(&self) -> usize {
        let codec = self.codec.borrow();
        codec.as_ref().map_or(0, |codec| codec.current_max_send_streams()).min(MAX_STREAMS)
    }

    /// Whether the upstream allows extended CONNECT, as far as it has said so yet.
    fn allows_extended_connect(&self) -> bool {
        self.codec.borrow().as_ref().is_some_and(|codec| codec.is_extended_connect_protocol_enabled())
    }
}

/// The most idle connections kept to one endpoint, per shard.
const MAX_IDLE: usize = 1024;
/// The length of a tick, while there are idle connections that are awake. One that stays idle for a whole tick falls
/// asleep.
const TICK: Duration = Duration::from_millis(100);
/// For how many looks (one each housekeeping interval) an idle connection is kept: a minute.
const IDLE_KEPT: u32 = 12;
/// The most streams on one HTTP/2 connection, where the upstream allows as many.
const MAX_STREAMS: usize = 100;
/// HTTP/2 flow control towards upstreams: what a client that does not read may make an upstream send ahead.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The most bytes of a response's head over HTTP/2.
const HEADER_LIST: u32 = 256 << 10;
/// An HTTP/2 connection is asked so often whether its upstream is alive, and the upstream given so long to say so: one that
/// is silently gone would cost every request its whole deadline.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Any connection.
    Request,
    /// One that can become a tunnel.
    Tunnel,
}

impl Endpoint {
    pub(super) fn new(
        key: EndpointKey,
        label: &str,
        host: Option<HeaderValue>,
        tls: Option<(UpstreamConnector, ServerName<'static>)>,
    ) -> Self {
        Self {
            key,
            label: label.into(),
            host,
            tls,
            in_flight: Cell::new(0),
            idle: RefCell::default(),
            tick: Cell::new(0),
            ticking: Cell::new(false),
            multiplexed: RefCell::default(),
            dialing: Semaphore::new(1),
            chose_http2: Cell::new(None),
        }
    }

    /// Requests under way.
    pub(super) fn load(&self) -> u32 {
        self.in_flight.get()
    }

    /// A connection to send one request on, kept or made within `patience`. `fresh`: not one that was idle.
    pub(super) async fn lease(
        self: &Rc<Self>,
        need: Need,
        fresh: bool,
        patience: Duration,
    ) -> Result<Lease, Failure> {
        let place = Place::take(self);
        if !fresh
            && need == Need::Request
            && let Some(idle) = self.take_idle()
        {
            let single = match idle {
                IdleState::Awake(single) => single,
                IdleState::Asleep(stream) => Box::pin(self.speak_http1(stream)).await?,
            };
            return Ok(Lease { place, connection: Connection::Single(single), reused: true });
        }
        let connection = tokio::time::timeout(patience, Box::pin(self.connect(need))).await;
        let (connection, reused) = connection.map_err(|_| Failure::new(Kind::ConnectTimeout))??;
        Ok(Lease { place, connection, reused })
    }

    fn take_idle(&self) -> Option<IdleState> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut connection) = idle.pop_back() {
            let usable = match &mut connection.state {
                // One that is neither ready nor closed still sends the last request's body: it is given up.
                IdleState::Awake(single) => single.sender.is_ready(),
                IdleState::Asleep(stream) => stream.is_quiet(),
            };
            if usable {
                return Some(connection.state);
            }
        }
        None
    }

    /// Keeps a connection for another request.
    fn keep(self: &Rc<Self>, single: Single) {
        let mut idle = self.idle.borrow_mut();
        if !single.kept || single.sender.is_closed() || idle.len() >= MAX_IDLE {
            return;
        }
        idle.push_back(Idle { state: IdleState::Awake(single), since: self.tick.get(), looks: 0 });
        if !self.ticking.replace(true) {
            tokio::task::spawn_local(tick(Rc::downgrade(self)));
        }
    }

    /// Counts a tick and lets connections fall asleep; whether there are others still awake.
    fn tick(&self) -> bool {
        let now = self.tick.get().wrapping_add(1);
        self.tick.set(now);
        let mut awake = false;
        // The longest idle come first: behind one that is too young there are only younger ones.
        for connection in self.idle.borrow_mut().iter_mut() {
            if now.wrapping_sub(connection.since) < 2 {
                awake = true;
                break;
            }
            connection.fall_asleep();
        }
        self.ticking.set(awake);
        awake
    }

    /// A connection, and whether there was one already.
    async fn connect(&self, need: Need) -> Result<(Connection, bool), Failure> {
        let multiplexed = match (self.key.scheme, need) {
            (Scheme::Http, _) | (Scheme::Https, Need::Tunnel) => false,
            (Scheme::H2c, _) => true,
            (Scheme::Https, Need::Request) => self.chose_http2.get().unwrap_or(true),
        };
        if !multiplexed {
            return Ok((self.dial(need).await?, false));
        }
        if let Some(shared) = self.share() {
            return Ok((shared, true));
        }
        let permit = self.dialing.acquire().await;
        let _permit = permit.map_err(|closed| Failure::because(Kind::ConnectFailed, closed))?;
        // Whoever dialed before may have made one that has room, or found that the upstream speaks HTTP/1.1.
        match self.share() {
            Some(shared) => Ok((shared, true)),
            None => Ok((self.dial(need).await?, false)),
        }
    }

    /// A place on an HTTP/2 connection that has one.
    fn share(&self) -> Option<Connection> {
        let mut connections = self.multiplexed.borrow_mut();
        connections.retain(|connection| !connection.sender.is_closed());
        let free = |connection: &&Rc<Multiplexed>| {
            connection.streams.get() < connection.allowed_streams() && connection.sender.is_ready()
        };
        connections.iter().find(free).map(Connection::shared)
    }

    async fn dial(&self, need: Need) -> Result<Connection, Failure> {
        let failed = |error| Failure::because(Kind::ConnectFailed, error);
        let socket = match &self.key.target {
            Target::Tcp(address) => {
                let socket = TcpStream::connect(address).await.map_err(failed)?;
                socket.set_nodelay(true).map_err(failed)?;
                Socket::Tcp(socket)
            }
            Target::Unix(path) => Socket::Unix(UnixStream::connect(path).await.map_err(failed)?),
        };
        let plain = Peeked::to_upstream(socket);
        let Some((connector, name)) = &self.tls else {
            let http2 = self.key.scheme == Scheme::H2c;
            return self.speak(Stream::Plain(plain), http2, need).await;
        };
        let config = if need == Need::Tunnel { &connector.http1 } else { &connector.any };
        let stream = TlsConnector::from(config.clone()).connect(name.clone(), plain).await;
        let stream = stream.map_err(|error| Failure::because(Kind::TlsFailed, error))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if need == Need::Request {
            self.chose_http2.set(Some(http2));
        }
        self.speak(Stream::ClientTls(Box::new(stream)), http2, need).await
    }

    async fn speak(&self, stream: Stream, http2: bool, need: Need) -> Result<Connection, Failure> {
        if http2 {
            let (failed, io) = (|error| Failure::because(Kind::ConnectFailed, error), TokioIo::new(stream));
            let (sender, connection) = http2::Builder::new(LocalExecutor)
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(HEADER_LIST)
                .keep_alive_interval(PING)
                .keep_alive_timeout(PONG)
                .keep_alive_while_idle(true)
                .handshake(io)
                .await
                .map_err(failed)?;
            let codec: Codec<Http2> = Rc::new(RefCell::new(Some(Box::pin(connection))));
            tokio::task::spawn_local(drive(until_the_end(Rc::clone(&codec)), Rc::clone(&self.label)));
            let (streams, since) = (Cell::new(0), Instant::now());
            let connection = Rc::new(Multiplexed { sender, streams, codec, since });
            self.multiplexed.borrow_mut().push(Rc::clone(&connection));
            return Ok(Connection::shared(&connection));
        }
        match need {
            Need::Request => self.speak_http1(stream).await.map(Connection::Single),
            Need::Tunnel => self.speak_upgradable(stream).await.map(Connection::Single),
        }
    }

    async fn speak_http1(&self, stream: Stream) -> Result<Single, Failure> {
        let (sender, connection) = handshake(stream).await?;
        let codec: Codec<Http1> = Rc::new(RefCell::new(Some(connection)));
        let driven = drive(until_the_end(Rc::clone(&codec)), Rc::clone(&self.label));
        let task = tokio::task::spawn_local(driven).abort_handle();
        Ok(Single { sender, codec, task, kept: true })
    }

    /// A connection that may become a tunnel: its codec hands the stream over then, and so cannot be shared.
    async fn speak_upgradable(&self, stream: Stream) -> Result<Single, Failure> {
        let (sender, connection) = handshake(stream).await?;
        let connection = connection.with_upgrades();
        let task = tokio::task::spawn_local(drive(connection, Rc::clone(&self.label))).abort_handle();
        Ok(Single { sender, codec: Rc::default(), task, kept: false })
    }

    /// Closes connections that nobody has used for long, or that the upstream has closed.
    pub(super) fn close_idle(&self) {
        self.idle.borrow_mut().retain_mut(|connection| {
            connection.looks += 1;
            connection.looks <= IDLE_KEPT && !connection.is_closed()
        });
        self.multiplexed.borrow_mut().retain(|connection| !connection.sender.is_closed());
    }
}

async fn handshake(
    stream: Stream,
) -> Result<(http1::SendRequest<RequestBody>, http1::Connection<TokioIo<Stream>, RequestBody>), Failure> {
    // Requests are mostly heads: one buffer costs less than a list of slices.
    let shaken = http1::Builder::new().writev(false).handshake(TokioIo::new(stream)).await;
    shaken.map_err(|error| Failure::because(Kind::ConnectFailed, error))
}

async fn tick(endpoint: Weak<Endpoint>) {
    loop {
        tokio::time::sleep(TICK).await;
        if !endpoint.upgrade().is_some_and(|endpoint| endpoint.tick()) {
            return;
        }
    }
}

/// Drives a connection; when it has ended, nobody can send on it any more.
async fn until_the_end<C>(codec: Codec<C>) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>> + Unpin,
{
    let codec = EndsWithTask(codec);
    poll_fn(|context| {
        let mut driven = codec.0.borrow_mut();
        let ended = match driven.as_mut() {
            Some(connection) => ready!(Pin::new(connection).poll(context)),
            None => Ok(()),
        };
        // Whoever waits on it is told when it is dropped; not while it is borrowed.
        let over = driven.take();
        drop(driven);
        drop(over);
        Poll::Ready(ended)
    })
    .await
}

async fn drive(connection: impl Future<Output = hyper::Result<()>>, label: Rc<str>) {
    if let Err(error) = connection.await {
        // Whoever has a request on the connection is told; an idle one that ends is nobody's problem.
        tracing::debug!(
            upstream = &*label,
            error = &error as &dyn std::error::Error,
            "an upstream connection ended"
        );
    }
}

/// The right to send one request to an endpoint, on a connection of it.
pub(super) struct Lease {
    place: Place,
    connection: Connection,
    /// Whether the connection was there before, and so may have been closed by now.
    pub(super) reused: bool,
}

/// One request's part of an endpoint's load.
struct Place(Rc<Endpoint>);

impl Place {
    fn take(endpoint: &Rc<Endpoint>) -> Self {
        endpoint.in_flight.set(endpoint.in_flight.get() + 1);
        Self(Rc::clone(endpoint))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
    }
}

enum Connection {
    Single(Single),
    Shared(OneStream),
}

/// A stream's place on an HTTP/2 connection.
struct OneStream {
    sender: http2::SendRequest<RequestBody>,
    connection: Rc<Multiplexed>,
}

impl Connection {
    fn shared(connection: &Rc<Multiplexed>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self::Shared(OneStream { sender: connection.sender.clone(), connection: Rc::clone(connection) })
    }
}

impl Drop for OneStream {
    fn drop(&mut self) {
        self.connection.streams.set(self.connection.streams.get().saturating_sub(1));
    }
}

impl Lease {
    /// Whether HTTP/2 is spoken on it.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.connection, Connection::Shared(_))
    }

    /// Whether the connection is encrypted.
    pub(super) fn is_tls(&self) -> bool {
        self.place.0.tls.is_some()
    }

    /// Whether extended CONNECT (RFC 8441) can be sent. The upstream says so in its first frame, which may still be on
    /// its way when the connection is new.
    pub(super) async fn allows_extended_connect(&self) -> bool {
        let Connection::Shared(stream) = &self.connection else { return false };
        let connection = &stream.connection;
        let mut pause = LOOK;
        while !connection.allows_extended_connect() && connection.since.elapsed() < SETTINGS {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        connection.allows_extended_connect()
    }

    /// The `Host` of the upstream's own.
    pub(super) fn host(&self) -> Option<&HeaderValue> {
        self.place.0.host.as_ref()
    }

    /// Sends a request; the future waits for the response's head. The error has the request back where nothing of it was
    /// sent.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<> {
        match &mut self.connection {
            Connection::Single(single) => Either::Left(single.sender.try_send_request(request)),
            Connection::Shared(stream) => Either::Right(stream.sender.try_send_request(request)),
        }
    }

    /// Keeps the connection for another request.
    pub(super) fn give_back(self) {
        if let Connection::Single(single) = self.connection {
            self.place.0.keep(single);
        }
    }
}

/// How long a new HTTP/2 connection is given to say whether it allows extended CONNECT.
const SETTINGS: Duration = Duration::from_secs(1);
/// The first pause before a look at whether it has said so; each further pause is twice as long.
const LOOK: Duration = Duration::from_millis(1);

/// The less loaded of two random endpoints; `draw` decides which two.
pub(super) fn choose(endpoints: &[Rc<Endpoint>], draw: u64) -> Option<Rc<Endpoint>> {
    let count = endpoints.len() as u64;
    let (first, second) = match count {
        0 => return None,
        1 => (0, 0),
        _ => {
            let first = (draw & u64::from(u32::MAX)) % count;
            (first, (first + 1 + (draw >> 32) % (count - 1)) % count)
        }
    };
    let at = |index: u64| usize::try_from(index).ok().and_then(|index| endpoints.get(index));
    let (first, second) = (at(first)?, at(second)?);
    Some(Rc::clone(if second.load() < first.load() { second } else { first }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(loads: &[u32]) -> Vec<Rc<Endpoint>> {
        let endpoint = |&load: &u32| {
            let target = Target::Unix(PathBuf::from("x"));
            let key = EndpointKey { target, scheme: Scheme::Http, authority: String::new(), tls: None };
            let endpoint = Endpoint::new(key, "x", None, None);
            endpoint.in_flight.set(load);
            Rc::new(endpoint)
        };
        loads.iter().map(endpoint).collect()
    }

    #[test]
    fn of_two_random_endpoints_the_less_loaded_is_chosen() {
        let two = endpoints(&[5, 3]);
        for draw in 0..100 {
            let chosen = choose(&two, fastrand::Rng::with_seed(draw).u64(..)).unwrap();
            assert_eq!(chosen.load(), 3);
        }
    }

    #[test]
    fn the_most_loaded_of_all_is_never_chosen_and_all_others_are() {
        let many = endpoints(&[0, 1, 2, 3, 9]);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut seen = [0; 10];
        for _ in 0..10_000 {
            seen[choose(&many, rng.u64(..)).unwrap().load() as usize] += 1;
        }
        assert_eq!(seen[9], 0);
        assert!(seen[..4].iter().all(|&count| count > 500), "{seen:?}");
        assert!(seen[0] > seen[3]);
    }

    #[test]
    fn without_endpoints_there_is_no_choice() {
        assert!(choose(&[], 1).is_none());
    }
}
