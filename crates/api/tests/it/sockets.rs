//! The WebSocket: who may connect, what frames do, what channels carry, and what happens to slow readers.

use std::net::SocketAddr;
use std::time::Instant;

use domain::events::Update;
use domain::executions::Status;
use domain::settings::Settings;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{Client, Line, Socket, TestEnv, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use uuid::Uuid;

use crate::support::{World, failure, lines, success};

/// Opens a socket and reads its first frame.
async fn connect(client: &Client, path: &str) -> (Socket, Value) {
    let mut socket = Socket::connect(client, path).await;
    let hello = socket.next().await.expect("a first frame");
    (socket, hello)
}

#[tokio::test]
async fn refusals_accept_the_socket_and_say_why() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    let id = world.submit(&ada, Some(acme)).await;
    let own = format!("/ws/execution/{id}");
    let token = format!("/ws/connect?token={}", ada.client.bearer().expect("signed in"));
    let nobody = world.nobody();
    for (client, path, code) in [
        (nobody, "/ws/connect", 4001),
        (nobody, own.as_str(), 4001),
        (nobody, token.as_str(), 4001),
        (&nobody.with_bearer("bad"), "/ws/connect", 4001),
        (&bob.client, own.as_str(), 4003),
        (&ada.client, &format!("/ws/execution/{}", Uuid::now_v7()), 4003),
        (&ada.client, "/ws/execution/42", 4003),
    ] {
        let mut socket = Socket::connect(client, path).await;
        assert_eq!(socket.close_code().await, Some(code), "{path}");
    }
    for client in [&ada.client, &world.admin.client] {
        let (mut socket, hello) = connect(client, &own).await;
        assert_eq!(hello, json!({"type": "connected", "executionId": id}));
        assert_eq!(socket.next().await.expect("a frame")["snapshot"], true);
    }
    world.close().await;
}

#[tokio::test]
async fn only_channels_that_are_allowed_are_granted() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    let own = world.submit(&ada, Some(acme)).await;
    let others = world.submit(&bob, Some(acme)).await;
    let user = format!("user:{}", ada.id);
    let wanted = [
        format!("execution:{own}"),
        format!("execution:{others}"),
        format!("execution:{}", Uuid::now_v7()),
        format!("user:{}", bob.id),
        format!("history:{acme}"),
        format!("history:{rival}"),
        "history:GLOBAL".to_owned(),
        "system".to_owned(),
        "nonsense".to_owned(),
    ];
    let query: Vec<String> = wanted.iter().map(|name| format!("channels={name}")).collect();
    let (mut socket, hello) = connect(&ada.client, &format!("/ws/connect?{}", query.join("&"))).await;
    assert_eq!((&hello["type"], &hello["userId"]), (&json!("connected"), &json!(ada.id)));
    let granted = json!([user, wanted[0], wanted[4], "system"]);
    assert_eq!(hello["channels"], granted);
    assert_eq!(socket.next().await.expect("a frame")["executionId"], json!(own));

    for name in &wanted {
        socket.send(&json!({"type": "subscribe", "channels": [name]})).await;
        let is_answer = |frame: &Value| frame["channel"] == name.as_str();
        let answer = socket.until(is_answer).await.pop().expect("the last");
        let allowed = granted.as_array().expect("a list").contains(&json!(name));
        assert_eq!(answer["type"], if allowed { "subscribed" } else { "error" }, "{name}");
    }
    world.close().await;
}

#[tokio::test]
async fn what_cannot_be_looked_at_now_is_not_refused() {
    let test = TestEnv::create().await;
    let settings = test.settings_in_process();
    let (line, url) = Line::beside(settings.database_url.as_ref().expect("is set")).await;
    let world = World::on(test, Settings { database_url: Some(url), ..settings }).await;
    let admin = &world.admin.client;
    let id = world.submit(&world.admin, None).await;
    let channel = format!("execution:{id}");
    let by_channel = format!("/ws/connect?channels={channel}");
    for path in [&by_channel, &format!("/ws/execution/{id}")] {
        // The session is remembered for a while, so the execution is what cannot be asked for.
        eventually("the session to be known", async || {
            (admin.get("/auth/me").await.status == StatusCode::OK).then_some(())
        })
        .await;
        line.sever(true);
        let mut socket = Socket::connect(admin, path).await;
        assert_eq!(socket.close_code().await, Some(1013), "{path}");
        line.sever(false);
    }
    let granted = eventually("the channel to be granted", async || {
        Socket::connect(admin, &by_channel).await.next().await
    })
    .await;
    assert!(granted["channels"].as_array().expect("a list").contains(&json!(channel)));
    world.close().await;
}

