//! Sending a request to an endpoint, and once more where that is safe.
//!
//! Safe is: nothing of the request was written; or HTTP/2 says that the upstream has not looked at it; or the method is
//! idempotent (RFC 9110 section 9.2.2), the request has no body, and the upstream closed the connection before a byte of an
//! answer came. So no upstream sees a POST twice. A request that was late once is not tried again: it would be late twice.
//!
//! Where nobody listens at an address of a name, one other address of it is tried for each request, outside of the budget: at
//! many a `localhost` somebody listens at only one of the two. With the one more attempt that is three connections at most.

use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use http::{Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::admission::chosen;
use super::asks::{Asks, Need};
use super::balance::{self, Choice};
use super::failure::{Failure, Kind};
use super::handler::{Exchange, failed};
use super::record::Meter;
use super::tap::Unanswered;
use super::upload::RequestBody;
use super::upstream::{Endpoint, Lease};
use super::wait::Wait;
use crate::config::Timeouts;
use crate::metrics::Retry;

/// What was tried for a request before.
#[derive(Default)]
pub(super) struct Attempts {
    /// Whether only a new connection will do.
    fresh: bool,
    /// How often it came back without that anything was sent.
    unsent: u8,
    /// Whether it was sent on a kept connection that the upstream closed under it. That is nobody's failure, and no load
    /// that the budget should bound.
    stale: bool,
    /// Whether it went to another address of a name, because nobody listens at the first.
    moved: bool,
    /// Whether it was sent for the second time.
    retried: bool,
    /// Whether any of these three: what comes of it counts as that of a retry.
    again: bool,
    /// Whether it was given the form of HTTP/2, and so lost its `Host` line.
    pub(super) of_http2: bool,
    /// Whether there is to be no second attempt at another endpoint.
    only: bool,
    /// When the time for it is over, where it has less than the worker's time limits give.
    due: Option<Instant>,
    /// Where it failed.
    tried: Vec<Rc<Endpoint>>,
}

impl Attempts {
    /// Those of a request that its own version has answered already: other versions see it once. Where a kept connection was
    /// closed under it, nobody has. What is not answered when it is `due` fails as if it had had all the time.
    pub(super) fn of_another_version(due: Instant) -> Self {
        Self { only: true, moved: true, due: Some(due), ..Self::default() }
    }

    /// Nothing may take longer than what is left of the time.
    fn shorten(&self, timeouts: &mut Timeouts) {
        let Some(due) = self.due else { return };
        let left = due.saturating_duration_since(Instant::now());
        timeouts.connect = timeouts.connect.min(left);
        timeouts.response = timeouts.response.min(left);
    }
}

/// A request comes back so often because its kept connection had ended: there may be several such connections.
const MOST_UNSENT: u8 = 4;

impl Exchange {
    /// Sends the request to one of its version's endpoints and waits for the response's head.
    pub(super) async fn exchange(&mut self) -> Result<(Response<Incoming>, Lease), Failure> {
        let once = self.is_once();
        let (mut choice, mut timeouts) = self.choose(once)?;
        let need = if self.admitted.upgrade.is_some() { Need::Tunnel } else { Need::Request };
        loop {
            let limits = self.meter.limits();
            self.attempts.shorten(&mut timeouts);
            let asks = Asks { need, fresh: self.attempts.fresh, once, patience: timeouts.connect, limits };
            let mut lease = match choice.endpoint.lease(asks).await {
                Ok(lease) => lease,
                Err(failure) => {
                    choice = self.unreachable(failure, choice)?;
                    continue;
                }
            };
            if let Some(held) = &self.meter.held {
                lease.hold(Some(held.hold()));
            }
            if need == Need::Tunnel {
                let extended = lease.is_http2() && Box::pin(lease.allows_extended_connect()).await;
                self.dress_tunnel(&lease, extended)?;
            }
            self.dress(&lease)?;
            let request = self.request.take().ok_or(Kind::Closed)?;
            #[cfg(test)]
            super::panics::provoke(
                request.headers().get("x-test-panic").map_or(b"", http::HeaderValue::as_bytes),
                "exchange",
            );
            let copy = lease.copy(&request);
            let sending = pin!(lease.send(request));
            self.attempts.shorten(&mut timeouts);
            let wait =
                Wait { timeouts, limits: self.meter.limits(), progress: self.meter.progress.as_deref() };
            let error = match wait.head_within(&self.meter.client, sending).await {
                Ok(Ok(response)) => {
                    self.answered(&mut choice);
                    return Ok((response, lease));
                }
                Ok(Err(error)) => error,
                Err(failure) => {
                    self.count(failure.kind, &mut choice);
                    return Err(failure);
                }
            };
            choice = self.unanswered(error, &lease, copy, choice)?;
        }
    }

    /// Counts what came of a request that was sent twice.
    pub(super) fn count_retry(&self, succeeded: bool) {
        if self.attempts.again
            && let Some((_, version)) = chosen(&self.meter)
        {
            version.series.retried(if succeeded { Retry::Success } else { Retry::Failure });
        }
    }

    /// Chooses an endpoint of the version, and notes it; with the deadlines that hold.
    fn choose(&mut self, once: bool) -> Result<(Choice, Timeouts), Failure> {
        let draw = self.meter.client.shard.draw();
        let (worker, version) = chosen(&self.meter).ok_or(Kind::NoUpstream)?;
        worker.tally.request();
        let endpoints = version.backends.endpoints();
        let none = if endpoints.is_empty() { Kind::NoUpstream } else { Kind::NoHealthyUpstream };
        let choice = balance::choose(&endpoints, draw, once).ok_or(none)?;
        drop(endpoints);
        let timeouts = *worker.timeouts();
        note(&mut self.meter, &choice);
        Ok((choice, timeouts))
    }

    /// Whether the request can be sent only once, wherever it goes.
    fn is_once(&self) -> bool {
        self.admitted.upgrade.is_some() || !self.request.as_ref().is_some_and(is_replayable)
    }

    /// The endpoint has answered.
    fn answered(&self, choice: &mut Choice) {
        if choice.answered() {
            tracing::info!(upstream = &*choice.endpoint.label, "an ejected upstream answers again");
        }
    }

    /// No connection could be had: nothing of the request was sent.
    #[cold]
    fn unreachable(&mut self, failure: Failure, mut choice: Choice) -> Result<Choice, Failure> {
        if failure.kind == Kind::Overloaded {
            if let Some((_, version)) = chosen(&self.meter) {
                version.series.shed();
            }
            return Err(failure);
        }
        if failure.kind == Kind::Exhausted {
            return Err(failure);
        }
        self.count(failure.kind, &mut choice);
        self.attempts.tried.push(Rc::clone(&choice.endpoint));
        if failure.kind == Kind::ConnectFailed
            && !self.attempts.moved
            && let Some(other) = self.other_address(&choice.endpoint)
        {
            (self.attempts.moved, self.attempts.again) = (true, true);
            return Ok(other);
        }
        self.retry(failure, None)
    }

    /// Another address of a name at which nobody listens: `localhost` has two, and many servers listen at one of them.
    fn other_address(&self, refused: &Endpoint) -> Option<Choice> {
        let draw = self.meter.client.shard.draw();
        let (_, version) = chosen(&self.meter)?;
        let endpoints = version.backends.endpoints();
        let same: Vec<_> = endpoints.iter().filter(|other| other.label == refused.label).cloned().collect();
        balance::choose_other(&same, &self.attempts.tried, draw, self.is_once())
    }

    /// The request failed on its connection.
    #[cold]
    fn unanswered(
        &mut self,
        mut error: TrySendError<Request<RequestBody>>,
        lease: &Lease,
        copy: Option<Box<Request<RequestBody>>>,
        mut choice: Choice,
    ) -> Result<Choice, Failure> {
        let endpoint = Rc::clone(&choice.endpoint);
        if let Some(unsent) = error.take_message() {
            self.request = Some(unsent);
            self.attempts.fresh = true;
            // The upstream had closed the connection, or said that it goes away.
            if lease.reused && self.attempts.unsent < MOST_UNSENT {
                self.attempts.unsent += 1;
                return Ok(choice);
            }
            let failure = failed(error.into_error(), &self.meter);
            self.count(failure.kind, &mut choice);
            return self.retry(failure, Some(endpoint));
        }
        let reset = reset(error.error());
        let failure = failed(error.into_error(), &self.meter);
        let stale = lease.reused && reset == Reset::No && failure.kind == Kind::Closed;
        if stale {
            lease.was_stale();
        } else if reset != Reset::Refused {
            self.count(failure.kind, &mut choice);
        }
        let written = |request: Box<_>| Unanswered { request: *request, written: reset != Reset::Refused };
        let again = copy.map(written).or_else(|| lease.unanswered());
        let Some(again) = again.filter(|again| failure.kind == Kind::Closed && self.may_send(again)) else {
            return Err(failure);
        };
        self.request = Some(again.request);
        if stale && !self.attempts.stale {
            (self.attempts.stale, self.attempts.again, self.attempts.fresh) = (true, true, true);
            // Where it was closed, the whole upstream may have ended: there is no third time to find that out.
            let next = self.elsewhere(&endpoint).unwrap_or(choice);
            note(&mut self.meter, &next);
            return Ok(next);
        }
        self.attempts.tried.push(Rc::clone(&endpoint));
        self.retry(failure, Some(endpoint))
    }

    /// Another endpoint, which is not known to fail. This one may be chosen again where that one has no connection.
    fn elsewhere(&self, endpoint: &Rc<Endpoint>) -> Option<Choice> {
        let mut tried = self.attempts.tried.clone();
        tried.push(Rc::clone(endpoint));
        let draw = self.meter.client.shard.draw();
        let (_, version) = chosen(&self.meter)?;
        let other = balance::choose_other(&version.backends.endpoints(), &tried, draw, self.is_once());
        other.filter(|other| !other.endpoint.standing().ejection.is_ejected())
    }

    /// Whether a request may be sent again: what may have been seen only where seeing it twice does no harm, and only once.
    fn may_send(&self, again: &Unanswered) -> bool {
        let first = !self.attempts.stale && !self.attempts.retried;
        !again.written || (first && is_idempotent(again.request.method()))
    }

    /// The one more attempt: at another endpoint, or else at `same`.
    fn retry(&mut self, failure: Failure, same: Option<Rc<Endpoint>>) -> Result<Choice, Failure> {
        if self.attempts.retried || self.attempts.only || !failure.kind.is_upstream() {
            return Err(failure);
        }
        let draw = self.meter.client.shard.draw();
        let Some((worker, version)) = chosen(&self.meter) else { return Err(failure) };
        let (endpoints, tried) = (version.backends.endpoints(), &self.attempts.tried);
        let other = balance::choose_other(&endpoints, tried, draw, self.is_once());
        drop(endpoints);
        let choice = match (other, same) {
            // Rather once more where it failed than at one that is known to fail.
            (Some(other), Some(same)) if other.endpoint.standing().ejection.is_ejected() => {
                Choice::plain(&same)
            }
            (Some(other), _) => other,
            (None, Some(same)) => Choice::plain(&same),
            (None, None) => return Err(failure),
        };
        if !worker.budget().take(Instant::now()) {
            // Each request counts once: what came of a second attempt is counted at its end.
            if !self.attempts.again {
                version.series.retried(Retry::Budget);
            }
            return Err(failure);
        }
        (self.attempts.retried, self.attempts.again, self.attempts.fresh) = (true, true, true);
        note(&mut self.meter, &choice);
        Ok(choice)
    }

    /// Counts a failure against its endpoint, where it is the endpoint's.
    fn count(&self, kind: Kind, choice: &mut Choice) {
        let of_endpoint = matches!(
            kind,
            Kind::ConnectFailed
                | Kind::ConnectTimeout
                | Kind::TlsFailed
                | Kind::Closed
                | Kind::Protocol
                | Kind::ResponseTimeout
        );
        let Some((worker, version)) = chosen(&self.meter).filter(|_| of_endpoint) else { return };
        let shard = &self.meter.client.shard;
        if choice.failed(&version.backends.endpoints(), shard.draw()) {
            let upstream = &*choice.endpoint.label;
            shard.services().registry.ejected(&worker.policy().name, &version.metadata.id, upstream);
            tracing::warn!(
                worker = worker.name(),
                version = version.id(),
                upstream,
                kind = kind.as_str(),
                "an upstream that fails again and again gets no requests for a while"
            );
        }
    }
}

/// Notes where the request goes.
fn note(meter: &mut Meter, choice: &Choice) {
    if let Some(line) = &mut meter.line {
        line.upstream = Some(Rc::clone(&choice.endpoint.label));
    }
}

fn is_replayable(request: &Request<RequestBody>) -> bool {
    request.body().is_end_stream() && is_idempotent(request.method())
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// What an HTTP/2 upstream said of one request's stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reset {
    /// Nothing: the connection ended.
    No,
    /// That it has not looked at it (RFC 9113 section 8.7).
    Refused,
    /// That it ends it.
    Ended,
}

fn reset(error: &hyper::Error) -> Reset {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    match source.filter(|error| error.is_reset() && error.is_remote()) {
        Some(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => Reset::Refused,
        Some(_) => Reset::Ended,
        None => Reset::No,
    }
}
