//! The file: TOML text to a valid [`Config`], or a report of every mistake in it.
//!
//! Two types per input: what the text says is walked once, and only valid values leave this module. Nothing here opens a
//! path; that is part of preparing a reload.

mod address;
mod affinity;
mod assets;
mod contradictions;
mod deployment;
pub mod edit;
mod fields;
mod health;
mod keys;
mod limits;
mod moment;
mod objects;
mod parse;
mod quoting;
mod rules;
mod schema;
mod sections;
mod texts;
mod worker;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use address::{Address, Endpoint, Scheme, Upstream};
pub use affinity::Affinity;
pub use assets::{Assets, MOST_RETAINED};
pub use health::{HealthCheck, OnUnavailable, Probe, StatusRange};
pub use limits::Limits;
pub use moment::moment;
pub use objects::{Handover, Objects};
pub use parse::parse;
pub use schema::json_schema;

use crate::diag::Span;
use crate::model::decision::Policy;
use crate::model::deployment::Metadata;
use crate::model::route::Pattern;
use crate::rules::Rules;

/// A value and where it stands in the file. Equal if the values are, wherever they stand.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// The bytes of the file that say it.
    pub span: Span,
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// All that the file says, every reference resolved and every default filled in. Relative paths are already joined to
/// the file's folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[server]`.
    pub server: Server,
    /// `[[listener]]`, at least one, no two of one address.
    pub listeners: Vec<Listener>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[log]`.
    pub log: Log,
    /// `[admin]`.
    pub admin: Admin,
    /// `[[worker]]`, at least one, no two of one name.
    pub workers: Vec<Worker>,
}

/// `[server]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    /// How many shards serve; `None`: one per core. Changed only by a restart.
    pub threads: Option<NonZeroUsize>,
    /// The folder of the journal and the lock; `None`: the file's own.
    pub state: Option<Spanned<PathBuf>>,
}

/// `[[listener]]`: where clients connect.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Where it listens.
    pub address: Spanned<Address>,
    /// Certificates, chosen by SNI, the first where none matches; empty: no TLS.
    pub tls: Vec<Certificate>,
    /// The certificates that client certificates must descend from; only with `tls`.
    pub client_ca: Option<Spanned<PathBuf>>,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// Whether every connection starts with a PROXY protocol header, and must come from a trusted proxy.
    pub proxy_protocol: bool,
    /// Whether plain requests are answered with 308 to https.
    pub redirect_https: bool,
    /// The path that the proxy answers itself.
    pub health_path: Option<String>,
}

/// A certificate chain and its private key, both PEM files.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// The chain, leaf first.
    pub certificate: Spanned<PathBuf>,
    /// The private key.
    pub key: Spanned<PathBuf>,
}

/// The peers whose forwarding headers are believed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrustedProxies {
    /// Networks; a single address is a network of one.
    pub networks: Vec<IpNet>,
    /// Whether peers on Unix sockets count.
    pub unix: bool,
}

impl TrustedProxies {
    /// Whether a peer counts; `None` is a peer on a Unix socket.
    pub fn contain(&self, peer: Option<SocketAddr>) -> bool {
        match peer {
            Some(address) => self.include(&address.ip().to_canonical()),
            None => self.unix,
        }
    }

    /// Whether an address, in its canonical form, is one of theirs.
    pub fn include(&self, address: &IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Where the access log goes.
    pub access: Spanned<AccessTarget>,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessTarget {
    /// Nowhere.
    #[default]
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub address: Spanned<Address>,
    /// Whether the file says so itself: a default address that is taken is no error.
    pub configured: bool,
    /// The file of the bearer token; when set, the token is required everywhere.
    pub token_file: Option<Spanned<PathBuf>>,
    /// Host names accepted besides `localhost` and loopback addresses, in lower case.
    pub hosts: Vec<String>,
    /// Whether `/metrics` needs no token even where a token is set.
    pub metrics_open: bool,
}

/// `[[worker]]`: an application behind the proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Name, gate and deployment. Ring members are indexes into `deployment.versions`.
    pub policy: Policy,
    /// Which requests are for it; one pattern that matches everything where the file says none.
    pub routes: Vec<Pattern>,
    /// Whether answers carry `Gradual-Version`.
    pub expose_version: bool,
    /// The `Host` that upstreams see.
    pub upstream_host: UpstreamHost,
    /// What becomes of requests whose version is down.
    pub on_unavailable: OnUnavailable,
    /// The file of the secret without which an override does not count; `None`: it needs none.
    pub overrides_secret_file: Option<Spanned<PathBuf>>,
    /// Deadlines towards upstreams.
    pub timeouts: Timeouts,
    /// What is done to headers of requests before they are assigned, in order.
    pub rules: Rules,
    /// The cookie that is a client's key where it has no other.
    pub affinity: Option<Affinity>,
    /// What is served by one version at a time; `None`: nothing is.
    pub objects: Option<Objects>,
    /// Its static assets; `None`: no path is one.
    pub assets: Option<Assets>,
    /// Every version that the file lists, in its order; a deployment may name only some.
    pub versions: Vec<Version>,
}

impl Worker {
    /// The versions that serve, as a decision's members index them, each with its place in the file: those of the deployment
    /// in its order, then those that are retained and not in it.
    pub fn in_use(&self) -> impl Iterator<Item = (usize, &Version)> {
        let deployed = &self.policy.deployment.versions;
        let retained = self.assets.iter().flat_map(|assets| &assets.retain);
        let ids = deployed.iter().chain(retained.filter(move |id| !deployed.contains(id)));
        ids.filter_map(|id| {
            self.versions.iter().enumerate().find(move |(_, version)| version.metadata.id == *id)
        })
    }
}

/// The `Host` that an upstream sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpstreamHost {
    /// As the client sent it.
    #[default]
    Preserve,
    /// The upstream's own host and port.
    Upstream,
    /// This one.
    Name(String),
}

/// Deadlines towards upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From the request's last byte (or, while its body still goes on, from the last progress) to the response's head.
    pub response: Duration,
    /// Between two pieces of a body or tunnel.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(300),
        }
    }
}

/// `[[worker.version]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Id, tag, message, time.
    pub metadata: Metadata,
    /// Where it runs, at least one.
    pub upstreams: Vec<Spanned<Upstream>>,
    /// How `https://` upstreams are verified, and what they are shown.
    pub tls: UpstreamTls,
    /// How they are asked whether they are well; `None`: they are not asked.
    pub health: Option<HealthCheck>,
}

/// `tls = { … }` of a version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamTls {
    /// The certificates that the upstream's must descend from; `None`: the system's.
    pub ca: Option<Spanned<PathBuf>>,
    /// The name that the upstream's certificate must carry; `None`: the host of its URL.
    pub server_name: Option<String>,
    /// What the proxy shows to an upstream that asks for a client certificate.
    pub client: Option<Certificate>,
}
