//! Moments as Cloudflare writes them: UTC, to the microsecond, all of one length, so that they can be sorted as texts.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use crate::config::moment;
use crate::control::clock::rfc3339;

/// Microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    /// The moment of an RFC 3339 date-time from 1970 on; `None` where it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let micros = moment(text)?.div_euclid(1000);
        micros.try_into().ok().map(Self)
    }

    /// The next one.
    pub(super) fn after(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before, if it is not the first of all.
    pub(super) fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = rfc3339(UNIX_EPOCH + Duration::from_micros(self.0));
        let seconds = whole.strip_suffix('Z').unwrap_or(&whole);
        write!(f, "{seconds}.{:06}Z", self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc_to_the_microsecond() {
        for (text, written) in [
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
            ("2024-02-29T23:30:00.5-01:00", "2024-03-01T00:30:00.500000Z"),
            ("2026-11-20T12:00:00.123456789Z", "2026-11-20T12:00:00.123456Z"),
        ] {
            assert_eq!(Moment::parse(text).unwrap().to_string(), written);
        }
    }

    #[test]
    fn what_is_no_moment_since_1970_is_none() {
        for text in ["", "soon", "2026-11-20", "2026-11-20T12:00:00", "1969-12-31T23:59:59Z"] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
    }
}
