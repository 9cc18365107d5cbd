//! Waiting for a response's head, and for the rest of the request's body before it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use super::failure::{Failure, Kind};
use super::handler::Client;
use super::upload::{Progress, TooSlow};
use crate::config::{Limits, Timeouts};

/// How long a response's head may take: a limit from the request's end, or from the last piece of its body that passed. For
/// the next piece the client itself may take as long as any body may stand still.
pub(super) struct Wait<'a> {
    pub(super) timeouts: Timeouts,
    pub(super) limits: &'a Limits,
    /// Of the request's body, if there is one.
    pub(super) progress: Option<&'a Progress>,
}

impl Wait<'_> {
    /// Waits for a response's head. The timer is the client connection's, where no other request uses it: to set a timer
    /// forward costs next to nothing, to make one and take it out again costs as much as a hash table look-up each.
    pub(super) async fn head_within<T>(
        &self,
        client: &Client,
        head: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Failure> {
        let mut head = head;
        let begun = Instant::now();
        let due = self.first_due(begun);
        let mut timer = client.timer.take().unwrap_or_else(|| Box::pin(tokio::time::sleep_until(due.into())));
        timer.as_mut().reset(due.into());
        let waited = poll_fn(|context| {
            if let Poll::Ready(result) = head.as_mut().poll(context) {
                return Poll::Ready(Ok(result));
            }
            loop {
                ready!(timer.as_mut().poll(context));
                match self.next_due(begun, Instant::now()) {
                    Ok(due) => timer.as_mut().reset(due.into()),
                    Err(whose) => return Poll::Ready(Err(whose.into())),
                }
            }
        })
        .await;
        client.timer.set(Some(timer));
        waited
    }

    /// When to look for the first time.
    fn first_due(&self, begun: Instant) -> Instant {
        let patience = match self.progress {
            None => self.timeouts.response,
            Some(_) => self.timeouts.response.min(self.client_idle()).min(self.limits.min_rate_grace),
        };
        begun + patience
    }

    /// When to look again, as things are now; or whose failure it is that there is nothing to wait for any more.
    fn next_due(&self, begun: Instant, now: Instant) -> Result<Instant, Kind> {
        let Some(progress) = self.progress else {
            return after(begun + self.timeouts.response, now, Kind::ResponseTimeout);
        };
        let due = if let Some(since) = progress.waits_since() {
            after(since + self.client_idle(), now, Kind::RequestTimeout)?
        } else {
            let due = after(progress.last.get() + self.timeouts.response, now, Kind::ResponseTimeout)?;
            due.min(now + self.client_idle())
        };
        let paced = progress.pace(now, self.limits.min_rate, self.limits.min_rate_grace);
        Ok(paced.map_err(|TooSlow| Kind::RequestTooSlow)?.map_or(due, |paced| paced.min(due)))
    }

    /// How long the next piece of the request's body may take.
    fn client_idle(&self) -> Duration {
        self.timeouts.idle.min(self.limits.body_idle_timeout)
    }
}

/// A moment that is still to come.
fn after(due: Instant, now: Instant, missed: Kind) -> Result<Instant, Kind> {
    if due > now { Ok(due) } else { Err(missed) }
}
