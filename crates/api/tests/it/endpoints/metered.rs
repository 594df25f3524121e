//! `endpoint_rate_limit`: how many calls of one caller are taken, whoever of the replicas is asked.

use std::time::Duration;

use domain::settings::{Environment, Settings};
use futures::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::json;
use testkit::{Client, Reply, TestEnv, eventually_within};

use crate::support::{Replica, World};

/// Limits are off in tests, so this one is of development. An address may be the peer's, or what it says.
fn settings(settings: Settings) -> Settings {
    Settings { environment: Environment::Development, trusted_proxies: "127.0.0.1".into(), ..settings }
}

async fn with_endpoints(world: &World) {
    let metered = |name: &str, calls: u32, seconds: u32| {
        json!({
            "name": name, "execution_mode": "async", "endpoint_rate_limit": {"calls": calls, "seconds": seconds},
        })
    };
    let mut open = metered("open", 10, 3_600);
    open["public_endpoint"] = json!(true);
    let mut signed = metered("signed", 1, 60);
    signed["signature"] = json!({
        "secret": "hook", "header": "X-Signature", "algorithm": "sha256", "encoding": "hex", "content": "{body}",
        "tolerance_seconds": 300,
    });
    let free = json!({"name": "free", "execution_mode": "async"});
    world.with_endpoints(&[metered("metered", 20, 60), metered("quick", 1, 1), open, signed, free]).await;
}

fn post(client: &Client, endpoint: &str) -> RequestBuilder {
    client.request(Method::POST, &format!("/api/endpoints/{endpoint}"))
}

fn with_key(client: &Client, endpoint: &str, key: &str) -> RequestBuilder {
    post(client, endpoint).header("x-bifrost-key", key)
}

/// How many of these were taken; all others were refused and told when to come back, within these seconds.
fn taken(replies: &[Reply], seconds: std::ops::RangeInclusive<u64>) -> usize {
    for reply in replies.iter().filter(|reply| reply.status != StatusCode::OK) {
        assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
        let pause: u64 = reply.header("retry-after").and_then(|text| text.parse().ok()).expect("Retry-After");
        assert!(seconds.contains(&pause), "{pause} s are not within {seconds:?}");
    }
    replies.iter().filter(|reply| reply.status == StatusCode::OK).count()
}

#[tokio::test]
async fn each_caller_is_taken_exactly_as_often_as_the_file_says_at_any_replica() {
    let test = TestEnv::create().await;
    let own = settings(Settings { rabbitmq_url: None, ..test.settings() });
    let world = World::on(test, own.clone()).await;
    let other = Replica::start(own).await;
    let replicas = [world.nobody(), &other.nobody];
    with_endpoints(&world).await;
    let admin = &world.admin.client;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let ours = World::workflow_key(&admin.in_organization(acme), &json!({})).await;
    let theirs = World::workflow_key(&admin.in_organization(rival), &json!({})).await;

    // What is refused for another reason does not count.
    let wrong = world
        .nobody()
        .send(world.nobody().request(Method::PUT, "/api/endpoints/metered").header("x-bifrost-key", &ours));
    wrong.await.expect_status(StatusCode::METHOD_NOT_ALLOWED);
    let forged = join_all((0..5).map(|_| {
        let request = with_key(world.nobody(), "signed", &ours).header("x-signature", "00");
        world.nobody().send(request)
    }));
    let forged = forged.await;
    assert!(forged.iter().all(|reply| reply.status == StatusCode::UNAUTHORIZED), "{forged:?}");
    let both = join_all([&ours, &theirs].map(|key| {
        join_all((0..40).map(|turn| {
            let client = replicas[turn % 2];
            client.send(with_key(client, "metered", key))
        }))
    }));
    let both = both.await;
    let by_key: Vec<usize> = both.iter().map(|replies| taken(replies, 1..=60)).collect();
    let said = both[0].iter().find(|reply| reply.status == StatusCode::TOO_MANY_REQUESTS).expect("one");
    assert!(said.detail().contains("too many requests"), "{}", said.detail());
    assert_eq!(by_key, [20, 20]);
    assert_eq!(world.count("SELECT count(*) FROM executions").await, 40, "what is refused starts nothing");

    // Other endpoints are not that one, and those who need no key count by their address.
    let free = join_all((0..40).map(|_| world.nobody().send(with_key(world.nobody(), "free", &ours)))).await;
    assert_eq!(taken(&free, 1..=1), 40);
    let open = |address: &'static str| {
        join_all((0..30).map(move |turn| {
            let client = replicas[turn % 2];
            client.send(post(client, "open").header("x-forwarded-for", address))
        }))
    };
    let by_address = [
        taken(&open("198.51.100.1").await, 3_500..=3_600),
        taken(&open("198.51.100.2").await, 3_500..=3_600),
    ];
    assert_eq!(by_address, [10, 10]);
    println!(
        "endpoint_rate_limit at 2 replicas: 20 a minute and 40 calls of each of 2 keys, taken {by_key:?}; 10 an hour and 30 calls of each of 2 addresses, taken {by_address:?}"
    );
    world.close().await;
}

#[tokio::test]
async fn a_window_ends_and_the_limit_holds_without_redis() {
    let test = TestEnv::create().await;
    // Nobody listens there.
    let away = Settings { redis_url: Some("redis://127.0.0.1:9/".into()), ..test.settings_in_process() };
    let world = World::on(test, settings(away)).await;
    with_endpoints(&world).await;
    let key = World::workflow_key(&world.admin.client, &json!({})).await;
    let client = world.nobody();
    let calls = |endpoint: &'static str, count: usize| {
        let key = &key;
        join_all((0..count).map(move |_| client.send(with_key(client, endpoint, key))))
    };
    let first = taken(&calls("metered", 30).await, 1..=60);
    let quick = taken(&calls("quick", 5).await, 1..=1);
    assert_eq!((first, quick >= 1), (20, true));
    eventually_within(Duration::from_secs(10), "the next window", || async {
        (taken(&calls("quick", 1).await, 1..=1) == 1).then_some(())
    })
    .await;
    println!("endpoint_rate_limit with Redis away: 30 calls in one process, taken {first}");
    world.close().await;
}
