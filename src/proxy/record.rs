//! What is recorded of a request: counters, and a line of the access log, once, when its response ends.

use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use tokio::task::AbortHandle;

use super::failure::{Failure, Kind};
use super::handler::Client;
use super::objects::Held;
use super::retire::{NOBODYS, Tenure};
use super::snapshot::{Snapshot, VersionState, WorkerState};
use super::steering::Steered;
use super::upload::Progress;
use crate::config::{Limits, Timeouts};
use crate::export::access::{Outcome, Record, VersionRef};
use crate::export::tail::Seen;
use crate::model::decision::Reason;
use crate::model::overrides::Override;

/// A request under way. Dropping it records it. It is made in a box, as it goes through many hands.
pub(super) struct Meter {
    pub(super) client: Rc<Client>,
    pub(super) snapshot: Rc<Snapshot>,
    pub(super) started: Instant,
    /// `None` where the request has no body.
    pub(super) progress: Option<Rc<Progress>>,
    /// Index of the worker, once there is one.
    pub(super) worker: Option<usize>,
    /// Index of the version in the worker's deployment, and why it.
    pub(super) version: Option<(usize, Reason)>,
    pub(super) overridden: Override,
    /// Whether the client speaks HTTP/2.
    pub(super) http2: bool,
    /// What the client was answered, or that it left first.
    status: u16,
    pub(super) error: Option<Kind>,
    /// Whether the path is that of a script, style, image or font, or the worker says that it is an asset's.
    pub(super) is_asset: bool,
    pub(super) response_bytes: u64,
    outcome: Outcome,
    /// Its place among the streams of HTTP/2 clients.
    stream: Option<usize>,
    is_tunnel: bool,
    /// What only the access log and tails need; `None` where there are none.
    pub(super) line: Option<Box<Line>>,
    /// What only a worker with steering needs; `None` for others.
    pub(super) steered: Option<Box<Steered>>,
    /// `Some` where the request is for an object.
    pub(super) held: Option<Box<Held>>,
}

/// The parts of a request's head that its log line shows.
pub(super) struct Line {
    /// `None` where the head could not be read.
    pub(super) method: Option<Method>,
    /// The same.
    pub(super) target: Option<Uri>,
    pub(super) authority: Option<HeaderValue>,
    pub(super) https: bool,
    pub(super) upstream: Option<Rc<str>>,
    /// What only tails show; `None` where the worker had none when the request came.
    kept: Option<Kept>,
}

/// A head's fields, as they came.
struct Kept {
    headers: HeaderMap,
    protocol: Version,
}

impl Line {
    /// The parts of a head as it came.
    pub(super) fn of(parts: &Parts, https: bool) -> Self {
        let host = parts.headers.get(header::HOST).cloned();
        let authority = parts.uri.authority();
        Self {
            method: Some(parts.method.clone()),
            target: Some(parts.uri.clone()),
            authority: authority.and_then(|name| HeaderValue::from_str(name.as_str()).ok()).or(host),
            https,
            upstream: None,
            kept: None,
        }
    }
}

/// Records a request whose head the codec could not read, and which therefore nobody has seen but the codec: only that it
/// came, from whom, and how it was answered.
pub(super) fn unread(client: &Rc<Client>, kind: Kind) {
    let mut meter = Meter::new(client, client.shard.snapshot(), Instant::now());
    meter.error = Some(kind);
    meter.answered(kind.status());
    meter.whole();
    if client.shard.sink().is_on() {
        meter.line = Some(Box::new(Line {
            method: None,
            target: None,
            authority: None,
            https: client.tls,
            upstream: None,
            kept: None,
        }));
    }
}

/// Whether a path is that of a script, style, image or font, by its extension.
pub fn is_asset(path: &str) -> bool {
    let bytes = path.as_bytes();
    // The longest extension has five letters: looking further back would only cost time.
    let end = &bytes[bytes.len().saturating_sub(6)..];
    let Some(dot) = end.iter().rposition(|&byte| byte == b'.') else { return false };
    ASSETS.iter().any(|known| end[dot + 1..].eq_ignore_ascii_case(known.as_bytes()))
}

/// Extensions of what a page needs besides itself.
const ASSETS: [&str; 19] = [
    "js", "mjs", "css", "map", "wasm", "png", "jpg", "jpeg", "gif", "svg", "webp", "avif", "ico", "bmp",
    "woff", "woff2", "ttf", "otf", "eot",
];

/// The status of requests whose client left before there was an answer, as nginx counts them: a version that never
/// answers must not look like one that succeeds.
const CLIENT_LEFT: u16 = 499;

