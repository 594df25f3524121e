//! What a person, or a script, is told at the end.

use std::time::Duration;

use serde_json::json;

use crate::plan::Plan;
use crate::verify::Verdict;

/// The verdicts of a run, with how to repeat it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) executions: usize,
    pub(crate) faults: usize,
    pub(crate) took: Duration,
    pub(crate) verdicts: Vec<Verdict>,
}

impl Report {
    pub(crate) fn new(plan: &Plan, took: Duration, verdicts: Vec<Verdict>) -> Self {
        Self { seed: plan.seed, executions: plan.orders.len(), faults: plan.faults.len(), took, verdicts }
    }

    /// Everything that was promised and not kept.
    pub(crate) fn violations(&self) -> usize {
        self.verdicts.iter().map(|verdict| verdict.violations).sum()
    }

    pub(crate) fn print(&self) {
        println!();
        for verdict in &self.verdicts {
            let state = match (verdict.violations, verdict.cases) {
                (0, 0) => "–",
                (0, _) => "ok",
                _ => "BROKEN",
            };
            println!(
                "{state:<7} {:<4} {:<45} {:>6} cases  {}",
                verdict.promise, verdict.what, verdict.cases, verdict.figure
            );
            for told in &verdict.told {
                println!("             {told}");
            }
            if verdict.violations > verdict.told.len() {
                println!("             and {} more", verdict.violations - verdict.told.len());
            }
        }
        println!(
            "\nchaos: seed {}, {} submissions, {} faults, {:.0} s: violations {}",
            self.seed,
            self.executions,
            self.faults,
            self.took.as_secs_f64(),
            self.violations()
        );
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let verdicts: Vec<_> = self
            .verdicts
            .iter()
            .map(|one| {
                json!({
                    "promise": one.promise, "what": one.what, "cases": one.cases, "figure": one.figure,
                    "violations": one.violations, "told": one.told,
                })
            })
            .collect();
        json!({
            "seed": self.seed, "submissions": self.executions, "faults": self.faults,
            "seconds": self.took.as_secs_f64(), "violations": self.violations(), "verdicts": verdicts,
        })
    }
}
