//! Proving that the audit log is what was written: every hash is computed anew, in batches.
//!
//! What it finds: a changed row, a row removed or added in the middle, rows in another order, a removed end. What
//! it cannot find by itself: a chain that was rewritten as a whole together with its head; for that, keep the head
//! that [`verify`] prints somewhere else (ADR 27).

use uuid::Uuid;

use crate::id::OrgId;
use crate::{Db, Result, SystemScope};

const SCOPE: SystemScope = SystemScope::because("the chains of all organizations are verified");
/// Rows whose hashes are computed by one statement.
const BATCH: i64 = 10_000;

/// One chain, verified.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Organization; `None` for the rows that belong to none.
    pub organization_id: Option<OrgId>,
    /// Rows that are as they were written, from the first on.
    pub verified: i64,
    /// Hash of the last of them, in hexadecimal: what to keep elsewhere.
    pub head: String,
    /// What is wrong, if anything is.
    pub fault: Option<Fault>,
}

/// The first thing that is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Place in the chain where it shows.
    pub sequence: i64,
    /// The row there, if there is one.
    pub id: Option<Uuid>,
    /// What is wrong, for a person.
    pub what: &'static str,
}

/// Verifies the chain of one organization, or every chain. `progress` hears the number of rows verified so far.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn verify(db: &Db, only: Option<OrgId>, mut progress: impl FnMut(i64)) -> Result<Vec<Chain>> {
    let chains = {
        let mut conn = db.system(&SCOPE).await?;
        // A chain whose head was removed still has its rows.
        sqlx::query!(
            r#"SELECT c.chain AS "chain!", h.sequence AS "sequence?", h.hash AS "hash?"
               FROM (SELECT chain FROM audit_heads UNION SELECT DISTINCT audit_chain(organization_id) FROM audit_log) AS c
               LEFT JOIN audit_heads h ON h.chain = c.chain
               WHERE $1::uuid IS NULL OR c.chain = $1
               ORDER BY c.chain"#,
            only as _,
        )
        .fetch_all(&mut *conn)
        .await?
    };
    let mut verified = Vec::with_capacity(chains.len());
    let mut total = 0;
    for row in chains {
        let head = row.sequence.zip(row.hash);
        let chain = verify_chain(db, row.chain, head, |rows| progress(total + rows)).await?;
        total += chain.verified;
        verified.push(chain);
    }
    Ok(verified)
}

async fn verify_chain(
    db: &Db,
    chain: Uuid,
    head: Option<(i64, Vec<u8>)>,
    mut progress: impl FnMut(i64),
) -> Result<Chain> {
    let (mut sequence, mut hash) = (0, Vec::new());
    let mut fault = None;
    'batches: loop {
        let mut conn = db.system(&SCOPE).await?;
        // Each row is checked against the hash that the row before it holds.
        let rows = sqlx::query!(
            r#"SELECT id, sequence, hash, hash = audit_hash(lag(hash, 1, $3) OVER (ORDER BY sequence), sequence, id,
                   organization_id, actor_id, actor, action, resource, request_id, details::text, created_at) AS "fits!"
               FROM audit_log
               WHERE (CASE WHEN organization_id IS NULL
                     THEN '00000000-0000-0000-0000-000000000000'::uuid ELSE organization_id END) = $1 AND sequence > $2
               ORDER BY sequence
               LIMIT $4"#,
            chain,
            sequence,
            hash,
            BATCH,
        )
        .fetch_all(&mut *conn)
        .await?;
        drop(conn);
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let expected = sequence + 1;
            let what = match (row.sequence == expected, row.fits) {
                (true, true) => None,
                (false, _) => Some("a row is missing"),
                (true, false) => Some("the row is not as it was written, or another one was in front of it"),
            };
            if let Some(what) = what {
                let id = (row.sequence == expected).then_some(row.id);
                fault = Some(Fault { sequence: expected, id, what });
                break 'batches;
            }
            (sequence, hash) = (row.sequence, row.hash);
        }
        progress(sequence);
    }
    if fault.is_none() {
        // Rows may have been added since the head was read; an end that is before it was removed.
        let at_fault = |what| Some(Fault { sequence: sequence + 1, id: None, what });
        fault = match head {
            None => at_fault("the head of the chain is missing"),
            Some((last, _)) if last > sequence => at_fault("the end of the chain is missing"),
            Some((last, head)) if last == sequence && head != hash => {
                at_fault("the head does not fit the last row")
            }
            Some(_) => None,
        };
    }
    let organization_id = (!chain.is_nil()).then_some(OrgId(chain));
    let head = hex::encode(hash);
    Ok(Chain { organization_id, verified: sequence, head, fault })
}
