//! One request: from its head to a version and back. Generic over how the bytes of its body arrive.

use std::borrow::Cow;
use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::{Either, ready};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::attempt::Attempts;
use super::body::ResponseBody;
use super::connection::ListenerSlot;
use super::failure::{Failure, Kind, Source};
use super::head::{self, Deciding, Introduction, Seen};
use super::overrides;
use super::panics;
use super::record::{self, Line, Meter};
use super::shard::Shard;
use super::snapshot::{VersionState, WorkerState};
use super::tunnel::{self, Upgrade};
use super::upload::{self, Progress, RequestBody};
use super::upstream::Lease;
use super::watch::Watch;
use super::wire;
use crate::config::{self, Limits, UpstreamHost};
use crate::model::decision::{Decision, Selection, Sent};
use crate::model::head::{Head, KEY_HEADER, Lines};
use crate::model::overrides::{OVERRIDES_HEADER, Override};
use crate::model::ring::Member;

/// A client's connection, as its requests see it.
pub(super) struct Client {
    pub(super) shard: Rc<Shard>,
    pub(super) listener: Rc<ListenerSlot>,
    /// Who it is; `None` on a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// Whether the address is its own: a balancer in front may not say whom it speaks for.
    pub(super) named: bool,
    /// The address without port, as a header value.
    pub(super) address_text: Option<HeaderValue>,
    pub(super) tls: bool,
    /// A timer for whichever request comes next.
    pub(super) timer: Cell<Option<Pin<Box<Sleep>>>>,
    /// What the shard watches the connection by.
    pub(super) watch: Rc<Watch>,
    /// Whether a panic has ended the connection.
    pub(super) panicked: Cell<bool>,
    /// Whether the panic's request has no answer yet.
    pub(super) owes_answer: Cell<bool>,
    /// Over HTTP/2, the place of the request that was begun last, until its stream runs.
    pub(super) begun: Cell<Option<usize>>,
}

