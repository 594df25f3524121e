//! Changing a connection.
//!
//! The invariant: what is secret stays with the server it was given for. When the token endpoint moves to another one, the
//! client secret must be given anew, and tokens of the old one are forgotten.

use secrecy::SecretString;
use serde_json::json;
use url::{Origin, Url};

use super::{Connection, Sealed, forget, get_by_id, is_no_name, resource, seal, select, spaced};
use crate::audit::{self, Action};
use crate::id::OrgId;
use crate::vault::Vault;
use crate::{Error, OrgTx, Result, data_keys};

/// What changes; `None` leaves what is there.
#[derive(Debug, Default)]
pub struct Changes {
    /// `""` clears it.
    pub display_name: Option<String>,
    /// Client id.
    pub client_id: Option<String>,
    /// Client secret.
    pub client_secret: Option<SecretString>,
    /// Page where somebody consents.
    pub authorization_url: Option<String>,
    /// Where tokens come from.
    pub token_url: Option<String>,
    /// What to ask for.
    pub scopes: Option<String>,
}

/// Changes a connection of the scope. Another server for tokens voids the tokens there are and an authorization that was
/// begun.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Invalid`] when the client secret would go to another server than it was given for.
pub async fn update(tx: &mut OrgTx, vault: &Vault, name: &str, changes: Changes) -> Result<Connection> {
    let connection = lock(tx, name).await?;
    let owner = connection.organization_id;
    let is_elsewhere = |url: &str| origin(url) != origin(&connection.token_url);
    let moves = changes.token_url.as_deref().is_some_and(is_elsewhere);
    if moves && connection.client_secret.is_some() && changes.client_secret.is_none() {
        let detail = "must be given again, because token_url moves to another server";
        return Err(Error::invalid("/client_secret", detail));
    }
    let secret = match &changes.client_secret {
        None => None,
        Some(plain) => {
            let key = data_keys::get_or_create(tx.conn(), vault, owner).await?;
            Some(seal(&key, owner, name, Sealed::ClientSecret, plain)?)
        }
    };
    sqlx::query!(
        "UPDATE oauth_connections
         SET display_name = CASE WHEN $2::text IS NULL THEN display_name ELSE NULLIF($2, '') END,
             client_id = COALESCE($3, client_id), client_secret = COALESCE($4, client_secret),
             authorization_url = CASE WHEN $5::text IS NULL THEN authorization_url ELSE NULLIF($5, '') END,
             token_url = COALESCE($6, token_url), scopes = COALESCE($7, scopes), refusals = 0,
             pending_state = CASE WHEN $8::boolean THEN NULL ELSE pending_state END, updated_at = now()
         WHERE id = $1",
        connection.id,
        changes.display_name,
        changes.client_id,
        secret,
        changes.authorization_url,
        changes.token_url,
        changes.scopes.as_deref().map(spaced),
        moves,
    )
    .execute(tx.conn())
    .await?;
    if moves {
        forget(tx, connection.id).await?;
    }
    let details = json!({
        "client_id": changes.client_id, "token_url": changes.token_url, "scopes": changes.scopes,
        "client_secret": changes.client_secret.is_some().then_some("changed"),
        "tokens": moves.then_some("removed"),
    });
    let changed = get_by_id(tx, connection.id).await?;
    audit::record(tx, Action::ConnectionUpdated, resource(name), &details).await?;
    Ok(changed)
}

/// A connection of exactly the scope, for whoever changes it: of two changes at once, neither may join its address with the
/// secret of the other.
async fn lock(tx: &mut OrgTx, name: &str) -> Result<Connection> {
    let owner = tx.scope().owner()?;
    if is_no_name(name) {
        return Err(Error::NotFound("connection"));
    }
    select!("WHERE organization_id IS NOT DISTINCT FROM $1 AND name = $2 FOR UPDATE", owner as _, name)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(Error::NotFound("connection"))
}

/// Scheme, host and port.
fn origin(address: &str) -> Option<Origin> {
    Url::parse(address).ok().map(|url| url.origin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_its_scheme_host_and_port() {
        let known = origin("https://id.example/token");
        assert!(known.is_some());
        for same in
            ["https://id.example:443/token", "https://ID.example/v2/token?tenant=7", "https://id.example"]
        {
            assert_eq!(origin(same), known, "{same}");
        }
        for other in [
            "http://id.example/token",
            "https://id.example:8443/token",
            "https://id.example.evil.example/token",
            "https://evil.example/?https://id.example/token",
        ] {
            assert_ne!(origin(other), known, "{other}");
        }
    }
}
