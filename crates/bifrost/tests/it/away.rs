//! Broker and Redis that are away when the processes start: said, survived, and found when they come.

use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use testkit::{Process, TestEnv, free_port};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

use crate::support::{EMAIL, PASSWORD, WORKFLOWS, submit, wait_for_end, wait_for_workflow};

/// An address where a service will be, once [`Self::open`] is called.
struct Door {
    service: SocketAddr,
    port: u16,
    url: String,
}

impl Door {
    fn closed(service: &SecretString) -> Self {
        let mut url = Url::parse(service.expose_secret()).expect("a URL");
        let host = url.host_str().expect("it names a host").to_owned();
        let service = format!("{host}:{}", url.port().expect("the services of the tests name their ports"));
        let port = free_port();
        url.set_host(Some("127.0.0.1")).expect("a host fits");
        url.set_port(Some(port)).expect("a port fits");
        Self { service: service.parse().expect("an address"), port, url: url.into() }
    }

    /// Lets everybody through to the service.
    async fn open(&self) -> JoinHandle<()> {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("the port was free");
        let service = self.service;
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(service).await {
                        // It ends when either side does.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        })
    }
}

#[tokio::test]
async fn broker_and_redis_away_at_the_start_are_named_and_runs_are_accepted_until_they_come() {
    let env = TestEnv::with_files(&[("workflows.py", WORKFLOWS)]).await;
    let (broker, redis) = (Door::closed(&env.services.rabbitmq_url), Door::closed(&env.services.redis_url));
    let away = [("RABBITMQ_URL", &*broker.url), ("REDIS_URL", &*redis.url)];

    let mut api = Process::api_with(&env, &away).await;
    let mut jobs = Process::jobs_with(&env, &away).await;
    for process in [&mut api, &mut jobs] {
        process.wait_for_output("RabbitMQ").await;
        process.wait_for_output("Redis").await;
    }
    let client = api.client().register(EMAIL, PASSWORD).await;
    wait_for_workflow(&client, "says_so").await;
    let early = submit(&client, "says_so", &json!({})).await;
    let health = client.get("/health/detailed").await.json();
    assert_eq!(health["status"], "degraded", "{health:#}");

    let doors = [broker.open().await, redis.open().await];

    assert_eq!(wait_for_end(&client, &early).await["status"], "Success");
    testkit::eventually("everything to be well", || async {
        (client.get("/health/detailed").await.json()["status"] == "healthy").then_some(())
    })
    .await;
    let late = submit(&client, "says_so", &json!({})).await;
    assert_eq!(wait_for_end(&client, &late).await["status"], "Success");

    drop((api, jobs));
    doors.iter().for_each(JoinHandle::abort);
    env.close().await;
}
