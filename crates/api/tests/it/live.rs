//! Following a run: nothing is missing, doubled or out of order, whatever becomes of the events on the way.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::executions::claim::Claimed;
use domain::executions::{Status, explain, finish::Outcome, logs, reap};
use domain::id::ExecutionId;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{Client, Socket};

use crate::support::{Replica, Worker, World, batch, failure, lines, shown_to_users, success};

const LINES: i64 = 2_000;

/// Reads a socket to the terminal update and checks that nothing follows it.
async fn read_to_the_end(mut socket: Socket) -> Vec<Value> {
    let is_end = |frame: &Value| frame["completed_at"].is_string() && frame["snapshot"] != true;
    let mut frames = socket.until(is_end).await;
    socket.send(&json!({"type": "ping"})).await;
    let after = socket.until(|frame| frame["type"] == "pong").await;
    frames.extend(after.into_iter().filter(|frame| frame["type"] != "pong"));
    frames
}

/// How many of `expected` lines are missing, having checked everything else that must hold of a stream.
fn check(who: &str, frames: &[Value], expected: i64) -> i64 {
    assert_eq!(frames[0]["type"], "connected", "{who}");
    assert_eq!(
        (&frames[1]["type"], &frames[1]["snapshot"]),
        (&json!("execution_update"), &json!(true)),
        "{who}"
    );
    let sequences: Vec<i64> = frames.iter().filter_map(|frame| frame["sequence"].as_i64()).collect();
    assert!(sequences.is_sorted_by(|a, b| a < b), "{who}: reordered or doubled");
    let live: Vec<&Value> = frames[2..].iter().filter(|frame| frame["type"] == "execution_update").collect();
    let ends = live.iter().filter(|frame| frame["status"] == "Success").count();
    let last = frames.last().expect("frames");
    assert_eq!((ends, &last["status"]), (1, &json!("Success")), "{who}: the end comes once, and last");
    assert_eq!(
        (&last["result"], &last["duration_ms"], &last["durationMs"]),
        (&json!({"done": true}), &json!(7), &json!(7))
    );
    let versions: Vec<i64> = live.iter().filter_map(|frame| frame["version"].as_i64()).collect();
    assert_eq!(versions.len(), live.len());
    assert!(versions.is_sorted(), "{who}: {versions:?}");
    let missing = (1..=expected).filter(|sequence| sequences.binary_search(sequence).is_err()).count();
    assert!(sequences.len() as i64 <= expected, "{who}: more than there is");
    missing as i64
}

/// Logs the lines from `from` to `to`: events and rows run out of step, and events get lost, doubled and
/// swapped on the way.
async fn log_unreliably(worker: &Worker, claimed: &Claimed, from: i64, to: i64) {
    let lines = lines(from, to);
    let mut unstored: Vec<logs::Line> = Vec::new();
    for (number, chunk) in lines.chunks(40).enumerate() {
        let (first, second) = chunk.split_at(chunk.len() / 2);
        match number % 5 {
            0 => worker.tell(claimed, chunk),
            1 => {}
            2 => {
                worker.tell(claimed, second);
                worker.tell(claimed, first);
            }
            3 => {
                worker.tell(claimed, chunk);
                worker.tell(claimed, first);
            }
            _ => {
                // The rows first, the event late.
                unstored.extend_from_slice(chunk);
                worker.store(claimed, &unstored).await;
                unstored.clear();
                worker.tell(claimed, chunk);
                continue;
            }
        }
        unstored.extend_from_slice(chunk);
        if number % 7 == 0 {
            worker.store(claimed, &unstored).await;
            unstored.clear();
        }
        tokio::task::yield_now().await;
    }
    if !unstored.is_empty() {
        worker.store(claimed, &unstored).await;
    }
}

