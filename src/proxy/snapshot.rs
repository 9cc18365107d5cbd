//! A configuration compiled for one shard: everything that a request needs is looked up in it and nowhere else.

use std::cell::{Ref, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use rustls::ServerConfig;

use super::Services;
use super::assets::Assets;
use super::budget::{Budget, Tally};
use super::objects::Objects;
use super::resolve::Addresses;
use super::retire::{Service, Tenure};
use super::shard::Shard;
use super::source::{Source, Spot};
use super::steering::Steering;
use super::tls::UpstreamConnector;
use super::upstream::Endpoint;
use crate::config::{self, Config, OnUnavailable, Timeouts, UpstreamHost, Version, Worker};
use crate::metrics::{VersionSeries, WorkerSeries};
use crate::model::decision::{Policy, Reason};
use crate::model::deployment::Metadata;
use crate::model::name::WorkerName;
use crate::model::overrides::OverrideProblem;
use crate::model::route::Router;
use crate::model::secret::Secret;

/// A prepared configuration as it goes to every shard.
#[derive(Debug)]
pub(super) struct Blueprint {
    pub(super) config: Arc<Config>,
    pub(super) router: Router,
    /// By listener.
    pub(super) listener_tls: Vec<Option<Arc<ServerConfig>>>,
    /// By worker, by version; `None` where a version has no `https://` upstream.
    pub(super) upstream_tls: Vec<Vec<Option<UpstreamConnector>>>,
    /// By worker; what overrides must show.
    pub(super) secrets: Vec<Option<Secret>>,
    /// By worker; for sending requests again.
    pub(super) budgets: Vec<Arc<Budget>>,
    /// By worker; `None` where it has none.
    pub(super) objects: Vec<Option<Objects>>,
    /// By worker; for asking other versions for assets.
    pub(super) asset_budgets: Vec<Arc<Budget>>,
    /// By name.
    pub(super) names: HashMap<String, Addresses>,
}

/// A blueprint as one shard serves it.
pub(super) struct Snapshot {
    pub(super) blueprint: Arc<Blueprint>,
    pub(super) workers: Vec<WorkerState>,
    /// Counts requests that reached no worker.
    pub(super) unrouted: Arc<VersionSeries>,
}

/// A worker, ready for requests.
pub(super) struct WorkerState {
    blueprint: Arc<Blueprint>,
    index: usize,
    /// `Gradual-Worker`.
    pub(super) name: HeaderValue,
    /// In the order of the deployment; then those that are retained and not in it.
    pub(super) versions: Vec<VersionState>,
    pub(super) series: Arc<WorkerSeries>,
    /// Counts requests that reached no version.
    pub(super) unversioned: Arc<VersionSeries>,
    /// Counts requests for the budget; it goes on over reloads.
    pub(super) tally: Arc<Tally>,
    /// `upstream_host` where it is a name.
    pub(super) host: Option<HeaderValue>,
    /// `None` where the two headers alone choose a version.
    pub(super) steering: Option<Box<Steering>>,
}

/// A version of the active deployment, ready for requests.
pub(super) struct VersionState {
    pub(super) metadata: Metadata,
    /// The metadata as header values.
    pub(super) headers: MetadataHeaders,
    /// `Gradual-Version` by reason; empty where it is not exposed.
    exposed: Vec<HeaderValue>,
    pub(super) backends: Backends,
    pub(super) series: Arc<VersionSeries>,
    pub(super) tenure: Rc<Tenure>,
}

/// The version metadata that upstreams are told.
pub(super) struct MetadataHeaders {
    pub(super) id: HeaderValue,
    pub(super) tag: Option<HeaderValue>,
    pub(super) timestamp: Option<HeaderValue>,
}

impl Snapshot {
    /// No workers: what a shard has before its first commit, when it does not accept yet.
    pub(super) fn empty(blueprint: &Arc<Blueprint>, shard: usize, services: &Services) -> Self {
        let unrouted = services.registry.unversioned(shard, None);
        Self { workers: Vec::new(), unrouted, blueprint: Arc::clone(blueprint) }
    }

    /// Compiles a blueprint; endpoints that the shard already knows keep their connections.
    pub(super) fn build(blueprint: &Arc<Blueprint>, shard: &Rc<Shard>) -> Self {
        let workers = blueprint.config.workers.iter().enumerate();
        Self {
            workers: workers
                .map(|(index, worker)| WorkerState::build(blueprint, index, worker, shard))
                .collect(),
            unrouted: shard.services().registry.unversioned(shard.index(), None),
            blueprint: Arc::clone(blueprint),
        }
    }
}

impl WorkerState {
    fn build(blueprint: &Arc<Blueprint>, index: usize, worker: &Worker, shard: &Rc<Shard>) -> Self {
        let name = &worker.policy.name;
        let registry = &shard.services().registry;
        let deployed = worker.policy.deployment.versions.len();
        let build = |(place, (at, version)): (usize, (usize, &Version))| {
            let backends = Backends::build(Source::all(blueprint, index, at), shard);
            let service = if place < deployed { Service::Deployed } else { Service::Retained };
            VersionState::build(worker, version, service, backends, shard)
        };
        Self {
            blueprint: Arc::clone(blueprint),
            index,
            name: text(name.as_str()),
            versions: worker.in_use().enumerate().map(build).collect(),
            series: registry.worker(shard.index(), name),
            unversioned: registry.unversioned(shard.index(), Some(name)),
            tally: blueprint.budgets[index].tally(shard.index()),
            host: match &worker.upstream_host {
                UpstreamHost::Name(name) => Some(text(name)),
                UpstreamHost::Preserve | UpstreamHost::Upstream => None,
            },
            steering: Steering::build(worker, Assets::of(blueprint, index, shard.index())),
        }
    }

    fn config(&self) -> &Worker {
        &self.blueprint.config.workers[self.index]
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.config().policy
    }

    /// What is done about static assets; `None` where no path is one.
    pub(super) fn assets(&self) -> Option<&config::Assets> {
        self.config().assets.as_ref()
    }

    /// What overrides must show; `None` where they need not show anything.
    pub(super) fn secret(&self) -> Option<&Secret> {
        self.blueprint.secrets.get(self.index)?.as_ref()
    }

    /// For sending requests again, of all shards.
    pub(super) fn budget(&self) -> &Budget {
        &self.blueprint.budgets[self.index]
    }

    /// Whose requests may be for objects, and by what plan.
    pub(super) fn objects(&self) -> Option<&Objects> {
        self.blueprint.objects.get(self.index)?.as_ref()
    }

    pub(super) fn name(&self) -> &str {
        self.policy().name.as_str()
    }

    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.config().timeouts
    }

    pub(super) fn upstream_host(&self) -> &UpstreamHost {
        &self.config().upstream_host
    }

    /// Whether keys and draws of a version that is down go to others.
    pub(super) fn remaps(&self) -> bool {
        self.config().on_unavailable == OnUnavailable::Remap
    }

    pub(super) fn is_exposed(&self) -> bool {
        self.config().expose_version
    }
}

