//! Deployments: those of the journal, the one that serves, and new ones.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::{Config, Worker};
use crate::control::admin::State;
use crate::control::admin::access::{Authorised, MayWrite};
use crate::control::admin::api::body::{Json, Limit, Names};
use crate::control::admin::api::change::{Changed, Changing, Way, Writes};
use crate::control::admin::api::plan::{Plan, Wanted};
use crate::control::admin::api::share::Percentage;
use crate::control::admin::api::{Answer, blocking, not_found, running, worker};
use crate::control::admin::problem::Problem;
use crate::control::release::{Change, history};
use crate::model::name::VersionId;
use crate::model::share::Share;
use crate::store::journal::{Entry, Journal};

/// Deployments of a worker, the newest first: the first one serves.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Deployments {
    /// The deployments.
    deployments: Vec<Deployment>,
    /// Lines of the journal that cannot be read, of any worker.
    unreadable: usize,
}

/// A deployment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Deployment {
    /// Its id.
    id: String,
    /// Whether it is the one that serves.
    active: bool,
    /// When it was made (RFC 3339), as written.
    created_on: Option<String>,
    /// When it became live (RFC 3339, UTC), of deployments that are asked for, as far as the journal says; elsewhere null.
    live_since: Option<String>,
    /// Who made it.
    author: Option<String>,
    /// What made it: `cli`, `api`, `wrangler`, or what the file says; null: an edit by hand.
    source: Option<String>,
    /// Why it was made.
    message: Option<String>,
    /// Its versions, in its order.
    versions: Vec<Part>,
    /// Its explicit arcs, in order; null: the versions in their order.
    ring: Option<Vec<Part>>,
}

/// A version and its share.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Part {
    /// The version's id.
    version_id: String,
    /// Its share of the traffic, in per cent.
    percentage: Percentage,
}

impl Deployment {
    /// The deployment that serves.
    pub(super) fn active(worker: &Worker) -> Self {
        Self::new(Entry::of(worker, "", 0), true)
    }

    fn new(entry: Entry, active: bool) -> Self {
        let part = |version_id, share| Part { version_id, percentage: Percentage(share) };
        let arcs = |arcs: Vec<_>| arcs.into_iter();
        let Entry { id, time, created_on, author, source, message, versions, ring, generation, .. } = entry;
        Self {
            id,
            active,
            created_on,
            live_since: (generation > 0).then_some(time),
            author,
            source,
            message,
            versions: versions.into_iter().map(|one| part(one.version_id, one.percentage)).collect(),
            ring: ring.map(|ring| arcs(ring).map(|one| part(one.version_id, one.percentage)).collect()),
        }
    }
}

/// Every deployment of a worker that is known, the newest first, and how many lines of the journal say nothing.
async fn known(state: &State, name: &str) -> Result<Deployments, Problem> {
    let config: Arc<Config> = running(state)?;
    let name = worker(&config, name)?.policy.name.clone();
    let file = state.status.file().to_owned();
    let read = blocking(move || {
        let journal = Journal::of(&config, &file).read()?;
        Ok::<_, crate::store::journal::JournalError>((history(&config, &name, &journal), journal.unreadable))
    });
    let (entries, unreadable) = read
        .await?
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "journal", error.to_string()))?;
    let first = |(place, entry)| Deployment::new(entry, place == 0);
    Ok(Deployments { deployments: entries.into_iter().enumerate().map(first).collect(), unreadable })
}

/// The deployments of a worker, the newest first: the first one serves
#[utoipa::path(get, path = "/api/v1/workers/{worker}/deployments", tag = "deployments",
    params(("worker" = String, Path, description = "The worker's name."), Limit),
    responses((status = 200, description = "The deployments.", body = Deployments), Authorised, Names<String>,
        (status = 500, description = "The journal cannot be read.", body = Problem,
            content_type = "application/problem+json")))]
pub(super) async fn list_deployments(
    _: Authorised,
    Names(name): Names<String>,
    limit: Limit,
    Shared(state): Shared<Arc<State>>,
) -> Result<Answer<Deployments>, Problem> {
    let mut known = known(&state, &name).await?;
    known.deployments.truncate(limit.limit);
    Ok(Answer(known))
}

/// One deployment
#[utoipa::path(get, path = "/api/v1/workers/{worker}/deployments/{deployment}", tag = "deployments",
    params(("worker" = String, Path, description = "The worker's name."),
        ("deployment" = String, Path, description = "The deployment's id.")),
    responses((status = 200, description = "The deployment.", body = Deployment), Authorised, Names<String>,
        (status = 500, description = "The journal cannot be read.", body = Problem,
            content_type = "application/problem+json")))]
pub(super) async fn view_deployment(
    _: Authorised,
    Names((name, id)): Names<(String, String)>,
    Shared(state): Shared<Arc<State>>,
) -> Result<Answer<Deployment>, Problem> {
    let found = known(&state, &name).await?.deployments.into_iter().find(|one| one.id == id);
    found.map(Answer).ok_or_else(|| not_found("deployment", &id))
}

