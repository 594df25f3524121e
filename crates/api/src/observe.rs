//! What is told about each request: its span in a trace, its figure, and what log lines written meanwhile carry.
//!
//! Not what it says or answers: bodies, credentials and addresses with their ids stay out of all three.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use domain::OrgScope;
use domain::id::ExecutionId;
use domain::telemetry::metrics;
use domain::telemetry::traces::{self, Part, Span};
use tracing::field::{Empty, display};

use crate::request_id::RequestId;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What matches no route is one route.
const UNMATCHED: &str = "unmatched";

/// A request under way.
pub(crate) struct Observed {
    began: Instant,
    method: Method,
    route: Option<MatchedPath>,
    span: Span,
    /// What log lines are written in.
    pub(crate) log: tracing::Span,
}

impl Observed {
    /// Begins, and leaves the context of its span in the request: whoever passes `traceparent` on passes that.
    pub(crate) fn begin(request: &mut Request, id: &RequestId) -> Self {
        let route = request.extensions().get::<MatchedPath>().cloned();
        let method = request.method().clone();
        let given = request.headers().get(&TRACEPARENT).and_then(|value| value.to_str().ok());
        let mut span = Span::start(Part::Server, method.as_str(), given);
        if span.is_exported() {
            let template = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
            span.rename(format!("{method} {template}"));
            span.set("http.request.method", method.to_string());
            span.set("http.route", template.to_owned());
            span.set("request.id", id.0.to_string());
        }
        let log = tracing::info_span!(
            "request",
            request.id = %id.0,
            trace.id = Empty,
            organization.id = Empty,
            execution.id = Empty
        );
        if let Some(context) = span.traceparent() {
            log.record("trace.id", &context[3..35]);
            if span.is_exported()
                && let Ok(context) = HeaderValue::from_str(&context)
            {
                request.headers_mut().insert(TRACEPARENT, context);
            }
        }
        Self { began: Instant::now(), method, route, span, log }
    }

    /// Ends with the answer's status.
    pub(crate) fn end(mut self, status: StatusCode) {
        let took = self.began.elapsed();
        let route = self.route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
        metrics::answered(self.method.as_str(), route, status.as_u16(), took);
        self.span.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.span.fail(status.canonical_reason().unwrap_or("server error"));
        }
        self.log.in_scope(|| {
            let (method, status, ms) = (self.method.as_str(), status.as_u16(), took.as_secs_f64() * 1e3);
            tracing::debug!(http.method = method, http.route = route, http.status = status, ms, "answered");
        });
    }
}

/// Lets the lines of this request name the organization it acts in.
pub(crate) fn in_scope(scope: &OrgScope) {
    if let Ok(Some(organization)) = scope.owner() {
        tracing::Span::current().record("organization.id", display(organization));
    }
}

/// The trace context that what this request starts belongs to, if it has one.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    traces::is_traceparent(text).then(|| text.to_owned())
}

/// Lets the lines of this request name the execution it submits, and says that it did.
pub(crate) fn submitted(scope: &OrgScope, id: ExecutionId) {
    in_scope(scope);
    tracing::Span::current().record("execution.id", display(id));
    tracing::debug!("submitted");
}
