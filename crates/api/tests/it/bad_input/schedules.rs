//! Bad input for schedules.

use reqwest::{Method, RequestBuilder};
use serde_json::json;
use uuid::Uuid;

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let admin = &world.admin.client;
    let missing = Uuid::now_v7();
    let post = |path: &str| admin.request(Method::POST, &format!("/api/schedules/{path}"));
    let get = |path: &str| admin.request(Method::GET, &format!("/api/schedules{path}"));
    let gone = |name, request: RequestBuilder| case(name, request, 404, "not-found", None);
    vec![
        invalid("a check without expression", post("validate").json(&json!({})), "/expression"),
        invalid("a check of a number", post("validate").json(&json!({"expression": 5})), "/expression"),
        invalid(
            "a zone that is no text",
            post("validate").json(&json!({"expression": "", "timezone": 1})),
            "/timezone",
        ),
        invalid("running what is no id", post("nightly/trigger"), "path:id"),
        invalid("pausing what is no id", post("nightly/pause"), "path:id"),
        gone("running what is not there", post(&format!("{missing}/trigger"))),
        gone("pausing what is not there", post(&format!("{missing}/pause"))),
        gone("resuming what is not there", post(&format!("{missing}/resume"))),
        gone("the history of what is not there", get(&format!("/{missing}/history"))),
        invalid(
            "a bad idempotency key",
            post(&format!("{missing}/trigger")).header("idempotency-key", "a b"),
            "header:Idempotency-Key",
        ),
        invalid("too long a list", get("?limit=1001"), "?limit"),
        case("the next page of another list", get("?continuationToken=x"), 400, "bad-request", None),
    ]
}
