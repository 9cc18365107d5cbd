//! Who asks, and for which account: there is one user and one account, whatever they are called.

use axum::response::Response;
use serde_json::{Value, json};

use super::envelope::{Page, page, success};

/// What the one account, and the one user, are called.
const NAME: &str = "gradual";

/// `GET /user`.
pub(super) fn user() -> Response {
    success(&json!({ "id": NAME, "email": "admin@gradual.invalid" }))
}

/// `GET /user/tokens/verify`: a token that is not good does not get here.
pub(super) fn token() -> Response {
    success(&json!({ "id": NAME, "status": "active" }))
}

/// `GET /memberships`.
pub(super) fn memberships() -> Response {
    list(&json!([{ "id": NAME, "status": "accepted", "account": account(NAME), "roles": ["Administrator"] }]))
}

/// `GET /accounts`.
pub(super) fn all() -> Response {
    list(&json!([account(NAME)]))
}

/// `GET /accounts/{id}`.
pub(super) fn one(id: &str) -> Response {
    success(&account(id))
}

fn account(id: &str) -> Value {
    json!({ "id": id, "name": NAME, "type": "standard" })
}

fn list(items: &Value) -> Response {
    page(items, Page { page: 1, per_page: 50, count: 1, total: 1 })
}
