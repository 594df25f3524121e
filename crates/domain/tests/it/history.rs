//! History: log lines in partitions, and what is removed when its time is over, and nothing else.

use std::time::Instant;

use domain::audit::{self, Action};
use domain::executions::finish;
use domain::executions::history::{self, Removed};
use domain::executions::logs;
use domain::id::{ExecutionId, OrgId, WorkerId};
use domain::{OrgScope, organizations};
use futures::future::join_all;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::{Fixture, actor, batch, scope_of, success};

/// The version of the schema that put log lines into partitions.
const PARTITIONED: i64 = 20_261_126_000_095;
/// What of the lines is there: one text for all of them.
const ALL_LINES: &str = "SELECT COALESCE(md5(string_agg(l::text, '|' ORDER BY execution_id, sequence)), '') FROM execution_logs l";

/// Executions that ended so many days ago, an hour after they were submitted.
struct Ended {
    org: Option<OrgId>,
    days: f64,
    count: i32,
    lines: i32,
}

impl Fixture {
    /// Inserts them with their lines; returns their ids.
    async fn ended(&self, what: &Ended) -> Vec<Uuid> {
        let mut conn = self.test.db.connect().await;
        insert_ended(&mut conn, what).await
    }

    async fn text(&self, query: &str) -> String {
        let mut conn = self.test.db.connect().await;
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut conn)
            .await
            .expect("the query runs")
    }

    async fn still_there(&self, ids: &[Uuid]) -> (i64, i64) {
        let mut conn = self.test.db.connect().await;
        sqlx::query_as(
            "SELECT (SELECT count(*) FROM executions WHERE id = ANY ($1)),
                 (SELECT count(*) FROM execution_logs WHERE execution_id = ANY ($1))",
        )
        .bind(ids)
        .fetch_one(&mut conn)
        .await
        .expect("counts")
    }

    async fn keep_history(&self, org: OrgId, days: i32) {
        let scope = OrgScope::for_run(None, actor("admin", true)).widened();
        let mut tx = self.platform.db.begin(&scope).await.expect("begins");
        let changes =
            organizations::Changes { settings: Some(json!({"history_days": days})), ..Default::default() };
        organizations::update(&mut tx, org, changes).await.expect("changes");
        tx.commit().await.expect("commits");
    }

    async fn retain(&self, days: i32) -> Removed {
        history::tick(&self.platform.db, days).await.expect("ticks")
    }

    async fn lines_of(&self, org: OrgId, id: ExecutionId) -> Vec<String> {
        let mut tx = self.platform.db.begin(&scope_of(org)).await.expect("begins");
        let lines = logs::list(&mut tx, id, 0, 1000, true).await.expect("lists");
        tx.commit().await.expect("commits");
        lines.into_iter().map(|line| line.message).collect()
    }

    /// Takes all partitions away, but for the one that takes what fits nowhere.
    async fn drop_partitions(&self) {
        self.sql(
            "DO $$ DECLARE p RECORD; BEGIN
                 FOR p IN SELECT name FROM log_partitions() LOOP EXECUTE format('DROP TABLE %I', p.name); END LOOP;
             END $$",
        )
        .await;
    }
}

async fn insert_ended(conn: &mut PgConnection, what: &Ended) -> Vec<Uuid> {
    // Ids of that time, whatever the schema knows of ids.
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "WITH hex AS (
             SELECT n, lpad(to_hex((extract(EPOCH FROM now() - make_interval(secs => $2 * 86400 + 3600)) * 1000)::bigint + n), 12, '0') AS t
             FROM generate_series(1, $3) AS n
         )
         INSERT INTO executions (id, organization_id, workflow_name, parameters, executed_by, executed_by_name, executed_by_email,
             status, priority, queue_rank, due_at, timeout_seconds, attempt, created_at, completed_at)
         SELECT (left(t, 8) || '-' || substr(t, 9) || '-7' || substr(gen_random_uuid()::text, 16))::uuid, $1, 'old', '{}',
             gen_random_uuid(), 'n', 'e', 'Success', 5, now(), now(), 60, 1,
             now() - make_interval(secs => $2 * 86400 + 3600), now() - make_interval(secs => $2 * 86400)
         FROM hex
         RETURNING id",
    )
    .bind(what.org.map(|org| org.0))
    .bind(what.days)
    .bind(what.count)
    .fetch_all(&mut *conn)
    .await
    .expect("inserts");
    insert_lines(conn, &ids, what.lines).await;
    ids
}

