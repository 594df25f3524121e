//! Dead letters: messages that no worker could handle, to see, to put back and to drop.

use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::Error;
use domain::audit::{self, Action};
use domain::wakeup::dead_letters::{DeadLetter, Moved, PATIENCE};
use domain::wakeup::queue::Queue;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::deadline;
use crate::extract::{Admin, Json, Query, whole_number};
use crate::problem::{Problem, Problems};

/// Ids that one request may name.
const MOST_IDS: usize = 1_000;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_dead_letters))
        .routes(routes!(replay_dead_letters))
        .routes(routes!(drop_dead_letters))
}

/// Which letters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// `workflow.executions`, `git.sync` or `packages.install`; all of them if not given.
    #[param(example = "workflow.executions")]
    queue: Option<String>,
    /// How many of each queue.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// A message that could not be handled.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "5f0c1c2b9a7d4e3f8b6a5d4c3b2a1f0e", "queue": "workflow.executions", "reason": "rejected: version 2 is not 1",
    "deliveries": 1, "died_at": "2026-01-05T09:30:00Z", "payload": {"v": 2},
}))]
struct DeadLetterView {
    /// Messages alike in every byte that died in the same second share it.
    id: String,
    queue: &'static str,
    /// Why it is dead.
    reason: String,
    /// How often it was delivered.
    deliveries: i64,
    /// Null if the broker did not say.
    died_at: Option<DateTime<Utc>>,
    /// The message, as text if it is no JSON; of one larger than 16 KiB the beginning, as text.
    payload: Value,
}

/// The oldest letters of each queue.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLettersResponse {
    dead_letters: Vec<DeadLetterView>,
    /// How many these are.
    count: usize,
}

/// Which letters to put back or drop.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"queue": "workflow.executions", "ids": ["5f0c1c2b9a7d4e3f8b6a5d4c3b2a1f0e"]}))]
struct ReplayRequest {
    /// `workflow.executions`, `git.sync` or `packages.install`.
    queue: String,
    /// Which; all if not given.
    ids: Option<Vec<String>>,
}

/// Which letters to drop.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"queue": "workflow.executions", "ids": ["5f0c1c2b9a7d4e3f8b6a5d4c3b2a1f0e"]}))]
struct DropRequest {
    /// `workflow.executions`, `git.sync` or `packages.install`.
    queue: String,
    /// Which.
    ids: Option<Vec<String>>,
    /// All of them: must be said, since it cannot be undone.
    all: Option<bool>,
}

/// What was put back.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"replayed": 3, "failed": 0}))]
struct ReplayResponse {
    replayed: usize,
    /// Refused by the broker, so that they are dead still; and ids that no letter has.
    failed: usize,
}

/// What was dropped.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"dropped": 3, "failed": 0}))]
struct DropResponse {
    dropped: usize,
    /// Ids that no letter has.
    failed: usize,
}

/// Dead letters, the oldest of each queue first.
///
/// Messages that could not be read, or that were delivered five times in vain. What waits is never among them: waiting
/// ends no message. Nothing is lost with a dead wake-up: the execution is in the database, and woken again.
#[utoipa::path(
    get, path = "/api/dead-letters", tag = "Dead letters", security(("bearer" = [])), params(ListQuery),
    responses((status = 200, body = DeadLettersResponse), Problems),
)]
async fn list_dead_letters(
    State(app): State<AppState>,
    _admin: Admin,
    Query(query): Query<ListQuery>,
) -> Result<Json<DeadLettersResponse>, Problem> {
    let limit = whole_number("limit", query.limit.as_deref(), 100, 1..=1000)?;
    let queues = match query.queue.as_deref() {
        None => Queue::ALL.to_vec(),
        Some(name) => vec![queue_of("?queue", name)?],
    };
    let limit = usize::try_from(limit).unwrap_or_default();
    deadline::may_wait(PATIENCE);
    let letters = app.platform.wakeups.dead_letters(&queues, limit).await?;
    let dead_letters: Vec<_> = letters.into_iter().map(DeadLetterView::from).collect();
    Ok(Json(DeadLettersResponse { count: dead_letters.len(), dead_letters }))
}

