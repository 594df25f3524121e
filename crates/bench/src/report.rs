//! The report: what was measured, as a text of Markdown tables and as JSON.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::breakdown::{self, Breakdown};
use crate::floors::Floors;
use crate::line::Line;
use crate::processes::{Memory, Part};
use crate::table::{count, number, optional, render};
use crate::verdicts::Verdict;

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Everything of one run of the bench.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Vec<(&'static str, String)>,
    pub(crate) floors: Option<Floors>,
    pub(crate) lines: Vec<Line>,
    pub(crate) idle: Vec<Idle>,
    pub(crate) breakdowns: Vec<Breakdown>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// Memory of a configuration that does nothing.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Idle {
    pub(crate) setup: &'static str,
    pub(crate) memory: Memory,
}

impl Report {
    /// The whole text.
    pub(crate) fn text(&self) -> String {
        let mut parts = vec![self.machine_table()];
        parts.extend(self.floors.as_ref().map(floors_table));
        if !self.lines.is_empty() {
            parts.extend([self.lines_table(), self.memory_table()]);
        }
        if !self.idle.is_empty() {
            parts.push(self.idle_table());
        }
        if !self.breakdowns.is_empty() {
            parts.push(breakdown::table(&self.breakdowns));
        }
        if !self.verdicts.is_empty() {
            parts.push(self.verdicts_table());
        }
        parts.join("\n\n")
    }

    /// Puts the text between the markers of a document.
    pub(crate) fn write_into(&self, document: &Path) -> anyhow::Result<()> {
        let old = std::fs::read_to_string(document)
            .with_context(|| format!("cannot read {}", document.display()))?;
        let (Some((before, rest)), true) = (old.split_once(BEGIN), old.contains(END)) else {
            bail!("{} has no markers {BEGIN} and {END}", document.display());
        };
        let (_, after) = rest.split_once(END).context("the end marker comes before the begin marker")?;
        let new = format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", self.text());
        std::fs::write(document, new).with_context(|| format!("cannot write {}", document.display()))
    }

    fn machine_table(&self) -> String {
        let rows: Vec<_> =
            self.machine.iter().map(|(what, value)| vec![(*what).to_owned(), value.clone()]).collect();
        format!("### Where and when\n\n{}", render(&["what", "value"], 2, &rows))
    }

    fn lines_table(&self) -> String {
        let headings = [
            "setup",
            "what",
            "clients",
            "count",
            "per s",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "CPU ms",
            "Bifrost",
            "PostgreSQL",
            "RabbitMQ",
            "Redis",
            "Python",
            "generator",
            "commits",
            "of the floor",
            "found",
        ];
        let rows: Vec<Vec<String>> = self.lines.iter().map(Line::row).collect();
        let notes: Vec<String> = self
            .lines
            .iter()
            .filter(|line| !line.note.is_empty())
            .map(|line| {
                format!("- {}, {}, {} × {}: {}.", line.setup, line.what, line.clients, line.count, line.note)
            })
            .collect();
        let notes = if notes.is_empty() { String::new() } else { format!("\n\n{}", notes.join("\n")) };
        format!("### Loads\n\n{}{notes}", render(&headings, 2, &rows))
    }

    fn memory_table(&self) -> String {
        let parts = Part::SYSTEM.map(Part::name);
        let headings: Vec<&str> = ["setup", "what", "clients", "count"].into_iter().chain(parts).collect();
        let row = |line: &Line| {
            let mut cells =
                vec![line.setup.to_owned(), line.what.clone(), line.clients.to_string(), count(line.count)];
            cells.extend(Part::SYSTEM.iter().map(|part| {
                let of = |memory: &Memory| memory.get(part).map(|mebibytes| format!("{mebibytes:.0}"));
                match (of(&line.memory_before), of(&line.memory_peak), of(&line.memory_after)) {
                    (Some(before), Some(peak), Some(after)) => format!("{before} / {peak} / {after}"),
                    _ => "–".to_owned(),
                }
            }));
            cells
        };
        let rows: Vec<Vec<String>> = self.lines.iter().filter(|line| line.clients > 1).map(row).collect();
        format!("### Memory: MiB before / peak / after\n\n{}", render(&headings, 2, &rows))
    }

