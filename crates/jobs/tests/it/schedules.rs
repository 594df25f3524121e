//! The clockwork fires schedules: a file with a schedule is enough for its workflow to run by itself.

use domain::executions::Status;
use domain::id::{ExecutionId, UserId};
use testkit::eventually_within;

use crate::support::{Engine, PATIENCE};

const FILE: &str = "from bifrost import context, workflow

@workflow(schedule='* * * * *', schedule_timezone='Europe/Zurich', schedule_overlap='queue')
def ticks():
    return {'by': context.name, 'scope': context.scope, 'admin': context.is_platform_admin, 'given': context.parameters}
";

#[tokio::test]
async fn a_schedule_in_a_file_runs_its_workflow() {
    let engine = Engine::on_files(&[("ticks.py", FILE)]).await;
    let mut conn = engine.test.db.connect().await;
    // Nobody waits for the next minute: the last one is due.
    sqlx::query("UPDATE schedules SET next_fire_at = date_trunc('minute', now())")
        .execute(&mut conn)
        .await
        .expect("sets");
    let id = eventually_within(PATIENCE, "a scheduled run", || async {
        let mut conn = engine.test.db.connect().await;
        let started = sqlx::query_scalar::<_, uuid::Uuid>(
            "SELECT execution_id FROM schedule_fires WHERE outcome = 'started' ORDER BY fire_at LIMIT 1",
        );
        started.fetch_optional(&mut conn).await.expect("reads")
    })
    .await;
    let run = engine.ended(ExecutionId(id)).await;
    assert_eq!(
        (run.status, run.executed_by, run.workflow_name.as_str()),
        (Status::Success, UserId::SYSTEM, "ticks")
    );
    let result = run.result.expect("has one");
    let result: serde_json::Value = serde_json::from_str(result.0.get()).expect("JSON");
    let expected =
        serde_json::json!({"by": "Scheduled Execution", "scope": "GLOBAL", "admin": false, "given": {}});
    assert_eq!(result, expected);
    drop(conn);
    engine.close().await;
}