async fn insert_lines(conn: &mut PgConnection, ids: &[Uuid], lines: i32) {
    sqlx::query(
        "INSERT INTO execution_logs (execution_id, sequence, user_sequence, organization_id, attempt, level, message, logged_at)
         SELECT e.id, n, n, e.organization_id, 1, 'INFO', 'line ' || n, e.created_at
         FROM executions e CROSS JOIN generate_series(1, $2) AS n
         WHERE e.id = ANY ($1)",
    )
    .bind(ids)
    .bind(lines)
    .execute(conn)
    .await
    .expect("inserts");
}

#[tokio::test]
async fn an_installation_in_use_is_partitioned_and_put_back_with_all_its_lines() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    let mut conn = fixture.test.db.connect().await;
    let before = domain::MIGRATOR.iter().map(|m| m.version).filter(|version| *version < PARTITIONED).max();
    let before = before.expect("there was a schema before");
    domain::MIGRATOR.undo(&mut conn, before).await.expect("down");
    let mut ids = Vec::new();
    for days in [0.0, 3.0, 40.0, 700.0] {
        ids.extend(insert_ended(&mut conn, &Ended { org: Some(org), days, count: 2_500, lines: 10 }).await);
    }
    // An id that no clock has reached: such rows must not stop anything either.
    sqlx::query("UPDATE executions SET id = 'ffffffff-0000-4000-8000-000000000000' WHERE id = $1")
        .bind(ids[0])
        .execute(&mut conn)
        .await
        .expect("changes");
    sqlx::query("UPDATE execution_logs SET execution_id = 'ffffffff-0000-4000-8000-000000000000' WHERE execution_id = $1")
        .bind(ids[0])
        .execute(&mut conn)
        .await
        .expect("changes");
    let there = fixture.text(ALL_LINES).await;

    let began = Instant::now();
    domain::MIGRATOR.run(&mut conn).await.expect("up");
    let took = began.elapsed();

    let lines = fixture.count("SELECT count(*) FROM execution_logs").await;
    println!("history: {lines} lines of an existing installation partitioned in {} ms", took.as_millis());
    assert_eq!((lines, fixture.text(ALL_LINES).await == there), (100_000, true));
    assert_eq!(fixture.count("SELECT count(*) FROM execution_logs_default").await, 10);
    assert_eq!(
        fixture.lines_of(org, ids[1].into()).await.len(),
        10,
        "read by a user, under row-level security"
    );
    assert_eq!(fixture.lines_of(fixture.org("rival").await, ids[1].into()).await.len(), 0);

    domain::MIGRATOR.undo(&mut conn, before).await.expect("down");
    assert_eq!(fixture.text(ALL_LINES).await, there, "one table again");
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM pg_inherits i WHERE i.inhparent = 'execution_logs'::regclass")
            .await,
        0
    );
    domain::MIGRATOR.run(&mut conn).await.expect("up again");
    assert_eq!(fixture.text(ALL_LINES).await, there);
    conn.close().await.expect("closes");
    fixture.close().await;
}

