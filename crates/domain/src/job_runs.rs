//! Periodic jobs that one of all replicas does: who comes first after the period has the run.
//!
//! What a job does is in its own module, and so is what it writes into its row at the end.

use std::time::Duration;

use sqlx::PgConnection;

use crate::Result;

/// Begins a run, unless one began within `period`, here or anywhere else.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub(crate) async fn begin(conn: &mut PgConnection, name: &str, period: Duration) -> Result<bool> {
    let ours = sqlx::query!(
        "INSERT INTO job_runs AS run (name, started_at)
         VALUES ($1, now())
         ON CONFLICT (name) DO UPDATE
         SET started_at = now(), ended_at = NULL
         WHERE run.started_at <= now() - make_interval(secs => $2)",
        name,
        period.as_secs_f64(),
    )
    .execute(conn)
    .await?;
    Ok(ours.rows_affected() > 0)
}
