//! Rows of the access matrix. What anybody may ask: health and documents.

use super::{Body, EVERYBODY, Row};

pub(super) const ROWS: &[Row] = &[
    ("get", "/", Body::None, EVERYBODY),
    ("get", "/health", Body::None, EVERYBODY),
    ("get", "/health/live", Body::None, EVERYBODY),
    ("get", "/health/ready", Body::None, EVERYBODY),
    ("get", "/health/detailed", Body::None, EVERYBODY),
    ("get", "/openapi.json", Body::None, EVERYBODY),
];
