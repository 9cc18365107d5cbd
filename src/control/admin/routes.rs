//! What the admin address answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::control::admin::State;
use crate::control::admin::access::{Authorised, MayScrape, MayWrite};
use crate::control::admin::problem::Problem;
use crate::control::reload::Reloaded;
use crate::control::upgrade::{UpgradeError, Upgraded};
use crate::diag::Report;

/// The longest request body, in bytes.
const BODY: usize = 64 * 1024;
/// How long a request body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// Every route. Unknown paths and wrong methods are told only to those who may see the status.
pub(crate) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/upgrade", post(upgrade))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(map_response(guarded))
        .with_state(state)
}

/// What is answered here is of the moment and for whoever asked, and never anything but what it says it is.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn readyz(Shared(state): Shared<Arc<State>>) -> (StatusCode, &'static str) {
    if state.status.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(_: MayScrape, Shared(state): Shared<Arc<State>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.status.metrics())
}

async fn status(_: Authorised, Shared(state): Shared<Arc<State>>) -> Response {
    as_json(&state.status.to_json())
}

async fn reload(_: MayWrite, Shared(state): Shared<Arc<State>>, body: Body) -> Result<Response, Problem> {
    read_body(body).await?;
    match state.inbox.ask("asked over the admin address").await {
        Some(Ok(reloaded)) => Ok(as_json(&taken(&reloaded))),
        Some(Err(report)) => Err(refused(&report)),
        None => Err(stopping()),
    }
}

fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the process is about to end")
}

async fn upgrade(_: MayWrite, Shared(state): Shared<Arc<State>>, body: Body) -> Result<Response, Problem> {
    read_body(body).await?;
    match state.upgrades.ask("asked over the admin address").await {
        Some(Ok(Upgraded { from, to })) => Ok(as_json(&json!({ "from": from, "to": to }))),
        Some(Err(error @ UpgradeError::Refused(_))) => {
            Err(Problem::new(StatusCode::CONFLICT, "upgrade-refused", error.to_string()))
        }
        Some(Err(error @ UpgradeError::Failed(_))) => {
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "upgrade-failed", error.to_string()))
        }
        None => Err(stopping()),
    }
}

async fn not_found(_: Authorised) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path")
}

async fn method_not_allowed(_: Authorised) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this path does not know this method; see Allow")
}

fn as_json(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn taken(reloaded: &Reloaded) -> Value {
    json!({ "generation": reloaded.generation, "warnings": diagnostics(&reloaded.warnings) })
}

fn refused(report: &Report) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-file", report.summary())
        .with("file", Value::from(report.file.as_str()))
        .with("diagnostics", diagnostics(report))
}

fn diagnostics(report: &Report) -> Value {
    report.to_json().get_mut("diagnostics").map_or(Value::Null, Value::take)
}

/// Reads a body that nothing is expected of: empty, or a JSON object without members.
async fn read_body(body: Body) -> Result<(), Problem> {
    let read = tokio::time::timeout(BODY_PATIENCE, axum::body::to_bytes(body, BODY)).await;
    let Ok(read) = read else {
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", "the body takes too long"));
    };
    let bytes = read.map_err(|_| {
        let detail = format!("the body is longer than {BODY} bytes, or broken off");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body", detail)
    })?;
    match bytes.trim_ascii() {
        b"" => Ok(()),
        text if serde_json::from_slice::<Value>(text).is_ok_and(|value| value == json!({})) => Ok(()),
        _ => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "body", "this takes no body, or an empty JSON object"))
        }
    }
}
