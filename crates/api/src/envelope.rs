//! What every answer has in common: a request id, problem documents for errors, security headers.
//!
//! The outermost layer, so that nothing that fails inside, panics included, gets out without them.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, HeaderName, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument as _;

use crate::observe::Observed;
use crate::problem::Problem;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::{AppState, deadline};

/// How long the servers of others may take, all requests and repetitions together.
const PROVIDER_WAIT: Duration = Duration::from_secs(40);
const EXECUTE: &str = "/api/workflows/execute";
const ENDPOINTS: &str = "/api/endpoints/";

/// The header of an answer that no cache may keep: it holds a credential, or never ends.
pub(crate) type NoStore = [(HeaderName, HeaderValue); 1];
pub(crate) const NO_STORE: NoStore = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];

/// Puts an answer into its envelope.
pub(crate) async fn envelope(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let observed = Observed::begin(&mut request, &id);
    let limit = time_limit(&app, request.uri().path());
    let work = deadline::of_request(tokio::time::timeout(limit, next.run(request)));
    let mut response = match work.instrument(observed.log.clone()).await {
        Ok(response) => response,
        Err(late) => Problem::from(deadline::too_late(late)).into_response(),
    };
    if let Some(problem) = problem_of(&mut response) {
        observed.log.in_scope(|| problem.log(&id.0));
        let (parts, _) = response.into_parts();
        response = problem.render(parts.headers, &id.0);
    }
    observed.end(response.status());
    let headers = response.headers_mut();
    let id = HeaderValue::from_str(&id.0).expect("visible ASCII is a header value");
    headers.insert(X_REQUEST_ID, id);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if app.platform.settings.is_production() {
        headers.insert(
            STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000; includeSubDomains"),
        );
    }
    response
}

/// How long a request may take. Running a workflow may wait for its end, and bounds the rest by itself; so does what asks
/// a provider, or the package index.
fn time_limit(app: &AppState, path: &str) -> Duration {
    let wait = if may_wait(path) {
        Duration::from_secs(app.platform.settings.sync_wait_seconds)
    } else if asks_provider(path) {
        PROVIDER_WAIT
    } else {
        Duration::ZERO
    };
    deadline::PROMPT + wait
}

fn asks_provider(path: &str) -> bool {
    let path = path.strip_prefix("/api").unwrap_or(path);
    let is_login =
        path.starts_with("/auth/") && (path.ends_with("/authorize") || path.ends_with("/callback"));
    is_login || path == "/packages/updates" || path.starts_with("/oauth/") || path.starts_with("/auth/oauth/")
}

/// Whether a path may wait for the end of a run.
fn may_wait(path: &str) -> bool {
    let is_of_form =
        || path.starts_with("/api/forms/") && (path.ends_with("/execute") || path.ends_with("/startup"));
    path == EXECUTE || path.starts_with(ENDPOINTS) || is_of_form()
}

/// What a panic of a handler becomes.
pub(crate) fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "of unknown kind".into());
    Problem::from(domain::Error::internal(format!("a handler panicked: {text}"))).into_response()
}

/// The problem a response carries, or stands for if a layer made it without one.
fn problem_of(response: &mut Response) -> Option<Problem> {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return Some(problem);
    }
    let status: StatusCode = response.status();
    (status.is_client_error() || status.is_server_error()).then(|| Problem::new(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_waits_for_a_run_has_the_time_for_it() {
        for path in
            ["/api/workflows/execute", "/api/endpoints/greet", "/api/forms/1/execute", "/api/forms/1/startup"]
        {
            assert!(may_wait(path), "{path}");
        }
        for path in ["/api/workflows", "/api/forms/1", "/api/endpoints", "/api/workflow-keys", "/auth/login"]
        {
            assert!(!may_wait(path), "{path}");
        }
    }
}
