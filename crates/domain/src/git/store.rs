//! The row of the repository: where it is, its branch, and the sealed token.
//!
//! The invariant: the token leaves only towards the server that it was given for.

use chrono::{DateTime, Utc};
use secrecy::SecretString;

use super::names::{Address, Branch, Server};
use super::{Failed, Outcome};
use crate::audit::{self, Action};
use crate::vault::{Place, Vault};
use crate::{Error, OrgTx, Platform, Result, data_keys};

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
    /// When a repository was last let go.
    pub disconnected_at: Option<DateTime<Utc>>,
    /// Whether there is a token.
    pub has_token: bool,
    /// The server that it was given for; `None`: GitHub.
    token_server: Option<String>,
    sealed_token: Option<Vec<u8>>,
}

/// What is connected, in a scope that reaches the platform's own rows.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn find(tx: &mut OrgTx) -> Result<Connection> {
    let found = sqlx::query_as!(
        Connection,
        r#"SELECT repo_url, branch, backup, last_synced_at, connected_at, disconnected_at,
               sealed_token IS NOT NULL AS "has_token!", token_server, sealed_token
           FROM git_repository"#
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found.unwrap_or_default())
}

/// The token of a connection, to be sent to this server; `None`: it is not sent, since the repository is a folder of this machine.
///
/// # Errors
/// [`Failed::Said`] when it was given for another server; [`Error::Internal`] for one that does not decrypt.
pub async fn token(
    tx: &mut OrgTx,
    platform: &Platform,
    connection: &Connection,
    server: Option<&Server>,
) -> Outcome<Option<SecretString>> {
    let (Some(sealed), Some(server)) = (&connection.sealed_token, server) else { return Ok(None) };
    let github = Server::github(&platform.settings)?;
    let given_for = connection.token_server.as_deref().unwrap_or(github.as_str());
    if given_for != server.as_str() {
        return Err(Failed::said(format!("give the token again: the saved one is for {given_for}")));
    }
    let key = data_keys::find(tx.conn(), &platform.vault, None).await?;
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

/// Seals the token, and keeps it for this server.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn set_token(tx: &mut OrgTx, vault: &Vault, token: &SecretString, server: &Server) -> Result<()> {
    use secrecy::ExposeSecret;

    let key = data_keys::get_or_create(tx.conn(), vault, None).await?;
    let sealed = key.seal(PLACE, token.expose_secret())?;
    sqlx::query!(
        "INSERT INTO git_repository (sealed_token, token_server) VALUES ($1, $2)
         ON CONFLICT (id) DO UPDATE SET sealed_token = EXCLUDED.sealed_token, token_server = EXCLUDED.token_server",
        sealed,
        server.as_str(),
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

/// Forgets the repository and its token.
pub(super) async fn disconnect(tx: &mut OrgTx) -> Result<()> {
    sqlx::query!(
        "UPDATE git_repository
         SET repo_url = NULL, branch = NULL, sealed_token = NULL, token_server = NULL, connected_at = NULL,
             disconnected_at = now()"
    )
    .execute(tx.conn())
    .await?;
    audit::record(tx, Action::GitDisconnected, "git", &()).await
}
