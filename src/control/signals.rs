//! What signals ask for: SIGHUP a reload; SIGTERM and SIGINT an end in order, and a second one an end at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::control::reload::Inbox;
use crate::control::status::Status;

/// The process's signals, from the moment this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    hangups: Hangups,
    stops: Stops,
}

/// SIGHUP.
#[derive(Debug)]
pub(crate) struct Hangups(Signal);

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(crate) struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            hangups: Hangups(signal(SignalKind::hangup())?),
            stops: Stops {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
        })
    }

    /// The two kinds, for two readers.
    pub(crate) fn split(self) -> (Hangups, Stops) {
        (self.hangups, self.stops)
    }
}

impl Hangups {
    /// Asks for a reload at each. Runs until it is dropped.
    pub(crate) async fn reload(mut self, inbox: Inbox) {
        while self.0.recv().await.is_some() {
            inbox.notify("SIGHUP");
        }
    }
}

impl Stops {
    /// Begins to drain at the first, and returns the number of the second.
    pub(crate) async fn obey(mut self, status: &Status) -> u8 {
        let (name, _) = self.next().await;
        tracing::info!("{name}: stopping");
        status.drain();
        let (name, number) = self.next().await;
        tracing::warn!("a second signal ({name}): ending at once");
        number
    }

    async fn next(&mut self) -> (&'static str, u8) {
        tokio::select! {
            Some(()) = self.terminate.recv() => ("SIGTERM", 15),
            Some(()) = self.interrupt.recv() => ("SIGINT", 2),
            else => std::future::pending().await,
        }
    }
}
