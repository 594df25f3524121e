//! The wrapped data keys: found, made at the first write of an organization, and wrapped anew when the master key
//! changes (ADR 28).

use sqlx::PgConnection;
use uuid::Uuid;

use crate::id::OrgId;
use crate::vault::{DataKey, Vault};
use crate::{Db, Error, OrgTx, Result, SystemScope};

/// Keys that one transaction of the rotation wraps anew, and one look reads.
const BATCH: i64 = 100;

/// Data keys unwrapped by one operation, so that many values of an organization need one.
#[derive(Debug, Default)]
pub(crate) struct Opened(Vec<(Option<OrgId>, DataKey)>);

impl Opened {
    /// The key of these rows, which something was sealed with.
    pub(crate) async fn get(
        &mut self,
        tx: &mut OrgTx,
        vault: &Vault,
        organization: Option<OrgId>,
    ) -> Result<&DataKey> {
        let at = match self.0.iter().position(|(owner, _)| *owner == organization) {
            Some(at) => at,
            None => {
                let key = find(tx.conn(), vault, organization).await?;
                let key = key.ok_or_else(|| Error::internal("a sealed value without a data key"))?;
                self.0.push((organization, key));
                self.0.len() - 1
            }
        };
        Ok(&self.0[at].1)
    }
}

/// Wraps every data key with the current master key that is wrapped with another; how many there were. Values stay
/// as they are, readers and writers go on, and a run that was interrupted is simply run again. `progress` hears how
/// many are done.
///
/// # Errors
/// [`Error::Internal`] for a key whose master key is not configured; those before it are done.
pub async fn rotate(db: &Db, vault: &Vault, mut progress: impl FnMut(u64)) -> Result<u64> {
    const SCOPE: SystemScope = SystemScope::because("the data keys of every organization are wrapped anew");
    let mut done = 0;
    loop {
        let mut tx = db.begin_system(&SCOPE).await?;
        let stale = sqlx::query!(
            r#"SELECT id, organization_id AS "organization_id: OrgId", master_key_id, wrapped
               FROM data_keys
               WHERE master_key_id <> $1
               ORDER BY id
               LIMIT $2
               FOR UPDATE"#,
            vault.current_master(),
            BATCH,
        )
        .fetch_all(tx.conn())
        .await?;
        if stale.is_empty() {
            return Ok(done);
        }
        let (mut ids, mut wrapped) = (Vec::with_capacity(stale.len()), Vec::with_capacity(stale.len()));
        for row in &stale {
            let key = vault.unwrap_data_key(row.id, row.organization_id, &row.master_key_id, &row.wrapped)?;
            ids.push(row.id);
            wrapped.push(vault.wrap_data_key(row.organization_id, &key)?);
        }
        sqlx::query!(
            "UPDATE data_keys d
             SET master_key_id = $3, wrapped = n.wrapped
             FROM UNNEST($1::uuid[], $2::bytea[]) AS n (id, wrapped)
             WHERE d.id = n.id",
            &ids,
            &wrapped,
            vault.current_master(),
        )
        .execute(tx.conn())
        .await?;
        tx.commit().await?;
        done += ids.len() as u64;
        progress(done);
    }
}

/// How many data keys no master key of the vault opens; one is an organization's, or the global one. What is sealed with
/// those cannot be read.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn count_unopened(db: &Db, vault: &Vault) -> Result<usize> {
    const SCOPE: SystemScope =
        SystemScope::because("the master key is tried on the data keys of every organization");
    let (mut unopened, mut after) = (0, Uuid::nil());
    loop {
        let mut conn = db.system(&SCOPE).await?;
        let keys = sqlx::query!(
            r#"SELECT id, organization_id AS "organization_id: OrgId", master_key_id, wrapped
               FROM data_keys
               WHERE id > $1
               ORDER BY id
               LIMIT $2"#,
            after,
            BATCH,
        )
        .fetch_all(&mut *conn)
        .await?;
        let Some(last) = keys.last() else { return Ok(unopened) };
        after = last.id;
        unopened += keys
            .iter()
            .filter(|key| {
                vault.unwrap_data_key(key.id, key.organization_id, &key.master_key_id, &key.wrapped).is_err()
            })
            .count();
    }
}

/// What those who look after the platform must know when so many data keys do not open.
pub fn explain_unopened(count: usize) -> String {
    format!(
        "SECRETS_MASTER_KEY does not open the secrets of {count} organizations (global ones count as one): runs that need them fail"
    )
}

/// The data key of the rows of `organization` (`None`: global), if anything was ever sealed there.
pub(crate) async fn find(
    conn: &mut PgConnection,
    vault: &Vault,
    organization: Option<OrgId>,
) -> Result<Option<DataKey>> {
    let row = sqlx::query!(
        "SELECT id, master_key_id, wrapped FROM data_keys WHERE organization_id IS NOT DISTINCT FROM $1",
        organization as _,
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| vault.unwrap_data_key(row.id, organization, &row.master_key_id, &row.wrapped)).transpose()
}

/// The data key of the rows of `organization`, made if there is none; racing writers end with the same one.
pub(crate) async fn get_or_create(
    conn: &mut PgConnection,
    vault: &Vault,
    organization: Option<OrgId>,
) -> Result<DataKey> {
    if let Some(key) = find(&mut *conn, vault, organization).await? {
        return Ok(key);
    }
    let (key, master_id, wrapped) = vault.new_data_key(organization)?;
    sqlx::query!(
        "INSERT INTO data_keys (id, organization_id, master_key_id, wrapped)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (organization_id) DO NOTHING",
        key.id(),
        organization as _,
        master_id,
        wrapped,
    )
    .execute(&mut *conn)
    .await?;
    find(conn, vault, organization)
        .await?
        .ok_or_else(|| Error::internal("a data key vanished while it was made"))
}
