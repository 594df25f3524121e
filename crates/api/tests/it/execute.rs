//! Running workflows: what a submission writes, and what a waiting request answers.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use domain::Permission;
use domain::executions::Status;
use domain::id::FormId;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use testkit::{Client, Reply};
use tokio::task::JoinHandle;

use crate::support::{PASSWORD, Worker, World, failure, lines, success};

const EXECUTIONS: &str = "SELECT count(*) FROM executions";

async fn execute(client: &Client, body: &Value) -> Reply {
    client.post("/api/workflows/execute", body).await
}

async fn keyed(client: &Client, key: &str, body: &Value) -> Reply {
    let request = client.request(Method::POST, "/api/workflows/execute").header("idempotency-key", key);
    client.send(request.json(body)).await
}

/// Runs `greet` in the background, for a worker to be played meanwhile.
fn greet(client: &Client) -> JoinHandle<Reply> {
    let client = client.clone();
    tokio::spawn(async move {
        execute(&client, &json!({"workflow_id": "greet", "input_data": {"name": "Grace"}})).await
    })
}

#[tokio::test]
async fn an_asynchronous_workflow_is_pending_and_durable_when_answered() {
    let world = World::start().await.with_workflows().await;
    let acme = world.org("acme").await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let client = world.admin.client.in_organization(acme);
    let request = client.request(Method::POST, "/api/workflows/execute").header("traceparent", traceparent);
    let reply = client.send(request.json(&json!({"workflow_id": "collect", "priority": 9}))).await;

    let answer = reply.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&answer["status"], &answer["workflow_name"], &answer["is_transient"]),
        (&json!("Pending"), &json!("collect"), &json!(false))
    );
    let stored = world
        .count(
            "SELECT count(*) FROM executions e JOIN organizations o ON o.id = e.organization_id
             WHERE o.name = 'acme' AND e.status = 'Pending' AND e.priority = 9
               AND e.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'",
        )
        .await;
    assert_eq!(stored, 1);
    let claimed = world.worker().claim().await;
    assert_eq!(claimed.id.to_string(), answer["execution_id"].as_str().expect("an id"));
    world.close().await;
}

#[tokio::test]
async fn a_workflow_is_addressed_by_its_id_or_name() {
    let world = World::start().await.with_workflows().await;
    let listed = world.admin.client.get("/api/workflows").await.expect_status(StatusCode::OK).json();
    let collect = &listed[0];
    assert_eq!((&collect["name"], &collect["execution_mode"]), (&json!("collect"), &json!("async")));
    for address in [&collect["id"], &collect["name"]] {
        let reply = execute(&world.admin.client, &json!({"workflow_id": address})).await;
        let answer = reply.expect_status(StatusCode::OK).json();
        assert_eq!(answer["workflow_id"], collect["id"]);
    }
    world.close().await;
}

