//! Invitations, own records, moves, and what a body may not decide.

use domain::Permission;
use domain::id::OrgId;
use domain::settings::Environment;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{Client, MailServer};
use uuid::Uuid;

use super::{assign, create_role, invite};
use crate::support::{PASSWORD, World};

/// Where the user is changed.
fn path(user: &Value) -> String {
    format!("/api/users/{}", user["id"].as_str().expect("an id"))
}

/// Somebody who manages the users of acme, and no more.
async fn lead(world: &World, acme: OrgId) -> Client {
    let lead = world.person("lead@acme.example").await;
    world.grant(acme, &lead, &[Permission::UsersManage]).await;
    world.nobody().sign_in(&lead.email, PASSWORD).await
}

#[tokio::test]
async fn an_invited_user_completes_the_account() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let admin = &world.admin.client;
    let body = json!({"email": " Kay@Elsewhere.example", "name": "Kay", "password": "ignored", "organization_id": acme});
    let stub = invite(admin, &body).await;
    assert_eq!(
        (
            &stub["email"],
            &stub["is_registered"],
            &stub["is_verified"],
            &stub["user_type"],
            &stub["organization_id"]
        ),
        (&json!("kay@elsewhere.example"), &json!(false), &json!(true), &json!("ORG"), &json!(acme))
    );
    admin.post("/api/users", &body).await.expect_status(StatusCode::CONFLICT);
    let form = [("username", "kay@elsewhere.example"), ("password", "ignored")];
    let nobody = world.nobody();
    let early = nobody.send(nobody.request(reqwest::Method::POST, "/auth/login").form(&form)).await;
    early.expect_status(StatusCode::UNAUTHORIZED);
    let role = create_role(admin, &json!({"name": "Technicians", "organization_id": acme})).await;
    assign(admin, &role, &["kay@elsewhere.example"]).await.expect_status(StatusCode::NO_CONTENT);

    let given = json!({"email": "kay@elsewhere.example", "password": PASSWORD});
    let registered = nobody.post("/auth/register", &given).await.expect_status(StatusCode::CREATED).json();
    assert_eq!(
        (&registered["id"], &registered["name"]),
        (&stub["id"], &json!("Kay")),
        "the name of the invitation"
    );
    assert_eq!(registered["is_verified"], json!(false), "whoever knows the address may get here");
    let kay = nobody.sign_in("kay@elsewhere.example", PASSWORD).await;
    let me = kay.get("/auth/me").await.expect_status(StatusCode::OK).json();
    assert_eq!((&me["organization_id"], &me["roles"][2]), (&json!(acme), &json!("Technicians")));
    world.close().await;
}

#[tokio::test]
async fn in_production_only_the_invited_register() {
    let server = MailServer::start().await;
    let url = server.url().to_owned();
    let world = World::with(move |settings| {
        settings.environment = Environment::Production;
        settings.smtp_url = Some(url.into());
    })
    .await;
    world.org("acme").await;
    let given = |email: &str| json!({"email": email, "password": PASSWORD});
    let refused = world.nobody().post("/auth/register", &given("ada@acme.example")).await;
    refused.expect_status(StatusCode::FORBIDDEN);
    invite(&world.admin.client, &json!({"email": "ada@acme.example"})).await;
    let done = world.nobody().post("/auth/register", &given("ada@acme.example")).await;
    done.expect_status(StatusCode::CREATED);
    world.close().await;
}

