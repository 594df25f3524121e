//! Bad input, as one table: a clear problem document, and nothing written.

mod cases;
mod connections;
mod editor;
mod endpoints;
mod github;
mod logins;
mod logs;
mod metrics;
mod notifications;
pub(crate) mod packages;
mod people;
mod queue;
mod schedules;
mod sdk;
mod workflows;

use std::collections::BTreeMap;

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use testkit::Reply;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::{PASSWORD, World};
use cases::Case;

/// Rows of every table, the refused sign-ins of the audit log aside.
async fn rows(world: &World) -> BTreeMap<String, i64> {
    let mut conn = world.test.db.connect().await;
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
            .fetch_all(&mut conn)
            .await
            .expect("the catalogue is readable");
    let mut rows = BTreeMap::new();
    for table in tables {
        let filter = if table == "audit_log" { "WHERE action <> 'session.refused'" } else { "" };
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table} {filter}")))
            .fetch_one(&mut conn)
            .await
            .expect("the table is readable");
        rows.insert(table, count);
    }
    assert!(rows.len() > 10, "{rows:?}");
    rows
}

/// What no error may show.
fn leaks(world: &World, reply: &Reply) -> Vec<String> {
    let host = world.nobody().base().trim_start_matches("http://").to_owned();
    let tell_tales = [
        "SELECT",
        "INSERT",
        "sqlx",
        "postgres",
        "Postgres",
        "serde",
        "axum",
        "src/",
        ".rs",
        env!("CARGO_MANIFEST_DIR"),
        "/root",
        "/tmp",
        "127.0.0.1",
        "localhost",
        "panick",
        "thread",
        "bifrost_test",
        "0x",
    ];
    let mut found: Vec<String> =
        tell_tales.iter().filter(|tale| reply.body.contains(**tale)).map(ToString::to_string).collect();
    if reply.body.contains(&host) {
        found.push(host);
    }
    found
}

/// Everything that is wrong with an answer.
fn faults(world: &World, case: &Case, request_id: &str, reply: &Reply) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |what: &str, found: String, expected: String| {
        if found != expected {
            faults.push(format!("{what} is {found} instead of {expected}"));
        }
    };
    let text = |value: Option<&str>| value.unwrap_or("missing").to_owned();
    let body: Value = serde_json::from_str(&reply.body).unwrap_or_default();
    let member = |name: &str| text(body[name].as_str());
    expect("status", reply.status.as_u16().to_string(), case.status.to_string());
    expect("media type", text(reply.header("content-type")), "application/problem+json".into());
    expect("code", member("code"), case.code.into());
    expect("type", member("type"), format!("/problems/{}", case.code));
    expect("member `status`", body["status"].to_string(), case.status.to_string());
    expect("message", member("message"), member("detail"));
    expect("request id", member("request_id"), request_id.into());
    expect("header X-Request-Id", text(reply.header("x-request-id")), request_id.into());
    if case.status == 401 {
        expect("WWW-Authenticate", text(reply.header("www-authenticate")), "Bearer".into());
    }
    let pointers = reply_pointers(&body);
    match case.pointer {
        Some(pointer) => expect("pointers", format!("{pointers:?}"), format!("{:?}", [pointer])),
        None => expect("pointers", format!("{pointers:?}"), "[]".into()),
    }
    if member("detail").is_empty() || member("detail") == "missing" {
        faults.push("there is no detail".into());
    }
    faults.extend(leaks(world, reply).into_iter().map(|leak| format!("shows `{leak}`: {}", reply.body)));
    faults
}

fn reply_pointers(body: &Value) -> Vec<&str> {
    let errors = body["errors"].as_array().into_iter().flatten();
    errors.filter_map(|error| error["pointer"].as_str()).collect()
}

#[tokio::test]
async fn bad_input_gets_a_clear_problem_and_writes_nothing() {
    let world = World::start().await.with_workflows().await;
    world.org("acme").await;
    let mut cases = cases::all(&world);
    cases.extend(people::all(&world));
    cases.extend(logins::all(&world));
    cases.extend(connections::all(&world));
    cases.extend(queue::all(&world));
    cases.extend(notifications::all(&world));
    cases.extend(workflows::all(&world));
    cases.extend(endpoints::all(&world));
    cases.extend(schedules::all(&world));
    cases.extend(logs::all(&world));
    cases.extend(sdk::all(&world));
    cases.extend(metrics::all(&world));
    cases.extend(editor::all(&world));
    cases.extend(packages::all(&world));
    cases.extend(github::all(&world));
    let before = rows(&world).await;

    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let request_id = format!("case-{number}");
        let request = case.request.try_clone().expect("no stream").header("x-request-id", &request_id);
        let reply = world.nobody().send(request).await;
        wrong.extend(
            faults(&world, case, &request_id, &reply).iter().map(|fault| format!("{}: {fault}", case.name)),
        );
    }

    println!("bad input: {} cases, faults {}", cases.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(rows(&world).await, before, "nothing was written");
    world.close().await;
}

