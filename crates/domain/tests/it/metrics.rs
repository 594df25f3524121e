//! Metrics: that sums equal a plain recount however ticks come, that every end counts once, and what a tick reads.

use std::time::{Duration, Instant};

use domain::executions::bulk::{self, Selection};
use domain::executions::finish::Outcome;
use domain::executions::{Status, cancel, reap, stuck};
use domain::id::{ExecutionId, OrgId, UserId, WorkerId};
use domain::{OrgScope, Platform, metrics};
use futures::future::join_all;
use testkit::eventually;

use crate::support::{Fixture, actor, scope_of, success};

/// What [`Fixture::generate`] makes for one end of an execution: a state and what it used, from its number.
const ENDED: &str = "UPDATE executions
    SET status = (ARRAY['Success', 'Success', 'Success', 'Success', 'Failed', 'CompletedWithErrors', 'Timeout', 'Cancelled'])
            [1 + abs(hashtext(id::text)) % 8],
        completed_at = now() - make_interval(secs => abs(hashtext(id::text || 't')) % (40 * 86400)),
        duration_ms = CASE WHEN abs(hashtext(id::text)) % 8 < 7 THEN abs(hashtext(id::text || 'd')) % 60000 END,
        peak_memory_bytes = CASE WHEN abs(hashtext(id::text)) % 8 < 6 THEN abs(hashtext(id::text || 'm')) END,
        cpu_total_seconds = CASE WHEN abs(hashtext(id::text)) % 8 < 6 THEN (abs(hashtext(id::text || 'c')) % 1000000) / 7.0e5 END
    WHERE status = 'Running' AND priority = $1";

/// The sums, counted anew out of the executions themselves.
const RECOUNT: &str = "SELECT CASE GROUPING(day, workflow_name, executed_by)
            WHEN 7 THEN 'total' WHEN 6 THEN 'person' WHEN 3 THEN 'day' ELSE 'workflow_day' END AS grain,
        organization_id, day, workflow_name, executed_by, count(*) AS executions,
        sum((status = 'Success')::int) AS successes, sum((status IN ('Failed', 'CompletedWithErrors'))::int) AS failures,
        sum((status = 'Timeout')::int) AS timeouts, sum((status = 'Cancelled')::int) AS cancellations,
        sum((duration_ms IS NOT NULL)::int) AS timed, COALESCE(sum(duration_ms), 0) AS duration_ms,
        COALESCE(max(duration_ms), 0) AS max_duration_ms, sum((peak_memory_bytes IS NOT NULL)::int) AS measured,
        COALESCE(sum(peak_memory_bytes), 0) AS memory_bytes, COALESCE(max(peak_memory_bytes), 0) AS peak_memory_bytes,
        COALESCE(sum(micros), 0) AS cpu_microseconds, COALESCE(max(micros), 0) AS peak_cpu_microseconds
    FROM (SELECT *, (completed_at AT TIME ZONE 'UTC')::date AS day, round(cpu_total_seconds * 1000000)::bigint AS micros
          FROM executions WHERE completed_at IS NOT NULL AND NOT transient AND kind = 'workflow') AS ended
    GROUP BY GROUPING SETS ((organization_id), (organization_id, executed_by), (organization_id, day),
        (organization_id, day, workflow_name))";

