//! The control thread: starts everything, reloads, answers on the admin address, and ends everything.
//!
//! Nothing here is on a request's way. State that serves changes only through [`reload`], by one consumer.

pub mod admin;
mod changes;
pub mod client;
mod clock;
mod cloudflare;
pub mod explain;
mod health;
mod inbox;
mod recorder;
pub mod release;
pub mod reload;
mod service;
mod signals;
pub mod status;
mod systemd;
pub mod upgrade;
mod watch;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::{AccessTarget, Address, Config};
use crate::control::admin::Admin;
use crate::control::health::HealthChecks;
use crate::control::recorder::Recorder;
use crate::control::reload::{Inbox, Loaded, Outcome, Reloader, Requests};
pub(crate) use crate::control::reload::{check_log, failure};
pub use crate::control::service::Service;
use crate::control::signals::Signals;
use crate::control::status::{Facts, LastUpgrade, Status};
use crate::control::systemd::Notifier;
use crate::control::upgrade::handover::{Inheritance, Predecessor, Word};
use crate::control::upgrade::objects::Elder;
use crate::control::upgrade::{Heir, Program, signal};
use crate::diag::{Report, Severity};
use crate::export::access::AccessLog;
use crate::metrics::{Registry, UpgradeResult};
use crate::proxy::{Services, Shards};

/// How long the last lines of the access log may take on their way out.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file that says everything else.
    pub file: PathBuf,
    /// Whether a change of the file is a reload.
    pub watch: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// In order: what was in flight finished, or its time was up.
    Drained {
        /// How many connections were cut.
        cut: u64,
    },
    /// At once: by a second signal, or by one before it had begun to serve.
    Forced {
        /// The signal's number.
        signal: u8,
    },
}

impl Ended {
    /// 0 in order; 128 and the signal's number by force.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Drained { .. } => ExitCode::SUCCESS,
            Self::Forced { signal } => ExitCode::from(128 + signal),
        }
    }
}

/// A running process as its own program sees it: a test, a demonstration, or whoever embeds the proxy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    status: Arc<Status>,
    inbox: Inbox,
}

impl Handle {
    /// What runs.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Where clients connect, in file order.
    pub fn listeners(&self) -> Vec<Address> {
        self.status.listeners()
    }

    /// The admin address; `None` where there is none.
    pub fn admin(&self) -> Option<Address> {
        self.status.admin()
    }

    /// Reads the file again and waits for what comes of it. `None`: the process is about to end.
    pub async fn reload(&self) -> Option<Outcome> {
        self.inbox.ask("asked by the program").await
    }

    /// Ends the run in order, as SIGTERM does.
    pub fn stop(&self) {
        self.status.drain();
    }
}

/// Serves until a signal or [`Handle::stop`] ends it. `ready` is called once the first generation serves. Must be called
/// within a current-thread tokio runtime with I/O and time, which becomes the control thread's.
///
/// # Errors
/// Why it could not start: every mistake in the file, an address in use, a file that cannot be read. Nothing is left
/// running then.
pub async fn run(options: Options, ready: impl FnOnce(Handle)) -> Result<Ended, Report> {
    run_as(Service::default(), options, ready).await
}

/// As [`run`], for a process that can be upgraded, may have been handed sockets, and may have a service manager.
///
/// # Errors
/// As [`run`]. A process that this one was to replace is told, and goes on.
pub async fn run_as(service: Service, options: Options, ready: impl FnOnce(Handle)) -> Result<Ended, Report> {
    let Service { program, predecessor, inheritance, notifier } = service;
    let file = options.file.display().to_string();
    let signals = Signals::new().map_err(|error| failure(&file, format!("no signals: {error}")))?;
    let (inbox, requests) = reload::inbox();
    let (upgrade_inbox, upgrade_requests) = upgrade::inbox();
    let (hangups, upgrades, mut stops) = signals.split();
    let elder = predecessor.as_ref().map(Predecessor::elder).unwrap_or_default();
    let started = tokio::select! {
        biased;
        signal = stops.next() => return Ok(Ended::Forced { signal: signal.number }),
        started = start(&options, inbox.clone(), upgrade_inbox.clone(), inheritance, elder) => started,
    };
    let reloader = match started {
        Ok(reloader) => reloader,
        Err(report) => {
            predecessor.iter().for_each(|before| before.tell(&Word::Failed(in_short(&report))));
            return Err(report);
        }
    };
    let status = Arc::clone(&reloader.status);
    let mut background = JoinSet::new();
    background.spawn(hangups.reload(inbox.clone()));
    background.spawn(upgrades.upgrade(upgrade_inbox));
    if options.watch {
        background.spawn(watch::watch(Arc::clone(&status), inbox.clone()));
    }
    match &predecessor {
        // That process is the one whom the service manager listens to, and says who comes after it.
        Some(before) => before.tell(&Word::Serving),
        None => notifier.ready(&status.in_short()),
    }
    ready(Handle { status: Arc::clone(&status), inbox });
    let work = Work { requests, upgrades: upgrade_requests, program, predecessor, notifier };
    tokio::select! {
        biased;
        signal = stops.obey(&status) => Ok(Ended::Forced { signal }),
        cut = serve(reloader, work) => Ok(Ended::Drained { cut }),
    }
}

/// A report in one line.
fn in_short(report: &Report) -> String {
    let first = report.diagnostics.iter().find(|diagnostic| diagnostic.severity == Severity::Error);
    let title = first.map_or("", |diagnostic| diagnostic.title.as_str());
    format!("{} ({title})", report.summary())
}

/// How many shards a configuration asks for: by default, one per core.
pub(crate) fn threads(config: &Config) -> NonZeroUsize {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    config.server.threads.unwrap_or_else(cores)
}

