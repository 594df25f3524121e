//! The right to work on the repository: one operation at a time, over all replicas.
//!
//! It is a lease in the row of the repository, kept by a task as long as the [`Turn`] lives, and claimed on the clock of the
//! database. Nothing stays open in PostgreSQL meanwhile, neither for whoever has the turn nor for those who wait.
//!
//! The invariant: an operation that has lost its lease changes neither files nor rows. What it writes down it writes in a transaction
//! that [holds](Turn::hold) the row, and nobody can claim a row that is held. Its programs are stopped; what one of them had sent to
//! the server of the repository by then is there, as a push that overlaps with somebody else's may be at any time.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::{Failed, Outcome};
use crate::executions::claim::LEASE;
use crate::{Db, OrgScope, OrgTx, Platform, Result};

/// How long an operation waits for the one before it.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Between two extensions of a lease.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Before another try while PostgreSQL is away.
const PAUSE_WITHOUT_DATABASE: Duration = Duration::from_millis(300);

/// The right to work on the repository; others wait until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    lease: Uuid,
    lost: CancellationToken,
    _done: DropGuard,
}

impl Turn {
    /// Waits for the operation before this one, for a while. The scope reaches the platform's own rows.
    pub(super) async fn take(platform: &Platform, scope: &OrgScope) -> Outcome<Self> {
        let (lease, began) = (Uuid::now_v7(), Instant::now());
        loop {
            let asked = Instant::now();
            if claim(&platform.db, scope, lease).await? {
                return Ok(Self::keep(platform.db.clone(), scope.clone(), lease, asked));
            }
            if began.elapsed() > PATIENCE {
                return Err(Failed::said(
                    "another operation on the repository is under way; try again when it has ended",
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn keep(db: Db, scope: OrgScope, lease: Uuid, asked: Instant) -> Self {
        let (lost, done) = (CancellationToken::new(), CancellationToken::new());
        let turn = Self { lease, lost: lost.clone(), _done: done.clone().drop_guard() };
        tokio::spawn(async move {
            // Before others can claim it, and before PostgreSQL says so: whatever still runs is not alone any more.
            if done.run_until_cancelled(extend_until_lost(&db, &scope, lease, asked)).await.is_some() {
                tracing::warn!("lost the turn of an operation on the repository");
                lost.cancel();
            }
            if let Err(error) = release(&db, &scope, lease).await {
                tracing::warn!(%error, "cannot end the turn of an operation on the repository, it will run out");
            }
        });
        turn
    }

    /// Keeps the turn from being lost for the rest of the transaction.
    ///
    /// # Errors
    /// [`Failed::Said`] when it has been lost already: roll back.
    pub(super) async fn hold(&self, tx: &mut OrgTx) -> Outcome<()> {
        let held =
            sqlx::query_scalar!("SELECT id FROM git_repository WHERE lease = $1 FOR UPDATE", self.lease)
                .fetch_optional(tx.conn())
                .await?;
        held.map(|_| ()).ok_or_else(lost)
    }

    /// Cancelled when the turn is lost.
    pub(super) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

/// What an operation is told that has lost its turn.
pub(super) fn lost() -> Failed {
    Failed::said(
        "the operation was stopped, since another one may have begun: the database had not heard of it for too long; try again",
    )
}

async fn claim(db: &Db, scope: &OrgScope, lease: Uuid) -> Result<bool> {
    // Whoever waited for a locked row would keep a connection from others.
    let claim = sqlx::query!(
        "UPDATE git_repository
         SET lease = $1, lease_expires_at = now() + make_interval(secs => $2)
         WHERE id = (SELECT id FROM git_repository
                     WHERE lease IS NULL OR lease_expires_at < now()
                     FOR UPDATE SKIP LOCKED)",
        lease,
        LEASE.as_secs_f64(),
    );
    has_written(db, scope, claim).await
}

/// Extends the lease until another operation has it, or PostgreSQL was away for as long as it lasts. `asked`: before it was claimed.
async fn extend_until_lost(db: &Db, scope: &OrgScope, lease: Uuid, asked: Instant) {
    let (mut ends, mut pause) = (asked + LEASE, HEARTBEAT);
    loop {
        tokio::time::sleep_until(ends.min(Instant::now() + pause)).await;
        let asked = Instant::now();
        match tokio::time::timeout_at(ends, extend(db, scope, lease)).await {
            Ok(Ok(true)) => (ends, pause) = (asked + LEASE, HEARTBEAT),
            Ok(Ok(false)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot extend the turn of an operation on the repository, trying again");
                pause = PAUSE_WITHOUT_DATABASE;
            }
        }
    }
}

async fn extend(db: &Db, scope: &OrgScope, lease: Uuid) -> Result<bool> {
    let extend = sqlx::query!(
        "UPDATE git_repository SET lease_expires_at = now() + make_interval(secs => $2) WHERE lease = $1",
        lease,
        LEASE.as_secs_f64(),
    );
    has_written(db, scope, extend).await
}

async fn release(db: &Db, scope: &OrgScope, lease: Uuid) -> Result<bool> {
    let release = sqlx::query!(
        "UPDATE git_repository SET lease = NULL, lease_expires_at = NULL WHERE lease = $1",
        lease
    );
    has_written(db, scope, release).await
}

/// Whether the statement has changed the row.
async fn has_written(db: &Db, scope: &OrgScope, statement: Query<'_, Postgres, PgArguments>) -> Result<bool> {
    let mut tx = db.begin(scope).await?;
    let rows = statement.execute(tx.conn()).await?.rows_affected();
    tx.commit().await?;
    Ok(rows > 0)
}
