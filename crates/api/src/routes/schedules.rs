//! Schedules, for platform administrators: what fires when, what became of it, pausing, and running now.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, Utc};
use domain::id::WorkflowId;
use domain::page::NameCursor;
use domain::schedules::{self, Fire, Outcome, SHORT_INTERVAL_SECONDS, Schedule, Timetable};
use domain::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::extract::{Admin, IdempotencyKey, Json, Path, Query, Signed};
use crate::page::{PageQuery, Paged};
use crate::problem::{Problem, Problems};
use crate::routes::workflows::answer::WorkflowExecutionResponse;
use crate::routes::workflows::run::{Run, idempotency};
use crate::{AppState, deadline};

/// The name of running now in the idempotency table.
const ROUTE: &str = "schedules.trigger";
const FORESEEN: usize = 5;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_schedules))
        .routes(routes!(validate_schedule))
        .routes(routes!(trigger_schedule))
        .routes(routes!(pause_schedule))
        .routes(routes!(resume_schedule))
        .routes(routes!(list_schedule_history))
}

/// How good an expression is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ValidationStatus {
    Valid,
    /// It fires more often than every five minutes.
    Warning,
    /// It never fires.
    Error,
}

/// A workflow with a schedule.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "name": "nightly_report", "description": "Counts what happened",
    "category": "Reports", "tags": ["daily"], "schedule": "0 6 * * 1-5", "source_file_path": "reports.py",
    "relative_file_path": "/workspace/reports.py", "validation_status": "valid", "validation_message": null,
    "human_readable": "At 06:00, on Monday through Friday (Europe/Zurich)", "next_run_at": "2026-11-27T05:00:00Z",
    "is_overdue": false, "last_run_at": "2026-11-26T05:00:00Z",
    "last_execution_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b12", "execution_count": 41, "timezone": "Europe/Zurich",
    "paused": false,
}))]
struct ScheduleMetadata {
    /// The workflow's.
    id: String,
    name: String,
    description: Option<String>,
    category: String,
    tags: Vec<String>,
    /// The cron expression.
    schedule: Option<String>,
    source_file_path: Option<String>,
    relative_file_path: Option<String>,
    validation_status: Option<ValidationStatus>,
    /// What to correct, or to think about.
    validation_message: Option<String>,
    human_readable: Option<String>,
    /// Null while it is paused or invalid.
    next_run_at: Option<DateTime<Utc>>,
    /// The next run is more than six minutes late.
    is_overdue: bool,
    last_run_at: Option<DateTime<Utc>>,
    last_execution_id: Option<String>,
    /// Runs that the schedule started.
    execution_count: i64,
    /// IANA name.
    timezone: String,
    paused: bool,
}

/// An expression to check.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"expression": "0 6 * * 1-5", "timezone": "Europe/Zurich"}))]
struct ScheduleValidationRequest {
    /// Five fields: minute, hour, day of month, month, day of week.
    expression: String,
    /// IANA name; UTC if not given.
    timezone: Option<String>,
}

/// What an expression means.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(example = json!({
    "valid": true, "human_readable": "At 06:00, on Monday through Friday (Europe/Zurich)",
    "next_runs": ["2026-11-27T05:00:00Z"], "interval_seconds": 86400, "warning": null, "error": null,
}))]
struct ScheduleValidationResponse {
    valid: bool,
    human_readable: Option<String>,
    /// The next five, fewer if there are not as many.
    next_runs: Vec<DateTime<Utc>>,
    /// Between the next two.
    interval_seconds: Option<i64>,
    warning: Option<String>,
    error: Option<String>,
}

/// What became of a tick.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "fire_at": "2026-11-26T05:00:00Z", "outcome": "started", "ticks": 1,
    "execution_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b12", "decided_at": "2026-11-26T05:00:00.412Z",
}))]
struct ScheduleFire {
    /// When it was due.
    fire_at: DateTime<Utc>,
    /// `started`, `waiting` (for the run before it), `overlapped`, `missed` or `inactive` (the organization is).
    #[schema(value_type = String)]
    outcome: Outcome,
    /// How many a row of missed ones stands for.
    ticks: i32,
    execution_id: Option<Uuid>,
    decided_at: DateTime<Utc>,
}

impl From<Fire> for ScheduleFire {
    fn from(fire: Fire) -> Self {
        Self {
            fire_at: fire.fire_at,
            outcome: fire.outcome,
            ticks: fire.ticks,
            execution_id: fire.execution_id.map(|id| id.0),
            decided_at: fire.decided_at,
        }
    }
}

