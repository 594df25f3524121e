//! Rows of the access matrix. Notifications are everybody's own; the lock of bulk uploads belongs to the platform.

use super::{ADMINISTRATOR, Body, Row, SIGNED_IN};

/// The notification is the owner's, and not for administrators.
const OWN: [u16; 6] = [401, 401, 200, 404, 404, 404];
const GONE: [u16; 6] = [401, 401, 204, 404, 404, 404];
const RELEASED: [u16; 6] = [401, 401, 403, 403, 403, 204];

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/notifications", Body::None, SIGNED_IN),
    ("get", "/api/notifications/{notification_id}", Body::None, OWN),
    ("delete", "/api/notifications/{notification_id}", Body::None, GONE),
    ("get", "/api/notifications/locks/upload", Body::None, ADMINISTRATOR),
    ("post", "/api/notifications/locks/upload", Body::Json(r#"{"operation": "matrix"}"#), ADMINISTRATOR),
    ("delete", "/api/notifications/locks/upload", Body::None, RELEASED),
];
