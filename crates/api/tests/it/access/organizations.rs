//! Rows of the access matrix. Organizations.

use super::{ADMINISTRATOR, Body, Row};

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/organizations", Body::None, ADMINISTRATOR),
    ("post", "/api/organizations", Body::Json(r#"{"name": "New"}"#), [401, 401, 403, 403, 403, 201]),
    ("get", "/api/organizations/{org_id}", Body::None, ADMINISTRATOR),
    ("patch", "/api/organizations/{org_id}", Body::Json(r#"{"settings": {}}"#), ADMINISTRATOR),
    ("delete", "/api/organizations/{org_id}", Body::None, [401, 401, 403, 403, 403, 204]),
];
