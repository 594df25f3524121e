//! Rows of the access matrix. Files of the workspace: platform administrators alone; without a path there is nothing to do.

use super::{ADMINISTRATOR, Body, Row};

const NO_PATH: [u16; 6] = [401, 401, 403, 403, 403, 422];

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/editor/files", Body::None, ADMINISTRATOR),
    ("get", "/api/editor/files/content", Body::None, NO_PATH),
    (
        "put",
        "/api/editor/files/content",
        Body::Json(r#"{"path": "notes/matrix.txt", "content": "x"}"#),
        ADMINISTRATOR,
    ),
    ("post", "/api/editor/files/folder", Body::None, NO_PATH),
    ("post", "/api/editor/files/rename", Body::None, NO_PATH),
    ("post", "/api/editor/search", Body::Json(r#"{"query": "matrix"}"#), ADMINISTRATOR),
    ("delete", "/api/editor/files", Body::None, NO_PATH),
];
