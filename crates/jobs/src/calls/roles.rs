//! `roles.*`: those of the run's scope and the global ones to read; to change them, or to find those of another organization
//! by their id, one must administer the platform.

use domain::audit::{self, Action};
use domain::forms::access;
use domain::id::{FormId, RoleId};
use domain::page::NameCursor;
use domain::roles::{self, members};
use domain::users::directory::UserKey;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Caller, Refusal, parse_id};

const MOST_ROLES: i64 = 10_000;
const MOST_USERS: i64 = 10_000;
/// As over HTTP.
const MOST_ASSIGNED: usize = 1_000;
const MANAGE: &str = "manage roles";

#[derive(Deserialize)]
pub(super) struct NewRole {
    name: String,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangedRole {
    role_id: String,
    name: Option<String>,
    description: Option<String>,
    is_active: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct OneRole {
    role_id: String,
}

#[derive(Deserialize)]
pub(super) struct Users {
    role_id: String,
    user_ids: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Forms {
    role_id: String,
    form_ids: Vec<String>,
}

pub(super) async fn list(caller: &Caller) -> Answer {
    let mut tx = caller.begin(None).await?;
    let found = roles::list(&mut tx, MOST_ROLES, &NameCursor::START).await?;
    tx.commit().await?;
    Ok(found.iter().map(show).collect())
}

pub(super) async fn get(caller: &Caller, args: OneRole) -> Answer {
    let id = role(&args.role_id)?;
    let mut tx = caller.begin_by_id().await?;
    let found = roles::get(&mut tx, id).await?;
    tx.commit().await?;
    Ok(show(&found))
}

/// In the run's organization, or a global one.
pub(super) async fn create(caller: &Caller, args: NewRole) -> Answer {
    let new = roles::NewRole {
        name: args.name,
        description: args.description,
        permissions: Vec::new(),
        is_active: true,
        organization: caller.scope.owner()?,
    };
    let mut tx = caller.begin_as_admin(MANAGE).await?;
    let role = roles::insert(&mut tx, new).await?;
    let details = json!({ "name": role.name, "organization_id": role.organization_id, "permissions": role.permissions.0 });
    audit::record_for(&mut tx, role.organization_id, Action::RoleCreated, role.id, &details).await?;
    tx.commit().await?;
    Ok(show(&role))
}

pub(super) async fn update(caller: &Caller, args: ChangedRole) -> Answer {
    let id = role(&args.role_id)?;
    let details = json!({ "name": args.name, "is_active": args.is_active });
    let changes = roles::Changes {
        name: args.name,
        description: args.description,
        permissions: None,
        is_active: args.is_active,
    };
    let mut tx = caller.begin_as_admin(MANAGE).await?;
    let role = roles::update(&mut tx, id, changes).await?;
    audit::record_for(&mut tx, role.organization_id, Action::RoleUpdated, id, &details).await?;
    tx.commit().await?;
    Ok(show(&role))
}

/// Softly, as over HTTP: the role becomes inactive and grants nothing.
pub(super) async fn delete(caller: &Caller, args: OneRole) -> Answer {
    let id = role(&args.role_id)?;
    let inactive = roles::Changes { is_active: Some(false), ..roles::Changes::default() };
    let mut tx = caller.begin_as_admin(MANAGE).await?;
    let role = roles::update(&mut tx, id, inactive).await?;
    audit::record_for(&mut tx, role.organization_id, Action::RoleDeleted, id, &()).await?;
    tx.commit().await?;
    Ok(Value::Bool(true))
}

pub(super) async fn list_users(caller: &Caller, args: OneRole) -> Answer {
    let id = role(&args.role_id)?;
    let mut tx = caller.begin_by_id().await?;
    let users = members::list(&mut tx, id, MOST_USERS, None).await?;
    tx.commit().await?;
    Ok(json!(users))
}

pub(super) async fn list_forms(caller: &Caller, args: OneRole) -> Answer {
    let id = role(&args.role_id)?;
    let mut tx = caller.begin_by_id().await?;
    let forms = access::forms_of(&mut tx, id).await?;
    tx.commit().await?;
    Ok(json!(forms))
}

pub(super) async fn assign_users(caller: &Caller, args: Users) -> Answer {
    let id = role(&args.role_id)?;
    check_count("user_ids", args.user_ids.len())?;
    let keys: Result<Vec<UserKey>, ()> = args.user_ids.iter().map(|text| text.parse()).collect();
    let keys = keys.map_err(|()| Refusal::value("user_ids must be ids or e-mail addresses"))?;
    let mut tx = caller.begin_as_admin(MANAGE).await?;
    let owner = members::assign(&mut tx, id, &keys).await?.organization_id;
    let details = json!({ "users": args.user_ids });
    audit::record_for(&mut tx, owner, Action::RoleAssigned, id, &details).await?;
    tx.commit().await?;
    Ok(Value::Null)
}

pub(super) async fn assign_forms(caller: &Caller, args: Forms) -> Answer {
    let id = role(&args.role_id)?;
    check_count("form_ids", args.form_ids.len())?;
    let forms: Vec<FormId> =
        args.form_ids.iter().map(|text| parse_id("form_ids", text)).collect::<Result<_, _>>()?;
    let mut tx = caller.begin_as_admin(MANAGE).await?;
    let owner = access::assign(&mut tx, id, &forms).await?.organization_id;
    let details = json!({ "forms": forms });
    audit::record_for(&mut tx, owner, Action::FormAssigned, id, &details).await?;
    tx.commit().await?;
    Ok(Value::Null)
}

fn role(text: &str) -> Result<RoleId, Refusal> {
    parse_id("role_id", text)
}

fn check_count(what: &str, count: usize) -> Result<(), Refusal> {
    if (1..=MOST_ASSIGNED).contains(&count) {
        return Ok(());
    }
    Err(Refusal::value(&format!("{what} must name 1 to {MOST_ASSIGNED}")))
}

fn show(role: &roles::Role) -> Value {
    json!({
        "id": role.id,
        "name": role.name,
        "description": Some(&role.description).filter(|text| !text.is_empty()),
        "is_active": role.is_active,
        "created_by": role.created_by,
        "created_at": role.created_at,
        "updated_at": role.updated_at,
    })
}