/// A deployment that is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDeployment {
    /// The versions and their shares, which total 100. The order does not matter: it is that of the deployment before, so
    /// that no more keys move than must.
    #[schema(min_items = 1, max_items = 100)]
    versions: Vec<Wanted>,
    /// Whether it may bring a new migration, for which one version has to get everything.
    migrate: Option<bool>,
    /// Why it is made.
    #[schema(max_length = 1000)]
    message: Option<String>,
    /// Who makes it.
    #[schema(max_length = 200)]
    author: Option<String>,
    /// The deployment that the caller saw: if another one is active by now, nothing is changed.
    base: Option<String>,
    /// Whether only to say what would be done.
    dry_run: Option<bool>,
}

impl NewDeployment {
    fn change(&self) -> Result<Change, Problem> {
        let (versions, message) = (Wanted::split(&self.versions)?, self.message.clone());
        match (self.migrate.unwrap_or(false), &*versions) {
            (false, _) => Ok(Change::Split { versions, message }),
            (true, [(version, share)]) if *share == Share::WHOLE => {
                Ok(Change::Promote { version: version.clone(), message })
            }
            (true, _) => {
                let detail =
                    "a new migration takes over at 100 % only: with `migrate`, name one version, with 100";
                Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "migration-needs-deploy", detail))
            }
        }
    }
}

/// A deployment that was made, or would be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Deployed {
    /// The deployment.
    deployment: Deployment,
    /// Which keys it moves.
    plan: Option<Plan>,
    /// The generation that serves it, on every shard; null: nothing was changed.
    generation: Option<u64>,
    /// Whether nothing was changed.
    dry_run: bool,
    /// What the author should know.
    warnings: Vec<String>,
}

impl Deployed {
    fn answer(changed: &Changed) -> Result<Response, Problem> {
        let worker = changed.worker()?;
        let deployment = &worker.policy.deployment;
        let plan = changed.draft.plan.as_ref();
        let answer = Self {
            deployment: Deployment { active: !changed.is_dry(), ..Deployment::active(worker) },
            plan: plan.map(|plan| Plan::new(worker.policy.name.as_str(), plan, deployment)),
            generation: changed.generation,
            dry_run: changed.is_dry(),
            warnings: changed.draft.warnings.clone(),
        };
        Ok(changed.answered("deployments", &deployment.id, Answer(answer).into_response()))
    }
}

/// Deploy: split the traffic between uploaded versions
#[utoipa::path(post, path = "/api/v1/workers/{worker}/deployments", tag = "deployments",
    params(("worker" = String, Path, description = "The worker's name.")), request_body = NewDeployment,
    responses((status = 200, description = "What would be done: nothing was changed.", body = Deployed),
        (status = 201, description = "The file has it, and every shard serves it.", body = Deployed,
            headers(("Location" = String, description = "The deployment."))),
        MayWrite, Names<String>, Json<NewDeployment>, Writes))]
pub(super) async fn deploy(
    _: MayWrite,
    Names(name): Names<String>,
    Shared(state): Shared<Arc<State>>,
    Json(asked): Json<NewDeployment>,
) -> Result<Response, Problem> {
    let change = asked.change()?;
    let way = Way { author: asked.author, base: asked.base, dry_run: asked.dry_run.unwrap_or(false) };
    Deployed::answer(&Changing::new(&state, &name, change, way)?.done().await?)
}

/// A way back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// The version that gets everything; without it, the one that had everything in the newest deployment before.
    #[schema(pattern = r"^[!#-+\x2d-?A-\x5b\x5d-~]{1,64}$")]
    version_id: Option<String>,
    /// Why; without it `Rollback`.
    #[schema(max_length = 1000)]
    message: Option<String>,
    /// Who does it.
    #[schema(max_length = 200)]
    author: Option<String>,
    /// The deployment that the caller saw: if another one is active by now, nothing is changed.
    base: Option<String>,
    /// Whether only to say what would be done.
    dry_run: Option<bool>,
}

/// Roll back: give a version that served before everything again
#[utoipa::path(post, path = "/api/v1/workers/{worker}/rollback", tag = "deployments",
    params(("worker" = String, Path, description = "The worker's name.")), request_body = Rollback,
    responses((status = 200, description = "What would be done: nothing was changed.", body = Deployed),
        (status = 201, description = "The file has it, and every shard serves it.", body = Deployed,
            headers(("Location" = String, description = "The deployment."))),
        MayWrite, Names<String>, Json<Rollback>, Writes))]
pub(super) async fn roll_back(
    _: MayWrite,
    Names(name): Names<String>,
    Shared(state): Shared<Arc<State>>,
    Json(asked): Json<Rollback>,
) -> Result<Response, Problem> {
    let version = asked.version_id.as_deref().map(VersionId::new).transpose();
    let version = version.map_err(|error| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown-version", format!("`version_id`: {error}"))
    })?;
    let change = Change::RollBack { version, message: asked.message };
    let way = Way { author: asked.author, base: asked.base, dry_run: asked.dry_run.unwrap_or(false) };
    Deployed::answer(&Changing::new(&state, &name, change, way)?.done().await?)
}
