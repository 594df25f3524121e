//! SIGTERM: nothing new is taken, what is under way ends, and nobody is failed by a restart.

use std::process::ExitStatus;

use reqwest::StatusCode;
use serde_json::json;
use testkit::{Process, eventually};

use crate::support::{Installation, status_of, submit, wait_for_end, wait_for_status};

/// As many as a worker of a test has slots.
const SLOTS: usize = 4;

#[tokio::test]
async fn an_api_that_stops_is_not_ready_first_and_lets_open_requests_end() {
    let Installation { env, mut api, jobs, client } = Installation::start().await;
    let gate = env.folder().join("gate");
    let request = tokio::spawn({
        let (client, gate) = (client.clone(), gate.clone());
        async move {
            let body = json!({ "workflow_id": "waits_in_sync", "input_data": { "path": gate } });
            client.post("/api/workflows/execute", &body).await
        }
    });
    eventually("the run of the request", || async {
        client.get("/api/executions?status=Running").await.body.contains("waits_in_sync").then_some(())
    })
    .await;

    api.terminate();

    // Every look is a connection of its own, as a balancer's are; the first that is not welcome says why.
    let ready = format!("{}/health/ready", api.url());
    eventually("the api to be unready", || async {
        let once =
            reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("valid options");
        let answer = once.get(&ready).send().await.ok()?;
        let status = answer.status();
        assert!(matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE), "{status}");
        (status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    std::fs::write(&gate, "").expect("the folder is ours");
    let answer = request.await.expect("the request does not break").expect_status(StatusCode::OK);
    assert_eq!((answer.text("status"), answer.text("result")), ("Success".into(), "waited".into()));
    assert!(api.ended().await.success(), "{}", api.log());
    drop(jobs);
    env.close().await;
}

#[tokio::test]
async fn a_worker_that_stops_ends_its_runs_and_hands_over_the_rest() {
    let Installation { env, api, mut jobs, client } = Installation::start().await;
    let gate = env.folder().join("gate");
    let mut runs = Vec::new();
    for _ in 0..2 * SLOTS {
        runs.push(submit(&client, "waits", &json!({ "path": gate })).await);
    }
    let (under_way, waiting) = runs.split_at(SLOTS);
    for id in under_way {
        wait_for_status(&client, id, "Running").await;
    }

    jobs.terminate();
    jobs.wait_for_output("waiting for runs to end").await;
    std::fs::write(&gate, "").expect("the folder is ours");
    let status: ExitStatus = jobs.ended().await;

    assert!(status.success(), "{}", jobs.log());
    for id in under_way {
        assert_eq!(status_of(&client, id).await, "Success");
    }
    for id in waiting {
        assert_eq!(status_of(&client, id).await, "Pending", "it is nobody's yet");
    }
    let next = Process::jobs(&env).await;
    let mut failed = 0;
    for id in &runs {
        failed += usize::from(wait_for_end(&client, id).await["status"] != "Success");
    }
    println!("drain: failed {failed} of {}", runs.len());
    assert_eq!(failed, 0);
    drop((api, next));
    env.close().await;
}
