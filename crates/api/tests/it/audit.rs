//! The audit log over HTTP: filters, pages, and only what the reader may see.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::Client;

use crate::support::World;

async fn entries(client: &Client, query: &str) -> Vec<Value> {
    let path = format!("/api/audit?{query}");
    let page = client.get(&path).await.expect_status(StatusCode::OK).json();
    page["entries"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn pages_show_every_row_once_while_others_are_added() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let (admin, local) = (&world.admin.client, world.admin.client.in_organization(acme));
    let set = async |number: usize| {
        let body = json!({"key": format!("key_{number}"), "value": "x", "type": "string"});
        local.post("/api/config", &body).await.expect_status(StatusCode::CREATED);
    };
    for number in 0..25 {
        set(number).await;
    }
    for client in [&local, admin] {
        let (mut seen, mut token) = (Vec::new(), None::<String>);
        loop {
            let after =
                token.as_ref().map(|token| format!("&continuation_token={token}")).unwrap_or_default();
            let path = format!("/api/audit?limit=7&action=config.set{after}");
            let page = client.get(&path).await.expect_status(StatusCode::OK).json();
            seen.extend(page["entries"].as_array().expect("a list").clone());
            set(100 + seen.len()).await;
            token = page["continuation_token"].as_str().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        let resources: BTreeSet<_> = seen.iter().map(|entry| entry["resource"].to_string()).collect();
        let first_ones =
            (0..25).filter(|number| resources.contains(&format!("\"config/key_{number}\""))).count();
        assert_eq!((seen.len(), first_ones), (resources.len(), 25));
    }
    let token =
        admin.get("/api/audit?limit=1").await.json()["continuation_token"].as_str().expect("more").to_owned();
    let other = format!("/api/audit?limit=1&action=user&continuation_token={token}");
    admin.get(&other).await.expect_status(StatusCode::BAD_REQUEST);
    local
        .get(&format!("/api/audit?limit=1&continuation_token={token}"))
        .await
        .expect_status(StatusCode::BAD_REQUEST);
    world.close().await;
}

#[tokio::test]
async fn filters_name_actor_action_resource_and_time() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let body = json!({"secret_key": "token", "value": "x"});
    let made = admin.post("/api/secrets", &body).await;
    admin.put("/api/secrets/token", &json!({"value": "y"})).await.expect_status(StatusCode::OK);

    let found = entries(admin, "action=secret").await;
    let actions: Vec<_> = found.iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, [json!("secret.set"), json!("secret.created")], "newest first");
    let request_id = made.headers.get("x-request-id").expect("every answer has one").to_str().expect("text");
    assert_eq!(found[1]["request_id"], request_id);
    assert_eq!(found[1]["actor"], "admin@platform.example");
    assert_eq!(entries(admin, "resource=secret/token&action=secret.set").await.len(), 1);
    assert_eq!(entries(admin, "actor=ADMIN@platform.example&action=secret").await.len(), 2);
    assert_eq!(entries(admin, "actor=nobody@platform.example").await.len(), 0);
    assert_eq!(entries(admin, "startDate=2100-01-01T00:00:00Z").await.len(), 0);
    assert_eq!(entries(admin, "action=secret&end_date=2100-01-01T00:00:00Z").await.len(), 2);
    for (query, pointer) in [
        ("start_date=soon", "?start_date"),
        ("end_date=-200000-01-01T00:00:00Z", "?end_date"),
        ("limit=0", "?limit"),
        ("limit=1001", "?limit"),
    ] {
        let reply = admin.get(&format!("/api/audit?{query}")).await;
        let reply = reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.json()["errors"][0]["pointer"], pointer);
    }
    world.close().await;
}

#[tokio::test]
async fn a_run_leaves_its_submission_in_the_chain_of_its_organization() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let person = world.person("ada@acme.example").await;
    let id = world.submit(&person, Some(acme)).await;
    let found = entries(&world.admin.client.in_organization(acme), "action=execution.submitted").await;
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0]["resource"], &found[0]["actor"]), (&json!(id), &json!(person.email)));
    world.close().await;
}
