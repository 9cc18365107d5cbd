//! A panic costs the request that it happens in, and nothing else.
//!
//! Nothing that a client or an upstream sends may panic. Where a mistake is left all the same, its request is answered
//! 500, or cut where its response has begun, and is counted; other requests and the process go on. An HTTP/1.1 connection
//! closes with it.
//! Whoever runs the process decides how the panic itself is reported, by the panic hook.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// What a function makes; `None` where it panics. What it held has been dropped by then, locks and borrows among it.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    // Nothing half done can be seen afterwards: what the shard shares changes in whole steps, and what belongs to the
    // request is gone.
    catch_unwind(AssertUnwindSafe(work)).ok()
}

pin_project! {
    /// A future whose panic is caught.
    pub(super) struct Catching<F, O> {
        #[pin]
        future: F,
        panicked: fn() -> O,
    }
}

/// What a future makes, or `panicked` where it panics. What it held has been dropped by then, if it is an `async` one.
pub(super) fn catching<F: Future>(future: F, panicked: fn() -> F::Output) -> Catching<F, F::Output> {
    Catching { future, panicked }
}

impl<F: Future> Future for Catching<F, F::Output> {
    type Output = F::Output;

    // By hand: an `async` function would hold the future twice.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut polled = Poll::Pending;
        if caught(|| polled = this.future.poll(context)).is_none() {
            return Poll::Ready((this.panicked)());
        }
        polled
    }
}

/// Something shared that ends with the task that drives it, however that ends: nobody may wait for what nothing drives.
pub(super) struct EndsWithTask<T>(pub(super) Rc<RefCell<Option<T>>>);

impl<T> Drop for EndsWithTask<T> {
    fn drop(&mut self) {
        let over = self.0.try_borrow_mut().ok().and_then(|mut driven| driven.take());
        // Who waits for it is told by its end, when it is no longer borrowed.
        drop(over);
    }
}

/// Panics where a test says so. Exists in the unit tests of this crate only.
#[cfg(test)]
pub(super) fn provoke(said: &[u8], place: &str) {
    assert!(said != place.as_bytes(), "provoked:\n{place}");
}

#[cfg(test)]
mod tests;
