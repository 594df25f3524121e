//! The conversation with a login provider: where to send a browser, and what the code that it brings back proves.
//!
//! The invariant: whatever comes from a provider is verified before it is returned; a refusal tells the client nothing of
//! what exactly was wrong. Documents of providers are remembered for an hour, and their keys fetched anew when a token
//! names one that is not among them.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION};
use http::{Request, Response};
use oauth2::basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet, EndpointSet,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, Scope, StandardRevocableToken,
    TokenResponse as _, TokenUrl,
};
use openidconnect::core::{CoreClientAuthMethod, CoreJsonWebKeySet, CoreProviderMetadata};
use openidconnect::{
    ClaimsVerificationError, IssuerUrl, Nonce, SignatureVerificationError, TokenResponse as _,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;
use uuid::Uuid;

use super::claims::{self, TENANT, Tokens};
use super::{Flow, Proven, Provider};
use crate::outbound::Outbound;
use crate::remembered::get_or_find;
use crate::settings::Settings;
use crate::{Error, Result, opaque};

const WELL_KNOWN: &str = "/.well-known/openid-configuration";
const OPENID_SCOPES: &[&str] = &["openid", "email", "profile"];
const GITHUB_SCOPES: &[&str] = &["read:user", "user:email"];
/// How long the documents of a provider are believed.
const DOCUMENT_TTL: Duration = Duration::from_secs(3600);

/// The configured providers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Providers {
    outbound: Outbound,
    configured: Arc<[Configured]>,
    documents: moka::future::Cache<Provider, Arc<Document>>,
}

/// A sign-in that was begun: where the browser goes, and what to remember until it is back.
pub struct Begun {
    /// Address at the provider.
    pub authorization_url: Url,
    /// What the provider gives back.
    pub state: String,
    /// What to remember under it.
    pub flow: Flow,
}

#[derive(Debug)]
struct Configured {
    provider: Provider,
    client_id: ClientId,
    client_secret: ClientSecret,
    dialect: Dialect,
}

#[derive(Debug)]
enum Dialect {
    /// The issuer as configured; for Microsoft up to the tenant.
    OpenId { issuer: String },
    /// GitHub: codes and tokens alike, but who it is says an API.
    Github { url: String, api: String },
}

/// What a provider publishes about itself.
#[derive(Debug)]
struct Document {
    metadata: CoreProviderMetadata,
    keys: CoreJsonWebKeySet,
}

type Client = oauth2::Client<
    BasicErrorResponse,
    Tokens,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

impl Providers {
    /// Those that the settings configure completely.
    pub fn configured(settings: &Settings, outbound: Outbound) -> Self {
        let openid = |issuer: String| Dialect::OpenId { issuer };
        let trimmed = |url: &str| url.trim_end_matches('/').to_owned();
        let microsoft = format!("{}/{}/v2.0", trimmed(&settings.microsoft_url), settings.microsoft_tenant_id);
        let github =
            Dialect::Github { url: trimmed(&settings.github_url), api: trimmed(&settings.github_api_url) };
        let generic = settings
            .oidc_discovery_url
            .as_deref()
            .map(|url| openid(trimmed(url.trim_end_matches(WELL_KNOWN))));
        let configured = [
            (
                Provider::Google,
                &settings.google_client_id,
                &settings.google_client_secret,
                Some(openid(trimmed(&settings.google_issuer))),
            ),
            (
                Provider::Microsoft,
                &settings.microsoft_client_id,
                &settings.microsoft_client_secret,
                Some(openid(microsoft)),
            ),
            (Provider::Github, &settings.github_client_id, &settings.github_client_secret, Some(github)),
            (Provider::Oidc, &settings.oidc_client_id, &settings.oidc_client_secret, generic),
        ];
        let configured = configured.into_iter().filter_map(|(provider, id, secret, dialect)| {
            Some(Configured {
                provider,
                client_id: ClientId::new(id.clone()?),
                client_secret: ClientSecret::new(secret.as_ref()?.expose_secret().to_owned()),
                dialect: dialect?,
            })
        });
        Self {
            outbound,
            configured: configured.collect(),
            documents: moka::future::Cache::builder().max_capacity(8).time_to_live(DOCUMENT_TTL).build(),
        }
    }

