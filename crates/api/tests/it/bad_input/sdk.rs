//! Bad input for the SDK's routes. What needs a key is in the tests of the SDK: here nobody has one.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let (admin, nobody) = (&world.admin.client, world.nobody());
    let make = |body: Value| admin.request(Method::POST, "/api/sdk/keys").json(&body);
    let context = |body: Value| admin.request(Method::PUT, "/api/sdk/context").json(&body);
    let keyed = |route: &str, key: &str| {
        let request = nobody.request(Method::POST, &format!("/api/sdk/{route}"));
        request.bearer_auth(key).json(&json!({"key": "a", "path": "a", "value": 1, "content": ""}))
    };
    let refused = |name, request: RequestBuilder| case(name, request, 401, "unauthenticated", None);
    vec![
        invalid("a key without name", make(json!({})), "/name"),
        invalid("a key with a blank name", make(json!({"name": " "})), "/name"),
        invalid("a key with a long name", make(json!({"name": "x".repeat(101)})), "/name"),
        invalid("a key with NUL in its name", make(json!({"name": "a\0"})), "/name"),
        invalid("a key for no day", make(json!({"name": "a", "expires_in_days": 0})), "/expires_in_days"),
        invalid(
            "a key for longer than a year",
            make(json!({"name": "a", "expires_in_days": 366})),
            "/expires_in_days",
        ),
        invalid("deleting what is no id", admin.request(Method::DELETE, "/api/sdk/keys/mine"), "path:key_id"),
        case(
            "deleting what is not there",
            admin.request(Method::DELETE, &format!("/api/sdk/keys/{}", Uuid::now_v7())),
            404,
            "not-found",
            None,
        ),
        invalid(
            "a context of no organization",
            context(json!({"default_org_id": Uuid::now_v7()})),
            "/default_org_id",
        ),
        invalid("a context of what is no id", context(json!({"default_org_id": "acme"})), "/default_org_id"),
        invalid(
            "parameters that are no object",
            context(json!({"default_parameters": []})),
            "/default_parameters",
        ),
        invalid(
            "parameters with NUL",
            context(json!({"default_parameters": {"a": "\0"}})),
            "/default_parameters",
        ),
        refused(
            "configuration without key",
            nobody.request(Method::POST, "/api/sdk/config/get").json(&json!({"key": "a"})),
        ),
        refused(
            "configuration with an unknown key",
            keyed("config/get", &format!("bfsk_{}", "k".repeat(43))),
        ),
        refused(
            "configuration with an access token",
            keyed("config/set", admin.bearer().expect("signed in")),
        ),
        refused("files with an empty key", keyed("files/read", "bfsk_")),
        refused(
            "files with a key beyond all measure",
            keyed("files/write", &format!("bfsk_{}", "k".repeat(5_000))),
        ),
    ]
}
