//! Configuration and secrets over HTTP: typed, cascading, and never read back.

use std::io;
use std::sync::{Mutex, PoisonError};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{World, cookie};

const CANARY: &str = "canary-7f3a9c/with+odd?chars";

/// What this process logs, of all levels.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn config(key: &str, kind: &str, value: &str) -> Value {
    json!({"key": key, "value": value, "type": kind})
}

#[tokio::test]
async fn values_are_typed_and_an_organization_overrides_the_global_one() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let global = &world.admin.client;
    let local = global.in_organization(acme);
    for (client, value) in [(global, "30"), (&local, "7")] {
        let set = client.post("/api/config", &config("days", "int", value)).await;
        let set = set.expect_status(StatusCode::CREATED).json();
        assert_eq!((&set["value"], &set["type"]), (&json!(value), &json!("int")));
        assert_eq!(set["updated_by"], "admin@platform.example");
    }
    global.post("/api/config", &config("flag", "bool", "yes")).await.expect_status(StatusCode::CREATED);

    let shown = |reply: Value| -> Vec<(String, String, Value)> {
        let rows = reply.as_array().expect("a list").iter();
        let text = |row: &Value, name: &str| row[name].as_str().expect("text").to_owned();
        rows.map(|row| (text(row, "key"), text(row, "scope"), row["value"].clone())).collect()
    };
    let rows = shown(local.get("/api/config").await.expect_status(StatusCode::OK).json());
    let row = |key: &str, scope: &str, value: &str| (key.to_owned(), scope.to_owned(), json!(value));
    assert_eq!(rows, [row("days", "org", "7"), row("days", "GLOBAL", "30"), row("flag", "GLOBAL", "yes")]);
    let rows = shown(global.get("/api/config").await.expect_status(StatusCode::OK).json());
    assert_eq!(
        rows,
        [row("days", "GLOBAL", "30"), row("flag", "GLOBAL", "yes")],
        "no organization is not all"
    );

    // A write never falls back to the global row.
    local.delete("/api/config/flag").await.expect_status(StatusCode::NOT_FOUND);
    local.delete("/api/config/days").await.expect_status(StatusCode::NO_CONTENT);
    local.delete("/api/config/days").await.expect_status(StatusCode::NOT_FOUND);
    let rows = shown(local.get("/api/config").await.expect_status(StatusCode::OK).json());
    assert_eq!(rows, [row("days", "GLOBAL", "30"), row("flag", "GLOBAL", "yes")]);
    world.close().await;
}

#[tokio::test]
async fn a_value_must_read_as_its_type_and_nothing_is_written_otherwise() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let long = "x".repeat(64 * 1024 + 1);
    let cases = [
        (config("a-b", "string", "x"), "/key"),
        (config("", "string", "x"), "/key"),
        (config("n", "int", "many"), "/value"),
        (config("n", "int", "1.5"), "/value"),
        (config("n", "bool", "perhaps"), "/value"),
        (config("n", "json", "{"), "/value"),
        (config("n", "string", &long), "/value"),
        (config("n", "string", "a\0b"), "/value"),
        (config("n", "number", "1"), "/type"),
        (config("n", "secret", ""), "/value"),
        (config("n", "secret", "[SECRET]"), "/value"),
        (json!({"key": "n", "value": 5, "type": "int"}), "/value"),
        (json!({"key": "n", "type": "int"}), "/value"),
    ];
    for (body, pointer) in &cases {
        let reply = admin.post("/api/config", body).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.json()["errors"][0]["pointer"], *pointer, "{body}");
    }
    let secret = |key: &str, value: &str| json!({"secret_key": key, "value": value});
    let cases = [
        (secret("a b", "x"), "/secret_key"),
        (secret("", "x"), "/secret_key"),
        (secret(&"k".repeat(101), "x"), "/secret_key"),
        (secret("k", &long), "/value"),
        (secret("k", "a\0b"), "/value"),
        (json!({"secret_key": "k", "value": "x", "org_id": "acme"}), "/org_id"),
        (json!({"secret_key": "k", "value": "x", "org_id": uuid::Uuid::now_v7()}), "/org_id"),
    ];
    for (body, pointer) in &cases {
        let reply = admin.post("/api/secrets", body).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.json()["errors"][0]["pointer"], *pointer, "{body}");
    }
    let written = world.count("SELECT (SELECT count(*) FROM config) + (SELECT count(*) FROM secrets)").await;
    assert_eq!(written, 0);
    world.close().await;
}

