//! Row-level security: no table without it, and it alone keeps tenants apart.

use domain::OrgScope;
use sqlx::{Connection, PgConnection, Row};

use crate::support::{Fixture, actor, scope_of};

/// Tables that the application's role may not see at all.
const CLOSED: [&str; 14] = [
    "execution_minutes",
    "job_runs",
    "provider_logins",
    "audit_heads",
    "mfa_methods",
    "package_environments",
    "package_switches",
    "recovery_codes",
    "spent_refresh_tokens",
    "trusted_devices",
    "workers",
    "workflow_starts",
    "workspace_index",
    "workspace_problems",
];

#[tokio::test]
async fn every_table_forces_row_level_security() {
    let fixture = Fixture::embedded().await;
    let mut conn = fixture.test.db.connect().await;

    let rows = sqlx::query(
        "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AS forced,
             EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid) AS has_policy,
             c.relispartition, has_table_privilege('bifrost_app', c.oid, 'SELECT, INSERT, UPDATE, DELETE') AS is_open
         FROM pg_class c
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname NOT LIKE '\\_sqlx%'",
    )
    .fetch_all(&mut conn)
    .await
    .expect("reads the catalogue");

    assert!(rows.len() > 10, "the catalogue lists the tables");
    for row in rows {
        let (table, forced, has_policy): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
        assert!(forced, "{table} does not force row-level security");
        let (is_partition, is_open): (bool, bool) = (row.get(3), row.get(4));
        if is_partition {
            assert!(!has_policy && !is_open, "{table}: partitions are reached through their table alone");
            continue;
        }
        assert_eq!(has_policy, !CLOSED.contains(&table.as_str()), "{table}: policy or closed, one of both");
    }
    fixture.close().await;
}

#[tokio::test]
async fn row_level_security_alone_shows_a_scope_its_own_rows_only() {
    let fixture = Fixture::embedded().await;
    let (acme, rival) = (fixture.org("acme").await, fixture.org("rival").await);
    for org in [acme, rival] {
        fixture.submit(&scope_of(org), |_| {}).await.expect("submits");
    }
    fixture.submit(&OrgScope::for_run(None, actor("admin", true)), |_| {}).await.expect("submits");
    let mut conn = fixture.test.db.connect().await;
    sqlx::query("SET ROLE bifrost_app").execute(&mut conn).await.expect("is allowed");

    // The same statement without any filter, under each scope.
    let mut leaks = 0;
    let mut cells = 0;
    for table in ["executions", "organizations", "audit_log"] {
        let column = if table == "organizations" { "id" } else { "organization_id" };
        for (scope, expected) in
            [(acme.to_string(), Some(acme.0)), (rival.to_string(), Some(rival.0)), ("GLOBAL".into(), None)]
        {
            let mut tx = conn.begin().await.expect("begins");
            sqlx::query("SELECT set_config('bifrost.org_id', $1, TRUE)")
                .bind(&scope)
                .execute(&mut *tx)
                .await
                .expect("sets");
            let owners: Vec<Option<uuid::Uuid>> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT {column} FROM {table}")))
                    .fetch_all(&mut *tx)
                    .await
                    .expect("reads");
            leaks += owners.iter().filter(|owner| **owner != expected).count();
            cells += 1;
            assert!(
                table == "organizations" || !owners.is_empty(),
                "{table} under {scope} shows its own rows"
            );
        }
        let unset: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&mut conn)
            .await
            .expect("reads");
        assert_eq!(unset, 0, "{table} shows nothing without a scope");
    }
    println!("row-level security alone: leaks {leaks} of {cells} cells");
    assert_eq!(leaks, 0);
    fixture.close().await;
}

#[tokio::test]
async fn a_scope_cannot_write_rows_of_another() {
    let fixture = Fixture::embedded().await;
    let (acme, rival) = (fixture.org("acme").await, fixture.org("rival").await);
    let mut conn = fixture.test.db.connect().await;
    sqlx::query("SET ROLE bifrost_app").execute(&mut conn).await.expect("is allowed");
    let mut tx = conn.begin().await.expect("begins");
    sqlx::query("SELECT set_config('bifrost.org_id', $1, TRUE)")
        .bind(acme.to_string())
        .execute(&mut *tx)
        .await
        .expect("sets");

    let written = sqlx::query("INSERT INTO config (id, organization_id, key, value_type, value, updated_by) VALUES ($1, $2, 'k', 'string', 'v', 'me')")
        .bind(uuid::Uuid::now_v7())
        .bind(rival.0)
        .execute(&mut *tx)
        .await;

    let refusal = written.expect_err("is refused").to_string();
    assert!(refusal.contains("row-level security"), "{refusal}");
    drop(tx);
    fixture.close().await;
}

#[tokio::test]
async fn the_audit_log_is_append_only_for_both_roles() {
    let fixture = Fixture::embedded().await;
    let mut conn = fixture.test.db.connect().await;

    for role in ["bifrost_app", "bifrost_system"] {
        for verb in ["UPDATE", "DELETE", "TRUNCATE"] {
            let may: bool = sqlx::query_scalar("SELECT has_table_privilege($1, 'audit_log', $2)")
                .bind(role)
                .bind(verb)
                .fetch_one(&mut conn)
                .await
                .expect("asks");
            assert!(!may, "{role} may {verb} the audit log");
        }
    }
    fixture.close().await;
}

