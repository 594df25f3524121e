//! Data providers behind forms: who may ask, what is kept, and what nobody else sees of it.

use std::time::Duration;

use domain::executions::claim::Claimed;
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{Client, Reply};

use crate::support::{Replica, Worker, World, failure, lines, success};

const SITES: &str = r#"["London", {"label": "Paris", "value": "PAR", "description": "north"}]"#;

/// Makes the providers of these tests known, as a file of this content.
async fn index(world: &World, content: &str) {
    let provider = |name: &str, ttl: i64, parameters: Value| {
        json!({
            "function": name, "name": name, "category": "Tests", "cache_ttl_seconds": ttl, "parameters": parameters,
        })
    };
    let site = json!([{"name": "site", "type": "string", "required": true}, {"name": "floor", "type": "int", "required": false}]);
    let index = json!({"files": [{
        "path": "providers.py", "sha256": content, "workflows": [], "problems": [],
        "data_providers": [provider("sites", 300, json!([])), provider("rooms", 300, site), provider("clock", 0, json!([])),
                           provider("unnamed", 300, json!([]))],
    }]});
    let index = serde_json::from_value(index).expect("an index");
    testkit::sync_workflows(&world.platform().db, &index).await.expect("indexes");
}

/// A global form for everybody, whose fields name all of the providers but one; gives the path of its providers.
async fn form(world: &World) -> String {
    let field = |name: &str| json!({"name": name, "label": name, "type": "select", "data_provider": name});
    let fields = [field("sites"), field("rooms"), field("clock"), field("not_there")];
    let body = json!({"name": "Sites", "access_level": "authenticated", "form_schema": {"fields": fields}});
    let form = world.admin.client.post("/api/forms", &body).await.expect_status(StatusCode::CREATED);
    format!("/api/forms/{}/data-providers", form.text("id"))
}

/// Asks, while the worker answers.
async fn computed(worker: &Worker, client: &Client, path: &str, body: &Value, result: &str) -> Reply {
    let (reply, ()) = tokio::join!(client.post(path, body), async {
        let claimed = worker.claim().await;
        worker.finish(&claimed, &success(&claimed, result)).await;
    });
    reply
}

#[tokio::test]
async fn of_many_who_ask_at_once_on_two_replicas_one_computes() {
    let world = World::with_redis().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    index(&world, "1").await;
    let path = format!("{}/sites", form(&world).await);
    let other =
        Replica::start(domain::settings::Settings { rabbitmq_url: None, ..world.test.settings() }).await;
    let there = other.at(&ada.client);
    let worker = world.worker();
    let audited = world.count("SELECT count(*) FROM audit_log").await;

    let ask = |n: usize| {
        let client = if n.is_multiple_of(2) { &ada.client } else { &there };
        async { client.post(&path, &json!({})).await.expect_status(StatusCode::OK).json() }
    };
    let work = async {
        let claimed = worker.claim().await;
        // While it runs nobody finds it.
        let id = claimed.id;
        for client in [&ada.client, &world.admin.client] {
            for path in [format!("/api/executions/{id}"), format!("/api/executions/{id}/logs")] {
                client.get(&path).await.expect_status(StatusCode::NOT_FOUND);
            }
            let cancel = format!("/api/executions/{id}/cancel");
            client.post(&cancel, &Value::Null).await.expect_status(StatusCode::NOT_FOUND);
            let list = client.get("/api/executions?limit=100").await.json();
            assert_eq!(list["executions"], json!([]));
        }
        let stuck = world.admin.client.get("/api/executions/cleanup/stuck?hours=0").await;
        assert!(!stuck.body.contains(&id.to_string()), "{}", stuck.body);
        assert!(!claimed.is_platform_admin);
        worker.finish(&claimed, &success(&claimed, SITES)).await;
    };
    let (answers, ()) = tokio::join!(join_all((0..24).map(ask)), work);

    let expected = json!([{"label": "London", "value": "London"}, {"label": "Paris", "value": "PAR", "description": "north"}]);
    assert!(
        answers.iter().all(|answer| answer["options"] == expected && answer["provider"] == "sites"),
        "{answers:?}"
    );
    let again = there.post(&path, &json!({})).await.expect_status(StatusCode::OK).json();
    assert_eq!((&again["cached"], &again["options"]), (&json!(true), &expected));
    assert!(again["cache_expires_at"].is_string());
    let left = world.count("SELECT count(*) FROM executions").await;
    let audited = world.count("SELECT count(*) FROM audit_log").await - audited;
    println!("data providers: 24 asked on 2 replicas, computed 1, rows left {left}, audit rows {audited}");
    assert_eq!((left, audited), (0, 0));
    drop(other);
    world.close().await;
}

