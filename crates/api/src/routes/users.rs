//! Users: inviting, finding, changing and removing people.
//!
//! For platform administrators, and within their organization for users whose role allows it; anybody reads their own
//! record. A user is named by id or e-mail.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::audit::{self, Action};
use domain::id::OrgId;
use domain::mfa;
use domain::page::NameCursor;
use domain::passwords;
use domain::users::directory::{self, Filters, Kind, UserKey};
use domain::users::manage::{self, Changed, Changes, Invitation};
use domain::users::{self, User};
use domain::{OrgTx, Permission};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::AppState;
use crate::extract::{Json, Path, Query, Signed, check_text};
use crate::page::{PageQuery, Paged};
use crate::problem::{Problem, Problems};

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_users, invite_user))
        .routes(routes!(get_user, update_user, delete_user))
        .routes(routes!(get_user_roles))
}

/// What a list shows. Names are also accepted in snake case.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct UsersQuery {
    /// `platform` for administrators, `org` for people of organizations.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    kind: Option<String>,
    /// Only people of this organization.
    #[param(rename = "orgId", format = Uuid)]
    org_id: Option<String>,
    /// How many, 1000 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 1000)]
    limit: Option<String>,
    /// `X-Continuation-Token` of the answer before, for the rows after it; the filters must be the same.
    #[param(rename = "continuationToken")]
    continuation_token: Option<String>,
}

/// What a user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum UserType {
    /// A platform administrator.
    Platform,
    /// Somebody of an organization.
    Org,
    /// The platform itself; nobody can be made one.
    System,
}

/// Somebody to invite: they register later with this e-mail address.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"email": "ada@acme.example", "name": "Ada"}))]
struct UserInvitation {
    #[schema(format = "email", max_length = 320)]
    email: String,
    /// Without one the first part of the e-mail address.
    #[schema(max_length = 255)]
    name: Option<String>,
    /// Ignored: whoever registers chooses one.
    #[schema(value_type = Option<String>, format = Password)]
    #[expect(dead_code, reason = "clients send it; it changes nothing")]
    password: Option<SecretString>,
    /// Default true.
    is_active: Option<bool>,
    /// Platform administrator, of no organization then; default false.
    is_superuser: Option<bool>,
    /// Follows `is_superuser`.
    user_type: Option<UserType>,
    /// Default: the organization the request acts in.
    organization_id: Option<Uuid>,
}

/// Changes of a user. What is absent or null stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"is_superuser": false, "organization_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11"}))]
struct UserUpdate {
    /// Ends the links that were mailed to the old one. Where that was not confirmed, removes the password too, and ends all
    /// sessions of the user.
    #[schema(format = "email")]
    email: Option<String>,
    name: Option<String>,
    /// Sets a password, which completes the account of somebody invited, and ends all sessions of the user.
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<SecretString>,
    /// Deactivating ends all sessions of the user.
    is_active: Option<bool>,
    /// `true` promotes to platform administrator, of no organization then; `false` demotes.
    is_superuser: Option<bool>,
    /// Whether the address counts as proven. That it does is for platform administrators to say; a new address that anybody else
    /// gives does not, and neither does that of an invitation that anybody else completes.
    is_verified: Option<bool>,
    /// `false` removes the second factor of the user.
    mfa_enabled: Option<bool>,
    /// Moves into this organization; a demotion needs one.
    organization_id: Option<Uuid>,
    /// `PLATFORM` promotes, `ORG` demotes.
    user_type: Option<UserType>,
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
struct UserPublic {
    id: Uuid,
    #[schema(format = "email")]
    email: String,
    name: Option<String>,
    is_active: bool,
    is_superuser: bool,
    /// Whether the e-mail address is proven.
    is_verified: bool,
    /// Whether an invited user has registered, or was given a password.
    is_registered: bool,
    mfa_enabled: bool,
    user_type: UserType,
    organization_id: Option<Uuid>,
    last_login: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// The roles of a user.
#[derive(Debug, Serialize, ToSchema)]
struct UserRolesResponse {
    /// Active ones.
    role_ids: Vec<Uuid>,
}

impl From<User> for UserPublic {
    fn from(user: User) -> Self {
        Self {
            id: user.id.0,
            email: user.email,
            name: Some(user.name),
            is_active: user.is_active,
            is_superuser: user.is_superuser,
            is_verified: user.is_verified,
            is_registered: user.is_registered,
            mfa_enabled: user.mfa_enabled,
            user_type: if user.is_superuser { UserType::Platform } else { UserType::Org },
            organization_id: user.organization_id.map(|org| org.0),
            last_login: user.last_login,
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}

/// The active users, by e-mail.
///
/// Those of the organization the request acts in; a platform administrator who names none gets all. Needs the permission
/// `users.read`.
#[utoipa::path(
    get, path = "/api/users", tag = "Users", security(("bearer" = [])), params(UsersQuery),
    responses(
        (status = 200, body = Vec<UserPublic>, headers(("X-Continuation-Token" = String, description = "If there are more."))),
        Problems,
    ),
)]
async fn list_users(
    State(app): State<AppState>,
    signed: Signed,
    Query(query): Query<UsersQuery>,
) -> Result<Paged<UserPublic>, Problem> {
    signed.scope.require(Permission::UsersRead)?;
    let filters = filters(&query)?;
    let list = (&filters, signed.scope.reach());
    let page =
        PageQuery { limit: query.limit, continuation_token: query.continuation_token }.by_name(&list)?;
    let mut tx = app.platform.db.begin(&signed.scope).await?;
    let users = directory::list(&mut tx, &filters, page.limit + 1, &page.after).await?;
    tx.commit().await?;
    let place = |last: &User| NameCursor { name: last.email.clone(), id: last.id.0 }.token(&list);
    Ok(Paged::new(users, page.limit, place))
}

/// Invites a user.
///
/// They exist from now on, may get roles, and complete the account by registering with this e-mail address. Needs the
/// permission `users.manage`.
#[utoipa::path(
    post, path = "/api/users", tag = "Users", security(("bearer" = [])), request_body = UserInvitation,
    responses((status = 201, body = UserPublic), (status = 409, description = "Another has this address."), Problems),
)]
async fn invite_user(
    State(app): State<AppState>,
    signed: Signed,
    Json(input): Json<UserInvitation>,
) -> Result<(StatusCode, Json<UserPublic>), Problem> {
    signed.scope.require(Permission::UsersManage)?;
    check_storable(Some(&input.email), input.name.as_deref())?;
    refuse_system(input.user_type)?;
    let organization = match input.organization_id {
        Some(id) => Some(OrgId(id)),
        None => signed.scope.owner()?,
    };
    let invitation = Invitation {
        email: input.email,
        name: input.name,
        is_active: input.is_active.unwrap_or(true),
        is_superuser: input.is_superuser.unwrap_or_default(),
        organization,
    };
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let user = manage::invite(&mut tx, &app.platform.db, invitation).await?;
    let details = json!({"email": user.email, "organization_id": user.organization_id, "is_superuser": user.is_superuser});
    audit::record_for(&mut tx, user.organization_id, Action::UserInvited, user.id, &details).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(user.into())))
}

