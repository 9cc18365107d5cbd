//! One request: from its head to a version and back. Generic over how the bytes of its body arrive.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::{Either, ready};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, Version, header};
use http_body::Body;
use tokio::time::Sleep;

use super::admission::{Admitted, Refusal, admit, chosen};
use super::assets::{Asset, Pursuit};
use super::attempt::Attempts;
use super::body::ResponseBody;
use super::connection::ListenerSlot;
use super::failure::{Failure, Kind, Source};
use super::objects::{self, Waiting, Within};
use super::panics;
use super::record::{self, Meter};
use super::respond::{answer, failed_as, refuse};
use super::shard::Shard;
use super::tunnel;
use super::upload::{self, Progress, RequestBody};
use super::upstream::Lease;
use super::watch::Watch;
use crate::config::UpstreamHost;

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
    match Exchange::begin(client, meter_of(client), request, false) {
        Ok(exchange) => Either::Left(exchange.run()),
        Err(Halt::Answered(response)) => Either::Right(Either::Left(ready(Ok(*response)))),
        Err(Halt::Waits(waiting)) => Either::Right(Either::Right(Box::pin(waiting.end()))),
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
    match panics::caught(|| Exchange::begin(client, meter_of(client), request, false)) {
        Some(Ok(exchange)) => Either::Left(panics::catching(exchange.run(), panicked)),
        Some(Err(Halt::Answered(response))) => Either::Right(Either::Left(ready(Ok(*response)))),
        Some(Err(Halt::Waits(waiting))) => {
            Either::Right(Either::Right(Box::pin(panics::catching(waiting.end(), panicked))))
        }
        None => Either::Right(Either::Left(ready(panicked()))),
    }
}

// A part of its callers, which are the way of every request.
#[inline(always)]
fn meter_of(client: &Rc<Client>) -> Box<Meter> {
    Meter::new(client, client.shard.snapshot(), Instant::now())
}

/// Why a request does not go to its version now.
pub(super) enum Halt<B> {
    /// It has its answer.
    Answered(Box<Response<ResponseBody>>),
    /// Its object is not free.
    Waits(Box<Waiting<B>>),
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
    /// Where other versions may be asked for what the own one has not got.
    pub(super) asset: Option<Pursuit>,
}

impl Exchange {
    /// Finds a request's version. `again`: it was looked at before, and had to wait for its object.
    pub(super) fn begin<B>(
        client: &Client,
        mut meter: Box<Meter>,
        request: Request<B>,
        again: bool,
    ) -> Result<Box<Self>, Halt<B>>
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<Source>,
    {
        let (mut parts, body) = request.into_parts();
        let bodiless = body.is_end_stream();
        let declared = if bodiless { Some(0) } else { body.size_hint().exact() };
        meter.http2 = parts.version == Version::HTTP_2;
        meter.is_asset = record::is_asset(parts.uri.path());
        let drained = !bodiless && may_drain(&parts);
        let admitted = match admit(client, &mut meter, &mut parts, declared, again) {
            Ok(admitted) => admitted,
            Err(Refusal::Wait(wait)) => {
                meter.waits();
                let request = Request::from_parts(parts, body);
                return Err(Halt::Waits(Box::new(Waiting { request, meter, wait, drained })));
            }
            Err(refusal) => {
                if drained {
                    upload::decline(body);
                }
                return Err(Halt::Answered(Box::new(refusal.answer(meter))));
            }
        };
        let asset =
            if meter.steered.is_some() { Asset::of(&meter, &parts, &admitted, bodiless) } else { None };
        let asset = asset.map(Pursuit::Own);
        let body = if admitted.upgrade.is_some() || bodiless {
            RequestBody::EMPTY
        } else {
            let most = meter.limits().request_body_bytes.unwrap_or(u64::MAX);
            let most_trailers = u32::try_from(meter.limits().header_bytes / 2).unwrap_or(u32::MAX);
            // Who had to wait for an object has not been asked for a body before.
            let begun = if again { Instant::now() } else { meter.started };
            let progress = Rc::new(Progress::new(begun, most, declared.is_some()));
            meter.progress = Some(Rc::clone(&progress));
            RequestBody::new(body, &progress, drained, most_trailers)
        };
        let request = Some(Request::from_parts(parts, body));
        Ok(Box::new(Self { request, meter, admitted, attempts: Attempts::default(), asset }))
    }

    /// Sends the request to its version, and makes the client's response of what comes back.
    pub(super) async fn run(mut self: Box<Self>) -> Result<Response<ResponseBody>, Infallible> {
        let mut cut = self.meter.held.as_ref().map(|held| objects::cut(held));
        // There is one place that sends: so that becomes a part of this, and costs the requests that are most no call.
        let mut exchanged;
        loop {
            exchanged = Within { cut: cut.as_mut(), exchange: pin!(self.exchange()) }.await;
            if self.asset.is_none() || self.is_final(&mut exchanged) {
                break;
            }
        }
        if cut.is_some() {
            self.hold_on(&mut exchanged);
        }
        self.count_retry(exchanged.is_ok());
        Ok(match exchanged {
            Ok((response, lease)) => match self.admitted.upgrade.take() {
                Some(upgrade) => tunnel::answer(upgrade, response, lease, self.meter),
                None => answer(response, lease, self.meter),
            },
            Err(failure) => refuse(&failure, self.meter),
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
