//! Ways up: none of them leads a role's holder to more than they hold.

use domain::Permission;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::Client;

use super::{assign, create_role};
use crate::support::{PASSWORD, World};

#[tokio::test]
async fn nobody_climbs_by_a_role() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let admin = &world.admin.client;
    let (lead, boss, kay) = (
        world.person("lead@acme.example").await,
        world.person("boss@acme.example").await,
        world.person("kay@acme.example").await,
    );
    let eve = world.person("eve@rival.example").await;
    world.grant(acme, &lead, &[Permission::UsersManage, Permission::RolesManage]).await;
    let role = async |name: &str, organization: Value, permissions: Value| {
        create_role(
            admin,
            &json!({"name": name, "organization_id": organization, "permissions": permissions}),
        )
        .await
    };
    let above = role("Above", json!(acme), json!(["secrets.manage"])).await;
    let global = role("Global", Value::Null, json!([])).await;
    let foreign = role("Foreign", json!(rival), json!([])).await;
    let own = role("Own", json!(acme), json!(["users.read"])).await;
    assign(admin, &above, &[&boss.email]).await.expect_status(StatusCode::NO_CONTENT);
    let lead: Client = world.nobody().sign_in(&lead.email, PASSWORD).await;

    let user = |key: &dyn std::fmt::Display| format!("/api/users/{key}");
    let role = |id: &str| format!("/api/roles/{id}");
    let users = |id: &str| format!("/api/roles/{id}/users");
    let (patch, post, delete) = (Method::PATCH, Method::POST, Method::DELETE);
    let kays = json!({"user_ids": ["kay@acme.example"]});
    let attempts: Vec<(Method, String, Value, u16)> = vec![
        // Granting, by any way, what one does not hold.
        (post.clone(), "/api/roles".into(), json!({"name": "n", "permissions": ["secrets.manage"]}), 403),
        (patch.clone(), role(&own), json!({"permissions": ["users.read", "audit.read"]}), 403),
        (Method::PUT, role(&own), json!({"permissions": ["forms.manage"]}), 403),
        (post.clone(), users(&above), kays.clone(), 403),
        (patch.clone(), role(&above), json!({"is_active": false}), 403),
        (delete.clone(), format!("{}/{}", users(&above), boss.email), Value::Null, 403),
        (delete.clone(), role(&above), Value::Null, 403),
        // Somebody who may do more: their password, address or account.
        (patch.clone(), user(&boss.id), json!({"password": "a password of the lead"}), 403),
        (patch.clone(), user(&boss.email), json!({"email": "lead2@acme.example"}), 403),
        (patch.clone(), user(&boss.id), json!({"is_active": false}), 403),
        (delete.clone(), user(&boss.id), Value::Null, 403),
        // Global rows.
        (post.clone(), users(&global), kays.clone(), 403),
        (patch.clone(), role(&global), json!({"permissions": ["users.read"]}), 403),
        (delete.clone(), role(&global), Value::Null, 403),
        // Other organizations.
        (post.clone(), "/api/roles".into(), json!({"name": "n", "organization_id": rival}), 403),
        (post.clone(), "/api/users".into(), json!({"email": "n@x.example", "organization_id": rival}), 403),
        (patch.clone(), user(&kay.id), json!({"organization_id": rival}), 403),
        (patch.clone(), role(&foreign), json!({"name": "mine"}), 404),
        (post.clone(), users(&foreign), kays, 404),
        (post.clone(), users(&own), json!({"user_ids": [eve.id]}), 404),
        (patch.clone(), user(&eve.email), json!({"name": "mine"}), 404),
        // Platform administrators.
        (post.clone(), "/api/users".into(), json!({"email": "n@x.example", "is_superuser": true}), 403),
        (patch.clone(), user(&kay.id), json!({"is_superuser": true}), 403),
        (patch.clone(), user(&kay.id), json!({"user_type": "PLATFORM"}), 403),
        (patch.clone(), user(&world.admin.id), json!({"is_active": false}), 404),
        (delete, user(&world.admin.email), Value::Null, 404),
        // The platform itself.
        (post, "/api/users".into(), json!({"email": "n@x.example", "user_type": "SYSTEM"}), 422),
        (patch.clone(), user(&kay.id), json!({"user_type": "SYSTEM"}), 422),
    ];
    let before = world.count("SELECT count(*) FROM audit_log").await;
    let mut climbed = Vec::new();
    for (method, path, body, status) in &attempts {
        let request = lead.request(method.clone(), path);
        let request = if body.is_null() { request } else { request.json(body) };
        let reply = lead.send(request).await;
        if reply.status.as_u16() != *status {
            climbed.push(format!(
                "{method} {path} {body}: {} instead of {status}: {}",
                reply.status, reply.body
            ));
        }
    }
    println!("escalation: {} attempts, climbed {}", attempts.len(), climbed.len());
    assert!(climbed.is_empty(), "{}", climbed.join("\n"));
    assert_eq!(world.count("SELECT count(*) FROM audit_log").await, before, "nothing was done");

    // What is theirs they may do.
    lead.patch(&user(&kay.id), &json!({"name": "Kay"})).await.expect_status(StatusCode::OK);
    let made = create_role(&lead, &json!({"name": "Readers", "permissions": ["users.read"]})).await;
    assign(&lead, &made, &[&kay.email]).await.expect_status(StatusCode::NO_CONTENT);
    world.close().await;
}

#[tokio::test]
async fn what_is_global_stays_hidden_from_a_customer() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let lead = world.person("lead@acme.example").await;
    let all = [Permission::ConfigManage, Permission::SecretsManage, Permission::AuditRead];
    world.grant(acme, &lead, &all).await;
    let lead = world.nobody().sign_in(&lead.email, PASSWORD).await;
    let admin = &world.admin.client;
    for (client, name) in [(admin, "global_one"), (&admin.in_organization(rival), "rivals"), (&lead, "own")] {
        let value = json!({"key": name, "value": name, "type": "string"});
        client.post("/api/config", &value).await.expect_status(StatusCode::CREATED);
        let secret = json!({"secret_key": name, "value": "v"});
        client.post("/api/secrets", &secret).await.expect_status(StatusCode::CREATED);
    }
    let config = lead.get("/api/config").await.expect_status(StatusCode::OK).json();
    let keys: Vec<&Value> = config.as_array().expect("a list").iter().map(|row| &row["key"]).collect();
    assert_eq!(keys, [&json!("own")]);
    let secrets = lead.get("/api/secrets").await.expect_status(StatusCode::OK).json();
    assert_eq!(secrets["secrets"], json!(["own"]));
    let audit = lead.get("/api/audit?limit=1000").await.expect_status(StatusCode::OK);
    assert!(
        audit.body.contains("config/own")
            && !audit.body.contains("global_one")
            && !audit.body.contains("rivals")
    );

    let inside = admin.in_organization(acme).get("/api/secrets").await.expect_status(StatusCode::OK).json();
    assert_eq!(inside["secrets"], json!(["global_one", "own"]), "an administrator sees what a run would");
    world.close().await;
}