impl Meter {
    pub(super) fn new(client: &Rc<Client>, snapshot: Rc<Snapshot>, started: Instant) -> Box<Self> {
        client.shard.request_began();
        client.watch.request_began();
        Box::new(Self {
            client: Rc::clone(client),
            snapshot,
            started,
            progress: None,
            worker: None,
            version: None,
            overridden: Override::Absent,
            http2: false,
            status: CLIENT_LEFT,
            error: None,
            is_asset: false,
            response_bytes: 0,
            outcome: Outcome::Canceled,
            stream: None,
            is_tunnel: false,
            line: None,
            steered: None,
            held: None,
        })
    }

    /// Notes which version serves the request, so that both can be found when the version leaves the deployment.
    #[inline(always)]
    pub(super) fn chose(&mut self, member: usize, reason: Reason) {
        self.version = Some((member, reason));
        let Some(version) = self.version() else { return };
        version.series.began();
        let tenure = version.tenure.id();
        if let Some(place) = self.stream {
            self.client.shard.tenures().moves(place, tenure);
        } else if self.http2 {
            self.stream = Some(self.client.shard.tenures().enter(&self.client, tenure));
        } else {
            self.client.watch.served_in(tenure);
        }
    }

    /// Notes that another version is asked: from now on the request is that one's.
    pub(super) fn moves(&mut self, member: usize, reason: Reason) {
        if let Some(before) = self.version() {
            before.series.ended(false);
        }
        self.chose(member, reason);
    }

    /// Notes that the request waits before it has a version. Over HTTP/2 it has its place by then: what drives it is known now,
    /// and not later. Over HTTP/1.1 it is no request of the version that served its connection last.
    pub(super) fn waits(&mut self) {
        if !self.http2 {
            self.client.watch.served_in(NOBODYS);
        } else if self.stream.is_none() {
            self.stream = Some(self.client.shard.tenures().enter(&self.client, NOBODYS));
        }
    }

    /// Notes that the request has become a tunnel, which ends by itself when the tenure is over.
    pub(super) fn tunnels(&mut self) -> Option<Rc<Tenure>> {
        if let Some(place) = self.stream.take() {
            self.client.shard.tenures().leave(place);
            if let Some(held) = &self.held {
                held.ends_by_itself();
            }
        }
        self.is_tunnel = true;
        self.client.watch.tunnels();
        let version = self.version()?;
        version.series.tunnel_opened();
        Some(Rc::clone(&version.tenure))
    }

    /// What drives the request of an HTTP/2 client, where it can be ended alone.
    pub(super) fn task(&self) -> Option<AbortHandle> {
        self.client.shard.tenures().task(self.stream?)
    }

    /// Whether the request, of an HTTP/2 client, has been told to end; the task that drives it is woken when it is.
    pub(super) fn is_cut(&self, cx: &Context<'_>) -> bool {
        self.stream.is_some_and(|place| self.client.shard.tenures().is_cut(place, cx))
    }

    /// Notes that the response's head is there, where the request holds an object: it ends with the object's time.
    pub(super) fn holds_on(&self) {
        if let Some(held) = &self.held {
            held.answers(&self.client.watch, self.stream);
        }
    }

