//! The admin address: probes, metrics, the status, and reloads.
//!
//! It answers on the control thread, never on a shard, and everything that a client may hold is bounded. Its settings
//! change with a reload, its address too: the new one is bound before the old one is given up.

mod access;
mod api;
mod problem;
mod routes;
mod server;
mod socket;
mod token;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

pub use token::{Token, check_token, read_token};

use crate::config::{self, Address};
use crate::control::admin::access::Access;
pub(crate) use crate::control::admin::server::Leaving;
use crate::control::admin::server::Server;
use crate::control::admin::socket::Bound;
use crate::control::cloudflare::Sessions;
use crate::control::reload::Inbox;
use crate::control::status::Status;
use crate::control::upgrade;
use crate::diag::Diagnostic;
use crate::proxy::Handed;

/// How many changes of the file may be under way: all but one of them wait, each on a thread.
const CHANGES: usize = 8;

/// The admin address of one process, which may be none at the moment. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Admin {
    state: Arc<State>,
    /// Room for connections: of all addresses together, as those of one that is given up may still be there.
    places: Arc<Semaphore>,
    live: Option<Live>,
    /// What another process has bound, until the first commit.
    handed: Option<Handed>,
}

/// What requests to the admin address see.
#[derive(Debug)]
pub(crate) struct State {
    /// What the process says of itself.
    pub(crate) status: Arc<Status>,
    /// Where reloads are asked for.
    pub(crate) inbox: Inbox,
    /// Where upgrades are asked for.
    pub(crate) upgrades: upgrade::Inbox,
    /// Room for changes of the file that are under way, whether or not anybody still waits for them.
    pub(crate) changes: Arc<Semaphore>,
    /// The tails that were made over Cloudflare's API.
    pub(crate) sessions: Sessions,
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
    /// Nowhere, until settings are committed; of so many connections at a time then.
    pub(crate) fn new(
        status: Arc<Status>,
        inbox: Inbox,
        upgrades: upgrade::Inbox,
        connections: usize,
    ) -> Self {
        let changes = Arc::new(Semaphore::new(CHANGES));
        let sessions = Sessions::default();
        let state = State { status, inbox, upgrades, changes, sessions, access: Mutex::default() };
        Self {
            state: Arc::new(state),
            places: Arc::new(Semaphore::new(connections)),
            live: None,
            handed: None,
        }
    }

    /// Goes on with what another process has bound, where the first settings name its address.
    pub(crate) fn take_over(&mut self, handed: Option<Handed>) {
        self.handed = handed;
    }

    /// The process that has bound the address has left it: its file is removed when it is no longer listened on.
    pub(crate) fn own_file(&mut self) {
        if let Some(live) = &mut self.live {
            live.server.own_file();
        }
    }

    /// Its socket, for a process that goes on with it; `None` where there is none.
    ///
    /// # Errors
    /// There are too many open files.
    pub(crate) fn hand_over(&self) -> io::Result<Option<Handed>> {
        let handed = |live: &Live| {
            let (socket, removes_file) = live.server.hand_over()?;
            Handed::new(Some(live.wanted.clone()), vec![socket], removes_file)
        };
        self.live.as_ref().map(handed).transpose()
    }

    /// Leaves the address to another process: when this returns, only that process accepts there. The last answers are
    /// still to be waited for, where there was an address.
    pub(crate) async fn leave(&mut self) -> Option<Leaving> {
        match self.live.take() {
            Some(live) => Some(live.server.leave().await),
            None => None,
        }
    }

    /// Stops listening, and returns when the last answers are on their way, or take too long.
    pub(crate) async fn close(&mut self) {
        if let Some(live) = self.live.take() {
            live.server.close().await.done().await;
        }
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
        let handed = self.handed.as_ref().filter(|handed| handed.is_at(address));
        match handed.map_or_else(|| Bound::bind(address), Bound::take_over) {
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
        self.handed = None;
        match prepared.next {
            Next::Same => {}
            Next::Other { wanted, bound } => {
                let server = Server::start(bound, &self.state, Arc::clone(&self.places));
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{AccessTarget, Spanned};
    use crate::control::reload::inbox;
    use crate::control::status::Facts;
    use crate::export::access::AccessLog;
    use crate::proxy::{HealthMeter, LoadMeter};

    fn admin() -> Admin {
        let facts = Facts {
            name: "gradual.toml".to_owned(),
            file: PathBuf::from("/gradual.toml"),
            threads: 1,
            registry: Arc::default(),
            log: AccessLog::open(&AccessTarget::Off).unwrap(),
            load: LoadMeter::default(),
            health: HealthMeter::default(),
        };
        Admin::new(Arc::new(Status::new(facts)), inbox().0, upgrade::inbox().0, 4)
    }

    fn settings(address: &str, configured: bool) -> config::Admin {
        config::Admin {
            address: Spanned { value: Address::Tcp(address.parse().unwrap()), span: 5..9 },
            configured,
            token_file: None,
            hosts: Vec::new(),
            metrics_open: true,
        }
    }

    #[tokio::test]
    async fn a_default_address_that_is_taken_is_done_without_until_it_is_free() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let mut admin = admin();
        let prepared = admin.prepare(&settings(&address, false)).unwrap();
        admin.commit(prepared);
        assert_eq!(admin.address(), None);
        drop(taken);
        let prepared = admin.prepare(&settings(&address, false)).unwrap();
        admin.commit(prepared);
        assert_eq!(admin.address().unwrap().to_string(), address);
    }

    #[tokio::test]
    async fn a_configured_address_that_is_taken_is_an_error_at_its_place() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let errors = admin().prepare(&settings(&address, true)).unwrap_err();
        assert_eq!((errors.len(), errors[0].span.clone()), (1, 5..9));
    }
}
