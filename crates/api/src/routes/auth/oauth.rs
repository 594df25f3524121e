//! Signing in with a provider, for pages that speak JSON and by redirects; the logins that are linked to an account.
//!
//! What a provider says is verified in `domain::logins`. The invariant here: a sign-in ends in the browser that began it,
//! at an origin that the operator named.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use domain::logins::{self, Begun, Flow, Linked, Provider};
use domain::sessions::FirstFactor;
use domain::{Error, mfa, opaque};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admit::{self, LoginResponse, Token, tokens_of, with_cookies};
use super::mfa::Done;
use crate::envelope::NO_STORE;
use crate::extract::{Client, Json, Path, Query, Signed, time};
use crate::limits::Rate;
use crate::problem::{Problem, Problems, PublicProblems};
use crate::{AppState, cookies, deadline, limits, origin};

const FLOW_SECONDS: i64 = 600;
/// Sign-ins begun in a minute from one address: many people may share it.
const BEGUN_PER_ADDRESS: Rate = Rate { most: 60, window: Duration::from_secs(60) };
const LONGEST_ADDRESS: usize = 2_048;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_login_providers))
        .routes(routes!(begin_provider_login))
        .routes(routes!(finish_provider_login))
        .routes(routes!(redirect_to_provider))
        .routes(routes!(return_from_provider))
        .routes(routes!(list_linked_logins))
        .routes(routes!(unlink_login))
        .layer(from_fn(deadline::asks_others))
}

/// A login provider.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"name": "github", "display_name": "GitHub", "icon": "github"}))]
pub(super) struct OAuthProviderInfo {
    /// What the addresses of its operations hold.
    name: String,
    display_name: String,
    icon: Option<String>,
}

/// The providers that are configured.
#[derive(Debug, Serialize, ToSchema)]
struct OAuthProvidersResponse {
    providers: Vec<OAuthProviderInfo>,
}

/// Where a sign-in is to end.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct BeginLogin {
    /// Page that the provider sends the browser back to; its origin is `PUBLIC_URL` or one of `CORS_ORIGINS`, and the
    /// provider knows it.
    #[param(example = "https://bifrost.example.com/auth/callback/github")]
    redirect_uri: String,
}

/// Where the browser goes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "authorization_url": "https://github.com/login/oauth/authorize?response_type=code&client_id=…&state=q0vXkC…",
    "state": "q0vXkC…",
}))]
struct OAuthInitResponse {
    authorization_url: String,
    /// Comes back from the provider; good once, for ten minutes, in this browser.
    state: String,
}

/// What the provider sent back.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"provider": "github", "code": "c0de…", "state": "q0vXkC…"}))]
struct OAuthCallbackRequest {
    provider: String,
    #[schema(value_type = String)]
    code: SecretString,
    state: String,
}

/// Where to go after the sign-in.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RedirectToProvider {
    /// A path of this server. Default: `/`.
    #[param(example = "/forms")]
    next: Option<String>,
}

/// What a provider sends the browser back with.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ReturnFromProvider {
    #[param(value_type = Option<String>)]
    code: Option<SecretString>,
    state: Option<String>,
    /// Why the provider refused.
    error: Option<String>,
    /// The issuer (RFC 9207), of providers that name it.
    iss: Option<String>,
}

/// The logins that open an account.
#[derive(Debug, Serialize, ToSchema)]
struct LinkedAccountsResponse {
    accounts: Vec<LinkedAccountResponse>,
}

/// A login that opens an account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "provider": "google", "provider_email": "ada@example.com", "linked_at": "2026-11-26T10:00:00Z",
    "last_used_at": "2026-11-26T10:00:00Z",
}))]
struct LinkedAccountResponse {
    provider: String,
    provider_email: String,
    linked_at: String,
    last_used_at: Option<String>,
}

impl From<Provider> for OAuthProviderInfo {
    fn from(provider: Provider) -> Self {
        Self {
            name: provider.as_str().into(),
            display_name: provider.display_name().into(),
            icon: Some(provider.as_str().into()),
        }
    }
}

impl From<Linked> for LinkedAccountResponse {
    fn from(linked: Linked) -> Self {
        Self {
            provider: linked.provider,
            provider_email: linked.email,
            linked_at: time::text(linked.linked_at),
            last_used_at: linked.last_used_at.map(time::text),
        }
    }
}

/// The providers to offer.
pub(super) fn offered(app: &AppState) -> Vec<OAuthProviderInfo> {
    app.platform.providers.offered().into_iter().map(Into::into).collect()
}

