//! What comes with a request: JSON in the body, names in the path, a bound in the query. All of it is bounded, and what is
//! wrong with it is said whole.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::{IntoParams, IntoResponses, ToSchema};

use crate::control::admin::api::mistakes::{MOST, Rules};
use crate::control::admin::problem::{Mistake, Problem, Responses, documented};

/// The longest request body, in bytes.
const BODY: usize = 64 * 1024;
/// How long a request body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// A request's body: JSON that says what a `T` is. Where nothing has to be there, it may be empty. To be asked for only after
/// the proof that the request may be made: without one, nothing is read.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// A body that says nothing: an empty object, or empty.
#[derive(Debug, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

impl<T: DeserializeOwned + ToSchema, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        parsed(&read(request.into_body()).await?).map(Self)
    }
}

impl<T> IntoResponses for Json<T> {
    fn responses() -> Responses {
        documented(&[
            (StatusCode::BAD_REQUEST, "The body, or a name in the path, is not what it must be."),
            (StatusCode::REQUEST_TIMEOUT, "The body takes longer than 10 seconds."),
            (StatusCode::PAYLOAD_TOO_LARGE, "The body is longer than 65,536 bytes."),
        ])
    }
}

async fn read(body: Body) -> Result<bytes::Bytes, Problem> {
    let read = tokio::time::timeout(BODY_PATIENCE, axum::body::to_bytes(body, BODY)).await;
    let Ok(read) = read else {
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", "the body takes too long"));
    };
    read.map_err(|error| {
        if error.into_inner().is::<http_body_util::LengthLimitError>() {
            let detail = format!("the body is longer than {BODY} bytes");
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body", detail);
        }
        Problem::new(
            StatusCode::BAD_REQUEST,
            "body",
            "the body is broken off, or is not framed as it must be",
        )
    })
}

fn parsed<T: DeserializeOwned + ToSchema>(bytes: &[u8]) -> Result<T, Problem> {
    let rules = Rules::of::<T>();
    let is_empty = bytes.iter().all(|byte| b" \t\r\n".contains(byte));
    let text = if is_empty && rules.take_nothing() { b"{}" } else { bytes };
    let value: Value = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
    let mistakes = rules.mistakes(&value);
    if !mistakes.is_empty() {
        return Err(refused(mistakes));
    }
    // From the text, as only there a member can be found that is there twice.
    serde_json::from_slice(text).map_err(|error| not_json(&error))
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "body", format!("the body cannot be read: {error}"))
}

fn refused(mistakes: Vec<Mistake>) -> Problem {
    let said: Vec<_> = mistakes.iter().map(|one| format!("{}: {}", one.pointer, one.detail)).collect();
    let least = if mistakes.len() < MOST { "" } else { "at least " };
    let detail = format!("the body has {least}{}", crate::diag::counted(mistakes.len(), "mistake"));
    Problem::new(StatusCode::BAD_REQUEST, "body", format!("{detail}: {}", said.join("; "))).errors(mistakes)
}

/// The names in a request's path, decoded.
#[derive(Debug)]
pub(crate) struct Names<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Sync + Send> FromRequestParts<S> for Names<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let names = Path::<T>::from_request_parts(parts, state).await;
        names.map(|Path(names)| Self(names)).map_err(|_| {
            Problem::new(StatusCode::BAD_REQUEST, "path", "a name in the path is not UTF-8, percent-encoded")
        })
    }
}

impl<T> IntoResponses for Names<T> {
    fn responses() -> Responses {
        documented(&[
            (StatusCode::BAD_REQUEST, "A name in the path, or the query, is not what it must be."),
            (StatusCode::NOT_FOUND, "There is nothing of this name."),
        ])
    }
}

/// How much of a list is wanted.
#[derive(Clone, Copy, Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Limit {
    /// The most entries of the answer: the newest. Without it 100.
    #[param(minimum = 1, maximum = 1000, required = false, value_type = u32)]
    pub(crate) limit: usize,
}

impl<S: Sync> FromRequestParts<S> for Limit {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        limit(parts.uri.query().unwrap_or_default()).map(|limit| Self { limit })
    }
}

fn limit(query: &str) -> Result<usize, Problem> {
    let mut limit = None;
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let value = value.parse().ok().filter(|value| digits && (1..=1000).contains(value));
        match (name, value) {
            ("limit", Some(value)) if limit.is_none() => limit = Some(value),
            ("limit", _) => return Err(bad_query("`limit` is a number from 1 to 1000, once")),
            _ => return Err(bad_query("the query has no parameter but `limit`")),
        }
    }
    Ok(limit.unwrap_or(100))
}

fn bad_query(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "query", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_from_1_to_1000_and_nothing_else_is_in_the_query() {
        for (query, expected) in [("", 100), ("limit=1", 1), ("limit=1000&", 1000), ("limit=007", 7)] {
            assert_eq!(limit(query).ok(), Some(expected), "{query}");
        }
        for query in
            ["limit", "limit=", "limit=0", "limit=1001", "limit=+1", "limit=-1", "limit=1&limit=1", "page=2"]
        {
            assert!(limit(query).is_err(), "{query}");
        }
    }

    #[test]
    fn where_nothing_has_to_be_there_the_body_may_be_empty() {
        for good in ["", " ", "{}", "\r\n{ }"] {
            assert!(parsed::<Nothing>(good.as_bytes()).is_ok(), "{good:?}");
        }
        for bad in [
            &b"["[..],
            b"\x0c",
            b"[]",
            b"null",
            b"{\"a\":1}",
            b"{\"a\":\"\xff\"}",
            b"{} {}",
            b"{\"a\":1e999}",
        ] {
            assert!(parsed::<Nothing>(bad).is_err(), "{bad:?}");
        }
        assert!(parsed::<Nothing>("[".repeat(60_000).as_bytes()).is_err());
    }
}
