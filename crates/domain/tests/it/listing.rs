//! Lists of a large history: that each filter answers with what it names, and how much it reads for that.

use chrono::{TimeDelta, Utc};
use domain::executions::Status;
use domain::executions::list::{self, Filters};
use domain::id::{OrgId, UserId};
use domain::page::Cursor;
use domain::{Actor, Db, OrgScope};
use sqlx::{Connection, PgConnection};
use testkit::eventually;
use uuid::Uuid;

use crate::support::{Fixture, actor};

const EXECUTIONS: i32 = 60_000;
const PAGE: i64 = 25;
/// Rows that three pages may fetch: each a twentieth of all. Where there are so few executions PostgreSQL rather sorts the
/// thousands that failed than walk through an index in their order.
const MOST_ROWS: i64 = 3 * EXECUTIONS as i64 / 20;

/// Of 60 days; a third belongs to the first organization, a third is global, the rest is of others. Ten are of a workflow that
/// nobody else has, six ran into their time limit, a hundred wait.
const GENERATE: &str = "
    INSERT INTO executions (id, organization_id, workflow_name, parameters, executed_by, executed_by_name, executed_by_email, status,
        priority, queue_rank, due_at, timeout_seconds, transient, created_at, completed_at)
    SELECT (left(time, 8) || '-' || substr(time, 9) || '-7' || substr(md5(n::text), 1, 3) || '-8' || substr(md5(n::text), 4, 3) || '-'
            || right(md5(n::text), 12))::uuid,
        CASE WHEN is_rare OR n % 3 = 0 THEN $2 ELSE CASE WHEN n % 3 = 1 THEN ($4::uuid[])[1 + n % cardinality($4::uuid[])] END END,
        CASE WHEN is_rare THEN 'rare' ELSE 'workflow ' || floor(40 * power((abs(hashint4(n)) % 1000) / 1000.0, 3)) END, '{}',
        CASE WHEN n % 60 = 0 THEN $3 ELSE lpad(to_hex(1000 + n % 500), 32, '0')::uuid END, 'n', 'e', status, 5, now(), now(), 60,
        n % 97 = 0, created, CASE WHEN status NOT IN ('Pending', 'Running') THEN created + interval '1 second' END
    FROM (SELECT n, created, lpad(to_hex((extract(EPOCH FROM created) * 1000)::bigint), 12, '0') AS time, n % ($1 / 10) = 7 AS is_rare,
              CASE WHEN n > $1 - 100 THEN 'Pending' WHEN n > $1 - 110 THEN 'Running' WHEN n % ($1 / 6) = 12 THEN 'Timeout'
                  WHEN abs(hashint4(n + 1)) % 100 < 93 THEN 'Success' WHEN abs(hashint4(n + 1)) % 100 < 98 THEN 'Failed'
                  ELSE 'Cancelled' END AS status
          FROM (SELECT n, now() - make_interval(secs => 86400.0 * 60 * ($1 - n) / $1) AS created FROM generate_series(1, $1) AS n)
              AS numbers) AS drawn";

/// Whose executions a scope shows.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Organization(OrgId),
    Nobody,
    Any,
}

struct Case {
    what: &'static str,
    filters: Filters,
}

fn cases(person: UserId) -> Vec<Case> {
    let status = |status| Filters { status: Some(status), ..Filters::default() };
    let workflow = |name: &str| Filters { workflow_name: Some(name.into()), ..Filters::default() };
    let day = |ago: i64| Some(Utc::now() - TimeDelta::days(ago));
    let own = Filters { executed_by: Some(person), ..Filters::default() };
    let case = |what, filters| Case { what, filters };
    vec![
        case("newest", Filters::default()),
        case("success", status(Status::Success)),
        case("failed", status(Status::Failed)),
        case("timeout", status(Status::Timeout)),
        case("errors, none", status(Status::CompletedWithErrors)),
        case("pending", status(Status::Pending)),
        case("running", status(Status::Running)),
        case("cancelling, none", status(Status::Cancelling)),
        case("frequent workflow", workflow("workflow 0")),
        case("seldom workflow", workflow("workflow 37")),
        case("rare workflow", workflow("rare")),
        case("no workflow", workflow("none")),
        case("workflow that failed", Filters { status: Some(Status::Failed), ..workflow("workflow 3") }),
        case("workflow that waits", Filters { status: Some(Status::Pending), ..workflow("workflow 0") }),
        case("a day", Filters { since: day(41), until: day(40), ..Filters::default() }),
        case("too early", Filters { until: day(100), ..Filters::default() }),
        case("too late", Filters { since: day(-1), ..Filters::default() }),
        case("workflow on a day", Filters { since: day(31), until: day(30), ..workflow("workflow 1") }),
        case("own", own.clone()),
        case("own, failed", Filters { status: Some(Status::Failed), ..own.clone() }),
        case("own, pending", Filters { status: Some(Status::Pending), ..own.clone() }),
        case("own workflow", Filters { workflow_name: Some("workflow 0".into()), ..own.clone() }),
        case("own on days", Filters { since: day(20), until: day(10), ..own }),
        case("of nobody", Filters { executed_by: Some(UserId::generate()), ..Filters::default() }),
    ]
}