#[tokio::test]
async fn every_broken_parameter_is_named_at_once() {
    let world = World::start().await.with_workflows().await;
    let body = json!({"workflow_id": "greet", "input_data": {"times": "many", "loud": "perhaps"}});
    let reply = world.admin.client.post("/api/workflows/execute", &body).await;
    let reply = reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reply.pointers(), ["/input_data/name", "/input_data/times", "/input_data/loud"]);
    assert!(reply.detail().contains("input_data/name: is required"), "{}", reply.detail());
    world.close().await;
}

#[tokio::test]
async fn every_member_that_lacks_or_is_wrong_is_named_at_once() {
    let world = World::start().await;
    for (body, pointers, detail) in [
        (
            json!({}),
            vec!["/key", "/value", "/type"],
            "key: is required; value: is required; type: is required",
        ),
        (json!({"key": 5, "value": 6, "type": 7}), vec!["/key", "/type", "/value"], "type: must be one of"),
        (json!({"key": "k", "value": "v", "type": null}), vec!["/type"], "type: must be one of"),
    ] {
        let reply = world.admin.client.post("/api/config", &body).await;
        let reply = reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.pointers(), pointers, "{body}: {}", reply.body);
        assert!(reply.detail().contains(detail), "{body}: {}", reply.detail());
    }
    world.close().await;
}

/// Sends a head that is refused and a body of this size, of which these bytes are sent; gives what came back.
async fn refused(stream: &mut TcpStream, size: usize, body: &[u8]) -> String {
    let head = format!(
        "POST /api/organizations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("is sent");
    stream.write_all(body).await.expect("is sent");
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("Not authenticated") {
        assert!(stream.read_buf(&mut answer).await.expect("answers") > 0, "it has hung up");
    }
    String::from_utf8(answer).expect("UTF-8").to_ascii_lowercase()
}

#[tokio::test]
async fn a_refused_request_leaves_its_connection_usable_or_says_that_it_ends() {
    let world = World::start().await;
    let address = world.nobody().base().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.expect("connects");
    stream.set_nodelay(true).expect("a socket");
    for _ in 0..20 {
        let answer = refused(&mut stream, 13, b"{\"name\": \"x\"}").await;
        assert!(answer.starts_with("http/1.1 401") && !answer.contains("connection: close"), "{answer}");
    }
    let answer = refused(&mut stream, 1_000_000, b"").await;
    assert!(answer.starts_with("http/1.1 401") && answer.contains("connection: close"), "{answer}");
    world.close().await;
}

#[tokio::test]
async fn a_method_that_is_not_allowed_names_those_that_are() {
    let world = World::start().await;
    let path = format!("/api/organizations/{}", Uuid::now_v7());
    let reply = world.admin.client.post(&path, &json!({})).await;
    let reply = reply.expect_status(StatusCode::METHOD_NOT_ALLOWED);
    let allowed = reply.header("allow").expect("Allow");
    let mut allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PATCH"]);
    world.close().await;
}

#[tokio::test]
async fn what_a_body_may_not_decide_is_ignored() {
    let world = World::start().await;
    world.org("acme").await;
    let id = Uuid::now_v7();
    let organization = json!({
        "name": "Mine", "id": id, "created_by": "somebody@else.example", "created_at": "2001-01-01T00:00:00Z",
    });
    let created = world.admin.client.post("/api/organizations", &organization).await;
    let created = created.expect_status(StatusCode::CREATED).json();
    assert_ne!(created["id"], json!(id));
    assert_eq!(created["created_by"], world.admin.email.as_str());
    assert!(!created["created_at"].as_str().expect("a time").starts_with("2001"));

    let user = json!({
        "email": "ada@acme.example", "password": PASSWORD, "id": id, "is_superuser": true, "is_verified": true,
        "user_type": "PLATFORM", "organization_id": created["id"], "roles": ["PlatformAdmin"],
    });
    let user = world.nobody().post("/auth/register", &user).await.expect_status(StatusCode::CREATED).json();
    assert_ne!(user["id"], json!(id));
    assert_ne!(user["organization_id"], created["id"]);
    assert_eq!(
        (&user["is_superuser"], &user["is_verified"], &user["user_type"]),
        (&json!(false), &json!(false), &json!("ORG"))
    );

    let run = json!({
        "code": "x = 1", "execution_id": id, "org_id": created["id"], "executed_by": id, "status": "Success",
    });
    let run = world.admin.client.post("/api/workflows/execute", &run).await.expect_status(StatusCode::OK);
    let path = format!("/api/executions/{}", run.text("execution_id"));
    let run = world.admin.client.get(&path).await.expect_status(StatusCode::OK).json();
    assert_ne!(run["execution_id"], json!(id));
    assert_eq!((&run["org_id"], &run["status"]), (&Value::Null, &json!("Pending")));
    assert_eq!(run["executed_by"], world.admin.id.to_string());
    world.close().await;
}
