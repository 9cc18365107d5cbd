//! `[[worker]]` and its versions.

use std::collections::HashMap;
use std::time::Duration;

use toml::de::DeValue;

use super::address::{Scheme, Upstream};
use super::affinity::affinity;
use super::assets;
use super::deployment::{self, Known};
use super::fields::{Fields, Text, Walk};
use super::health;
use super::objects::objects;
use super::rules;
use super::sections::{certificate, duration, path, warn_of_slip};
use super::texts::{self, Problem};
use super::{Listener, OnUnavailable, Spanned, Timeouts, UpstreamHost, UpstreamTls, Version, Worker};
use crate::diag::{Diagnostic, Span, quoted};
use crate::model::decision::{Policy, Senders};
use crate::model::deployment::Metadata;
use crate::model::name::{NameError, Tag, VersionId, WorkerName};
use crate::model::route::Pattern;

/// Every `[[worker]]` that is whole.
pub(super) fn workers(walk: &mut Walk<'_>, all: &[Fields<'_>], listeners: &[Listener]) -> Vec<Worker> {
    let reach = Reach::of(listeners);
    let mut seen = Seen::default();
    all.iter().filter_map(|fields| worker(walk, fields, &mut seen, reach)).collect()
}

/// From where and how requests can come.
#[derive(Clone, Copy, Debug)]
struct Reach {
    /// From other machines.
    open: bool,
    /// Over https, to here or to a proxy that is believed to say so.
    https: bool,
}

impl Reach {
    fn of(listeners: &[Listener]) -> Self {
        let https = |listener: &Listener| {
            let Listener { tls, trusted_proxies, .. } = listener;
            !tls.is_empty() || trusted_proxies.unix || !trusted_proxies.networks.is_empty()
        };
        Self {
            open: listeners.iter().any(|listener| !listener.address.value.is_local()),
            // Where none is whole there are mistakes to mend first.
            https: listeners.is_empty() || listeners.iter().any(https),
        }
    }
}

/// What no two workers may share, and where the first one has it.
#[derive(Debug, Default)]
struct Seen {
    names: HashMap<WorkerName, Span>,
    routes: HashMap<Pattern, Span>,
}

fn worker(walk: &mut Walk<'_>, fields: &Fields<'_>, seen: &mut Seen, reach: Reach) -> Option<Worker> {
    let name = name(walk, fields, seen);
    let routes = routes(walk, fields, seen);
    let upstream_host = upstream_host(walk, fields);
    let timeouts = timeouts(walk, fields.table("timeouts").as_ref());
    let rules = rules::rules(walk, &fields.tables("rule"));
    let listed = fields.tables("version");
    let known = Known::new(&listed);
    let versions = versions(walk, &listed);
    let overrides = senders(fields, "overrides");
    if reach.open && overrides == Senders::Anyone && !fields.has("overrides_secret_file") {
        warn_of_guessable_ids(walk, &listed, &versions);
    }
    let overrides_secret_file = path(walk, fields, "overrides_secret_file");
    let affinity_fields = fields.table("affinity");
    let salt = affinity_fields.as_ref().and_then(|affinity| affinity.text("salt"));
    let salt = salt.map(|text| text.value.to_owned()).or_else(|| Some(name.as_ref()?.as_str().to_owned()));
    let affinity = affinity(walk, affinity_fields.as_ref(), reach.https);
    let objects = objects(walk, fields.table("objects").as_ref());
    let deployment = fields
        .table("deployment")
        .and_then(|table| deployment::deployment(walk, &table, &known, salt.as_deref().unwrap_or_default()));
    if let (Some(table), Some(deployment)) = (fields.table("deployment"), &deployment) {
        deployment::check_migrations(walk, &table, deployment, &versions);
    }
    let assets_fields = fields.table("assets");
    if let (Some(affinity), Some(table)) = (&affinity, &assets_fields) {
        assets::warn_of_pages(walk, table, &affinity.cookie);
    }
    let assets = assets_fields.map(|table| assets::assets(walk, &table, &known));
    let (name, mut deployment) = (name?, deployment?);
    if deployment.id.is_empty() {
        deployment.id = deployment.derived_id(&name);
    }
    Some(Worker {
        routes,
        expose_version: fields.boolean("expose_version").unwrap_or(false),
        upstream_host,
        on_unavailable: match fields.word("on_unavailable") {
            Some("remap") => OnUnavailable::Remap,
            _ => OnUnavailable::Fail,
        },
        overrides_secret_file,
        timeouts,
        rules,
        affinity,
        objects,
        assets: assets.map(|assets| assets.resolved(&deployment, &versions)),
        policy: Policy { name, keys: senders(fields, "keys"), overrides, deployment },
        versions,
    })
}

