//! Endpoints: who is let in, what a call gives the workflow, and what it answers.

use std::collections::HashSet;
use std::time::Duration;

use domain::settings::Environment;
use futures::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use testkit::{Reply, eventually, eventually_within};
use tokio::task::JoinHandle;

use crate::support::{World, failure, success};

mod metered;
mod rolling;
mod signed;

const EXECUTIONS: &str = "SELECT count(*) FROM executions";

fn call(world: &World, method: Method, path: &str, key: &str) -> RequestBuilder {
    world.nobody().request(method, &format!("/api/endpoints/{path}")).header("x-bifrost-key", key)
}

/// Calls in the background, for a worker to be played meanwhile.
fn calling(world: &World, request: RequestBuilder) -> JoinHandle<Reply> {
    let client = world.nobody().clone();
    tokio::spawn(async move { client.send(request).await })
}

#[tokio::test]
async fn a_call_runs_in_the_organization_of_its_key_and_as_nobody() {
    let world = World::start().await;
    world.with_endpoints(&[json!({"name": "greet"})]).await;
    let acme = world.org("acme").await;
    let key = World::workflow_key(&world.admin.client.in_organization(acme), &json!({})).await;
    let worker = world.worker();
    for by_bearer in [false, true] {
        let request = world.nobody().request(Method::POST, "/api/endpoints/greet?site=Bern&count=2");
        let request = match by_bearer {
            true => request.bearer_auth(&key),
            false => request.header("x-bifrost-key", &key),
        };
        let waiting = calling(&world, request.json(&json!({"count": 3, "loud": true})));
        let claimed = worker.claim().await;
        assert_eq!(
            serde_json::from_str::<Value>(claimed.parameters.get()).expect("JSON"),
            json!({"site": "Bern", "count": 3, "loud": true})
        );
        assert_eq!(
            (claimed.organization_id, claimed.is_function_key, claimed.is_platform_admin),
            (Some(acme), true, false)
        );
        assert_eq!(
            (claimed.executed_by, claimed.executed_by_name.as_str()),
            (domain::id::UserId::SYSTEM, "System")
        );
        worker.finish(&claimed, &success(&claimed, "42")).await;
        let reply = waiting.await.expect("answers").expect_status(StatusCode::OK);
        assert_eq!(
            reply.json(),
            json!({
                "execution_id": claimed.id.to_string(), "status": "Success", "message": null, "result": 42,
                "error": null, "duration_ms": 7,
            })
        );
    }
    let listed = world.admin.client.in_organization(acme).get("/api/workflow-keys").await.json();
    assert!(listed[0]["last_used_at"].is_string(), "the use is recorded");
    world.close().await;
}

