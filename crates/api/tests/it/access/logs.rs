//! Rows of the access matrix. What happened to the platform is for administrators.

use super::{ADMINISTRATOR, Body, Row};

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/logs", Body::None, ADMINISTRATOR),
    ("get", "/api/logs/{category}/{row_key}", Body::None, ADMINISTRATOR),
];
