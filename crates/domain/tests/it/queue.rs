//! The order of the queue and what holds a run back: fairness, limits on concurrency and rate, times, retries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::OrgScope;
use domain::db::SYSTEM_PLANS;
use domain::executions::claim::{Claimed, claim_submitted};
use domain::executions::submit::{NewExecution, Work};
use domain::executions::{Status, reap, sweep};
use domain::id::{ExecutionId, OrgId, WorkerId};
use domain::workflows::Workflow;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::directory::statements;
use crate::support::{Fixture, json, scope_of, success};

mod lanes;

/// Makes workflows known, each with what its decorator says of limits.
async fn index(fixture: &Fixture, declared: &[(&str, Value)]) {
    let found: Vec<Value> = declared
        .iter()
        .map(|(name, limits)| {
            let mut found = json!({"function": name, "name": name, "category": "Tests", "parameters": []});
            let members = found.as_object_mut().expect("an object");
            members.extend(limits.as_object().expect("an object").clone());
            found
        })
        .collect();
    let file = json!({"path": "q.py", "sha256": format!("{declared:?}"), "workflows": found, "data_providers": [], "problems": []});
    let index = serde_json::from_value(json!({"files": [file]})).expect("an index");
    testkit::sync_workflows(&fixture.platform.db, &index).await.expect("indexes");
}

async fn workflow(fixture: &Fixture, name: &str) -> Arc<Workflow> {
    let scope = OrgScope::for_run(None, crate::support::actor("admin", true));
    fixture.platform.catalog.get(&fixture.platform.db, &scope, name).await.expect("is indexed")
}

async fn submit(fixture: &Fixture, org: OrgId, workflow: &Arc<Workflow>, parameters: &str) -> ExecutionId {
    submit_with(fixture, org, workflow, parameters, |_| {}).await
}

async fn submit_with(
    fixture: &Fixture,
    org: OrgId,
    workflow: &Arc<Workflow>,
    parameters: &str,
    change: impl FnOnce(&mut NewExecution),
) -> ExecutionId {
    let mut new = NewExecution::new(Work::Workflow(workflow.clone()), json(parameters));
    change(&mut new);
    fixture.platform.submitter.submit(&scope_of(org), new).await.expect("accepted").id
}

async fn finish_all(fixture: &Fixture, claimed: &[Claimed]) {
    let outcomes: Vec<_> = claimed.iter().map(success).collect();
    assert_eq!(fixture.finish(&outcomes).await.len(), claimed.len());
}

/// A backlog as some thousand submissions of half an hour ago leave it.
async fn backlog(fixture: &Fixture, org: OrgId, rows: i32, workflow: Option<&Workflow>) {
    let workflow = workflow.map_or("NULL".to_owned(), |workflow| format!("'{}'", workflow.id));
    fixture
        .sql(format!(
            "INSERT INTO executions (id, organization_id, workflow_id, workflow_name, code, script_name, parameters, executed_by,
                 executed_by_name, executed_by_email, priority, timeout_seconds, created_at, due_at, queue_rank)
             SELECT gen_random_uuid(), '{org}', {workflow}, 'backlog', 'x = 1', 'backlog', '{{}}', gen_random_uuid(), 'n', 'e', 10, 60,
                 now() - interval '30 minutes', now() - interval '30 minutes', now() - interval '40 minutes'
             FROM generate_series(1, {rows})"
        ))
        .await;
}

#[tokio::test]
async fn a_backlog_of_one_organization_does_not_delay_the_first_start_of_another() {
    let fixture = Fixture::embedded().await;
    let (a, b) = (fixture.org("a").await, fixture.org("b").await);
    backlog(&fixture, a, 5_000, None).await;
    let worker = WorkerId::generate();
    let mut running = fixture.claim(worker, 16).await;
    assert_eq!(running.len(), 16, "all slots are a's while nobody else waits");

    let late = fixture.submit(&scope_of(b), |new| new.priority = 1).await.expect("accepted").id;
    let since = Instant::now();
    // A slot frees and is filled, one after the other, as a worker with 16 slots does it.
    let mut starts = 0;
    loop {
        finish_all(&fixture, &running[..1]).await;
        running.remove(0);
        let next = fixture.claim(worker, 1).await.remove(0);
        starts += 1;
        let is_late = next.id == late;
        running.push(next);
        if is_late {
            break;
        }
        assert!(starts < 100, "b starves");
    }
    println!(
        "fairness: {starts} start(s), {:.3} s until b's first among 5,000 of a",
        since.elapsed().as_secs_f64()
    );
    assert_eq!(starts, 1);
    assert!(since.elapsed() < Duration::from_secs(10));
    fixture.close().await;
}

