//! Errors as RFC 9457 problem details.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::{Serialize, Serializer};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response as Documented, ResponseBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::diag::{Finding, Report};

/// The media type of problem details.
pub(crate) const PROBLEM: &str = "application/problem+json";

/// An error as clients see it.
#[derive(Debug)]
pub(crate) struct Problem(Box<Details>);

/// An error: a status, a word for machines, and sentences for people. RFC 9457 section 4.2.1: with `about:blank`, the title is
/// the status's own phrase; the member `kind` tells more.
#[derive(Debug, Serialize, ToSchema)]
struct Details {
    /// Always `about:blank`.
    #[serde(rename = "type")]
    uri: &'static str,
    /// The phrase of the status.
    title: &'static str,
    /// The HTTP status.
    #[serde(serialize_with = "number")]
    #[schema(value_type = u16)]
    status: StatusCode,
    /// What kind of problem it is: a word for machines.
    kind: &'static str,
    /// What is wrong.
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    /// Every mistake of the request's body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Mistake>,
    /// The configuration file, where that is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// What is wrong with the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    diagnostics: Option<Vec<Finding>>,
}

/// A mistake of a request's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Mistake {
    /// Where it is: a JSON pointer (RFC 6901) into the body.
    pub(crate) pointer: String,
    /// What is wrong there.
    pub(crate) detail: String,
}

impl Problem {
    /// A problem of a kind, which is part of the public interface, with its explanation.
    pub(crate) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Details {
            status,
            uri: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            kind,
            detail: detail.into(),
            help: None,
            errors: Vec::new(),
            file: None,
            diagnostics: None,
        }))
    }

    /// The same with what to do about it, where that is known.
    #[must_use]
    pub(crate) fn help(mut self, help: Option<&str>) -> Self {
        self.0.help = help.map(str::to_owned);
        self
    }

    /// The same with the mistakes of the request's body.
    #[must_use]
    pub(crate) fn errors(mut self, errors: Vec<Mistake>) -> Self {
        self.0.errors = errors;
        self
    }

    /// The same with what is wrong with the file.
    #[must_use]
    pub(crate) fn report(mut self, report: &Report) -> Self {
        self.0.file = Some(report.file.clone());
        self.0.diagnostics = Some(report.findings().diagnostics);
        self
    }
}

fn number<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl PartialSchema for Problem {
    fn schema() -> RefOr<Schema> {
        Details::schema()
    }
}

impl ToSchema for Problem {
    fn name() -> Cow<'static, str> {
        "Problem".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Details::schemas(schemas);
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.0.status;
        // What holds texts and numbers alone can always be written.
        let mut response = (status, serde_json::to_string(&self.0).unwrap_or_default()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"gradual\""));
        }
        response
    }
}

/// Responses of an operation by their status.
pub(crate) type Responses = BTreeMap<String, RefOr<Documented>>;

/// How problems of some statuses are documented.
pub(crate) fn documented(rows: &[(StatusCode, &str)]) -> Responses {
    let row = |(status, description): &(StatusCode, &str)| {
        let schema = Ref::from_schema_name(Problem::name());
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new().description(*description).content(PROBLEM, content).build();
        (status.as_u16().to_string(), response.into())
    };
    rows.iter().map(row).collect()
}