    /// Which ones there are.
    pub fn offered(&self) -> Vec<Provider> {
        self.configured.iter().map(|one| one.provider).collect()
    }

    /// The configured provider of this name.
    pub fn find(&self, name: &str) -> Option<Provider> {
        self.configured.iter().map(|one| one.provider).find(|provider| provider.as_str() == name)
    }

    /// Begins a sign-in that ends at `redirect_uri`, which the caller has checked.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the provider cannot be asked.
    pub async fn begin(&self, provider: Provider, redirect_uri: &Url, next: Option<String>) -> Result<Begun> {
        let configured = self.get(provider)?;
        let (client, scopes) = match &configured.dialect {
            Dialect::OpenId { issuer } => {
                let document = self.document(provider, issuer).await?;
                (configured.openid_client(&document.metadata)?, OPENID_SCOPES)
            }
            Dialect::Github { url, .. } => (configured.github_client(url)?, GITHUB_SCOPES),
        };
        Ok(begun(provider, client, scopes, redirect_uri, next))
    }

    /// Exchanges the code of a sign-in and verifies who it is.
    ///
    /// # Errors
    /// [`Error::Impossible`] when the provider refuses, or when what it gives does not hold; [`Error::Unavailable`] when
    /// it cannot be asked.
    pub async fn finish(&self, flow: &Flow, code: &SecretString) -> Result<Proven> {
        let configured = self.get(flow.provider)?;
        match &configured.dialect {
            Dialect::OpenId { issuer } => {
                let document = self.document(flow.provider, issuer).await?;
                let client = configured.openid_client(&document.metadata)?;
                let tokens = self.exchange(&client, flow, code).await?;
                self.verify(configured, &document, flow, &tokens).await
            }
            Dialect::Github { url, api } => {
                let tokens = self.exchange(&configured.github_client(url)?, flow, code).await?;
                self.ask_github(url, api, &bearer(&tokens)).await
            }
        }
    }

    /// Whether the issuer that a provider names beside a code (RFC 9207) is the one that was asked.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the provider cannot be asked.
    pub async fn is_issuer(&self, provider: Provider, named: &str) -> Result<bool> {
        let Dialect::OpenId { issuer } = &self.get(provider)?.dialect else { return Ok(true) };
        let known = self.document(provider, issuer).await?;
        let known = known.metadata.issuer();
        Ok(known.contains(TENANT) || known.as_str() == named)
    }

    fn get(&self, provider: Provider) -> Result<&Configured> {
        self.configured.iter().find(|one| one.provider == provider).ok_or(Error::NotFound("login provider"))
    }

    async fn exchange(&self, client: &Client, flow: &Flow, code: &SecretString) -> Result<Tokens> {
        let redirect = RedirectUrl::new(flow.redirect_uri.clone()).map_err(Error::internal)?;
        client
            .exchange_code(AuthorizationCode::new(code.expose_secret().to_owned()))
            .set_redirect_uri(std::borrow::Cow::Owned(redirect))
            .set_pkce_verifier(PkceCodeVerifier::new(flow.verifier.clone()))
            .request_async(&self.outbound)
            .await
            .map_err(|error| match error {
                RequestTokenError::Request(failure) => away(failure),
                RequestTokenError::ServerResponse(answer) => refused(flow.provider, &answer.error()),
                // The answer itself may hold tokens.
                RequestTokenError::Parse(..) => refused(flow.provider, &"an answer that is no token"),
                RequestTokenError::Other(_) => refused(flow.provider, &"an unexpected answer"),
            })
    }

