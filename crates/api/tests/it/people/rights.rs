//! Promotion, demotion, passwords and deactivation: how soon they act, and that somebody stays in charge.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{Client, Socket, eventually};

use super::{assign, create_role, second_admin};
use crate::support::{AT_ONCE, PASSWORD, Replica, World, failure};

/// How long until a request to list users gets this status.
async fn until(client: &Client, status: StatusCode) -> Duration {
    let began = Instant::now();
    eventually("the change to act", || async {
        (client.get("/api/users").await.status == status).then_some(())
    })
    .await;
    began.elapsed()
}

async fn open(client: &Client) -> Socket {
    let mut socket = Socket::connect(client, "/ws/connect").await;
    assert_eq!(socket.next().await.expect("a frame")["type"], "connected");
    socket
}

#[tokio::test]
async fn promotion_and_demotion_act_within_seconds_everywhere() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let other = Replica::start(world.test.settings_in_process()).await;
    let elsewhere = other.at(&ada.client);
    let path = format!("/api/users/{}", ada.id);
    let mut figures = Vec::new();

    for (change, status) in [
        (json!({"is_superuser": true}), StatusCode::OK),
        (json!({"is_superuser": false, "organization_id": acme}), StatusCode::FORBIDDEN),
        (json!({"user_type": "PLATFORM"}), StatusCode::OK),
        (json!({"user_type": "ORG", "organization_id": acme}), StatusCode::FORBIDDEN),
    ] {
        let mut socket = open(&elsewhere).await;
        // Both replicas remember the session as it was.
        for client in [&ada.client, &elsewhere] {
            client.get("/auth/me").await.expect_status(StatusCode::OK);
        }
        let began = Instant::now();
        let user = world.admin.client.patch(&path, &change).await.expect_status(StatusCode::OK).json();
        let is_promotion = status == StatusCode::OK;
        let organization = if is_promotion { Value::Null } else { json!(acme) };
        assert_eq!((&user["is_superuser"], &user["organization_id"]), (&json!(is_promotion), &organization));
        let (here, there) = (until(&ada.client, status).await, until(&elsewhere, status).await);
        assert_eq!(socket.close_code().await, Some(4001), "an open WebSocket must sign in again");
        figures.extend([here, there, began.elapsed()]);
    }
    let slowest = figures.iter().max().copied().unwrap_or_default();
    println!(
        "promotion and demotion: {} changes seen on HTTP and WebSocket, the slowest after {slowest:?}",
        figures.len()
    );
    assert!(slowest < AT_ONCE);

    let refused = world.admin.client.patch(&path, &json!({"is_superuser": true, "user_type": "ORG"})).await;
    assert_eq!(refused.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/user_type"]);
    world.close().await;
}

#[tokio::test]
async fn a_demotion_needs_an_organization() {
    let world = World::start().await;
    let second = second_admin(&world).await;
    let path = format!("/api/users/{}", second.email);
    for change in [json!({"is_superuser": false}), json!({"user_type": "ORG"})] {
        let reply = world.admin.client.patch(&path, &change).await;
        assert_eq!(reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/organization_id"]);
    }
    world.close().await;
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    // Somebody invited cannot sign in yet, so they do not count.
    let stub = json!({"email": "later@platform.example", "is_superuser": true});
    world.admin.client.post("/api/users", &stub).await.expect_status(StatusCode::CREATED);
    let path = format!("/api/users/{}", world.admin.id);
    for change in [
        json!({"is_superuser": false, "organization_id": acme}),
        json!({"user_type": "ORG", "organization_id": acme}),
        json!({"is_active": false}),
    ] {
        let reply = world.admin.client.patch(&path, &change).await.expect_status(StatusCode::BAD_REQUEST);
        assert_eq!(reply.detail(), "the last active platform administrator must stay");
    }
    let themselves = world.admin.client.delete(&path).await.expect_status(StatusCode::BAD_REQUEST);
    assert_eq!(themselves.detail(), "Cannot delete yourself");
    let by_email = world.admin.client.delete("/api/users/ADMIN@platform.example").await;
    assert_eq!(by_email.expect_status(StatusCode::BAD_REQUEST).detail(), "Cannot delete yourself");
    world.close().await;
}

#[tokio::test]
async fn of_the_last_two_administrators_who_demote_each_other_one_stays() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let second = second_admin(&world).await;
    let (first_path, second_path) =
        (format!("/api/users/{}", world.admin.id), format!("/api/users/{}", second.id));
    let mut left = Vec::new();
    for round in 0..10 {
        let (demotion, removal) =
            (json!({"is_superuser": false, "organization_id": acme}), json!({"is_active": false}));
        let change = if round % 2 == 0 { &demotion } else { &removal };
        let (one, two) = tokio::join!(
            world.admin.client.patch(&second_path, change),
            second.client.patch(&first_path, change)
        );
        let done = [&one, &two].iter().filter(|reply| reply.status == StatusCode::OK).count();
        assert!(done <= 1, "{} {}", one.body, two.body);
        left.push(world.count("SELECT count(*) FROM users WHERE is_superuser AND is_active").await);
        world
            .sql(
                "UPDATE users SET is_superuser = TRUE, user_type = 'PLATFORM', organization_id = NULL, is_active = TRUE
                 WHERE user_type <> 'SYSTEM'",
            )
            .await;
        world.sql("UPDATE sessions SET revoked_at = NULL").await;
        // What the replica remembers of either must be as before the next round.
        for client in [&world.admin.client, &second.client] {
            until(client, StatusCode::OK).await;
        }
    }
    println!("racing demotions: 10 rounds, administrators left {left:?}");
    assert!(left.iter().all(|count| *count >= 1));
    world.close().await;
}

