//! `[limits]`: every bound and deadline.

use std::time::Duration;

use super::contradictions;
use super::fields::{Fields, Walk};
use super::sections::duration;
use super::texts;

/// `[limits]`. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// How long requests in flight may go on after the first signal to stop.
    pub drain_timeout: Duration,
    /// How long streams of versions that left the deployment may go on; `None`: as long as they like.
    pub retired_grace: Option<Duration>,
    /// The most bytes of a request's head.
    pub header_bytes: usize,
    /// The most header lines of a request. The crumbs that HTTP/2 makes of a `Cookie` line are one.
    pub header_count: usize,
    /// The most bytes of a request's target.
    pub uri_bytes: usize,
    /// For the TLS handshake, and for a PROXY protocol header.
    pub tls_handshake_timeout: Duration,
    /// For a new connection's first bytes, until it is known which version of HTTP it speaks.
    pub detection_timeout: Duration,
    /// From the first byte of a request's head to its last.
    pub header_timeout: Duration,
    /// How long a client connection may wait for its next request.
    pub keep_alive_timeout: Duration,
    /// How long a client may leave a body or tunnel standing still.
    pub body_idle_timeout: Duration,
    /// Bytes a second that a client must send of a body of known length, and read of what waits for it; 0: any.
    pub min_rate: u32,
    /// For how long a client may be slower than that.
    pub min_rate_grace: Duration,
    /// The most client connections of the process.
    pub connections: usize,
    /// The most client connections of one address (of IPv6: of one network of 64 bits); 0: as many as there may be.
    pub connections_per_address: usize,
    /// The most requests at once on one HTTP/2 connection.
    pub http2_streams: u32,
    /// How much of a request body an HTTP/2 client may send ahead.
    pub http2_stream_window: u32,
    /// The same, for all request bodies of a connection together.
    pub http2_connection_window: u32,
    /// The most HTTP/2 frames that bring nothing on between two requests that complete, and in a minute besides.
    pub http2_control_frames: u32,
    /// The most memory that bodies take which wait for one client, over all its streams.
    pub send_buffer: usize,
    /// For how long a client may take nothing at all where what waits for it is more than that.
    pub send_buffer_grace: Duration,
    /// The most that the kernel keeps of what goes to one client, and of what comes from one upstream connection, in bytes;
    /// `None`: what the system lets it grow to.
    pub kernel_buffer: Option<u32>,
    /// The most bytes of a request's body; `None`: any number.
    pub request_body_bytes: Option<u64>,
    /// The most connections to one endpoint.
    pub upstream_connections: usize,
    /// The most requests that wait for a connection to one endpoint.
    pub upstream_pending: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            drain_timeout: Duration::from_secs(30),
            retired_grace: None,
            header_bytes: 64 << 10,
            header_count: 100,
            uri_bytes: 16 << 10,
            tls_handshake_timeout: Duration::from_secs(10),
            detection_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(60),
            body_idle_timeout: Duration::from_secs(300),
            min_rate: 240,
            min_rate_grace: Duration::from_secs(20),
            connections: 16_384,
            connections_per_address: 4096,
            http2_streams: 128,
            http2_stream_window: 256 << 10,
            http2_connection_window: 1 << 20,
            http2_control_frames: 1000,
            send_buffer: 256 << 10,
            send_buffer_grace: Duration::from_secs(10),
            kernel_buffer: None,
            request_body_bytes: None,
            upstream_connections: 1024,
            upstream_pending: 1024,
        }
    }
}

/// What the section says; defaults where it says nothing.
pub(super) fn limits(walk: &mut Walk<'_>, fields: Option<&Fields<'_>>) -> Limits {
    let default = Limits::default();
    let Some(fields) = fields else { return default };
    let shortest = Duration::from_millis(1);
    let time = |walk: &mut Walk<'_>, name, default| duration(walk, fields, name, shortest).unwrap_or(default);
    let limits = Limits {
        drain_timeout: duration(walk, fields, "drain_timeout", Duration::ZERO)
            .unwrap_or(default.drain_timeout),
        retired_grace: duration(walk, fields, "retired_grace", Duration::ZERO),
        header_bytes: size(walk, fields, "header_bytes", 4 << 10..=1 << 20).unwrap_or(default.header_bytes),
        header_count: number(fields, "header_count").unwrap_or(default.header_count),
        uri_bytes: size(walk, fields, "uri_bytes", 256..=65_534).unwrap_or(default.uri_bytes),
        tls_handshake_timeout: time(walk, "tls_handshake_timeout", default.tls_handshake_timeout),
        detection_timeout: time(walk, "detection_timeout", default.detection_timeout),
        header_timeout: time(walk, "header_timeout", default.header_timeout),
        keep_alive_timeout: time(walk, "keep_alive_timeout", default.keep_alive_timeout),
        body_idle_timeout: time(walk, "body_idle_timeout", default.body_idle_timeout),
        min_rate: number(fields, "min_rate").unwrap_or(default.min_rate),
        min_rate_grace: time(walk, "min_rate_grace", default.min_rate_grace),
        connections: number(fields, "connections").unwrap_or(default.connections),
        connections_per_address: number(fields, "connections_per_address")
            .unwrap_or(default.connections_per_address),
        http2_streams: number(fields, "http2_streams").unwrap_or(default.http2_streams),
        http2_stream_window: window(walk, fields, "http2_stream_window")
            .unwrap_or(default.http2_stream_window),
        http2_connection_window: window(walk, fields, "http2_connection_window")
            .unwrap_or(default.http2_connection_window),
        http2_control_frames: number(fields, "http2_control_frames").unwrap_or(default.http2_control_frames),
        send_buffer: size(walk, fields, "send_buffer", 16 << 10..=64 << 20).unwrap_or(default.send_buffer),
        send_buffer_grace: time(walk, "send_buffer_grace", default.send_buffer_grace),
        kernel_buffer: size(walk, fields, "kernel_buffer", 4 << 10..=64 << 20),
        request_body_bytes: size(walk, fields, "request_body_bytes", 0..=1 << 40),
        upstream_connections: number(fields, "upstream_connections").unwrap_or(default.upstream_connections),
        upstream_pending: number(fields, "upstream_pending").unwrap_or(default.upstream_pending),
    };
    contradictions::limits(walk, fields, &limits);
    limits
}

/// A flow-control window: at least HTTP/2's own default, so that no client is told to shrink it.
fn window(walk: &mut Walk<'_>, fields: &Fields<'_>, name: &str) -> Option<u32> {
    size(walk, fields, name, 65_535..=64 << 20)
}

fn number<T: TryFrom<i64>>(fields: &Fields<'_>, name: &str) -> Option<T> {
    fields.integer(name)?.try_into().ok()
}

/// The size of a key, if it is there and good.
fn size<T: TryFrom<u64>>(
    walk: &mut Walk<'_>,
    fields: &Fields<'_>,
    name: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Option<T> {
    let text = fields.text(name)?;
    let size = walk.parsed(&text, "a size", fields.kind(name), |text| texts::size(text, range))?;
    T::try_from(size).ok()
}
