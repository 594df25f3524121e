//! What operators do with the queue over HTTP: pausing, starting later, explaining, repeating, cancelling many, dead letters.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use domain::Permission;
use domain::executions::sweep;
use domain::settings::Settings;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::Connection as _;
use testkit::{Client, TestEnv, eventually};

use crate::support::{World, failure, success};

async fn workflow_id(client: &Client, name: &str) -> String {
    let workflows = client.get("/api/workflows").await.expect_status(StatusCode::OK).json();
    let found = workflows.as_array().expect("a list").iter().find(|one| one["name"] == name).cloned();
    found.expect("is listed")["id"].as_str().expect("an id").to_owned()
}

async fn collect(client: &Client, more: Value) -> String {
    let mut body = json!({"workflow_id": "collect"});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    client.post("/api/workflows/execute", &body).await.expect_status(StatusCode::OK).text("execution_id")
}

async fn codes(client: &Client, id: impl std::fmt::Display) -> Vec<String> {
    let explained =
        client.get(&format!("/api/executions/{id}/explain")).await.expect_status(StatusCode::OK).json();
    let reasons = explained["reasons"].as_array().expect("a list").clone();
    assert!(!explained["summary"].as_str().expect("a text").is_empty());
    reasons.iter().map(|reason| reason["code"].as_str().expect("a code").to_owned()).collect()
}

/// Whether a worker that asks now gets something.
async fn claims(world: &World) -> usize {
    let worker = domain::id::WorkerId::generate();
    domain::executions::claim::claim(&world.platform().db, worker, 10).await.expect("claims").len()
}

#[tokio::test]
async fn a_paused_workflow_starts_nothing_until_it_is_resumed() {
    let world = World::start().await.with_workflows().await;
    let admin = &world.admin.client;
    let id = workflow_id(admin, "collect").await;
    let paused =
        admin.post(&format!("/api/workflows/{id}/pause"), &Value::Null).await.expect_status(StatusCode::OK);
    assert_eq!(paused.json()["paused_by"], world.admin.email.as_str());
    let again =
        admin.post(&format!("/api/workflows/{id}/pause"), &Value::Null).await.expect_status(StatusCode::OK);
    assert_eq!(again.json(), paused.json(), "pausing twice keeps the first time");

    let listed = admin.get("/api/workflows").await.expect_status(StatusCode::OK).json();
    let shown = listed.as_array().expect("a list").iter().filter(|one| one["paused_at"].is_string()).count();
    assert_eq!(shown, 1, "the list shows it");
    let waiting = collect(admin, json!({})).await;
    let free = world.submit(&world.admin, None).await;
    assert_eq!(claims(&world).await, 1, "only what is not paused");
    assert_eq!(codes(admin, &free).await, ["running"]);
    assert_eq!(codes(admin, &waiting).await, ["paused", "no_worker"]);
    let swept = sweep::sweep(&world.platform().db, &world.platform().wakeups, 0.0).await.expect("sweeps");
    assert_eq!(swept, 0, "nobody is woken for what is paused");
    // Indexing again, as after an edit, does not resume it.
    let world = world.with_workflows().await;
    assert_eq!(claims(&world).await, 0);

    let admin = &world.admin.client;
    let resumed =
        admin.post(&format!("/api/workflows/{id}/resume"), &Value::Null).await.expect_status(StatusCode::OK);
    assert_eq!(resumed.json()["paused_at"], Value::Null);
    assert_eq!(claims(&world).await, 1);
    let audited = admin.get("/api/audit?action=workflow").await.expect_status(StatusCode::OK).json();
    assert_eq!(audited["entries"].as_array().expect("a list").len(), 3);
    world.close().await;
}

#[tokio::test]
async fn a_run_that_was_given_a_time_waits_for_it() {
    let world = World::start().await.with_workflows().await;
    let admin = &world.admin.client;
    let at = Utc::now() + TimeDelta::hours(2);
    let id = collect(admin, json!({"run_at": at})).await;
    assert_eq!(claims(&world).await, 0);
    assert_eq!(codes(admin, &id).await, ["delayed", "no_worker"]);
    // A synchronous one does not keep the caller for two hours.
    let body = json!({"workflow_id": "greet", "input_data": {"name": "Ada"}, "run_at": at});
    admin.post("/api/workflows/execute", &body).await.expect_status(StatusCode::ACCEPTED);
    world.sql("UPDATE executions SET due_at = now(), queue_rank = now() - interval '5 minutes' WHERE workflow_name = 'collect'").await;
    assert_eq!(claims(&world).await, 1);
    // A time that has passed is now.
    collect(admin, json!({"run_at": Utc::now() - TimeDelta::days(1)})).await;
    assert_eq!(claims(&world).await, 1);
    world.close().await;
}