impl From<Schedule> for ScheduleMetadata {
    fn from(schedule: Schedule) -> Self {
        let checked = check(Timetable::parse(&schedule.expression, &schedule.timezone), Utc::now());
        let error = checked.error.or(schedule.error);
        let (validation_status, validation_message) = match (error, checked.warning) {
            (Some(error), _) => (ValidationStatus::Error, Some(error)),
            (None, Some(warning)) => (ValidationStatus::Warning, Some(warning)),
            (None, None) => (ValidationStatus::Valid, None),
        };
        let tags = schedule.tags.as_ref().and_then(Value::as_array).into_iter().flatten();
        Self {
            id: schedule.workflow_id.to_string(),
            name: schedule.name,
            description: schedule.description,
            category: schedule.category,
            tags: tags.filter_map(Value::as_str).map(str::to_owned).collect(),
            schedule: Some(schedule.expression),
            relative_file_path: Some(format!("/workspace/{}", schedule.path)),
            source_file_path: Some(schedule.path),
            validation_status: Some(validation_status),
            validation_message,
            human_readable: checked.human_readable,
            next_run_at: schedule.next_fire_at.filter(|_| schedule.paused_at.is_none()),
            is_overdue: schedule.is_overdue,
            last_run_at: schedule.last_run_at,
            last_execution_id: schedule.last_execution_id.map(|id| id.to_string()),
            execution_count: schedule.run_count,
            timezone: schedule.timezone,
            paused: schedule.paused_at.is_some(),
        }
    }
}

/// The workflows with a schedule, by name.
///
/// Those of the scope and the global ones; without `X-Organization-Id` all of them.
#[utoipa::path(
    get, path = "/api/schedules", tag = "Schedules", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, body = Vec<ScheduleMetadata>, headers(("X-Continuation-Token" = String, description = "If there are more."))),
        Problems,
    ),
)]
async fn list_schedules(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<PageQuery>,
) -> Result<Paged<ScheduleMetadata>, Problem> {
    let list = ("schedules", admin.scope.reach());
    let page = query.by_name(&list)?;
    let mut tx = app.platform.db.begin(&admin.scope).await?;
    let schedules = schedules::list(&mut tx, page.limit + 1, &page.after).await?;
    tx.commit().await?;
    let place = |last: &Schedule| NameCursor { name: last.name.clone(), id: last.workflow_id.0 }.token(&list);
    Ok(Paged::new(schedules, page.limit, place))
}

/// Says what a cron expression means.
///
/// Always 200: whether it is valid is in the answer.
#[utoipa::path(
    post, path = "/api/schedules/validate", tag = "Schedules", security(("bearer" = [])),
    request_body = ScheduleValidationRequest,
    responses((status = 200, body = ScheduleValidationResponse), Problems),
)]
async fn validate_schedule(
    _: Signed,
    Json(input): Json<ScheduleValidationRequest>,
) -> Json<ScheduleValidationResponse> {
    let zone = input.timezone.as_deref().map(str::trim).filter(|zone| !zone.is_empty()).unwrap_or("UTC");
    Json(check(Timetable::parse_new(&input.expression, zone), Utc::now()))
}

/// Runs a scheduled workflow now.
///
/// As the caller, in the current scope, without parameters, so one that requires some is refused; the schedule goes on as it
/// was. Answers at once.
#[utoipa::path(
    post, path = "/api/schedules/{id}/trigger", tag = "Schedules", security(("bearer" = [])),
    params(
        ("id" = Uuid, Path, description = "The workflow."),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters, kept a day."),
    ),
    responses((status = 200, body = WorkflowExecutionResponse), Problems),
)]
async fn trigger_schedule(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<WorkflowId>,
    IdempotencyKey(key): IdempotencyKey,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope).await?;
    schedules::require(&mut tx, id).await?;
    tx.commit().await?;
    let scope = admin.scope.narrowed();
    let address = id.to_string();
    let find = app.platform.catalog.get(&app.platform.db, &scope, &address);
    let workflow = deadline::in_time(find).await?;
    let idempotency = key.map(|key| idempotency(ROUTE, key, &json!({"schedule": id}), &scope)).transpose()?;
    let run = Run::in_background(workflow).map_err(Problem::from);
    Run::start_or_replay(run, &app, &scope, idempotency, &headers).await
}