/// Follows one run from before its start, from its middle and after its end, as administrator and as owner.
async fn follow_everywhere(world: &World, other: &Replica, end_is_told: bool) -> (i64, i64) {
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let id = world.submit(&ada, Some(acme)).await;
    let by_id = format!("/ws/execution/{id}");
    let by_channel = format!("/ws/connect?channels=execution:{id}");
    let (admin, owner) = (&world.admin.client, &ada.client);
    let elsewhere = other.at(admin);
    let mut readers = Vec::new();
    let mut join = async |who: &'static str, client: &Client, path: &str, expected: i64| {
        let socket = Socket::connect(client, path).await;
        readers.push((who, tokio::spawn(read_to_the_end(socket)), expected));
    };
    let shown = shown_to_users(LINES);

    join("administrator, before the start", admin, &by_id, LINES).await;
    join("administrator, before the start, elsewhere", &elsewhere, &by_channel, LINES).await;
    join("owner, before the start", owner, &by_channel, shown).await;
    let worker = world.worker();
    let claimed = worker.claim().await;
    worker.announce_start(&claimed);
    log_unreliably(&worker, &claimed, 1, 1_000).await;
    join("administrator, in the middle", admin, &by_channel, LINES).await;
    join("owner, in the middle, elsewhere", &other.at(owner), &by_id, shown).await;
    log_unreliably(&worker, &claimed, 1_001, 1_900).await;
    let rest = lines(1_901, LINES);
    worker.tell(&claimed, &rest[50..]);
    let outcome = Outcome { lines: Some(batch(&claimed, &rest)), ..success(&claimed, r#"{"done": true}"#) };
    let recorded = worker.record(&outcome).await;
    if end_is_told {
        worker.announce(&claimed, &outcome, recorded);
        worker.announce(&claimed, &outcome, recorded);
    }
    join("administrator, after the end", &elsewhere, &by_id, LINES).await;
    join("owner, after the end", owner, &by_channel, shown).await;

    let (mut missing, mut total) = (0, 0);
    for (who, reader, expected) in readers {
        let frames = tokio::time::timeout(Duration::from_secs(30), reader).await;
        let frames = frames.unwrap_or_else(|_| panic!("{who} waits in vain")).expect("reads");
        missing += check(who, &frames, expected);
        total += expected;
    }
    (missing, total)
}

#[tokio::test]
async fn no_follower_misses_anything_within_one_process() {
    let world = World::start().await;
    // Another replica hears no event at all then: it lives on the rows alone.
    let deaf = Replica::start(world.test.settings_in_process()).await;
    let (missing, total) = follow_everywhere(&world, &deaf, true).await;
    println!("live: missing {missing} of {total}");
    assert_eq!(missing, 0);
    world.close().await;
}

#[tokio::test]
async fn no_follower_misses_anything_over_redis() {
    let world = World::with_redis().await;
    let other = Replica::start(world.platform().settings.as_ref().clone()).await;
    let (missing, total) = follow_everywhere(&world, &other, true).await;
    println!("live over Redis: missing {missing} of {total}");
    assert_eq!(missing, 0);
    world.close().await;
}

#[tokio::test]
async fn an_end_that_nobody_tells_of_is_found() {
    let world = World::start().await;
    let other = Replica::start(world.test.settings_in_process()).await;
    let (missing, total) = follow_everywhere(&world, &other, false).await;
    println!("live with a lost end: missing {missing} of {total}");
    assert_eq!(missing, 0);
    world.close().await;
}

#[tokio::test]
async fn lines_of_a_lost_attempt_hide_none_of_the_next() {
    let world = World::start().await;
    let id = world.submit(&world.admin, None).await;
    let mut conn = world.test.db.connect().await;
    sqlx::query("UPDATE executions SET max_attempts = 2").execute(&mut conn).await.expect("updates");
    let worker = world.worker();
    let lost = worker.claim().await;
    let mut socket = Socket::connect(&world.admin.client, &format!("/ws/execution/{id}")).await;
    worker.store(&lost, &lines(1, 5)).await;
    worker.tell(&lost, &lines(1, 10));
    let mut frames = socket.until(|frame| frame["sequence"] == 10).await;
    let away = world.admin.client.request(reqwest::Method::GET, &format!("/api/executions/{id}/stream"));
    let away = away.header("last-event-id", "10.1");
    let channel = format!("execution:{id}");

    sqlx::query("UPDATE executions SET lease_expires_at = now()").execute(&mut conn).await.expect("updates");
    assert_eq!(reap::reap(&world.platform().db).await.expect("reaps").len(), 1);
    let next = worker.claim().await;
    assert_eq!((next.attempt, next.last_sequence), (2, 5));
    let said: Vec<logs::Line> =
        lines(6, 8).into_iter().map(|line| logs::Line { attempt: 2, ..line }).collect();
    worker.tell(&next, &said[..2]);
    worker.finish(&next, &Outcome { lines: Some(batch(&next, &said)), ..success(&next, "{}") }).await;

    frames.extend(read_to_the_end(socket).await);
    let told: Vec<(i64, i64)> =
        frames.iter().filter_map(|frame| frame["attempt"].as_i64().zip(frame["sequence"].as_i64())).collect();
    let expected: Vec<(i64, i64)> = (1..=10).map(|n| (1, n)).chain((6..=8).map(|n| (2, n))).collect();
    assert_eq!(told, expected);

    // Who was away meanwhile says which attempt the last line is of, and misses none either.
    let reply = world.admin.client.send(away).await.expect_status(StatusCode::OK);
    let ids: Vec<&str> = reply.body.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["6.2", "7.2", "8.2"]);
    let mut socket = Socket::connect(&world.admin.client, "/ws/connect").await;
    socket
        .send(&json!({"type": "subscribe", "channels": [channel], "after": {channel.as_str(): "10.1"}}))
        .await;
    let frames = socket.until(|frame| frame["status"] == "Success" && frame["snapshot"] != true).await;
    let told: Vec<i64> = frames.iter().filter_map(|frame| frame["sequence"].as_i64()).collect();
    assert_eq!(told, [6, 7, 8]);
    world.close().await;
}

