//! Rows of the access matrix. Signing in and out.

use super::{Body, EVERYBODY, Row, SIGNED_IN};

pub(super) const ROWS: &[Row] = &[
    ("post", "/auth/login", Body::Login, EVERYBODY),
    ("post", "/auth/refresh", Body::Refresh, EVERYBODY),
    ("post", "/auth/register", Body::Register, [201; 6]),
    ("get", "/auth/status", Body::None, EVERYBODY),
    ("get", "/auth/me", Body::None, SIGNED_IN),
];