#[tokio::test]
async fn slots_are_shared_evenly_and_an_organizations_own_order_is_exact() {
    let fixture = Fixture::embedded().await;
    let orgs = [fixture.org("a").await, fixture.org("b").await, fixture.org("c").await];
    backlog(&fixture, orgs[0], 200, None).await;
    for org in &orgs[1..] {
        for priority in [1, 9, 5, 9, 3] {
            fixture.submit(&scope_of(*org), |new| new.priority = priority).await.expect("accepted");
        }
    }
    let claimed = fixture.claim(WorkerId::generate(), 12).await;
    for org in orgs {
        let own: Vec<i16> =
            claimed.iter().filter(|one| one.organization_id == Some(org)).map(|one| one.priority).collect();
        assert_eq!(own.len(), 4, "four of twelve each");
    }
    let rest = fixture.claim(WorkerId::generate(), 100).await;
    let left = |org| {
        let rest = rest.iter().filter(|one| one.organization_id == Some(org));
        rest.map(|one| one.priority).collect::<Vec<_>>()
    };
    assert_eq!((left(orgs[1]), left(orgs[2])), (vec![1], vec![1]), "the least urgent came last");
    fixture.close().await;
}

#[tokio::test]
async fn what_was_just_submitted_is_claimed_by_name_unless_something_holds_it_back() {
    let fixture = Fixture::embedded().await;
    let (open, narrow) = (fixture.org("open").await, fixture.org("narrow").await);
    fixture
        .sql(format!(
            "UPDATE organizations SET settings = '{{\"concurrency_limit\": 2}}' WHERE id = '{narrow}'"
        ))
        .await;
    let rate = json!({"rate_limit": {"starts": 5, "seconds": 60}});
    let declared = [
        ("plain", json!({})),
        ("lone", json!({"concurrency_limit": 1})),
        ("rated", rate),
        ("paused", json!({})),
    ];
    index(&fixture, &declared).await;
    fixture.sql("UPDATE workflows SET paused_at = now() WHERE name = 'paused'").await;
    let plain = workflow(&fixture, "plain").await;
    let free = submit(&fixture, open, &plain, "{}").await;
    let mut named = vec![ExecutionId::generate(), free, submit(&fixture, narrow, &plain, "{}").await];
    for held in ["lone", "rated", "paused"] {
        let held = workflow(&fixture, held).await;
        named.push(submit(&fixture, open, &held, "{}").await);
    }
    let soon = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    named.push(submit_with(&fixture, open, &plain, "{}", |new| new.run_at = Some(soon)).await);
    let claim = async |worker| {
        let claimed = claim_submitted(&fixture.platform.db, worker, &named).await.expect("claims");
        claimed.iter().map(|one| (one.id, one.attempt)).collect::<Vec<_>>()
    };

    let (first, second) = tokio::join!(claim(WorkerId::generate()), claim(WorkerId::generate()));
    assert_eq!([first, second].concat(), [(free, 1)], "by one of two");
    assert_eq!(claim(WorkerId::generate()).await, [], "and once");
    let next = [submit(&fixture, open, &plain, "{}").await];
    let passing = claim_submitted(&fixture.platform.db, WorkerId::generate(), &next).await.expect("claims");
    assert!(passing.is_empty(), "others wait, and it is not for this to say for what");
    assert_eq!(
        fixture.claim(WorkerId::generate(), 16).await.len(),
        4,
        "what is limited is claimed in its turn"
    );
    fixture.close().await;
}

