//! `oauth.*`: the connections of the run's organization, then the global ones. Whatever is secret is remembered, so that
//! it is masked wherever the run writes it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::connections::{self, Credentials, Tokens};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Caller, Org};

#[derive(Deserialize)]
pub(super) struct Provider {
    provider: String,
    org_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct SetToken {
    provider: String,
    token: GivenToken,
    org_id: Option<String>,
}

/// A token as the service of the run gave it.
#[derive(Deserialize)]
struct GivenToken {
    access_token: SecretString,
    refresh_token: Option<SecretString>,
    token_type: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "connections::lifetime")]
    expires_in: Option<Duration>,
    #[serde(default, deserialize_with = "connections::granted")]
    scope: Option<String>,
    /// The same, as `oauth.get` calls it.
    #[serde(default, deserialize_with = "connections::granted")]
    scopes: Option<String>,
}

pub(super) async fn get(caller: &Caller, args: Provider) -> Answer {
    let scope = caller.scope(args.org_id.as_deref()).await?;
    let found = caller.platform.refresher.credentials_for_run(&scope, &args.provider).await?;
    Ok(found.map_or(Value::Null, |credentials| show(caller, &credentials)))
}

pub(super) async fn refresh_token(caller: &Caller, args: Provider) -> Answer {
    let scope = caller.scope(args.org_id.as_deref()).await?;
    let credentials = caller.platform.refresher.refresh_for_run(&scope, &args.provider).await?;
    Ok(show(caller, &credentials))
}

pub(super) async fn set_token(caller: &Caller, args: SetToken) -> Answer {
    let given = args.token;
    for secret in [Some(&given.access_token), given.refresh_token.as_ref()].into_iter().flatten() {
        caller.remember_secret(secret.expose_secret());
    }
    let lifetime = given.expires_in.and_then(|given| TimeDelta::from_std(given).ok());
    let tokens = Tokens {
        access_token: given.access_token,
        refresh_token: given.refresh_token,
        token_type: given.token_type.unwrap_or_default(),
        scopes: given.scope.or(given.scopes),
        expires_at: given.expires_at.or_else(|| Utc::now().checked_add_signed(lifetime?)),
    };
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    connections::set_token(&mut tx, &caller.platform.vault, &args.provider, tokens).await?;
    tx.commit().await?;
    Ok(Value::Null)
}

pub(super) async fn list_providers(caller: &Caller, args: Org) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let names = connections::list_names(&mut tx).await?;
    tx.commit().await?;
    Ok(names.into())
}

pub(super) async fn delete_token(caller: &Caller, args: Provider) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let deleted = connections::delete_token(&mut tx, &args.provider).await?;
    tx.commit().await?;
    Ok(deleted.into())
}

fn show(caller: &Caller, credentials: &Credentials) -> Value {
    let shown = |secret: &Option<SecretString>| {
        secret.as_ref().map(|secret| {
            caller.remember_secret(secret.expose_secret());
            secret.expose_secret().to_owned()
        })
    };
    let connection = &credentials.connection;
    json!({
        "connection_name": connection.name,
        "client_id": connection.client_id,
        "client_secret": shown(&credentials.client_secret),
        "authorization_url": connection.authorization_url,
        "token_url": connection.token_url,
        "scopes": connection.granted_scopes.as_ref().unwrap_or(&connection.scopes),
        "access_token": shown(&credentials.access_token),
        "refresh_token": shown(&credentials.refresh_token),
        "token_type": connection.token_type,
        "expires_at": connection.expires_at,
    })
}
