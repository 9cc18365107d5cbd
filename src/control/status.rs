//! What the process says of itself to those who ask. Written by the control thread, never read by the data plane.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::{Address, Config, Version, Worker};
use crate::control::clock::rfc3339;
use crate::control::threads;
use crate::diag::Report;
use crate::export::access::AccessLog;
use crate::metrics::{Gauges, Registry, UnderWay};
use crate::model::share::Share;
use crate::proxy::LoadMeter;

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
    last_read: Option<Arc<str>>,
}

#[derive(Debug)]
struct LastReload {
    time: SystemTime,
    report: Report,
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

    /// Notes the text that was read last, taken or refused.
    pub(crate) fn read(&self, source: &str) {
        self.running().last_read = Some(source.into());
    }

    /// The text that was read last, taken or refused; `None` where nothing could be read.
    pub(crate) fn last_read(&self) -> Option<Arc<str>> {
        self.running().last_read.clone()
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
            for (version, share) in shares(worker) {
                gauges.shares.push((name.clone(), version.metadata.id.clone(), share));
                let upstreams = version.upstreams.iter().map(|upstream| upstream.value.to_string());
                let id = &version.metadata.id;
                gauges.upstreams.extend(upstreams.map(|upstream| (name.clone(), id.clone(), upstream, true)));
            }
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
        let load = self.load.read();
        let running = self.running();
        let workers = running.config.iter().flat_map(|config| config.workers.iter().map(worker));
        let retired = running.config.iter().flat_map(|config| self.retired(config)).map(|one| {
            json!({
                "worker": one.worker.as_str(),
                "version_id": one.version.as_str(),
                "requests": one.requests,
                "tunnels": one.tunnels,
            })
        });
        let restart = running.config.as_ref().is_some_and(|config| threads(config).get() != self.threads);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "started": rfc3339(self.started),
            "file": self.file.display().to_string(),
            "generation": running.generation,
            "ready": running.generation > 0 && !*self.draining.borrow(),
            "draining": *self.draining.borrow(),
            "threads": self.threads,
            "needs_restart": if restart { json!(["threads"]) } else { json!([]) },
            "listeners": running.listeners.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "admin": running.admin.as_ref().map(ToString::to_string),
            "load": { "connections": load.connections, "requests": load.requests },
            "log": { "dropped": self.log.dropped() },
            "last_reload": running.last_reload.as_ref().map(LastReload::to_json),
            "retired": retired.collect::<Vec<_>>(),
            "workers": workers.collect::<Vec<_>>(),
        })
    }
}

impl LastReload {
    fn to_json(&self) -> Value {
        let result = if self.report.has_errors() { "failure" } else { "success" };
        json!({ "time": rfc3339(self.time), "result": result, "report": self.report.to_json() })
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

fn worker(worker: &Worker) -> Value {
    let deployment = &worker.policy.deployment;
    let versions = shares(worker).map(|(version, share)| {
        let mut shown = metadata(version, "version_id");
        shown["percentage"] = percentage(share);
        shown
    });
    json!({
        "name": worker.policy.name.as_str(),
        "deployment": {
            "id": deployment.id,
            "created_on": deployment.created_on,
            "author": deployment.author,
            "source": deployment.source,
            "message": deployment.message,
            "versions": versions.collect::<Vec<_>>(),
        },
        "versions": worker.versions.iter().map(version).collect::<Vec<_>>(),
    })
}

fn version(version: &Version) -> Value {
    let mut shown = metadata(version, "id");
    shown["upstreams"] = version.upstreams.iter().map(|upstream| upstream.value.to_string()).collect();
    shown
}

fn metadata(version: &Version, id: &str) -> Value {
    let metadata = &version.metadata;
    json!({
        id: metadata.id.as_str(),
        "tag": metadata.tag.as_ref().map(ToString::to_string),
        "message": metadata.message,
        "created_on": metadata.created_on,
    })
}

/// The share as a JSON number, exact as it is written: `12.5`, `10`.
fn percentage(share: Share) -> Value {
    share.to_string().parse::<serde_json::Number>().map_or(Value::Null, Value::Number)
}