    async fn verify(
        &self,
        configured: &Configured,
        document: &Document,
        flow: &Flow,
        tokens: &Tokens,
    ) -> Result<Proven> {
        let refuse = |reason: &dyn std::fmt::Display| refused(flow.provider, reason);
        let token = tokens.id_token().ok_or_else(|| refuse(&"no ID token"))?;
        let client = (&configured.client_id, &configured.client_secret);
        let nonce = Nonce::new(flow.nonce.clone());
        let issuer = document.metadata.issuer();
        let claims = match claims::verify(token, client, issuer, &document.keys, &nonce) {
            Err(ClaimsVerificationError::SignatureVerification(
                SignatureVerificationError::NoMatchingKey,
            )) => {
                // The provider has new keys.
                self.documents.invalidate(&flow.provider).await;
                let keys = self.keys(&document.metadata).await?;
                claims::verify(token, client, issuer, &keys, &nonce)
            }
            other => other,
        };
        let mut proven = claims::proven(flow.provider, claims.map_err(|error| refuse(&error))?);
        if proven.shown_email.is_none() && flow.provider == Provider::Oidc {
            self.complete(&document.metadata, &mut proven, &bearer(tokens)).await?;
        }
        Ok(proven)
    }

    /// Asks for the address, where the ID token holds none.
    async fn complete(
        &self,
        metadata: &CoreProviderMetadata,
        proven: &mut Proven,
        bearer: &SecretString,
    ) -> Result<()> {
        #[derive(Deserialize)]
        struct UserInfo {
            sub: String,
            email: Option<String>,
            #[serde(default)]
            email_verified: bool,
            name: Option<String>,
        }
        let Some(endpoint) = metadata.userinfo_endpoint() else { return Ok(()) };
        let info: UserInfo = self.get_json(endpoint.as_str(), Some(bearer)).await?;
        // An access token may have been put in the place of another: only the subject ties it to the ID token.
        if info.sub != proven.subject {
            return Err(refused(proven.provider, &"user info of somebody else"));
        }
        proven.verified_email =
            info.email.as_deref().filter(|_| info.email_verified).and_then(claims::address);
        proven.shown_email = info.email;
        proven.name = proven.name.take().or(info.name);
        Ok(())
    }

    async fn ask_github(&self, url: &str, api: &str, bearer: &SecretString) -> Result<Proven> {
        #[derive(Deserialize)]
        struct User {
            id: u64,
            login: String,
            name: Option<String>,
        }
        #[derive(Deserialize)]
        struct Email {
            email: String,
            primary: bool,
            verified: bool,
        }
        let user: User = self.get_json(&format!("{api}/user"), Some(bearer)).await?;
        let emails: Vec<Email> = self.get_json(&format!("{api}/user/emails"), Some(bearer)).await?;
        let primary = emails.into_iter().find(|email| email.primary);
        let verified = primary.as_ref().filter(|email| email.verified);
        Ok(Proven {
            provider: Provider::Github,
            issuer: url.to_owned(),
            subject: user.id.to_string(),
            verified_email: verified.and_then(|email| claims::address(&email.email)),
            shown_email: primary.map(|email| email.email),
            name: user.name.filter(|name| !name.trim().is_empty()).or(Some(user.login)),
        })
    }

    async fn document(&self, provider: Provider, issuer: &str) -> Result<Arc<Document>> {
        let fetch = async || {
            let metadata: CoreProviderMetadata =
                self.get_json(&format!("{issuer}{WELL_KNOWN}"), None).await?;
            if !speaks_for(metadata.issuer(), provider, issuer) {
                tracing::warn!(provider = provider.as_str(), "the discovery document is of another issuer");
                return Err(away("a discovery document of another issuer"));
            }
            let keys = self.keys(&metadata).await?;
            Ok(Arc::new(Document { metadata, keys }))
        };
        get_or_find(&self.documents, provider, fetch).await
    }

    async fn keys(&self, metadata: &CoreProviderMetadata) -> Result<CoreJsonWebKeySet> {
        self.get_json(metadata.jwks_uri().as_str(), None).await
    }

    async fn get_json<T: DeserializeOwned>(&self, url: &str, bearer: Option<&SecretString>) -> Result<T> {
        let mut request = Request::get(url).header(ACCEPT, "application/json");
        if let Some(token) = bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        let request = request.body(Vec::new()).map_err(away)?;
        let answer: Response<Vec<u8>> = self.outbound.send(request).await.map_err(away)?;
        if !answer.status().is_success() {
            return Err(away(format!("answered {}", answer.status())));
        }
        serde_json::from_slice(answer.body()).map_err(away)
    }
}