#[tokio::test]
async fn keys_open_what_they_are_for_and_nothing_else() {
    let world = World::start().await;
    world
        .with_endpoints(&[
            json!({"name": "greet", "execution_mode": "async"}),
            json!({"name": "other", "execution_mode": "async"}),
            json!({"name": "strict", "execution_mode": "async", "disable_global_key": true}),
            json!({"name": "closed", "endpoint_enabled": false}),
            json!({"name": "twice", "function": "one"}),
            json!({"name": "twice", "function": "two"}),
        ])
        .await;
    let admin = &world.admin.client;
    let global = World::workflow_key(admin, &json!({})).await;
    let greet = World::workflow_key(admin, &json!({"workflow_name": "greet"})).await;
    let strict = World::workflow_key(admin, &json!({"workflow_name": "strict"})).await;
    let expired = World::workflow_key(admin, &json!({"description": "expired", "expires_in_days": 1})).await;
    world.sql("UPDATE workflow_keys SET expires_at = now() WHERE description = 'expired'").await;
    let revoked = admin.post("/api/workflow-keys", &json!({})).await;
    admin
        .delete(&format!("/api/workflow-keys/{}", revoked.text("id")))
        .await
        .expect_status(StatusCode::NO_CONTENT);
    let revoked = revoked.text("raw_key");
    let access = admin.bearer().expect("signed in").to_owned();

    let mut wrong = Vec::new();
    let mut cells = 0;
    for (what, key, path, expected) in [
        ("global", &global, "greet", 200),
        ("global", &global, "other", 200),
        ("global", &global, "strict", 401),
        ("global", &global, "closed", 404),
        ("global", &global, "nothing", 404),
        ("global", &global, "twice", 409),
        ("its own", &greet, "greet", 200),
        ("another's", &greet, "other", 401),
        ("another's", &greet, "nothing", 401),
        ("its own", &strict, "strict", 200),
        ("expired", &expired, "greet", 401),
        ("revoked", &revoked, "greet", 401),
        ("an access token", &access, "greet", 401),
        ("an sdk key", &format!("bfsk_{}", "k".repeat(43)), "greet", 401),
        ("a part", &global[..42].to_owned(), "greet", 401),
        ("other letters", &global.to_uppercase(), "greet", 401),
    ] {
        cells += 1;
        let reply = world.nobody().send(call(&world, Method::POST, path, key)).await;
        let is_told = expected != 401 || reply.detail() == "Invalid or expired API key";
        if reply.status.as_u16() != expected || !is_told {
            wrong.push(format!("{what} at {path}: {} instead of {expected}: {}", reply.status, reply.body));
        }
    }
    // A key that shuts its workflow to global ones.
    let body = json!({"workflow_name": "other", "disable_global_key": true});
    let own = World::workflow_key(admin, &body).await;
    for (key, expected) in [(&global, 401), (&own, 200)] {
        cells += 1;
        let reply = world.nobody().send(call(&world, Method::POST, "other", key)).await;
        if reply.status.as_u16() != expected {
            wrong.push(format!("shut out: {} instead of {expected}", reply.status));
        }
    }
    // And the keys at the door of everything else.
    for path in ["/api/executions", "/api/workflow-keys", "/auth/me", "/api/config"] {
        cells += 1;
        let reply = world.nobody().with_bearer(&global).get(path).await;
        if reply.status != StatusCode::UNAUTHORIZED {
            wrong.push(format!("a workflow key at {path}: {}", reply.status));
        }
    }
    println!("workflow keys at doors: {cells} cells, wrong {}", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.close().await;
}

#[tokio::test]
async fn an_ambiguous_name_is_called_by_id() {
    let world = World::start().await;
    world
        .with_endpoints(&[
            json!({"name": "twice", "function": "one", "execution_mode": "async"}),
            json!({"name": "twice", "function": "two", "execution_mode": "async"}),
        ])
        .await;
    let workflows = world.admin.client.get("/api/workflows").await.json();
    let id = workflows[0]["id"].as_str().expect("an id");
    let key = World::workflow_key(&world.admin.client, &json!({"workflow_name": id})).await;
    world.nobody().send(call(&world, Method::POST, "twice", &key)).await.expect_status(StatusCode::CONFLICT);
    world.nobody().send(call(&world, Method::POST, id, &key)).await.expect_status(StatusCode::OK);
    let other = workflows[1]["id"].as_str().expect("an id");
    world
        .nobody()
        .send(call(&world, Method::POST, other, &key))
        .await
        .expect_status(StatusCode::UNAUTHORIZED);
    world.close().await;
}

#[tokio::test]
async fn the_key_of_a_removed_workflow_does_not_open_the_next_one_of_its_name() {
    let world = World::start().await;
    let endpoint =
        |name: &str, function: &str| json!({"name": name, "function": function, "execution_mode": "async"});
    world.with_endpoints(&[endpoint("sync", "one")]).await;
    let admin = &world.admin.client;
    let id = admin.get("/api/workflows").await.json()[0]["id"].as_str().expect("an id").to_owned();
    // By id, since what a name means is remembered for a second.
    let body = json!({"workflow_name": id, "disable_global_key": true});
    let old = World::workflow_key(admin, &body).await;
    let global = World::workflow_key(admin, &json!({})).await;

    // It is gone, and another file has one of its name.
    world.with_endpoints(&[endpoint("first", "first"), endpoint("sync", "two")]).await;
    let refused = world.nobody().send(call(&world, Method::POST, "sync", &old)).await;
    assert_eq!(refused.expect_status(StatusCode::UNAUTHORIZED).detail(), "Invalid or expired API key");
    let others = world.nobody().send(call(&world, Method::POST, "first", &old)).await;
    others.expect_status(StatusCode::UNAUTHORIZED);
    assert_eq!(world.count(EXECUTIONS).await, 0);
    // Nor does it shut out who may call the new one.
    world.nobody().send(call(&world, Method::POST, "sync", &global)).await.expect_status(StatusCode::OK);
    let own = World::workflow_key(admin, &json!({"workflow_name": "sync"})).await;
    world.nobody().send(call(&world, Method::POST, "sync", &own)).await.expect_status(StatusCode::OK);

    // When the file comes back, so does what its key opens.
    world.with_endpoints(&[endpoint("sync", "one")]).await;
    world.nobody().send(call(&world, Method::POST, &id, &old)).await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn only_the_methods_of_a_workflow_are_answered() {
    let world = World::start().await;
    let methods = [Method::GET, Method::POST, Method::PUT, Method::DELETE];
    let subsets: Vec<Vec<&str>> =
        vec![vec!["GET"], vec!["POST"], vec!["PUT", "DELETE"], vec!["GET", "POST", "PUT", "DELETE"]];
    let endpoints: Vec<Value> = subsets
        .iter()
        .enumerate()
        .map(|(number, allowed)| json!({"name": format!("e{number}"), "execution_mode": "async", "allowed_methods": allowed}))
        .collect();
    world.with_endpoints(&endpoints).await;
    let key = World::workflow_key(&world.admin.client, &json!({})).await;
    let (mut cells, mut runs) = (0, 0);
    for (number, allowed) in subsets.iter().enumerate() {
        for method in methods.iter().chain([&Method::HEAD, &Method::PATCH]) {
            let reply = world.nobody().send(call(&world, method.clone(), &format!("e{number}"), &key)).await;
            cells += 1;
            if allowed.contains(&method.as_str()) {
                reply.expect_status(StatusCode::OK);
                runs += 1;
                continue;
            }
            let reply = reply.expect_status(StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(reply.header("allow"), Some(allowed.join(", ").as_str()), "{method}");
        }
    }
    let stranger = world.nobody().request(Method::PATCH, "/api/endpoints/e0");
    let reply = world.nobody().send(stranger).await.expect_status(StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(reply.header("allow"), Some("GET, POST, PUT, DELETE"), "whoever has no key learns nothing");
    println!("methods of endpoints: {cells} cells, runs {runs}");
    assert_eq!(world.count(EXECUTIONS).await, runs);
    world.close().await;
}

#[tokio::test]
async fn a_public_endpoint_needs_no_key_and_is_limited_per_address() {
    let world = World::with(|settings| settings.environment = Environment::Development).await;
    world
        .with_endpoints(&[
            json!({"name": "open", "execution_mode": "async", "public_endpoint": true}),
            json!({"name": "greet", "execution_mode": "async"}),
        ])
        .await;
    let acme = world.org("acme").await;
    let key = World::workflow_key(&world.admin.client.in_organization(acme), &json!({})).await;
    let public = |path: &str| world.nobody().request(Method::POST, &format!("/api/endpoints/{path}"));

    world.nobody().send(public("open").json(&json!({"site": "Bern"}))).await.expect_status(StatusCode::OK);
    let claimed = world.worker().claim().await;
    assert_eq!(
        (claimed.organization_id, claimed.is_function_key, claimed.is_platform_admin),
        (None, true, false)
    );
    world
        .nobody()
        .send(public("open").header("x-bifrost-key", "bad"))
        .await
        .expect_status(StatusCode::UNAUTHORIZED);
    world.nobody().send(call(&world, Method::POST, "open", &key)).await.expect_status(StatusCode::OK);
    assert_eq!(world.worker().claim().await.organization_id, Some(acme), "a key still says where");

    let replies = join_all((0..80).map(|_| world.nobody().send(public("open")))).await;
    let accepted = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
    let limited: Vec<&Reply> =
        replies.iter().filter(|reply| reply.status == StatusCode::TOO_MANY_REQUESTS).collect();
    println!("public endpoint: 81 calls of one address in a minute, accepted {}", accepted + 1);
    assert_eq!((accepted, limited.len()), (59, 21));
    assert!(limited.iter().all(|reply| reply.header("retry-after").is_some()));
    // Trying names without a key is bounded too; calls with a key are not.
    world.nobody().send(public("greet")).await.expect_status(StatusCode::TOO_MANY_REQUESTS);
    world.nobody().send(call(&world, Method::POST, "greet", &key)).await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn what_takes_too_long_is_202_and_goes_on() {
    let world = World::with(|settings| settings.sync_wait_seconds = 1).await;
    world
        .with_endpoints(&[json!({"name": "greet"}), json!({"name": "collect", "execution_mode": "async"})])
        .await;
    let key = World::workflow_key(&world.admin.client, &json!({})).await;
    let worker = world.worker();
    let waiting = calling(&world, call(&world, Method::POST, "greet", &key));
    let claimed = worker.claim().await;
    let late = waiting.await.expect("answers").expect_status(StatusCode::ACCEPTED).json();
    assert_eq!(
        (&late["status"], &late["result"], &late["execution_id"]),
        (&json!("Running"), &Value::Null, &json!(claimed.id))
    );
    assert!(late["message"].is_string());
    worker.finish(&claimed, &success(&claimed, "1")).await;
    let shown = world.admin.client.get(&format!("/api/executions/{}", claimed.id)).await.json();
    assert_eq!(shown["status"], "Success");

    let accepted =
        world.nobody().send(call(&world, Method::POST, "collect", &key)).await.expect_status(StatusCode::OK);
    assert_eq!(accepted.text("status"), "Pending");
    world.close().await;
}

#[tokio::test]
async fn callers_see_only_errors_that_were_written_for_them() {
    let world = World::start().await;
    world.with_endpoints(&[json!({"name": "greet"})]).await;
    let key = World::workflow_key(&world.admin.client, &json!({})).await;
    let worker = world.worker();
    for (is_user_error, shown) in [(true, "no site"), (false, "An error occurred during execution")] {
        let waiting = calling(&world, call(&world, Method::POST, "greet", &key));
        let claimed = worker.claim().await;
        worker.finish(&claimed, &failure(&claimed, "no site", is_user_error)).await;
        let answer = waiting.await.expect("answers").expect_status(StatusCode::OK).json();
        assert_eq!((&answer["status"], &answer["error"]), (&json!("Failed"), &json!(shown)));
    }
    world.close().await;
}

#[tokio::test]
async fn a_body_that_calls_itself_json_must_be_an_object() {
    let world = World::start().await;
    world.with_endpoints(&[json!({"name": "greet", "execution_mode": "async"})]).await;
    let key = World::workflow_key(&world.admin.client, &json!({})).await;
    let post = |kind: &str, body: &str| {
        call(&world, Method::POST, "greet", &key).header("content-type", kind).body(body.to_owned())
    };
    for (wrong, at) in
        [("{", ""), ("[]", ""), ("1", ""), ("null", ""), ("{} x", ""), (r#"{"a": "\u0000"}"#, "/a")]
    {
        let reply = world.nobody().send(post("application/json", wrong)).await;
        assert_eq!(
            reply.clone().expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(),
            [at],
            "{wrong}: {}",
            reply.body
        );
    }
    let faults = call(&world, Method::POST, "greet?loud=perhaps", &key).json(&json!({"count": "many"}));
    let reply = world.nobody().send(faults).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reply.pointers(), ["/count", "?loud"]);
    let large = world.nobody().send(post("text/plain", &"x".repeat(3 * 1024 * 1024))).await;
    large.expect_status(StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.count(EXECUTIONS).await, 0, "nothing was written");
    for (kind, body) in [("text/plain", "not json"), ("application/xml", "<a/>"), ("application/json", "")] {
        world.nobody().send(post(kind, body)).await.expect_status(StatusCode::OK);
    }
    world.close().await;
}

#[tokio::test]
async fn a_repeated_call_with_a_key_of_its_own_is_one_execution() {
    let world = World::start().await;
    world
        .with_endpoints(&[
            json!({"name": "collect", "execution_mode": "async"}),
            json!({"name": "other", "execution_mode": "async"}),
        ])
        .await;
    let key = World::workflow_key(&world.admin.client, &json!({})).await;
    let another = World::workflow_key(&world.admin.client, &json!({})).await;
    let keyed = |path: &str, key: &str, body: Value| {
        world
            .nobody()
            .send(call(&world, Method::POST, path, key).header("idempotency-key", "order-42").json(&body))
    };
    let replies = join_all((0..20).map(|_| keyed("collect", &key, json!({"site": "a"})))).await;
    let ids: HashSet<String> = replies.iter().map(|reply| reply.text("execution_id")).collect();
    let fresh = replies.iter().filter(|reply| reply.header("idempotency-replayed").is_none()).count();
    println!("endpoint idempotency: 20 concurrent, executions {}, fresh answers {fresh}", ids.len());
    assert_eq!((ids.len(), fresh), (1, 1));
    let other_body = keyed("collect", &key, json!({"site": "b"})).await;
    assert_eq!(
        other_body.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(),
        ["header:Idempotency-Key"]
    );
    for (path, key) in [("other", &key), ("collect", &another)] {
        let reply = keyed(path, key, json!({"site": "b"})).await.expect_status(StatusCode::OK);
        assert_eq!(
            reply.header("idempotency-replayed"),
            None,
            "another workflow's or caller's key is its own"
        );
    }
    assert_eq!(world.count(EXECUTIONS).await, 3);
    world.close().await;
}

#[tokio::test]
async fn a_repeated_call_gets_its_execution_also_when_the_workflow_takes_other_input_by_then() {
    let world = World::start().await;
    let order = json!({"name": "order", "execution_mode": "async"});
    world.with_endpoints(std::slice::from_ref(&order)).await;
    let key = World::workflow_key(&world.admin.client, &json!({})).await;
    let keyed = |idempotency_key: &str| {
        let request = call(&world, Method::POST, "order", &key).header("idempotency-key", idempotency_key);
        world.nobody().send(request.json(&json!({"site": "a"})))
    };
    let first = keyed("order-42").await.expect_status(StatusCode::OK).text("execution_id");
    let mut stricter = order;
    stricter["parameters"] = json!([{"name": "owner", "type": "string", "required": true}]);
    world.with_endpoints(&[stricter]).await;
    // A definition is remembered for a second.
    eventually("the other input to be asked for", async || {
        let fresh = keyed(&uuid::Uuid::now_v7().to_string()).await;
        (fresh.status == StatusCode::UNPROCESSABLE_ENTITY).then_some(())
    })
    .await;
    let again = keyed("order-42").await.expect_status(StatusCode::OK);
    assert_eq!(again.text("execution_id"), first);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    world.close().await;
}

#[tokio::test]
async fn strangers_at_a_public_endpoint_have_idempotency_keys_of_their_own() {
    let world = World::with(|settings| settings.trusted_proxies = "127.0.0.1".into()).await;
    world
        .with_endpoints(&[json!({"name": "open", "execution_mode": "async", "public_endpoint": true})])
        .await;
    let order = async |address: &str| {
        let request = world.nobody().request(Method::POST, "/api/endpoints/open");
        let request = request.header("x-forwarded-for", address).header("idempotency-key", "order-42");
        let reply = world.nobody().send(request.json(&json!({"site": "a"}))).await;
        reply.expect_status(StatusCode::OK).text("execution_id")
    };
    let ours = order("198.51.100.1").await;
    assert_eq!(order("198.51.100.1").await, ours, "a repeated call is one execution");
    let theirs = order("198.51.100.2").await;
    assert_ne!(theirs, ours, "a stranger is not answered with it");
    // One client may call from any address of its network.
    assert_eq!(order("2001:db8:1:2::3").await, order("2001:db8:1:2::4").await);
    assert_eq!(world.count(EXECUTIONS).await, 3);
    world.close().await;
}

#[tokio::test]
async fn the_document_follows_the_endpoints_within_seconds() {
    let world = World::start().await;
    let paths = async || {
        world.nobody().get("/openapi.json").await.expect_status(StatusCode::OK).json()["paths"].clone()
    };
    assert!(paths().await["/api/endpoints/greet"].is_null());
    world
        .with_endpoints(&[
            json!({"name": "greet", "description": "Greet a site"}),
            json!({"name": "open", "public_endpoint": true, "allowed_methods": ["PUT"], "endpoint_rate_limit": {"calls": 5, "seconds": 3600}}),
            json!({"name": "closed", "endpoint_enabled": false}),
            json!({"name": "twice", "function": "one"}),
            json!({"name": "twice", "function": "two"}),
        ])
        .await;
    let began = std::time::Instant::now();
    let found = eventually_within(Duration::from_secs(10), "the path of the endpoint", || async {
        Some(paths().await).filter(|paths| !paths["/api/endpoints/greet"].is_null())
    })
    .await;
    println!("endpoint in the document: after {:.1} s, bound 10", began.elapsed().as_secs_f64());
    let greet = &found["/api/endpoints/greet"];
    assert_eq!(greet["get"]["summary"], "Greet a site");
    let count =
        greet["get"]["parameters"].as_array().expect("parameters").iter().find(|p| p["name"] == "count");
    assert_eq!(count.expect("is there")["schema"], json!({"type": "integer"}));
    let body = &greet["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["properties"]["loud"]["type"], "boolean");
    assert!(greet["put"].is_null() && greet["delete"].is_null());
    let open = &found["/api/endpoints/open"]["put"];
    assert_eq!(open["security"], json!([{}]));
    let too_many = open["responses"]["429"]["description"].as_str().expect("text");
    assert!(too_many.starts_with("More than 5 calls from one address within 3600 s"), "{too_many}");
    assert!(found["/api/endpoints/closed"].is_null() && found["/api/endpoints/twice"].is_null());
    let by_id =
        found.as_object().expect("paths").keys().filter(|path| path.starts_with("/api/endpoints/0")).count();
    assert_eq!(by_id, 2, "workflows of one name have a path each");
    let ids: Vec<String> = found
        .as_object()
        .expect("paths")
        .values()
        .flat_map(|item| {
            item.as_object()
                .expect("operations")
                .values()
                .map(|operation| operation["operationId"].to_string())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "operation ids are unique");

    world.with_endpoints(&[]).await;
    eventually_within(Duration::from_secs(10), "the path to go", || async {
        paths().await["/api/endpoints/greet"].is_null().then_some(())
    })
    .await;
    world.close().await;
}
