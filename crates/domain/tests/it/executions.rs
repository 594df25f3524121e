//! The states of an execution: submit, claim, fence, finish, cancel, reap, sweep, list.

use std::collections::HashSet;
use std::time::Duration;

use domain::executions::claim::{self, Claimed};
use domain::executions::finish::{self, Outcome};
use domain::executions::list::{self, Filters};
use domain::executions::submit::Idempotency;
use domain::executions::{Status, cancel, housekeep, logs, reap, sweep};
use domain::id::WorkerId;
use domain::page::Cursor;
use domain::{Error, OrgScope};
use sqlx::Connection;

use crate::support::{Fixture, actor, batch, json, scope_of, success};

fn key(name: &str, body: &str) -> Option<Idempotency> {
    Some(Idempotency {
        route: "execute_workflow".into(),
        key: name.into(),
        fingerprint: body.as_bytes().to_vec(),
    })
}

/// Lets the lease of everything that runs expire, as ten silent seconds would.
async fn expire_leases(fixture: &Fixture) {
    let mut conn = fixture.test.db.connect().await;
    sqlx::query("UPDATE executions SET lease_expires_at = now() - interval '1 second' WHERE status IN ('Running', 'Cancelling')")
        .execute(&mut conn)
        .await
        .expect("updates");
}

#[tokio::test]
async fn a_repeated_submission_is_one_execution() {
    let fixture = Fixture::embedded().await;
    let (acme, rival) = (scope_of(fixture.org("acme").await), scope_of(fixture.org("rival").await));

    let racers = (0..50).map(|_| fixture.submit(&acme, |new| new.idempotency = key("once", "body")));
    let ids: HashSet<_> = futures::future::join_all(racers)
        .await
        .into_iter()
        .map(|submitted| submitted.expect("accepted").id)
        .collect();
    assert_eq!(ids.len(), 1, "50 concurrent submissions with one key");

    let again = fixture.submit(&acme, |new| new.idempotency = key("once", "body")).await.expect("accepted");
    assert!(again.replayed && ids.contains(&again.id));
    let other_body = fixture.submit(&acme, |new| new.idempotency = key("once", "another body")).await;
    assert!(matches!(other_body, Err(Error::Invalid(_))));
    let other_tenant =
        fixture.submit(&rival, |new| new.idempotency = key("once", "another body")).await.expect("accepted");
    assert!(!other_tenant.replayed);
    println!(
        "idempotency: 53 submissions, extra executions {}",
        fixture.claim(WorkerId::generate(), 100).await.len() - 2
    );
    fixture.close().await;
}

#[tokio::test]
async fn a_user_without_organization_submits_nothing() {
    let fixture = Fixture::embedded().await;
    let principal = domain::sessions::Principal {
        session_id: domain::id::SessionId::generate(),
        user_id: domain::id::UserId::generate(),
        organization_id: None,
        email: "stray@example.com".into(),
        name: "Stray".into(),
        user_type: "ORG".into(),
        is_superuser: false,
        roles: Vec::new(),
        permissions: domain::PermissionSet::NONE,
    };
    let scope = OrgScope::for_principal(&principal, None, None).expect("may sign in");

    assert!(matches!(fixture.submit(&scope, |_| {}).await, Err(Error::Forbidden(_))));
    fixture.close().await;
}

#[tokio::test]
async fn the_most_urgent_row_is_claimed_first_and_only_once() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    let mut expected = Vec::new();
    for priority in [1, 10, 5, 10] {
        let submitted = fixture.submit(&scope, |new| new.priority = priority).await.expect("accepted");
        expected.push((std::cmp::Reverse(priority), submitted.id));
    }
    expected.sort();
    let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();

    let first = fixture.claim(WorkerId::generate(), 1).await;
    assert_eq!(first[0].id, expected[0]);
    let workers = (0..4).map(|_| fixture.claim(WorkerId::generate(), 4));
    let rest: Vec<_> =
        futures::future::join_all(workers).await.into_iter().flatten().map(|claimed| claimed.id).collect();
    assert_eq!(rest.len(), 3, "each row goes to one worker");
    assert_eq!(rest.iter().collect::<HashSet<_>>(), expected[1..].iter().collect::<HashSet<_>>());
    fixture.close().await;
}

