//! Using a form: preparing it with its launch workflow, and running its workflow.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use domain::executions::{NEUTRAL_ERROR, RawJson, Status};
use domain::forms::{Form, fields};
use domain::id::FormId;
use domain::json::pointer_below;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{members, usable};
use crate::AppState;
use crate::extract::{IdempotencyKey, Json, OptionalJson, Path, Signed, check_json};
use crate::problem::{Problem, Problems};
use crate::routes::executions::result_schema;
use crate::routes::workflows::answer::WorkflowExecutionResponse;
use crate::routes::workflows::run::{Run, checked, idempotency};
use crate::visibility::{self, Reader};

/// The name of the operation in the idempotency table.
const ROUTE: &str = "forms.execute";

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(execute_form)).routes(routes!(start_form))
}

/// What was filled in. A body with neither member is itself the form data.
#[derive(ToSchema)]
#[schema(example = json!({"form_data": {"email": "grace@acme.example"}, "startup_data": null}))]
#[expect(
    dead_code,
    reason = "only its schema matters: the body is read as a map, since it may be the form data itself"
)]
struct FormExecuteRequest {
    /// Values by the names of the fields.
    #[schema(value_type = Option<Object>)]
    form_data: Option<Map<String, Value>>,
    /// What the launch workflow returned; the run finds it in `context.startup`.
    #[schema(value_type = Option<Object>)]
    startup_data: Option<Map<String, Value>>,
}

/// What the launch workflow returned.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"result": {"sites": ["LON-01", "PAR-02"]}}))]
struct FormStartupResponse {
    /// Null without a launch workflow.
    #[schema(schema_with = result_schema)]
    result: Option<RawJson>,
}

/// Runs the form's workflow.
///
/// As the caller, in the caller's scope. The parameters are the form's defaults, overridden by the form data. Answers as
/// `/api/workflows/execute` does, and honours an `Idempotency-Key` the same way.
#[utoipa::path(
    post, path = "/api/forms/{form_id}/execute", tag = "Forms", security(("bearer" = [])),
    params(
        ("form_id" = Uuid, Path, description = "The form."),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters, kept a day."),
    ),
    request_body = Option<FormExecuteRequest>,
    responses(
        (status = 200, body = WorkflowExecutionResponse),
        (status = 202, body = WorkflowExecutionResponse, description = "Not ended yet."),
        (status = 400, description = "The form has no workflow."),
        Problems,
    ),
)]
async fn execute_form(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<FormId>,
    IdempotencyKey(key): IdempotencyKey,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<Map<String, Value>>,
) -> Result<Response, Problem> {
    let scope = signed.scope.clone().narrowed();
    scope.owner()?;
    let form = usable(&app, signed.scope, id).await?;
    let body = body.unwrap_or_default();
    check_texts(&body)?;
    let idempotency =
        key.map(|key| idempotency(ROUTE, key, &json!({"form": id, "body": body}), &scope)).transpose()?;
    let at = if is_split(&body) { "/form_data" } else { "" };
    let (data, startup) = split(body)?;
    let run = async {
        let workflow = form
            .workflow_id
            .as_deref()
            .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST).detail("this form has no workflow"))?;
        let mut parameters = members(form.default_launch_params.as_ref().map(|params| &params.0));
        parameters.extend(data);
        let at = |name: &str| pointer_below(at, name);
        let (work, parameters) = checked(&app, &scope, workflow, parameters, at).await?;
        Ok(Run::of_form(id, work, &parameters, startup)?)
    };
    Run::start_or_replay(run.await, &app, &scope, idempotency, &headers).await
}