#[tokio::test]
async fn a_repeated_key_is_one_execution_however_many_send_it() {
    let world = World::start().await.with_workflows().await;
    let client = &world.admin.client;
    let body = json!({"workflow_id": "collect", "input_data": {"a": 1, "b": 2}});
    let replies = join_all((0..20).map(|_| keyed(client, "order-42", &body))).await;
    let ids: HashSet<String> = replies.iter().map(|reply| reply.text("execution_id")).collect();
    let fresh = replies.iter().filter(|reply| reply.header("idempotency-replayed").is_none()).count();
    println!("idempotency: 20 concurrent, executions {}, fresh answers {fresh}", ids.len());
    assert_eq!((ids.len(), fresh, world.count(EXECUTIONS).await), (1, 1, 1));

    let worker = world.worker();
    let claimed = worker.claim().await;
    worker.finish(&claimed, &success(&claimed, r#"{"done": true}"#)).await;
    let reordered = json!({"input_data": {"b": 2, "a": 1}, "workflow_id": "collect", "unknown": 1});
    let again = keyed(client, "order-42", &reordered).await.expect_status(StatusCode::OK);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!((again.text("status").as_str(), &again.json()["result"]), ("Success", &json!({"done": true})));

    let other = json!({"workflow_id": "collect", "input_data": {"a": 2, "b": 2}});
    let refused = keyed(client, "order-42", &other).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.pointers(), ["header:Idempotency-Key"]);
    assert_eq!(world.count(EXECUTIONS).await, 1);

    let acme = world.org("acme").await;
    let elsewhere = keyed(&client.in_organization(acme), "order-42", &other).await;
    assert_eq!(elsewhere.expect_status(StatusCode::OK).header("idempotency-replayed"), None);
    assert_eq!(world.count(EXECUTIONS).await, 2, "another tenant's key is another key");
    world.close().await;
}

#[tokio::test]
async fn a_repeated_request_is_answered_though_it_could_not_be_made_today() {
    let world = World::start().await.with_workflows().await;
    let client = &world.admin.client;
    let body = json!({"workflow_id": "collect", "input_data": {"a": 1, "b": 2}});
    let first = keyed(client, "order-42", &body).await.expect_status(StatusCode::OK);
    world.sql("UPDATE workflows SET is_active = FALSE WHERE name = 'collect'").await;
    let later = json!({"workflow_id": "no-such-workflow"});
    keyed(client, "order-43", &later).await.expect_status(StatusCode::NOT_FOUND);

    // It is remembered for a second.
    testkit::eventually("the workflow to be gone", || async {
        execute(client, &body).await.status.is_client_error().then_some(())
    })
    .await;
    let again = keyed(client, "order-42", &body).await.expect_status(StatusCode::OK);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.text("execution_id"), first.text("execution_id"));
    assert_eq!((again.text("status"), again.text("workflow_name")), ("Pending".into(), "collect".into()));
    let other = json!({"workflow_id": "collect", "input_data": {"a": 7, "b": 2}});
    let refused = keyed(client, "order-42", &other).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.pointers(), ["header:Idempotency-Key"]);
    world.close().await;
}

