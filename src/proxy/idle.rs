//! How long a response may stand still.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Expires when nothing has happened for so long. Costs a timer only once something had to be waited for.
pub(super) struct Idle {
    limit: Duration,
    /// Once something had to be waited for: when something has happened last, and the timer.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Idle {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, waits: None }
    }

    /// Something has happened.
    pub(super) fn touch(&mut self) {
        if let Some((last, _)) = &mut self.waits {
            *last = Instant::now();
        }
    }

    /// Whether nothing has happened for so long; `elsewhere` tells when something that counts, too, has happened last.
    pub(super) fn poll_expired(
        &mut self,
        cx: &mut Context<'_>,
        elsewhere: impl Fn() -> Option<Instant>,
    ) -> Poll<()> {
        let begin = || (Instant::now(), Box::pin(tokio::time::sleep(self.limit)));
        let (last, timer) = self.waits.get_or_insert_with(begin);
        loop {
            ready!(timer.as_mut().poll(cx));
            let last = elsewhere().map_or(*last, |other| other.max(*last));
            let due = last + self.limit;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_happens_elsewhere_counts_as_well() {
        let limit = Duration::from_millis(20);
        for later in [Duration::ZERO, limit * 5] {
            let begun = Instant::now();
            let mut idle = Idle::new(limit);
            std::future::poll_fn(|cx| idle.poll_expired(cx, || Some(begun + later))).await;
            assert!(begun.elapsed() >= limit + later, "{later:?}");
        }
    }
}
