//! Connecting an account with somebody's consent: to the provider's page, and back with a code.
//!
//! The invariant: a code is taken only with the state of the one authorization that the connection waits for, from the
//! user who began it and still administers the platform; connection, organization and redirect address come from that state and not from the request.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;
use uuid::Uuid;

use super::{Connection, Source, exchange, get, get_by_id, resource, store};
use crate::audit::{self, Action};
use crate::id::{OrgId, UserId};
use crate::{Error, OrgScope, OrgTx, Platform, Result, opaque};

/// How long a consent may take.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);

/// Where to send the browser.
pub struct Authorization {
    /// Page of the provider.
    pub url: Url,
    /// What comes back from it.
    pub state: String,
}

/// How an authorization ended.
#[derive(Debug)]
pub struct Completed {
    /// The connection as it is now.
    pub connection: Connection,
    /// Whether the next token can be fetched without a person.
    pub can_refresh: bool,
    /// Why the provider refused, if it did.
    pub refused: Option<String>,
}

/// What is remembered while somebody is at the provider's page.
#[derive(Serialize, Deserialize)]
struct Kept {
    connection: Uuid,
    name: String,
    organization: Option<OrgId>,
    user: UserId,
    redirect_uri: String,
    verifier: String,
}

/// Begins the authorization of a connection of the scope; any other that it waited for is void. The redirect address stays
/// as it is given, letter by letter. Why the connection failed before stays too, for who cancels this.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Impossible`] for a connection that needs no consent.
pub async fn begin(
    platform: &Platform,
    tx: &mut OrgTx,
    name: &str,
    redirect_uri: &str,
) -> Result<Authorization> {
    let connection = get(tx, name).await?;
    if connection.flow == "client_credentials" {
        let text = "a connection with client credentials needs no authorization; refresh it instead";
        return Err(Error::Impossible(text.into()));
    }
    let state = opaque::generate_text();
    let (url, verifier) = exchange::authorization(&connection, redirect_uri, &state)?;
    let kept = Kept {
        connection: connection.id,
        name: connection.name.clone(),
        organization: connection.organization_id,
        user: tx.scope().actor().id,
        redirect_uri: redirect_uri.to_owned(),
        verifier: verifier.expose_secret().to_owned(),
    };
    let kept = serde_json::to_string(&kept).map_err(Error::internal)?;
    platform.cache.put(&key(&state), &kept, LIFETIME).await;
    sqlx::query!(
        "UPDATE oauth_connections
         SET status = 'waiting_callback', pending_state = $2, redirect_uri = $3, updated_at = now()
         WHERE id = $1",
        connection.id,
        opaque::hash(&state),
        redirect_uri,
    )
    .execute(tx.conn())
    .await?;
    audit::record(tx, Action::ConnectionAuthorizing, resource(name), &()).await?;
    Ok(Authorization { url, state })
}

/// Gives up waiting for somebody's consent: the connection is again what it was before. One that waits for nobody stays as it is.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn cancel(tx: &mut OrgTx, name: &str) -> Result<Connection> {
    let connection = get(tx, name).await?;
    let ended = sqlx::query!(
        "UPDATE oauth_connections
         SET status = CASE
                 -- A refresh was refused meanwhile.
                 WHEN status <> 'waiting_callback' THEN status
                 WHEN status_message IS NOT NULL THEN 'failed'
                 WHEN access_token IS NULL THEN 'not_connected'
                 ELSE 'completed'
             END,
             pending_state = NULL, updated_at = now()
         WHERE id = $1 AND (status = 'waiting_callback' OR pending_state IS NOT NULL)",
        connection.id,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if ended == 0 {
        return Ok(connection);
    }
    let cancelled = get_by_id(tx, connection.id).await?;
    audit::record(tx, Action::ConnectionAuthorizationCancelled, resource(name), &()).await?;
    Ok(cancelled)
}

/// Ends an authorization with the code that the provider gave.
///
/// # Errors
/// [`Error::Impossible`] when the state is unknown, used, expired, cancelled, of another user or another connection, when
/// the actor does not administer the platform any more, when `redirect_uri` is not the one it began with, or when the
/// connection was changed meanwhile.
pub async fn complete(
    platform: &Platform,
    scope: &OrgScope,
    name: &str,
    (code, state): (&SecretString, &str),
    redirect_uri: Option<&str>,
) -> Result<Completed> {
    let unknown = || {
        Error::Impossible("the state is unknown, used, expired or somebody else's; authorize again".into())
    };
    let kept = platform.cache.take(&key(state)).await.ok_or_else(unknown)?;
    let kept: Kept = serde_json::from_str(&kept).map_err(Error::internal)?;
    // The scope becomes that of the connection, which nobody else may act in.
    if kept.user != scope.actor().id || !scope.actor().is_platform_admin || kept.name != name {
        return Err(unknown());
    }
    if redirect_uri.is_some_and(|given| given != kept.redirect_uri) {
        return Err(Error::Impossible("redirect_uri is not the one the authorization began with".into()));
    }
    let scope = scope.of_owner(kept.organization);
    let mut tx = platform.db.begin(&scope).await?;
    // The row decides: of two with one state, and after a cancellation, nobody finds it.
    let waiting = sqlx::query!(
        "UPDATE oauth_connections SET pending_state = NULL WHERE id = $1 AND pending_state = $2",
        kept.connection,
        opaque::hash(state),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if waiting == 0 {
        return Err(unknown());
    }
    let connection = get_by_id(&mut tx, kept.connection).await?;
    let credentials = connection.credentials(tx.conn(), &platform.vault).await?;
    tx.commit().await?;

    let verifier = kept.verifier.into();
    let answer = exchange::code(&platform.outbound, &credentials, code, &kept.redirect_uri, &verifier).await;

    let mut tx = platform.db.begin(&scope).await?;
    let refused = match answer {
        Ok(tokens) => {
            // As it was when the provider was asked: tokens of a server that it has left since are not stored.
            store(&mut tx, &platform.vault, &credentials.connection, &tokens, Source::Given).await?;
            None
        }
        Err(refusal) => {
            sqlx::query!(
                "UPDATE oauth_connections
                 SET status = 'failed', status_message = $2, updated_at = now()
                 WHERE id = $1",
                kept.connection,
                refusal.message,
            )
            .execute(tx.conn())
            .await?;
            Some(refusal.message)
        }
    };
    let action = if refused.is_none() { Action::ConnectionConnected } else { Action::ConnectionFailed };
    let connection = get_by_id(&mut tx, kept.connection).await?;
    audit::record(&mut tx, action, resource(name), &json!({ "message": refused })).await?;
    tx.commit().await?;
    Ok(Completed { can_refresh: connection.can_refresh(), connection, refused })
}

fn key(state: &str) -> String {
    format!("connection:{}", URL_SAFE_NO_PAD.encode(opaque::hash(state)))
}