/// The providers one may sign in with.
///
/// Those that are configured.
#[utoipa::path(
    get, path = "/auth/oauth/providers", tag = "oauth",
    responses((status = 200, body = OAuthProvidersResponse), PublicProblems),
)]
async fn list_login_providers(State(app): State<AppState>) -> Json<OAuthProvidersResponse> {
    Json(OAuthProvidersResponse { providers: offered(&app) })
}

/// Begins a sign-in with a provider, for a page that ends it itself.
///
/// Sets a cookie that ties the sign-in to this browser. Send the browser to `authorization_url`; the provider sends it back
/// to `redirect_uri` with `code` and `state`, which go to `POST /auth/oauth/callback` within ten minutes. At most 60 a
/// minute per address.
#[utoipa::path(
    get, path = "/auth/oauth/init/{provider}", tag = "oauth",
    params(("provider" = String, Path, description = "Name of the provider.", example = "github"), BeginLogin),
    responses((status = 200, body = OAuthInitResponse), Problems),
)]
async fn begin_provider_login(
    State(app): State<AppState>,
    client: Client,
    headers: HeaderMap,
    Path(provider): Path<String>,
    Query(given): Query<BeginLogin>,
) -> Result<Response, Problem> {
    let provider = configured(&app, &provider)?;
    let redirect_uri = allowed_redirect(&app, &given.redirect_uri)?;
    let (begun, browser) = begin(&app, &client, &headers, provider, &redirect_uri, None).await?;
    let answer = OAuthInitResponse { authorization_url: begun.authorization_url.into(), state: begun.state };
    Ok(with_flow(&app, &browser, Json(answer)))
}

/// Ends a sign-in with a provider.
///
/// Sets the cookies of the session. The first time, an address that the provider verified leads to the account that has
/// it, completes the one of somebody invited, or makes one in the organization of its domain. Where `OAUTH_REQUIRE_MFA`
/// asks for a second factor, the answer is 202 with an `mfa_token`, as that of `POST /auth/login`. 400 when the state is
/// unknown, used, expired or of another browser, or the provider refuses; 403 when there is no account for it.
#[utoipa::path(
    post, path = "/auth/oauth/callback", tag = "oauth", request_body = OAuthCallbackRequest,
    responses((status = 200, body = Token), (status = 202, body = LoginResponse), Problems),
)]
async fn finish_provider_login(
    State(app): State<AppState>,
    client: Client,
    headers: HeaderMap,
    Json(given): Json<OAuthCallbackRequest>,
) -> Result<Response, Problem> {
    limits::by_address(&app, "oauth-callback", client.address).await?;
    let flow = take_flow(&app, &headers, &given.state, &given.provider).await?;
    let flow = flow.filter(|flow| flow.next.is_none()).ok_or_else(unknown_state)?;
    match finish(&app, &client, &headers, &flow, &given.code).await? {
        Ended::Admitted(token) => {
            let (access, refresh) = (token.access_token.clone(), token.refresh_token.clone());
            Ok(with_cookies(&app, &access, &refresh, Json(token)))
        }
        Ended::Asked(asked) => Ok((StatusCode::ACCEPTED, NO_STORE, Json(asked)).into_response()),
    }
}

/// Sends the browser to a provider to sign in.
///
/// It comes back to `/auth/{provider}/callback`, and from there goes to `next`.
#[utoipa::path(
    get, path = "/auth/{provider}/authorize", tag = "oauth",
    params(("provider" = String, Path, description = "Name of the provider.", example = "google"), RedirectToProvider),
    responses((status = 302, description = "To the provider."), Problems),
)]
async fn redirect_to_provider(
    State(app): State<AppState>,
    client: Client,
    headers: HeaderMap,
    Path(provider): Path<String>,
    Query(given): Query<RedirectToProvider>,
) -> Result<Response, Problem> {
    let provider = configured(&app, &provider)?;
    let next = given.next.unwrap_or_else(|| "/".into());
    if !is_own_path(&next) {
        return Err(Problem::invalid("?next", "must be a path of this server"));
    }
    let redirect_uri = own_callback(&app, provider)?;
    let (begun, browser) = begin(&app, &client, &headers, provider, &redirect_uri, Some(next)).await?;
    Ok(with_flow(&app, &browser, found(begun.authorization_url.as_str())))
}

