//! Rows of the access matrix. Forms: the one of [`super::Stage`] is reached by a role that only the owner has.

use super::{ADMINISTRATOR, Body, OWNER, Row, SIGNED_IN};

const CREATED: [u16; 6] = [401, 401, 403, 403, 403, 201];
const DONE: [u16; 6] = [401, 401, 403, 403, 403, 204];
/// The form has no workflow.
const NOTHING_TO_RUN: [u16; 6] = [401, 401, 400, 403, 404, 400];

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/forms", Body::None, SIGNED_IN),
    ("post", "/api/forms", Body::Json(r#"{"name": "New", "form_schema": {"fields": []}}"#), CREATED),
    ("get", "/api/forms/{form_id}", Body::None, OWNER),
    ("post", "/api/forms/{form_id}/execute", Body::Json(r#"{"form_data": {}}"#), NOTHING_TO_RUN),
    ("post", "/api/forms/{form_id}/startup", Body::None, OWNER),
    (
        "post",
        "/api/forms/{form_id}/upload",
        Body::Json(r#"{"file_name": "a.txt", "content_type": "text/plain", "file_size": 1}"#),
        OWNER,
    ),
    ("put", "/api/uploads/{token}", Body::None, [403; 6]),
    ("post", "/api/forms/{form_id}/data-providers/{name}", Body::None, [401, 401, 404, 403, 404, 404]),
    ("patch", "/api/forms/{form_id}", Body::Json(r#"{"description": "d"}"#), ADMINISTRATOR),
    ("put", "/api/forms/{form_id}", Body::Json(r#"{"description": "d"}"#), ADMINISTRATOR),
    ("get", "/api/roles/{role_id}/forms", Body::None, ADMINISTRATOR),
    ("post", "/api/roles/{role_id}/forms", Body::Json(r#"{"form_ids": ["{form_id}"]}"#), DONE),
    ("delete", "/api/roles/{role_id}/forms/{form_id}", Body::None, DONE),
    ("get", "/api/users/{user_id}/forms", Body::None, ADMINISTRATOR),
    ("delete", "/api/forms/{form_id}", Body::None, DONE),
];
