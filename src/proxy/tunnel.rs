//! Tunnels: what a connection or stream becomes after `Upgrade` (RFC 9110 section 7.8) or extended CONNECT (RFC 8441).

use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::ResponseBody;
use super::failure::Kind;
use super::goodbye::Side;
use super::head;
use super::objects;
use super::record::Meter;
use super::respond;
use super::upload::RequestBody;
use super::upstream::Lease;
use crate::metrics::Limit;

/// How long a WebSocket that the proxy ends may take to the end of the frame that is under way, and then to answer.
const GOODBYE: Duration = Duration::from_secs(2);

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// What a client asks for, and the end of the tunnel that it will hold.
pub(super) struct Upgrade {
    client: Client,
    /// The method with which an HTTP/1.1 upstream is asked: the client's, or GET.
    method: Method,
    /// The protocols that the client would switch to.
    wanted: HeaderValue,
    /// The key that the upstream must prove to have seen (RFC 6455 section 4.1): the client's, or a fresh one.
    key: Option<HeaderValue>,
    on_upgrade: OnUpgrade,
}

/// How the client asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Http1,
    Http2,
}

impl Upgrade {
    /// What an HTTP/1.1 request asks its connection to become, if anything.
    pub(super) fn asked(parts: &mut Parts) -> Option<Self> {
        let wanted = head::upgrade_of(&parts.headers)?;
        let on_upgrade = parts.extensions.remove::<OnUpgrade>()?;
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).cloned();
        Some(Self { client: Client::Http1, method: parts.method.clone(), wanted, key, on_upgrade })
    }

    /// A WebSocket over HTTP/2. There is no key in it; an HTTP/1.1 upstream gets a fresh one.
    pub(super) fn extended_connect(parts: &mut Parts) -> Option<Self> {
        let on_upgrade = parts.extensions.remove::<OnUpgrade>()?;
        let key = HeaderValue::from_str(&STANDARD.encode(fastrand::u128(..).to_ne_bytes())).ok();
        Some(Self { client: Client::Http2, method: Method::GET, wanted: WEBSOCKET, key, on_upgrade })
    }

    /// Whether the client asks for a WebSocket, the one protocol that HTTP/2 can carry.
    pub(super) fn is_websocket(&self) -> bool {
        self.wanted.as_bytes().eq_ignore_ascii_case(b"websocket")
    }

    /// Gives a request the form in which the upstream's protocol asks for a tunnel.
    pub(super) fn dress(&self, request: &mut Request<RequestBody>, http2: bool) {
        if http2 {
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(Protocol::from_static("websocket"));
            let headers = request.headers_mut();
            for name in [header::SEC_WEBSOCKET_KEY, header::CONNECTION, header::UPGRADE] {
                headers.remove(name);
            }
            return;
        }
        // As an HTTP/2 client sent it, or as it was dressed for an upstream that did not take it.
        if *request.method() == Method::CONNECT {
            request.method_mut().clone_from(&self.method);
            request.extensions_mut().remove::<Protocol>();
            if let Some(key) = &self.key {
                request.headers_mut().insert(header::SEC_WEBSOCKET_KEY, key.clone());
            }
        }
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.wanted.clone());
        if self.client == Client::Http2 {
            headers.entry(header::SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        }
    }

    /// Whether a response's head agrees to what was asked.
    fn accepted(&self, response: &Response<Incoming>, http2: bool) -> Result<bool, Kind> {
        let headers = response.headers();
        if http2 {
            return Ok(response.status().is_success());
        }
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(false);
        }
        let asked = |token: &[u8]| head::tokens(&self.wanted).any(|wanted| same_protocol(wanted, token));
        let mut granted = headers.get_all(header::UPGRADE).iter().flat_map(head::tokens).peekable();
        let ours = granted.peek().is_some() && granted.all(asked);
        let proven = self.client == Client::Http1 || self.proof().as_ref() == headers.get(ACCEPT);
        if ours && proven { Ok(true) } else { Err(Kind::UnaskedUpgrade) }
    }

    /// What shows that a key was seen: RFC 6455 section 4.2.2.
    fn proof(&self) -> Option<HeaderValue> {
        let key = self.key.as_ref()?;
        let seen = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &seen);
        HeaderValue::from_str(&STANDARD.encode(hash)).ok()
    }
}

const ACCEPT: HeaderName = header::SEC_WEBSOCKET_ACCEPT;