#[tokio::test]
async fn a_script_follows_by_server_sent_events_and_resumes() {
    let world = World::start().await;
    let id = world.submit(&world.admin, None).await;
    let worker = world.worker();
    let claimed = worker.claim().await;
    worker.store(&claimed, &lines(1, 30)).await;
    let client = world.admin.client.clone();
    let follow = tokio::spawn(async move {
        let request = client.request(reqwest::Method::GET, &format!("/api/executions/{id}/stream"));
        client.send(request.header("last-event-id", "10")).await
    });
    log_unreliably(&worker, &claimed, 31, 200).await;
    worker.finish(&claimed, &success(&claimed, "{}")).await;

    let reply = follow.await.expect("reads").expect_status(StatusCode::OK);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let ids: Vec<&str> = reply.body.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, (11..=200).map(|n| format!("{n}.1")).collect::<Vec<_>>());
    let last = reply.body.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().expect("data");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!((&last["type"], &last["status"]), (&json!("execution_update"), &json!("Success")));
    world.close().await;
}

#[tokio::test]
async fn a_follower_of_what_waits_hears_its_place_in_the_queue_as_it_changes() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let (ada, eve) = (world.person("ada@acme.example").await, world.person("eve@rival.example").await);
    let mut ahead = Vec::new();
    for _ in 0..4 {
        ahead.push(world.submit(&ada, Some(acme)).await);
        world.submit(&eve, Some(rival)).await;
    }
    // In another lane of the same organization.
    world.sql("UPDATE executions SET concurrency_key = 'k' WHERE id = (SELECT min(id::text)::uuid FROM executions)").await;
    let id = world.submit(&ada, Some(acme)).await;
    world.submit(&ada, Some(acme)).await;
    let mut socket = Socket::connect(&ada.client, &format!("/ws/execution/{id}")).await;

    let mut told = socket.until(|frame| frame["queuePosition"].is_i64()).await;
    let first = told.pop().expect("the last");
    assert_eq!(
        (&first["queuePosition"], &first["status"]),
        (&json!(5), &json!("Pending")),
        "another's do not count"
    );
    assert_eq!((&first["waitReason"], &first["snapshot"]), (&json!("queued"), &Value::Null));
    assert_eq!(first["version"], told.last().expect("the snapshot")["version"], "no change of state");
    for other in &ahead {
        let path = format!("/api/executions/{other}/cancel");
        ada.client.post(&path, &Value::Null).await.expect_status(StatusCode::OK);
    }
    let mut places = vec![first];
    places.extend(socket.until(|frame| frame["queuePosition"] == 1).await);
    let positions: Vec<i64> = places.iter().filter_map(|frame| frame["queuePosition"].as_i64()).collect();
    assert_eq!(positions.len(), places.len(), "nothing else is told: {places:#?}");
    assert!(positions.is_sorted_by(|a, b| a > b), "only as it changes: {positions:?}");
    let times: Vec<DateTime<Utc>> = places
        .iter()
        .map(|frame| serde_json::from_value(frame["timestamp"].clone()).expect("a time"))
        .collect();
    // The clocks of the wait and of the frame are two.
    let is_apart = |a: &DateTime<Utc>, b: &DateTime<Utc>| *b - *a > TimeDelta::milliseconds(900);
    assert!(times.is_sorted_by(is_apart), "at most once a second: {times:?}");

    let worker = world.worker();
    let claimed = loop {
        let claimed = worker.claim().await;
        if claimed.id == id {
            break claimed;
        }
    };
    worker.announce_start(&claimed);
    let running = socket.until(|frame| frame["status"] == "Running").await.pop().expect("the last");
    assert_eq!((&running["queuePosition"], &running["waitReason"]), (&Value::Null, &Value::Null));
    worker.finish(&claimed, &success(&claimed, "{}")).await;
    let rest = read_to_the_end(socket).await;
    assert!(rest.iter().all(|frame| frame["queuePosition"].is_null()), "{rest:#?}");
    world.close().await;
}