#[tokio::test]
async fn the_scope_names_the_organization_unless_the_body_does() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let admin = &world.admin.client;
    let inside = admin.in_organization(acme);
    let user = |n: u8| format!("kay{n}@elsewhere.example");
    for (client, body, organization) in [
        (&inside, json!({"email": user(1)}), json!(acme)),
        (&inside, json!({"email": user(2), "organization_id": rival}), json!(rival)),
        (&inside, json!({"email": user(3), "is_superuser": true, "organization_id": acme}), Value::Null),
        (admin, json!({"email": user(4), "user_type": "PLATFORM"}), Value::Null),
    ] {
        let made = invite(client, &body).await;
        assert_eq!(made["organization_id"], organization, "{body}");
        let is_admin = body["is_superuser"] == json!(true);
        assert_eq!(made["user_type"], if is_admin { "PLATFORM" } else { "ORG" }, "{body}");
    }
    for (client, body, organization) in [
        (&inside, json!({"name": "R"}), json!(acme)),
        (&inside, json!({"name": "R", "organization_id": rival}), json!(rival)),
        (admin, json!({"name": "R"}), Value::Null),
    ] {
        let made = client.post("/api/roles", &body).await.expect_status(StatusCode::CREATED).json();
        assert_eq!((&made["organization_id"], &made["permissions"]), (&organization, &json!([])));
    }
    let unknown = json!({"email": user(5), "name": "N", "organization_id": Uuid::now_v7()});
    for path in ["/api/users", "/api/roles"] {
        let reply = admin.post(path, &unknown).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.pointers(), ["/organization_id"], "{path}");
    }
    world.close().await;
}

#[tokio::test]
async fn everybody_reads_their_own_record_and_no_other() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let bob = world.person("bob@acme.example").await;
    for key in [ada.id.to_string(), "ADA@acme.example".to_owned()] {
        let own = ada.client.get(&format!("/api/users/{key}")).await.expect_status(StatusCode::OK);
        assert_eq!(own.text("id"), ada.id.to_string());
        let roles = ada.client.get(&format!("/api/users/{key}/roles")).await.expect_status(StatusCode::OK);
        assert_eq!(roles.json(), json!({"role_ids": []}));
    }
    for key in [bob.id.to_string(), bob.email.clone(), Uuid::now_v7().to_string(), "no@body.example".into()] {
        for path in [format!("/api/users/{key}"), format!("/api/users/{key}/roles")] {
            let reply = ada.client.get(&path).await.expect_status(StatusCode::FORBIDDEN);
            assert_eq!(reply.detail(), "Superuser privileges required");
        }
    }
    let admin = &world.admin.client;
    let system = "/api/users/00000000-0000-0000-0000-000000000001";
    admin.get(system).await.expect_status(StatusCode::NOT_FOUND);
    admin.patch(system, &json!({"name": "n"})).await.expect_status(StatusCode::NOT_FOUND);
    admin.delete(system).await.expect_status(StatusCode::NOT_FOUND);

    world.sql("UPDATE users SET organization_id = NULL WHERE email = 'bob@acme.example'").await;
    let stray = world.nobody().sign_in(&bob.email, PASSWORD).await;
    stray.get(&format!("/api/users/{}", bob.id)).await.expect_status(StatusCode::OK);
    stray.get("/api/users").await.expect_status(StatusCode::FORBIDDEN);
    world.close().await;
}

#[tokio::test]
async fn whoever_moves_leaves_the_roles_of_the_organization() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let ada = world.person("ada@acme.example").await;
    let admin = &world.admin.client;
    let own = create_role(admin, &json!({"name": "Acme's", "organization_id": acme})).await;
    let global = create_role(admin, &json!({"name": "Everybody's"})).await;
    for role in [&own, &global] {
        assign(admin, role, &[&ada.email]).await.expect_status(StatusCode::NO_CONTENT);
    }
    let path = format!("/api/users/{}", ada.id);
    let moved = admin.patch(&path, &json!({"organization_id": rival})).await.expect_status(StatusCode::OK);
    assert_eq!(moved.text("organization_id"), rival.to_string());
    let left = admin.get(&format!("{path}/roles")).await.expect_status(StatusCode::OK).json();
    assert_eq!(left, json!({"role_ids": [global]}));
    let seen = admin.in_organization(rival).get(&format!("/api/roles/{global}/users")).await;
    assert_eq!(seen.json()["user_ids"], json!([ada.id]));
    world.close().await;
}