impl VersionState {
    fn build(
        worker: &Worker,
        version: &Version,
        service: Service,
        backends: Backends,
        shard: &Rc<Shard>,
    ) -> Self {
        let metadata = &version.metadata;
        let exposed = |reason: &Reason| exposed(&worker.policy.name, metadata, *reason, None);
        let name = &worker.policy.name;
        let series = shard.services().registry.version(shard.index(), name, &metadata.id);
        Self {
            headers: MetadataHeaders {
                id: text(metadata.id.as_str()),
                tag: metadata.tag.as_ref().map(|tag| text(tag.as_str())),
                timestamp: metadata.created_on.as_deref().map(text),
            },
            exposed: if worker.expose_version {
                Reason::ALL.iter().map(exposed).collect()
            } else {
                Vec::new()
            },
            backends,
            tenure: shard.tenures().of(name, &metadata.id, service, &series),
            series,
            metadata: metadata.clone(),
        }
    }

    pub(super) fn id(&self) -> &str {
        self.metadata.id.as_str()
    }

    /// `Gradual-Version`; made in advance but for the rare request whose override does not count.
    pub(super) fn exposed(
        &self,
        worker: &WorkerName,
        reason: Reason,
        problem: Option<OverrideProblem>,
    ) -> Option<HeaderValue> {
        match problem {
            None => self.exposed.get(reason as usize).cloned(),
            problem => Some(exposed(worker, &self.metadata, reason, problem)),
        }
    }
}

