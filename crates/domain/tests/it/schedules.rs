//! Schedules: that they follow their files, and what becomes of every tick.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use domain::OrgScope;
use domain::id::{WorkerId, WorkflowId};
use domain::page::NameCursor;
use domain::schedules::{self, Outcome, Schedule, fire};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::{Fixture, actor, success};

/// Half past this hour, on a day to come on which nothing happens to clocks.
fn half_past(hour: u32) -> DateTime<Utc> {
    format!("2027-01-15T{hour:02}:30:00Z").parse().expect("a time")
}

impl Fixture {
    /// Makes the workflows of these declarations known, each `{"name": …, "schedule": …}`.
    async fn schedule(&self, declared: &[Value]) {
        let workflows: Vec<Value> = declared
            .iter()
            .map(|said| {
                let mut workflow = json!({
                    "function": said["name"], "category": "Tests", "execution_mode": "async", "timeout_seconds": 60,
                    "parameters": [],
                });
                workflow.as_object_mut().expect("an object").extend(said.as_object().expect("an object").clone());
                workflow
            })
            .collect();
        let sha256 = uuid::Uuid::now_v7().to_string();
        let file = json!({"path": "s.py", "sha256": sha256, "data_providers": [], "problems": [], "workflows": workflows});
        let index = serde_json::from_value(json!({"files": [file]})).expect("an index");
        testkit::sync_workflows(&self.platform.db, &index).await.expect("indexes");
    }

    async fn schedules(&self) -> Vec<Schedule> {
        let scope = OrgScope::for_run(None, actor("admin", true)).widened();
        let mut tx = self.platform.db.begin(&scope).await.expect("begins");
        schedules::list(&mut tx, 1_000, &NameCursor::START).await.expect("lists")
    }

    async fn history(&self, id: WorkflowId) -> Vec<(String, Outcome, i32)> {
        let scope = OrgScope::for_run(None, actor("admin", true)).widened();
        let mut tx = self.platform.db.begin(&scope).await.expect("begins");
        let fires = schedules::history(&mut tx, id, 1_000, None).await.expect("lists");
        fires
            .iter()
            .map(|fire| (fire.fire_at.format("%d %H:%M").to_string(), fire.outcome, fire.ticks))
            .collect()
    }

    /// The next tick of every schedule is this one.
    async fn due_at(&self, time: DateTime<Utc>) {
        let mut conn = self.test.db.connect().await;
        sqlx::query("UPDATE schedules SET next_fire_at = $1")
            .bind(time)
            .execute(&mut conn)
            .await
            .expect("sets");
    }

    async fn tick(&self, now: DateTime<Utc>) -> (usize, usize) {
        let fired = fire::tick_at(&self.platform.db, Some(now)).await.expect("ticks");
        assert_eq!(fired.wakeups.len(), fired.started);
        (fired.started, fired.passed_over)
    }

    /// Runs everything that waits.
    async fn run_all(&self) {
        let claimed = self.claim(WorkerId::generate(), 1_000).await;
        let outcomes: Vec<_> = claimed.iter().map(success).collect();
        self.finish(&outcomes).await;
    }
}

