//! Upstreams as a configuration names them, and the addresses that they have at the moment.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::resolve::Addresses;
use super::snapshot::Blueprint;
use super::tls::UpstreamConnector;
use super::upstream::{EndpointKey, Target};
use crate::config::{self, HealthCheck, Scheme, Upstream};

/// One of a version's upstreams.
#[derive(Clone, Debug)]
pub(super) struct Source {
    upstream: Upstream,
    tls: Option<UpstreamConnector>,
    /// Of an upstream that is a name: its addresses, and the port.
    addresses: Option<(Addresses, u16)>,
    check: Option<Arc<HealthCheck>>,
}

/// One place of an upstream: a name has one for each of its addresses.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) key: EndpointKey,
    pub(super) tls: Option<(UpstreamConnector, ServerName<'static>)>,
}

impl Source {
    /// A version's upstreams, by the indexes of its worker and of itself in the file.
    pub(super) fn all(blueprint: &Blueprint, worker: usize, version: usize) -> Vec<Self> {
        let tls = blueprint.upstream_tls[worker][version].as_ref();
        let version = &blueprint.config.workers[worker].versions[version];
        let check = version.health.clone().map(Arc::new);
        let source = |upstream: &Upstream| Self {
            upstream: upstream.clone(),
            tls: tls.filter(|_| upstream.scheme == Scheme::Https).cloned(),
            addresses: match &upstream.endpoint {
                config::Endpoint::Name { host, port } => {
                    blueprint.names.get(host).map(|addresses| (addresses.clone(), *port))
                }
                config::Endpoint::Address(_) | config::Endpoint::Unix(_) => None,
            },
            check: check.clone(),
        };
        version.upstreams.iter().map(|upstream| source(&upstream.value)).collect()
    }

    /// As logs, metrics and the status name it.
    pub(super) fn label(&self) -> String {
        self.upstream.to_string()
    }

    /// The addresses of a name, of which no change has been seen yet.
    pub(super) fn addresses(&self) -> Option<Addresses> {
        self.addresses.as_ref().map(|(addresses, _)| addresses.clone())
    }

    /// Its places as they are now. None where no address is known, or no name can be verified.
    pub(super) fn spots(&self) -> Vec<Spot> {
        self.targets().into_iter().filter_map(|target| self.spot(target)).collect()
    }

    fn targets(&self) -> Vec<Target> {
        match (&self.upstream.endpoint, &self.addresses) {
            (config::Endpoint::Address(address), _) => vec![Target::Tcp(*address)],
            (config::Endpoint::Unix(path), _) => vec![Target::Unix(path.clone())],
            (config::Endpoint::Name { .. }, Some((addresses, port))) => {
                let known = addresses.borrow();
                known.iter().map(|ip| Target::Tcp(SocketAddr::new(*ip, *port))).collect()
            }
            (config::Endpoint::Name { .. }, None) => Vec::new(),
        }
    }

    fn spot(&self, target: Target) -> Option<Spot> {
        let tls = match &self.tls {
            None if self.upstream.scheme == Scheme::Https => return None,
            None => None,
            Some(connector) => Some((connector.clone(), self.server_name(connector)?)),
        };
        let identity = tls.as_ref().map(|(connector, name)| (connector.identity, name.to_str().into_owned()));
        let authority = self.upstream.authority();
        let (scheme, check) = (self.upstream.scheme, self.check.clone());
        Some(Spot { key: EndpointKey { target, scheme, authority, tls: identity, check }, tls })
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
