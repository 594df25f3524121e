//! One file per resource: request, view, handlers and `router()` together.

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
