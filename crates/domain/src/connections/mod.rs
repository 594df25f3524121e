//! OAuth connections: the accounts at other services that workflows act with (ADR 33).
//!
//! Here are the rows. Changing one is in `change.rs`, connecting it in `authorize.rs`, keeping its token fresh in
//! `refresh.rs`, what is said to the provider in `exchange.rs`, how its answers are read in `given.rs`. The invariant:
//! client secret and tokens are stored sealed, under the connection's own organization whoever causes it, and leave through
//! [`Credentials`] alone, which is audited.

mod authorize;
mod change;
mod exchange;
mod given;
mod refresh;
mod upkeep;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::audit::{self, Action};
use crate::error::OnConstraint;
use crate::id::OrgId;
use crate::vault::{DataKey, Place, Vault};
use crate::{Error, OrgTx, Result, data_keys};

use exchange::Unfit;

pub use authorize::{Authorization, Completed, begin, cancel, complete};
pub use change::{Changes, update};
pub use exchange::Tokens;
pub use given::{granted, lifetime};
pub use refresh::{Refreshed, Refresher};
pub use upkeep::{Report, RunOfRefresh, last_run, refresh_due, refresh_scope};

const TABLE: &str = "oauth_connections";
const MAX_LISTED: i64 = 1_000;

/// A connection, without anything secret.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Id.
    pub id: Uuid,
    /// Organization; `None` for a global one.
    pub organization_id: Option<OrgId>,
    /// Name, by which workflows ask for it.
    pub name: String,
    /// What people call it.
    pub display_name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// `authorization_code`, `client_credentials` or `refresh_token`.
    pub flow: String,
    /// Client id at the provider.
    pub client_id: String,
    /// Page where somebody consents.
    pub authorization_url: Option<String>,
    /// Where codes and refresh tokens are exchanged.
    pub token_url: String,
    /// What is asked for, separated by spaces.
    pub scopes: String,
    /// Where the provider sends people back to.
    pub redirect_uri: Option<String>,
    /// State.
    pub status: String,
    /// Why it failed.
    pub status_message: Option<String>,
    /// Kind of the token.
    pub token_type: String,
    /// What the provider granted, if it said so.
    pub granted_scopes: Option<String>,
    /// End of the token.
    pub expires_at: Option<DateTime<Utc>>,
    /// Rises with every new token.
    pub generation: i64,
    /// Rises with every refresh that ended.
    pub attempts: i64,
    /// Last token that was fetched without a person.
    pub last_refresh_at: Option<DateTime<Utc>>,
    /// Last test.
    pub last_test_at: Option<DateTime<Utc>>,
    /// E-mail address of who made it.
    pub created_by: String,
    /// Creation.
    pub created_at: DateTime<Utc>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
    client_secret: Option<Vec<u8>>,
    access_token: Option<Vec<u8>>,
    refresh_token: Option<Vec<u8>>,
}

/// A connection to make.
#[derive(Debug)]
pub struct NewConnection {
    /// Name.
    pub name: String,
    /// What people call it.
    pub display_name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The flow.
    pub flow: &'static str,
    /// Client id at the provider.
    pub client_id: String,
    /// Client secret at the provider.
    pub client_secret: Option<SecretString>,
    /// Page where somebody consents.
    pub authorization_url: Option<String>,
    /// Where tokens come from.
    pub token_url: String,
    /// What to ask for, separated by commas or spaces.
    pub scopes: String,
    /// Where the provider sends people back to.
    pub redirect_uri: Option<String>,
}

/// What a workflow works with.
#[derive(Debug)]
pub struct Credentials {
    /// The connection.
    pub connection: Connection,
    /// Client secret at the provider.
    pub client_secret: Option<SecretString>,
    /// The token, if there is one.
    pub access_token: Option<SecretString>,
    /// What fetches the next one.
    pub refresh_token: Option<SecretString>,
}

impl Connection {
    /// Whether a token is there.
    pub fn has_token(&self) -> bool {
        self.access_token.is_some()
    }

