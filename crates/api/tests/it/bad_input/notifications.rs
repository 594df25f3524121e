//! Bad input for notifications and the lock of bulk uploads.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let admin = &world.admin.client;
    let take = |body: Value| admin.request(Method::POST, "/api/notifications/locks/upload").json(&body);
    let of = |method: Method, id: &str| admin.request(method, &format!("/api/notifications/{id}"));
    let missing = |name, request| case(name, request, 404, "not-found", None);
    vec![
        invalid("a lock for a long reason", take(json!({"operation": "x".repeat(101)})), "/operation"),
        invalid("a lock for a number", take(json!({"operation": 5})), "/operation"),
        invalid("a lock with NUL", take(json!({"operation": "a\0"})), "/operation"),
        // Ids are plain texts here: what is no id is the id of nothing.
        missing("a notification of what is no id", of(Method::GET, "mine")),
        missing("dismissing what is no id", of(Method::DELETE, "%00")),
        missing("dismissing what is not there", of(Method::DELETE, &Uuid::now_v7().to_string())),
        missing(
            "releasing what nobody holds",
            admin.request(Method::DELETE, "/api/notifications/locks/upload"),
        ),
    ]
}
