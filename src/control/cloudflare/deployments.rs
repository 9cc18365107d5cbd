//! A worker's deployments, as Cloudflare shows and makes them.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::USER_AGENT;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Call;
use super::envelope::{ApiError, success, success_with};
use super::times::Moment;
use super::{body, versions};
use crate::config::Worker;
use crate::control::release::{self, Change, Done, Kind, Refusal, Request, Told, Who};
use crate::control::status::page::percentage;
use crate::diag::visible;
use crate::model::name::VersionId;
use crate::model::share::Share;
use crate::store::journal::{Entry, EntryVersion, Journal};

/// How many deployments a list has, as with Cloudflare.
const LISTED: usize = 10;
/// How many it has at the most, where it takes more to find one that gave a version everything: wrangler's `rollback` without
/// a version goes back to that.
const LISTED_AT_MOST: usize = 100;

/// A deployment of which is known that it was live.
pub(super) struct Past {
    entry: Entry,
    created: Moment,
}

/// `GET …/deployments`: newest first; the first one is active.
pub(super) async fn list(call: Call<'_>, worker: &str) -> Result<Response, ApiError> {
    let config = call.config()?;
    let past = past(call, release::worker(&config, Some(worker))?).await;
    let stable = past.iter().skip(1).position(Past::is_stable).map_or(0, |place| place + 2);
    let listed = past.iter().take(stable.clamp(LISTED, LISTED_AT_MOST));
    Ok(success(&json!({ "deployments": listed.map(Past::shown).collect::<Vec<_>>() })))
}

/// `GET …/deployments/{id}`.
pub(super) async fn view(call: Call<'_>, worker: &str, id: &str) -> Result<Response, ApiError> {
    let config = call.config()?;
    let past = past(call, release::worker(&config, Some(worker))?).await;
    let found = past.iter().find(|one| one.entry.id == id);
    found.map(|one| success(&one.shown())).ok_or_else(|| ApiError::no_such("deployment"))
}

/// What is known of a worker's deployments, newest first; the active one comes first. A journal that cannot be read holds nothing
/// up: then only that one is known.
pub(super) async fn past(call: Call<'_>, worker: &Worker) -> Vec<Past> {
    let (state, name) = (call.state, worker.policy.name.clone());
    let Some(config) = state.status.config() else { return Vec::new() };
    let file = state.status.file().to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let journal = Journal::of(&config, &file).read().unwrap_or_default();
        release::history(&config, &name, &journal)
    });
    let entries = read.await.unwrap_or_default();
    dated(entries)
}

/// With moments that get older from the first to the last: wrangler sorts by them, and takes the newest one for the active one.
fn dated(entries: Vec<Entry>) -> Vec<Past> {
    let mut latest = None;
    let dated = entries.into_iter().rev().map(|entry| {
        let made = entry.created_on.as_deref().and_then(Moment::parse);
        let known = made.or_else(|| Moment::parse(&entry.time));
        let created = known.unwrap_or_else(|| latest.map_or(Moment::default(), Moment::after));
        latest = Some(created);
        Past { entry, created }
    });
    let mut past: Vec<_> = dated.collect();
    past.reverse();
    // What was live before something else does not come after it, whatever the clocks and the file said.
    let mut newer: Option<Moment> = None;
    for one in &mut past {
        one.created = newer.map_or(one.created, |newer| one.created.min(newer.before()));
        newer = Some(one.created);
    }
    past
}

impl Past {
    /// Whether one version had everything.
    fn is_stable(&self) -> bool {
        self.entry.versions.iter().any(|version| version.percentage == Share::WHOLE)
    }

    /// A version of it that is not in the file any more.
    pub(super) fn gone(&self, id: &str) -> Option<Value> {
        let has_it = self.entry.versions.iter().any(|version| version.version_id == id);
        has_it.then(|| versions::gone(id, self.created))
    }

