//! Bad input for endpoints and their keys.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let (admin, nobody) = (&world.admin.client, world.nobody());
    let make = |body: Value| admin.request(Method::POST, "/api/workflow-keys").json(&body);
    let list = |query: &str| admin.request(Method::GET, &format!("/api/workflow-keys?{query}"));
    let revoke = |id: &str| admin.request(Method::DELETE, &format!("/api/workflow-keys/{id}"));
    let call = |path: &str| nobody.request(Method::POST, &format!("/api/endpoints/{path}"));
    let key = |text: &str| call("greet").header("x-bifrost-key", text);
    let unauthenticated = |name, request| case(name, request, 401, "unauthenticated", None);
    vec![
        invalid("a key that lives no day", make(json!({"expires_in_days": 0})), "/expires_in_days"),
        invalid(
            "a key that lives longer than a decade",
            make(json!({"expires_in_days": 3651})),
            "/expires_in_days",
        ),
        invalid("a key that lives half a day", make(json!({"expires_in_days": 0.5})), "/expires_in_days"),
        invalid("a description with NUL", make(json!({"description": "\0"})), "/description"),
        invalid(
            "a description beyond all measure",
            make(json!({"description": "x".repeat(1001)})),
            "/description",
        ),
        invalid("a name with NUL", make(json!({"workflow_name": "a\0"})), "/workflow_name"),
        invalid("a name that is no text", make(json!({"workflow_name": 1})), "/workflow_name"),
        case("a key of nothing", make(json!({"workflow_name": "nothing"})), 404, "not-found", None),
        invalid("keys that may be revoked", list("include_revoked=perhaps"), "?include_revoked"),
        invalid("no keys", list("limit=0"), "?limit"),
        invalid("keys of a name with NUL", list("workflow_id=%00"), "?workflow_id"),
        case("the next page of another list", list("continuationToken=x"), 400, "bad-request", None),
        invalid("revoking what is no id", revoke("greet"), "path:workflow_id"),
        case("revoking what is not there", revoke(&Uuid::now_v7().to_string()), 404, "not-found", None),
        invalid("a call without a key", call("greet"), "header:X-Bifrost-Key"),
        invalid("a call of nothing without a key", call("nothing"), "header:X-Bifrost-Key"),
        invalid(
            "a call with a cookie",
            call("greet").header("cookie", "access_token=x"),
            "header:X-Bifrost-Key",
        ),
        invalid("a call of a name with NUL", call("a%00"), "path:workflow_name"),
        invalid(
            "a call with a bad idempotency key",
            key("k").header("idempotency-key", "a b"),
            "header:Idempotency-Key",
        ),
        unauthenticated("a call with an unknown key", key("unknown")),
        unauthenticated("a call with an empty key", key("")),
        unauthenticated("a call with a key beyond all measure", key(&"k".repeat(5_000))),
        unauthenticated("a call with an access token", key(admin.bearer().expect("signed in"))),
        case(
            "a method nothing answers to",
            nobody.request(Method::PATCH, "/api/endpoints/greet"),
            405,
            "method-not-allowed",
            None,
        ),
    ]
}
