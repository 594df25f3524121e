//! Keeping tokens fresh: one refresh at a time per connection, over all processes (ADR 33).
//!
//! PostgreSQL is the arbiter. Whoever refreshes holds a lease in the row, renewed while they are at it and gone with them;
//! everybody else waits for what comes of it and uses that. No transaction is open while the provider is asked. The
//! invariant: tokens are stored by the holder of the lease only, and the work goes on when whoever asked for it leaves,
//! since an answer that nobody stores would be lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::exchange::{self, Refusal};
use super::{Connection, Credentials, Source, find, get, get_by_id, read_credentials, resource, store};
use crate::audit::{self, Action};
use crate::outbound::Outbound;
use crate::vault::Vault;
use crate::{Db, Error, OrgScope, Result};

/// Whoever holds a lease and is not heard of for so long is gone.
const LEASE_SECONDS: f64 = 15.0;
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often those who wait look at the row, one per process.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long anybody waits.
const PATIENCE: Duration = Duration::from_secs(40);
/// Seconds a token must be good for when it is handed out.
pub(super) const FRESH_SECONDS: i64 = 60;

/// Refreshes tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Refresher {
    db: Db,
    vault: Vault,
    outbound: Outbound,
    /// Refreshes under way here: whoever asks for the same one waits for it.
    flights: moka::future::Cache<(Uuid, i64, i64), Arc<Refreshed>>,
    tasks: TaskTracker,
}

/// What came of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// A new token is there.
    Fresh,
    /// There is none, and why; for administrators.
    Refused(String),
    /// Somebody is at it, and takes too long.
    TooLate,
}

/// One look at the row.
enum Turn {
    /// Nobody is at it: the lease is ours.
    Ours(Uuid, Box<Credentials>),
    /// Something came of it since.
    Ended(Refreshed),
    /// Somebody is at it.
    Theirs,
}

impl Refresher {
    /// One that works with these parts.
    pub fn new(db: Db, vault: Vault, outbound: Outbound) -> Self {
        let flights = moka::future::Cache::builder()
            .max_capacity(10_000)
            // The row tells the next who asks; this only bundles those who ask at once.
            .time_to_live(Duration::from_secs(1))
            .build();
        Self { db, vault, outbound, flights, tasks: TaskTracker::new() }
    }

