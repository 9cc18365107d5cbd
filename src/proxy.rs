//! The data plane: shards that accept connections and carry requests to versions and responses back.
//!
//! Every shard is a thread with a single-threaded runtime, its own listening sockets (`SO_REUSEPORT`) and its own upstream
//! connections: a request never leaves its thread and takes no lock. [`Shards`] is the control thread's handle: it prepares
//! a configuration, which may fail and changes nothing, and commits it, which cannot fail.

mod accept;
mod admission;
mod asks;
mod asset_memory;
mod assets;
mod attempt;
mod balance;
mod body;
mod budget;
mod caps;
mod census;
mod chunks;
mod connection;
mod cork;
mod ejection;
mod executor;
mod failure;
mod files;
mod frames;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod goodbye;
mod handler;
mod head;
mod health;
mod idle;
mod load;
mod objects;
mod overrides;
mod panics;
mod piece;
mod pool;
mod probe;
mod proxy_protocol;
mod record;
mod refusals;
mod resolve;
mod respond;
mod retire;
pub(crate) mod secret;
mod shard;
mod snapshot;
mod socket;
mod source;
mod standing;
mod steering;
mod stream;
mod tap;
mod tls;
mod trailers;
mod tunnel;
mod turned_away;
mod unread;
mod upload;
mod upstream;
mod wait;
mod watch;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub use self::census::Spare;
pub use self::ejection::Timing;
pub use self::health::{
    EndpointHealth, HealthMeter, News, Place, PlaceId, Places, UpstreamHealth, User, VersionHealth,
};
pub use self::load::{Load, LoadMeter};
pub use self::objects::{Arrivals, Claim, Elsewhere, Fence, InvalidClaim, Leaving, LiveObject};
pub use self::probe::ProbeError;
pub use self::record::is_asset;
pub use self::standing::LastCheck;

use self::budget::Budgets;
use self::census::Census;
use self::health::Roster;
use self::objects::Table;
use self::resolve::{Addresses, Names};
use self::shard::{Accept, Command, Gauge};
use self::snapshot::Blueprint;
pub use self::socket::Handed;
use self::socket::{Held, Listening};
use self::standing::Standings;
use crate::config::{Address, Config, Endpoint};
use crate::diag::Diagnostic;
use crate::export::access::AccessLog;
use crate::metrics::Registry;
use crate::model::route::Router;

/// A configuration with everything bound and read that it names: committing it cannot fail.
#[derive(Debug)]
pub struct Prepared {
    blueprint: Arc<Blueprint>,
    /// By listener.
    listeners: Vec<Bound>,
    unresolved: Vec<String>,
}

impl Prepared {
    /// The names of upstreams for which no address is known yet, in alphabetical order.
    pub fn unresolved(&self) -> &[String] {
        &self.unresolved
    }

    /// Which version each object belongs to once this is committed, for the process that serves until then.
    pub fn claims(&self) -> Vec<Claim> {
        self.blueprint.objects.iter().flatten().map(|objects| objects.plan.claim()).collect()
    }
}

/// Names of upstreams, and the addresses of each as last resolved.
pub type KnownNames = BTreeMap<String, Vec<IpAddr>>;

/// Where a listener listens.
#[derive(Debug)]
struct Bound {
    id: u64,
    /// As the file says it.
    named: Address,
    held: Arc<Held>,
    /// By shard where the listener is new; empty where the shards have theirs.
    sockets: Vec<Vec<Listening>>,
}

/// What shards need for their whole life.
#[derive(Clone, Debug)]
pub struct Services {
    /// Where requests are counted.
    pub registry: Arc<Registry>,
    /// Where requests are logged.
    pub log: AccessLog,
}

/// What all shards share for their whole life.
#[derive(Clone)]
struct Common {
    services: Services,
    standings: Arc<Standings>,
    census: Arc<Census>,
    objects: Arc<Table>,
}

