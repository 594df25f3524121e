//! What a notification is. Who makes, changes and ends one is in the module above.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{NotificationId, UserId};

/// What a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum Category {
    GithubSetup,
    GithubSync,
    FileUpload,
    PackageInstall,
    System,
}

/// How the work stands. The last three are terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    /// Whether it never changes again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The name of the contract and of the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A notification as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Notification {
    /// Id.
    pub id: NotificationId,
    /// Whose it is.
    pub user_id: UserId,
    /// Whether every platform administrator sees it.
    pub for_admins: bool,
    /// What it is about.
    pub category: Category,
    /// In a few words.
    pub title: String,
    /// What happens at the moment.
    pub description: Option<String>,
    /// How the work stands.
    pub status: Status,
    /// How much is done, 0 to 100; `None` while nobody can say.
    pub percent: Option<f64>,
    /// Why it failed.
    pub error: Option<String>,
    /// What came out, an object.
    pub result: Option<Value>,
    /// More about the work, an object.
    pub metadata: Option<Value>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}
