//! Merges the routes and orders the layers around them.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::DefaultBodyLimit;
use axum::http::header::{HeaderName, RETRY_AFTER};
use axum::http::{HeaderValue, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use domain::settings::Settings;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, CorsLayer};

use crate::page::X_CONTINUATION_TOKEN;
use crate::request_id::X_REQUEST_ID;
use crate::routes::endpoints::document::Documents;
use crate::routes::{auth, docs, documented};
use crate::{AppState, deadline, envelope, openapi, socket, unread};

/// Longest JSON body.
const MAX_BODY: usize = 2 * 1024 * 1024;
const PREFLIGHT_LIFETIME: Duration = Duration::from_secs(600);

/// The whole api. Unknown routes and methods need no handler: the envelope turns any bare error into a document,
/// and the router itself names the methods in `Allow`.
pub fn router(state: AppState) -> axum::Router {
    let (documented, _) = documented().split_for_parts();
    // Clients refresh under `/api/auth` too; the document names only `/auth`.
    let (alias, _) = auth::router().split_for_parts();
    documented
        .nest("/api", alias)
        .route("/docs", get(docs::redirect))
        .route("/docs/{*file}", get(docs::get_file))
        .route("/docs/", get(docs::get_index))
        .route("/ws/connect", get(socket::connect))
        .route("/ws/execution/{execution_id}", get(socket::follow_execution))
        .layer(Extension(Arc::new(Documents::new(openapi::fixed))))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(CatchPanicLayer::custom(envelope::panicked))
        // Inside of CORS: without its headers no page in a browser sees what it is refused with.
        .layer(from_fn(deadline::of_request))
        .layer(from_fn(unread::read_or_close))
        .layer(cors(&state.platform.settings))
        .layer(from_fn_with_state(state.clone(), envelope::envelope))
        .with_state(state)
}

/// Exact origins, with credentials; whoever is not named gets no header at all.
fn cors(settings: &Settings) -> CorsLayer {
    let origins = settings.origins().filter_map(|origin| {
        let sane = !matches!(origin, "*" | "null");
        let value = origin.trim_end_matches('/').parse::<HeaderValue>().ok().filter(|_| sane);
        if value.is_none() {
            tracing::warn!(origin, "CORS_ORIGINS names no exact origin, ignored");
        }
        value
    });
    CorsLayer::new()
        .allow_origin(origins.collect::<Vec<_>>())
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            X_REQUEST_ID,
            X_CONTINUATION_TOKEN,
            RETRY_AFTER,
            HeaderName::from_static("idempotency-replayed"),
        ])
        .max_age(PREFLIGHT_LIFETIME)
}
