//! Reading and cancelling executions.

use std::collections::HashSet;

use domain::executions::claim::Claimed;
use domain::executions::finish;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::Client;

use crate::support::{Person, World, batch, failure, lines, shown_to_users, success};

async fn ids(client: &Client, query: &str) -> Vec<String> {
    let reply = client.get(&format!("/api/executions?{query}")).await.expect_status(StatusCode::OK);
    let executions = reply.json()["executions"].as_array().expect("a list").clone();
    executions.iter().map(|execution| execution["execution_id"].as_str().expect("an id").to_owned()).collect()
}

/// An organization and two of its users.
async fn acme(world: &World) -> (domain::id::OrgId, Person, Person) {
    let acme = world.org("acme").await;
    (acme, world.person("ada@acme.example").await, world.person("bob@acme.example").await)
}

async fn get(person: &Client, claimed: &Claimed, part: &str) -> Value {
    let path = format!("/api/executions/{}{part}", claimed.id);
    person.get(&path).await.expect_status(StatusCode::OK).json()
}

#[tokio::test]
async fn pages_neither_repeat_nor_skip_while_executions_arrive() {
    let world = World::start().await;
    let (org, ada, bob) = acme(&world).await;
    let mut expected = HashSet::new();
    for _ in 0..12 {
        expected.insert(world.submit(&ada, Some(org)).await.to_string());
        world.submit(&bob, Some(org)).await;
    }

    let (mut seen, mut token) = (Vec::new(), None::<String>);
    loop {
        let spelling = if seen.len() < 5 { "continuationToken" } else { "continuation_token" };
        let query = token.as_ref().map(|token| format!("&{spelling}={token}")).unwrap_or_default();
        let reply = ada.client.get(&format!("/api/executions?limit=5{query}")).await;
        let page = reply.expect_status(StatusCode::OK).json();
        for execution in page["executions"].as_array().expect("a list") {
            assert_eq!((&execution["logs"], &execution["variables"]), (&Value::Null, &Value::Null));
            seen.push(execution["execution_id"].as_str().expect("an id").to_owned());
        }
        world.submit(&ada, Some(org)).await;
        match page["continuation_token"].as_str() {
            Some(next) => token = Some(next.to_owned()),
            None => break,
        }
    }
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first");
    assert_eq!(seen.len(), 12);
    assert_eq!(seen.into_iter().collect::<HashSet<_>>(), expected);

    let token = token.expect("there were several pages");
    for (client, query) in [(&ada.client, "status=Failed"), (&bob.client, ""), (&world.admin.client, "")] {
        let path = format!("/api/executions?limit=5&continuationToken={token}&{query}");
        client.get(&path).await.expect_status(StatusCode::BAD_REQUEST);
    }
    world.close().await;
}