/// Where a provider sends the browser back to.
///
/// Sets the cookies of the session and sends the browser to the `next` it began with, or to `/login?error=…`: `denied`,
/// `state`, `exchange`, `account`, `unavailable`. Where a second factor is asked for, to
/// `/login#mfa_token=…&mfa_required=…&mfa_setup_required=…`.
#[utoipa::path(
    get, path = "/auth/{provider}/callback", tag = "oauth",
    params(("provider" = String, Path, description = "Name of the provider.", example = "google"), ReturnFromProvider),
    responses((status = 302, description = "To a page of this server."), Problems),
)]
async fn return_from_provider(
    State(app): State<AppState>,
    client: Client,
    headers: HeaderMap,
    Path(provider): Path<String>,
    Query(given): Query<ReturnFromProvider>,
) -> Result<Response, Problem> {
    configured(&app, &provider)?;
    limits::by_address(&app, "oauth-callback", client.address).await?;
    let state = given.state.as_deref().unwrap_or_default();
    let flow = take_flow(&app, &headers, state, &provider).await?;
    let Some((flow, next)) = flow.and_then(|flow| flow.next.clone().map(|next| (flow, next))) else {
        return Ok(login_page("state"));
    };
    if let Some(named) = &given.iss {
        match app.platform.providers.is_issuer(flow.provider, named).await {
            Ok(true) => {}
            Ok(false) => return Ok(login_page("exchange")),
            Err(Error::Unavailable { .. }) => return Ok(login_page("unavailable")),
            Err(other) => return Err(other.into()),
        }
    }
    let code = match (given.error, given.code) {
        (None, Some(code)) => code,
        _ => return Ok(login_page("denied")),
    };
    match finish(&app, &client, &headers, &flow, &code).await {
        Ok(Ended::Admitted(token)) => {
            Ok(with_cookies(&app, &token.access_token, &token.refresh_token, found(&next)))
        }
        // In the fragment, which neither servers nor their logs get to see.
        Ok(Ended::Asked(asked)) => Ok(found(&format!("/login#{}", asked.as_fragment()))),
        Err(Error::Impossible(_)) => Ok(login_page("exchange")),
        Err(Error::Forbidden(_) | Error::Unauthenticated) => Ok(login_page("account")),
        Err(Error::Unavailable { .. }) => Ok(login_page("unavailable")),
        Err(other) => Err(other.into()),
    }
}

/// The logins that open one's account.
///
/// By name of the provider.
#[utoipa::path(
    get, path = "/auth/oauth/accounts", tag = "oauth", security(("bearer" = [])),
    responses((status = 200, body = LinkedAccountsResponse), Problems),
)]
async fn list_linked_logins(
    State(app): State<AppState>,
    signed: Signed,
) -> Result<Json<LinkedAccountsResponse>, Problem> {
    let found = logins::list(&app.platform.db, signed.principal.user_id).await?;
    Ok(Json(LinkedAccountsResponse { accounts: found.into_iter().map(Into::into).collect() }))
}

/// Unlinks a login from one's account.
///
/// 400 when it is the last way in: no password, and no other login with a provider that is configured.
#[utoipa::path(
    delete, path = "/auth/oauth/accounts/{provider}", tag = "oauth", security(("bearer" = [])),
    params(("provider" = String, Path, description = "Name of the provider.", example = "google")),
    responses((status = 200, body = Done), Problems),
)]
async fn unlink_login(
    State(app): State<AppState>,
    client: Client,
    signed: Signed,
    Path(provider): Path<String>,
) -> Result<Json<Done>, Problem> {
    let (principal, offered) = (&signed.principal, app.platform.providers.offered());
    let (user, actor, request_id) = (principal.user_id, &principal.email, client.request_id.as_deref());
    logins::unlink(&app.platform.db, user, actor, &provider, &offered, request_id).await?;
    Ok(Json(Done { message: "Login unlinked" }))
}

/// How a sign-in ends that the provider vouches for.
enum Ended {
    Admitted(Token),
    Asked(LoginResponse),
}

fn configured(app: &AppState, name: &str) -> Result<Provider, Error> {
    app.platform.providers.find(name).ok_or(Error::NotFound("login provider"))
}

async fn begin(
    app: &AppState,
    client: &Client,
    headers: &HeaderMap,
    provider: Provider,
    redirect_uri: &Url,
    next: Option<String>,
) -> Result<(Begun, String), Error> {
    limits::by_address_at(app, "oauth-begin", client.address, BEGUN_PER_ADDRESS).await?;
    let mut begun = app.platform.providers.begin(provider, redirect_uri, next).await?;
    // One value for all that a browser begins, or a second tab would spoil the first.
    let browser = flow_cookie(app, headers).unwrap_or_else(opaque::generate_text);
    let flow = begun.flow.clone();
    flow.keep(&app.platform.cache, &begun.state, &browser).await?;
    begun.flow.verifier.clear();
    Ok((begun, browser))
}

