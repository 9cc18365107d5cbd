//! The status as `GET /api/v1/status` shows it: every member's name and meaning.

use serde::Serialize;
use utoipa::ToSchema;

use crate::config::{Version, Worker};
use crate::control::clock::rfc3339;
use crate::control::status::{LastReload, LastUpgrade, shares};
use crate::diag::Findings;
use crate::metrics::{Registry, Spared, UnderWay};
use crate::model::share::Share;
use crate::proxy::{self, EndpointHealth, LastCheck, UpstreamHealth, VersionHealth};

/// What the process says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Status)]
pub struct Page {
    /// The program's version.
    pub version: &'static str,
    /// The process.
    pub pid: u32,
    /// When it was started (RFC 3339, UTC).
    pub started: String,
    /// The configuration file, absolute.
    pub file: String,
    /// The number of the generation that serves; 0 before the first.
    pub generation: u64,
    /// Whether requests are welcome.
    pub ready: bool,
    /// Whether it was asked to stop.
    pub draining: bool,
    /// How many shards serve.
    pub threads: usize,
    /// What of the file counts only after a restart.
    pub needs_restart: Vec<&'static str>,
    /// Where clients connect, in file order.
    pub listeners: Vec<String>,
    /// The admin address; null: nowhere.
    pub admin: Option<String>,
    /// What is going on.
    pub load: Load,
    /// The access log.
    pub log: Log,
    /// `on`, or `off`: deployments are not noted in the journal at the moment.
    pub journal: &'static str,
    /// Binary upgrades.
    pub upgrade: Upgrade,
    /// The last reload; null before the first.
    pub last_reload: Option<Reload>,
    /// What is under way on versions that have left their worker's deployment.
    pub retired: Vec<Retired>,
    /// The workers, in file order.
    pub workers: Vec<WorkerStatus>,
}

/// What is going on.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Load {
    /// Client connections that are open.
    pub connections: u64,
    /// Requests and tunnels in flight.
    pub requests: u64,
}

impl From<proxy::Load> for Load {
    fn from(load: proxy::Load) -> Self {
        Self { connections: load.connections, requests: load.requests }
    }
}

/// The access log.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Log {
    /// Lines that were dropped.
    pub dropped: u64,
}

/// Binary upgrades.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Upgrade {
    /// `starting` or `idle`.
    pub state: &'static str,
    /// The process that is starting.
    pub pid: Option<u32>,
    /// How the last one ended; null where there was none.
    pub last: Option<EndedUpgrade>,
}

/// How an upgrade ended.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EndedUpgrade {
    /// When (RFC 3339, UTC).
    pub time: String,
    /// `success` or what went wrong, in a word.
    pub result: &'static str,
    /// The process that this one came after.
    pub from: Option<u32>,
    /// Why none serves in this one's place.
    pub reason: Option<String>,
}

impl From<&LastUpgrade> for EndedUpgrade {
    fn from(last: &LastUpgrade) -> Self {
        let (time, result) = (rfc3339(last.time), last.result.as_str());
        Self { time, result, from: last.from, reason: last.reason.clone() }
    }
}

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Reload {
    /// When (RFC 3339, UTC).
    pub time: String,
    /// `success` or `failure`.
    pub result: &'static str,
    /// What is to say of the file.
    pub report: Findings,
}

impl From<&LastReload> for Reload {
    fn from(last: &LastReload) -> Self {
        let result = if last.report.has_errors() { "failure" } else { "success" };
        Self { time: rfc3339(last.time), result, report: last.report.findings() }
    }
}

/// What is under way on a version that has left its worker's deployment.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Retired {
    /// The worker.
    pub worker: String,
    /// The version.
    pub version_id: String,
    /// Requests in flight.
    pub requests: u64,
    /// Open tunnels.
    pub tunnels: u64,
}

impl From<UnderWay> for Retired {
    fn from(one: UnderWay) -> Self {
        let (worker, version_id) = (one.worker.to_string(), one.version.to_string());
        Self { worker, version_id, requests: one.requests, tunnels: one.tunnels }
    }
}

/// A worker, its deployment, and how its versions are.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// The deployment that serves.
    pub deployment: DeploymentStatus,
    /// Every version of the file, in its order.
    pub versions: Vec<VersionStatus>,
}

impl WorkerStatus {
    pub(super) fn new(worker: &Worker, health: &[VersionHealth], registry: &Registry) -> Self {
        let versions = worker.versions.iter();
        Self {
            name: worker.policy.name.to_string(),
            deployment: DeploymentStatus::from(worker),
            versions: versions.map(|one| VersionStatus::new(worker, one, health, registry)).collect(),
        }
    }
}

/// The deployment that serves.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DeploymentStatus {
    /// Its id.
    pub id: String,
    /// When it was made, as written.
    pub created_on: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// What made it.
    pub source: Option<String>,
    /// Why it was made.
    pub message: Option<String>,
    /// Its versions, in its order.
    pub versions: Vec<DeployedVersion>,
}

impl From<&Worker> for DeploymentStatus {
    fn from(worker: &Worker) -> Self {
        let deployment = &worker.policy.deployment;
        Self {
            id: deployment.id.clone(),
            created_on: deployment.created_on.clone(),
            author: deployment.author.clone(),
            source: deployment.source.clone(),
            message: deployment.message.clone(),
            versions: shares(worker).map(DeployedVersion::from).collect(),
        }
    }
}

