//! What is said to a provider to get a token: codes, refresh tokens, client credentials.
//!
//! Form-encoded requests through the guarded client, ten seconds each. Three tries when nobody answers or the server
//! fails; what a provider refuses is refused. The invariant: a server that fails or is busy has refused nothing, whatever
//! it says.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use oauth2::basic::{
    BasicClient, BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
};
use oauth2::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet,
    EndpointSet, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope,
    StandardRevocableToken, TokenResponse as _, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::given::Given;
use super::{Connection, Credentials, spaced};
use crate::json::NUL_RULE;
use crate::outbound::{Failure, Outbound};
use crate::{Error, Result};

const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);
/// How long a token is good for whose provider does not say.
const DEFAULT_LIFETIME: TimeDelta = TimeDelta::hours(1);
/// Longest token that is kept, and whatever comes with it.
const MAX_TOKEN: usize = 64 * 1024;
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

/// The member that keeps tokens from being stored, and why.
#[derive(Debug)]
pub(super) struct Unfit(pub(super) &'static str, pub(super) &'static str);

impl Tokens {
    /// As they are stored, whoever brings them: an empty refresh token is none, and one hour is what a token is good for
    /// whose end nobody says.
    pub(super) fn checked(mut self) -> Result<Self, Unfit> {
        self.refresh_token = self.refresh_token.filter(|token| !token.expose_secret().is_empty());
        // Clients put it in front of the token, where `Bearer` is the spelling that all understand.
        if self.token_type.is_empty() || self.token_type.eq_ignore_ascii_case("bearer") {
            self.token_type = "Bearer".into();
        }
        self.scopes = self.scopes.map(|scopes| spaced(&scopes)).filter(|scopes| !scopes.is_empty());
        self.expires_at = self.expires_at.or_else(|| Some(Utc::now() + DEFAULT_LIFETIME));
        if self.access_token.expose_secret().is_empty() {
            return Err(Unfit("access_token", "is empty"));
        }
        let texts = [
            ("access_token", Some(self.access_token.expose_secret())),
            ("refresh_token", self.refresh_token.as_ref().map(|token| token.expose_secret())),
            ("token_type", Some(self.token_type.as_str())),
            ("scope", self.scopes.as_deref()),
        ];
        for (member, text) in texts.into_iter().filter_map(|(member, text)| Some((member, text?))) {
            if text.len() > MAX_TOKEN {
                return Err(Unfit(member, "may have at most 64 KiB"));
            }
            if text.contains('\0') {
                return Err(Unfit(member, NUL_RULE));
            }
        }
        Ok(self)
    }
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
    /// The server gives no token, and what it says.
    #[error("the provider answered {0}")]
    Answered(StatusCode, Vec<u8>),
}

type Client<TokenUrlIs = EndpointSet> = oauth2::Client<
    BasicErrorResponse,
    Given,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    TokenUrlIs,
>;

/// Where somebody consents, and the verifier to remember; an existing query of the page is kept.
pub(super) fn authorization(
    connection: &Connection,
    redirect_uri: &str,
    state: &str,
) -> Result<(Url, SecretString)> {
    let page = connection.authorization_url.clone().unwrap_or_default();
    let page = AuthUrl::new(page)
        .map_err(|_| Error::Impossible("the connection has no authorization_url".into()))?;
    // As it was given: providers compare it letter by letter.
    let redirect = RedirectUrl::new(redirect_uri.to_owned())
        .map_err(|_| Error::invalid("?redirect_uri", "must be an address"))?;
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let client = BasicClient::new(ClientId::new(connection.client_id.clone()))
        .set_auth_uri(page)
        .set_redirect_uri(redirect);
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
    let client = Client::<EndpointNotSet>::new(ClientId::new(connection.client_id.clone()))
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

type Answer = Result<Given, RequestTokenError<Setback, BasicErrorResponse>>;

fn tokens(answer: Answer, credentials: &Credentials, secrets: &[&SecretString]) -> Result<Tokens, Refusal> {
    let answer = answer.map_err(|error| match error {
        RequestTokenError::ServerResponse(response) => said_no(&response, credentials, secrets),
        RequestTokenError::Request(Setback::Failed(failure)) => {
            Refusal { message: failure.to_string(), is_final: matches!(failure, Failure::Refused(_)) }
        }
        RequestTokenError::Request(Setback::Answered(status, body)) => {
            no_token(status, &body, credentials, secrets)
        }
        // Some say no with a 200.
        RequestTokenError::Parse(_, body) => no_token(StatusCode::OK, &body, credentials, secrets),
        RequestTokenError::Other(_) => {
            Refusal { message: "the provider's answer is empty".into(), is_final: false }
        }
    })?;
    let lifetime = answer.expires_in().and_then(|given| TimeDelta::from_std(given).ok());
    let tokens = Tokens {
        access_token: answer.access_token().secret().clone().into(),
        refresh_token: answer.refresh_token().map(|token| token.secret().clone().into()),
        token_type: answer.token_type().to_string(),
        scopes: answer.granted(),
        expires_at: lifetime.map(|lifetime| Utc::now() + lifetime),
    };
    tokens.checked().map_err(|Unfit(member, why)| Refusal {
        message: format!("the provider's answer is of no use: {member} {why}"),
        is_final: false,
    })
}

/// What an answer without a token comes to.
fn no_token(
    status: StatusCode,
    body: &[u8],
    credentials: &Credentials,
    secrets: &[&SecretString],
) -> Refusal {
    match serde_json::from_slice(body) {
        Ok(response) => {
            let refusal = said_no(&response, credentials, secrets);
            Refusal { is_final: refusal.is_final && !is_passing(status), ..refusal }
        }
        Err(_) => {
            Refusal { message: format!("the provider answered {status} without a token"), is_final: false }
        }
    }
}

fn said_no(response: &BasicErrorResponse, credentials: &Credentials, secrets: &[&SecretString]) -> Refusal {
    let code: &str = response.error().as_ref();
    // What RFC 6749 calls a server that fails or is busy, whatever status comes with it.
    let is_passing = matches!(code, "server_error" | "temporarily_unavailable");
    Refusal { message: said(response, credentials, secrets), is_final: !is_passing }
}

/// Whether a server that answers this fails or is busy.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
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
                    let mut answer = answer?;
                    if answer.status() != StatusCode::OK {
                        return Err(Setback::Answered(answer.status(), answer.into_body()));
                    }
                    // Some call JSON something else; what it is shows when it is read.
                    answer.headers_mut().remove(CONTENT_TYPE);
                    return Ok(answer);
                }
                tokio::time::sleep(PAUSE * tried).await;
                tried += 1;
            }
        })
    }
}
