//! Which roles reach which forms.

use axum::extract::State;
use axum::http::StatusCode;
use domain::Permission;
use domain::audit::{self, Action};
use domain::forms::access;
use domain::id::{FormId, RoleId};
use domain::users::directory::{self, UserKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::AppState;
use crate::extract::{Json, Path, PathPair, Signed};
use crate::problem::{Problem, Problems};
use crate::routes::users::UserType;

/// Forms of one assignment.
const MOST: usize = 1_000;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_role_forms, assign_forms))
        .routes(routes!(unassign_form))
        .routes(routes!(list_user_forms))
}

/// The forms a role reaches.
#[derive(Debug, Serialize, ToSchema)]
struct RoleFormsResponse {
    form_ids: Vec<Uuid>,
}

/// Forms for a role.
#[derive(Debug, Deserialize, ToSchema)]
struct AssignFormsToRoleRequest {
    /// 1 to 1000 ids.
    #[schema(value_type = Vec<Uuid>, min_items = 1)]
    form_ids: Vec<String>,
}

/// The forms a user reaches.
#[derive(Debug, Serialize, ToSchema)]
struct UserFormsResponse {
    user_type: UserType,
    /// Platform administrators reach all; then `form_ids` is empty.
    has_access_to_all_forms: bool,
    form_ids: Vec<Uuid>,
}

/// The active forms a role reaches, by id.
///
/// Needs the permission `roles.read`.
#[utoipa::path(
    get, path = "/api/roles/{role_id}/forms", tag = "Roles", security(("bearer" = [])),
    params(("role_id" = Uuid, Path, description = "The role.")),
    responses((status = 200, body = RoleFormsResponse), Problems),
)]
async fn list_role_forms(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<RoleId>,
) -> Result<Json<RoleFormsResponse>, Problem> {
    signed.scope.require(Permission::RolesRead)?;
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let forms = access::forms_of(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Json(RoleFormsResponse { form_ids: forms.into_iter().map(|form| form.0).collect() }))
}

/// Lets a role reach forms.
///
/// All of them or none; one that is assigned already stays so. A role of an organization takes its forms and global
/// ones. Needs the permission `roles.manage`.
#[utoipa::path(
    post, path = "/api/roles/{role_id}/forms", tag = "Roles", security(("bearer" = [])),
    params(("role_id" = Uuid, Path, description = "The role.")), request_body = AssignFormsToRoleRequest,
    responses((status = 204, description = "All of them are assigned."), Problems),
)]
async fn assign_forms(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<RoleId>,
    Json(input): Json<AssignFormsToRoleRequest>,
) -> Result<StatusCode, Problem> {
    signed.scope.require(Permission::RolesManage)?;
    if input.form_ids.is_empty() || input.form_ids.len() > MOST {
        return Err(Problem::invalid("/form_ids", format!("must name 1 to {MOST} forms")));
    }
    let parse = |(index, text): (usize, &String)| {
        text.parse().map_err(|_| Problem::invalid(format!("/form_ids/{index}"), "must be a UUID"))
    };
    let forms: Vec<FormId> = input.form_ids.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let owner = access::assign(&mut tx, id, &forms).await?.organization_id;
    audit::record_for(&mut tx, owner, Action::FormAssigned, id, &json!({"forms": forms})).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a form from a role.
///
/// Taking it twice is fine. Needs the permission `roles.manage`.
#[utoipa::path(
    delete, path = "/api/roles/{role_id}/forms/{form_id}", tag = "Roles", security(("bearer" = [])),
    params(
        ("role_id" = Uuid, Path, description = "The role."),
        ("form_id" = Uuid, Path, description = "The form."),
    ),
    responses((status = 204, description = "It is not assigned any more."), Problems),
)]
async fn unassign_form(
    State(app): State<AppState>,
    signed: Signed,
    PathPair(role, form): PathPair<RoleId, FormId>,
) -> Result<StatusCode, Problem> {
    signed.scope.require(Permission::RolesManage)?;
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let owner = access::unassign(&mut tx, role, form).await?.organization_id;
    audit::record_for(&mut tx, owner, Action::FormUnassigned, role, &json!({"form": form})).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The forms a user reaches, by id.
///
/// One's own, or with the permission `users.read`.
#[utoipa::path(
    get, path = "/api/users/{user_id}/forms", tag = "Users", security(("bearer" = [])),
    params(("user_id" = String, Path, description = "Id or e-mail address.")),
    responses((status = 200, body = UserFormsResponse), Problems),
)]
async fn list_user_forms(
    State(app): State<AppState>,
    signed: Signed,
    Path(key): Path<UserKey>,
) -> Result<Json<UserFormsResponse>, Problem> {
    let own = key.means(signed.principal.user_id, &signed.principal.email);
    if !own {
        signed.scope.require(Permission::UsersRead)?;
    }
    if own && signed.principal.organization_id.is_none() && !signed.principal.is_superuser {
        // No scope reaches a user without an organization, and they reach no form.
        let none = UserFormsResponse {
            user_type: UserType::Org,
            has_access_to_all_forms: false,
            form_ids: Vec::new(),
        };
        return Ok(Json(none));
    }
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let user = directory::get(&mut tx, &key).await?;
    let forms = match user.is_superuser {
        true => Vec::new(),
        false => access::reachable(&mut tx, user.id, user.organization_id).await?,
    };
    tx.commit().await?;
    Ok(Json(UserFormsResponse {
        user_type: if user.is_superuser { UserType::Platform } else { UserType::Org },
        has_access_to_all_forms: user.is_superuser,
        form_ids: forms.into_iter().map(|form| form.0).collect(),
    }))
}
