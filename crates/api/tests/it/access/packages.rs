//! Rows of the access matrix. Packages: everybody sees them, administrators change them. None is installed here.

use super::{ADMINISTRATOR, Body, Row, SIGNED_IN};

/// An administrator is told that there is nothing to do.
const NOTHING_THERE: [u16; 6] = [401, 401, 403, 403, 403, 400];

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/packages", Body::None, SIGNED_IN),
    ("get", "/api/packages/updates", Body::None, SIGNED_IN),
    ("post", "/api/packages/install", Body::Json(r#"{"package_name": "requests"}"#), ADMINISTRATOR),
    ("post", "/api/packages/rollback", Body::None, NOTHING_THERE),
    ("delete", "/api/packages/{package_name}", Body::None, NOTHING_THERE),
];