/// A structured-field Item: the version id, with where it belongs and why it was chosen as parameters.
fn exposed(
    worker: &WorkerName,
    metadata: &Metadata,
    reason: Reason,
    problem: Option<OverrideProblem>,
) -> HeaderValue {
    let mut item = format!("\"{}\";worker={worker}", metadata.id);
    if let Some(tag) = &metadata.tag {
        let escaped = tag.as_str().replace('\\', "\\\\").replace('"', "\\\"");
        item.push_str(&format!(";tag=\"{escaped}\""));
    }
    item.push_str(&format!(";reason={}", reason.as_str()));
    if let Some(problem) = problem {
        item.push_str(&format!(";override={}", problem.as_str()));
    }
    text(&item)
}

/// A header value of text that the configuration has checked to be printable.
fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Where a version's requests can go.
pub(super) struct Backends {
    upstreams: Vec<Named>,
    /// All endpoints of all upstreams, as of the last look at the names.
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    shard: std::rc::Weak<Shard>,
}

/// An upstream and, where it is a name, what tells whether its addresses have changed.
struct Named {
    source: Source,
    addresses: Option<RefCell<Addresses>>,
}

impl Backends {
    fn build(sources: Vec<Source>, shard: &Rc<Shard>) -> Self {
        let named = |source: Source| Named { addresses: source.addresses().map(RefCell::new), source };
        let upstreams = sources.into_iter().map(named).collect();
        let backends = Self { upstreams, endpoints: RefCell::default(), shard: Rc::downgrade(shard) };
        backends.refresh();
        backends
    }

    /// The endpoints as they are now. A look at whether a name has changed is one atomic load.
    pub(super) fn endpoints(&self) -> Ref<'_, Vec<Rc<Endpoint>>> {
        let changed = |named: &Named| {
            let addresses = named.addresses.as_ref();
            addresses.is_some_and(|addresses| addresses.borrow().has_changed().unwrap_or(false))
        };
        if self.upstreams.iter().any(changed) {
            self.refresh();
        }
        self.endpoints.borrow()
    }

    /// Whether none of them can serve: then the version is down. So is one without any, as none of its names has an
    /// address.
    pub(super) fn are_down(&self) -> bool {
        self.endpoints().iter().all(|endpoint| endpoint.standing().is_down())
    }

    fn refresh(&self) {
        let Some(shard) = self.shard.upgrade() else { return };
        let mut endpoints = Vec::new();
        for Named { source, addresses } in &self.upstreams {
            if let Some(addresses) = addresses {
                addresses.borrow_mut().mark_unchanged();
            }
            endpoints.extend(source.spots().into_iter().map(|spot| endpoint(spot, source, &shard)));
        }
        *self.endpoints.borrow_mut() = endpoints;
    }
}

/// The shard's endpoint for a spot: the one that it has, or a new one.
fn endpoint(spot: Spot, source: &Source, shard: &Rc<Shard>) -> Rc<Endpoint> {
    let host = HeaderValue::from_str(&spot.key.authority).ok();
    shard.endpoint(spot.key, |key| {
        let standing = shard.standings().of(&key);
        Endpoint::new(key, &source.label(), host, spot.tls, standing, shard.census())
    })
}
