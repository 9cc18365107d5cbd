//! What upstreams there are and how they stand, for those who check and those who tell: never on a request's way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::probe::{self, ProbeError};
use super::resolve::Addresses;
use super::snapshot::Blueprint;
use super::source::{Source, Spot};
use super::standing::{LastCheck, Standing, Standings};
use super::upstream::{EndpointKey, Target};
use crate::config::HealthCheck;
use crate::model::name::{VersionId, WorkerName};

/// The upstreams of every deployed version, as of one commit.
#[derive(Debug, Default)]
pub(super) struct Roster {
    versions: Vec<Listed>,
    standings: Arc<Standings>,
}

#[derive(Debug)]
struct Listed {
    worker: WorkerName,
    version: VersionId,
    sources: Vec<Source>,
}

impl Roster {
    pub(super) fn of(blueprint: &Blueprint, standings: &Arc<Standings>) -> Self {
        let mut versions = Vec::new();
        for (index, worker) in blueprint.config.workers.iter().enumerate() {
            versions.extend(worker.in_use().map(|(at, version)| Listed {
                worker: worker.policy.name.clone(),
                version: version.metadata.id.clone(),
                sources: Source::all(blueprint, index, at),
            }));
        }
        Self { versions, standings: Arc::clone(standings) }
    }

    fn places(&self) -> Vec<Place> {
        let mut places: HashMap<EndpointKey, Place> = HashMap::new();
        for Listed { worker, version, sources } in &self.versions {
            for source in sources {
                for spot in source.spots() {
                    let user =
                        User { worker: worker.clone(), version: version.clone(), upstream: source.label() };
                    let standing = || self.standings.of(&spot.key);
                    let new = || Place { standing: standing(), spot: spot.clone(), users: Vec::new() };
                    let place = places.entry(spot.key.clone()).or_insert_with(new);
                    if !place.users.contains(&user) {
                        place.users.push(user);
                    }
                }
            }
        }
        places.into_values().collect()
    }
}

/// Tells at any time how upstreams stand, without asking anybody. Cheap to clone; the default sees none.
#[derive(Clone, Debug)]
pub struct HealthMeter(watch::Receiver<Arc<Roster>>);

impl Default for HealthMeter {
    fn default() -> Self {
        Self(watch::channel(Arc::default()).1)
    }
}

/// How one version stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionHealth {
    /// Its worker.
    pub worker: WorkerName,
    /// The version.
    pub version: VersionId,
    /// Its upstreams, in the order of the file.
    pub upstreams: Vec<UpstreamHealth>,
}

/// How one upstream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamHealth {
    /// As the file names it, in its normal form.
    pub upstream: String,
    /// Its addresses: one, or those that its name has; none where they are not known.
    pub endpoints: Vec<EndpointHealth>,
}

/// How one address of an upstream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointHealth {
    /// The address and port, or the path of the socket.
    pub address: String,
    /// Whether it can serve, as far as is known.
    pub healthy: bool,
    /// Whether its health checks say that it is down.
    pub fails_checks: bool,
    /// Connections refused one after the other.
    pub refused_in_a_row: u32,
    /// Whether it gets no requests because it failed too many, or one that tries it.
    pub ejected: bool,
    /// How often it was ejected.
    pub ejections: u64,
    /// The last health check; `None` where there was none.
    pub last_check: Option<LastCheck>,
}

impl VersionHealth {
    /// Whether it can serve: any of its upstreams is healthy.
    pub fn is_up(&self) -> bool {
        self.upstreams.iter().any(UpstreamHealth::is_healthy)
    }
}

impl UpstreamHealth {
    /// Whether any of its addresses is ejected.
    pub fn is_ejected(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.ejected)
    }

    /// Whether any of its addresses is healthy.
    pub fn is_healthy(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.healthy)
    }
}

impl HealthMeter {
    pub(super) fn new(roster: &watch::Sender<Arc<Roster>>) -> Self {
        Self(roster.subscribe())
    }

    /// How every deployed version stands at the moment, in the order of the file and its deployments.
    pub fn read(&self) -> Vec<VersionHealth> {
        let roster = Arc::clone(&self.0.borrow());
        let version = |listed: &Listed| VersionHealth {
            worker: listed.worker.clone(),
            version: listed.version.clone(),
            upstreams: listed.sources.iter().map(|source| upstream(source, &roster.standings)).collect(),
        };
        roster.versions.iter().map(version).collect()
    }

