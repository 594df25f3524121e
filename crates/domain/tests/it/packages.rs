//! Packages as rows: what is kept to go back to.

use domain::packages;

use crate::support::Fixture;

/// Twenty-five switches between as many environments, all of them old.
const SWITCHES: &str = "
    WITH environments AS (
        INSERT INTO package_environments (id, lock, packages, created_at)
        SELECT lpad(number::text, 32, '0'), 'alpha==' || number, '[]', now() - interval '2 days'
        FROM generate_series(1, 25) AS number
        RETURNING id
    )
    INSERT INTO package_switches (environment_id, requirements, job_id, switched_by)
    SELECT id, 'alpha', gen_random_uuid(), 'ada@acme.example' FROM environments ORDER BY id";

#[tokio::test]
async fn old_switches_are_forgotten_and_what_they_led_to() {
    let fixture = Fixture::embedded().await;
    let db = &fixture.platform.db;
    assert_eq!(packages::current(db).await.expect("reads").version, 0, "none before the first");
    let mut conn = fixture.test.db.connect().await;
    sqlx::query(SWITCHES).execute(&mut conn).await.expect("inserts");
    let current = packages::current(db).await.expect("reads");
    packages::housekeep(db).await.expect("removes");

    let now = packages::current(db).await.expect("reads");
    assert_eq!((now.version, &now.id), (current.version, &current.id), "what is in use stays");
    let mut versions = vec![now.version];
    while let Some(before) = packages::before(db, versions[versions.len() - 1]).await.expect("reads") {
        assert!(before.lock.starts_with("alpha=="), "with its environment");
        versions.push(before.version);
    }
    let environments: i64 = sqlx::query_scalar("SELECT count(*) FROM package_environments")
        .fetch_one(&mut conn)
        .await
        .expect("counts");
    assert_eq!((versions.len(), environments), (21, 21));
    fixture.close().await;
}