/// Sends a body with members that it may not decide, and tells which of them it decided.
async fn accepted(
    client: &Client,
    method: reqwest::Method,
    path: &str,
    body: Value,
    forged: &Value,
) -> Vec<String> {
    let mut whole = forged.clone();
    let members = whole.as_object_mut().expect("an object");
    members.extend(body.as_object().expect("an object").clone());
    let reply = client.send(client.request(method.clone(), path).json(&whole)).await;
    assert!(reply.status.is_success(), "{method} {path}: {}", reply.body);
    let shown = reply.json();
    let forged = forged.as_object().expect("an object").iter();
    let taken = forged.filter(|(name, value)| shown.get(name) == Some(value) && body.get(name).is_none());
    taken.map(|(name, _)| format!("{method} {path} took {name}")).collect()
}

#[tokio::test]
async fn no_body_decides_what_it_may_not() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let kay = world.person("kay@acme.example").await;
    let lead = world.person("lead@acme.example").await;
    world.grant(acme, &lead, Permission::ALL).await;
    let lead = world.nobody().sign_in(&lead.email, PASSWORD).await;
    let admin = &world.admin.client;
    let role = create_role(admin, &json!({"name": "R", "organization_id": acme})).await;

    let forged = json!({
        "id": Uuid::now_v7(), "created_at": "2001-01-01T00:00:00Z", "updated_at": "2001-01-01T00:00:00Z",
        "created_by": "somebody@else.example", "owner": Uuid::now_v7(), "last_login": "2001-01-01T00:00:00Z",
        "is_registered": true, "password_hash": "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA", "is_system": true,
        "roles": ["PlatformAdmin"], "role_ids": [role], "sessions": [], "user_id": Uuid::now_v7(),
        "assigned_by": "somebody@else.example", "email_verified_at": "2001-01-01T00:00:00Z",
    });
    let org_path = format!("/api/organizations/{acme}");
    let (user_path, role_path) = (format!("/api/users/{}", kay.id), format!("/api/roles/{role}"));
    let post = reqwest::Method::POST;
    let mut taken = Vec::new();
    taken.extend(accepted(admin, post.clone(), "/api/organizations", json!({"name": "n"}), &forged).await);
    taken.extend(accepted(admin, reqwest::Method::PATCH, &org_path, json!({"name": "acme"}), &forged).await);
    for (number, client) in [admin, &lead].into_iter().enumerate() {
        let email = json!({"email": format!("new{number}@elsewhere.example")});
        taken.extend(accepted(client, post.clone(), "/api/users", email, &forged).await);
        taken.extend(accepted(client, post.clone(), "/api/roles", json!({"name": "n"}), &forged).await);
    }
    // A kay who is registered shows it, so there the forgery is that she is not.
    let mut unregistered = forged.clone();
    unregistered["is_registered"] = json!(false);
    for client in [admin, &lead] {
        taken.extend(
            accepted(client, reqwest::Method::PATCH, &user_path, json!({"name": "Kay"}), &unregistered).await,
        );
        let mut moved = forged.clone();
        moved["organization_id"] = json!(rival);
        for method in [reqwest::Method::PATCH, reqwest::Method::PUT] {
            taken.extend(accepted(client, method, &role_path, json!({"name": "R"}), &moved).await);
        }
    }
    world.nobody().sign_in(&kay.email, PASSWORD).await;
    let members = forged.as_object().map_or(0, serde_json::Map::len);
    println!("mass assignment: 12 bodies with {members} forged members each, accepted {}", taken.len());
    assert!(taken.is_empty(), "{taken:#?}");
    world.close().await;
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_and_no_password_is() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let admin = &world.admin.client;
    world.sql("DELETE FROM audit_log").await;
    let kay = invite(admin, &json!({"email": "kay@acme.example", "organization_id": acme})).await;
    let path = path(&kay);
    let change = json!({"password": "correct horse battery", "name": "Kay"});
    admin.patch(&path, &change).await.expect_status(StatusCode::OK);
    let role = create_role(admin, &json!({"name": "R", "organization_id": acme})).await;
    let role_path = format!("/api/roles/{role}");
    admin.patch(&role_path, &json!({"permissions": ["users.read"]})).await.expect_status(StatusCode::OK);
    assign(admin, &role, &["kay@acme.example"]).await.expect_status(StatusCode::NO_CONTENT);
    admin.delete(&format!("{role_path}/users/kay@acme.example")).await.expect_status(StatusCode::NO_CONTENT);
    admin.delete(&role_path).await.expect_status(StatusCode::NO_CONTENT);
    admin.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    // What is refused leaves nothing.
    admin.post("/api/users", &json!({"email": "kay@acme.example"})).await.expect_status(StatusCode::CONFLICT);
    admin.delete("/api/users/admin@platform.example").await.expect_status(StatusCode::BAD_REQUEST);

    let mut conn = world.test.db.connect().await;
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("SELECT action, actor, COALESCE(details::text, '') FROM audit_log WHERE organization_id = $1 ORDER BY id")
            .bind(acme)
            .fetch_all(&mut conn)
            .await
            .expect("reads");
    let actions: Vec<&str> = rows.iter().map(|(action, ..)| action.as_str()).collect();
    let expected = [
        "user.invited",
        "user.updated",
        "role.created",
        "role.updated",
        "role.assigned",
        "role.unassigned",
        "role.deleted",
        "user.deleted",
    ];
    println!("audit: {} changes, {} rows in the chain of their organization", expected.len(), actions.len());
    assert_eq!(actions, expected);
    assert!(rows.iter().all(|(_, actor, details)| actor == &world.admin.email && !details.contains("horse")));
    world.close().await;
}