    /// Every place at which upstreams are, from now on.
    pub fn watch(&self) -> Places {
        let mut roster = self.0.clone();
        roster.mark_changed();
        Places { roster, names: Vec::new() }
    }
}

fn upstream(source: &Source, standings: &Standings) -> UpstreamHealth {
    let endpoint = |spot: Spot| {
        // Nothing is known of one that no shard has come to use yet.
        let standing = standings.get(&spot.key).unwrap_or_default();
        EndpointHealth {
            address: address(&spot.key.target),
            healthy: !standing.is_down(),
            fails_checks: standing.fails_checks(),
            refused_in_a_row: standing.refused_in_a_row(),
            ejected: standing.ejection.is_ejected(),
            ejections: standing.ejection.total(),
            last_check: standing.last_check(),
        }
    };
    UpstreamHealth { upstream: source.label(), endpoints: source.spots().into_iter().map(endpoint).collect() }
}

fn address(target: &Target) -> String {
    match target {
        Target::Tcp(address) => address.to_string(),
        Target::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// Follows which places there are: they change with a reload, and with what names stand for.
#[derive(Debug)]
pub struct Places {
    roster: watch::Receiver<Arc<Roster>>,
    names: Vec<Addresses>,
}

/// What is new about places.
#[derive(Debug)]
pub enum News {
    /// These are the places from now on.
    Places(Vec<Place>),
    /// Nothing.
    None,
    /// The shards have ended.
    End,
}

impl Places {
    /// Waits for a reload, or until `patience` is over; then says what is new.
    pub async fn news(&mut self, patience: Duration) -> News {
        let reloaded = match tokio::time::timeout(patience, self.roster.changed()).await {
            Ok(Err(_)) => return News::End,
            Ok(Ok(())) => true,
            Err(_) => false,
        };
        let renamed = self.names.iter().any(|addresses| addresses.has_changed().unwrap_or(false));
        if !reloaded && !renamed {
            return News::None;
        }
        let roster = Arc::clone(&self.roster.borrow_and_update());
        let sources = roster.versions.iter().flat_map(|listed| &listed.sources);
        self.names = sources.filter_map(Source::addresses).collect();
        // Before they are read: what changes in between is news again.
        self.names.iter_mut().for_each(watch::Receiver::mark_unchanged);
        News::Places(roster.places())
    }
}

/// One place at which an upstream is, as those see it who check it. Whoever uses the same upstream and has it checked in
/// the same way shares it.
#[derive(Clone, Debug)]
pub struct Place {
    spot: Spot,
    standing: Arc<Standing>,
    users: Vec<User>,
}

/// A version that a place serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its worker.
    pub worker: WorkerName,
    /// The version.
    pub version: VersionId,
    /// The upstream, as the file names it.
    pub upstream: String,
}

/// What tells places apart, also across reloads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlaceId(EndpointKey);

impl Place {
    /// What tells it apart.
    pub fn id(&self) -> PlaceId {
        PlaceId(self.spot.key.clone())
    }

    /// The address and port, or the path of the socket.
    pub fn address(&self) -> String {
        address(&self.spot.key.target)
    }

    /// The versions that it serves; at least one.
    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// How it is to be checked; `None`: it is not.
    pub fn check(&self) -> Option<&Arc<HealthCheck>> {
        self.spot.key.check.as_ref()
    }

    /// What its checks have said last; true where they have said nothing.
    pub fn is_well(&self) -> bool {
        !self.standing.fails_checks()
    }

    /// Whether it counts as down because connections are refused.
    pub fn is_refused(&self) -> bool {
        self.standing.is_refused()
    }

    /// Asks it once, by a connection of its own.
    ///
    /// # Errors
    /// It is not well, or nothing can be said ([`ProbeError::is_local`]).
    pub async fn ask(&self, check: &HealthCheck) -> Result<(), ProbeError> {
        probe::ask(&self.spot, &self.standing, check).await
    }

    /// Makes a connection within `limit` and closes it. One that is made ends a row of refused ones.
    ///
    /// # Errors
    /// None can be made.
    pub async fn dial(&self, limit: Duration) -> Result<(), ProbeError> {
        probe::dial(&self.spot, &self.standing, limit).await
    }

    /// Notes a check, whatever it means for the verdict.
    pub fn checked(&self, check: LastCheck) {
        self.standing.checked(check);
    }

    /// What the checks say from now on: whether requests may be sent there.
    pub fn judge(&self, is_well: bool) {
        self.standing.judge(is_well);
    }
}