/// Puts dead letters back into their queue.
///
/// At most 10,000 at once, and as many as fit into some seconds; call it again while it replays some. What still cannot be
/// handled dies again.
#[utoipa::path(
    post, path = "/api/dead-letters/replay", tag = "Dead letters", security(("bearer" = [])), request_body = ReplayRequest,
    responses((status = 200, body = ReplayResponse), Problems),
)]
async fn replay_dead_letters(
    State(app): State<AppState>,
    admin: Admin,
    Json(request): Json<ReplayRequest>,
) -> Result<Json<ReplayResponse>, Problem> {
    let queue = queue_of("/queue", &request.queue)?;
    check_ids(request.ids.as_deref(), "names none; leave it out for all")?;
    let wakeups = app.platform.wakeups.clone();
    let moving = async move { wakeups.replay_dead_letters(queue, request.ids.as_deref()).await };
    let moved = move_audited(app, admin, Action::DeadLettersReplayed, queue, moving).await?;
    Ok(Json(ReplayResponse { replayed: moved.moved, failed: moved.failed }))
}

/// Drops dead letters for good.
///
/// As many at once as a replay takes.
#[utoipa::path(
    post, path = "/api/dead-letters/drop", tag = "Dead letters", security(("bearer" = [])), request_body = DropRequest,
    responses((status = 200, body = DropResponse), Problems),
)]
async fn drop_dead_letters(
    State(app): State<AppState>,
    admin: Admin,
    Json(request): Json<DropRequest>,
) -> Result<Json<DropResponse>, Problem> {
    let queue = queue_of("/queue", &request.queue)?;
    check_ids(request.ids.as_deref(), "names none; for all leave it out and say `all`")?;
    if request.ids.is_none() && request.all != Some(true) {
        return Err(Problem::invalid("/ids", "is required, unless `all` is true"));
    }
    let wakeups = app.platform.wakeups.clone();
    let moving = async move { wakeups.drop_dead_letters(queue, request.ids.as_deref()).await };
    let moved = move_audited(app, admin, Action::DeadLettersDropped, queue, moving).await?;
    Ok(Json(DropResponse { dropped: moved.moved, failed: moved.failed }))
}

/// Moves letters, and audits what was done at the broker, which knows no transaction of ours.
async fn move_audited(
    app: AppState,
    admin: Admin,
    action: Action,
    queue: Queue,
    moving: impl Future<Output = Result<Moved, Error>> + Send + 'static,
) -> Result<Moved, Error> {
    deadline::to_the_end(PATIENCE, async move {
        let moved = moving.await?;
        if moved.moved > 0 {
            let mut tx = app.platform.db.begin(&admin.scope).await?;
            audit::record(&mut tx, action, queue.as_str(), &moved.moved).await?;
            tx.commit().await?;
        }
        Ok(moved)
    })
    .await
}

fn queue_of(pointer: &str, name: &str) -> Result<Queue, Problem> {
    let known = Queue::ALL.map(Queue::as_str).join(", ");
    name.parse().map_err(|()| Problem::invalid(pointer, format!("is no queue; there are {known}")))
}

/// `if_none`: what is wrong with naming none.
fn check_ids(ids: Option<&[String]>, if_none: &str) -> Result<(), Problem> {
    match ids {
        Some([]) => Err(Problem::invalid("/ids", if_none)),
        Some(ids) if ids.len() > MOST_IDS => {
            Err(Problem::invalid("/ids", format!("must name at most {MOST_IDS}")))
        }
        _ => Ok(()),
    }
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        let json = if letter.is_cut { None } else { serde_json::from_slice(&letter.payload).ok() };
        let text = || Value::String(String::from_utf8_lossy(&letter.payload).into_owned());
        let payload = json.unwrap_or_else(text);
        Self {
            id: letter.id,
            queue: letter.queue.as_str(),
            reason: letter.reason,
            deliveries: letter.deliveries,
            died_at: letter.died_at,
            payload,
        }
    }
}