    fn idle_table(&self) -> String {
        let parts = [Part::Api, Part::Jobs, Part::Bifrost, Part::Python];
        let headings: Vec<&str> = std::iter::once("setup").chain(parts.map(Part::name)).collect();
        let row = |idle: &Idle| {
            let cells = parts.map(|part| optional(idle.memory.get(&part).copied()));
            std::iter::once(idle.setup.to_owned()).chain(cells).collect()
        };
        let rows: Vec<Vec<String>> = self.idle.iter().map(row).collect();
        format!("### Idle memory: MiB, 20 s after the start\n\n{}", render(&headings, 1, &rows))
    }

    fn verdicts_table(&self) -> String {
        let row = |verdict: &Verdict| {
            vec![
                verdict.what.clone(),
                format!("{} {}", if verdict.at_least { "≥" } else { "≤" }, number(verdict.asked)),
                number(verdict.measured),
                if verdict.holds() { "pass" } else { "MISS" }.to_owned(),
                verdict.why.clone(),
            ]
        };
        let rows: Vec<Vec<String>> = self.verdicts.iter().map(row).collect();
        format!("### Asked and measured\n\n{}", render(&["what", "asked", "measured", "", "from"], 5, &rows))
    }
}

impl Line {
    fn row(&self) -> Vec<String> {
        let cpu = |part: Part| optional(self.cpu_ms.get(&part).copied());
        let bifrost = match (self.cpu_ms.get(&Part::Api), self.cpu_ms.get(&Part::Jobs)) {
            (Some(api), Some(jobs)) => format!("{} + {}", number(*api), number(*jobs)),
            _ => cpu(Part::Bifrost),
        };
        vec![
            self.setup.to_owned(),
            self.what.clone(),
            self.clients.to_string(),
            count(self.count),
            number(self.rate),
            number(self.p50_ms),
            number(self.p95_ms),
            number(self.p99_ms),
            optional(self.cpu_total()),
            bifrost,
            cpu(Part::Postgres),
            cpu(Part::Rabbitmq),
            cpu(Part::Redis),
            cpu(Part::Python),
            cpu(Part::Generator),
            optional(self.commits),
            self.floor
                .as_ref()
                .map_or_else(|| "–".to_owned(), |ratio| format!("{} × {}", number(ratio.value), ratio.floor)),
            if self.verified { "all" } else { "NOT ALL" }.to_owned(),
        ]
    }
}

fn floors_table(floors: &Floors) -> String {
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let rate = |value: f64| format!("{} /s", number(value));
    let rows = [
        row(
            "disk: fdatasync of 8 KiB",
            format!("{}, median {} ms", rate(floors.syncs), number(floors.sync_p50_ms)),
        ),
        row("PostgreSQL: single-row commits, 1 client", rate(floors.commits_one_client)),
        row("PostgreSQL: single-row commits, 32 clients", rate(floors.commits_32_clients)),
        row("PostgreSQL: rows inserted, 100 a commit, 1 client", rate(floors.batched_rows)),
        row("PostgreSQL: rows copied, 1,000 a commit, 1 client", rate(floors.copied_lines)),
        row("RabbitMQ: confirmed publishes to a quorum queue, window 1", rate(floors.publishes_window_1)),
        row("RabbitMQ: confirmed publishes to a quorum queue, window 200", rate(floors.publishes_window_200)),
        row(
            "Python: fork + wait, warm",
            format!("{}, median {} ms", rate(floors.forks), number(floors.fork_p50_ms)),
        ),
        row("Python: round trips over a socket, JSON, 1 process", rate(floors.round_trips)),
        row(
            "axum: hello route, 32 clients, the same HTTP client",
            format!(
                "{}, {} ms CPU of the server each",
                rate(floors.hello_requests),
                number(floors.hello_cpu_ms)
            ),
        ),
    ];
    format!("### Floors\n\n{}", render(&["what", "figure"], 2, &rows))
}
