//! What happened among two hundred thousand entries: no sequential scan, whatever the scope.

use sqlx::{AssertSqlSafe, Connection};

use crate::directory::{plan, statements};
use crate::support::Fixture;

/// A hundred thousand events and as many deeds, of a thousand organizations.
const ROWS: &str = "
    INSERT INTO system_events (id, organization_id, category, level, message)
    SELECT (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000')::uuid, CASE WHEN n % 2 = 0 THEN ('00000000-0000-0000-0001-' || lpad((n % 1000)::text, 12, '0'))::uuid END,
        'system', 'info', 'n'
    FROM generate_series(1, 100000) AS n;
    SET session_replication_role = replica;
    INSERT INTO audit_log (id, organization_id, actor, action, resource, sequence, hash)
    SELECT (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000')::uuid, CASE WHEN n % 2 = 0 THEN ('00000000-0000-0000-0001-' || lpad((n % 1000)::text, 12, '0'))::uuid END,
        'a', 'role.created', 'r', n, ''
    FROM generate_series(1, 100000) AS n;
    SET session_replication_role = DEFAULT;
    ANALYZE";

#[tokio::test]
async fn a_page_of_what_happened_needs_no_sequential_scan() {
    let fixture = Fixture::embedded().await;
    let mut conn = fixture.test.db.connect().await;
    sqlx::raw_sql(AssertSqlSafe(ROWS.to_owned())).execute(&mut conn).await.expect("fills the tables");
    let values = "NULL, NULL, NULL, NULL, NULL, '{}', TRUE, '{}', 101, 0";
    let org = "00000000-0000-0000-0001-000000000002";
    let mut scans = 0;
    let all = statements(&["FROM system_events", "FROM audit_log", "LIMIT"]);
    assert_eq!(all.len(), 2, "one for everything, one for a scope");
    for statement in &all {
        let (scope, values) = match statement.contains("$11") {
            true => (org, format!("{values}, '{org}'")),
            false => ("PLATFORM", values.to_owned()),
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
