//! The lane that submissions share: batches, and what becomes of each submission of them.
//!
//! The invariant: what is told or answered is durable, and no submission waits for what concerns another alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::columns::Columns;
use super::{Idempotency, NewExecution, SCOPE, Submitted, insert};
use crate::events::{Event, Events, Update};
use crate::executions::Status;
use crate::gather::Gather;
use crate::id::{ExecutionId, OrgId, UserId};
use crate::sabotage::{self, Fault};
use crate::telemetry::metrics;
use crate::wakeup::{Wakeup, Wakeups};
use crate::{Db, Error, OrgScope, Result, in_time};

/// Submissions of one statement.
pub(super) const BATCH: usize = 256;
/// How long the lane waits for PostgreSQL: it must not stand still for all because one connection is dead.
const WRITE_PATIENCE: Duration = Duration::from_secs(4);
/// Under load workers are awake; only a submission that comes alone may find one that idles.
const FEW: usize = 2;

/// A submission that waits for its answer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) scope: OrgScope,
    pub(super) owner: Option<OrgId>,
    pub(super) new: NewExecution,
    pub(super) answer: oneshot::Sender<Result<Submitted>>,
}

/// What a lane writes to, and tells.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub(super) db: Db,
    pub(super) wakeups: Wakeups,
    pub(super) events: Events,
}

impl Lane {
    /// Writes batch after batch, until nobody is left who could submit.
    pub(super) async fn run(self, mut entries: mpsc::Receiver<Entry>) {
        let mut gather = Gather::default();
        loop {
            let batch = gather.next(&mut entries, BATCH).await;
            if batch.is_empty() {
                return;
            }
            if sabotage::is(Fault::PublishBeforeCommit) {
                self.wakeups.publish(batch.iter().map(Entry::wakeup).collect());
            }
            match in_time(WRITE_PATIENCE, Box::pin(write(&self.db, &batch))).await {
                Ok(written) => {
                    let is_written = |entry: &Entry| written.contains(&entry.new.id.0);
                    let (fresh, used): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_written);
                    self.accept(fresh);
                    // Only a key that was used before leaves an entry unwritten. Others do not wait for what that takes.
                    if !used.is_empty() {
                        tokio::spawn(self.clone().repeat_all(used));
                    }
                }
                Err(error) => refuse(batch, error),
            }
        }
    }

    /// Tells of entries that are durable, and answers them.
    fn accept(&self, entries: Vec<Entry>) {
        let now = Utc::now();
        // What starts later is woken by the sweeper when its time has come.
        let due = entries.iter().filter(|entry| entry.new.run_at.is_none_or(|at| at <= now));
        let (ids, hints): (Vec<_>, Vec<_>) = due.map(|entry| (entry.new.id, entry.wakeup())).unzip();
        let is_early = sabotage::is(Fault::PublishBeforeCommit);
        // First, so that hardly anybody hears of a start before; the version of what is told says which is later.
        entries
            .iter()
            .filter(|entry| !entry.new.transient)
            .for_each(|entry| self.events.publish(entry.update()));
        if !is_early {
            self.wakeups.publish(hints);
        }
        metrics::submitted(entries.len());
        if (1..=FEW).contains(&ids.len()) && self.wakeups.are_synced() && !is_early {
            self.events.publish(Event::Submitted(ids));
        }
        for entry in entries {
            let submitted = Submitted::fresh(&entry);
            // A caller that hung up finds its execution in the list.
            let _ = entry.answer.send(Ok(submitted));
        }
    }

    /// Answers entries whose keys were used before. One fails for itself alone.
    async fn repeat_all(self, entries: Vec<Entry>) {
        for entry in entries {
            // Nothing of it is written, and nobody waits for that any more.
            if entry.answer.is_closed() {
                continue;
            }
            match in_time(WRITE_PATIENCE, Box::pin(repeat(&self.db, &entry))).await {
                Ok(submitted) if !submitted.replayed => self.accept(vec![entry]),
                outcome => drop(entry.answer.send(outcome)),
            }
        }
    }
}

fn refuse(batch: Vec<Entry>, error: Error) {
    let error = Arc::new(error);
    for entry in batch {
        let _ = entry.answer.send(Err(Error::shared(&error)));
    }
}

impl Entry {
    /// That it waits.
    fn update(&self) -> Event {
        let name = self.new.work.name().to_owned();
        Update::submitted(self.new.id, self.owner, name, self.scope.actor()).into()
    }

    fn wakeup(&self) -> Wakeup {
        Wakeup::new(self.new.id, self.owner, self.new.priority, self.new.traceparent.clone())
    }
}

/// Writes what it can; the ids of what is written.
async fn write(db: &Db, batch: &[Entry]) -> Result<HashSet<Uuid>> {
    let mut columns = Columns::default();
    batch.iter().for_each(|entry| columns.push(&entry.scope, entry.owner, &entry.new));
    insert(&mut *db.system(&SCOPE).await?, columns).await
}

/// What becomes of an entry whose key was used before: the earlier submission, or this one if that key's day is over.
async fn repeat(db: &Db, entry: &Entry) -> Result<Submitted> {
    let used =
        entry.new.idempotency.as_ref().ok_or_else(|| Error::internal("a submission was not written"))?;
    let user = entry.scope.actor().id;
    if let Some(earlier) = replay(db, entry.owner, user, used).await? {
        return Ok(earlier);
    }
    let mut columns = Columns::default();
    columns.push(&entry.scope, entry.owner, &entry.new);
    if insert(&mut *db.system(&SCOPE).await?, columns).await?.contains(&entry.new.id.0) {
        return Ok(Submitted::fresh(entry));
    }
    // Somebody else was quicker with the same key.
    replay(db, entry.owner, user, used).await?.ok_or_else(|| Error::internal("an idempotency key vanished"))
}

impl Submitted {
    fn fresh(entry: &Entry) -> Self {
        Self { id: entry.new.id, status: Status::Pending, replayed: false }
    }
}

/// The earlier submission that a key names; `None` if there is none, or it is a day old, for then it is forgotten.
pub(super) async fn replay(
    db: &Db,
    owner: Option<OrgId>,
    user: UserId,
    idempotency: &Idempotency,
) -> Result<Option<Submitted>> {
    // Both parts see the rows as they were before, so the second leaves out what the first forgets.
    let known = sqlx::query!(
        r#"WITH forgotten AS (
               DELETE FROM idempotency_keys
               WHERE organization_id IS NOT DISTINCT FROM $1 AND user_id = $2 AND route = $3 AND key = $4
                 AND created_at < now() - interval '1 day'
           )
           SELECT k.fingerprint, e.id AS "id: ExecutionId", e.status AS "status: Status"
           FROM idempotency_keys k
           JOIN executions e ON e.id = k.execution_id
           WHERE k.organization_id IS NOT DISTINCT FROM $1 AND k.user_id = $2 AND k.route = $3 AND k.key = $4
             AND k.created_at >= now() - interval '1 day'"#,
        owner as _,
        user as _,
        &*idempotency.route,
        idempotency.key,
    )
    .fetch_optional(&mut *db.system(&SCOPE).await?)
    .await?;
    let Some(known) = known else { return Ok(None) };
    if known.fingerprint != idempotency.fingerprint {
        return Err(Error::invalid(
            "header:Idempotency-Key",
            "was already used for another request: a key stands for one body sent to one address",
        ));
    }
    Ok(Some(Submitted { id: known.id, status: known.status, replayed: true }))
}
