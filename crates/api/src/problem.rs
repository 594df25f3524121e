//! The only place that maps errors to HTTP: RFC 9457 problem documents.
//!
//! A problem travels as an extension of an empty response; the envelope writes its body, because it
//! knows the request id. No document shows SQL, paths, hosts, stacks, tokens or secret values.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::FieldError;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::{Content, ContentBuilder, Ref, RefOr, ResponseBuilder};

/// The type of every body that is a problem.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";
/// When a client that found a dependency away may try again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// An answer that is an error.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    /// Members beyond those that every document has.
    members: Option<Box<Map<String, Value>>>,
    /// For the log, never for the client.
    cause: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The document as a client reads it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "/problems/not-found", "title": "Not Found", "status": 404, "code": "not-found",
    "detail": "no such execution", "message": "no such execution",
    "request_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11",
}))]
pub(crate) struct ProblemDocument<'a> {
    /// Names the kind of problem: `/problems/<code>`.
    #[schema(value_type = String)]
    r#type: String,
    /// The name of the HTTP status.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What is wrong, for a person.
    detail: &'a str,
    /// The kind of problem, for a program.
    code: &'a str,
    /// The same as `detail`.
    message: &'a str,
    /// What to quote when asking for help.
    request_id: &'a str,
    /// 422 only: every member that breaks a rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem<'a>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    members: Option<&'a Map<String, Value>>,
}

/// One member that breaks a rule.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct FieldProblem<'a> {
    /// RFC 6901 pointer into the body (`/input_data/site`), or `?limit`, `header:Idempotency-Key`, `path:org_id`.
    pointer: &'a str,
    /// What is wrong with it.
    detail: &'a str,
}

impl Problem {
    /// A problem with the usual code and text of its status.
    pub(crate) fn new(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::BAD_REQUEST => ("bad-request", "the request cannot be read"),
            StatusCode::UNAUTHORIZED => ("unauthenticated", "Not authenticated"),
            StatusCode::FORBIDDEN => ("forbidden", "this is not allowed"),
            StatusCode::NOT_FOUND => ("not-found", "no such route"),
            StatusCode::METHOD_NOT_ALLOWED => ("method-not-allowed", "this method is not allowed here"),
            StatusCode::CONFLICT => ("conflict", "this conflicts with what is there"),
            StatusCode::PAYLOAD_TOO_LARGE => ("too-large", "the body is too large"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                ("unsupported-media-type", "the media type is not supported")
            }
            StatusCode::UNPROCESSABLE_ENTITY => ("invalid", "invalid input"),
            StatusCode::UPGRADE_REQUIRED => ("upgrade-required", "this is a WebSocket"),
            StatusCode::TOO_MANY_REQUESTS => ("too-many-requests", "too many requests"),
            StatusCode::SERVICE_UNAVAILABLE => ("unavailable", "the service is not available"),
            StatusCode::GATEWAY_TIMEOUT => ("timeout", "this takes longer than the server waits"),
            _ if status.is_client_error() => ("bad-request", "the request cannot be answered"),
            _ => ("internal", "internal error"),
        };
        Self {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            members: None,
            cause: None,
        }
    }

    /// A 422 with one broken member.
    pub(crate) fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        domain::Error::invalid(pointer, detail).into()
    }

    /// A 403 with its reason.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        domain::Error::Forbidden(detail.into()).into()
    }

    /// Replaces the text.
    pub(crate) fn detail(mut self, detail: impl ToString) -> Self {
        self.detail = detail.to_string();
        self
    }

    /// Adds a member of its own to the document.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.members.get_or_insert_default().insert(name.to_owned(), value);
        self
    }

    fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    fn cause(mut self, cause: Box<dyn StdError + Send + Sync>) -> Self {
        self.cause = Some(Arc::from(cause));
        self
    }

    /// Writes what only the operator may know to the log, once.
    pub(crate) fn log(&self, request_id: &str) {
        let cause = self.cause.as_ref().map(|cause| chain(&**cause)).unwrap_or_default();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            tracing::warn!(request.id = %request_id, %cause, "answered 503: {}", self.detail);
        } else if self.status.is_server_error() {
            tracing::error!(request.id = %request_id, %cause, "answered {}", self.status);
        }
    }

    /// The answer, keeping headers that were set already (`Allow`, for one).
    pub(crate) fn render(&self, mut headers: HeaderMap, request_id: &str) -> Response {
        let errors =
            self.errors.iter().map(|e| FieldProblem { pointer: &e.pointer, detail: &e.detail }).collect();
        let document = ProblemDocument {
            r#type: format!("/problems/{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            message: &self.detail,
            request_id,
            errors,
            members: self.members.as_deref(),
        };
        let body = serde_json::to_vec(&document).expect("a problem is always JSON");
        headers.remove(axum::http::header::CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(pause) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
        }
        (self.status, headers, body).into_response()
    }
}

