//! Rows of the access matrix. Branding: seen by anybody, changed by administrators.

use super::{ADMINISTRATOR, Body, EVERYBODY, Row};

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/branding", Body::None, EVERYBODY),
    ("put", "/api/branding", Body::Json(r##"{"primary_color": "#0a7"}"##), ADMINISTRATOR),
    ("post", "/api/branding/logo/{logo_type}", Body::Logo, ADMINISTRATOR),
    ("get", "/api/branding/logo/{logo_type}", Body::None, EVERYBODY),
    ("delete", "/api/branding/logo/{logo_type}", Body::None, ADMINISTRATOR),
    ("delete", "/api/branding/color", Body::None, ADMINISTRATOR),
    ("delete", "/api/branding", Body::None, ADMINISTRATOR),
];