#[tokio::test]
async fn an_administrator_who_waited_is_shown_what_the_run_left() {
    let world = World::start().await.with_workflows().await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    world.grant(acme, &ada, &[Permission::WorkflowsExecute]).await;
    let ada = world.nobody().sign_in(&ada.email, PASSWORD).await;
    let worker = world.worker();
    let mut answers = Vec::new();
    for (client, logs) in [(&world.admin.client, true), (&world.admin.client, false), (&ada, true)] {
        let waiting = greet(client);
        let claimed = worker.claim().await;
        let mut outcome = success(&claimed, r#"{"greeting": "Hello"}"#);
        outcome.variables = None;
        if logs {
            worker.store(&claimed, &lines(1, 1)).await;
            outcome.variables = Some(RawValue::from_string(r#"{"name": "Grace"}"#.into()).expect("JSON"));
        }
        worker.finish(&claimed, &outcome).await;
        answers.push(waiting.await.expect("answers").expect_status(StatusCode::OK).json());
    }
    let [full, empty, of_a_user] = answers.as_slice() else { unreachable!() };
    assert_eq!(
        (&full["logs"][0]["message"], &full["variables"]),
        (&json!("line 1"), &json!({"name": "Grace"}))
    );
    assert_eq!((&empty["logs"], &empty["variables"]), (&json!([]), &json!({})));
    assert_eq!((&of_a_user["logs"], &of_a_user["variables"]), (&Value::Null, &Value::Null));
    world.close().await;
}

#[tokio::test]
async fn a_waiting_request_gets_the_result() {
    let world = World::start().await.with_workflows().await;
    let worker = world.worker();
    let waiting = greet(&world.admin.client);
    let claimed = worker.claim().await;
    assert_eq!(claimed.parameters.get(), r#"{"name":"Grace"}"#);
    worker.announce_start(&claimed);
    worker.finish(&claimed, &success(&claimed, r#"{"greeting":  "Hello"}"#)).await;

    let reply = waiting.await.expect("answers").expect_status(StatusCode::OK);
    let answer = reply.json();
    assert_eq!(
        (&answer["status"], &answer["result"], &answer["duration_ms"], &answer["error"]),
        (&json!("Success"), &json!({"greeting": "Hello"}), &json!(7), &Value::Null)
    );
    assert!(answer["started_at"].is_string() && answer["completed_at"].is_string());
    world.close().await;
}

#[tokio::test]
async fn a_lost_event_costs_a_waiting_request_a_moment_only() {
    let world = World::start().await.with_workflows().await;
    let worker = world.worker();
    let waiting = greet(&world.admin.client);
    let claimed = worker.claim().await;
    worker.record(&success(&claimed, r#"{"greeting": "Hello"}"#)).await;
    let began = Instant::now();

    let answer = waiting.await.expect("answers").expect_status(StatusCode::OK).json();
    println!("lost event: answered after {:?}", began.elapsed());
    assert_eq!((&answer["status"], &answer["result"]["greeting"]), (&json!("Success"), &json!("Hello")));
    assert!(began.elapsed() < Duration::from_secs(5));
    world.close().await;
}

#[tokio::test]
async fn a_result_too_large_for_an_event_arrives_whole() {
    let world = World::start().await.with_workflows().await;
    let worker = world.worker();
    let waiting = greet(&world.admin.client);
    let claimed = worker.claim().await;
    let large = format!(r#"{{"text": "{}"}}"#, "x".repeat(300_000));
    worker.finish(&claimed, &success(&claimed, &large)).await;

    let answer = waiting.await.expect("answers").expect_status(StatusCode::OK).json();
    assert_eq!(answer["result"]["text"].as_str().map(str::len), Some(300_000));
    world.close().await;
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_202_and_goes_on() {
    let world = World::with(|settings| settings.sync_wait_seconds = 1).await.with_workflows().await;
    let worker = world.worker();
    let waiting = greet(&world.admin.client);
    let claimed = worker.claim().await;

    let answer = waiting.await.expect("answers").expect_status(StatusCode::ACCEPTED).json();
    assert_eq!((&answer["status"], &answer["result"]), (&json!("Running"), &Value::Null));
    worker.finish(&claimed, &success(&claimed, r#"{"late": true}"#)).await;
    let path = format!("/api/executions/{}/result", answer["execution_id"].as_str().expect("an id"));
    assert_eq!(world.admin.client.get(&path).await.json(), json!({"late": true}));
    world.close().await;
}

#[tokio::test]
async fn a_failed_run_is_an_answer_with_its_error() {
    let world = World::start().await.with_workflows().await;
    let worker = world.worker();
    for is_user_error in [false, true] {
        let waiting = greet(&world.admin.client);
        let claimed = worker.claim().await;
        worker.finish(&claimed, &failure(&claimed, "no key 'site'", is_user_error)).await;

        let answer = waiting.await.expect("answers").expect_status(StatusCode::OK).json();
        assert_eq!((&answer["status"], &answer["error"]), (&json!("Failed"), &json!("no key 'site'")));
        assert_eq!(answer["error_type"], if is_user_error { "UserError" } else { "KeyError" });
        assert_eq!(answer["result"], Value::Null);
    }
    world.close().await;
}

#[tokio::test]
async fn a_cancelled_run_ends_the_wait() {
    let world = World::start().await.with_workflows().await;
    let waiting = greet(&world.admin.client);
    let claimed = world.worker().claim().await;
    let path = format!("/api/executions/{}/cancel", claimed.id);
    world.admin.client.post(&path, &Value::Null).await.expect_status(StatusCode::OK);
    let worker = world.worker();
    let outcome = success(&claimed, "1");
    let recorded = worker.record(&outcome).await;
    assert_eq!(recorded.status, Status::Cancelled);
    // As a worker tells it: nothing of what the run returned.
    let told = domain::executions::finish::Outcome { result: None, result_type: None, ..outcome };
    worker.announce(&claimed, &told, recorded);

    let answer = waiting.await.expect("answers").expect_status(StatusCode::OK).json();
    assert_eq!((&answer["status"], &answer["result"]), (&json!("Cancelled"), &Value::Null));
    world.close().await;
}

#[tokio::test]
async fn bare_values_are_shown_as_text_and_read_back_as_they_are() {
    let world = World::start().await.with_workflows().await;
    let worker = world.worker();
    for (result, shown) in
        [("42", json!("42")), ("true", json!("true")), ("[1, 2]", json!([1, 2])), (r#""<p>""#, json!("<p>"))]
    {
        let waiting = greet(&world.admin.client);
        let claimed = worker.claim().await;
        worker.finish(&claimed, &success(&claimed, result)).await;
        let answer = waiting.await.expect("answers").json();
        assert_eq!(answer["result"], shown, "{result}");
        let path = format!("/api/executions/{}", claimed.id);
        assert_eq!(world.admin.client.get(&path).await.json()["result"], shown, "{result}");
        assert_eq!(world.admin.client.get(&format!("{path}/result")).await.body, result);
    }
    world.close().await;
}

#[tokio::test]
async fn code_comes_plain_or_as_base64_and_never_waits() {
    let world = World::start().await;
    let worker = world.worker();
    for code in ["print('ä')", "cHJpbnQoJ8OkJyk="] {
        let body = json!({"code": code, "script_name": "hello", "input_data": {"n": 1}, "transient": true});
        let answer = execute(&world.admin.client, &body).await.expect_status(StatusCode::OK).json();
        assert_eq!(
            (&answer["status"], &answer["workflow_name"], &answer["workflow_id"], &answer["is_transient"]),
            (&json!("Pending"), &json!("hello"), &Value::Null, &json!(true))
        );
        assert_eq!(worker.claim().await.code.as_deref(), Some("print('ä')"));
    }
    let list = world.admin.client.get("/api/executions").await.json();
    assert_eq!(list["executions"], json!([]), "transient runs are left out");
    world.close().await;
}

#[tokio::test]
async fn a_run_comes_from_no_form_that_is_not_there() {
    let world = World::start().await.with_workflows().await;
    let client = &world.admin.client;
    let form = json!({"name": "Order", "form_schema": {"fields": []}});
    let form = client.post("/api/forms", &form).await.expect_status(StatusCode::CREATED).text("id");
    let from =
        async |form: String| execute(client, &json!({"workflow_id": "collect", "form_id": form})).await;
    from(form).await.expect_status(StatusCode::OK);
    from(FormId::generate().to_string()).await.expect_status(StatusCode::NOT_FOUND);
    assert_eq!(world.count(EXECUTIONS).await, 1, "what is refused is not written");
    world.close().await;
}

#[tokio::test]
async fn parameters_arrive_converted() {
    let world = World::start().await.with_workflows().await;
    let input =
        json!({"name": "Grace", "times": "3", "loud": "true", "options": "{\"a\": [1]}", "more": null});
    let client = world.admin.client.clone();
    let body = json!({"workflow_id": "greet", "input_data": input});
    let waiting = tokio::spawn(async move { execute(&client, &body).await });
    let worker: Worker = world.worker();
    let claimed = worker.claim().await;
    let parameters: Value = serde_json::from_str(claimed.parameters.get()).expect("JSON");
    assert_eq!(
        parameters,
        json!({"name": "Grace", "times": 3, "loud": true, "options": {"a": [1]}, "more": null})
    );
    worker.finish(&claimed, &success(&claimed, "{}")).await;
    waiting.await.expect("answers").expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn a_run_that_is_repeated_is_waited_for_longer_than_what_is_prompt() {
    let world = World::start().await.with_workflows().await;
    let (admin, worker) = (&world.admin.client, world.worker());
    let ended = async |pause: Duration| {
        let claimed = worker.claim().await;
        // How long it takes is what is shown.
        tokio::time::sleep(pause).await;
        worker.finish(&claimed, &success(&claimed, r#"{"greeting": "Hello"}"#)).await;
    };
    let body = json!({"workflow_id": "greet", "input_data": {"name": "Ada"}});
    let (first, ()) = tokio::join!(admin.post("/api/workflows/execute", &body), ended(Duration::ZERO));
    let path = format!("/api/executions/{}/rerun", first.expect_status(StatusCode::OK).text("execution_id"));
    let (again, ()) = tokio::join!(admin.post(&path, &Value::Null), ended(Duration::from_secs(5)));
    assert_eq!(again.expect_status(StatusCode::OK).json()["status"], "Success");
    world.close().await;
}
