//! What happened: system events and the audit log as one list, for platform administrators.

use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::Error;
use domain::page::Cursor;
use domain::system_events::list::{self, Entry, Filters};
use domain::system_events::{Category, Level};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::{Admin, Json, PathPair, Query, time, whole_number};
use crate::problem::{Problem, Problems};

/// Rows that one may skip; whoever wants more goes page by page.
const MOST_SKIPPED: i64 = 1_000_000;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_logs)).routes(routes!(get_log))
}

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// `discovery`, `organization`, `user`, `role`, `config`, `secret`, `form`, `oauth`, `execution`, `system` or `error`.
    #[param(example = "oauth")]
    category: Option<String>,
    /// `info`, `warning`, `error` or `critical`, exactly.
    #[param(example = "warning")]
    level: Option<String>,
    /// At or after this time (RFC 3339), or this day (`2026-11-26`, UTC).
    start_date: Option<String>,
    /// At or before this time, or until the end of this day.
    end_date: Option<String>,
    /// Entries of a page.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// Entries to skip. They move while things happen: `continuation_token` neither repeats nor skips any.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 1_000_000, default = 0)]
    offset: Option<String>,
    /// From the answer before, for the entries after it; the filters must be the same.
    continuation_token: Option<String>,
}

/// What an entry is about.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum LogCategory {
    Discovery,
    Organization,
    User,
    Role,
    Config,
    Secret,
    Form,
    Oauth,
    Execution,
    System,
    Error,
}

/// How bad it is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum LogLevel {
    Info,
    Warning,
    Error,
    Critical,
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "event_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "timestamp": "2026-11-26T10:00:00Z", "category": "system",
    "level": "info", "message": "A worker started", "executed_by": "system", "executed_by_name": "System",
    "details": {"worker": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b12", "slots": 8},
}))]
struct SystemLog {
    event_id: String,
    timestamp: DateTime<Utc>,
    category: LogCategory,
    level: LogLevel,
    message: String,
    /// The user, or `system`.
    executed_by: String,
    executed_by_name: String,
    /// More about it; for what somebody did: `action`, `resource`, `request_id` and `details` of the audit log.
    #[schema(value_type = Option<Object>)]
    details: Option<serde_json::Value>,
}

/// A page of what happened.
#[derive(Debug, Serialize, ToSchema)]
struct SystemLogsListResponse {
    logs: Vec<SystemLog>,
    /// For the next page; null at the end.
    continuation_token: Option<String>,
}

impl From<Category> for LogCategory {
    fn from(category: Category) -> Self {
        match category {
            Category::Discovery => Self::Discovery,
            Category::Organization => Self::Organization,
            Category::User => Self::User,
            Category::Role => Self::Role,
            Category::Config => Self::Config,
            Category::Secret => Self::Secret,
            Category::Form => Self::Form,
            Category::Oauth => Self::Oauth,
            Category::Execution => Self::Execution,
            Category::System => Self::System,
            Category::Error => Self::Error,
        }
    }
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Info => Self::Info,
            Level::Warning => Self::Warning,
            Level::Error => Self::Error,
            Level::Critical => Self::Critical,
        }
    }
}

impl From<Entry> for SystemLog {
    fn from(entry: Entry) -> Self {
        Self {
            event_id: entry.id.to_string(),
            timestamp: entry.at,
            category: entry.category.into(),
            level: entry.level.into(),
            message: entry.message,
            executed_by: entry.executed_by.map_or_else(|| "system".to_owned(), |user| user.to_string()),
            executed_by_name: entry.executed_by_name,
            details: entry.details,
        }
    }
}

/// What happened, newest first.
///
/// What the platform noticed (workers that came and went, ticks that failed, runs that were lost, files with faults), and
/// what people did, from the audit log. A platform administrator sees all of it, or with `X-Organization-Id` what concerns
/// that organization.
#[utoipa::path(
    get, path = "/api/logs", tag = "Logs", security(("bearer" = [])), params(ListQuery),
    responses((status = 200, body = SystemLogsListResponse), Problems),
)]
async fn list_logs(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<ListQuery>,
) -> Result<Json<SystemLogsListResponse>, Problem> {
    let limit = whole_number("limit", query.limit.as_deref(), 100, 1..=1000)?;
    let offset = whole_number("offset", query.offset.as_deref(), 0, 0..=MOST_SKIPPED)?;
    let filters = Filters {
        category: named("category", query.category.as_deref(), &Category::ALL, Category::as_str)?,
        level: named("level", query.level.as_deref(), &Level::ALL, Level::as_str)?,
        since: time::read_at("?start_date", query.start_date.as_deref(), time::FIRST_OF_DAY)?,
        until: time::read_at("?end_date", query.end_date.as_deref(), time::LAST_OF_DAY)?,
    };
    let pages = (&filters, admin.scope.reach());
    let after = query.continuation_token.as_deref().map(|token| Cursor::parse(token, &pages)).transpose()?;

    let mut tx = app.platform.db.begin(&admin.scope).await?;
    // One more tells whether there is a next page.
    let mut entries = list::list(&mut tx, &filters, limit + 1, offset, after).await?;
    tx.commit().await?;

    let has_more = entries.len() as i64 > limit;
    entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let last = entries.last().filter(|_| has_more);
    let continuation_token = last.map(|last| last.cursor().token(&pages));
    Ok(Json(SystemLogsListResponse {
        logs: entries.into_iter().map(Into::into).collect(),
        continuation_token,
    }))
}

/// One thing that happened.
#[utoipa::path(
    get, path = "/api/logs/{category}/{row_key}", tag = "Logs", security(("bearer" = [])),
    params(
        ("category" = String, Path, description = "What it is about."),
        ("row_key" = String, Path, description = "Its `event_id`."),
    ),
    responses((status = 200, body = SystemLog), Problems),
)]
async fn get_log(
    State(app): State<AppState>,
    admin: Admin,
    PathPair(category, id): PathPair<String, String>,
) -> Result<Json<SystemLog>, Problem> {
    // What is no id names nothing: the contract knows plain texts here.
    let id = id.parse().map_err(|_| Error::NotFound("log entry"))?;
    let mut tx = app.platform.db.begin(&admin.scope).await?;
    let entry = list::get(&mut tx, &category, id).await?;
    tx.commit().await?;
    Ok(Json(entry.into()))
}

/// A value by its name; an empty text filters nothing, as forms send it.
fn named<T: Copy>(
    parameter: &str,
    text: Option<&str>,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<Option<T>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let found = all.iter().copied().find(|value| name(*value) == text);
    let known = || all.iter().map(|value| name(*value)).collect::<Vec<_>>().join(", ");
    found
        .map(Some)
        .ok_or_else(|| Problem::invalid(format!("?{parameter}"), format!("must be one of {}", known())))
}