/// Pauses a schedule.
///
/// Nothing fires until it is resumed; running now still works. Pausing a paused one changes nothing.
#[utoipa::path(
    post, path = "/api/schedules/{id}/pause", tag = "Schedules", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The workflow.")),
    responses((status = 204, description = "Paused."), Problems),
)]
async fn pause_schedule(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<WorkflowId>,
) -> Result<StatusCode, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    schedules::pause(&mut tx, id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Resumes a schedule.
///
/// With its next tick from now on: those that passed meanwhile were not wanted.
#[utoipa::path(
    post, path = "/api/schedules/{id}/resume", tag = "Schedules", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The workflow.")),
    responses((status = 204, description = "Fires again."), Problems),
)]
async fn resume_schedule(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<WorkflowId>,
) -> Result<StatusCode, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    schedules::resume(&mut tx, id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What became of the ticks of a schedule, newest first.
///
/// Kept for 90 days.
#[utoipa::path(
    get, path = "/api/schedules/{id}/history", tag = "Schedules", security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The workflow."), PageQuery),
    responses(
        (status = 200, body = Vec<ScheduleFire>, headers(("X-Continuation-Token" = String, description = "If there are more."))),
        Problems,
    ),
)]
async fn list_schedule_history(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<WorkflowId>,
    Query(query): Query<PageQuery>,
) -> Result<Paged<ScheduleFire>, Problem> {
    let list = ("schedule-history", id);
    let page = query.by_name(&list)?;
    let before =
        match page.after.name.as_str() {
            "" => None,
            time => Some(time.parse().map_err(|_| {
                Error::Impossible("the continuation token does not belong to this list".into())
            })?),
        };
    let mut tx = app.platform.db.begin(&admin.scope).await?;
    let fires = schedules::history(&mut tx, id, page.limit + 1, before).await?;
    tx.commit().await?;
    let place = |last: &Fire| {
        let name = last.fire_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        NameCursor { name, id: id.0 }.token(&list)
    };
    Ok(Paged::new(fires, page.limit, place))
}

fn check(table: Result<Timetable, String>, now: DateTime<Utc>) -> ScheduleValidationResponse {
    let table = match table {
        Ok(table) => table,
        Err(error) => return ScheduleValidationResponse { error: Some(error), ..Default::default() },
    };
    let next_runs = table.upcoming(now, FORESEEN);
    let human_readable = Some(table.describe());
    if next_runs.is_empty() {
        let error = Some("the expression never comes true".to_owned());
        return ScheduleValidationResponse { human_readable, error, ..Default::default() };
    }
    let intervals: Vec<i64> = next_runs.windows(2).map(|pair| (pair[1] - pair[0]).num_seconds()).collect();
    let is_short = intervals.iter().any(|seconds| *seconds < SHORT_INTERVAL_SECONDS);
    ScheduleValidationResponse {
        valid: true,
        human_readable,
        interval_seconds: intervals.first().copied(),
        warning: is_short.then(|| "it fires more often than every 5 minutes".to_owned()),
        error: None,
        next_runs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(expression: &str, zone: &str) -> ScheduleValidationResponse {
        check(Timetable::parse_new(expression, zone), "2026-11-26T02:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn a_valid_expression_is_said_in_words_with_its_next_runs() {
        let answer = checked("0 6 * * 1-5", "Europe/Zurich");
        assert!(answer.valid && answer.error.is_none() && answer.warning.is_none(), "{answer:?}");
        assert_eq!(
            answer.human_readable.as_deref(),
            Some("At 06:00, on Monday, Tuesday, Wednesday, Thursday, and Friday (Europe/Zurich)")
        );
        let runs: Vec<String> =
            answer.next_runs.iter().map(|run| run.to_rfc3339_opts(SecondsFormat::Secs, true)).collect();
        assert_eq!(
            runs,
            [
                "2026-11-26T05:00:00Z",
                "2026-11-27T05:00:00Z",
                "2026-11-30T05:00:00Z",
                "2026-12-01T05:00:00Z",
                "2026-12-02T05:00:00Z"
            ]
        );
        assert_eq!(answer.interval_seconds, Some(86_400));
        assert_eq!(checked("0 6 * * *", "UTC").human_readable.as_deref(), Some("At 06:00"));
        assert!(checked("*/4 * * * *", "UTC").warning.is_some());
        assert!(checked("0,2 6 * * *", "UTC").warning.is_some());
        assert!(checked("*/5 * * * *", "UTC").warning.is_none());
    }

    #[test]
    fn an_invalid_expression_says_what_to_correct() {
        for (expression, zone, said) in [
            ("", "UTC", "has 0 fields instead of 5"),
            ("0 0 6 * * *", "UTC", "has 6 fields instead of 5"),
            ("@daily", "UTC", "has 1 fields"),
            ("0 25 * * *", "UTC", "25 is no hour, which goes from 0 to 23"),
            ("*/90 * * * *", "UTC", "a step of 90 is longer than the field of the minute"),
            ("0 */25 * * *", "UTC", "field of the hour, which has 24 values"),
            ("0 0 1 */13 *", "UTC", "field of the month"),
            ("0 6 30 2 *", "UTC", "never comes true"),
            ("0 6 L * *", "UTC", "is nothing that field"),
            ("0 6 * * 1#2", "UTC", "must not contain '#'"),
            ("0 6 * MON *", "UTC", "is nothing that field"),
            ("0 6 * * *", "Europe/Zürich", "time zone is not known"),
            ("0 6 * * *", "CEST", "time zone is not known"),
        ] {
            let answer = checked(expression, zone);
            assert!(!answer.valid && answer.next_runs.is_empty(), "{expression}");
            assert!(
                answer.error.as_deref().is_some_and(|error| error.contains(said)),
                "{expression}: {:?}",
                answer.error
            );
        }
    }
}
