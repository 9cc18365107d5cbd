//! What leaves the process about the requests it served.

pub mod access;
pub mod tail;

use std::sync::atomic::{AtomicU8, Ordering};

/// Who wants to know of requests. All of it is one word, so that a request on which nobody looks costs one load.
#[derive(Debug, Default)]
struct Interest(AtomicU8);

impl Interest {
    const LOG: u8 = 1;
    const TAILS: u8 = 2;

    fn set(&self, who: u8, wants: bool) {
        if wants {
            self.0.fetch_or(who, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!who, Ordering::Relaxed);
        }
    }

    fn now(&self) -> Wanted {
        Wanted(self.0.load(Ordering::Relaxed))
    }
}

/// Who wants to know of a request, as it was when it began.
#[derive(Clone, Copy, Debug)]
pub struct Wanted(u8);

impl Wanted {
    /// Whether the access log is on.
    #[inline]
    pub fn by_the_log(self) -> bool {
        self.0 & Interest::LOG != 0
    }

    /// Whether there is a tail, of whatever worker.
    #[inline]
    pub fn by_a_tail(self) -> bool {
        self.0 & Interest::TAILS != 0
    }
}
