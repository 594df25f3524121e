//! Finish: outcomes of many executions in one statement, each only for the holder of its fence.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::logs::storable;
use super::{RawJson, Status, logs};
use crate::id::ExecutionId;
use crate::{Db, Result, SystemScope};

const SCOPE: SystemScope = SystemScope::because("a batch holds outcomes of many organizations");

/// The outcome of one attempt.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The execution.
    pub id: ExecutionId,
    /// The attempt that ends: the fence.
    pub attempt: i32,
    /// How it ended; [`Status::Pending`] asks for another attempt after `retry_in`.
    pub status: Status,
    /// Pause before the next attempt.
    pub retry_in: Duration,
    /// Whether nothing of it has run, so that the attempt does not count.
    pub is_given_back: bool,
    /// What the workflow returned.
    pub result: Option<RawJson>,
    /// `json`, `html` or `text`.
    pub result_type: Option<String>,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Class of the exception or name of the platform.
    pub error_type: Option<String>,
    /// Whether the message was written for the person who runs it.
    pub is_user_error: bool,
    /// Locals of the workflow function.
    pub variables: Option<RawJson>,
    /// Duration of the attempt.
    pub duration_ms: i64,
    /// Peak memory, bytes.
    pub peak_memory_bytes: Option<i64>,
    /// CPU time, seconds.
    pub cpu_total_seconds: Option<f64>,
    /// Lines that were not stored before; they land in the same transaction.
    pub lines: Option<logs::Batch>,
}

/// What an accepted outcome became.
#[derive(Debug, Clone, Copy)]
pub struct Recorded {
    /// The execution.
    pub id: ExecutionId,
    /// The attempt that ended.
    pub attempt: i32,
    /// Its state now: `Cancelled` where somebody had asked for it, whatever the run returned.
    pub status: Status,
    /// When it ended; `None` where another attempt follows.
    pub completed_at: Option<DateTime<Utc>>,
}

/// What was written, and how many lines of attempts that had lost their fence were dropped.
#[derive(Debug, Default)]
pub struct Written {
    /// Outcomes that count; what is missing lost its fence and changed nothing.
    pub recorded: Vec<Recorded>,
    /// Lines that do not count.
    pub dropped_lines: usize,
}

/// Writes lines of runs that go on and outcomes of runs that ended: a single statement where that is enough,
/// else one transaction.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away; then nothing was written.
pub async fn record(db: &Db, lines: &[logs::Batch], outcomes: &[Outcome]) -> Result<Written> {
    if lines.is_empty() {
        let recorded = write(&mut *db.system(&SCOPE).await?, outcomes).await?;
        return Ok(Written { recorded, dropped_lines: 0 });
    }
    if outcomes.is_empty() {
        let dropped_lines = logs::append(&mut *db.system(&SCOPE).await?, lines).await?;
        return Ok(Written { recorded: Vec::new(), dropped_lines });
    }
    let mut tx = db.begin_system(&SCOPE).await?;
    let dropped_lines = logs::append(tx.conn(), lines).await?;
    let recorded = write(tx.conn(), outcomes).await?;
    tx.commit().await?;
    Ok(Written { recorded, dropped_lines })
}