impl Fixture {
    /// Runs of these organizations and the global scope in ten slices, by priority; some are in no metric, and a few
    /// go on.
    async fn generate(&self, count: i32, organizations: &[OrgId]) {
        let ids: Vec<uuid::Uuid> = organizations.iter().map(|id| id.0).collect();
        let mut conn = self.test.db.connect().await;
        sqlx::query(
            "INSERT INTO executions (id, organization_id, workflow_name, parameters, transient, kind, executed_by,
                 executed_by_name, executed_by_email, status, priority, queue_rank, due_at, timeout_seconds)
             SELECT gen_random_uuid(), ($2::uuid[])[1 + n % (cardinality($2::uuid[]) + 1)], 'workflow ' || n % 17, '{}',
                 n % 31 = 0 OR n % 37 = 0, CASE WHEN n % 37 = 0 THEN 'data_provider' ELSE 'workflow' END,
                 lpad((n % 7)::text, 32, '0')::uuid, 'p', 'p', 'Running', 1 + n % 10, now(), now(), 60
             FROM generate_series(1, $1) AS n",
        )
        .bind(count)
        .bind(ids)
        .execute(&mut conn)
        .await
        .expect("inserts");
    }

    /// Ends the runs of a slice.
    async fn end_slice(&self, slice: i16) {
        let mut conn = self.test.db.connect().await;
        sqlx::query(ENDED).bind(slice).execute(&mut conn).await.expect("ends");
    }

    /// Rows of the sums that are not in the recount, or the other way round.
    async fn differences(&self) -> i64 {
        self.count(&format!(
            "WITH recount AS ({RECOUNT}), sums AS (SELECT * FROM execution_metrics)
             SELECT (SELECT count(*) FROM (TABLE recount EXCEPT ALL TABLE sums) AS missing)
                  + (SELECT count(*) FROM (TABLE sums EXCEPT ALL TABLE recount) AS extra)"
        ))
        .await
    }

    async fn endings(&self) -> i64 {
        self.count("SELECT count(*) FROM execution_endings").await
    }

    async fn total(&self, column: &str) -> i64 {
        let sum =
            format!("SELECT COALESCE(sum({column}), 0)::bigint FROM execution_metrics WHERE grain = 'total'");
        self.count(&sum).await
    }

    async fn refresh(&self) -> i64 {
        metrics::refresh(&self.platform.db).await.expect("ticks").folded
    }
}

#[tokio::test]
async fn sums_equal_a_plain_recount_however_the_ticks_come() {
    let fixture = Fixture::embedded().await;
    let organizations = [fixture.org("acme").await, fixture.org("rival").await, fixture.org("third").await];
    fixture.generate(30_000, &organizations).await;
    let replicas: Vec<Platform> =
        (0..3).map(|_| Platform::open(fixture.test.settings_in_process()).expect("opens")).collect();

    // Nine of ten slices end, each while three replicas tick; one tick is late by three slices, some are doubled.
    let mut folded = 0;
    for slice in 1..=9 {
        if (4..=6).contains(&slice) {
            fixture.end_slice(slice).await;
            continue;
        }
        let ticks = join_all(replicas.iter().map(|replica| metrics::refresh(&replica.db)));
        let ((), during) = tokio::join!(fixture.end_slice(slice), ticks);
        let after = join_all(replicas.iter().map(|replica| metrics::refresh(&replica.db))).await;
        folded += during.into_iter().chain(after).map(|tick| tick.expect("ticks").folded).sum::<i64>();
    }
    assert_eq!((fixture.refresh().await, fixture.endings().await), (0, 0), "a doubled tick finds nothing");
    let ended = fixture
        .count("SELECT count(*) FROM executions WHERE completed_at IS NOT NULL AND NOT transient AND kind = 'workflow'")
        .await;
    let rows = fixture.count("SELECT count(*) FROM execution_metrics").await;
    let differences = fixture.differences().await;
    println!("metrics: {ended} endings in {rows} rows of sums, differences to a recount {differences}");
    assert_eq!((folded, differences), (ended, 0));
    assert!(ended > 20_000 && rows > 2_000, "{ended} {rows}");

    // The snapshot says the same of the platform, and of the last day to the minute.
    let snapshot = metrics::latest(&fixture.platform.db).await.expect("was taken");
    let of = |condition: &str| {
        let taken = snapshot.taken_at.to_rfc3339();
        format!(
            "SELECT count(*) FROM executions WHERE NOT transient AND kind = 'workflow' AND {condition}
               AND (completed_at IS NULL OR date_trunc('minute', completed_at) > '{taken}'::timestamptz - interval '1 day')"
        )
    };
    assert_eq!(snapshot.executions, ended);
    assert_eq!(snapshot.executions_24h, fixture.count(&of("completed_at IS NOT NULL")).await);
    assert_eq!(snapshot.successes_24h, fixture.count(&of("status = 'Success'")).await);
    assert_eq!(snapshot.running, fixture.count(&of("status = 'Running'")).await);
    assert!(
        snapshot.executions_24h > 100 && snapshot.running > 1_000 && snapshot.organizations == 3,
        "{snapshot:?}"
    );

    // History may go; what was counted stays.
    let sums = "SELECT hashtext(string_agg(m::text, ',' ORDER BY m::text))::bigint FROM execution_metrics m";
    let before = fixture.count(sums).await;
    let mut conn = fixture.test.db.connect().await;
    sqlx::query("DELETE FROM executions").execute(&mut conn).await.expect("deletes");
    fixture.refresh().await;
    assert_eq!(fixture.count(sums).await, before);
    let shown = metrics::latest(&fixture.platform.db).await.expect("was taken");
    assert_eq!((shown.executions, shown.running), (ended, 0));

    // Days are kept for 400, totals for good.
    sqlx::query("UPDATE execution_metrics SET day = day - 500 WHERE day IS NOT NULL")
        .execute(&mut conn)
        .await
        .expect("ages");
    fixture.refresh().await;
    assert_eq!(fixture.count("SELECT count(*) FROM execution_metrics WHERE day IS NOT NULL").await, 0);
    assert_eq!(fixture.total("executions").await, ended);
    for replica in replicas {
        replica.db.close().await;
    }
    drop(conn);
    fixture.close().await;
}

