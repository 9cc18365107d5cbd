//! What a request asks of its upstream.

use std::time::Duration;

use crate::config::Limits;

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
pub(super) struct Asks<'a> {
    pub(super) need: Need,
    /// Not one that was idle.
    pub(super) fresh: bool,
    /// Whether the request can be sent only once, so that its connection must be as sure as can be.
    pub(super) once: bool,
    /// How long it may take.
    pub(super) patience: Duration,
    /// What there may be of one endpoint.
    pub(super) limits: &'a Limits,
}
