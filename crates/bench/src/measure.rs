//! Carries out the plan on one configuration: load, cost, and afterwards the count of what is there.
//!
//! The invariant: a line is called verified only when every run it submitted is a row that ended once, in
//! its first attempt, with success, and no other row has appeared.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use uuid::Uuid;

use crate::floors::{self, Floors};
use crate::follow::Follower;
use crate::line::{Line, Ratio};
use crate::load::{self, Action, Outcome};
use crate::plan::{
    CLIENTS, LINES_PER_RUN, LOG_CLIENTS, LOGGING_WORKFLOW, Plan, SUBMIT_CLIENTS, SUBMITTED_WORKFLOW, Scale,
    WORKFLOWS, Workflow,
};
use crate::processes::{Footprint, Memory, keep_peak};
use crate::progress::Progress;
use crate::report::Idle;
use crate::setup::Setup;
use crate::verdicts::{LOGS, READ_DIRECTORY, READ_LIST, READ_ONE, SERIAL_SYNCS, SUBMITS};

/// A backend of PostgreSQL reports its counts at the latest so long after it became idle.
const STATISTICS_DELAY: Duration = Duration::from_millis(10_500);
const IDLE_AFTER: Duration = Duration::from_secs(20);
pub(crate) const DRAIN_PATIENCE: Duration = Duration::from_secs(180);
pub(crate) const DRAIN_PAUSE: Duration = Duration::from_millis(100);
/// Reading the memory of many processes takes some milliseconds, so not too often.
const SAMPLE_PERIOD: Duration = Duration::from_secs(2);
const SYNC_PROBE: Duration = Duration::from_secs(1);
/// A hundred thousand people, roles, forms and organizations; half of them belong to the one measured in.
const DIRECTORY: &str = "
    INSERT INTO organizations (id, name, created_by)
    SELECT gen_random_uuid(), 'Customer ' || n, 'bench' FROM generate_series(1, 100000) AS n;
    CREATE TEMPORARY TABLE numbered AS
        SELECT id, row_number() OVER (ORDER BY (name = 'Bench') DESC, id) AS at FROM organizations;
    INSERT INTO users (id, organization_id, email, name, user_type)
    SELECT gen_random_uuid(), o.id, 'user' || n || '@customers.example', 'Somebody', 'ORG'
    FROM generate_series(1, 100000) AS n
    JOIN numbered o ON o.at = CASE WHEN n % 2 = 0 THEN 1 ELSE n END;
    INSERT INTO roles (id, organization_id, name, created_by)
    SELECT gen_random_uuid(), o.id, 'Role ' || n, 'bench'
    FROM generate_series(1, 100000) AS n
    JOIN numbered o ON o.at = CASE WHEN n % 2 = 0 THEN 1 ELSE n END;
    INSERT INTO forms (id, organization_id, name, form_schema, access_level, created_by)
    SELECT gen_random_uuid(), o.id, 'Form ' || n, '{\"fields\": []}', 'authenticated', 'bench'
    FROM generate_series(1, 100000) AS n
    JOIN numbered o ON o.at = CASE WHEN n % 2 = 0 THEN 1 ELSE n END;
    ANALYZE organizations, users, roles, forms";
/// Executions that are read in turn.
const READ_IDS: i64 = 500;

/// One configuration that is being measured.
pub(crate) struct Stage<'a> {
    pub(crate) setup: Setup,
    pub(crate) floors: &'a Floors,
    pub(crate) scale: &'a Scale,
    pub(crate) progress: Progress,
    pub(crate) disk: &'a std::path::Path,
    /// Whether to wait for what takes long: statistics, idle memory.
    pub(crate) thorough: bool,
    pub(crate) last_activity: Instant,
}

/// One load.
pub(crate) struct Load {
    pub(crate) what: String,
    pub(crate) clients: usize,
    pub(crate) count: usize,
    pub(crate) action: Action,
    /// Runs that were submitted before it and belong to it.
    pub(crate) also: Vec<Uuid>,
    /// Those may end as they like.
    pub(crate) also_fail: bool,
    pub(crate) counts_commits: bool,
    /// Runs go on after the last answer; they belong to the cost.
    pub(crate) drains: bool,
    /// Memory is looked at before and after alone: a look takes a core for tens of milliseconds, which is more than some
    /// loads take from others.
    pub(crate) is_undisturbed: bool,
}

