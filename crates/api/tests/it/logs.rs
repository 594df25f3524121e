//! What happened: system events and the audit log as one list.

use std::collections::HashSet;

use domain::events::Event;
use domain::system_events::{Category, Level, NewEvent};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Socket};
use uuid::Uuid;

use crate::support::{PASSWORD, World};

async fn report(world: &World, events: Vec<NewEvent>) {
    let reports = &world.platform().system_events;
    events.into_iter().for_each(|event| reports.report(event));
    reports.drain().await;
}

async fn page(client: &Client, query: &str) -> Value {
    client.get(&format!("/api/logs?{query}")).await.expect_status(StatusCode::OK).json()
}

async fn logs(client: &Client, query: &str) -> Vec<Value> {
    page(client, query).await["logs"].as_array().expect("a list").clone()
}

fn messages(logs: &[Value]) -> Vec<&str> {
    logs.iter().map(|log| log["message"].as_str().expect("a text")).collect()
}

#[tokio::test]
async fn events_and_deeds_are_one_list_newest_first() {
    let world = World::start().await;
    let admin = &world.admin.client;
    report(&world, vec![NewEvent::new(Category::System, Level::Info, "first")]).await;
    let secret = json!({"secret_key": "token", "value": "x"});
    admin.post("/api/secrets", &secret).await.expect_status(StatusCode::CREATED);
    let failed = NewEvent::new(Category::Discovery, Level::Error, "second").with(json!({"path": "a.py"}));
    let id = failed.id();
    report(&world, vec![failed]).await;
    let refused = world.nobody().request(Method::POST, "/auth/login");
    let refused = refused.form(&[("username", "admin@platform.example"), ("password", "wrong wrong wrong")]);
    world.nobody().send(refused).await.expect_status(StatusCode::UNAUTHORIZED);

    let all = logs(admin, "").await;
    assert_eq!(all[0]["level"], "warning", "{:#?}", all[0]);
    assert_eq!(messages(&all)[1..4], ["second", "Secret created: secret/token", "first"]);
    let time = |log: &Value| {
        let text = log["timestamp"].as_str().expect("a text");
        text.parse::<chrono::DateTime<chrono::Utc>>().expect("a time")
    };
    assert!(all.is_sorted_by(|later, earlier| time(later) >= time(earlier)), "{all:#?}");
    assert_eq!((&all[1]["executed_by"], &all[1]["executed_by_name"]), (&json!("system"), &json!("System")));
    assert_eq!(all[1]["details"], json!({"path": "a.py"}));
    let deed = &all[2];
    assert_eq!((&deed["category"], &deed["level"]), (&json!("secret"), &json!("info")));
    assert_eq!(deed["executed_by"], json!(world.admin.id));
    assert_eq!(deed["executed_by_name"], "admin@platform.example");
    assert_eq!(deed["details"]["action"], "secret.created");

    // Each is found by its category and id, and only so.
    for log in [&all[1], deed] {
        let (category, id) =
            (log["category"].as_str().expect("a text"), log["event_id"].as_str().expect("one"));
        let one = admin.get(&format!("/api/logs/{category}/{id}")).await.expect_status(StatusCode::OK);
        assert_eq!(&one.json(), log);
        admin.get(&format!("/api/logs/role/{id}")).await.expect_status(StatusCode::NOT_FOUND);
    }
    assert_eq!(all[1]["event_id"], json!(id));
    for path in [format!("discovery/{}", Uuid::now_v7()), "discovery/5".into(), "nothing/x".into()] {
        admin.get(&format!("/api/logs/{path}")).await.expect_status(StatusCode::NOT_FOUND);
    }
    world.close().await;
}