#[tokio::test]
async fn every_way_to_end_counts_once() {
    let fixture = Fixture::embedded().await;
    let acme = fixture.org("acme").await;
    let scope = scope_of(acme);
    let admin = OrgScope::for_run(None, actor("admin", true)).widened();
    let db = &fixture.platform.db;
    let start = async || {
        let id = fixture.submit(&scope, |new| new.priority = 10).await.expect("accepted").id;
        let claimed = fixture.claim(WorkerId::generate(), 1).await.pop().expect("one");
        assert_eq!(claimed.id, id);
        claimed
    };
    let ask_to_cancel = async |id: ExecutionId| {
        let mut tx = db.begin(&admin).await.expect("begins");
        cancel::cancel(&mut tx, id).await.expect("cancels");
        tx.commit().await.expect("commits");
    };

    // By a worker: each outcome, and one that comes twice.
    for status in [Status::Success, Status::CompletedWithErrors, Status::Failed, Status::Timeout] {
        let claimed = start().await;
        let outcome = Outcome { status, ..success(&claimed) };
        assert_eq!(fixture.finish(std::slice::from_ref(&outcome)).await.len(), 1);
        assert!(fixture.finish(&[outcome]).await.is_empty());
    }
    assert_eq!(fixture.endings().await, 4);
    // An attempt that is followed by another is no end.
    let first = start().await;
    fixture.finish(&[Outcome { status: Status::Pending, ..success(&first) }]).await;
    assert_eq!(fixture.endings().await, 4);
    let second = fixture.claim(WorkerId::generate(), 1).await.pop().expect("is due again");
    assert_eq!((second.id, second.attempt), (first.id, 2));
    fixture.finish(&[success(&second)]).await;
    // Cancelled before its start, while it runs, and with others.
    let waiting = fixture.submit(&scope, |_| {}).await.expect("accepted").id;
    ask_to_cancel(waiting).await;
    ask_to_cancel(waiting).await;
    let running = start().await;
    ask_to_cancel(running.id).await;
    fixture.finish(&[success(&running)]).await;
    fixture.submit(&scope, |_| {}).await.expect("accepted");
    let mut tx = db.begin(&admin).await.expect("begins");
    assert_eq!(bulk::cancel(&mut tx, &Selection::default(), 10).await.expect("cancels").executions.len(), 1);
    tx.commit().await.expect("commits");
    // By the reaper, and by hand.
    start().await;
    let mut conn = fixture.test.db.connect().await;
    sqlx::query("UPDATE executions SET lease_expires_at = now() - interval '1 s' WHERE status = 'Running'")
        .execute(&mut conn)
        .await
        .expect("expires");
    assert_eq!(reap::reap(db).await.expect("reaps").len(), 1);
    start().await;
    let mut tx = db.begin(&admin).await.expect("begins");
    assert_eq!(stuck::end(&mut tx, chrono::Utc::now()).await.expect("ends").ended.len(), 1);
    tx.commit().await.expect("commits");
    // What is transient counts nowhere.
    fixture.submit(&scope, |new| new.transient = true).await.expect("accepted");
    let transient = fixture.claim(WorkerId::generate(), 1).await.pop().expect("one");
    fixture.finish(&[success(&transient)]).await;

    assert_eq!(fixture.refresh().await, 10);
    let mut counts = Vec::new();
    for column in ["executions", "successes", "failures", "timeouts", "cancellations"] {
        counts.push(fixture.total(column).await);
    }
    println!("metrics: ten ways to end, counted as {counts:?}");
    assert_eq!(counts, [10, 2, 4, 1, 3]);
    assert_eq!(fixture.differences().await, 0);
    drop(conn);
    fixture.close().await;
}

