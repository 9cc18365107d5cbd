//! Cloudflare's envelope around every answer.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::control::release::{Kind, Refusal};

/// Cloudflare's code of a worker that does not exist.
pub(super) const UNKNOWN_WORKER: u32 = 10007;
/// The same, where it is asked for as a service.
pub(super) const UNKNOWN_SERVICE: u32 = 10090;
/// Cloudflare's code of a version that does not exist.
pub(super) const UNKNOWN_VERSION: u32 = 100_146;
/// Cloudflare's code of a token that is not good, and of what is not allowed. On its other one, 10000, wrangler asks who it is
/// with the same token, and prints that failure, too.
const UNAUTHORIZED: u32 = 9109;
/// Cloudflare's code of a path that leads nowhere.
const NO_ROUTE: u32 = 7000;
/// Cloudflare's code of a method that a path does not know.
const NO_METHOD: u32 = 7001;
/// A request that cannot be done as it is.
const INVALID: u32 = 10001;
/// Something is wrong on this side.
const OUR_FAULT: u32 = 10013;

/// An answer that went well.
pub(super) fn success(result: &Value) -> Response {
    enveloped(StatusCode::OK, &json!({ "success": true, "errors": [], "messages": [], "result": result }))
}

/// The same with what its reader should know.
pub(super) fn success_with(result: &Value, messages: &[String]) -> Response {
    let messages: Vec<_> = messages.iter().map(|message| json!({ "code": 0, "message": message })).collect();
    enveloped(
        StatusCode::OK,
        &json!({ "success": true, "errors": [], "messages": messages, "result": result }),
    )
}

/// A part of a longer list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// Which, from 1.
    pub(super) page: usize,
    /// How many items a page has.
    pub(super) per_page: usize,
    /// How many items this one has.
    pub(super) count: usize,
    /// How many items there are.
    pub(super) total: usize,
}

/// An answer with a part of a list.
pub(super) fn page(result: &Value, page: Page) -> Response {
    let Page { page, per_page, count, total } = page;
    let pages = total.div_ceil(per_page.max(1));
    let info = json!({
        "page": page, "per_page": per_page, "count": count, "total_count": total, "total_pages": pages,
    });
    enveloped(
        StatusCode::OK,
        &json!({ "success": true, "errors": [], "messages": [], "result": result, "result_info": info }),
    )
}

fn enveloped(status: StatusCode, body: &Value) -> Response {
    let mut response = (status, body.to_string()).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"gradual\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// An answer that did not: wrangler prints the message and the code.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: u32,
    message: String,
    /// The word of the admin API for it.
    kind: Option<&'static str>,
}

impl ApiError {
    /// An error with Cloudflare's code.
    pub(super) fn new(status: StatusCode, code: u32, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), kind: None }
    }

    /// There is nothing of this id.
    pub(super) fn no_such(what: &str) -> Self {
        let message = format!("there is no such {what}, or not any more");
        Self::new(StatusCode::NOT_FOUND, INVALID, message)
    }

    /// What there is stands in the way.
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, INVALID, message)
    }

    /// A request that makes no sense.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    /// Something of this process is in the way.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, OUR_FAULT, message)
    }

    /// Nothing serves yet.
    pub(super) fn not_yet() -> Self {
        Self::unavailable("the proxy does not serve yet")
    }

    /// The token is missing or wrong.
    pub(super) fn unauthenticated() -> Self {
        let message = "the proxy wants the token of its `token_file`: set CLOUDFLARE_API_TOKEN to it";
        Self::new(StatusCode::UNAUTHORIZED, UNAUTHORIZED, message)
    }

    /// Whoever asks may not.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, UNAUTHORIZED, message)
    }

    /// A path that leads nowhere.
    pub(super) fn no_route(method: &Method, path: &str) -> Self {
        let message = format!(
            "gradual has nothing at {method} {path}: of Cloudflare's API it has the versions, deployments and tails of Workers"
        );
        Self::new(StatusCode::NOT_FOUND, NO_ROUTE, message)
    }

    /// What Cloudflare does with scripts and secrets.
    pub(super) fn no_scripts(method: &Method, worker: &str, file: &str) -> Self {
        let (status, code) = match *method {
            Method::GET | Method::HEAD => (StatusCode::NOT_FOUND, NO_ROUTE),
            _ => (StatusCode::METHOD_NOT_ALLOWED, NO_METHOD),
        };
        if *method == Method::DELETE {
            let message = format!(
                "gradual deletes nothing here: take what is to go out of {file}, then `gradual reload`"
            );
            return Self::new(status, code, message);
        }
        let message = format!(
            "gradual has neither scripts nor secrets: a version is what runs behind its upstreams. Start the new one \
             there, then `gradual versions upload --worker {worker} --upstream http://HOST:PORT --file {file}`, and \
             deploy it with `wrangler versions deploy` or `gradual versions deploy`"
        );
        Self::new(status, code, message)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = match refusal.help() {
            Some(help) => format!("{refusal}: {help}"),
            None => refusal.to_string(),
        };
        let (status, code) = match refusal.kind() {
            Kind::UnknownWorker => (StatusCode::NOT_FOUND, UNKNOWN_WORKER),
            Kind::UnknownVersion => (StatusCode::NOT_FOUND, UNKNOWN_VERSION),
            _ => match refusal.status() {
                StatusCode::UNPROCESSABLE_ENTITY => (StatusCode::BAD_REQUEST, INVALID),
                status if status.is_server_error() => (status, OUR_FAULT),
                status => (status, INVALID),
            },
        };
        Self { kind: Some(refusal.kind().as_str()), ..Self::new(status, code, message) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(kind) = self.kind {
            error["kind"] = kind.into();
        }
        enveloped(
            self.status,
            &json!({ "success": false, "errors": [error], "messages": [], "result": null }),
        )
    }
}
