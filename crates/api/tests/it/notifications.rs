//! Notifications over HTTP and the WebSocket: whose they are, how they change and end, and the lock of bulk uploads.

use std::time::Instant;

use domain::id::{NotificationId, OrgId};
use domain::notifications::{self, Category, Change, End, NewNotification, Reporter};
use domain::settings::Settings;
use domain::{Actor, OrgScope};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::Socket;

use crate::support::{Person, Replica, World};

const LOCK: &str = "/api/notifications/locks/upload";

/// What this person acts in, in the background.
fn scope(person: &Person, organization: Option<OrgId>) -> OrgScope {
    let actor = Actor {
        id: person.id,
        name: person.email.clone(),
        email: person.email.clone(),
        is_platform_admin: true,
    };
    OrgScope::for_run(organization, actor)
}

fn new(title: &str) -> NewNotification {
    let metadata = json!({"package_name": "requests"}).as_object().cloned();
    NewNotification { metadata, ..NewNotification::new(Category::PackageInstall, title) }
}

async fn progress(world: &World, id: NotificationId, percent: f64, description: &str) {
    let change = Change { percent: Some(percent), description: Some(description.into()) };
    notifications::update(world.platform(), id, &change).await.expect("is written");
}

async fn complete(world: &World, id: NotificationId) {
    let result = json!({"version": "2.0"}).as_object().cloned();
    let end = End::Completed { description: Some("Installed".into()), result };
    notifications::finish(world.platform(), id, end).await.expect("is written");
}

async fn titles(person: &Person) -> Vec<String> {
    let list = person.client.get("/api/notifications").await.expect_status(StatusCode::OK).json();
    let list = list["notifications"].as_array().expect("a list").clone();
    list.iter().map(|one| one["title"].as_str().expect("a text").to_owned()).collect()
}

async fn seen(person: &Person, id: NotificationId) -> Value {
    person.client.get(&format!("/api/notifications/{id}")).await.expect_status(StatusCode::OK).json()
}

#[tokio::test]
async fn notifications_are_their_owners_and_some_are_for_administrators_too() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    let own = world.notify_in(&scope(&ada, Some(acme)), new("Installing requests")).await;
    let shared = NewNotification { for_admins: true, ..new("For administrators") };
    let shared = world.notify_in(&scope(&bob, Some(acme)), shared).await;

    assert_eq!(titles(&ada).await, ["Installing requests"]);
    assert_eq!(titles(&bob).await, ["For administrators"]);
    assert_eq!(titles(&world.admin).await, ["For administrators"]);
    let in_acme = Person { client: world.admin.client.in_organization(acme), ..world.admin.clone() };
    assert_eq!(titles(&in_acme).await, ["For administrators"]);
    let other = world.org("other").await;
    let in_other = Person { client: world.admin.client.in_organization(other), ..world.admin.clone() };
    assert_eq!(titles(&in_other).await, Vec::<String>::new(), "exactly the scope");

    // What is one's own is shown wherever one looks.
    let of_nobody = world.notify_in(&scope(&world.admin, None), new("Installing httpx")).await;
    assert_eq!(titles(&in_other).await, ["Installing httpx"]);
    world
        .admin
        .client
        .delete(&format!("/api/notifications/{of_nobody}"))
        .await
        .expect_status(StatusCode::NO_CONTENT);

    let shown = seen(&ada, own).await;
    assert_eq!((&shown["status"], &shown["category"]), (&json!("pending"), &json!("package_install")));
    assert_eq!(shown["metadata"], json!({"package_name": "requests"}));
    assert_eq!(shown["user_id"], json!(ada.id));
    assert!(shown["percent"].is_null() && shown["result"].is_null());
    let path = |id: NotificationId| format!("/api/notifications/{id}");
    for (person, id) in [(&bob, own), (&world.admin, own), (&ada, shared)] {
        person.client.get(&path(id)).await.expect_status(StatusCode::NOT_FOUND);
        person.client.delete(&path(id)).await.expect_status(StatusCode::NOT_FOUND);
    }
    // An administrator reads what is meant for them, and leaves it to its owner.
    assert_eq!(seen(&world.admin, shared).await["title"], "For administrators");
    world.admin.client.delete(&path(shared)).await.expect_status(StatusCode::NOT_FOUND);
    for text in ["5", "not-an-id", "locks"] {
        let gone = ada.client.get(&format!("/api/notifications/{text}")).await;
        gone.expect_status(StatusCode::NOT_FOUND);
    }

    ada.client.delete(&path(own)).await.expect_status(StatusCode::NO_CONTENT);
    ada.client.delete(&path(own)).await.expect_status(StatusCode::NOT_FOUND);
    progress(&world, own, 50.0, "halfway").await;
    assert_eq!(titles(&ada).await, Vec::<String>::new(), "dismissed is dismissed");
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'notification.dismissed' AND actor = 'ada@acme.example'";
    assert_eq!(world.count(audited).await, 1);
    world.close().await;
}

