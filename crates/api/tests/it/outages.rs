//! Parts that are away: what goes on without them, and how soon the rest says so.

use std::time::{Duration, Instant};

use domain::Platform;
use domain::events::Event;
use domain::settings::{Environment, Settings};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use testkit::{Line, Reply, TestEnv, at_port, eventually, free_port};
use tokio::net::TcpListener;

use crate::support::{PASSWORD, Replica, World};

/// The longest a request may wait for what is away.
const PROMPT: Duration = Duration::from_secs(5);

fn assert_unavailable(reply: &Reply, took: Duration) {
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.body);
    assert_eq!(reply.problem_type(), "/problems/unavailable");
    let pause: u64 = reply.header("retry-after").and_then(|text| text.parse().ok()).expect("Retry-After");
    assert!((1..=30).contains(&pause));
    assert!(took < PROMPT, "{took:?}");
    assert!(!reply.body.contains("127.0.0.1") && !reply.body.contains("onnection"), "{}", reply.body);
}

/// What any kind of request gets while the database is away, with a token that was good.
async fn assert_all_unavailable(replica: &Replica, token: &str) -> Duration {
    let client = replica.nobody.with_bearer(token);
    let requests = [
        client.request(Method::GET, "/auth/me"),
        client.request(Method::GET, "/auth/status"),
        client.request(Method::POST, "/auth/login").form(&[("username", "a@b.example"), ("password", "x")]),
        client.request(Method::POST, "/auth/refresh").json(&json!({"refresh_token": "x"})),
        client.request(Method::GET, "/api/executions"),
        client.request(Method::POST, "/api/workflows/execute").json(&json!({"code": "x = 1"})),
        client.request(Method::GET, "/health/ready"),
    ];
    let began = Instant::now();
    let answers = join_all(requests.map(async |request| {
        let reply = client.send(request).await;
        (reply, began.elapsed())
    }))
    .await;
    let live = client.get("/health/live").await;
    assert_eq!(live.status, StatusCode::OK, "the process lives");
    answers.iter().for_each(|(reply, took)| assert_unavailable(reply, *took));
    answers.iter().map(|(_, took)| *took).max().expect("there were requests")
}

#[tokio::test]
async fn without_postgresql_everything_is_503_and_nothing_hangs() {
    let world = World::start().await;
    let token = world.admin.client.bearer().expect("signed in");
    let settings = world.test.settings_in_process();
    let url = settings.database_url.clone().expect("is set");
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let ports = [("closed", free_port()), ("silent", silent.local_addr().expect("bound").port())];
    for (name, port) in ports {
        let settings = Settings { database_url: Some(at_port(&url, port)), ..settings.clone() };
        let replica = Replica::start(settings).await;
        let slowest = assert_all_unavailable(&replica, token).await;
        println!("PostgreSQL {name}: 503 within {slowest:?}");
        let detailed = replica.nobody.get("/health/detailed").await.expect_status(StatusCode::OK).json();
        assert_eq!(detailed["status"], "unhealthy");
        assert!(detailed["components"]["database"]["error"].is_null(), "texts are for administrators");
    }
    world.close().await;
}

#[tokio::test]
async fn a_postgresql_that_refuses_us_is_503_as_one_that_is_away() {
    let world = World::start().await;
    let token = world.admin.client.bearer().expect("signed in");
    let settings = world.test.settings_in_process();
    let known = settings.database_url.as_ref().expect("is set").expose_secret().to_owned();
    let known = url::Url::parse(&known).expect("a URL");
    let (mut login, mut database) = (known.clone(), known);
    login.set_username("nobody_knows_this_one").expect("fits");
    database.set_path("nobody_made_this_one");
    for url in [login, database] {
        let settings = Settings { database_url: Some(url.as_str().into()), ..settings.clone() };
        let replica = Replica::start(settings).await;
        assert_all_unavailable(&replica, token).await;
    }
    world.close().await;
}

#[tokio::test]
async fn postgresql_may_go_and_come_back() {
    let test = TestEnv::create().await;
    let settings = test.settings_in_process();
    let (line, url) = Line::beside(settings.database_url.as_ref().expect("is set")).await;
    let replica = Replica::start(Settings { database_url: Some(url), ..settings }).await;
    let client = replica.nobody.register("admin@platform.example", PASSWORD).await;
    let submit = async || client.post("/api/workflows/execute", &json!({"code": "x = 1"})).await;
    let kept = submit().await.expect_status(StatusCode::OK).text("execution_id");

    for (name, away) in [("cut", Line::sever as fn(&Line, bool)), ("silent", Line::silence)] {
        away(&line, true);
        let slowest = assert_all_unavailable(&replica, client.bearer().expect("signed in")).await;
        println!("PostgreSQL {name}: 503 within {slowest:?}");

        away(&line, false);
        eventually("the api to recover", async || (submit().await.status == StatusCode::OK).then_some(()))
            .await;
        let listed = client.get("/api/executions").await.expect_status(StatusCode::OK);
        assert!(listed.body.contains(&kept), "what was answered is durable");
    }
    client.get("/health/ready").await.expect_status(StatusCode::OK);
    drop(replica);
    test.close().await;
}

