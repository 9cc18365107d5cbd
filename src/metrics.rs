//! Counters and histograms by worker and version, and their Prometheus text.
//!
//! Every shard has recorders of its own and is their only writer, so recording is a load, an addition and a store, without
//! locked instructions; a scrape reads all shards' recorders and adds them up. The registry itself is locked only when a
//! snapshot is built or scraped.

use std::sync::Arc;
use std::time::Duration;

use crate::model::decision::Reason;
use crate::model::name::{VersionId, WorkerName};
use crate::model::overrides::OverrideProblem;
use crate::model::share::Share;

/// All series of one process.
#[derive(Debug, Default)]
pub struct Registry {}

/// What one shard records of one version of one worker; or of requests that reached no version.
#[derive(Debug, Default)]
pub struct VersionSeries {}

/// What one shard records of one worker.
#[derive(Debug, Default)]
pub struct WorkerSeries {}

/// Values that are facts of the moment and not counted: set anew at each commit, read at each scrape.
#[derive(Debug, Default, Clone)]
pub struct Gauges {
    /// The number of the running generation.
    pub generation: u64,
    /// Each active deployment's shares.
    pub shares: Vec<(WorkerName, VersionId, Share)>,
    /// Every upstream in use, and whether it is healthy (true until known otherwise).
    pub upstreams: Vec<(WorkerName, VersionId, String, bool)>,
    /// Access log lines that were dropped because the log could not keep up.
    pub log_dropped: u64,
}

impl Registry {
    /// One shard's recorder for a version; the same one for the same arguments.
    pub fn version(&self, _shard: usize, _worker: &WorkerName, _version: &VersionId) -> Arc<VersionSeries> {
        Arc::default()
    }

    /// One shard's recorder for requests that reached no version of a worker, or (`None`) no worker.
    pub fn unversioned(&self, _shard: usize, _worker: Option<&WorkerName>) -> Arc<VersionSeries> {
        Arc::default()
    }

    /// One shard's recorder for a worker.
    pub fn worker(&self, _shard: usize, _worker: &WorkerName) -> Arc<WorkerSeries> {
        Arc::default()
    }

    /// Counts a reload.
    pub fn reloaded(&self, _succeeded: bool) {}

    /// Everything in the Prometheus text format, version 0.0.4.
    pub fn render(&self, _gauges: &Gauges) -> String {
        String::new()
    }
}

impl VersionSeries {
    /// Counts a request when its response has ended. `reason` is `None` where no version was chosen.
    pub fn request(&self, _reason: Option<Reason>, _status: u16, _duration: Duration) {}

    /// Counts a script, style, image or font that was answered 404 or 410.
    pub fn asset_miss(&self, _rescued: bool) {}
}

impl WorkerSeries {
    /// Counts an override that named this worker: applied (`None`), or why not.
    pub fn overridden(&self, _problem: Option<OverrideProblem>) {}
}
