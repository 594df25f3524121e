//! Rows of the access matrix. What anybody may ask: health and documents; and dead letters, which belong to the platform.

use super::{ADMINISTRATOR, Body, EVERYBODY, Row};

pub(super) const ROWS: &[Row] = &[
    ("get", "/", Body::None, EVERYBODY),
    ("get", "/health", Body::None, EVERYBODY),
    ("get", "/health/live", Body::None, EVERYBODY),
    ("get", "/health/ready", Body::None, EVERYBODY),
    ("get", "/health/detailed", Body::None, EVERYBODY),
    ("get", "/openapi.json", Body::None, EVERYBODY),
    ("get", "/api/dead-letters", Body::None, ADMINISTRATOR),
    ("post", "/api/dead-letters/replay", Body::Json(r#"{"queue": "git.sync"}"#), ADMINISTRATOR),
    ("post", "/api/dead-letters/drop", Body::Json(r#"{"queue": "git.sync", "all": true}"#), ADMINISTRATOR),
];
