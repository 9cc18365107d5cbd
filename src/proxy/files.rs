//! The files that a configuration names: certificates, keys and secrets.

use std::sync::Arc;

use super::secret;
use super::tls;
use crate::config::{Config, Scheme, Version};
use crate::diag::Diagnostic;
use crate::model::secret::Secret;

/// What the files that a configuration names become.
pub(super) struct Files {
    /// By listener.
    pub(super) listener_tls: Vec<Option<Arc<rustls::ServerConfig>>>,
    /// By worker and version.
    pub(super) upstream_tls: Vec<Vec<Option<tls::UpstreamConnector>>>,
    /// By worker.
    pub(super) secrets: Vec<Option<Secret>>,
}

/// Reads them all.
///
/// # Errors
/// What is wrong with any of them.
pub(super) fn read(config: &Config) -> Result<Files, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let listener_tls = config.listeners.iter().map(tls::server);
    let listener_tls =
        listener_tls.map(|tls| tls.map_err(|more| problems.extend(more)).ok().flatten()).collect();
    let mut of_version = |version: &Version| {
        let secure = version.upstreams.iter().any(|upstream| upstream.value.scheme == Scheme::Https);
        let connector = secure.then(|| tls::upstream(&version.tls)).transpose();
        connector.map_err(|more| problems.extend(more)).ok().flatten()
    };
    let upstream_tls =
        config.workers.iter().map(|worker| worker.versions.iter().map(&mut of_version).collect()).collect();
    let secrets = config.workers.iter().map(secret::of_worker);
    let secrets = secrets.map(|secret| secret.map_err(|one| problems.push(one)).ok().flatten()).collect();
    if problems.is_empty() { Ok(Files { listener_tls, upstream_tls, secrets }) } else { Err(problems) }
}