/// `HTTP/2.0` and `http/2.0` are one protocol; so are `websocket` and `WebSocket`.
fn same_protocol(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// The client's response to a request for a tunnel; where the upstream agrees, the tunnel goes on by itself.
pub(super) fn answer(
    upgrade: Upgrade,
    response: Response<Incoming>,
    lease: Lease,
    meter: Box<Meter>,
) -> Response<ResponseBody> {
    match upgrade.accepted(&response, lease.is_http2()) {
        Ok(true) => open(upgrade, response, lease, meter),
        // A 2xx to an extended CONNECT says that the tunnel is open (RFC 8441 section 4), and it is not.
        Ok(false) if upgrade.client == Client::Http2 && response.status().is_success() => {
            respond::refuse(&Kind::UpgradeRefused.into(), meter)
        }
        // Not agreed: an ordinary answer, such as 401 or 426.
        Ok(false) => respond::answer(response, lease, meter),
        Err(kind) => respond::refuse(&kind.into(), meter),
    }
}

fn open(
    upgrade: Upgrade,
    mut response: Response<Incoming>,
    lease: Lease,
    mut meter: Box<Meter>,
) -> Response<ResponseBody> {
    let upstream = hyper::upgrade::on(&mut response);
    let (mut head, _) = response.into_parts();
    let granted = head.headers.get(header::UPGRADE).cloned();
    if let Err(kind) = head::prepare_response(&mut head.headers) {
        return respond::refuse(&kind.into(), meter);
    }
    respond::expose(&mut head.headers, &meter);
    dress_response(&upgrade, &mut head.headers, granted, lease.is_http2());
    let status = match upgrade.client {
        Client::Http1 => StatusCode::SWITCHING_PROTOCOLS,
        Client::Http2 => StatusCode::OK,
    };
    meter.answered(status);
    let is_websocket = upgrade.client == Client::Http2
        || lease.is_http2()
        || head.headers.get(header::UPGRADE).is_some_and(|name| same_protocol(name.as_bytes(), b"websocket"));
    tokio::task::spawn_local(carry(upgrade.on_upgrade, upstream, lease, meter, is_websocket));
    let mut answer = Response::new(ResponseBody::own(Bytes::new(), None));
    *answer.status_mut() = status;
    *answer.headers_mut() = head.headers;
    answer
}

fn dress_response(
    upgrade: &Upgrade,
    headers: &mut HeaderMap,
    granted: Option<HeaderValue>,
    upstream_http2: bool,
) {
    match upgrade.client {
        Client::Http1 => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, granted.unwrap_or(WEBSOCKET));
            if let Some(proof) = upgrade.proof().filter(|_| upstream_http2) {
                headers.insert(ACCEPT, proof);
            }
        }
        Client::Http2 => {
            headers.remove(ACCEPT);
        }
    }
}

/// Carries bytes both ways until both sides have ended, one fails, or nothing has moved for as long as a client may be idle,
/// or the worker's upstreams.
async fn carry(
    client: OnUpgrade,
    upstream: OnUpgrade,
    mut lease: Lease,
    mut meter: Box<Meter>,
    is_websocket: bool,
) {
    let tenure = meter.tunnels();
    let (client, upstream) = match tokio::try_join!(client, upstream) {
        Ok(ends) => ends,
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a tunnel did not open");
            return;
        }
    };
    let moved = Rc::new(Moved { last: Cell::new(Instant::now()), sent: Cell::new(0) });
    let client = Watched { inner: TokioIo::new(client), moved: Rc::clone(&moved) };
    let object = meter.held.as_ref().map(|held| Arc::clone(held.tenancy()));
    let kind = Carried { is_websocket, is_held: object.is_some() };
    let (of_worker, of_client) = (meter.idle_limit(), meter.limits().body_idle_timeout);
    let over = async {
        let retired = async {
            match tenure {
                Some(tenure) => tenure.over().await,
                None => std::future::pending().await,
            }
        };
        match object {
            Some(object) => tokio::select! {
                () = retired => {}
                () = object.over() => {}
            },
            None => retired.await,
        }
    };
    let copied = relay(client, TokioIo::new(upstream), kind, async {
        tokio::select! {
            () = over => Cut::Over,
            () = stands_still(&moved, of_worker.min(of_client)) => {
                if of_client < of_worker {
                    meter.client.shard.limited(Limit::BodyIdleTimeout);
                }
                Cut::StandsStill
            }
        }
    })
    .await;
    meter.response_bytes = moved.sent.get();
    match copied {
        Ok(()) => meter.whole(),
        Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "a tunnel was cut"),
    }
    // The upstream has been seen off.
    lease.hold(None);
}

