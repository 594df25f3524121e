//! What there is to tell: an event of each kind, as it travels between processes.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Actor;
use crate::executions::{Kind, RawJson, Status, logs};
use crate::id::{ExecutionId, JobId, NotificationId, OrgId, UserId};
use crate::notifications::notification::Notification;

/// Results beyond this are read from the row instead.
pub const MAX_INLINE_RESULT: usize = 64 * 1024;

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// An execution changed its state.
    Update(Box<Update>),
    /// A data provider ended: told to who waits for it, and to nobody else.
    Answered(Box<Update>),
    /// An execution logged.
    Lines(Lines),
    /// Somebody asked to stop a running attempt.
    Cancel {
        /// The execution.
        execution_id: ExecutionId,
        /// The attempt that runs.
        attempt: i32,
    },
    /// These were submitted: a worker that idles may claim them at once instead of waiting for their wake-ups.
    Submitted(Vec<ExecutionId>),
    /// The workspace changed and was indexed again.
    WorkspaceChanged,
    /// The workspace has another environment of packages.
    PackagesSwitched,
    /// A background job tells who asked for it how far it is.
    Progress(Box<Progress>),
    /// A notification of somebody appeared, changed or went away.
    Notice(Notice),
    /// Something happened to the platform; for administrators.
    Happened(Box<Happened>),
}

/// A system event that was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as the fields of a log entry")]
pub struct Happened {
    pub id: uuid::Uuid,
    pub at: DateTime<Utc>,
    pub category: String,
    pub level: String,
    pub message: String,
}

/// What became of a notification.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Notice {
    Created(Box<Notification>),
    Updated(Box<Notification>),
    Dismissed { id: NotificationId, user_id: UserId, for_admins: bool },
}

/// How far a background job is. Nothing stores it: the end is in the row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// The job.
    pub job_id: JobId,
    /// What it belongs to: the channel.
    pub topic: Topic,
    /// Who asked for it.
    pub user_id: UserId,
    /// What there is to tell.
    pub news: News,
}

/// What a background job belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Topic {
    Package,
    Git,
}

/// News of a background job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum News {
    /// A line.
    Log {
        /// `info`, `warning` or `error`.
        level: String,
        /// In words.
        message: String,
    },
    /// The end.
    Complete {
        /// `success`, `error` or `conflict`.
        status: String,
        /// In words.
        message: String,
        /// Further members of the frame: an object or null.
        result: serde_json::Value,
    },
}

/// A change of state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Update {
    /// The execution.
    pub execution_id: ExecutionId,
    /// Its organization.
    pub org_id: Option<OrgId>,
    /// Its workflow.
    pub workflow_name: String,
    /// Who started it.
    pub executed_by: UserId,
    /// Display name of who started it.
    pub executed_by_name: String,
    /// State now.
    pub status: Status,
    /// Current attempt.
    pub attempt: i32,
    /// First claim.
    pub started_at: Option<DateTime<Utc>>,
    /// End.
    pub completed_at: Option<DateTime<Utc>>,
    /// At the end: duration of the last attempt.
    pub duration_ms: Option<i64>,
    /// At the end: the result, up to 64 KiB.
    pub result: Option<RawJson>,
    /// `json`, `html` or `text`.
    pub result_type: Option<String>,
    /// Whether `result` was left out because of its size.
    pub result_omitted: bool,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Class of the exception or name of the platform.
    pub error_type: Option<String>,
    /// Whether the message was written for the person who runs it.
    pub is_user_error: bool,
    /// Sequence of the last line logged, at the end.
    pub last_sequence: Option<i64>,
    /// At the end: whether there are variables to read. Processes of the version before do not say so.
    #[serde(default)]
    pub has_variables: bool,
    /// Kept out of histories. Processes of the version before do not say so.
    #[serde(default)]
    pub transient: bool,
}

/// Lines just logged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lines {
    /// The execution.
    pub execution_id: ExecutionId,
    /// In order.
    pub lines: Vec<LiveLine>,
}

