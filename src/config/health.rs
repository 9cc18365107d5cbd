//! `health` of a version: how upstreams are asked whether they are well; and `on_unavailable`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Spanned;
use super::address::{Scheme, Upstream};
use super::contradictions;
use super::fields::{Fields, Walk};
use super::sections::duration;
use super::texts;
use crate::diag::Diagnostic;

/// Statuses, both ends inclusive.
pub type StatusRange = RangeInclusive<u16>;

/// `health = { … }` of a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// The `Host` of the request; `None`: the upstream's own.
    pub host: Option<String>,
    /// From one check to the next.
    pub interval: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// After so many failures one after the other an upstream is down; at least 1.
    pub fall: u32,
    /// After so many successes one after the other it is up again; at least 1.
    pub rise: u32,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// A GET.
    Http {
        /// The path and query.
        path: String,
        /// The statuses that say that the upstream is well; at least one range.
        status: Vec<StatusRange>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service; empty: the whole server.
        service: String,
    },
}

/// What becomes of requests whose version is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnavailable {
    /// They are answered 503: a key never changes its version unasked.
    #[default]
    Fail,
    /// They go to the versions that are up, each key always to the same one, and come back with their version.
    Remap,
}

/// A version's `health`, if it is there and good.
pub(super) fn health(
    walk: &mut Walk<'_>,
    fields: &Fields<'_>,
    upstreams: &[Spanned<Upstream>],
) -> Option<HealthCheck> {
    let probe = probe(walk, fields, upstreams);
    let host = fields.text("host");
    let host =
        host.and_then(|text| walk.parsed(&text, "a host name", fields.kind("host"), texts::host_header));
    let mut time = |name, default| {
        duration(walk, fields, name, Duration::from_millis(1)).unwrap_or(Duration::from_secs(default))
    };
    let (interval, timeout) = (time("interval", 2), time("timeout", 1));
    let count = |name, default| fields.integer(name).and_then(|n| n.try_into().ok()).unwrap_or(default);
    let health = HealthCheck {
        probe: probe?,
        host,
        interval,
        timeout,
        fall: count("fall", 3),
        rise: count("rise", 2),
    };
    contradictions::health(walk, fields, &health);
    Some(health)
}

fn probe(walk: &mut Walk<'_>, fields: &Fields<'_>, upstreams: &[Spanned<Upstream>]) -> Option<Probe> {
    let path = fields.text("path");
    let grpc = fields.text("grpc");
    let mut ranges = Vec::new();
    for text in fields.texts("status") {
        ranges.extend(walk.parsed(&text, "a status", fields.kind("status"), texts::statuses));
    }
    match (path, grpc) {
        (Some(text), None) => {
            let path = walk.parsed(&text, "a path", fields.kind("path"), texts::raw_target)?;
            let status = if ranges.is_empty() { vec![200..=299] } else { ranges };
            Some(Probe::Http { path, status })
        }
        (None, Some(text)) => {
            let plain =
                |upstream: &&Spanned<Upstream>| !matches!(upstream.value.scheme, Scheme::H2c | Scheme::Https);
            if let Some(upstream) = upstreams.iter().find(plain) {
                let mistake = Diagnostic::error("a gRPC health check needs HTTP/2", text.span.clone())
                    .label(format!("`{}` speaks HTTP/1.1", upstream.value))
                    .help("write the upstream with `h2c://` or `https://`, or check a `path`");
                walk.conclude(mistake);
            }
            if let Some(span) = fields.span_of("status") {
                let mistake = Diagnostic::error("`status` together with `grpc`", span);
                walk.conclude(mistake.label("gRPC says itself whether a service is well"));
            }
            Some(Probe::Grpc { service: text.value.to_owned() })
        }
        (Some(_), Some(text)) => {
            let mistake = Diagnostic::error("`path` together with `grpc`", text.span);
            walk.conclude(mistake.label("a check asks one or the other").help("remove one of them"));
            None
        }
        (None, None) => {
            let mistake = Diagnostic::error("`health` has neither `path` nor `grpc`", fields.span.clone());
            walk.conclude(mistake.label("what is to be asked?").help("write `path = \"/up\"`"));
            None
        }
    }
}