/// The running shards. Lives on the control thread.
#[derive(Debug)]
pub struct Shards {
    threads: Vec<Thread>,
    names: Names,
    budgets: Budgets,
    asset_budgets: Budgets,
    standings: Arc<Standings>,
    /// What serves, for those who check upstreams.
    roster: tokio::sync::watch::Sender<Arc<Roster>>,
    listeners: Vec<Bound>,
    next_id: u64,
    /// What another process has bound, until the first commit.
    handed: Vec<(Address, Arc<Held>)>,
    /// Whether the files of what was handed over are still the other process's.
    lent: bool,
    /// Whether another process goes on with the sockets.
    replaced: bool,
    census: Arc<Census>,
    registry: Arc<Registry>,
    objects: Arc<Table>,
    /// The number of connections that was last warned of.
    warned_of: usize,
}

#[derive(Debug)]
struct Thread {
    inbox: mpsc::UnboundedSender<Command>,
    gauge: Arc<Gauge>,
    handle: std::thread::JoinHandle<()>,
}

/// How long a commit waits for names to be resolved the first time, so that the first requests find an address.
const FIRST_RESOLUTION: Duration = Duration::from_secs(2);

impl Shards {
    /// Starts threads that serve nothing yet. Must be called within a tokio runtime (the control thread's).
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start(threads: NonZeroUsize, services: &Services) -> io::Result<Self> {
        Self::start_with(threads, services, Timing::default())
    }

    /// The same, with times of its own for upstreams that fail: for tests, which cannot wait so long.
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start_with(threads: NonZeroUsize, services: &Services, timing: Timing) -> io::Result<Self> {
        let standings = Arc::new(Standings::new(timing));
        let census = Census::of_process(threads.get());
        let common = Common { services: services.clone(), standings, census, objects: Arc::default() };
        let start = |index| Thread::start(index, common.clone());
        Ok(Self::over((0..threads.get()).map(start).collect::<io::Result<_>>()?, common))
    }

    /// Threads that serve nothing yet, and what they know of endpoints.
    fn over(threads: Vec<Thread>, common: Common) -> Self {
        let Common { services, standings, census, objects } = common;
        Self {
            threads,
            names: Names::default(),
            budgets: Budgets::of_retries(),
            asset_budgets: Budgets::of_assets(),
            standings,
            roster: tokio::sync::watch::Sender::default(),
            listeners: Vec::new(),
            next_id: 0,
            handed: Vec::new(),
            lent: false,
            replaced: false,
            census,
            registry: services.registry,
            objects,
            warned_of: 0,
        }
    }

    /// Goes on with what another process has bound: listeners of the first configuration whose addresses are among them
    /// accept from exactly these sockets, and the first commit closes what no listener names. The files of Unix sockets
    /// stay the other process's until [`Self::own_files`]: it may go on after all.
    pub fn take_over(&mut self, handed: Vec<Handed>) {
        self.lent = true;
        self.handed = handed.into_iter().map(|one| (one.named().clone(), Arc::new(one.hold()))).collect();
    }

    /// The other process has left what it handed over: its files are removed when they are no longer listened on.
    pub fn own_files(&mut self) {
        self.lent = false;
    }