/// One line; see [`logs::Line`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as the fields of logs::Line")]
pub struct LiveLine {
    pub sequence: i64,
    pub user_sequence: Option<i64>,
    pub attempt: i32,
    pub level: String,
    pub message: String,
    pub data: Option<RawJson>,
    pub logged_at: DateTime<Utc>,
}

impl Update {
    /// That an execution is in this state, with nothing more to tell of it. `executed_by`: who started it, and their name.
    pub fn new(
        execution_id: ExecutionId,
        org_id: Option<OrgId>,
        workflow_name: String,
        executed_by: (UserId, String),
        status: Status,
        attempt: i32,
    ) -> Self {
        Self {
            execution_id,
            org_id,
            workflow_name,
            executed_by: executed_by.0,
            executed_by_name: executed_by.1,
            status,
            attempt,
            started_at: None,
            completed_at: None,
            duration_ms: None,
            result: None,
            result_type: None,
            result_omitted: false,
            error_message: None,
            error_type: None,
            is_user_error: false,
            last_sequence: None,
            has_variables: false,
            transient: false,
        }
    }

    /// That an execution was submitted and waits.
    pub fn submitted(
        execution_id: ExecutionId,
        org_id: Option<OrgId>,
        workflow_name: String,
        actor: &Actor,
    ) -> Self {
        let executed_by = (actor.id, actor.name.clone());
        Self::new(execution_id, org_id, workflow_name, executed_by, Status::Pending, 0)
    }

    /// The event that tells of it.
    pub fn of_kind(self, kind: Kind) -> Event {
        match kind {
            Kind::Workflow => Event::Update(Box::new(self)),
            Kind::DataProvider => Event::Answered(Box::new(self)),
        }
    }

    /// Puts the result in, unless it is too large for an event.
    pub fn with_result(mut self, result: Option<RawJson>) -> Self {
        self.result_omitted = result.as_ref().is_some_and(|result| result.get().len() > MAX_INLINE_RESULT);
        self.result = result.filter(|_| !self.result_omitted);
        self
    }
}

impl From<&logs::Line> for LiveLine {
    fn from(line: &logs::Line) -> Self {
        Self {
            sequence: line.sequence,
            user_sequence: line.user_sequence,
            attempt: line.attempt,
            level: line.level.clone(),
            message: line.message.clone(),
            data: line.data.as_ref().map(|data| data.0.clone()),
            logged_at: line.logged_at,
        }
    }
}

impl From<Update> for Event {
    fn from(update: Update) -> Self {
        Self::Update(Box::new(update))
    }
}

impl Event {
    pub(super) fn execution_id(&self) -> Option<ExecutionId> {
        match self {
            Self::Update(update) | Self::Answered(update) => Some(update.execution_id),
            Self::Lines(lines) => Some(lines.execution_id),
            Self::Cancel { execution_id, .. } => Some(*execution_id),
            Self::Submitted(_)
            | Self::WorkspaceChanged
            | Self::PackagesSwitched
            | Self::Progress(_)
            | Self::Notice(_)
            | Self::Happened(_) => None,
        }
    }
}

impl Notice {
    /// Whose notification it is.
    pub fn user_id(&self) -> UserId {
        match self {
            Self::Created(notification) | Self::Updated(notification) => notification.user_id,
            Self::Dismissed { user_id, .. } => *user_id,
        }
    }

    /// Whether platform administrators are told too.
    pub fn is_for_admins(&self) -> bool {
        match self {
            Self::Created(notification) | Self::Updated(notification) => notification.for_admins,
            Self::Dismissed { for_admins, .. } => *for_admins,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_the_version_before_is_read() {
        let somebody = (UserId::SYSTEM, "System".into());
        let update = Update::new(ExecutionId::generate(), None, "w".into(), somebody, Status::Running, 1);
        let update = Update { transient: true, ..update };
        let now = serde_json::to_string(&update).expect("an event is JSON");
        let before = now.replace(r#","transient":true"#, "");
        assert_ne!(now, before);
        let read = |text: &str| serde_json::from_str::<Update>(text).expect("is read").transient;
        assert_eq!((read(&now), read(&before)), (true, false));
    }
}
