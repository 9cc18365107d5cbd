//! What the process says of itself to those who ask. Written by the control thread, never read by the data plane.

pub mod page;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::Value;
use tokio::sync::watch;

use crate::config::{Address, Config, Version, Worker};
use crate::control::clock::rfc3339;
use crate::control::status::page::{EndedUpgrade, Page, Retired, WorkerStatus};
use crate::control::threads;
use crate::diag::Report;
use crate::export::access::AccessLog;
use crate::export::tail::Tails;
use crate::metrics::{Gauges, Registry, UnderWay, UpgradeResult};
use crate::model::share::Share;
use crate::proxy::{HealthMeter, LoadMeter, UpstreamHealth};

/// The state of one process, for readers.
#[derive(Debug)]
pub struct Status {
    started: SystemTime,
    name: String,
    file: PathBuf,
    threads: usize,
    registry: Arc<Registry>,
    log: AccessLog,
    load: LoadMeter,
    health: HealthMeter,
    draining: watch::Sender<bool>,
    running: Mutex<Running>,
}

/// What changes from generation to generation.
#[derive(Debug, Default)]
struct Running {
    generation: u64,
    config: Option<Arc<Config>>,
    listeners: Vec<Address>,
    admin: Option<Address>,
    last_reload: Option<LastReload>,
    /// The process that an upgrade is starting.
    upgrading: Option<u32>,
    last_upgrade: Option<LastUpgrade>,
    last_read: Option<Arc<str>>,
    /// Whether deployments are not noted.
    journal_is_off: bool,
}

#[derive(Debug)]
struct LastReload {
    time: SystemTime,
    report: Report,
}

/// How an upgrade ended.
#[derive(Debug)]
pub(crate) struct LastUpgrade {
    time: SystemTime,
    result: UpgradeResult,
    /// The process that this one came after.
    from: Option<u32>,
    /// Why none serves in this one's place.
    reason: Option<String>,
}

impl LastUpgrade {
    /// One that ended just now.
    pub(crate) fn now(result: UpgradeResult, reason: Option<String>) -> Self {
        Self { time: SystemTime::now(), result, from: None, reason }
    }

    /// The one that this process came by.
    pub(crate) fn from(pid: u32) -> Self {
        Self { from: Some(pid), ..Self::now(UpgradeResult::Success, None) }
    }
}

/// What a status is made of and never changes.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The file, as the user named it.
    pub(crate) name: String,
    /// The file, absolute; a symlink's name is kept, as it is what is watched.
    pub(crate) file: PathBuf,
    /// How many shards serve.
    pub(crate) threads: usize,
    /// Where requests are counted.
    pub(crate) registry: Arc<Registry>,
    /// Where requests are logged.
    pub(crate) log: AccessLog,
    /// What is going on; readable also while a reload or the end is under way.
    pub(crate) load: LoadMeter,
    /// How upstreams stand; readable at any time, too.
    pub(crate) health: HealthMeter,
}

/// A generation that serves.
#[derive(Debug)]
pub(crate) struct Served {
    /// Its number.
    pub(crate) generation: u64,
    /// What it serves.
    pub(crate) config: Arc<Config>,
    /// Where clients connect.
    pub(crate) listeners: Vec<Address>,
    /// Where the admin address really is; `None`: nowhere.
    pub(crate) admin: Option<Address>,
}

