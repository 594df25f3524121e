//! Configuration values: typed text, the organization's over the global ones; secrets sealed.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::audit::{self, Action};
use crate::id::OrgId;
use crate::json::has_long_integer;
use crate::vault::{Place, Vault};
use crate::{Error, OrgTx, Result, data_keys};

/// Longest value, in bytes.
const MAX_VALUE: usize = 64 * 1024;
const MAX_KEY: usize = 255;
const LONG_INTEGER: &str =
    "has a whole number of more than 64 bits, which would come back rounded; set it as text";
/// What stands for a secret in lists; sent back it means that nothing changes.
pub const MASK: &str = "[SECRET]";

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[expect(missing_docs, reason = "each name says it")]
pub enum ValueType {
    String,
    Int,
    Bool,
    Json,
    Secret,
}

/// A row, as administrators see it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Organization; `None` for a global row.
    pub organization_id: Option<OrgId>,
    /// Key.
    pub key: String,
    /// What the value is.
    pub value_type: ValueType,
    /// The text as it was set; `None` for a secret.
    pub value: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// E-mail address of who set it.
    pub updated_by: String,
    /// Last change.
    pub updated_at: DateTime<Utc>,
}

/// A value to set, as text of its type.
#[derive(Debug, Clone, Copy)]
pub struct NewValue<'a> {
    /// Letters, digits and underscores.
    pub key: &'a str,
    /// What it is.
    pub value_type: ValueType,
    /// The text.
    pub text: &'a str,
    /// What it is for; `None` leaves what is there.
    pub description: Option<&'a str>,
    /// Whether an empty or masked value of a secret keeps the one that is stored, as forms send what they may not show. Elsewhere it is
    /// refused.
    pub may_keep: bool,
}

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
    let data_key = data_keys::find(tx.conn(), vault, row.organization_id)
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
    let rows = sqlx::query!(
        r#"SELECT DISTINCT ON (key) key, organization_id AS "organization_id: OrgId", value_type, value, sealed
           FROM config
           WHERE organization_id = $1 OR organization_id IS NULL
           ORDER BY key, organization_id NULLS LAST"#,
        org as _,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut data_keys = data_keys::Opened::default();
    let (mut values, mut read) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let value = match row.sealed {
            None => {
                let value = typed(&row.value_type, &row.value.unwrap_or_default());
                Effective { value, is_secret: false }
            }
            Some(sealed) => {
                let place = Place { table: "config", organization: row.organization_id, name: &row.key };
                let plain = data_keys.get(tx, vault, row.organization_id).await?.open(place, &sealed)?;
                read.push(format!("config/{}", row.key));
                Effective { value: Value::String(plain.expose_secret().into()), is_secret: true }
            }
        };
        values.push((row.key, value));
    }
    let owner = tx.scope().org();
    audit::record_all(tx, Action::SecretRead, read.into_iter().map(|resource| (owner, resource))).await?;
    Ok(values)
}