#[tokio::test]
async fn schedules_follow_their_files_and_first_sight_fires_nothing() {
    let fixture = Fixture::embedded().await;
    fixture.schedule(&[json!({"name": "plain"}), json!({"name": "hourly", "schedule": "0 * * * *"})]).await;
    let first = fixture.schedules().await;
    assert_eq!(first.len(), 1);
    assert!(first[0].next_fire_at.expect("is computed") > Utc::now());
    let fired = fire::tick(&fixture.platform.db).await.expect("ticks");
    assert_eq!((fired.started, fired.passed_over), (0, 0));

    // Another policy moves nothing; another expression, or zone, computes anew, and fires nothing for what passed.
    fixture.due_at(half_past(1)).await;
    fixture
        .schedule(&[json!({"name": "hourly", "schedule": "0 * * * *", "schedule_overlap": "allow"})])
        .await;
    assert_eq!(fixture.schedules().await[0].next_fire_at, Some(half_past(1)));
    fixture
        .schedule(&[
            json!({"name": "hourly", "schedule": "0 * * * *", "schedule_timezone": "Asia/Kathmandu"}),
        ])
        .await;
    let moved = fixture.schedules().await[0].next_fire_at.expect("is computed");
    assert_eq!(moved.format("%M").to_string(), "15", "a quarter past in UTC");

    fixture
        .schedule(&[
            json!({"name": "hourly", "schedule": "0 25 * * *"}),
            json!({"name": "never", "schedule": "0 0 30 2 *"}),
        ])
        .await;
    let broken = fixture.schedules().await;
    assert_eq!(broken.len(), 2);
    for schedule in &broken {
        assert!(schedule.next_fire_at.is_none() && schedule.error.is_some(), "{schedule:?}");
    }
    fixture.schedule(&[json!({"name": "hourly"})]).await;
    assert!(fixture.schedules().await.is_empty());
    fixture.schedule(&[json!({"name": "hourly", "schedule": "0 * * * *"})]).await;
    let back = fixture.schedules().await;
    assert_eq!(back[0].workflow_id, first[0].workflow_id);
    assert!(back[0].next_fire_at.expect("is computed") > Utc::now());
    fixture.close().await;
}

#[tokio::test]
async fn a_scheduled_run_is_the_systems_with_nothing_for_input() {
    let fixture = Fixture::embedded().await;
    fixture.schedule(&[json!({"name": "hourly", "schedule": "30 * * * *"})]).await;
    fixture.due_at(half_past(1)).await;
    assert_eq!(fixture.tick(half_past(1)).await, (1, 0));
    let claimed = fixture.claim(WorkerId::generate(), 10).await.pop().expect("one");
    assert_eq!(
        (claimed.executed_by, claimed.executed_by_name.as_str()),
        (domain::id::UserId::SYSTEM, "Scheduled Execution")
    );
    assert_eq!(
        (claimed.parameters.get(), claimed.organization_id, claimed.is_platform_admin),
        ("{}", None, false)
    );
    let listed = fixture.schedules().await.remove(0);
    assert_eq!((listed.run_count, listed.last_execution_id), (1, Some(claimed.id)));
    assert!(listed.last_run_at.is_some() && listed.next_fire_at == Some(half_past(2)));
    let audited = fixture.count("SELECT count(*) FROM audit_log WHERE action = 'execution.submitted'").await;
    assert_eq!(audited, 1);
    fixture.close().await;
}

#[tokio::test]
async fn racing_replicas_fire_every_tick_once() {
    let fixture = Fixture::embedded().await;
    let declared: Vec<Value> = (0..40)
        .map(|n| json!({"name": format!("w{n}"), "schedule": "* * * * *", "schedule_overlap": "allow", "schedule_misfire": "all"}))
        .collect();
    fixture.schedule(&declared).await;
    let start = half_past(1);
    fixture.due_at(start).await;
    let rounds = 15;
    for round in 0..rounds {
        let now = start + TimeDelta::minutes(round);
        // Three replicas, each with connections of its own.
        let replicas = (0..3).map(|_| fire::tick_at(&fixture.platform.db, Some(now)));
        for fired in join_all(replicas).await {
            fired.expect("ticks");
        }
    }
    // One of them takes what the others had locked.
    fire::tick_at(&fixture.platform.db, Some(start + TimeDelta::minutes(rounds - 1))).await.expect("ticks");
    let expected = 40 * rounds;
    let runs = fixture.count("SELECT count(*) FROM executions").await;
    let ticks = fixture
        .count("SELECT count(DISTINCT (workflow_id, fire_at)) FROM schedule_fires WHERE outcome = 'started'")
        .await;
    let joined = fixture
        .count("SELECT count(DISTINCT e.id) FROM schedule_fires f JOIN executions e ON e.id = f.execution_id")
        .await;
    println!("3 racing tickers, {expected} ticks: missed {}, doubled {}", expected - ticks, runs - ticks);
    assert_eq!((runs, ticks, joined), (expected, expected, expected));
    fixture.close().await;
}

