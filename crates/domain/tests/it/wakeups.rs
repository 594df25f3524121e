//! Conformance of the two arms of wake-ups and of the cache: what holds for one holds for the other.

use std::time::Duration;

use domain::cache::Cache;
use domain::id::ExecutionId;
use domain::process;
use domain::wakeup::dead_letters::{DeadLetter, Moved, SHOWN};
use domain::wakeup::queue::Queue;
use domain::wakeup::topology::Topology;
use domain::wakeup::{Wakeup, Wakeups};
use lapin::options::{ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use secrecy::{ExposeSecret, SecretString};
use testkit::TestEnv;
use tokio_util::sync::CancellationToken;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn wakeup() -> Wakeup {
    Wakeup::new(ExecutionId::generate(), None, 5, None)
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"))
}

/// Runs one check against both arms.
async fn against_both(check: impl AsyncFn(Wakeups)) {
    check(Wakeups::in_process()).await;
    let test = TestEnv::create().await;
    let settings = test.settings();
    let url = settings.rabbitmq_url.clone().expect("the services are up");
    let rabbit = Wakeups::rabbit(&url, &settings.queue_prefix).expect("the URL is read");
    check(rabbit.clone()).await;
    rabbit.remove_topology().await.expect("cleans up");
    test.close().await;
}

#[tokio::test]
async fn what_is_published_is_delivered_in_order_once_acknowledged() {
    against_both(async |wakeups| {
        let sent: Vec<Wakeup> = (0..50).map(|_| wakeup()).collect();
        within("publish", wakeups.publish_confirmed(sent.clone())).await.expect("confirmed");
        let mut consumer = wakeups.consume(64);
        let mut received = Vec::new();
        while received.len() < sent.len() {
            let deliveries = within("delivery", consumer.next(16)).await;
            received.extend(deliveries.iter().map(|delivery| delivery.wakeup().clone()));
            consumer.ack(deliveries).await;
        }
        assert_eq!(received, sent);
        assert_eq!(wakeups.depth().await.expect("counts"), 0);
    })
    .await;
}

#[tokio::test]
async fn what_a_dead_consumer_held_is_delivered_again() {
    against_both(async |wakeups| {
        let sent = wakeup();
        within("publish", wakeups.publish_confirmed(vec![sent.clone()])).await.expect("confirmed");
        let mut first = wakeups.consume(1);
        let held = within("delivery", first.next(1)).await;
        assert_eq!(held[0].wakeup(), &sent);
        drop(held);
        drop(first);

        let mut second = wakeups.consume(1);
        let again = within("redelivery", second.next(1)).await;
        assert_eq!(again[0].wakeup(), &sent);
        second.ack(again).await;
    })
    .await;
}

#[tokio::test]
async fn poison_goes_to_the_dead_letters_and_others_flow() {
    against_both(async |wakeups| {
        let mut consumer = wakeups.consume(8);
        let poison: [&[u8]; 3] = [b"not json", br#"{"v": 2}"#, &[b'x'; 20_000]];
        for message in poison {
            within("publish", wakeups.publish_raw(message.to_vec())).await.expect("confirmed");
        }
        let healthy = wakeup();
        within("publish", wakeups.publish_confirmed(vec![healthy.clone()])).await.expect("confirmed");

        let delivered = within("delivery", consumer.next(1)).await;
        assert_eq!(delivered[0].wakeup(), &healthy);
        consumer.ack(delivered).await;
        let letters = dead(&wakeups, poison.len()).await;
        for message in poison {
            let shown = &message[..message.len().min(SHOWN)];
            let letter = letters.iter().find(|letter| letter.payload == shown).expect("is among them");
            assert_eq!(letter.is_cut, message.len() > SHOWN);
            assert!(letter.reason.starts_with("rejected: "), "{}", letter.reason);
        }
        // Looking at them adds nothing to them.
        for _ in 0..2 {
            // What was looked at is back.
            let all = (Queue::Executions, poison.len() as u64);
            assert!(wakeups.count_dead_letters().await.expect("counts").contains(&all));
            assert_eq!(
                wakeups.dead_letters(&[Queue::Executions], 10).await.expect("reads").len(),
                poison.len()
            );
        }
    })
    .await;
}

/// The dead letters of a queue once there are so many.
async fn dead(wakeups: &Wakeups, count: usize) -> Vec<DeadLetter> {
    within("dead letters", async {
        loop {
            let letters = wakeups.dead_letters(&[Queue::Executions], 100).await.expect("reads");
            if letters.len() == count {
                return letters;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Publishes so many messages that nobody can read, and waits until they are dead.
async fn killed(wakeups: &Wakeups, count: usize) -> Vec<DeadLetter> {
    let mut consumer = wakeups.consume(8);
    for number in 0..count {
        let poison = format!("poison {number}").into_bytes();
        within("publish", wakeups.publish_raw(poison)).await.expect("confirmed");
    }
    // In one process a message dies when somebody takes it.
    let nothing = tokio::spawn(async move { consumer.next(1).await });
    let letters = dead(wakeups, count).await;
    nothing.abort();
    letters
}

#[tokio::test]
async fn looking_at_dead_letters_hides_none_from_others_and_keeps_their_order() {
    against_both(async |wakeups| {
        let letters = killed(&wakeups, 5).await;

        let looks = (0..4).map(|_| wakeups.dead_letters(&[Queue::Executions], 100));
        for seen in within("looks", futures::future::join_all(looks)).await {
            assert_eq!(seen.expect("reads"), letters);
        }
        for _ in 0..3 {
            let oldest = wakeups.dead_letters(&[Queue::Executions], 1).await.expect("reads");
            assert_eq!(oldest, letters[..1]);
        }

        let chosen = [letters[0].id.clone(), letters[3].id.clone(), "nope".to_owned()];
        let (moved, _) = tokio::join!(
            wakeups.drop_dead_letters(Queue::Executions, Some(&chosen)),
            wakeups.dead_letters(&[Queue::Executions], 100),
        );
        assert_eq!(moved.expect("drops"), Moved { moved: 2, failed: 1 });
        let unknown = wakeups.replay_dead_letters(Queue::Executions, Some(&chosen[2..])).await;
        assert_eq!(unknown.expect("looks"), Moved { moved: 0, failed: 1 });
        assert_eq!(dead(&wakeups, 3).await.len(), 3);
    })
    .await;
}

#[tokio::test]
async fn dead_letters_stay_what_they_are_however_often_they_are_looked_at_and_are_counted_meanwhile() {
    against_both(async |wakeups| {
        let letters = killed(&wakeups, 60).await;
        // A broker drops what was handed back twenty times.
        for _ in 0..22 {
            let seen = wakeups.dead_letters(&[Queue::Executions], 100).await;
            assert_eq!(seen.expect("reads"), letters);
        }
        for _ in 0..3 {
            let look = wakeups.dead_letters(&[Queue::Executions], 100);
            let (seen, counts) = tokio::join!(look, wakeups.count_dead_letters());
            assert_eq!(seen.expect("reads"), letters);
            assert!(counts.expect("counts").contains(&(Queue::Executions, 60)));
        }
    })
    .await;
}

#[tokio::test]
async fn the_depth_counts_what_waits() {
    against_both(async |wakeups| {
        within("publish", wakeups.publish_confirmed((0..7).map(|_| wakeup()).collect()))
            .await
            .expect("confirmed");
        within("the count", async {
            while wakeups.depth().await.expect("counts") != 7 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    })
    .await;
}

/// A channel of the test's own, which confirms.
async fn channel(url: &SecretString) -> Channel {
    let options = ConnectionProperties::default();
    let connection = Connection::connect(url.expose_secret(), options).await.expect("connects");
    let channel = connection.create_channel().await.expect("opens");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    channel
}

#[tokio::test]
async fn what_the_broker_refuses_or_returns_is_a_failure() {
    let test = TestEnv::create().await;
    let settings = test.settings();
    let url = settings.rabbitmq_url.clone().expect("the services are up");
    let wakeups = Wakeups::rabbit(&url, &settings.queue_prefix).expect("the URL is read");
    let publish = async || within("an answer", wakeups.publish_confirmed(vec![wakeup()])).await;
    publish().await.expect("all is well");
    let topology = Topology::new(&settings.queue_prefix);
    let channel = channel(&url).await;
    let (direct, key) = (topology.direct(), topology.key_of(Queue::Executions));

    // A second queue that takes nothing: the broker answers for both with a refusal.
    let full = format!("{}full", settings.queue_prefix);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    channel
        .queue_declare(full.as_str().into(), QueueDeclareOptions::default(), arguments)
        .await
        .expect("declares");
    let bind = QueueBindOptions::default();
    channel
        .queue_bind(full.as_str().into(), direct.as_str().into(), key.into(), bind, FieldTable::default())
        .await
        .expect("binds");
    let refused = publish().await.expect_err("is refused");
    channel.queue_delete(full.into(), QueueDeleteOptions::default()).await.expect("deletes");
    publish().await.expect("all is well again");

    let unbound = topology.queue(Queue::Executions);
    channel
        .queue_unbind(unbound.as_str().into(), direct.as_str().into(), key.into(), FieldTable::default())
        .await
        .expect("unbinds");
    let returned = publish().await.expect_err("is returned");
    topology.declare(&channel).await.expect("binds again");
    publish().await.expect("all is well again");
    for failed in [refused, returned] {
        assert!(matches!(failed, domain::Error::Unavailable { .. }), "{failed:?}");
    }
    println!("published with confirms: all well 3/3 told as well, refused and returned 2/2 told as failures");
    wakeups.remove_topology().await.expect("cleans up");
    test.close().await;
}

#[tokio::test]
async fn a_queue_that_stands_with_other_arguments_ends_the_start_and_is_named() {
    let test = TestEnv::create().await;
    let settings = test.settings();
    let url = settings.rabbitmq_url.clone().expect("the services are up");
    let topology = Topology::new(&settings.queue_prefix);
    let others = topology.queue(Queue::GitSync);
    let channel = channel(&url).await;
    channel
        .queue_declare(others.as_str().into(), QueueDeclareOptions::default(), FieldTable::default())
        .await
        .expect("declares");

    let platform = domain::Platform::open(settings).expect("opens");
    let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
    let end = ended.clone();
    let work = |told: CancellationToken| async move {
        told.cancelled().await;
        // What is under way may end.
        tokio::task::yield_now().await;
        end.cancel();
        Ok::<_, domain::Error>(())
    };
    let starting = process::with_own_queues(&platform, &stop, work);
    let refused = within("the end of the start", starting).await.expect_err("does not start");
    assert!(ended.is_cancelled(), "the work was cut off");
    assert!(!stop.is_cancelled(), "a signal after it would be taken for the second");
    for named in [&*others, "QUEUE_PREFIX"] {
        assert!(refused.to_string().contains(named), "{refused}");
    }
    let asked = within("an answer", platform.wakeups.ping()).await;
    assert!(matches!(asked, Err(domain::Error::Unavailable { .. })), "{asked:?}");
    assert!(platform.wakeups.conflict().is_some_and(|conflict| conflict.contains(&others)));

    // Whatever ends it is found without a new start.
    channel.queue_delete(others.into(), QueueDeleteOptions::default()).await.expect("deletes");
    within("the end of the conflict", async {
        while platform.wakeups.ping().await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(platform.wakeups.conflict(), None);
    platform.wakeups.remove_topology().await.expect("cleans up");
    platform.close().await;
    test.close().await;
}

#[tokio::test]
async fn a_dead_letter_route_that_leads_nowhere_is_found_at_start() {
    let test = TestEnv::create().await;
    let settings = test.settings();
    let url = settings.rabbitmq_url.clone().expect("the services are up");
    let topology = Topology::new(&settings.queue_prefix);
    let channel = channel(&url).await;
    topology.declare(&channel).await.expect("declares");
    topology.probe(&channel).await.expect("every route leads to its queue");
    let exchange = format!("{}bifrost.dlx", settings.queue_prefix);
    for queue in Queue::ALL {
        let dead = topology.dead(&topology.queue(queue));
        channel
            .queue_unbind(
                dead.as_str().into(),
                exchange.as_str().into(),
                dead.as_str().into(),
                FieldTable::default(),
            )
            .await
            .expect("unbinds");
        let found = topology.probe(&channel).await.expect_err("leads nowhere");
        assert!(found.to_string().contains(&dead), "{found}");
        topology.declare(&channel).await.expect("declares again");
        topology.probe(&channel).await.expect("leads there again");
    }
    println!("dead-letter routes: {0}/{0} proven, {0}/{0} found when they lead nowhere", Queue::ALL.len());
    topology.remove(&channel).await.expect("cleans up");
    test.close().await;
}

#[tokio::test]
async fn counters_count_within_their_window_and_apart() {
    let test = TestEnv::create().await;
    let settings = test.settings();
    let url = settings.redis_url.clone().expect("the services are up");
    for cache in [Cache::in_process(), Cache::redis(&url, &settings.redis_prefix).expect("the URL is read")] {
        cache.ping().await.expect("answers");
        let minute = Duration::from_secs(60);
        let counts = futures::future::join_all((0..10).map(|_| cache.count("login:a", minute))).await;
        assert_eq!(counts.into_iter().max(), Some(10));
        assert_eq!(cache.count("login:b", minute).await, 1, "another key");
        let (count, rest) = cache.count_and_rest("login:a", minute).await;
        assert!(count == 11 && rest <= minute && rest > Duration::from_secs(30), "{count} {rest:?}");

        // Counted many times within its window: one that each count prolonged would never end.
        let short = Duration::from_millis(200);
        cache.count("short", short).await;
        testkit::eventually("the end of a window", async || {
            (cache.count("short", short).await == 1).then_some(())
        })
        .await;
    }
    test.close().await;
}

#[tokio::test]
async fn throttling_goes_on_without_redis() {
    let cache = Cache::redis(&"redis://127.0.0.1:1/0".into(), "test").expect("the URL is read");
    assert!(cache.ping().await.is_err());
    let minute = Duration::from_secs(60);
    assert_eq!((cache.count("k", minute).await, cache.count("k", minute).await), (1, 2));
}
