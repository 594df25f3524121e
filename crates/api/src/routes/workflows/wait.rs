//! Waiting for the end of an execution: by its event, which is quick; by its row, which is certain.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::OrgScope;
use domain::events::{Update, Watch};
use domain::executions::{Execution, RawJson, Status};
use domain::id::ExecutionId;
use tokio::time::Instant;

use crate::routes::executions;
use crate::{AppState, deadline};

/// How often the row is looked at: what a lost event costs.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What became of an execution, as far as a waiting request answers it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: Status,
    pub(crate) result: Option<RawJson>,
    pub(crate) error_message: Option<String>,
    pub(crate) error_type: Option<String>,
    pub(crate) is_user_error: bool,
    pub(crate) duration_ms: Option<i64>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) completed_at: Option<DateTime<Utc>>,
    /// Whether it may have left lines or variables.
    pub(crate) has_details: bool,
}

impl Outcome {
    /// An execution nobody has looked at since it was submitted.
    pub(crate) fn unknown(status: Status) -> Self {
        Self {
            status,
            result: None,
            error_message: None,
            error_type: None,
            is_user_error: false,
            duration_ms: None,
            started_at: None,
            completed_at: None,
            has_details: false,
        }
    }
}

/// Waits for the end, at most `patience`; then the outcome is that of an execution under way.
pub(crate) async fn until_ended(
    app: &AppState,
    scope: &OrgScope,
    id: ExecutionId,
    mut watch: Watch,
    patience: Duration,
) -> Outcome {
    deadline::may_wait(patience);
    let mut until = Instant::now() + patience;
    let mut known = Outcome::unknown(Status::Pending);
    let mut draining = false;
    loop {
        let pause = LOOK_AGAIN.min(until.saturating_duration_since(Instant::now()));
        let terminal = watch.terminal(pause).await;
        deadline::begin_anew();
        if let Some(update) = terminal
            && !update.result_omitted
        {
            return update.into();
        }
        // The result was too large for an event, the event was lost, or it takes long: the row knows.
        match executions::get(app, scope.clone(), id).await {
            Ok(execution) => known = execution.into(),
            Err(error) => {
                tracing::debug!(execution.id = %id, %error, "cannot look at a waited-for execution")
            }
        }
        if known.status.is_terminal() || Instant::now() >= until {
            return known;
        }
        if !draining && app.draining.is_cancelled() {
            // A stopping process answers with what it knows while it still can; the run goes on elsewhere.
            draining = true;
            let grace = Duration::from_secs(app.platform.settings.shutdown_grace_seconds);
            until = until.min(Instant::now() + grace / 2);
        }
    }
}

impl From<Update> for Outcome {
    fn from(update: Update) -> Self {
        Self {
            status: update.status,
            result: update.result,
            error_message: update.error_message,
            error_type: update.error_type,
            is_user_error: update.is_user_error,
            duration_ms: update.duration_ms,
            started_at: update.started_at,
            completed_at: update.completed_at,
            has_details: update.has_variables || update.last_sequence.is_none_or(|last| last > 0),
        }
    }
}

impl From<Execution> for Outcome {
    fn from(execution: Execution) -> Self {
        Self {
            status: execution.status,
            result: execution.result.map(|result| result.0),
            error_message: execution.error_message,
            error_type: execution.error_type,
            is_user_error: execution.is_user_error,
            duration_ms: execution.duration_ms,
            started_at: execution.started_at,
            completed_at: execution.completed_at,
            has_details: true,
        }
    }
}
