//! What the admin address answers.

use std::sync::Arc;

use axum::Router;
use axum::middleware::map_response;
use axum::response::Response;
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};

use crate::control::admin::access::Authorised;
use crate::control::admin::problem::Problem;
use crate::control::admin::{State, api};
use crate::control::cloudflare;

/// Every route. Unknown paths and wrong methods are told only to those who may see the status.
pub(crate) fn router(state: Arc<State>) -> Router {
    let routes = api::routes().into_iter();
    let router = routes.fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    router
        .nest("/client/v4", cloudflare::router())
        .route("/client/v4/", cloudflare::root())
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

async fn not_found(_: Authorised) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path")
}

async fn method_not_allowed(_: Authorised) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this path does not know this method; see Allow")
}