#[tokio::test]
async fn frames_of_a_client_never_end_the_socket() {
    let world = World::start().await;
    let (mut socket, _) = connect(&world.admin.client, "/ws/connect").await;
    let none =
        ["", "{", "null", "[]", "\"ping\"", "nonsense"].map(|text| (text, "a frame must be a JSON object"));
    let wrong =
        [r#"{"type": 5}"#, r#"{"channels": "x"}"#, r#"{"type": "subscribe", "channels": ["system", 5]}"#]
            .map(|text| (text, "a member of the frame has the wrong type"));
    for (text, detail) in none.into_iter().chain(wrong) {
        socket.send_text(text).await;
        let frame = socket.next().await.expect("a frame");
        assert_eq!(frame, json!({"type": "error", "detail": detail}), "{text}");
    }
    for frame in [json!({}), json!({"type": "unknown"}), json!({"type": "subscribe"})] {
        socket.send(&frame).await;
    }
    assert_eq!(socket.settled().await, [Value::Null; 0], "unknown types are ignored");
    world.close().await;
}

#[tokio::test]
async fn unsubscribing_ends_what_a_channel_carries() {
    let world = World::start().await;
    let id = world.submit(&world.admin, None).await;
    let worker = world.worker();
    let claimed = worker.claim().await;
    let channel = format!("execution:{id}");
    let (mut socket, _) = connect(&world.admin.client, &format!("/ws/connect?channels={channel}")).await;
    assert_eq!(socket.next().await.expect("a frame")["snapshot"], true);

    socket.send(&json!({"type": "unsubscribe", "channel": channel})).await;
    socket.until(|frame| *frame == json!({"type": "unsubscribed", "channel": channel})).await;
    worker.store(&claimed, &lines(1, 5)).await;
    worker.tell(&claimed, &lines(1, 5));
    worker.finish(&claimed, &success(&claimed, "{}")).await;
    assert_eq!(socket.settled().await, [Value::Null; 0]);

    socket.send(&json!({"type": "subscribe", "channels": [channel], "after": {channel.clone(): 3}})).await;
    let frames = socket.until(|frame| frame["completed_at"].is_string() && frame["snapshot"] != true).await;
    let sequences: Vec<i64> = frames.iter().filter_map(|frame| frame["sequence"].as_i64()).collect();
    assert_eq!(sequences, [4, 5], "after the line the client has");
    world.close().await;
}

#[tokio::test]
async fn a_history_tells_users_of_their_own_runs_only() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    let path = format!("/ws/connect?channels=history:{acme}");
    let (mut of_ada, _) = connect(&ada.client, &path).await;
    let (mut of_admin, _) = connect(&world.admin.client, &path).await;
    let worker = world.worker();
    let mut ran = Vec::new();
    for (person, org) in [(&bob, Some(acme)), (&world.admin, None), (&ada, Some(acme))] {
        world.submit(person, org).await;
        let claimed = worker.claim().await;
        worker.finish(&claimed, &failure(&claimed, "KeyError: 'x'", false)).await;
        ran.push(claimed.id.to_string());
    }

    let is_last = |frame: &Value| frame["executionId"] == ran[2].as_str() && frame["status"] == "Failed";
    let told = |frames: &[Value]| -> Vec<String> {
        let of_runs = frames.iter().filter_map(|frame| Some((frame["executionId"].as_str()?, frame)));
        of_runs.map(|(id, frame)| format!("{id} {}", frame["status"].as_str().unwrap_or_default())).collect()
    };
    let of = |run: usize| ["Pending", "Failed"].map(|status| format!("{} {status}", ran[run]));
    let to_ada = of_ada.until(is_last).await;
    assert_eq!(told(&to_ada), of(2));
    assert_eq!(to_ada[1]["error"], "An error occurred during execution");
    let to_admin = of_admin.until(is_last).await;
    assert_eq!(told(&to_admin), [of(0), of(2)].concat());
    assert_eq!(to_admin[1]["error"], "KeyError: 'x'");
    world.close().await;
}

#[tokio::test]
async fn a_transient_run_is_told_to_its_followers_and_on_no_history() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let run = async |transient: bool| {
        let body = json!({"code": "x = 1", "transient": transient});
        let started = admin.post("/api/workflows/execute", &body).await;
        started.expect_status(StatusCode::OK).text("execution_id")
    };
    let (mut history, _) = connect(admin, "/ws/connect?channels=history:GLOBAL").await;
    let hidden = run(true).await;
    let (mut follower, _) = connect(admin, &format!("/ws/execution/{hidden}")).await;
    let worker = world.worker();
    let claimed = worker.claim().await;
    worker.announce_start(&claimed);
    worker.finish(&claimed, &success(&claimed, "{}")).await;
    let is_end = |frame: &Value| frame["status"] == "Success" && frame["snapshot"] != true;
    let told = follower.until(is_end).await;
    assert!(told.iter().all(|frame| frame["executionId"] == hidden.as_str()));
    // One that somebody stops.
    let stopped = run(true).await;
    let path = format!("/api/executions/{stopped}/cancel");
    admin.post(&path, &Value::Null).await.expect_status(StatusCode::OK);

    let shown = run(false).await;
    let claimed = worker.claim().await;
    worker.announce_start(&claimed);
    worker.finish(&claimed, &success(&claimed, "{}")).await;
    let told = history.until(is_end).await;
    assert!(told.iter().all(|frame| frame["executionId"] == shown.as_str()), "{told:#?}");
    world.close().await;
}