/// Brings up the first generation, or leaves nothing behind.
async fn start(
    options: &Options,
    inbox: Inbox,
    upgrades: upgrade::Inbox,
    mut inheritance: Inheritance,
    elder: Elder,
) -> Result<Reloader, Report> {
    let mut source = String::new();
    let name = options.file.display().to_string();
    let file = std::path::absolute(&options.file).unwrap_or_else(|_| options.file.clone());
    let loaded = Loaded::read(&name, &file, |text| text.clone_into(&mut source))?;
    let failed = |what: &str, error: std::io::Error| failure(&loaded.report.file, format!("{what}: {error}"));
    // The first generation opens it, as every later one does.
    let log = AccessLog::open(&AccessTarget::Off).map_err(|error| failed("there is no access log", error))?;
    let registry = Arc::new(Registry::default());
    let threads = threads(&loaded.config);
    let services = Services { registry: Arc::clone(&registry), log: log.clone() };
    let mut shards =
        Shards::start(threads, &services).map_err(|error| failed("the shards cannot be started", error))?;
    let status = Arc::new(Status::new(Facts {
        name,
        file,
        threads: threads.get(),
        registry: Arc::clone(&registry),
        log: log.clone(),
        load: shards.meter(),
        health: shards.health(),
    }));
    status.read(&source);
    let mut admin = Admin::new(Arc::clone(&status), inbox, upgrades, shards.spare().admin_connections);
    if inheritance.from != 0 {
        registry.upgrades_before(inheritance.upgrades);
        registry.upgraded(UpgradeResult::Success);
        status.upgraded(LastUpgrade::from(inheritance.from));
    }
    shards.take_over_names(std::mem::take(&mut inheritance.names));
    let (for_admin, for_listeners) = inheritance.split(&loaded.config);
    admin.take_over(for_admin);
    shards.take_over(for_listeners);
    // What the first generation brings is said as any change is.
    let config = Arc::new(Config { workers: Vec::new(), listeners: Vec::new(), ..loaded.config.clone() });
    let recorder = Recorder::new(Arc::clone(&status));
    let mut reloader = Reloader { status, recorder, registry, log, shards, admin, elder, config };
    match reloader.take(loaded, "start").await {
        Ok(_) => Ok(reloader),
        Err(report) => {
            reloader.shards.drain(Duration::ZERO).await;
            Err(report)
        }
    }
}

/// What a running process waits for, besides signals.
struct Work {
    requests: Requests,
    upgrades: upgrade::Requests,
    program: Option<Program>,
    /// Has been told that this process serves, and may not have left yet.
    predecessor: Option<Predecessor>,
    notifier: Notifier,
}

impl Work {
    /// Reloads and upgrades, one after the other, until the process is asked to stop; or until another process serves in
    /// its place, which is returned.
    async fn done(&mut self, reloader: &mut Reloader) -> Option<Heir> {
        let status = Arc::clone(&reloader.status);
        let mut left = pin!(left(self.predecessor.take()));
        let mut is_settled = false;
        loop {
            tokio::select! {
                biased;
                (has_left, objects) = &mut left, if !is_settled => {
                    is_settled = true;
                    reloader.settle(has_left, objects);
                }
                () = status.drained() => return None,
                Some(batch) = self.requests.next_batch(), if is_settled => {
                    self.notifier.reloading();
                    reloader.answer(batch).await;
                    self.notifier.ready(&status.in_short());
                }
                Some(request) = self.upgrades.next(), if is_settled => {
                    let heir = self.upgrades.answer(request, self.program.as_ref(), reloader).await;
                    if heir.is_some() {
                        return heir;
                    }
                }
            }
        }
    }

    /// Says who goes on.
    fn end(self, status: &Status, heir: Option<&Heir>) {
        match heir {
            None => self.notifier.stopping(),
            Some(&Heir { pid, .. }) => {
                let says = format!("process {pid} serves since an upgrade");
                self.notifier.replaced_by(pid, &says);
                // The new process may have read the file before it was changed.
                if self.requests.are_waiting() {
                    signal(Some(pid), rustix::process::Signal::HUP);
                }
                status.drain();
            }
        }
        // Who asks from here on is told at once that nobody answers any more.
    }
}

/// Waits until the process before has left, if there is one, or turns out to go on (`false`).
async fn left(predecessor: Option<Predecessor>) -> (bool, Option<tokio::net::UnixStream>) {
    match predecessor {
        Some(before) => before.has_left().await,
        None => (true, None),
    }
}

/// Serves until the process is asked to stop or another takes its place, then drains. Returns how many connections were
/// cut.
async fn serve(mut reloader: Reloader, mut work: Work) -> u64 {
    // Until the end: what drains is still served by upstreams that are well.
    let shards = &reloader.shards;
    let _checks = HealthChecks::start(&shards.health(), &reloader.registry, shards.spare().checks);
    let heir = work.done(&mut reloader).await;
    work.end(&reloader.status, heir.as_ref());
    let Reloader { mut shards, mut admin, log, config, .. } = reloader;
    let timeout = config.limits.drain_timeout;
    tracing::info!("draining, for at most {timeout:?}");
    if heir.is_some() {
        shards.replaced();
    }
    let (cut, ()) = tokio::join!(shards.drain(timeout), async {
        if let Some(leaving) = heir.and_then(|heir| heir.admin) {
            leaving.done().await;
        }
    });
    log.flush(LOG_PATIENCE);
    admin.close().await;
    match cut {
        0 => tracing::info!("stopped; every request was finished"),
        1 => tracing::warn!("stopped; 1 connection was cut"),
        _ => tracing::warn!("stopped; {cut} connections were cut"),
    }
    cut
}