/// Answers one request, whatever happens. All that needs no waiting is done at once; what waits is one small box, so that
/// an idle connection does not hold the room for it. A panic is for the caller to catch: it is the end of the one request
/// that an HTTP/1.1 connection serves, and to catch it here would cost every request some hundred instructions.
pub(super) fn handle<B>(
    client: &Rc<Client>,
    request: Request<B>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + use<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Source>,
{
    match Exchange::begin(client, request) {
        Ok(exchange) => Either::Left(exchange.run()),
        Err(response) => Either::Right(ready(Ok(*response))),
    }
}

/// The same for one of several requests on a connection: a panic leaves the others alone.
pub(super) fn handle_among_others<B>(
    client: &Rc<Client>,
    request: Request<B>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + use<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Source>,
{
    match panics::caught(|| Exchange::begin(client, request)) {
        Some(Ok(exchange)) => Either::Left(panics::catching(exchange.run(), panicked)),
        Some(Err(response)) => Either::Right(ready(Ok(*response))),
        None => Either::Right(ready(panicked())),
    }
}

/// The answer to a request that was lost to a panic; it was recorded when it was dropped.
#[cold]
fn panicked() -> Result<Response<ResponseBody>, Infallible> {
    Ok(failed_as(Kind::Internal).map(|body| ResponseBody::own(body, None)))
}

/// A request that has a version, on its way there and back.
pub(super) struct Exchange {
    /// `None` while it is being sent, and afterwards.
    pub(super) request: Option<Request<RequestBody>>,
    pub(super) meter: Box<Meter>,
    pub(super) admitted: Admitted,
    pub(super) attempts: Attempts,
}

/// What is known of a request that has a version, besides its head.
pub(super) struct Admitted {
    /// The host that the client asked for; `None` for HTTP/1.0 without one.
    host: Option<HeaderValue>,
    pub(super) upgrade: Option<Upgrade>,
    /// Whether the client sent it as its one `Host` line.
    host_as_sent: bool,
    te_trailers: bool,
}

impl Exchange {
    fn begin<B>(client: &Rc<Client>, request: Request<B>) -> Result<Box<Self>, Box<Response<ResponseBody>>>
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<Source>,
    {
        let mut meter = Meter::new(client, client.shard.snapshot(), Instant::now());
        let (mut parts, body) = request.into_parts();
        let bodiless = body.is_end_stream();
        let declared = if bodiless { Some(0) } else { body.size_hint().exact() };
        meter.http2 = parts.version == Version::HTTP_2;
        meter.is_asset = record::is_asset(parts.uri.path());
        let drained = !bodiless && may_drain(&parts);
        let admitted = match admit(client, &mut meter, &mut parts, declared) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                if drained {
                    upload::decline(body);
                }
                return Err(Box::new(refusal.answer(meter)));
            }
        };
        let body = if admitted.upgrade.is_some() || bodiless {
            RequestBody::EMPTY
        } else {
            let most = meter.limits().request_body_bytes.unwrap_or(u64::MAX);
            let most_trailers = u32::try_from(meter.limits().header_bytes / 2).unwrap_or(u32::MAX);
            let progress = Rc::new(Progress::new(meter.started, most, declared.is_some()));
            meter.progress = Some(Rc::clone(&progress));
            RequestBody::new(body, &progress, drained, most_trailers)
        };
        let request = Some(Request::from_parts(parts, body));
        Ok(Box::new(Self { request, meter, admitted, attempts: Attempts::default() }))
    }

    /// Sends the request to its version, and makes the client's response of what comes back.
    async fn run(mut self: Box<Self>) -> Result<Response<ResponseBody>, Infallible> {
        let exchanged = self.exchange().await;
        self.count_retry(exchanged.is_ok());
        let Self { meter, admitted, .. } = *self;
        Ok(match exchanged {
            Ok((response, lease)) => match admitted.upgrade {
                Some(upgrade) => tunnel::answer(upgrade, response, lease, meter),
                None => answer(response, lease, meter),
            },
            Err(failure) => refuse(&failure, meter),
        })
    }

    /// Whether the request's `Host` line is what the endpoint is to see.
    fn keeps_host(&self, lease: &Lease) -> bool {
        let preserved = chosen(&self.meter)
            .is_some_and(|(worker, _)| matches!(worker.upstream_host(), UpstreamHost::Preserve));
        self.admitted.host_as_sent && preserved && !lease.is_http2() && !self.attempts.of_http2
    }

    /// The `Host` that the endpoint is to see.
    fn upstream_host(&self, lease: &Lease) -> Result<HeaderValue, Kind> {
        let own = lease.host();
        let (worker, _) = chosen(&self.meter).ok_or(Kind::NoUpstream)?;
        let host = match worker.upstream_host() {
            UpstreamHost::Preserve => self.admitted.host.as_ref().or(own),
            UpstreamHost::Upstream => own,
            UpstreamHost::Name(_) => worker.host.as_ref(),
        };
        host.cloned().ok_or(Kind::BadRequest("the request has no Host"))
    }

    /// Gives a request for a tunnel the form of the protocol that its connection speaks.
    pub(super) fn dress_tunnel(&mut self, lease: &Lease, extended_connect: bool) -> Result<(), Kind> {
        let Some(upgrade) = &self.admitted.upgrade else { return Ok(()) };
        if lease.is_http2() && !(upgrade.is_websocket() && extended_connect) {
            return Err(Kind::UpgradeRefused);
        }
        if let Some(request) = &mut self.request {
            upgrade.dress(request, lease.is_http2());
        }
        Ok(())
    }

    /// Gives the request the form of the protocol that its connection speaks. Can be done again for another connection.
    pub(super) fn dress(&mut self, lease: &Lease) -> Result<(), Failure> {
        // As the client sent it, where nothing says otherwise: most requests need not be touched.
        let host = if self.keeps_host(lease) { None } else { Some(self.upstream_host(lease)?) };
        let Some(request) = &mut self.request else { return Ok(()) };
        if self.admitted.te_trailers && self.admitted.upgrade.is_none() {
            request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
            if !lease.is_http2() {
                request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("te"));
            }
        }
        if lease.is_http2() {
            self.attempts.of_http2 = true;
            return host.map_or(Ok(()), |host| dress_http2(request, &host, lease.is_tls()));
        }
        *request.version_mut() = Version::HTTP_11;
        if request.uri().authority().is_some() {
            let target = request.uri().path_and_query().cloned();
            *request.uri_mut() = target.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
        }
        if let Some(host) = host {
            request.headers_mut().insert(header::HOST, host);
        }
        // The codec would take a GET of unknown length for one without body.
        if !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Ok(())
    }
}

/// Whether what is left of a request's body may be taken where nobody wants it. Whoever waits for leave to send it (RFC 9110
/// section 10.1.1) must not get that by it, and may go on with something else instead.
fn may_drain(parts: &Parts) -> bool {
    parts.version != Version::HTTP_2 && !parts.headers.contains_key(header::EXPECT)
}

