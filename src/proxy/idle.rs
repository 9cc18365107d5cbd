//! How long a response may stand still.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Expires when nothing has happened for so long. Costs a timer only once something had to be waited for.
pub(super) struct Idle {
    limit: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, last: Instant::now(), timer: None }
    }

    /// Something has happened.
    pub(super) fn touch(&mut self) {
        if self.timer.is_some() {
            self.last = Instant::now();
        }
    }

    /// Whether nothing has happened for so long; `elsewhere` tells when something that counts, too, has happened last.
    pub(super) fn poll_expired(
        &mut self,
        cx: &mut Context<'_>,
        elsewhere: impl Fn() -> Option<Instant>,
    ) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| {
            self.last = Instant::now();
            Box::pin(tokio::time::sleep(self.limit))
        });
        loop {
            ready!(timer.as_mut().poll(cx));
            let last = elsewhere().map_or(self.last, |other| other.max(self.last));
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
