//! Who gets what from each operation, as one table. It fails for an operation without a row.

use std::collections::BTreeSet;

use domain::id::{ExecutionId, FormId, OrgId, RoleId, UserId};
use domain::system_events::{Category, Level, NewEvent};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Reply, Socket};
use uuid::Uuid;

use crate::support::{PASSWORD, Person, World};

mod audited;
mod auth;
mod branding;
mod config;
mod connections;
mod editor;
mod endpoints;
mod executions;
mod forms;
mod github;
mod logs;
mod metrics;
mod notifications;
mod organizations;
mod packages;
mod permissions;
mod platform;
mod roles;
mod schedules;
mod sdk;
mod users;
mod workflows;

const CALLERS: [&str; 6] =
    ["nobody", "a garbage token", "the owner", "a colleague", "another tenant", "an administrator"];

/// Rows of one area of the api each; an operation is added to the file of its area.
const AREAS: &[&[Row]] = &[
    platform::ROWS,
    auth::ROWS,
    branding::ROWS,
    organizations::ROWS,
    config::ROWS,
    connections::ROWS,
    roles::ROWS,
    users::ROWS,
    forms::ROWS,
    editor::ROWS,
    packages::ROWS,
    github::ROWS,
    workflows::ROWS,
    endpoints::ROWS,
    schedules::ROWS,
    sdk::ROWS,
    metrics::ROWS,
    executions::ROWS,
    logs::ROWS,
    notifications::ROWS,
];
/// Come last, because they end the sessions of the callers, who sign in anew before each.
const ENDINGS: [Row; 2] =
    [("post", "/auth/logout", Body::None, SIGNED_IN), ("post", "/auth/revoke-all", Body::None, SIGNED_IN)];