#[tokio::test]
async fn what_a_run_writes_goes_by_the_key_whatever_the_planner_knows_of_what_waits_and_runs() {
    let fixture = Fixture::embedded().await;
    let (org, worker) = (fixture.org("a").await, WorkerId::generate());
    let running = format!(
        "UPDATE executions SET status = 'Running', attempt = 1, lease_owner = '{worker}', lease_expires_at = now() + interval '1 minute'
         WHERE status = 'Pending'"
    );
    let mut conn = fixture.test.db.connect().await;
    sqlx::raw_sql(SYSTEM_PLANS).execute(&mut conn).await.expect("sets");
    let nobody = ExecutionId::generate();
    for (name, ..) in ways(worker, [nobody; 3]) {
        let statement = statements(&marks(name)).pop().expect("is there");
        let script = format!("PREPARE {name} AS {statement}");
        sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut conn).await.expect("prepares");
    }
    for knows in ["an empty table", "a hundred rows", "that nothing waits or runs"] {
        if knows == "a hundred rows" {
            fixture.sql("TRUNCATE executions CASCADE").await;
            backlog(&fixture, org, 50, None).await;
            fixture.sql(running.clone()).await;
            backlog(&fixture, org, 50, None).await;
        }
        if knows == "that nothing waits or runs" {
            fixture.sql("UPDATE executions SET status = 'Success'").await;
        }
        fixture.sql("VACUUM ANALYZE executions").await;
        // Each is planned here, and keeps its plan while the table grows.
        for (name, _, values, _) in ways(worker, [nobody; 3]) {
            let script = format!("EXPLAIN EXECUTE {name} ({values})");
            sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut conn).await.expect("plans");
        }
        backlog(&fixture, org, 5_000, None).await;
        fixture.sql(running.clone()).await;
        backlog(&fixture, org, 5_000, None).await;
        let ids = "(SELECT id FROM executions WHERE status = 'Pending' LIMIT 2) UNION ALL
                   (SELECT id FROM executions WHERE status = 'Running' LIMIT 1)";
        let ids: Vec<ExecutionId> = sqlx::query_scalar(ids).fetch_all(&mut conn).await.expect("reads");
        for (name, what, values, rows) in ways(worker, [ids[0], ids[1], ids[2]]) {
            let explain = format!("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {name} ({values})");
            let explain = sqlx::query_scalar(AssertSqlSafe(explain)).persistent(false);
            let plan: Value = explain.fetch_one(&mut conn).await.expect("explains");
            assert_eq!(plan[0]["Plan"]["Actual Rows"], rows, "{what}");
            let passed = rows_passed_over(&plan);
            println!("{what}: {passed:.0} rows passed over beside 10,000 where the planner knows {knows}");
            assert!(passed < 100.0, "{what}: {plan:#}");
        }
    }
    fixture.close().await;
}

/// What marks the statement out.
fn marks(name: &str) -> [&'static str; 2] {
    match name {
        "named" => ["WITH others", "claimed AS"],
        "limited" => ["FOR UPDATE\n", "claimed AS"],
        "in_turn" => ["pending_lanes", "claimed AS"],
        "heartbeat" => ["SET lease_expires_at", "AS \"cancelling!\""],
        "lines" => ["WITH held", "FOR KEY SHARE"],
        _ => ["WITH updated", "logged AS"],
    }
}

/// The statements of a run: name, what it is, parameters and rows that it gives. Two of the executions wait, one runs.
fn ways(worker: WorkerId, ids: [ExecutionId; 3]) -> [(&'static str, &'static str, String, i32); 6] {
    let nothing = |count: usize| vec!["NULL"; count].join(", ");
    let [first, second, running] = ids.map(|id| format!("ARRAY['{id}'::uuid]"));
    let end = format!(
        "{running}, ARRAY[1], ARRAY['Success'], {}, ARRAY[FALSE], {}, ARRAY[FALSE]",
        nothing(5),
        nothing(12)
    );
    [
        ("named", "claim by name, while others wait", format!("'{worker}', 10, {first}"), 0),
        ("limited", "claim by limits", format!("'{worker}', 10, {second}"), 1),
        ("in_turn", "claim in turn", format!("'{worker}', 10, 16, 0, 256"), 16),
        ("heartbeat", "heartbeat", format!("{running}, '{worker}', 10"), 1),
        ("lines", "lines", format!("{running}, ARRAY[1], {}", nothing(8)), 0),
        ("ended", "end", end, 1),
    ]
}

/// Rows that the nodes of a plan read in vain.
fn rows_passed_over(plan: &Value) -> f64 {
    let own = ["Rows Removed by Filter", "Rows Removed by Join Filter"].map(|name| {
        plan[name].as_f64().unwrap_or_default() * plan["Actual Loops"].as_f64().unwrap_or_default()
    });
    let below: Vec<&Value> = match plan {
        Value::Array(plans) => plans.iter().collect(),
        Value::Object(members) => {
            members.values().filter(|value| value.is_array() || value.is_object()).collect()
        }
        _ => Vec::new(),
    };
    own.iter().sum::<f64>() + below.into_iter().map(rows_passed_over).sum::<f64>()
}

