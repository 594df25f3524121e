//! Notifications: what the platform tells a user about work that goes on without them, and how far it is.
//!
//! Here they are made, listed and dismissed; progress and the end are in `progress`. They are not a history: each is
//! gone an hour after its last update, and five minutes after its end. The invariant: what has ended is never changed.

pub mod notification;
mod progress;

use serde_json::{Map, Value};

pub use notification::{Category, Notification, Status};
pub use progress::{Change, End, Reporter, finish, update};
pub(crate) use progress::{Ending, end_all};

use crate::audit::{self, Action};
use crate::events::{Event, Events, Notice};
use crate::id::{NotificationId, UserId};
use crate::{Error, OrgScope, OrgTx, Result};

/// Most that a list shows; who has more sees the newest.
const MOST_LISTED: i64 = 200;
/// Longest title, in characters.
const TITLE: usize = 200;
/// Longest other text, in characters.
const TEXT: usize = 4_000;
/// Largest result or metadata, in bytes of JSON.
const OBJECT: usize = 32 * 1024;

/// A notification to make.
#[derive(Debug, Clone)]
pub struct NewNotification {
    /// What it is about.
    pub category: Category,
    /// In a few words, at most 200 characters.
    pub title: String,
    /// What happens at the moment.
    pub description: Option<String>,
    /// More about the work, for clients. Never a secret.
    pub metadata: Option<Map<String, Value>>,
    /// Whether every platform administrator is to see it.
    pub for_admins: bool,
}

impl NewNotification {
    /// One for its owner alone, with nothing but a title.
    pub fn new(category: Category, title: impl Into<String>) -> Self {
        Self { category, title: title.into(), description: None, metadata: None, for_admins: false }
    }
}

impl Notification {
    /// Tells whoever may see it that it was made; called after the commit.
    pub fn announce(self, events: &Events) {
        events.publish(Event::Notice(Notice::Created(Box::new(self))));
    }
}

/// Makes a notification for the actor, pending, in the scope of `tx`. Call [`Notification::announce`] after the commit.
///
/// # Errors
/// [`Error::Forbidden`] without an organization context, [`Error::Unavailable`] when PostgreSQL is away.
pub async fn create(tx: &mut OrgTx, new: NewNotification) -> Result<Notification> {
    let (owner, user) = (tx.scope().owner()?, tx.scope().actor().id);
    Ok(sqlx::query_as!(
        Notification,
        r#"INSERT INTO notifications (id, organization_id, user_id, for_admins, category, title, description, metadata, expires_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + interval '1 hour')
           RETURNING id AS "id: NotificationId", user_id AS "user_id: UserId", for_admins, category AS "category: Category",
               title, description, status AS "status: Status", percent, error, result, metadata, created_at, updated_at"#,
        NotificationId::generate() as _,
        owner as _,
        user as _,
        new.for_admins,
        new.category as _,
        shortened(&new.title, TITLE),
        new.description.map(|text| shortened(&text, TEXT)),
        new.metadata.and_then(bounded),
    )
    .fetch_one(tx.conn())
    .await?)
}

/// The actor's notifications that have not expired, newest first; an administrator's with those for administrators of the
/// organization that `seen_in` looks at. `tx` reaches all of the actor's own.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx, seen_in: &OrgScope) -> Result<Vec<Notification>> {
    let actor = seen_in.actor();
    Ok(sqlx::query_as!(
        Notification,
        r#"SELECT id AS "id: NotificationId", user_id AS "user_id: UserId", for_admins, category AS "category: Category",
               title, description, status AS "status: Status", percent, error, result, metadata, created_at, updated_at
           FROM notifications
           WHERE (user_id = $1 OR ($2 AND for_admins AND ($3 OR organization_id IS NOT DISTINCT FROM $4)))
             AND expires_at > now()
           ORDER BY id DESC
           LIMIT $5"#,
        actor.id as _,
        actor.is_platform_admin,
        seen_in.spans_all(),
        seen_in.org() as _,
        MOST_LISTED,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// A notification that [`list`] may show.
///
/// # Errors
/// [`Error::NotFound`], also when it is somebody else's or has expired.
pub async fn get(tx: &mut OrgTx, id: NotificationId) -> Result<Notification> {
    let actor = tx.scope().actor().clone();
    sqlx::query_as!(
        Notification,
        r#"SELECT id AS "id: NotificationId", user_id AS "user_id: UserId", for_admins, category AS "category: Category",
               title, description, status AS "status: Status", percent, error, result, metadata, created_at, updated_at
           FROM notifications
           WHERE id = $1 AND (user_id = $2 OR ($3 AND for_admins)) AND expires_at > now()"#,
        id as _,
        actor.id as _,
        actor.is_platform_admin,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("notification"))
}

/// Removes a notification of the actor; the work it tells of goes on. Answers what to publish after the commit.
///
/// # Errors
/// [`Error::NotFound`], also when it is not the actor's own.
pub async fn dismiss(tx: &mut OrgTx, id: NotificationId) -> Result<Event> {
    let user = tx.scope().actor().id;
    let dismissed = sqlx::query!(
        "DELETE FROM notifications
         WHERE id = $1 AND user_id = $2 AND expires_at > now()
         RETURNING for_admins",
        id as _,
        user as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("notification"))?;
    audit::record(tx, Action::NotificationDismissed, format!("notification/{id}"), &()).await?;
    Ok(Event::Notice(Notice::Dismissed { id, user_id: user, for_admins: dismissed.for_admins }))
}

/// The beginning of a text, without what PostgreSQL cannot store.
fn shortened(text: &str, most: usize) -> String {
    let text = text.replace('\0', "");
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// An object, unless it is too large for what is sent to everybody who watches, or cannot be stored.
fn bounded(object: Map<String, Value>) -> Option<Value> {
    let object = Value::Object(object);
    let text = object.to_string();
    (text.len() <= OBJECT && !text.contains("\\u0000")).then_some(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_and_objects_are_bounded() {
        assert_eq!(shortened("a\0b", 2), "ab");
        assert_eq!(shortened("öäü", 3), "öäü");
        assert_eq!(shortened("öäüß", 3), "öä…");
        let object = |value: Value| value.as_object().expect("an object").clone();
        assert_eq!(bounded(object(json!({"a": 1}))), Some(json!({"a": 1})));
        assert_eq!(bounded(object(json!({"a": "x".repeat(OBJECT)}))), None);
        assert_eq!(bounded(object(json!({"a": "\0"}))), None);
    }
}
