//! What is read past the installation: every change of a row as it happens, and everything that is stored at the end.
//!
//! A trigger of the superuser writes the changes down in the transaction that makes them, so that none is missed and none
//! is there that was rolled back.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{Connection, PgConnection, Row as _};
use uuid::Uuid;

use crate::history::{History, Kind, Line, Row, Start, Tick, Time, Timetable, Transition};

const REMEMBER: &str = "
    CREATE TABLE chaos_history (
        id BIGSERIAL, at TIMESTAMPTZ DEFAULT clock_timestamp(), execution_id UUID, before TEXT, after TEXT,
        attempt_before INT, attempt INT, lease_until TIMESTAMPTZ, workflow_name TEXT, organization_id UUID, concurrency_key TEXT);
    CREATE FUNCTION chaos_remember() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
    BEGIN
        INSERT INTO chaos_history (execution_id, before, after, attempt_before, attempt, lease_until, workflow_name,
            organization_id, concurrency_key)
        VALUES (NEW.id, OLD.status, NEW.status, OLD.attempt, NEW.attempt, OLD.lease_expires_at, NEW.workflow_name,
            NEW.organization_id, NEW.concurrency_key);
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos_remember AFTER UPDATE OF status, attempt ON executions FOR EACH ROW
        WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.attempt IS DISTINCT FROM NEW.attempt)
        EXECUTE FUNCTION chaos_remember();";
/// How far back the schedules of the load are set: every replica finds a backlog of ticks.
const BACK: TimeDelta = TimeDelta::minutes(10);
const PAUSE: Duration = Duration::from_millis(200);

/// Begins to write every change down.
pub(crate) async fn remember(database: &str) -> anyhow::Result<()> {
    let mut conn = PgConnection::connect(database).await?;
    sqlx::raw_sql(REMEMBER).execute(&mut conn).await?;
    Ok(())
}

/// Sets the schedules back; returns the first tick that there must be.
pub(crate) async fn set_schedules_back(database: &str) -> anyhow::Result<Time> {
    let mut conn = PgConnection::connect(database).await?;
    let first = Utc::now().duration_trunc(TimeDelta::minutes(1))? - BACK;
    sqlx::query("UPDATE schedules SET next_fire_at = $1").bind(first).execute(&mut conn).await?;
    Ok(first)
}

/// Waits until everything has ended; nothing when it does not.
pub(crate) async fn wait_until_quiet(database: &str, patience: Duration) -> Option<f64> {
    let began = Instant::now();
    while began.elapsed() < patience {
        if open(database).await.is_ok_and(|open| open == 0) {
            return Some(began.elapsed().as_secs_f64());
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

async fn open(database: &str) -> anyhow::Result<i64> {
    let mut conn = PgConnection::connect(database).await?;
    let open = "SELECT count(*) FROM executions WHERE status IN ('Pending', 'Running', 'Cancelling')";
    Ok(sqlx::query_scalar(open).fetch_one(&mut conn).await?)
}

/// Reads everything that is stored into the history.
pub(crate) async fn read(
    database: &str,
    effects: &Path,
    first: Time,
    into: &mut History,
) -> anyhow::Result<()> {
    // Before the rows: what began is claimed already, also when something still runs.
    into.starts = starts(effects)?;
    let mut conn = PgConnection::connect(database).await?;
    into.rows = rows(&mut conn).await?;
    into.transitions = transitions(&mut conn).await?;
    into.lines = lines(&mut conn).await?;
    into.ticks = ticks(&mut conn).await?;
    // A tick that is due this very moment may still be on its way.
    let last = (Utc::now() - TimeDelta::seconds(5)).duration_trunc(TimeDelta::minutes(1))?;
    let names: HashMap<&str, ()> = into.ticks.iter().map(|tick| (tick.schedule.as_str(), ())).collect();
    into.timetables =
        names.keys().map(|schedule| Timetable { schedule: (*schedule).to_owned(), first, last }).collect();
    Ok(())
}

async fn rows(conn: &mut PgConnection) -> anyhow::Result<Vec<Row>> {
    let query = "SELECT id, organization_id, workflow_name, parameters->>'token' AS token, status, attempt, error_type,
                     result, started_at
                 FROM executions WHERE kind = 'workflow' ORDER BY id";
    let found = sqlx::query(query).fetch_all(conn).await?;
    let row = |row: &sqlx::postgres::PgRow| {
        let result: Option<Value> = row.try_get("result")?;
        let name: String = row.try_get("workflow_name")?;
        Ok(Row {
            id: row.try_get("id")?,
            organization: row.try_get("organization_id")?,
            kind: Kind::of_workflow(&name),
            token: row.try_get("token")?,
            status: row.try_get("status")?,
            attempt: row.try_get("attempt")?,
            error_type: row.try_get("error_type")?,
            stamp: result.and_then(|result| serde_json::from_value(result).ok()),
            started_at: row.try_get("started_at")?,
        })
    };
    found.iter().map(row).collect::<Result<_, sqlx::Error>>().context("cannot read the executions")
}

async fn transitions(conn: &mut PgConnection) -> anyhow::Result<Vec<Transition>> {
    let found = sqlx::query("SELECT * FROM chaos_history ORDER BY at, id").fetch_all(conn).await?;
    let transition = |row: &sqlx::postgres::PgRow| {
        let workflow: String = row.try_get("workflow_name")?;
        let organization: Option<Uuid> = row.try_get("organization_id")?;
        let key: Option<String> = row.try_get("concurrency_key")?;
        let lane = match (Kind::of_workflow(&workflow), key) {
            (Some(Kind::Lone), _) => Some((workflow, 2)),
            (Some(Kind::Keyed), Some(key)) => {
                Some((format!("{} in {}", key, organization.unwrap_or_default()), 1))
            }
            _ => None,
        };
        Ok(Transition {
            execution: row.try_get("execution_id")?,
            at: row.try_get("at")?,
            from: row.try_get("before")?,
            to: row.try_get("after")?,
            attempt_before: row.try_get("attempt_before")?,
            attempt: row.try_get("attempt")?,
            lease_until: row.try_get("lease_until")?,
            lane,
        })
    };
    found.iter().map(transition).collect::<Result<_, sqlx::Error>>().context("cannot read the changes")
}

async fn lines(conn: &mut PgConnection) -> anyhow::Result<Vec<Line>> {
    let query =
        "SELECT execution_id, sequence, user_sequence, attempt, message FROM execution_logs ORDER BY 1, 2";
    let found: Vec<(Uuid, i64, Option<i64>, i32, String)> = sqlx::query_as(query).fetch_all(conn).await?;
    let line = |(execution, sequence, user_sequence, attempt, message)| Line {
        execution,
        sequence,
        user_sequence,
        attempt,
        message,
    };
    Ok(found.into_iter().map(line).collect())
}

async fn ticks(conn: &mut PgConnection) -> anyhow::Result<Vec<Tick>> {
    let query = "SELECT w.name, f.fire_at, f.outcome, f.execution_id
                 FROM schedule_fires f JOIN workflows w ON w.id = f.workflow_id ORDER BY 1, 2";
    let found: Vec<(String, DateTime<Utc>, String, Option<Uuid>)> =
        sqlx::query_as(query).fetch_all(conn).await?;
    let tick = |(schedule, fire_at, outcome, execution)| Tick { schedule, fire_at, outcome, execution };
    Ok(found.into_iter().map(tick).collect())
}

fn starts(effects: &Path) -> anyhow::Result<Vec<Start>> {
    let text = std::fs::read_to_string(effects)?;
    text.lines().map(|line| serde_json::from_str(line).context("a line of the effects is broken")).collect()
}