#[tokio::test]
async fn connections_that_died_without_a_word_are_replaced() {
    let test = TestEnv::create().await;
    let settings = test.settings_in_process();
    let (line, url) = Line::beside(settings.database_url.as_ref().expect("is set")).await;
    let replica = Replica::start(Settings { database_url: Some(url), ..settings }).await;
    let client = replica.nobody.register("admin@platform.example", PASSWORD).await;
    let submit = async || client.post("/api/workflows/execute", &json!({"code": "x = 1"})).await.status;
    // As many at once as make both pools open all their connections.
    let many = async || join_all((0..16).map(|_| submit())).await;
    assert!(many().await.iter().all(|status| *status == StatusCode::OK));

    line.half_open();
    let began = Instant::now();
    // Clients that do not wait leave connections in the middle of a statement.
    join_all((0..16).map(|_| tokio::time::timeout(Duration::from_millis(50), submit()))).await;
    let mut refused = 0;
    while submit().await != StatusCode::OK {
        refused += 1;
        assert!(began.elapsed() < Duration::from_secs(20), "refused {refused} times");
    }
    println!("PostgreSQL half-open: recovered after {:?}, {refused} refused", began.elapsed());
    assert!(many().await.iter().all(|status| *status == StatusCode::OK), "no dead connection is left");
    assert!(began.elapsed() < Duration::from_secs(15));
    drop(replica);
    test.close().await;
}

#[tokio::test]
async fn a_subscription_that_died_without_a_word_is_made_anew() {
    let test = TestEnv::create().await;
    let settings = test.settings();
    let (line, url) = Line::beside(settings.redis_url.as_ref().expect("is set")).await;
    let teller = Platform::open(settings.clone()).expect("opens");
    let hearer = Settings { redis_url: Some(url), ..settings };
    let hearer = Platform::open(hearer).expect("opens");
    let mut events = hearer.events.everything();
    let mut hears = async || {
        let began = Instant::now();
        loop {
            teller.events.publish(Event::WorkspaceChanged);
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(100), events.recv()).await {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "nothing is heard any more");
        }
    };
    hears().await;

    line.half_open();
    let began = Instant::now();
    hears().await;
    println!("Redis half-open: events were heard again after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(15));
    test.close().await;
}

#[tokio::test]
async fn without_broker_and_redis_work_is_accepted() {
    let test = TestEnv::create().await;
    let settings = test.settings();
    let away = |url: &Option<SecretString>| url.as_ref().map(|url| at_port(url, free_port()));
    let settings = Settings {
        environment: Environment::Development,
        rabbitmq_url: away(&settings.rabbitmq_url),
        redis_url: away(&settings.redis_url),
        ..settings
    };
    let replica = Replica::start(settings).await;
    let client = replica.nobody.register("admin@platform.example", PASSWORD).await;
    let began = Instant::now();
    let reply = client.post("/api/workflows/execute", &json!({"code": "x = 1"})).await;
    println!("broker and Redis away: accepted after {:?}", began.elapsed());
    let id = reply.expect_status(StatusCode::OK).text("execution_id");
    assert!(began.elapsed() < PROMPT);
    let path = format!("/api/executions/{id}");
    assert_eq!(client.get(&path).await.text("status"), "Pending");
    client.get("/health/ready").await.expect_status(StatusCode::OK);
    let detailed = client.get("/health/detailed").await.expect_status(StatusCode::OK).json();
    assert_eq!(detailed["status"], "degraded");
    for (name, status) in [("database", "healthy"), ("redis", "unhealthy"), ("rabbitmq", "unhealthy")] {
        assert_eq!(detailed["components"][name]["status"], status, "{name}");
    }

    // Throttling is never off: the process counts while Redis cannot.
    let mut answers = Vec::new();
    for _ in 0..11 {
        let form = [("username", "admin@platform.example"), ("password", "a wrong password")];
        let request = client.request(Method::POST, "/auth/login").form(&form);
        answers.push(client.send(request).await.status.as_u16());
    }
    assert_eq!(answers.last(), Some(&429), "{answers:?}");
    drop(replica);
    test.close().await;
}
