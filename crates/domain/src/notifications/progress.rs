//! How far the work of a notification is, and its end. Written by whoever does the work, in the platform's own name:
//! the worker of a job acts for a user whose rights may have changed since.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Category, Notification, Status, TEXT, bounded, shortened};
use crate::events::{Event, Notice};
use crate::id::{NotificationId, UserId};
use crate::{Platform, Result, SystemScope, SystemTx};

const SCOPE: SystemScope =
    SystemScope::because("whoever does the work tells of it, whatever its user may do by now");
/// Progress is written and told at most once in this time; the latest counts.
const PERIOD: Duration = Duration::from_millis(250);

/// News of work that goes on; what is `None` stays. It makes a pending notification a running one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// How much is done, 0 to 100.
    pub percent: Option<f64>,
    /// What happens at the moment.
    pub description: Option<String>,
}

/// How the work ended.
#[derive(Debug, Clone)]
pub enum End {
    /// It is done.
    Completed {
        /// What is to be read under the title.
        description: Option<String>,
        /// What came out; left out when it is larger than 32 KiB.
        result: Option<Map<String, Value>>,
    },
    /// It failed.
    Failed {
        /// Why, for the person who asked for it.
        error: String,
        /// What there is besides.
        result: Option<Map<String, Value>>,
    },
    /// Somebody called it off.
    Cancelled,
}

/// The end of one of many.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) id: NotificationId,
    pub(crate) end: End,
}

/// Writes how far the work is, and tells whoever may see it. Nothing happens if the notification has ended, has expired
/// or was dismissed. Callers that have more to tell than a person can read use a [`Reporter`].
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn update(platform: &Platform, id: NotificationId, change: &Change) -> Result<()> {
    let updated = {
        let mut conn = platform.db.system(&SCOPE).await?;
        sqlx::query_as!(
            Notification,
            r#"UPDATE notifications
               SET status = 'running', percent = COALESCE($2, percent), description = COALESCE($3, description),
                   updated_at = now(), expires_at = now() + interval '1 hour'
               WHERE id = $1 AND status IN ('pending', 'running') AND expires_at > now()
               RETURNING id AS "id: NotificationId", user_id AS "user_id: UserId", for_admins, category AS "category: Category",
                   title, description, status AS "status: Status", percent, error, result, metadata, created_at, updated_at"#,
            id as _,
            change.percent.filter(|percent| percent.is_finite()).map(|percent| percent.clamp(0.0, 100.0)),
            change.description.as_ref().map(|text| shortened(text, TEXT)),
        )
        .fetch_optional(&mut *conn)
        .await?
    };
    if let Some(notification) = updated {
        platform.events.publish(Event::Notice(Notice::Updated(Box::new(notification))));
    }
    Ok(())
}

/// Writes the end, and tells whoever may see it. Nothing happens if it has ended before, has expired or was dismissed.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn finish(platform: &Platform, id: NotificationId, end: End) -> Result<()> {
    let mut tx = platform.db.begin_system(&SCOPE).await?;
    let told = end_all(&mut tx, vec![Ending { id, end }]).await?;
    tx.commit().await?;
    told.into_iter().for_each(|event| platform.events.publish(event));
    Ok(())
}

/// Writes ends in the transaction that ends the work; answers what to publish after the commit.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub(crate) async fn end_all(tx: &mut SystemTx, endings: Vec<Ending>) -> Result<Vec<Event>> {
    if endings.is_empty() {
        return Ok(Vec::new());
    }
    let mut columns = Columns::default();
    endings.into_iter().for_each(|ending| columns.push(ending));
    let ended = sqlx::query_as!(
        Notification,
        r#"UPDATE notifications AS n
           SET status = e.status, percent = CASE WHEN e.status = 'completed' THEN 100 ELSE n.percent END,
               description = COALESCE(e.description, n.description), error = e.error, result = e.result::jsonb,
               updated_at = now(), expires_at = now() + interval '5 minutes'
           FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) AS e (id, status, description, error, result)
           WHERE n.id = e.id AND n.status IN ('pending', 'running') AND n.expires_at > now()
           RETURNING n.id AS "id: NotificationId", n.user_id AS "user_id: UserId", n.for_admins,
               n.category AS "category: Category", n.title, n.description, n.status AS "status: Status", n.percent, n.error,
               n.result, n.metadata, n.created_at, n.updated_at"#,
        &columns.ids,
        &columns.statuses,
        &columns.descriptions as &[Option<String>],
        &columns.errors as &[Option<String>],
        &columns.results as &[Option<String>],
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(ended.into_iter().map(|ended| Event::Notice(Notice::Updated(Box::new(ended)))).collect())
}

/// Ends as columns, for one statement.
#[derive(Debug, Default)]
struct Columns {
    ids: Vec<uuid::Uuid>,
    statuses: Vec<String>,
    descriptions: Vec<Option<String>>,
    errors: Vec<Option<String>>,
    results: Vec<Option<String>>,
}

impl Columns {
    fn push(&mut self, Ending { id, end }: Ending) {
        let (status, description, error, result) = match end {
            End::Completed { description, result } => ("completed", description, None, result),
            End::Failed { error, result } => ("failed", None, Some(error), result),
            End::Cancelled => ("cancelled", None, None, None),
        };
        self.ids.push(id.0);
        self.statuses.push(status.to_owned());
        self.descriptions.push(description.map(|text| shortened(&text, TEXT)));
        self.errors.push(error.map(|text| shortened(&text, TEXT)));
        self.results.push(result.and_then(bounded).map(|object| object.to_string()));
    }
}

/// Tells of progress without making the work wait: any number of reports becomes at most four updates a second, and
/// the latest is never lost. It stops where it is dropped.
#[derive(Debug)]
pub struct Reporter {
    latest: watch::Sender<Change>,
    _writing: AbortOnDropHandle<()>,
}

impl Reporter {
    /// Begins: the notification is running from now on.
    pub fn start(platform: &Platform, id: NotificationId) -> Self {
        let (latest, mut reports) = watch::channel(Change::default());
        reports.mark_changed();
        let platform = platform.clone();
        let writing = tokio::spawn(async move {
            let mut written = None::<Instant>;
            while reports.changed().await.is_ok() {
                if let Some(written) = written {
                    tokio::time::sleep_until(written + PERIOD).await;
                }
                let change = reports.borrow_and_update().clone();
                if let Err(error) = update(&platform, id, &change).await {
                    tracing::debug!(%error, notification.id = %id, "progress was not written, the next may be");
                }
                written = Some(Instant::now());
            }
        });
        Self { latest, _writing: AbortOnDropHandle::new(writing) }
    }

    /// Says how far the work is. A percentage that is `None` stays as it was.
    pub fn report(&self, percent: Option<f64>, description: impl Into<String>) {
        self.latest.send_modify(|latest| {
            latest.percent = percent.or(latest.percent);
            latest.description = Some(description.into());
        });
    }
}
