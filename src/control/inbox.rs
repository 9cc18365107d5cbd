//! An inbox: anybody asks, with or without waiting, and one consumer answers, so that nothing of one kind overlaps.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

/// Where something is asked for. Cheap to clone; every clone is the same inbox. `T` is what comes of it.
pub struct Inbox<T>(mpsc::Sender<Request<T>>);

/// The consumer's end of an inbox.
#[derive(Debug)]
pub(crate) struct Requests<T>(mpsc::Receiver<Request<T>>);

/// Somebody asks.
#[derive(Debug)]
pub(crate) struct Request<T> {
    /// Why, for the log.
    pub(crate) why: &'static str,
    /// Where the outcome goes; `None` where nobody waits.
    pub(crate) reply: Option<oneshot::Sender<T>>,
}

/// An inbox with room for so many that were not begun, and the end that its consumer reads.
pub(crate) fn inbox<T>(room: usize) -> (Inbox<T>, Requests<T>) {
    let (sender, receiver) = mpsc::channel(room);
    (Inbox(sender), Requests(receiver))
}

impl<T> Inbox<T> {
    /// Asks and waits for what comes of it: it begins after this call. `why` is for the log. `None`: the process is about
    /// to end.
    pub async fn ask(&self, why: &'static str) -> Option<T> {
        let (reply, outcome) = oneshot::channel();
        self.0.send(Request { why, reply: Some(reply) }).await.ok()?;
        outcome.await.ok()
    }

    /// Asks without waiting. `why` is for the log.
    pub fn notify(&self, why: &'static str) {
        // A full inbox holds requests that have not begun, and one of them does as well; a closed one belongs to a process
        // about to end: in neither case is a notice missed.
        let _ = self.0.try_send(Request { why, reply: None });
    }
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inbox").finish_non_exhaustive()
    }
}

impl<T> Requests<T> {
    /// Whether anybody waits.
    pub(crate) fn are_waiting(&self) -> bool {
        !self.0.is_empty()
    }

    /// Waits for a request. Safe to cancel. `None`: no inbox is left.
    pub(crate) async fn next(&mut self) -> Option<Request<T>> {
        self.0.recv().await
    }

    /// A request that waits already.
    pub(crate) fn waiting(&mut self) -> Option<Request<T>> {
        self.0.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_asker_is_told_when_the_process_ends() {
        let (inbox, requests) = inbox::<()>(1);
        drop(requests);
        assert_eq!(inbox.ask("late").await, None);
        inbox.notify("late");
    }

    #[tokio::test]
    async fn a_notice_to_a_full_inbox_is_not_waited_for_and_those_that_are_there_stay() {
        let (inbox, mut requests) = inbox::<()>(1);
        inbox.notify("first");
        inbox.notify("second");
        assert!(requests.are_waiting());
        assert_eq!(requests.next().await.unwrap().why, "first");
        assert!(requests.waiting().is_none());
    }
}
