//! Roles: what their users may do, and who has them.
//!
//! For platform administrators, and within their organization for users whose role allows it.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::Permission;
use domain::audit::{self, Action};
use domain::id::{OrgId, RoleId, UserId};
use domain::json::NUL_RULE;
use domain::page::{Cursor, NameCursor};
use domain::permissions;
use domain::roles::{self, Changes, NewRole, Role, members};
use domain::users::directory::UserKey;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::AppState;
use crate::extract::{Json, Path, PathPair, Query, Signed, check_text};
use crate::page::{NextPage, PageQuery, Paged};
use crate::problem::{Problem, Problems};

/// Most users of one assignment.
const MOST_USERS: usize = 1_000;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_roles, create_role))
        .routes(routes!(get_role, update_role, replace_role, delete_role))
        .routes(routes!(list_role_users, assign_role))
        .routes(routes!(unassign_role))
}

/// A new role.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"name": "Team leads", "permissions": ["users.manage", "executions.read"]}))]
struct RoleCreate {
    /// 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    description: Option<String>,
    /// What its users may do within their organization; default nothing.
    permissions: Option<Vec<String>>,
    /// Default true.
    is_active: Option<bool>,
    /// Default: the organization the request acts in; for a platform administrator who names none the role is global.
    organization_id: Option<Uuid>,
}

/// Changes of a role. What is absent or null stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"permissions": ["executions.read"]}))]
struct RoleUpdate {
    /// 1 to 100 characters.
    name: Option<String>,
    /// `""` clears it.
    description: Option<String>,
    /// Replaces all.
    permissions: Option<Vec<String>>,
    /// An inactive role grants nothing.
    is_active: Option<bool>,
}

/// A role.
#[derive(Debug, Serialize, ToSchema)]
struct RolePublic {
    id: Uuid,
    /// Null for a global role.
    organization_id: Option<Uuid>,
    name: String,
    description: Option<String>,
    /// What its users may do within their organization.
    permissions: Vec<String>,
    is_active: bool,
    /// E-mail of the creator.
    created_by: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// Users to give a role to.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"user_ids": ["ada@acme.example"]}))]
struct AssignUsersToRoleRequest {
    /// Ids or e-mail addresses.
    #[schema(min_items = 1, max_items = 1000)]
    user_ids: Vec<String>,
}

/// Who has a role.
#[derive(Debug, Serialize, ToSchema)]
struct RoleUsersResponse {
    user_ids: Vec<Uuid>,
}

impl From<Role> for RolePublic {
    fn from(role: Role) -> Self {
        Self {
            id: role.id.0,
            organization_id: role.organization_id.map(|org| org.0),
            name: role.name,
            description: Some(role.description).filter(|text| !text.is_empty()),
            permissions: role.permissions.0,
            is_active: role.is_active,
            created_by: role.created_by,
            created_at: role.created_at,
            updated_at: role.updated_at,
        }
    }
}

/// The active roles, by name.
///
/// Those of the organization the request acts in and the global ones; a platform administrator who names none gets all.
/// Needs the permission `roles.read`.
#[utoipa::path(
    get, path = "/api/roles", tag = "Roles", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, body = Vec<RolePublic>, headers(("X-Continuation-Token" = String, description = "If there are more."))),
        Problems,
    ),
)]
async fn list_roles(
    State(app): State<AppState>,
    signed: Signed,
    Query(query): Query<PageQuery>,
) -> Result<Paged<RolePublic>, Problem> {
    signed.scope.require(Permission::RolesRead)?;
    let list = ("roles", signed.scope.reach());
    let page = query.by_name(&list)?;
    let mut tx = app.platform.db.begin(&signed.scope).await?;
    let roles = roles::list(&mut tx, page.limit + 1, &page.after).await?;
    tx.commit().await?;
    let place = |last: &Role| NameCursor { name: last.name.clone(), id: last.id.0 }.token(&list);
    Ok(Paged::new(roles, page.limit, place))
}

