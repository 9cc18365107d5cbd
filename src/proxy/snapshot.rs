//! A configuration compiled for one shard: everything that a request needs is looked up in it and nowhere else.

use std::cell::{Ref, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;

use super::Services;
use super::resolve::Addresses;
use super::retire::Tenure;
use super::shard::Shard;
use super::tls::UpstreamConnector;
use super::upstream::{Endpoint, EndpointKey, Target};
use crate::config::{self, Config, Scheme, Timeouts, Upstream, UpstreamHost, Version, Worker};
use crate::metrics::{VersionSeries, WorkerSeries};
use crate::model::decision::{Policy, Reason};
use crate::model::deployment::Metadata;
use crate::model::name::WorkerName;
use crate::model::overrides::OverrideProblem;
use crate::model::route::Router;

/// A prepared configuration as it goes to every shard.
#[derive(Debug)]
pub(super) struct Blueprint {
    pub(super) config: Arc<Config>,
    pub(super) router: Router,
    /// By listener.
    pub(super) listener_tls: Vec<Option<Arc<ServerConfig>>>,
    /// By worker, by version; `None` where a version has no `https://` upstream.
    pub(super) upstream_tls: Vec<Vec<Option<UpstreamConnector>>>,
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
    /// In the order of the deployment.
    pub(super) versions: Vec<VersionState>,
    pub(super) series: Arc<WorkerSeries>,
    /// Counts requests that reached no version.
    pub(super) unversioned: Arc<VersionSeries>,
    /// `upstream_host` where it is a name.
    pub(super) host: Option<HeaderValue>,
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
        let named = |id: &crate::model::name::VersionId| {
            worker.versions.iter().enumerate().find(move |(_, version)| version.metadata.id == *id)
        };
        let deployed = worker.policy.deployment.versions.iter().filter_map(named);
        let build = |(at, version): (usize, &Version)| {
            let tls = blueprint.upstream_tls[index][at].as_ref();
            VersionState::build(worker, version, Backends::build(version, tls, blueprint, shard), shard)
        };
        Self {
            blueprint: Arc::clone(blueprint),
            index,
            name: text(name.as_str()),
            versions: deployed.map(build).collect(),
            series: registry.worker(shard.index(), name),
            unversioned: registry.unversioned(shard.index(), Some(name)),
            host: match &worker.upstream_host {
                UpstreamHost::Name(name) => Some(text(name)),
                UpstreamHost::Preserve | UpstreamHost::Upstream => None,
            },
        }
    }

    fn config(&self) -> &Worker {
        &self.blueprint.config.workers[self.index]
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.config().policy
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

    pub(super) fn is_exposed(&self) -> bool {
        self.config().expose_version
    }
}

impl VersionState {
    fn build(worker: &Worker, version: &Version, backends: Backends, shard: &Rc<Shard>) -> Self {
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
            tenure: shard.tenures().of(name, &metadata.id, &series),
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
    upstreams: Vec<Source>,
    /// All endpoints of all upstreams, as of the last look at the names.
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    shard: std::rc::Weak<Shard>,
}

struct Source {
    upstream: Upstream,
    tls: Option<UpstreamConnector>,
    /// Of an upstream that is a name: its addresses, and the port.
    addresses: Option<(RefCell<Addresses>, u16)>,
}

impl Backends {
    fn build(
        version: &Version,
        tls: Option<&UpstreamConnector>,
        blueprint: &Blueprint,
        shard: &Rc<Shard>,
    ) -> Self {
        let source = |upstream: &Upstream| Source {
            upstream: upstream.clone(),
            tls: tls.filter(|_| upstream.scheme == Scheme::Https).cloned(),
            addresses: match &upstream.endpoint {
                config::Endpoint::Name { host, port } => {
                    blueprint.names.get(host).map(|addresses| (RefCell::new(addresses.clone()), *port))
                }
                config::Endpoint::Address(_) | config::Endpoint::Unix(_) => None,
            },
        };
        let upstreams = version.upstreams.iter().map(|upstream| source(&upstream.value)).collect();
        let backends = Self { upstreams, endpoints: RefCell::default(), shard: Rc::downgrade(shard) };
        backends.refresh();
        backends
    }

    /// The endpoints as they are now. A look at whether a name has changed is one atomic load.
    pub(super) fn endpoints(&self) -> Ref<'_, Vec<Rc<Endpoint>>> {
        let changed = |source: &Source| {
            let addresses = source.addresses.as_ref();
            addresses.is_some_and(|(addresses, _)| addresses.borrow().has_changed().unwrap_or(false))
        };
        if self.upstreams.iter().any(changed) {
            self.refresh();
        }
        self.endpoints.borrow()
    }

    fn refresh(&self) {
        let Some(shard) = self.shard.upgrade() else { return };
        let mut endpoints = Vec::new();
        for source in &self.upstreams {
            for target in source.targets() {
                endpoints.extend(source.endpoint(target, &shard));
            }
        }
        *self.endpoints.borrow_mut() = endpoints;
    }
}

impl Source {
    fn targets(&self) -> Vec<Target> {
        match (&self.upstream.endpoint, &self.addresses) {
            (config::Endpoint::Address(address), _) => vec![Target::Tcp(*address)],
            (config::Endpoint::Unix(path), _) => vec![Target::Unix(path.clone())],
            (config::Endpoint::Name { .. }, Some((addresses, port))) => {
                let mut addresses = addresses.borrow_mut();
                let known = addresses.borrow_and_update();
                known.iter().map(|ip| Target::Tcp(SocketAddr::new(*ip, *port))).collect()
            }
            (config::Endpoint::Name { .. }, None) => Vec::new(),
        }
    }

    /// The shard's endpoint for a target: the one that it has, or a new one. `None` where no name can be verified.
    fn endpoint(&self, target: Target, shard: &Rc<Shard>) -> Option<Rc<Endpoint>> {
        let tls = match &self.tls {
            None if self.upstream.scheme == Scheme::Https => return None,
            None => None,
            Some(connector) => Some((connector.clone(), self.server_name(connector)?)),
        };
        let identity = tls.as_ref().map(|(connector, name)| (connector.identity, name.to_str().into_owned()));
        let authority = self.upstream.authority();
        let host = HeaderValue::from_str(&authority).ok();
        let key = EndpointKey { target, scheme: self.upstream.scheme, authority, tls: identity };
        Some(shard.endpoint(key, |key| Endpoint::new(key, &self.upstream.to_string(), host, tls)))
    }

    fn server_name(&self, connector: &UpstreamConnector) -> Option<ServerName<'static>> {
        if let Some(name) = &connector.server_name {
            return Some(name.clone());
        }
        match &self.upstream.endpoint {
            config::Endpoint::Address(address) => Some(address.ip().into()),
            config::Endpoint::Name { host, .. } => ServerName::try_from(host.clone()).ok(),
            config::Endpoint::Unix(_) => None,
        }
    }
}