/// One user, active or not.
///
/// Anybody reads their own record; any other needs the permission `users.read`.
#[utoipa::path(
    get, path = "/api/users/{user_id}", tag = "Users", security(("bearer" = [])),
    params(("user_id" = String, Path, description = "Id or e-mail address.")),
    responses((status = 200, body = UserPublic), Problems),
)]
async fn get_user(
    State(app): State<AppState>,
    signed: Signed,
    Path(key): Path<UserKey>,
) -> Result<Json<UserPublic>, Problem> {
    if is_own(&signed, &key) {
        // Past the scope: somebody without an organization has none, and still a record.
        return Ok(Json(users::get(&app.platform.db, signed.principal.user_id).await?.into()));
    }
    signed.scope.require(Permission::UsersRead)?;
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let user = directory::get(&mut tx, &key).await?;
    tx.commit().await?;
    Ok(Json(user.into()))
}

/// Changes a user.
///
/// Acts within five seconds on all the user has open, WebSockets included. The last active platform administrator can be
/// neither demoted nor deactivated. A move to another organization ends the user's sessions and SDK keys. Needs the permission
/// `users.manage`, and then only users who may do no more than the caller can be changed.
#[utoipa::path(
    patch, path = "/api/users/{user_id}", tag = "Users", security(("bearer" = [])),
    params(("user_id" = String, Path, description = "Id or e-mail address.")),
    request_body = UserUpdate,
    responses((status = 200, body = UserPublic), (status = 409, description = "Another has this address."), Problems),
)]
async fn update_user(
    State(app): State<AppState>,
    signed: Signed,
    Path(key): Path<UserKey>,
    Json(input): Json<UserUpdate>,
) -> Result<Json<UserPublic>, Problem> {
    signed.scope.require(Permission::UsersManage)?;
    check_storable(input.email.as_deref(), input.name.as_deref())?;
    let is_superuser = wanted_rights(&input)?;
    let details = json!({
        "email": input.email, "name": input.name, "is_active": input.is_active, "is_superuser": is_superuser,
        "is_verified": input.is_verified, "organization_id": input.organization_id, "password": input.password.is_some(),
    });
    let changes = Changes {
        password_hash: match input.password {
            Some(password) => Some(hash(&app, password).await?),
            None => None,
        },
        email: input.email,
        name: input.name,
        is_active: input.is_active,
        is_superuser,
        is_verified: input.is_verified,
        organization: input.organization_id.map(OrgId),
    };
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let mut changed = manage::update(&mut tx, &app.platform.db, &key, changes).await?;
    let (id, owner) = (changed.user.id, changed.user.organization_id);
    let loses_factor = input.mfa_enabled == Some(false) && changed.user.mfa_enabled;
    if input.mfa_enabled == Some(false) {
        // Also what is only begun.
        mfa::remove_of(&mut tx, id).await?;
        changed.user.mfa_enabled = false;
    }
    audit::record_for(&mut tx, owner, Action::UserUpdated, id, &details).await?;
    if loses_factor {
        audit::record_for(&mut tx, owner, Action::MfaRemoved, id, &()).await?;
    }
    Ok(Json(finish(&app, tx, changed).await?.into()))
}

