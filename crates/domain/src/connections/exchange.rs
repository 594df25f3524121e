//! What is said to a provider to get a token: codes, refresh tokens, client credentials.
//!
//! Form-encoded requests through the guarded client, ten seconds each. Three tries when nobody answers or the server
//! fails; what a provider refuses is refused. The invariant: a server that fails or is busy has refused nothing, whatever
//! it says.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use oauth2::basic::{BasicClient, BasicErrorResponse, BasicTokenResponse};
use oauth2::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet,
    EndpointSet, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope,
    TokenResponse as _, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{Connection, Credentials};
use crate::outbound::{Failure, Outbound};
use crate::{Error, Result};

const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);
/// How long a token is good for whose provider does not say.
const DEFAULT_LIFETIME: TimeDelta = TimeDelta::hours(1);
/// Beyond this a lifetime is a mistake.
const LONGEST_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const LONGEST_MESSAGE: usize = 300;

/// Tokens as a provider gives them.
#[derive(Debug)]
pub struct Tokens {
    /// The token.
    pub access_token: SecretString,
    /// What fetches the next one.
    pub refresh_token: Option<SecretString>,
    /// Kind of the token.
    pub token_type: String,
    /// What was granted, if the provider says so.
    pub scopes: Option<String>,
    /// End of the token.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Why there is no token. The text is for administrators, and holds nothing secret.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) message: String,
    /// Whether the provider said no, so that asking again is of no use.
    pub(super) is_final: bool,
}

/// Why a request brought nothing to go by.
#[derive(Debug, thiserror::Error)]
enum Setback {
    /// There is no answer.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The server fails or is busy, and what it says.
    #[error("the provider answered {0}")]
    Later(StatusCode, Vec<u8>),
}

type Client = BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// Where somebody consents, and the verifier to remember; an existing query of the page is kept.
pub(super) fn authorization(
    connection: &Connection,
    redirect_uri: &Url,
    state: &str,
) -> Result<(Url, SecretString)> {
    let page = connection.authorization_url.clone().unwrap_or_default();
    let page = AuthUrl::new(page)
        .map_err(|_| Error::Impossible("the connection has no authorization_url".into()))?;
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let client = BasicClient::new(ClientId::new(connection.client_id.clone()))
        .set_auth_uri(page)
        .set_redirect_uri(RedirectUrl::from_url(redirect_uri.clone()));
    let (url, _) = client
        .authorize_url(|| CsrfToken::new(state.to_owned()))
        .add_scopes(scopes(connection))
        .set_pkce_challenge(challenge)
        .url();
    Ok((url, verifier.into_secret().into()))
}

/// Exchanges the code of a consent.
pub(super) async fn code(
    outbound: &Outbound,
    credentials: &Credentials,
    code: &SecretString,
    redirect_uri: &str,
    verifier: &SecretString,
) -> Result<Tokens, Refusal> {
    let redirect = RedirectUrl::new(redirect_uri.to_owned()).map_err(|_| misconfigured("redirect_uri"))?;
    let mut request = client(credentials)?.set_redirect_uri(redirect);
    request = request.set_auth_type(AuthType::RequestBody);
    let mut request = request
        .exchange_code(AuthorizationCode::new(code.expose_secret().to_owned()))
        .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose_secret().to_owned()));
    if !credentials.connection.scopes.is_empty() {
        request = request.add_extra_param("scope", credentials.connection.scopes.clone());
    }
    let answer = request.request_async(&Persistent(outbound)).await;
    tokens(answer, credentials, &[code, verifier])
}

/// Fetches a token without a person, by refresh token or client credentials.
pub(super) async fn refresh(outbound: &Outbound, credentials: &Credentials) -> Result<Tokens, Refusal> {
    let client = client(credentials)?;
    let connection = &credentials.connection;
    let http = Persistent(outbound);
    let answer = match (connection.flow.as_str(), &credentials.refresh_token) {
        ("client_credentials", _) => {
            client.exchange_client_credentials().add_scopes(scopes(connection)).request_async(&http).await
        }
        (_, Some(token)) => {
            let token = RefreshToken::new(token.expose_secret().to_owned());
            client.exchange_refresh_token(&token).add_scopes(scopes(connection)).request_async(&http).await
        }
        (_, None) => return Err(misconfigured("refresh token")),
    };
    tokens(answer, credentials, &[])
}

fn client(credentials: &Credentials) -> Result<Client, Refusal> {
    let connection = &credentials.connection;
    let token_url = TokenUrl::new(connection.token_url.clone()).map_err(|_| misconfigured("token_url"))?;
    let client = BasicClient::new(ClientId::new(connection.client_id.clone()))
        .set_token_uri(token_url)
        .set_auth_type(AuthType::RequestBody);
    Ok(match &credentials.client_secret {
        Some(secret) => client.set_client_secret(ClientSecret::new(secret.expose_secret().to_owned())),
        None => client,
    })
}

