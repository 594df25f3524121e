//! Rows of the access matrix. Configuration, secrets and the audit log: for administrators, and for users whose role
//! says so; the key is a global one.

use super::{ADMINISTRATOR, Body, Row};

const CREATED: [u16; 6] = [401, 401, 403, 403, 403, 201];
const GONE: [u16; 6] = [401, 401, 403, 403, 403, 204];

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/config", Body::None, ADMINISTRATOR),
    ("post", "/api/config", Body::Json(r#"{"key": "new", "value": "1", "type": "int"}"#), CREATED),
    ("delete", "/api/config/{key}", Body::None, GONE),
    ("get", "/api/secrets", Body::None, ADMINISTRATOR),
    ("post", "/api/secrets", Body::Json(r#"{"secret_key": "new", "value": "v"}"#), CREATED),
    ("put", "/api/secrets/{key}", Body::Json(r#"{"value": "w"}"#), ADMINISTRATOR),
    ("delete", "/api/secrets/{key}", Body::None, GONE),
    ("get", "/api/audit", Body::None, ADMINISTRATOR),
];
