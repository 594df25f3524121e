//! Parameters that hold secrets: what is shown of them is masked, and what the run gets is sealed in its row.
//!
//! The invariant: they open for the execution that they were sealed for and for no other, since its id is part of the associated
//! data. What is inside is for those who run things.

use secrecy::{ExposeSecret, SecretString};

use super::claim::Claimed;
use crate::id::ExecutionId;
use crate::vault::{Place, Vault};
use crate::{Db, Error, OrgTx, Result, data_keys};

const TABLE: &str = "executions";

/// Seals what an execution gets that is submitted in the scope of `tx`, under this id.
///
/// # Errors
/// [`Error::Forbidden`] without an organization context, [`Error::Unavailable`] when PostgreSQL is away.
pub async fn seal(tx: &mut OrgTx, vault: &Vault, id: ExecutionId, plain: &SecretString) -> Result<Vec<u8>> {
    let owner = tx.scope().owner()?;
    let data_key = data_keys::get_or_create(tx.conn(), vault, owner).await?;
    let place = Place { table: TABLE, organization: owner, name: &id.to_string() };
    data_key.seal(place, plain.expose_secret())
}

/// Opens what was sealed for a claimed execution; `None` when nothing was.
///
/// # Errors
/// [`Error::Internal`] when it does not open, [`Error::Unavailable`] when PostgreSQL is away.
pub async fn open(db: &Db, vault: &Vault, claimed: &Claimed) -> Result<Option<SecretString>> {
    let Some(sealed) = &claimed.sealed_parameters else { return Ok(None) };
    let owner = claimed.organization_id;
    let mut tx = db.begin(&claimed.scope()).await?;
    let data_key = data_keys::find(tx.conn(), vault, owner).await?;
    tx.commit().await?;
    let data_key = data_key.ok_or_else(|| Error::internal("a sealed value without a data key"))?;
    let place = Place { table: TABLE, organization: owner, name: &claimed.id.to_string() };
    data_key.open(place, sealed).map(Some)
}
