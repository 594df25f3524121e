//! Rows of the access matrix. Executions: the one of [`super::Stage`] is the owner's and was cancelled.

use super::{ADMINISTRATOR, Body, OWNER, Row, SIGNED_IN};

pub(super) const ROWS: &[Row] = &[
    ("get", "/api/executions", Body::None, SIGNED_IN),
    ("get", "/api/executions/{execution_id}", Body::None, OWNER),
    ("get", "/api/executions/{execution_id}/result", Body::None, OWNER),
    ("get", "/api/executions/{execution_id}/logs", Body::None, OWNER),
    ("get", "/api/executions/{execution_id}/stream", Body::None, OWNER),
    ("get", "/api/executions/{execution_id}/variables", Body::None, [401, 401, 403, 403, 404, 200]),
    ("post", "/api/executions/{execution_id}/cancel", Body::None, OWNER),
    ("get", "/api/executions/{execution_id}/explain", Body::None, OWNER),
    ("post", "/api/executions/{execution_id}/rerun", Body::None, ADMINISTRATOR),
    ("post", "/api/executions/bulk/cancel", Body::Json(r#"{"workflow_name": "nothing"}"#), SIGNED_IN),
    ("post", "/api/executions/bulk/retry", Body::Json(r#"{"workflow_name": "nothing"}"#), ADMINISTRATOR),
    // Last: ending what is stuck would end what is compared above.
    ("get", "/api/executions/cleanup/stuck", Body::None, ADMINISTRATOR),
    ("post", "/api/executions/cleanup/redis-orphans", Body::None, ADMINISTRATOR),
    ("post", "/api/executions/cleanup/trigger", Body::None, ADMINISTRATOR),
];
