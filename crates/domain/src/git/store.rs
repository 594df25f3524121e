//! The row of the repository: where it is, its branch, and the sealed token.
//!
//! The invariant: the token leaves only towards the server of the repository and GitHub.

use chrono::{DateTime, Utc};
use secrecy::SecretString;

use super::names::{Address, Branch};
use crate::audit::{self, Action};
use crate::vault::{Place, Vault};
use crate::{Error, OrgTx, Result, data_keys};

/// Longest token.
const MAX_TOKEN: usize = 4 * 1024;
const PLACE: Place<'static> = Place { table: "git_repository", organization: None, name: "token" };

/// What is connected.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// The address; `None`: nothing is connected.
    pub repo_url: Option<String>,
    /// Its branch.
    pub branch: Option<String>,
    /// Where the files are that were replaced when it was connected.
    pub backup: Option<String>,
    /// When something was last fetched or pushed.
    pub last_synced_at: Option<DateTime<Utc>>,
    /// When it was connected.
    pub connected_at: Option<DateTime<Utc>>,
    /// Whether there is a token.
    pub has_token: bool,
    sealed_token: Option<Vec<u8>>,
}

/// What is connected, in a scope that reaches the platform's own rows.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn find(tx: &mut OrgTx) -> Result<Connection> {
    let found = sqlx::query_as!(
        Connection,
        r#"SELECT repo_url, branch, backup, last_synced_at, connected_at, sealed_token IS NOT NULL AS "has_token!", sealed_token
           FROM git_repository"#
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found.unwrap_or_default())
}

/// The token of a connection.
///
/// # Errors
/// [`Error::Internal`] for one that does not decrypt.
pub async fn token(tx: &mut OrgTx, vault: &Vault, connection: &Connection) -> Result<Option<SecretString>> {
    let Some(sealed) = &connection.sealed_token else { return Ok(None) };
    let key = data_keys::find(tx.conn(), vault, None).await?;
    let key = key.ok_or_else(|| Error::internal("a sealed value without a data key"))?;
    Ok(Some(key.open(PLACE, sealed)?))
}

/// Whether this could be a token: printable and of a sensible length.
///
/// # Errors
/// [`Error::Invalid`] at `pointer`.
pub fn check_token(pointer: &str, token: &str) -> Result<()> {
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(pointer, "must be a token: printable characters without spaces"));
    }
    Ok(())
}

/// Seals the token and keeps it.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn set_token(tx: &mut OrgTx, vault: &Vault, token: &SecretString) -> Result<()> {
    use secrecy::ExposeSecret;

    let key = data_keys::get_or_create(tx.conn(), vault, None).await?;
    let sealed = key.seal(PLACE, token.expose_secret())?;
    sqlx::query!(
        "INSERT INTO git_repository (sealed_token) VALUES ($1)
         ON CONFLICT (id) DO UPDATE SET sealed_token = EXCLUDED.sealed_token",
        sealed,
    )
    .execute(tx.conn())
    .await?;
    audit::record(tx, Action::GitTokenStored, "git/token", &()).await
}

/// Writes that a repository is connected, and where the files are that it replaced.
pub(super) async fn set_connected(
    tx: &mut OrgTx,
    address: &Address,
    branch: &Branch,
    backup: &str,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO git_repository (repo_url, branch, backup, connected_at, last_synced_at) VALUES ($1, $2, $3, now(), now())
         ON CONFLICT (id) DO UPDATE
         SET repo_url = EXCLUDED.repo_url, branch = EXCLUDED.branch, backup = EXCLUDED.backup,
             connected_at = EXCLUDED.connected_at, last_synced_at = EXCLUDED.last_synced_at",
        address.url().as_str(),
        branch.as_str(),
        backup,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Writes that something was fetched or pushed.
pub(super) async fn set_synced(tx: &mut OrgTx) -> Result<()> {
    sqlx::query!("UPDATE git_repository SET last_synced_at = now()").execute(tx.conn()).await?;
    Ok(())
}

/// Forgets the repository and its token. The files stay as they are.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn disconnect(tx: &mut OrgTx) -> Result<()> {
    sqlx::query!(
        "UPDATE git_repository SET repo_url = NULL, branch = NULL, sealed_token = NULL, connected_at = NULL"
    )
    .execute(tx.conn())
    .await?;
    audit::record(tx, Action::GitDisconnected, "git", &()).await
}
