//! Signed endpoints: who does not know the secret runs nothing, and an event told twice runs once.

use chrono::Utc;
use futures::future::join_all;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;

use super::EXECUTIONS;
use crate::support::World;

const SECRET: &str = "it-is-between-us";

/// What `signature={"secret": "hook", "timestamp_header": "X-Time", "event_id_header": "X-Event"}` is indexed as.
fn rule() -> Value {
    json!({
        "secret": "hook", "header": "X-Signature", "algorithm": "sha256", "encoding": "hex", "prefix": "sha256=",
        "content": "{id}.{timestamp}.{body}", "timestamp_header": "X-Time", "tolerance_seconds": 300,
        "event_id_header": "X-Event",
    })
}

async fn world() -> World {
    let world = World::start().await;
    let hook =
        json!({"name": "hook", "execution_mode": "async", "public_endpoint": true, "signature": rule()});
    let keyed = json!({"name": "keyed", "execution_mode": "async", "signature": rule()});
    let unreadable = json!({"name": "unreadable", "public_endpoint": true, "signature": {"secret": "hook"}});
    world.with_endpoints(&[hook, keyed, unreadable]).await;
    world
}

async fn with_secret(world: &World) {
    let secret = json!({"secret_key": "hook", "value": SECRET});
    world.admin.client.post("/api/secrets", &secret).await.expect_status(StatusCode::CREATED);
}

fn signature(secret: &str, content: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key");
    mac.update(content.as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

fn request(world: &World, body: &str, event: &str, time: i64, signature: &str) -> RequestBuilder {
    let request = world.nobody().request(Method::POST, "/api/endpoints/hook");
    let request = request.header("content-type", "application/json").header("x-event", event);
    request.header("x-time", time.to_string()).header("x-signature", signature).body(body.to_owned())
}

fn signed(world: &World, body: &str, event: &str, time: i64) -> RequestBuilder {
    request(world, body, event, time, &signature(SECRET, &format!("{event}.{time}.{body}")))
}

#[tokio::test]
async fn only_who_knows_the_secret_runs_anything() {
    let world = world().await;
    let now = Utc::now().timestamp();
    let body = "{\"site\":  \"Bern\"}";
    let unset = world.nobody().send(signed(&world, body, "evt-0", now)).await;
    unset.expect_status(StatusCode::UNAUTHORIZED);
    with_secret(&world).await;
    let good = signature(SECRET, &format!("evt-1.{now}.{body}"));
    let forged = [
        ("no signature", world.nobody().request(Method::POST, "/api/endpoints/hook").body(body)),
        ("an empty one", request(&world, body, "evt-1", now, "")),
        (
            "another secret",
            request(&world, body, "evt-1", now, &signature("guessed", &format!("evt-1.{now}.{body}"))),
        ),
        ("another body", request(&world, "{\"site\": \"Bern\"}", "evt-1", now, &good)),
        ("another event", request(&world, body, "evt-2", now, &good)),
        ("another time", request(&world, body, "evt-1", now + 1, &good)),
        ("a part of it", request(&world, body, "evt-1", now, &good[..40])),
        ("without its prefix", request(&world, body, "evt-1", now, &good[7..])),
        ("six minutes old", signed(&world, body, "evt-1", now - 360)),
        ("of the future", signed(&world, body, "evt-1", now + 360)),
        ("no event", signed(&world, body, "", now)),
        ("an event with a space", signed(&world, body, "a b", now)),
    ];
    let count = forged.len();
    let mut bodies = Vec::new();
    for (what, request) in forged {
        let reply = world.nobody().send(request).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{what}: {}", reply.body);
        bodies.push(reply.detail());
    }
    bodies.dedup();
    assert_eq!(
        bodies,
        ["the signature is missing, wrong or not of this time"],
        "one answer, whatever is wrong"
    );
    println!("signed endpoint: {count} forged calls, runs {}", world.count(EXECUTIONS).await);
    assert_eq!(world.count(EXECUTIONS).await, 0);

    let reply =
        world.nobody().send(request(&world, body, "evt-1", now, &good)).await.expect_status(StatusCode::OK);
    assert_eq!(reply.text("status"), "Pending");
    let claimed = world.worker().claim().await;
    assert_eq!(claimed.parameters.get(), r#"{"site":"Bern"}"#);
    let audit = world.admin.client.get("/api/audit").await.body;
    assert!(audit.contains("secret.read"), "reading the secret is recorded");
    // What cannot be verified as its file asks for is no endpoint at all.
    let reply = world.nobody().send(world.nobody().request(Method::POST, "/api/endpoints/unreadable")).await;
    reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    world.close().await;
}

#[tokio::test]
async fn an_event_told_many_times_runs_once() {
    let world = world().await;
    with_secret(&world).await;
    let now = Utc::now().timestamp();
    let told = join_all(
        (0..20).map(|n| world.nobody().send(signed(&world, &format!("{{\"n\": {n}}}"), "evt-7", now))),
    )
    .await;
    let accepted = told.iter().filter(|reply| reply.status == StatusCode::OK).count();
    let fresh = told.iter().filter(|reply| reply.header("idempotency-replayed").is_none()).count();
    println!("event told 20 times at once: runs {}", world.count(EXECUTIONS).await);
    assert_eq!((accepted, fresh, world.count(EXECUTIONS).await), (20, 1, 1));
    world.nobody().send(signed(&world, "{}", "evt-8", now)).await.expect_status(StatusCode::OK);
    assert_eq!(world.count(EXECUTIONS).await, 2, "another event is another run");
    world.close().await;
}

#[tokio::test]
async fn a_signature_is_asked_for_beside_the_key_and_each_organization_has_its_secret() {
    let world = world().await;
    with_secret(&world).await;
    let acme = world.org("acme").await;
    let in_acme = world.admin.client.in_organization(acme);
    let secret = json!({"secret_key": "hook", "value": "acme's own"});
    in_acme.post("/api/secrets", &secret).await.expect_status(StatusCode::CREATED);
    let key = World::workflow_key(&in_acme, &json!({})).await;
    let now = Utc::now().timestamp();
    let call = |event: &str, signature: Option<String>| {
        let request = super::call(&world, Method::POST, "keyed", &key)
            .header("x-event", event)
            .header("x-time", now.to_string());
        match signature {
            Some(signature) => request.header("x-signature", signature),
            None => request,
        }
    };
    let send = |request| world.nobody().send(request);
    send(call("e1", None)).await.expect_status(StatusCode::UNAUTHORIZED);
    let global = signature(SECRET, &format!("e1.{now}."));
    send(call("e1", Some(global))).await.expect_status(StatusCode::UNAUTHORIZED);
    let own = signature("acme's own", &format!("e1.{now}."));
    send(call("e1", Some(own))).await.expect_status(StatusCode::OK);
    assert_eq!(world.worker().claim().await.organization_id, Some(acme));
    world.close().await;
}