#[tokio::test]
async fn a_stale_worker_is_fenced() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    fixture.submit(&scope, |_| {}).await.expect("accepted");
    let mut conn = fixture.test.db.connect().await;
    sqlx::query("UPDATE executions SET max_attempts = 2").execute(&mut conn).await.expect("updates");
    let stale = fixture.claim(WorkerId::generate(), 1).await.remove(0);
    let append = async |batches: &[logs::Batch]| {
        finish::record(&fixture.platform.db, batches, &[]).await.expect("appends").dropped_lines
    };
    assert_eq!(append(&[batch(&stale, stale.attempt, 1..=3)]).await, 0);

    expire_leases(&fixture).await;
    let reaped = reap::reap(&fixture.platform.db).await.expect("reaps");
    assert_eq!(reaped[0].status, Status::Pending, "an attempt is left");
    let current = fixture.claim(WorkerId::generate(), 1).await.remove(0);
    assert_eq!((current.attempt, current.last_sequence), (2, 3), "sequences go on across attempts");

    let both = [batch(&stale, stale.attempt, [4, 5]), batch(&current, current.attempt, [4])];
    let dropped = append(&both).await;
    let late = fixture.finish(&[success(&stale)]).await;
    println!("stale worker: results accepted {}, lines accepted {}", late.len(), 2 - dropped);
    assert_eq!((late.len(), dropped), (0, 2));
    assert_eq!(fixture.status(stale.id).await, Status::Running);

    // Both in one batch, with a line of the same number each: what is recorded says of which attempt it is.
    let with_line =
        |claimed: &Claimed| Outcome { lines: Some(batch(claimed, claimed.attempt, [5])), ..success(claimed) };
    let recorded = fixture.finish(&[with_line(&stale), with_line(&current)]).await;
    let recorded: Vec<_> = recorded.iter().map(|one| (one.attempt, one.status)).collect();
    assert_eq!(recorded, [(2, Status::Success)]);
    let mut tx = fixture.platform.db.begin(&scope).await.expect("begins");
    let lines = logs::list(&mut tx, current.id, 0, 100, true).await.expect("lists");
    drop(tx);
    let lines: Vec<_> = lines.iter().map(|line| (line.sequence, line.attempt)).collect();
    assert_eq!(lines, [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]);
    assert!(fixture.finish(&[success(&current)]).await.is_empty(), "a terminal state never changes");
    fixture.close().await;
}

