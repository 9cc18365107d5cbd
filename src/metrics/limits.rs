//! What met a bound of `[limits]`: counted for the whole process, and only when it happens.

use std::sync::atomic::{AtomicU64, Ordering};

/// A bound towards clients, by its key in `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A request's head had too many bytes.
    HeaderBytes,
    /// A request's head had too many lines.
    HeaderCount,
    /// A request's target was too long.
    UriBytes,
    /// A PROXY header or TLS handshake took too long.
    TlsHandshakeTimeout,
    /// A new connection did not say in time what it speaks.
    DetectionTimeout,
    /// A request's head took too long.
    HeaderTimeout,
    /// A connection waited too long for its next request.
    KeepAliveTimeout,
    /// A client left a body or tunnel standing still.
    BodyIdleTimeout,
    /// A client sent or read too slowly.
    MinRate,
    /// There were too many client connections.
    Connections,
    /// There were too many connections of one address.
    ConnectionsPerAddress,
    /// There were too many HTTP/2 requests at once on a connection.
    Http2Streams,
    /// Too many HTTP/2 frames brought nothing on.
    Http2ControlFrames,
    /// A request's body was too large.
    RequestBodyBytes,
    /// A client that responses wait for took none of them, and they cost more than its share.
    SendBuffer,
}

impl Limit {
    /// All of them, in the order of the file.
    pub const ALL: [Self; 15] = [
        Self::HeaderBytes,
        Self::HeaderCount,
        Self::UriBytes,
        Self::TlsHandshakeTimeout,
        Self::DetectionTimeout,
        Self::HeaderTimeout,
        Self::KeepAliveTimeout,
        Self::BodyIdleTimeout,
        Self::MinRate,
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::Http2Streams,
        Self::Http2ControlFrames,
        Self::RequestBodyBytes,
        Self::SendBuffer,
    ];

    /// The key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HeaderBytes => "header_bytes",
            Self::HeaderCount => "header_count",
            Self::UriBytes => "uri_bytes",
            Self::TlsHandshakeTimeout => "tls_handshake_timeout",
            Self::DetectionTimeout => "detection_timeout",
            Self::HeaderTimeout => "header_timeout",
            Self::KeepAliveTimeout => "keep_alive_timeout",
            Self::BodyIdleTimeout => "body_idle_timeout",
            Self::MinRate => "min_rate",
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::Http2Streams => "http2_streams",
            Self::Http2ControlFrames => "http2_control_frames",
            Self::RequestBodyBytes => "request_body_bytes",
            Self::SendBuffer => "send_buffer",
        }
    }
}

/// How often each bound was met, by all shards.
#[derive(Debug, Default)]
pub(super) struct Limited([AtomicU64; Limit::ALL.len()]);

impl Limited {
    pub(super) fn count(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self, limit: Limit) -> u64 {
        self.0[limit as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_have_the_places_that_their_list_gives_them() {
        for (index, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, index);
        }
    }
}