    /// Whether a token can be fetched without a person.
    pub fn can_refresh(&self) -> bool {
        self.flow == "client_credentials" || self.refresh_token.is_some()
    }

    /// Whether its token is good for this many seconds yet. One without an end always is.
    pub fn is_fresh(&self, seconds: i64) -> bool {
        let lasts = |end: DateTime<Utc>| end - Utc::now() > chrono::TimeDelta::seconds(seconds);
        self.access_token.is_some() && self.expires_at.is_none_or(lasts)
    }

    fn place(&self, what: Sealed) -> String {
        format!("{}/{}", self.name, what.as_str())
    }

    fn open(&self, key: Option<&DataKey>, what: Sealed) -> Result<Option<SecretString>> {
        let sealed = match what {
            Sealed::ClientSecret => &self.client_secret,
            Sealed::AccessToken => &self.access_token,
            Sealed::RefreshToken => &self.refresh_token,
        };
        let Some(sealed) = sealed else { return Ok(None) };
        let key = key.ok_or_else(|| Error::internal("a sealed value without a data key"))?;
        let name = self.place(what);
        key.open(Place { table: TABLE, organization: self.organization_id, name: &name }, sealed).map(Some)
    }

    /// Everything, opened.
    async fn credentials(self, conn: &mut PgConnection, vault: &Vault) -> Result<Credentials> {
        let key = data_keys::find(conn, vault, self.organization_id).await?;
        let key = key.as_ref();
        Ok(Credentials {
            client_secret: self.open(key, Sealed::ClientSecret)?,
            access_token: self.open(key, Sealed::AccessToken)?,
            refresh_token: self.open(key, Sealed::RefreshToken)?,
            connection: self,
        })
    }
}

/// What of a connection is sealed.
#[derive(Debug, Clone, Copy)]
enum Sealed {
    ClientSecret,
    AccessToken,
    RefreshToken,
}

impl Sealed {
    fn as_str(self) -> &'static str {
        match self {
            Self::ClientSecret => "client_secret",
            Self::AccessToken => "access_token",
            Self::RefreshToken => "refresh_token",
        }
    }
}

fn seal(
    key: &DataKey,
    organization: Option<OrgId>,
    name: &str,
    what: Sealed,
    plain: &SecretString,
) -> Result<Vec<u8>> {
    let name = format!("{name}/{}", what.as_str());
    key.seal(Place { table: TABLE, organization, name: &name }, plain.expose_secret())
}

/// Selects whole connections; what follows is the condition.
macro_rules! select {
    ($condition:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Connection,
            r#"SELECT id, organization_id AS "organization_id: OrgId", name, display_name, description, flow, client_id,
                   authorization_url, token_url, scopes, redirect_uri, status, status_message, token_type,
                   granted_scopes, expires_at, generation, attempts, last_refresh_at, last_test_at, created_by,
                   created_at, updated_at, client_secret, access_token, refresh_token
               FROM oauth_connections "# + $condition,
            $($argument),*
        )
    };
}
use select;

/// The connections of exactly the scope, by name.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx) -> Result<Vec<Connection>> {
    let owner = tx.scope().owner()?;
    Ok(select!(
        "WHERE organization_id IS NOT DISTINCT FROM $1 ORDER BY name LIMIT $2",
        owner as _,
        MAX_LISTED
    )
    .fetch_all(tx.conn())
    .await?)
}

