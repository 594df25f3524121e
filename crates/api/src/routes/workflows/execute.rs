//! The request to run a workflow or inline code.
//!
//! What is done with it, once it is checked, is in `run.rs`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use domain::executions::submit::Work;
use domain::id::FormId;
use domain::{OrgScope, Permission};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::WorkflowExecutionResponse;
use super::run::{DEFAULT_PRIORITY, Run, UNNAMED, checked, idempotency, in_input_data};
use crate::AppState;
use crate::extract::{IdempotencyKey, Json, Signed, check_text};
use crate::problem::{Problem, Problems};
use crate::routes::forms;

/// The name of this operation in the idempotency table.
const ROUTE: &str = "workflows.execute";
const LONGEST_DELAY: TimeDelta = TimeDelta::days(366);
/// Longest name of a script, in characters.
const LONGEST_NAME: usize = 255;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(execute_workflow))
}

/// What to run: `workflow_id` or `code`.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[schema(example = json!({"workflow_id": "greet", "input_data": {"name": "Grace"}}))]
struct WorkflowExecutionRequest {
    /// Id of a workflow, or its name if that is unambiguous.
    workflow_id: Option<String>,
    /// Parameters.
    #[schema(value_type = Option<Object>)]
    input_data: Option<Map<String, Value>>,
    /// The form it comes from.
    #[schema(format = Uuid)]
    form_id: Option<String>,
    /// Kept out of lists and metrics, removed a day after its end.
    transient: Option<bool>,
    /// Python source, plain or as base64; runs asynchronously.
    code: Option<String>,
    /// What to call the code.
    script_name: Option<String>,
    /// 1 to 10, 10 first; 5 if not given.
    #[schema(minimum = 1, maximum = 10)]
    priority: Option<i64>,
    /// Not before this time, RFC 3339, at most a year ahead; it starts within two seconds of it.
    #[schema(value_type = Option<DateTime<Utc>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<String>,
}

/// Runs a workflow or inline code.
///
/// For platform administrators, and for users with the permission `workflows.execute`, who may neither send code nor speak
/// for a form. Asynchronous workflows and inline code answer at once, `Pending`. Synchronous ones answer at their end, a
/// failed run included, or 202 when they take longer than the server waits; then the run goes on. With an
/// `Idempotency-Key` a repeated request names the same execution, and says so in `Idempotency-Replayed`.
#[utoipa::path(
    post, path = "/api/workflows/execute", tag = "Workflows", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters, kept a day.")),
    request_body = WorkflowExecutionRequest,
    responses(
        (status = 200, body = WorkflowExecutionResponse),
        (status = 202, body = WorkflowExecutionResponse, description = "Not ended yet."),
        (status = 409, description = "Several workflows bear the name."),
        Problems,
    ),
)]
async fn execute_workflow(
    State(app): State<AppState>,
    signed: Signed,
    IdempotencyKey(key): IdempotencyKey,
    headers: HeaderMap,
    Json(request): Json<WorkflowExecutionRequest>,
) -> Result<Response, Problem> {
    signed.scope.require(Permission::WorkflowsExecute)?;
    check_request(&signed.scope, &request)?;
    // What is created belongs to one organization or to none, never to all.
    let scope = signed.scope.narrowed();
    let idempotency = key.map(|key| idempotency(ROUTE, key, &request, &scope)).transpose()?;
    let run = prepare(&app, &scope, request).await;
    Run::start_or_replay(run, &app, &scope, idempotency, &headers).await
}

/// What stays with platform administrators whatever a role allows: code of one's own would be a way around every check of
/// a workflow, and a form is spoken for by those who have access to it.
fn check_request(scope: &OrgScope, request: &WorkflowExecutionRequest) -> Result<(), Problem> {
    let is_given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.trim().is_empty());
    if !scope.actor().is_platform_admin && (is_given(&request.code) || is_given(&request.form_id)) {
        return Err(Problem::forbidden("Superuser privileges required"));
    }
    Ok(())
}