#[tokio::test]
async fn a_tick_that_was_fired_before_is_not_fired_again() {
    let fixture = Fixture::embedded().await;
    fixture
        .schedule(&[json!({"name": "hourly", "schedule": "30 * * * *", "schedule_overlap": "allow"})])
        .await;
    for _ in 0..3 {
        // As after a restore, or a change of the expression and back.
        fixture.due_at(half_past(1)).await;
        fixture.tick(half_past(1)).await;
    }
    assert_eq!(fixture.count("SELECT count(*) FROM executions").await, 1);
    let listed = fixture.schedules().await.remove(0);
    let claimed = fixture.claim(WorkerId::generate(), 10).await;
    assert_eq!((listed.run_count, listed.last_execution_id), (1, Some(claimed[0].id)), "nor counted again");
    fixture.close().await;
}

#[tokio::test]
async fn a_tick_that_waits_is_decided_once_though_it_comes_due_again() {
    let fixture = Fixture::embedded().await;
    let said = json!({"name": "hourly", "schedule": "30 * * * *", "schedule_overlap": "queue"});
    fixture.schedule(std::slice::from_ref(&said)).await;
    let id = fixture.schedules().await[0].workflow_id;
    fixture.due_at(half_past(1)).await;
    assert_eq!(fixture.tick(half_past(1)).await, (1, 0));
    assert_eq!(fixture.tick(half_past(2)).await, (0, 1), "it waits");

    // As after a restore: while the first one runs, and when it has ended.
    fixture.due_at(half_past(2)).await;
    assert_eq!(fixture.tick(half_past(2)).await, (0, 0));
    assert_eq!(fixture.history(id).await[0].1, Outcome::Waiting);
    fixture.run_all().await;
    fixture.due_at(half_past(2)).await;
    assert_eq!(fixture.tick(half_past(2)).await, (1, 0));
    let outcomes: Vec<Outcome> =
        fixture.history(id).await.into_iter().map(|(_, outcome, _)| outcome).collect();
    assert_eq!(outcomes, [Outcome::Started; 2]);
    assert_eq!(fixture.schedules().await[0].run_count, 2);
    fixture.close().await;
}

#[tokio::test]
async fn a_tick_that_waits_outlives_a_change_and_ends_with_its_schedule() {
    let fixture = Fixture::embedded().await;
    let with =
        |expression: &str| json!({"name": "hourly", "schedule": expression, "schedule_overlap": "queue"});
    fixture.schedule(&[with("30 * * * *")]).await;
    let id = fixture.schedules().await[0].workflow_id;
    fixture.due_at(half_past(1)).await;
    fixture.tick(half_past(1)).await;
    fixture.tick(half_past(2)).await;
    assert_eq!(fixture.history(id).await[0].1, Outcome::Waiting);

    fixture.schedule(&[with("45 * * * *")]).await;
    fixture.run_all().await;
    fixture.sql("UPDATE schedules SET next_fire_at = '2027-01-15T02:45:00Z'").await;
    assert_eq!(fixture.tick(half_past(2)).await, (1, 0), "it starts when the run before it has ended");
    assert_eq!(fixture.history(id).await[0].1, Outcome::Started);

    fixture.tick(half_past(2) + TimeDelta::minutes(15)).await;
    assert_eq!(fixture.history(id).await[0].1, Outcome::Waiting);
    fixture.schedule(&[json!({"name": "hourly"})]).await;
    fixture.schedule(&[with("45 * * * *")]).await;
    let last = fixture.history(id).await[0].clone();
    assert_eq!(last, ("15 02:45".to_owned(), Outcome::Overlapped, 1));
    fixture.run_all().await;
    fixture.sql("UPDATE schedules SET next_fire_at = '2027-01-15T03:45:00Z'").await;
    assert_eq!(fixture.tick(half_past(3)).await, (0, 0), "nothing starts it later");
    fixture.close().await;
}