/// Writes the outcomes whose attempt holds the fence, with their last log lines. What is missing from the
/// answer lost its fence and changed nothing.
async fn write(conn: &mut PgConnection, outcomes: &[Outcome]) -> Result<Vec<Recorded>> {
    let ids: Vec<Uuid> = outcomes.iter().map(|o| o.id.0).collect();
    let attempts: Vec<i32> = outcomes.iter().map(|o| o.attempt).collect();
    let statuses: Vec<String> = outcomes.iter().map(|o| o.status.as_str().to_owned()).collect();
    let given_back: Vec<bool> = outcomes.iter().map(|o| o.is_given_back).collect();
    let pauses: Vec<f64> = outcomes.iter().map(|o| o.retry_in.as_secs_f64()).collect();
    #[cfg(feature = "sabotage")]
    crate::sabotage::lift_fence(conn, &ids, &attempts).await?;
    let text = |raw: &Option<RawJson>| raw.as_ref().map(|raw| raw.get().to_owned());
    let results: Vec<Option<String>> = outcomes.iter().map(|o| text(&o.result)).collect();
    let result_types: Vec<Option<String>> = outcomes.iter().map(|o| o.result_type.clone()).collect();
    let messages: Vec<Option<String>> =
        outcomes.iter().map(|o| o.error_message.as_deref().map(storable)).collect();
    let error_types: Vec<Option<String>> =
        outcomes.iter().map(|o| o.error_type.as_deref().map(storable)).collect();
    let user_errors: Vec<bool> = outcomes.iter().map(|o| o.is_user_error).collect();
    let variables: Vec<Option<String>> = outcomes.iter().map(|o| text(&o.variables)).collect();
    let durations: Vec<i64> = outcomes.iter().map(|o| o.duration_ms).collect();
    let peaks: Vec<Option<i64>> = outcomes.iter().map(|o| o.peak_memory_bytes).collect();
    let cpus: Vec<Option<f64>> = outcomes.iter().map(|o| o.cpu_total_seconds).collect();
    let lines = logs::Columns::of(outcomes.iter().filter_map(|outcome| outcome.lines.as_ref()));
    let recorded = sqlx::query_as!(
        Recorded,
        r#"WITH updated AS (
               UPDATE executions e
               SET status = CASE WHEN e.status = 'Cancelling' THEN 'Cancelled' ELSE o.status END,
                   due_at = CASE WHEN o.status = 'Pending' THEN now() + make_interval(secs => o.pause) ELSE e.due_at END,
                   queue_rank = CASE WHEN o.status = 'Pending'
                       THEN now() + make_interval(secs => o.pause, mins => -e.priority) ELSE e.queue_rank END,
                   given_back = e.given_back + o.given_back::int,
                   completed_at = CASE WHEN o.status = 'Pending' AND e.status <> 'Cancelling' THEN NULL ELSE now() END,
                   result = CASE WHEN e.status <> 'Cancelling' THEN o.result::json END,
                   result_type = CASE WHEN e.status <> 'Cancelling' THEN o.result_type END,
                   error_message = CASE WHEN e.status = 'Cancelling' THEN 'cancelled while it ran' ELSE o.error_message END,
                   error_type = CASE WHEN e.status <> 'Cancelling' THEN o.error_type END,
                   is_user_error = o.is_user_error AND e.status <> 'Cancelling',
                   variables = CASE WHEN e.status <> 'Cancelling' THEN o.variables::json END,
                   duration_ms = o.duration_ms, peak_memory_bytes = o.peak, cpu_total_seconds = o.cpu,
                   lease_owner = NULL, lease_expires_at = NULL
               FROM UNNEST($1::uuid[], $2::int[], $3::text[], $4::float8[], $5::text[], $6::text[], $7::text[], $8::text[],
                        $9::bool[], $10::text[], $11::bigint[], $12::bigint[], $13::float8[], $22::bool[])
                   AS o (id, attempt, status, pause, result, result_type, error_message, error_type, is_user_error,
                        variables, duration_ms, peak, cpu, given_back)
               -- ANY and COALESCE, so that the planner goes by the key (ADR 57): it may know of few rows, and of few that run.
               WHERE e.id = ANY ($1) AND e.id = o.id AND e.attempt = o.attempt
                 AND COALESCE(e.status, '') IN ('Running', 'Cancelling')
               RETURNING e.id, e.attempt, e.organization_id, e.status, e.completed_at
           ), logged AS (
               INSERT INTO execution_logs (execution_id, sequence, user_sequence, organization_id, attempt, level, message, data, logged_at)
               SELECT l.execution_id, l.sequence, l.user_sequence, u.organization_id, l.attempt, l.level, l.message, l.data::json, l.logged_at
               FROM UNNEST($14::uuid[], $15::bigint[], $16::bigint[], $17::int[], $18::text[], $19::text[], $20::text[], $21::timestamptz[])
                   AS l (execution_id, sequence, user_sequence, attempt, level, message, data, logged_at)
               JOIN updated u ON u.id = l.execution_id AND u.attempt = l.attempt
           )
           SELECT id AS "id!: ExecutionId", attempt AS "attempt!", status AS "status!: Status", completed_at FROM updated"#,
        &ids,
        &attempts,
        &statuses,
        &pauses,
        &results as &[Option<String>],
        &result_types as &[Option<String>],
        &messages as &[Option<String>],
        &error_types as &[Option<String>],
        &user_errors,
        &variables as &[Option<String>],
        &durations,
        &peaks as &[Option<i64>],
        &cpus as &[Option<f64>],
        &lines.executions,
        &lines.sequences,
        &lines.user_sequences as &[Option<i64>],
        &lines.attempts,
        &lines.levels,
        &lines.messages,
        &lines.data as &[Option<String>],
        &lines.times,
        &given_back,
    )
    .fetch_all(conn)
    .await?;
    Ok(recorded)
}