#[tokio::test]
async fn lines_come_back_as_they_were_logged() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    fixture.submit(&scope_of(org), |_| {}).await.expect("accepted");
    let claimed = fixture.claim(WorkerId::generate(), 1).await.remove(0);
    let mut lines = batch(&claimed, claimed.attempt, 1..=10);
    for line in &mut lines.lines {
        line.message = format!("line\t{}\\ \n with \0 oddities", line.sequence);
        line.data = Some(sqlx::types::Json(json(r#"{"a": "b\nc"}"#)));
    }
    fixture.finish(&[Outcome { lines: Some(lines), ..success(&claimed) }]).await;

    let mut tx = fixture.platform.db.begin(&scope_of(org)).await.expect("begins");
    let lines = logs::list(&mut tx, claimed.id, 2, 100, true).await.expect("lists");
    assert_eq!(lines.iter().map(|line| line.sequence).collect::<Vec<_>>(), (3..=10).collect::<Vec<_>>());
    assert_eq!(lines[0].message, "line\t3\\ \n with \u{fffd} oddities");
    assert_eq!(lines[0].data.as_ref().map(|data| data.get()), Some(r#"{"a": "b\nc"}"#));
    drop(tx);
    fixture.close().await;
}

#[tokio::test]
async fn a_cancelled_execution_is_never_claimed_and_a_running_one_ends_cancelled() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    let pending = fixture.submit(&scope, |_| {}).await.expect("accepted").id;
    let cancel = async |id| {
        let mut tx = fixture.platform.db.begin(&scope).await.expect("begins");
        let cancelled = cancel::cancel(&mut tx, id).await;
        tx.commit().await.expect("commits");
        cancelled
    };

    assert_eq!(cancel(pending).await.expect("cancels").status, Status::Cancelled);
    assert!(!cancel(pending).await.expect("again is fine").changed);
    assert!(fixture.claim(WorkerId::generate(), 10).await.is_empty());

    fixture.submit(&scope, |_| {}).await.expect("accepted");
    let running = fixture.claim(WorkerId::generate(), 1).await.remove(0);
    assert_eq!(cancel(running.id).await.expect("cancels").status, Status::Cancelling);
    assert_eq!(
        fixture.finish(&[success(&running)]).await[0].status,
        Status::Cancelled,
        "what it returned is dropped"
    );
    assert_eq!(cancel(running.id).await.expect("already").status, Status::Cancelled);

    fixture.submit(&scope, |_| {}).await.expect("accepted");
    let done = fixture.claim(WorkerId::generate(), 1).await.remove(0);
    fixture.finish(&[success(&done)]).await;
    assert!(matches!(cancel(done.id).await, Err(Error::Impossible(_))));
    fixture.close().await;
}

#[tokio::test]
async fn a_lost_worker_costs_the_attempt() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    let id = fixture.submit(&scope, |_| {}).await.expect("accepted").id;
    let worker = WorkerId::generate();
    fixture.claim(worker, 1).await;
    assert!(reap::reap(&fixture.platform.db).await.expect("reaps").is_empty(), "a fresh lease is left alone");

    expire_leases(&fixture).await;
    let held = claim::heartbeat(&fixture.platform.db, worker, &[id]).await.expect("beats");
    assert_eq!(held.len(), 1, "a heartbeat that comes before the reaper keeps the run");
    assert!(reap::reap(&fixture.platform.db).await.expect("reaps").is_empty());

    expire_leases(&fixture).await;
    let reapers = (0..5).map(|_| reap::reap(&fixture.platform.db));
    let reaped: Vec<_> =
        futures::future::join_all(reapers).await.into_iter().flat_map(|r| r.expect("reaps")).collect();
    assert_eq!(reaped.len(), 1, "five reapers end it once");
    assert_eq!((reaped[0].status, reaped[0].error_type.as_deref()), (Status::Failed, Some("WorkerLost")));
    assert!(
        claim::heartbeat(&fixture.platform.db, worker, &[id]).await.expect("beats").is_empty(),
        "the lease is gone"
    );
    fixture.close().await;
}

#[tokio::test]
async fn the_attempt_after_a_lost_one_waits_for_its_back_off() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    fixture.submit(&scope, |_| {}).await.expect("accepted");
    let mut conn = fixture.test.db.connect().await;
    let policy = "UPDATE executions SET max_attempts = 5, attempt = 2,
                      retry_policy = '{\"max_attempts\": 5, \"backoff_seconds\": 20, \"max_backoff_seconds\": 70, \"retry_on\": null}'";
    sqlx::query(policy).execute(&mut conn).await.expect("updates");
    assert_eq!(fixture.claim(WorkerId::generate(), 1).await[0].attempt, 3);

    expire_leases(&fixture).await;
    let reaped = reap::reap(&fixture.platform.db).await.expect("reaps");

    assert_eq!(reaped[0].status, Status::Pending);
    // After the third attempt 80 s, but 70 at most, give or take a fifth.
    assert!((56.0..=84.0).contains(&reaped[0].pause_seconds), "{}", reaped[0].pause_seconds);
    assert!(fixture.claim(WorkerId::generate(), 1).await.is_empty(), "not before its back-off");
    sqlx::query("UPDATE executions SET due_at = now()").execute(&mut conn).await.expect("updates");
    sqlx::query("UPDATE executions SET queue_rank = now() - interval '5 minutes'")
        .execute(&mut conn)
        .await
        .expect("updates");
    assert_eq!(fixture.claim(WorkerId::generate(), 1).await[0].attempt, 4);
    fixture.close().await;
}

#[tokio::test]
async fn an_attempt_that_was_given_back_does_not_count() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    fixture.submit(&scope, |_| {}).await.expect("accepted");
    let claimed = fixture.claim(WorkerId::generate(), 1).await.remove(0);
    assert_eq!((claimed.attempt, claimed.given_back, claimed.max_attempts), (1, 0, 1));

    let given_back = Outcome { status: Status::Pending, is_given_back: true, ..success(&claimed) };
    fixture.finish(&[given_back]).await;

    let again = fixture.claim(WorkerId::generate(), 1).await.remove(0);
    assert_eq!((again.attempt, again.given_back, again.max_attempts), (2, 1, 1));
    fixture.close().await;
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    let submit = async |body: &str| fixture.submit(&scope, |new| new.idempotency = key("k", body)).await;
    let first = submit("one").await.expect("accepted");
    assert!(matches!(submit("other").await, Err(Error::Invalid(_))));
    let mut conn = fixture.test.db.connect().await;
    let a_day_later = "UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'";
    sqlx::query(a_day_later).execute(&mut conn).await.expect("updates");

    let racing = futures::future::join_all((0..4).map(|_| submit("other"))).await;

    let racing: Vec<_> = racing.into_iter().map(|one| one.expect("accepted")).collect();
    assert!(racing.iter().all(|one| one.id == racing[0].id && one.id != first.id), "{racing:?}");
    assert_eq!(racing.iter().filter(|one| !one.replayed).count(), 1);
    fixture.close().await;
}

