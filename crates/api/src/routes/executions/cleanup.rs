//! Cleaning up by hand: what has not ended for hours, to see and to end.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use domain::executions::Status;
use domain::executions::stuck::{self, Ended};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{WorkflowExecution, updated};
use crate::AppState;
use crate::extract::{Admin, Json, Query, whole_number};
use crate::problem::{Problem, Problems};
use crate::visibility::Reader;

/// Ten years: enough for anybody, and no overflow of dates.
const MOST_HOURS: i64 = 87_600;
const MOST_MINUTES: i64 = MOST_HOURS * 60;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_stuck_executions))
        .routes(routes!(end_stuck_executions))
        .routes(routes!(clean_redis_orphans))
}

/// How old.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Age {
    /// Submitted longer ago than this.
    #[param(value_type = Option<i64>, minimum = 0, default = 24)]
    hours: Option<String>,
}

/// How old.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OrphanAge {
    /// Echoed.
    #[param(value_type = Option<i64>, minimum = 0, default = 10)]
    minutes: Option<String>,
}

/// What has not ended.
#[derive(Serialize, ToSchema)]
struct StuckExecutionsResponse {
    /// The oldest first, at most 1000.
    executions: Vec<WorkflowExecution>,
    count: usize,
}

/// What was ended.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"cleaned": 3, "pending": 2, "running": 1, "failed": 0}))]
struct CleanupTriggeredResponse {
    cleaned: usize,
    /// Of these, how many waited.
    pending: usize,
    /// Of these, how many ran or were being cancelled.
    running: usize,
    /// How many have not ended still: somebody else held them at that moment, or they were more than one call ends.
    failed: usize,
}

/// What there was to clean up in Redis.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"message": "Executions live in PostgreSQL; Redis holds none", "cleaned": 0, "threshold_minutes": 10}))]
struct RedisOrphansResponse {
    message: &'static str,
    cleaned: i64,
    threshold_minutes: i64,
}

/// Executions that have not ended for long.
///
/// Those that wait, run or are being cancelled. Waiting is no fault: the server itself ends nothing for it.
#[utoipa::path(
    get, path = "/api/executions/cleanup/stuck", tag = "Executions", security(("bearer" = [])), params(Age),
    responses((status = 200, body = StuckExecutionsResponse), Problems),
)]
async fn list_stuck_executions(
    State(app): State<AppState>,
    admin: Admin,
    Query(age): Query<Age>,
) -> Result<Json<StuckExecutionsResponse>, Problem> {
    let before = before(&age)?;
    let reader = Reader::of(&admin.scope);
    let mut tx = app.platform.db.begin(&admin.scope).await?;
    let found = stuck::list(&mut tx, before).await?;
    tx.commit().await?;
    let executions: Vec<WorkflowExecution> =
        found.into_iter().map(|execution| WorkflowExecution::new(execution, reader)).collect();
    Ok(Json(StuckExecutionsResponse { count: executions.len(), executions }))
}

/// Ends executions that have not ended for long, as failed (`StuckExecution`).
///
/// Whatever their workers still write is refused; their processes are killed at the next heartbeat. At most 1000 at once:
/// call it again while `failed` says that some are left.
#[utoipa::path(
    post, path = "/api/executions/cleanup/trigger", tag = "Executions", security(("bearer" = [])), params(Age),
    responses((status = 200, body = CleanupTriggeredResponse), Problems),
)]
async fn end_stuck_executions(
    State(app): State<AppState>,
    admin: Admin,
    Query(age): Query<Age>,
) -> Result<Json<CleanupTriggeredResponse>, Problem> {
    let before = before(&age)?;
    let mut tx = app.platform.db.begin(&admin.scope).await?;
    let stuck::Done { ended, left } = stuck::end(&mut tx, before).await?;
    tx.commit().await?;
    for Ended { execution, .. } in &ended {
        app.platform.events.publish(updated(execution));
    }
    let pending = ended.iter().filter(|ended| ended.was == Status::Pending).count();
    let (cleaned, failed) = (ended.len(), usize::try_from(left).unwrap_or_default());
    Ok(Json(CleanupTriggeredResponse { cleaned, pending, running: cleaned - pending, failed }))
}

/// Answers clients that know a server which kept executions in Redis.
///
/// This one keeps them in PostgreSQL, so there is never anything to clean up.
#[utoipa::path(
    post, path = "/api/executions/cleanup/redis-orphans", tag = "Executions", security(("bearer" = [])), params(OrphanAge),
    responses((status = 200, body = RedisOrphansResponse), Problems),
)]
async fn clean_redis_orphans(
    _admin: Admin,
    Query(age): Query<OrphanAge>,
) -> Result<Json<RedisOrphansResponse>, Problem> {
    let threshold_minutes = whole_number("minutes", age.minutes.as_deref(), 10, 0..=MOST_MINUTES)?;
    let message = "Executions live in PostgreSQL; Redis holds none";
    Ok(Json(RedisOrphansResponse { message, cleaned: 0, threshold_minutes }))
}

fn before(age: &Age) -> Result<DateTime<Utc>, Problem> {
    let hours = whole_number("hours", age.hours.as_deref(), 24, 0..=MOST_HOURS)?;
    Ok(Utc::now() - TimeDelta::hours(hours))
}
