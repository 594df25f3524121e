//! Why an execution does not run yet, in words and in codes for programs.

use axum::extract::State;
use chrono::{DateTime, SecondsFormat, Utc};
use domain::executions::explain::{self, Reason};
use domain::id::ExecutionId;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ExecutionStatus;
use crate::AppState;
use crate::extract::{Json, Path, Signed};
use crate::problem::{Problem, Problems};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(explain_execution))
}

/// Why an execution does not run yet.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "execution_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "status": "Pending", "is_waiting": true,
    "summary": "waits for one of the 3 slots of its workflow",
    "reasons": [{"code": "workflow_limit", "message": "waits for one of the 3 slots of its workflow", "limit": 3}],
}))]
struct ExplanationResponse {
    execution_id: String,
    status: ExecutionStatus,
    /// Whether it is yet to start.
    is_waiting: bool,
    /// The reasons in one text.
    summary: String,
    /// All that hold at the moment, what decides first.
    reasons: Vec<ReasonView>,
}

/// One reason.
#[derive(Debug, Default, Serialize, ToSchema)]
struct ReasonView {
    /// `paused`, `delayed`, `retry_pause`, `workflow_limit`, `key_limit`, `organization_limit`, `rate_limit`, `no_worker`,
    /// `workers_busy`, `behind`, `ready`, `running`, `cancelling` or `ended`.
    code: &'static str,
    message: String,
    /// When it was paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<DateTime<Utc>>,
    /// When it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<DateTime<Utc>>,
    /// The limit that is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<i64>,
    /// The concurrency key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// How many go first; 1000 stands for more.
    #[serde(skip_serializing_if = "Option::is_none")]
    ahead: Option<i64>,
}

/// Why an execution does not run yet.
///
/// For its owner, platform administrators and users with the permission `executions.read`. All reasons that hold at the
/// moment: when one is gone, another may hold it still.
#[utoipa::path(
    get, path = "/api/executions/{execution_id}/explain", tag = "Executions", security(("bearer" = [])),
    params(("execution_id" = Uuid, Path, description = "The execution.")),
    responses((status = 200, body = ExplanationResponse), Problems),
)]
async fn explain_execution(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<ExecutionId>,
) -> Result<Json<ExplanationResponse>, Problem> {
    let explained = explain::explain(&app.platform.db, &signed.scope.widened(), id).await?;
    let status = explained.execution.status;
    let reasons: Vec<ReasonView> = explained.reasons.into_iter().map(Into::into).collect();
    let texts: Vec<&str> = reasons.iter().map(|reason| reason.message.as_str()).collect();
    Ok(Json(ExplanationResponse {
        execution_id: id.to_string(),
        status: status.into(),
        is_waiting: status == domain::executions::Status::Pending,
        summary: texts.join("; "),
        reasons,
    }))
}

impl From<Reason> for ReasonView {
    fn from(reason: Reason) -> Self {
        let plain = |code, message: String| Self { code, message, ..Self::default() };
        let limited = |code, limit, message: String| Self { limit: Some(limit), ..plain(code, message) };
        match reason {
            Reason::Paused { since } => Self {
                since: Some(since),
                ..plain("paused", format!("its workflow is paused since {}", moment(since)))
            },
            Reason::Delayed { until } => {
                Self { until: Some(until), ..plain("delayed", format!("is to start at {}", moment(until))) }
            }
            Reason::RetryPause { until, attempt, max_attempts } => Self {
                until: Some(until),
                ..plain(
                    "retry_pause",
                    format!(
                        "attempt {attempt} of {max_attempts} failed; the next comes at {}",
                        moment(until)
                    ),
                )
            },
            Reason::WorkflowLimit { limit } => limited(
                "workflow_limit",
                limit,
                format!("waits for one of the {limit} slots of its workflow"),
            ),
            Reason::KeyLimit { limit, key } => Self {
                key: Some(key),
                ..limited(
                    "key_limit",
                    limit,
                    format!("waits for one of the {limit} slots of its concurrency key"),
                )
            },
            Reason::OrganizationLimit { limit } => limited(
                "organization_limit",
                limit,
                format!("waits for one of the {limit} slots of its organization"),
            ),
            Reason::RateLimit { limit, seconds } => limited(
                "rate_limit",
                limit,
                format!("its workflow was started {limit} times within {seconds} s, which is its limit"),
            ),
            Reason::NoWorker => plain("no_worker", "no worker is alive".into()),
            Reason::WorkersBusy { slots } => {
                limited("workers_busy", slots, format!("all {slots} slots of the workers are taken"))
            }
            Reason::Behind { ahead } => Self {
                ahead: Some(ahead),
                ..plain(
                    "behind",
                    format!("at least {ahead} more urgent executions of its organization go first"),
                )
            },
            Reason::Ready => plain("ready", "nothing holds it; a worker is about to take it".into()),
            Reason::Running { attempt } => plain("running", format!("runs, in attempt {attempt}")),
            Reason::Cancelling => plain("cancelling", "runs, and was asked to stop".into()),
            Reason::Ended => plain("ended", "has ended".into()),
        }
    }
}

fn moment(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
