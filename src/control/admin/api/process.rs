//! The process itself: probes, metrics, the status, reloads and upgrades.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::response::IntoResponse;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use utoipa::ToSchema;

use crate::control::admin::State;
use crate::control::admin::access::{Authorised, MayScrape, MayWrite};
use crate::control::admin::api::Answer;
use crate::control::admin::api::body::{Json, Nothing};
use crate::control::admin::problem::Problem;
use crate::control::status::page::Page;
use crate::control::upgrade::{UpgradeError, Upgraded};
use crate::diag::{Finding, Report};

/// Whether the process is alive
#[utoipa::path(get, path = "/healthz", tag = "process", security(()),
    responses((status = 200, description = "It is.", body = String, content_type = "text/plain")))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether requests are welcome
#[utoipa::path(get, path = "/readyz", tag = "process", security(()), responses(
    (status = 200, description = "They are.", body = String, content_type = "text/plain"),
    (status = 503, description = "They are not: no generation serves yet, or the process drains.", body = String,
        content_type = "text/plain")))]
pub(super) async fn readyz(Shared(state): Shared<Arc<State>>) -> (StatusCode, &'static str) {
    if state.status.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// Every metric, in the Prometheus text format
#[utoipa::path(get, path = "/metrics", tag = "process", responses(
    (status = 200, description = "The metrics.", body = String, content_type = "text/plain"), MayScrape))]
pub(super) async fn metrics(_: MayScrape, Shared(state): Shared<Arc<State>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.status.metrics())
}

/// What runs, and how it is
#[utoipa::path(get, path = "/api/v1/status", tag = "process", responses(
    (status = 200, description = "The status.", body = Page), Authorised))]
pub(super) async fn status(_: Authorised, Shared(state): Shared<Arc<State>>) -> Answer<Page> {
    Answer(state.status.page())
}

/// A reload that succeeded.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Reloaded {
    /// The generation that now serves on every shard.
    generation: u64,
    /// What the file's author should know.
    warnings: Vec<Finding>,
}

/// Read the file again, and serve what it says
#[utoipa::path(post, path = "/api/v1/reload", tag = "process", request_body = Nothing, responses(
    (status = 200, description = "Every shard serves it.", body = Reloaded), MayWrite, Json<Nothing>,
    (status = 422, description = "The file is not good, which changes nothing: every mistake.", body = Problem,
        content_type = "application/problem+json"),
    (status = 503, description = "The process is about to end.", body = Problem,
        content_type = "application/problem+json")))]
pub(super) async fn reload(
    _: MayWrite,
    Shared(state): Shared<Arc<State>>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Answer<Reloaded>, Problem> {
    match state.inbox.ask("asked over the admin address").await {
        Some(Ok(reloaded)) => {
            let warnings = reloaded.warnings.findings().diagnostics;
            Ok(Answer(Reloaded { generation: reloaded.generation, warnings }))
        }
        Some(Err(report)) => Err(refused(&report)),
        None => Err(stopping()),
    }
}

/// Processes that have changed places.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Replaced {
    /// The process that was asked.
    from: u32,
    /// The process that serves in its place.
    to: u32,
}

/// Replace the process by its program's new version, without losing a connection
#[utoipa::path(post, path = "/api/v1/upgrade", tag = "process", request_body = Nothing, responses(
    (status = 200, description = "The new process serves.", body = Replaced), MayWrite, Json<Nothing>,
    (status = 409, description = "This process cannot be upgraded, or not now.", body = Problem,
        content_type = "application/problem+json"),
    (status = 422, description = "The new process does not serve; this one goes on.", body = Problem,
        content_type = "application/problem+json"),
    (status = 503, description = "The process is about to end.", body = Problem,
        content_type = "application/problem+json")))]
pub(super) async fn upgrade(
    _: MayWrite,
    Shared(state): Shared<Arc<State>>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Answer<Replaced>, Problem> {
    match state.upgrades.ask("asked over the admin address").await {
        Some(Ok(Upgraded { from, to })) => Ok(Answer(Replaced { from, to })),
        Some(Err(error @ UpgradeError::Refused(_))) => {
            Err(Problem::new(StatusCode::CONFLICT, "upgrade-refused", error.to_string()))
        }
        Some(Err(error @ UpgradeError::Failed(_))) => {
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "upgrade-failed", error.to_string()))
        }
        None => Err(stopping()),
    }
}

fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the process is about to end")
}

fn refused(report: &Report) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-file", report.summary()).report(report)
}
