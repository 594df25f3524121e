//! Rows of the access matrix. OAuth connections.

use super::{ADMINISTRATOR, Body, Row};

const ONE: &str = "/api/oauth/connections/{connection_name}";
const NEW: &str = r#"{
    "connection_name": "another", "oauth_flow_type": "authorization_code", "client_id": "client",
    "authorization_url": "https://id.example/authorize", "token_url": "https://id.example/token"
}"#;
/// A platform administrator gets there, and lacks something else.
const fn administrator(status: u16) -> [u16; 6] {
    [401, 401, 403, 403, 403, status]
}

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/oauth/connections", Body::None, ADMINISTRATOR),
    ("post", "/api/oauth/connections", Body::Json(NEW), administrator(201)),
    ("get", ONE, Body::None, ADMINISTRATOR),
    ("put", ONE, Body::Json(r#"{"name": "Matrix"}"#), ADMINISTRATOR),
    ("post", "/api/oauth/connections/{connection_name}/authorize", Body::None, administrator(422)),
    ("post", "/api/oauth/connections/{connection_name}/cancel", Body::None, ADMINISTRATOR),
    ("post", "/api/oauth/connections/{connection_name}/refresh", Body::None, administrator(400)),
    (
        "post",
        "/api/oauth/callback/{connection_name}",
        Body::Json(r#"{"code": "none", "state": "none"}"#),
        [401, 401, 400, 400, 400, 400],
    ),
    ("get", "/api/oauth/credentials/{connection_name}", Body::None, ADMINISTRATOR),
    ("get", "/api/oauth/refresh_job_status", Body::None, ADMINISTRATOR),
    ("post", "/api/oauth/refresh_all", Body::None, ADMINISTRATOR),
    ("delete", ONE, Body::None, administrator(204)),
];