#[tokio::test]
async fn of_racing_replicas_one_takes_metrics_every_two_minutes() {
    let fixture = Fixture::embedded().await;
    assert!(metrics::latest(&fixture.platform.db).await.is_err(), "none before the first");
    let tick_all = async || {
        let ticks = join_all((0..5).map(|_| metrics::tick(&fixture.platform.db))).await;
        ticks.into_iter().filter(|tick| tick.as_ref().expect("ticks").is_some()).count()
    };
    assert_eq!(tick_all().await, 1);
    let first = metrics::latest(&fixture.platform.db).await.expect("was taken");
    assert_eq!(tick_all().await, 0, "not due");
    let mut conn = fixture.test.db.connect().await;
    sqlx::query("UPDATE job_runs SET started_at = started_at - interval '2 minutes' WHERE name = 'metrics'")
        .execute(&mut conn)
        .await
        .expect("passes");
    assert_eq!(tick_all().await, 1);
    assert!(metrics::latest(&fixture.platform.db).await.expect("was taken").taken_at > first.taken_at);
    drop(conn);
    fixture.close().await;
}

/// Sequential scans of executions, and rows that they read, as the server has counted them when nobody is connected.
async fn scans(fixture: &Fixture) -> (i64, i64) {
    let others = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    eventually("everybody to leave", || async { (fixture.count(others).await == 0).then_some(()) }).await;
    let scans = fixture.count("SELECT pg_stat_get_numscans('executions'::regclass)").await;
    (scans, fixture.count("SELECT pg_stat_get_tuples_returned('executions'::regclass)").await)
}

