//! The clockwork takes metrics, of what real processes used.

use domain::executions::Status;
use domain::metrics;
use serde_json::json;
use testkit::eventually_within;

use crate::support::{Engine, PATIENCE};

const FILE: &str = "from time import process_time

from bifrost import workflow

@workflow()
def works(megabytes: int):
    held = bytearray(megabytes * 1024 * 1024)
    began = process_time()
    while process_time() - began < 0.3:
        pass
    return len(held)
";

#[tokio::test]
async fn the_clockwork_counts_what_a_run_really_used() {
    let engine = Engine::on_files(&[("works.py", FILE)]).await;
    let run = engine.run(&Engine::admin(), "works", json!({"megabytes": 64})).await;
    assert_eq!(run.status, Status::Success, "{run:?}");
    // Nobody waits two minutes: the last time was long ago.
    let snapshot = eventually_within(PATIENCE, "a snapshot with the run", || async {
        let mut conn = engine.test.db.connect().await;
        sqlx::query("UPDATE job_runs SET started_at = now() - interval '1 hour' WHERE name = 'metrics'")
            .execute(&mut conn)
            .await
            .expect("passes");
        metrics::latest(&engine.platform.db).await.ok().filter(|snapshot| snapshot.executions == 1)
    })
    .await;
    println!(
        "metrics: a run of 64 MiB and 0.3 s is counted with {} MiB and {:.2} s",
        snapshot.memory_bytes_24h >> 20,
        snapshot.cpu_microseconds_24h as f64 / 1e6
    );
    assert!(snapshot.memory_bytes_24h > 64 << 20 && snapshot.memory_bytes_24h < 1 << 30, "{snapshot:?}");
    assert!((300_000..10_000_000).contains(&snapshot.cpu_microseconds_24h), "{snapshot:?}");
    assert_eq!((snapshot.successes, snapshot.executions_24h, snapshot.workflows), (1, 1, 1));
    engine.close().await;
}