#[tokio::test]
async fn no_line_is_refused_for_want_of_a_partition() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    fixture.drop_partitions().await;
    let id = fixture.submit(&scope_of(org), |_| {}).await.expect("submits").id;
    let claimed = fixture.claim(WorkerId::generate(), 1).await.remove(0);
    let first = batch(&claimed, claimed.attempt, [1, 2]);
    let written = finish::record(&fixture.platform.db, &[first], &[]).await.expect("records");
    assert_eq!(written.dropped_lines, 0);
    assert_eq!(fixture.count("SELECT count(*) FROM execution_logs_default").await, 2);

    // Whoever is first makes them, and what came meanwhile is where it belongs.
    let made = join_all((0..5).map(|_| history::prepare(&fixture.platform.db))).await;
    let made: i32 = made.into_iter().map(|made| made.expect("prepares")).sum();

    assert_eq!(made, 5, "this week and four more, each once");
    assert_eq!(fixture.count("SELECT count(*) FROM execution_logs_default").await, 0);
    assert_eq!(fixture.lines_of(org, id).await, ["line 1", "line 2"]);
    let last = batch(&claimed, claimed.attempt, [3]);
    let outcome = finish::Outcome { lines: Some(last), ..success(&claimed) };
    assert_eq!(fixture.finish(&[outcome]).await.len(), 1);
    assert_eq!(fixture.lines_of(org, id).await.len(), 3);
    assert_eq!(fixture.count("SELECT count(*) FROM execution_logs_default").await, 0);
    fixture.close().await;
}

#[tokio::test]
async fn history_is_kept_for_as_long_as_its_organization_and_the_platform_say() {
    let fixture = Fixture::embedded().await;
    let (brief, usual, long) =
        (fixture.org("brief").await, fixture.org("usual").await, fixture.org("long").await);
    fixture.keep_history(brief, 7).await;
    fixture.keep_history(long, 1000).await;
    let mut made = Vec::new();
    for (org, kept) in [(Some(brief), 7.0), (Some(usual), 30.0), (Some(long), 30.0), (None, 30.0)] {
        for days in [0.5, 6.5, 7.5, 20.0, 29.5, 30.5, 400.0] {
            made.push((
                days < kept,
                days >= 30.0,
                fixture.ended(&Ended { org, days, count: 3, lines: 4 }).await,
            ));
        }
    }
    // Submitted long ago: one waits for another attempt, one has ended lately.
    let waiting = fixture.ended(&Ended { org: Some(brief), days: 400.0, count: 1, lines: 2 }).await;
    let late = fixture.ended(&Ended { org: Some(brief), days: 400.0, count: 1, lines: 2 }).await;
    fixture
        .sql(format!(
            "UPDATE executions SET status = 'Pending', completed_at = NULL WHERE id = '{}'",
            waiting[0]
        ))
        .await;
    fixture
        .sql(format!(
            "UPDATE executions SET completed_at = now() - interval '1 day' WHERE id = '{}'",
            late[0]
        ))
        .await;
    for id in made.iter().flat_map(|(.., ids)| ids) {
        let mut tx = fixture.platform.db.begin(&scope_of(brief)).await.expect("begins");
        let of = json!({});
        audit::record(&mut tx, Action::ExecutionCancelled, format!("executions/{id}"), &of)
            .await
            .expect("records");
        tx.commit().await.expect("commits");
    }
    let audited = fixture.count("SELECT count(*) FROM audit_log").await;

    let removed = fixture.retain(30).await;

    let mut wrong = 0;
    for (is_kept, goes_with_partition, ids) in &made {
        let (executions, lines) = fixture.still_there(ids).await;
        // Lines beyond the platform's age wait for the end of their partition, out of reach.
        let expected_lines = if *is_kept || *goes_with_partition { 12 } else { 0 };
        wrong += i32::from(executions != if *is_kept { 3 } else { 0 });
        wrong += i32::from(lines != expected_lines && executions == 3 || lines > expected_lines);
    }
    println!("history: {} groups of executions, kept or removed against the rule: {wrong}", made.len());
    assert_eq!(wrong, 0);
    assert_eq!(removed.executions, 3 * made.iter().filter(|(is_kept, ..)| !is_kept).count() as u64);
    assert_eq!(fixture.still_there(&waiting).await, (1, 2));
    assert_eq!(fixture.still_there(&late).await, (1, 2));
    assert_eq!(fixture.count("SELECT count(*) FROM audit_log").await, audited, "audit records stay");
    assert_eq!(audited, made.iter().map(|(.., ids)| ids.len() as i64).sum::<i64>());
    assert_eq!(fixture.retain(30).await, Removed::default(), "a second one finds nothing");
    fixture.close().await;
}

