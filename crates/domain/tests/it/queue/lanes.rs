//! Lanes of the queue (ADR 12): none hides another, and each has its turn.

use domain::id::WorkerId;
use serde_json::json;

use super::{backlog, finish_all, index, submit, workflow};
use crate::support::{Fixture, scope_of};

#[tokio::test]
async fn lanes_in_which_nothing_may_start_hide_no_other() {
    let fixture = Fixture::embedded().await;
    let (a, b) = (fixture.org("a").await, fixture.org("b").await);
    let keyed = json!({"concurrency_limit": 1, "concurrency_key": "{n}"});
    index(&fixture, &[("later", keyed.clone()), ("paused", keyed)]).await;
    // More lanes of each than one look takes in.
    for name in ["later", "paused"] {
        let (fixture, workflow) = (&fixture, &workflow(&fixture, name).await);
        let all = (0..300).map(async |n| submit(fixture, a, workflow, &format!("{{\"n\": {n}}}")).await);
        futures::future::join_all(all).await;
    }
    let in_a_week =
        "UPDATE executions SET due_at = now() + interval '7 days', queue_rank = now() + interval '7 days'
                     WHERE workflow_name = 'later'";
    fixture.sql(in_a_week).await;
    fixture.sql("UPDATE workflows SET paused_at = now() WHERE name = 'paused'").await;

    for _ in 0..8 {
        let id = fixture.submit(&scope_of(b), |_| {}).await.expect("accepted").id;
        let claimed = fixture.claim(WorkerId::generate(), 1).await;
        assert_eq!(claimed.iter().map(|one| one.id).collect::<Vec<_>>(), [id]);
    }
    assert!(fixture.claim(WorkerId::generate(), 1).await.is_empty());
    fixture.close().await;
}

#[tokio::test]
async fn thousands_of_lanes_of_one_organization_hide_no_other_and_each_has_its_turn() {
    let fixture = Fixture::embedded().await;
    let (crowded, others) = (fixture.org("crowded").await, [fixture.org("b").await, fixture.org("c").await]);
    index(&fixture, &[("keyed", json!({"concurrency_limit": 1, "concurrency_key": "{n}"}))]).await;
    let keyed = workflow(&fixture, "keyed").await;
    backlog(&fixture, crowded, 2_000, Some(&keyed)).await;
    fixture.sql("UPDATE executions SET concurrency_key = 'key ' || id").await;

    let mut passed_by = 0;
    for number in 0..40 {
        let id = fixture.submit(&scope_of(others[number % 2]), |_| {}).await.expect("accepted").id;
        let claimed = fixture.claim(WorkerId::generate(), 2).await;
        passed_by += usize::from(!claimed.iter().any(|one| one.id == id));
        finish_all(&fixture, &claimed).await;
    }
    println!("beside 2,000 lanes of another organization, {passed_by} of 40 were not seen at the first look");
    assert_eq!(passed_by, 0);

    // From wherever a look begins, it takes in as many as it may, each once; and from sixteen places it takes in all.
    let seen: Vec<(i64, i64)> = sqlx::query_as(
        "WITH looks AS (
             SELECT part, lane FROM generate_series(0, 15) AS part, LATERAL pending_lanes(part::BIGINT << 40, 256) AS lane
         )
         SELECT count(DISTINCT lane), (SELECT count(*) FROM (SELECT DISTINCT part, lane FROM looks) AS d) FROM looks",
    )
    .fetch_all(&mut fixture.test.db.connect().await)
    .await
    .expect("looks");
    let waiting = fixture.count("SELECT count(DISTINCT lane) FROM executions WHERE status = 'Pending'").await;
    assert_eq!(seen, [(waiting, 16 * 256)]);

    // Also where a look does not get beyond the share of each organization.
    fixture.sql("DELETE FROM executions").await;
    for number in 0..40 {
        let org = fixture.org(&format!("org{number}")).await;
        backlog(&fixture, org, 20, Some(&keyed)).await;
    }
    fixture.sql("UPDATE executions SET concurrency_key = 'key ' || id").await;
    let seen = "SELECT count(DISTINCT lane) FROM generate_series(-4, 3) AS organization, generate_series(0, 63) AS place,
                LATERAL pending_lanes((organization::BIGINT << 61) | (place::BIGINT << 38), 256) AS lane";
    assert_eq!(fixture.count(seen).await, 40 * 20);

    // Lanes of paused workflows take nothing of it.
    index(
        &fixture,
        &[("keyed", json!({"concurrency_limit": 1, "concurrency_key": "{n}"})), ("paused", json!({}))],
    )
    .await;
    fixture.sql("UPDATE workflows SET paused_at = now() WHERE name = 'paused';
         UPDATE executions SET workflow_id = (SELECT id FROM workflows WHERE name = 'paused')
         WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY organization_id ORDER BY id) AS n FROM executions) AS e
                      WHERE n <= 19)",
    )
    .await;
    assert_eq!(fixture.count("SELECT count(*) FROM pending_lanes(0, 256)").await, 40);
    fixture.close().await;
}

#[tokio::test]
async fn many_lanes_and_racing_workers_claim_every_row_exactly_once() {
    let fixture = Fixture::embedded().await;
    let mut orgs = Vec::new();
    for number in 0..8 {
        orgs.push(fixture.org(&format!("org{number}")).await);
    }
    // More lanes than one look takes in.
    index(&fixture, &[("keyed", json!({"concurrency_limit": 5, "concurrency_key": "{n}"}))]).await;
    let keyed = workflow(&fixture, "keyed").await;
    for number in 0..400 {
        submit(&fixture, orgs[number % 8], &keyed, &format!("{{\"n\": {number}}}")).await;
    }
    for org in &orgs {
        backlog(&fixture, *org, 50, None).await;
    }
    let claims = (0..6).map(|_| async {
        let (worker, mut own, mut empty) = (WorkerId::generate(), Vec::new(), 0);
        while empty < 3 {
            let claimed = fixture.claim(worker, 10).await;
            empty = if claimed.is_empty() { empty + 1 } else { 0 };
            own.extend(claimed.into_iter().map(|one| one.id));
        }
        own
    });
    let mut all: Vec<_> = futures::future::join_all(claims).await.into_iter().flatten().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    println!("six workers, 408 lanes: {count} claims of 800 rows, twice {}", count - all.len());
    assert_eq!((count, all.len()), (800, 800));
    fixture.close().await;
}