/// What `state` stands for, if this browser began it with this provider.
async fn take_flow(
    app: &AppState,
    headers: &HeaderMap,
    state: &str,
    provider: &str,
) -> Result<Option<Flow>, Error> {
    let browser = flow_cookie(app, headers);
    let flow = Flow::take(&app.platform.cache, state, browser.as_deref()).await;
    Ok(flow.filter(|flow| flow.provider.as_str() == provider))
}

async fn finish(
    app: &AppState,
    client: &Client,
    headers: &HeaderMap,
    flow: &Flow,
    code: &SecretString,
) -> Result<Ended, Error> {
    let proven = app.platform.providers.finish(flow, code).await?;
    let db = &app.platform.db;
    let user = logins::sign_in(db, &proven, client.request_id.as_deref()).await?;
    let missing = if app.platform.settings.oauth_require_mfa {
        let has_second = mfa::status(db, user.user_id).await?.enabled;
        admit::missing_factor(app, client, headers, &FirstFactor { user: user.clone(), has_second }).await?
    } else {
        None
    };
    Ok(match missing {
        Some(stage) => Ended::Asked(admit::ask(app, &user, stage)),
        None => Ended::Admitted(tokens_of(app, &admit::start(app, client, &user).await?)),
    })
}

fn flow_cookie(app: &AppState, headers: &HeaderMap) -> Option<String> {
    let name = cookies::flow_name(app.platform.settings.is_production());
    cookies::find(headers, name).filter(|value| {
        (32..=64).contains(&value.len())
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    })
}

fn with_flow(app: &AppState, browser: &str, answer: impl IntoResponse) -> Response {
    let mut response = (NO_STORE, answer).into_response();
    cookies::set_flow(response.headers_mut(), app.platform.settings.is_production(), browser, FLOW_SECONDS);
    response
}

/// The address, if its origin is one that the operator named.
fn allowed_redirect(app: &AppState, text: &str) -> Result<Url, Error> {
    let settings = &app.platform.settings;
    let refused = || Error::Impossible("the origin of redirect_uri is not one of this installation".into());
    let url = Url::parse(text).map_err(|_| refused())?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none()
        && text.len() <= LONGEST_ADDRESS;
    let origin = url.origin();
    let is_named =
        origin::named(settings).any(|name| Url::parse(name).is_ok_and(|name| name.origin() == origin));
    if is_plain && origin.is_tuple() && is_named { Ok(url) } else { Err(refused()) }
}

/// Where a provider sends the browser back to in the redirect pair.
fn own_callback(app: &AppState, provider: Provider) -> Result<Url, Error> {
    let base = app.platform.settings.public_url.trim_end_matches('/');
    Url::parse(&format!("{base}/auth/{}/callback", provider.as_str())).map_err(|_| {
        Error::Impossible("PUBLIC_URL is not set: the provider could not send the browser back".into())
    })
}

/// Whether a text is a path here and no way to another server: browsers read `//host` and `/\host` as one.
fn is_own_path(text: &str) -> bool {
    let base = Url::parse("https://own.invalid").expect("is one");
    text.starts_with('/')
        && text.len() <= LONGEST_ADDRESS
        && !text.contains('\\')
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && base.join(text).is_ok_and(|joined| joined.origin() == base.origin())
}

fn unknown_state() -> Error {
    Error::Impossible(
        "the state is unknown, used, expired or of another browser; begin the sign-in again".into(),
    )
}

fn login_page(error: &str) -> Response {
    found(&format!("/login?error={error}"))
}

fn found(address: &str) -> Response {
    let location = HeaderValue::from_str(address).expect("addresses here are visible ASCII");
    (StatusCode::FOUND, NO_STORE, [(LOCATION, location)]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_of_this_server_follows_a_sign_in() {
        for good in ["/", "/forms", "/forms/1?tab=a#b", "/a//b", "/a:b@c"] {
            assert!(is_own_path(good), "{good}");
        }
        let bad = [
            "",
            "forms",
            "//evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "https://evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            " /x",
            "javascript:alert(1)",
            "/é",
        ];
        for bad in bad {
            assert!(!is_own_path(bad), "{bad:?}");
        }
    }
}
