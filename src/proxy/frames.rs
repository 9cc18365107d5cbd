//! HTTP/2 frames as they pass (RFC 9113 section 4.1): counted, so that a client cannot keep the proxy busy with frames
//! that bring nothing on.
//!
//! The codec counts some floods by itself (resets, CONTINUATION, small DATA) and shows none. Here only the nine bytes
//! before each frame are looked at, why a stream or the connection ends, and the window that SETTINGS give to streams.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::refusals::Refusals;

/// What stands before a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes that follow.
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// Of RST_STREAM and GOAWAY, why.
    reason: u32,
    /// Of a GOAWAY, the first byte of what is said about it.
    debug: u8,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// On DATA and HEADERS: the last frame of a message.
const END_STREAM: u8 = 1;
/// In SETTINGS: how much a new stream may be sent.
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
/// How much that is where nothing is said.
const DEFAULT_WINDOW: u32 = 65_535;
/// On SETTINGS and PING: an acknowledgement.
const ACK: u8 = 1;
/// On HEADERS and CONTINUATION: the last of a head.
const END_HEADERS: u8 = 4;
const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;
/// How the codec begins to say that a head is so large that it does not read on.
const HEADER_LIST: u8 = b'h';

/// The length of what stands before a frame; and, where there is more to be seen, of that and why it was sent.
pub(super) const HEAD: usize = 9;
const RESET_HEAD: usize = HEAD + 4;
const GOAWAY_HEAD: usize = HEAD + 8;
const DEBUG_HEAD: usize = GOAWAY_HEAD + 1;

/// Finds the frames in bytes that come piece by piece.
#[derive(Debug, Default)]
struct Splitter {
    head: [u8; DEBUG_HEAD],
    filled: usize,
    /// Bytes up to the next frame.
    skip: usize,
    /// Within SETTINGS: the setting that is being read, and how much of it there is.
    setting: Option<([u8; 6], usize)>,
    /// The smallest window that new streams were given by SETTINGS so far.
    window: Option<u32>,
}

impl Splitter {
    /// Frames that begin after so many bytes.
    fn after(skip: usize) -> Self {
        Self { skip, ..Self::default() }
    }

    /// Whether the next byte begins a frame.
    fn is_between(&self) -> bool {
        self.skip == 0 && self.filled == 0
    }

    /// Whether a frame of a head has begun and not ended.
    fn is_within_head(&self) -> bool {
        self.skip > 0 && matches!(self.head[3], HEADERS | CONTINUATION)
    }

    /// Finds the frames whose heads end in these bytes, and where behind its head each goes on.
    fn feed(&mut self, all: &[u8], mut found: impl FnMut(Head, usize)) {
        let mut bytes = all;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            if self.setting.is_some() {
                self.read_settings(&bytes[..skipped]);
            }
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let wanted = self.wanted();
            let count = (wanted - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            (self.filled, bytes) = (self.filled + count, &bytes[count..]);
            if self.filled == wanted && wanted == self.wanted() {
                let head = self.take();
                self.skip = (head.length as usize).saturating_sub(wanted - HEAD);
                self.setting = (head.kind == SETTINGS).then_some(([0; 6], 0));
                found(head, all.len() - bytes.len());
            }
        }
    }

    fn read_settings(&mut self, bytes: &[u8]) {
        let Some((setting, filled)) = &mut self.setting else { return };
        for &byte in bytes {
            setting[*filled] = byte;
            *filled = (*filled + 1) % setting.len();
            if *filled == 0 && setting[..2] == INITIAL_WINDOW_SIZE {
                let size = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                self.window = Some(self.window.unwrap_or(size).min(size));
            }
        }
    }

    fn wanted(&self) -> usize {
        if self.filled < HEAD {
            return HEAD;
        }
        let length = self.number(0) >> 8;
        match self.head[3] {
            RST_STREAM if length >= 4 => RESET_HEAD,
            GOAWAY if length > 8 => DEBUG_HEAD,
            GOAWAY if length == 8 => GOAWAY_HEAD,
            _ => HEAD,
        }
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.head[at], self.head[at + 1], self.head[at + 2], self.head[at + 3]])
    }

    fn take(&mut self) -> Head {
        let (reason, debug) = match self.filled {
            HEAD => (0, 0),
            RESET_HEAD => (self.number(HEAD), 0),
            GOAWAY_HEAD => (self.number(HEAD + 4), 0),
            _ => (self.number(HEAD + 4), self.head[GOAWAY_HEAD]),
        };
        let head = Head {
            length: self.number(0) >> 8,
            kind: self.head[3],
            flags: self.head[4],
            stream: self.number(5) & 0x7fff_ffff,
            reason,
            debug,
        };
        self.filled = 0;
        head
    }
}