#[tokio::test]
async fn racing_replicas_remove_each_old_row_once_and_none_of_another_organization() {
    const OLD: i32 = 5_000;
    let fixture = Fixture::embedded().await;
    let (brief, other) = (fixture.org("brief").await, fixture.org("other").await);
    fixture.keep_history(brief, 7).await;
    // The same times and so neighbouring ids: a batch that went by time alone would take both.
    for org in [brief, other] {
        fixture.ended(&Ended { org: Some(org), days: 20.0, count: OLD, lines: 8 }).await;
    }
    let of_other = format!(
        "SELECT md5(string_agg(l::text, '|' ORDER BY execution_id, sequence)) FROM execution_logs l WHERE organization_id = '{other}'"
    );
    let there = fixture.text(&of_other).await;

    let removed = join_all((0..5).map(|_| fixture.retain(90))).await;

    let (executions, lines) = removed
        .iter()
        .fold((0, 0), |(executions, lines), one| (executions + one.executions, lines + one.lines));
    let left =
        fixture.count(&format!("SELECT count(*) FROM executions WHERE organization_id = '{brief}'")).await
            + fixture
                .count(&format!("SELECT count(*) FROM execution_logs WHERE organization_id = '{brief}'"))
                .await;
    let lost = i64::from(OLD)
        - fixture.count(&format!("SELECT count(*) FROM executions WHERE organization_id = '{other}'")).await;
    println!(
        "history: 5 racing replicas removed {executions} of {OLD} old executions and {lines} lines, left {left}, of another organization {lost}"
    );
    assert_eq!((executions, lines, left, lost), (OLD as u64, 8 * OLD as u64, 0, 0));
    assert_eq!(fixture.text(&of_other).await, there, "its lines are untouched");
    fixture.close().await;
}

#[tokio::test]
async fn a_partition_whose_time_is_over_is_dropped_whole_and_what_waits_keeps_its_lines() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    fixture.drop_partitions().await;
    fixture
        .sql(
            "DO $$ BEGIN EXECUTE format('CREATE TABLE old_week PARTITION OF execution_logs FOR VALUES FROM (%L) TO (%L)',
                 first_id_at(now() - interval '60 days'), first_id_at(now() - interval '40 days')); END $$",
        )
        .await;
    let ended = fixture.ended(&Ended { org: Some(org), days: 50.0, count: 2_500, lines: 10 }).await;
    let waiting = fixture.ended(&Ended { org: Some(org), days: 50.0, count: 1, lines: 3 }).await;
    fixture
        .sql(format!(
            "UPDATE executions SET status = 'Pending', completed_at = NULL, max_attempts = 3, queue_rank = now() - interval '1 hour',
                 code = 'x = 1', script_name = 's' WHERE id = '{}'",
            waiting[0]
        ))
        .await;
    assert_eq!(fixture.count("SELECT count(*) FROM old_week").await, 25_003);

    // Somebody reads lines all the while: nothing is dropped under them, and nobody waits for long.
    let mut reader = fixture.test.db.connect().await;
    let mut reading = reader.begin().await.expect("begins");
    sqlx::query("SELECT count(*) FROM execution_logs").execute(&mut *reading).await.expect("reads");
    let began = Instant::now();
    let busy = fixture.retain(30).await;
    println!("history: a drop that finds lines in use gives up after {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(busy, Removed { executions: 2_500, lines: 0, partitions: 0 });
    reading.rollback().await.expect("ends");

    let removed = fixture.retain(30).await;
    assert_eq!(removed, Removed { executions: 0, lines: 0, partitions: 1 });
    assert_eq!(fixture.count("SELECT count(*) FROM pg_class WHERE relname = 'old_week'").await, 0);
    assert_eq!(fixture.still_there(&ended).await, (0, 0));
    assert_eq!(fixture.still_there(&waiting).await, (1, 3));
    let claimed = fixture.claim(WorkerId::generate(), 1).await.remove(0);
    assert_eq!((claimed.id.0, claimed.last_sequence, claimed.last_user_sequence), (waiting[0], 3, 3));

    // Once it has ended and its time is over too, its lines go with it.
    assert_eq!(fixture.finish(&[success(&claimed)]).await.len(), 1);
    fixture.sql("UPDATE executions SET completed_at = now() - interval '31 days'").await;
    assert_eq!(fixture.retain(30).await, Removed { executions: 1, lines: 3, partitions: 0 });
    fixture.close().await;
}

