//! Rows of the access matrix. The SDK: keys are everybody's own, what a key opens is closed to access tokens, and the
//! package is for anybody.

use super::{Body, EVERYBODY, Row, SIGNED_IN};

const MADE: [u16; 6] = [401, 401, 201, 201, 201, 201];
/// The key is the owner's.
const OWN: [u16; 6] = [401, 401, 200, 404, 404, 404];
const GONE: [u16; 6] = [401, 401, 204, 404, 404, 404];
const KEYS_ONLY: [u16; 6] = [401; 6];

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/sdk/keys", Body::None, SIGNED_IN),
    ("post", "/api/sdk/keys", Body::Json(r#"{"name": "laptop"}"#), MADE),
    ("patch", "/api/sdk/keys/{key_id}/revoke", Body::None, OWN),
    ("delete", "/api/sdk/keys/{key_id}", Body::None, GONE),
    ("get", "/api/sdk/context", Body::None, SIGNED_IN),
    ("put", "/api/sdk/context", Body::Json(r#"{"track_executions": true}"#), SIGNED_IN),
    ("post", "/api/sdk/config/get", Body::Json(r#"{"key": "matrix"}"#), KEYS_ONLY),
    ("post", "/api/sdk/config/set", Body::Json(r#"{"key": "matrix", "value": 1}"#), KEYS_ONLY),
    ("post", "/api/sdk/config/list", Body::Json("{}"), KEYS_ONLY),
    ("post", "/api/sdk/config/delete", Body::Json(r#"{"key": "matrix"}"#), KEYS_ONLY),
    ("post", "/api/sdk/files/read", Body::Json(r#"{"path": "a.txt"}"#), KEYS_ONLY),
    ("post", "/api/sdk/files/write", Body::Json(r#"{"path": "a.txt", "content": ""}"#), KEYS_ONLY),
    ("post", "/api/sdk/files/list", Body::Json("{}"), KEYS_ONLY),
    ("post", "/api/sdk/files/delete", Body::Json(r#"{"path": "a.txt"}"#), KEYS_ONLY),
    ("get", "/api/sdk/download", Body::None, EVERYBODY),
];