/// Why a request gets no further.
enum Refusal {
    /// The proxy answers it itself.
    Answer(Box<Response<Bytes>>),
    Failure(Kind),
}

impl Refusal {
    fn answer(self, meter: Box<Meter>) -> Response<ResponseBody> {
        match self {
            Self::Answer(response) => local(*response, meter),
            Self::Failure(kind) => refuse(&kind.into(), meter),
        }
    }
}

impl From<Kind> for Refusal {
    fn from(kind: Kind) -> Self {
        Self::Failure(kind)
    }
}

/// Checks a head, finds its worker and version, and prepares it for the next hop. Everything here is synchronous.
/// `declared` is how long the body says that it is.
fn admit(
    client: &Client,
    meter: &mut Meter,
    parts: &mut Parts,
    declared: Option<u64>,
) -> Result<Admitted, Refusal> {
    let (seen, deciding) = Seen::look(&parts.headers);
    let listener = client.listener.current();
    let settings = listener.settings();
    let trusted = client.named && settings.trusted_proxies.contain(client.address);
    let https = client.tls || (trusted && says_https(parts));
    if client.shard.sink().is_on() {
        meter.line = Some(Box::new(Line::of(parts, https)));
    }
    within_limits(meter.limits(), parts, declared)?;
    if parts.method == Method::CONNECT && !is_websocket(parts) {
        return Err(Kind::Connect.into());
    }
    seen.check(parts)?;
    // The codec takes off a length that stands beside a transfer coding.
    if seen.is_chunked() {
        wire::check_chunked(client.watch.turn(), parts.method.as_str())?;
    }
    let host = head::authority(parts, deciding.host)?;
    answer_here(settings, parts, host.as_ref(), https)?;
    let head = view(client, parts, host.as_ref());
    route(meter, &head)?;
    select(client, meter, &head, &seen, &deciding, trusted);
    #[cfg(test)]
    panics::provoke(parts.headers.get("x-test-panic").map_or(b"", HeaderValue::as_bytes), "admission");
    let (worker, version) = chosen(meter).ok_or(Kind::NoWorker)?;
    let host_as_sent = seen.hosts == 1 && parts.uri.authority().is_none();
    let upgrade = upgrade(parts, seen.upgrade && declared == Some(0))?;
    remove_refused(parts, &seen, worker, trusted);
    let introduction =
        Introduction { trusted, address: client.address_text.as_ref(), https, host: host.as_ref() };
    head::prepare_request(parts, &seen, &introduction);
    set_metadata(parts, worker, version);
    Ok(Admitted { host, upgrade, host_as_sent, te_trailers: seen.te_trailers })
}

/// Refuses what is longer than is allowed, and was not refused by the codec.
fn within_limits(limits: &Limits, parts: &Parts, declared: Option<u64>) -> Result<(), Kind> {
    if parts.uri.path_and_query().map_or(0, |target| target.as_str().len()) > limits.uri_bytes {
        return Err(Kind::UriTooLong);
    }
    if parts.headers.len() > limits.header_count {
        return Err(Kind::HeadTooLarge);
    }
    match limits.request_body_bytes {
        Some(most) if declared.is_some_and(|length| length > most) => Err(Kind::BodyTooLarge),
        _ => Ok(()),
    }
}

