//! Admission: a head is checked, finds its worker and version, and is prepared for the next hop. Nothing here waits.

use std::borrow::Cow;

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::body::ResponseBody;
use super::failure::Kind;
use super::handler::Client;
use super::head::{self, Deciding, Introduction, Seen};
use super::objects::{Obstacle, Wait};
use super::overrides;
#[cfg(test)]
use super::panics;
use super::record::{Line, Meter};
use super::respond::{local, refuse};
use super::snapshot::{VersionState, WorkerState};
use super::steering::{self, Request};
use super::tunnel::Upgrade;
use super::wire;
use crate::config::{self, Limits};
use crate::model::decision::{Decision, Selection, Sent};
use crate::model::forwarded;
use crate::model::head::{Head, KEY_HEADER, Lines};
use crate::model::overrides::{OVERRIDES_HEADER, Override};
use crate::model::ring::Member;

/// What is known of a request that has a version, besides its head.
pub(super) struct Admitted {
    /// The host that the client asked for; `None` for HTTP/1.0 without one.
    pub(super) host: Option<HeaderValue>,
    pub(super) upgrade: Option<Upgrade>,
    /// Whether the client sent it as its one `Host` line.
    pub(super) host_as_sent: bool,
    pub(super) te_trailers: bool,
}

/// Why a request gets no further.
pub(super) enum Refusal {
    /// The proxy answers it itself.
    Answer(Box<Response<Bytes>>),
    Failure(Kind),
    /// Not yet: its object is not free.
    Wait(Box<Wait>),
}

impl Refusal {
    pub(super) fn answer(self, meter: Box<Meter>) -> Response<ResponseBody> {
        match self {
            Self::Answer(response) => local(*response, meter),
            Self::Failure(kind) => refuse(&kind.into(), meter),
            Self::Wait(_) => refuse(&Kind::ObjectMoving.into(), meter),
        }
    }
}

impl From<Obstacle> for Refusal {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Wait(wait) => Self::Wait(wait),
            Obstacle::Refused(kind) => Self::Failure(kind),
        }
    }
}

impl From<Kind> for Refusal {
    fn from(kind: Kind) -> Self {
        Self::Failure(kind)
    }
}

/// Checks a head, finds its worker and version, and prepares it for the next hop. Everything here is synchronous.
/// `declared` is how long the body says that it is. `again`: its head was checked before.
pub(super) fn admit(
    client: &Client,
    meter: &mut Meter,
    parts: &mut Parts,
    declared: Option<u64>,
    again: bool,
) -> Result<Admitted, Refusal> {
    let (seen, deciding) = Seen::look(&parts.headers);
    let listener = client.listener.current();
    let settings = listener.settings();
    let trusted = client.named && settings.trusted_proxies.contain(client.address);
    let https = client.tls || (trusted && forwarded::says_https(&parts.headers));
    let wanted = client.shard.sink().wanted();
    if wanted.by_the_log() {
        meter.line = Some(Box::new(Line::of(parts, https)));
    }
    within_limits(meter.limits(), parts, &seen, declared)?;
    if parts.method == Method::CONNECT && !is_websocket(parts) {
        return Err(Kind::Connect.into());
    }
    seen.check(parts)?;
    // The codec takes off a length that stands beside a transfer coding.
    if seen.is_chunked() && !again {
        wire::check_chunked(client.watch.turn(), parts.method.as_str())?;
    }
    let host = head::authority(parts, deciding.host)?;
    answer_here(settings, parts, host.as_ref(), https)?;
    let head = view(client, parts, host.as_ref());
    route(meter, &head)?;
    if wanted.by_a_tail() {
        meter.keep_for_tails(parts, https);
    }
    let steered = worker_of(meter).is_some_and(|worker| worker.steering.is_some());
    if steered {
        let trusted_proxies = &settings.trusted_proxies;
        let request = Request { client, seen: &seen, host: host.as_ref(), trusted, https, trusted_proxies };
        steering::select(&request, meter, parts)?;
    } else {
        select(client, meter, &head, &seen, &deciding, trusted);
    }
    #[cfg(test)]
    panics::provoke(parts.headers.get("x-test-panic").map_or(b"", HeaderValue::as_bytes), "admission");
    let (worker, version) = chosen(meter).ok_or(Kind::NoWorker)?;
    let host_as_sent = seen.hosts == 1 && parts.uri.authority().is_none();
    let upgrade = upgrade(parts, seen.upgrade && declared == Some(0))?;
    if !steered {
        remove_refused(&mut parts.headers, &seen, worker, trusted);
        cut_tokens(parts, &seen, worker);
    }
    let introduction =
        Introduction { trusted, address: client.address_text.as_ref(), https, host: host.as_ref() };
    head::prepare_request(parts, &seen, &introduction);
    set_metadata(&mut parts.headers, worker, version);
    Ok(Admitted { host, upgrade, host_as_sent, te_trailers: seen.te_trailers })
}