fn scopes(connection: &Connection) -> Vec<Scope> {
    connection.scopes.split_whitespace().map(|scope| Scope::new(scope.to_owned())).collect()
}

type Answer = Result<BasicTokenResponse, RequestTokenError<Setback, BasicErrorResponse>>;

fn tokens(answer: Answer, credentials: &Credentials, secrets: &[&SecretString]) -> Result<Tokens, Refusal> {
    let said_no = |response: &BasicErrorResponse| {
        let code: &str = response.error().as_ref();
        // What RFC 6749 calls a server that fails or is busy, whatever status comes with it.
        let is_passing = matches!(code, "server_error" | "temporarily_unavailable");
        Refusal { message: said(response, credentials, secrets), is_final: !is_passing }
    };
    let answer = answer.map_err(|error| match error {
        RequestTokenError::ServerResponse(response) => said_no(&response),
        RequestTokenError::Request(Setback::Failed(failure)) => {
            Refusal { message: failure.to_string(), is_final: matches!(failure, Failure::Refused(_)) }
        }
        RequestTokenError::Request(Setback::Later(status, body)) => Refusal {
            message: match serde_json::from_slice(&body) {
                Ok(response) => said(&response, credentials, secrets),
                Err(_) => format!("the provider answered {status}"),
            },
            is_final: false,
        },
        // Some say no with a 200.
        RequestTokenError::Parse(_, body) => match serde_json::from_slice(&body) {
            Ok(response) => said_no(&response),
            Err(_) => Refusal { message: "the provider's answer holds no token".into(), is_final: false },
        },
        RequestTokenError::Other(_) => Refusal {
            message: "the provider's answer is empty or of an unexpected kind".into(),
            is_final: false,
        },
    })?;
    let lifetime = answer.expires_in().map_or(DEFAULT_LIFETIME, |given| {
        TimeDelta::from_std(given.min(LONGEST_LIFETIME)).unwrap_or(DEFAULT_LIFETIME)
    });
    let granted = answer.scopes().map(|all| all.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(" "));
    Ok(Tokens {
        access_token: answer.access_token().secret().clone().into(),
        refresh_token: answer.refresh_token().map(|token| token.secret().clone().into()),
        // Clients put it in front of the token, where `Bearer` is the spelling that all understand.
        token_type: match answer.token_type().as_ref() {
            kind if kind.eq_ignore_ascii_case("bearer") => "Bearer".into(),
            kind => kind.into(),
        },
        scopes: granted,
        expires_at: Some(Utc::now() + lifetime),
    })
}

/// What the provider said, unless it repeats something secret.
fn said(response: &BasicErrorResponse, credentials: &Credentials, secrets: &[&SecretString]) -> String {
    let mut text = format!("the provider refused: {}", response.error().as_ref());
    if let Some(description) = response.error_description() {
        text = format!("{text}: {description}");
    }
    let own = [&credentials.client_secret, &credentials.access_token, &credentials.refresh_token];
    let mut all = own.into_iter().flatten().chain(secrets.iter().copied());
    if all.any(|secret| text.contains(secret.expose_secret())) {
        return "the provider refused".into();
    }
    text.chars().filter(|c| !c.is_control()).take(LONGEST_MESSAGE).collect()
}

fn misconfigured(what: &str) -> Refusal {
    Refusal { message: format!("the connection has no usable {what}"), is_final: true }
}

/// Tries again when nobody answers or the server fails. An answer that got lost may have been meant for us: a provider
/// that replaces refresh tokens lets the old one be used again for a moment, so asking again is right there too.
struct Persistent<'a>(&'a Outbound);

impl<'c> AsyncHttpClient<'c> for Persistent<'_> {
    type Error = Setback;
    type Future = BoxFuture<'c, Result<Response<Vec<u8>>, Setback>>;

    fn call(&'c self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(async move {
            let mut tried = 1;
            loop {
                let answer = self.0.send(request.clone()).await;
                let is_worth_it = match &answer {
                    Ok(answer) => answer.status().is_server_error(),
                    Err(Failure::TimedOut | Failure::Unreachable(_)) => true,
                    Err(Failure::Refused(_) | Failure::TooLarge) => false,
                };
                if !is_worth_it || tried == TRIES {
                    let answer = answer?;
                    let status = answer.status();
                    let is_passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                    return match is_passing {
                        true => Err(Setback::Later(status, answer.into_body())),
                        false => Ok(answer),
                    };
                }
                tokio::time::sleep(PAUSE * tried).await;
                tried += 1;
            }
        })
    }
}