/// Whether a trusted proxy in front was asked by https.
fn says_https(parts: &Parts) -> bool {
    parts
        .headers
        .get(head::FORWARDED_PROTO)
        .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// Whether an extended CONNECT (RFC 8441) asks for a WebSocket.
fn is_websocket(parts: &Parts) -> bool {
    parts.extensions.get::<hyper::ext::Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// What the client wants its connection or stream to become. A request with a body is never an upgrade: RFC 9110
/// section 7.8 lets the field be ignored, and nothing of a body may be mistaken for the new protocol.
fn upgrade(parts: &mut Parts, may_upgrade: bool) -> Result<Option<Upgrade>, Kind> {
    if parts.method == Method::CONNECT {
        return Upgrade::extended_connect(parts).map(Some).ok_or(Kind::Connect);
    }
    Ok(if may_upgrade { Upgrade::asked(parts) } else { None })
}

/// What the proxy answers itself: its health, and redirects to https.
fn answer_here(
    listener: &config::Listener,
    parts: &Parts,
    host: Option<&HeaderValue>,
    https: bool,
) -> Result<(), Refusal> {
    if listener.health_path.as_deref() == Some(parts.uri.path())
        && (parts.method == Method::GET || parts.method == Method::HEAD)
    {
        return Err(Refusal::Answer(Box::new(Response::new(Bytes::from_static(b"ok\n")))));
    }
    if !listener.redirect_https || https {
        return Ok(());
    }
    let host = host.and_then(|host| host.to_str().ok()).ok_or(Kind::BadRequest("a redirect needs a Host"))?;
    let host = crate::model::route::host_of(host);
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if target == "*" {
        return Err(Kind::BadRequest("a redirect needs a path").into());
    }
    let location = HeaderValue::from_str(&format!("https://{host}{target}"));
    let location = location.map_err(|_| Kind::BadRequest("the request's target cannot be redirected"))?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    Err(Refusal::Answer(Box::new(response)))
}

/// A request's head as routing and the decision see it, whatever codec read it.
fn view<'a>(client: &Client, parts: &'a Parts, host: Option<&'a HeaderValue>) -> Head<'a, HeaderMap> {
    Head {
        method: parts.method.as_str(),
        authority: host.and_then(|host| host.to_str().ok()).unwrap_or(""),
        path: parts.uri.path(),
        query: parts.uri.query(),
        lines: &parts.headers,
        peer: client.address.map(|address| address.ip()),
    }
}

/// Finds the worker, and notes it.
fn route<L: Lines + ?Sized>(meter: &mut Meter, head: &Head<'_, L>) -> Result<(), Kind> {
    let routed = meter.snapshot.blueprint.router.route(head.authority, head.path);
    let routed =
        routed.map_err(|_| Kind::BadRequest("the path has dot segments, and routes here are by path"))?;
    meter.worker = Some(routed.ok_or(Kind::NoWorker)?);
    Ok(())
}

/// Chooses the worker's version, and notes it.
fn select<L: Lines + ?Sized>(
    client: &Client,
    meter: &mut Meter,
    head: &Head<'_, L>,
    seen: &Seen,
    deciding: &Deciding<'_>,
    trusted: bool,
) {
    let Some(worker) = meter.worker.and_then(|index| meter.snapshot.workers.get(index)) else { return };
    let key = field(head, KEY_HEADER, deciding.key, seen.keys);
    let overrides = field(head, OVERRIDES_HEADER, deciding.overrides, seen.overrides);
    let (key, overrides) = (key.as_deref(), overrides.as_deref());
    let secret = overrides.and_then(|_| worker.secret());
    let sent = Sent { key, overrides, trusted, secret, draw: client.shard.draw() };
    let selection = worker.policy().select(&sent);
    let decision =
        if worker.remaps() { fail_over(worker, &selection, sent.draw) } else { selection.decision };
    match selection.overridden {
        Override::Absent => {}
        Override::Version(_) => worker.series.overridden(None),
        Override::Ignored(problem) => worker.series.overridden(Some(problem)),
    }
    meter.overridden = selection.overridden;
    meter.chose(decision.member.index(), decision.reason);
}

/// The decision where versions may stand in for each other.
#[inline(never)]
fn fail_over(worker: &WorkerState, selection: &Selection<'_>, draw: u64) -> Decision {
    let is_up = |member: Member| {
        worker.versions.get(member.index()).is_some_and(|version| !version.backends.are_down())
    };
    if is_up(selection.decision.member) {
        return selection.decision;
    }
    worker.policy().fail_over(selection, draw, is_up).unwrap_or(selection.decision)
}

/// The value of a field: its one line as it is, several joined.
fn field<'a, L: Lines + ?Sized>(
    head: &Head<'a, L>,
    name: &str,
    first: Option<&'a HeaderValue>,
    lines: usize,
) -> Option<Cow<'a, [u8]>> {
    if lines > 1 { head.lines.joined(name) } else { first.map(|value| Cow::Borrowed(value.as_bytes())) }
}

pub(super) fn chosen(meter: &Meter) -> Option<(&WorkerState, &VersionState)> {
    let worker = meter.snapshot.workers.get(meter.worker?)?;
    Some((worker, worker.versions.get(meter.version?.0)?))
}

/// The gate: what the sender may not send is not forwarded either, and what was shown to this proxy stays with it.
fn remove_refused(parts: &mut Parts, seen: &Seen, worker: &WorkerState, trusted: bool) {
    let policy = worker.policy();
    if seen.keys > 0 && !policy.keys.allow(trusted) {
        parts.headers.remove(head::KEY);
    }
    if seen.overrides > 0 {
        if !policy.overrides.allow(trusted) {
            parts.headers.remove(head::OVERRIDES);
        } else if worker.secret().is_some() {
            overrides::cut_tokens(&mut parts.headers, worker.name());
        }
    }
}