#[tokio::test]
async fn what_was_claimed_is_kept_when_the_rest_cannot_be() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("a").await;
    index(&fixture, &[("limited", json!({"concurrency_limit": 5}))]).await;
    let free = fixture.submit(&scope_of(org), |_| {}).await.expect("accepted").id;
    let limited = workflow(&fixture, "limited").await;
    submit(&fixture, org, &limited, "{}").await;
    // Somebody else who claims what is limited, and hangs.
    let mut other = fixture.test.db.connect().await;
    sqlx::query("SELECT pg_advisory_lock(hashtext('bifrost.claim'))")
        .execute(&mut other)
        .await
        .expect("locks");

    let claimed = fixture.claim(WorkerId::generate(), 2).await;

    assert_eq!(claimed.iter().map(|one| one.id).collect::<Vec<_>>(), [free]);
    sqlx::query("SELECT pg_advisory_unlock(hashtext('bifrost.claim'))")
        .execute(&mut other)
        .await
        .expect("unlocks");
    assert_eq!(fixture.claim(WorkerId::generate(), 2).await.len(), 1);
    fixture.close().await;
}

#[tokio::test]
async fn a_limit_of_a_workflow_holds_across_racing_workers_and_hides_nothing_else() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    index(&fixture, &[("narrow", json!({"concurrency_limit": 3})), ("free", json!({}))]).await;
    let (narrow, free) = (workflow(&fixture, "narrow").await, workflow(&fixture, "free").await);
    backlog(&fixture, org, 2_000, Some(&narrow)).await;
    submit(&fixture, org, &free, "{}").await;

    let claims = (0..8).map(|_| fixture.claim(WorkerId::generate(), 4));
    let claimed: Vec<Claimed> = futures::future::join_all(claims).await.into_iter().flatten().collect();
    let (limited, others): (Vec<_>, Vec<_>) =
        claimed.into_iter().partition(|one| one.workflow_id == Some(narrow.id));
    println!(
        "concurrency limit 3: {} run after 8 racing claims of 4, others started {}",
        limited.len(),
        others.len()
    );
    assert_eq!((limited.len(), others.len()), (3, 1), "what is behind the limit does not hide what is free");
    assert!(limited.iter().all(|one| one.is_limited) && !others[0].is_limited);
    assert_eq!(
        sweep::sweep(&fixture.platform.db, &fixture.platform.wakeups, 0.0).await.expect("sweeps"),
        0,
        "nobody is woken for nothing"
    );

    finish_all(&fixture, &limited[..1]).await;
    assert_eq!(fixture.claim(WorkerId::generate(), 4).await.len(), 1, "one slot came back");

    // A file that says otherwise acts on what waits already.
    index(&fixture, &[("narrow", json!({"concurrency_limit": 5})), ("free", json!({}))]).await;
    assert_eq!(fixture.claim(WorkerId::generate(), 9).await.len(), 2);
    fixture.close().await;
}

#[tokio::test]
async fn a_slot_of_a_dead_worker_comes_back() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    index(&fixture, &[("lone", json!({"concurrency_limit": 1}))]).await;
    let lone = workflow(&fixture, "lone").await;
    let first = submit(&fixture, org, &lone, "{}").await;
    let second = submit(&fixture, org, &lone, "{}").await;
    assert_eq!(fixture.claim(WorkerId::generate(), 9).await.len(), 1);
    fixture
        .sql("UPDATE executions SET lease_expires_at = now() - interval '1 second' WHERE status = 'Running'")
        .await;
    assert!(
        fixture.claim(WorkerId::generate(), 9).await.is_empty(),
        "until the reaper came, it may still run"
    );
    assert_eq!(reap::reap(&fixture.platform.db).await.expect("reaps")[0].id, first);
    assert_eq!(fixture.status(first).await, Status::Failed);
    let next = fixture.claim(WorkerId::generate(), 9).await;
    assert_eq!(next.iter().map(|one| one.id).collect::<Vec<_>>(), [second]);
    fixture.close().await;
}

