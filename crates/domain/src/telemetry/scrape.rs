//! `/metrics` on a port of its own, for Prometheus alone: loopback unless `METRICS_ADDR` says otherwise.
//!
//! What is this process's own is read at each scrape. What all processes share (the queue, the schedules, the broker)
//! is read by one of them every few seconds and kept in the cache (`readings.rs`): scraping more often, or more
//! processes, asks PostgreSQL nothing more.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::{EXECUTION_BUCKETS, EXECUTION_DURATION, HTTP_BUCKETS, HTTP_DURATION};
use super::metrics::{connections, describe, queue, waiting};
use crate::Platform;
use crate::readings::{self, Readings};

const CONTENT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The text of a histogram is made of what was recorded since the last time: without a scraper nobody would empty it.
const UPKEEP: std::time::Duration = std::time::Duration::from_secs(5);

type Look = Box<dyn Fn() + Send + Sync>;

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
static LOOKS: Mutex<Vec<Look>> = Mutex::new(Vec::new());

/// Has `look` set gauges at each scrape. It must be quick and must not wait.
pub fn at_each_scrape(look: impl Fn() + Send + Sync + 'static) {
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(look));
}

/// Serves `/metrics` until `stop`, if `METRICS_PORT` is set; says where.
///
/// # Errors
/// When the port is taken, or this process cannot record.
pub async fn start(platform: &Platform, stop: &CancellationToken) -> io::Result<Option<SocketAddr>> {
    let Some(address) = platform.settings.metrics_address() else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address} for metrics: {error}; METRICS_PORT chooses another port"),
        )
    })?;
    let address = listener.local_addr()?;
    let recorder = recorder().map_err(io::Error::other)?;
    let upkeep = recorder.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    }));
    let state = Scraped { platform: platform.clone(), recorder, process: Collector::default() };
    let routes = Router::new().route("/metrics", get(render)).with_state(state);
    let served = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    tracing::info!("metrics on http://{address}/metrics");
    Ok(Some(address))
}

#[derive(Clone)]
struct Scraped {
    platform: Platform,
    recorder: PrometheusHandle,
    process: Collector,
}

async fn render(State(scraped): State<Scraped>) -> Response {
    let shared = readings::current(&scraped.platform).await;
    show(shared.as_ref());
    let [app, system] = scraped.platform.db.usage();
    connections("app", app.0, app.1);
    connections("system", system.0, system.1);
    scraped.process.collect();
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|look| look());
    ([(CONTENT_TYPE, CONTENT)], scraped.recorder.render()).into_response()
}

/// What is not known is no number: an old figure would look like a fresh one.
fn show(readings: Option<&Readings>) {
    let Some(readings) = readings else {
        waiting(f64::NAN, f64::NAN, f64::NAN, f64::NAN);
        for one in crate::wakeup::queue::Queue::ALL {
            queue(one, f64::NAN, f64::NAN);
        }
        return;
    };
    waiting(
        readings.waiting as f64,
        readings.oldest_age_seconds,
        readings.schedule_lag_seconds,
        readings.age_seconds(),
    );
    for (one, counts) in crate::wakeup::queue::Queue::ALL.into_iter().zip(&readings.queues) {
        let number = |count: Option<u64>| count.map_or(f64::NAN, |count| count as f64);
        queue(one, number(counts.map(|counts| counts.0)), number(counts.map(|counts| counts.1)));
    }
}

/// The recorder of this process, installed at the first call.
fn recorder() -> Result<PrometheusHandle, String> {
    if let Some(installed) = RECORDER.get() {
        return Ok(installed.clone());
    }
    let full = |name: &str| Matcher::Full(name.to_owned());
    let installed = PrometheusBuilder::new()
        .set_buckets_for_metric(full(HTTP_DURATION), &HTTP_BUCKETS)
        .and_then(|builder| builder.set_buckets_for_metric(full(EXECUTION_DURATION), &EXECUTION_BUCKETS))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| format!("cannot record metrics: {error}"))?;
    describe();
    Collector::default().describe();
    Ok(RECORDER.get_or_init(|| installed).clone())
}
