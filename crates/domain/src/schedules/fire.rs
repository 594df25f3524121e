//! Firing: what is due is taken, decided and written in one transaction, with the executions it starts.
//!
//! Any number of processes may do this at once. Rows are locked and skipped, so that replicas share the work; the primary
//! key of the fires is what makes a tick unique even so. Time is the database's.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Misfire, Outcome, Overlap, Timetable};
use crate::events::Update;
use crate::executions::submit::{self, NewExecution, Work};
use crate::id::{ExecutionId, OrgId, WorkflowId};
use crate::telemetry::metrics;
use crate::wakeup::Wakeup;
use crate::workflows::{Parameter, Workflow};
use crate::{Db, Error, OrgScope, Result, SystemScope, SystemTx};

const SCOPE: SystemScope = SystemScope::because("schedules of every organization fire in one tick");
/// Schedules one transaction takes.
const BATCH: i64 = 500;
/// Transactions of one tick: what is due beyond that is due in the next.
const MOST_BATCHES: usize = 40;
/// A tick that is later than this was missed.
const ON_TIME: TimeDelta = TimeDelta::seconds(60);
/// Missed ticks that `all` runs.
const MOST_CAUGHT_UP: usize = 24;
/// Missed ticks are counted to this.
const MOST_COUNTED: usize = 1_000;
/// Open runs that are remembered of one schedule.
const MOST_OPEN: usize = 100;
/// What the runs are listed as.
const CALLER: &str = "Scheduled Execution";

/// What a tick did.
#[derive(Debug, Default)]
pub struct Fired {
    /// Executions started.
    pub started: usize,
    /// Ticks that started nothing.
    pub passed_over: usize,
    /// How late the latest of the started ones is.
    pub lag: TimeDelta,
    /// To be published, now that the rows are there.
    pub wakeups: Vec<Wakeup>,
    /// The same, before them: that they wait.
    pub updates: Vec<Update>,
}

/// A schedule that is due, or has a tick waiting.
#[derive(Debug)]
struct Due {
    expression: String,
    timezone: String,
    overlap: Overlap,
    misfire: Misfire,
    next_fire_at: Option<DateTime<Utc>>,
    waiting_fire_at: Option<DateTime<Utc>>,
    open_executions: Vec<Uuid>,
    is_active: bool,
    workflow: Arc<Workflow>,
}

/// What becomes of one tick, or of a number of missed ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decision {
    fire_at: DateTime<Utc>,
    outcome: Outcome,
    ticks: i32,
}

/// Starts what is due now.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away: then nothing of the last batch happened.
pub async fn tick(db: &Db) -> Result<Fired> {
    tick_at(db, None).await
}

/// The same at a given time, for whoever must not wait for it.
///
/// # Errors
/// As [`tick`].
pub async fn tick_at(db: &Db, now: Option<DateTime<Utc>>) -> Result<Fired> {
    let mut fired = Fired::default();
    for _ in 0..MOST_BATCHES {
        let mut tx = db.begin_system(&SCOPE).await?;
        let now = match now {
            Some(now) => now,
            None => sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(tx.conn()).await?,
        };
        let mut due = take_due(&mut tx, now).await?;
        let is_last = (due.len() as i64) < BATCH;
        due.extend(take_waiting(&mut tx, now).await?);
        let started_before = fired.started;
        if !due.is_empty() {
            fire(&mut tx, now, due, &mut fired).await?;
        }
        tx.commit().await?;
        metrics::submitted(fired.started - started_before);
        if is_last {
            break;
        }
    }
    Ok(fired)
}