/// The names a run may ask for: those of its organization and the global ones.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list_names(tx: &mut OrgTx) -> Result<Vec<String>> {
    let org = tx.scope().org();
    Ok(sqlx::query_scalar!(
        "SELECT DISTINCT name
         FROM oauth_connections
         WHERE organization_id = $1 OR organization_id IS NULL
         ORDER BY name
         LIMIT $2",
        org as _,
        MAX_LISTED,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// A connection of exactly the scope.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(tx: &mut OrgTx, name: &str) -> Result<Connection> {
    let owner = tx.scope().owner()?;
    if is_no_name(name) {
        return Err(Error::NotFound("connection"));
    }
    select!("WHERE organization_id IS NOT DISTINCT FROM $1 AND name = $2", owner as _, name)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(Error::NotFound("connection"))
}

/// The connection a run means by a name: that of its organization, else the global one.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn find(tx: &mut OrgTx, name: &str) -> Result<Option<Connection>> {
    if is_no_name(name) {
        return Ok(None);
    }
    let org = tx.scope().org();
    Ok(select!(
        "WHERE name = $2 AND (organization_id = $1 OR organization_id IS NULL)
         ORDER BY organization_id NULLS LAST LIMIT 1",
        org as _,
        name
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Whether nothing can be called this, since PostgreSQL cannot hold it.
fn is_no_name(name: &str) -> bool {
    name.contains('\0')
}

/// A connection by id, as far as the scope sees it.
async fn get_by_id(tx: &mut OrgTx, id: Uuid) -> Result<Connection> {
    select!("WHERE id = $1", id).fetch_optional(tx.conn()).await?.ok_or(Error::NotFound("connection"))
}

/// Adds a connection to the scope.
///
/// # Errors
/// [`Error::Conflict`] when the scope has one of this name.
pub async fn insert(tx: &mut OrgTx, vault: &Vault, new: NewConnection) -> Result<Connection> {
    let owner = tx.scope().owner()?;
    let key = data_keys::get_or_create(tx.conn(), vault, owner).await?;
    let secret = new.client_secret.as_ref();
    let secret = secret.map(|plain| seal(&key, owner, &new.name, Sealed::ClientSecret, plain)).transpose()?;
    let created_by = tx.scope().actor().email.clone();
    let id = Uuid::now_v7();
    sqlx::query!(
        "INSERT INTO oauth_connections (id, organization_id, name, display_name, description, flow, client_id,
             client_secret, authorization_url, token_url, scopes, redirect_uri, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        id,
        owner as _,
        new.name,
        new.display_name,
        new.description,
        new.flow,
        new.client_id,
        secret,
        new.authorization_url,
        new.token_url,
        spaced(&new.scopes),
        new.redirect_uri,
        created_by,
    )
    .execute(tx.conn())
    .await
    .on_constraint("oauth_connections_organization_id_name_key", || {
        Error::Conflict(format!("there is a connection {} already", new.name))
    })?;
    let details = json!({ "flow": new.flow, "token_url": new.token_url });
    let made = get_by_id(tx, id).await?;
    audit::record(tx, Action::ConnectionCreated, resource(&new.name), &details).await?;
    Ok(made)
}

/// Removes a connection of the scope, and its tokens.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn delete(tx: &mut OrgTx, name: &str) -> Result<()> {
    let connection = get(tx, name).await?;
    let deleted = sqlx::query!("DELETE FROM oauth_connections WHERE id = $1", connection.id)
        .execute(tx.conn())
        .await?
        .rows_affected();
    // Of those who found it at once, one has removed it.
    if deleted == 0 {
        return Err(Error::NotFound("connection"));
    }
    audit::record(tx, Action::ConnectionDeleted, resource(name), &()).await
}

/// Stores a token that a run brings, in a connection of its own scope. It is good for one hour if nobody says for how long.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Invalid`] for a token that is empty or over 64 KiB.
pub async fn set_token(tx: &mut OrgTx, vault: &Vault, name: &str, tokens: Tokens) -> Result<()> {
    let tokens =
        tokens.checked().map_err(|Unfit(member, why)| Error::invalid(format!("/token/{member}"), why))?;
    let connection = get(tx, name).await?;
    store(tx, vault, &connection, &tokens, Source::Given).await?;
    audit::record(tx, Action::ConnectionTokenSet, resource(name), &()).await
}

/// Removes the tokens of a connection of the scope; whether there were any.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn delete_token(tx: &mut OrgTx, name: &str) -> Result<bool> {
    let connection = get(tx, name).await?;
    if !connection.has_token() && connection.refresh_token.is_none() {
        return Ok(false);
    }
    forget(tx, connection.id).await?;
    audit::record(tx, Action::ConnectionTokenDeleted, resource(name), &()).await?;
    Ok(true)
}

/// Removes the tokens of a connection. A refresh under way brings no others.
async fn forget(tx: &mut OrgTx, id: Uuid) -> Result<()> {
    sqlx::query!(
        "UPDATE oauth_connections
         SET access_token = NULL, refresh_token = NULL, expires_at = NULL, granted_scopes = NULL,
             generation = generation + 1, status = 'not_connected', status_message = NULL, lease = NULL,
             lease_expires_at = NULL, updated_at = now()
         WHERE id = $1",
        id,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Everything of a connection, opened. Audited.
///
/// # Errors
/// [`Error::NotFound`] when it was removed.
pub async fn read_credentials(tx: &mut OrgTx, vault: &Vault, id: Uuid) -> Result<Credentials> {
    let credentials = get_by_id(tx, id).await?.credentials(tx.conn(), vault).await?;
    // Last, because the log of the organization is locked from here to the commit.
    audit::record(tx, Action::ConnectionRead, resource(&credentials.connection.name), &()).await?;
    Ok(credentials)
}

/// Where a token comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A person consented, or a run brought it.
    Given,
    /// Fetched without anybody.
    Refreshed,
}

/// Stores new tokens, [checked](Tokens::checked), of the server that `connection` names; a missing refresh token keeps the old
/// one when it is a refresh. One without anybody leaves an authorization that goes on meanwhile as it is.
///
/// # Errors
/// [`Error::Impossible`] when tokens come from elsewhere since.
async fn store(
    tx: &mut OrgTx,
    vault: &Vault,
    connection: &Connection,
    tokens: &Tokens,
    source: Source,
) -> Result<()> {
    let owner = connection.organization_id;
    let key = data_keys::get_or_create(tx.conn(), vault, owner).await?;
    let access = seal(&key, owner, &connection.name, Sealed::AccessToken, &tokens.access_token)?;
    let refresh = tokens.refresh_token.as_ref();
    let refresh =
        refresh.map(|plain| seal(&key, owner, &connection.name, Sealed::RefreshToken, plain)).transpose()?;
    let is_refresh = source == Source::Refreshed;
    // An authorization began no later than the last change, so that one of a row that stood still for longer has ended.
    let stored = sqlx::query!(
        "UPDATE oauth_connections
         SET access_token = $2, refresh_token = CASE WHEN $4 THEN COALESCE($3, refresh_token) ELSE $3 END,
             token_type = $5, granted_scopes = $6, expires_at = $7, status_message = NULL,
             status = CASE WHEN $4 AND pending_state IS NOT NULL AND updated_at > now() - make_interval(secs => $9)
                 THEN 'waiting_callback' ELSE 'completed' END,
             pending_state = CASE WHEN $4 AND updated_at > now() - make_interval(secs => $9) THEN pending_state END,
             generation = generation + 1, attempts = attempts + 1, refusals = 0, lease = NULL,
             lease_expires_at = NULL, last_refresh_at = CASE WHEN $4 THEN now() ELSE last_refresh_at END,
             -- Which says when the authorization began that goes on.
             updated_at = CASE WHEN $4 AND pending_state IS NOT NULL AND updated_at > now() - make_interval(secs => $9)
                 THEN updated_at ELSE now() END
         WHERE id = $1 AND token_url = $8",
        connection.id,
        access,
        refresh,
        is_refresh,
        tokens.token_type,
        tokens.scopes,
        tokens.expires_at,
        connection.token_url,
        authorize::LIFETIME.as_secs_f64(),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if stored == 0 {
        let text = "the connection was changed or removed meanwhile; connect it again";
        return Err(Error::Impossible(text.into()));
    }
    Ok(())
}

/// Scopes separated by single spaces, however they were separated.
fn spaced(scopes: &str) -> String {
    let parts = scopes.split([',', ' ', '\t', '\n', '\r']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

fn resource(name: &str) -> String {
    format!("connection/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_come_in_any_spelling_and_leave_in_one() {
        assert_eq!(spaced("a,b, c  d\n"), "a b c d");
        assert_eq!(spaced(""), "");
    }
}