#[tokio::test]
async fn a_secret_is_written_once_replaced_and_deleted_in_its_scope() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let admin = &world.admin.client;
    let local = admin.in_organization(acme);
    let body = json!({"secretKey": "token", "value": "one", "orgId": acme});
    let created = admin.post("/api/secrets", &body).await.expect_status(StatusCode::CREATED).json();
    assert_eq!((&created["name"], &created["org_id"]), (&json!("token"), &json!(acme)));
    assert!(created.get("value").is_none());
    admin.post("/api/secrets", &body).await.expect_status(StatusCode::CONFLICT);
    let everywhere = json!({"secret_key": "shared", "value": "two", "org_id": "GLOBAL"});
    local.post("/api/secrets", &everywhere).await.expect_status(StatusCode::CREATED);

    let listed = local.get("/api/secrets").await.expect_status(StatusCode::OK).json();
    assert_eq!(listed, json!({"secrets": ["shared", "token"], "org_id": acme, "count": 2}));
    let listed = admin.get("/api/secrets").await.expect_status(StatusCode::OK).json();
    assert_eq!(listed, json!({"secrets": ["shared"], "org_id": null, "count": 1}));

    let value = json!({"value": "three"});
    local.put("/api/secrets/token", &value).await.expect_status(StatusCode::OK);
    local.put("/api/secrets/shared", &value).await.expect_status(StatusCode::NOT_FOUND);
    admin.delete("/api/secrets/token").await.expect_status(StatusCode::NOT_FOUND);
    local.delete("/api/secrets/token").await.expect_status(StatusCode::NO_CONTENT);
    local.delete("/api/secrets/token").await.expect_status(StatusCode::NOT_FOUND);
    world.close().await;
}

#[tokio::test]
async fn a_role_that_says_so_manages_what_its_organization_owns_and_nothing_else() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let user = world.person("ada@acme.example").await.client;
    let secret = |org: Value| json!({"secret_key": "token", "value": CANARY, "org_id": org});
    user.post("/api/secrets", &secret(Value::Null)).await.expect_status(StatusCode::FORBIDDEN);

    world
        .sql(
            "WITH role AS (
                 INSERT INTO roles (id, organization_id, name, permissions, created_by)
                 SELECT gen_random_uuid(), organization_id, 'keeper', '[\"secrets.manage\", \"config.manage\", \"audit.read\"]', 'test'
                 FROM users WHERE email = 'ada@acme.example'
                 RETURNING id, organization_id
             )
             INSERT INTO user_roles (user_id, role_id, organization_id, assigned_by)
             SELECT u.id, role.id, role.organization_id, 'test' FROM users u, role WHERE u.email = 'ada@acme.example'",
        )
        .await;
    // A session is remembered for at most five seconds; a new one at once has what the role says.
    let user = world.nobody().sign_in("ada@acme.example", crate::support::PASSWORD).await;
    user.post("/api/secrets", &secret(Value::Null)).await.expect_status(StatusCode::CREATED);
    for org in [json!("GLOBAL"), json!(rival)] {
        user.post("/api/secrets", &secret(org)).await.expect_status(StatusCode::FORBIDDEN);
    }
    user.post("/api/secrets", &secret(json!(acme))).await.expect_status(StatusCode::CONFLICT);
    user.post("/api/config", &config("days", "int", "3")).await.expect_status(StatusCode::CREATED);
    let entries = user.get("/api/audit").await.expect_status(StatusCode::OK).json();
    let entries = entries["entries"].as_array().expect("a list").clone();
    assert!(entries.iter().any(|entry| entry["action"] == "secret.created"));
    assert!(
        entries.iter().all(|entry| entry["organization_id"] == json!(acme)),
        "its own organization alone"
    );
    world.close().await;
}

