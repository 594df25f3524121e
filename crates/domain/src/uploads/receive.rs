//! Taking the bytes of an announced file.
//!
//! Whoever takes them claims the row, and says every few seconds that they are at it. Who is not heard of for half a minute
//! is gone, and somebody else may claim it. The invariant: an object is made, and the row ended, by the holder of the claim.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{Stream, StreamExt};
use object_store::buffered::BufWriter;
use tokio::io::AsyncWriteExt;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::{LIFETIME, Upload, Uploads, away, key, refused};
use crate::audit::{self, Action};
use crate::id::{FormId, OrgId, UserId};
use crate::{Actor, Db, OrgScope, Result, SystemScope, in_time};

/// Longest pause between two pieces of a body.
const PATIENCE: Duration = Duration::from_secs(30);
/// Whoever holds a claim and is not heard of for so long is gone.
const ABANDONED_SECONDS: f64 = 30.0;
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How long a store that may be away is asked to throw parts away.
const ABORT_PATIENCE: Duration = Duration::from_secs(5);
/// For how long the holder of a claim goes on making an object without being heard; well before anybody else may claim.
const SILENCE: Duration = Duration::from_secs(20);

const SYSTEM: SystemScope = SystemScope::because("a signed URL names one file, and stands for no user");

/// What became of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// It is stored.
    Stored(u64),
    /// It is longer than announced.
    TooLarge,
    /// It ended early, or came too slowly.
    Interrupted,
}

/// The right to take the bytes of a file: the row holds when its holder was last heard.
struct Claim {
    upload: Uuid,
    /// When it was claimed, by the clock of the database and by ours.
    since: (DateTime<Utc>, Instant),
    /// What the row holds while the claim lasts. Of a renewal that got no answer nobody knows whether it was written, so that
    /// it may be one of several.
    marks: Vec<DateTime<Utc>>,
    /// When PostgreSQL last heard of us, or before.
    heard: Instant,
}