/// A version of a deployment.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DeployedVersion {
    /// The version.
    pub version_id: String,
    /// Its tag.
    pub tag: Option<String>,
    /// What it is about.
    pub message: Option<String>,
    /// When it was made, as written.
    pub created_on: Option<String>,
    /// Its share of traffic in per cent, exact as it is written: `12.5`, `10`.
    #[schema(value_type = f64)]
    pub percentage: serde_json::Number,
}

impl From<(&Version, Share)> for DeployedVersion {
    fn from((version, share): (&Version, Share)) -> Self {
        let metadata = &version.metadata;
        Self {
            version_id: metadata.id.to_string(),
            tag: metadata.tag.as_ref().map(ToString::to_string),
            message: metadata.message.clone(),
            created_on: metadata.created_on.clone(),
            percentage: percentage(share),
        }
    }
}

/// The share as a JSON number, exact as it is written.
pub(crate) fn percentage(share: Share) -> serde_json::Number {
    // The shortest decimal that is this float is the text again.
    share.to_string().parse().unwrap_or_else(|_| 0.into())
}

/// A version, and how it is.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct VersionStatus {
    /// Its id.
    pub id: String,
    /// Its tag.
    pub tag: Option<String>,
    /// What it is about.
    pub message: Option<String>,
    /// When it was made, as written.
    pub created_on: Option<String>,
    /// Whether it can serve; null for one that is not deployed, of which nothing is known.
    pub up: Option<bool>,
    /// How its upstreams are; none for one that is not deployed.
    pub health: Vec<UpstreamStatus>,
    /// Retries of requests to it, by what came of them.
    pub retries: Retries,
    /// Requests for it that another version answered.
    pub failovers: u64,
    /// Where it runs.
    pub upstreams: Vec<String>,
}

/// Retries, by what came of them.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Retries {
    /// The second attempt was answered.
    pub success: u64,
    /// It was not.
    pub failure: u64,
    /// There was none, as too many were made already.
    pub budget: u64,
}

impl VersionStatus {
    fn new(worker: &Worker, version: &Version, health: &[VersionHealth], registry: &Registry) -> Self {
        let metadata = &version.metadata;
        let is_it = |one: &&VersionHealth| one.worker == worker.policy.name && one.version == metadata.id;
        let health = health.iter().find(is_it);
        let spared = registry.spared(&worker.policy.name, &metadata.id);
        let Spared { retries: [success, failure, budget], failovers } = spared;
        Self {
            id: metadata.id.to_string(),
            tag: metadata.tag.as_ref().map(ToString::to_string),
            message: metadata.message.clone(),
            created_on: metadata.created_on.clone(),
            up: health.map(VersionHealth::is_up),
            health: health.iter().flat_map(|one| &one.upstreams).map(UpstreamStatus::from).collect(),
            retries: Retries { success, failure, budget },
            failovers,
            upstreams: version.upstreams.iter().map(|upstream| upstream.value.to_string()).collect(),
        }
    }
}

/// How an upstream is.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct UpstreamStatus {
    /// As the file names it, in its normal form.
    pub upstream: String,
    /// Whether any of its addresses can serve.
    pub healthy: bool,
    /// Its addresses.
    pub endpoints: Vec<EndpointStatus>,
}

impl From<&UpstreamHealth> for UpstreamStatus {
    fn from(health: &UpstreamHealth) -> Self {
        let endpoints = health.endpoints.iter().map(EndpointStatus::from).collect();
        Self { upstream: health.upstream.clone(), healthy: health.is_healthy(), endpoints }
    }
}

/// How one address of an upstream is.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EndpointStatus {
    /// The address and port, or the path of the socket.
    pub address: String,
    /// Whether it can serve, as far as is known.
    pub healthy: bool,
    /// Whether its health checks say that it is down.
    pub fails_checks: bool,
    /// Connections refused one after the other.
    pub refused_in_a_row: u32,
    /// Whether it gets no requests because it failed too many.
    pub ejected: bool,
    /// How often it was ejected.
    pub ejections: u64,
    /// The last health check; null where there was none.
    pub checked: Option<Check>,
}

/// What came of a health check.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Check {
    /// When it ended (RFC 3339, UTC).
    pub time: String,
    /// `success` or `failure`.
    pub result: &'static str,
    /// Why it failed.
    pub error: Option<String>,
}

impl From<&EndpointHealth> for EndpointStatus {
    fn from(health: &EndpointHealth) -> Self {
        Self {
            address: health.address.clone(),
            healthy: health.healthy,
            fails_checks: health.fails_checks,
            refused_in_a_row: health.refused_in_a_row,
            ejected: health.ejected,
            ejections: health.ejections,
            checked: health.last_check.as_ref().map(Check::from),
        }
    }
}

impl From<&LastCheck> for Check {
    fn from(check: &LastCheck) -> Self {
        let result = if check.error.is_none() { "success" } else { "failure" };
        Self { time: rfc3339(check.time), result, error: check.error.clone() }
    }
}
