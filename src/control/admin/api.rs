//! The interface under `/api/v1/`: what runs is read from the running configuration and the journal, and what changes anything
//! is written into the file by [`crate::control::release`]. Nothing here is on a request's way, and what may block does so on a
//! thread of its own.

mod body;
mod change;
mod deployments;
mod document;
mod explain;
mod mistakes;
mod plan;
mod process;
mod share;
mod versions;
mod workers;

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use crate::config::{Config, Worker};
use crate::control::admin::State;
use crate::control::admin::problem::Problem;
use crate::control::release;
use crate::diag::quoted;

/// Every route here, the probes and the metrics included, each with what answers. `document` describes all of them.
pub(crate) fn routes() -> Vec<(&'static str, MethodRouter<Arc<State>>)> {
    vec![
        ("/healthz", get(process::healthz)),
        ("/readyz", get(process::readyz)),
        ("/metrics", get(process::metrics)),
        ("/api/v1/openapi.json", get(document::openapi)),
        ("/api/v1/status", get(process::status)),
        ("/api/v1/reload", post(process::reload)),
        ("/api/v1/upgrade", post(process::upgrade)),
        ("/api/v1/explain", post(explain::explain)),
        ("/api/v1/workers", get(workers::list_workers)),
        ("/api/v1/workers/{worker}", get(workers::view_worker)),
        ("/api/v1/workers/{worker}/versions", get(versions::list_versions).post(versions::upload_version)),
        ("/api/v1/workers/{worker}/versions/{version}", get(versions::view_version)),
        (
            "/api/v1/workers/{worker}/deployments",
            get(deployments::list_deployments).post(deployments::deploy),
        ),
        ("/api/v1/workers/{worker}/deployments/{deployment}", get(deployments::view_deployment)),
        ("/api/v1/workers/{worker}/rollback", post(deployments::roll_back)),
        ("/api/v1/workers/{worker}/plan", post(plan::plan)),
    ]
}

/// An answer in JSON.
#[derive(Debug)]
struct Answer<T>(T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match serde_json::to_string(&self.0) {
            Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
            Err(error) => {
                let detail = format!("the answer cannot be written: {error}");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
            }
        }
    }
}

/// What runs: the configuration of one generation, from the first question to the answer.
fn running(state: &State) -> Result<Arc<Config>, Problem> {
    state
        .status
        .config()
        .ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "no generation serves yet"))
}

/// The worker of a name.
fn worker<'a>(config: &'a Config, name: &str) -> Result<&'a Worker, Problem> {
    Ok(release::worker(config, Some(name))?)
}

fn not_found(what: &str, id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", format!("there is no {what} {}", quoted(id)))
}

/// Does what may block on a thread of its own: the control thread has others to answer.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ended())
}

/// What was to answer has not: it panicked, or the process ends.
fn ended() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "nothing came of it; the log says more")
}
