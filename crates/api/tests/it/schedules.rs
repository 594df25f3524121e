//! Schedules over HTTP: what is listed, checking expressions, running now, pausing, history.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use domain::schedules::fire;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::World;

async fn world() -> World {
    let world = World::start().await;
    world
        .with_endpoints(&[
            json!({"name": "nightly", "schedule": "0 6 * * 1-5", "schedule_timezone": "Europe/Zurich", "tags": ["daily"]}),
            json!({"name": "often", "schedule": "*/2 * * * *"}),
            json!({"name": "broken", "schedule": "every day"}),
            json!({"name": "plain"}),
        ])
        .await;
    world
}

async fn listed(world: &World, name: &str) -> Value {
    let list = world.admin.client.get("/api/schedules").await.expect_status(StatusCode::OK).json();
    list.as_array().expect("a list").iter().find(|row| row["name"] == name).cloned().unwrap_or_default()
}

#[tokio::test]
async fn schedules_are_listed_with_what_they_mean() {
    let world = world().await;
    let list = world.admin.client.get("/api/schedules").await.expect_status(StatusCode::OK).json();
    let names: Vec<&str> =
        list.as_array().expect("a list").iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["broken", "nightly", "often"]);
    let nightly = listed(&world, "nightly").await;
    assert_eq!(
        (&nightly["validation_status"], &nightly["schedule"]),
        (&json!("valid"), &json!("0 6 * * 1-5"))
    );
    assert_eq!(
        (&nightly["tags"], &nightly["relative_file_path"]),
        (&json!(["daily"]), &json!("/workspace/endpoint_0.py"))
    );
    assert!(
        nightly["human_readable"]
            .as_str()
            .is_some_and(|text| text.contains("06:00") && text.contains("Europe/Zurich"))
    );
    let next: DateTime<Utc> = nightly["next_run_at"].as_str().expect("is computed").parse().expect("a time");
    assert!(next > Utc::now());
    assert_eq!(
        (&nightly["execution_count"], &nightly["is_overdue"], &nightly["last_run_at"]),
        (&json!(0), &json!(false), &Value::Null)
    );
    let often = listed(&world, "often").await;
    assert_eq!(
        (&often["validation_status"], &often["validation_message"]),
        (&json!("warning"), &json!("it fires more often than every 5 minutes"))
    );
    let broken = listed(&world, "broken").await;
    assert_eq!((&broken["validation_status"], &broken["next_run_at"]), (&json!("error"), &Value::Null));
    assert!(broken["validation_message"].as_str().is_some_and(|text| text.contains("2 fields instead of 5")));

    world
        .sql("UPDATE schedules SET next_fire_at = now() - interval '7 minutes' WHERE expression LIKE '0 6%'")
        .await;
    assert_eq!(listed(&world, "nightly").await["is_overdue"], true);

    let first = world.admin.client.get("/api/schedules?limit=2").await;
    let token = first.header("x-continuation-token").expect("there is more").to_owned();
    let rest = world.admin.client.get(&format!("/api/schedules?limit=2&continuationToken={token}")).await;
    assert_eq!(
        (rest.json()[0]["name"].clone(), rest.json().as_array().map_or(0, Vec::len)),
        (json!("often"), 1)
    );
    world.close().await;
}

