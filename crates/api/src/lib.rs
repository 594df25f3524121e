//! The HTTP side: routes, extractors, problems, live updates, and the OpenAPI document made from them.
//!
//! No SQL and no rules of the domain live here: handler, domain function, nothing between. The invariant:
//! whoever reaches a handler's body has passed the extractor that says who may call it.

mod authenticate;
mod coalesce;
mod cookies;
mod deadline;
mod dev;
mod envelope;
mod extract;
mod indexing;
mod limits;
mod live;
mod observe;
mod openapi;
mod openapi_frame;
mod origin;
mod page;
mod problem;
mod python;
mod request_id;
mod router;
mod routes;
mod serve;
mod socket;
mod state;
mod tokens;
mod unread;
mod visibility;

pub use openapi::{openapi, openapi_json};
pub use router::router;
pub use serve::{serve, serve_alone};
pub use state::{App, AppState, Caller};