#[tokio::test]
async fn an_address_is_proven_by_its_link_or_a_platform_administrator_alone() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let lead = lead(&world, acme).await;
    let admin = &world.admin.client;
    let puppet = world.person("puppet@acme.example").await;
    let path = format!("/api/users/{}", puppet.id);
    let proven = json!({"is_verified": true});
    assert_eq!(admin.patch(&path, &proven).await.expect_status(StatusCode::OK).json()["is_verified"], true);

    // Whoever signs in through a provider with the address would get this account, and its password be somebody else's.
    let taken =
        lead.patch(&path, &json!({"email": "ceo@victim.example"})).await.expect_status(StatusCode::OK);
    assert_eq!(taken.json()["is_verified"], false);
    lead.patch(&path, &proven).await.expect_status(StatusCode::FORBIDDEN);
    assert_eq!(admin.get(&path).await.json()["is_verified"], false);

    let moved = json!({"email": "puppet@acme.example", "is_verified": true});
    assert_eq!(admin.patch(&path, &moved).await.expect_status(StatusCode::OK).json()["is_verified"], true);
    let kept =
        admin.patch(&path, &json!({"email": "puppet2@acme.example"})).await.expect_status(StatusCode::OK);
    assert_eq!(kept.json()["is_verified"], true, "platform administrators say who is who");
    world.close().await;
}

#[tokio::test]
async fn an_address_of_another_organizations_domain_is_given_by_a_platform_administrator_alone() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let (lead, kay) = (lead(&world, acme).await, world.person("kay@acme.example").await);
    world.person("eve@rival.example").await;
    let admin = &world.admin.client;
    let path = format!("/api/users/{}", kay.id);
    let email = |email: &str| json!({"email": email});

    // One that somebody has, and one that nobody has, are one answer.
    for claimed in ["eve@rival.example", "ceo@rival.example", " CEO@Rival.example"] {
        let body = email(claimed);
        for reply in [lead.post("/api/users", &body).await, lead.patch(&path, &body).await] {
            let refused = reply.expect_status(StatusCode::CONFLICT);
            assert_eq!(refused.detail(), "another user has this e-mail address", "{claimed}");
        }
    }
    assert_eq!(world.count("SELECT count(*) FROM users WHERE email LIKE '%@rival.example'").await, 1);
    assert_eq!(lead.get(&path).await.expect_status(StatusCode::OK).text("email"), "kay@acme.example");

    lead.patch(&path, &email("kay2@acme.example")).await.expect_status(StatusCode::OK);
    invite(&lead, &email("kay3@elsewhere.example")).await;
    // Who was given one keeps it, whoever changes them.
    admin.patch(&path, &email("kay@rival.example")).await.expect_status(StatusCode::OK);
    let named = json!({"email": "Kay@rival.example", "name": "Kay"});
    lead.patch(&path, &named).await.expect_status(StatusCode::OK);
    let inactive = json!({"is_active": false});
    admin.patch(&format!("/api/organizations/{rival}"), &inactive).await.expect_status(StatusCode::OK);
    invite(&lead, &email("ceo@rival.example")).await;
    world.close().await;
}

