//! Where the time of a lone run goes: the spans that the processes export, put one after the other.
//!
//! Measured on a configuration of its own, because exporting costs something, and one run at a time, so that nothing waits
//! for anything else. The invariant: the steps of a run touch, and their sum is its request.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde::Serialize;
use serde_json::json;
use testkit::{Collector, Exported};
use uuid::Uuid;

use crate::ledger::Ledger;
use crate::load::{self, Action};
use crate::services::Services;
use crate::setup::{Kind, Setup};
use crate::table::{number, render};

/// What `--only` is matched against.
pub(crate) const SLUG: &str = "breakdown";
const REQUEST: &str = "POST /api/workflows/execute";
const WORKFLOWS: [&str; 2] = ["noop_pooled_sync", "noop_sync"];
/// Each step ends where the next one begins.
const STEPS: [&str; 8] = ["submit", "wake-up", "claim", "fork", "call", "finish", "commit", "answer"];
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
const WARM_UP: usize = 20;

/// Where the time of a workflow's runs went.
#[derive(Debug, Serialize)]
pub(crate) struct Breakdown {
    workflow: &'static str,
    runs: usize,
    /// Mean microseconds of each step.
    steps: Vec<f64>,
    /// Mean microseconds of the request.
    whole: f64,
}

/// Runs each workflow `runs` times, one after the other, and takes their spans apart.
pub(crate) async fn measure(
    root: &Path,
    services: &Services,
    ledger: &Ledger,
    slots: usize,
    runs: usize,
) -> anyhow::Result<Vec<Breakdown>> {
    let collector = Collector::start().await;
    let export = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url().to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", PAUSE.as_millis().to_string()),
    ];
    let setup = Setup::start(Kind::Rabbitmq, root, services, ledger, slots, &WORKFLOWS, &export).await?;
    let mut found = Vec::new();
    for workflow in WORKFLOWS {
        let action = Action::RunAndWait(setup.execute(workflow, &json!({}))?.into());
        load::run(setup.requests.address(), 1, WARM_UP, &action).await?;
        let outcome = load::run(setup.requests.address(), 1, runs, &action).await?;
        ensure!(outcome.failed == 0, "{workflow} does not run: {}", outcome.faults.join("; "));
        found.push(take_apart(workflow, &outcome.executions, &collector).await?);
    }
    Ok(found)
}

/// Waits until the spans of all these runs have arrived.
async fn take_apart(
    workflow: &'static str,
    executions: &[Uuid],
    collector: &Collector,
) -> anyhow::Result<Breakdown> {
    let began = std::time::Instant::now();
    loop {
        let spans = collector.spans();
        let runs: Vec<Vec<f64>> = executions.iter().filter_map(|id| steps_of(&spans, *id)).collect();
        if runs.len() == executions.len() {
            return summed(workflow, &runs);
        }
        if began.elapsed() > PATIENCE {
            bail!("the spans of {} of {} runs of {workflow} arrived", runs.len(), executions.len());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn summed(workflow: &'static str, runs: &[Vec<f64>]) -> anyhow::Result<Breakdown> {
    ensure!(!runs.is_empty(), "nothing of {workflow} was measured");
    let mean = |step: usize| runs.iter().map(|run| run[step]).sum::<f64>() / runs.len() as f64;
    let steps: Vec<f64> = (0..STEPS.len()).map(mean).collect();
    let whole = steps.iter().sum();
    Ok(Breakdown { workflow, runs: runs.len(), steps, whole })
}

/// The steps of one run in microseconds; `None` while a span of it is on its way. What happens at the same time as the
/// step before is counted below zero, so that the sum stays that of the request.
fn steps_of(spans: &[Exported], execution: Uuid) -> Option<Vec<f64>> {
    let id = execution.to_string();
    let attempt = spans.iter().find(|span| span.name == "attempt" && span.attributes.contains(&id))?;
    let of_trace: HashMap<&str, (u64, u64)> = spans
        .iter()
        .filter(|span| span.trace == attempt.trace)
        .map(|span| (span.name.as_str(), span.time))
        .collect();
    let at = |name: &str| of_trace.get(name).copied();
    let (request, claim, call, record) = (at(REQUEST)?, at("claim")?, at("call")?, at("record")?);
    let marks = [request.0, at("submit")?.1, claim.0, claim.1, call.0, call.1, record.0, record.1, request.1];
    let microseconds = |pair: &[u64]| (pair[1] as f64 - pair[0] as f64) / 1e3;
    Some(marks.windows(2).map(microseconds).collect())
}

/// The table of the document.
pub(crate) fn table(breakdowns: &[Breakdown]) -> String {
    let mut headings = vec!["workflow", "runs"];
    headings.extend(STEPS);
    headings.push("request");
    let row = |breakdown: &Breakdown| {
        let cells = breakdown.steps.iter().chain([&breakdown.whole]).map(|value| number(*value));
        [breakdown.workflow.to_owned(), breakdown.runs.to_string()].into_iter().chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = breakdowns.iter().map(row).collect();
    format!(
        "### Where each microsecond of a lone run goes: mean of each step, from its spans\n\n{}\n\n\
         - submit: from the request until its row is committed; wake-up: until a worker asks for work; claim: its statement; \
         fork: until a process has its start frame (one that stands ready, or is warm); call: until it has answered; finish: \
         until the outcome is handed over; commit: until it is durable, with the batch it is in; answer: until the request \
         has ended, below zero where it is told before the batch is settled.",
        render(&headings, 1, &rows)
    )
}

/// Whether `--only` asks for it.
pub(crate) fn is_chosen(only: Option<&str>) -> bool {
    only.is_none_or(|only| only.split('|').any(|text| SLUG.contains(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &str, time: (u64, u64), attributes: &str) -> Exported {
        let text = str::to_owned;
        let (id, parent) = (text("i"), text("p"));
        Exported { name: text(name), trace: text("t"), id, parent, time, attributes: text(attributes) }
    }

    #[test]
    fn the_steps_of_a_run_touch_and_add_up_to_its_request() {
        let id = Uuid::from_u128(7);
        let mut spans = vec![
            span(REQUEST, (1_000, 90_000), ""),
            span("submit", (2_000, 21_000), ""),
            span("claim", (31_000, 36_000), ""),
            span("attempt", (31_000, 95_000), &format!("execution.id {id}")),
            span("run", (37_000, 61_000), ""),
            span("process", (37_000, 41_000), ""),
            span("call", (41_000, 61_000), ""),
        ];
        assert_eq!(steps_of(&spans, id), None, "the last one is on its way");
        spans.push(span("record", (62_000, 95_000), ""));

        let steps = steps_of(&spans, id).expect("all are there");

        assert_eq!(steps, [20.0, 10.0, 5.0, 5.0, 20.0, 1.0, 33.0, -5.0]);
        let sum = summed("noop_sync", &[steps.clone(), steps]).expect("sums up");
        assert_eq!((sum.runs, sum.whole), (2, 89.0));
        assert_eq!(steps_of(&spans, Uuid::from_u128(8)), None);
        assert!(table(&[sum]).contains("noop_sync"));
    }
}