/// Locks up to [`BATCH`] schedules by a condition, in which `$2` is now, and an order. What both kinds share is here,
/// because the macros of sqlx take text only.
macro_rules! due {
    ($tx:expr, $next_fire_at:literal, $which:literal, $now:expr) => {{
        let rows = sqlx::query!(
            r#"SELECT s.expression, s.timezone, s.overlap AS "overlap: Overlap", s.misfire AS "misfire: Misfire", "#
                + $next_fire_at
                + r#" AS next_fire_at, s.waiting_fire_at, s.open_executions, COALESCE(o.is_active, TRUE) AS "is_active!",
                   w.id AS "id: WorkflowId", w.organization_id AS "organization_id: OrgId", w.path, w.name, w.description,
                   w.category, w.execution_mode, w.timeout_seconds, w.max_attempts,
                   w.parameters AS "parameters: Json<Vec<Parameter>>", w.definition AS "definition: Json<Value>"
               FROM schedules s
               JOIN workflows w ON w.id = s.workflow_id AND w.is_active
               LEFT JOIN organizations o ON o.id = w.organization_id
               WHERE s.paused_at IS NULL AND "#
                + $which
                + " LIMIT $1 FOR UPDATE OF s SKIP LOCKED",
            BATCH,
            $now,
        )
        .fetch_all($tx.conn())
        .await?;
        let due = rows.into_iter().map(|row| Due {
            expression: row.expression,
            timezone: row.timezone,
            overlap: row.overlap,
            misfire: row.misfire,
            next_fire_at: row.next_fire_at,
            waiting_fire_at: row.waiting_fire_at,
            open_executions: row.open_executions,
            is_active: row.is_active,
            workflow: Arc::new(Workflow {
                id: row.id,
                organization_id: row.organization_id,
                path: row.path,
                name: row.name,
                description: row.description,
                category: row.category,
                execution_mode: row.execution_mode,
                timeout_seconds: row.timeout_seconds,
                max_attempts: row.max_attempts,
                parameters: row.parameters,
                definition: row.definition,
            }),
        });
        due.collect::<Vec<Due>>()
    }};
}

async fn take_due(tx: &mut SystemTx, now: DateTime<Utc>) -> Result<Vec<Due>> {
    Ok(due!(tx, "s.next_fire_at", "s.next_fire_at <= $2 ORDER BY s.next_fire_at", now))
}

/// Schedules with a waiting tick whose runs have all ended.
async fn take_waiting(tx: &mut SystemTx, now: DateTime<Utc>) -> Result<Vec<Due>> {
    Ok(due!(
        tx,
        "NULL::timestamptz",
        "s.waiting_fire_at IS NOT NULL AND (s.next_fire_at IS NULL OR s.next_fire_at > $2)
             AND NOT EXISTS (SELECT FROM executions e
                             WHERE e.id = ANY (s.open_executions) AND e.status IN ('Pending', 'Running', 'Cancelling')
                               AND NOT (e.lease_expires_at < now() AND e.attempt >= e.max_attempts))
           ORDER BY s.waiting_fire_at",
        now
    ))
}

/// Columns of the schedules that change, and of the fires, as arrays.
#[derive(Default)]
struct Changes {
    workflows: Vec<Uuid>,
    nexts: Vec<Option<DateTime<Utc>>>,
    waitings: Vec<Option<DateTime<Utc>>>,
    opens: Vec<String>,
    starts: Vec<i32>,
    last_executions: Vec<Option<Uuid>>,
    errors: Vec<Option<String>>,
}

#[derive(Default)]
struct Fires {
    workflows: Vec<Uuid>,
    organizations: Vec<Option<Uuid>>,
    times: Vec<DateTime<Utc>>,
    outcomes: Vec<String>,
    ticks: Vec<i32>,
    executions: Vec<Option<Uuid>>,
}