#[tokio::test]
async fn explaining_names_what_holds_a_run() {
    let world = World::start().await.with_workflows().await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let admin = &world.admin.client;
    let path = format!("/api/organizations/{acme}");
    admin.patch(&path, &json!({"settings": {"concurrency_limit": 1}})).await.expect_status(StatusCode::OK);
    let worker = world.worker();
    let first = world.submit(&ada, Some(acme)).await;
    let running = worker.claim().await;
    assert_eq!((running.id, running.is_limited), (first, true));
    let second = world.submit(&ada, Some(acme)).await;
    let third = world.submit(&ada, Some(acme)).await;
    domain::workers::beat(&world.platform().db, domain::id::WorkerId::generate(), 4, 4).await.expect("beats");
    assert_eq!(codes(&ada.client, second).await, ["organization_limit", "workers_busy"]);
    assert_eq!(codes(&ada.client, third).await, ["organization_limit", "workers_busy", "behind"]);

    admin.patch(&path, &json!({"settings": {}})).await.expect_status(StatusCode::OK);
    world.sql("UPDATE workers SET running = 0").await;
    assert_eq!(codes(&ada.client, second).await, ["ready"]);
    // What was given back has not failed, and does not count.
    let policy =
        r#"'{"max_attempts": 3, "backoff_seconds": 1, "max_backoff_seconds": 60, "retry_on": null}'"#;
    for (attempt, given_back, code) in [(1, 1, "delayed"), (1, 0, "retry_pause"), (2, 1, "retry_pause")] {
        world
            .sql(format!(
                "UPDATE executions
                 SET attempt = {attempt}, given_back = {given_back}, max_attempts = 3, retry_policy = {policy},
                     due_at = now() + interval '1 minute'
                 WHERE status = 'Pending'"
            ))
            .await;
        assert_eq!(codes(&ada.client, second).await, [code], "{attempt}, {given_back} given back");
    }
    let explained = ada.client.get(&format!("/api/executions/{second}/explain")).await.json();
    assert!(
        explained["summary"].as_str().expect("a text").starts_with("attempt 1 of 3 failed"),
        "{explained}"
    );
    world.sql("UPDATE workflows SET definition = definition || '{\"concurrency_limit\": 1, \"rate_limit\": {\"starts\": 1, \"seconds\": 60}}' WHERE name = 'collect'").await;
    collect(admin, json!({})).await;
    worker.claim().await;
    let held = collect(admin, json!({})).await;
    assert_eq!(codes(admin, &held).await, ["workflow_limit", "rate_limit"]);
    world.sql("UPDATE workflows SET definition = definition || '{\"concurrency_key\": \"k\"}' WHERE name = 'collect'").await;
    world.sql("UPDATE executions SET concurrency_key = 'k' WHERE workflow_name = 'collect'").await;
    assert_eq!(codes(admin, &held).await, ["key_limit", "rate_limit"]);
    worker.finish(&running, &success(&running, "1")).await;
    assert_eq!(codes(&ada.client, first).await, ["ended"]);
    world.close().await;
}

