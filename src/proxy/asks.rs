//! What a request asks of its upstream.

use std::time::Duration;

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Any connection.
    Request,
    /// One that can become a tunnel.
    Tunnel,
}

/// How a request asks for a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asks {
    pub(super) need: Need,
    /// Not one that was idle.
    pub(super) fresh: bool,
    /// Whether the request can be sent only once, so that its connection must be as sure as can be.
    pub(super) once: bool,
    /// How long it may take.
    pub(super) patience: Duration,
    pub(super) bounds: Bounds,
}

/// What there may be at most to one endpoint, over all shards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connections: usize,
    /// Requests that wait for one.
    pub(super) pending: usize,
    /// Bytes that the kernel keeps of what comes on each connection; `None`: as many as it likes.
    pub(super) kernel_buffer: Option<u32>,
}
