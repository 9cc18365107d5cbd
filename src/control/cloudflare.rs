//! Cloudflare's own API, as far as the real wrangler needs it to drive this proxy: versions, deployments, tails.
//!
//! Everything is under `/client/v4` of the admin address. An account of any name is this proxy, a script is a worker. What
//! Cloudflare has and this proxy has not is refused in words that wrangler prints. Changes go the one way that all changes
//! go ([`crate::control::release`]).

mod accounts;
mod body;
mod deployments;
mod envelope;
mod guard;
mod scripts;
mod tails;
mod times;
mod versions;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use http::Method;
use http::request::Parts;
use tokio::sync::OwnedSemaphorePermit;

use self::envelope::ApiError;
pub(crate) use self::tails::Sessions;
use crate::config::Config;
use crate::control::admin::State;

/// The client of a connection to the admin address, as its requests know it.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    /// Who it is; `None` on a Unix socket.
    pub(crate) address: Option<IpAddr>,
    /// The connection's place among those that there may be: what lives on after a request keeps it.
    pub(crate) place: Arc<OwnedSemaphorePermit>,
}

/// Everything under `/client/v4`. There is one handler, so that no answer is in another form than Cloudflare's.
pub(crate) fn router() -> Router<Arc<State>> {
    Router::new().fallback(answer)
}

/// The same for the path that has nothing behind `/client/v4/`.
pub(crate) fn root() -> MethodRouter<Arc<State>> {
    any(answer)
}

async fn answer(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let call = Call { state: &state, parts: &parts };
    let outcome = match guard::check(&state, &parts) {
        Ok(()) => call.route(body).await,
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(IntoResponse::into_response)
}

/// A request to the API.
#[derive(Clone, Copy)]
struct Call<'a> {
    state: &'a Arc<State>,
    parts: &'a Parts,
}

impl<'a> Call<'a> {
    async fn route(self, body: axum::body::Body) -> Result<Response, ApiError> {
        let path: Vec<&str> = self.parts.uri.path().split('/').skip(1).collect();
        let read = matches!(self.parts.method, Method::GET | Method::HEAD);
        let post = self.parts.method == Method::POST;
        match &*path {
            // Its id is what lets a client in, and wrangler shows nothing else there.
            ["tails", id] if read => tails::connect(self, id).await,
            ["user"] if read => Ok(accounts::user()),
            ["user", "tokens", "verify"] if read => Ok(accounts::token()),
            ["memberships"] if read => Ok(accounts::memberships()),
            ["accounts"] if read => Ok(accounts::all()),
            ["accounts", id] if read => Ok(accounts::one(id)),
            ["accounts", _, "workers", "services", worker] if read => scripts::service(self, worker),
            ["accounts", _, "workers", "scripts", worker, rest @ ..] => match rest {
                ["settings" | "script-settings"] if read => scripts::settings(self, worker),
                ["script-settings"] if self.parts.method == Method::PATCH => {
                    body::discard(body).await;
                    scripts::settings(self, worker)
                }
                ["versions"] if read => versions::list(self, worker),
                ["versions", id] if read => versions::view(self, worker, id).await,
                ["deployments"] if read => deployments::list(self, worker).await,
                ["deployments"] if post => deployments::create(self, worker, body).await,
                ["deployments", id] if read => deployments::view(self, worker, id).await,
                ["tails"] if post => tails::create(self, worker, body).await,
                ["tails", id] if self.parts.method == Method::DELETE => tails::delete(self, worker, id),
                _ => Err(self.unsupported(Some(worker), body).await),
            },
            ["accounts", _, "workers", "workers" | "services", worker, ..] => {
                Err(self.unsupported(Some(worker), body).await)
            }
            ["accounts", _, "workers", ..] => Err(self.unsupported(None, body).await),
            _ => {
                body::discard(body).await;
                Err(ApiError::no_route(&self.parts.method, self.parts.uri.path()))
            }
        }
    }

    /// What Cloudflare does with scripts, and this proxy does in another way. The body is read, so that the client is not cut off
    /// before it has the answer.
    async fn unsupported(self, worker: Option<&str>, body: axum::body::Body) -> ApiError {
        body::discard(body).await;
        let known = self
            .config()
            .ok()
            .filter(|config| config.workers.iter().any(|one| Some(one.policy.name.as_str()) == worker));
        let worker = known.and(worker).unwrap_or("NAME");
        ApiError::no_scripts(&self.parts.method, worker, self.state.status.name())
    }

    /// What serves.
    fn config(self) -> Result<Arc<Config>, ApiError> {
        self.state.status.config().ok_or_else(ApiError::not_yet)
    }

    /// A parameter of the query, as it stands there.
    fn parameter(self, name: &str) -> Option<&'a str> {
        let pairs = self.parts.uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}
