//! A line: one load, what it took and what it cost. The tables are in `report`, what is asked of it in `verdicts`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::load::Outcome;
use crate::processes::{Memory, Part, keep_peak};
use crate::setup::Kind;
use crate::table::number;

/// One load, and what it cost.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Line {
    pub(crate) setup: &'static str,
    pub(crate) what: String,
    pub(crate) clients: usize,
    pub(crate) count: usize,
    /// Things done a second.
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU milliseconds of each thing done, by part; empty where that would say nothing.
    pub(crate) cpu_ms: BTreeMap<Part, f64>,
    /// Commits of PostgreSQL for each thing done.
    pub(crate) commits: Option<f64>,
    /// Log lines a second, every one of them found afterwards.
    pub(crate) lines_per_second: Option<f64>,
    /// Median of one sync of the disk, measured just before.
    pub(crate) sync_ms: Option<f64>,
    pub(crate) floor: Option<Ratio>,
    pub(crate) memory_before: Memory,
    pub(crate) memory_peak: Memory,
    pub(crate) memory_after: Memory,
    /// Whether every run was found afterwards, ended once and well.
    pub(crate) verified: bool,
    pub(crate) note: String,
}

/// A figure divided by a floor.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    pub(crate) floor: &'static str,
}

impl Line {
    /// One line of rounds of the same load, all of one size, and of what came of them together.
    ///
    /// # Panics
    /// Without a round.
    pub(crate) fn of_rounds(rounds: &[Self], together: &Outcome) -> Self {
        let [first, .., last] = rounds else { return rounds[0].clone() };
        let mut line = Self {
            count: rounds.iter().map(|round| round.count).sum(),
            rate: together.rate(),
            p50_ms: together.percentile(50),
            p95_ms: together.percentile(95),
            p99_ms: together.percentile(99),
            cpu_ms: BTreeMap::new(),
            memory_after: last.memory_after.clone(),
            verified: rounds.iter().all(|round| round.verified),
            note: String::new(),
            ..first.clone()
        };
        for round in rounds {
            for (part, cpu) in &round.cpu_ms {
                *line.cpu_ms.entry(*part).or_default() += cpu / rounds.len() as f64;
            }
            keep_peak(&mut line.memory_peak, round.memory_peak.clone());
            if !round.note.is_empty() {
                line.add_note(round.note.clone());
            }
        }
        line
    }

    /// CPU milliseconds of each thing done, the load generator's apart.
    pub(crate) fn cpu_total(&self) -> Option<f64> {
        (!self.cpu_ms.is_empty()).then(|| Part::SYSTEM.iter().filter_map(|part| self.cpu_ms.get(part)).sum())
    }

    /// The line in one sentence, for the progress.
    pub(crate) fn summary(&self) -> String {
        let cpu = self.cpu_total().map(|cpu| format!(", {} ms CPU each", number(cpu))).unwrap_or_default();
        let doubt = if self.verified { "" } else { ", NOT VERIFIED" };
        let note = if self.note.is_empty() { String::new() } else { format!(" ({})", self.note) };
        format!(
            "{}/s, p50 {} ms, p99 {} ms{cpu}{doubt}{note}",
            number(self.rate),
            number(self.p50_ms),
            number(self.p99_ms)
        )
    }

    pub(crate) fn add_note(&mut self, note: String) {
        if !self.note.is_empty() {
            self.note.push_str("; ");
        }
        self.note.push_str(&note);
    }
}

impl Ratio {
    pub(crate) fn new(value: f64, floor: f64, name: &'static str) -> Self {
        Self { value: value / floor, floor: name }
    }
}

/// Lines of one configuration with so many clients of one workflow: the one with the most runs.
pub(crate) fn largest<'a>(lines: &'a [Line], kind: Kind, what: &str, clients: usize) -> Option<&'a Line> {
    let fitting =
        lines.iter().filter(|line| line.setup == kind.name() && line.what == what && line.clients == clients);
    fitting.max_by_key(|line| line.count)
}