    /// All listening sockets, for a process that goes on with them. These shards accept from them, too, until they drain.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn hand_over(&self) -> io::Result<Vec<Handed>> {
        self.listeners.iter().map(|bound| bound.held.hand_over(&bound.named)).collect()
    }

    /// Begins with the addresses of names that another process knew, so that requests find some while the name servers
    /// are slow or silent. To be called before the first configuration is prepared.
    pub fn take_over_names(&mut self, names: KnownNames) {
        self.names.take_over(names);
    }

    /// The addresses of all names, for a process that goes on with them.
    pub fn known_names(&self) -> KnownNames {
        self.names.known()
    }

    /// Keeps objects from being served by this process and another that is to take its place.
    pub fn fence(&self) -> Fence {
        Fence::new(&self.objects)
    }

    /// Notes what is live in the process before this one.
    pub fn arrivals(&self) -> Arrivals {
        Arrivals::new(&self.objects)
    }

    /// Another process accepts from the sockets that were handed over. So the files of Unix sockets stay where they are
    /// when these shards drain, and kept connections need not be closed at once: who makes the next request soon is told
    /// with its answer, and loses none.
    pub fn replaced(&mut self) {
        self.replaced = true;
    }

    /// Reads every file that the configuration names (certificates, keys, secrets) and makes TLS settings of them,
    /// without binding: also what `gradual check` does.
    ///
    /// # Errors
    /// Every mistake, with its place in the file.
    pub fn read_files(config: &Config) -> Result<(), Vec<Diagnostic>> {
        files::read(config).map(drop)
    }

    /// Binds what is not bound yet, and reads certificates. Changes nothing that serves.
    ///
    /// # Errors
    /// Every mistake, with its place in the file.
    pub async fn prepare(&mut self, config: &Config) -> Result<Prepared, Vec<Diagnostic>> {
        let files = files::read(config);
        let bound = self.bind(config);
        let (files, listeners) = match (files, bound) {
            (Ok(files), Ok(listeners)) => (files, listeners),
            (files, bound) => {
                bound.iter().for_each(|bound| self.give_up(bound));
                return Err([files.err(), bound.err()].into_iter().flatten().flatten().collect());
            }
        };
        let names = self.resolve(config).await;
        let nowhere = names.iter().filter(|(_, addresses)| addresses.borrow().is_empty());
        let mut unresolved: Vec<_> = nowhere.map(|(name, _)| name.clone()).collect();
        unresolved.sort_unstable();
        let blueprint = Blueprint {
            config: Arc::new(config.clone()),
            router: router(config),
            listener_tls: files.listener_tls,
            upstream_tls: files.upstream_tls,
            secrets: files.secrets,
            budgets: self.budgets.of_all(config, self.threads.len()),
            objects: self.objects.of_all(config, &self.registry),
            asset_budgets: self.asset_budgets.of_all(config, self.threads.len()),
            names,
        };
        Ok(Prepared { blueprint: Arc::new(blueprint), listeners, unresolved })
    }

    /// Swaps all shards to a prepared configuration; returns when every shard serves it.
    pub async fn commit(&mut self, prepared: Prepared) {
        let Prepared { blueprint, mut listeners, .. } = prepared;
        self.warn_of_descriptors(blueprint.config.limits.connections);
        self.release(&listeners);
        self.names.committed();
        // Before any shard serves it: from here on no object is begun at a version that it has no more.
        self.objects.install(&blueprint.objects);
        let mut acknowledged = Vec::with_capacity(self.threads.len());
        for thread in &self.threads {
            let accept = |(index, bound): (usize, &mut Bound)| Accept {
                id: bound.id,
                index,
                sockets: bound.sockets.pop().unwrap_or_default(),
            };
            let sockets = listeners.iter_mut().enumerate().map(accept).collect();
            let (done, acknowledge) = oneshot::channel();
            let command = Command::Commit { blueprint: Arc::clone(&blueprint), sockets, done };
            if thread.inbox.send(command).is_ok() {
                acknowledged.push(acknowledge);
            }
        }
        for acknowledge in acknowledged {
            // A shard that is gone has nothing to serve; its end was logged by the thread.
            let _ = acknowledge.await;
        }
        self.roster.send_replace(Arc::new(Roster::of(&blueprint, &self.standings)));
        self.listeners = listeners;
    }

    /// Lets go of what is not listened on any more, before the shards do: with the last descriptor go the connections that
    /// still wait, and a shard accepts those before it closes its own. Files are removed at once: a moment after the last
    /// descriptor is closed, another process may have put its own there.
    fn release(&mut self, now: &[Bound]) {
        for (named, held) in std::mem::take(&mut self.handed) {
            if !now.iter().any(|bound| Arc::ptr_eq(&bound.held, &held)) {
                tracing::warn!("no listener is at {named}, which was handed over: it is closed");
            }
        }
        let stays = |old: &Bound| now.iter().any(|new| new.id == old.id);
        let (_, gone): (Vec<_>, Vec<_>) = self.listeners.drain(..).partition(stays);
        let ours = gone.iter().filter(|bound| !(self.lent && bound.held.handed));
        ours.filter_map(Bound::file).for_each(remove_file);
    }

    /// The addresses that are listened on, with the port that the system chose where the file says 0; in file order.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.iter().map(|bound| bound.held.actual.clone()).collect()
    }

    /// How many shards there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// How many connections others may have, so that descriptors do not run out.
    pub fn spare(&self) -> Spare {
        self.census.spare()
    }

    /// What is going on.
    pub fn load(&self) -> Load {
        self.meter().read()
    }

    /// What tells what is going on, for those who cannot wait for whoever holds the shards.
    pub fn meter(&self) -> LoadMeter {
        LoadMeter::new(self.threads.iter().map(|thread| &thread.gauge))
    }

    /// What tells how upstreams stand, for those who cannot wait for whoever holds the shards.
    pub fn health(&self) -> HealthMeter {
        HealthMeter::new(&self.roster)
    }

    /// Stops accepting, lets what is in flight finish, cuts the rest when `timeout` has passed, and ends the threads.
    /// Returns how many connections were cut.
    pub async fn drain(mut self, timeout: Duration) -> u64 {
        self.handed.clear();
        if !self.replaced {
            self.release(&[]);
        }
        self.listeners.clear();
        let mut waiting = Vec::new();
        for thread in &self.threads {
            let (done, finished) = oneshot::channel();
            if thread.inbox.send(Command::Drain { replaced: self.replaced, done }).is_ok() {
                waiting.push(finished);
            }
        }
        let all = async {
            for finished in waiting {
                let _ = finished.await;
            }
        };
        let in_time = tokio::time::timeout(timeout, all).await.is_ok();
        let load = self.load();
        if !in_time {
            self.objects.end().await;
        }
        let cut = if in_time { 0 } else { load.connections.max(load.requests) };
        for Thread { inbox, handle, .. } in self.threads {
            // Without its inbox a shard's loop ends, and its runtime drops whatever is left.
            drop(inbox);
            let _ = tokio::task::spawn_blocking(|| handle.join()).await;
        }
        cut
    }

    /// Says, once for each number, that the system does not allow as many connections as the file.
    fn warn_of_descriptors(&mut self, connections: usize) {
        let possible = self.census.most_clients();
        if connections > possible && self.warned_of != connections {
            self.warned_of = connections;
            tracing::warn!(
                "`[limits] connections` is {connections}, but the limit of open files allows {possible} client \
                 connections: more are turned away; raise the limit (`ulimit -n`, LimitNOFILE=)"
            );
        }
    }

    /// Finds or makes the sockets of every listener.
    fn bind(&mut self, config: &Config) -> Result<Vec<Bound>, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let mut bound: Vec<Bound> = Vec::new();
        for listener in &config.listeners {
            let address = &listener.address.value;
            let kept = |old: &&Bound| old.named == *address && !bound.iter().any(|new| new.id == old.id);
            if let Some(old) = self.listeners.iter().find(kept) {
                let (named, held) = (old.named.clone(), Arc::clone(&old.held));
                bound.push(Bound { id: old.id, named, held, sockets: Vec::new() });
                continue;
            }
            let taken = |held: &Arc<Held>| bound.iter().any(|new| Arc::ptr_eq(&new.held, held));
            let mut free = self.handed.iter().filter(|(_, held)| !taken(held));
            let handed = free.find(|(named, held)| named == address || held.actual == *address);
            match self.listen(address, handed.map(|(_, held)| held)) {
                Ok((held, sockets)) => {
                    self.next_id += 1;
                    bound.push(Bound { id: self.next_id, named: address.clone(), held, sockets });
                }
                Err(error) => {
                    let problem = cannot_listen(address, &error, listener.address.span.clone());
                    problems.push(self.taken_by_handed(problem, address));
                }
            }
        }
        if problems.is_empty() {
            return Ok(bound);
        }
        self.give_up(&bound);
        Err(problems)
    }

    /// A problem with an address, with what to do where a socket that was handed over keeps it.
    fn taken_by_handed(&self, problem: Diagnostic, address: &Address) -> Diagnostic {
        match self.handed.iter().find(|(_, held)| held.actual.overlaps(address)) {
            Some((_, held)) => {
                problem.help(format!("the socket that was handed over is at {}: name it so", held.actual))
            }
            None => problem,
        }
    }

    /// Leaves nothing behind of listeners that are not to be: what was listened on before stays as it is.
    fn give_up(&self, bound: &[Bound]) {
        let is_new = |bound: &&Bound| {
            let handed = self.handed.iter().any(|(_, held)| Arc::ptr_eq(held, &bound.held));
            !bound.sockets.is_empty() && !handed
        };
        bound.iter().filter(is_new).filter_map(Bound::file).for_each(remove_file);
    }

    /// Sockets for all shards: those that were handed over, or else new ones.
    fn listen(
        &self,
        address: &Address,
        handed: Option<&Arc<Held>>,
    ) -> io::Result<(Arc<Held>, Vec<Vec<Listening>>)> {
        let shards = self.threads.len();
        let held = match handed {
            Some(held) => Arc::clone(held),
            None => Arc::new(socket::listen(address, shards)?),
        };
        let sockets = held.shared_out(shards)?;
        Ok((held, sockets))
    }

    /// Watches every name, and waits a little for those that are new.
    async fn resolve(&mut self, config: &Config) -> HashMap<String, Addresses> {
        let mut names = HashMap::new();
        let upstreams = config.workers.iter().flat_map(|worker| &worker.versions).flat_map(|v| &v.upstreams);
        for upstream in upstreams {
            if let Endpoint::Name { host, .. } = &upstream.value.endpoint
                && !names.contains_key(host)
            {
                names.insert(host.clone(), self.names.watch(host));
            }
        }
        let known = async {
            for addresses in names.values() {
                let _ = addresses.clone().wait_for(|addresses| !addresses.is_empty()).await;
            }
        };
        let _ = tokio::time::timeout(FIRST_RESOLUTION, known).await;
        names
    }
}

