//! Rows of the access matrix. Schedules: for administrators; anybody may ask what an expression means.

use super::{ADMINISTRATOR, Body, Row, SIGNED_IN};

const DONE: [u16; 6] = [401, 401, 403, 403, 403, 204];

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/schedules", Body::None, ADMINISTRATOR),
    ("post", "/api/schedules/validate", Body::Json(r#"{"expression": "0 6 * * *"}"#), SIGNED_IN),
    ("post", "/api/schedules/{id}/trigger", Body::None, ADMINISTRATOR),
    ("post", "/api/schedules/{id}/pause", Body::None, DONE),
    ("post", "/api/schedules/{id}/resume", Body::None, DONE),
    ("get", "/api/schedules/{id}/history", Body::None, ADMINISTRATOR),
];
