//! Connections that break in the middle of a run: it has its one effect, whoever was out of reach meanwhile.

use domain::executions::Status;
use serde_json::json;
use testkit::{Line, eventually};

use crate::faults::Worker;
use crate::support::{Engine, Installation, lines};

const WORKFLOWS: &str = r#"
import logging
import time
from bifrost import workflow

log = logging.getLogger(__name__)

@workflow
def slow(seconds: int):
    log.info("begun")
    time.sleep(seconds)
    log.info("done")
    return seconds

@workflow(isolation="pooled")
def quick():
    return 1
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_one_effect_though_its_worker_loses_every_connection_in_the_middle() {
    let site = Installation::with_file(WORKFLOWS).await;
    let scope = Engine::admin();
    let mut settings = site.settings.clone();
    let mut lines_to = Vec::new();
    for url in [&mut settings.database_url, &mut settings.rabbitmq_url, &mut settings.redis_url] {
        let (line, over) = Line::beside(url.as_ref().expect("is set")).await;
        *url = Some(over);
        lines_to.push(line);
    }
    let rabbitmq = &lines_to[1];
    let worker = Worker::start(&settings, 0);
    let status = async |id| site.get(id).await.status;

    let slow = site.submit(&scope, "slow", json!({"seconds": 5})).await;
    eventually("the run to begin", || async {
        lines(&site.platform, slow).await.iter().any(|line| line.message == "begun").then_some(())
    })
    .await;
    rabbitmq.sever(true);
    let mut quick = site.submit(&scope, "quick", json!({})).await;
    // A delivery that the worker still held would be here again: what a run takes is acknowledged when it is claimed, so
    // no timeout of the broker reaches a run, however long it is.
    eventually("the new wake-up alone", || async {
        (site.platform.wakeups.depth().await.ok()? == 1).then_some(())
    })
    .await;
    rabbitmq.sever(false);
    let mut cuts = 1;
    loop {
        eventually("a run after the cut", || async {
            (status(quick).await == Status::Success).then_some(())
        })
        .await;
        if status(slow).await.is_terminal() {
            break;
        }
        lines_to.iter().for_each(Line::cut);
        cuts += 1;
        quick = site.submit(&scope, "quick", json!({})).await;
    }

    let run = site.get(slow).await;
    let said: Vec<String> = lines(&site.platform, slow).await.into_iter().map(|line| line.message).collect();
    println!(
        "connections cut {cuts} times in the middle of a run: effects 1, attempts {}, {}",
        run.attempt, run.status
    );
    assert!(cuts > 3, "cut {cuts} times");
    assert_eq!((run.status, run.attempt), (Status::Success, 1), "{:?}", run.error_message);
    assert_eq!(said, ["begun", "done"]);
    drop(worker);
    site.close().await;
}
