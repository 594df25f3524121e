//! Notifications, everybody's own; and the lock of bulk uploads.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::Error;
use domain::id::NotificationId;
use domain::notifications::{self, Category, Notification, Status};
use domain::upload_lock::{self, Held};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::AppState;
use crate::extract::{Admin, Json, OptionalJson, Path, Signed, check_text};
use crate::problem::{Problem, Problems};

/// Longest name of an operation, in characters.
const OPERATION: usize = 100;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_notifications))
        .routes(routes!(get_upload_lock, take_upload_lock, release_upload_lock))
        .routes(routes!(get_notification, dismiss_notification))
}

/// What a notification is about.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum NotificationCategory {
    GithubSetup,
    GithubSync,
    FileUpload,
    PackageInstall,
    System,
}

/// How the work stands.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum NotificationStatus {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// What the platform tells about work that goes on by itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "category": "package_install", "title": "Installing httpx",
    "description": "Building the environment", "status": "running", "percent": 40.0, "error": null, "result": null,
    "metadata": {"package": "httpx"}, "created_at": "2026-11-26T10:00:00Z", "updated_at": "2026-11-26T10:00:04Z",
    "user_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b12",
}))]
pub(crate) struct NotificationPublic {
    #[schema(value_type = String)]
    id: Uuid,
    category: NotificationCategory,
    title: String,
    /// What happens at the moment.
    #[schema(required)]
    description: Option<String>,
    status: NotificationStatus,
    /// 0 to 100; null while nobody can say.
    #[schema(required)]
    percent: Option<f64>,
    /// Why it failed.
    #[schema(required)]
    error: Option<String>,
    /// What came out.
    #[schema(required, value_type = Option<Object>)]
    result: Option<Value>,
    #[schema(required, value_type = Option<Object>)]
    metadata: Option<Value>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// Whose it is.
    #[schema(value_type = String)]
    user_id: Uuid,
}

/// Notifications, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct NotificationListResponse {
    notifications: Vec<NotificationPublic>,
}

/// Who holds the lock of bulk uploads.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "locked": true, "owner_user_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b12", "owner_email": "ada@example.com",
    "operation": "upload of 40 files", "locked_at": "2026-11-26T10:00:00Z", "expires_at": "2026-11-26T10:05:00Z",
}))]
struct UploadLockInfo {
    locked: bool,
    #[schema(required, value_type = Option<String>)]
    owner_user_id: Option<Uuid>,
    #[schema(required)]
    owner_email: Option<String>,
    /// What it is held for.
    #[schema(required)]
    operation: Option<String>,
    #[schema(required)]
    locked_at: Option<DateTime<Utc>>,
    /// Five minutes after it was last taken.
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
}

/// What the lock is taken for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"operation": "upload of 40 files"}))]
struct TakeUploadLock {
    /// For others to read, at most 100 characters; `upload` if not given.
    #[schema(max_length = 100)]
    operation: Option<String>,
}

impl From<Notification> for NotificationPublic {
    fn from(notification: Notification) -> Self {
        Self {
            id: notification.id.0,
            category: match notification.category {
                Category::GithubSetup => NotificationCategory::GithubSetup,
                Category::GithubSync => NotificationCategory::GithubSync,
                Category::FileUpload => NotificationCategory::FileUpload,
                Category::PackageInstall => NotificationCategory::PackageInstall,
                Category::System => NotificationCategory::System,
            },
            title: notification.title,
            description: notification.description,
            status: match notification.status {
                Status::Pending => NotificationStatus::Pending,
                Status::Running => NotificationStatus::Running,
                Status::Completed => NotificationStatus::Completed,
                Status::Failed => NotificationStatus::Failed,
                Status::Cancelled => NotificationStatus::Cancelled,
            },
            percent: notification.percent,
            error: notification.error,
            result: notification.result,
            metadata: notification.metadata,
            created_at: notification.created_at,
            updated_at: notification.updated_at,
            user_id: notification.user_id.0,
        }
    }
}

impl From<Option<Held>> for UploadLockInfo {
    fn from(held: Option<Held>) -> Self {
        let locked = held.is_some();
        let (owner, times) = held
            .map(|held| {
                ((held.owner_user_id.0, held.owner_email, held.operation), (held.locked_at, held.expires_at))
            })
            .unzip();
        let (locked_at, expires_at) = times.unzip();
        let (owner_user_id, owner_email, operation) = match owner {
            Some((id, email, operation)) => (Some(id), Some(email), Some(operation)),
            None => (None, None, None),
        };
        Self { locked, owner_user_id, owner_email, operation, locked_at, expires_at }
    }
}

