//! `[worker.objects]`.

use std::time::Duration;

use super::fields::{Fields, Walk};
use super::rules::parsed;
use super::sections::duration;
use crate::rules::Expression;

/// `[worker.objects]`: what is served by one version at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// Names the object of a request; missing or empty: it is for none.
    pub key: Expression,
    /// What becomes of an object's requests when it moves.
    pub handover: Handover,
    /// How long they may go on where they are drained.
    pub timeout: Duration,
}

impl Objects {
    /// The default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(30);
}

/// What becomes of an object's requests and tunnels when a deployment gives it another version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handover {
    /// They may end by themselves for a while.
    #[default]
    Drain,
    /// They are cut at once.
    Reset,
}

/// The objects of a worker; `None` where the table is not there, or says no good expression.
pub(super) fn objects(walk: &mut Walk<'_>, fields: Option<&Fields<'_>>) -> Option<Objects> {
    let fields = fields?;
    let key = fields.text("key").and_then(|text| parsed(walk, &text, Expression::parse));
    let handover = match fields.word("handover") {
        Some("reset") => Handover::Reset,
        _ => Handover::Drain,
    };
    let timeout = duration(walk, fields, "timeout", Duration::from_millis(1)).unwrap_or(Objects::TIMEOUT);
    Some(Objects { key: key?, handover, timeout })
}