/// Deletes a user.
///
/// Softly: they become inactive, and their sessions and SDK keys end; the row stays, and deleting it again is fine. Needs
/// the permission `users.manage`, as a change does.
#[utoipa::path(
    delete, path = "/api/users/{user_id}", tag = "Users", security(("bearer" = [])),
    params(("user_id" = String, Path, description = "Id or e-mail address.")),
    responses((status = 204, description = "Inactive now."), Problems),
)]
async fn delete_user(
    State(app): State<AppState>,
    signed: Signed,
    Path(key): Path<UserKey>,
) -> Result<StatusCode, Problem> {
    signed.scope.require(Permission::UsersManage)?;
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let changed = manage::delete(&mut tx, &app.platform.db, &key).await?;
    let owner = changed.user.organization_id;
    audit::record_for(&mut tx, owner, Action::UserDeleted, changed.user.id, &()).await?;
    finish(&app, tx, changed).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The active roles of a user.
///
/// Anybody reads their own; any other's needs the permission `users.read`.
#[utoipa::path(
    get, path = "/api/users/{user_id}/roles", tag = "Users", security(("bearer" = [])),
    params(("user_id" = String, Path, description = "Id or e-mail address.")),
    responses((status = 200, body = UserRolesResponse), Problems),
)]
async fn get_user_roles(
    State(app): State<AppState>,
    signed: Signed,
    Path(key): Path<UserKey>,
) -> Result<Json<UserRolesResponse>, Problem> {
    let own = if is_own(&signed, &key) {
        Some(users::get(&app.platform.db, signed.principal.user_id).await?)
    } else {
        signed.scope.require(Permission::UsersRead)?;
        None
    };
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let user = match own {
        Some(user) => user,
        None => directory::get(&mut tx, &key).await?,
    };
    let role_ids = directory::role_ids(&mut tx, &user).await?;
    tx.commit().await?;
    Ok(Json(UserRolesResponse { role_ids: role_ids.into_iter().map(|id| id.0).collect() }))
}

fn is_own(signed: &Signed, key: &UserKey) -> bool {
    key.means(signed.principal.user_id, &signed.principal.email)
}

/// Commits a change and forgets the sessions it ended, so that this process refuses them at once.
async fn finish(app: &AppState, tx: OrgTx, changed: Changed) -> Result<User, Problem> {
    tx.commit().await?;
    for session in changed.ended {
        app.forget_session(session).await;
    }
    Ok(changed.user)
}

async fn hash(app: &AppState, password: SecretString) -> Result<String, Problem> {
    // The form of the sign-in refuses NUL too.
    check_text("/password", password.expose_secret())?;
    passwords::check_strength(&password, app.platform.settings.is_production())?;
    Ok(passwords::hash(password).await?)
}

/// Whether the input promotes (`true`) or demotes, by either of the two members that say so.
fn wanted_rights(input: &UserUpdate) -> Result<Option<bool>, Problem> {
    refuse_system(input.user_type)?;
    let by_type = input.user_type.map(|kind| kind == UserType::Platform);
    match (input.is_superuser, by_type) {
        (Some(one), Some(other)) if one != other => {
            Err(Problem::invalid("/user_type", "contradicts is_superuser"))
        }
        (one, other) => Ok(one.or(other)),
    }
}

fn refuse_system(kind: Option<UserType>) -> Result<(), Problem> {
    match kind {
        Some(UserType::System) => Err(Problem::invalid("/user_type", "must be PLATFORM or ORG")),
        Some(UserType::Platform | UserType::Org) | None => Ok(()),
    }
}

fn filters(query: &UsersQuery) -> Result<Filters, Problem> {
    let kind = match query.kind.as_deref().map(str::to_lowercase).as_deref() {
        None => None,
        Some("platform") => Some(Kind::Platform),
        Some("org") => Some(Kind::Org),
        Some(_) => return Err(Problem::invalid("?type", "must be platform or org")),
    };
    let organization = query.org_id.as_deref().map(str::parse).transpose();
    let organization = organization.map_err(|_| Problem::invalid("?orgId", "must be a UUID"))?;
    Ok(Filters { kind, organization })
}

fn check_storable(email: Option<&str>, name: Option<&str>) -> Result<(), Problem> {
    check_text("/email", email.unwrap_or_default())?;
    check_text("/name", name.unwrap_or_default())
}
