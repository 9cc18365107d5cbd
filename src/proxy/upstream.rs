//! Upstream connections: kept open, reused, and given to one request at a time (HTTP/1.1) or many (HTTP/2).
//!
//! Everything here belongs to one shard. A connection is driven by a task of its own; who sends on it holds a [`Lease`],
//! and gives it back when the response's body has ended well. A lease that is dropped closes an HTTP/1.1 connection, so
//! nothing of one response can ever be taken for the next.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use http::{HeaderValue, Method, Request};
use http_body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_rustls::TlsConnector;

use super::asks::{Asks, Need};
use super::caps::{self, Slot};
use super::census::{Census, Descriptor};
use super::executor::LocalExecutor;
use super::failure::{Failure, Kind};
use super::objects::{self, Hold};
use super::pool::{Codec, IdleState, Pool, Sent, Single, drive, until_the_end};
use super::standing::Standing;
use super::stream::{Peeked, Socket, Stream};
use super::tap::Unanswered;
use super::tls::UpstreamConnector;
use super::upload::RequestBody;
use super::watch::Watch;
use crate::config::{HealthCheck, Scheme};

/// One place where requests of a version can go, as one shard knows it.
pub(super) struct Endpoint {
    pub(super) key: EndpointKey,
    /// As logs name it.
    pub(super) label: Rc<str>,
    /// The `Host` of this upstream's own.
    host: Option<HeaderValue>,
    tls: Option<(UpstreamConnector, ServerName<'static>)>,
    /// How it stands, as all shards know.
    standing: Arc<Standing>,
    /// Requests and tunnels that are under way or wait for a connection: what balancing compares.
    in_flight: Cell<u32>,
    /// HTTP/1.1 connections without a request.
    pub(super) pool: Rc<Pool>,
    /// HTTP/2 connections.
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
    /// Held while an HTTP/2 connection (or one that may turn out to be) is made: the others wait and share it.
    dialing: Semaphore,
    /// Whether ALPN chose HTTP/2 the last time.
    chose_http2: Cell<Option<bool>>,
    /// Whether a task closes what is idle and wanted elsewhere, because there has been a connection.
    makes_room: Cell<bool>,
    census: Arc<Census>,
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
    /// How it is asked whether it is well: those who ask differently may be told differently, and so share nothing.
    pub(super) check: Option<Arc<HealthCheck>>,
}

/// A resolved place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

type Http2 = Pin<Box<http2::Connection<TokioIo<Stream>, RequestBody, LocalExecutor>>>;

struct Multiplexed {
    sender: http2::SendRequest<RequestBody>,
    streams: Cell<usize>,
    codec: Codec<Http2>,
    since: Instant,
    standing: Arc<Standing>,
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

/// The most streams on one HTTP/2 connection, where the upstream allows as many.
const MAX_STREAMS: usize = 100;
/// What a client that does not read may make an upstream send ahead on a stream of HTTP/2. All streams of a connection
/// together have room for each of them, so that those of one such client take it from no other.
const STREAM_WINDOW: u32 = 64 << 10;
/// The most bytes of a response's head over HTTP/2.
pub(super) const HEADER_LIST: u32 = 256 << 10;
/// An HTTP/2 connection is asked so often whether its upstream is alive, and the upstream given so long to say so: one that
/// is silently gone would cost every request its whole deadline.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);

/// What idle connections are given to close, where there is no descriptor.
const CLOSING: Duration = Duration::from_millis(10);

/// What a request that waited gets.
enum Room {
    /// The right to make a connection.
    New(Slot),
    /// One that was given back.
    Kept(IdleState),
    Shared(Connection),
}

/// Counts a request among those that wait.
struct Waiting<'a>(&'a Pool);

impl<'a> Waiting<'a> {
    fn of(pool: &'a Pool) -> Self {
        pool.waiting.set(pool.waiting.get() + 1);
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
    }
}

impl Endpoint {
    pub(super) fn new(
        key: EndpointKey,
        label: &str,
        host: Option<HeaderValue>,
        tls: Option<(UpstreamConnector, ServerName<'static>)>,
        standing: Arc<Standing>,
        census: &Arc<Census>,
    ) -> Self {
        Self {
            key,
            pool: Rc::new(Pool::new(Arc::clone(&standing))),
            standing,
            label: label.into(),
            host,
            tls,
            in_flight: Cell::new(0),
            multiplexed: RefCell::default(),
            dialing: Semaphore::new(1),
            chose_http2: Cell::new(None),
            makes_room: Cell::new(false),
            census: Arc::clone(census),
        }
    }

    /// One under so much load, for tests of balancing.
    #[cfg(test)]
    pub(super) fn under_load(load: u32) -> Self {
        let target = Target::Unix(PathBuf::from("x"));
        let (scheme, authority) = (Scheme::Http, String::new());
        let key = EndpointKey { target, scheme, authority, tls: None, check: None };
        let endpoint = Self::new(key, "x", None, None, Arc::default(), &Census::new(100, 0));
        endpoint.in_flight.set(load);
        endpoint
    }

    /// How it stands, as all shards know.
    pub(super) fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// Requests under way.
    pub(super) fn load(&self) -> u32 {
        self.in_flight.get()
    }

    /// A connection to send one request on, kept or made.
    pub(super) async fn lease(self: &Rc<Self>, asks: Asks<'_>) -> Result<Lease, Failure> {
        let place = Place::take(self);
        if !asks.fresh
            && asks.need == Need::Request
            && self.pool.waiting.get() == 0
            && let Some(idle) = self.pool.take(asks.once)
        {
            let single = match idle {
                IdleState::Awake(single) => single,
                IdleState::Asleep(stream) => Box::pin(Single::speak(stream, &self.label)).await?,
            };
            return Ok(Lease { place, connection: Connection::Single(single), reused: true });
        }
        let (connection, reused) = Box::pin(self.connect(asks)).await?;
        Ok(Lease { place, connection, reused })
    }

    /// A connection, and whether there was one already.
    async fn connect(self: &Rc<Self>, asks: Asks<'_>) -> Result<(Connection, bool), Failure> {
        let due = tokio::time::Instant::now() + asks.patience;
        let multiplexed = match (self.key.scheme, asks.need) {
            (Scheme::Http, _) | (Scheme::Https, Need::Tunnel) => false,
            (Scheme::H2c, _) => true,
            (Scheme::Https, Need::Request) => self.chose_http2.get().unwrap_or(true),
        };
        if !multiplexed {
            return self.make(asks, due).await;
        }
        if let Some(shared) = self.share() {
            return Ok((shared, true));
        }
        let permit = self.turn(asks, due).await?;
        // Whoever dialed before may have made one that has room, or found that the upstream speaks HTTP/1.1.
        if let Some(shared) = self.share() {
            return Ok((shared, true));
        }
        // Where it speaks HTTP/1.1, nobody can share what is made, and so nobody is to wait for it.
        let _permit = (self.chose_http2.get() != Some(false)).then_some(permit);
        self.make(asks, due).await
    }

    /// The turn to make an HTTP/2 connection.
    async fn turn(&self, asks: Asks<'_>, due: tokio::time::Instant) -> Result<SemaphorePermit<'_>, Failure> {
        if let Ok(permit) = self.dialing.try_acquire() {
            return Ok(permit);
        }
        let _waits = self.standing.caps.wait(asks.limits.upstream_pending).ok_or(Kind::Overloaded)?;
        let permit = tokio::time::timeout_at(due, self.dialing.acquire()).await;
        // Whoever has the turn may wait for room itself: that is nobody's failure.
        let is_full = self.pool.waiting.get() > 0;
        let late = if is_full { Kind::Overloaded } else { Kind::ConnectTimeout };
        let permit = permit.map_err(|_| Failure::new(late))?;
        permit.map_err(|closed| Failure::because(Kind::ConnectFailed, closed))
    }

    /// A new connection as soon as there may be one more, or one that was given back meanwhile.
    async fn make(
        self: &Rc<Self>,
        asks: Asks<'_>,
        due: tokio::time::Instant,
    ) -> Result<(Connection, bool), Failure> {
        // Whoever waits already comes first.
        let nobody_waits = self.standing.caps.pending() == 0;
        let slot =
            nobody_waits.then(|| Slot::take(&self.standing, asks.limits.upstream_connections)).flatten();
        let slot = match slot {
            Some(slot) => slot,
            None => match Box::pin(self.room(asks, due)).await? {
                Room::New(slot) => slot,
                Room::Kept(IdleState::Awake(single)) => return Ok((Connection::Single(single), true)),
                Room::Kept(IdleState::Asleep(stream)) => {
                    let single = Single::speak(stream, &self.label).await?;
                    return Ok((Connection::Single(single), true));
                }
                Room::Shared(shared) => return Ok((shared, true)),
            },
        };
        if !self.makes_room.replace(true) {
            let (standing, census) = (Arc::clone(&self.standing), Arc::clone(&self.census));
            tokio::task::spawn_local(caps::make_room(Rc::downgrade(self), standing, census));
        }
        let dialed = tokio::time::timeout_at(due, self.dial(asks, slot)).await;
        let connection = dialed.map_err(|_| Failure::new(Kind::ConnectTimeout))??;
        Ok((connection, false))
    }

    /// Waits until there is room, for no longer than a connection may take.
    async fn room(&self, asks: Asks<'_>, due: tokio::time::Instant) -> Result<Room, Failure> {
        let caps = &self.standing.caps;
        let _pending = caps.wait_for_connection(asks.limits.upstream_pending).ok_or(Kind::Overloaded)?;
        let others = self.pool.waiting.get() > 0;
        let _waiting = Waiting::of(&self.pool);
        let mut look = !others;
        loop {
            let (mut freed, mut given_back) =
                (pin!(caps.freed.notified()), pin!(self.pool.given_back.notified()));
            // From here on nothing is missed.
            freed.as_mut().enable();
            given_back.as_mut().enable();
            if let Some(room) = look.then(|| self.look_for_room(asks)).flatten() {
                return Ok(room);
            }
            tokio::select! {
                () = freed => {}
                () = given_back => {}
                () = tokio::time::sleep_until(due) => return Err(Kind::Overloaded.into()),
            }
            look = true;
        }
    }

    fn look_for_room(&self, asks: Asks<'_>) -> Option<Room> {
        if asks.need == Need::Request
            && let Some(idle) = self.pool.take(true)
        {
            return Some(Room::Kept(idle));
        }
        // What is known to be HTTP/2 carries tunnels, too.
        if (asks.need == Need::Request || self.key.scheme == Scheme::H2c)
            && let Some(shared) = self.share()
        {
            return Some(Room::Shared(shared));
        }
        let slot = || Slot::take(&self.standing, asks.limits.upstream_connections);
        // What is idle now cannot become what this one needs; and what it leaves is for this one, before others that wait.
        let freed = || {
            self.give_up(1);
            slot()
        };
        slot().or_else(freed).map(Room::New)
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

    async fn dial(&self, asks: Asks<'_>, slot: Slot) -> Result<Connection, Failure> {
        let failed = |error: std::io::Error| {
            self.standing.refused(&error);
            Failure::of_connect(error)
        };
        let descriptor = self.descriptor().await?;
        let socket = match &self.key.target {
            Target::Tcp(address) => {
                let socket = TcpStream::connect(address).await.map_err(failed)?;
                socket.set_nodelay(true).map_err(failed)?;
                Socket::Tcp(socket)
            }
            Target::Unix(path) => Socket::Unix(UnixStream::connect(path).await.map_err(failed)?),
        };
        socket.receive_at_most(asks.limits.kernel_buffer);
        self.standing.connected();
        let plain = Peeked::to_upstream(socket, descriptor, slot);
        let Some((connector, name)) = &self.tls else {
            let http2 = self.key.scheme == Scheme::H2c;
            return self.speak(Stream::Plain(plain), http2, asks.need).await;
        };
        let config = if asks.need == Need::Tunnel { &connector.http1 } else { &connector.any };
        let stream = TlsConnector::from(config.clone()).connect(name.clone(), plain).await;
        let stream = stream.map_err(|error| Failure::because(Kind::TlsFailed, error))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if asks.need == Need::Request {
            self.chose_http2.set(Some(http2));
        }
        self.speak(Stream::ClientTls(Box::new(stream)), http2, asks.need).await
    }

    /// A descriptor for a connection. Where there is none, idle connections to whatever upstream are closed first.
    async fn descriptor(&self) -> Result<Descriptor, Failure> {
        if let Ok(descriptor) = self.census.descriptor() {
            return Ok(descriptor);
        }
        tokio::time::sleep(CLOSING).await;
        self.census.descriptor().map_err(|error| Failure::because(Kind::Exhausted, error))
    }

    async fn speak(&self, stream: Stream, http2: bool, need: Need) -> Result<Connection, Failure> {
        if http2 {
            let (failed, io) = (|error| Failure::because(Kind::ConnectFailed, error), TokioIo::new(stream));
            let (sender, connection) = http2::Builder::new(LocalExecutor)
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(100 * STREAM_WINDOW)
                .max_header_list_size(HEADER_LIST)
                .keep_alive_interval(PING)
                .keep_alive_timeout(PONG)
                .keep_alive_while_idle(true)
                .handshake(io)
                .await
                .map_err(failed)?;
            let codec: Codec<Http2> = Rc::new(RefCell::new(Some(Box::pin(connection))));
            tokio::task::spawn_local(drive(until_the_end(Rc::clone(&codec)), Rc::clone(&self.label)));
            let (streams, since, standing) = (Cell::new(0), Instant::now(), Arc::clone(&self.standing));
            let connection = Rc::new(Multiplexed { sender, streams, codec, since, standing });
            self.multiplexed.borrow_mut().push(Rc::clone(&connection));
            return Ok(Connection::shared(&connection));
        }
        match need {
            Need::Request => Single::speak(stream, &self.label).await.map(Connection::Single),
            Need::Tunnel => Single::speak_upgradable(stream, &self.label).await.map(Connection::Single),
        }
    }

    /// Closes connections that nobody has used for long, or that the upstream has closed.
    pub(super) fn close_idle(&self) {
        self.pool.close_idle();
        self.multiplexed.borrow_mut().retain(|connection| !connection.sender.is_closed());
    }

    /// Closes idle connections for which requests of other shards wait; half of all where there are no descriptors.
    pub(super) fn make_room(&self) {
        let multiplexed = self.multiplexed.borrow();
        let mut wanted = self.pool.wanted_elsewhere();
        if self.census.is_spent() {
            let idle = self.pool.idle() + multiplexed.iter().filter(|one| one.streams.get() == 0).count();
            wanted = wanted.max(idle.div_ceil(2));
        }
        drop(multiplexed);
        self.give_up(wanted);
    }

    /// Closes so many idle connections at the most.
    fn give_up(&self, most: usize) {
        let mut left = most - self.pool.give_up(most);
        self.multiplexed.borrow_mut().retain(|connection| {
            let goes = left > 0 && connection.streams.get() == 0;
            left -= usize::from(goes);
            !goes
        });
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Its task ends.
        self.standing.caps.wanted.notify_waiters();
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
        if self.0.pool.waiting.get() > 0 {
            self.0.pool.given_back.notify_one();
        }
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
    /// As [`Single`] has it.
    hold: Option<Rc<Hold>>,
}

impl Connection {
    fn shared(connection: &Rc<Multiplexed>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        let (sender, connection) = (connection.sender.clone(), Rc::clone(connection));
        Self::Shared(OneStream { sender, connection, hold: None })
    }
}

impl Drop for OneStream {
    fn drop(&mut self) {
        let left = self.connection.streams.get().saturating_sub(1);
        self.connection.streams.set(left);
        if left == 0 {
            self.connection.standing.caps.has_idle();
        }
        if let Some(hold) = self.hold.take() {
            objects::end_stream(hold);
        }
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
    pub(super) fn send(&mut self, request: Request<RequestBody>) -> impl Future<Output = Sent> + use<> {
        match &mut self.connection {
            Connection::Single(single) => Either::Left(single.send(request)),
            Connection::Shared(stream) => Either::Right(stream.sender.try_send_request(request)),
        }
    }

    /// A copy of a request that may have to be sent again: over HTTP/2, where the codec lets nobody see what it writes.
    pub(super) fn copy(&self, request: &Request<RequestBody>) -> Option<Box<Request<RequestBody>>> {
        let whole = request.body().is_end_stream() && request.method() != Method::CONNECT;
        if !self.is_http2() || !whole {
            return None;
        }
        let mut copy = Request::new(RequestBody::EMPTY);
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        copy.headers_mut().clone_from(request.headers());
        Some(Box::new(copy))
    }

    /// The request that was sent last, where it can be sent again as it was: it is whole, and nothing of an answer came.
    pub(super) fn unanswered(&self) -> Option<Unanswered> {
        match &self.connection {
            Connection::Single(single) => single.unanswered(),
            Connection::Shared(_) => None,
        }
    }

    /// The response is large and for this client, who is sent nothing else meanwhile.
    pub(super) fn read_for(&self, client: &Rc<Watch>) {
        if let Connection::Single(single) = &self.connection {
            single.read_for(client);
        }
    }

    /// The connection was a kept one, and the upstream has closed it under a request.
    pub(super) fn was_stale(&self) {
        self.place.0.pool.be_wary();
    }

    /// The request that is to be sent is for an object; or (`None`) the upstream has nothing more to do for it, so that the
    /// object need not wait for the connection's end.
    pub(super) fn hold(&mut self, hold: Option<&Rc<Hold>>) {
        let held = match &mut self.connection {
            Connection::Single(single) => &mut single.hold,
            Connection::Shared(stream) => &mut stream.hold,
        };
        *held = hold.cloned();
    }

    /// Keeps the connection for another request.
    pub(super) fn give_back(self) {
        if let Connection::Single(single) = self.connection {
            self.place.0.pool.keep(single);
        }
    }
}

/// How long a new HTTP/2 connection is given to say whether it allows extended CONNECT.
const SETTINGS: Duration = Duration::from_secs(1);
/// The first pause before a look at whether it has said so; each further pause is twice as long.
const LOOK: Duration = Duration::from_millis(1);
