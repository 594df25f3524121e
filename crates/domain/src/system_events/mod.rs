//! System events: what happened to the platform, kept for whoever looks after it.
//!
//! Here they are reported; how they are written is in `write`, and how they are read, together with the audit log, in
//! `list`. They are no second audit log: what people did is there alone. The invariant: reporting never waits and never
//! fails, and whatever is wrong over and over is written once a minute with the number of times.

pub mod list;
mod write;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::Db;
use crate::events::Events;
use crate::id::OrgId;
use write::Order;

/// Events that wait to be written; more are dropped and counted.
const WAITING: usize = 1_024;
/// The longest message, in characters.
const LONGEST_MESSAGE: usize = 2_000;
/// Larger details are left out.
const LARGEST_DETAILS: usize = 16 * 1024;
/// How long a process that ends waits for the last of them.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Category {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Info,
    /// Worth a look.
    Warning,
    /// Something did not work.
    Error,
    /// Nothing works until somebody does something.
    Critical,
}

/// An event to report.
#[derive(Debug, Clone)]
pub struct NewEvent {
    id: Uuid,
    at: DateTime<Utc>,
    category: Category,
    level: Level,
    message: String,
    organization_id: Option<OrgId>,
    details: Option<Value>,
    once: Option<String>,
}

/// Where events are reported. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SystemEvents {
    orders: mpsc::Sender<Order>,
    dropped: Arc<std::sync::atomic::AtomicU64>,
}

impl Category {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Discovery,
        Self::Organization,
        Self::User,
        Self::Role,
        Self::Config,
        Self::Secret,
        Self::Form,
        Self::Oauth,
        Self::Execution,
        Self::System,
        Self::Error,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Organization => "organization",
            Self::User => "user",
            Self::Role => "role",
            Self::Config => "config",
            Self::Secret => "secret",
            Self::Form => "form",
            Self::Oauth => "oauth",
            Self::Execution => "execution",
            Self::System => "system",
            Self::Error => "error",
        }
    }
}

impl Level {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Info, Self::Warning, Self::Error, Self::Critical];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

impl NewEvent {
    /// Something that happened just now, in words for whoever looks after the platform: no secret, no address.
    pub fn new(category: Category, level: Level, message: impl Into<String>) -> Self {
        Self {
            id: Uuid::now_v7(),
            at: Utc::now(),
            category,
            level,
            message: message.into(),
            organization_id: None,
            details: None,
            once: None,
        }
    }

    /// Its id, by which it is found once it is written.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// It is about something of this organization.
    #[must_use]
    pub fn of(mut self, organization_id: Option<OrgId>) -> Self {
        self.organization_id = organization_id;
        self
    }

    /// More about it: an object.
    #[must_use]
    pub fn with(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Every replica notices it: the first that says so under this name is enough.
    #[must_use]
    pub fn once(mut self, name: impl Into<String>) -> Self {
        self.once = Some(name.into());
        self
    }

    /// With texts and details that PostgreSQL takes, and that are no larger than they may be.
    fn bounded(mut self) -> Self {
        if self.message.len() > LONGEST_MESSAGE || self.message.contains('\0') {
            let letters = self.message.chars().filter(|letter| *letter != '\0');
            self.message = letters.take(LONGEST_MESSAGE).collect();
        }
        self.details = self.details.filter(|details| {
            let text = details.to_string();
            text.len() <= LARGEST_DETAILS && !text.contains("\\u0000")
        });
        self
    }
}

impl SystemEvents {
    /// Starts to write what is reported. Without a runtime, as for commands that report nothing, nothing is written.
    pub fn start(db: Db, events: Events) -> Self {
        let (orders, received) = mpsc::channel(WAITING);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(write::write_forever(db, events, received));
        }
        Self { orders, dropped: Arc::default() }
    }

    /// Reports an event. What does not fit is dropped, and the next one says how many were.
    pub fn report(&self, event: NewEvent) {
        use std::sync::atomic::Ordering::Relaxed;

        let lost = self.dropped.swap(0, Relaxed);
        if lost > 0 {
            let message = "More happened at once than could be written";
            let event = NewEvent::new(Category::System, Level::Warning, message).with(json!({"lost": lost}));
            if self.orders.try_send(Order::Write(Box::new(event))).is_err() {
                self.dropped.fetch_add(lost, Relaxed);
            }
        }
        if self.orders.try_send(Order::Write(Box::new(event.bounded()))).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Waits until what was reported is written, for two seconds at most.
    pub async fn drain(&self) {
        let (done, written) = oneshot::channel();
        let draining = async {
            if self.orders.send(Order::Drain(done)).await.is_ok() {
                let _ = written.await;
            }
        };
        if tokio::time::timeout(LAST_PATIENCE, draining).await.is_err() {
            tracing::warn!("the last system events were not written");
        }
    }
}
