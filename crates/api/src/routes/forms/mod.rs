//! Forms: defined by those who manage them, used by those who have access.

mod providers;
mod roles;
mod run;
mod schema;
mod uploads;

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::audit::{self, Action};
use domain::executions::RawJson;
use domain::forms::{self, AccessLevel, Changes, Form, NewForm, access, fields, files};
use domain::id::FormId;
use domain::page::NameCursor;
use domain::{OrgScope, Permission, in_time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use schema::FormSchema;

use crate::extract::{Json, Path, Query, Signed, check_json, check_text};
use crate::page::{NextPage, PageQuery, Paged};
use crate::problem::{Problem, Problems};
use crate::{AppState, deadline};

/// How long an answer waits for the file of its form.
const MIRRORING: Duration = Duration::from_secs(2);

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_forms, create_form))
        .routes(routes!(get_form, update_form, replace_form, delete_form))
        .merge(run::router())
        .merge(providers::router())
        .merge(uploads::router())
        .merge(roles::router())
}

/// Who in reach may use a form; none is open without sign-in.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FormAccessLevel {
    /// Every user in reach.
    Public,
    /// Every user in reach.
    Authenticated,
    /// Who holds an active role that the form is assigned to.
    RoleBased,
}

/// A new form.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "name": "New employee", "description": "Makes the accounts", "workflow_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11",
    "access_level": "role_based",
    "form_schema": {"fields": [{"name": "email", "label": "E-mail", "type": "email", "required": true}]},
}))]
struct FormCreate {
    /// 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    description: Option<String>,
    /// Id of the workflow it runs; it need not exist yet.
    workflow_id: Option<String>,
    /// Id of the workflow that prepares it.
    launch_workflow_id: Option<String>,
    /// Parameters of both, unless something else is said.
    #[schema(value_type = Option<Object>)]
    default_launch_params: Option<RawJson>,
    /// Query parameters that reach the launch workflow.
    allowed_query_params: Option<Vec<String>>,
    /// At most 50 fields.
    #[schema(value_type = FormSchema)]
    form_schema: RawJson,
    /// Default `role_based`.
    access_level: Option<FormAccessLevel>,
}

/// Changes of a form. What is absent or null stays as it is; `""`, `[]` or `{}` clears.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"description": "Makes the accounts and the mailbox"}))]
struct FormUpdate {
    name: Option<String>,
    description: Option<String>,
    workflow_id: Option<String>,
    launch_workflow_id: Option<String>,
    #[schema(value_type = Option<Object>)]
    default_launch_params: Option<RawJson>,
    allowed_query_params: Option<Vec<String>>,
    /// Replaces all fields.
    #[schema(value_type = Option<FormSchema>)]
    form_schema: Option<RawJson>,
    is_active: Option<bool>,
    access_level: Option<FormAccessLevel>,
}

/// A form.
#[derive(Debug, Serialize, ToSchema)]
struct FormPublic {
    id: Uuid,
    name: String,
    description: Option<String>,
    workflow_id: Option<String>,
    launch_workflow_id: Option<String>,
    #[schema(value_type = Option<Object>)]
    default_launch_params: Option<RawJson>,
    allowed_query_params: Option<Vec<String>>,
    /// As it was given, every member in its order.
    #[schema(value_type = Option<FormSchema>)]
    form_schema: RawJson,
    access_level: Option<FormAccessLevel>,
    organization_id: Option<Uuid>,
    is_active: bool,
    /// Where the workspace mirrors it; null: nowhere.
    file_path: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Form> for FormPublic {
    fn from(form: Form) -> Self {
        Self {
            id: form.id.0,
            name: form.name,
            description: form.description,
            workflow_id: form.workflow_id,
            launch_workflow_id: form.launch_workflow_id,
            default_launch_params: form.default_launch_params.map(|params| params.0),
            allowed_query_params: form.allowed_query_params.map(|params| params.0),
            form_schema: form.form_schema.0,
            access_level: form.access_level.map(Into::into),
            organization_id: form.organization_id.map(|org| org.0),
            is_active: form.is_active,
            file_path: form.file_path,
            created_at: form.created_at,
            updated_at: form.updated_at,
        }
    }
}

impl From<AccessLevel> for FormAccessLevel {
    fn from(level: AccessLevel) -> Self {
        match level {
            AccessLevel::Public => Self::Public,
            AccessLevel::Authenticated => Self::Authenticated,
            AccessLevel::RoleBased => Self::RoleBased,
        }
    }
}

impl From<FormAccessLevel> for AccessLevel {
    fn from(level: FormAccessLevel) -> Self {
        match level {
            FormAccessLevel::Public => Self::Public,
            FormAccessLevel::Authenticated => Self::Authenticated,
            FormAccessLevel::RoleBased => Self::RoleBased,
        }
    }
}

/// Forms, by name.
///
/// A platform administrator gets all in reach, inactive ones included, and so does who manages the forms of an
/// organization; users get those they may use.
#[utoipa::path(
    get, path = "/api/forms", tag = "Forms", security(("bearer" = [])), params(PageQuery),
    responses(
        (status = 200, body = Vec<FormPublic>, headers(("X-Continuation-Token" = String, description = "If there are more."))),
        Problems,
    ),
)]
async fn list_forms(
    State(app): State<AppState>,
    signed: Signed,
    Query(query): Query<PageQuery>,
) -> Result<(Option<NextPage>, Json<Vec<FormPublic>>), Problem> {
    let list = ("forms", signed.scope.reach());
    let page = query.by_name(&list)?;
    let mut tx = app.platform.db.begin(&signed.scope).await?;
    let forms = forms::list(&mut tx, page.limit + 1, &page.after).await?;
    tx.commit().await?;
    let next = |last: &Form| NameCursor { name: last.name.clone(), id: last.id.0 }.token(&list);
    let Paged { items, next } = Paged::<FormPublic>::new(forms, page.limit, next);
    Ok((next, Json(items)))
}

