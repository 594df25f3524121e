//! Rows of the access matrix. Users: the one of [`super::Stage`] is of the owner's organization.

use super::{ADMINISTRATOR, Body, Row};

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/users", Body::None, ADMINISTRATOR),
    ("post", "/api/users", Body::Invite, [401, 401, 403, 403, 403, 201]),
    ("get", "/api/users/{user_id}", Body::None, ADMINISTRATOR),
    ("get", "/api/users/{user_id}/roles", Body::None, ADMINISTRATOR),
    ("patch", "/api/users/{user_id}", Body::Json(r#"{"name": "New"}"#), ADMINISTRATOR),
    ("delete", "/api/users/{user_id}", Body::None, [401, 401, 403, 403, 403, 204]),
];