#[tokio::test]
async fn a_password_that_is_set_completes_an_invitation() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let lead = lead(&world, acme).await;
    let (admin, nobody) = (&world.admin.client, world.nobody());
    // What a platform administrator says is so; to anybody else the address is yet to be proven.
    for (client, email, is_proven) in
        [(admin, "kay@elsewhere.example", true), (&lead, "jo@elsewhere.example", false)]
    {
        let stub = invite(client, &json!({"email": email, "organization_id": acme})).await;
        let path = path(&stub);
        if !is_proven {
            let claimed = json!({"password": PASSWORD, "is_verified": true});
            client.patch(&path, &claimed).await.expect_status(StatusCode::FORBIDDEN);
        }
        let set = client.patch(&path, &json!({"password": PASSWORD})).await.expect_status(StatusCode::OK);
        let set = set.json();
        assert_eq!(
            (&set["is_registered"], &set["is_verified"]),
            (&json!(true), &json!(is_proven)),
            "{email}"
        );

        let taken = json!({"email": email, "password": "the password of a stranger"});
        let refused = nobody.post("/auth/register", &taken).await.expect_status(StatusCode::BAD_REQUEST);
        assert_eq!(refused.detail(), "Email already registered");
        nobody.sign_in(email, PASSWORD).await.get("/auth/me").await.expect_status(StatusCode::OK);
    }
    // A change of something else completes nothing.
    let stub = invite(admin, &json!({"email": "bo@acme.example", "organization_id": acme})).await;
    let path = path(&stub);
    let named = lead.patch(&path, &json!({"name": "Bo"})).await.expect_status(StatusCode::OK).json();
    assert_eq!((&named["is_registered"], &named["is_verified"]), (&json!(false), &json!(true)));
    world.close().await;
}

#[tokio::test]
async fn an_invitation_that_was_withdrawn_lets_nobody_in() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let (admin, nobody) = (&world.admin.client, world.nobody());
    let kay = invite(admin, &json!({"email": "kay@acme.example", "organization_id": acme})).await;
    let boss = invite(admin, &json!({"email": "boss@platform.example", "is_superuser": true})).await;
    invite(admin, &json!({"email": "jo@rival.example", "organization_id": rival})).await;
    for stub in [&kay, &boss] {
        admin.delete(&path(stub)).await.expect_status(StatusCode::NO_CONTENT);
    }
    let organization = format!("/api/organizations/{rival}");
    admin.patch(&organization, &json!({"is_active": false})).await.expect_status(StatusCode::OK);

    let account = |email: &str| json!({"email": email, "password": PASSWORD});
    for email in ["kay@acme.example", "boss@platform.example", "jo@rival.example"] {
        let refused = nobody.post("/auth/register", &account(email)).await;
        assert_eq!(refused.expect_status(StatusCode::FORBIDDEN).detail(), "this account is inactive");
    }
    let registered =
        world.count("SELECT count(*) FROM users WHERE is_registered AND user_type <> 'SYSTEM'").await;
    assert_eq!(registered, 1, "the administrator");

    admin.patch(&path(&kay), &json!({"is_active": true})).await.expect_status(StatusCode::OK);
    admin.patch(&organization, &json!({"is_active": true})).await.expect_status(StatusCode::OK);
    for email in ["kay@acme.example", "jo@rival.example"] {
        nobody.post("/auth/register", &account(email)).await.expect_status(StatusCode::CREATED);
    }
    world.close().await;
}