    fn shown(&self) -> Value {
        let Entry { id, source, author, message, versions, .. } = &self.entry;
        let mut annotations = json!({});
        if let Some(message) = message {
            annotations["workers/message"] = visible(message).into();
        }
        let version = |version: &EntryVersion| json!({ "version_id": version.version_id, "percentage": percentage(version.percentage) });
        json!({
            "id": id,
            // Where nothing is said, somebody has written it into the file.
            "source": source.as_deref().unwrap_or("file"),
            "strategy": "percentage",
            "author_email": author.as_deref().unwrap_or_default(),
            "annotations": annotations,
            "created_on": self.created.to_string(),
            "versions": versions.iter().map(version).collect::<Vec<_>>(),
        })
    }
}

/// What is asked for. Whatever else is in it has no meaning here, such as how soon running Workers are replaced.
#[derive(Deserialize)]
struct Wanted {
    strategy: Option<String>,
    versions: Vec<WantedVersion>,
    #[serde(default)]
    annotations: Map<String, Value>,
}

#[derive(Deserialize)]
struct WantedVersion {
    version_id: String,
    percentage: f64,
}

/// `POST …/deployments`. There is nothing that `?force=true` would have to overrule.
pub(super) async fn create(call: Call<'_>, worker: &str, body: Body) -> Result<Response, ApiError> {
    let wanted: Wanted = body::json(body).await?;
    let config = call.config()?;
    let worker = release::worker(&config, Some(worker))?;
    if let Some(strategy) = wanted.strategy.as_ref().filter(|strategy| *strategy != "percentage") {
        return Err(ApiError::invalid(format!("the strategy `{strategy}` is not known: use `percentage`")));
    }
    let split = wanted.versions.iter().map(|version| {
        let known = release::version(worker, &version.version_id)?;
        Ok((known.metadata.id.clone(), share(version.percentage)?))
    });
    let versions: Vec<(VersionId, Share)> = split.collect::<Result<_, ApiError>>()?;
    let message = match wanted.annotations.get("workers/message") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) => return Err(ApiError::invalid("`workers/message` is a text")),
    };
    let request = Request {
        worker: worker.policy.name.clone(),
        change: Change::Split {
            versions,
            message: message.filter(|text| !text.is_empty()).map(str::to_owned),
        },
        who: Who { author: None, source: source(call) },
        base: None,
        seen: None,
        live: None,
    };
    let done = performed(call, request).await?;
    if let Told::NoProxy { why } | Told::Unknown { why } = &done.told {
        let message = format!("the file is written, and it is not known whether the proxy serves it: {why}");
        return Err(ApiError::unavailable(message));
    }
    let id = done.draft.deployment.as_ref().map(|deployment| deployment.id.as_str());
    let made = past(call, worker).await.into_iter().find(|one| Some(&*one.entry.id) == id);
    let result = made.map_or_else(|| json!({ "id": id }), |made| made.shown());
    Ok(success_with(&result, &done.draft.warnings))
}

/// Makes a change. It keeps its place among those that may be under way until it is done, even where nobody waits for it.
async fn performed(call: Call<'_>, request: Request) -> Result<Done, ApiError> {
    let state = Arc::clone(call.state);
    let Ok(place) = Arc::clone(&state.changes).try_acquire_owned() else {
        let refusal = Refusal::new(Kind::Busy, "too many changes are under way");
        return Err(refusal.with_help("try again when they are done").into());
    };
    let done = tokio::spawn(async move {
        let _place = place;
        release::perform_here(Arc::clone(&state.status), state.inbox.clone(), request).await
    });
    Ok(done.await.map_err(|_| ApiError::unavailable("the process is about to end"))??)
}

/// To the thousandth of a per cent, as wrangler divides.
fn share(percentage: f64) -> Result<Share, ApiError> {
    let thousandths = (percentage * 1000.0).round();
    let whole = (0.0..=100_000.0).contains(&thousandths).then(|| format!("{thousandths}"));
    let share = whole.and_then(|digits| Share::from_thousandths(digits.parse().ok()?));
    share.ok_or_else(|| ApiError::invalid(format!("{percentage} is no percentage: use 0 to 100")))
}

/// By which way a deployment comes.
fn source(call: Call<'_>) -> &'static str {
    let agent = call.parts.headers.get(USER_AGENT);
    if agent.is_some_and(|agent| agent.as_bytes().starts_with(b"wrangler")) { "wrangler" } else { "api" }
}