#[tokio::test]
async fn what_overlaps_is_skipped_queued_or_allowed() {
    let fixture = Fixture::embedded().await;
    let of = |name: &str| json!({"name": name, "schedule": "30 * * * *", "schedule_overlap": name});
    fixture.schedule(&[of("skip"), of("queue"), of("allow")]).await;
    fixture.due_at(half_past(1)).await;
    let names: Vec<(String, WorkflowId)> =
        fixture.schedules().await.into_iter().map(|schedule| (schedule.name, schedule.workflow_id)).collect();
    assert_eq!(fixture.tick(half_past(1)).await, (3, 0));
    // Nothing has ended: one is skipped, one waits, one runs beside. Then none waits but the first.
    assert_eq!(fixture.tick(half_past(2)).await, (1, 2));
    assert_eq!(fixture.tick(half_past(3)).await, (1, 2));
    // Pending and running both count as not ended.
    let claimed = fixture.claim(WorkerId::generate(), 100).await;
    assert_eq!(claimed.len(), 5);
    assert_eq!(fixture.tick(half_past(4)).await, (1, 2));
    let outcomes: Vec<_> = claimed.iter().map(success).collect();
    fixture.finish(&outcomes).await;
    // As soon as it has ended, what waits starts; it does not wait for the next tick.
    assert_eq!(fixture.tick(half_past(4) + TimeDelta::seconds(1)).await, (1, 0));
    assert_eq!(fixture.tick(half_past(4) + TimeDelta::seconds(2)).await, (0, 0));
    assert_eq!(fixture.tick(half_past(5)).await, (2, 1), "the queued one has its run still pending");
    let mut shown = Vec::new();
    for (name, id) in names {
        let outcomes: Vec<Outcome> =
            fixture.history(id).await.into_iter().rev().map(|(_, outcome, _)| outcome).collect();
        shown.push((name, outcomes));
    }
    use Outcome::{Overlapped, Started, Waiting};
    assert_eq!(
        shown,
        [
            ("allow".to_owned(), vec![Started; 5]),
            ("queue".to_owned(), vec![Started, Started, Overlapped, Overlapped, Waiting]),
            ("skip".to_owned(), vec![Started, Overlapped, Overlapped, Overlapped, Started]),
        ]
    );
    println!("overlap policies: 15 ticks as they should be, wrong 0");
    fixture.close().await;
}

#[tokio::test]
async fn a_run_whose_worker_is_lost_for_good_overlaps_with_nothing() {
    let fixture = Fixture::embedded().await;
    let of = |name: &str| json!({"name": name, "schedule": "30 * * * *", "schedule_overlap": name});
    fixture.schedule(&[of("skip"), of("queue")]).await;
    fixture.due_at(half_past(1)).await;
    assert_eq!(fixture.tick(half_past(1)).await, (2, 0));
    assert_eq!(fixture.claim(WorkerId::generate(), 100).await.len(), 2);
    // All workers are killed, and the first one that is back ticks before it reaps.
    let mut conn = fixture.test.db.connect().await;
    let expire = "UPDATE executions SET lease_expires_at = now() - interval '1 second'";
    sqlx::query(expire).execute(&mut conn).await.expect("expires");
    assert_eq!(fixture.tick(half_past(2)).await, (2, 0));

    // One that is tried again is not over.
    assert_eq!(fixture.claim(WorkerId::generate(), 100).await.len(), 2);
    sqlx::query(expire).execute(&mut conn).await.expect("expires");
    sqlx::query("UPDATE executions SET max_attempts = 2").execute(&mut conn).await.expect("updates");
    assert_eq!(fixture.tick(half_past(3)).await, (0, 2));
    fixture.close().await;
}