/// Runs the form's launch workflow and waits for its end.
///
/// Its parameters are the form's defaults, the body, and the query parameters that the form lets through; what comes
/// later wins. A run that fails is 400 with what it says to users.
#[utoipa::path(
    post, path = "/api/forms/{form_id}/startup", tag = "Forms", security(("bearer" = [])),
    params(("form_id" = Uuid, Path, description = "The form.")),
    request_body = Option<Object>,
    responses(
        (status = 200, body = FormStartupResponse),
        (status = 400, description = "The launch workflow failed."),
        (status = 504, description = "It takes longer than the server waits."),
        Problems,
    ),
)]
async fn start_form(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<FormId>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<Map<String, Value>>,
) -> Result<Json<FormStartupResponse>, Problem> {
    let scope = signed.scope.clone().narrowed();
    scope.owner()?;
    let form = usable(&app, signed.scope, id).await?;
    let Some(workflow) = form.launch_workflow_id.as_deref() else {
        return Ok(Json(FormStartupResponse { result: None }));
    };
    let body = body.unwrap_or_default();
    check_texts(&body)?;
    let mut parameters = members(form.default_launch_params.as_ref().map(|params| &params.0));
    parameters.extend(body);
    let of_query = let_through(&form, query.as_deref().unwrap_or_default());
    let names: Vec<String> = of_query.keys().cloned().collect();
    for parameter in &of_query {
        check_json(&format!("?{}", parameter.0), [parameter])?;
    }
    parameters.extend(of_query);
    let source = |name: &str| match names.iter().any(|one| one == name) {
        true => format!("?{name}"),
        false => pointer_below("", name),
    };
    let (work, parameters) = checked(&app, &scope, workflow, parameters, source).await?;
    let run = Run::of_form(id, work, &parameters, None)?;
    let outcome = run.finish(&app, &scope, &headers).await?;
    match outcome.status {
        Status::Success | Status::CompletedWithErrors => {
            Ok(Json(FormStartupResponse { result: outcome.result.and_then(visibility::result) }))
        }
        status if !status.is_terminal() => Err(Problem::new(StatusCode::GATEWAY_TIMEOUT)
            .detail("the launch workflow takes longer than the server waits")),
        _ => {
            // An error shows nobody more than this; administrators read the rest in the execution.
            let text = Reader::User.error(outcome.error_message.as_deref(), outcome.is_user_error);
            let text = text.unwrap_or_else(|| NEUTRAL_ERROR.to_owned());
            Err(Problem::new(StatusCode::BAD_REQUEST).detail(text))
        }
    }
}

fn is_split(body: &Map<String, Value>) -> bool {
    body.contains_key("form_data") || body.contains_key("startup_data")
}

/// Refuses NUL in a body, with the pointer of the member that has it.
fn check_texts(body: &Map<String, Value>) -> Result<(), Problem> {
    body.iter().try_for_each(|member| check_json(&pointer_below("", member.0), [member]))
}

/// The form data and the startup data of a body; one that has neither member is the form data itself.
fn split(mut body: Map<String, Value>) -> Result<(Map<String, Value>, Option<RawJson>), Problem> {
    if !is_split(&body) {
        return Ok((body, None));
    }
    let data = match body.remove("form_data") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(data)) => data,
        Some(_) => return Err(Problem::invalid("/form_data", "must be an object")),
    };
    let startup = match body.remove("startup_data") {
        None | Some(Value::Null) => None,
        Some(startup @ Value::Object(_)) => {
            Some(serde_json::value::to_raw_value(&startup).map_err(domain::Error::internal)?)
        }
        Some(_) => return Err(Problem::invalid("/startup_data", "must be an object")),
    };
    Ok((data, startup))
}

/// The query parameters that the form lets through to its launch workflow.
fn let_through(form: &Form, query: &str) -> Map<String, Value> {
    let schema: Value = serde_json::from_str(form.form_schema.get()).unwrap_or_default();
    let flagged = fields::query_fields(&schema);
    let listed = form.allowed_query_params.as_ref().map(|params| params.0.as_slice()).unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| listed.iter().any(|one| one == name) || flagged.contains(&name.as_ref()))
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: Value) -> (Value, Option<String>) {
        let Value::Object(body) = body else { panic!("an object") };
        let (data, startup) = split(body).expect("fits");
        (Value::Object(data), startup.map(|startup| startup.get().to_owned()))
    }

    #[test]
    fn a_body_without_either_member_is_the_form_data() {
        assert_eq!(of(json!({"email": "a"})), (json!({"email": "a"}), None));
        assert_eq!(of(json!({})), (json!({}), None));
        assert_eq!(of(json!({"form_data": {"a": 1}, "b": 2})), (json!({"a": 1}), None));
        let (data, startup) = of(json!({"startup_data": {"s": 1}, "form_data": null}));
        assert_eq!((data, startup.as_deref()), (json!({}), Some(r#"{"s":1}"#)));
        for wrong in [json!({"form_data": []}), json!({"startup_data": "x"})] {
            let Value::Object(body) = wrong else { panic!("an object") };
            assert!(split(body).is_err());
        }
    }
}
