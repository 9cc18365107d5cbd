//! What went wrong with a request: whose side, which kind, and the status that says so.

use std::error::Error;
use std::fmt;

use http::StatusCode;

use crate::metrics::Limit;

/// A boxed error whose source is kept.
pub(super) type Source = Box<dyn Error + Send + Sync>;

/// A request that the proxy has to answer itself.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) source: Option<Source>,
}

/// What kind of failure: its word stands in `Gradual-Error`, in the body and in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    // The client's side.
    /// The request is malformed or ambiguous; the text says how.
    BadRequest(&'static str),
    /// Its head did not come in time.
    HeadTimeout,
    /// Its body stood still.
    RequestTimeout,
    /// Its body came more slowly than is allowed.
    RequestTooSlow,
    /// Its head is larger, or has more lines, than is allowed.
    HeadTooLarge,
    /// Its target is too long.
    UriTooLong,
    /// Its body is too large.
    BodyTooLarge,
    /// No worker has a route for it.
    NoWorker,
    /// A CONNECT that is not a WebSocket.
    Connect,
    /// It came through this proxy too often.
    Loop,
    // The proxy's own.
    /// It was lost to a panic.
    Internal,
    /// There are no descriptors, ports or memory left for a connection to the upstream.
    Exhausted,
    /// Its version left the deployment, and the time for what was still under way is over.
    Retired,
    /// Another version of the worker still has the request's object.
    ObjectMoving,
    /// The request's object has moved to the process that serves in this one's place.
    ObjectElsewhere,
    // The upstream's side.
    /// The version's upstreams have no address.
    NoUpstream,
    /// The health checks say that all of the version's upstreams are down.
    NoHealthyUpstream,
    /// No connection could be made.
    ConnectFailed,
    /// No connection was made in time.
    ConnectTimeout,
    /// There are as many connections to the upstream, and requests that wait for one, as there may be.
    Overloaded,
    /// The TLS handshake failed.
    TlsFailed,
    /// The upstream closed before its response was there.
    Closed,
    /// The upstream sent something that is no HTTP.
    Protocol,
    /// The response's head did not come in time.
    ResponseTimeout,
    /// The upstream switched protocols unasked, or to another one.
    UnaskedUpgrade,
    /// The upstream cannot tunnel what the client asks for.
    UpgradeRefused,
}

impl Failure {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, source: None }
    }

    pub(super) fn because(kind: Kind, source: impl Into<Source>) -> Self {
        Self { kind, source: Some(source.into()) }
    }

    /// No connection to an upstream was made. Where this process is at its end, that says nothing about the upstream.
    pub(super) fn of_connect(error: std::io::Error) -> Self {
        Self::because(if is_our_own(&error) { Kind::Exhausted } else { Kind::ConnectFailed }, error)
    }

    /// What a client's failed send says about the upstream.
    pub(super) fn of_upstream(error: hyper::Error) -> Self {
        let is_nonsense = error.is_parse() || error.is_parse_status() || is_malformed_http2(&error);
        Self::because(if is_nonsense { Kind::Protocol } else { Kind::Closed }, error)
    }
}

/// Whether the codec of HTTP/2 ended a stream or the connection because of what the upstream said.
fn is_malformed_http2(error: &hyper::Error) -> bool {
    let source = Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(h2::Error::is_library)
}

/// Whether an error says that this process is at its end: of descriptors or memory. Where there is no port or address left to
/// reach one endpoint from (EADDRNOTAVAIL), another may be reached all the same.
pub(super) fn is_our_own(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|errno| ours.contains(&errno))
}

