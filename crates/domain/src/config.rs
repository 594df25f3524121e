//! Configuration values: typed text, the organization's over the global ones; secrets sealed.

use secrecy::ExposeSecret;
use serde_json::Value;
use uuid::Uuid;

use crate::audit::{self, Action};
use crate::id::OrgId;
use crate::vault::{Place, Vault};
use crate::{Error, OrgTx, Result, data_keys};

/// A value as a run reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// The value in its type, decrypted.
    pub value: Value,
    /// Whether it must be masked wherever it shows up.
    pub is_secret: bool,
}

/// The value of `key`: the organization's, else the global one.
///
/// # Errors
/// [`Error::Internal`] for a value that does not decrypt.
pub async fn find(tx: &mut OrgTx, vault: &Vault, key: &str) -> Result<Option<Effective>> {
    let org = tx.scope().org();
    let row = sqlx::query!(
        r#"SELECT organization_id AS "organization_id: OrgId", value_type, value, sealed
           FROM config
           WHERE key = $1 AND (organization_id = $2 OR organization_id IS NULL)
           ORDER BY organization_id NULLS LAST
           LIMIT 1"#,
        key,
        org as _,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let Some(sealed) = row.sealed else {
        let value = typed(&row.value_type, &row.value.unwrap_or_default());
        return Ok(Some(Effective { value, is_secret: false }));
    };
    let data_key = data_keys::find(tx, vault, row.organization_id)
        .await?
        .ok_or_else(|| Error::internal("a sealed value without a data key"))?;
    let plain =
        data_key.open(Place { table: "config", organization: row.organization_id, name: key }, &sealed)?;
    audit::record(tx, Action::SecretRead, format!("config/{key}"), &()).await?;
    Ok(Some(Effective { value: Value::String(plain.expose_secret().into()), is_secret: true }))
}

/// All effective values, by key.
///
/// # Errors
/// As [`find`].
pub async fn list(tx: &mut OrgTx, vault: &Vault) -> Result<Vec<(String, Effective)>> {
    let org = tx.scope().org();
    let keys = sqlx::query_scalar!(
        "SELECT DISTINCT key FROM config WHERE organization_id = $1 OR organization_id IS NULL ORDER BY key",
        org as _,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut values = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(value) = find(tx, vault, &key).await? {
            values.push((key, value));
        }
    }
    Ok(values)
}

/// Sets `key` in the scope's own rows; the type follows the JSON type.
///
/// # Errors
/// [`Error::Invalid`] for a bad key.
pub async fn set(tx: &mut OrgTx, vault: &Vault, key: &str, value: &Value, is_secret: bool) -> Result<()> {
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Error::invalid("/key", "may hold letters, digits and underscores"));
    }
    let owner = tx.scope().owner()?;
    let (value_type, text) = match value {
        Value::String(text) => ("string", text.clone()),
        Value::Bool(flag) => ("bool", flag.to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => ("int", number.to_string()),
        other => ("json", other.to_string()),
    };
    let (value_type, plain, sealed) = if is_secret {
        let data_key = data_keys::get_or_create(tx, vault, owner).await?;
        let sealed = data_key.seal(Place { table: "config", organization: owner, name: key }, &text)?;
        ("secret", None, Some(sealed))
    } else {
        (value_type, Some(text), None)
    };
    let updated_by = tx.scope().actor().email.clone();
    sqlx::query!(
        "INSERT INTO config (id, organization_id, key, value_type, value, sealed, updated_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (organization_id, key) DO UPDATE
         SET value_type = EXCLUDED.value_type, value = EXCLUDED.value, sealed = EXCLUDED.sealed,
             updated_by = EXCLUDED.updated_by, updated_at = now()",
        Uuid::now_v7(),
        owner as _,
        key,
        value_type,
        plain,
        sealed,
        updated_by,
    )
    .execute(tx.conn())
    .await?;
    audit::record(tx, Action::ConfigSet, format!("config/{key}"), &serde_json::json!({ "type": value_type }))
        .await
}

/// Deletes `key` from the scope's own rows; whether it was there.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn delete(tx: &mut OrgTx, key: &str) -> Result<bool> {
    let owner = tx.scope().owner()?;
    let deleted = sqlx::query!(
        "DELETE FROM config WHERE key = $1 AND organization_id IS NOT DISTINCT FROM $2",
        key,
        owner as _,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if deleted > 0 {
        audit::record(tx, Action::ConfigDeleted, format!("config/{key}"), &()).await?;
    }
    Ok(deleted > 0)
}

fn typed(value_type: &str, text: &str) -> Value {
    match value_type {
        "int" => text.parse::<i64>().map_or_else(|_| Value::String(text.into()), Value::from),
        "bool" => Value::Bool(matches!(text.to_lowercase().as_str(), "true" | "1" | "yes")),
        "json" => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into())),
        _ => Value::String(text.into()),
    }
}
