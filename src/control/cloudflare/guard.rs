//! Who may use the API.

use axum::response::IntoResponse;
use http::header::{AUTHORIZATION, UPGRADE};
use http::request::Parts;
use http::{Method, StatusCode};

use super::envelope::ApiError;
use crate::control::admin::State;

/// Whether a request may go on: it shows the token or names this proxy as its host, as on the rest of the admin address. wrangler
/// sends JSON under another name, so what keeps the forms of foreign pages out is the `Authorization` field: a page cannot
/// send it to another origin without being allowed to, and nobody here allows it.
///
/// The socket of a tail is not asked for the token: whoever knows its id was given it here.
///
/// # Errors
/// It may not.
pub(super) fn check(state: &State, parts: &Parts) -> Result<(), ApiError> {
    if is_socket_of_a_tail(parts) {
        return Ok(());
    }
    let access = state.access();
    access.authorise(parts, true).map_err(|problem| match problem.into_response().status() {
        StatusCode::UNAUTHORIZED => ApiError::unauthenticated(),
        _ => ApiError::forbidden(
            "the request's Host is neither localhost, nor a loopback address, nor in `hosts` of [admin]",
        ),
    })?;
    if matches!(parts.method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let foreign = || ApiError::forbidden("a page of another origin may not do this");
    access.check_origin(&parts.headers).map_err(|_| foreign())?;
    if !parts.headers.contains_key(AUTHORIZATION) {
        let message = "what changes anything needs an Authorization field, as wrangler sends it: any token where the proxy has none";
        return Err(ApiError::forbidden(message));
    }
    Ok(())
}

fn is_socket_of_a_tail(parts: &Parts) -> bool {
    let id = parts.uri.path().strip_prefix("/tails/");
    parts.method == Method::GET
        && parts.headers.contains_key(UPGRADE)
        && id.is_some_and(|id| !id.is_empty() && !id.contains('/'))
}
