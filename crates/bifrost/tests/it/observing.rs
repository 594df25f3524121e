//! What operators watch: figures, traces and log lines of real processes around real runs.

use std::collections::HashSet;

use domain::wakeup::Wakeups;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Collector, Figures, Launch, Process, TestEnv, eventually, free_port};

use crate::support::{EMAIL, PASSWORD, WORKFLOWS, submit, wait_for_end, wait_for_status, wait_for_workflow};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const TRACED: &str = r#"
import os

from bifrost import secrets, workflow, workflows


@workflow(execution_mode="sync")
def traced(context):
    return [context.traceparent, os.environ.get("TRACEPARENT")]


@workflow(execution_mode="sync")
async def starts_another():
    return await workflows.execute("traced", {}, wait=True)


@workflow(execution_mode="sync")
async def tells_secrets():
    print(await secrets.get("token"))
    raise ValueError(await secrets.get("token"))
"#;

/// An api and a worker that are watched.
pub(super) struct Watched {
    env: TestEnv,
    api: Process,
    jobs: Process,
    client: Client,
    pub(super) ports: [u16; 2],
}

impl Watched {
    pub(super) async fn start(variables: &[(&str, &str)]) -> Self {
        let env = TestEnv::with_files(&[("workflows.py", WORKFLOWS), ("traced.py", TRACED)]).await;
        let ports = [free_port(), free_port()];
        let with = |port: &str| {
            let port = ("METRICS_PORT", port.to_owned());
            let others = variables.iter().map(|(name, value)| (*name, (*value).to_owned()));
            std::iter::once(port).chain(others).collect::<Vec<_>>()
        };
        let [of_api, of_jobs] = ports.map(|port| with(&port.to_string()));
        let (of_api, of_jobs) = (borrowed(&of_api), borrowed(&of_jobs));
        let (api, jobs) = tokio::join!(Process::api_with(&env, &of_api), Process::jobs_with(&env, &of_jobs));
        let client = api.client().register(EMAIL, PASSWORD).await;
        wait_for_workflow(&client, "waits_in_sync").await;
        wait_for_workflow(&client, "tells_secrets").await;
        Self { env, api, jobs, client, ports }
    }

