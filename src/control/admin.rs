//! The admin address: probes, metrics, the status, and reloads.
//!
//! It answers on the control thread, never on a shard, and everything that a client may hold is bounded. Its settings
//! change with a reload, its address too: the new one is bound before the old one is given up.

mod access;
mod problem;
mod routes;
mod server;
mod socket;
mod token;

use std::sync::{Arc, Mutex, PoisonError};

pub use token::{Token, read_token};

use crate::config::{self, Address};
use crate::control::admin::access::Access;
use crate::control::admin::server::Server;
use crate::control::admin::socket::Bound;
use crate::control::reload::Inbox;
use crate::control::status::Status;
use crate::diag::Diagnostic;

/// The admin address of one process, which may be none at the moment. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Admin {
    state: Arc<State>,
    live: Option<Live>,
}

/// What requests to the admin address see.
#[derive(Debug)]
pub(crate) struct State {
    /// What the process says of itself.
    pub(crate) status: Arc<Status>,
    /// Where reloads are asked for.
    pub(crate) inbox: Inbox,
    access: Mutex<Arc<Access>>,
}

#[derive(Debug)]
struct Live {
    /// As the file says it: a port of 0 stays 0 here.
    wanted: Address,
    server: Server,
}

/// New settings with everything read and bound: committing them cannot fail.
#[derive(Debug)]
pub(crate) struct Prepared {
    access: Access,
    next: Next,
}

#[derive(Debug)]
enum Next {
    Same,
    Other { wanted: Address, bound: Bound },
    Nowhere { why: String },
}

impl State {
    /// Who may do what, as the running generation says.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Admin {
    /// Nowhere, until settings are committed.
    pub(crate) fn new(status: Arc<Status>, inbox: Inbox) -> Self {
        Self { state: Arc::new(State { status, inbox, access: Mutex::default() }), live: None }
    }

    /// Where it is, with the port that the system chose where the file says 0.
    pub(crate) fn address(&self) -> Option<Address> {
        self.live.as_ref().map(|live| live.server.address().clone())
    }

    /// Reads the token and binds the address, unless it is bound already. Changes nothing that serves.
    ///
    /// # Errors
    /// Every mistake, with its place in the file.
    pub(crate) fn prepare(&self, wanted: &config::Admin) -> Result<Prepared, Vec<Diagnostic>> {
        let token = wanted.token_file.as_ref().map(read_token).transpose();
        match (token, self.next(wanted)) {
            (Ok(token), Ok(next)) => {
                Ok(Prepared { access: Access::new(token, wanted.hosts.clone(), wanted.metrics_open), next })
            }
            (token, next) => Err(token.err().into_iter().chain(next.err()).collect()),
        }
    }

    fn next(&self, wanted: &config::Admin) -> Result<Next, Diagnostic> {
        let address = &wanted.address.value;
        if self.live.as_ref().is_some_and(|live| live.wanted == *address) {
            return Ok(Next::Same);
        }
        match Bound::bind(address) {
            Ok(bound) => Ok(Next::Other { wanted: address.clone(), bound }),
            Err(error) if !wanted.configured => Ok(Next::Nowhere { why: format!("{address}: {error}") }),
            Err(error) => {
                let title = format!("the admin address {address} cannot be listened on: {error}");
                Err(Diagnostic::error(title, wanted.address.span.clone()).label("in use, or not to be had"))
            }
        }
    }

    /// Swaps to prepared settings. Requests under way on an address that is given up are finished.
    pub(crate) fn commit(&mut self, prepared: Prepared) {
        *self.state.access.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(prepared.access);
        match prepared.next {
            Next::Same => {}
            Next::Other { wanted, bound } => {
                let server = Server::start(bound, &self.state);
                tracing::info!("admin address: {}", server.address());
                self.live = Some(Live { wanted, server });
            }
            Next::Nowhere { why } => {
                tracing::warn!("no admin address: {why}; set `address` in [admin] to choose another");
                self.live = None;
            }
        }
    }
}
