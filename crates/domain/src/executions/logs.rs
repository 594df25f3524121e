//! Log lines: stored in batches, read by sequence.
//!
//! A line is accepted only with the attempt that holds the fence; sequences have no gaps.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::RawJson;
use crate::id::{ExecutionId, OrgId};
use crate::{Db, OrgTx, Result, SystemScope};

/// A line as stored and streamed.
#[derive(Debug, Clone)]
pub struct Line {
    /// From 1 without gaps, in order of emission, across attempts.
    pub sequence: i64,
    /// The same for readers without platform rights; `None` hides the line from them.
    pub user_sequence: Option<i64>,
    /// The attempt that logged it.
    pub attempt: i32,
    /// `DEBUG`, `INFO`, `WARNING`, `ERROR`, `CRITICAL` or `TRACEBACK`.
    pub level: String,
    /// Text.
    pub message: String,
    /// What `extra` held.
    pub data: Option<Json<RawJson>>,
    /// When it was logged.
    pub logged_at: DateTime<Utc>,
}

/// Lines of one attempt, in order.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Their execution.
    pub execution_id: ExecutionId,
    /// Its organization.
    pub organization_id: Option<OrgId>,
    /// The attempt that logged them.
    pub attempt: i32,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Appends the batches whose attempt still holds the fence, in one statement; returns how many lines were dropped.
///
/// The rows are locked, in id order, so that nobody ends an attempt while lines of it are stored. What runs is kept
/// meanwhile: the lock is the weakest, for a heartbeat passes by what is locked, and whoever logs without pause would
/// lose the lease.
pub(super) async fn append(conn: &mut PgConnection, batches: &[Batch]) -> Result<usize> {
    // Each attempt once, however many batches it has: a row that is held twice would have each of its lines twice.
    let holders: BTreeSet<(Uuid, i32)> =
        batches.iter().map(|batch| (batch.execution_id.0, batch.attempt)).collect();
    let (ids, attempts): (Vec<Uuid>, Vec<i32>) = holders.into_iter().unzip();
    let lines = Columns::of(batches.iter());
    let stored = sqlx::query!(
        "WITH held AS (
             SELECT e.id, e.attempt, e.organization_id
             FROM executions e
             JOIN UNNEST($1::uuid[], $2::int[]) AS b (id, attempt) ON b.id = e.id AND b.attempt = e.attempt
             -- ANY and COALESCE, to go by the key (ADR 57).
             WHERE e.id = ANY ($1) AND COALESCE(e.status, '') IN ('Running', 'Cancelling')
             ORDER BY e.id
             FOR KEY SHARE OF e
         )
         INSERT INTO execution_logs (execution_id, sequence, user_sequence, organization_id, attempt, level, message, data, logged_at)
         SELECT l.execution_id, l.sequence, l.user_sequence, held.organization_id, l.attempt, l.level, l.message, l.data::json, l.logged_at
         FROM UNNEST($3::uuid[], $4::bigint[], $5::bigint[], $6::int[], $7::text[], $8::text[], $9::text[], $10::timestamptz[])
             AS l (execution_id, sequence, user_sequence, attempt, level, message, data, logged_at)
         JOIN held ON held.id = l.execution_id AND held.attempt = l.attempt",
        &ids,
        &attempts,
        &lines.executions,
        &lines.sequences,
        &lines.user_sequences as &[Option<i64>],
        &lines.attempts,
        &lines.levels,
        &lines.messages,
        &lines.data as &[Option<String>],
        &lines.times,
    )
    .execute(conn)
    .await?
    .rows_affected();
    Ok(lines.executions.len().saturating_sub(usize::try_from(stored).unwrap_or(usize::MAX)))
}

/// Lines as arrays: one message to the server, whatever their number (ADR 10).
#[derive(Default)]
pub(super) struct Columns {
    pub(super) executions: Vec<Uuid>,
    pub(super) sequences: Vec<i64>,
    pub(super) user_sequences: Vec<Option<i64>>,
    pub(super) attempts: Vec<i32>,
    pub(super) levels: Vec<String>,
    pub(super) messages: Vec<String>,
    pub(super) data: Vec<Option<String>>,
    pub(super) times: Vec<DateTime<Utc>>,
}

impl Columns {
    pub(super) fn of<'a>(batches: impl Iterator<Item = &'a Batch>) -> Self {
        let mut columns = Self::default();
        for batch in batches {
            for line in &batch.lines {
                columns.executions.push(batch.execution_id.0);
                columns.sequences.push(line.sequence);
                columns.user_sequences.push(line.user_sequence);
                columns.attempts.push(line.attempt);
                columns.levels.push(line.level.clone());
                columns.messages.push(storable(&line.message));
                columns.data.push(line.data.as_ref().map(|data| data.get().to_owned()));
                columns.times.push(line.logged_at);
            }
        }
        columns
    }
}

/// PostgreSQL's text holds no NUL.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// What is stored of an execution's lines, as far as limits count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Bytes of messages and data.
    pub bytes: i64,
    /// Whether one of them says that later ones are not kept.
    pub is_full: bool,
}

/// What is stored of an execution's lines; `marker` is the message of the line that says that later ones are not kept.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn stored(db: &Db, execution: ExecutionId, marker: &str) -> Result<Stored> {
    const SCOPE: SystemScope =
        SystemScope::because("a worker counts what earlier attempts of a run have logged, whoever's it is");
    let mut conn = db.system(&SCOPE).await?;
    Ok(sqlx::query_as!(
        Stored,
        r#"SELECT COALESCE(sum(octet_length(message) + COALESCE(octet_length(data::text), 0)), 0)::bigint AS "bytes!",
               COALESCE(bool_or(level = 'WARNING' AND message = $2), FALSE) AS "is_full!"
           FROM execution_logs
           WHERE execution_id = $1"#,
        execution as _,
        marker,
    )
    .fetch_one(&mut *conn)
    .await?)
}

/// The last line of this attempt and those before, in the reader's own counting; 0 if there is none.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn last_until(
    tx: &mut OrgTx,
    execution: ExecutionId,
    attempt: i32,
    all_levels: bool,
) -> Result<i64> {
    Ok(sqlx::query_scalar!(
        r#"SELECT COALESCE(max(CASE WHEN $3 THEN sequence ELSE user_sequence END), 0) AS "last!"
           FROM execution_logs
           WHERE execution_id = $1 AND attempt <= $2"#,
        execution as _,
        attempt,
        all_levels,
    )
    .fetch_one(tx.conn())
    .await?)
}

/// The lines after `after` in the reader's own counting, at most `limit`.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn list(
    tx: &mut OrgTx,
    execution: ExecutionId,
    after: i64,
    limit: i64,
    all_levels: bool,
) -> Result<Vec<Line>> {
    Ok(sqlx::query_as!(
        Line,
        r#"SELECT sequence, user_sequence, attempt, level, message, data AS "data: Json<RawJson>", logged_at
           FROM execution_logs
           WHERE execution_id = $1 AND CASE WHEN $4 THEN sequence > $2 ELSE user_sequence > $2 END
           ORDER BY sequence
           LIMIT $3"#,
        execution as _,
        after,
        limit,
        all_levels,
    )
    .fetch_all(tx.conn())
    .await?)
}
