//! The workers.

use std::sync::Arc;

use axum::extract::State as Shared;
use serde::Serialize;
use utoipa::ToSchema;

use crate::config::Worker;
use crate::control::admin::State;
use crate::control::admin::access::Authorised;
use crate::control::admin::api::body::Names;
use crate::control::admin::api::deployments::Deployment;
use crate::control::admin::api::{Answer, running, worker};
use crate::control::admin::problem::Problem;

/// Every worker, in file order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Workers {
    /// The workers.
    workers: Vec<WorkerInfo>,
}

/// A worker.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Worker)]
pub(super) struct WorkerInfo {
    /// Its name.
    name: String,
    /// The requests that are for it.
    routes: Vec<String>,
    /// How many versions the file has of it.
    versions: usize,
    /// The deployment that serves.
    deployment: Deployment,
}

impl From<&Worker> for WorkerInfo {
    fn from(worker: &Worker) -> Self {
        Self {
            name: worker.policy.name.to_string(),
            routes: worker.routes.iter().map(ToString::to_string).collect(),
            versions: worker.versions.len(),
            deployment: Deployment::active(worker),
        }
    }
}

/// Every worker with its deployment
#[utoipa::path(get, path = "/api/v1/workers", tag = "workers", responses(
    (status = 200, description = "The workers.", body = Workers), Authorised))]
pub(super) async fn list_workers(
    _: Authorised,
    Shared(state): Shared<Arc<State>>,
) -> Result<Answer<Workers>, Problem> {
    let config = running(&state)?;
    Ok(Answer(Workers { workers: config.workers.iter().map(WorkerInfo::from).collect() }))
}

/// One worker with its deployment
#[utoipa::path(get, path = "/api/v1/workers/{worker}", tag = "workers",
    params(("worker" = String, Path, description = "The worker's name.")),
    responses((status = 200, description = "The worker.", body = WorkerInfo), Authorised, Names<String>))]
pub(super) async fn view_worker(
    _: Authorised,
    Names(name): Names<String>,
    Shared(state): Shared<Arc<State>>,
) -> Result<Answer<WorkerInfo>, Problem> {
    let config = running(&state)?;
    Ok(Answer(WorkerInfo::from(worker(&config, &name)?)))
}
