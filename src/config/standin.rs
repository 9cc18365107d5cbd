//! A small subset of the file, read without spans.

use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

use crate::diag::{Diagnostic, Report};
use crate::model::decision::{Policy, Senders};
use crate::model::deployment::{Deployment, Metadata};
use crate::model::name::{Tag, VersionId, WorkerName};
use crate::model::ring::Ring;
use crate::model::share::Share;

use super::{
    Address, Admin, Config, Endpoint, Limits, Listener, Log, Server, Spanned, Upstream, Version, Worker,
};

/// Text to values.
///
/// # Errors
/// One diagnostic.
pub fn parse(file: &str, source: &str, folder: &Path) -> Result<(Config, Report), Report> {
    let report = |titles: Vec<String>| Report {
        file: file.to_owned(),
        source: source.to_owned(),
        diagnostics: titles.into_iter().map(|title| Diagnostic::error(title, 0..0)).collect(),
    };
    let table: Table = source.parse().map_err(|error| report(vec![format!("{error}")]))?;
    let config = config(&table, folder).ok_or_else(|| report(vec!["not a configuration".to_owned()]))?;
    Ok((config, report(Vec::new())))
}

fn config(table: &Table, folder: &Path) -> Option<Config> {
    let admin = table.get("admin").and_then(Value::as_table);
    let said = |key: &str| admin.and_then(|admin| admin.get(key));
    let hosts = said("hosts").and_then(Value::as_array).into_iter().flatten();
    let token_file = said("token_file").and_then(Value::as_str).map(|path| spanned(folder.join(path)));
    Some(Config {
        server: Server { threads: None },
        listeners: table
            .get("listener")?
            .as_array()?
            .iter()
            .map(|one| listener(one, folder))
            .collect::<Option<_>>()?,
        limits: Limits { drain_timeout: Duration::from_secs(30) },
        log: Log { access: Default::default() },
        admin: Admin {
            address: spanned(address(
                said("address").and_then(Value::as_str).unwrap_or("127.0.0.1:9900"),
                folder,
            )?),
            configured: said("address").is_some(),
            hosts: hosts.filter_map(Value::as_str).map(str::to_lowercase).collect(),
            metrics_open: said("metrics")
                .map_or(token_file.is_none(), |value| value.as_str() == Some("open")),
            token_file,
        },
        workers: table.get("worker")?.as_array()?.iter().map(worker).collect::<Option<_>>()?,
    })
}

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned { value, span: 0..0 }
}

fn address(text: &str, folder: &Path) -> Option<Address> {
    match text.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(folder.join(path))),
        None => text.parse().ok().map(Address::Tcp),
    }
}

fn listener(value: &Value, folder: &Path) -> Option<Listener> {
    Some(Listener {
        address: spanned(address(value.get("address")?.as_str()?, folder)?),
        tls: Vec::new(),
        client_ca: None,
        trusted_proxies: Default::default(),
        proxy_protocol: false,
        redirect_https: false,
        health_path: None,
    })
}

fn worker(value: &Value) -> Option<Worker> {
    let name = WorkerName::new(value.get("name")?.as_str()?).ok()?;
    let listed = value.get("deployment")?.get("versions")?.as_array()?;
    let shares =
        listed.iter().map(|one| Share::parse(&one.get("percentage")?.as_integer()?.to_string()).ok());
    let shares: Vec<_> = shares.collect::<Option<_>>()?;
    let ids = listed.iter().map(|one| VersionId::new(one.get("version_id")?.as_str()?).ok());
    let mut deployment = Deployment {
        id: String::new(),
        created_on: None,
        author: None,
        source: None,
        message: None,
        versions: ids.collect::<Option<_>>()?,
        ring: Ring::cumulative(name.as_str().as_bytes(), &shares).ok()?,
    };
    deployment.id = deployment.derived_id(&name);
    Some(Worker {
        policy: Policy { name, keys: Senders::Anyone, overrides: Senders::Anyone, deployment },
        routes: vec![crate::model::route::Pattern::parse("*/*").ok()?],
        expose_version: value.get("expose_version").and_then(Value::as_bool).unwrap_or(false),
        upstream_host: Default::default(),
        timeouts: Default::default(),
        versions: value.get("version")?.as_array()?.iter().map(version).collect::<Option<_>>()?,
    })
}

fn version(value: &Value) -> Option<Version> {
    let tag = value.get("tag").and_then(Value::as_str).map(|tag| Tag::new(tag).ok());
    let upstream = value.get("upstreams")?.get(0)?.as_str()?.strip_prefix("http://")?.parse().ok()?;
    Some(Version {
        metadata: Metadata {
            id: VersionId::new(value.get("id")?.as_str()?).ok()?,
            tag: tag.flatten(),
            message: None,
            created_on: None,
        },
        upstreams: vec![Upstream { scheme: super::Scheme::Http, endpoint: Endpoint::Address(upstream) }],
        tls: Default::default(),
    })
}