#[tokio::test]
async fn a_notification_ends_once_and_goes_away_with_its_time() {
    let world = World::start().await;
    let admin = &world.admin;
    let minutes = "SELECT round(extract(epoch FROM expires_at - updated_at) / 60)::bigint FROM notifications";
    let id = world.notify_in(&scope(admin, None), new("Installing requests")).await;
    assert_eq!(world.count(minutes).await, 60);
    progress(&world, id, 140.0, &"x".repeat(5_000)).await;
    let shown = seen(admin, id).await;
    assert_eq!((&shown["status"], &shown["percent"]), (&json!("running"), &json!(100.0)), "within bounds");
    assert_eq!(shown["description"].as_str().map(|text| text.chars().count()), Some(4_000));
    // Just before its time it changes, which puts it off.
    world.sql("UPDATE notifications SET expires_at = now() + interval '1 minute'").await;
    progress(&world, id, 60.0, "going on").await;
    assert_eq!(world.count(minutes).await, 60);

    let failure = End::Failed { error: "no such package".into(), result: None };
    notifications::finish(world.platform(), id, failure).await.expect("is written");
    progress(&world, id, 70.0, "still at it").await;
    complete(&world, id).await;
    let shown = seen(admin, id).await;
    assert_eq!((&shown["status"], &shown["error"]), (&json!("failed"), &json!("no such package")));
    assert_eq!((&shown["percent"], &shown["result"]), (&json!(60.0), &Value::Null), "an end is the end");
    assert_eq!(world.count(minutes).await, 5);

    world.sql("UPDATE notifications SET expires_at = now() - interval '1 second'").await;
    assert_eq!(titles(admin).await, Vec::<String>::new());
    let path = format!("/api/notifications/{id}");
    admin.client.get(&path).await.expect_status(StatusCode::NOT_FOUND);
    admin.client.delete(&path).await.expect_status(StatusCode::NOT_FOUND);
    let kept = world.notify_in(&scope(admin, None), new("Going on")).await;
    world.sql("UPDATE notifications SET status = 'running' WHERE status = 'failed'").await;
    progress(&world, id, 80.0, "late").await;
    complete(&world, id).await;
    assert_eq!(titles(admin).await, ["Going on"], "nothing revives what expired");
    domain::executions::housekeep::housekeep(&world.platform().db).await.expect("tidies");
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 1, "what expired is removed");
    assert_eq!(seen(admin, kept).await["title"], "Going on");
    world.close().await;
}

/// A socket, and the channels it was granted.
async fn listen(replica: &Replica, person: &Person, channels: &[String]) -> (Socket, Value) {
    let query: Vec<String> = channels.iter().map(|name| format!("channels={name}")).collect();
    let path = format!("/ws/connect?{}", query.join("&"));
    let mut socket = Socket::connect(&replica.at(&person.client), &path).await;
    let hello = socket.next().await.expect("a first frame");
    (socket, hello["channels"].clone())
}

