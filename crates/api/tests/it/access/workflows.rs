//! Rows of the access matrix. Workflows.

use super::{ADMINISTRATOR, Body, Row, SIGNED_IN};

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/workflows", Body::None, SIGNED_IN),
    ("get", "/api/data-providers", Body::None, SIGNED_IN),
    ("get", "/api/workflows/problems", Body::None, ADMINISTRATOR),
    ("post", "/api/workflows/validate", Body::Json(r#"{"path": "a.py", "content": "x = 1"}"#), SIGNED_IN),
    ("post", "/api/workflows/{workflow_id}/pause", Body::None, ADMINISTRATOR),
    ("post", "/api/workflows/{workflow_id}/resume", Body::None, ADMINISTRATOR),
    ("post", "/api/workflows/execute", Body::Json(r#"{"code": "x = 1"}"#), ADMINISTRATOR),
];