/// What should be listed, asked in the plainest way.
async fn expected(conn: &mut PgConnection, owner: Owner, filters: &Filters) -> Vec<Uuid> {
    sqlx::query_scalar(
        "SELECT id FROM executions
         WHERE NOT transient AND ($1 OR organization_id IS NOT DISTINCT FROM $2) AND ($3::text IS NULL OR workflow_name = $3)
           AND ($4::text IS NULL OR status = $4) AND ($5::timestamptz IS NULL OR created_at >= $5)
           AND ($6::timestamptz IS NULL OR created_at <= $6) AND ($7::uuid IS NULL OR executed_by = $7)
         ORDER BY id DESC
         LIMIT 3 * $8",
    )
    .bind(matches!(owner, Owner::Any))
    .bind(if let Owner::Organization(org) = owner { Some(org.0) } else { None })
    .bind(&filters.workflow_name)
    .bind(filters.status.map(Status::as_str))
    .bind(filters.since)
    .bind(filters.until)
    .bind(filters.executed_by.map(|user| user.0))
    .bind(PAGE)
    .fetch_all(conn)
    .await
    .expect("reads")
}

async fn pages(db: &Db, scope: &OrgScope, filters: &Filters, count: usize) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let after = ids.last().copied().map(Cursor);
        let mut tx = db.begin(scope).await.expect("begins");
        let page = list::list(&mut tx, filters, PAGE, after).await.expect("lists");
        tx.commit().await.expect("commits");
        ids.extend(page.into_iter().map(|execution| execution.id.0));
    }
    ids
}

/// Whole scans of a table and rows fetched from it, as counted when everybody has left.
pub(crate) async fn reads(conn: &mut PgConnection, table: &str) -> (i64, i64) {
    let conn = tokio::sync::Mutex::new(conn);
    eventually("everybody to leave", || async {
        let others: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
        .fetch_one(&mut **conn.lock().await)
        .await
        .expect("asks");
        (others == 0).then_some(())
    })
    .await;
    sqlx::query_as(
        "SELECT pg_stat_get_numscans($1::text::regclass), pg_stat_get_tuples_fetched($1::text::regclass)",
    )
    .bind(table)
    .fetch_one(&mut **conn.lock().await)
    .await
    .expect("asks")
}

#[tokio::test]
async fn every_filter_lists_what_it_names_and_reads_little_more() {
    let fixture = Fixture::embedded().await;
    let acme = fixture.org("acme").await;
    let mut others: Vec<OrgId> = Vec::new();
    for name in ["b", "c", "d", "e", "f"] {
        others.push(fixture.org(name).await);
    }
    let person = UserId::generate();
    let mut conn = fixture.test.db.connect().await;
    sqlx::query(GENERATE)
        .bind(EXECUTIONS)
        .bind(acme.0)
        .bind(person.0)
        .bind(others.iter().map(|org| org.0).collect::<Vec<_>>())
        .execute(&mut conn)
        .await
        .expect("generates");
    // Nothing of what autovacuum may do meanwhile is then counted as a list's.
    sqlx::raw_sql("ALTER TABLE executions SET (autovacuum_enabled = FALSE)")
        .execute(&mut conn)
        .await
        .expect("alters");
    sqlx::raw_sql("VACUUM ANALYZE executions").execute(&mut conn).await.expect("analyses");
    fixture.platform.db.close().await;

    let member = OrgScope::for_run(Some(acme), Actor { id: person, ..actor("member", false) });
    let global = OrgScope::for_run(None, actor("admin", true));
    let mut asked = Vec::new();
    for (who, owner, scope) in [
        ("member", Owner::Organization(acme), member),
        ("global", Owner::Nobody, global.clone()),
        ("all", Owner::Any, global.widened()),
    ] {
        for case in cases(person) {
            let expected = expected(&mut conn, owner, &case.filters).await;
            asked.push((who, scope.clone(), case, expected));
        }
    }
    // A connection counts what it read with delay, so none that read executions may be left.
    conn.close().await.expect("closes");
    let mut conn = fixture.test.db.connect().await;
    let (mut wrong, mut most) = (0, 0);
    for (who, scope, Case { what, filters }, expected) in &asked {
        let (scans_before, rows_before) = reads(&mut conn, "executions").await;
        let db = Db::open(&fixture.test.db.url(), 1).expect("opens");
        let listed = pages(&db, scope, filters, 3).await;
        db.close().await;
        let (scans, rows) = reads(&mut conn, "executions").await;
        let (scans, rows) = (scans - scans_before, rows - rows_before);
        most = most.max(rows);
        if listed != *expected || scans > 0 || rows > MOST_ROWS {
            wrong += 1;
            println!("{who}, {what}: right {}, whole scans {scans}, rows {rows}", listed == *expected);
        }
    }
    let checked = asked.len();
    println!(
        "lists: {checked} filters over {EXECUTIONS} executions, wrong or slow {wrong}, most rows fetched for three pages {most}"
    );
    assert_eq!(wrong, 0);
    fixture.test.close().await;
}