/// Why a tunnel is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The time of its version is over, or that of its object there.
    Over,
    /// Nothing has moved for too long.
    StandsStill,
}

impl From<Cut> for io::Error {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Over => Self::other("the time of the version is over, or that of the object on it"),
            Cut::StandsStill => io::ErrorKind::TimedOut.into(),
        }
    }
}

/// What is carried.
#[derive(Clone, Copy)]
struct Carried {
    /// It ends with a goodbye.
    is_websocket: bool,
    /// It is for an object, which no other version may have before the upstream has seen the end.
    is_held: bool,
}

/// Carries bytes both ways until both sides have ended, one fails, or the tunnel is `cut`. When the version's time is over, a
/// WebSocket is closed first.
async fn relay<C, U>(
    client: C,
    upstream: U,
    carried: Carried,
    cut: impl Future<Output = Cut>,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let Carried { is_websocket, is_held } = carried;
    let goodbye = Rc::new(Cell::new(false));
    let (mut client, mut upstream) =
        (Side::new(client, &goodbye, true), Side::new(upstream, &goodbye, false));
    let ended = {
        let mut copied = pin!(tokio::io::copy_bidirectional(&mut client, &mut upstream));
        tokio::select! {
            copied = &mut copied => Ok(copied.map(drop)),
            cut = cut => {
                if is_websocket && cut == Cut::Over {
                    goodbye.set(true);
                    let _ = tokio::time::timeout(GOODBYE, copied).await;
                }
                Err(cut)
            }
        }
    };
    let (mut client, mut upstream) = (client.into_inner(), upstream.into_inner());
    if goodbye.get() {
        // Each side still says goodbye, too. A socket that is closed with something unread in it takes back what was
        // written last: the close frame.
        let (mut here, mut there) = (tokio::io::sink(), tokio::io::sink());
        let read = async {
            tokio::join!(tokio::io::copy(&mut client, &mut here), tokio::io::copy(&mut upstream, &mut there))
        };
        let _ = tokio::time::timeout(GOODBYE, read).await;
    }
    if is_held {
        drop(client);
        Box::pin(objects::see_off(&mut upstream)).await;
    }
    ended.unwrap_or_else(|cut| Err(cut.into()))
}

async fn stands_still(moved: &Moved, limit: Duration) {
    loop {
        let due = moved.last.get() + limit;
        if due <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(due.into()).await;
    }
}

/// When bytes last moved through a tunnel, and how many went to the client.
struct Moved {
    last: Cell<Instant>,
    sent: Cell<u64>,
}

/// The client's end of a tunnel. Every byte either comes from it or goes to it, so that watching one end is enough.
struct Watched<T> {
    inner: T,
    moved: Rc<Moved>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        #[cfg(test)]
        super::panics::provoke(buf.filled(), "tunnel");
        this.moved.last.set(Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, buf))?;
        this.moved.last.set(Instant::now());
        this.moved.sent.set(this.moved.sent.get() + written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_dressed_for_http_2_gets_its_method_and_key_back_for_http_1() {
        let mut request = Request::new(RequestBody::EMPTY);
        let names = [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_KEY];
        let lines = ["upgrade", "websocket", "dGhlIHNhbXBsZSBub25jZQ=="];
        for (name, line) in names.iter().zip(lines) {
            request.headers_mut().insert(name, HeaderValue::from_static(line));
        }
        let asked = request.headers().clone();
        let upgrade = Upgrade {
            client: Client::Http1,
            method: Method::GET,
            wanted: WEBSOCKET,
            key: asked.get(header::SEC_WEBSOCKET_KEY).cloned(),
            on_upgrade: hyper::upgrade::on(Response::new(())),
        };
        upgrade.dress(&mut request, true);
        assert!(request.method() == Method::CONNECT && request.headers().is_empty());
        upgrade.dress(&mut request, false);
        assert_eq!((request.method(), request.headers()), (&Method::GET, &asked));
        assert!(request.extensions().get::<Protocol>().is_none());
    }
}