#[tokio::test]
async fn what_an_outage_missed_is_skipped_run_once_or_caught_up() {
    let fixture = Fixture::embedded().await;
    let of = |name: &str| json!({"name": name, "schedule": "30 * * * *", "schedule_overlap": "allow", "schedule_misfire": name});
    fixture.schedule(&[of("skip"), of("latest"), of("all")]).await;
    let ids: Vec<WorkflowId> =
        fixture.schedules().await.iter().map(|schedule| schedule.workflow_id).collect();
    let outage = async |from: DateTime<Utc>, until: DateTime<Utc>| {
        fixture.sql("DELETE FROM schedule_fires").await;
        fixture.sql("DELETE FROM executions").await;
        fixture.due_at(from).await;
        fixture.tick(until).await;
        let mut started = Vec::new();
        for id in &ids {
            let history = fixture.history(*id).await;
            let runs = history.iter().filter(|(_, outcome, _)| *outcome == Outcome::Started).count();
            let missed: i32 = history
                .iter()
                .filter(|(_, outcome, _)| *outcome == Outcome::Missed)
                .map(|(.., ticks)| ticks)
                .sum();
            started.push((runs, missed));
        }
        started
    };
    let all = TimeDelta::minutes(10);
    // In the order all, latest, skip: (runs, missed). On time, five ticks missed, forty missed, and five but the last on time.
    assert_eq!(outage(half_past(1), half_past(1)).await, [(1, 0), (1, 0), (1, 0)]);
    assert_eq!(outage(half_past(1), half_past(5) + all).await, [(5, 0), (1, 4), (0, 5)]);
    assert_eq!(
        outage(half_past(1), half_past(1) + TimeDelta::hours(39) + all).await,
        [(24, 16), (1, 39), (0, 40)]
    );
    assert_eq!(outage(half_past(1), half_past(5) + TimeDelta::seconds(59)).await, [(5, 0), (1, 4), (1, 4)]);
    let order: Vec<(String, String)> = {
        fixture.sql("DELETE FROM schedule_fires").await;
        fixture.sql("DELETE FROM executions").await;
        fixture.due_at(half_past(1)).await;
        fixture.tick(half_past(5) + all).await;
        let mut conn = fixture.test.db.connect().await;
        sqlx::query_as(
            "SELECT to_char(f.fire_at AT TIME ZONE 'UTC', 'HH24:MI'), w.name
             FROM schedule_fires f JOIN executions e ON e.id = f.execution_id JOIN workflows w ON w.id = f.workflow_id
             WHERE w.name = 'all' ORDER BY e.queue_rank, e.id",
        )
        .fetch_all(&mut conn)
        .await
        .expect("reads")
    };
    let times: Vec<&str> = order.iter().map(|(time, _)| time.as_str()).collect();
    assert_eq!(times, ["01:30", "02:30", "03:30", "04:30", "05:30"], "oldest first");
    println!("misfire policies: 12 outages as they should be, wrong 0");
    fixture.close().await;
}

#[tokio::test]
async fn a_paused_schedule_fires_nothing_and_catches_nothing_up() {
    let fixture = Fixture::embedded().await;
    fixture.schedule(&[json!({"name": "hourly", "schedule": "30 * * * *", "schedule_misfire": "all"})]).await;
    let id = fixture.schedules().await[0].workflow_id;
    let scope = OrgScope::for_run(None, actor("admin", true)).widened();
    let change = async |pause: bool| {
        let mut tx = fixture.platform.db.begin(&scope).await.expect("begins");
        let changed =
            if pause { schedules::pause(&mut tx, id).await } else { schedules::resume(&mut tx, id).await };
        changed.expect("changes");
        tx.commit().await.expect("commits");
    };
    for _ in 0..2 {
        change(true).await;
    }
    fixture.due_at(Utc::now() - TimeDelta::hours(5)).await;
    assert_eq!(fixture.tick(Utc::now()).await, (0, 0));
    assert!(!fixture.schedules().await[0].is_overdue, "a paused one is late for nothing");
    change(false).await;
    assert_eq!(fixture.tick(Utc::now()).await, (0, 0));
    assert!(fixture.schedules().await[0].next_fire_at.expect("is computed") > Utc::now());
    let audited = fixture.count("SELECT count(*) FROM audit_log WHERE action LIKE 'schedule.%'").await;
    assert_eq!(audited, 2);
    fixture.close().await;
}

