//! Attempts: the lease that keeps one, what ends it, the pause before the next, and whose rights it has.

use std::time::Duration;

use domain::executions::{Status, claim, finish, reap};
use domain::id::{ExecutionId, WorkerId};
use domain::{OrgScope, in_time};
use sqlx::Connection;

use crate::support::{Fixture, batch, scope_of};

/// Far more than a statement takes, and less than anybody who waits for a lock would.
const PROMPT: Duration = Duration::from_secs(5);

/// Seconds until the lease of a run ends.
async fn lease(fixture: &Fixture, id: ExecutionId) -> i64 {
    let left = format!(
        "SELECT extract(EPOCH FROM lease_expires_at - now())::bigint FROM executions WHERE id = '{id}'"
    );
    fixture.count(&left).await
}

#[tokio::test]
async fn a_run_whose_row_somebody_holds_costs_the_worker_no_other() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    let worker = WorkerId::generate();
    for _ in 0..2 {
        fixture.submit(&scope, |_| {}).await.expect("accepted");
    }
    let ids: Vec<ExecutionId> = fixture.claim(worker, 2).await.iter().map(|claimed| claimed.id).collect();
    fixture.sql("UPDATE executions SET lease_expires_at = now() + interval '2 seconds'").await;
    let mut conn = fixture.test.db.connect().await;
    let mut frozen = conn.begin().await.expect("begins");
    sqlx::query("UPDATE executions SET status = 'Cancelling' WHERE id = $1")
        .bind(ids[0].0)
        .execute(&mut *frozen)
        .await
        .expect("holds the row");

    let held = in_time(PROMPT, claim::heartbeat(&fixture.platform.db, worker, &ids))
        .await
        .expect("waits for nobody");

    assert_eq!(held.len(), 2, "both are the worker's still");
    assert!(held.iter().all(|held| !held.cancelling), "what is not committed is not told");
    assert!(lease(&fixture, ids[1]).await > 5, "the lease of the other grows");
    frozen.commit().await.expect("commits");
    let held = claim::heartbeat(&fixture.platform.db, worker, &ids).await.expect("beats");
    assert_eq!(held.iter().filter(|held| held.cancelling).map(|held| held.id).collect::<Vec<_>>(), [ids[0]]);
    assert!(lease(&fixture, ids[0]).await > 5, "and that of the one that was held");
    fixture.close().await;
}

#[tokio::test]
async fn a_run_keeps_its_lease_while_its_lines_are_stored() {
    let fixture = Fixture::embedded().await;
    let worker = WorkerId::generate();
    fixture.submit(&scope_of(fixture.org("acme").await), |_| {}).await.expect("accepted");
    let claimed = fixture.claim(worker, 1).await.remove(0);
    fixture.sql("UPDATE executions SET lease_expires_at = now() + interval '2 seconds'").await;
    // Somebody writes the same line and goes on: storing it waits for what becomes of that.
    let mut conn = fixture.test.db.connect().await;
    let mut other = conn.begin().await.expect("begins");
    let same = "INSERT INTO execution_logs (execution_id, sequence, organization_id, attempt, level, message, logged_at)
                VALUES ($1, 1, $2, 1, 'INFO', 'line', now())";
    sqlx::query(same)
        .bind(claimed.id.0)
        .bind(claimed.organization_id.map(|org| org.0))
        .execute(&mut *other)
        .await
        .expect("inserts");
    let batches = [batch(&claimed, claimed.attempt, [1])];
    let storing = finish::record(&fixture.platform.db, &batches, &[]);
    let beating = async {
        fixture.test.db.lock_is_awaited_by("INSERT INTO execution_logs").await;
        let runs = [claimed.id];
        let beat = claim::heartbeat(&fixture.platform.db, worker, &runs);
        in_time(PROMPT, beat).await.expect("waits for nobody");
        let left = lease(&fixture, claimed.id).await;
        other.rollback().await.expect("gives up");
        left
    };

    let (stored, left) = tokio::join!(storing, beating);

    assert_eq!(stored.expect("stores").dropped_lines, 0);
    assert!(left > 5, "the lease grew beside the lines: {left} s");
    fixture.close().await;
}

