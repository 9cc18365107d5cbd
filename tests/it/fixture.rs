//! Values of the model and the configuration, built by hand.

use std::net::SocketAddr;

use gradual::config::{
    AccessTarget, Address, Admin, Config, Endpoint, Limits, Listener, Log, OnUnavailable, Scheme, Server,
    Spanned, Timeouts, TrustedProxies, Upstream, UpstreamHost, UpstreamTls, Version, Worker,
};
use gradual::model::decision::{Policy, Senders};
use gradual::model::deployment::{Deployment, Metadata};
use gradual::model::name::{Tag, VersionId, WorkerName};
use gradual::model::ring::Ring;
use gradual::model::route::Pattern;
use gradual::model::share::Share;
use gradual::rules::Rules;

pub(crate) fn shares(thousandths: &[u32]) -> Vec<Share> {
    thousandths.iter().map(|&t| Share::from_thousandths(t).unwrap()).collect()
}

/// A ring in cumulative order.
pub(crate) fn ring(salt: &str, thousandths: &[u32]) -> Ring {
    Ring::cumulative(salt.as_bytes(), &shares(thousandths)).unwrap()
}

/// Versions with their shares in thousandths of a per cent, in cumulative order.
pub(crate) fn deployment(worker: &str, versions: &[(&str, u32)]) -> Deployment {
    let thousandths: Vec<_> = versions.iter().map(|(_, share)| *share).collect();
    Deployment {
        id: "d1".into(),
        created_on: None,
        author: None,
        source: None,
        message: None,
        versions: versions.iter().map(|(id, _)| VersionId::new(id).unwrap()).collect(),
        ring: ring(worker, &thousandths),
    }
}

/// A worker that lets anyone send keys and overrides.
pub(crate) fn policy(worker: &str, versions: &[(&str, u32)]) -> Policy {
    Policy {
        name: WorkerName::new(worker).unwrap(),
        keys: Senders::Anyone,
        overrides: Senders::Anyone,
        deployment: deployment(worker, versions),
    }
}

/// A worker of the configuration; each version's tag is `tag-` and its id.
pub(crate) fn worker(name: &str, routes: &[&str], versions: &[(&str, u32)]) -> Worker {
    Worker {
        policy: policy(name, versions),
        routes: routes.iter().map(|route| Pattern::parse(route).unwrap()).collect(),
        expose_version: false,
        upstream_host: UpstreamHost::Preserve,
        on_unavailable: OnUnavailable::default(),
        overrides_secret_file: None,
        timeouts: Timeouts::default(),
        rules: Rules::default(),
        affinity: None,
        objects: None,
        assets: None,
        versions: versions.iter().map(|(id, _)| version(id)).collect(),
    }
}

fn version(id: &str) -> Version {
    let upstream = Upstream { scheme: Scheme::Http, endpoint: Endpoint::Address(loopback()) };
    Version {
        metadata: Metadata {
            id: VersionId::new(id).unwrap(),
            tag: Some(Tag::new(&format!("tag-{id}")).unwrap()),
            message: None,
            created_on: None,
            migration: None,
        },
        upstreams: vec![Spanned { value: upstream, span: 0..0 }],
        tls: UpstreamTls::default(),
        health: None,
    }
}

/// A configuration of one listener that trusts these networks.
pub(crate) fn config(workers: Vec<Worker>, trusted: &[&str]) -> Config {
    let address = || Spanned { value: Address::Tcp(loopback()), span: 0..0 };
    let listener = Listener {
        address: address(),
        tls: Vec::new(),
        client_ca: None,
        trusted_proxies: TrustedProxies {
            networks: trusted.iter().map(|network| network.parse().unwrap()).collect(),
            unix: false,
        },
        proxy_protocol: false,
        redirect_https: false,
        health_path: None,
    };
    Config {
        server: Server::default(),
        listeners: vec![listener],
        limits: Limits::default(),
        log: Log { access: Spanned { value: AccessTarget::Off, span: 0..0 } },
        admin: Admin {
            address: address(),
            configured: false,
            token_file: None,
            hosts: Vec::new(),
            metrics_open: false,
        },
        workers,
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