    /// Notes the status that the client is sent, and whether a page's script, style, image or font is missing.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        if self.is_asset
            && matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
            && let Some(version) = self.version()
        {
            version.series.asset_miss(false);
        }
    }

    /// What clients may do.
    pub(super) fn limits(&self) -> &Limits {
        &self.snapshot.blueprint.config.limits
    }

    /// For how long a body of this worker may stand still.
    pub(super) fn idle_limit(&self) -> Duration {
        self.worker().map_or(Timeouts::default().idle, |worker| worker.timeouts().idle)
    }

    /// Tells the operator why a request could not be served. At most one line a second for each shard: a version that is down
    /// fails every request in the same way.
    pub(super) fn warn(&self, failure: &Failure) {
        if !self.client.shard.may_warn() {
            return;
        }
        let worker = self.worker().map_or("", WorkerState::name);
        let version = self.version().map_or("", VersionState::id);
        let source = failure.source.as_deref().map(|source| source as &dyn std::error::Error);
        tracing::warn!(
            worker,
            version,
            kind = failure.kind.as_str(),
            error = source,
            "{}",
            failure.kind.message()
        );
    }

    /// The response has ended as it should.
    pub(super) fn whole(&mut self) {
        self.outcome = match self.error {
            Some(kind) if kind.is_upstream() || kind.is_our_own() => Outcome::Exception,
            _ => Outcome::Ok,
        };
    }

    /// The upstream's body failed.
    pub(super) fn upstream_failed(&mut self) {
        self.outcome = Outcome::Exception;
        if self.progress.as_ref().is_some_and(|progress| progress.panicked.get()) {
            self.client.shard.services().registry.panicked();
        }
    }

    /// The request is lost to a panic. What was answered already stays what was answered.
    fn panicked(&mut self) {
        self.error = Some(Kind::Internal);
        self.outcome = Outcome::Exception;
        if self.status == CLIENT_LEFT {
            self.status = Kind::Internal.status().as_u16();
            self.client.owes_answer.set(true);
        }
        self.client.shard.services().registry.panicked();
    }

    /// The request ended and nobody has said how: its client left, unless the time of its version is over.
    #[cold]
    fn cut(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.tenancy().is_over()) {
            self.error = Some(Kind::ObjectMoving);
            self.outcome = Outcome::Exception;
            if self.status == CLIENT_LEFT {
                self.status = Kind::ObjectMoving.status().as_u16();
            }
            return;
        }
        let Some(version) = self.version().filter(|version| version.tenure.is_over()) else { return };
        version.series.retired();
        self.error = Some(Kind::Retired);
        self.outcome = Outcome::Exception;
        if self.status == CLIENT_LEFT {
            self.status = Kind::Retired.status().as_u16();
        }
    }

    /// Keeps what tails show of a request, where its worker has any.
    #[cold]
    #[inline(never)]
    pub(super) fn keep_for_tails(&mut self, parts: &Parts, https: bool) {
        let Some(name) = self.worker().map(WorkerState::name) else { return };
        if self.client.shard.sink().is_tailed(name) {
            let line = self.line.get_or_insert_with(|| Box::new(Line::of(parts, https)));
            line.kept = Some(Kept { headers: parts.headers.clone(), protocol: parts.version });
        }
    }

    fn worker(&self) -> Option<&WorkerState> {
        self.worker.and_then(|index| self.snapshot.workers.get(index))
    }

    fn version(&self) -> Option<&VersionState> {
        let (index, _) = self.version?;
        self.worker()?.versions.get(index)
    }

    fn log(&self, line: &Line, duration: Duration) {
        let shard = &self.client.shard;
        let sink = shard.sink();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let arrived = now.saturating_sub(duration);
        let version = self.version().map(|version| VersionRef {
            id: version.id(),
            message: version.metadata.message.as_deref(),
            tag: version.metadata.tag.as_ref().map(|tag| tag.as_str()),
        });
        let record = Record {
            timestamp_ms: u64::try_from(arrived.as_millis()).unwrap_or(u64::MAX),
            outcome: self.outcome,
            worker: self.worker().map(WorkerState::name),
            version,
            scheme: if line.https { "https" } else { "http" },
            authority: line.authority.as_ref().map_or(&b""[..], |authority| authority.as_bytes()),
            target: line.target.as_ref().and_then(Uri::path_and_query).map_or("", PathAndQuery::as_str),
            method: line.method.as_ref().map_or("", Method::as_str),
            status: self.status,
            ray: self.steered.as_ref().and_then(|steered| steered.ray).unwrap_or_else(|| shard.draw()),
            wall_time: duration,
            reason: self.version.map(|(_, reason)| reason.as_str()),
            overridden: match self.overridden {
                Override::Absent => None,
                Override::Version(_) => Some("applied"),
                Override::Ignored(problem) => Some(problem.as_str()),
            },
            upstream: line.upstream.as_deref(),
            error: self.error.map(Kind::as_str),
            client: self.client.address.map(|address| address.ip()),
            request_bytes: self.progress.as_ref().map_or(0, |progress| progress.bytes.get()),
            response_bytes: self.response_bytes,
        };
        if sink.write(&record) {
            shard.flush_soon();
        }
        if let Some(Kept { headers, protocol }) = &line.kept {
            let problem = self.error.map(Kind::message);
            sink.show(&record, &Seen { headers, protocol: *protocol, problem });
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if std::thread::panicking() || self.client.panicked.get() {
            self.panicked();
        } else if self.outcome == Outcome::Canceled {
            self.cut();
        }
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.started);
        if let Some(place) = self.stream {
            self.client.shard.tenures().leave(place);
        }
        self.client.watch.request_ended(now);
        let reason = self.version.map(|(_, reason)| reason);
        let series = match (self.version(), self.worker()) {
            (Some(version), _) => {
                version.series.ended(self.is_tunnel);
                &version.series
            }
            (None, Some(worker)) => &worker.unversioned,
            (None, None) => &self.snapshot.unrouted,
        };
        series.request(reason, self.status, duration);
        if let Some(line) = &self.line {
            self.log(line, duration);
        }
        self.client.shard.request_ended();
    }
}
