//! The audit log's chains: complete under load, closed to the application's roles, and every tampering is found.

use domain::audit::{self, Action, verify};
use domain::id::OrgId;
use sqlx::{AssertSqlSafe, Connection};

use crate::support::{Fixture, scope_of};

async fn deeds(fixture: &Fixture, org: OrgId, count: usize) {
    for number in 0..count {
        let mut tx = fixture.platform.db.begin(&scope_of(org)).await.expect("begins");
        audit::record(
            &mut tx,
            Action::ConfigSet,
            format!("config/{number}"),
            &serde_json::json!({"n": number}),
        )
        .await
        .expect("records");
        tx.commit().await.expect("commits");
    }
}

async fn fault(fixture: &Fixture, org: OrgId) -> Option<verify::Fault> {
    let chains = verify::verify(&fixture.platform.db, Some(org), |_| ()).await.expect("verifies");
    chains.into_iter().find(|chain| chain.organization_id == Some(org)).expect("has a chain").fault
}

#[tokio::test]
async fn every_tampering_is_found_where_it_was_done() {
    let fixture = Fixture::embedded().await;
    let swap = "WITH two AS (SELECT sequence, hash FROM audit_log WHERE organization_id = 'ORG' AND sequence IN (4, 5))
                UPDATE audit_log SET sequence = -sequence WHERE organization_id = 'ORG' AND sequence IN (SELECT sequence FROM two);
                UPDATE audit_log SET sequence = 9 + sequence WHERE organization_id = 'ORG' AND sequence < 0";
    let insert = "UPDATE audit_log SET sequence = sequence + 100 WHERE organization_id = 'ORG' AND sequence >= 4;
                  UPDATE audit_log SET sequence = sequence - 99 WHERE organization_id = 'ORG' AND sequence >= 104;
                  INSERT INTO audit_log (id, organization_id, actor, action, resource, sequence, hash)
                  SELECT gen_random_uuid(), organization_id, 'mallory', action, resource, 4, hash
                  FROM audit_log WHERE organization_id = 'ORG' AND sequence = 3;
                  UPDATE audit_heads SET sequence = sequence + 1 WHERE chain = 'ORG'";
    let tampers = [
        (
            "a changed field",
            "UPDATE audit_log SET actor = 'mallory' WHERE organization_id = 'ORG' AND sequence = 3",
            3,
        ),
        (
            "a changed time",
            "UPDATE audit_log SET created_at = created_at - interval '1 day' WHERE organization_id = 'ORG' AND sequence = 1",
            1,
        ),
        (
            "changed details",
            "UPDATE audit_log SET details = '{\"n\": 99}' WHERE organization_id = 'ORG' AND sequence = 2",
            2,
        ),
        ("a removed row", "DELETE FROM audit_log WHERE organization_id = 'ORG' AND sequence = 4", 4),
        ("a removed end", "DELETE FROM audit_log WHERE organization_id = 'ORG' AND sequence > 6", 7),
        ("a removed head", "DELETE FROM audit_heads WHERE chain = 'ORG'", 9),
        ("an added row", insert, 4),
        ("rows in another order", swap, 4),
    ];
    let mut found = 0;
    for (what, statement, at) in tampers {
        let org = fixture.org(&format!("org-{at}-{}", what.len())).await;
        deeds(&fixture, org, 8).await;
        assert_eq!(fault(&fixture, org).await, None);
        let mut conn = fixture.test.db.connect().await;
        let statement = statement.replace("'ORG'", &format!("'{org}'"));
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await.expect("a superuser can");
        conn.close().await.expect("closes");
        let fault = fault(&fixture, org).await.unwrap_or_else(|| panic!("{what} was not found"));
        assert_eq!(fault.sequence, at, "{what}: {fault:?}");
        found += 1;
    }
    println!("audit chain: tampers found {found} of {}", tampers.len());
    fixture.close().await;
}