#[tokio::test]
async fn the_login_of_the_application_is_no_superuser_and_owns_nothing() {
    let fixture = Fixture::embedded().await;
    let url = fixture.platform.settings.database_url.clone().expect("is set");
    let mut conn = PgConnection::connect(secrecy::ExposeSecret::expose_secret(&url)).await.expect("connects");

    let (superuser, owned): (bool, i64) = sqlx::query_as(
        "SELECT rolsuper OR rolbypassrls OR rolinherit, (SELECT count(*) FROM pg_class WHERE relowner = r.oid)
         FROM pg_roles r WHERE rolname = current_user",
    )
    .fetch_one(&mut conn)
    .await
    .expect("asks");
    assert!(!superuser);
    assert_eq!(owned, 0);
    let seen = sqlx::query("SELECT * FROM executions").fetch_all(&mut conn).await;
    assert!(seen.is_err(), "without a role the login sees no table");
    fixture.close().await;
}

#[tokio::test]
async fn a_page_of_an_organization_is_found_by_an_index_beside_row_level_security() {
    let fixture = Fixture::embedded().await;
    let mut conn = fixture.test.db.connect().await;
    // Row-level security runs first, so an index helps only where its condition cannot leak.
    sqlx::raw_sql("SET enable_seqscan = off; SET enable_sort = off; SET ROLE bifrost_app; SET bifrost.org_id = 'GLOBAL'")
        .execute(&mut conn)
        .await
        .expect("is allowed");

    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT id FROM executions
         WHERE NOT transient AND (CASE WHEN organization_id IS NULL
             THEN '00000000-0000-0000-0000-000000000000'::uuid ELSE organization_id END) = '01a1fc25-92a0-7054-b1a5-5b0eee6f91a1'
         ORDER BY id DESC LIMIT 26",
    )
    .fetch_all(&mut conn)
    .await
    .expect("explains");

    let plan = plan.join("\n");
    assert!(plan.contains("executions_list_idx") && plan.contains("Index Cond"), "{plan}");
    fixture.close().await;
}

#[tokio::test]
async fn row_level_security_alone_hides_the_people_of_others() {
    let fixture = Fixture::embedded().await;
    let (acme, rival) = (fixture.org("acme").await, fixture.org("rival").await);
    let mut conn = fixture.test.db.connect().await;
    for org in [Some(acme.0), Some(rival.0), None] {
        sqlx::query(
            "WITH person AS (
                 INSERT INTO users (id, organization_id, email, user_type)
                 VALUES (gen_random_uuid(), $1, 'u' || COALESCE($1::text, '') || '@example.com', 'ORG')
                 RETURNING id
             ), role AS (
                 INSERT INTO roles (id, organization_id, name, created_by) VALUES (gen_random_uuid(), $1, 'r', 'x') RETURNING id
             ), session AS (
                 INSERT INTO sessions (id, user_id, refresh_hash, expires_at)
                 SELECT gen_random_uuid(), id, id::text::bytea, now() FROM person
             ), link AS (
                 INSERT INTO account_links (token_hash, user_id, purpose, expires_at)
                 SELECT id::text::bytea, id, 'reset', now() FROM person
             )
             INSERT INTO user_roles (user_id, role_id, organization_id, assigned_by)
             SELECT person.id, role.id, $1, 'x' FROM person, role",
        )
        .bind(org)
        .execute(&mut conn)
        .await
        .expect("inserts");
    }
    sqlx::query("SET ROLE bifrost_app").execute(&mut conn).await.expect("is allowed");

    // Roles cascade: reading sees the global one too, writing does not. The SYSTEM user is a global one.
    let (mut cells, mut leaks) = (0, Vec::new());
    for scope in [acme.to_string(), rival.to_string()] {
        for (statement, expected) in [
            ("SELECT id FROM users", 1),
            ("SELECT role_id FROM user_roles", 1),
            ("SELECT id FROM sessions", 1),
            ("SELECT user_id FROM account_links", 1),
            ("SELECT id FROM roles", 2),
            ("UPDATE users SET name = 'mine' RETURNING id", 1),
            ("UPDATE user_roles SET assigned_by = 'mine' RETURNING role_id", 1),
            ("UPDATE sessions SET revoked_at = now() RETURNING id", 1),
            ("UPDATE roles SET name = 'mine' RETURNING id", 1),
            ("DELETE FROM user_roles RETURNING role_id", 1),
            ("DELETE FROM account_links RETURNING user_id", 1),
        ] {
            let mut tx = conn.begin().await.expect("begins");
            sqlx::query("SELECT set_config('bifrost.org_id', $1, TRUE)")
                .bind(&scope)
                .execute(&mut *tx)
                .await
                .expect("sets");
            let touched = sqlx::query(statement).fetch_all(&mut *tx).await.expect("runs").len();
            cells += 1;
            if touched != expected {
                leaks.push(format!("{statement} touches {touched} rows instead of {expected}"));
            }
        }
    }
    println!("row-level security alone, people: {cells} cells, leaks {}", leaks.len());
    assert!(leaks.is_empty(), "{leaks:#?}");
    fixture.close().await;
}