#[tokio::test]
async fn filters_by_category_level_and_time() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let events = Category::ALL.map(|category| NewEvent::new(category, Level::Critical, category.as_str()));
    report(&world, events.to_vec()).await;
    admin.post("/api/roles", &json!({"name": "Helpers"})).await.expect_status(StatusCode::CREATED);

    let mut seen = 0;
    for category in Category::ALL {
        let found = logs(admin, &format!("category={}", category.as_str())).await;
        assert!(found.iter().all(|log| log["category"] == category.as_str()), "{found:#?}");
        assert!(messages(&found).contains(&category.as_str()));
        seen += found.len();
    }
    assert_eq!(seen, logs(admin, "").await.len(), "every entry has one category");
    assert_eq!(logs(admin, "category=role&level=info").await.len(), 1);
    assert_eq!(messages(&logs(admin, "category=role&level=critical").await), ["role"]);
    assert_eq!(logs(admin, "level=critical").await.len(), 11);
    assert_eq!(logs(admin, "level=error").await.len(), 0);

    let day = chrono::Utc::now().date_naive();
    for query in [
        format!("start_date={day}"),
        format!("startDate={day}&endDate={day}"),
        "end_date=2100-01-01T00:00:00Z".into(),
    ] {
        assert_eq!(logs(admin, &query).await.len(), seen, "{query}");
    }
    for query in [
        "start_date=2100-01-01",
        "startDate=2100-01-01T00:00:00Z",
        "endDate=2020-01-01",
        "end_date=2020-01-01T00:00:00",
    ] {
        assert_eq!(logs(admin, query).await.len(), 0, "{query}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_scope_sees_what_concerns_its_organization() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let ada = world.person("ada@acme.example").await;
    let admin = &world.admin.client;
    let event = |of, message: &str| NewEvent::new(Category::Execution, Level::Warning, message).of(of);
    let of_acme = event(Some(acme), "acme");
    let id = of_acme.id();
    report(&world, vec![of_acme, event(Some(rival), "rival"), event(None, "nobody")]).await;
    let value = json!({"key": "days", "value": "7", "type": "int"});
    admin.in_organization(acme).post("/api/config", &value).await.expect_status(StatusCode::CREATED);

    let mut strays = 0;
    for (client, expected) in [
        (admin.in_organization(acme), vec!["acme"]),
        (admin.in_organization(rival), vec!["rival"]),
        (admin.clone(), vec!["nobody", "rival", "acme"]),
    ] {
        let found = logs(&client, "level=warning&category=execution").await;
        assert_eq!(messages(&found), expected);
        strays += found.len() - expected.len();
    }
    let deeds = logs(&admin.in_organization(acme), "category=config").await;
    assert_eq!(deeds.len(), 1);
    assert_eq!(deeds[0]["details"]["organization_id"], json!(acme));
    assert_eq!(logs(&admin.in_organization(rival), "category=config").await.len(), 0);
    let path = format!("/api/logs/execution/{id}");
    admin.in_organization(acme).get(&path).await.expect_status(StatusCode::OK);
    admin.in_organization(rival).get(&path).await.expect_status(StatusCode::NOT_FOUND);
    ada.client.get("/api/logs").await.expect_status(StatusCode::FORBIDDEN);
    println!("logs: of another organization {strays}");
    world.close().await;
}

#[tokio::test]
async fn pages_neither_repeat_nor_skip_while_more_happens() {
    let world = World::start().await;
    let admin = &world.admin.client;
    for batch in 0..10 {
        let events = (0..10).map(|number| {
            NewEvent::new(Category::System, Level::Error, format!("event {}", batch * 10 + number))
        });
        report(&world, events.collect()).await;
        let role = json!({"name": format!("Role {batch}")});
        admin.post("/api/roles", &role).await.expect_status(StatusCode::CREATED);
    }
    let before: Vec<String> = ids(&logs(admin, "limit=1000").await);
    let (mut seen, mut token) = (Vec::new(), None::<String>);
    loop {
        let query = token.as_ref().map_or_else(String::new, |token| format!("&continuation_token={token}"));
        let page = page(admin, &format!("limit=7{query}")).await;
        seen.extend(ids(page["logs"].as_array().expect("a list")));
        // Things go on happening while somebody reads.
        let now = NewEvent::new(Category::Error, Level::Info, format!("meanwhile {}", seen.len()));
        report(&world, vec![now]).await;
        match page["continuation_token"].as_str() {
            Some(next) => token = Some(next.to_owned()),
            None => break,
        }
    }
    let distinct: HashSet<&String> = seen.iter().collect();
    println!(
        "logs: {} entries by pages of 7, repeated {}, skipped {}",
        seen.len(),
        seen.len() - distinct.len(),
        before.iter().filter(|id| !distinct.contains(id)).count()
    );
    assert_eq!(seen, before);

    let skipped = ids(&logs(admin, "level=error&limit=5&offset=20").await);
    assert_eq!(skipped, ids(&logs(admin, "level=error&limit=1000").await)[20..25]);
    assert_eq!(logs(admin, "offset=100000").await.len(), 0);
    let token = token.expect("there were pages");
    let other = admin.get(&format!("/api/logs?level=error&continuation_token={token}")).await;
    other.expect_status(StatusCode::BAD_REQUEST);
    world.close().await;
}

fn ids(logs: &[Value]) -> Vec<String> {
    logs.iter().map(|log| log["event_id"].as_str().expect("a text").to_owned()).collect()
}

#[tokio::test]
async fn what_repeats_itself_or_is_noticed_by_every_replica_is_written_once() {
    let world = World::start().await;
    for number in 0..500 {
        let event = NewEvent::new(Category::System, Level::Error, "The tick `sweep` failed");
        world.platform().system_events.report(event.with(json!({"number": number})));
    }
    // Three replicas that notice the same.
    let replicas = [(); 3]
        .map(|()| domain::Platform::open(domain::settings::Settings::clone(&world.platform().settings)));
    for replica in replicas {
        let replica = replica.expect("opens");
        let event = NewEvent::new(Category::Discovery, Level::Info, "Indexed").once("discovery:1");
        replica.system_events.report(event);
        replica.close().await;
    }
    world.platform().system_events.drain().await;
    let found = logs(&world.admin.client, "level=error").await;
    println!("system events: 500 alike, written {}", found.len());
    assert_eq!(found.len(), 2, "the first, and one for the others");
    assert_eq!(found[0]["details"], json!({"number": 499, "repeated": 499}));
    assert_eq!(logs(&world.admin.client, "category=discovery").await.len(), 1);
    world.close().await;
}

#[tokio::test]
async fn events_are_bounded_and_what_cannot_be_stored_hides_nothing() {
    let world = World::start().await;
    let large = NewEvent::new(Category::System, Level::Info, "x\0".repeat(10_000))
        .with(json!({"a": "y".repeat(100_000)}));
    let nul = NewEvent::new(Category::System, Level::Info, "nul").with(json!({"a": "\0"}));
    report(&world, vec![large, nul, NewEvent::new(Category::System, Level::Info, "after")]).await;
    let found = logs(&world.admin.client, "category=system").await;
    assert_eq!(messages(&found), ["after", "nul", &"x".repeat(2_000)]);
    assert!(found.iter().all(|log| log["details"].is_null()));

    world
        .sql("UPDATE system_events SET created_at = now() - interval '91 days' WHERE message <> 'nul'")
        .await;
    domain::executions::housekeep::housekeep(&world.platform().db).await.expect("tidies");
    assert_eq!(messages(&logs(&world.admin.client, "category=system").await), ["nul"], "kept for 90 days");
    world.close().await;
}

#[tokio::test]
async fn administrators_hear_of_events_as_they_are_written_and_users_do_not() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let path = "/ws/connect?channels=system";
    let (mut admin, mut user) =
        (Socket::connect(&world.admin.client, path).await, Socket::connect(&ada.client, path).await);
    for socket in [&mut admin, &mut user] {
        let hello = socket.next().await.expect("a first frame");
        assert!(hello["channels"].as_array().expect("a list").contains(&json!("system")));
    }
    let event = NewEvent::new(Category::Execution, Level::Warning, "A worker was lost");
    let id = event.id();
    report(&world, vec![event]).await;
    let frame = admin.until(|frame| frame["type"] == "system_event").await.pop().expect("the last");
    assert_eq!((&frame["eventType"], &frame["event"]["event_id"]), (&json!("log"), &json!(id)));
    assert_eq!(frame["event"]["message"], "A worker was lost");
    // Both sockets were told on the same way, so what a user gets is there by now.
    assert_eq!(user.settled().await, [Value::Null; 0]);
    // A submission wakes workers, and is no change of the workspace.
    world.platform().events.publish(Event::Submitted(Vec::new()));
    world.platform().events.publish(Event::WorkspaceChanged);
    let frames = user.until(|frame| frame["type"] == "system_event").await;
    assert_eq!(frames.last().expect("one")["eventType"], "workspace_changed");
    assert_eq!(user.settled().await, [Value::Null; 0], "told once");
    world.close().await;
}

