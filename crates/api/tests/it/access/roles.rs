//! Rows of the access matrix. Roles: the one of [`super::Stage`] is of the owner's organization, and so is who gets it.

use super::{ADMINISTRATOR, Body, Row};

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/roles", Body::None, ADMINISTRATOR),
    ("post", "/api/roles", Body::Json(r#"{"name": "New"}"#), [401, 401, 403, 403, 403, 201]),
    ("get", "/api/roles/{role_id}", Body::None, ADMINISTRATOR),
    ("patch", "/api/roles/{role_id}", Body::Json(r#"{"description": "New"}"#), ADMINISTRATOR),
    ("put", "/api/roles/{role_id}", Body::Json(r#"{"description": "New"}"#), ADMINISTRATOR),
    ("get", "/api/roles/{role_id}/users", Body::None, ADMINISTRATOR),
    (
        "post",
        "/api/roles/{role_id}/users",
        Body::Json(r#"{"user_ids": ["kay@acme.example"]}"#),
        [401, 401, 403, 403, 403, 204],
    ),
    ("delete", "/api/roles/{role_id}/users/{user_id}", Body::None, [401, 401, 403, 403, 403, 204]),
    ("delete", "/api/roles/{role_id}", Body::None, [401, 401, 403, 403, 403, 204]),
];