#[tokio::test]
async fn an_execution_runs_again_with_its_parameters() {
    let world = World::start().await.with_workflows().await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let admin = &world.admin.client;
    let id =
        collect(&admin.in_organization(acme), json!({"input_data": {"site": "Bern"}, "priority": 9})).await;
    let worker = world.worker();
    let claimed = worker.claim().await;
    worker.finish(&claimed, &failure(&claimed, "no", false)).await;

    let path = format!("/api/executions/{id}/rerun");
    let again = admin.post(&path, &Value::Null).await.expect_status(StatusCode::OK).text("execution_id");
    let shown = admin.get(&format!("/api/executions/{again}")).await.expect_status(StatusCode::OK).json();
    assert_ne!(again, id);
    assert_eq!(shown["input_data"], json!({"site": "Bern"}));
    assert_eq!((&shown["org_id"], &shown["rerun_of"]), (&json!(acme), &json!(id)), "in its own organization");
    assert_eq!(worker.claim().await.priority, 9);

    ada.client.post(&path, &Value::Null).await.expect_status(StatusCode::FORBIDDEN);
    world.grant(acme, &ada, &[Permission::WorkflowsExecute, Permission::ExecutionsRead]).await;
    let ada = world.nobody().sign_in("ada@acme.example", crate::support::PASSWORD).await;
    let by_ada = ada.post(&path, &Value::Null).await.expect_status(StatusCode::OK).text("execution_id");
    let shown = ada.get(&format!("/api/executions/{by_ada}")).await.expect_status(StatusCode::OK).json();
    assert_eq!(shown["executed_by_name"], "ada@acme.example", "as whoever asks");
    // Code stays with administrators, whoever ran it first.
    let code = world.submit(&world.admin, Some(acme)).await;
    ada.post(&format!("/api/executions/{code}/rerun"), &Value::Null)
        .await
        .expect_status(StatusCode::FORBIDDEN);
    admin.post(&format!("/api/executions/{code}/rerun"), &Value::Null).await.expect_status(StatusCode::OK);
    let missing = format!("/api/executions/{}/rerun", domain::id::ExecutionId::generate());
    admin.post(&missing, &Value::Null).await.expect_status(StatusCode::NOT_FOUND);
    world.close().await;
}

#[tokio::test]
async fn many_are_cancelled_at_once_and_nobody_elses() {
    let world = World::start().await.with_workflows().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    let eve = world.person("eve@rival.example").await;
    let worker = world.worker();
    world.submit(&ada, Some(acme)).await;
    let running = worker.claim().await;
    for _ in 0..30 {
        world.submit(&ada, Some(acme)).await;
        world.submit(&bob, Some(acme)).await;
        world.submit(&eve, Some(rival)).await;
    }
    let bulk = async |client: &Client, body: Value| {
        let reply =
            client.post("/api/executions/bulk/cancel", &body).await.expect_status(StatusCode::OK).json();
        (reply["cancelled"].as_i64(), reply["cancelling"].as_i64(), reply["may_have_more"].as_bool())
    };
    assert_eq!(bulk(&ada.client, json!({"all": true, "limit": 10})).await, (Some(9), Some(1), Some(true)));
    assert_eq!(bulk(&ada.client, json!({"all": true})).await, (Some(21), Some(0), Some(false)), "her own");
    let body = json!({"executed_by": bob.id});
    ada.client.post("/api/executions/bulk/cancel", &body).await.expect_status(StatusCode::FORBIDDEN);
    world.grant(acme, &ada, &[Permission::ExecutionsCancel]).await;
    let lead = world.nobody().sign_in("ada@acme.example", crate::support::PASSWORD).await;
    assert_eq!(bulk(&lead, json!({"status": ["Pending"]})).await.0, Some(30), "the organization's");
    let left = "SELECT count(*) FROM executions WHERE status = 'Pending'";
    assert_eq!(world.count(left).await, 30, "not the other tenant's");
    let unstarted = "SELECT count(*) FROM executions WHERE error_message = 'cancelled before it started'";
    assert_eq!(world.count(unstarted).await, 60, "all but the one that ran");
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'execution.cancelled'";
    assert_eq!(world.count(audited).await, 61);
    assert_eq!(bulk(&world.admin.client, json!({"workflow_name": "script"})).await.0, Some(30));
    let recorded = worker.record(&success(&running, "1")).await;
    assert_eq!(recorded.status, domain::executions::Status::Cancelled);
    println!("bulk cancel: 91 of 91 cancelled, another tenant's 0");
    world.close().await;
}

