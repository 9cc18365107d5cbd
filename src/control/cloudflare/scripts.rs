//! A worker as Cloudflare sees a script, besides its versions.

use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::Call;
use super::envelope::{ApiError, UNKNOWN_SERVICE, success};
use super::times::Moment;
use crate::control::release;

/// `GET /accounts/{id}/workers/services/{worker}`.
pub(super) fn service(call: Call<'_>, worker: &str) -> Result<Response, ApiError> {
    let config = call.config()?;
    let worker = release::worker(&config, Some(worker)).map_err(|refusal| {
        let message = refusal.help().map_or_else(|| refusal.to_string(), |help| format!("{refusal}: {help}"));
        ApiError::new(StatusCode::NOT_FOUND, UNKNOWN_SERVICE, message)
    })?;
    let name = worker.policy.name.as_str();
    let deployment = &worker.policy.deployment;
    let modified = deployment.created_on.as_deref().and_then(Moment::parse).unwrap_or_default();
    let created = worker.versions.first().and_then(|version| version.metadata.created_on.as_deref());
    let created = created.and_then(Moment::parse).unwrap_or(modified);
    let environment = json!({
        "environment": "production",
        "created_on": created.to_string(),
        "modified_on": modified.to_string(),
        "script": {
            "id": name,
            "tag": name,
            "tags": null,
            "etag": deployment.id,
            "handlers": ["fetch"],
            "created_on": created.to_string(),
            "modified_on": modified.to_string(),
            "last_deployed_from": "wrangler",
        },
    });
    Ok(success(&json!({
        "id": name,
        "created_on": created.to_string(),
        "modified_on": modified.to_string(),
        "default_environment": environment,
        "environments": [environment],
    })))
}

/// `GET …/settings`, `GET …/script-settings` and `PATCH …/script-settings`: there are none, and none is taken.
pub(super) fn settings(call: Call<'_>, worker: &str) -> Result<Response, ApiError> {
    release::worker(&*call.config()?, Some(worker))?;
    Ok(success(&json!({
        "bindings": [],
        "logpush": false,
        "observability": null,
        "placement": {},
        "streaming_tail_consumers": null,
        "tags": null,
        "tail_consumers": null,
        "usage_model": "standard",
    })))
}