#[tokio::test]
async fn filters_are_read_in_both_spellings() {
    let world = World::start().await.with_workflows().await;
    let admin = &world.admin.client;
    let collect = admin.post("/api/workflows/execute", &json!({"workflow_id": "collect"})).await;
    let collect = collect.expect_status(StatusCode::OK).text("execution_id");
    let script = world.submit(&world.admin, None).await.to_string();
    let worker = world.worker();
    let first = worker.claim().await;
    assert_eq!(first.id.to_string(), collect);
    worker.finish(&first, &failure(&first, "no", false)).await;

    let both = [script.as_str(), collect.as_str()];
    let cases: [(&str, &[&str]); 15] = [
        ("", &both),
        ("status=Failed", &[&collect]),
        ("status=Pending", &[&script]),
        ("status=Timeout", &[]),
        ("workflowName=collect", &[&collect]),
        ("workflow_name=collect", &[&collect]),
        ("workflow_name=coll", &[]),
        ("startDate=2020-01-01&end_date=2999-01-01", &both),
        ("start_date=2999-01-01T00:00:00Z", &[]),
        ("endDate=2020-01-01", &[]),
        ("startDate=yesterday&endDate=never", &both),
        ("startDate=-200000-01-01", &both),
        ("endDate=-200000-01-01&startDate=%2B262142-01-01", &both),
        ("status=&workflow_name=", &both),
        ("limit=1&unknown=1", &[&script]),
    ];
    for (query, expected) in cases {
        assert_eq!(ids(admin, query).await, expected, "{query}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_list_shows_what_the_scope_holds() {
    let world = World::start().await;
    let (org, ada, bob) = acme(&world).await;
    let own = world.submit(&ada, Some(org)).await.to_string();
    let others = world.submit(&bob, Some(org)).await.to_string();
    let global = world.submit(&world.admin, None).await.to_string();

    assert_eq!(ids(&ada.client, "").await, [own.as_str()]);
    assert_eq!(ids(&bob.client, "").await, [others.as_str()]);
    assert_eq!(ids(&world.admin.client, "").await, [global.as_str(), &others, &own]);
    assert_eq!(ids(&world.admin.client.in_organization(org), "").await, [others.as_str(), &own]);
    let elsewhere = world.org("elsewhere").await;
    assert!(ids(&world.admin.client.in_organization(elsewhere), "").await.is_empty());
    // An id addresses its row whatever organization the administrator named.
    let path = format!("/api/executions/{own}");
    world.admin.client.in_organization(elsewhere).get(&path).await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn each_reader_sees_what_was_written_for_them() {
    let world = World::start().await;
    let (org, ada, _) = acme(&world).await;
    let worker = world.worker();
    let admin = &world.admin.client;

    world.submit(&ada, Some(org)).await;
    let claimed = worker.claim().await;
    let mut outcome = failure(&claimed, "KeyError: 'site'", false);
    outcome.lines = Some(batch(&claimed, &lines(1, 10)));
    worker.finish(&claimed, &outcome).await;

    let (whole, shown) = (get(admin, &claimed, "").await, get(&ada.client, &claimed, "").await);
    assert_eq!(
        (&whole["error_message"], &shown["error_message"]),
        (&json!("KeyError: 'site'"), &json!("An error occurred during execution"))
    );
    assert_eq!(shown["error_type"], "KeyError");
    assert_eq!(whole["variables"], json!({"answer": 42}));
    for hidden in ["variables", "peak_memory_bytes", "cpu_total_seconds"] {
        assert!(!whole[hidden].is_null() && shown[hidden].is_null(), "{hidden}");
    }
    let sequences = |lines: &Value| -> Vec<i64> {
        lines.as_array().expect("lines").iter().filter_map(|line| line["sequence"].as_i64()).collect()
    };
    assert_eq!(sequences(&whole["logs"]), (1..=10).collect::<Vec<_>>());
    assert_eq!(sequences(&shown["logs"]), (1..=shown_to_users(10)).collect::<Vec<_>>());
    assert!(shown["logs"].as_array().expect("lines").iter().all(|line| line["level"] == "INFO"));
    assert_eq!(shown["logs"][0]["data"], json!({"attempt": 1}));

    assert_eq!(sequences(&get(admin, &claimed, "/logs?after_sequence=8").await), [9, 10]);
    let rest = get(&ada.client, &claimed, "/logs?after_sequence=5").await;
    assert_eq!(sequences(&rest), [6, 7]);
    assert_eq!(rest[0]["message"], "line 8", "a user counts on in the user's own counting");
    assert_eq!(get(admin, &claimed, "/variables").await, json!({"answer": 42}));
    let path = format!("/api/executions/{}/variables", claimed.id);
    ada.client.get(&path).await.expect_status(StatusCode::FORBIDDEN);
    let listed = ada.client.get("/api/executions").await.json();
    assert_eq!(listed["executions"][0]["error_message"], "An error occurred during execution");

    world.submit(&ada, Some(org)).await;
    let claimed = worker.claim().await;
    worker.finish(&claimed, &failure(&claimed, "there is no such site", true)).await;
    assert_eq!(get(&ada.client, &claimed, "").await["error_message"], "there is no such site");
    world.close().await;
}

#[tokio::test]
async fn the_result_is_the_value_itself() {
    let world = World::start().await;
    world.submit(&world.admin, None).await;
    let worker = world.worker();
    let claimed = worker.claim().await;
    assert_eq!(get(&world.admin.client, &claimed, "/result").await, Value::Null, "it runs");
    let result = r#"{"b":  1.50, "a": "\u00e4"}"#;
    worker.finish(&claimed, &success(&claimed, result)).await;

    let path = format!("/api/executions/{}/result", claimed.id);
    let reply = world.admin.client.get(&path).await.expect_status(StatusCode::OK);
    assert_eq!((reply.header("content-type"), reply.body.as_str()), (Some("application/json"), result));
    world.close().await;
}

#[tokio::test]
async fn cancelling_depends_on_the_state() {
    let world = World::start().await;
    let (org, ada, _) = acme(&world).await;
    let worker = world.worker();
    let mut heard = world.platform().events.everything();
    let cancel = async |id: &dyn std::fmt::Display| {
        ada.client.post(&format!("/api/executions/{id}/cancel"), &Value::Null).await
    };

    let pending = world.submit(&ada, Some(org)).await;
    for _ in 0..2 {
        let reply = cancel(&pending).await.expect_status(StatusCode::OK);
        assert_eq!(reply.text("status"), "Cancelled");
    }

    world.submit(&ada, Some(org)).await;
    let running = worker.claim().await;
    assert_ne!(running.id, pending, "what was cancelled never starts");
    for _ in 0..2 {
        let reply = cancel(&running.id).await.expect_status(StatusCode::OK);
        assert_eq!(reply.text("status"), "Cancelling");
    }
    worker.finish(&running, &success(&running, "{}")).await;
    assert_eq!(cancel(&running.id).await.expect_status(StatusCode::OK).text("status"), "Cancelled");
    assert_eq!(get(&ada.client, &running, "/result").await, Value::Null, "what it returned is dropped");

    world.submit(&ada, Some(org)).await;
    let ended = worker.claim().await;
    worker.finish(&ended, &success(&ended, "{}")).await;
    let refused = cancel(&ended.id).await.expect_status(StatusCode::BAD_REQUEST);
    assert_eq!(refused.problem_type(), "/problems/bad-request");

    let mut requests = Vec::new();
    while let Ok(event) = heard.try_recv() {
        if let domain::events::Event::Cancel { execution_id, attempt } = &*event {
            requests.push((*execution_id, *attempt));
        }
    }
    assert_eq!(requests, [(running.id, 1)], "the worker is asked once, and only for what runs");
    let audited = world.count("SELECT count(*) FROM audit_log WHERE action = 'execution.cancelled'").await;
    assert_eq!(audited, 2);
    world.close().await;
}

#[tokio::test]
async fn what_is_stuck_is_listed_and_ended_and_its_late_result_refused() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let person = world.person("ada@acme.example").await;
    let (old, waiting) = (world.submit(&person, Some(acme)).await, world.submit(&person, Some(acme)).await);
    let worker = world.worker();
    let claimed = worker.claim().await;
    assert_eq!(claimed.id, old);
    let elsewhere = world.submit(&world.admin, Some(rival)).await;
    world.sql("UPDATE executions SET created_at = created_at - interval '2 days'").await;
    let recent = world.submit(&person, Some(acme)).await;

    let (admin, local) = (&world.admin.client, world.admin.client.in_organization(acme));
    let stuck = local.get("/api/executions/cleanup/stuck").await.expect_status(StatusCode::OK).json();
    let ids: Vec<_> = stuck["executions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["execution_id"].clone())
        .collect();
    assert_eq!((ids, &stuck["count"]), (vec![json!(old), json!(waiting)], &json!(2)));
    let none = admin.get("/api/executions/cleanup/stuck?hours=72").await.expect_status(StatusCode::OK).json();
    assert_eq!(none["count"], 0);
    let ended =
        local.post("/api/executions/cleanup/trigger", &Value::Null).await.expect_status(StatusCode::OK);
    assert_eq!(ended.json(), json!({"cleaned": 2, "pending": 1, "running": 1, "failed": 0}));

    // Whatever the worker still has to say comes too late.
    let late = finish::record(&world.platform().db, &[], &[success(&claimed, "1")]).await.expect("asks");
    assert!(late.recorded.is_empty(), "the fence refuses it");
    for (id, status) in [(old, "Failed"), (waiting, "Failed"), (recent, "Pending"), (elsewhere, "Pending")] {
        let shown = admin.get(&format!("/api/executions/{id}")).await.expect_status(StatusCode::OK).json();
        assert_eq!(shown["status"], status, "{id}");
    }
    let shown = admin.get(&format!("/api/executions/{old}")).await.json();
    assert_eq!(shown["error_type"], "StuckExecution");
    let audited = local.get("/api/audit?action=execution.ended").await.json();
    assert_eq!(audited["entries"].as_array().map(Vec::len), Some(2));

    let orphans = admin.post("/api/executions/cleanup/redis-orphans?minutes=5", &Value::Null).await;
    assert_eq!(orphans.expect_status(StatusCode::OK).json()["threshold_minutes"], 5);
    for wrong in ["hours=many", "hours=-1", "hours=99999999999"] {
        let reply = admin.get(&format!("/api/executions/cleanup/stuck?{wrong}")).await;
        assert_eq!(reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["?hours"]);
    }
    world.close().await;
}
