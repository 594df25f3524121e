//! Rows that follow what the files say, in the transaction that brings the workflows up to date.
//!
//! A schedule that is new or changed only learns its next tick: nothing fires for the time before, but for a tick that
//! waited already.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Timetable;
use crate::{Result, SystemTx};

/// Makes the schedules equal to what the active workflows say.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub(crate) async fn follow(tx: &mut SystemTx) -> Result<()> {
    sqlx::query!(
        "UPDATE schedules s
         SET expression = '', next_fire_at = NULL, error = NULL, updated_at = now()
         WHERE s.expression <> ''
           AND NOT EXISTS (SELECT FROM workflows w
                           WHERE w.id = s.workflow_id AND w.is_active AND w.kind = 'workflow'
                             AND w.definition ->> 'schedule' IS NOT NULL)",
    )
    .execute(tx.conn())
    .await?;
    // Nothing starts what waited for the run before it any more. The rows are locked by now, so no tick begins to wait meanwhile.
    sqlx::query!(
        "WITH ended AS (
             UPDATE schedule_fires f
             SET outcome = 'overlapped', decided_at = now()
             FROM schedules s
             WHERE s.expression = '' AND s.waiting_fire_at IS NOT NULL
               AND (f.workflow_id, f.fire_at) = (s.workflow_id, s.waiting_fire_at) AND f.outcome = 'waiting')
         UPDATE schedules
         SET waiting_fire_at = NULL
         WHERE expression = '' AND waiting_fire_at IS NOT NULL",
    )
    .execute(tx.conn())
    .await?;
    let changed = sqlx::query!(
        r#"SELECT w.id, w.definition ->> 'schedule' AS "expression!",
               COALESCE(w.definition ->> 'schedule_timezone', 'UTC') AS "timezone!", now() AS "now!"
           FROM workflows w
           LEFT JOIN schedules s ON s.workflow_id = w.id
           WHERE w.is_active AND w.kind = 'workflow' AND w.definition ->> 'schedule' IS NOT NULL
             AND (s.workflow_id IS NULL
                  OR s.expression <> w.definition ->> 'schedule'
                  OR s.timezone <> COALESCE(w.definition ->> 'schedule_timezone', 'UTC'))"#,
    )
    .fetch_all(tx.conn())
    .await?;
    let (mut ids, mut nexts, mut errors) =
        (Vec::<Uuid>::new(), Vec::<Option<DateTime<Utc>>>::new(), Vec::new());
    for row in changed {
        let (next, error) = match Timetable::parse_new(&row.expression, &row.timezone) {
            Ok(table) => match table.next_after(row.now) {
                Some(next) => (Some(next), None),
                None => (None, Some("the expression never comes true".to_owned())),
            },
            Err(error) => (None, Some(error)),
        };
        ids.push(row.id);
        nexts.push(next);
        errors.push(error);
    }
    sqlx::query!(
        "INSERT INTO schedules (workflow_id, organization_id, expression, timezone, overlap, misfire, next_fire_at, error)
         SELECT w.id, w.organization_id, w.definition ->> 'schedule', COALESCE(w.definition ->> 'schedule_timezone', 'UTC'),
             '', '', new.next_fire_at, new.error
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::text[]) AS new (id, next_fire_at, error)
         JOIN workflows w ON w.id = new.id
         ON CONFLICT (workflow_id) DO UPDATE
         SET organization_id = EXCLUDED.organization_id, expression = EXCLUDED.expression, timezone = EXCLUDED.timezone,
             next_fire_at = EXCLUDED.next_fire_at, error = EXCLUDED.error, updated_at = now()",
        &ids,
        &nexts as &[Option<DateTime<Utc>>],
        &errors as &[Option<String>],
    )
    .execute(tx.conn())
    .await?;
    // How ticks are treated may change without moving them. What is not known means the default.
    sqlx::query!(
        "UPDATE schedules s
         SET overlap = said.overlap, misfire = said.misfire, updated_at = now()
         FROM (SELECT id,
                   CASE WHEN definition ->> 'schedule_overlap' IN ('queue', 'allow')
                        THEN definition ->> 'schedule_overlap' ELSE 'skip' END AS overlap,
                   CASE WHEN definition ->> 'schedule_misfire' IN ('skip', 'all')
                        THEN definition ->> 'schedule_misfire' ELSE 'latest' END AS misfire
               FROM workflows
               WHERE is_active AND definition ->> 'schedule' IS NOT NULL) said
         WHERE said.id = s.workflow_id AND (s.overlap, s.misfire) <> (said.overlap, said.misfire)",
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
