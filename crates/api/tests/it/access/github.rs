//! Rows of the access matrix. The repository of the workspace: platform administrators alone. None is connected here, so that
//! operations of git answer that they cannot; what GitHub is asked needs a token, which there is none of.

use super::{ADMINISTRATOR, Body, Row};

const NO_TOKEN: [u16; 6] = [401, 401, 403, 403, 403, 400];
const INVALID: [u16; 6] = [401, 401, 403, 403, 403, 422];
const REPOSITORY: Body =
    Body::Json(r#"{"repo_url": "https://127.0.0.1/acme/flows.git", "auth_token": "", "branch": "main"}"#);

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/github/status", Body::None, ADMINISTRATOR),
    ("post", "/api/github/refresh", Body::None, ADMINISTRATOR),
    ("get", "/api/github/changes", Body::None, ADMINISTRATOR),
    ("get", "/api/github/commits", Body::None, ADMINISTRATOR),
    ("get", "/api/github/conflicts", Body::None, ADMINISTRATOR),
    ("get", "/api/github/config", Body::None, ADMINISTRATOR),
    ("post", "/api/github/commit", Body::Json("{}"), ADMINISTRATOR),
    ("post", "/api/github/push", Body::Json("{}"), ADMINISTRATOR),
    ("post", "/api/github/pull", Body::Json("{}"), ADMINISTRATOR),
    ("post", "/api/github/abort-merge", Body::None, ADMINISTRATOR),
    ("post", "/api/github/discard-unpushed", Body::None, ADMINISTRATOR),
    ("post", "/api/github/discard-commit", Body::Json(r#"{"commit_sha": "1c002dd4"}"#), ADMINISTRATOR),
    ("post", "/api/github/validate", Body::Json(r#"{"token": ""}"#), INVALID),
    ("get", "/api/github/repositories", Body::None, NO_TOKEN),
    ("get", "/api/github/branches", Body::None, INVALID),
    ("post", "/api/github/create-repository", Body::Json(r#"{"name": "flows"}"#), NO_TOKEN),
    ("post", "/api/github/analyze-workspace", REPOSITORY, ADMINISTRATOR),
    ("post", "/api/github/init", REPOSITORY, ADMINISTRATOR),
    ("post", "/api/github/configure", REPOSITORY, NO_TOKEN),
    ("post", "/api/github/disconnect", Body::None, ADMINISTRATOR),
];