impl Bound {
    /// The file that goes with a Unix socket.
    fn file(&self) -> Option<&Path> {
        match &self.held.actual {
            Address::Unix(path) if self.held.removes_file => Some(path),
            _ => None,
        }
    }
}

fn remove_file(path: &Path) {
    let _ = std::fs::remove_file(path);
}

impl Thread {
    fn start(index: usize, common: Common) -> io::Result<Self> {
        let (inbox, commands) = mpsc::unbounded_channel();
        let gauge = Arc::new(Gauge::default());
        let of_shard = Arc::clone(&gauge);
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        let (report, ready) = std::sync::mpsc::sync_channel(1);
        let handle = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = report.send(Err(error));
                    return;
                }
            };
            let _ = report.send(Ok(()));
            runtime.block_on(shard::run(index, common, of_shard, commands));
        })?;
        ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
        Ok(Self { inbox, gauge, handle })
    }
}

fn cannot_listen(address: &Address, error: &io::Error, span: crate::diag::Span) -> Diagnostic {
    let title = format!("cannot listen on {address}: {error}");
    let problem = Diagnostic::error(title, span).label("this address");
    match error.kind() {
        io::ErrorKind::AddrInUse => problem
            .help("another program (or another gradual) listens there: end it, or choose another address"),
        io::ErrorKind::PermissionDenied => {
            problem.help("ports below 1024 need the capability CAP_NET_BIND_SERVICE")
        }
        io::ErrorKind::AddrNotAvailable => problem.help("this machine has no such address"),
        _ => problem,
    }
}

/// The router over all workers' routes; its targets are indexes of workers.
pub fn router(config: &Config) -> Router {
    let routes = config.workers.iter().enumerate();
    Router::new(
        routes.flat_map(|(index, worker)| worker.routes.iter().map(move |route| (route.clone(), index))),
    )
}