#[derive(Clone, Copy)]
enum Body {
    None,
    Login,
    Refresh,
    Register,
    Invite,
    Logo,
    Json(&'static str),
}

/// Method, path, body, and what each of [`CALLERS`] gets. Callers act in this order, so what an administrator
/// deletes was there for everybody else.
type Row = (&'static str, &'static str, Body, [u16; 6]);

const EVERYBODY: [u16; 6] = [200; 6];
const SIGNED_IN: [u16; 6] = [401, 401, 200, 200, 200, 200];
const OWNER: [u16; 6] = [401, 401, 200, 403, 404, 200];
const ADMINISTRATOR: [u16; 6] = [401, 401, 403, 403, 403, 200];

/// What stands for a `{name}` of a path.
struct Named {
    name: &'static str,
    /// Something of the owner's, or of an organization that no caller belongs to.
    there: String,
    /// The same kind of thing that does not exist.
    missing: String,
}

impl Named {
    fn new(name: &'static str, there: impl ToString, missing: impl ToString) -> Self {
        Self { name, there: there.to_string(), missing: missing.to_string() }
    }
}

struct Stage {
    world: World,
    owner: Person,
    colleague: Person,
    rival: Person,
    execution: ExecutionId,
    /// The owner's organization.
    acme: OrgId,
    /// The other tenant's.
    rival_org: OrgId,
    /// An organization that nobody of the others belongs to.
    organization: OrgId,
    names: Vec<Named>,
}

impl Stage {
    async fn set() -> Self {
        let world = World::start().await;
        let acme = world.org("acme").await;
        let rival_org = world.org("rival").await;
        let organization = world.org("third").await;
        let owner = world.person("ada@acme.example").await;
        let execution = world.submit(&owner, Some(acme)).await;
        let path = format!("/api/executions/{execution}/cancel");
        owner.client.post(&path, &Value::Null).await.expect_status(StatusCode::OK);
        let admin = &world.admin.client;
        let config = json!({"key": "matrix", "value": "on", "type": "string"});
        admin.post("/api/config", &config).await.expect_status(StatusCode::CREATED);
        admin
            .send(admin.request(Method::POST, "/api/branding/logo/square").multipart(logo()))
            .await
            .expect_status(StatusCode::OK);
        let secret = json!({"secret_key": "matrix", "value": "sealed"});
        admin.post("/api/secrets", &secret).await.expect_status(StatusCode::CREATED);
        world
            .with_endpoints(&[json!({"name": "timed", "schedule": "0 6 * * *", "endpoint_enabled": false})])
            .await;
        let schedules = admin.get("/api/schedules").await.expect_status(StatusCode::OK).json();
        let schedule = schedules[0]["id"].as_str().expect("has one").to_owned();
        let connection = json!({
            "connection_name": "matrix", "oauth_flow_type": "authorization_code", "client_id": "client",
            "authorization_url": "https://id.example/authorize", "token_url": "https://id.example/token",
        });
        admin.post("/api/oauth/connections", &connection).await.expect_status(StatusCode::CREATED);
        // Its key is listed by the workflow's id, so that one id stands for both.
        let key = json!({"workflow_name": "timed"});
        admin.post("/api/workflow-keys", &key).await.expect_status(StatusCode::CREATED);
        let sdk_key = owner.client.post("/api/sdk/keys", &json!({"name": "matrix"})).await;
        let sdk_key = sdk_key.expect_status(StatusCode::CREATED).text("id");
        let kay = world.person("kay@acme.example").await;
        let body = json!({"name": "Acme role", "organization_id": acme});
        let role = world.admin.client.post("/api/roles", &body).await.expect_status(StatusCode::CREATED);
        // The owner's role reaches the form; nobody else has a role.
        let body = json!({"name": "Matrix", "form_schema": {"fields": []}});
        let form = world.admin.client.in_organization(acme).post("/api/forms", &body).await;
        let form = form.expect_status(StatusCode::CREATED);
        let keys = json!({"name": "Matrix", "organization_id": acme});
        let reaching = world.admin.client.post("/api/roles", &keys).await.expect_status(StatusCode::CREATED);
        for (what, body) in
            [("forms", json!({"form_ids": [form.text("id")]})), ("users", json!({"user_ids": [owner.id]}))]
        {
            let path = format!("/api/roles/{}/{what}", reaching.text("id"));
            world.admin.client.post(&path, &body).await.expect_status(StatusCode::NO_CONTENT);
        }
        let sessions = kay.client.get("/auth/sessions").await.expect_status(StatusCode::OK).json();
        let session = sessions[0]["id"].as_str().expect("has one").to_owned();
        let event = NewEvent::new(Category::System, Level::Info, "The matrix is set");
        let happened = event.id();
        world.platform().system_events.report(event);
        world.platform().system_events.drain().await;
        let names = vec![
            Named::new("key", "matrix", "nothing"),
            Named::new("name", "matrix", "nothing"),
            Named::new("package_name", "requests", "nothing"),
            Named::new("token", "forged", "missing"),
            Named::new("session_id", session, Uuid::now_v7()),
            Named::new("connection_name", "matrix", "nothing"),
            Named::new("logo_type", "square", "rectangle"),
            Named::new("provider", "google", "nobody"),
            Named::new("device_id", Uuid::now_v7(), Uuid::now_v7()),
            Named::new("user_id", kay.id, UserId::generate()),
            Named::new("form_id", form.text("id"), FormId::generate()),
            Named::new("role_id", role.text("id"), RoleId::generate()),
            Named::new("workflow_name", "matrix", "nothing"),
            Named::new("notification_id", world.notify(&owner, acme, "Matrix").await, Uuid::now_v7()),
            Named::new("key_id", sdk_key, Uuid::now_v7()),
            Named::new("workflow_id", &schedule, Uuid::now_v7()),
            Named::new("category", "system", "nothing"),
            Named::new("row_key", happened, Uuid::now_v7()),
            Named::new("id", schedule, Uuid::now_v7()),
            Named::new("execution_id", execution, ExecutionId::generate()),
            Named::new("org_id", organization, OrgId::generate()),
        ];
        Self {
            names,
            colleague: world.person("bob@acme.example").await,
            rival: world.person("eve@rival.example").await,
            owner,
            execution,
            acme,
            rival_org,
            organization,
            world,
        }
    }

    fn callers(&self) -> [Client; 6] {
        let nobody = self.world.nobody();
        [
            nobody.clone(),
            nobody.with_bearer("garbage"),
            self.owner.client.clone(),
            self.colleague.client.clone(),
            self.rival.client.clone(),
            self.world.admin.client.clone(),
        ]
    }

    async fn callers_signed_in_anew(&self) -> [Client; 6] {
        let mut callers = self.callers();
        let people = [&self.owner, &self.colleague, &self.rival, &self.world.admin];
        for (caller, person) in callers[2..].iter_mut().zip(people) {
            *caller = self.world.nobody().sign_in(&person.email, PASSWORD).await;
        }
        callers
    }

