//! Keys: who has one, what it opens, and how it ends.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{with_key, world};
use crate::support::{PASSWORD, Person};

#[tokio::test]
async fn a_key_is_shown_once_counted_and_dead_when_revoked_expired_or_deleted() {
    let (world, ada) = world().await;
    let made = ada.client.post("/api/sdk/keys", &json!({"name": "laptop", "expires_in_days": 30})).await;
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let made = made.expect_status(StatusCode::CREATED).json();
    let key = made["key"].as_str().expect("shown once").to_owned();
    assert!(key.starts_with("bfsk_") && key.len() == 48);
    assert_eq!(made["key_prefix"], key[..12]);
    let client = world.nobody().with_bearer(&key);
    for _ in 0..3 {
        client.get("/api/sdk/context").await.expect_status(StatusCode::OK);
    }
    let listed = ada.client.get("/api/sdk/keys").await.expect_status(StatusCode::OK);
    assert!(!listed.body.contains(&key[12..]));
    let row = &listed.json()["keys"][0];
    assert_eq!(
        (&row["use_count"], &row["is_active"], &row["name"]),
        (&json!(3), &json!(true), &json!("laptop"))
    );
    assert!(row["last_used_at"].is_string() && row["expires_at"].is_string());
    let audit = world.admin.client.get("/api/audit").await.body;
    assert!(audit.contains("sdk_key.created") && !audit.contains(&key[12..]));

    let id = made["id"].as_str().expect("an id");
    let revoked = ada.client.patch(&format!("/api/sdk/keys/{id}/revoke"), &Value::Null).await;
    assert_eq!(revoked.expect_status(StatusCode::OK).json()["is_active"], false);
    client.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);
    ada.client.delete(&format!("/api/sdk/keys/{id}")).await.expect_status(StatusCode::NO_CONTENT);
    ada.client.delete(&format!("/api/sdk/keys/{id}")).await.expect_status(StatusCode::NOT_FOUND);

    let mut dead = 0;
    for ending in [
        "UPDATE sdk_keys SET expires_at = now() WHERE name = 'laptop'",
        "UPDATE users SET is_active = FALSE WHERE email = 'ada@acme.example'",
        "UPDATE organizations SET is_active = FALSE WHERE name = 'acme'",
    ] {
        world.sql("UPDATE users SET is_active = TRUE").await;
        world.sql("DELETE FROM sdk_keys").await;
        let ada = Person { client: world.nobody().sign_in(&ada.email, PASSWORD).await, ..ada.clone() };
        let client = with_key(&world, &ada).await;
        client.get("/api/sdk/context").await.expect_status(StatusCode::OK);
        world.sql(ending).await;
        for (method, path) in [(Method::GET, "/api/sdk/context"), (Method::POST, "/api/sdk/config/list")] {
            let reply = client.send(client.request(method, path).json(&json!({}))).await;
            reply.expect_status(StatusCode::UNAUTHORIZED);
        }
        dead += 1;
    }
    println!("sdk keys: dead at once {} of 5", dead + 2);
    world.close().await;
}

#[tokio::test]
async fn the_keys_of_somebody_deleted_stay_dead_when_they_come_back() {
    let (world, ada) = world().await;
    let key = with_key(&world, &ada).await;
    key.get("/api/sdk/context").await.expect_status(StatusCode::OK);
    let path = format!("/api/users/{}", ada.id);
    world.admin.client.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    key.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);

    world.admin.client.patch(&path, &json!({"is_active": true})).await.expect_status(StatusCode::OK);
    key.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);
    let ada = world.nobody().sign_in(&ada.email, PASSWORD).await;
    let listed = ada.get("/api/sdk/keys").await.expect_status(StatusCode::OK).json();
    assert_eq!(listed["keys"][0]["is_active"], false);
    world.close().await;
}

#[tokio::test]
async fn whoever_moves_to_another_organization_takes_neither_session_nor_key_along() {
    let (world, ada) = world().await;
    let rival = world.org("rival").await;
    let acme =
        ada.client.get("/auth/me").await.expect_status(StatusCode::OK).json()["organization_id"].clone();
    let key = with_key(&world, &ada).await;
    let path = format!("/api/users/{}", ada.id);
    let move_to = async |organization: Value| {
        let body = json!({"organization_id": organization});
        world.admin.client.patch(&path, &body).await.expect_status(StatusCode::OK);
    };
    // Who is told to stay has not moved.
    move_to(acme.clone()).await;
    ada.client.get("/auth/me").await.expect_status(StatusCode::OK);
    key.get("/api/sdk/context").await.expect_status(StatusCode::OK);

    move_to(json!(rival)).await;
    ada.client.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    key.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);
    let anew = world.nobody().sign_in(&ada.email, PASSWORD).await;
    let listed = anew.get("/api/sdk/keys").await.expect_status(StatusCode::OK).json();
    assert_eq!(listed["keys"][0]["is_active"], false);

    move_to(acme).await;
    for client in [&ada.client, &anew] {
        client.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    }
    key.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);
    world.close().await;
}

#[tokio::test]
async fn a_key_opens_the_sdk_and_no_other_door() {
    let (world, ada) = world().await;
    let mut opened = Vec::new();
    let mut tried = 0;
    for client in [with_key(&world, &ada).await, with_key(&world, &world.admin).await] {
        for path in [
            "/auth/me",
            "/api/sdk/keys",
            "/api/executions",
            "/api/config",
            "/api/users",
            "/api/workflows",
            "/api/workflow-keys",
            "/api/schedules",
        ] {
            tried += 1;
            if client.get(path).await.status != StatusCode::UNAUTHORIZED {
                opened.push(path);
            }
        }
        let cookie = format!("access_token={}", client.bearer().expect("a key"));
        for path in ["/auth/me", "/api/sdk/context"] {
            tried += 1;
            let reply = world
                .nobody()
                .send(world.nobody().request(Method::GET, path).header("cookie", &cookie))
                .await;
            if reply.status != StatusCode::UNAUTHORIZED {
                opened.push(path);
            }
        }
        let put = client.put("/api/sdk/context", &json!({})).await;
        tried += 1;
        if put.status != StatusCode::UNAUTHORIZED {
            opened.push("put /api/sdk/context");
        }
    }
    println!("sdk keys at other doors: {tried} tried, opened {}", opened.len());
    assert!(opened.is_empty(), "{opened:?}");
    world.close().await;
}

#[tokio::test]
async fn a_key_has_the_rights_that_its_user_has_now() {
    let (world, ada) = world().await;
    let rival = world.org("rival").await;
    let key = with_key(&world, &world.admin).await;
    let in_rival = json!({"key": "a", "value": 1, "org_id": rival});
    key.post("/api/sdk/config/set", &in_rival).await.expect_status(StatusCode::NO_CONTENT);
    let users = with_key(&world, &ada).await;
    for path in ["set", "get", "delete", "list"] {
        let reply = users.post(&format!("/api/sdk/config/{path}"), &in_rival).await;
        assert_eq!(
            reply.expect_status(StatusCode::FORBIDDEN).detail(),
            "Access denied to organization",
            "{path}"
        );
    }
    users
        .post("/api/sdk/config/list", &json!({"org_id": "GLOBAL"}))
        .await
        .expect_status(StatusCode::FORBIDDEN);
    // Somebody who is demoted takes their keys along.
    world
        .sql(
            "UPDATE users SET is_superuser = FALSE, user_type = 'ORG' WHERE email = 'admin@platform.example'",
        )
        .await;
    key.post("/api/sdk/config/set", &in_rival).await.expect_status(StatusCode::FORBIDDEN);
    world.close().await;
}
