//! The data plane: shards that accept connections and carry requests to versions and responses back.
//!
//! Every shard is a thread with a single-threaded runtime, its own listening sockets (`SO_REUSEPORT`) and its own upstream
//! connections: a request never leaves its thread and takes no lock. [`Shards`] is the control thread's handle: it prepares
//! a configuration, which may fail and changes nothing, and commits it, which cannot fail.

mod body;
mod connection;
mod cork;
mod executor;
mod failure;
mod goodbye;
mod handler;
mod head;
mod panics;
mod proxy_protocol;
mod record;
mod resolve;
mod retire;
mod shard;
mod snapshot;
mod socket;
mod stream;
mod tls;
mod tunnel;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use self::resolve::{Addresses, Names};
use self::shard::{Accept, Command, Gauge};
use self::snapshot::Blueprint;
use self::socket::Listening;
use crate::config::{Address, Config, Endpoint, Scheme};
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
}

/// Where a listener listens.
#[derive(Debug)]
struct Bound {
    id: u64,
    /// As the file says it.
    named: Address,
    /// With the port that the system chose.
    actual: Address,
    /// One for each shard where the listener is new; empty where the shards have theirs.
    sockets: Vec<Listening>,
}

/// What shards need for their whole life.
#[derive(Clone, Debug)]
pub struct Services {
    /// Where requests are counted.
    pub registry: Arc<Registry>,
    /// Where requests are logged.
    pub log: AccessLog,
}

/// The running shards. Lives on the control thread.
#[derive(Debug)]
pub struct Shards {
    threads: Vec<Thread>,
    names: Names,
    listeners: Vec<Bound>,
    next_id: u64,
}

#[derive(Debug)]
struct Thread {
    inbox: mpsc::UnboundedSender<Command>,
    gauge: Arc<Gauge>,
    handle: std::thread::JoinHandle<()>,
}

/// What the data plane says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Client connections that are open.
    pub connections: u64,
    /// Requests and tunnels in flight.
    pub requests: u64,
}

/// Tells at any time what is going on, without asking anybody. Cheap to clone; the default sees no shards.
#[derive(Clone, Debug, Default)]
pub struct LoadMeter {
    /// Those of all shards, which go on counting as long as the shards live.
    gauges: Arc<[Arc<Gauge>]>,
}

impl LoadMeter {
    /// What is going on at the moment.
    pub fn read(&self) -> Load {
        let sum = |number: fn(&Gauge) -> u64| self.gauges.iter().map(|gauge| number(gauge)).sum();
        Load {
            connections: sum(|gauge| gauge.connections.load(Ordering::Relaxed)),
            requests: sum(|gauge| gauge.requests.load(Ordering::Relaxed)),
        }
    }
}

/// How long a commit waits for names to be resolved the first time, so that the first requests find an address.
const FIRST_RESOLUTION: Duration = Duration::from_secs(2);

impl Shards {
    /// Starts threads that serve nothing yet. Must be called within a tokio runtime (the control thread's).
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start(threads: NonZeroUsize, services: &Services) -> io::Result<Self> {
        let start = |index| Thread::start(index, services.clone());
        let threads = (0..threads.get()).map(start).collect::<io::Result<_>>()?;
        Ok(Self { threads, names: Names::default(), listeners: Vec::new(), next_id: 0 })
    }

    /// Reads every file that the configuration names (certificates, keys) and makes TLS settings of them, without
    /// binding: also what `gradual check` does.
    ///
    /// # Errors
    /// Every mistake, with its place in the file.
    pub fn read_files(config: &Config) -> Result<(), Vec<Diagnostic>> {
        read_files(config).map(drop)
    }