#[tokio::test]
async fn a_repetition_that_waits_holds_nobody_up() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    let submit = async || fixture.submit(&scope, |new| new.idempotency = key("k", "one")).await;
    submit().await.expect("accepted");
    let mut conn = fixture.test.db.connect().await;
    let a_day_later = "UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'";
    sqlx::query(a_day_later).execute(&mut conn).await.expect("updates");
    let mut held = conn.begin().await.expect("begins");
    sqlx::query("SELECT FROM idempotency_keys FOR UPDATE").execute(&mut *held).await.expect("holds the key");
    let other = async {
        fixture.test.db.lock_is_awaited_by("DELETE FROM idempotency_keys").await;
        let other = fixture.submit(&scope, |_| {}).await;
        held.commit().await.expect("lets go");
        other
    };

    let (repeated, other) = tokio::join!(submit(), other);

    assert!(!other.expect("accepted beside it").replayed);
    assert!(!repeated.expect("was not given up for the other").replayed, "the key's day is over");
    assert_eq!(fixture.claim(WorkerId::generate(), 10).await.len(), 3, "all of them run");
    fixture.close().await;
}

#[tokio::test]
async fn housekeeping_ends_only_when_nothing_old_is_left() {
    let fixture = Fixture::embedded().await;
    let mut conn = fixture.test.db.connect().await;
    sqlx::query(
        "INSERT INTO idempotency_keys (user_id, route, key, fingerprint, execution_id, created_at)
         SELECT gen_random_uuid(), 'r', n::text, '', gen_random_uuid(), now() - interval '1 hour' * (n % 50)
         FROM generate_series(1, 50000) AS n",
    )
    .execute(&mut conn)
    .await
    .expect("inserts");

    housekeep::housekeep(&fixture.platform.db).await.expect("tidies");

    // Of every fifty hours, 24 are younger than a day.
    assert_eq!(fixture.count("SELECT count(*) FROM idempotency_keys").await, 24_000);
    fixture.close().await;
}

