//! What is told about an attempt: its spans in the trace of the request, and what log lines written meanwhile carry.
//!
//! The spans are `attempt` below the request, and below that `claim`, `run` and `record`; below `run` are `process`, until
//! it has its start frame, and `call`. The workflow gets the context of `run`. Not what it was given or returned: that may
//! hold secrets.

use std::time::SystemTime;

use domain::executions::Status;
use domain::executions::claim::Claimed;
use domain::executions::finish::Outcome;
use domain::telemetry::traces::{Part, Span};
use tracing::field::{Empty, display};

/// An attempt from its claim until its outcome is recorded.
#[derive(Debug)]
pub(crate) struct AttemptTrace {
    span: Span,
}

impl AttemptTrace {
    /// Begins with the claim that just ended.
    pub(crate) fn begin(claimed: &Claimed, since: SystemTime) -> Self {
        let parent = claimed.traceparent.as_deref();
        let mut span = Span::since(Part::Consumer, "attempt", parent, Some(since));
        if span.is_exported() {
            span.set("execution.id", claimed.id.to_string());
            span.set("execution.attempt", i64::from(claimed.attempt));
            span.set("workflow.name", claimed.workflow_name.clone());
            if let Some(organization) = claimed.organization_id {
                span.set("organization.id", organization.to_string());
            }
            drop(Span::since(Part::Internal, "claim", span.traceparent().as_deref(), Some(since)));
        }
        Self { span }
    }

    /// Begins a step, which ends when it is dropped.
    pub(crate) fn step(&self, name: &str) -> Span {
        Span::start(Part::Internal, name, self.span.traceparent().as_deref())
    }

    /// The span that log lines are written in.
    pub(crate) fn log(&self, claimed: &Claimed) -> tracing::Span {
        let log = tracing::info_span!(
            "attempt",
            execution.id = %claimed.id,
            attempt = claimed.attempt,
            organization.id = Empty,
            trace.id = Empty
        );
        if let Some(organization) = claimed.organization_id {
            log.record("organization.id", display(organization));
        }
        if let Some(trace) = self.span.trace_id() {
            log.record("trace.id", trace.as_str());
        }
        log
    }

    /// Says how it ended. The message of an error is for the row alone: it may hold anything.
    pub(crate) fn ended(&mut self, outcome: &Outcome) {
        let kind = outcome.error_type.as_deref().unwrap_or_default();
        tracing::debug!(
            status = outcome.status.as_str(),
            error.kind = kind,
            duration_ms = outcome.duration_ms,
            "the attempt ended"
        );
        self.span.set("execution.status", outcome.status.as_str());
        if matches!(outcome.status, Status::Failed | Status::Timeout) {
            self.span.fail(kind);
        }
    }
}