impl Kind {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::RequestTimeout | Self::RequestTooSlow | Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoWorker => StatusCode::NOT_FOUND,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Exhausted
            | Self::Retired
            | Self::ObjectMoving
            | Self::ObjectElsewhere
            | Self::NoUpstream
            | Self::NoHealthyUpstream
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::Overloaded
            | Self::TlsFailed => StatusCode::SERVICE_UNAVAILABLE,
            Self::Closed | Self::Protocol | Self::UnaskedUpgrade | Self::UpgradeRefused => {
                StatusCode::BAD_GATEWAY
            }
            Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad-request",
            Self::RequestTimeout | Self::RequestTooSlow | Self::HeadTimeout => "request-timeout",
            Self::HeadTooLarge => "head-too-large",
            Self::UriTooLong => "uri-too-long",
            Self::BodyTooLarge => "body-too-large",
            Self::NoWorker => "no-worker",
            Self::Connect => "connect-not-allowed",
            Self::Loop => "loop",
            Self::Internal => "internal",
            Self::Exhausted => "proxy-exhausted",
            Self::Retired => "version-retired",
            Self::ObjectMoving => "object-moving",
            Self::ObjectElsewhere => "object-elsewhere",
            Self::NoUpstream => "no-upstream",
            Self::NoHealthyUpstream => "no-healthy-upstream",
            Self::ConnectFailed => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::Overloaded => "overloaded",
            Self::TlsFailed => "tls-failed",
            Self::Closed => "upstream-closed",
            Self::Protocol => "upstream-protocol",
            Self::ResponseTimeout => "response-timeout",
            Self::UnaskedUpgrade => "unasked-upgrade",
            Self::UpgradeRefused => "upgrade-refused",
        }
    }

    /// A sentence for the person who reads the body. Nothing from the request is in it.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::BadRequest(how) => how,
            Self::UriTooLong => "the request's target is too long",
            Self::HeadTooLarge => "the request's header section is too large or has too many fields",
            Self::HeadTimeout => "the request's head did not come in time",
            Self::RequestTimeout => "the request's body did not go on in time",
            Self::RequestTooSlow => "the request's body came too slowly",
            Self::BodyTooLarge => "the request's body is larger than is allowed",
            Self::NoWorker => "no worker has a route for this host and path",
            Self::Connect => "CONNECT is allowed for WebSockets over HTTP/2 only",
            Self::Loop => "the request came through this proxy more than 5 times: a route leads back to it",
            Self::Internal => "the proxy failed at this request by a mistake of its own",
            Self::Exhausted => {
                "the proxy has nothing left to make a connection to the version's upstream with"
            }
            Self::Retired => "the version has left the deployment, and its time is over",
            Self::ObjectMoving => {
                "the object moves to another version, and the one before has not ended with it"
            }
            Self::ObjectElsewhere => {
                "the object has moved to the process that takes this one's place: ask again on a new connection"
            }
            Self::NoUpstream => "the version has no upstream with a known address",
            Self::NoHealthyUpstream => "the health checks of all of the version's upstreams fail",
            Self::ConnectFailed => "no connection to the version's upstream could be made",
            Self::ConnectTimeout => "no connection to the version's upstream could be made in time",
            Self::Overloaded => "the version's upstream has as many requests as it may have",
            Self::TlsFailed => "the TLS handshake with the version's upstream failed",
            Self::Closed => "the version's upstream closed the connection before it had answered",
            Self::Protocol => "the version's upstream sent something that is not an HTTP response",
            Self::ResponseTimeout => "the version's upstream did not answer in time",
            Self::UnaskedUpgrade => "the version's upstream switched to a protocol that nobody had asked for",
            Self::UpgradeRefused => "the version's upstream cannot switch to the protocol that was asked for",
        }
    }

    /// The body of the answer that says it.
    pub(super) fn body(self) -> String {
        format!("{{\"error\":\"{}\",\"message\":\"{}\"}}\n", self.as_str(), self.message())
    }

    /// Whether the version's upstreams are to blame.
    pub(super) fn is_upstream(self) -> bool {
        let others = matches!(self, Self::NoWorker | Self::Loop | Self::Retired | Self::ObjectMoving);
        !self.closes() && !self.is_our_own() && !others
    }

    /// Whether the proxy itself is to blame.
    pub(super) fn is_our_own(self) -> bool {
        matches!(self, Self::Internal | Self::Exhausted)
    }

    /// Whether an HTTP/1.1 connection cannot go on: what follows a request that was not understood, or not read to its
    /// end, must not be taken for another one.
    pub(super) fn closes(self) -> bool {
        matches!(self, Self::BadRequest(_) | Self::Connect | Self::HeadTimeout | Self::ObjectElsewhere)
            || self.limit().is_some()
    }

    /// Whether it is worth while to ask again soon.
    pub(super) fn passes(self) -> bool {
        matches!(self, Self::ObjectMoving | Self::ObjectElsewhere)
    }

    /// The bound that the client met, if that is what it is.
    pub(super) fn limit(self) -> Option<Limit> {
        match self {
            Self::RequestTimeout => Some(Limit::BodyIdleTimeout),
            Self::RequestTooSlow => Some(Limit::MinRate),
            Self::HeadTooLarge => Some(Limit::HeaderCount),
            Self::UriTooLong => Some(Limit::UriBytes),
            Self::BodyTooLarge => Some(Limit::RequestBodyBytes),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| {
            let source: &(dyn Error + 'static) = source.as_ref();
            source
        })
    }
}

impl From<Kind> for Failure {
    fn from(kind: Kind) -> Self {
        Self::new(kind)
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_this_process_has_none_left_of_is_no_failure_of_an_upstream() {
        let kind = |errno: Errno| Failure::of_connect(std::io::Error::from(errno)).kind;
        for ours in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS] {
            assert_eq!(kind(ours), Kind::Exhausted);
        }
        for theirs in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::TIMEDOUT, Errno::ADDRNOTAVAIL] {
            assert_eq!(kind(theirs), Kind::ConnectFailed);
        }
        assert!(!Kind::Exhausted.is_upstream() && Kind::ConnectFailed.is_upstream());
    }
}