#[tokio::test]
async fn every_change_is_told_once_to_who_may_hear_it_on_every_replica() {
    let world = World::with_redis().await;
    let acme = world.org("acme").await;
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    let second = Replica::start(Settings::clone(&world.platform().settings)).await;
    let own = format!("notification:{}", ada.id);
    let admins = "notification:admins".to_owned();
    let (mut of_ada, granted) = listen(&second, &ada, &[own.clone(), admins.clone()]).await;
    assert_eq!(granted, json!([format!("user:{}", ada.id), own]), "administrators' is not hers");
    // The own user channel is enough.
    let (mut silent, _) = listen(&world.replica, &ada, &[]).await;
    let (mut of_bob, granted) = listen(&second, &bob, &[own]).await;
    assert_eq!(granted, json!([format!("user:{}", bob.id)]));
    let (mut of_admin, granted) = listen(&second, &world.admin, std::slice::from_ref(&admins)).await;
    assert_eq!(granted, json!([format!("user:{}", world.admin.id), admins]));

    let private = world.notify_in(&scope(&ada, Some(acme)), new("Private")).await;
    let shared = NewNotification { for_admins: true, ..new("Shared") };
    let shared = world.notify_in(&scope(&ada, Some(acme)), shared).await;
    progress(&world, private, 40.0, "Building").await;
    complete(&world, private).await;
    let dismissed = ada.client.delete(&format!("/api/notifications/{shared}")).await;
    dismissed.expect_status(StatusCode::NO_CONTENT);

    let is_last = |frame: &Value| frame["type"] == "notification_dismissed";
    let frames = of_ada.until(is_last).await;
    let kinds: Vec<&str> = frames.iter().filter_map(|frame| frame["type"].as_str()).collect();
    let expected = [
        "notification_created",
        "notification_created",
        "notification_updated",
        "notification_updated",
        "notification",
        "notification_dismissed",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(frames[2]["notification"]["percent"], 40.0);
    assert_eq!(frames[3]["notification"], seen(&ada, private).await, "as the operation has it");
    let line = json!({"type": "notification", "notificationType": "completed", "title": "Private", "message": "Installed"});
    assert_eq!(frames[4], line);
    assert_eq!(frames[5]["notification_id"], json!(shared));
    assert_eq!(silent.until(is_last).await.len(), expected.len());
    let to_admin = of_admin.until(is_last).await;
    assert_eq!(to_admin.len(), 2, "{to_admin:#?}");
    assert_eq!(to_admin[0]["notification"]["title"], "Shared");
    // What the others of this replica have heard, he would have heard by now.
    let foreign = of_bob.settled().await;
    println!("notifications: {} frames to their owner, to somebody else {}", frames.len(), foreign.len());
    assert_eq!(foreign, [Value::Null; 0]);
    drop(second);
    world.close().await;
}

#[tokio::test]
async fn a_thousand_reports_are_told_a_few_times_and_the_latest_always() {
    let world = World::start().await;
    let id = world.notify_in(&scope(&world.admin, None), new("Installing requests")).await;
    let (mut socket, _) = listen(&world.replica, &world.admin, &[]).await;

    let began = Instant::now();
    let reporter = Reporter::start(world.platform(), id);
    for step in 0..1_000_u32 {
        reporter.report(Some(f64::from(step) / 10.0), format!("step {step}"));
        tokio::task::yield_now().await;
    }
    let reporting = began.elapsed();
    // The work goes on without another report: the latest is told nevertheless.
    let frames = socket.until(|frame| frame["notification"]["description"] == "step 999").await;
    let most = 2 + began.elapsed().as_millis() / 250;
    println!("reporting: 1000 reports in {} ms, told {} times", reporting.as_millis(), frames.len());
    assert!(frames.len() as u128 <= most, "{} of at most {most}", frames.len());
    assert_eq!(frames.last().expect("one")["notification"]["percent"], 99.9);

    reporter.report(Some(5.0), "late");
    drop(reporter);
    complete(&world, id).await;
    let frames = socket.until(|frame| frame["notification"]["status"] == "completed").await;
    assert!(frames.len() <= 2, "{frames:#?}");
    assert_eq!(frames.last().expect("one")["notification"]["percent"], 100.0);
    let after = socket.settled().await;
    assert!(
        after.iter().all(|frame| frame["type"] == "notification"),
        "nothing changes after the end: {after:?}"
    );
    world.close().await;
}

#[tokio::test]
async fn the_upload_lock_holds_for_one_and_can_be_forced() {
    let world = World::start().await;
    let admin = &world.admin.client;
    world.org("acme").await;
    world.person("bob@acme.example").await;
    let promote = "UPDATE users SET is_superuser = TRUE, user_type = 'PLATFORM', organization_id = NULL
                   WHERE email = 'bob@acme.example'";
    world.sql(promote).await;
    let bob = world.nobody().sign_in("bob@acme.example", crate::support::PASSWORD).await;
    let free = json!({
        "locked": false, "owner_user_id": null, "owner_email": null, "operation": null, "locked_at": null,
        "expires_at": null,
    });
    assert_eq!(admin.get(LOCK).await.expect_status(StatusCode::OK).json(), free);
    admin.delete(LOCK).await.expect_status(StatusCode::NOT_FOUND);

    // Ten at once by two people: it is held by one of them, and refused to the other.
    let body = json!({"operation": "upload of 40 files"});
    let race = (0..10).map(|n| if n % 2 == 0 { admin } else { &bob }.post(LOCK, &body));
    let race = futures::future::join_all(race).await;
    let held = admin.get(LOCK).await.expect_status(StatusCode::OK).json();
    let taken = race.iter().filter(|reply| reply.status == StatusCode::OK);
    let owners: std::collections::BTreeSet<String> = taken.map(|reply| reply.text("owner_email")).collect();
    let refused = race.iter().filter(|reply| reply.status == StatusCode::CONFLICT).count();
    println!("upload lock: 10 at once by two, held by {}, refused {refused}", owners.len());
    assert_eq!((owners.len(), refused), (1, 5));
    assert!(owners.contains(held["owner_email"].as_str().expect("a text")));
    assert_eq!((&held["locked"], &held["operation"]), (&json!(true), &body["operation"]));
    let minutes = "SELECT round(extract(epoch FROM expires_at - now()) / 60)::bigint FROM upload_locks";
    assert_eq!(world.count(minutes).await, 5);

    // Anybody who may forces it.
    admin.delete(LOCK).await.expect_status(StatusCode::NO_CONTENT);
    assert_eq!(admin.get(LOCK).await.json(), free);
    assert_eq!(world.count("SELECT count(*) FROM audit_log WHERE action = 'upload_lock.released'").await, 1);
    bob.post(LOCK, &Value::Null).await.expect_status(StatusCode::OK);
    assert_eq!(admin.get(LOCK).await.json()["operation"], "upload");
    admin.post(LOCK, &body).await.expect_status(StatusCode::CONFLICT);

    // Past its time it holds nothing.
    world.sql("UPDATE upload_locks SET expires_at = now() - interval '1 second'").await;
    assert_eq!(admin.get(LOCK).await.json(), free);
    admin.delete(LOCK).await.expect_status(StatusCode::NOT_FOUND);
    admin.post(LOCK, &body).await.expect_status(StatusCode::OK);
    bob.post(LOCK, &body).await.expect_status(StatusCode::CONFLICT);
    world.close().await;
}
