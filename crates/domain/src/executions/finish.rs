//! Finish: outcomes of many executions in one statement, each only for the holder of its fence.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{RawJson, Status, logs};
use crate::id::ExecutionId;
use crate::{Db, Result, SystemScope, SystemTx};

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
    /// Its state now: `Cancelled` where somebody had asked for it, whatever the run returned.
    pub status: Status,
    /// When it ended; `None` where another attempt follows.
    pub completed_at: Option<DateTime<Utc>>,
}

/// Writes the outcomes whose attempt holds the fence, with their last log lines. What is missing from the
/// answer lost its fence and changed nothing.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away; then nothing was written.
pub async fn finish(tx: &mut SystemTx, outcomes: &[Outcome]) -> Result<Vec<Recorded>> {
    let recorded = write(tx.conn(), outcomes).await?;
    let held = |batch: &&logs::Batch| recorded.iter().any(|recorded| recorded.id == batch.execution_id);
    logs::copy(tx, outcomes.iter().filter_map(|outcome| outcome.lines.as_ref()).filter(held)).await?;
    Ok(recorded)
}

/// As [`finish`], for outcomes without log lines: one statement that is its own transaction.
///
/// # Errors
/// As [`finish`].
pub async fn finish_alone(db: &Db, outcomes: &[Outcome]) -> Result<Vec<Recorded>> {
    let mut conn = db.system(&SystemScope::because("a batch holds outcomes of many organizations")).await?;
    write(&mut conn, outcomes).await
}

async fn write(conn: &mut PgConnection, outcomes: &[Outcome]) -> Result<Vec<Recorded>> {
    let ids: Vec<Uuid> = outcomes.iter().map(|o| o.id.0).collect();
    let attempts: Vec<i32> = outcomes.iter().map(|o| o.attempt).collect();
    let statuses: Vec<String> = outcomes.iter().map(|o| o.status.as_str().to_owned()).collect();
    let pauses: Vec<f64> = outcomes.iter().map(|o| o.retry_in.as_secs_f64()).collect();
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
    let recorded = sqlx::query_as!(
        Recorded,
        r#"WITH held AS (
               SELECT e.id, e.status = 'Cancelling' AS cancelled, o.status AS outcome, o.pause, o.result, o.result_type,
                   o.error_message, o.error_type, o.is_user_error, o.variables, o.duration_ms, o.peak, o.cpu
               FROM executions e
               JOIN UNNEST($1::uuid[], $2::int[], $3::text[], $4::float8[], $5::text[], $6::text[], $7::text[], $8::text[],
                        $9::bool[], $10::text[], $11::bigint[], $12::bigint[], $13::float8[])
                    AS o (id, attempt, status, pause, result, result_type, error_message, error_type, is_user_error,
                        variables, duration_ms, peak, cpu) ON o.id = e.id AND o.attempt = e.attempt
               WHERE e.status IN ('Running', 'Cancelling')
               ORDER BY e.id
               FOR UPDATE OF e
           )
           UPDATE executions e
           SET status = CASE WHEN held.cancelled THEN 'Cancelled' ELSE held.outcome END,
               due_at = CASE WHEN held.outcome = 'Pending' THEN now() + make_interval(secs => held.pause) ELSE e.due_at END,
               completed_at = CASE WHEN held.outcome = 'Pending' AND NOT held.cancelled THEN NULL ELSE now() END,
               result = CASE WHEN NOT held.cancelled THEN held.result::json END,
               result_type = CASE WHEN NOT held.cancelled THEN held.result_type END,
               error_message = CASE WHEN held.cancelled THEN 'cancelled while it ran' ELSE held.error_message END,
               error_type = CASE WHEN NOT held.cancelled THEN held.error_type END,
               is_user_error = held.is_user_error AND NOT held.cancelled,
               variables = CASE WHEN NOT held.cancelled THEN held.variables::json END,
               duration_ms = held.duration_ms, peak_memory_bytes = held.peak, cpu_total_seconds = held.cpu,
               lease_owner = NULL, lease_expires_at = NULL
           FROM held
           WHERE e.id = held.id
           RETURNING e.id AS "id: ExecutionId", e.status AS "status: Status", e.completed_at"#,
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
    )
    .fetch_all(conn)
    .await?;
    Ok(recorded)
}

/// PostgreSQL's text holds no NUL.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