fn set_metadata(parts: &mut Parts, worker: &WorkerState, version: &VersionState) {
    let headers = &mut parts.headers;
    headers.insert(head::WORKER, worker.name.clone());
    headers.insert(head::VERSION_ID, version.headers.id.clone());
    if let Some(tag) = &version.headers.tag {
        headers.insert(head::VERSION_TAG, tag.clone());
    }
    if let Some(timestamp) = &version.headers.timestamp {
        headers.insert(head::VERSION_TIMESTAMP, timestamp.clone());
    }
}

/// What a request that failed on its connection says: the client's side may be to blame.
pub(super) fn failed(error: hyper::Error, meter: &Meter) -> Failure {
    if meter.progress.as_ref().is_some_and(|progress| progress.is_too_large.get()) {
        return Kind::BodyTooLarge.into();
    }
    if meter.progress.as_ref().is_some_and(|progress| progress.panicked.get()) {
        meter.client.shard.services().registry.panicked();
        return Kind::Internal.into();
    }
    if meter.progress.as_ref().is_some_and(|progress| progress.failed.get()) {
        return Failure::because(Kind::BadRequest("the request's body was cut short or is malformed"), error);
    }
    Failure::of_upstream(error)
}

/// RFC 9113 section 8.3.1: the host is `:authority`, and `Host` is left out.
fn dress_http2(request: &mut Request<RequestBody>, host: &HeaderValue, tls: bool) -> Result<(), Failure> {
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(header::HOST);
    request.headers_mut().remove(header::TRANSFER_ENCODING);
    let target = request.uri().path_and_query().cloned();
    let uri = Uri::builder()
        .scheme(if tls { "https" } else { "http" })
        .authority(host.as_bytes())
        .path_and_query(target.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build();
    *request.uri_mut() = uri.map_err(|error| {
        Failure::because(Kind::BadRequest("the request's target cannot be sent over HTTP/2"), error)
    })?;
    Ok(())
}

/// The client's response of an upstream's.
pub(super) fn answer(
    response: Response<Incoming>,
    lease: Lease,
    mut meter: Box<Meter>,
) -> Response<ResponseBody> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return refuse(&Kind::UnaskedUpgrade.into(), meter);
    }
    let (mut parts, incoming) = response.into_parts();
    parts.version = Version::HTTP_11;
    if let Err(kind) = head::prepare_response(&mut parts.headers) {
        return refuse(&kind.into(), meter);
    }
    expose(&mut parts.headers, &meter);
    meter.answered(parts.status);
    let idle = meter.idle_limit();
    Response::from_parts(parts, ResponseBody::upstream(incoming, lease, idle, meter))
}

/// Says which version answered and why, where the worker wants it said.
pub(super) fn expose(headers: &mut HeaderMap, meter: &Meter) {
    let Some((worker, version)) = chosen(meter).filter(|(worker, _)| worker.is_exposed()) else { return };
    let Some((_, reason)) = meter.version else { return };
    let problem = match meter.overridden {
        Override::Ignored(problem) => Some(problem),
        Override::Absent | Override::Version(_) => None,
    };
    if let Some(item) = version.exposed(&worker.policy().name, reason, problem) {
        headers.insert(head::GRADUAL_VERSION, item);
    }
}

/// An answer of the proxy's own that is no failure.
fn local(response: Response<Bytes>, mut meter: Box<Meter>) -> Response<ResponseBody> {
    meter.answered(response.status());
    response.map(|body| ResponseBody::own(body, Some(meter)))
}

/// The answer to a request that cannot be served: its kind as a header, and a short body that says it in a sentence.
pub(super) fn refuse(failure: &Failure, mut meter: Box<Meter>) -> Response<ResponseBody> {
    let kind = failure.kind;
    meter.error = Some(kind);
    if kind.is_upstream() || kind.is_our_own() {
        meter.warn(failure);
    }
    let mut response = failed_as(kind);
    let headers = response.headers_mut();
    if matches!(kind, Kind::Connect) {
        headers
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"));
    }
    if let Some(limit) = kind.limit() {
        meter.client.shard.limited(limit);
    }
    if kind.closes() && !meter.http2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    expose(headers, &meter);
    local(response, meter)
}

fn failed_as(kind: Kind) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(kind.body()));
    *response.status_mut() = kind.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(head::GRADUAL_ERROR, HeaderValue::from_static(kind.as_str()));
    response
}