impl Configured {
    fn openid_client(&self, metadata: &CoreProviderMetadata) -> Result<Client> {
        let token_url = metadata.token_endpoint().ok_or_else(|| away("no token endpoint"))?;
        // Basic is what a provider supports that says nothing.
        let methods = metadata.token_endpoint_auth_methods_supported();
        let is_basic = methods.is_none_or(|all| all.contains(&CoreClientAuthMethod::ClientSecretBasic));
        let auth = if is_basic { AuthType::BasicAuth } else { AuthType::RequestBody };
        Ok(self.client(metadata.authorization_endpoint().clone(), token_url.clone(), auth))
    }

    fn github_client(&self, url: &str) -> Result<Client> {
        let authorize = AuthUrl::new(format!("{url}/login/oauth/authorize")).map_err(Error::internal)?;
        let token = TokenUrl::new(format!("{url}/login/oauth/access_token")).map_err(Error::internal)?;
        Ok(self.client(authorize, token, AuthType::RequestBody))
    }

    fn client(&self, authorize: AuthUrl, token: TokenUrl, auth: AuthType) -> Client {
        oauth2::Client::new(self.client_id.clone())
            .set_client_secret(self.client_secret.clone())
            .set_auth_uri(authorize)
            .set_token_uri(token)
            .set_auth_type(auth)
    }
}

/// Draws what a sign-in needs to be told from any other.
fn begun(
    provider: Provider,
    client: Client,
    scopes: &[&str],
    redirect_uri: &Url,
    next: Option<String>,
) -> Begun {
    let client = client.set_redirect_uri(RedirectUrl::from_url(redirect_uri.clone()));
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let (state, nonce) = (opaque::generate_text(), opaque::generate_text());
    let mut request = client
        .authorize_url(|| CsrfToken::new(state.clone()))
        .add_scopes(scopes.iter().map(|scope| Scope::new((*scope).to_owned())))
        .set_pkce_challenge(challenge);
    if provider != Provider::Github {
        request = request.add_extra_param("nonce", nonce.clone());
    }
    let (authorization_url, _) = request.url();
    let verifier = verifier.secret().clone();
    let flow = Flow { provider, redirect_uri: redirect_uri.to_string(), next, nonce, verifier };
    Begun { authorization_url, state, flow }
}

/// Whether a discovery document is that of the issuer that is configured.
fn speaks_for(found: &IssuerUrl, provider: Provider, configured: &str) -> bool {
    let found = found.trim_end_matches('/');
    if provider != Provider::Microsoft {
        return found == configured;
    }
    // `{url}/{tenant}/v2.0`: a tenant may be configured by name or as one of the shared endpoints, and is published as
    // its id, or as the place for one.
    let tenant_of = |issuer: &str| {
        let (base, tenant) = issuer.strip_suffix("/v2.0")?.rsplit_once('/')?;
        Some((base.to_owned(), tenant.to_owned()))
    };
    let (Some((base, tenant)), Some((wanted_base, wanted))) = (tenant_of(found), tenant_of(configured))
    else {
        return false;
    };
    let fits = match wanted.parse::<Uuid>() {
        Ok(_) => tenant == wanted,
        Err(_) if matches!(wanted.as_str(), "common" | "organizations") => tenant == TENANT,
        Err(_) => tenant.parse::<Uuid>().is_ok(),
    };
    base == wanted_base && fits
}

fn bearer(tokens: &Tokens) -> SecretString {
    tokens.access_token().secret().clone().into()
}

fn away(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unavailable { service: "the login provider", source: source.into() }
}

fn refused(provider: Provider, reason: &dyn std::fmt::Display) -> Error {
    tracing::info!(provider = provider.as_str(), %reason, "a sign-in with a provider was refused");
    Error::Impossible(format!("the sign-in with {} failed; begin again", provider.display_name()))
}
