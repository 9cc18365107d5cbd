//! What signals ask for: SIGHUP a reload; SIGUSR2 a binary upgrade; SIGTERM and SIGINT an end in order, and a second one an end at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::control::reload::Inbox;
use crate::control::status::Status;
use crate::control::upgrade;

/// The process's signals, from the moment this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    hangups: Hangups,
    upgrades: Upgrades,
    stops: Stops,
}

/// SIGHUP.
#[derive(Debug)]
pub(crate) struct Hangups(Signal);

/// SIGUSR2.
#[derive(Debug)]
pub(crate) struct Upgrades(Signal);

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
            upgrades: Upgrades(signal(SignalKind::user_defined2())?),
            stops: Stops {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
        })
    }

    /// The three kinds, for three readers.
    pub(crate) fn split(self) -> (Hangups, Upgrades, Stops) {
        (self.hangups, self.upgrades, self.stops)
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

impl Upgrades {
    /// Asks for an upgrade at each. Runs until it is dropped.
    pub(crate) async fn upgrade(mut self, inbox: upgrade::Inbox) {
        while self.0.recv().await.is_some() {
            inbox.notify("SIGUSR2");
        }
    }
}

/// A signal that ends the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    name: &'static str,
    /// Its number, the same on all systems (POSIX `kill`).
    pub(crate) number: u8,
}

impl Stops {
    /// Begins to drain at the first, and returns the number of the second.
    pub(crate) async fn obey(mut self, status: &Status) -> u8 {
        let stop = self.next().await;
        tracing::info!("{}: stopping", stop.name);
        status.drain();
        let stop = self.next().await;
        tracing::warn!("a second signal ({}): ending at once", stop.name);
        stop.number
    }

    /// Waits for one. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Stop {
        tokio::select! {
            Some(()) = self.terminate.recv() => Stop { name: "SIGTERM", number: 15 },
            Some(()) = self.interrupt.recv() => Stop { name: "SIGINT", number: 2 },
            else => std::future::pending().await,
        }
    }
}
