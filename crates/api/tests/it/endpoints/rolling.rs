//! A rolling restart under load: whatever was accepted is there, and no call meets a server that does not know its route.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use api::AppState;
use domain::Platform;
use domain::settings::Settings;
use futures::StreamExt as _;
use futures::stream;
use reqwest::StatusCode;
use serde_json::json;
use testkit::eventually;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::World;

const CALLS: usize = 2_000;
const AT_ONCE: usize = 16;
const RESTARTS: usize = 4;

/// The addresses a balancer sends to: those of ready servers.
type Ready = Arc<Mutex<Vec<String>>>;

/// Starts a server and puts it in front of the others.
async fn start(
    settings: &Settings,
    ready: &Ready,
) -> (String, CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let state = AppState::new(Platform::open(settings.clone()).expect("opens")).expect("there is a key");
    let stop = CancellationToken::new();
    let serving = tokio::spawn(api::serve(listener, state, stop.clone()));
    ready.lock().expect("nobody panics").push(address.clone());
    (address, stop, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_accepted_call() {
    let world = World::start().await;
    world.with_endpoints(&[json!({"name": "collect", "execution_mode": "async"})]).await;
    let key = World::workflow_key(&world.admin.client, &json!({})).await;
    let settings = (*world.platform().settings).clone();
    let ready = Ready::default();
    let mut servers = vec![start(&settings, &ready).await, start(&settings, &ready).await];

    let (done, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let calls = {
        let (ready, done, again) = (ready.clone(), done.clone(), again.clone());
        let call = move |number: usize| {
            let (http, key, ready, done, again) =
                (http.clone(), key.clone(), ready.clone(), done.clone(), again.clone());
            async move {
                let mut attempt = 0;
                loop {
                    let address = {
                        let ready = ready.lock().expect("nobody panics");
                        ready[(number + attempt) % ready.len()].clone()
                    };
                    let request =
                        http.post(format!("{address}/api/endpoints/collect")).header("x-bifrost-key", &key);
                    // What a careful caller sends: a repeated call is the same execution.
                    let sent = request
                        .header("idempotency-key", format!("call-{number}"))
                        .json(&json!({"count": number}))
                        .send();
                    match sent.await {
                        Ok(answer) => {
                            done.fetch_add(1, Ordering::Relaxed);
                            let status = answer.status();
                            let body: serde_json::Value = answer.json().await.unwrap_or_default();
                            return (status, body["execution_id"].as_str().map(str::to_owned));
                        }
                        // The connection ended with its server.
                        Err(_) => {
                            again.fetch_add(1, Ordering::Relaxed);
                            attempt += 1;
                            assert!(attempt < 50, "no server answers");
                        }
                    }
                }
            }
        };
        tokio::spawn(stream::iter((0..CALLS).map(call)).buffer_unordered(AT_ONCE).collect::<Vec<_>>())
    };
    for restart in 1..=RESTARTS {
        let due = CALLS * restart / (RESTARTS + 1);
        eventually("calls to be answered", || async { (done.load(Ordering::Relaxed) >= due).then_some(()) })
            .await;
        servers.push(start(&settings, &ready).await);
        let (address, stop, serving) = servers.remove(0);
        ready.lock().expect("nobody panics").retain(|ready| *ready != address);
        stop.cancel();
        serving.await.expect("ends").expect("drains");
    }
    let answers = calls.await.expect("all are answered");

    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status != StatusCode::OK).collect();
    let ids: HashSet<&String> = answers.iter().filter_map(|(_, id)| id.as_ref()).collect();
    let stored = world.count("SELECT count(*) FROM executions").await;
    println!(
        "rolling restart: {CALLS} calls, {RESTARTS} restarts, refused {}, not found {}, lost {}, sent again {}",
        refused.len(),
        refused.iter().filter(|(status, _)| *status == StatusCode::NOT_FOUND).count(),
        ids.len() as i64 - stored,
        again.load(Ordering::Relaxed)
    );
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!((ids.len(), stored), (CALLS, CALLS as i64));
    for (_, stop, serving) in servers {
        stop.cancel();
        serving.await.expect("ends").expect("drains");
    }
    world.close().await;
}
