//! Light runs, alone and beside others that take all they can get: what one tenant's runs cost another's.
//!
//! The invariant: the others still go on when the last light run ends, or the line does not count.

use std::time::Instant;

use anyhow::ensure;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::line::{Line, Ratio};
use crate::load::{self, Action, Outcome};
use crate::measure::{DRAIN_PATIENCE, DRAIN_PAUSE, Load, Stage};
use crate::plan::{
    FLOOD_LINES, HEAVY_RUNS, HEAVY_WORKFLOW, HOSTILE_RUNS, LIGHT_CLIENTS, LIGHT_RUNS,
    LIGHT_RUNS_BESIDE_FLOOD, LIGHT_RUNS_BESIDE_HOSTILE, LIGHT_WORKFLOW, LOGGING_WORKFLOW,
};
use crate::verdicts::{BESIDE_FLOOD, BESIDE_HOSTILE};

impl Stage<'_> {
    /// Light runs beside CPU-bound ones.
    pub(crate) async fn mixed(&mut self) -> anyhow::Result<Vec<Line>> {
        let (alone, _) = self.measure(self.light("light runs alone", LIGHT_RUNS)?).await?;
        let also = self.submit(HEAVY_WORKFLOW, &json!({}), HEAVY_RUNS).await?;
        let load = Load { also, ..self.light("light runs beside 10 CPU-bound", LIGHT_RUNS)? };
        let (beside, _) = self.beside(load, &alone).await?;
        Ok(vec![alone, beside])
    }

    /// Light runs beside one that logs as fast as it can.
    pub(crate) async fn flood(&mut self) -> anyhow::Result<Vec<Line>> {
        let light = self.light("light runs without the flood", LIGHT_RUNS_BESIDE_FLOOD)?;
        let (alone, _) = self.measure(light).await?;
        let also = self.submit(LOGGING_WORKFLOW, &json!({ "n": FLOOD_LINES }), 1).await?;
        let id = also[0];
        self.wait_for_lines(id).await?;
        let load = Load { also, ..self.light(BESIDE_FLOOD, LIGHT_RUNS_BESIDE_FLOOD)? };
        let (mut beside, outcome) = self.beside(load, &alone).await?;
        let (lines, lasted): (i64, f64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM execution_logs WHERE execution_id = $1),
                    extract(epoch FROM completed_at - started_at)::float8
             FROM executions WHERE id = $1",
        )
        .bind(id)
        .fetch_one(&mut self.setup.postgres)
        .await?;
        beside.add_note(format!(
            "the flood lasted {lasted:.1} s, {lines} of its {FLOOD_LINES} lines are kept; light runs took {:.1} s",
            outcome.wall.as_secs_f64()
        ));
        Ok(vec![alone, beside])
    }

    /// Light runs beside bombs, a flood and huge results.
    pub(crate) async fn hostile(&mut self) -> anyhow::Result<Vec<Line>> {
        let light = self.light("light runs without the hostile tenant", LIGHT_RUNS_BESIDE_HOSTILE)?;
        let (alone, _) = self.measure(light).await?;
        let mut also = Vec::new();
        for (workflow, count) in HOSTILE_RUNS {
            also.extend(self.submit(workflow, &json!({}), count).await?);
        }
        self.wait_for_lines(also[0]).await?;
        let load = Load { also, also_fail: true, ..self.light(BESIDE_HOSTILE, LIGHT_RUNS_BESIDE_HOSTILE)? };
        let (beside, _) = self.beside(load, &alone).await?;
        Ok(vec![alone, beside])
    }

    fn light(&self, what: &str, count: usize) -> anyhow::Result<Load> {
        let action = Action::RunAndWait(self.setup.execute(LIGHT_WORKFLOW, &json!({}))?.into());
        Ok(Load::new(what, LIGHT_CLIENTS, count, action))
    }

    /// Starts runs without waiting for them.
    async fn submit(&self, workflow: &str, parameters: &Value, count: usize) -> anyhow::Result<Vec<Uuid>> {
        let action = Action::Submit(self.setup.execute(workflow, parameters)?.into());
        let submitted = load::run(self.setup.requests.address(), 1, count, &action).await?;
        ensure!(submitted.failed == 0, "{}", submitted.faults.join("; "));
        Ok(submitted.executions)
    }

    /// Measures light runs beside what goes on already, against the same runs alone.
    async fn beside(&mut self, load: Load, alone: &Line) -> anyhow::Result<(Line, Outcome)> {
        let began = Instant::now();
        let (mut line, outcome) = self.measure(Load { drains: true, ..load }).await?;
        let drained = began.elapsed();
        // The sum would be that of the others.
        line.cpu_ms.clear();
        line.floor = Some(Ratio::new(line.p95_ms, alone.p95_ms, "p95 of the same runs alone"));
        if drained <= outcome.wall + DRAIN_PAUSE {
            line.verified = false;
            line.add_note("the others ended first: have them last longer".to_owned());
        }
        Ok((line, outcome))
    }

    /// Waits until a run has stored its first line.
    async fn wait_for_lines(&mut self, id: Uuid) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < DRAIN_PATIENCE {
            let has_lines: bool =
                sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM execution_logs WHERE execution_id = $1)")
                    .bind(id)
                    .fetch_one(&mut self.setup.postgres)
                    .await?;
            if has_lines {
                return Ok(());
            }
            tokio::time::sleep(DRAIN_PAUSE / 10).await;
        }
        anyhow::bail!("execution {id} stored no line")
    }
}