#[tokio::test]
async fn what_somebody_else_holds_is_said_to_be_left() {
    let world = World::start().await;
    let admin = &world.admin.client;
    for _ in 0..2 {
        world.submit(&world.admin, None).await;
    }
    world.sql("UPDATE executions SET created_at = '2026-01-05 12:00 UTC'").await;
    let mut conn = world.test.db.connect().await;
    let mut held = conn.begin().await.expect("begins");
    sqlx::query("SELECT FROM executions ORDER BY id LIMIT 1 FOR UPDATE")
        .execute(&mut *held)
        .await
        .expect("holds");
    let cancel = async |body: Value| {
        let reply =
            admin.post("/api/executions/bulk/cancel", &body).await.expect_status(StatusCode::OK).json();
        (reply["cancelled"].as_i64(), reply["may_have_more"].as_bool())
    };

    assert_eq!(cancel(json!({"until": "2026-01-04"})).await, (Some(0), Some(false)));
    assert_eq!(
        cancel(json!({"until": "2026-01-05"})).await,
        (Some(1), Some(true)),
        "on that day, one of two"
    );
    let trigger = async || {
        let reply = admin.post("/api/executions/cleanup/trigger", &Value::Null).await;
        let reply = reply.expect_status(StatusCode::OK).json();
        (reply["cleaned"].as_i64(), reply["failed"].as_i64())
    };
    assert_eq!(trigger().await, (Some(0), Some(1)));
    held.rollback().await.expect("lets go");
    assert_eq!(trigger().await, (Some(1), Some(0)));
    assert_eq!(cancel(json!({"all": true})).await, (Some(0), Some(false)));
    world.close().await;
}

#[tokio::test]
async fn what_failed_is_retried_once_however_often_it_is_asked_for() {
    let world = World::start().await.with_workflows().await;
    let acme = world.org("acme").await;
    let admin = world.admin.client.in_organization(acme);
    let worker = world.worker();
    for number in 0..20 {
        collect(&admin, json!({"input_data": {"n": number}})).await;
        let claimed = worker.claim().await;
        let outcome = if number < 15 { failure(&claimed, "no", false) } else { success(&claimed, "1") };
        worker.finish(&claimed, &outcome).await;
    }
    let retry = async |body: Value| {
        admin.post("/api/executions/bulk/retry", &body).await.expect_status(StatusCode::OK).json()
    };
    let racing = (0..4).map(|_| retry(json!({"workflow_name": "collect", "error_type": "KeyError"})));
    let counts: Vec<i64> = futures::future::join_all(racing)
        .await
        .iter()
        .map(|reply| reply["retried"].as_i64().expect("a number"))
        .collect();
    println!("bulk retry: {} of 15 failed repeated by 4 racing calls, twice 0", counts.iter().sum::<i64>());
    assert_eq!(counts.iter().sum::<i64>(), 15);
    assert_eq!(retry(json!({"all": true})).await["retried"], 0);
    let distinct = "SELECT count(DISTINCT rerun_of) FROM executions WHERE status = 'Pending'";
    assert_eq!(world.count(distinct).await, 15);
    assert_eq!(world.count("SELECT count(*) FROM audit_log WHERE action = 'execution.retried'").await, 15);
    assert_eq!(claims(&world).await, 10, "they run");
    world.close().await;
}

/// The same with and without a broker.
async fn dead_letters_come_back(world: World) {
    let admin = &world.admin.client;
    let wakeups = &world.platform().wakeups;
    let mut consumer = wakeups.consume(64);
    for number in 0..25 {
        wakeups.publish_raw(format!("poison {number}").into_bytes()).await.expect("confirmed");
    }
    let id = world.submit(&world.admin, None).await;
    let healthy = consumer.next(1).await;
    assert_eq!(healthy[0].wakeup().execution_id, id, "others flow");
    consumer.ack(healthy).await;

    let list = async || {
        let reply =
            admin.get("/api/dead-letters?queue=workflow.executions").await.expect_status(StatusCode::OK);
        reply.json()["dead_letters"].as_array().expect("a list").clone()
    };
    let all = async |count: usize| {
        eventually("the dead letters", || async {
            Some(list().await).filter(|letters| letters.len() == count)
        })
        .await
    };
    let letters = all(25).await;
    let first = letters.iter().find(|letter| letter["payload"] == "poison 0").expect("is listed");
    assert!(first["reason"].as_str().expect("a text").starts_with("rejected: expected value"), "{first}");
    assert_eq!((&first["deliveries"], &first["queue"]), (&json!(1), &json!("workflow.executions")));
    assert!(first["died_at"].is_string());

    let dropped = admin
        .post("/api/dead-letters/drop", &json!({"queue": "workflow.executions", "ids": [first["id"]]}))
        .await
        .expect_status(StatusCode::OK);
    assert_eq!(dropped.json()["dropped"], 1);
    all(24).await;
    // Nobody consumes: what is put back stays in the queue, to be counted.
    drop(consumer);
    let body = json!({"queue": "workflow.executions"});
    let replayed = admin.post("/api/dead-letters/replay", &body).await.expect_status(StatusCode::OK).json();
    assert_eq!((&replayed["replayed"], &replayed["failed"]), (&json!(24), &json!(0)));
    assert!(list().await.is_empty());
    eventually("them all in the queue", || async {
        (wakeups.depth().await.expect("counts") == 24).then_some(())
    })
    .await;
    println!("dead letters: 24 of 24 replayed");
    // They are poison still.
    let consumer = wakeups.consume(64);
    let woken = tokio::spawn(async move {
        let mut consumer = consumer;
        consumer.next(1).await.len()
    });
    all(24).await;
    woken.abort();
    let audited =
        "SELECT count(*) FROM audit_log WHERE action IN ('dead_letters.replayed', 'dead_letters.dropped')";
    assert_eq!(world.count(audited).await, 2);
    let other = admin.get("/api/dead-letters?queue=git.sync").await.expect_status(StatusCode::OK);
    assert_eq!(other.json()["count"], 0);
}

