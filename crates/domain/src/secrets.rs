//! Secrets: write-only for clients, readable only inside a run; the organization's over the global ones.

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use uuid::Uuid;

use crate::audit::{self, Action};
use crate::id::OrgId;
use crate::vault::{Place, Vault};
use crate::{Error, OrgTx, Result, config, data_keys};

/// Longest value, in bytes.
const MAX_VALUE: usize = 64 * 1024;

/// The value of a secret, else of a configuration value of type secret. Audited.
///
/// # Errors
/// [`Error::Internal`] for a value that does not decrypt.
pub async fn find(tx: &mut OrgTx, vault: &Vault, key: &str) -> Result<Option<SecretString>> {
    let org = tx.scope().org();
    let row = sqlx::query!(
        r#"SELECT organization_id AS "organization_id: OrgId", sealed
           FROM secrets
           WHERE key = $1 AND (organization_id = $2 OR organization_id IS NULL)
           ORDER BY organization_id NULLS LAST
           LIMIT 1"#,
        key,
        org as _,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else {
        let from_config = config::find(tx, vault, key).await?.filter(|found| found.is_secret);
        return Ok(from_config.and_then(|found| match found.value {
            Value::String(text) => Some(text.into()),
            _ => None,
        }));
    };
    let data_key = data_keys::find(tx.conn(), vault, row.organization_id)
        .await?
        .ok_or_else(|| Error::internal("a sealed value without a data key"))?;
    let plain = data_key
        .open(Place { table: "secrets", organization: row.organization_id, name: key }, &row.sealed)?;
    audit::record(tx, Action::SecretRead, format!("secret/{key}"), &()).await?;
    Ok(Some(plain))
}

/// The names of the scope's and the global secrets.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx) -> Result<Vec<String>> {
    let org = tx.scope().org();
    Ok(sqlx::query_scalar!(
        "SELECT DISTINCT key FROM secrets WHERE organization_id = $1 OR organization_id IS NULL ORDER BY key",
        org as _,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Sets a secret in the scope's own rows, whether it is there or not.
///
/// # Errors
/// [`Error::Invalid`] for a bad key or a value over 64 KiB.
pub async fn set(tx: &mut OrgTx, vault: &Vault, key: &str, value: &SecretString) -> Result<()> {
    write(tx, vault, key, value, None).await.map(drop)
}

/// Adds a secret to the scope's own rows; when it was made.
///
/// # Errors
/// As [`set`]; [`Error::Conflict`] when there is one of this key.
pub async fn insert(tx: &mut OrgTx, vault: &Vault, key: &str, value: &SecretString) -> Result<DateTime<Utc>> {
    let written = write(tx, vault, key, value, Some(false)).await?;
    written.ok_or_else(|| Error::Conflict(format!("there is a secret {key} already; PUT replaces its value")))
}

/// Replaces the value of a secret of the scope's own rows; when it was made.
///
/// # Errors
/// As [`set`]; [`Error::NotFound`] when there is none.
pub async fn replace(
    tx: &mut OrgTx,
    vault: &Vault,
    key: &str,
    value: &SecretString,
) -> Result<DateTime<Utc>> {
    write(tx, vault, key, value, Some(true)).await?.ok_or(Error::NotFound("secret"))
}

/// Writes a value; `there` says whether the secret must or must not be there before. `None` when it is otherwise.
async fn write(
    tx: &mut OrgTx,
    vault: &Vault,
    key: &str,
    value: &SecretString,
    there: Option<bool>,
) -> Result<Option<DateTime<Utc>>> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if key.is_empty() || key.len() > 100 || !key.chars().all(fits) {
        return Err(Error::invalid(
            "/secret_key",
            "may hold 1 to 100 letters, digits, underscores and dashes",
        ));
    }
    if value.expose_secret().len() > MAX_VALUE {
        return Err(Error::invalid("/value", "may have at most 64 KiB"));
    }
    let owner = tx.scope().owner()?;
    let data_key = data_keys::get_or_create(tx.conn(), vault, owner).await?;
    let place = Place { table: "secrets", organization: owner, name: key };
    let sealed = data_key.seal(place, value.expose_secret())?;
    let updated_by = tx.scope().actor().email.clone();
    let created_at = if there == Some(true) {
        sqlx::query_scalar!(
            "UPDATE secrets
             SET sealed = $3, updated_by = $4, updated_at = now()
             WHERE organization_id IS NOT DISTINCT FROM $1 AND key = $2
             RETURNING created_at",
            owner as _,
            key,
            sealed,
            updated_by,
        )
        .fetch_optional(tx.conn())
        .await?
    } else {
        sqlx::query_scalar!(
            "INSERT INTO secrets (id, organization_id, key, sealed, updated_by)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (organization_id, key) DO UPDATE
             SET sealed = EXCLUDED.sealed, updated_by = EXCLUDED.updated_by, updated_at = now()
             WHERE $6
             RETURNING created_at",
            Uuid::now_v7(),
            owner as _,
            key,
            sealed,
            updated_by,
            there.is_none(),
        )
        .fetch_optional(tx.conn())
        .await?
    };
    if created_at.is_some() {
        let action = if there == Some(false) { Action::SecretCreated } else { Action::SecretSet };
        audit::record(tx, action, format!("secret/{key}"), &()).await?;
    }
    Ok(created_at)
}

/// Deletes a secret from the scope's own rows; whether it was there.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn delete(tx: &mut OrgTx, key: &str) -> Result<bool> {
    let owner = tx.scope().owner()?;
    let deleted = sqlx::query!(
        "DELETE FROM secrets WHERE key = $1 AND organization_id IS NOT DISTINCT FROM $2",
        key,
        owner as _,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if deleted > 0 {
        audit::record(tx, Action::SecretDeleted, format!("secret/{key}"), &()).await?;
    }
    Ok(deleted > 0)
}