async fn fire(tx: &mut SystemTx, now: DateTime<Utc>, due: Vec<Due>, fired: &mut Fired) -> Result<()> {
    let live = live_of(tx, &due).await?;
    let (mut fires, mut decided) = (Fires::default(), Vec::new());
    for mut schedule in due {
        schedule.open_executions.retain(|id| live.contains(id));
        let table = Timetable::parse(&schedule.expression, &schedule.timezone);
        let mut decisions = Vec::new();
        for decision in decide(&schedule, table.as_ref().ok(), now) {
            let execution = (decision.outcome == Outcome::Started).then(ExecutionId::generate);
            fires.push(&schedule, decision, execution);
            decisions.push((decision, execution));
        }
        decided.push((schedule, table, decisions));
    }
    let claimed = claim(tx, &fires).await?;
    let (mut changes, mut submissions) = (Changes::default(), Vec::new());
    for (schedule, table, decisions) in decided {
        let workflow = &schedule.workflow;
        let mut open = schedule.open_executions;
        let mut waiting = schedule.waiting_fire_at;
        let mut last = None;
        let mut started = 0;
        for (decision, execution) in decisions {
            if waiting == Some(decision.fire_at) {
                waiting = None;
            }
            if decision.outcome == Outcome::Waiting {
                waiting = Some(decision.fire_at);
            }
            // Whoever has written this tick before has counted it.
            if !claimed.contains(&(workflow.id.0, decision.fire_at)) {
                continue;
            }
            let Some(id) = execution else {
                fired.passed_over += usize::try_from(decision.ticks).unwrap_or_default();
                continue;
            };
            open.push(id.0);
            last = Some(id.0);
            started += 1;
            fired.started += 1;
            fired.lag = fired.lag.max(now - decision.fire_at);
            let nothing = RawValue::from_string("{}".into()).map_err(Error::internal)?;
            let new = NewExecution { id, ..NewExecution::new(Work::Workflow(workflow.clone()), nothing) };
            fired.wakeups.push(Wakeup::new(id, workflow.organization_id, new.priority, None));
            let scope = OrgScope::for_system(workflow.organization_id, CALLER, None);
            let (org, name) = (workflow.organization_id, workflow.name.clone());
            fired.updates.push(Update::submitted(id, org, name, scope.actor()));
            submissions.push((scope, new));
        }
        let excess = open.len().saturating_sub(MOST_OPEN);
        open.drain(..excess);
        changes.workflows.push(workflow.id.0);
        changes.nexts.push(match &table {
            Ok(table) => table.next_after(now),
            Err(_) => None,
        });
        changes.errors.push(table.err());
        changes.waitings.push(waiting);
        changes.opens.push(format!("{{{}}}", open.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",")));
        changes.starts.push(started);
        changes.last_executions.push(last);
    }
    submit::insert_in(tx, &submissions).await?;
    write(tx, now, &changes).await
}

