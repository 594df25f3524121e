//! What the engine notices is written down: workers that come and go, files with faults, ticks that fail, dead letters.

use domain::system_events::list::{self, Entry, Filters};
use domain::system_events::{Category, Level};
use testkit::eventually_within;

use crate::support::{Engine, PATIENCE};

const FILE: &str = "from bifrost import workflow

@workflow(name='fine')
def fine():
    return 1
";

async fn find(engine: &Engine, message: &str) -> Entry {
    eventually_within(PATIENCE, message, || async {
        let scope = Engine::admin().widened();
        let mut tx = engine.platform.db.begin(&scope).await.expect("begins");
        let entries = list::list(&mut tx, &Filters::default(), 1_000, 0, None).await.expect("lists");
        entries.into_iter().find(|entry| entry.message.contains(message))
    })
    .await
}

#[tokio::test]
async fn what_the_engine_notices_is_written_down() {
    let engine = Engine::on_files(&[("fine.py", FILE), ("broken.py", "def broken(:\n")]).await;
    let started = find(&engine, "A worker started").await;
    assert_eq!((started.category, started.level), (Category::System, Level::Info));
    assert!(started.details.expect("has some")["slots"].as_u64() > Some(0));
    let faults = find(&engine, "faults").await;
    assert_eq!((faults.category, faults.level), (Category::Discovery, Level::Warning));
    assert_eq!(faults.details.expect("has some")["files"][0]["path"], "broken.py");

    engine.platform.wakeups.publish_raw(b"nonsense".to_vec()).await.expect("is taken");
    let dead = find(&engine, "dead letters").await;
    assert_eq!((dead.category, dead.level), (Category::System, Level::Warning));
    assert_eq!(dead.details.expect("has some")["count"], 1);

    // The table that the tick reads is away.
    let mut conn = engine.test.db.connect().await;
    sqlx::query("ALTER TABLE schedules RENAME TO away").execute(&mut conn).await.expect("renames");
    let failed = find(&engine, "The tick `schedules` failed").await;
    assert_eq!(failed.level, Level::Error);
    assert!(!failed.details.expect("has some").to_string().contains("away"), "no error shows SQL");
    sqlx::query("ALTER TABLE away RENAME TO schedules").execute(&mut conn).await.expect("renames");
    engine.close().await;
}