#[tokio::test]
async fn a_lost_wakeup_is_repeated_and_a_known_one_is_not() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    for _ in 0..3 {
        fixture.submit(&scope, |_| {}).await.expect("accepted");
    }
    let wakeups = &fixture.platform.wakeups;
    assert_eq!(wakeups.depth().await.expect("counts"), 3);
    assert_eq!(
        sweep::sweep(&fixture.platform.db, wakeups, 0.0).await.expect("sweeps"),
        0,
        "all three are known"
    );

    let mut consumer = wakeups.consume(16);
    let taken = consumer.next(2).await;
    consumer.ack(taken).await;
    assert_eq!(sweep::sweep(&fixture.platform.db, wakeups, 0.0).await.expect("sweeps"), 2, "two were lost");
    assert_eq!(wakeups.depth().await.expect("counts"), 3);
    fixture.close().await;
}

#[tokio::test]
async fn pages_neither_repeat_nor_skip_while_rows_arrive() {
    let fixture = Fixture::embedded().await;
    let (acme, rival) = (fixture.org("acme").await, fixture.org("rival").await);
    let scope = OrgScope::for_run(Some(acme), actor("admin", true));
    let mut expected = HashSet::new();
    for _ in 0..25 {
        expected.insert(fixture.submit(&scope, |_| {}).await.expect("accepted").id);
        fixture.submit(&scope_of(rival), |_| {}).await.expect("accepted");
    }
    fixture.submit(&scope, |new| new.transient = true).await.expect("accepted");

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let mut tx = fixture.platform.db.begin(&scope).await.expect("begins");
        let page = list::list(&mut tx, &Filters::default(), 7, after).await.expect("lists");
        drop(tx);
        let Some(last) = page.last() else { break };
        after = Some(Cursor(last.id.0));
        seen.extend(page.iter().map(|execution| execution.id));
        fixture.submit(&scope, |_| {}).await.expect("accepted");
    }
    assert_eq!(seen.len(), 25);
    assert_eq!(seen.into_iter().collect::<HashSet<_>>(), expected);
    fixture.close().await;
}

#[tokio::test]
async fn filters_and_owners_are_respected() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    let (mine, theirs) = (scope_of(org), scope_of(org));
    let own = fixture.submit(&mine, |_| {}).await.expect("accepted").id;
    let other = fixture.submit(&theirs, |_| {}).await.expect("accepted").id;

    let mut tx = fixture.platform.db.begin(&mine).await.expect("begins");
    let filters = Filters { executed_by: Some(mine.actor().id), ..Filters::default() };
    let listed = list::list(&mut tx, &filters, 10, None).await.expect("lists");
    assert_eq!(listed.iter().map(|execution| execution.id).collect::<Vec<_>>(), [own]);
    assert!(matches!(list::get(&mut tx, other).await, Err(Error::Forbidden(_))));
    let none = Filters { status: Some(Status::Failed), ..Filters::default() };
    assert!(list::list(&mut tx, &none, 10, None).await.expect("lists").is_empty());
    drop(tx);

    let rival = scope_of(fixture.org("rival").await);
    let mut tx = fixture.platform.db.begin(&rival).await.expect("begins");
    assert!(matches!(list::get(&mut tx, own).await, Err(Error::NotFound(_))));
    drop(tx);
    fixture.close().await;
}

#[tokio::test]
async fn a_retry_waits_for_its_pause() {
    let fixture = Fixture::embedded().await;
    fixture.submit(&scope_of(fixture.org("acme").await), |_| {}).await.expect("accepted");
    let claimed = fixture.claim(WorkerId::generate(), 1).await.remove(0);
    let mut outcome = success(&claimed);
    (outcome.status, outcome.retry_in) = (Status::Pending, Duration::from_secs(3600));

    let recorded = fixture.finish(&[outcome]).await;

    assert_eq!((recorded[0].status, recorded[0].completed_at), (Status::Pending, None));
    assert!(fixture.claim(WorkerId::generate(), 1).await.is_empty(), "not due yet");
    fixture.close().await;
}