/// The rows of the scope and, for a platform administrator, the global ones, overridden ones included, by key. What is
/// global may concern other customers, so nobody else is shown it outside of a run.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn rows(tx: &mut OrgTx) -> Result<Vec<Stored>> {
    let org = tx.scope().org();
    let with_global = tx.scope().actor().is_platform_admin;
    Ok(sqlx::query_as!(
        Stored,
        r#"SELECT organization_id AS "organization_id: OrgId", key, value_type AS "value_type: ValueType", value, description,
               updated_by, updated_at
           FROM config
           WHERE organization_id = $1 OR (organization_id IS NULL AND $2)
           ORDER BY key, organization_id NULLS LAST"#,
        org as _,
        with_global,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// The rows that a run would see, by key, or the one of `key`: the scope's over the global ones. Nothing is decrypted.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn effective(tx: &mut OrgTx, key: Option<&str>) -> Result<Vec<Stored>> {
    let org = tx.scope().org();
    Ok(sqlx::query_as!(
        Stored,
        r#"SELECT DISTINCT ON (key) organization_id AS "organization_id: OrgId", key, value_type AS "value_type: ValueType",
               value, description, updated_by, updated_at
           FROM config
           WHERE (organization_id = $1 OR organization_id IS NULL) AND ($2::text IS NULL OR key = $2)
           ORDER BY key, organization_id NULLS LAST"#,
        org as _,
        key,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Sets a key in the scope's own rows.
///
/// # Errors
/// [`Error::Invalid`] for a bad key, or a value that is none of its type or too long.
pub async fn put(tx: &mut OrgTx, vault: &Vault, new: NewValue<'_>) -> Result<Stored> {
    new.check()?;
    let owner = tx.scope().owner()?;
    let kept = new.keeps();
    let (plain, sealed) = if new.value_type == ValueType::Secret && !kept {
        let data_key = data_keys::get_or_create(tx.conn(), vault, owner).await?;
        let place = Place { table: "config", organization: owner, name: new.key };
        (None, Some(data_key.seal(place, new.text)?))
    } else {
        (Some(new.text), None)
    };
    let updated_by = tx.scope().actor().email.clone();
    let stored = if kept {
        sqlx::query_as!(
            Stored,
            r#"UPDATE config
               SET description = COALESCE($3, description), updated_by = $4, updated_at = now()
               WHERE key = $1 AND organization_id IS NOT DISTINCT FROM $2 AND sealed IS NOT NULL
               RETURNING organization_id AS "organization_id: OrgId", key, value_type AS "value_type: ValueType", value,
                   description, updated_by, updated_at"#,
            new.key,
            owner as _,
            new.description,
            updated_by,
        )
        .fetch_optional(tx.conn())
        .await?
        .ok_or_else(|| Error::invalid("/value", "is required: no secret is stored yet"))?
    } else {
        sqlx::query_as!(
            Stored,
            r#"INSERT INTO config (id, organization_id, key, value_type, value, sealed, description, updated_by)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
               ON CONFLICT (organization_id, key) DO UPDATE
               SET value_type = EXCLUDED.value_type, value = EXCLUDED.value, sealed = EXCLUDED.sealed,
                   description = COALESCE(EXCLUDED.description, config.description),
                   updated_by = EXCLUDED.updated_by, updated_at = now()
               RETURNING organization_id AS "organization_id: OrgId", key, value_type AS "value_type: ValueType", value,
                   description, updated_by, updated_at"#,
            Uuid::now_v7(),
            owner as _,
            new.key,
            new.value_type as _,
            plain,
            sealed,
            new.description,
            updated_by,
        )
        .fetch_one(tx.conn())
        .await?
    };
    let details = serde_json::json!({ "type": new.value_type });
    audit::record(tx, Action::ConfigSet, format!("config/{}", new.key), &details).await?;
    Ok(stored)
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

impl Stored {
    /// The value in its type; `None` for a secret.
    pub fn typed(&self) -> Option<Value> {
        self.value.as_deref().map(|text| typed(self.value_type.as_str(), text))
    }
}

impl ValueType {
    /// The name in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Json => "json",
            Self::Secret => "secret",
        }
    }
}

impl NewValue<'_> {
    fn keeps(&self) -> bool {
        self.value_type == ValueType::Secret && matches!(self.text, "" | MASK)
    }

    fn check(&self) -> Result<()> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if self.key.is_empty() || self.key.len() > MAX_KEY || !self.key.chars().all(fits) {
            return Err(Error::invalid("/key", "may hold 1 to 255 letters, digits and underscores"));
        }
        if self.text.len() > MAX_VALUE {
            return Err(Error::invalid("/value", "may have at most 64 KiB"));
        }
        let fault = match self.value_type {
            ValueType::Secret if self.keeps() && !self.may_keep => "is required",
            ValueType::Int if self.text.trim().parse::<i64>().is_err() => {
                "must be a whole number of at most 64 bits"
            }
            ValueType::Bool if flag(self.text).is_none() => "must be true, false, yes, no, 1 or 0",
            ValueType::Json if serde_json::from_str::<Value>(self.text).is_err() => "must be JSON",
            ValueType::Json if has_long_integer(self.text) => LONG_INTEGER,
            _ => return Ok(()),
        };
        Err(Error::invalid("/value", fault))
    }
}

/// Reads a value that is to be set, unless it would come back as another.
///
/// # Errors
/// [`Error::Invalid`] for one that nests too deep, or has a number that is not kept as it is.
pub fn read(raw: &RawValue) -> Result<Value> {
    if has_long_integer(raw.get()) {
        return Err(Error::invalid("/value", LONG_INTEGER));
    }
    serde_json::from_str(raw.get())
        .map_err(|_| Error::invalid("/value", "nests too deep, or has a number that is too large"))
}

/// A JSON value as text of its type, for those who have no type at hand.
pub fn text_of(value: &Value) -> (ValueType, String) {
    match value {
        Value::String(text) => (ValueType::String, text.clone()),
        Value::Bool(flag) => (ValueType::Bool, flag.to_string()),
        Value::Number(number) if number.is_i64() => (ValueType::Int, number.to_string()),
        other => (ValueType::Json, other.to_string()),
    }
}

fn flag(text: &str) -> Option<bool> {
    match text.trim().to_lowercase().as_str() {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

fn typed(value_type: &str, text: &str) -> Value {
    match value_type {
        "int" => text.trim().parse::<i64>().map_or_else(|_| Value::String(text.into()), Value::from),
        "bool" => Value::Bool(flag(text).unwrap_or_default()),
        "json" => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into())),
        _ => Value::String(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(value: &str) -> Option<String> {
        let raw = RawValue::from_string(value.into()).expect("JSON");
        let new = NewValue {
            key: "k",
            value_type: ValueType::Json,
            text: value,
            description: None,
            may_keep: false,
        };
        let said = |error: Error| match error {
            Error::Invalid(faults) => faults[0].detail.clone(),
            other => panic!("{other}"),
        };
        let (read, checked) = (read(&raw).err().map(said), new.check().err().map(said));
        assert_eq!(read, checked, "{value}");
        read
    }

    #[test]
    fn a_number_that_would_come_back_as_another_is_refused() {
        assert_eq!(refused(r#"{"largest": 18446744073709551615, "text": "99999999999999999999"}"#), None);
        let long = refused("[99999999999999999999]").expect("is refused");
        assert!(long.contains("more than 64 bits"), "{long}");
    }
}