    /// Waits for the refreshes under way, so that none of their answers is lost when the process stops.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The credentials of the connection of exactly the scope, refreshed first if they end within a minute. `None` when
    /// there is no token that is good. Audited.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn credentials(
        &self,
        scope: &OrgScope,
        name: &str,
    ) -> Result<(Connection, Option<Credentials>)> {
        let mut tx = self.db.begin(scope).await?;
        let connection = get(&mut tx, name).await?;
        tx.commit().await?;
        let is_stale = connection.has_token() && !connection.is_fresh(FRESH_SECONDS);
        if is_stale && connection.can_refresh() {
            self.refresh(scope, &connection).await?;
        }
        let credentials = self.read(scope, &connection).await?;
        let is_good = credentials.connection.is_fresh(0);
        Ok((credentials.connection.clone(), is_good.then_some(credentials)))
    }

    /// The credentials a run means by a name, good for a minute at least; without a token when there never was one.
    /// Audited.
    ///
    /// # Errors
    /// [`Error::Impossible`] when the token ended and there is no new one.
    pub async fn credentials_for_run(&self, scope: &OrgScope, name: &str) -> Result<Option<Credentials>> {
        let mut tx = self.db.begin(scope).await?;
        let Some(connection) = find(&mut tx, name).await? else { return Ok(None) };
        tx.commit().await?;
        if connection.has_token() && !connection.is_fresh(FRESH_SECONDS) {
            if !connection.can_refresh() {
                let text = format!("the token of connection {name} has ended; authorize it again");
                return Err(Error::Impossible(text));
            }
            self.refresh_or_fail(scope, &connection).await?;
        }
        self.read(scope, &connection).await.map(Some)
    }

    /// Fetches a new token for a run, whether the old one has ended or not.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Impossible`] when there is nothing to refresh with, or the provider refuses.
    pub async fn refresh_for_run(&self, scope: &OrgScope, name: &str) -> Result<Credentials> {
        let mut tx = self.db.begin(scope).await?;
        let connection = find(&mut tx, name).await?.ok_or(Error::NotFound("connection"))?;
        tx.commit().await?;
        self.refresh_or_fail(scope, &connection).await?;
        self.read(scope, &connection).await
    }

    /// Fetches a new token for a connection that was just read; those who read it in the same state share one refresh.
    ///
    /// # Errors
    /// [`Error::Impossible`] when there is nothing to refresh with.
    pub async fn refresh(&self, scope: &OrgScope, connection: &Connection) -> Result<Refreshed> {
        if !connection.can_refresh() {
            let text = "there is nothing to refresh with: no refresh token; authorize the connection";
            return Err(Error::Impossible(text.into()));
        }
        let own = scope.of_owner(connection.organization_id);
        let seen = connection.clone();
        let flight = async {
            let this = self.clone();
            // Whoever asked may leave; the answer of the provider is stored all the same.
            let task = self.tasks.spawn(async move { this.settle(&own, &seen).await });
            task.await.map_err(Error::internal)?.map(Arc::new)
        };
        let key = (connection.id, connection.generation, connection.attempts);
        let settled = self.flights.try_get_with(key, Box::pin(flight)).await;
        settled.map(|settled| (*settled).clone()).map_err(|error| Error::shared(&error))
    }

    async fn refresh_or_fail(&self, scope: &OrgScope, connection: &Connection) -> Result<()> {
        let name = &connection.name;
        match self.refresh(scope, connection).await? {
            Refreshed::Fresh => Ok(()),
            Refreshed::Refused(reason) => {
                Err(Error::Impossible(format!("connection {name} could not be refreshed: {reason}")))
            }
            Refreshed::TooLate => Err(Error::Unavailable {
                service: "the token endpoint",
                source: "a refresh takes too long".into(),
            }),
        }
    }

    async fn read(&self, scope: &OrgScope, connection: &Connection) -> Result<Credentials> {
        let mut tx = self.db.begin(&scope.of_owner(connection.organization_id)).await?;
        let credentials = read_credentials(&mut tx, &self.vault, connection.id).await?;
        tx.commit().await?;
        Ok(credentials)
    }

    /// Refreshes, or waits for whoever does.
    async fn settle(&self, scope: &OrgScope, seen: &Connection) -> Result<Refreshed> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            match self.take_turn(scope, seen).await? {
                Turn::Ended(refreshed) => return Ok(refreshed),
                Turn::Theirs => tokio::time::sleep(LOOK_AGAIN).await,
                Turn::Ours(lease, credentials) => return self.fly(scope, lease, *credentials).await,
            }
        }
        Ok(Refreshed::TooLate)
    }

    async fn take_turn(&self, scope: &OrgScope, seen: &Connection) -> Result<Turn> {
        let lease = Uuid::now_v7();
        let mut tx = self.db.begin(scope).await?;
        let claimed = sqlx::query!(
            "UPDATE oauth_connections
             SET lease = $4, lease_expires_at = now() + make_interval(secs => $5)
             WHERE id = $1 AND generation = $2 AND attempts = $3
               AND (lease IS NULL OR lease_expires_at < now())",
            seen.id,
            seen.generation,
            seen.attempts,
            lease,
            LEASE_SECONDS,
        )
        .execute(tx.conn())
        .await?
        .rows_affected();
        let now = get_by_id(&mut tx, seen.id).await?;
        let turn = if claimed > 0 {
            Turn::Ours(lease, Box::new(now.credentials(tx.conn(), &self.vault).await?))
        } else if now.generation != seen.generation {
            Turn::Ended(Refreshed::Fresh)
        } else if now.attempts != seen.attempts {
            let reason = now.status_message.unwrap_or_else(|| "the provider refused".into());
            Turn::Ended(Refreshed::Refused(reason))
        } else {
            Turn::Theirs
        };
        tx.commit().await?;
        Ok(turn)
    }

    /// Asks the provider while holding the lease, and stores what it says.
    async fn fly(&self, scope: &OrgScope, lease: Uuid, credentials: Credentials) -> Result<Refreshed> {
        let id = credentials.connection.id;
        let asking = exchange::refresh(&self.outbound, &credentials);
        let mut asking = std::pin::pin!(asking);
        let mut renewal = tokio::time::interval_at(tokio::time::Instant::now() + RENEW_EVERY, RENEW_EVERY);
        let answer = loop {
            tokio::select! {
                answer = &mut asking => break answer,
                _ = renewal.tick() => self.renew(scope, id, lease).await,
            }
        };
        // A token that PostgreSQL did not take is lost, so it is worth some patience.
        let mut tries = 0;
        loop {
            match self.land(scope, lease, id, &answer).await {
                Err(error) if error.is_unavailable() && tries < 20 => {
                    tracing::warn!(%error, connection.id = %id, "cannot store what a provider answered yet");
                    tries += 1;
                    tokio::time::sleep(RENEW_EVERY / 10).await;
                }
                settled => return settled,
            }
        }
    }

    async fn renew(&self, scope: &OrgScope, id: Uuid, lease: Uuid) {
        let renewing = async {
            let mut tx = self.db.begin(scope).await?;
            sqlx::query!(
                "UPDATE oauth_connections
                 SET lease_expires_at = now() + make_interval(secs => $3)
                 WHERE id = $1 AND lease = $2",
                id,
                lease,
                LEASE_SECONDS,
            )
            .execute(tx.conn())
            .await?;
            tx.commit().await
        };
        if let Err(error) = renewing.await {
            tracing::warn!(%error, connection.id = %id, "cannot renew the lease of a refresh");
        }
    }

    async fn land(
        &self,
        scope: &OrgScope,
        lease: Uuid,
        id: Uuid,
        answer: &Result<super::Tokens, Refusal>,
    ) -> Result<Refreshed> {
        let mut tx = self.db.begin(scope).await?;
        // The fence: what came too late must not replace what came since.
        let held = sqlx::query!(
            "SELECT id FROM oauth_connections WHERE id = $1 AND lease = $2 FOR UPDATE",
            id,
            lease
        )
        .fetch_optional(tx.conn())
        .await?;
        if held.is_none() {
            return Ok(Refreshed::Refused("the connection was changed meanwhile".into()));
        }
        let connection = get_by_id(&mut tx, id).await?;
        let settled = match answer {
            Ok(tokens) => {
                store(&mut tx, &self.vault, &connection, tokens, Source::Refreshed).await?;
                Refreshed::Fresh
            }
            Err(refusal) => {
                sqlx::query!(
                    "UPDATE oauth_connections
                     SET status = 'failed', status_message = $2, attempts = attempts + 1,
                         refusals = refusals + CASE WHEN $3 THEN 1 ELSE 0 END, lease = NULL,
                         lease_expires_at = NULL, updated_at = now()
                     WHERE id = $1",
                    id,
                    refusal.message,
                    refusal.is_final,
                )
                .execute(tx.conn())
                .await?;
                Refreshed::Refused(refusal.message.clone())
            }
        };
        let (action, message) = match &settled {
            Refreshed::Refused(message) => (Action::ConnectionFailed, Some(message)),
            _ => (Action::ConnectionRefreshed, None),
        };
        audit::record(&mut tx, action, resource(&connection.name), &json!({ "message": message })).await?;
        tx.commit().await?;
        Ok(settled)
    }
}
