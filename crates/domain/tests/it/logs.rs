//! What happened among two hundred thousand entries: no sequential scan, whatever the scope, and little is read whatever is asked
//! for. And what is reported reaches its table.

use chrono::{DateTime, TimeDelta, Utc};
use domain::settings::Settings;
use domain::system_events::list::{self, Filters};
use domain::system_events::{Category, Level, NewEvent};
use domain::{Db, OrgScope, Platform};
use sqlx::{AssertSqlSafe, Connection};
use testkit::{Line, TestEnv, eventually};

use crate::directory::{plan, statements};
use crate::listing::reads;
use crate::support::{Fixture, actor};

/// A hundred thousand events and as many deeds, of a thousand organizations, in 75 days. The 48 bits of time in an id are 65.536
/// seconds for each number.
const ROWS: &str = "
    INSERT INTO system_events (id, organization_id, category, level, message, created_at)
    SELECT (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000')::uuid, CASE WHEN n % 2 = 0 THEN ('00000000-0000-0000-0001-' || lpad((n % 1000)::text, 12, '0'))::uuid END,
        'system', 'info', 'n', to_timestamp(n * 65.536)
    FROM generate_series(1, 100000) AS n;
    SET session_replication_role = replica;
    INSERT INTO audit_log (id, organization_id, actor, action, resource, sequence, hash, created_at)
    SELECT (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000')::uuid, CASE WHEN n % 2 = 0 THEN ('00000000-0000-0000-0001-' || lpad((n % 1000)::text, 12, '0'))::uuid END,
        'a', 'role.created', 'r', n, '', to_timestamp(n * 65.536)
    FROM generate_series(1, 100000) AS n;
    SET session_replication_role = DEFAULT;
    ANALYZE";

#[tokio::test]
async fn a_page_of_what_happened_needs_no_sequential_scan() {
    let fixture = Fixture::embedded().await;
    let mut conn = fixture.test.db.connect().await;
    sqlx::raw_sql(AssertSqlSafe(ROWS.to_owned())).execute(&mut conn).await.expect("fills the tables");
    let last = "'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    let values = format!(
        "{last}, '00000000-0000-0000-0000-000000000000', NULL, NULL, NULL, NULL, {last}, '{{}}', TRUE, '{{}}', 101, 0"
    );
    let org = "00000000-0000-0000-0001-000000000002";
    let mut scans = 0;
    let all = statements(&["FROM system_events", "FROM audit_log", "LIMIT"]);
    assert_eq!(all.len(), 2, "one for everything, one for a scope");
    for statement in &all {
        let (scope, values) = match statement.contains("$13") {
            true => (org, format!("{values}, '{org}'")),
            false => ("PLATFORM", values.clone()),
        };
        // What the server settles on after it has seen the statement several times.
        let first = plan(&mut conn, scope, "auto", statement, &values).await;
        let mut plans = vec![first];
        for _ in 0..8 {
            let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE asked ({values})");
            let asked = sqlx::query_scalar::<_, serde_json::Value>(AssertSqlSafe(explain)).persistent(false);
            plans.push(asked.fetch_one(&mut conn).await.expect("explains").to_string());
        }
        for plan in plans {
            let is_whole = plan.contains("Seq Scan");
            scans += usize::from(is_whole);
            assert!(!is_whole, "{scope}: {plan}");
        }
    }
    println!("what happened: {} statements, sequential scans {scans}", all.len());
    conn.close().await.expect("closes");
    fixture.close().await;
}

#[tokio::test]
async fn little_is_read_of_what_no_filter_lets_through() {
    let fixture = Fixture::embedded().await;
    let mut conn = fixture.test.db.connect().await;
    sqlx::raw_sql(AssertSqlSafe(ROWS.to_owned())).execute(&mut conn).await.expect("fills the tables");
    // Nothing of what autovacuum may do meanwhile is then counted as a list's.
    sqlx::raw_sql(
        "ALTER TABLE audit_log SET (autovacuum_enabled = FALSE); ALTER TABLE system_events SET (autovacuum_enabled = FALSE)",
    )
    .execute(&mut conn)
    .await
    .expect("alters");
    sqlx::raw_sql("VACUUM ANALYZE audit_log").execute(&mut conn).await.expect("analyses");
    sqlx::raw_sql("VACUUM ANALYZE system_events").execute(&mut conn).await.expect("analyses");
    conn.close().await.expect("closes");
    fixture.platform.db.close().await;

    let day = |number: i64| Some(DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(number));
    let of_level = |level| Filters { level: Some(level), ..Filters::default() };
    let of_category = |category| Filters { category: Some(category), ..Filters::default() };
    let no_deeds: &[&str] = &["audit_log"];
    let both: &[&str] = &["audit_log", "system_events"];
    let cases = [
        ("errors", of_level(Level::Error), no_deeds, 0),
        ("critical", of_level(Level::Critical), no_deeds, 0),
        ("discovery", of_category(Category::Discovery), no_deeds, 0),
        ("faults", of_category(Category::Error), no_deeds, 0),
        (
            "warnings of roles",
            Filters { level: Some(Level::Warning), ..of_category(Category::Role) },
            no_deeds,
            0,
        ),
        ("until the tenth day", Filters { until: day(10), ..Filters::default() }, both, 25),
        ("the tenth day", Filters { since: day(9), until: day(10), ..Filters::default() }, both, 25),
        ("before everything", Filters { until: day(-1), ..Filters::default() }, both, 0),
        ("too late", Filters { since: day(100), ..Filters::default() }, both, 0),
    ];
    let everything = OrgScope::for_run(None, actor("admin", true)).widened();
    let organization = "00000000-0000-0000-0001-000000000002".parse().expect("an id");
    let one = everything.clone().within(Some(organization));
    let mut conn = fixture.test.db.connect().await;
    let (mut asked, mut most) = (0, 0);
    for (who, scope) in [("all", &everything), ("one", &one)] {
        for (what, filters, tables, expected) in &cases {
            let mut before = Vec::new();
            for table in *tables {
                before.push(reads(&mut conn, table).await);
            }
            let db = Db::open(&fixture.test.db.url(), 1).expect("opens");
            let mut tx = db.begin(scope).await.expect("begins");
            let listed = list::list(&mut tx, filters, 25, 0, None).await.expect("lists");
            tx.commit().await.expect("commits");
            db.close().await;
            // Of one organization there are fewer.
            assert!(listed.len() == *expected || who == "one" && listed.len() < *expected, "{who}, {what}");
            let is_within = |at: DateTime<Utc>| {
                filters.since.is_none_or(|since| at >= since) && filters.until.is_none_or(|until| at <= until)
            };
            assert!(listed.iter().all(|entry| is_within(entry.at)), "{who}, {what}");
            for (table, (scans, rows)) in tables.iter().zip(before) {
                let (scans_now, rows_now) = reads(&mut conn, table).await;
                let read = rows_now - rows;
                most = most.max(read);
                asked += 1;
                // An hour between the clocks is 55 rows.
                assert!(scans_now == scans && read <= 200, "{who}, {what}: {read} rows of {table}");
            }
        }
    }
    println!("what happened: {asked} tables asked, most rows read of one {most}");
    conn.close().await.expect("closes");
    fixture.test.close().await;
}

#[tokio::test]
async fn a_dead_connection_delays_what_is_reported_and_loses_none_of_it() {
    let test = TestEnv::create().await;
    let (line, url) = Line::beside(&test.db.url()).await;
    let settings = Settings { database_url: Some(url), ..test.settings_in_process() };
    let fixture = Fixture { platform: Platform::open(settings).expect("opens"), test };
    let report = |message: &str| {
        fixture.platform.system_events.report(NewEvent::new(Category::System, Level::Warning, message));
    };
    let written = async |number: i64| {
        let query = "SELECT count(*) FROM system_events WHERE message LIKE 'reported %'";
        eventually("what was reported", || async { (fixture.count(query).await == number).then_some(()) })
            .await;
    };
    report("reported over a connection that is well");
    written(1).await;
    line.half_open();
    report("reported over one that carries nothing any more");
    written(2).await;
    fixture.close().await;
}