/// Creates a form in the current scope.
///
/// Needs the permission `forms.manage`; for a platform administrator who names no organization the form is global.
#[utoipa::path(
    post, path = "/api/forms", tag = "Forms", security(("bearer" = [])), request_body = FormCreate,
    responses((status = 201, body = FormPublic), Problems),
)]
async fn create_form(
    State(app): State<AppState>,
    signed: Signed,
    Json(input): Json<FormCreate>,
) -> Result<(StatusCode, Json<FormPublic>), Problem> {
    signed.scope.require(Permission::FormsManage)?;
    check_schema(&input.form_schema)?;
    check_params(input.default_launch_params.as_ref())?;
    check_texts([
        ("/name", Some(input.name.as_str())),
        ("/description", input.description.as_deref()),
        ("/workflow_id", input.workflow_id.as_deref()),
        ("/launch_workflow_id", input.launch_workflow_id.as_deref()),
    ])?;
    let new = NewForm {
        name: input.name,
        description: input.description,
        workflow_id: input.workflow_id,
        launch_workflow_id: input.launch_workflow_id,
        default_launch_params: input.default_launch_params,
        allowed_query_params: input.allowed_query_params,
        form_schema: input.form_schema,
        access_level: Some(input.access_level.map_or(AccessLevel::RoleBased, Into::into)),
    };
    let mut tx = app.platform.db.begin(&signed.scope.narrowed()).await?;
    let form = forms::insert(&mut tx, new).await?;
    audit::record(&mut tx, Action::FormCreated, form.id, &json!({"name": form.name})).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(mirrored(&app, form).await.into())))
}

/// One form.
///
/// For whoever may use it.
#[utoipa::path(
    get, path = "/api/forms/{form_id}", tag = "Forms", security(("bearer" = [])),
    params(("form_id" = Uuid, Path, description = "The form.")),
    responses((status = 200, body = FormPublic), Problems),
)]
async fn get_form(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<FormId>,
) -> Result<Json<FormPublic>, Problem> {
    Ok(Json(usable(&app, signed.scope, id).await?.into()))
}

/// Changes a form.
///
/// Members that are absent or null stay as they are; `form_schema` replaces all fields. Needs the permission
/// `forms.manage`, and then only forms of the caller's organization can be changed.
#[utoipa::path(
    patch, path = "/api/forms/{form_id}", tag = "Forms", security(("bearer" = [])),
    params(("form_id" = Uuid, Path, description = "The form.")), request_body = FormUpdate,
    responses((status = 200, body = FormPublic), Problems),
)]
async fn update_form(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<FormId>,
    Json(input): Json<FormUpdate>,
) -> Result<Json<FormPublic>, Problem> {
    change(&app, signed, id, input).await
}

/// The same as PATCH.
///
/// Members that are absent or null stay as they are here too.
#[utoipa::path(
    put, path = "/api/forms/{form_id}", tag = "Forms", security(("bearer" = [])),
    params(("form_id" = Uuid, Path, description = "The form.")), request_body = FormUpdate,
    responses((status = 200, body = FormPublic), Problems),
)]
async fn replace_form(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<FormId>,
    Json(input): Json<FormUpdate>,
) -> Result<Json<FormPublic>, Problem> {
    change(&app, signed, id, input).await
}

