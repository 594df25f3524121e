//! Who may call: any signed-in user, or a platform administrator.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use domain::id::OrgId;
use domain::sessions::Principal;
use domain::{Error, OrgScope, sdk_keys};

use crate::problem::Problem;
use crate::request_id::RequestId;
use crate::{AppState, cookies, deadline, observe};

const ORGANIZATION_HEADER: &str = "x-organization-id";

/// Any signed-in user, with the scope of the request.
#[derive(Debug)]
pub(crate) struct Signed {
    /// Who it is.
    pub(crate) principal: Arc<Principal>,
    /// What they act in: their organization, or what a platform administrator named.
    pub(crate) scope: OrgScope,
}

/// A platform administrator, with the scope of the request.
#[derive(Debug)]
pub(crate) struct Admin {
    /// What they act in: the organization they named, else everything.
    pub(crate) scope: OrgScope,
}

/// The holder of an SDK key, who acts as their user.
#[derive(Debug)]
pub(crate) struct Sdk {
    /// Who it is.
    pub(crate) principal: Arc<Principal>,
    /// Id of the request.
    pub(crate) request_id: Option<String>,
}

/// The holder of an SDK key, or a signed-in user.
#[derive(Debug)]
pub(crate) struct SdkOrSigned {
    /// Who it is.
    pub(crate) principal: Arc<Principal>,
    /// Id of the request.
    pub(crate) request_id: Option<String>,
}

impl FromRequestParts<AppState> for Signed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let caller = app.authenticate(&parts.headers).await?;
        if caller.by_cookie && !is_same_origin_exempt(parts) {
            cookies::check_csrf(&parts.method, &parts.headers)?;
        }
        let scope = scope_of(app, &caller.principal, &parts.headers, request_id(parts)).await?;
        Ok(Self { principal: caller.principal, scope })
    }
}

impl FromRequestParts<AppState> for Sdk {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let key = parts.headers.get(AUTHORIZATION).and_then(bearer_of).ok_or(Error::Unauthenticated)?;
        let found = deadline::in_time(sdk_keys::authenticate(&app.platform.db, key)).await?;
        let principal = Arc::new(found.ok_or(Error::Unauthenticated)?);
        Ok(Self { principal, request_id: request_id(parts) })
    }
}

impl FromRequestParts<AppState> for SdkOrSigned {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let bearer = parts.headers.get(AUTHORIZATION).and_then(bearer_of);
        if bearer.is_some_and(|token| token.starts_with(sdk_keys::PREFIX)) {
            let Sdk { principal, request_id } = Sdk::from_request_parts(parts, app).await?;
            return Ok(Self { principal, request_id });
        }
        let Signed { principal, .. } = Signed::from_request_parts(parts, app).await?;
        Ok(Self { principal, request_id: request_id(parts) })
    }
}

fn request_id(parts: &Parts) -> Option<String> {
    parts.extensions.get::<RequestId>().map(|id| id.0.to_string())
}

impl FromRequestParts<AppState> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let Signed { principal, scope } = Signed::from_request_parts(parts, app).await?;
        if !principal.is_superuser {
            return Err(Problem::forbidden("Superuser privileges required"));
        }
        Ok(Self { scope })
    }
}

/// The token of an `Authorization` header, if that is a bearer's.
pub(crate) fn bearer_of(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// On these routes existing clients send no CSRF token; there the browser's own word that the page is ours is enough,
/// which no page of another site can make it say.
fn is_same_origin_exempt(parts: &Parts) -> bool {
    let path = parts.uri.path();
    let exempt = path.starts_with("/auth/mfa") || path == "/api/schedules/validate";
    exempt && parts.headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin")
}

/// The scope these headers ask for, if this principal may have it.
///
/// # Errors
/// 400 for an id that is none or, for a platform administrator, unknown; 403 for somebody else's.
pub(crate) async fn scope_of(
    app: &AppState,
    principal: &Principal,
    headers: &HeaderMap,
    request_id: Option<String>,
) -> Result<OrgScope, Error> {
    let requested = requested_organization(headers)?;
    let scope = OrgScope::for_principal(principal, requested, request_id)?;
    // A user's own organization exists, and any other is refused above without telling whether it does.
    if let (true, Some(id)) = (principal.is_superuser, requested) {
        app.check_organization(principal, id).await?;
    }
    observe::in_scope(&scope);
    Ok(scope)
}

fn requested_organization(headers: &HeaderMap) -> Result<Option<OrgId>, Error> {
    let Some(value) = headers.get(ORGANIZATION_HEADER) else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    id.map(Some).ok_or_else(|| Error::Impossible("X-Organization-Id must be a UUID".into()))
}