#[tokio::test]
async fn a_tick_and_a_dashboard_over_100_000_executions_scan_none_of_them() {
    let fixture = Fixture::embedded().await;
    let acme = fixture.org("acme").await;
    fixture.generate(100_000, &[acme]).await;
    for slice in 2..=10 {
        fixture.end_slice(slice).await;
    }
    assert!(fixture.refresh().await > 80_000);
    let mut conn = fixture.test.db.connect().await;
    // A tenth still runs; most of it ends as well, so that little is open, as usual.
    sqlx::query("UPDATE executions SET status = 'Success', completed_at = now(), duration_ms = 5 WHERE status = 'Running' AND hashtext(id::text) % 100 <> 0")
        .execute(&mut conn)
        .await
        .expect("ends");
    sqlx::query("VACUUM ANALYZE executions, execution_metrics").execute(&mut conn).await.expect("analyses");
    drop(conn);
    fixture.platform.db.close().await;

    let (before, _) = scans(&fixture).await;
    let platform = Platform::open(fixture.test.settings_in_process()).expect("opens");
    let began = Instant::now();
    let folded = metrics::refresh(&platform.db).await.expect("ticks").folded;
    let (tick, began) = (began.elapsed(), Instant::now());
    let idle = metrics::refresh(&platform.db).await.expect("ticks").folded;
    let idle_tick = began.elapsed();
    let mut user = actor("user", false);
    user.id = UserId(uuid::Uuid::from_u128(3));
    let began = Instant::now();
    let mut seen = Vec::new();
    for scope in [
        OrgScope::for_run(None, actor("admin", true)).widened(),
        OrgScope::for_run(Some(acme), actor("admin", true)),
        OrgScope::for_run(Some(acme), user),
    ] {
        let mut tx = platform.db.begin(&scope).await.expect("begins");
        let dashboard = metrics::dashboard(&mut tx).await.expect("reads");
        assert_eq!(dashboard.failures.len(), 10);
        seen.push(dashboard.stats.ended);
    }
    let dashboards = began.elapsed();
    platform.db.close().await;
    let (after, rows) = scans(&fixture).await;
    println!(
        "metrics over 100,000 executions: sequential scans {}, tick of {folded} endings {tick:?}, idle {idle_tick:?}, three dashboards {dashboards:?}",
        after - before
    );
    assert_eq!(after - before, 0);
    assert!(
        folded > 5_000 && idle == 0 && seen[0] > seen[1] && seen[1] > seen[2] && seen[2] > 1_000,
        "{seen:?}"
    );
    assert!(tick < Duration::from_secs(10) && idle_tick < Duration::from_secs(2), "{tick:?} {idle_tick:?}");

    // The server does count them: one plain count is seen.
    fixture.count("SELECT count(*) FROM executions WHERE workflow_name IS NOT NULL").await;
    let (control, all) = scans(&fixture).await;
    assert!(control > after && all - rows >= 90_000, "{control} {after} {all} {rows}");
    fixture.test.close().await;
}

#[tokio::test]
async fn a_scope_sees_its_own_sums_only() {
    let fixture = Fixture::embedded().await;
    let (acme, rival) = (fixture.org("acme").await, fixture.org("rival").await);
    fixture.generate(600, &[acme, rival]).await;
    for slice in 1..=10 {
        fixture.end_slice(slice).await;
        if slice == 5 {
            fixture.refresh().await;
        }
    }
    let (mut cells, mut leaks) = (0, 0);
    let mut conn = fixture.test.db.connect().await;
    sqlx::query("SET ROLE bifrost_app").execute(&mut conn).await.expect("is allowed");
    for table in ["execution_endings", "execution_metrics"] {
        for (scope, expected) in
            [(acme.to_string(), Some(acme.0)), (rival.to_string(), Some(rival.0)), ("GLOBAL".into(), None)]
        {
            sqlx::query("SELECT set_config('bifrost.org_id', $1, FALSE)")
                .bind(scope)
                .execute(&mut conn)
                .await
                .expect("sets");
            let owners: Vec<Option<uuid::Uuid>> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT organization_id FROM {table}")))
                    .fetch_all(&mut conn)
                    .await
                    .expect("reads");
            assert!(!owners.is_empty(), "{table} shows a scope its own");
            cells += 1;
            leaks += owners.iter().filter(|owner| **owner != expected).count();
        }
    }
    for statement in [
        "DELETE FROM execution_endings",
        "DELETE FROM execution_metrics",
        "UPDATE execution_metrics SET executions = 0",
        "SELECT FROM execution_minutes",
    ] {
        assert!(sqlx::query(statement).execute(&mut conn).await.is_err(), "{statement}");
        cells += 1;
    }
    println!("row-level security alone, metrics: {cells} cells, leaks {leaks}");
    assert_eq!(leaks, 0);
    drop(conn);
    fixture.close().await;
}
