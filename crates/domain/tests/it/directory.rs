//! Lists of people, roles, forms and organizations among a hundred thousand: no sequential scan, whatever the scope, beside
//! row-level security.

use std::path::Path;
use std::time::{Duration, Instant};

use domain::page::NameCursor;
use domain::users::directory::{self, Filters, Kind};
use domain::{OrgScope, organizations, roles};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::support::{Fixture, actor};

/// Fills the tables: half of the rows are one organization's, the rest is spread.
const ROWS: &str = "
    INSERT INTO organizations (id, name, created_by)
    SELECT ('00000000-0000-0000-0001-' || lpad(n::text, 12, '0'))::uuid, 'Organization ' || n, 'x'
    FROM generate_series(1, 100000) AS n;
    INSERT INTO users (id, organization_id, email, name, user_type)
    SELECT gen_random_uuid(), ('00000000-0000-0000-0001-' || lpad((CASE WHEN n % 2 = 0 THEN 1 ELSE n END)::text, 12, '0'))::uuid,
        'user' || n || '@example.com', 'n', 'ORG'
    FROM generate_series(1, 100000) AS n;
    INSERT INTO roles (id, organization_id, name, created_by)
    SELECT gen_random_uuid(), CASE WHEN n % 10 > 0
            THEN ('00000000-0000-0000-0001-' || lpad((CASE WHEN n % 2 = 0 THEN 1 ELSE n END)::text, 12, '0'))::uuid END,
        'Role ' || n, 'x'
    FROM generate_series(1, 100000) AS n;
    INSERT INTO user_roles (user_id, role_id, organization_id, assigned_by)
    SELECT u.id, r.id, u.organization_id, 'x'
    FROM (SELECT id FROM roles WHERE organization_id IS NULL LIMIT 1) AS r CROSS JOIN users u
    WHERE u.user_type = 'ORG';
    INSERT INTO forms (id, organization_id, name, form_schema, access_level, created_by)
    SELECT gen_random_uuid(), CASE WHEN n % 10 > 0
            THEN ('00000000-0000-0000-0001-' || lpad((CASE WHEN n % 2 = 0 THEN 1 ELSE n END)::text, 12, '0'))::uuid END,
        'Form ' || n, '{\"fields\": []}', CASE WHEN n % 3 > 0 THEN 'authenticated' END, 'x'
    FROM generate_series(1, 100000) AS n;
    INSERT INTO form_roles (form_id, role_id, organization_id, assigned_by)
    SELECT f.id, r.id, f.organization_id, 'x'
    FROM (SELECT id FROM roles WHERE organization_id IS NULL LIMIT 1) AS r CROSS JOIN forms f
    WHERE f.access_level IS NULL;
    ANALYZE";

const LARGE: &str = "00000000-0000-0000-0001-000000000001";

/// The statements of the domain that contain all of this, as they are sent.
pub(crate) fn statements(marks: &[&str]) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.sqlx");
    let files = std::fs::read_dir(folder).expect("the checked queries are there");
    files
        .map(|file| std::fs::read(file.expect("is readable").path()).expect("is readable"))
        .map(|bytes| serde_json::from_slice::<Value>(&bytes).expect("JSON"))
        .filter_map(|query| query["query"].as_str().map(str::to_owned))
        .filter(|query| marks.iter().all(|mark| query.contains(mark)))
        .collect()
}

/// How the planner carries out a statement, with a plan for these values or for any.
pub(crate) async fn plan(
    conn: &mut PgConnection,
    scope: &str,
    mode: &str,
    statement: &str,
    values: &str,
) -> String {
    let script = format!(
        "RESET ROLE; SET plan_cache_mode = {mode}; SET ROLE bifrost_app; SET bifrost.org_id = '{scope}';
         DEALLOCATE ALL; PREPARE asked AS {statement}"
    );
    sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut *conn).await.expect("prepares");
    let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE asked ({values})");
    let plan: Value =
        sqlx::query_scalar(AssertSqlSafe(explain)).persistent(false).fetch_one(conn).await.expect("explains");
    plan.to_string()
}

async fn p95<T, F: Future<Output = T>>(what: impl Fn() -> F) -> Duration {
    // The first few open a connection and prepare.
    for _ in 0..10 {
        what().await;
    }
    let mut took = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        what().await;
        took.push(began.elapsed());
    }
    took.sort();
    took[took.len() * 95 / 100]
}