fn name(walk: &mut Walk<'_>, fields: &Fields<'_>, seen: &mut Seen) -> Option<WorkerName> {
    let text = fields.text("name")?;
    let name = walk.parsed(&text, "the name of a worker", fields.kind("name"), named(WorkerName::new))?;
    if let Some(first) = seen.names.get(&name) {
        let label = format!("the worker on line {} has the same name", walk.line(first));
        let title = format!("two workers are named {}", quoted(text.value));
        walk.conclude(Diagnostic::error(title, text.span).label(label));
    } else {
        seen.names.insert(name.clone(), text.span);
    }
    Some(name)
}

/// A parser of names whose problems say where in the text they are.
pub(super) fn named<T>(parse: impl Fn(&str) -> Result<T, NameError>) -> impl Fn(&str) -> Result<T, Problem> {
    move |text| {
        parse(text).map_err(|error| match error {
            NameError::Character { at, found } => {
                let label =
                    format!("{found:?} is not allowed {}", if at == 0 { "at the start" } else { "here" });
                Problem { at: Some(at..at + found.len_utf8()), ..Problem::new(label) }
            }
            error => Problem::new(error.to_string()),
        })
    }
}

fn routes(walk: &mut Walk<'_>, fields: &Fields<'_>, seen: &mut Seen) -> Vec<Pattern> {
    if !fields.has("routes") {
        let pattern = Pattern::everything();
        if let Some(first) = seen.routes.get(&pattern) {
            let label = format!(
                "has no `routes` and so takes every request, as does the worker on line {}",
                walk.line(first)
            );
            let mistake =
                Diagnostic::error("two workers take every request", fields.span.clone()).label(label);
            walk.conclude(mistake.help("say with `routes` which requests are for which worker"));
        } else {
            seen.routes.insert(pattern.clone(), fields.span.clone());
        }
        return vec![pattern];
    }
    let kind = fields.kind("routes");
    let mut routes = Vec::new();
    for text in fields.texts("routes") {
        let parse = |text: &str| Pattern::parse(text).map_err(|error| Problem::new(error.to_string()));
        let Some(pattern) = walk.parsed(&text, "a route", kind, parse) else {
            continue;
        };
        if let Some(first) = seen.routes.get(&pattern) {
            let label = format!("the same as on line {}", walk.line(first));
            let title = format!("route {} is there twice", quoted(text.value));
            walk.conclude(Diagnostic::error(title, text.span).label(label));
        } else {
            seen.routes.insert(pattern.clone(), text.span);
        }
        routes.push(pattern);
    }
    routes
}

fn upstream_host(walk: &mut Walk<'_>, fields: &Fields<'_>) -> UpstreamHost {
    let Some(text) = fields.text("upstream_host") else {
        return UpstreamHost::Preserve;
    };
    match text.value {
        "preserve" => UpstreamHost::Preserve,
        "upstream" => UpstreamHost::Upstream,
        _ => {
            warn_of_slip(walk, &text, "a host name", &["preserve", "upstream"]);
            let name = walk.parsed(&text, "a host name", fields.kind("upstream_host"), texts::host_header);
            name.map(UpstreamHost::Name).unwrap_or_default()
        }
    }
}

fn timeouts(walk: &mut Walk<'_>, fields: Option<&Fields<'_>>) -> Timeouts {
    let default = Timeouts::default();
    let Some(fields) = fields else {
        return default;
    };
    let mut of = |name| duration(walk, fields, name, Duration::from_millis(1));
    Timeouts {
        connect: of("connect").unwrap_or(default.connect),
        response: of("response").unwrap_or(default.response),
        idle: of("idle").unwrap_or(default.idle),
    }
}

fn senders(fields: &Fields<'_>, name: &str) -> Senders {
    match fields.word(name) {
        Some("trusted") => Senders::Trusted,
        Some("never") => Senders::Never,
        _ => Senders::Anyone,
    }
}

fn versions(walk: &mut Walk<'_>, listed: &[Fields<'_>]) -> Vec<Version> {
    let mut seen = HashMap::new();
    let mut versions = Vec::new();
    for fields in listed {
        if let Some(text) = fields.text("id") {
            if let Some(first) = seen.get(text.value) {
                let label = format!("the version on line {} has the same id", walk.line(first));
                let title = format!("two versions have the id {}", quoted(text.value));
                walk.conclude(Diagnostic::error(title, text.span.clone()).label(label));
            } else {
                seen.insert(text.value, text.span);
            }
        }
        versions.extend(version(walk, fields));
    }
    versions
}