#[tokio::test]
async fn racing_writers_of_many_organizations_leave_chains_without_gap_or_fork() {
    let fixture = Fixture::embedded().await;
    let orgs = [fixture.org("a").await, fixture.org("b").await, fixture.org("c").await];
    let writers = orgs.iter().flat_map(|org| (0..4).map(|_| deeds(&fixture, *org, 10)));
    futures::future::join_all(writers).await;
    let runs = orgs
        .iter()
        .cycle()
        .take(30)
        .map(|org| async { fixture.submit(&scope_of(*org), |_| {}).await.expect("submits") });
    futures::future::join_all(runs).await;

    let chains = verify::verify(&fixture.platform.db, None, |_| ()).await.expect("verifies");
    for org in orgs {
        let chain = chains.iter().find(|chain| chain.organization_id == Some(org)).expect("has a chain");
        // The organization itself was made platform-wide, so that is not in its chain.
        assert_eq!((chain.verified, &chain.fault), (50, &None));
    }
    assert!(chains.iter().all(|chain| chain.fault.is_none()));
    fixture.close().await;
}

#[tokio::test]
async fn neither_role_of_the_application_can_write_past_the_chain() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    deeds(&fixture, org, 2).await;
    let mut conn = fixture.test.db.connect().await;
    let statements = [
        "INSERT INTO audit_log (id, actor, action, resource, sequence, hash) VALUES (gen_random_uuid(), 'm', 'a', 'r', 99, '')",
        "UPDATE audit_log SET actor = 'mallory'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "UPDATE audit_heads SET sequence = 0",
        "DELETE FROM audit_heads",
        "INSERT INTO audit_heads VALUES (gen_random_uuid(), 1, '')",
        "ALTER TABLE audit_log DISABLE ROW LEVEL SECURITY",
        "SELECT audit_append_many(ARRAY[gen_random_uuid()], ARRAY[NULL::uuid], ARRAY[NULL::uuid], ARRAY['m'], ARRAY['a'], ARRAY['r'],
             ARRAY[NULL::text], ARRAY[NULL::text])",
    ];
    let mut accepted = 0;
    for role in ["bifrost_app", "bifrost_system"] {
        for statement in statements {
            let mut tx = conn.begin().await.expect("begins");
            let scope = format!("SET LOCAL ROLE {role}; SET LOCAL bifrost.org_id = 'PLATFORM'");
            sqlx::raw_sql(AssertSqlSafe(scope)).execute(&mut *tx).await.expect("sets");
            if sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await.is_ok() {
                accepted += 1;
            }
        }
    }
    println!("audit log: writes past the chain accepted {accepted} of {}", 2 * statements.len());
    assert_eq!(accepted, 0);
    conn.close().await.expect("closes");
    fixture.close().await;
}

#[tokio::test]
async fn a_page_of_a_hundred_thousand_rows_is_found_by_an_index() {
    let fixture = Fixture::embedded().await;
    let (acme, rival) = (fixture.org("acme").await, fixture.org("rival").await);
    let mut conn = fixture.test.db.connect().await;
    for org in [acme, rival] {
        sqlx::query(
            "SELECT audit_append(array_agg(gen_random_uuid()), array_agg($1::uuid), array_agg(NULL::uuid), array_agg('a@b.example'::text),
                 array_agg('config.set'::text), array_agg('config/' || n), array_agg(NULL::text), array_agg(NULL::text))
             FROM generate_series(1, 50000) AS n",
        )
        .bind(org.0)
        .execute(&mut conn)
        .await
        .expect("fills");
    }
    sqlx::query("ANALYZE audit_log").execute(&mut conn).await.expect("analyzes");
    sqlx::raw_sql(AssertSqlSafe(format!("SET ROLE bifrost_app; SET bifrost.org_id = '{acme}'")))
        .execute(&mut conn)
        .await
        .expect("sets");
    for sequence in ["", "AND sequence < 40000"] {
        let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "EXPLAIN SELECT id FROM audit_log
             WHERE (CASE WHEN organization_id IS NULL
                 THEN '00000000-0000-0000-0000-000000000000'::uuid ELSE organization_id END) = '{acme}' {sequence}
             ORDER BY sequence DESC LIMIT 50"
        )))
        .fetch_all(&mut conn)
        .await
        .expect("explains");
        let plan = plan.join("\n");
        assert!(plan.contains("Index Scan Backward using audit_log_chain_key"), "{plan}");
        assert!(!plan.contains("Seq Scan") && !plan.contains("Sort"), "{plan}");
    }
    conn.close().await.expect("closes");
    assert_eq!(fault(&fixture, acme).await, None, "and the chain of all of them is intact");
    fixture.close().await;
}