/// The account of one connection: frames that bring nothing on are paid from it; a request that completes fills it, and
/// what is sent pays for what a client has to say about it.
#[derive(Debug)]
pub(super) struct Ledger {
    most: i64,
    left: Cell<i64>,
    within_head: Cell<bool>,
    /// Whether only a part of a head's frame has come.
    is_cut: Cell<bool>,
    last_stream: Cell<u32>,
    /// The stream of the last head to begin, trailers among them.
    head_of: Cell<u32>,
    /// The stream whose trailers came last, how many bytes of them, and the most that there may be.
    trailers: Cell<(u32, u32)>,
    most_trailers: u32,
    refusals: Refusals,
    ended: Cell<Option<Ended>>,
    filled_at: Cell<Instant>,
    /// The smallest window that streams were ever given to begin with.
    window: Cell<u32>,
}

/// Why a connection has ended, mostly by the codec itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client is to calm down.
    Calm,
    /// A head is much larger than is allowed.
    HeadTooLarge,
    /// Trailers are so long that it would leave some of them out without a word: here we end it.
    TrailersTooLarge,
    /// What came is no HTTP/2.
    Malformed,
}

/// How long it takes an empty account to be filled by time alone: connections whose requests never end send a PING now and
/// then, too.
const REFILL: Duration = Duration::from_secs(60);
/// Frames that a client may send about each frame that it is sent: WINDOW_UPDATE for the stream and for the connection, a
/// PING to measure the bandwidth.
const PER_FRAME: i64 = 3;
/// And about so many bytes: clients with small windows update them often.
const BYTES_PER_FRAME: u32 = 1024;

impl Ledger {
    /// An account for so many frames, where trailers may have so many bytes, compressed.
    pub(super) fn new(most: u32, most_trailers: u32, now: Instant) -> Self {
        Self {
            most: most.into(),
            left: Cell::new(most.into()),
            within_head: Cell::new(false),
            is_cut: Cell::new(false),
            last_stream: Cell::new(0),
            head_of: Cell::new(0),
            trailers: Cell::new((0, 0)),
            most_trailers,
            refusals: Refusals::default(),
            ended: Cell::new(None),
            filled_at: Cell::new(now),
            window: Cell::new(DEFAULT_WINDOW),
        }
    }