#[tokio::test]
async fn an_end_says_that_there_is_no_result_and_leaves_out_one_that_is_too_large() {
    let world = World::start().await;
    let (admin, worker) = (&world.admin.client, world.worker());
    let large = json!("x".repeat(70_000)).to_string();
    for (result, told) in [("null", Some(Value::Null)), ("{}", Some(json!({}))), (large.as_str(), None)] {
        let (mut history, _) = connect(admin, "/ws/connect?channels=history:GLOBAL").await;
        let id = world.submit(&world.admin, None).await;
        let claimed = worker.claim().await;
        worker.finish(&claimed, &success(&claimed, result)).await;
        let (mut follower, _) = connect(admin, &format!("/ws/execution/{id}")).await;
        for socket in [&mut history, &mut follower] {
            let is_end = |frame: &Value| frame["executionId"] == json!(id) && frame["status"] == "Success";
            let mut frames = socket.until(is_end).await;
            assert_eq!(frames.pop().expect("the last").get("result"), told.as_ref());
            assert!(frames.iter().all(|frame| frame.get("result").is_none()), "{frames:#?}");
        }
    }
    world.close().await;
}

#[tokio::test]
async fn a_history_tells_of_no_state_that_another_has_overtaken() {
    let world = World::start().await;
    let (mut history, _) = connect(&world.admin.client, "/ws/connect?channels=history:GLOBAL").await;
    let id = world.submit(&world.admin, None).await;
    let worker = world.worker();
    let claimed = worker.claim().await;
    worker.announce_start(&claimed);
    let late = Update { attempt: 0, ..claimed.update(Status::Pending) };
    world.platform().events.publish(late.into());
    worker.finish(&claimed, &success(&claimed, "{}")).await;

    let told = history.until(|frame| frame["status"] == "Success").await;
    let told: Vec<&Value> = told
        .iter()
        .filter(|frame| frame["executionId"] == id.to_string())
        .map(|frame| &frame["status"])
        .collect();
    assert_eq!(told, ["Pending", "Running", "Success"]);
    world.close().await;
}

/// Whether the api still holds its end of this connection open, as the kernel tells.
fn is_held(server: SocketAddr, client: SocketAddr) -> bool {
    let ends = |line: &str| -> Option<(u16, u16, String)> {
        let mut fields = line.split_whitespace().skip(1);
        let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
        Some((port(fields.next()?)?, port(fields.next()?)?, fields.next()?.to_owned()))
    };
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux shows its connections");
    table
        .lines()
        .filter_map(ends)
        .any(|(local, remote, state)| (local, remote) == (server.port(), client.port()) && state == "01")
}

/// Opens a socket by hand, with little room for what is not read.
async fn connect_without_reading(client: &Client, path: &str) -> TcpStream {
    let address: SocketAddr = client.base().trim_start_matches("http://").parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("is settable");
    let mut stream = socket.connect(address).await.expect("connects");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {}\r\n\r\n",
        client.bearer().expect("signed in"),
    );
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("answers");
    assert_eq!(&answer, b"HTTP/1.1 101");
    stream
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_closed_and_nobody_else_notices() {
    let world = World::start().await;
    let id = world.submit(&world.admin, None).await;
    let worker = world.worker();
    let claimed = worker.claim().await;
    // Far more than what the kernel and a bounded queue can hold.
    let mut long = lines(1, 800);
    long.iter_mut().for_each(|line| line.message = "x".repeat(32 * 1024));
    let path = format!("/ws/execution/{id}");
    let stuck = connect_without_reading(&world.admin.client, &path).await;
    let (server, client) = (stuck.peer_addr().expect("connected"), stuck.local_addr().expect("connected"));
    assert!(is_held(server, client));
    let (mut quick, _) = connect(&world.admin.client, &path).await;

    let began = Instant::now();
    for chunk in long.chunks(100) {
        worker.store(&claimed, chunk).await;
        worker.tell(&claimed, chunk);
    }
    worker.finish(&claimed, &success(&claimed, "{}")).await;
    let frames = quick.until(|frame| frame["status"] == "Success").await;
    assert_eq!(frames.iter().filter(|frame| frame["type"] == "execution_log").count(), 800);

    eventually("the api to close the stuck reader", || async { (!is_held(server, client)).then_some(()) })
        .await;
    println!("slow reader: closed after {:?}", began.elapsed());
    let reply = world.admin.client.get("/health/live").await;
    reply.expect_status(StatusCode::OK);
    drop(stuck);
    world.close().await;
}
