//! One file per resource: request, view, handlers and `router()` together; here they are merged.

#[expect(unused_qualifications, reason = "the OpenAPI macro qualifies the query structs of the handlers")]
pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod branding;
pub(crate) mod config;
pub(crate) mod connections;
#[expect(unused_qualifications, reason = "the OpenAPI macro qualifies the query structs of the handlers")]
pub(crate) mod dead_letters;
pub(crate) mod docs;
pub(crate) mod editor;
pub(crate) mod endpoints;
#[expect(unused_qualifications, reason = "the OpenAPI macro qualifies the query structs of the handlers")]
pub(crate) mod executions;
pub(crate) mod forms;
pub(crate) mod github;
pub(crate) mod health;
#[expect(unused_qualifications, reason = "the OpenAPI macro qualifies the query structs of the handlers")]
pub(crate) mod logs;
#[expect(unused_qualifications, reason = "the OpenAPI macro qualifies the query structs of the handlers")]
pub(crate) mod metrics;
pub(crate) mod notifications;
pub(crate) mod organizations;
pub(crate) mod packages;
pub(crate) mod roles;
pub(crate) mod schedules;
pub(crate) mod sdk;
pub(crate) mod secrets;
pub(crate) mod stream;
pub(crate) mod users;
#[expect(unused_qualifications, reason = "the OpenAPI macro qualifies the query structs of the handlers")]
pub(crate) mod workflow_keys;
pub(crate) mod workflows;

use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::AppState;
use crate::openapi_frame::Frame;

/// The routes that the OpenAPI document describes.
pub(crate) fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Frame::openapi())
        .merge(health::router())
        .merge(docs::router())
        .merge(auth::router())
        .merge(organizations::router())
        .merge(branding::router())
        .merge(users::router())
        .merge(roles::router())
        .merge(config::router())
        .merge(secrets::router())
        .merge(connections::router())
        .merge(audit::router())
        .merge(logs::router())
        .merge(forms::router())
        .merge(editor::router())
        .merge(packages::router())
        .merge(github::router())
        .merge(workflows::router())
        .merge(schedules::router())
        .merge(sdk::router())
        .merge(workflow_keys::router())
        .merge(endpoints::router())
        .merge(executions::router())
        .merge(metrics::router())
        .merge(dead_letters::router())
        .merge(notifications::router())
        .merge(stream::router())
}