    /// Whether more came than was paid for.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.left.get() < 0
    }

    /// Why the codec has ended the connection, if it did because of what the client sends.
    pub(super) fn codec_ended(&self) -> Option<Ended> {
        self.ended.get()
    }

    /// What the codec refuses by itself.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Whether the client has begun a head and not ended it.
    pub(super) fn is_within_head(&self) -> bool {
        self.within_head.get() || self.is_cut.get()
    }

    /// So much fits into the window of each stream that nothing was sent on before, in bytes.
    pub(super) fn least_window(&self) -> u32 {
        self.window.get()
    }

    /// Time fills the account slowly.
    pub(super) fn pass_time(&self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at.get());
        let passed = i64::try_from(passed.min(REFILL).as_millis()).unwrap_or(0);
        let more = self.most * passed / i64::try_from(REFILL.as_millis()).unwrap_or(i64::MAX);
        if more > 0 {
            self.filled_at.set(now);
            self.pay(more);
        }
    }

    fn pay(&self, more: i64) {
        // An overdrawn account stays so: the connection is about to end.
        if !self.is_overdrawn() {
            self.left.set((self.left.get() + more).min(self.most));
        }
    }

    fn came(&self, head: Head) {
        match head.kind {
            DATA if head.length > 0 || head.flags & END_STREAM != 0 => return,
            HEADERS => {
                self.within_head.set(head.flags & END_HEADERS == 0);
                self.head_of.set(head.stream);
                if head.stream > self.last_stream.get() {
                    self.last_stream.set(head.stream);
                    self.refusals.stream_began();
                } else {
                    self.trailers_came(head, 0);
                }
                return;
            }
            CONTINUATION => {
                self.within_head.set(head.flags & END_HEADERS == 0);
                let (stream, before) = self.trailers.get();
                if head.stream == stream {
                    self.trailers_came(head, before);
                }
            }
            _ => {}
        }
        self.left.set(self.left.get() - 1);
    }

    /// A frame of trailers, of which so many bytes came before.
    fn trailers_came(&self, head: Head, before: u32) {
        let bytes = before.saturating_add(head.length);
        self.trailers.set((head.stream, bytes));
        if bytes > self.most_trailers {
            self.ended.set(Some(Ended::TrailersTooLarge));
            self.left.set(-1);
        }
    }

    /// A frame to the client; whether the codec says by it on its own that a head is too large.
    fn goes(&self, head: Head) -> bool {
        match head.kind {
            HEADERS if head.flags & END_STREAM != 0 && self.refusals.is_answered(head.stream) => return true,
            DATA | HEADERS if head.flags & END_STREAM != 0 => self.pay(self.most),
            DATA | HEADERS => self.pay(PER_FRAME + i64::from(head.length / BYTES_PER_FRAME)),
            RST_STREAM => self.refusals.is_reset(head.stream, head.reason),
            SETTINGS | PING if head.flags & ACK == 0 => self.pay(1),
            GOAWAY => self.ends(head),
            _ => {}
        }
        false
    }

    fn ends(&self, goaway: Head) {
        let why = match (goaway.reason, goaway.debug) {
            (NO_ERROR, _) => return,
            (ENHANCE_YOUR_CALM, HEADER_LIST) => Ended::HeadTooLarge,
            (ENHANCE_YOUR_CALM, _) => Ended::Calm,
            _ => Ended::Malformed,
        };
        self.ended.set(Some(why));
    }
}

/// Watches both directions of a server's connection.
#[derive(Debug)]
pub(super) struct Observer {
    ledger: std::rc::Rc<Ledger>,
    came: Splitter,
    goes: Splitter,
}

impl Observer {
    /// For a connection whose client has yet to send a preface of so many bytes.
    pub(super) fn new(ledger: &std::rc::Rc<Ledger>, preface: usize) -> Self {
        let ledger = std::rc::Rc::clone(ledger);
        Self { ledger, came: Splitter::after(preface), goes: Splitter::default() }
    }

    /// Bytes from the client; false where they must not be listened to any more.
    pub(super) fn read(&mut self, bytes: &[u8]) -> bool {
        let ledger = &self.ledger;
        self.came.feed(bytes, |head, _| ledger.came(head));
        ledger.is_cut.set(self.came.is_within_head());
        if let Some(window) = self.came.window.take() {
            ledger.window.set(ledger.window.get().min(window));
        }
        !ledger.is_overdrawn()
    }

    /// Bytes to the client. Returns where in them the codec's own refusals of heads begin, whole frames only.
    pub(super) fn written(&mut self, bytes: &[u8]) -> Vec<usize> {
        let (ledger, mut refused) = (&self.ledger, Vec::new());
        self.goes.feed(bytes, |head, at| {
            let is_whole = || at >= HEAD && at + head.length as usize <= bytes.len();
            if ledger.goes(head) && is_whole() {
                refused.push(at - HEAD);
            }
        });
        refused
    }

    /// The connection's task has done what there was to be done.
    pub(super) fn turn_ends(&self) {
        let ledger = &self.ledger;
        let last = ledger.last_stream.get();
        ledger.refusals.turn_ends(last, ledger.is_within_head() && ledger.head_of.get() == last);
    }

