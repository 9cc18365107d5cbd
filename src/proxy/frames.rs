//! HTTP/2 frames as they pass (RFC 9113 section 4.1): counted, so that a client cannot keep the proxy busy with frames
//! that bring nothing on.
//!
//! The codec counts some floods by itself (resets, CONTINUATION, small DATA) and shows none. Here only the nine bytes
//! before each frame are looked at, and of what is in it only the window that SETTINGS give to streams.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// What stands before a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes that follow.
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// Of a GOAWAY, why.
    reason: u32,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
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
const ENHANCE_YOUR_CALM: u32 = 11;

/// The length of what stands before a frame; and, for a GOAWAY, of that and its reason.
const HEAD: usize = 9;
const GOAWAY_HEAD: usize = HEAD + 8;

/// Finds the frames in bytes that come piece by piece.
#[derive(Debug, Default)]
struct Splitter {
    head: [u8; GOAWAY_HEAD],
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

    fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Head)) {
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
                found(head);
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
        let is_goaway = self.filled >= HEAD && self.head[3] == GOAWAY && self.head[..3] >= [0, 0, 8][..];
        if is_goaway { GOAWAY_HEAD } else { HEAD }
    }

    fn take(&mut self) -> Head {
        let number = |at: usize| {
            u32::from_be_bytes([self.head[at], self.head[at + 1], self.head[at + 2], self.head[at + 3]])
        };
        let head = Head {
            length: number(0) >> 8,
            kind: self.head[3],
            flags: self.head[4],
            stream: number(5) & 0x7fff_ffff,
            reason: if self.filled == GOAWAY_HEAD { number(13) } else { 0 },
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
    last_stream: Cell<u32>,
    /// Whether the codec itself has told the client to calm down.
    codec_ended: Cell<bool>,
    filled_at: Cell<Instant>,
    /// The smallest window that streams were ever given to begin with.
    window: Cell<u32>,
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
    /// An account for so many frames.
    pub(super) fn new(most: u32, now: Instant) -> Self {
        Self {
            most: most.into(),
            left: Cell::new(most.into()),
            within_head: Cell::new(false),
            last_stream: Cell::new(0),
            codec_ended: Cell::new(false),
            filled_at: Cell::new(now),
            window: Cell::new(DEFAULT_WINDOW),
        }
    }

    /// Whether more came than was paid for.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.left.get() < 0
    }

    /// Whether the codec has ended the connection because of what the client sends.
    pub(super) fn has_codec_ended(&self) -> bool {
        self.codec_ended.get()
    }

    /// Whether the client has begun a head and not ended it.
    pub(super) fn is_within_head(&self) -> bool {
        self.within_head.get()
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
                self.last_stream.set(self.last_stream.get().max(head.stream));
                return;
            }
            CONTINUATION => self.within_head.set(head.flags & END_HEADERS == 0),
            _ => {}
        }
        self.left.set(self.left.get() - 1);
    }

    fn goes(&self, head: Head) {
        match head.kind {
            DATA | HEADERS if head.flags & END_STREAM != 0 => self.pay(self.most),
            DATA | HEADERS => self.pay(PER_FRAME + i64::from(head.length / BYTES_PER_FRAME)),
            SETTINGS | PING if head.flags & ACK == 0 => self.pay(1),
            GOAWAY if head.reason == ENHANCE_YOUR_CALM => self.codec_ended.set(true),
            _ => {}
        }
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
        self.came.feed(bytes, |head| ledger.came(head));
        if let Some(window) = self.came.window.take() {
            ledger.window.set(ledger.window.get().min(window));
        }
        !ledger.is_overdrawn()
    }

    /// Bytes to the client.
    pub(super) fn written(&mut self, bytes: &[u8]) {
        let ledger = &self.ledger;
        self.goes.feed(bytes, |head| ledger.goes(head));
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
        let ledger = Rc::new(Ledger::new(most, Instant::now()));
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
            frame(HEADERS, END_HEADERS, u32::MAX, b""),
        ] {
            bytes.extend(frame);
        }
        let expected = [
            (DATA, 300, 1, 0),
            (GOAWAY, 11, 0, 11),
            (GOAWAY, 5, 0, 0),
            (PING, 8, 0, 0),
            (HEADERS, 0, u32::MAX >> 1, 0),
        ];
        for size in [1, 2, 3, 8, 9, 10, 17, 1000] {
            let (mut splitter, mut found) = (Splitter::after(24), Vec::new());
            for piece in bytes.chunks(size) {
                splitter.feed(piece, |head| found.push((head.kind, head.length, head.stream, head.reason)));
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
        let ledger = Rc::new(Ledger::new(1000, begun));
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
        observer.read(&frame(CONTINUATION, END_HEADERS, 5, b"x"));
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