/// Creates a role.
///
/// Needs the permission `roles.manage`; nobody but a platform administrator creates global ones, and nobody grants what
/// they do not hold.
#[utoipa::path(
    post, path = "/api/roles", tag = "Roles", security(("bearer" = [])), request_body = RoleCreate,
    responses((status = 201, body = RolePublic), Problems),
)]
async fn create_role(
    State(app): State<AppState>,
    signed: Signed,
    Json(input): Json<RoleCreate>,
) -> Result<(StatusCode, Json<RolePublic>), Problem> {
    signed.scope.require(Permission::RolesManage)?;
    check_storable(Some(&input.name), input.description.as_deref())?;
    let new = NewRole {
        name: input.name,
        description: input.description.unwrap_or_default(),
        permissions: permissions::parse("/permissions", &input.permissions.unwrap_or_default())?,
        is_active: input.is_active.unwrap_or(true),
        organization: match input.organization_id {
            Some(id) => Some(OrgId(id)),
            None => signed.scope.owner()?,
        },
    };
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let role = roles::insert(&mut tx, new).await?;
    let details = json!({
        "name": role.name, "organization_id": role.organization_id, "permissions": role.permissions.0,
    });
    audit::record_for(&mut tx, role.organization_id, Action::RoleCreated, role.id, &details).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(role.into())))
}

/// One role, active or not.
///
/// Needs the permission `roles.read`.
#[utoipa::path(
    get, path = "/api/roles/{role_id}", tag = "Roles", security(("bearer" = [])),
    params(("role_id" = Uuid, Path, description = "The role.")),
    responses((status = 200, body = RolePublic), Problems),
)]
async fn get_role(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<RoleId>,
) -> Result<Json<RolePublic>, Problem> {
    signed.scope.require(Permission::RolesRead)?;
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let role = roles::get(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Json(role.into()))
}

/// Changes a role.
///
/// Acts within five seconds on whoever has it. Needs the permission `roles.manage`, and then only roles of the caller's
/// organization that allow no more than the caller holds can be changed.
#[utoipa::path(
    patch, path = "/api/roles/{role_id}", tag = "Roles", security(("bearer" = [])),
    params(("role_id" = Uuid, Path, description = "The role.")),
    request_body = RoleUpdate,
    responses((status = 200, body = RolePublic), Problems),
)]
async fn update_role(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<RoleId>,
    Json(input): Json<RoleUpdate>,
) -> Result<Json<RolePublic>, Problem> {
    signed.scope.require(Permission::RolesManage)?;
    check_storable(input.name.as_deref(), input.description.as_deref())?;
    let details = json!({
        "name": input.name, "permissions": input.permissions, "is_active": input.is_active,
    });
    let changes = Changes {
        name: input.name,
        description: input.description,
        permissions: input
            .permissions
            .map(|permissions| permissions::parse("/permissions", &permissions))
            .transpose()?,
        is_active: input.is_active,
    };
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let role = roles::update(&mut tx, id, changes).await?;
    audit::record_for(&mut tx, role.organization_id, Action::RoleUpdated, id, &details).await?;
    tx.commit().await?;
    Ok(Json(role.into()))
}

/// Changes a role, as `PATCH` does.
///
/// Some clients send it this way.
#[utoipa::path(
    put, path = "/api/roles/{role_id}", tag = "Roles", security(("bearer" = [])),
    params(("role_id" = Uuid, Path, description = "The role.")),
    request_body = RoleUpdate,
    responses((status = 200, body = RolePublic), Problems),
)]
async fn replace_role(
    app: State<AppState>,
    signed: Signed,
    id: Path<RoleId>,
    input: Json<RoleUpdate>,
) -> Result<Json<RolePublic>, Problem> {
    update_role(app, signed, id, input).await
}