/// The open executions of these schedules that have not ended. One whose worker was lost in its last attempt has, though nobody
/// has said so yet: where all workers were away, the first tick after it comes before the reaper does.
async fn live_of(tx: &mut SystemTx, due: &[Due]) -> Result<HashSet<Uuid>> {
    let open: Vec<Uuid> = due.iter().flat_map(|schedule| schedule.open_executions.iter().copied()).collect();
    if open.is_empty() {
        return Ok(HashSet::new());
    }
    let live = sqlx::query_scalar!(
        "SELECT id FROM executions
         WHERE id = ANY ($1) AND status IN ('Pending', 'Running', 'Cancelling')
           AND NOT (lease_expires_at < now() AND attempt >= max_attempts)",
        &open,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(live.into_iter().collect())
}

/// Writes the fires; the workflows and times of those that nobody has written before. A tick that waited gets its end.
async fn claim(tx: &mut SystemTx, fires: &Fires) -> Result<HashSet<(Uuid, DateTime<Utc>)>> {
    let claimed = sqlx::query!(
        r#"INSERT INTO schedule_fires AS f (workflow_id, organization_id, fire_at, outcome, ticks, execution_id)
           SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::int[], $6::uuid[])
           ON CONFLICT (workflow_id, fire_at) DO UPDATE
           SET outcome = EXCLUDED.outcome, execution_id = EXCLUDED.execution_id, decided_at = now()
           WHERE f.outcome = 'waiting' AND EXCLUDED.outcome <> 'waiting'
           RETURNING workflow_id, fire_at"#,
        &fires.workflows,
        &fires.organizations as &[Option<Uuid>],
        &fires.times,
        &fires.outcomes,
        &fires.ticks,
        &fires.executions as &[Option<Uuid>],
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(claimed.into_iter().map(|row| (row.workflow_id, row.fire_at)).collect())
}

async fn write(tx: &mut SystemTx, now: DateTime<Utc>, changes: &Changes) -> Result<()> {
    sqlx::query!(
        "UPDATE schedules s
         SET next_fire_at = CASE WHEN s.next_fire_at > $8 THEN s.next_fire_at ELSE c.next_fire_at END,
             waiting_fire_at = c.waiting_fire_at, open_executions = c.open_executions::uuid[],
             error = COALESCE(c.error, s.error), run_count = s.run_count + c.starts,
             last_execution_id = COALESCE(c.last_execution_id, s.last_execution_id),
             last_run_at = CASE WHEN c.starts > 0 THEN now() ELSE s.last_run_at END, updated_at = now()
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::int[], $6::uuid[], $7::text[])
             AS c (workflow_id, next_fire_at, waiting_fire_at, open_executions, starts, last_execution_id, error)
         WHERE s.workflow_id = c.workflow_id",
        &changes.workflows,
        &changes.nexts as &[Option<DateTime<Utc>>],
        &changes.waitings as &[Option<DateTime<Utc>>],
        &changes.opens,
        &changes.starts,
        &changes.last_executions as &[Option<Uuid>],
        &changes.errors as &[Option<String>],
        now,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What becomes of every tick of a schedule that is due; `open_executions` holds only runs that have not ended.
fn decide(schedule: &Due, table: Option<&Timetable>, now: DateTime<Utc>) -> Vec<Decision> {
    let mut decisions = Vec::new();
    let mut candidates = Vec::new();
    let mut waiting = schedule.waiting_fire_at;
    if let (Some(from), Some(table)) = (schedule.next_fire_at, table) {
        let ticks = table.between(from, now, MOST_CAUGHT_UP, MOST_COUNTED);
        let mut missed = ticks.earlier;
        let mut last_missed = ticks.last_earlier;
        let runs_from = match schedule.misfire {
            Misfire::All => 0,
            Misfire::Latest => ticks.newest.len().saturating_sub(1),
            Misfire::Skip => ticks.newest.partition_point(|tick| now - *tick > ON_TIME),
        };
        missed += runs_from;
        last_missed = ticks.newest[..runs_from].last().copied().or(last_missed);
        // The one that waits has its row.
        if let Some(fire_at) = last_missed.filter(|tick| Some(*tick) != waiting) {
            let ticks = i32::try_from(missed).unwrap_or(i32::MAX);
            decisions.push(Decision { fire_at, outcome: Outcome::Missed, ticks });
        }
        candidates = ticks.newest[runs_from..].to_vec();
        candidates.retain(|tick| Some(*tick) != waiting);
    }
    let mut is_busy = !schedule.open_executions.is_empty();
    let one = |fire_at, outcome| Decision { fire_at, outcome, ticks: 1 };
    if let Some(fire_at) = waiting.filter(|_| !is_busy) {
        let outcome = if schedule.is_active { Outcome::Started } else { Outcome::Inactive };
        decisions.push(one(fire_at, outcome));
        is_busy = schedule.is_active;
        waiting = None;
    }
    for fire_at in candidates {
        let outcome = match schedule.overlap {
            _ if !schedule.is_active => Outcome::Inactive,
            Overlap::Allow => Outcome::Started,
            _ if !is_busy => Outcome::Started,
            Overlap::Queue if waiting.is_none() => Outcome::Waiting,
            Overlap::Queue | Overlap::Skip => Outcome::Overlapped,
        };
        is_busy |= outcome == Outcome::Started;
        if outcome == Outcome::Waiting {
            waiting = Some(fire_at);
        }
        decisions.push(one(fire_at, outcome));
    }
    decisions
}

impl Fires {
    fn push(&mut self, schedule: &Due, decision: Decision, execution: Option<ExecutionId>) {
        self.workflows.push(schedule.workflow.id.0);
        self.organizations.push(schedule.workflow.organization_id.map(|org| org.0));
        self.times.push(decision.fire_at);
        self.outcomes.push(decision.outcome.as_str().to_owned());
        self.ticks.push(decision.ticks);
        self.executions.push(execution.map(|id| id.0));
    }
}

impl Outcome {
    /// The name in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Waiting => "waiting",
            Self::Overlapped => "overlapped",
            Self::Missed => "missed",
            Self::Inactive => "inactive",
        }
    }
}
