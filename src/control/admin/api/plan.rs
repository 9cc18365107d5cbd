//! What a split would move.

use std::sync::Arc;

use axum::extract::State as Shared;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::Worker;
use crate::control::admin::State;
use crate::control::admin::access::MayWrite;
use crate::control::admin::api::body::{Json, Names};
use crate::control::admin::api::share::{Percentage, share};
use crate::control::admin::api::{Answer, running, worker};
use crate::control::admin::problem::Problem;
use crate::control::explain::OwnedArc;
use crate::control::release::{Kind, Refusal};
use crate::diag::quoted;
use crate::model::deployment;
use crate::model::name::VersionId;
use crate::model::ring::Ring;
use crate::model::share::Share;
use crate::plan::{self, Layout, arrange};

/// A version and the share that it is to get.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The version's id.
    #[schema(pattern = r"^[!#-+\x2d-?A-\x5b\x5d-~]{1,64}$")]
    version_id: String,
    /// Its share of the traffic in per cent, with at most three decimals.
    #[schema(minimum = 0, maximum = 100)]
    percentage: f64,
}

impl Wanted {
    /// Ids and exact shares, which are still to be checked against the worker.
    pub(super) fn split(parts: &[Self]) -> Result<Vec<(VersionId, Share)>, Refusal> {
        parts.iter().map(|part| Ok((part.id()?, part.share()?))).collect()
    }

    fn id(&self) -> Result<VersionId, Refusal> {
        VersionId::new(&self.version_id).map_err(|error| {
            Refusal::new(Kind::UnknownVersion, format!("{} is no id: {error}", quoted(&self.version_id)))
        })
    }

    fn share(&self) -> Result<Share, Refusal> {
        share(self.percentage).map_err(|error| {
            let Self { version_id, percentage } = self;
            let title = format!("{percentage:?} is no percentage for version {version_id}: {error}");
            Refusal::new(Kind::BadPercentage, title).with_help("write 0 to 100, with at most three decimals")
        })
    }
}

/// A split.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Split {
    /// The versions and their shares, which total 100.
    #[schema(min_items = 1, max_items = 100)]
    versions: Vec<Wanted>,
}

/// Who moves when a split follows the deployment that serves.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Plan {
    /// The worker.
    worker: String,
    /// How many of all keys move, in per cent.
    moved: Percentage,
    /// The fewest that could.
    least: Percentage,
    /// Which keys move, by where they are and where they would be.
    moves: Vec<Move>,
    /// Who would own which positions of the ring: arcs that move no more than the least.
    ring: Vec<OwnedArc>,
}

/// Keys that move from one version to another.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Move {
    /// Where they are.
    from: String,
    /// Where they would be.
    to: String,
    /// How many of all keys, in per cent.
    percentage: Percentage,
}

impl Plan {
    /// A plan and the deployment that it leads to.
    pub(super) fn new(worker: &str, plan: &plan::Plan, after: &deployment::Deployment) -> Self {
        let moves = plan.moves.iter().map(|one| Move {
            from: one.from.to_string(),
            to: one.to.to_string(),
            percentage: Percentage(one.share),
        });
        let arcs = after.ring.arcs().iter().map(|arc| {
            let version_id = after.version(arc.member).map(ToString::to_string).unwrap_or_default();
            OwnedArc { version_id, from: arc.from, to: arc.to }
        });
        Self {
            worker: worker.to_owned(),
            moved: Percentage::of(plan.moved),
            least: Percentage::of(plan.least),
            moves: moves.collect(),
            ring: arcs.collect(),
        }
    }
}

/// What a split would move, from the deployment that serves
///
/// Nothing is changed by it. Whether the split may be deployed is said by a deployment with `dry_run`.
#[utoipa::path(post, path = "/api/v1/workers/{worker}/plan", tag = "deployments",
    params(("worker" = String, Path, description = "The worker's name.")), request_body = Split,
    responses((status = 200, description = "What it would move.", body = Plan), MayWrite, Names<String>,
        Json<Split>, (status = 422, description = "There is no such version, one is there twice, or the shares are none or do \
        not total 100.", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn plan(
    _: MayWrite,
    Names(name): Names<String>,
    Shared(state): Shared<Arc<State>>,
    Json(split): Json<Split>,
) -> Result<Answer<Plan>, Problem> {
    let config = running(&state)?;
    let worker = worker(&config, &name)?;
    let wanted = Wanted::split(&split.versions)?;
    check(worker, &wanted)?;
    let before = &worker.policy.deployment;
    let total = |error: &dyn std::fmt::Display| Refusal::new(Kind::BadTotal, error.to_string());
    let layout = arrange(before, &wanted).map_err(|error| total(&error))?;
    let after = laid_out(before, layout).ok_or_else(|| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the split cannot be laid out")
    })?;
    Ok(Answer(Plan::new(&name, &plan::Plan::between(before, &after), &after)))
}

fn check(worker: &Worker, wanted: &[(VersionId, Share)]) -> Result<(), Refusal> {
    for (place, (id, _)) in wanted.iter().enumerate() {
        if wanted.iter().take(place).any(|(other, _)| other == id) {
            let title = format!("version {id} is listed twice");
            return Err(Refusal::new(Kind::RepeatedVersion, title));
        }
        if !worker.versions.iter().any(|version| version.metadata.id == *id) {
            let title = format!("worker {} has no version {id}", worker.policy.name);
            return Err(Refusal::new(Kind::UnknownVersion, title));
        }
    }
    Ok(())
}

/// The deployment that a layout makes of the one before.
fn laid_out(before: &deployment::Deployment, layout: Layout) -> Option<deployment::Deployment> {
    let (versions, shares): (Vec<_>, Vec<_>) = layout.versions.into_iter().unzip();
    let salt = before.ring.salt();
    let ring = match layout.ring {
        None => Ring::cumulative(salt, &shares).ok()?,
        Some(arcs) => {
            let place = |(id, share): &(VersionId, Share)| {
                versions.iter().position(|version| version == id).map(|place| (place, *share))
            };
            let arcs = arcs.iter().map(place).collect::<Option<Vec<_>>>()?;
            Ring::with_arcs(salt, &shares, &arcs).ok()?
        }
    };
    Some(deployment::Deployment { versions, ring, ..before.clone() })
}
