//! What every answer has in common: a request id, problem documents for errors, security headers.
//!
//! The outermost layer, so that nothing that fails inside, panics included, gets out without them.

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, HeaderName, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument as _;

use crate::AppState;
use crate::observe::Observed;
use crate::problem::Problem;
use crate::request_id::{RequestId, X_REQUEST_ID};

/// The header of an answer that no cache may keep: it holds a credential, or never ends.
pub(crate) type NoStore = [(HeaderName, HeaderValue); 1];
pub(crate) const NO_STORE: NoStore = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];

/// Puts an answer into its envelope.
pub(crate) async fn envelope(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let observed = Observed::begin(&mut request, &id);
    let mut response = next.run(request).instrument(observed.log.clone()).await;
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
