//! Rows of the access matrix. Metrics: everybody has a dashboard of what they may see; the rest is for administrators.

use super::{ADMINISTRATOR, Body, Row, SIGNED_IN};

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/metrics", Body::None, SIGNED_IN),
    // No worker has taken one.
    ("get", "/api/metrics/snapshot", Body::None, [401, 401, 403, 403, 403, 404]),
    ("get", "/api/metrics/executions/daily", Body::None, ADMINISTRATOR),
    ("get", "/api/metrics/organizations", Body::None, ADMINISTRATOR),
    ("get", "/api/metrics/resources", Body::None, ADMINISTRATOR),
    ("get", "/api/metrics/workflows", Body::None, ADMINISTRATOR),
];