#[tokio::test]
async fn what_people_do_about_signing_in_is_executed_by_them() {
    let world = World::start().await;
    world.org("acme").await;
    let (admin, nobody) = (&world.admin, world.nobody());
    let ada = world.person("ada@acme.example").await;
    let form = [("username", ada.email.as_str()), ("password", PASSWORD)];
    let signed = nobody.send(nobody.request(Method::POST, "/auth/login").form(&form)).await;
    let token = json!({"refresh_token": signed.expect_status(StatusCode::OK).text("refresh_token")});
    nobody.post("/auth/refresh", &token).await.expect_status(StatusCode::OK);
    ada.client.post("/auth/mfa/totp/setup", &Value::Null).await.expect_status(StatusCode::OK);
    ada.client.delete("/auth/mfa/trusted-devices").await.expect_status(StatusCode::OK);
    ada.client.post("/auth/logout", &Value::Null).await.expect_status(StatusCode::OK);
    let revoke = json!({"user_id": ada.id});
    admin.client.post("/auth/admin/revoke-user", &revoke).await.expect_status(StatusCode::OK);

    let all = logs(&admin.client, "limit=1000").await;
    for (action, doers) in [
        ("session.started", &[&ada.email, &ada.email, &admin.email][..]),
        ("session.refreshed", &[&ada.email]),
        ("mfa.begun", &[&ada.email]),
        ("device.forgotten", &[&ada.email]),
        ("session.revoked", &[&admin.email, &ada.email]),
    ] {
        let deeds: Vec<_> = all.iter().filter(|log| log["details"]["action"] == action).collect();
        let names: Vec<_> = deeds.iter().map(|deed| &deed["executed_by_name"]).collect();
        assert_eq!(names, doers, "{action}");
        for deed in deeds {
            let doer = if deed["executed_by_name"] == json!(ada.email) { ada.id } else { admin.id };
            assert_eq!(deed["executed_by"], json!(doer), "{action}");
        }
    }
    world.close().await;
}
