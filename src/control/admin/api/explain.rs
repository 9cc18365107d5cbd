//! Where a request would go, and why, as the running configuration decides it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State as Shared;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::control::admin::State;
use crate::control::admin::access::MayWrite;
use crate::control::admin::api::body::Json;
use crate::control::admin::api::{Answer, blocking, running, worker};
use crate::control::admin::problem::Problem;
use crate::control::explain::{self, Explained, Mistake, Question, Request, field, method};
use crate::model::head::KEY_HEADER;

/// A request to explain.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The worker, instead of the one that the URL's route names.
    #[schema(max_length = 63)]
    worker: Option<String>,
    /// The URL. The scheme may be left out, which is then http, and so may the host; without any the path is `/`.
    url: Option<String>,
    /// The method; without one GET.
    #[schema(max_length = 100)]
    method: Option<String>,
    /// The version key: short for a header `Cloudflare-Workers-Version-Key`.
    key: Option<String>,
    /// The header lines. There is no other but Host, which is the URL's.
    #[schema(max_items = 100)]
    headers: Option<Vec<Line>>,
    /// The address that the request comes from. Without it, from one that is not known, and no trusted proxy.
    #[schema(max_length = 100)]
    ip: Option<String>,
}

/// A header line.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    /// The name.
    #[schema(min_length = 1)]
    name: String,
    /// The value.
    value: String,
}

/// Where a request would go, and why: what `gradual explain --json` says, of the running configuration
///
/// Nothing is changed by it.
#[utoipa::path(post, path = "/api/v1/explain", tag = "workers", request_body = Asked, responses(
    (status = 200, description = "Where it goes, and why.", body = Explained), MayWrite, Json<Asked>,
    (status = 404, description = "There is no worker of this name.", body = Problem,
        content_type = "application/problem+json"),
    (status = 422, description = "HTTP knows no such request, or no worker has a route for it.", body = Problem,
        content_type = "application/problem+json")))]
pub(super) async fn explain(
    _: MayWrite,
    Shared(state): Shared<Arc<State>>,
    Json(asked): Json<Asked>,
) -> Result<Answer<Explained>, Problem> {
    let config = running(&state)?;
    if let Some(name) = &asked.worker {
        worker(&config, name)?;
    }
    let question = asked.question().map_err(|mistake| unexplained(&mistake))?;
    // Rules take their time, and the file of a secret may be read.
    let explained =
        blocking(move || explain::explain(&config, &question).map(|answer| answer.explained())).await?;
    explained.map(Answer).map_err(|mistake| unexplained(&mistake))
}

impl Asked {
    fn question(self) -> Result<Question, Mistake> {
        let method = method(self.method.as_deref().unwrap_or("GET"))?;
        let lines = self.headers.unwrap_or_default();
        let mut fields = lines.iter().map(Line::field).collect::<Result<Vec<_>, _>>()?;
        if let Some(key) = &self.key {
            fields.push(field(KEY_HEADER, key)?);
        }
        let ip = self.ip.as_deref().map(address).transpose()?;
        Ok(Question { worker: self.worker, request: Request::new(self.url, method, fields, ip)? })
    }
}

impl Line {
    fn field(&self) -> Result<(HeaderName, HeaderValue), Mistake> {
        field(&self.name, &self.value)
    }
}

fn address(text: &str) -> Result<IpAddr, Mistake> {
    text.parse().map_err(|_| Mistake(format!("{text:?} is not an IP address")))
}

fn unexplained(mistake: &Mistake) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unexplained", mistake.to_string())
}