/// Refuses what is longer than is allowed, and was not refused by the codec.
fn within_limits(limits: &Limits, parts: &Parts, seen: &Seen, declared: Option<u64>) -> Result<(), Kind> {
    if parts.uri.path_and_query().map_or(0, |target| target.as_str().len()) > limits.uri_bytes {
        return Err(Kind::UriTooLong);
    }
    let lines = parts.headers.len();
    if lines > limits.header_count && lines - seen.more_crumbs() > limits.header_count {
        return Err(Kind::HeadTooLarge);
    }
    match limits.request_body_bytes {
        Some(most) if declared.is_some_and(|length| length > most) => Err(Kind::BodyTooLarge),
        _ => Ok(()),
    }
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
    let Some(worker) = worker_of(meter) else { return };
    let key = field(head, KEY_HEADER, deciding.key, seen.keys);
    let overrides = field(head, OVERRIDES_HEADER, deciding.overrides, seen.overrides);
    let (key, overrides) = (key.as_deref(), overrides.as_deref());
    let secret = overrides.and_then(|_| worker.secret());
    let sent = Sent { key, overrides, trusted, secret, draw: client.shard.draw(), ..Sent::default() };
    let selection = worker.policy().select(&sent);
    let decision = settle(worker, &selection, sent.draw);
    meter.overridden = selection.overridden;
    meter.chose(decision.member.index(), decision.reason);
}

/// What a choice comes to where versions may stand in for each other. Counts what became of an override.
pub(super) fn settle(worker: &WorkerState, selection: &Selection<'_>, draw: u64) -> Decision {
    match selection.overridden {
        Override::Absent => {}
        Override::Version(_) => worker.series.overridden(None),
        Override::Ignored(problem) => worker.series.overridden(Some(problem)),
    }
    if worker.remaps() { fail_over(worker, selection, draw) } else { selection.decision }
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

fn worker_of(meter: &Meter) -> Option<&WorkerState> {
    meter.snapshot.workers.get(meter.worker?)
}

pub(super) fn chosen(meter: &Meter) -> Option<(&WorkerState, &VersionState)> {
    let worker = meter.snapshot.workers.get(meter.worker?)?;
    Some((worker, worker.versions.get(meter.version?.0)?))
}

/// The gate: what the sender may not send is not forwarded either.
pub(super) fn remove_refused(headers: &mut HeaderMap, seen: &Seen, worker: &WorkerState, trusted: bool) {
    let policy = worker.policy();
    if seen.keys > 0 && !policy.keys.allow(trusted) {
        headers.remove(head::KEY);
    }
    if seen.overrides > 0 && !policy.overrides.allow(trusted) {
        headers.remove(head::OVERRIDES);
    }
}

/// What was shown to this proxy stays with it.
fn cut_tokens(parts: &mut Parts, seen: &Seen, worker: &WorkerState) {
    if seen.overrides > 0 && worker.secret().is_some() && parts.headers.contains_key(head::OVERRIDES) {
        overrides::cut_tokens(&mut parts.headers, worker.name());
    }
}

/// Says which version the request is for.
pub(super) fn set_metadata(headers: &mut HeaderMap, worker: &WorkerState, version: &VersionState) {
    headers.insert(head::WORKER, worker.name.clone());
    headers.insert(head::VERSION_ID, version.headers.id.clone());
    if let Some(tag) = &version.headers.tag {
        headers.insert(head::VERSION_TAG, tag.clone());
    }
    if let Some(timestamp) = &version.headers.timestamp {
        headers.insert(head::VERSION_TIMESTAMP, timestamp.clone());
    }
}