#[tokio::test]
async fn nothing_of_an_inactive_organization_is_started() {
    let fixture = Fixture::embedded().await;
    let acme = fixture.org("acme").await;
    fixture.schedule(&[json!({"name": "hourly", "schedule": "30 * * * *"})]).await;
    let id = fixture.schedules().await[0].workflow_id;
    let mut conn = fixture.test.db.connect().await;
    for statement in
        ["UPDATE workflows SET organization_id = $1", "UPDATE schedules SET organization_id = $1"]
    {
        sqlx::query(sqlx::AssertSqlSafe(statement)).bind(acme.0).execute(&mut conn).await.expect("sets");
    }
    drop(conn);
    fixture.due_at(half_past(1)).await;
    assert_eq!(fixture.tick(half_past(1)).await, (1, 0));
    assert_eq!(fixture.claim(WorkerId::generate(), 1).await[0].organization_id, Some(acme));
    fixture.sql("UPDATE organizations SET is_active = FALSE").await;
    assert_eq!(fixture.tick(half_past(2)).await, (0, 1));
    assert_eq!(fixture.history(id).await[0].1, Outcome::Inactive);
    fixture.run_all().await;
    fixture.close().await;
}

#[tokio::test]
async fn ten_thousand_schedules_are_found_by_their_time_and_fire_within_a_second() {
    let fixture = Fixture::embedded().await;
    let declared: Vec<Value> = (0..10_000)
        .map(|n| json!({"name": format!("w{n}"), "schedule": format!("{} {} * * *", n % 60, n / 60 % 24)}))
        .collect();
    fixture.schedule(&declared).await;
    let mut conn = fixture.test.db.connect().await;
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT s.workflow_id FROM schedules s JOIN workflows w ON w.id = s.workflow_id AND w.is_active
         WHERE s.paused_at IS NULL AND s.next_fire_at <= now() ORDER BY s.next_fire_at LIMIT 500 FOR UPDATE OF s SKIP LOCKED",
    )
    .fetch_all(&mut conn)
    .await
    .expect("explains");
    let plan = plan.join("\n");
    assert!(plan.contains("schedules_due_idx") && !plan.contains("Seq Scan"), "{plan}");

    // Seven come due at every minute, and one may begin meanwhile: all wait until tomorrow but those that the test wants.
    sqlx::query("UPDATE schedules SET next_fire_at = now() + interval '1 day'")
        .execute(&mut conn)
        .await
        .expect("sets");
    // An idle tick, and ticks in which seven and five hundred are due.
    let began = Instant::now();
    assert_eq!(fixture.tick(Utc::now() - TimeDelta::days(1)).await, (0, 0));
    let idle = began.elapsed();
    let mut took = Vec::new();
    for due in [7_i64, 500] {
        sqlx::query(
            "UPDATE schedules
             SET next_fire_at = CASE WHEN expression = '* * * * *' THEN now() + interval '1 day'
                     ELSE date_trunc('minute', now()) END,
                 expression = '* * * * *'
             WHERE expression = '* * * * *'
                OR workflow_id IN (SELECT workflow_id FROM schedules WHERE expression <> '* * * * *' LIMIT $1)",
        )
        .bind(due)
        .execute(&mut conn)
        .await
        .expect("sets");
        let began = Instant::now();
        let fired = fire::tick(&fixture.platform.db).await.expect("ticks");
        took.push(began.elapsed());
        assert_eq!(fired.started, usize::try_from(due).expect("few"));
    }
    println!("10,000 schedules: idle tick {idle:?}, 7 due {:?}, 500 due {:?}", took[0], took[1]);
    assert!(
        idle < Duration::from_millis(100) && took.iter().all(|took| *took < Duration::from_secs(1)),
        "{idle:?} {took:?}"
    );
    drop(conn);
    fixture.close().await;
}
