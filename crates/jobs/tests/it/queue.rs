//! The queue under a real worker: fairness between organizations, and slots that come back when a worker is killed.

use std::time::{Duration, Instant};

use domain::events::Event;
use domain::executions::Status;
use domain::id::{ExecutionId, OrgId};
use domain::wakeup::Wakeup;
use serde_json::json;
use sqlx::AssertSqlSafe;
use testkit::{eventually, eventually_within};

use crate::faults::Worker;
use crate::support::{Engine, Installation, user_of};

const QUICK: &str = "import time\nfrom bifrost import workflow\n\n@workflow(isolation='pooled')\ndef quick():\n    time.sleep(0.05)\n    return 1\n";
const LONE: &str = "import time\nfrom bifrost import workflow\n\n@workflow(concurrency_limit=1)\ndef lone(seconds: int):\n    time.sleep(seconds)\n    return 1\n";

#[tokio::test(flavor = "multi_thread")]
async fn one_run_starts_soon_beside_five_thousand_of_another_organization() {
    let engine = Engine::on_files(&[("quick.py", QUICK)]).await;
    let (a, b): (OrgId, OrgId) = (engine.org("a").await, engine.org("b").await);
    let capacity = async || domain::workers::capacity(&engine.platform.db).await.expect("reads");
    eventually("the worker to say that it is alive", || async {
        (capacity().await.workers == 1).then_some(())
    })
    .await;
    let first = engine.submit(&user_of(a), "quick", json!({})).await;
    engine.ended(first).await;
    let mut conn = engine.test.db.connect().await;
    // As urgent as can be, and waiting for an hour.
    let backlog = format!(
        "INSERT INTO executions (id, organization_id, workflow_id, workflow_name, parameters, executed_by, executed_by_name,
             executed_by_email, priority, timeout_seconds, created_at, due_at, queue_rank)
         SELECT gen_random_uuid(), organization_id, workflow_id, workflow_name, '{{}}', executed_by, 'n', 'e', 10, 60,
             now() - interval '1 hour', now() - interval '1 hour', now() - interval '70 minutes'
         FROM executions CROSS JOIN generate_series(1, 5000)
         WHERE id = '{first}'"
    );
    sqlx::raw_sql(AssertSqlSafe(backlog)).execute(&mut conn).await.expect("inserts");
    let done = async || -> i64 {
        let mut conn = engine.test.db.connect().await;
        let counted = sqlx::query_scalar(
            "SELECT count(*) FROM executions WHERE workflow_name = 'quick' AND completed_at IS NOT NULL",
        );
        counted.fetch_one(&mut conn).await.expect("counts")
    };
    eventually("the backlog under way", || async { (done().await > 50).then_some(()) }).await;

    let since = Instant::now();
    let late = engine.submit(&user_of(b), "quick", json!({})).await;
    let ended = engine.ended(late).await;
    let took = since.elapsed();
    let waited = ended.started_at.expect("started") - ended.created_at;
    let left = 5_001 - done().await;
    println!(
        "fairness: b's one started after {:.3} s and ended after {:.3} s, with {left} of a's 5,000 still waiting",
        waited.as_seconds_f64(),
        took.as_secs_f64()
    );
    assert!(left > 0, "the backlog was there all the time");
    assert!(waited.as_seconds_f64() < 10.0);
    sqlx::query("DELETE FROM executions WHERE status = 'Pending'").execute(&mut conn).await.expect("deletes");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_idles_begins_what_it_is_told_of_and_needs_no_wakeup_for_it() {
    let engine = Engine::on_files(&[("quick.py", QUICK)]).await;
    let scope = Engine::admin();
    let first = engine.run(&scope, "quick", json!({})).await.id;
    let told = ExecutionId::generate();
    let mut conn = engine.test.db.connect().await;
    // The sweeper leaves alone what is younger than its grace, as something of tomorrow is.
    let silent = format!(
        "INSERT INTO executions (id, organization_id, workflow_id, workflow_name, parameters, executed_by, executed_by_name,
             executed_by_email, priority, timeout_seconds, created_at, due_at, queue_rank)
         SELECT '{told}', organization_id, workflow_id, workflow_name, '{{}}', executed_by, 'n', 'e', 5, 60,
             now() + interval '1 day', now(), now() - interval '5 minutes'
         FROM executions
         WHERE id = '{first}'"
    );
    sqlx::raw_sql(AssertSqlSafe(silent)).execute(&mut conn).await.expect("inserts");

    engine.platform.events.publish(Event::Submitted(vec![ExecutionId::generate(), told]));
    assert_eq!(engine.ended(told).await.status, Status::Success);
    // The wake-up that comes late finds it done, and whoever comes next is served.
    engine.platform.wakeups.publish(vec![Wakeup::new(told, None, 5, None)]);
    assert_eq!(engine.run(&scope, "quick", json!({})).await.status, Status::Success);
    assert_eq!(engine.get(told).await.attempt, 1);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_a_killed_worker_comes_back_in_time() {
    let site = Installation::with_file(LONE).await;
    let status = async |id| site.get(id).await.status;
    let scope = Engine::admin();

    let doomed = Worker::start(&site.settings, 0);
    let first = site.submit(&scope, "lone", json!({"seconds": 600})).await;
    eventually("the first under way", || async { (status(first).await == Status::Running).then_some(()) })
        .await;
    let second = site.submit(&scope, "lone", json!({"seconds": 0})).await;
    let _survivor = Worker::start(&site.settings, 1);
    drop(doomed);
    let since = Instant::now();
    eventually_within(Duration::from_secs(40), "the slot to come back", || async {
        status(second).await.is_terminal().then_some(())
    })
    .await;
    let took = since.elapsed();
    println!(
        "killed worker: its slot was taken again and that run ended after {:.1} s, leaked 0; the lost run is {}",
        took.as_secs_f64(),
        status(first).await
    );
    assert_eq!(status(first).await, Status::Failed);
    assert_eq!(status(second).await, Status::Success);
    assert!(took < Duration::from_secs(20), "{took:?}");
    site.close().await;
}
