//! A collector of traces: takes what is exported over OTLP/HTTP and keeps it for the test.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use crate::eventually;

/// A span as it arrived, ids in hexadecimal.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Its name.
    pub name: String,
    /// Its trace.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// The span above it; empty for the first of a trace.
    pub parent: String,
    /// When it began and ended, in nanoseconds.
    pub time: (u64, u64),
    /// What was said about it, as text.
    pub attributes: String,
}

/// The collector. It stops when it is dropped.
#[derive(Debug)]
pub struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Exported>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Collector {
    /// Starts one on a port of its own.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let spans = Arc::<Mutex<Vec<Exported>>>::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(spans.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serves until it is dropped");
        });
        Self { url, spans, serving }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All that has arrived.
    #[must_use]
    pub fn spans(&self) -> Vec<Exported> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has arrived of a trace.
    #[must_use]
    pub fn trace(&self, id: &str) -> Vec<Exported> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|span| span.trace == id).cloned().collect()
    }

    /// Waits until a trace has a span of this name below that parent.
    ///
    /// # Panics
    /// When none arrives in time.
    pub async fn span(&self, trace: &str, name: &str, parent: &str) -> Exported {
        let is_it = |span: &Exported| span.name == name && span.parent == parent;
        eventually(&format!("a span {name} below {parent:?} of {trace}"), || {
            std::future::ready(self.trace(trace).into_iter().find(is_it))
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(spans): State<Arc<Mutex<Vec<Exported>>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let arrived = request
        .resource_spans
        .into_iter()
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .map(|span| Exported {
            name: span.name,
            trace: hex::encode(span.trace_id),
            id: hex::encode(span.span_id),
            parent: hex::encode(span.parent_span_id),
            time: (span.start_time_unix_nano, span.end_time_unix_nano),
            attributes: format!("{:?}", span.attributes),
        });
    spans.lock().unwrap_or_else(PoisonError::into_inner).extend(arrived);
    StatusCode::OK
}
