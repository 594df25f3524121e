//! Who gets a role: all or nothing, by id or e-mail, and only where the role belongs.

use reqwest::StatusCode;
use serde_json::json;
use uuid::Uuid;

use super::{assign, create_role};
use crate::support::World;

#[tokio::test]
async fn an_assignment_holds_for_all_or_for_none() {
    let world = World::start().await;
    let (acme, _) = (world.org("acme").await, world.org("rival").await);
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    let eve = world.person("eve@rival.example").await;
    let admin = &world.admin.client;
    let role = create_role(admin, &json!({"name": "Technicians", "organization_id": acme})).await;
    let path = format!("/api/roles/{role}/users");
    let users = async || admin.get(&path).await.expect_status(StatusCode::OK).json()["user_ids"].clone();

    let ada_id = ada.id.to_string();
    assign(admin, &role, &[&ada_id, &Uuid::now_v7().to_string()]).await.expect_status(StatusCode::NOT_FOUND);
    assign(admin, &role, &[&ada_id, "no@body.example"]).await.expect_status(StatusCode::NOT_FOUND);
    let foreign = assign(admin, &role, &[&ada_id, &eve.email, &world.admin.email]).await;
    let foreign = foreign.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(foreign.pointers(), ["/user_ids/1", "/user_ids/2"]);
    assert_eq!(users().await, json!([]), "none of it held");

    for _ in 0..2 {
        let given = assign(admin, &role, &[&ada_id, "BOB@acme.example", &ada.email]).await;
        given.expect_status(StatusCode::NO_CONTENT);
        assert_eq!(users().await, json!([ada.id, bob.id]));
    }
    for _ in 0..2 {
        let taken = admin.delete(&format!("{path}/{}", bob.email)).await;
        taken.expect_status(StatusCode::NO_CONTENT);
        assert_eq!(users().await, json!([ada.id]));
    }
    admin.delete(&format!("{path}/no@body.example")).await.expect_status(StatusCode::NOT_FOUND);
    assert_eq!(
        admin.get(&format!("/api/users/{}/roles", ada.email)).await.json(),
        json!({"role_ids": [role]})
    );

    let global = create_role(admin, &json!({"name": "Everybody's"})).await;
    let given = assign(admin, &global, &[&ada.email, &eve.email]).await;
    given.expect_status(StatusCode::NO_CONTENT);
    let inside = admin.in_organization(acme);
    let all = admin.get(&format!("/api/roles/{global}/users")).await.json()["user_ids"].clone();
    assert_eq!(all, json!([ada.id, eve.id]));
    // By id an administrator acts on the row, whatever organization is named.
    assert_eq!(inside.get(&format!("/api/roles/{global}/users")).await.json()["user_ids"], all);
    world.close().await;
}

#[tokio::test]
async fn a_role_is_deleted_softly() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let admin = &world.admin.client;
    let role = create_role(admin, &json!({"name": "Old", "organization_id": acme, "description": "d"})).await;
    assign(admin, &role, &[&ada.email]).await.expect_status(StatusCode::NO_CONTENT);
    let path = format!("/api/roles/{role}");
    for _ in 0..2 {
        admin.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    }
    assert_eq!(admin.get("/api/roles").await.json(), json!([]));
    let shown = admin.get(&path).await.expect_status(StatusCode::OK).json();
    assert_eq!((&shown["is_active"], &shown["description"]), (&json!(false), &json!("d")));
    assert_eq!(admin.get(&format!("/api/users/{}/roles", ada.id)).await.json(), json!({"role_ids": []}));

    let revived = json!({"is_active": true, "description": "", "name": null});
    let shown = admin.send(admin.request(reqwest::Method::PUT, &path).json(&revived)).await;
    let shown = shown.expect_status(StatusCode::OK).json();
    assert_eq!((&shown["name"], &shown["description"]), (&json!("Old"), &serde_json::Value::Null));
    assert_eq!(admin.get(&format!("/api/users/{}/roles", ada.id)).await.json(), json!({"role_ids": [role]}));
    world.close().await;
}