#[tokio::test]
async fn keys_limit_apart_per_organization_and_share_across_workflows() {
    let fixture = Fixture::embedded().await;
    let (a, b) = (fixture.org("a").await, fixture.org("b").await);
    let shared = json!({"concurrency_limit": 1, "concurrency_key": "erp {site}"});
    index(&fixture, &[("pull", shared.clone()), ("push", shared)]).await;
    let (pull, push) = (workflow(&fixture, "pull").await, workflow(&fixture, "push").await);
    for (org, workflow, site) in [
        (a, &pull, r#"{"site": "bern"}"#),
        (a, &push, r#"{"site": "bern"}"#),
        (a, &pull, r#"{"site": "basel"}"#),
        (b, &pull, r#"{"site": "bern"}"#),
        (b, &pull, r#"{"site": 7}"#),
        (b, &pull, r#"{"site": null}"#),
    ] {
        submit(&fixture, org, workflow, site).await;
    }
    let long = format!("{{\"site\": \"{}\\u0000\"}}", "x".repeat(5_000));
    submit(&fixture, b, &pull, &long).await;
    let claimed = fixture.claim(WorkerId::generate(), 20).await;
    assert_eq!(claimed.len(), 6, "all but the second of a and bern");
    finish_all(&fixture, &claimed).await;
    assert_eq!(fixture.claim(WorkerId::generate(), 20).await.len(), 1);
    fixture.close().await;
}

#[tokio::test]
async fn an_organizations_limit_counts_its_runs_but_not_the_children_they_wait_for() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    fixture
        .sql(format!("UPDATE organizations SET settings = '{{\"concurrency_limit\": 2}}' WHERE id = '{org}'"))
        .await;
    index(&fixture, &[("work", json!({}))]).await;
    let work = workflow(&fixture, "work").await;
    for _ in 0..4 {
        submit(&fixture, org, &work, "{}").await;
    }
    let parents = fixture.claim(WorkerId::generate(), 9).await;
    assert_eq!(parents.len(), 2);
    let child = submit_with(&fixture, org, &work, "{}", |new| {
        (new.parent_id, new.is_awaited) = (Some(parents[0].id), true);
    })
    .await;
    let claimed = fixture.claim(WorkerId::generate(), 9).await;
    assert_eq!(
        claimed.iter().map(|one| one.id).collect::<Vec<_>>(),
        [child],
        "else both parents would wait for ever"
    );
    fixture.close().await;
}

#[tokio::test]
async fn a_rate_limit_bounds_the_starts_within_its_time() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    index(&fixture, &[("metered", json!({"rate_limit": {"starts": 10, "seconds": 60}}))]).await;
    let metered = workflow(&fixture, "metered").await;
    for _ in 0..30 {
        submit(&fixture, org, &metered, "{}").await;
    }
    let claims = (0..6).map(|_| fixture.claim(WorkerId::generate(), 4));
    let claimed: Vec<Claimed> = futures::future::join_all(claims).await.into_iter().flatten().collect();
    println!("rate limit 10/m: {} started by 6 racing claims of 4", claimed.len());
    assert_eq!(claimed.len(), 10);
    finish_all(&fixture, &claimed).await;
    assert!(fixture.claim(WorkerId::generate(), 4).await.is_empty(), "an end gives nothing back");
    fixture.sql("UPDATE workflow_starts SET started_at = started_at - interval '61 seconds'").await;
    assert_eq!(fixture.claim(WorkerId::generate(), 20).await.len(), 10);
    fixture.close().await;
}

#[tokio::test]
async fn what_starts_later_is_neither_claimed_nor_woken_before_its_time() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    let at = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    let later = fixture
        .submit(&scope_of(org), |new| (new.run_at, new.priority) = (Some(at), 10))
        .await
        .expect("accepted")
        .id;
    let now = fixture.submit(&scope_of(org), |new| new.priority = 1).await.expect("accepted").id;
    assert_eq!(fixture.platform.wakeups.depth().await.expect("counts"), 1);
    let past = chrono::Utc::now() - chrono::TimeDelta::minutes(1);
    let overdue = fixture
        .submit(&scope_of(org), |new| (new.run_at, new.priority) = (Some(past), 1))
        .await
        .expect("accepted")
        .id;
    assert_eq!(fixture.platform.wakeups.depth().await.expect("counts"), 2, "its time has come already");
    let claimed = fixture.claim(WorkerId::generate(), 9).await;
    assert_eq!(claimed.iter().map(|one| one.id).collect::<Vec<_>>(), [now, overdue]);

    fixture.sql(format!("UPDATE executions SET due_at = now(), queue_rank = now() - interval '10 minutes' WHERE id = '{later}'")).await;
    let wakeups = &fixture.platform.wakeups;
    let mut consumer = wakeups.consume(4);
    let known = consumer.next(4).await;
    consumer.ack(known).await;
    // Nobody is at it yet, so it needs no grace.
    assert_eq!(sweep::sweep(&fixture.platform.db, wakeups, 60.0).await.expect("sweeps"), 1);
    assert_eq!(fixture.claim(WorkerId::generate(), 9).await[0].id, later);
    fixture.close().await;
}
