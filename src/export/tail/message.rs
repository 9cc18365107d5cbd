//! A request as one message of Cloudflare's `trace-v1`, as wrangler reads it.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use http::{HeaderMap, Version};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{Seen, redact};
use crate::diag::visible;
use crate::export::access::{Record, VersionRef};

/// How many bytes of header fields a message has: what is above is left out, and the message says so.
const HEADERS: usize = 16 << 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a, E> {
    outcome: &'static str,
    script_name: &'a str,
    script_version: Option<ScriptVersion<'a>>,
    exceptions: &'a [Exception<'a>],
    logs: [(); 0],
    event_timestamp: u64,
    event: E,
    #[serde(skip_serializing_if = "Option::is_none")]
    wall_time: Option<f64>,
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    gradual: Option<Facts<'a>>,
}

#[derive(Serialize)]
struct ScriptVersion<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Cow<'a, str>>,
}

impl<'a> From<VersionRef<'a>> for ScriptVersion<'a> {
    fn from(version: VersionRef<'a>) -> Self {
        Self { id: version.id, tag: version.tag, message: version.message.map(visible) }
    }
}

#[derive(Serialize)]
struct Exception<'a> {
    name: &'a str,
    message: &'a str,
    timestamp: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fetch<'a> {
    request: Request<'a>,
    response: Response,
    ray_id: String,
}

#[derive(Serialize)]
struct Request<'a> {
    url: &'a str,
    method: &'a str,
    headers: Headers<'a>,
    cf: Connection,
}

#[derive(Serialize)]
struct Response {
    status: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    http_protocol: &'static str,
}

/// What Cloudflare's messages have no place for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Facts<'a> {
    reason: Option<&'a str>,
    #[serde(rename = "override")]
    overridden: Option<&'a str>,
    upstream: Option<&'a str>,
    client_ip: Option<String>,
    request_bytes: u64,
    response_bytes: u64,
}

/// What says something of the tail itself.
#[derive(Serialize)]
struct Info<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    message: &'a str,
}

/// The URL as a message shows it.
pub(super) fn url(record: &Record<'_>) -> String {
    let authority = String::from_utf8_lossy(record.authority);
    let url = format!("{}://{authority}{}", record.scheme, redact::target(record.target));
    // Whoever watches has a terminal, and anyone may send control characters above ASCII.
    visible(&url).into_owned()
}

/// The message about a request that has ended.
pub(super) fn request(record: &Record<'_>, seen: &Seen<'_>, url: &str) -> String {
    let ended = record.timestamp_ms.saturating_add(millis(record.wall_time));
    let exception =
        record.error.map(|name| Exception { name, message: seen.problem.unwrap_or(name), timestamp: ended });
    let mut ray_id = String::with_capacity(16);
    // Writing to a text cannot fail.
    let _ = write!(ray_id, "{:016x}", record.ray);
    let headers = Headers::new(seen.headers);
    let truncated = headers.most.is_some();
    let fetch = Fetch {
        request: Request {
            url,
            method: record.method,
            headers,
            cf: Connection { http_protocol: protocol(seen.protocol) },
        },
        response: Response { status: record.status },
        ray_id,
    };
    written(&Message {
        outcome: record.outcome.as_str(),
        script_name: record.worker.unwrap_or_default(),
        script_version: record.version.map(ScriptVersion::from),
        exceptions: exception.as_slice(),
        logs: [],
        event_timestamp: record.timestamp_ms,
        event: fetch,
        // To the microsecond, as in the access log.
        wall_time: Some((record.wall_time.as_secs_f64() * 1e6).round() / 1e3),
        truncated,
        gradual: Some(Facts {
            reason: record.reason,
            overridden: record.overridden,
            upstream: record.upstream,
            client_ip: record.client.map(|client| client.to_canonical().to_string()),
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
        }),
    })
}

/// The message that requests were left out. wrangler knows the kind, and prints the text in red.
pub(super) fn overload(worker: &str, dropped: u64, timestamp_ms: u64) -> String {
    let requests = if dropped == 1 { "1 request is" } else { &format!("{dropped} requests are") };
    let message = format!("{requests} not shown: there were more than this tail takes");
    written(&Message {
        outcome: "unknown",
        script_name: worker,
        script_version: None,
        exceptions: &[],
        logs: [],
        event_timestamp: timestamp_ms,
        event: Info { kind: "overload", message: &message },
        wall_time: None,
        truncated: false,
        gradual: None,
    })
}

fn written<E: Serialize>(message: &Message<'_, E>) -> String {
    // Texts and numbers under fixed names: there is nothing that JSON could refuse.
    serde_json::to_string(message).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// Header fields, as far as a message shows them.
struct Headers<'a> {
    all: &'a HeaderMap,
    /// The most bytes; `None` where all are shown.
    most: Option<usize>,
}

impl<'a> Headers<'a> {
    fn new(all: &'a HeaderMap) -> Self {
        let bytes: usize = all.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        Self { all, most: (bytes > HEADERS).then_some(HEADERS) }
    }
}

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut left = self.most.unwrap_or(usize::MAX);
        for name in self.all.keys() {
            let value = redact::field(self.all, name);
            let Some(rest) = left.checked_sub(name.as_str().len() + value.len()) else { break };
            left = rest;
            map.serialize_entry(name.as_str(), &*visible(&value))?;
        }
        map.end()
    }
}