#[tokio::test]
async fn a_page_among_a_hundred_thousand_rows_needs_no_sequential_scan() {
    let fixture = Fixture::embedded().await;
    let mut conn = fixture.test.db.connect().await;
    sqlx::raw_sql(ROWS).execute(&mut conn).await.expect("fills the tables");
    let place = "'A', '00000000-0000-0000-0000-000000000000'";
    let cases = [
        (
            "PLATFORM",
            vec!["FROM organizations", "WHERE is_active AND (name", "LIMIT"],
            format!("{place}, 101"),
        ),
        (
            "PLATFORM",
            vec!["FROM users", "WHERE user_type <> 'SYSTEM' AND is_active", "LIMIT"],
            format!("{place}, 101"),
        ),
        (
            "PLATFORM",
            vec!["FROM users", "WHERE user_type = $1", "LIMIT"],
            format!("'PLATFORM', {place}, 101"),
        ),
        (
            "PLATFORM",
            vec!["FROM users", "WHERE organization_id = $1", "LIMIT"],
            format!("'{LARGE}', {place}, 101"),
        ),
        (
            LARGE,
            vec!["FROM users", "WHERE organization_id = $1", "LIMIT"],
            format!("'{LARGE}', {place}, 101"),
        ),
        ("PLATFORM", vec!["FROM roles", "WHERE is_active", "LIMIT"], format!("{place}, 101")),
        (LARGE, vec!["SELECT * FROM roles", "UNION ALL", "LIMIT"], format!("'{LARGE}', {place}, 101")),
        ("PLATFORM", vec!["FROM forms", "> ($1, $2)", "LIMIT"], format!("{place}, 101")),
        (
            LARGE,
            vec!["SELECT f.* FROM forms f", "UNION ALL", "LIMIT"],
            format!("'{LARGE}', {place}, 101, true, true, '{LARGE}'"),
        ),
        (LARGE, vec!["FROM user_roles", "ur.user_id > $2", "LIMIT"], format!("'{LARGE}', '{LARGE}', 101")),
        (LARGE, vec!["FROM users", "(id = $1 OR email = $2)"], format!("'{LARGE}', 'user7@example.com'")),
        (LARGE, vec!["FROM users", "email = ANY($2)"], format!("'{{{LARGE}}}', '{{user7@example.com}}'")),
    ];
    let (mut plans, mut scans) = (0, Vec::new());
    for (scope, marks, values) in &cases {
        let found = statements(marks);
        assert!(!found.is_empty(), "no statement has {marks:?}");
        for statement in found {
            for mode in ["force_custom_plan", "force_generic_plan"] {
                let plan = plan(&mut conn, scope, mode, &statement, values).await;
                plans += 1;
                // A page that has to be sorted first reads everything before it.
                let is_sorted = plan.contains("Sort\"") && statement.contains("LIMIT");
                if plan.contains("Seq Scan") || !plan.contains("Index") || is_sorted {
                    scans.push(format!("{statement}\nunder {scope}, {mode}:\n{plan}"));
                }
            }
        }
    }
    println!("lists at 100,000 rows: {plans} plans, sequential scans and sorts {}", scans.len());
    assert!(scans.is_empty(), "{}", scans.join("\n\n"));

    // Figures, not promises: a debug build, with a database that has just been filled.
    let db = &fixture.platform.db;
    let everything = OrgScope::for_run(None, actor("admin", true)).widened();
    let large = OrgScope::for_run(Some(LARGE.parse().expect("an id")), actor("lead", false));
    let after = NameCursor { name: "A".into(), id: uuid::Uuid::nil() };
    for (name, scope) in [("all", &everything), ("one organization", &large)] {
        let users = p95(|| async {
            let mut tx = db.begin(scope).await.expect("begins");
            let filters = Filters { kind: Some(Kind::Org), organization: None };
            let found = directory::list(&mut tx, &filters, 100, &after).await.expect("lists");
            assert_eq!(found.len(), 100);
        })
        .await;
        let roles = p95(|| async {
            let mut tx = db.begin(scope).await.expect("begins");
            roles::list(&mut tx, 100, &NameCursor::START).await.expect("lists").len()
        })
        .await;
        println!("p95 of a page of 100 among 100,000 rows, {name}: users {users:?}, roles {roles:?}");
    }
    let found = p95(|| async {
        let mut tx = db.begin(&everything).await.expect("begins");
        organizations::list(&mut tx, 100, &NameCursor::START).await.expect("lists").len()
    })
    .await;
    println!("p95 of a page of 100 among 100,000 rows: organizations {found:?}");
    fixture.close().await;
}

/// What a scope may do with which column of a table.
async fn rights(table: &str) -> Vec<String> {
    let fixture = Fixture::embedded().await;
    let mut conn = fixture.test.db.connect().await;
    let allowed = sqlx::query_scalar(
        "SELECT verb || ' ' || attname
         FROM pg_attribute
         CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) WITH ORDINALITY AS verbs (verb, place)
         WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
           AND has_column_privilege('bifrost_app', attrelid, attnum, verb)
         ORDER BY attnum, place",
    )
    .bind(table)
    .fetch_all(&mut conn)
    .await
    .expect("asks");
    fixture.close().await;
    allowed
}

#[tokio::test]
async fn a_scope_reaches_of_its_links_only_whose_they_are() {
    assert_eq!(rights("account_links").await, ["SELECT user_id"]);
}

#[tokio::test]
async fn a_scope_reaches_of_its_sessions_only_whether_they_have_ended() {
    let ends =
        ["SELECT id", "SELECT user_id", "SELECT revoked_at", "UPDATE revoked_at", "UPDATE revoked_reason"];
    assert_eq!(rights("sessions").await, ends);
}
