//! Keys that are good each by itself, and together make one of them mean nothing, or nothing good.
//!
//! Only what the file says is judged: a default that another key leaves without effect does no harm.

use super::Limits;
use super::fields::{Fields, Walk};
use super::health::HealthCheck;
use crate::diag::Diagnostic;

/// Warns of limits that contradict each other.
pub(super) fn limits(walk: &mut Walk<'_>, fields: &Fields<'_>, limits: &Limits) {
    let contradictions = [
        Contradiction {
            key: "http2_stream_window",
            with: "http2_connection_window",
            stands: limits.http2_stream_window > limits.http2_connection_window,
            what: "is larger than `http2_connection_window`",
            label: "a client may never send so much ahead on one stream",
            expected: "at most",
            help: "raise `http2_connection_window`, or lower this to it",
        },
        Contradiction {
            key: "connections_per_address",
            with: "connections",
            stands: limits.connections_per_address > limits.connections,
            what: "is larger than `connections`",
            label: "no address can have so many: this bounds nothing",
            expected: "at most",
            help: "raise `connections`, lower this, or write 0 for no bound",
        },
        Contradiction {
            key: "uri_bytes",
            with: "header_bytes",
            stands: limits.uri_bytes > limits.header_bytes,
            what: "is larger than `header_bytes`",
            label: "the target is part of the head: one so long is answered 431",
            expected: "at most",
            help: "raise `header_bytes`, or lower this below it",
        },
        Contradiction {
            key: "min_rate_grace",
            with: "min_rate",
            stands: limits.min_rate == 0,
            what: "has no effect",
            label: "without a rate, clients may be as slow as they like",
            expected: "a rate above 0 in",
            help: "set `min_rate`, or remove this",
        },
        Contradiction {
            key: "send_buffer_grace",
            with: "body_idle_timeout",
            stands: limits.send_buffer_grace > limits.body_idle_timeout,
            what: "has no effect",
            label: "what stands still for so long has been ended before",
            expected: "at most",
            help: "lower this below `body_idle_timeout`, or raise that",
        },
        Contradiction {
            key: "http2_control_frames",
            with: "http2_streams",
            stands: limits.http2_control_frames < limits.http2_streams,
            what: "is smaller than `http2_streams`",
            label: "a client that resets all of its streams at once may lose its connection",
            expected: "at least",
            help: "raise it to `http2_streams` at least, or lower that",
        },
    ];
    for contradiction in contradictions {
        contradiction.warn(walk, fields);
    }
}

/// Warns of a health check whose next one is due before it has had its time.
pub(super) fn health(walk: &mut Walk<'_>, fields: &Fields<'_>, health: &HealthCheck) {
    let contradiction = Contradiction {
        key: "timeout",
        with: "interval",
        stands: health.timeout > health.interval,
        what: "is longer than `interval`",
        label: "an upstream that does not answer is asked less often than `interval` says",
        expected: "at most",
        help: "lower `timeout` to `interval` at most, or raise that",
    };
    contradiction.warn(walk, fields);
}

/// A key that another one is at odds with.
struct Contradiction {
    key: &'static str,
    with: &'static str,
    /// Whether their values are at odds.
    stands: bool,
    what: &'static str,
    label: &'static str,
    /// How it should be to the other one.
    expected: &'static str,
    help: &'static str,
}

impl Contradiction {
    fn warn(&self, walk: &mut Walk<'_>, fields: &Fields<'_>) {
        let Some(span) = fields.span_of(self.key).filter(|_| self.stands) else { return };
        let with = fields.span_of(self.with);
        // In place of what cannot be read stands a default, which contradicts nobody.
        if [Some(&span), with.as_ref()].into_iter().flatten().any(|span| walk.has_mistake(span)) {
            return;
        }
        let value = match with {
            Some(with) => walk.written(&with).to_owned(),
            None => format!("{} by default", fields.default(self.with)),
        };
        let warning = Diagnostic::warning(format!("`{}` {}", self.key, self.what), span)
            .label(self.label)
            .expected(format!("{} `{}`, which is {value}", self.expected, self.with));
        walk.conclude(warning.help(self.help));
    }
}
