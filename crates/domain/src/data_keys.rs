//! The wrapped data keys: found, or made at the first write of an organization.

use uuid::Uuid;

use crate::id::OrgId;
use crate::vault::{DataKey, Vault};
use crate::{OrgTx, Result};

/// The data key of the rows of `organization` (`None`: global), if anything was ever sealed there.
pub(crate) async fn find(
    tx: &mut OrgTx,
    vault: &Vault,
    organization: Option<OrgId>,
) -> Result<Option<DataKey>> {
    let row = sqlx::query!(
        "SELECT master_key_id, wrapped FROM data_keys WHERE organization_id IS NOT DISTINCT FROM $1",
        organization as _,
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(|row| vault.unwrap_data_key(organization, &row.master_key_id, &row.wrapped)).transpose()
}

/// The data key of the rows of `organization`, made if there is none; racing writers end with the same one.
pub(crate) async fn get_or_create(
    tx: &mut OrgTx,
    vault: &Vault,
    organization: Option<OrgId>,
) -> Result<DataKey> {
    if let Some(key) = find(tx, vault, organization).await? {
        return Ok(key);
    }
    let (_, master_id, wrapped) = vault.new_data_key(organization)?;
    sqlx::query!(
        "INSERT INTO data_keys (id, organization_id, master_key_id, wrapped)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (organization_id) DO NOTHING",
        Uuid::now_v7(),
        organization as _,
        master_id,
        wrapped,
    )
    .execute(tx.conn())
    .await?;
    find(tx, vault, organization)
        .await?
        .ok_or_else(|| crate::Error::internal("a data key vanished while it was made"))
}
