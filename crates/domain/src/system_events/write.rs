//! The writer of system events: many in one statement, and one for what repeats itself.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Category, Level, NewEvent, WAITING};
use crate::events::{Event, Events, Happened};
use crate::id::OrgId;
use crate::{Db, Result, SystemScope, in_time};

const SCOPE: SystemScope = SystemScope::because("what happens to the platform concerns every organization");
/// Within this the same event is counted, not written again.
const QUIET: Duration = Duration::from_secs(60);
/// How often counts are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Events told apart; beyond that the quiet is forgotten, and all are written.
const MOST_KINDS: usize = 1_000;
/// Pause while PostgreSQL is away.
const RETRY: Duration = Duration::from_secs(1);
/// A statement that takes longer is tried again, on another connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Order {
    /// Write this.
    Write(Box<NewEvent>),
    /// Say when everything before is written.
    Drain(oneshot::Sender<()>),
}

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind(Category, Level, String, Option<OrgId>);

/// An event that was written, and how often it happened since.
#[derive(Debug)]
struct Seen {
    written: Instant,
    again: Option<NewEvent>,
    times: u64,
}

/// What was written lately.
#[derive(Debug, Default)]
struct Lately(HashMap<Kind, Seen>);

pub(super) async fn write_forever(db: Db, told: Events, mut orders: mpsc::Receiver<Order>) {
    let mut lately = Lately::default();
    let mut clock = tokio::time::interval(LOOK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut received = Vec::new();
    loop {
        let (mut events, mut drains) = (Vec::new(), Vec::new());
        tokio::select! {
            count = orders.recv_many(&mut received, WAITING) => {
                if count == 0 {
                    return;
                }
                for order in received.drain(..) {
                    match order {
                        Order::Write(event) => events.extend(lately.admit(*event, Instant::now())),
                        Order::Drain(done) => drains.push(done),
                    }
                }
            }
            _ = clock.tick() => events = lately.due(Instant::now()),
        }
        if !drains.is_empty() {
            events.append(&mut lately.rest());
        }
        if insert_patiently(&db, &events, &orders).await {
            events.into_iter().for_each(|event| told.publish(Event::from(event)));
        }
        for done in drains {
            let _ = done.send(());
        }
    }
}

impl Lately {
    /// The event, unless the same was written lately: then it is counted.
    fn admit(&mut self, event: NewEvent, now: Instant) -> Option<NewEvent> {
        let kind = Kind(event.category, event.level, event.message.clone(), event.organization_id);
        if self.0.len() >= MOST_KINDS {
            self.0.clear();
        }
        match self.0.get_mut(&kind) {
            Some(seen) => {
                seen.times += 1;
                seen.again = Some(event);
                None
            }
            None => {
                self.0.insert(kind, Seen { written: now, again: None, times: 0 });
                Some(event)
            }
        }
    }

    /// What happened again, and has been quiet for long enough; what did not is forgotten.
    fn due(&mut self, now: Instant) -> Vec<NewEvent> {
        let mut due = Vec::new();
        self.0.retain(|_, seen| {
            if now.duration_since(seen.written) < QUIET {
                return true;
            }
            let Some(again) = seen.again.take() else { return false };
            due.push(again.repeated(seen.times));
            (seen.written, seen.times) = (now, 0);
            true
        });
        due
    }

    /// Everything that happened again, at the end of the process.
    fn rest(&mut self) -> Vec<NewEvent> {
        let counted =
            self.0.drain().filter_map(|(_, seen)| seen.again.map(|again| again.repeated(seen.times)));
        counted.collect()
    }
}

impl NewEvent {
    /// One that stands for several.
    fn repeated(mut self, times: u64) -> Self {
        match &mut self.details {
            Some(Value::Object(details)) => {
                details.insert("repeated".into(), json!(times));
            }
            _ => self.details = Some(json!({"repeated": times})),
        }
        self
    }
}

impl From<NewEvent> for Event {
    fn from(event: NewEvent) -> Self {
        Self::Happened(Box::new(Happened {
            id: event.id,
            at: event.at,
            category: event.category.as_str().to_owned(),
            level: event.level.as_str().to_owned(),
            message: event.message,
        }))
    }
}

/// Writes them, however long PostgreSQL is away, while anybody is left who reports; what is refused for another reason is
/// logged and dropped. Says whether they are written.
async fn insert_patiently(db: &Db, events: &[NewEvent], orders: &mpsc::Receiver<Order>) -> bool {
    if events.is_empty() {
        return true;
    }
    while let Err(error) = in_time(PATIENCE, insert(db, events)).await {
        if !error.is_unavailable() {
            tracing::error!(?error, events = events.len(), "system events were refused");
            return false;
        }
        if orders.is_closed() {
            return false;
        }
        tokio::time::sleep(RETRY).await;
    }
    true
}

async fn insert(db: &Db, events: &[NewEvent]) -> Result<()> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let organizations: Vec<Option<Uuid>> =
        events.iter().map(|event| event.organization_id.map(|org| org.0)).collect();
    let categories: Vec<String> = events.iter().map(|event| event.category.as_str().to_owned()).collect();
    let levels: Vec<String> = events.iter().map(|event| event.level.as_str().to_owned()).collect();
    let messages: Vec<String> = events.iter().map(|event| event.message.clone()).collect();
    let details: Vec<Option<Value>> = events.iter().map(|event| event.details.clone()).collect();
    let once: Vec<Option<String>> = events.iter().map(|event| event.once.clone()).collect();
    let times: Vec<chrono::DateTime<chrono::Utc>> = events.iter().map(|event| event.at).collect();
    let mut conn = db.system(&SCOPE).await?;
    // Repeated after a lost answer, it finds its rows there already.
    sqlx::query!(
        "INSERT INTO system_events (id, organization_id, category, level, message, details, said_once, created_at)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[],
             $8::timestamptz[])
         ON CONFLICT DO NOTHING",
        &ids,
        &organizations as &[Option<Uuid>],
        &categories,
        &levels,
        &messages,
        &details as &[Option<Value>],
        &once as &[Option<String>],
        &times,
    )
    .execute(&mut *conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(message: &str) -> NewEvent {
        NewEvent::new(Category::System, Level::Error, message)
    }

    #[test]
    fn what_repeats_itself_is_written_once_a_minute_with_its_number() {
        let mut lately = Lately::default();
        let start = Instant::now();
        assert!(lately.admit(event("a"), start).is_some());
        for second in 1..30 {
            assert!(lately.admit(event("a"), start + Duration::from_secs(second)).is_none());
        }
        assert!(lately.admit(event("b"), start).is_some(), "another one is not held back");
        assert_eq!(lately.due(start + QUIET - LOOK).len(), 0);

        let due = lately.due(start + QUIET);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].details, Some(json!({"repeated": 29})));
        assert!(lately.admit(event("b"), start + QUIET).is_some(), "forgotten, since it did not repeat");
        assert!(lately.admit(event("a"), start + QUIET).is_none(), "still counted");
        let rest = lately.rest();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].details, Some(json!({"repeated": 1})));
    }

    #[test]
    fn the_kinds_told_apart_are_bounded() {
        let mut lately = Lately::default();
        for number in 0..3 * MOST_KINDS {
            assert!(lately.admit(event(&number.to_string()), Instant::now()).is_some());
            assert!(lately.0.len() <= MOST_KINDS);
        }
    }
}