    /// Binds what is not bound yet, and reads certificates. Changes nothing that serves.
    ///
    /// # Errors
    /// Every mistake, with its place in the file.
    pub async fn prepare(&mut self, config: &Config) -> Result<Prepared, Vec<Diagnostic>> {
        let files = read_files(config);
        let bound = self.bind(config);
        let (files, listeners) = match (files, bound) {
            (Ok(files), Ok(listeners)) => (files, listeners),
            (files, bound) => {
                bound.iter().flatten().for_each(Bound::give_up);
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
            names,
        };
        Ok(Prepared { blueprint: Arc::new(blueprint), listeners, unresolved })
    }

    /// Swaps all shards to a prepared configuration; returns when every shard serves it.
    pub async fn commit(&mut self, prepared: Prepared) {
        let Prepared { blueprint, mut listeners, .. } = prepared;
        let mut acknowledged = Vec::with_capacity(self.threads.len());
        for thread in &self.threads {
            let accept = |(index, bound): (usize, &mut Bound)| Accept {
                id: bound.id,
                index,
                socket: bound.sockets.pop(),
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
        let gone = self.listeners.iter().filter(|old| !listeners.iter().any(|new| new.id == old.id));
        gone.for_each(Bound::remove_file);
        self.listeners = listeners;
    }

    /// The addresses that are listened on, with the port that the system chose where the file says 0; in file order.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.iter().map(|bound| bound.actual.clone()).collect()
    }

    /// How many shards there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// What is going on.
    pub fn load(&self) -> Load {
        self.meter().read()
    }

    /// What tells what is going on, for those who cannot wait for whoever holds the shards.
    pub fn meter(&self) -> LoadMeter {
        LoadMeter { gauges: self.threads.iter().map(|thread| Arc::clone(&thread.gauge)).collect() }
    }

    /// Stops accepting, lets what is in flight finish, cuts the rest when `timeout` has passed, and ends the threads.
    /// Returns how many connections were cut.
    pub async fn drain(self, timeout: Duration) -> u64 {
        let mut waiting = Vec::new();
        for thread in &self.threads {
            let (done, finished) = oneshot::channel();
            if thread.inbox.send(Command::Drain { done }).is_ok() {
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
        let cut = if in_time { 0 } else { load.connections.max(load.requests) };
        self.listeners.iter().for_each(Bound::remove_file);
        for Thread { inbox, handle, .. } in self.threads {
            // Without its inbox a shard's loop ends, and its runtime drops whatever is left.
            drop(inbox);
            let _ = tokio::task::spawn_blocking(|| handle.join()).await;
        }
        cut
    }

    /// Finds or makes the sockets of every listener.
    fn bind(&mut self, config: &Config) -> Result<Vec<Bound>, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let mut bound: Vec<Bound> = Vec::new();
        for listener in &config.listeners {
            let address = &listener.address.value;
            let kept = |old: &&Bound| old.named == *address && !bound.iter().any(|new| new.id == old.id);
            if let Some(old) = self.listeners.iter().find(kept) {
                bound.push(Bound {
                    id: old.id,
                    named: old.named.clone(),
                    actual: old.actual.clone(),
                    sockets: Vec::new(),
                });
                continue;
            }
            match socket::listen(address, self.threads.len()) {
                Ok((actual, sockets)) => {
                    self.next_id += 1;
                    bound.push(Bound { id: self.next_id, named: address.clone(), actual, sockets });
                }
                Err(error) => problems.push(cannot_listen(address, &error, listener.address.span.clone())),
            }
        }
        if problems.is_empty() {
            return Ok(bound);
        }
        bound.iter().for_each(Bound::give_up);
        Err(problems)
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
    /// Leaves nothing behind of a listener that is not to be: what was listened on before stays as it is.
    fn give_up(&self) {
        if !self.sockets.is_empty() {
            self.remove_file();
        }
    }

    /// A Unix socket's file goes with it.
    fn remove_file(&self) {
        if let Address::Unix(path) = &self.actual {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Thread {
    fn start(index: usize, services: Services) -> io::Result<Self> {
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
            runtime.block_on(shard::run(index, services, of_shard, commands));
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

/// What the files that a configuration names become.
struct Files {
    listener_tls: Vec<Option<Arc<rustls::ServerConfig>>>,
    upstream_tls: Vec<Vec<Option<tls::UpstreamConnector>>>,
}

fn read_files(config: &Config) -> Result<Files, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let listener_tls = config.listeners.iter().map(tls::server);
    let listener_tls =
        listener_tls.map(|tls| tls.map_err(|more| problems.extend(more)).ok().flatten()).collect();
    let mut of_version = |version: &crate::config::Version| {
        let secure = version.upstreams.iter().any(|upstream| upstream.value.scheme == Scheme::Https);
        let connector = secure.then(|| tls::upstream(&version.tls)).transpose();
        connector.map_err(|more| problems.extend(more)).ok().flatten()
    };
    let upstream_tls =
        config.workers.iter().map(|worker| worker.versions.iter().map(&mut of_version).collect()).collect();
    if problems.is_empty() { Ok(Files { listener_tls, upstream_tls }) } else { Err(problems) }
}

/// The router over all workers' routes; its targets are indexes of workers.
pub fn router(config: &Config) -> Router {
    let routes = config.workers.iter().enumerate();
    Router::new(
        routes.flat_map(|(index, worker)| worker.routes.iter().map(move |route| (route.clone(), index))),
    )
}