/// The caller's notifications, newest first.
///
/// Those that have not expired: an hour after the last update, five minutes after the end. A platform administrator sees
/// those for administrators too, of the organization that `X-Organization-Id` names if it does. At most 200. The WebSocket tells of each change on `notification:{user}`.
#[utoipa::path(
    get, path = "/api/notifications", tag = "Notifications", security(("bearer" = [])),
    responses((status = 200, body = NotificationListResponse), Problems),
)]
async fn list_notifications(
    State(app): State<AppState>,
    signed: Signed,
) -> Result<Json<NotificationListResponse>, Problem> {
    let mut tx = app.platform.db.begin(&signed.scope.clone().widened()).await?;
    let listed = notifications::list(&mut tx, &signed.scope).await?;
    tx.commit().await?;
    Ok(Json(NotificationListResponse { notifications: listed.into_iter().map(Into::into).collect() }))
}

/// One notification of the caller.
///
/// A platform administrator reads those for administrators too.
#[utoipa::path(
    get, path = "/api/notifications/{notification_id}", tag = "Notifications", security(("bearer" = [])),
    params(("notification_id" = String, Path, description = "The notification.")),
    responses((status = 200, body = NotificationPublic), Problems),
)]
async fn get_notification(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<String>,
) -> Result<Json<NotificationPublic>, Problem> {
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let found = notifications::get(&mut tx, parsed(&id)?).await?;
    tx.commit().await?;
    Ok(Json(found.into()))
}

/// Dismisses a notification of the caller.
///
/// The work that it tells of goes on. One for administrators is dismissed by its owner alone.
#[utoipa::path(
    delete, path = "/api/notifications/{notification_id}", tag = "Notifications", security(("bearer" = [])),
    params(("notification_id" = String, Path, description = "The notification.")),
    responses((status = 204, description = "Dismissed."), Problems),
)]
async fn dismiss_notification(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let told = notifications::dismiss(&mut tx, parsed(&id)?).await?;
    tx.commit().await?;
    app.platform.events.publish(told);
    Ok(StatusCode::NO_CONTENT)
}

/// Who holds the lock of bulk uploads.
///
/// Clients that put many files into the workspace take it, so that two of them do not mix.
#[utoipa::path(
    get, path = "/api/notifications/locks/upload", tag = "Notifications", security(("bearer" = [])),
    responses((status = 200, body = UploadLockInfo), Problems),
)]
async fn get_upload_lock(State(app): State<AppState>, admin: Admin) -> Result<Json<UploadLockInfo>, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let held = upload_lock::find(&mut tx).await?;
    tx.commit().await?;
    Ok(Json(held.into()))
}

/// Takes the lock of bulk uploads.
///
/// For five minutes; its holder takes it again for five minutes more. It is a word between clients: single saves of the
/// editor do not ask for it, since their etags guard them.
#[utoipa::path(
    post, path = "/api/notifications/locks/upload", tag = "Notifications", security(("bearer" = [])),
    request_body = Option<TakeUploadLock>,
    responses(
        (status = 200, body = UploadLockInfo),
        (status = 409, description = "Somebody else holds it."),
        Problems,
    ),
)]
async fn take_upload_lock(
    State(app): State<AppState>,
    admin: Admin,
    OptionalJson(input): OptionalJson<TakeUploadLock>,
) -> Result<Json<UploadLockInfo>, Problem> {
    let operation = input.unwrap_or_default().operation.unwrap_or_default();
    check_text("/operation", &operation)?;
    if operation.chars().count() > OPERATION {
        return Err(Problem::invalid("/operation", format!("must have at most {OPERATION} characters")));
    }
    let operation = if operation.trim().is_empty() { "upload" } else { operation.trim() };
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let held = upload_lock::take(&mut tx, operation).await?;
    tx.commit().await?;
    Ok(Json(Some(held).into()))
}

/// Releases the lock of bulk uploads.
///
/// Whoever holds it. When it is free, 404.
#[utoipa::path(
    delete, path = "/api/notifications/locks/upload", tag = "Notifications", security(("bearer" = [])),
    responses((status = 204, description = "Released."), Problems),
)]
async fn release_upload_lock(State(app): State<AppState>, admin: Admin) -> Result<StatusCode, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    upload_lock::release(&mut tx).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The contract has plain texts as ids here: what is no id is the id of nothing.
fn parsed(id: &str) -> Result<NotificationId, Error> {
    id.parse().map_err(|_| Error::NotFound("notification"))
}
