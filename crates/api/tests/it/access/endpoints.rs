//! Rows of the access matrix. Endpoints take keys only: an access token at their door is a bad key, whoever holds it.

use super::{ADMINISTRATOR, Body, Row};

const KEYS_ONLY: [u16; 6] = [422, 401, 401, 401, 401, 401];
const CREATED: [u16; 6] = [401, 401, 403, 403, 403, 201];
const GONE: [u16; 6] = [401, 401, 403, 403, 403, 204];

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/endpoints/{workflow_name}", Body::None, KEYS_ONLY),
    ("post", "/api/endpoints/{workflow_name}", Body::None, KEYS_ONLY),
    ("put", "/api/endpoints/{workflow_name}", Body::None, KEYS_ONLY),
    ("delete", "/api/endpoints/{workflow_name}", Body::None, KEYS_ONLY),
    ("get", "/api/workflow-keys", Body::None, ADMINISTRATOR),
    ("post", "/api/workflow-keys", Body::Json(r#"{"description": "another"}"#), CREATED),
    // The id of a workflow that has a key.
    ("delete", "/api/workflow-keys/{workflow_id}", Body::None, GONE),
];