#[tokio::test]
async fn a_password_set_and_a_deactivation_end_all_sessions() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let path = format!("/api/users/{}", ada.id);
    let other = world.nobody().sign_in(&ada.email, PASSWORD).await;
    let mut socket = open(&other).await;

    let weak = world.admin.client.patch(&path, &json!({"password": "short"})).await;
    assert_eq!(weak.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/password"]);
    let reply = world.admin.client.patch(&path, &json!({"password": "another long password"})).await;
    let reply = reply.expect_status(StatusCode::OK);
    assert!(!reply.body.contains("another long password"));
    for client in [&ada.client, &other] {
        client.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    }
    assert_eq!(socket.close_code().await, Some(4001));
    let again = world.nobody().sign_in(&ada.email, "another long password").await;

    world.admin.client.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    again.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    world.admin.client.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    world.admin.client.patch(&path, &json!({"is_active": true})).await.expect_status(StatusCode::OK);
    again.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    world.close().await;
}

#[tokio::test]
async fn what_a_role_allows_changes_within_seconds() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let admin = &world.admin.client;
    let body = json!({"name": "Leads", "organization_id": acme, "permissions": ["users.read"]});
    let role = create_role(admin, &body).await;
    let path = format!("/api/roles/{role}");
    let mut figures = Vec::new();

    let mut socket = open(&ada.client).await;
    assign(admin, &role, &[&ada.email]).await.expect_status(StatusCode::NO_CONTENT);
    figures.push(until(&ada.client, StatusCode::OK).await);
    assert_eq!(socket.close_code().await, Some(4001), "rights changed, so the socket must sign in again");
    let me = ada.client.get("/auth/me").await.expect_status(StatusCode::OK).json();
    assert_eq!(me["roles"], json!(["authenticated", "OrgUser", "Leads"]));

    for (change, status) in [
        (json!({"is_active": false}), StatusCode::FORBIDDEN),
        (json!({"is_active": true}), StatusCode::OK),
        (json!({"permissions": ["roles.read"]}), StatusCode::FORBIDDEN),
        (json!({"permissions": ["users.manage"]}), StatusCode::OK),
    ] {
        admin.patch(&path, &change).await.expect_status(StatusCode::OK);
        figures.push(until(&ada.client, status).await);
    }
    admin.delete(&format!("{path}/users/{}", ada.id)).await.expect_status(StatusCode::NO_CONTENT);
    figures.push(until(&ada.client, StatusCode::FORBIDDEN).await);
    let slowest = figures.iter().max().copied().unwrap_or_default();
    println!("roles: {} changes, the slowest acts after {slowest:?}", figures.len());
    assert!(slowest < AT_ONCE);
    world.close().await;
}

#[tokio::test]
async fn nothing_new_runs_in_an_organization_that_was_deactivated() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let client = world.admin.client.in_organization(acme);
    let run = json!({"code": "x = 1"});
    client.post("/api/workflows/execute", &run).await.expect_status(StatusCode::OK);

    let began = Instant::now();
    let path = format!("/api/organizations/{acme}");
    world.admin.client.patch(&path, &json!({"is_active": false})).await.expect_status(StatusCode::OK);
    let refusal = eventually("the organization to be refused", || async {
        let reply = client.post("/api/workflows/execute", &run).await;
        (reply.status == StatusCode::BAD_REQUEST).then(|| reply.detail())
    })
    .await;
    println!("deactivated organization: refused after {:?}", began.elapsed());
    assert!(began.elapsed() < AT_ONCE);
    assert_eq!(refusal, "the organization is inactive; nothing runs in it");
    world.admin.client.post("/api/workflows/execute", &run).await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn whoever_may_read_executions_sees_those_of_the_organization_as_a_user_does() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let (ada, lead) = (world.person("ada@acme.example").await, world.person("lead@acme.example").await);
    let eve = world.person("eve@rival.example").await;
    world.grant(acme, &lead, &[domain::Permission::ExecutionsCancel]).await;
    let lead = world.nobody().sign_in(&lead.email, PASSWORD).await;
    let history = format!("/ws/connect?channels=history:{acme}&channels=history:{rival}");
    let mut socket = Socket::connect(&lead, &history).await;
    let hello = socket.next().await.expect("a frame");
    assert_eq!(
        hello["channels"].as_array().map(Vec::len),
        Some(2),
        "their own and their organization's: {hello}"
    );

    let run = world.submit(&ada, Some(acme)).await;
    let worker = world.worker();
    let claimed = worker.claim().await;
    worker.announce_start(&claimed);
    let heard = socket.until(|frame| frame["type"] == "execution_update").await.pop().expect("the last");
    assert_eq!(heard["executionId"], run.to_string());
    let failed = failure(&claimed, "KeyError: 'x'", false);
    worker.finish(&claimed, &failed).await;
    let foreign = world.submit(&eve, Some(rival)).await;

    let list = lead.get("/api/executions").await.expect_status(StatusCode::OK).json();
    let ids: Vec<_> =
        list["executions"].as_array().expect("a list").iter().map(|one| &one["execution_id"]).collect();
    assert_eq!(ids, [&json!(run)]);
    let shown = lead.get(&format!("/api/executions/{run}")).await.expect_status(StatusCode::OK).json();
    assert_eq!(shown["error_message"], "An error occurred during execution", "as its owner sees it");
    lead.get(&format!("/api/executions/{run}/variables")).await.expect_status(StatusCode::FORBIDDEN);
    for path in [format!("/api/executions/{foreign}"), format!("/api/executions/{foreign}/logs")] {
        lead.get(&path).await.expect_status(StatusCode::NOT_FOUND);
    }
    let path = format!("/api/executions/{foreign}/cancel");
    lead.post(&path, &Value::Null).await.expect_status(StatusCode::NOT_FOUND);
    world.close().await;
}