/// Deletes a role.
///
/// Softly: it becomes inactive and grants nothing; deleting it again is fine. Needs the permission `roles.manage`, as a
/// change does.
#[utoipa::path(
    delete, path = "/api/roles/{role_id}", tag = "Roles", security(("bearer" = [])),
    params(("role_id" = Uuid, Path, description = "The role.")),
    responses((status = 204, description = "Inactive now."), Problems),
)]
async fn delete_role(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<RoleId>,
) -> Result<StatusCode, Problem> {
    signed.scope.require(Permission::RolesManage)?;
    let inactive = Changes { is_active: Some(false), ..Changes::default() };
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let role = roles::update(&mut tx, id, inactive).await?;
    audit::record_for(&mut tx, role.organization_id, Action::RoleDeleted, id, &()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who has a role.
///
/// The active users, as far as the request reaches them, by id. Needs the permission `roles.read`.
#[utoipa::path(
    get, path = "/api/roles/{role_id}/users", tag = "Roles", security(("bearer" = [])),
    params(("role_id" = Uuid, Path, description = "The role."), PageQuery),
    responses(
        (status = 200, body = RoleUsersResponse, headers(("X-Continuation-Token" = String, description = "If there are more."))),
        Problems,
    ),
)]
async fn list_role_users(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<RoleId>,
    Query(query): Query<PageQuery>,
) -> Result<(Option<NextPage>, Json<RoleUsersResponse>), Problem> {
    signed.scope.require(Permission::RolesRead)?;
    let list = (id, signed.scope.reach());
    let page = query.by_id(&list)?;
    let mut tx = app.platform.db.begin(&signed.scope.clone().widened()).await?;
    let users = members::list(&mut tx, id, page.limit + 1, page.after).await?;
    tx.commit().await?;
    let Paged { items, next } = Paged::<UserId>::new(users, page.limit, |last| Cursor(last.0).token(&list));
    Ok((next, Json(RoleUsersResponse { user_ids: items.into_iter().map(|id| id.0).collect() })))
}

/// Gives a role to users.
///
/// To all of them or to none; whoever has it already keeps it. A role of an organization takes only its users. Needs the
/// permission `roles.manage`, as a change of the role does.
#[utoipa::path(
    post, path = "/api/roles/{role_id}/users", tag = "Roles", security(("bearer" = [])),
    params(("role_id" = Uuid, Path, description = "The role.")),
    request_body = AssignUsersToRoleRequest,
    responses((status = 204, description = "All of them have it."), Problems),
)]
async fn assign_role(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<RoleId>,
    Json(input): Json<AssignUsersToRoleRequest>,
) -> Result<StatusCode, Problem> {
    signed.scope.require(Permission::RolesManage)?;
    if !(1..=MOST_USERS).contains(&input.user_ids.len()) {
        return Err(Problem::invalid("/user_ids", format!("must name 1 to {MOST_USERS} users")));
    }
    let mut keys = Vec::with_capacity(input.user_ids.len());
    for (index, text) in input.user_ids.iter().enumerate() {
        let pointer = || format!("/user_ids/{index}");
        keys.push(text.parse::<UserKey>().map_err(|()| Problem::invalid(pointer(), NUL_RULE))?);
    }
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let owner = members::assign(&mut tx, id, &keys).await?.organization_id;
    audit::record_for(&mut tx, owner, Action::RoleAssigned, id, &json!({"users": input.user_ids})).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a role from a user.
///
/// Taking it again is fine. Needs the permission `roles.manage`, as a change of the role does.
#[utoipa::path(
    delete, path = "/api/roles/{role_id}/users/{user_id}", tag = "Roles", security(("bearer" = [])),
    params(
        ("role_id" = Uuid, Path, description = "The role."),
        ("user_id" = String, Path, description = "Id or e-mail address."),
    ),
    responses((status = 204, description = "The user does not have it any more."), Problems),
)]
async fn unassign_role(
    State(app): State<AppState>,
    signed: Signed,
    PathPair(id, key): PathPair<RoleId, UserKey>,
) -> Result<StatusCode, Problem> {
    signed.scope.require(Permission::RolesManage)?;
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let (role, user) = members::unassign(&mut tx, id, &key).await?;
    let details = json!({"user": user});
    audit::record_for(&mut tx, role.organization_id, Action::RoleUnassigned, id, &details).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn check_storable(name: Option<&str>, description: Option<&str>) -> Result<(), Problem> {
    check_text("/name", name.unwrap_or_default())?;
    check_text("/description", description.unwrap_or_default())
}