#[tokio::test]
async fn what_concerns_the_lines_of_one_execution_opens_one_partition() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    let id = fixture.ended(&Ended { org: Some(org), days: 0.0, count: 1, lines: 5 }).await.remove(0);
    let mut conn = fixture.test.db.connect().await;
    let mut scanned = Vec::new();
    for statement in [
        "SELECT * FROM execution_logs WHERE execution_id = $1 AND sequence > 2 ORDER BY sequence LIMIT 10",
        "SELECT EXISTS (SELECT FROM execution_logs WHERE execution_id = $1)",
        "SELECT max(sequence) FROM execution_logs WHERE execution_id = $1",
        "DELETE FROM execution_logs WHERE execution_id = ANY (ARRAY[$1]) AND execution_id BETWEEN $1 AND $1",
    ] {
        let mut tx = conn.begin().await.expect("begins");
        let prepare =
            format!("SET LOCAL plan_cache_mode = force_generic_plan; PREPARE one (uuid) AS {statement}");
        sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *tx).await.expect("prepares");
        let explain = format!("EXPLAIN (COSTS OFF) EXECUTE one ('{id}')");
        let plan: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(&mut *tx).await.expect("explains");
        tx.rollback().await.expect("ends");
        sqlx::query("DEALLOCATE one").execute(&mut conn).await.expect("forgets");
        // Of a bitmap, the scan of the index belongs to that of the table.
        let is_scan = |line: &&String| line.contains("Scan") && !line.contains("Bitmap Index Scan");
        let scans: Vec<&String> = plan.iter().filter(is_scan).collect();
        assert!(scans.iter().all(|line| !line.contains("Seq Scan")), "{statement}: {plan:#?}");
        scanned.push(scans.len());
    }
    println!("history: partitions opened for one execution: {scanned:?}");
    assert_eq!(scanned, [1, 1, 1, 1]);
    fixture.close().await;
}

#[tokio::test]
async fn large_results_are_kept_out_of_the_row() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    for _ in 0..20 {
        fixture.submit(&scope, |_| {}).await.expect("submits");
    }
    let claimed = fixture.claim(WorkerId::generate(), 20).await;
    // Digits of random numbers, which hardly compress.
    let large = format!(
        "[{}]",
        (0..20_000).map(|_| Uuid::new_v4().as_u128().to_string()).collect::<Vec<_>>().join(",")
    );
    let outcomes: Vec<_> = claimed
        .iter()
        .map(|one| finish::Outcome { result: Some(crate::support::json(&large)), ..success(one) })
        .collect();
    assert_eq!(fixture.finish(&outcomes).await.len(), 20);

    let row = fixture.count("SELECT pg_relation_size('executions')").await / 60;
    let beside = fixture
        .count("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'executions'::regclass")
        .await
        / 20;
    println!(
        "history: a result of {} KiB leaves {row} bytes in each version of the row and {} KiB beside it",
        large.len() / 1024,
        beside / 1024
    );
    assert!(row < 2_048, "{row}");
    assert!(beside > 200 * 1024, "{beside}");
    fixture.close().await;
}