#[tokio::test]
async fn checking_an_expression_is_always_an_answer() {
    let world = World::start().await;
    world.org("acme").await;
    let user = world.person("ada@acme.example").await;
    let check = async |body: Value| {
        user.client.post("/api/schedules/validate", &body).await.expect_status(StatusCode::OK).json()
    };
    let good = check(json!({"expression": "0 6 * * 1-5", "timezone": "Europe/Zurich"})).await;
    assert_eq!(
        (&good["valid"], &good["error"], &good["warning"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    assert_eq!(good["next_runs"].as_array().map(Vec::len), Some(5));
    let bad = check(json!({"expression": "0 0 6 * * 1-5"})).await;
    assert_eq!((&bad["valid"], &bad["next_runs"]), (&json!(false), &json!([])));
    assert!(bad["error"].as_str().is_some_and(|text| text.contains("6 fields instead of 5")));
    assert_eq!(check(json!({"expression": "0 6 * * *", "timezone": null})).await["valid"], true);
    world.close().await;
}

#[tokio::test]
async fn running_now_is_the_callers_own_and_once_per_key() {
    let world = world().await;
    let acme = world.org("acme").await;
    let id = listed(&world, "nightly").await["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/schedules/{id}/trigger");
    let next = listed(&world, "nightly").await["next_run_at"].clone();
    let client = world.admin.client.in_organization(acme);
    // The workflow waits for its end when it is executed; here nobody waits.
    let answer = client.post(&path, &Value::Null).await.expect_status(StatusCode::OK).json();
    assert_eq!((&answer["status"], &answer["workflow_id"]), (&json!("Pending"), &json!(id)));
    let claimed = world.worker().claim().await;
    assert_eq!(
        (claimed.organization_id, claimed.executed_by, claimed.parameters.get()),
        (Some(acme), world.admin.id, "{}")
    );
    let after = listed(&world, "nightly").await;
    assert_eq!(
        (&after["next_run_at"], &after["execution_count"]),
        (&next, &json!(0)),
        "the schedule goes on as it was"
    );

    let keyed = || client.send(client.request(Method::POST, &path).header("idempotency-key", "now"));
    let replies = join_all((0..10).map(|_| keyed())).await;
    let ids: HashSet<String> = replies.iter().map(|reply| reply.text("execution_id")).collect();
    println!("trigger now: 10 concurrent with one key, executions {}", ids.len());
    assert_eq!(ids.len(), 1);
    let plain = world.admin.client.get("/api/workflows").await.json();
    let plain =
        plain.as_array().expect("a list").iter().find(|row| row["name"] == "plain").expect("is there")["id"]
            .clone();
    let path = format!("/api/schedules/{}/trigger", plain.as_str().expect("an id"));
    client.post(&path, &Value::Null).await.expect_status(StatusCode::NOT_FOUND);
    world.close().await;
}

#[tokio::test]
async fn running_now_is_refused_where_a_parameter_is_required() {
    let world = World::start().await;
    let parameters = json!([{"name": "site", "type": "string", "required": true}]);
    world
        .with_endpoints(&[json!({"name": "needy", "schedule": "0 6 * * *", "parameters": parameters})])
        .await;
    let id = listed(&world, "needy").await["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/schedules/{id}/trigger");
    let refused = world.admin.client.post(&path, &Value::Null).await;
    assert_eq!(refused.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/input_data/site"]);
    assert_eq!(world.count("SELECT count(*) FROM executions").await, 0, "nothing was written");
    world.close().await;
}

#[tokio::test]
async fn a_schedule_is_paused_and_resumed_and_tells_what_became_of_its_ticks() {
    let world = world().await;
    let admin = &world.admin.client;
    let id = listed(&world, "often").await["id"].as_str().expect("an id").to_owned();
    let change = async |what: &str| {
        admin
            .post(&format!("/api/schedules/{id}/{what}"), &Value::Null)
            .await
            .expect_status(StatusCode::NO_CONTENT)
    };
    change("pause").await;
    let paused = listed(&world, "often").await;
    assert_eq!((&paused["paused"], &paused["next_run_at"]), (&json!(true), &Value::Null));
    world.sql("UPDATE schedules SET next_fire_at = now() - interval '10 minutes'").await;
    world.sql("UPDATE schedules SET next_fire_at = NULL WHERE paused_at IS NULL").await;
    assert_eq!(fire::tick(&world.platform().db).await.expect("ticks").started, 0);
    change("resume").await;
    assert_eq!(listed(&world, "often").await["paused"], false);

    world.sql("UPDATE schedules SET next_fire_at = date_trunc('hour', now()) - interval '1 hour' WHERE expression LIKE '*/2%'").await;
    assert_eq!(fire::tick(&world.platform().db).await.expect("ticks").started, 1);
    let path = format!("/api/schedules/{id}/history");
    let history = admin.get(&path).await.expect_status(StatusCode::OK).json();
    let rows = history.as_array().expect("a list");
    assert_eq!(rows.len(), 2, "the latest runs, the others are one row");
    assert_eq!(
        (&rows[0]["outcome"], &rows[0]["ticks"], rows[0]["execution_id"].is_string()),
        (&json!("started"), &json!(1), true)
    );
    assert_eq!(
        (&rows[1]["outcome"], rows[1]["ticks"].as_i64().is_some_and(|ticks| ticks >= 29)),
        (&json!("missed"), true)
    );
    let shown = listed(&world, "often").await;
    assert_eq!(
        (&shown["last_execution_id"], &shown["execution_count"]),
        (&rows[0]["execution_id"], &json!(1))
    );
    let first = admin.get(&format!("{path}?limit=1")).await;
    let token = first.header("x-continuation-token").expect("there is more").to_owned();
    let rest = admin.get(&format!("{path}?limit=1&continuationToken={token}")).await.json();
    assert_eq!(rest, json!([rows[1]]));
    world.close().await;
}
