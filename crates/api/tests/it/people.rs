//! People, roles and organizations: what an administrator does to them, how soon it acts, and what a role's holder may.

mod accounts;
mod assignment;
mod escalation;
mod lists;
mod rights;

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::Client;

use crate::support::World;

/// Creates a role as this caller.
async fn create_role(client: &Client, body: &Value) -> String {
    client.post("/api/roles", body).await.expect_status(StatusCode::CREATED).text("id")
}

/// Invites somebody as this caller.
async fn invite(client: &Client, body: &Value) -> Value {
    client.post("/api/users", body).await.expect_status(StatusCode::CREATED).json()
}

/// Gives a role to users.
async fn assign(client: &Client, role: &str, users: &[&str]) -> testkit::Reply {
    client.post(&format!("/api/roles/{role}/users"), &json!({"user_ids": users})).await
}

/// A second platform administrator, promoted and signed in.
async fn second_admin(world: &World) -> crate::support::Person {
    world.org("staff").await;
    let person = world.person("second@staff.example").await;
    let path = format!("/api/users/{}", person.id);
    world.admin.client.patch(&path, &json!({"is_superuser": true})).await.expect_status(StatusCode::OK);
    crate::support::Person {
        client: world.nobody().sign_in(&person.email, crate::support::PASSWORD).await,
        ..person
    }
}