/// Deletes a form.
///
/// Softly: it becomes inactive, its executions stay, and deleting it again is fine.
#[utoipa::path(
    delete, path = "/api/forms/{form_id}", tag = "Forms", security(("bearer" = [])),
    params(("form_id" = Uuid, Path, description = "The form.")),
    responses((status = 204, description = "Inactive now."), Problems),
)]
async fn delete_form(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<FormId>,
) -> Result<StatusCode, Problem> {
    signed.scope.require(Permission::FormsManage)?;
    let inactive = Changes { is_active: Some(false), ..Changes::default() };
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let form = forms::update(&mut tx, id, inactive).await?;
    audit::record_for(&mut tx, form.organization_id, Action::FormDeleted, id, &()).await?;
    tx.commit().await?;
    mirrored(&app, form).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn change(
    app: &AppState,
    signed: Signed,
    id: FormId,
    input: FormUpdate,
) -> Result<Json<FormPublic>, Problem> {
    signed.scope.require(Permission::FormsManage)?;
    if let Some(schema) = &input.form_schema {
        check_schema(schema)?;
    }
    check_params(input.default_launch_params.as_ref())?;
    check_texts([
        ("/name", input.name.as_deref()),
        ("/description", input.description.as_deref()),
        ("/workflow_id", input.workflow_id.as_deref()),
        ("/launch_workflow_id", input.launch_workflow_id.as_deref()),
    ])?;
    let details =
        json!({"name": input.name, "is_active": input.is_active, "fields": input.form_schema.is_some()});
    let changes = Changes {
        name: input.name,
        description: input.description,
        workflow_id: input.workflow_id,
        launch_workflow_id: input.launch_workflow_id,
        default_launch_params: input.default_launch_params,
        allowed_query_params: input.allowed_query_params,
        form_schema: input.form_schema,
        access_level: input.access_level.map(Into::into),
        is_active: input.is_active,
    };
    let mut tx = app.platform.db.begin(&signed.scope.widened()).await?;
    let form = forms::update(&mut tx, id, changes).await?;
    audit::record_for(&mut tx, form.organization_id, Action::FormUpdated, id, &details).await?;
    tx.commit().await?;
    Ok(Json(mirrored(app, form).await.into()))
}

/// The form with the file that mirrors it. What is written is durable already: a workspace that cannot be written, or is busy,
/// does not undo it, and the indexer writes the file later. So it is told in any case: who hears of a failure tries again,
/// and makes another form.
async fn mirrored(app: &AppState, mut form: Form) -> Form {
    deadline::may_wait(MIRRORING);
    match in_time(MIRRORING, Box::pin(files::write(&app.platform, form.id))).await {
        Ok(path) => form.file_path = path,
        Err(error) => tracing::warn!(%error, form.id = %form.id, "the file of a form is not written yet"),
    }
    form
}

/// The form, if the caller may use it.
pub(super) async fn usable(app: &AppState, scope: OrgScope, id: FormId) -> Result<Form, Problem> {
    let mut tx = app.platform.db.begin(&scope.widened()).await?;
    let form = access::get_usable(&mut tx, id).await?;
    tx.commit().await?;
    Ok(form)
}

fn check_schema(schema: &RawJson) -> Result<(), Problem> {
    let schema = parsed(schema)?;
    check_json("/form_schema", schema.as_object().into_iter().flatten())?;
    Ok(fields::check(&schema)?)
}

fn check_params(params: Option<&RawJson>) -> Result<(), Problem> {
    let Some(params) = params else { return Ok(()) };
    match parsed(params)? {
        Value::Object(params) => check_json("/default_launch_params", &params),
        _ => Err(Problem::invalid("/default_launch_params", "must be an object")),
    }
}

fn check_texts<const N: usize>(texts: [(&str, Option<&str>); N]) -> Result<(), Problem> {
    texts.into_iter().try_for_each(|(pointer, text)| check_text(pointer, text.unwrap_or_default()))
}

fn parsed(json: &RawJson) -> Result<Value, Problem> {
    serde_json::from_str(json.get()).map_err(|_| Problem::invalid("", "malformed JSON"))
}

/// The members of a JSON object; of anything else, none.
fn members(json: Option<&RawJson>) -> Map<String, Value> {
    let value = json.and_then(|json| serde_json::from_str(json.get()).ok());
    if let Some(Value::Object(members)) = value { members } else { Map::new() }
}
