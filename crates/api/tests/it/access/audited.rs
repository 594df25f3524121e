//! Every operation that changes something leaves a row in the audit log. It fails for a new operation that does not.

use reqwest::StatusCode;

use super::{Body, Row, Stage, ends_sessions, table};

/// Operations that are no reads by their method and yet change nothing, with the reason.
const CHANGE_NOTHING: [(&str, &str, &str); 24] = [
    ("post", "/api/dead-letters/replay", "nothing is dead"),
    ("post", "/api/dead-letters/drop", "nothing is dead"),
    ("post", "/api/executions/bulk/cancel", "the filter of the matrix finds nothing"),
    ("post", "/api/executions/bulk/retry", "the filter of the matrix finds nothing"),
    ("post", "/api/editor/search", "looks at files"),
    ("post", "/api/github/refresh", "no repository is connected"),
    ("post", "/api/github/commit", "no repository is connected"),
    ("post", "/api/github/push", "no repository is connected"),
    ("post", "/api/github/pull", "no repository is connected"),
    ("post", "/api/github/abort-merge", "no repository is connected"),
    ("post", "/api/github/discard-unpushed", "no repository is connected"),
    ("post", "/api/github/discard-commit", "no repository is connected"),
    ("post", "/api/github/analyze-workspace", "looks at files"),
    ("post", "/api/github/init", "the repository of the matrix cannot be reached"),
    (
        "post",
        "/api/oauth/connections/{connection_name}/cancel",
        "the connection of the matrix waits for nobody",
    ),
    ("post", "/api/oauth/refresh_all", "no connection of the matrix has a token to refresh"),
    ("post", "/api/workflows/validate", "looks at a file"),
    ("post", "/api/schedules/validate", "says what an expression means"),
    ("post", "/api/forms/{form_id}/startup", "the form of the matrix has no launch workflow"),
    ("post", "/api/executions/cleanup/redis-orphans", "nothing lives there"),
    ("post", "/api/executions/cleanup/trigger", "nothing is stuck"),
    ("post", "/api/executions/{execution_id}/cancel", "the run of the matrix is cancelled already"),
    ("post", "/auth/forgot-password", "there is no such account"),
    ("post", "/auth/request-verify-token", "there is no such account"),
];

fn changes_something(row: &Row) -> bool {
    let (method, path, ..) = *row;
    method != "get" && !CHANGE_NOTHING.iter().any(|(m, p, _)| (*m, *p) == (method, path))
}

#[tokio::test]
async fn every_operation_that_changes_something_is_in_the_audit_log() {
    let stage = Stage::set().await;
    let count = || stage.world.count("SELECT count(*) FROM audit_log");
    let (mut changes, mut silent) = (0, Vec::new());
    for row in table().filter(|row| changes_something(row)) {
        let mut administrator = stage.world.admin.client.clone();
        if ends_sessions(row) {
            administrator = stage.callers_signed_in_anew().await[5].clone();
        }
        let before = count().await;
        let reply = stage.call(&administrator, row).await;
        if !reply.status.is_success() {
            assert_ne!(reply.status, StatusCode::INTERNAL_SERVER_ERROR, "{} {}", row.0, row.1);
            continue;
        }
        changes += 1;
        // To have something to refresh, somebody signs in first.
        let prepared = i64::from(matches!(row.2, Body::Refresh));
        if count().await <= before + prepared {
            silent.push(format!("{} {}", row.0, row.1));
        }
    }
    println!("audit: {changes} operations that changed something, without a row {}", silent.len());
    assert!(changes > 25, "the matrix lists them");
    assert!(silent.is_empty(), "{silent:#?}");
    stage.world.close().await;
}