#[tokio::test]
async fn a_secret_value_never_comes_back() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(|| Log).init();
    tracing::trace!("this log is kept");
    let world = World::start().await;
    let admin = &world.admin.client;
    let mut bodies = Vec::new();
    let mut call = async |method: Method, path: &str, body: Value| {
        let reply = admin.send(admin.request(method, path).json(&body)).await;
        assert!(cookie(&reply, "canary").is_none());
        bodies.push(reply.body.clone());
        reply.status.as_u16()
    };
    assert_eq!(call(Method::POST, "/api/config", config("token", "secret", CANARY)).await, 201);
    assert_eq!(call(Method::POST, "/api/config", config("token", "secret", "[SECRET]")).await, 201);
    assert_eq!(call(Method::POST, "/api/config", config("token", "secret", "")).await, 201);
    assert_eq!(call(Method::POST, "/api/config", config(CANARY, "secret", CANARY)).await, 422);
    assert_eq!(call(Method::POST, "/api/config", config("token", CANARY, CANARY)).await, 422);
    assert_eq!(call(Method::POST, "/api/secrets", json!({"secret_key": "k", "value": CANARY})).await, 201);
    assert_eq!(call(Method::POST, "/api/secrets", json!({"secret_key": "k", "value": CANARY})).await, 409);
    assert_eq!(call(Method::POST, "/api/secrets", json!({"secret_key": "k", "value": [CANARY]})).await, 422);
    assert_eq!(call(Method::PUT, "/api/secrets/k", json!({"value": CANARY})).await, 200);
    assert_eq!(call(Method::PUT, "/api/secrets/none", json!({"value": CANARY})).await, 404);
    // PostgreSQL refuses what the domain lets through, as it would a value that breaks a rule of the schema.
    world.sql("ALTER TABLE secrets ADD CONSTRAINT broken CHECK (key <> 'refused')").await;
    world.sql("ALTER TABLE config ADD CONSTRAINT broken CHECK (key <> 'refused')").await;
    let refused = json!({"secret_key": "refused", "value": CANARY});
    assert!(call(Method::POST, "/api/secrets", refused).await >= 400);
    assert!(call(Method::POST, "/api/config", config("refused", "secret", CANARY)).await >= 400);
    assert!(call(Method::POST, "/api/config", config("refused", "string", CANARY)).await >= 400);
    assert_eq!(call(Method::DELETE, "/api/secrets/none", json!({"value": CANARY})).await, 404);
    for path in ["/api/config", "/api/secrets", "/api/audit?limit=1000", "/api/executions"] {
        assert_eq!(call(Method::GET, path, Value::Null).await, 200);
    }
    // In the database it is sealed, in the audit log it is not named.
    let stored = world
        .count(
            "SELECT (SELECT count(*) FROM config WHERE config::text LIKE '%canary%')
                  + (SELECT count(*) FROM secrets WHERE secrets::text LIKE '%canary%')
                  + (SELECT count(*) FROM audit_log WHERE audit_log::text LIKE '%canary-7f3a9c%')",
        )
        .await;
    assert_eq!(stored, 0);
    // What a refusal quotes of the input is the key, which is not secret; the value must not be there.
    let leaks = bodies.iter().filter(|body| body.contains("canary-7f3a9c")).count();
    let log = String::from_utf8_lossy(&LOG.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    assert!(log.contains("this log is kept"), "{log}");
    let logged = log.lines().filter(|line| line.contains("canary-7f3a9c")).count();
    println!(
        "secret values in {} answers, three tables and {} lines of the process's log: leaks {}",
        bodies.len(),
        log.lines().count(),
        leaks + logged,
    );
    assert_eq!(leaks, 0, "{bodies:#?}");
    let leaking: Vec<&str> = log.lines().filter(|line| line.contains("canary-7f3a9c")).collect();
    assert!(leaking.is_empty(), "{leaking:#?}");
    world.close().await;
}
