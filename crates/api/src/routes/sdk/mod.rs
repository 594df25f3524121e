//! The SDK outside of a worker: keys, the developer's context, configuration and files, and the package itself.
//!
//! What a worker answers over the run's socket, these routes answer to a file that runs on a developer's machine. The
//! invariant: an SDK key opens these routes and nothing else, and acts as its user.

use domain::developer_contexts::{self, DeveloperContext};
use domain::id::OrgId;
use domain::sessions::Principal;
use domain::{Error, OrgScope, Result};
use utoipa_axum::router::OpenApiRouter;

use crate::AppState;
use crate::problem::Problem;

mod config;
mod context;
pub(crate) mod download;
mod files;
mod keys;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(keys::router())
        .merge(context::router())
        .merge(config::router())
        .merge(files::router())
        .merge(download::router())
}

/// The scope that a user's own things are found in, wherever an administrator acts at the moment.
fn own_scope(principal: &Principal, request_id: Option<&str>) -> Result<OrgScope> {
    OrgScope::for_principal(principal, None, request_id.map(str::to_owned))
}

async fn context_of(app: &AppState, scope: &OrgScope) -> Result<DeveloperContext> {
    let mut tx = app.platform.db.begin(scope).await?;
    let context = developer_contexts::get(&mut tx).await?;
    tx.commit().await?;
    Ok(context)
}

/// Makes sure that there is the organization which an administrator names in the body.
pub(in crate::routes) async fn check_known(
    app: &AppState,
    principal: &Principal,
    id: OrgId,
    pointer: &str,
) -> Result<(), Problem> {
    match app.check_organization(principal, id).await {
        Err(Error::Impossible(_)) => Err(Problem::invalid(pointer, "names no organization")),
        other => Ok(other?),
    }
}

/// The scope of a call: the organization that the body names, else the context's, else the user's own.
async fn scope_of_call(
    app: &AppState,
    principal: &Principal,
    request_id: Option<&str>,
    org_id: Option<&str>,
) -> Result<OrgScope, Problem> {
    let own = own_scope(principal, request_id)?;
    let requested = match org_id.map(str::trim).filter(|text| !text.is_empty()) {
        Some("GLOBAL") if principal.is_superuser => return Ok(own.narrowed()),
        Some("GLOBAL") => return Err(Problem::forbidden("Access denied to organization")),
        Some(text) => {
            let id =
                text.parse::<OrgId>().map_err(|_| Problem::invalid("/org_id", "must be a UUID or GLOBAL"))?;
            Some(id)
        }
        None => context_of(app, &own).await?.default_org_id,
    };
    let scope = OrgScope::for_principal(principal, requested, request_id.map(str::to_owned))?;
    if let (true, Some(id)) = (principal.is_superuser, requested) {
        check_known(app, principal, id, "/org_id").await?;
    }
    let scope = scope.narrowed();
    scope.owner()?;
    Ok(scope)
}
