//! `organizations.*`: one's own for everybody, all of them for platform administrators.

use domain::audit::{self, Action};
use domain::id::OrgId;
use domain::page::NameCursor;
use domain::{Error, organizations};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Caller, Org, parse_id, yes};

const MOST_ORGANIZATIONS: i64 = 10_000;
const MANAGE: &str = "manage organizations";

#[derive(Deserialize)]
pub(super) struct NewOrganization {
    name: String,
    domain: Option<String>,
    #[serde(default = "yes")]
    is_active: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangedOrganization {
    org_id: String,
    name: Option<String>,
    domain: Option<String>,
    is_active: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct OneOrganization {
    org_id: String,
}

pub(super) async fn get(caller: &Caller, args: Org) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let Some(id) = tx.scope().owner()? else { return Ok(Value::Null) };
    let found = organizations::get(&mut tx, id).await;
    tx.commit().await?;
    match found {
        Ok(organization) => Ok(show_organization(&organization)),
        Err(Error::NotFound(_)) => Ok(Value::Null),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn list(caller: &Caller) -> Answer {
    let mut tx = caller.begin_as_admin(MANAGE).await?;
    let found = organizations::list(&mut tx, MOST_ORGANIZATIONS, &NameCursor::START).await?;
    tx.commit().await?;
    Ok(found.iter().map(show_organization).collect())
}

pub(super) async fn create(caller: &Caller, args: NewOrganization) -> Answer {
    let new = organizations::NewOrganization {
        name: args.name,
        domain: args.domain,
        is_active: args.is_active,
        settings: json!({}),
    };
    let mut tx = caller.begin_as_admin(MANAGE).await?;
    let created = organizations::insert(&mut tx, new).await?;
    audit::record(&mut tx, Action::OrganizationCreated, created.id, &json!({ "name": created.name })).await?;
    tx.commit().await?;
    Ok(show_organization(&created))
}

pub(super) async fn update(caller: &Caller, args: ChangedOrganization) -> Answer {
    let id: OrgId = parse_id("org_id", &args.org_id)?;
    let changed = json!({ "name": args.name, "domain": args.domain, "is_active": args.is_active });
    let changes = organizations::Changes {
        name: args.name,
        domain: args.domain,
        is_active: args.is_active,
        settings: None,
    };
    let mut tx = caller.begin_as_admin(MANAGE).await?;
    let updated = organizations::update(&mut tx, id, changes).await?;
    audit::record(&mut tx, Action::OrganizationUpdated, id, &changed).await?;
    tx.commit().await?;
    Ok(show_organization(&updated))
}

/// Softly, as over HTTP: the organization becomes inactive.
pub(super) async fn delete(caller: &Caller, args: OneOrganization) -> Answer {
    let id: OrgId = parse_id("org_id", &args.org_id)?;
    let inactive = organizations::Changes { is_active: Some(false), ..organizations::Changes::default() };
    let mut tx = caller.begin_as_admin(MANAGE).await?;
    organizations::update(&mut tx, id, inactive).await?;
    audit::record(&mut tx, Action::OrganizationDeleted, id, &()).await?;
    tx.commit().await?;
    Ok(Value::Bool(true))
}

fn show_organization(organization: &organizations::Organization) -> Value {
    json!({
        "id": organization.id,
        "name": organization.name,
        "domain": organization.domain,
        "is_active": organization.is_active,
        "created_by": organization.created_by,
        "created_at": organization.created_at,
        "updated_at": organization.updated_at,
    })
}
