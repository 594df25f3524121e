//! The developer's context: who acts, in which organization, with which parameters.

use axum::extract::State;
use domain::developer_contexts::{self, Changes, DeveloperContext};
use domain::id::OrgId;
use domain::organizations;
use domain::sessions::Principal;
use domain::{Error, OrgScope};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{check_known, context_of, own_scope};
use crate::AppState;
use crate::extract::{Json, SdkOrSigned, Signed, check_json};
use crate::problem::{Problem, Problems};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_sdk_context, update_sdk_context))
}

/// What a file finds in its context on a developer's machine.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "user": {"id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "email": "ada@acme.example", "name": "Ada"},
    "organization": {"id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b12", "name": "Acme", "is_active": true},
    "default_parameters": {"site": "LON-01"}, "track_executions": true, "is_platform_admin": false,
}))]
struct DeveloperContextResponse {
    #[schema(value_type = Object)]
    user: Value,
    /// Null for a platform administrator without a default.
    #[schema(value_type = Option<Object>, required)]
    organization: Option<Value>,
    #[schema(value_type = Object)]
    default_parameters: Map<String, Value>,
    track_executions: bool,
    /// What `context.is_platform_admin` holds.
    is_platform_admin: bool,
}

/// Changes of the context. What is absent or null stays; `""` and `{}` clear.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"default_parameters": {"site": "LON-01"}}))]
struct DeveloperContextUpdate {
    /// The id of an organization; for everybody but platform administrators it is their own. `""` clears it.
    default_org_id: Option<String>,
    /// Replaces all parameters.
    #[schema(value_type = Option<Object>)]
    default_parameters: Option<Map<String, Value>>,
    track_executions: Option<bool>,
}

/// The context of the caller.
///
/// For an SDK key, or a session.
#[utoipa::path(
    get, path = "/api/sdk/context", tag = "SDK", security(("bearer" = [])),
    responses((status = 200, body = DeveloperContextResponse), Problems),
)]
async fn get_sdk_context(
    State(app): State<AppState>,
    caller: SdkOrSigned,
) -> Result<Json<DeveloperContextResponse>, Problem> {
    let own = own_scope(&caller.principal, caller.request_id.as_deref())?;
    let context = context_of(&app, &own).await?;
    view(&app, &caller.principal, &own, context).await.map(Json)
}

/// Changes the context of the caller.
///
/// Calls of `config` then act in that organization unless they name another; files stay the caller's own.
#[utoipa::path(
    put, path = "/api/sdk/context", tag = "SDK", security(("bearer" = [])), request_body = DeveloperContextUpdate,
    responses((status = 200, body = DeveloperContextResponse), Problems),
)]
async fn update_sdk_context(
    State(app): State<AppState>,
    signed: Signed,
    Json(input): Json<DeveloperContextUpdate>,
) -> Result<Json<DeveloperContextResponse>, Problem> {
    signed.scope.owner()?;
    check_json("/default_parameters", input.default_parameters.iter().flatten())?;
    let own = own_scope(&signed.principal, signed.scope.request_id())?;
    let default_org_id = input.default_org_id.as_deref().map(organization_of).transpose()?;
    if let Some(id) = default_org_id.flatten() {
        OrgScope::for_principal(&signed.principal, Some(id), None)?;
        if signed.principal.is_superuser {
            check_known(&app, &signed.principal, id, "/default_org_id").await?;
        }
    }
    let changes = Changes {
        default_org_id,
        default_parameters: input.default_parameters,
        track_executions: input.track_executions,
    };
    let mut tx = app.platform.db.begin(&own).await?;
    let context = developer_contexts::update(&mut tx, changes).await?;
    tx.commit().await?;
    view(&app, &signed.principal, &own, context).await.map(Json)
}

/// The organization that a text names; an empty one names none.
fn organization_of(text: &str) -> Result<Option<OrgId>, Problem> {
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| Problem::invalid("/default_org_id", "must be a UUID")),
    }
}

async fn view(
    app: &AppState,
    principal: &Principal,
    own: &OrgScope,
    context: DeveloperContext,
) -> Result<DeveloperContextResponse, Problem> {
    let organization = match context.default_org_id.or(principal.organization_id) {
        None => None,
        Some(id) => {
            let mut tx = app.platform.db.begin(own).await?;
            let found = organizations::get(&mut tx, id).await;
            tx.commit().await?;
            match found {
                Ok(found) => Some(json!({"id": found.id, "name": found.name, "is_active": found.is_active})),
                // The user was moved since; what they cannot reach is not shown.
                Err(Error::NotFound(_)) => None,
                Err(error) => return Err(error.into()),
            }
        }
    };
    Ok(DeveloperContextResponse {
        user: json!({"id": principal.user_id, "email": principal.email, "name": principal.name}),
        organization,
        default_parameters: context.default_parameters.0,
        track_executions: context.track_executions,
        is_platform_admin: principal.is_superuser,
    })
}