impl Status {
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            started: SystemTime::now(),
            name: facts.name,
            file: facts.file,
            threads: facts.threads,
            registry: facts.registry,
            log: facts.log,
            load: facts.load,
            health: facts.health,
            draining: watch::Sender::new(false),
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        // Every change is one assignment of finished values, so a poisoned lock still guards a whole state.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn serves(&self, served: Served) {
        let mut running = self.running();
        running.generation = served.generation;
        running.config = Some(served.config);
        running.listeners = served.listeners;
        running.admin = served.admin;
    }

    pub(crate) fn reloaded(&self, report: Report) {
        self.running().last_reload = Some(LastReload { time: SystemTime::now(), report });
    }

    /// Notes which process an upgrade is starting; `None`: it is over.
    pub(crate) fn upgrading(&self, pid: Option<u32>) {
        self.running().upgrading = pid;
    }

    pub(crate) fn upgraded(&self, last: LastUpgrade) {
        self.running().last_upgrade = Some(last);
    }

    /// Notes whether the journal of deployments is kept; returns whether it was.
    pub(crate) fn journal(&self, is_kept: bool) -> bool {
        !std::mem::replace(&mut self.running().journal_is_off, !is_kept)
    }

    /// What serves, in a line.
    pub(crate) fn in_short(&self) -> String {
        let running = self.running();
        let listeners: Vec<_> = running.listeners.iter().map(ToString::to_string).collect();
        let refused = running.last_reload.as_ref().is_some_and(|last| last.report.has_errors());
        let but = if refused { "; the last reload was refused" } else { "" };
        format!("generation {} serves at {}{but}", running.generation, listeners.join(", "))
    }

    /// Notes the text that was read last, taken or refused.
    pub(crate) fn read(&self, source: &str) {
        self.running().last_read = Some(source.into());
    }

    /// The text that was read last, taken or refused; `None` where nothing could be read.
    pub(crate) fn last_read(&self) -> Option<Arc<str>> {
        self.running().last_read.clone()
    }

    /// What serves; `None` before the first generation does.
    pub(crate) fn config(&self) -> Option<Arc<Config>> {
        self.running().config.clone()
    }

    /// The number of the running generation; 0 before the first serves.
    pub fn generation(&self) -> u64 {
        self.running().generation
    }

    /// Where clients connect, in file order.
    pub fn listeners(&self) -> Vec<Address> {
        self.running().listeners.clone()
    }

    /// The admin address; `None` where there is none.
    pub fn admin(&self) -> Option<Address> {
        self.running().admin.clone()
    }

    /// The file, as the user named it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file, absolute.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How many shards serve.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Those who see requests as they end.
    pub(crate) fn tails(&self) -> &Tails {
        self.log.tails()
    }

    /// Whether requests are welcome: a generation serves, and nobody asked to stop.
    pub fn is_ready(&self) -> bool {
        self.generation() > 0 && !*self.draining.borrow()
    }

    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Returns once somebody asked to stop.
    pub(crate) async fn drained(&self) {
        // The sender lives as long as this borrow, so waiting cannot fail.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// Every series in the Prometheus text format.
    pub(crate) fn metrics(&self) -> String {
        self.registry.render(&self.gauges())
    }

    fn gauges(&self) -> Gauges {
        let running = self.running();
        let mut gauges =
            Gauges { generation: running.generation, log_dropped: self.log.dropped(), ..Gauges::default() };
        let Some(config) = running.config.as_deref() else { return gauges };
        let retired = self.retired(config).map(|one| (one.worker, one.version, one.requests + one.tunnels));
        gauges.retired = retired.collect();
        for worker in &config.workers {
            let name = &worker.policy.name;
            let share =
                |(version, share): (&Version, Share)| (name.clone(), version.metadata.id.clone(), share);
            gauges.shares.extend(shares(worker).map(share));
        }
        for health in self.health.read() {
            let (worker, version, up) = (&health.worker, &health.version, health.is_up());
            gauges.versions.push((worker.clone(), version.clone(), up));
            let upstream = |upstream: &UpstreamHealth| {
                (worker.clone(), version.clone(), upstream.upstream.clone(), upstream.is_healthy())
            };
            gauges.upstreams.extend(health.upstreams.iter().map(upstream));
            let ejected = |upstream: &UpstreamHealth| {
                (worker.clone(), version.clone(), upstream.upstream.clone(), upstream.is_ejected())
            };
            gauges.ejected.extend(health.upstreams.iter().map(ejected));
        }
        gauges
    }

    /// What is under way on versions that have left their worker's deployment.
    fn retired(&self, config: &Config) -> impl Iterator<Item = UnderWay> {
        let is_deployed = |one: &UnderWay| {
            let worker = config.workers.iter().find(|worker| worker.policy.name == one.worker);
            worker.is_some_and(|worker| worker.policy.deployment.versions.contains(&one.version))
        };
        self.registry.under_way().into_iter().filter(move |one| !is_deployed(one))
    }

    /// The status as `GET /api/v1/status` shows it.
    pub fn to_json(&self) -> Value {
        // What holds texts and numbers alone can always be written.
        serde_json::to_value(self.page()).unwrap_or_default()
    }

    /// The status as `GET /api/v1/status` shows it.
    pub fn page(&self) -> Page {
        let health = self.health.read();
        let running = self.running();
        let workers = running.config.iter().flat_map(|config| &config.workers);
        let retired = running.config.iter().flat_map(|config| self.retired(config)).map(Retired::from);
        let restart = running.config.as_ref().is_some_and(|config| threads(config).get() != self.threads);
        let draining = *self.draining.borrow();
        Page {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: rfc3339(self.started),
            file: self.file.display().to_string(),
            generation: running.generation,
            ready: running.generation > 0 && !draining,
            draining,
            threads: self.threads,
            needs_restart: restart.then_some("threads").into_iter().collect(),
            listeners: running.listeners.iter().map(ToString::to_string).collect(),
            admin: running.admin.as_ref().map(ToString::to_string),
            load: self.load.read().into(),
            log: page::Log { dropped: self.log.dropped() },
            journal: if running.journal_is_off { "off" } else { "on" },
            upgrade: page::Upgrade {
                state: if running.upgrading.is_some() { "starting" } else { "idle" },
                pid: running.upgrading,
                last: running.last_upgrade.as_ref().map(EndedUpgrade::from),
            },
            last_reload: running.last_reload.as_ref().map(page::Reload::from),
            retired: retired.collect(),
            workers: workers.map(|worker| WorkerStatus::new(worker, &health, &self.registry)).collect(),
        }
    }
}

/// A worker's deployed versions with their shares, in the deployment's order.
pub(crate) fn shares(worker: &Worker) -> impl Iterator<Item = (&Version, Share)> {
    let deployment = &worker.policy.deployment;
    let shares = deployment.versions.iter().zip(deployment.ring.shares().iter().copied());
    shares.filter_map(|(id, share)| {
        let version = worker.versions.iter().find(|version| version.metadata.id == *id)?;
        Some((version, share))
    })
}
