//! Conformance of the two arms of live events.

use std::time::Duration;

use chrono::Utc;
use deadpool_redis::redis;
use domain::events::{Event, Events, Lines, LiveLine, Update};
use domain::executions::Status;
use domain::id::{ExecutionId, UserId};
use secrecy::ExposeSecret;
use testkit::TestEnv;

const PATIENCE: Duration = Duration::from_secs(10);

fn update(execution_id: ExecutionId, status: Status) -> Event {
    let somebody = (UserId::SYSTEM, "System".into());
    Event::from(Update {
        result: Some(serde_json::value::RawValue::from_string(r#"{"a":  1}"#.into()).expect("JSON")),
        result_type: Some("json".into()),
        last_sequence: Some(1),
        ..Update::new(execution_id, None, "w".into(), somebody, status, 1)
    })
}

fn line(execution_id: ExecutionId, sequence: i64) -> Event {
    let line = LiveLine {
        sequence,
        user_sequence: None,
        attempt: 1,
        level: "INFO".into(),
        message: "hello".into(),
        data: None,
        logged_at: Utc::now(),
    };
    Event::Lines(Lines { execution_id, lines: vec![line] })
}

#[tokio::test]
async fn a_watcher_hears_of_its_own_execution_only() {
    let test = TestEnv::create().await;
    let settings = test.settings();
    let url = settings.redis_url.clone().expect("the services are up");
    let redis = Events::redis(&url, &settings.redis_prefix).expect("the URL is read");
    for events in [Events::in_process(), redis] {
        let (mine, other) = (ExecutionId::generate(), ExecutionId::generate());
        let mut watch = events.watch(mine, true);
        // A subscription takes a moment to reach Redis: repeat until the first line is heard.
        let first = tokio::time::timeout(PATIENCE, async {
            loop {
                events.publish(line(other, 1));
                events.publish(line(mine, 1));
                if let Ok(event) = tokio::time::timeout(Duration::from_millis(100), watch.next()).await {
                    return event;
                }
            }
        })
        .await
        .expect("hears");
        assert!(matches!(&*first, Event::Lines(lines) if lines.execution_id == mine));

        events.publish(update(other, Status::Failed));
        events.publish(update(mine, Status::Running));
        events.publish(update(mine, Status::Success));
        let end = watch.terminal(PATIENCE).await.expect("hears the end");
        assert_eq!((end.execution_id, end.status), (mine, Status::Success));
        assert_eq!(
            end.result.map(|result| result.get().to_owned()).as_deref(),
            Some(r#"{"a":  1}"#),
            "passed through untouched"
        );
    }
    test.close().await;
}

#[tokio::test]
async fn a_large_result_is_left_to_the_row() {
    let Event::Update(update) = update(ExecutionId::generate(), Status::Success) else { unreachable!() };
    let large = serde_json::value::to_raw_value(&"x".repeat(100_000)).expect("JSON");
    let update = update.with_result(Some(large));
    assert!(update.result.is_none() && update.result_omitted);
}

#[tokio::test]
async fn changes_of_state_go_to_those_alone_who_have_somebody_to_tell() {
    let test = TestEnv::create().await;
    let settings = test.settings();
    let url = settings.redis_url.clone().expect("the services are up");
    let worker = Events::redis(&url, &settings.redis_prefix).expect("the URL is read");
    let mut orders = worker.orders();
    let mut server = redis::Client::open(url.expose_secret()).expect("a URL");
    let updates = format!("{}:updates", settings.redis_prefix);
    let mut hear = async || {
        loop {
            worker.publish(update(ExecutionId::generate(), Status::Success));
            worker.publish(Event::WorkspaceChanged);
            if let Ok(event) = tokio::time::timeout(Duration::from_millis(100), orders.recv()).await {
                return event.expect("hears");
            }
        }
    };
    let heard = tokio::time::timeout(PATIENCE, hear()).await.expect("hears what there is to do");
    assert!(matches!(&*heard, Event::WorkspaceChanged), "{heard:?}");
    let mut hearers = || {
        let (_, count): (String, usize) =
            redis::cmd("PUBSUB").arg("NUMSUB").arg(&updates).query(&mut server).expect("answers");
        count
    };
    assert_eq!(hearers(), 0, "nobody waits for an execution there");

    let watched = ExecutionId::generate();
    let mut watch = worker.watch(watched, false);
    let end = async {
        loop {
            worker.publish(update(watched, Status::Success));
            if let Some(end) = watch.terminal(Duration::from_millis(100)).await {
                return end;
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, end).await.expect("hears the end");
    assert_eq!(end.execution_id, watched);
    assert_eq!(hearers(), 1);
    test.close().await;
}