    /// The frame that ends the connection, where one may be written now.
    pub(super) fn goaway(&self) -> Option<[u8; GOAWAY_HEAD]> {
        let mut frame = [0; GOAWAY_HEAD];
        frame[2] = 8;
        frame[3] = GOAWAY;
        frame[HEAD..HEAD + 4].copy_from_slice(&self.ledger.last_stream.get().to_be_bytes());
        frame[HEAD + 4..].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        self.goes.is_between().then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn observer(most: u32, preface: usize) -> (Rc<Ledger>, Observer) {
        let ledger = Rc::new(Ledger::new(most, 1000, Instant::now()));
        (Rc::clone(&ledger), Observer::new(&ledger, preface))
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut bytes = vec![7; 24];
        let mut goaway = 5u32.to_be_bytes().to_vec();
        goaway.extend(ENHANCE_YOUR_CALM.to_be_bytes());
        goaway.extend(b"why");
        for frame in [
            frame(DATA, 0, 1, &[9; 300]),
            frame(GOAWAY, 0, 0, &goaway),
            frame(GOAWAY, 0, 0, b"short"),
            frame(PING, ACK, 0, &[0; 8]),
            frame(RST_STREAM, 0, 1, &7u32.to_be_bytes()),
            frame(HEADERS, END_HEADERS, u32::MAX, b""),
        ] {
            bytes.extend(frame);
        }
        let expected = [
            (DATA, 300, 1, 0),
            (GOAWAY, 11, 0, 11),
            (GOAWAY, 5, 0, 0),
            (PING, 8, 0, 0),
            (RST_STREAM, 4, 1, 7),
            (HEADERS, 0, u32::MAX >> 1, 0),
        ];
        for size in [1, 2, 3, 8, 9, 10, 17, 1000] {
            let (mut splitter, mut found) = (Splitter::after(24), Vec::new());
            for piece in bytes.chunks(size) {
                splitter
                    .feed(piece, |head, _| found.push((head.kind, head.length, head.stream, head.reason)));
            }
            assert_eq!(found, expected, "{size}");
            assert!(splitter.is_between());
        }
    }

    #[test]
    fn more_control_frames_than_are_paid_for_overdraw_the_account() {
        let (ledger, mut observer) = observer(3, 0);
        for _ in 0..3 {
            assert!(observer.read(&frame(PING, 0, 0, &[0; 8])));
        }
        assert!(!observer.read(&frame(3, 0, 1, &[0; 4])));
        ledger.pass_time(Instant::now() + REFILL);
        assert!(ledger.is_overdrawn());
    }

    #[test]
    fn a_request_that_completes_fills_the_account_and_what_is_sent_pays_for_window_updates() {
        let (_, mut observer) = observer(3, 0);
        observer.read(&frame(HEADERS, END_HEADERS, 1, b"x"));
        observer.turn_ends();
        for _ in 0..100 {
            assert!(observer.read(&frame(PING, 0, 0, &[0; 8]).repeat(3)));
            observer.written(&frame(HEADERS, END_HEADERS | END_STREAM, 1, b"x"));
        }
        for _ in 0..100 {
            assert!(observer.read(&frame(8, 0, 1, &[0; 4]).repeat(3)));
            observer.written(&frame(DATA, 0, 1, b"x"));
        }
    }

    #[test]
    fn requests_and_their_bodies_cost_nothing_but_empty_frames_do() {
        let (_, mut observer) = observer(1, 0);
        for _ in 0..100 {
            assert!(observer.read(&frame(HEADERS, END_HEADERS, 1, b"x")));
            assert!(observer.read(&frame(DATA, 0, 1, b"x")));
            assert!(observer.read(&frame(DATA, END_STREAM, 1, b"")));
        }
        assert!(observer.read(&frame(DATA, 0, 1, b"")));
        assert!(!observer.read(&frame(DATA, 0, 1, b"")));
    }

    #[test]
    fn a_ping_now_and_then_is_paid_for_by_time() {
        let begun = Instant::now();
        let ledger = Rc::new(Ledger::new(1000, 1000, begun));
        let mut observer = Observer::new(&ledger, 0);
        for second in 0..10_000 {
            assert!(observer.read(&frame(PING, 0, 0, &[0; 8])));
            ledger.pass_time(begun + Duration::from_secs(second));
        }
    }

    #[test]
    fn a_head_is_within_from_its_first_frame_to_its_last() {
        let (ledger, mut observer) = observer(10, 0);
        observer.read(&frame(HEADERS, 0, 5, b"x"));
        assert!(ledger.is_within_head());
        observer.read(&frame(CONTINUATION, 0, 5, b"x"));
        assert!(ledger.is_within_head());
        let last = frame(CONTINUATION, END_HEADERS, 5, b"xyz");
        observer.read(&last[..11]);
        assert!(ledger.is_within_head());
        observer.read(&last[11..]);
        assert!(!ledger.is_within_head());
        assert_eq!(
            observer.goaway().map(|frame| frame[HEAD..].to_vec()),
            Some(vec![0, 0, 0, 5, 0, 0, 0, 11])
        );
    }

    #[test]
    fn the_smallest_window_that_was_ever_given_counts() {
        let (ledger, mut observer) = observer(10, 0);
        let window = |size: u32| [&[0, 3, 0, 0, 0, 1, 0, 4][..], &size.to_be_bytes()].concat();
        for (size, least) in [(1 << 30, 65_535), (1000, 1000), (2000, 1000), (0, 0)] {
            frame(SETTINGS, 0, 0, &window(size)).chunks(5).for_each(|piece| assert!(observer.read(piece)));
            assert_eq!(ledger.least_window(), least);
        }
    }

    #[test]
    fn what_is_said_in_the_turn_in_which_a_head_ends_is_the_codecs_own_word() {
        let (ledger, mut observer) = observer(10, 0);
        let head = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, b"x");
        let no_place: [usize; 0] = [];
        // Two frames, of which the second comes in two pieces; the first becomes a request.
        observer.read(&[head(1), head(3)[..9].to_vec()].concat());
        ledger.refusals().request_began();
        observer.turn_ends();
        assert_eq!(observer.written(&head(1)), no_place, "answered in another turn");
        observer.read(b"x");
        assert_eq!(observer.written(&[head(1), head(3)].concat()), [10]);
        observer.turn_ends();
        assert_eq!(observer.written(&head(3)), no_place, "the turn is over");
        // Trailers that go on for several turns open no earlier stream again.
        observer.read(&[head(5), frame(HEADERS, 0, 1, b"x")].concat());
        ledger.refusals().request_began();
        observer.turn_ends();
        assert_eq!(observer.written(&head(5)), no_place);
    }

