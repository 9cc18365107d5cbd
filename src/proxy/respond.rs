//! What a client is answered: its upstream's response made ready for it, or the proxy's own.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use hyper::body::Incoming;

use super::admission::chosen;
use super::body::ResponseBody;
use super::failure::{Failure, Kind};
use super::head;
use super::record::Meter;
use super::steering;
use super::upstream::Lease;
use crate::model::overrides::Override;

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
    if let Some(steered) = &meter.steered
        && let Some((worker, _)) = chosen(&meter)
    {
        steering::give_cookie(parts.status, &mut parts.headers, worker, steered);
    }
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

/// An answer of the proxy's own that is no failure. No object has to wait until the client has taken it.
pub(super) fn local(response: Response<Bytes>, mut meter: Box<Meter>) -> Response<ResponseBody> {
    meter.held = None;
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
    if kind.passes() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
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

pub(super) fn failed_as(kind: Kind) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(kind.body()));
    *response.status_mut() = kind.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(head::GRADUAL_ERROR, HeaderValue::from_static(kind.as_str()));
    response
}