#[tokio::test]
async fn what_may_not_start_yet_has_no_place_in_the_queue_and_takes_none() {
    let world = World::start().await.with_workflows().await;
    let admin = &world.admin.client;
    let collect = async || {
        let started = admin.post("/api/workflows/execute", &json!({"workflow_id": "collect"})).await;
        started.expect_status(StatusCode::OK).text("execution_id").parse::<ExecutionId>().expect("an id")
    };
    let position = async |id: ExecutionId| explain::position(&world.platform().db, id).await.expect("counts");
    let first = collect().await;
    let second = world.submit(&world.admin, None).await;
    assert_eq!((position(first).await, position(second).await), (Some(1), Some(2)));

    world.sql("UPDATE workflows SET paused_at = now() WHERE name = 'collect'").await;
    assert_eq!((position(first).await, position(second).await), (None, Some(1)));
    world.sql("UPDATE workflows SET paused_at = NULL").await;
    world
        .sql("UPDATE executions SET due_at = now() + interval '1 hour' WHERE workflow_name = 'collect'")
        .await;
    assert_eq!((position(first).await, position(second).await), (None, Some(1)));
    assert_eq!(world.worker().claim().await.id, second);
    assert_eq!(position(second).await, None, "it runs");
    world.close().await;
}

#[tokio::test]
async fn a_retry_that_is_cancelled_ends_without_the_error_of_the_attempt_before() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let worker = world.worker();
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(world.submit(&ada, Some(acme)).await);
        let claimed = worker.claim().await;
        let failed = failure(&claimed, "no such site", true);
        let pause = Duration::from_secs(60);
        worker.record(&Outcome { status: Status::Pending, retry_in: pause, ..failed }).await;
    }
    let path = format!("/api/executions/{}/cancel", ids[0]);
    ada.client.post(&path, &Value::Null).await.expect_status(StatusCode::OK);
    let rest = ada.client.post("/api/executions/bulk/cancel", &json!({"all": true})).await;
    assert_eq!(rest.expect_status(StatusCode::OK).json()["cancelled"], 1);

    for id in ids {
        let socket = Socket::connect(&world.admin.client, &format!("/ws/execution/{id}")).await;
        let end = read_to_the_end(socket).await.pop().expect("the last");
        assert_eq!(
            (&end["status"], &end["error"], &end["error_type"]),
            (&json!("Cancelled"), &json!("cancelled before its next attempt"), &Value::Null)
        );
    }
    let left = "SELECT count(*) FROM executions WHERE error_type IS NOT NULL OR is_user_error";
    assert_eq!(world.count(left).await, 0);
    world.close().await;
}