/// Checks a request.
async fn prepare(
    app: &AppState,
    scope: &OrgScope,
    request: WorkflowExecutionRequest,
) -> Result<Run, Problem> {
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let input = request.input_data.unwrap_or_default();
    let priority = match request.priority {
        None => DEFAULT_PRIORITY,
        Some(priority) => i16::try_from(priority)
            .ok()
            .filter(|priority| (1..=10).contains(priority))
            .ok_or_else(|| Problem::invalid("/priority", "must be a whole number from 1 to 10"))?,
    };
    let form_id = match given(request.form_id) {
        None => None,
        Some(text) => {
            let id: FormId = text.parse().map_err(|_| Problem::invalid("/form_id", "must be a UUID"))?;
            forms::usable(app, scope.clone(), id).await?;
            Some(id.0)
        }
    };
    let run_at = request.run_at.as_deref().map(start_time).transpose()?;
    let (work, parameters) = match (given(request.code), given(request.workflow_id)) {
        (Some(code), _) => {
            let code = source(&code);
            let script_name = given(request.script_name).unwrap_or_else(|| UNNAMED.into());
            check_text("/code", &code)?;
            check_text("/script_name", &script_name)?;
            if script_name.chars().count() > LONGEST_NAME {
                let rule = format!("may have at most {LONGEST_NAME} characters");
                return Err(Problem::invalid("/script_name", rule));
            }
            (Work::Inline { code, script_name }, input)
        }
        (None, Some(workflow)) => {
            check_text("/workflow_id", &workflow)?;
            checked(app, scope, workflow.trim(), input, in_input_data).await?
        }
        (None, None) => {
            return Err(Problem::invalid("/workflow_id", "is required, unless there is code"));
        }
    };
    let parameters = serde_json::value::to_raw_value(&parameters).map_err(domain::Error::internal)?;
    let transient = request.transient.unwrap_or_default();
    Ok(Run { form_id, transient, priority, run_at, ..Run::new(work, parameters) })
}

/// When a run is to start; a time that has passed means now.
fn start_time(text: &str) -> Result<DateTime<Utc>, Problem> {
    let invalid = |detail: &str| Problem::invalid("/run_at", detail);
    let time = DateTime::parse_from_rfc3339(text.trim())
        .map_err(|_| invalid("must be a time, such as 2026-01-05T09:30:00Z"))?
        .to_utc();
    if time > Utc::now() + LONGEST_DELAY {
        return Err(invalid("must be within a year"));
    }
    Ok(time.max(DateTime::UNIX_EPOCH))
}

/// The source text: base64 of UTF-8 (or of Latin-1, as old editors send it), else the text itself.
fn source(code: &str) -> String {
    let packed: String = code.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    match STANDARD.decode(&packed) {
        Ok(bytes) => String::from_utf8(bytes)
            .unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect()),
        Err(_) => code.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use domain::PermissionSet;
    use domain::id::{OrgId, SessionId, UserId};
    use domain::sessions::Principal;
    use serde_json::json;

    use super::*;

    fn fingerprint(body: Value, organization: Option<OrgId>) -> Vec<u8> {
        let administrator = Principal {
            session_id: SessionId::generate(),
            user_id: UserId::generate(),
            organization_id: None,
            email: "ada@example.com".into(),
            name: "Ada".into(),
            user_type: "PLATFORM".into(),
            is_superuser: true,
            roles: Vec::new(),
            permissions: PermissionSet::NONE,
        };
        let scope =
            OrgScope::for_principal(&administrator, organization, None).expect("an administrator").narrowed();
        let request: WorkflowExecutionRequest = serde_json::from_value(body).expect("a request");
        idempotency(ROUTE, "k".into(), &request, &scope).expect("a fingerprint").fingerprint
    }

    #[test]
    fn only_the_meaning_of_a_body_counts() {
        let one =
            fingerprint(json!({"workflow_id": "w", "input_data": {"a": 1, "b": {"c": 2, "d": 3}}}), None);
        let same = fingerprint(
            json!({"input_data": {"b": {"d": 3, "c": 2}, "a": 1}, "workflow_id": "w", "x": 1}),
            None,
        );
        let other = fingerprint(json!({"workflow_id": "w", "input_data": {"a": 2}}), None);
        let elsewhere =
            fingerprint(json!({"workflow_id": "w", "input_data": {"a": 2}}), Some(OrgId::generate()));
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert_ne!(other, elsewhere);
    }

    #[test]
    fn code_comes_plain_or_as_base64() {
        assert_eq!(source("cHJpbnQoMSk="), "print(1)");
        assert_eq!(source("cHJp\nbnQoMSk="), "print(1)");
        assert_eq!(source("print('ä')"), "print('ä')");
        assert_eq!(source(&STANDARD.encode([0x70, 0xe4])), "pä", "Latin-1");
    }
}
