//! Bad input for the files of the workspace.

use reqwest::Method;
use serde_json::{Value, json};

use super::cases::{Case, case, invalid};
use crate::support::World;

const CONTENT: &str = "/api/editor/files/content";

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let admin = &world.admin.client;
    let put = |body: Value| admin.request(Method::PUT, CONTENT).json(&body);
    let search = |body: Value| admin.request(Method::POST, "/api/editor/search").json(&body);
    let get = |path: &str| admin.request(Method::GET, path);
    vec![
        invalid("a file without path", put(json!({"content": "x"})), "/path"),
        invalid("a file of an empty path", put(json!({"path": "/workspace/", "content": "x"})), "/path"),
        invalid("a file with NUL in its path", put(json!({"path": "a\0", "content": "x"})), "/path"),
        invalid("a file without content", put(json!({"path": "a"})), "/content"),
        invalid(
            "a file that is no Base64",
            put(json!({"path": "a", "content": "%", "encoding": "base64"})),
            "/content",
        ),
        invalid(
            "a file in Latin-1",
            put(json!({"path": "a", "content": "x", "encoding": "latin-1"})),
            "/encoding",
        ),
        case("a file outside", put(json!({"path": "../a", "content": "x"})), 400, "bad-request", None),
        case(
            "a file among the overlays",
            put(json!({"path": ".overlays/x/a", "content": "x"})),
            400,
            "bad-request",
            None,
        ),
        case(
            "a file of git",
            put(json!({"path": ".git/hooks/pre-commit", "content": "x"})),
            400,
            "bad-request",
            None,
        ),
        case(
            "a file that is too large",
            put(json!({"path": "a", "content": "x".repeat(10 * 1024 * 1024 + 1)})),
            413,
            "too-large",
            None,
        ),
        case(
            "a body that is too large",
            put(json!({"path": "a", "content": "x".repeat(25 * 1024 * 1024)})),
            413,
            "too-large",
            None,
        ),
        invalid("nothing to read", get(CONTENT), "?path"),
        case("a folder to read", get(&format!("{CONTENT}?path=bench")), 400, "bad-request", None),
        case(
            "a file outside to read",
            get(&format!("{CONTENT}?path=..%2F..%2Fetc%2Fpasswd")),
            400,
            "bad-request",
            None,
        ),
        case("a folder outside", get("/api/editor/files?path=%2F..%2F"), 400, "bad-request", None),
        case("a folder that is not there", get("/api/editor/files?path=nothing"), 404, "not-found", None),
        invalid("no folder to make", admin.request(Method::POST, "/api/editor/files/folder"), "?path"),
        case(
            "the workspace to delete",
            admin.request(Method::DELETE, "/api/editor/files?path=%2Fworkspace%2Fx%2F.."),
            400,
            "bad-request",
            None,
        ),
        invalid(
            "a rename to nowhere",
            admin.request(Method::POST, "/api/editor/files/rename?old_path=a"),
            "?new_path",
        ),
        case(
            "a rename of nothing",
            admin.request(Method::POST, "/api/editor/files/rename?old_path=nothing&new_path=b"),
            404,
            "not-found",
            None,
        ),
        invalid("a search for nothing", search(json!({"query": ""})), "/query"),
        invalid("a search without query", search(json!({})), "/query"),
        invalid("a search for no results", search(json!({"query": "x", "max_results": 0})), "/max_results"),
        invalid(
            "a search for too many",
            search(json!({"query": "x", "max_results": 10_001})),
            "/max_results",
        ),
        case(
            "a pattern that is none",
            search(json!({"query": "(", "is_regex": true})),
            400,
            "bad-request",
            None,
        ),
        case(
            "a pattern that is huge",
            search(json!({"query": "x{1000}{1000}{1000}", "is_regex": true})),
            400,
            "bad-request",
            None,
        ),
        case(
            "a selection that is none",
            search(json!({"query": "x", "include_pattern": "[z-a"})),
            400,
            "bad-request",
            None,
        ),
        case(
            "a query that is too long",
            search(json!({"query": "x".repeat(1_001)})),
            400,
            "bad-request",
            None,
        ),
    ]
}
