//! Lists: filters, scopes, and pages that neither repeat nor skip.

use domain::Permission;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{Client, Reply};

use super::{create_role, invite};
use crate::support::{PASSWORD, World};

fn members(reply: &Reply, name: &str) -> Vec<String> {
    let list = reply.json();
    let rows = list.as_array().expect("an array").iter();
    rows.map(|row| row[name].as_str().unwrap_or_default().to_owned()).collect()
}

async fn list(client: &Client, path: &str, name: &str) -> Vec<String> {
    members(&client.get(path).await.expect_status(StatusCode::OK), name)
}

#[tokio::test]
async fn a_list_shows_the_active_rows_of_its_scope() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let admin = &world.admin.client;
    for email in ["bob@acme.example", "ada@acme.example", "Zoe@acme.example"] {
        invite(admin, &json!({"email": email, "organization_id": acme})).await;
    }
    let gone = invite(admin, &json!({"email": "gone@acme.example", "organization_id": acme})).await;
    let path = format!("/api/users/{}", gone["id"].as_str().expect("an id"));
    admin.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    invite(admin, &json!({"email": "eve@rival.example", "organization_id": rival})).await;
    for (name, organization) in [("Acme's", json!(acme)), ("Rival's", json!(rival)), ("Global", Value::Null)]
    {
        create_role(admin, &json!({"name": name, "organization_id": organization})).await;
    }
    let lead = world.person("lead@acme.example").await;
    world.grant(acme, &lead, &[Permission::UsersRead, Permission::RolesRead]).await;
    let lead = world.nobody().sign_in(&lead.email, PASSWORD).await;
    let inside = admin.in_organization(rival);

    let acmes = ["ada@acme.example", "bob@acme.example", "lead@acme.example", "zoe@acme.example"];
    let everybody = [
        "ada@acme.example",
        "admin@platform.example",
        "bob@acme.example",
        "eve@rival.example",
        "lead@acme.example",
        "zoe@acme.example",
    ];
    let people = [
        "ada@acme.example",
        "bob@acme.example",
        "eve@rival.example",
        "lead@acme.example",
        "zoe@acme.example",
    ];
    let of_acme = format!("/api/users?orgId={acme}");
    let of_rival = format!("/api/users?org_id={rival}");
    for (client, path, expected) in [
        (admin, "/api/users", &everybody[..]),
        (admin, "/api/users?type=platform", &["admin@platform.example"]),
        (admin, "/api/users?type=org", &people),
        (admin, &of_acme, &acmes),
        (admin, &format!("{of_acme}&type=org"), &acmes),
        (admin, &format!("{of_acme}&type=platform"), &[]),
        (&inside, "/api/users", &["eve@rival.example"]),
        (&inside, &of_acme, &[]),
        (&lead, "/api/users", &acmes),
        (&lead, "/api/users?type=platform", &[]),
        (&lead, &of_rival, &[]),
    ] {
        assert_eq!(list(client, path, "email").await, expected, "{path}");
    }
    for (client, expected) in [
        (admin, &["Acme's", "Global", "Holders", "Rival's"][..]),
        (&inside, &["Global", "Rival's"]),
        (&lead, &["Acme's", "Global", "Holders"]),
    ] {
        assert_eq!(list(client, "/api/roles", "name").await, expected);
    }
    world.close().await;
}

#[tokio::test]
async fn pages_neither_repeat_nor_skip_while_rows_come() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    world
        .sql(
            "INSERT INTO users (id, organization_id, email, name, user_type)
             SELECT gen_random_uuid(), (SELECT id FROM organizations), 'user' || lpad(n::text, 3, '0') || '@acme.example', 'n', 'ORG'
             FROM generate_series(1, 50) AS n",
        )
        .await;
    world
        .sql(
            "INSERT INTO roles (id, name, created_by) SELECT gen_random_uuid(), 'twin', 'x' FROM generate_series(1, 50)",
        )
        .await;
    world
        .sql(
            "INSERT INTO organizations (id, name, created_by) SELECT gen_random_uuid(), 'twin', 'x' FROM generate_series(1, 50)",
        )
        .await;
    let admin = &world.admin.client;
    let users = format!("/api/users?orgId={acme}");
    for (base, count) in [(users.as_str(), 50), ("/api/roles", 50), ("/api/organizations", 51)] {
        let glue = if base.contains('?') { '&' } else { '?' };
        let (mut seen, mut path) = (Vec::new(), format!("{base}{glue}limit=7"));
        loop {
            let reply = admin.get(&path).await.expect_status(StatusCode::OK);
            seen.extend(members(&reply, "id"));
            // Rows that come meanwhile, before and after the place.
            for email in ["a", "z"] {
                let email = format!("{email}{}@acme.example", seen.len());
                invite(admin, &json!({"email": email})).await;
            }
            let Some(token) = reply.header("x-continuation-token") else { break };
            path = format!("{base}{glue}limit=7&continuationToken={token}");
        }
        let mut unique = seen.clone();
        unique.sort();
        unique.dedup();
        assert_eq!((seen.len(), unique.len()), (count, count), "{base}");
        world.sql("DELETE FROM users WHERE NOT is_registered").await;
    }
    let token =
        admin.get("/api/users?limit=1").await.header("x-continuation-token").expect("more").to_owned();
    for path in ["/api/users?type=org&limit=1", "/api/organizations?limit=1", "/api/roles?limit=1"] {
        let reply = admin.get(&format!("{path}&continuationToken={token}")).await;
        reply.expect_status(StatusCode::BAD_REQUEST);
    }
    let elsewhere = admin.in_organization(acme).get(&format!("/api/users?continuationToken={token}")).await;
    elsewhere.expect_status(StatusCode::BAD_REQUEST);
    world.close().await;
}
