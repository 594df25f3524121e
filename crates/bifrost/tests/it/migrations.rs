//! `bifrost migrate`: once, whoever else migrates and whoever is killed meanwhile, and never backwards.

use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testkit::{Launch, Process, Services, TestDb, eventually};
use tokio::sync::Mutex;
use url::Url;

use crate::support::open_folder;

/// Tables of the first migration, from its beginning to its end.
const TABLES: [&str; 4] = ["organizations", "executions", "execution_logs", "audit_log"];
const REPLICAS: usize = 5;

#[tokio::test]
async fn the_schema_is_brought_up_to_date_once_and_shown() {
    let (db, folder) = (TestDb::create_empty(&Services::from_env().database_url).await, open_folder());
    let migrate = |arguments: &[&str]| migrate(&db, folder.path(), "tester").args(arguments);

    let pending = migrate(&["--status"]).finish().await.expect_code(1);
    assert!(pending.stdout.contains("pending") && !pending.stdout.contains("applied"), "{}", pending.stdout);
    let first = migrate(&[]).finish().await.expect_code(0);
    assert!(first.stdout.starts_with("Schema brought up to date: "), "{}", first.stdout);
    let again = migrate(&[]).finish().await.expect_code(0);
    assert!(again.stdout.starts_with("Schema is up to date (version "), "{}", again.stdout);
    let applied = migrate(&["--status"]).finish().await.expect_code(0);
    assert!(applied.stdout.contains("applied") && !applied.stdout.contains("pending"), "{}", applied.stdout);

    let mut conn = db.connect().await;
    let applied = migrations_of(&mut conn).await;
    assert!(first.stdout.contains(&format!(": {} migration", applied.len())), "{}", first.stdout);
    drop(conn);
    db.close().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_as_it_is() {
    const NEWER: i64 = 99_991_231_000_000;
    let (db, folder) = (TestDb::create(&Services::from_env().database_url).await, open_folder());
    let mut conn = db.connect().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES ($1, 'of the future', TRUE, '', 0)",
    )
    .bind(NEWER)
    .execute(&mut conn)
    .await
    .expect("a superuser may");
    let before = migrations_of(&mut conn).await;

    let refused = migrate(&db, folder.path(), "tester").finish().await.expect_code(1);
    let status = migrate(&db, folder.path(), "tester").args(&["--status"]).finish().await.expect_code(1);

    for expected in ["the schema is newer than this Bifrost", &NEWER.to_string(), "next:"] {
        assert!(refused.stderr.contains(expected), "no {expected:?} in\n{}", refused.stderr);
    }
    assert!(status.stdout.contains("newer than this binary"), "{}", status.stdout);
    assert_eq!(migrations_of(&mut conn).await, before);
    drop(conn);
    db.close().await;
}

#[tokio::test]
async fn a_migration_applied_in_another_form_is_told_as_what_it_is() {
    let (db, folder) = (TestDb::create(&Services::from_env().database_url).await, open_folder());
    let mut conn = db.connect().await;
    sqlx::query(
        "UPDATE _sqlx_migrations SET checksum = '' WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
    )
    .execute(&mut conn)
    .await
    .expect("a superuser may");

    let refused = migrate(&db, folder.path(), "tester").finish().await.expect_code(1);
    let status = migrate(&db, folder.path(), "tester").args(&["--status"]).finish().await.expect_code(1);

    for expected in ["was applied in another form", "run the Bifrost that brought the schema there"] {
        assert!(refused.stderr.contains(expected), "no {expected:?} in\n{}", refused.stderr);
    }
    assert_eq!(status.stdout.matches("  changed  ").count(), 1, "{}", status.stdout);
    drop(conn);
    db.close().await;
}

#[tokio::test]
async fn replicas_that_migrate_at_once_leave_one_schema_though_one_is_killed_in_the_middle() {
    let mut failed = 0;
    for table in TABLES {
        failed += migrate_at_once_and_kill_at(table).await;
    }
    let killed = TABLES.len();
    println!("migrations: {} replicas, {killed} killed in the middle, failed {failed}", REPLICAS * killed);
    assert_eq!(failed, 0);
}

/// Starts replicas on an empty database, kills the one that migrates when it comes to this table, and checks
/// that the others leave a usable schema. Counts those that fail.
async fn migrate_at_once_and_kill_at(table: &str) -> usize {
    let (db, folder) = (TestDb::create_empty(&Services::from_env().database_url).await, open_folder());
    // A table of this name that nobody sees yet: whoever migrates has to wait for it.
    let mut barrier = db.connect().await;
    let mut barrier = barrier.begin().await.expect("begins");
    let create = format!("CREATE TABLE {table} ()");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *barrier).await.expect("the database is empty");
    let mut replicas: Vec<Process> =
        (0..REPLICAS).map(|n| migrate(&db, folder.path(), &format!("replica-{n}")).start()).collect();

    let watcher = Mutex::new(db.connect().await);
    let victim = eventually("one replica at the table and the others behind it", || async {
        let waiting = waiting_for_locks(&mut *watcher.lock().await).await;
        let migrating = waiting.iter().find(|(_, lock)| lock != "advisory")?;
        (waiting.len() == REPLICAS).then(|| migrating.0.clone())
    })
    .await;
    let victim: usize =
        victim.strip_prefix("replica-").and_then(|n| n.parse().ok()).expect("one of ours waits");
    replicas.remove(victim).kill();
    barrier.rollback().await.expect("rolls back");

    let mut failed = 0;
    for replica in replicas {
        let ended = replica.finish().await;
        if ended.code != Some(0) {
            failed += 1;
            println!("killed at {table}: another one ended with {:?}: {}", ended.code, ended.all());
        }
    }
    let status = migrate(&db, folder.path(), "tester").args(&["--status"]).finish().await.expect_code(0);
    assert!(!status.stdout.contains("pending"), "{}", status.stdout);
    let application = domain::Db::open(&db.url(), 1).expect("the address is readable");
    application.ping().await.expect("the application can use the schema");
    application.close().await;
    drop(watcher);
    db.close().await;
    failed
}

/// Who waits for a lock of this database, and for which kind.
async fn waiting_for_locks(conn: &mut PgConnection) -> Vec<(String, String)> {
    sqlx::query_as(
        "SELECT application_name, wait_event
         FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .fetch_all(conn)
    .await
    .expect("the catalogue is readable")
}

/// `bifrost migrate` of this database, as whom the server knows it by `name`.
fn migrate(db: &TestDb, folder: &std::path::Path, name: &str) -> Launch {
    Launch::bifrost(folder, &["migrate"])
        .env("DATABASE_URL", db.url().expose_secret())
        .env("ADMIN_DATABASE_URL", named(&db.superuser_url(), name))
}

fn named(url: &SecretString, name: &str) -> String {
    let mut url = Url::parse(url.expose_secret()).expect("a URL");
    url.query_pairs_mut().append_pair("application_name", name);
    url.into()
}

async fn migrations_of(conn: &mut PgConnection) -> Vec<i64> {
    sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
        .fetch_all(conn)
        .await
        .expect("the table is there")
}
