//! Traces: spans by W3C trace context, exported over OTLP/HTTP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set.
//!
//! While it is not, a [`Span`] is no more than the context it was given, which is passed on as it came: callers need not
//! know the difference. Export happens on a thread of its own; what does not fit its queue is dropped.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span as Recorded};

use crate::settings::Settings;

const SERVICE: &str = "bifrost";
/// How long the collector may take for a batch, and the end of a process for the last one.
const PATIENCE: Duration = Duration::from_secs(5);

static EXPORT: OnceLock<(SdkTracerProvider, SdkTracer)> = OnceLock::new();

/// Begins to export, if it is configured. A second call does nothing.
pub(super) fn init(settings: &Settings) {
    let Some(endpoint) = settings.otel_exporter_otlp_endpoint.as_deref().filter(|url| !url.is_empty()) else {
        return;
    };
    if EXPORT.get().is_some() {
        return;
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(PATIENCE)
        .build();
    let exporter = match exporter {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::warn!(%error, "OTEL_EXPORTER_OTLP_ENDPOINT is not usable, traces are not exported");
            return;
        }
    };
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(SERVICE);
    }
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
    let tracer = provider.tracer(SERVICE);
    let _ = EXPORT.set((provider, tracer));
}

/// Sends what was not sent yet, for the end of a process; waits no longer than the collector may take.
pub(crate) async fn flush() {
    let Some((provider, _)) = EXPORT.get() else { return };
    let flush = tokio::task::spawn_blocking(move || provider.force_flush());
    if let Ok(Ok(Err(error))) = tokio::time::timeout(PATIENCE, flush).await {
        tracing::debug!(%error, "the last spans were not exported");
    }
}

/// A part of a trace that is under way; it ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    recorded: Option<Recorded>,
    given: Option<String>,
}

/// What somebody waits for in a [`Span`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A request, from its arrival to its answer.
    Server,
    /// Work that a message or a row asked for.
    Consumer,
    /// A step of it.
    Internal,
}

impl Span {
    /// Begins now, below the context of `parent`, or a trace of its own.
    pub fn start(part: Part, name: &str, parent: Option<&str>) -> Self {
        Self::since(part, name, parent, None)
    }

    /// The same, begun at an earlier time.
    pub fn since(part: Part, name: &str, parent: Option<&str>, began: Option<SystemTime>) -> Self {
        let recorded = EXPORT.get().map(|(_, tracer)| {
            let mut builder = SpanBuilder::from_name(name.to_owned()).with_kind(match part {
                Part::Server => SpanKind::Server,
                Part::Consumer => SpanKind::Consumer,
                Part::Internal => SpanKind::Internal,
            });
            builder.start_time = began;
            let context = parent
                .and_then(read)
                .map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
            tracer.build_with_context(builder, &context)
        });
        Self { recorded, given: parent.filter(|text| is_traceparent(text)).map(str::to_owned) }
    }

    /// The context for whoever comes below; the parent's own where nothing is exported.
    pub fn traceparent(&self) -> Option<String> {
        self.recorded.as_ref().map(|span| write(span.span_context())).or_else(|| self.given.clone())
    }

    /// The id of the trace.
    pub fn trace_id(&self) -> Option<String> {
        self.traceparent().and_then(|context| context.get(3..35).map(str::to_owned))
    }

    /// Whether anybody will see it.
    pub fn is_exported(&self) -> bool {
        self.recorded.is_some()
    }

    /// Gives it the name it turned out to have.
    pub fn rename(&mut self, name: String) {
        if let Some(span) = &mut self.recorded {
            span.update_name(name);
        }
    }

    /// Says something about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        if let Some(span) = &mut self.recorded {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks it as failed, with a reason that may be shown to operators.
    pub fn fail(&mut self, reason: &str) {
        if let Some(span) = &mut self.recorded {
            span.set_status(Status::error(reason.to_owned()));
        }
    }
}

/// Whether this is a W3C trace context: `version-trace-parent-flags` in lower-case hexadecimal.
pub fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    parts.len() == 4 && parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]) && parts.iter().all(is_hex)
}

fn read(text: &str) -> Option<SpanContext> {
    if !is_traceparent(text) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(&text[3..35]).ok()?,
        SpanId::from_hex(&text[36..52]).ok()?,
        TraceFlags::new(u8::from_str_radix(&text[53..55], 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

fn write(context: &SpanContext) -> String {
    let flags = if context.is_sampled() { "01" } else { "00" };
    format!("00-{}-{}-{flags}", context.trace_id(), context.span_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_a_real_trace_context_is_passed_on() {
        assert!(is_traceparent(GIVEN));
        assert!(!is_traceparent("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"));
        assert!(!is_traceparent("'; DROP TABLE executions; --"));
        assert_eq!(Span::start(Part::Internal, "step", Some("nonsense")).traceparent(), None);
    }

    #[test]
    fn a_context_reads_back_as_it_was_written_and_zeros_are_none() {
        assert_eq!(read(GIVEN).map(|context| write(&context)).as_deref(), Some(GIVEN));
        assert!(read("00-00000000000000000000000000000000-00f067aa0ba902b7-01").is_none());
    }

    #[test]
    fn without_an_exporter_the_context_passes_through() {
        let span = Span::start(Part::Server, "GET /", Some(GIVEN));
        assert!(!span.is_exported());
        assert_eq!(span.traceparent().as_deref(), Some(GIVEN));
        assert_eq!(span.trace_id().as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(Span::start(Part::Internal, "step", None).traceparent(), None);
    }
}