#[tokio::test]
async fn an_answer_is_kept_for_its_organization_inputs_and_file() {
    let world = World::start().await;
    world.org("acme").await;
    world.org("rival").await;
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    let eve = world.person("eve@rival.example").await;
    index(&world, "1").await;
    let providers = form(&world).await;
    let worker = world.worker();
    let path = format!("{providers}/rooms");
    let of = |body: Value| json!({"inputs": body});
    let label = |reply: Reply| {
        let answer = reply.expect_status(StatusCode::OK).json();
        (answer["cached"] == true, answer["options"][0]["label"].as_str().unwrap_or_default().to_owned())
    };

    let first = of(json!({"site": "a", "floor": "2"}));
    let reply = computed(&worker, &ada.client, &path, &first, r#"["one"]"#).await;
    assert_eq!(label(reply), (false, "one".into()));
    // Converted inputs and the order of members make no other question; a colleague gets the same.
    let same = of(json!({"floor": 2, "site": "a"}));
    assert_eq!(label(bob.client.post(&path, &same).await), (true, "one".into()));
    let other = of(json!({"site": "b"}));
    let reply = computed(&worker, &ada.client, &path, &other, r#"["two"]"#).await;
    assert_eq!(label(reply), (false, "two".into()));
    let reply = computed(&worker, &eve.client, &path, &first, r#"["theirs"]"#).await;
    assert_eq!(label(reply), (false, "theirs".into()), "another organization has its own");
    assert_eq!(label(ada.client.post(&path, &first).await), (true, "one".into()));

    for name in ["no_cache", "noCache"] {
        let fresh = json!({"inputs": {"site": "a", "floor": 2}, name: true});
        let reply = computed(&worker, &ada.client, &path, &fresh, &format!(r#"["{name}"]"#)).await;
        assert_eq!(label(reply), (false, name.into()));
        assert_eq!(label(ada.client.post(&path, &first).await), (true, name.into()), "and keeps it");
    }
    index(&world, "2").await;
    let reply = computed(&worker, &ada.client, &path, &first, r#"["new file"]"#).await;
    assert_eq!(label(reply), (false, "new file".into()));

    world.sql("UPDATE provider_answers SET expires_at = now() - interval '1 second'").await;
    let reply = computed(&worker, &ada.client, &path, &first, r#"["later"]"#).await;
    assert_eq!(label(reply), (false, "later".into()));

    let clock = format!("{providers}/clock");
    for time in ["12:00", "12:01"] {
        let reply = computed(&worker, &ada.client, &clock, &Value::Null, &format!(r#"["{time}"]"#)).await;
        assert_eq!(reply.json()["cache_expires_at"], Value::Null);
        assert_eq!(label(reply), (false, time.into()), "what is never kept is computed each time");
    }
    assert_eq!(world.count("SELECT count(*) FROM executions").await, 0);
    world.close().await;
}

#[tokio::test]
async fn a_provider_that_fails_says_so_shows_its_log_to_administrators_and_is_asked_again() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    index(&world, "1").await;
    let path = format!("{}/sites", form(&world).await);
    let worker = world.worker();
    let admin = world.admin.client.in_organization(acme);
    let ask = async |client: &Client, fail: fn(&Claimed) -> domain::executions::finish::Outcome| {
        let body = json!({});
        let (reply, ()) = tokio::join!(client.post(&path, &body), async {
            let claimed = worker.claim().await;
            worker.store(&claimed, &lines(1, 3)).await;
            worker.finish(&claimed, &fail(&claimed)).await;
        });
        reply.expect_status(StatusCode::INTERNAL_SERVER_ERROR)
    };

    let reply = ask(&ada.client, |claimed| failure(claimed, "no such table: hosts", false)).await;
    assert_eq!(reply.detail(), "An error occurred during execution");
    assert!(!reply.body.contains("line 1") && !reply.body.contains("hosts"), "{}", reply.body);
    let reply = ask(&ada.client, |claimed| failure(claimed, "the inventory is closed", true)).await;
    assert_eq!(reply.detail(), "the inventory is closed");
    let neutral = "An error occurred during execution";
    let reply = ask(&admin, |claimed| failure(claimed, "no such table: hosts", false)).await;
    assert_eq!(reply.detail(), neutral, "administrators read the rest in the logs");
    let logged = reply.json()["logs"].as_array().expect("logs").clone();
    assert_eq!((logged.len(), &logged[3]["message"]), (4, &json!("no such table: hosts")));
    let reply = ask(&admin, |claimed| success(claimed, r#"{"not": "a list"}"#)).await;
    assert_eq!(
        (reply.detail().as_str(), &reply.json()["logs"][3]["message"]),
        (neutral, &json!("it must return a list"))
    );

    let reply = computed(&worker, &ada.client, &path, &json!({}), SITES).await;
    reply.expect_status(StatusCode::OK);
    assert_eq!(world.count("SELECT count(*) FROM executions").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM execution_logs").await, 0);
    world.close().await;
}

#[tokio::test]
async fn only_providers_that_a_field_names_are_asked_and_only_with_their_inputs() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    index(&world, "1").await;
    let providers = form(&world).await;
    for name in ["unnamed", "not_there", "nothing", "sites'--"] {
        let reply = ada.client.post(&format!("{providers}/{name}"), &json!({})).await;
        assert_eq!(reply.expect_status(StatusCode::NOT_FOUND).detail(), "no such data provider", "{name}");
    }
    let rooms = format!("{providers}/rooms");
    for (body, pointer) in [
        (json!({}), "/inputs/site"),
        (json!({"inputs": {"site": null}}), "/inputs/site"),
        (json!({"inputs": {"site": "a", "floor": "ground"}}), "/inputs/floor"),
        (json!({"inputs": []}), "/inputs"),
        (json!({"inputs": {"site": "\0"}}), "/inputs"),
        (json!({"no_cache": "yes"}), "/no_cache"),
    ] {
        let reply = ada.client.post(&rooms, &body).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.pointers(), [pointer]);
    }
    assert_eq!(world.count("SELECT count(*) FROM provider_answers").await, 0);
    world.close().await;
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_what_is_prompt_is_waited_for() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    index(&world, "1").await;
    let path = format!("{}/clock", form(&world).await);
    let worker = world.worker();
    let slow = async {
        let claimed = worker.claim().await;
        // How long it takes is what is shown.
        tokio::time::sleep(Duration::from_secs(5)).await;
        worker.finish(&claimed, &success(&claimed, r#"["noon"]"#)).await;
    };
    let body = json!({});
    let (reply, ()) = tokio::join!(ada.client.post(&path, &body), slow);
    assert_eq!(reply.expect_status(StatusCode::OK).json()["options"][0]["value"], "noon");
    world.close().await;
}