/// Makes these messages dead letters.
async fn kill(world: &World, messages: &[Value]) {
    let wakeups = &world.platform().wakeups;
    let mut consumer = wakeups.consume(8);
    for message in messages {
        wakeups.publish_raw(message.to_string().into_bytes()).await.expect("confirmed");
    }
    world.submit(&world.admin, None).await;
    let healthy = consumer.next(1).await;
    consumer.ack(healthy).await;
}

#[tokio::test]
async fn of_a_large_dead_letter_the_beginning_is_shown() {
    let world = World::start().await;
    let (small, large) = (json!({"v": 2}), json!({"v": 2, "more": "x".repeat(20_000)}));
    kill(&world, &[small.clone(), large.clone()]).await;

    let listed = world.admin.client.get("/api/dead-letters").await.expect_status(StatusCode::OK).json();

    assert_eq!(listed["count"], 2);
    assert_eq!(listed["dead_letters"][0]["payload"], small);
    let beginning = &large.to_string()[..16 * 1024];
    assert_eq!(listed["dead_letters"][1]["payload"], beginning);
    assert!(listed["dead_letters"][1]["reason"].as_str().expect("a text").starts_with("rejected: "));
    world.close().await;
}

#[tokio::test]
async fn what_was_done_to_dead_letters_is_audited_however_long_that_takes() {
    let world = World::start().await;
    kill(&world, &[json!("poison")]).await;
    let mut conn = world.test.db.connect().await;
    let mut held = conn.begin().await.expect("begins");
    sqlx::query("LOCK TABLE audit_log IN EXCLUSIVE MODE").execute(&mut *held).await.expect("locks");
    let body = json!({"queue": "workflow.executions", "all": true});

    // Longer than a request may take that has not said that it waits; then the client hangs up.
    let dropping = world.admin.client.post("/api/dead-letters/drop", &body);
    let answer = tokio::time::timeout(Duration::from_secs(6), dropping).await;

    assert!(answer.is_err(), "it is not given up: {}", answer.map(|reply| reply.body).unwrap_or_default());
    held.rollback().await.expect("unlocks");
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'dead_letters.dropped'";
    eventually("the record", || async { (world.count(audited).await == 1).then_some(()) }).await;
    world.close().await;
}

#[tokio::test]
async fn who_names_no_dead_letter_is_told_how_to_name_all() {
    let world = World::start().await;
    let post = async |what: &str, body: Value| {
        world.admin.client.post(&format!("/api/dead-letters/{what}"), &body).await
    };
    let all = json!({"queue": "git.sync", "all": true});
    for (what, how) in [("replay", "leave it out for all"), ("drop", "for all leave it out and say `all`")] {
        let refused = post(what, json!({"queue": "git.sync", "ids": []})).await;
        let refused = refused.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refused.detail().contains(how), "{}", refused.detail());
        post(what, all.clone()).await.expect_status(StatusCode::OK);
    }
    world.close().await;
}

#[tokio::test]
async fn dead_letters_are_listed_dropped_and_replayed_without_a_broker() {
    dead_letters_come_back(World::start().await).await;
}

#[tokio::test]
async fn dead_letters_are_listed_dropped_and_replayed_through_rabbitmq() {
    let test = TestEnv::create().await;
    let settings = Settings { redis_url: None, ..test.settings() };
    let world = World::on(test, settings).await;
    let wakeups = world.platform().wakeups.clone();
    dead_letters_come_back(world).await;
    wakeups.remove_topology().await.expect("cleans up");
}