#[tokio::test]
async fn lines_of_an_attempt_are_stored_once_however_many_batches_bring_them() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    for _ in 0..2 {
        fixture.submit(&scope, |_| {}).await.expect("accepted");
    }
    let claimed = fixture.claim(WorkerId::generate(), 2).await;
    let (one, other) = (&claimed[0], &claimed[1]);
    let batches = [
        batch(one, one.attempt, [1, 2]),
        batch(other, other.attempt, [1]),
        batch(one, one.attempt, [3]),
        // An attempt that has lost its fence.
        batch(other, other.attempt - 1, [2, 3]),
        batch(other, other.attempt - 1, [4]),
    ];

    let written = finish::record(&fixture.platform.db, &batches, &[]).await.expect("stores");

    assert_eq!(written.dropped_lines, 3);
    let stored = async |id: ExecutionId| {
        fixture.count(&format!("SELECT count(*) FROM execution_logs WHERE execution_id = '{id}'")).await
    };
    assert_eq!((stored(one.id).await, stored(other.id).await), (3, 1));
    fixture.close().await;
}

#[tokio::test]
async fn a_run_of_a_lost_worker_is_tried_again_however_late_the_reaper_comes() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    let reaped_after = async |lease: &str| {
        fixture.submit(&scope, |_| {}).await.expect("accepted");
        fixture.claim(WorkerId::generate(), 1).await;
        // It began two hours ago, and may take half an hour.
        fixture.sql(format!(
                "UPDATE executions SET max_attempts = 2, attempt_started_at = now() - interval '2 hours', {lease}
                 WHERE status = 'Running'"
            ),
        )
        .await;
        let reaped = reap::reap(&fixture.platform.db).await.expect("reaps").remove(0);
        fixture.sql("UPDATE executions SET due_at = now() + interval '1 day' WHERE status = 'Pending'").await;
        reaped.status
    };

    let lost_at_once = reaped_after("lease_expires_at = now() - interval '119 minutes'").await;
    let lost_late = reaped_after("lease_expires_at = now() - interval '1 minute'").await;
    let alive = reaped_after("lease_expires_at = now() + interval '5 seconds'").await;

    assert_eq!(lost_at_once, Status::Pending, "its worker was gone before its time was up");
    assert_eq!((lost_late, alive), (Status::Timeout, Status::Timeout), "theirs was up by far");
    fixture.close().await;
}

#[tokio::test]
async fn a_back_off_counts_no_attempt_that_was_given_back_and_has_an_end() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    // After so many attempts, of which so many were given back: the pause in seconds, give or take a fifth.
    for (attempt, given_back, pause) in [(3, 0, 80.0), (3, 2, 20.0), (1, 0, 20.0), (5_000, 0, 1e6)] {
        fixture.submit(&scope, |_| {}).await.expect("accepted");
        fixture.claim(WorkerId::generate(), 1).await;
        fixture
            .sql(format!(
                "UPDATE executions SET attempt = {attempt}, given_back = {given_back}, max_attempts = 9000,
                     lease_expires_at = now() - interval '1 second',
                     retry_policy = '{{\"max_attempts\": 9000, \"backoff_seconds\": 20, \"max_backoff_seconds\": 1000000, \"retry_on\": null}}'
                 WHERE status = 'Running'"
            ))
            .await;

        let reaped = reap::reap(&fixture.platform.db).await.expect("reaps").remove(0);

        assert_eq!(reaped.status, Status::Pending);
        let expected = pause * 0.79..=pause * 1.21;
        assert!(
            expected.contains(&reaped.pause_seconds),
            "attempt {attempt}, {given_back} given back: {}",
            reaped.pause_seconds
        );
    }
    fixture.close().await;
}

#[tokio::test]
async fn the_rights_of_an_administrator_end_with_the_administrator() {
    let fixture = Fixture::embedded().await;
    let admin = fixture.register("ada@platform.example").await.expect("registers");
    assert!(admin.is_superuser, "the first is an administrator");
    let principal = fixture.principal("ada@platform.example").await;
    let scope = OrgScope::for_principal(&principal, None, None).expect("may act").narrowed();
    let mut rights = Vec::new();
    for change in ["is_superuser = TRUE", "is_superuser = FALSE", "is_superuser = TRUE, is_active = FALSE"] {
        fixture.submit(&scope, |_| {}).await.expect("accepted");
        fixture.sql(format!("UPDATE users SET {change} WHERE id = '{}'", admin.id)).await;

        let claimed = fixture.claim(WorkerId::generate(), 1).await.remove(0);

        assert_eq!(claimed.is_platform_admin, claimed.scope().actor().is_platform_admin);
        rights.push(claimed.is_platform_admin);
    }
    assert_eq!(
        rights,
        [true, false, false],
        "an administrator, one who was demoted, one who was deactivated"
    );
    fixture.close().await;
}