impl From<domain::Error> for Problem {
    fn from(error: domain::Error) -> Self {
        use domain::Error as E;
        match error {
            E::NotFound(what) => Self::new(StatusCode::NOT_FOUND).detail(format!("no such {what}")),
            E::Conflict(text) => Self::new(StatusCode::CONFLICT).detail(text),
            E::Invalid(errors) => {
                let detail = errors.iter().map(readable).collect::<Vec<_>>().join("; ");
                Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY).detail(detail) }
            }
            E::Impossible(text) => Self::new(StatusCode::BAD_REQUEST).detail(text),
            E::Unauthenticated => Self::new(StatusCode::UNAUTHORIZED),
            E::Forbidden(text) => Self::new(StatusCode::FORBIDDEN).detail(text),
            E::TooMany { retry_after } => {
                let seconds = retry_after.as_secs().max(1);
                let text = format!("too many requests, try again in {seconds} s");
                Self::new(StatusCode::TOO_MANY_REQUESTS).detail(text).retry_after(retry_after)
            }
            E::Unavailable { service, source } => {
                let text = format!("{service} is not available, try again shortly");
                Self::new(StatusCode::SERVICE_UNAVAILABLE).detail(text).retry_after(TRY_AGAIN).cause(source)
            }
            E::Internal(source) => Self::new(StatusCode::INTERNAL_SERVER_ERROR).cause(source),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The problems any operation for signed-in callers may answer with.
pub(crate) struct Problems;

/// The problems an operation for anybody may answer with.
pub(crate) struct PublicProblems;

type Responses = BTreeMap<String, RefOr<utoipa::openapi::Response>>;

impl utoipa::IntoResponses for Problems {
    fn responses() -> Responses {
        let mut all = PublicProblems::responses();
        all.extend([
            documented(401, "No, expired or revoked credential."),
            documented(403, "Known caller, missing right."),
            documented(404, "It does not exist, or it belongs to another organization."),
        ]);
        all
    }
}

impl utoipa::IntoResponses for PublicProblems {
    fn responses() -> Responses {
        Responses::from([
            documented(422, "The input breaks a rule; `errors` names every member."),
            documented(500, "A fault of the server; the log knows more by the request id."),
            documented(503, "A dependency is away; try again after `Retry-After` seconds."),
        ])
    }
}

pub(crate) fn documented(status: u16, description: &str) -> (String, RefOr<utoipa::openapi::Response>) {
    let response = ResponseBuilder::new().description(description).content(PROBLEM_JSON, document());
    (status.to_string(), response.build().into())
}

/// What every refusal holds, as the OpenAPI document says it.
pub(crate) fn document() -> Content {
    ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build()
}

/// `input_data/site: is required` rather than a pointer's punctuation.
fn readable(error: &FieldError) -> String {
    let pointer = error.pointer.as_str();
    let field = pointer
        .strip_prefix(['/', '?'])
        .or_else(|| pointer.split_once(':').map(|(_, name)| name))
        .unwrap_or(pointer);
    if field.is_empty() { error.detail.clone() } else { format!("{field}: {}", error.detail) }
}

/// An error with all its causes in one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_of_a_422_names_every_field() {
        let errors = vec![
            FieldError { pointer: "/input_data/site".into(), detail: "is required".into() },
            FieldError { pointer: "?limit".into(), detail: "must be 1 to 1000".into() },
            FieldError { pointer: "path:org_id".into(), detail: "must be a UUID".into() },
            FieldError { pointer: String::new(), detail: "must be JSON".into() },
        ];
        let problem = Problem::from(domain::Error::Invalid(errors));
        assert_eq!(
            problem.detail,
            "input_data/site: is required; limit: must be 1 to 1000; org_id: must be a UUID; must be JSON"
        );
    }

    #[test]
    fn the_cause_of_a_500_stays_inside() {
        let problem = Problem::from(domain::Error::internal("SELECT secret FROM vault"));
        assert_eq!(problem.detail, "internal error");
        assert_eq!(problem.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