impl Stage<'_> {
    /// Memory of the configuration while it does nothing.
    pub(crate) async fn idle(&self) -> Idle {
        tokio::time::sleep_until((self.setup.started + IDLE_AFTER).into()).await;
        Idle { setup: self.setup.kind.name(), memory: self.setup.footprint.memory() }
    }

    /// Runs every kind of workflow a little, so that caches, pools and processes are as they will be.
    pub(crate) async fn warm_up(&mut self) -> anyhow::Result<()> {
        for workflow in WORKFLOWS {
            let action = self.run_action(workflow).await?;
            let outcome =
                load::run(self.setup.requests.address(), CLIENTS, self.scale.warm_up, &action).await?;
            ensure!(outcome.failed == 0, "{} does not run: {}", workflow.name, outcome.faults.join("; "));
        }
        self.last_activity = Instant::now();
        Ok(())
    }

    /// Carries out one plan.
    pub(crate) async fn carry_out(&mut self, plan: Plan) -> anyhow::Result<Vec<Line>> {
        match plan {
            Plan::Runs { workflow, clients, count } => {
                self.runs(workflow, clients, count).await.map(|line| vec![line])
            }
            Plan::Logs => self.logs().await.map(|line| vec![line]),
            Plan::Submits => self.submits().await.map(|line| vec![line]),
            Plan::Mixed => self.mixed().await,
            Plan::Flood => self.flood().await,
            Plan::Hostile => self.hostile().await,
            Plan::SignIns => self.sign_ins().await,
            Plan::ReadOne => self.read_one().await.map(|line| vec![line]),
            Plan::ReadList => self.read_list().await.map(|line| vec![line]),
            Plan::ReadDirectory => self.read_directory().await,
            Plan::ReadHistory => Box::pin(self.read_history()).await,
        }
    }

    async fn runs(&mut self, workflow: Workflow, clients: usize, count: usize) -> anyhow::Result<Line> {
        let alone = clients == 1;
        let sync_ms = if alone { Some(floors::syncs(self.disk, SYNC_PROBE).await?.1) } else { None };
        let action = self.run_action(workflow).await?;
        let load = Load { counts_commits: !alone, ..Load::new(workflow.name, clients, count, action) };
        let (mut line, _) = self.measure(load).await?;
        line.sync_ms = sync_ms;
        let floors = self.floors;
        line.floor = Some(match (alone, workflow.pooled) {
            (false, true) => Ratio::new(line.rate, floors.commits_32_clients, "commits/s of 32 clients"),
            (false, false) => Ratio::new(line.rate, floors.forks, "forks/s"),
            (true, pooled) => {
                let syncs = SERIAL_SYNCS * sync_ms.unwrap_or(floors.sync_p50_ms);
                match pooled {
                    true => Ratio::new(line.p50_ms, syncs, "3 syncs"),
                    false => Ratio::new(line.p50_ms, syncs + floors.fork_p50_ms, "3 syncs and a fork"),
                }
            }
        });
        Ok(line)
    }

    async fn logs(&mut self) -> anyhow::Result<Line> {
        let request = self.setup.execute(LOGGING_WORKFLOW, &json!({ "n": LINES_PER_RUN }))?;
        let action = Action::RunAndFollow(request.into(), Follower::open(&self.setup.requests).await?);
        let load = Load { counts_commits: true, ..Load::new(LOGS, LOG_CLIENTS, self.scale.log_runs, action) };
        let (mut line, outcome) = self.measure(load).await?;
        // Runs that are whole: all their lines, numbered without a gap.
        let whole: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM (
                 SELECT 1 FROM execution_logs WHERE execution_id = ANY($1)
                 GROUP BY execution_id
                 HAVING count(*) = $2 AND min(sequence) = 1 AND max(sequence) = $2
             ) AS whole",
        )
        .bind(&outcome.executions)
        .bind(LINES_PER_RUN as i64)
        .fetch_one(&mut self.setup.postgres)
        .await?;
        let found = usize::try_from(whole)? * LINES_PER_RUN;
        let rate = found as f64 / outcome.wall.as_secs_f64();
        line.lines_per_second = Some(rate);
        line.floor = Some(Ratio::new(rate, self.floors.copied_lines, "rows copied/s"));
        if found != line.count * LINES_PER_RUN {
            line.verified = false;
        }
        line.add_note(format!(
            "{rate:.0} lines/s, {found} of {} found in whole runs",
            line.count * LINES_PER_RUN
        ));
        Ok(line)
    }

    async fn submits(&mut self) -> anyhow::Result<Line> {
        let request = self.setup.execute(SUBMITTED_WORKFLOW, &json!({}))?;
        let load = Load {
            drains: true,
            ..Load::new(SUBMITS, SUBMIT_CLIENTS, self.scale.submits, Action::Submit(request.into()))
        };
        let (mut line, _) = self.measure(load).await?;
        line.floor = Some(Ratio::new(line.rate, self.floors.commits_32_clients, "commits/s of 32 clients"));
        Ok(line)
    }

    async fn read_one(&mut self) -> anyhow::Result<Line> {
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "SELECT id FROM executions WHERE workflow_name LIKE 'noop%' ORDER BY id LIMIT $1",
        )
        .bind(READ_IDS)
        .fetch_all(&mut self.setup.postgres)
        .await?;
        ensure!(!ids.is_empty(), "there is no execution to read");
        let requests: Vec<Vec<u8>> =
            ids.iter().map(|id| self.setup.requests.get(&format!("/api/executions/{id}"))).collect();
        self.reads(READ_ONE, requests, self.scale.reads).await
    }

    async fn read_list(&mut self) -> anyhow::Result<Line> {
        let requests = vec![self.setup.requests.get("/api/executions?limit=25")];
        self.reads(READ_LIST, requests, self.scale.list_reads).await
    }

    /// Pages of a hundred, one after the other, beside a hundred thousand rows of each kind.
    async fn read_directory(&mut self) -> anyhow::Result<Vec<Line>> {
        sqlx::raw_sql(DIRECTORY).execute(&mut self.setup.postgres).await?;
        let mut lines = Vec::new();
        for (what, path) in READ_DIRECTORY {
            let request = vec![self.setup.requests.get(path)];
            let load = Load::new(what, 1, self.scale.list_reads, Action::Read(request.into()));
            lines.push(self.measure(load).await?.0);
        }
        Ok(lines)
    }

    async fn reads(&mut self, what: &str, requests: Vec<Vec<u8>>, count: usize) -> anyhow::Result<Line> {
        let (mut line, _) =
            self.measure(Load::new(what, CLIENTS, count, Action::Read(requests.into()))).await?;
        line.floor = Some(Ratio::new(line.rate, self.floors.hello_requests, "hello requests/s"));
        Ok(line)
    }

    /// Sends a workflow as its kind is used: a synchronous one is waited for, the others are followed.
    async fn run_action(&self, workflow: Workflow) -> anyhow::Result<Action> {
        let request = self.setup.execute(workflow.name, &json!({}))?.into();
        Ok(match workflow.sync {
            true => Action::RunAndWait(request),
            false => Action::RunAndFollow(request, Follower::open(&self.setup.requests).await?),
        })
    }

    /// Applies a load and says what it cost.
    pub(crate) async fn measure(&mut self, load: Load) -> anyhow::Result<(Line, Outcome)> {
        let counts_commits = load.counts_commits && self.thorough;
        let rows_before = self.rows().await? - i64::try_from(load.also.len())?;
        let commits_before = if counts_commits { Some(self.commits().await?) } else { None };
        let footprint = self.setup.footprint.clone();
        let memory_before = footprint.memory();
        let sampler = (!load.is_undisturbed).then(|| Sampler::start(footprint.clone()));

        let (began, cpu_before) = (Instant::now(), footprint.cpu());
        let outcome =
            load::run(self.setup.requests.address(), load.clients, load.count, &load.action).await?;
        let drained = if load.drains { self.drain().await? } else { true };
        let whole = began.elapsed();
        let cpu = &footprint.cpu() - &cpu_before;

        self.last_activity = Instant::now();
        let mut memory_peak = sampler.map_or_else(|| memory_before.clone(), Sampler::stop);
        let memory_after = footprint.memory();
        keep_peak(&mut memory_peak, memory_after.clone());
        let mut line = Line {
            setup: self.setup.kind.name(),
            what: load.what.clone(),
            clients: load.clients,
            count: load.count,
            rate: outcome.rate(),
            p50_ms: outcome.percentile(50),
            p95_ms: outcome.percentile(95),
            p99_ms: outcome.percentile(99),
            cpu_ms: cpu.milliseconds_each(load.count),
            memory_before,
            memory_peak,
            memory_after,
            ..Line::default()
        };
        self.verify(&load, &outcome, rows_before, &mut line).await?;
        if load.drains {
            line.add_note(format!("everything had ended after {:.1} s", whole.as_secs_f64()));
            line.verified &= drained;
        }
        if let Action::RunAndFollow(_, follower) = &load.action
            && follower.polled() > 0
        {
            line.add_note(format!(
                "{} ends were read from the row, no event had told them",
                follower.polled()
            ));
        }
        if let Some(before) = commits_before {
            line.commits = Some((self.commits().await? - before) as f64 / load.count as f64);
        }
        Ok((line, outcome))
    }

    /// Looks for every run in the rows.
    async fn verify(
        &mut self,
        load: &Load,
        outcome: &Outcome,
        rows_before: i64,
        line: &mut Line,
    ) -> anyhow::Result<()> {
        if outcome.failed > 0 {
            line.add_note(format!("{} requests failed: {}", outcome.failed, outcome.faults.join("; ")));
        }
        if matches!(load.action, Action::Read(_)) {
            line.verified = outcome.failed == 0;
            return Ok(());
        }
        let must_succeed = if load.also_fail { &[] } else { &load.also[..] };
        let ids: Vec<Uuid> = outcome.executions.iter().chain(must_succeed).copied().collect();
        let succeeded: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM executions WHERE id = ANY($1) AND status = 'Success' AND attempt = 1",
        )
        .bind(&ids)
        .fetch_one(&mut self.setup.postgres)
        .await?;
        let rows = self.rows().await? - rows_before;
        let wanted = i64::try_from(load.count + must_succeed.len())?;
        let wanted_rows = i64::try_from(load.count + load.also.len())?;
        line.verified = outcome.failed == 0 && succeeded == wanted && rows == wanted_rows;
        if !line.verified {
            line.add_note(format!(
                "{wanted_rows} runs were sent, {rows} rows appeared, {succeeded} of {wanted} succeeded in one attempt"
            ));
        }
        Ok(())
    }

    /// Waits until nothing is pending or running; false when that takes too long.
    async fn drain(&mut self) -> anyhow::Result<bool> {
        let began = Instant::now();
        while began.elapsed() < DRAIN_PATIENCE {
            let live: i64 = sqlx::query_scalar(
                "SELECT (SELECT count(*) FROM executions WHERE status = 'Pending')
                      + (SELECT count(*) FROM executions WHERE status IN ('Running', 'Cancelling'))",
            )
            .fetch_one(&mut self.setup.postgres)
            .await?;
            if live == 0 {
                return Ok(true);
            }
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
        Ok(false)
    }

    async fn rows(&mut self) -> anyhow::Result<i64> {
        let count = sqlx::query_scalar("SELECT count(*) FROM executions").fetch_one(&mut self.setup.postgres);
        count.await.context("cannot count the executions")
    }

    /// Commits of the database so far, once its backends have reported them.
    async fn commits(&mut self) -> anyhow::Result<i64> {
        let settled = self.last_activity + STATISTICS_DELAY;
        if settled > Instant::now() {
            self.progress.say("waiting for PostgreSQL's statistics");
            tokio::time::sleep_until(settled.into()).await;
        }
        let count = sqlx::query_scalar("SELECT xact_commit FROM pg_stat_database WHERE datname = $1")
            .bind(&self.setup.database)
            .fetch_one(&mut self.setup.postgres);
        count.await.context("cannot read pg_stat_database")
    }
}

impl Load {
    pub(crate) fn new(what: &str, clients: usize, count: usize, action: Action) -> Self {
        Self {
            what: what.to_owned(),
            clients,
            count,
            action,
            also: Vec::new(),
            also_fail: false,
            counts_commits: false,
            drains: false,
            is_undisturbed: false,
        }
    }
}

/// Looks at the memory now and then, from a thread of its own, and keeps the peaks.
struct Sampler {
    thread: thread::JoinHandle<Memory>,
    running: Arc<()>,
}

impl Sampler {
    fn start(footprint: Footprint) -> Self {
        let running = Arc::new(());
        let watched = Arc::downgrade(&running);
        let thread = thread::spawn(move || {
            let mut peak = Memory::new();
            while watched.strong_count() > 0 {
                thread::park_timeout(SAMPLE_PERIOD);
                keep_peak(&mut peak, footprint.memory());
            }
            peak
        });
        Self { thread, running }
    }

    /// The peaks, with a last look at the end.
    fn stop(self) -> Memory {
        drop(self.running);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}
