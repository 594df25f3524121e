//! Log lines: stored in batches by `COPY`, read by sequence.
//!
//! A line is accepted only with the attempt that holds the fence; sequences have no gaps.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::RawJson;
use crate::id::{ExecutionId, OrgId};
use crate::{OrgTx, Result, SystemTx};

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

/// Appends the batches whose attempt still holds the fence, in one `COPY`; returns how many lines were dropped.
///
/// The rows are locked in id order, so that a reaper waits for the lines of the attempt it ends.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn append(tx: &mut SystemTx, batches: &[Batch]) -> Result<usize> {
    let ids: Vec<Uuid> = batches.iter().map(|batch| batch.execution_id.0).collect();
    let attempts: Vec<i32> = batches.iter().map(|batch| batch.attempt).collect();
    let held = sqlx::query!(
        r#"SELECT e.id AS "id: ExecutionId", e.attempt
           FROM executions e
           JOIN UNNEST($1::uuid[], $2::int[]) AS b (id, attempt) ON b.id = e.id AND b.attempt = e.attempt
           WHERE e.status IN ('Running', 'Cancelling')
           ORDER BY e.id
           FOR SHARE OF e"#,
        &ids,
        &attempts,
    )
    .fetch_all(tx.conn())
    .await?;
    let holds =
        |batch: &&Batch| held.iter().any(|row| (row.id, row.attempt) == (batch.execution_id, batch.attempt));
    let (accepted, dropped): (Vec<_>, Vec<_>) = batches.iter().partition(holds);
    copy(tx, accepted.into_iter()).await?;
    Ok(dropped.iter().map(|batch| batch.lines.len()).sum())
}

/// Copies lines whose fence the caller holds in this transaction.
pub(super) async fn copy<'a>(tx: &mut SystemTx, batches: impl Iterator<Item = &'a Batch>) -> Result<()> {
    let mut rows = Vec::new();
    for batch in batches {
        for line in &batch.lines {
            write_row(&mut rows, batch, line);
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let mut copy = tx
        .conn()
        .copy_in_raw(
            "COPY execution_logs (execution_id, sequence, user_sequence, organization_id, attempt, level, message, data, logged_at) FROM STDIN",
        )
        .await?;
    copy.send(rows).await?;
    copy.finish().await?;
    Ok(())
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

/// One line in the text format of `COPY`.
fn write_row(rows: &mut Vec<u8>, batch: &Batch, line: &Line) {
    use std::io::Write as _;

    const INFALLIBLE: &str = "writing to memory cannot fail";
    write!(rows, "{}\t{}\t", batch.execution_id, line.sequence).expect(INFALLIBLE);
    write_optional(rows, line.user_sequence);
    write_optional(rows, batch.organization_id);
    write!(rows, "{}\t{}\t", batch.attempt, line.level).expect(INFALLIBLE);
    write_escaped(rows, &line.message);
    rows.push(b'\t');
    match &line.data {
        Some(data) => write_escaped(rows, data.get()),
        None => rows.extend_from_slice(b"\\N"),
    }
    writeln!(rows, "\t{}", line.logged_at.format("%Y-%m-%dT%H:%M:%S%.6fZ")).expect(INFALLIBLE);
}

fn write_optional(rows: &mut Vec<u8>, value: Option<impl std::fmt::Display>) {
    use std::io::Write as _;

    match value {
        Some(value) => write!(rows, "{value}\t").expect("writing to memory cannot fail"),
        None => rows.extend_from_slice(b"\\N\t"),
    }
}

fn write_escaped(rows: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'\\' => rows.extend_from_slice(b"\\\\"),
            b'\n' => rows.extend_from_slice(b"\\n"),
            b'\r' => rows.extend_from_slice(b"\\r"),
            b'\t' => rows.extend_from_slice(b"\\t"),
            // PostgreSQL's text holds no NUL.
            0 => rows.extend_from_slice("\u{fffd}".as_bytes()),
            other => rows.push(other),
        }
    }
}