    #[test]
    fn why_the_codec_ends_a_connection_is_told_from_its_goaway() {
        for (reason, debug, why) in [
            (NO_ERROR, "", None),
            (1, "", Some(Ended::Malformed)),
            (ENHANCE_YOUR_CALM, "", Some(Ended::Calm)),
            (ENHANCE_YOUR_CALM, "too_many_resets", Some(Ended::Calm)),
            (ENHANCE_YOUR_CALM, "header_list_way_too_large", Some(Ended::HeadTooLarge)),
        ] {
            let (ledger, mut observer) = observer(10, 0);
            let said = [&[0; 4], &reason.to_be_bytes()[..], debug.as_bytes()].concat();
            observer.written(&frame(GOAWAY, 0, 0, &said));
            assert_eq!(ledger.codec_ended(), why, "{reason} {debug}");
        }
    }

    #[test]
    fn trailers_may_have_so_many_bytes_over_all_their_frames() {
        let (ledger, mut observer) = observer(1000, 0);
        assert!(
            observer.read(&frame(HEADERS, END_HEADERS, 1, &[b'x'; 2000])),
            "a head is the codec's business"
        );
        assert!(observer.read(&frame(HEADERS, 0, 1, &[b'x'; 600])));
        assert!(observer.read(&frame(CONTINUATION, END_HEADERS, 1, &[b'x'; 400])));
        assert!(observer.read(&frame(HEADERS, 0, 3, &[b'x'; 600])));
        assert!(observer.read(&frame(CONTINUATION, END_HEADERS, 3, &[b'x'; 2000])), "a head, too");
        assert!(observer.read(&frame(HEADERS, 0, 3, &[b'x'; 600])));
        assert!(!observer.read(&frame(CONTINUATION, 0, 3, &[b'x'; 401])));
        assert_eq!(ledger.codec_ended(), Some(Ended::TrailersTooLarge));
    }

    #[test]
    fn a_goaway_is_only_written_between_frames() {
        let (_, mut observer) = observer(10, 0);
        observer.written(&frame(DATA, 0, 1, &[0; 10])[..12]);
        assert!(observer.goaway().is_none());
        observer.written(&[0; 7]);
        assert!(observer.goaway().is_some());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), cut in 1usize..40) {
            let (_, mut observer) = observer(1000, 24);
            for piece in bytes.chunks(cut) {
                observer.read(piece);
                observer.written(piece);
            }
        }
    }
}
