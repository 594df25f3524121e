//! The schema: goes up, down and up again, and racing replicas migrate once.

use sqlx::Connection;
use testkit::TestEnv;

#[tokio::test]
async fn migrations_go_up_down_and_up_again() {
    let test = TestEnv::create().await;
    let mut conn = test.db.connect().await;

    domain::MIGRATOR.undo(&mut conn, 0).await.expect("down");
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '\\_sqlx%'",
    )
    .fetch_one(&mut conn)
    .await
    .expect("counts");
    assert_eq!(tables, 0, "nothing is left");
    domain::MIGRATOR.run(&mut conn).await.expect("up again");

    conn.close().await.expect("closes");
    test.close().await;
}

#[tokio::test]
async fn five_replicas_migrate_once() {
    let test = TestEnv::create().await;
    let mut conn = test.db.connect().await;
    domain::MIGRATOR.undo(&mut conn, 0).await.expect("down");
    let (admin, app) = (test.db.superuser_url(), test.db.url());

    let replicas = (0..5).map(|_| domain::db::migrate(&admin, &app));
    let outcomes = futures::future::join_all(replicas).await;

    let migrated: Vec<_> = outcomes.into_iter().map(|outcome| outcome.expect("migrates")).collect();
    assert!(migrated.iter().all(|m| m.version == migrated[0].version));
    domain::Db::open(&app, 2).expect("opens").ping().await.expect("is usable");
    conn.close().await.expect("closes");
    test.close().await;
}