/// Takes the bytes of an announced file. A body that is too long or breaks off leaves nothing, and its URL may be used
/// again until it ends: at once, or in half a minute when whoever took the bytes was killed or could not say how it ended.
///
/// # Errors
/// [`crate::Error::Forbidden`] when the URL has ended, was used or is in use; [`crate::Error::Unavailable`] when the store is away.
pub async fn receive<E>(
    db: &Db,
    uploads: &Uploads,
    id: Uuid,
    body: impl Stream<Item = Result<Bytes, E>> + Send + Unpin,
) -> Result<Received> {
    let asked = Instant::now();
    let mut conn = db.system(&SYSTEM).await?;
    let row = sqlx::query!(
        r#"UPDATE uploads
           SET receiving_since = now()
           WHERE id = $1 AND received_at IS NULL AND expires_at > now()
             AND (receiving_since IS NULL OR receiving_since < now() - make_interval(secs => $2))
           RETURNING id, organization_id AS "organization_id: OrgId", form_id AS "form_id: FormId", path, name, content_type,
               announced_bytes, received_bytes, expires_at, receiving_since AS "receiving_since!",
               created_by AS "created_by: UserId", created_by_name, created_by_email"#,
        id,
        ABANDONED_SECONDS,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or_else(refused)?;
    drop(conn);
    let mut claim = Claim {
        upload: id,
        since: (row.receiving_since, Instant::now()),
        marks: vec![row.receiving_since],
        heard: asked,
    };
    let actor = Actor {
        id: row.created_by,
        name: row.created_by_name,
        email: row.created_by_email,
        is_platform_admin: false,
    };
    let scope = OrgScope::for_run(row.organization_id, actor);
    let upload = Upload {
        id: row.id,
        organization_id: row.organization_id,
        form_id: row.form_id,
        path: row.path,
        name: row.name,
        content_type: row.content_type,
        announced_bytes: row.announced_bytes,
        received_bytes: row.received_bytes,
        expires_at: row.expires_at,
    };
    let received = store(db, uploads, &mut claim, &upload, body).await;
    end(db, &scope, &claim, &received).await?;
    received
}

/// Ends the claim with what became of the body.
async fn end(db: &Db, scope: &OrgScope, claim: &Claim, received: &Result<Received>) -> Result<()> {
    let bytes = match received {
        Ok(Received::Stored(bytes)) => Some(i64::try_from(*bytes).unwrap_or(i64::MAX)),
        _ => None,
    };
    let mut tx = db.begin(scope).await?;
    let ended = sqlx::query!(
        "UPDATE uploads
         SET receiving_since = NULL, received_bytes = $2, received_at = CASE WHEN $2::bigint IS NOT NULL THEN now() END
         WHERE id = $1 AND receiving_since = ANY($3)",
        claim.upload,
        bytes,
        &claim.marks,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if bytes.is_some() {
        if ended == 0 {
            return Err(refused());
        }
        let details = serde_json::json!({"bytes": bytes});
        audit::record(&mut tx, Action::UploadReceived, claim.upload, &details).await?;
    }
    tx.commit().await
}

async fn store<E>(
    db: &Db,
    uploads: &Uploads,
    claim: &mut Claim,
    upload: &Upload,
    body: impl Stream<Item = Result<Bytes, E>> + Send + Unpin,
) -> Result<Received> {
    let most = u64::try_from(upload.announced_bytes).unwrap_or_default();
    let mut writer = BufWriter::new(uploads.store()?, key(upload)).with_max_concurrency(2);
    // Parts that nobody puts together are harmless, so it matters only at their end whether PostgreSQL has heard of us.
    let came = match claim.hold(db, LIFETIME, fill(&mut writer, most, body)).await {
        Ok(Received::Stored(bytes)) => claim.renew(db).await.map(|()| Received::Stored(bytes)),
        other => other,
    };
    match came {
        Ok(Received::Stored(bytes)) => {
            let making = async { writer.shutdown().await.map_err(away) };
            claim.hold(db, SILENCE, making).await?;
            Ok(Received::Stored(bytes))
        }
        Err(error) if error.is_unavailable() => {
            // A store that is away itself cannot be told to throw the parts away.
            let _ = tokio::time::timeout(ABORT_PATIENCE, writer.abort()).await;
            Err(error)
        }
        given_up => {
            writer.abort().await.map_err(away)?;
            given_up
        }
    }
}

/// Hands a body to the store piece by piece. [`Received::Stored`] says that all of it came; the object is made afterwards.
async fn fill<E>(
    writer: &mut BufWriter,
    most: u64,
    mut body: impl Stream<Item = Result<Bytes, E>> + Send + Unpin,
) -> Result<Received> {
    let mut bytes = 0;
    // A body takes no longer than its URL is good for, or its row could be gone before it.
    let began = Instant::now();
    loop {
        let patience = PATIENCE.min(LIFETIME.saturating_sub(began.elapsed()));
        match tokio::time::timeout(patience, body.next()).await {
            Ok(Some(Ok(piece))) => {
                bytes += piece.len() as u64;
                if bytes > most {
                    return Ok(Received::TooLarge);
                }
                writer.put(piece).await.map_err(away)?;
            }
            Ok(None) => return Ok(Received::Stored(bytes)),
            Ok(Some(Err(_))) | Err(_) => return Ok(Received::Interrupted),
        }
    }
}

impl Claim {
    /// Does the work, and says meanwhile that somebody is at it. The work ends early when somebody else is, and when
    /// PostgreSQL has not heard of it for as long as `silence`.
    async fn hold<T>(
        &mut self,
        db: &Db,
        silence: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut work = std::pin::pin!(work);
        let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + RENEW_EVERY, RENEW_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = clock.tick() => match self.renew(db).await {
                    Err(error) if error.is_unavailable() && self.heard.elapsed() < silence => {
                        tracing::warn!(%error, upload.id = %self.upload, "cannot renew the claim of an upload");
                    }
                    renewed => renewed?,
                },
            }
        }
    }

    /// Says that somebody is at it.
    ///
    /// # Errors
    /// [`crate::Error::Forbidden`] when somebody else has claimed it; [`crate::Error::Unavailable`] when PostgreSQL is away.
    async fn renew(&mut self, db: &Db) -> Result<()> {
        let asked = Instant::now();
        let (claimed_at, began) = self.since;
        let mark = claimed_at + TimeDelta::from_std(began.elapsed()).unwrap_or_default();
        self.marks.push(mark);
        let renewing = async {
            let mut conn = db.system(&SYSTEM).await?;
            let renewed = sqlx::query!(
                "UPDATE uploads SET receiving_since = $3 WHERE id = $1 AND receiving_since = ANY($2)",
                self.upload,
                &self.marks,
                mark,
            )
            .execute(&mut *conn)
            .await?
            .rows_affected();
            Ok(renewed)
        };
        if in_time(RENEW_EVERY, renewing).await? == 0 {
            return Err(refused());
        }
        self.marks = vec![mark];
        self.heard = asked;
        Ok(())
    }
}
