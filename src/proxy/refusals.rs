//! What the HTTP/2 codec refuses by itself: requests that never reach the handler, so that only the frames which the codec
//! writes tell of them.
//!
//! A connection's task works in turns. In one turn the codec reads what has come, answers on its own what it refuses, and
//! hands the rest over as requests; those run in tasks of their own, which cannot answer before the turn is over. So
//! whatever is said on a stream in the turn in which its head was read is the codec's own word.

use std::cell::Cell;
use std::rc::Rc;

use super::failure::Kind;
use super::frames::{Ended, HEAD, Ledger};
use super::handler::Client;
use super::record;
use crate::metrics::Limit;

/// Why a stream is reset that is one too many (RFC 9113 section 7).
const REFUSED_STREAM: u32 = 7;

/// How many requests the codec has refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// For the size of their heads: answered 431.
    too_large: u32,
    /// For being malformed: reset.
    malformed: u32,
    /// For being too many at once: reset, and to be sent again (RFC 9113 section 8.7).
    too_many: u32,
}

impl Refused {
    const NONE: Self = Self { too_large: 0, malformed: 0, too_many: 0 };
}

/// Watches one connection for what its codec refuses.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The last stream whose head was read before this turn began.
    settled: Cell<u32>,
    /// Streams that began in this turn, without those that became requests.
    unclaimed: Cell<u32>,
    /// Whether the last stream to begin began in this turn, or its head has not ended yet.
    opening: Cell<bool>,
    /// What was said in this turn.
    said: Cell<Refused>,
    /// What was refused in turns that are over, and is not recorded yet.
    due: Cell<Refused>,
}

impl Refusals {
    /// A client begins a stream.
    pub(super) fn stream_began(&self) {
        self.unclaimed.set(self.unclaimed.get() + 1);
        self.opening.set(true);
    }

    /// A request reaches the handler.
    pub(super) fn request_began(&self) {
        self.unclaimed.set(self.unclaimed.get().saturating_sub(1));
    }

    /// A stream is answered without a body: whether by the codec. It has but one answer.
    pub(super) fn is_answered(&self, stream: u32) -> bool {
        let own = stream > self.settled.get();
        if own {
            let said = self.said.get();
            self.said.set(Refused { too_large: said.too_large + 1, ..said });
        }
        own
    }

    /// A stream is reset.
    pub(super) fn is_reset(&self, stream: u32, reason: u32) {
        if stream <= self.settled.get() {
            return;
        }
        let said = self.said.get();
        self.said.set(match reason {
            REFUSED_STREAM => Refused { too_many: said.too_many + 1, ..said },
            _ => Refused { malformed: said.malformed + 1, ..said },
        });
    }

    /// The turn is over. `last` is the last stream that began; its head, or a later one on it, may go on in the next turn.
    pub(super) fn turn_ends(&self, last: u32, within_head: bool) {
        if !self.opening.get() {
            return;
        }
        let Refused { too_large, malformed, too_many } = self.said.take();
        // A stream whose head was too large may be reset besides, and so may one that has become a request.
        let others = self.unclaimed.get().saturating_sub(too_large + too_many);
        let due = self.due.get();
        self.due.set(Refused {
            too_large: due.too_large + too_large,
            malformed: due.malformed + malformed.min(others),
            too_many: due.too_many + too_many,
        });
        self.opening.set(within_head);
        self.unclaimed.set(within_head.into());
        self.settled.set(last - u32::from(within_head));
    }
}

/// Counts what the codec has refused since the last call, and records what was a request.
pub(super) fn record(client: &Rc<Client>, ledger: &Ledger) {
    if ledger.refusals().due.get() != Refused::NONE {
        record_all(client, ledger.refusals().due.take());
    }
}

#[cold]
fn record_all(client: &Rc<Client>, refused: Refused) {
    for _ in 0..refused.too_large {
        too_large(client);
    }
    for _ in 0..refused.malformed {
        record::unread(client, MALFORMED);
    }
    // These are no requests yet: their client is told to send them again.
    for _ in 0..refused.too_many {
        client.shard.limited(Limit::Http2Streams);
    }
}

const MALFORMED: Kind = Kind::BadRequest("the request is malformed");

fn too_large(client: &Rc<Client>) {
    client.shard.limited(Limit::HeaderBytes);
    record::unread(client, Kind::HeadTooLarge);
}

/// Counts and records why the connection has ended, where that was for what the client sent.
pub(super) fn record_end(client: &Rc<Client>, ledger: &Ledger) {
    record(client, ledger);
    match ledger.codec_ended() {
        Some(Ended::TrailersTooLarge) => client.shard.limited(Limit::HeaderBytes),
        _ if ledger.is_overdrawn() => client.shard.limited(Limit::Http2ControlFrames),
        Some(Ended::Calm) => client.shard.limited(Limit::Http2ControlFrames),
        Some(Ended::HeadTooLarge) => too_large(client),
        Some(Ended::Malformed) => record::unread(client, MALFORMED),
        None => {}
    }
}

/// Gives the codec's own answer, a whole HEADERS frame that begins at a place of these bytes, the field that every refusal
/// has. Its representation is one that is not indexed (RFC 7541 section 6.2.2): the tables of both sides stay as they are.
pub(super) fn dress(bytes: &mut Vec<u8>, at: usize) {
    let length = u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]);
    let mut field = vec![0];
    for text in ["gradual-error", Kind::HeadTooLarge.as_str()] {
        // Both are shorter than what one byte can say.
        field.push(u8::try_from(text.len()).unwrap_or_default());
        field.extend_from_slice(text.as_bytes());
    }
    let longer = length + u32::try_from(field.len()).unwrap_or_default();
    bytes[at..at + 3].copy_from_slice(&longer.to_be_bytes()[1..]);
    let end = at + HEAD + length as usize;
    bytes.splice(end..end, field);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_reset_only_streams_that_became_no_request_were_refused() {
        let refusals = Refusals::default();
        // A request whose trailers are malformed, a head that is too large and is reset besides, a malformed one, and one
        // too many.
        for _ in 0..4 {
            refusals.stream_began();
        }
        assert!(refusals.is_answered(3));
        for (stream, reason) in [(1, 1), (3, 1), (5, 1), (7, REFUSED_STREAM)] {
            refusals.is_reset(stream, reason);
        }
        refusals.request_began();
        refusals.turn_ends(7, false);
        assert_eq!(refusals.due.get(), Refused { too_large: 1, malformed: 1, too_many: 1 });
        refusals.is_reset(7, 1);
        refusals.turn_ends(7, false);
        assert!(!refusals.is_answered(7));
        assert_eq!(refusals.due.get(), Refused { too_large: 1, malformed: 1, too_many: 1 });
    }

    #[test]
    fn an_answer_is_dressed_where_it_stands() {
        let mut bytes = b"before\0\0\x01\x01\x05\0\0\0\x01\xbebehind".to_vec();
        dress(&mut bytes, 6);
        let expected = b"before\0\0\x1f\x01\x05\0\0\0\x01\xbe\0\x0dgradual-error\x0ehead-too-largebehind";
        assert_eq!(bytes, expected);
    }
}