fn version(walk: &mut Walk<'_>, fields: &Fields<'_>) -> Option<Version> {
    let id = version_id(walk, fields, "id");
    let tag = fields.text("tag");
    let tag = tag.and_then(|text| walk.parsed(&text, "a tag", fields.kind("tag"), named(Tag::new)));
    let created_on = date_time(walk, fields, "created_on");
    let folder = walk.folder();
    let kind = fields.kind("upstreams");
    let texts = fields.texts("upstreams");
    let parse = |text: &str| texts::upstream(text, folder);
    let mut upstreams = Vec::with_capacity(texts.len());
    for text in &texts {
        let upstream = walk.parsed(text, "an upstream", kind, parse);
        upstreams.extend(upstream.map(|value| Spanned { value, span: text.span.clone() }));
    }
    let tls = fields.table("tls").map(|tls| upstream_tls(walk, &tls)).unwrap_or_default();
    let health = fields.table("health").and_then(|health| health::health(walk, &health, &upstreams));
    if upstreams.len() == texts.len() {
        warn_of_unused_tls(walk, fields, &upstreams);
    }
    let message = fields.text("message").map(|text| text.value.to_owned());
    let migration = fields.text("migration");
    let migration = migration
        .and_then(|text| walk.parsed(&text, "a migration", fields.kind("migration"), named(Tag::new)));
    let metadata = Metadata { id: id?, tag, message, created_on, migration };
    Some(Version { metadata, upstreams, tls, health })
}

/// The version id of a key, if it is there and good.
pub(super) fn version_id(walk: &mut Walk<'_>, fields: &Fields<'_>, name: &str) -> Option<VersionId> {
    walk.parsed(&fields.text(name)?, "an id", fields.kind(name), named(VersionId::new))
}

/// The date-time of a key, if it is there and good: a date-time of TOML or a string of one.
pub(super) fn date_time(walk: &mut Walk<'_>, fields: &Fields<'_>, name: &str) -> Option<String> {
    let (value, span) = fields.any(name)?;
    let kind = fields.kind(name);
    match value {
        DeValue::Datetime(time) => {
            let written = walk.written(&span);
            // The text at fault is the whole value: it has no quotes to look into.
            let parsed = texts::rfc3339(*time, written).map_err(|problem| Problem { at: None, ..problem });
            walk.parsed(&Text { value: written, span }, "a full date-time", kind, |_| parsed)
        }
        _ => walk.parsed(&fields.text(name)?, "a full date-time", kind, texts::date_time),
    }
}

fn upstream_tls(walk: &mut Walk<'_>, fields: &Fields<'_>) -> UpstreamTls {
    let server_name = fields.text("server_name");
    let server_name = server_name
        .and_then(|text| walk.parsed(&text, "a host name", fields.kind("server_name"), texts::host));
    for (one, other) in [("certificate", "key"), ("key", "certificate")] {
        if let (Some(span), false) = (fields.span_of(one), fields.has(other)) {
            let mistake = Diagnostic::error(format!("`{one}` without `{other}`"), span);
            walk.conclude(mistake.label(format!("`{other}` is missing")).help(format!("add `{other}`")));
        }
    }
    UpstreamTls { ca: path(walk, fields, "ca"), server_name, client: certificate(walk, fields) }
}

fn warn_of_unused_tls(walk: &mut Walk<'_>, fields: &Fields<'_>, upstreams: &[Spanned<Upstream>]) {
    if let (Some(span), false) =
        (fields.span_of("tls"), upstreams.iter().any(|upstream| upstream.value.scheme == Scheme::Https))
    {
        let warning = Diagnostic::warning("`tls` has no effect", span);
        walk.conclude(warning.label("no upstream of this version is `https://`"));
    }
}

/// An override names a version by its id; whoever can guess one can use any version that is deployed.
fn warn_of_guessable_ids(walk: &mut Walk<'_>, listed: &[Fields<'_>], versions: &[Version]) {
    let Some(bad) = versions.iter().map(|version| &version.metadata.id).find(|id| !id.is_uuid()) else {
        return;
    };
    let mut texts = listed.iter().filter_map(|fields| fields.text("id"));
    if let Some(text) = texts.find(|text| text.value == bad.as_str()) {
        let warning = Diagnostic::warning("anyone can choose a version whose id can be guessed", text.span)
            .label("not a UUID, and a listener can be reached from other machines");
        walk.conclude(warning.help(
            "use UUIDs as ids, set `overrides_secret_file`, or `overrides = \"trusted\"` or `\"never\"`",
        ));
    }
}