    /// Calls the operation of a row on what is there.
    async fn call(&self, client: &Client, row: &Row) -> Reply {
        self.call_with(client, row, |name| &name.there).await
    }

    async fn call_with(&self, client: &Client, row: &Row, which: fn(&Named) -> &String) -> Reply {
        let (method, path, body, _) = row;
        let path = self.named(path, which);
        let request = client.request(method.to_uppercase().parse().expect("a method"), &path);
        let login = [("username", self.owner.email.as_str()), ("password", PASSWORD)];
        let request = match body {
            Body::None => request,
            Body::Json(text) => {
                request.header("content-type", "application/json").body(self.named(text, which))
            }
            Body::Login => request.form(&login),
            Body::Register => {
                let email = format!("{}@acme.example", Uuid::now_v7());
                request.json(&json!({"email": email, "password": PASSWORD}))
            }
            Body::Logo => request.multipart(logo()),
            Body::Invite => request.json(&json!({"email": format!("{}@somewhere.example", Uuid::now_v7())})),
            Body::Refresh => {
                let nobody = self.world.nobody();
                let reply = nobody.send(nobody.request(Method::POST, "/auth/login").form(&login)).await;
                request.json(&json!({"refresh_token": reply.text("refresh_token")}))
            }
        };
        client.send(request).await
    }
}

/// An image in a form.
fn logo() -> Form {
    Form::new().part("file", Part::text(r#"<svg xmlns="http://www.w3.org/2000/svg"/>"#))
}

impl Stage {
    /// The text with what stands for each `{name}`.
    fn named(&self, text: &str, which: fn(&Named) -> &String) -> String {
        let put = |text: String, name: &Named| text.replace(&format!("{{{}}}", name.name), which(name));
        self.names.iter().fold(text.to_owned(), put)
    }
}

/// Every operation that the document describes.
fn documented() -> BTreeSet<(String, String)> {
    let document: Value = serde_json::from_str(&api::openapi_json()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        item.as_object().expect("operations").keys().map(move |method| (method.clone(), path.clone()))
    });
    operations.collect()
}

fn table() -> impl Iterator<Item = &'static Row> {
    AREAS.iter().copied().flatten().chain(&ENDINGS)
}

/// What everybody is shown belongs to no tenant.
fn is_public(row: &Row) -> bool {
    row.3[0] == 200
}

fn ends_sessions(row: &Row) -> bool {
    ENDINGS.iter().any(|ending| ending.1 == row.1)
}

/// An answer without what differs between any two.
fn body_of(reply: &Reply) -> Value {
    let mut body = reply.json();
    if let Some(members) = body.as_object_mut() {
        members.remove("request_id");
    }
    body
}

#[test]
fn every_operation_has_a_row_and_every_row_an_operation() {
    let rows: BTreeSet<_> = table().map(|row| (row.0.to_owned(), row.1.to_owned())).collect();
    assert_eq!(rows, documented());
}

#[tokio::test]
async fn everybody_gets_what_the_table_says() {
    let stage = Stage::set().await;
    let mut callers = stage.callers();
    let (mut cells, mut mismatches) = (0, Vec::new());
    for row in table() {
        if ends_sessions(row) {
            callers = stage.callers_signed_in_anew().await;
        }
        for ((client, caller), expected) in callers.iter().zip(CALLERS).zip(row.3) {
            let reply = stage.call(client, row).await;
            cells += 1;
            if reply.status.as_u16() != expected {
                mismatches.push(format!(
                    "{} {} as {caller}: {} instead of {expected}: {}",
                    row.0, row.1, reply.status, reply.body
                ));
            }
        }
    }
    println!("access matrix: {} operations, {cells} cells, mismatches {}", table().count(), mismatches.len());
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
    stage.world.close().await;
}

#[tokio::test]
async fn what_belongs_to_another_tenant_looks_like_what_does_not_exist() {
    let stage = Stage::set().await;
    let no_execution = ExecutionId::generate();
    let mut compared = 0;
    for row in table().filter(|row| row.1.contains('{') && !is_public(row)) {
        let there = stage.call(&stage.rival.client, row).await;
        let missing = stage.call_with(&stage.rival.client, row, |name| &name.missing).await;
        assert_eq!(there.status, missing.status, "{} {}", row.0, row.1);
        assert_eq!(body_of(&there), body_of(&missing), "{} {}", row.0, row.1);
        assert!(there.status.is_client_error());
        compared += 1;
    }
    let list = stage.rival.client.get("/api/executions?limit=1000").await.expect_status(StatusCode::OK);
    assert_eq!(list.json()["executions"], json!([]));

    for id in [stage.execution, no_execution] {
        let path = format!("/ws/execution/{id}");
        let mut socket = Socket::connect(&stage.rival.client, &path).await;
        assert_eq!(socket.close_code().await, Some(4003));
    }
    let mut socket = Socket::connect(&stage.rival.client, "/ws/connect").await;
    let mut refusals = Vec::new();
    for id in [stage.execution, no_execution] {
        socket.send(&json!({"type": "subscribe", "channels": [format!("execution:{id}")]})).await;
        let refusal = socket.until(|frame| frame["type"] == "error").await.pop().expect("the last");
        refusals.push(refusal["detail"].clone());
    }
    assert_eq!(refusals[0], refusals[1]);
    println!("tenant oracle: {compared} operations compared, told apart 0");
    stage.world.close().await;
}

#[tokio::test]
async fn nobody_acts_in_an_organization_that_is_not_theirs() {
    let stage = Stage::set().await;
    let (foreign, unknown) = (stage.organization, OrgId::generate());
    let mut refused = Vec::new();
    for id in [foreign, unknown] {
        let reply = stage.owner.client.in_organization(id).get("/api/executions").await;
        refused.push(body_of(&reply.clone().expect_status(StatusCode::FORBIDDEN)));
    }
    assert_eq!(refused[0], refused[1]);
    assert_eq!(refused[0]["detail"], "Access denied to organization");

    let admin = &stage.world.admin.client;
    admin.in_organization(foreign).get("/api/executions").await.expect_status(StatusCode::OK);
    admin.in_organization(unknown).get("/api/executions").await.expect_status(StatusCode::BAD_REQUEST);
    for client in [admin, &stage.owner.client] {
        let reply = client.in_organization("acme").get("/api/executions").await;
        reply.expect_status(StatusCode::BAD_REQUEST);
    }

    stage.world.sql("UPDATE users SET organization_id = NULL WHERE email = 'bob@acme.example'").await;
    let stray = stage.world.nobody().sign_in("bob@acme.example", PASSWORD).await;
    let list = stray.get("/api/executions").await.expect_status(StatusCode::OK);
    assert_eq!(list.json()["executions"], json!([]), "no organization is not all of them");
    let list = stray.get("/api/workflows").await.expect_status(StatusCode::OK);
    assert_eq!(list.json(), json!([]));
    stage.world.close().await;
}

#[tokio::test]
async fn no_spelling_of_a_path_lets_anybody_in() {
    let stage = Stage::set().await;
    let nobody = stage.world.nobody();
    let id = stage.execution;
    let tricks = [
        "//api/executions".to_owned(),
        "/api//executions".to_owned(),
        "/api%2fexecutions".to_owned(),
        "/api/executions%2f".to_owned(),
        "/api/executions/".to_owned(),
        "/api/executions;x=1".to_owned(),
        "/API/executions".to_owned(),
        "/health/..%2fapi/executions".to_owned(),
        "/docs/..%2f..%2fapi/executions".to_owned(),
        "/docs/../../etc/passwd".to_owned(),
        "/docs/%2e%2e%2f%2e%2e%2fCargo.toml".to_owned(),
        format!("/api/executions/{id}%00"),
        format!("/api/executions/{id}/../{id}"),
        format!("/api/executions/{id}/stream/"),
        "/api/auth/../executions".to_owned(),
        "/api/organizations?_method=DELETE".to_owned(),
    ];
    let mut bypasses = Vec::new();
    for path in &tricks {
        for (header, value) in
            [("x-http-method-override", "DELETE"), ("x-forwarded-user", "admin"), ("x-user-id", "1")]
        {
            let reply = nobody.send(nobody.request(Method::GET, path).header(header, value)).await;
            if !reply.status.is_client_error() {
                bypasses.push(format!("{path}: {}", reply.status));
            }
        }
    }
    println!("path tricks: {} requests, bypasses {}", tricks.len() * 3, bypasses.len());
    assert!(bypasses.is_empty(), "{bypasses:#?}");
    stage.world.close().await;
}
