//! Bad input for checking workflow files.

use reqwest::Method;
use serde_json::{Value, json};

use super::cases::{Case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let admin = &world.admin.client;
    let post = |body: Value| admin.request(Method::POST, "/api/workflows/validate").json(&body);
    vec![
        invalid("a check without path", post(json!({"content": "x = 1"})), "/path"),
        invalid("a check of an empty path", post(json!({"path": " "})), "/path"),
        invalid("a check of a path with NUL", post(json!({"path": "a\0.py"})), "/path"),
        invalid("a check of a path that is no text", post(json!({"path": 1})), "/path"),
        invalid(
            "a check of content that is no text",
            post(json!({"path": "a.py", "content": []})),
            "/content",
        ),
    ]
}