    /// Runs it to its end, with these headers.
    async fn execute(&self, workflow: &str, headers: &[(&str, &str)]) -> Value {
        let body = json!({ "workflow_id": workflow, "input_data": {} });
        let mut request = self.client.request(Method::POST, "/api/workflows/execute").json(&body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.client.send(request).await.expect_status(StatusCode::OK).json()
    }

    pub(super) async fn run(&self, workflow: &str, parameters: &Value) -> Value {
        let id = submit(&self.client, workflow, parameters).await;
        wait_for_end(&self.client, &id).await
    }

    pub(super) async fn close(self) {
        drop((self.api, self.jobs));
        self.env.close().await;
    }
}

fn borrowed<'a>(variables: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[tokio::test]
async fn figures_rise_by_exactly_what_happened() {
    let watched = Watched::start(&[]).await;
    let [api, jobs] = watched.ports;
    let before = (Figures::scrape(api).await, Figures::scrape(jobs).await);
    let mut ids = Vec::new();
    for workflow in ["says_so", "says_so", "says_so", "fails", "fails"] {
        let id = submit(&watched.client, workflow, &json!({})).await;
        wait_for_end(&watched.client, &id).await;
        ids.push(id);
    }
    let gate = watched.env.folder().join("gate");
    let waiting = submit(&watched.client, "waits", &json!({ "path": gate })).await;
    wait_for_status(&watched.client, &waiting, "Running").await;
    let during = Figures::scrape(jobs).await;
    watched.client.post(&format!("/api/executions/{waiting}/cancel"), &json!({})).await;
    wait_for_end(&watched.client, &waiting).await;

    let after = (Figures::scrape(api).await, Figures::scrape(jobs).await);
    let rise = |name: &str, labels: &[(&str, &str)]| {
        let rise = |(before, after): (&Figures, &Figures)| {
            (after.count(name, labels) - before.count(name, labels)) as i64
        };
        rise((&before.0, &after.0)) + rise((&before.1, &after.1))
    };
    for (status, times) in [("Success", 3), ("Failed", 2), ("Cancelled", 1), ("Timeout", 0)] {
        assert_eq!(rise("bifrost_executions_total", &[("status", status)]), times, "{status}");
    }
    assert_eq!(rise("bifrost_execution_duration_seconds_count", &[("status", "Success")]), 3);
    assert_eq!(rise("bifrost_executions_submitted_total", &[]), 6);
    assert_eq!(rise("bifrost_wakeups_total", &[("outcome", "confirmed")]), 6);
    let route = [("method", "POST"), ("route", "/api/workflows/execute"), ("status", "200")];
    assert_eq!(rise("http_server_request_duration_seconds_count", &route), 6);
    let slots = |figures: &Figures| {
        ["busy", "free"].map(|state| figures.get("bifrost_worker_slots", &[("state", state)]) as i64)
    };
    assert_eq!((slots(&during), slots(&after.1)), ([1, 3], [0, 4]));
    assert!(after.0.get("process_resident_memory_bytes", &[]) > 1e6);

    let series: Vec<&str> = after.0.series().chain(after.1.series()).collect();
    assert!(!series.iter().any(|series| ids.iter().any(|id| series.contains(id.as_str()))), "ids in labels");
    println!("6 submitted, 3 + 2 + 1 ended, counted exactly; {} series of two processes", series.len());
    watched.close().await;
}

#[tokio::test]
async fn what_waits_and_what_is_dead_is_shown() {
    let mut watched = Watched::start(&[]).await;
    watched.jobs.kill();
    for _ in 0..2 {
        submit(&watched.client, "says_so", &json!({})).await;
    }
    let prefix = watched.env.settings().queue_prefix;
    let wakeups = Wakeups::rabbit(&watched.env.services.rabbitmq_url, &prefix).expect("a URL");
    let shown = eventually("two that wait", || async {
        let figures = Figures::scrape(watched.ports[0]).await;
        let queue = [("queue", "workflow.executions")];
        let is_all = figures.count("bifrost_executions_waiting", &[]) == 2.0
            && figures.count("bifrost_queue_depth", &queue) == 2.0;
        is_all.then_some(figures)
    })
    .await;
    assert!(shown.get("bifrost_queue_oldest_age_seconds", &[]) > 0.0);
    assert!(shown.get("bifrost_readings_age_seconds", &[]) < 31.0);
    assert_eq!(shown.get("bifrost_schedule_lag_seconds", &[]), 0.0);

    wakeups.publish_raw(b"no wake-up".to_vec()).await.expect("published");
    let jobs = Process::jobs(&watched.env).await;
    eventually("a dead letter, and nothing that waits", || async {
        let figures = Figures::scrape(watched.ports[0]).await;
        let dead = figures.count("bifrost_dead_letters", &[("queue", "workflow.executions")]);
        (dead == 1.0 && figures.get("bifrost_executions_waiting", &[]) == 0.0).then_some(())
    })
    .await;
    drop(jobs);
    watched.close().await;
}

#[tokio::test]
async fn a_taken_port_stops_the_start_and_is_named() {
    let env = TestEnv::with_files(&[]).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();

    let launch = Launch::new("bifrost-jobs", env.folder()).in_env(&env).without("ADMIN_DATABASE_URL");
    let ended = launch.env("METRICS_PORT", &port).finish().await.expect_code(1);

    assert!(ended.stderr.contains(&port) && ended.stderr.contains("METRICS_PORT"), "{}", ended.stderr);
    env.close().await;
}

#[tokio::test]
async fn one_trace_leads_from_the_request_to_the_run_and_to_what_it_starts() {
    let collector = Collector::start().await;
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let watched = Watched::start(&variables).await;
    let header = format!("00-{TRACE}-{CALLER}-01");

    let answer = watched.execute("traced", &[("traceparent", &header)]).await;

    let server = collector.span(TRACE, "POST /api/workflows/execute", CALLER).await;
    let attempt = collector.span(TRACE, "attempt", &server.id).await;
    let claim = collector.span(TRACE, "claim", &attempt.id).await;
    let run = collector.span(TRACE, "run", &attempt.id).await;
    let record = collector.span(TRACE, "record", &attempt.id).await;
    let submit = collector.span(TRACE, "submit", &server.id).await;
    let process = collector.span(TRACE, "process", &run.id).await;
    let call = collector.span(TRACE, "call", &run.id).await;
    assert!(
        server.time.0 <= submit.time.0 && process.time.1 <= call.time.0,
        "{submit:?}\n{process:?}\n{call:?}"
    );
    let seen = format!("00-{TRACE}-{}-01", run.id);
    assert_eq!(answer["result"], json!([seen, seen]), "the workflow sees the span it is");
    assert!(claim.time.1 <= run.time.0 && run.time.1 <= record.time.0, "{claim:?}\n{run:?}\n{record:?}");
    let id = answer["execution_id"].as_str().expect("an id");
    assert!(attempt.attributes.contains(id), "{}", attempt.attributes);
    let mut database = watched.env.db.connect().await;
    let stored: String = sqlx::query_scalar("SELECT traceparent FROM executions WHERE id = $1::uuid")
        .bind(id)
        .fetch_one(&mut database)
        .await
        .expect("the row is there");
    assert_eq!(stored, format!("00-{TRACE}-{}-01", server.id), "the row holds the request's span");

    let other = "5bf92f3577b34da6a3ce929d0e0e4736";
    watched.execute("starts_another", &[("traceparent", &format!("00-{other}-{CALLER}-01"))]).await;
    let server = collector.span(other, "POST /api/workflows/execute", CALLER).await;
    let attempt = collector.span(other, "attempt", &server.id).await;
    let parent = collector.span(other, "run", &attempt.id).await;
    let child = collector.span(other, "attempt", &parent.id).await;
    collector.span(other, "run", &child.id).await;
    println!(
        "spans of one request: {}; with a child run: {}",
        collector.trace(TRACE).len(),
        collector.trace(other).len()
    );
    watched.close().await;
}

#[tokio::test]
async fn a_context_passes_through_where_nothing_is_exported_and_a_dead_collector_costs_nothing() {
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    for variables in [vec![], vec![("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere.as_str())]] {
        let watched = Watched::start(&variables).await;
        let header = format!("00-{TRACE}-{CALLER}-01");

        let answer = watched.execute("traced", &[("traceparent", &header)]).await;

        let seen = answer["result"][0].as_str().expect("a context").to_owned();
        assert!(seen.contains(TRACE), "{seen}");
        assert_eq!(seen == header, variables.is_empty(), "{seen}");
        assert_eq!(watched.run("says_so", &json!({})).await["status"], "Success");
        watched.close().await;
    }
}

#[tokio::test]
async fn json_lines_name_what_they_belong_to_and_hold_no_secret() {
    let variables =
        [("LOG_FORMAT", "json"), ("RUST_LOG", "info,lapin=off,api=debug,jobs=debug,domain=debug")];
    let watched = Watched::start(&variables).await;
    let organization = watched
        .client
        .post("/api/organizations", &json!({ "name": "Acme", "domain": "acme.example" }))
        .await
        .expect_status(StatusCode::CREATED)
        .text("id");
    let inside = watched.client.in_organization(&organization);
    let secret = "s3cret-value-nobody-may-read";
    let stored = inside.post("/api/secrets", &json!({ "secret_key": "token", "value": secret })).await;
    assert!(stored.status.is_success(), "{}", stored.body);
    let header = format!("00-{TRACE}-{CALLER}-01");
    let headers = [
        ("traceparent", header.as_str()),
        ("x-request-id", "order-42"),
        ("x-organization-id", &organization),
    ];

    let answer = watched.execute("tells_secrets", &headers).await;

    let id = answer["execution_id"].as_str().expect("an id").to_owned();
    let lines = |process: &Process| -> Vec<Value> {
        let log = process.log();
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    };
    let of_run = |lines: Vec<Value>| lines.into_iter().filter(|line| line["execution.id"] == *id).collect();
    let told: Vec<Value> = of_run(lines(&watched.api));
    let messages: HashSet<&str> = told.iter().filter_map(|line| line["message"].as_str()).collect();
    assert!(messages.is_superset(&HashSet::from(["submitted", "answered"])), "{messages:?}");
    for line in &told {
        assert_eq!(line["request.id"], "order-42", "{line}");
        assert_eq!(line["trace.id"], TRACE, "{line}");
        assert_eq!(line["organization.id"], *organization, "{line}");
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    let worked: Vec<Value> = eventually("the worker to tell of the end", || {
        let lines: Vec<Value> = of_run(lines(&watched.jobs));
        std::future::ready(lines.iter().any(|line| line["message"] == "the attempt ended").then_some(lines))
    })
    .await;
    for line in &worked {
        assert_eq!(line["trace.id"], TRACE, "{line}");
        assert_eq!(line["organization.id"], *organization, "{line}");
    }
    let everything = format!("{}{}", watched.api.log(), watched.jobs.log());
    let bearer = watched.client.bearer().expect("signed in").to_owned();
    let mut secrets = vec![secret.to_owned(), PASSWORD.to_owned(), bearer];
    let is_secret = |name: &str| name.contains("SECRET") || name.ends_with("_URL");
    secrets.extend(
        watched.env.variables().into_iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value),
    );
    for secret in &secrets {
        assert!(!everything.contains(secret.as_str()), "a secret is in the log");
    }
    println!(
        "{} lines of the request, {} of the run, {} secrets in none",
        told.len(),
        worked.len(),
        secrets.len()
    );
    watched.close().await;
}
