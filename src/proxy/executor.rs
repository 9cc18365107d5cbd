//! What the HTTP/2 codec runs its streams on: the shard's own thread.

use std::rc::Rc;

use super::handler::Client;

/// Runs futures on the shard's own thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Runs the streams of one HTTP/2 client, each as a task of its own that can be ended without the others.
#[derive(Clone)]
pub(super) struct StreamExecutor(pub(super) Rc<Client>);

impl<F: Future + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(async move {
            future.await;
        });
        // The codec runs a stream right after the handler has begun with its request.
        if let Some(place) = self.0.begun.take() {
            self.0.shard.tenures().driven_by(place, task);
        }
    }
}
