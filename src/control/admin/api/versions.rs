//! Versions: those of the running configuration, and new ones.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::{Version, Worker};
use crate::control::admin::State;
use crate::control::admin::access::{Authorised, MayWrite};
use crate::control::admin::api::body::{Json, Limit, Names};
use crate::control::admin::api::change::{Changing, Way, Writes};
use crate::control::admin::api::share::Percentage;
use crate::control::admin::api::{Answer, not_found, running, worker};
use crate::control::admin::problem::Problem;
use crate::control::release::{Change, DEPLOYABLE, Upload};
use crate::control::status::shares;

/// Versions of a worker, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Versions {
    /// The versions.
    versions: Vec<VersionInfo>,
}

/// A version.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Version)]
pub(super) struct VersionInfo {
    /// Its id.
    id: String,
    /// Its place among all versions of the worker that the file has, from 1.
    number: usize,
    /// A short name for people.
    tag: Option<String>,
    /// What it is about.
    message: Option<String>,
    /// When it was made (RFC 3339), as written.
    created_on: Option<String>,
    /// The state of the data that it needs.
    migration: Option<String>,
    /// Where it runs.
    upstreams: Vec<String>,
    /// Whether it can be deployed: it is one of the last 100.
    deployable: bool,
    /// Its share of the traffic; null: it is not in the deployment that serves.
    percentage: Option<Percentage>,
}

impl VersionInfo {
    /// Every version of a worker, the newest first.
    pub(super) fn all(worker: &Worker) -> impl Iterator<Item = Self> {
        let info = |(place, version)| Self::new(worker, place, version);
        worker.versions.iter().enumerate().rev().map(info)
    }

    fn new(worker: &Worker, place: usize, version: &Version) -> Self {
        let metadata = &version.metadata;
        let share = shares(worker).find(|(one, _)| one.metadata.id == metadata.id);
        Self {
            id: metadata.id.to_string(),
            number: place + 1,
            tag: metadata.tag.as_ref().map(ToString::to_string),
            message: metadata.message.clone(),
            created_on: metadata.created_on.clone(),
            migration: metadata.migration.as_ref().map(ToString::to_string),
            upstreams: version.upstreams.iter().map(|upstream| upstream.value.to_string()).collect(),
            deployable: place + DEPLOYABLE >= worker.versions.len(),
            percentage: share.map(|(_, share)| Percentage(share)),
        }
    }
}

/// The versions of a worker, the newest first
#[utoipa::path(get, path = "/api/v1/workers/{worker}/versions", tag = "versions",
    params(("worker" = String, Path, description = "The worker's name."), Limit),
    responses((status = 200, description = "The versions.", body = Versions), Authorised, Names<String>))]
pub(super) async fn list_versions(
    _: Authorised,
    Names(name): Names<String>,
    limit: Limit,
    Shared(state): Shared<Arc<State>>,
) -> Result<Answer<Versions>, Problem> {
    let config = running(&state)?;
    let versions = VersionInfo::all(worker(&config, &name)?).take(limit.limit).collect();
    Ok(Answer(Versions { versions }))
}

/// One version
#[utoipa::path(get, path = "/api/v1/workers/{worker}/versions/{version}", tag = "versions",
    params(("worker" = String, Path, description = "The worker's name."),
        ("version" = String, Path, description = "The version's id.")),
    responses((status = 200, description = "The version.", body = VersionInfo), Authorised, Names<String>))]
pub(super) async fn view_version(
    _: Authorised,
    Names((name, id)): Names<(String, String)>,
    Shared(state): Shared<Arc<State>>,
) -> Result<Answer<VersionInfo>, Problem> {
    let config = running(&state)?;
    let worker = worker(&config, &name)?;
    let found = worker.versions.iter().enumerate().find(|(_, one)| one.metadata.id.as_str() == id);
    let info = found.map(|(place, version)| VersionInfo::new(worker, place, version));
    info.map(Answer).ok_or_else(|| not_found("version", &id))
}

/// A version that is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewVersion {
    /// Where it runs, as in the file: URLs such as `http://127.0.0.1:3001`, or `unix:/path`.
    #[schema(min_items = 1, max_items = 100, example = json!(["http://127.0.0.1:3001"]))]
    upstreams: Vec<String>,
    /// A short name for people: printable ASCII.
    #[schema(max_length = 100)]
    tag: Option<String>,
    /// What it is about.
    #[schema(max_length = 1000)]
    message: Option<String>,
    /// The state of the data that it needs; without it, that of the deployment that is active.
    #[schema(max_length = 100)]
    migration: Option<String>,
    /// The deployment that the caller saw: if another one is active by now, nothing is changed.
    base: Option<String>,
    /// Whether only to say what would be done.
    dry_run: Option<bool>,
}

/// A version that was uploaded, or would be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Uploaded {
    /// The version. No request reaches it until it is deployed.
    version: VersionInfo,
    /// The generation that serves the file with it; null: nothing was changed.
    generation: Option<u64>,
    /// Whether nothing was changed.
    dry_run: bool,
    /// What the author should know.
    warnings: Vec<String>,
}

/// Upload a version, which is not deployed yet
#[utoipa::path(post, path = "/api/v1/workers/{worker}/versions", tag = "versions",
    params(("worker" = String, Path, description = "The worker's name.")), request_body = NewVersion,
    responses((status = 200, description = "What would be done: nothing was changed.", body = Uploaded),
        (status = 201, description = "The file has it, and every shard serves the file.", body = Uploaded,
            headers(("Location" = String, description = "The version."))),
        MayWrite, Names<String>, Json<NewVersion>, Writes))]
pub(super) async fn upload_version(
    _: MayWrite,
    Names(name): Names<String>,
    Shared(state): Shared<Arc<State>>,
    Json(asked): Json<NewVersion>,
) -> Result<Response, Problem> {
    let NewVersion { upstreams, tag, message, migration, base, dry_run } = asked;
    let way = Way { author: None, base, dry_run: dry_run.unwrap_or(false) };
    let upload = Upload { upstreams, tag, message, migration };
    let changing = Changing::new(&state, &name, Change::Upload(upload), way)?;
    let changed = changing.done().await?;
    let worker = changed.worker()?;
    let id = changed.draft.version.as_ref().map(|version| version.id.as_str()).unwrap_or_default();
    let version = VersionInfo::all(worker).find(|version| version.id == id);
    let version = version.ok_or_else(|| not_found("version", id))?;
    let (generation, warnings) = (changed.generation, changed.draft.warnings.clone());
    let answer = Uploaded { version, generation, dry_run: changed.is_dry(), warnings };
    Ok(changed.answered("versions", id, Answer(answer).into_response()))
}
