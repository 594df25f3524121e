//! Running a workflow or inline code: submit, and for synchronous workflows wait for the end.
//!
//! The hot path: the row is written in a shared batch, the answer comes from the event of its end.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use domain::executions::RawJson;
use domain::executions::bulk::Repeatable;
use domain::executions::submit::{Idempotency, NewExecution, Work};
use domain::id::{ExecutionId, FormId};
use domain::json::canonical;
use domain::workflows::{Workflow, below, check_at};
use domain::{OrgScope, Permission, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::wait::{self, Outcome};
use crate::extract::{IdempotencyKey, Json, Signed, check_text};
use crate::problem::{Problem, Problems};
use crate::routes::executions::{self, ExecutionStatus, result_schema};
use crate::visibility::{self, Reader};
use crate::{AppState, deadline, observe};

/// The name of this operation in the idempotency table.
const ROUTE: &str = "workflows.execute";
const DEFAULT_PRIORITY: i16 = 5;
const LONGEST_DELAY: TimeDelta = TimeDelta::days(366);
/// What inline code is called if it has no name.
const UNNAMED: &str = "inline_script";
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

/// An execution that was started, or ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "execution_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "workflow_name": "greet", "status": "Success",
    "result": {"greeting": "Hello Grace"}, "duration_ms": 12, "is_transient": false,
}))]
pub(crate) struct WorkflowExecutionResponse {
    execution_id: String,
    /// Null for inline code.
    workflow_id: Option<String>,
    workflow_name: Option<String>,
    status: ExecutionStatus,
    /// What the workflow returned; a bare number or truth value as its JSON text.
    #[schema(schema_with = result_schema)]
    result: Option<RawJson>,
    error: Option<String>,
    error_type: Option<String>,
    #[schema(value_type = Option<Object>)]
    details: Option<Value>,
    duration_ms: Option<i64>,
    started_at: Option<DateTime<Utc>>,
    completed_at: Option<DateTime<Utc>>,
    /// Read them at `/api/executions/{execution_id}/logs`.
    #[schema(value_type = Option<Vec<Object>>)]
    logs: Option<Vec<Value>>,
    /// Read them at `/api/executions/{execution_id}/variables`.
    #[schema(value_type = Option<Object>)]
    variables: Option<Value>,
    is_transient: bool,
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
    let run = Run::prepare(&app, &scope, request).await?;
    run.start(&app, &scope, idempotency, &headers).await
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

/// A checked request: what is to run, with what.
pub(crate) struct Run {
    work: Work,
    parameters: RawJson,
    form_id: Option<Uuid>,
    startup: Option<RawJson>,
    transient: bool,
    priority: i16,
    is_function_key: bool,
    waits: bool,
    run_at: Option<DateTime<Utc>>,
    rerun_of: Option<ExecutionId>,
}

/// What became of a run while the request waited.
pub(crate) struct Ran {
    pub(crate) id: ExecutionId,
    pub(crate) outcome: Outcome,
    /// 202 tells that a caller who expected the end must ask again.
    pub(crate) status: StatusCode,
    /// Whether a key named an earlier submission.
    pub(crate) replayed: bool,
}

/// Marks the answer to a repeated submission.
pub(crate) fn mark_replayed(headers: &mut HeaderMap) {
    headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
}

impl Run {
    async fn prepare(
        app: &AppState,
        scope: &OrgScope,
        request: WorkflowExecutionRequest,
    ) -> Result<Self, Problem> {
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
            Some(text) => Some(text.parse().map_err(|_| Problem::invalid("/form_id", "must be a UUID"))?),
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
        Ok(Self { form_id, transient, priority, run_at, ..Self::new(work, parameters) })
    }

    fn new(work: Work, parameters: RawJson) -> Self {
        Self {
            waits: matches!(&work, Work::Workflow(workflow) if workflow.execution_mode == "sync"),
            work,
            parameters,
            form_id: None,
            startup: None,
            transient: false,
            priority: DEFAULT_PRIORITY,
            is_function_key: false,
            run_at: None,
            rerun_of: None,
        }
    }

    /// A workflow that a key or a public endpoint runs, with parameters that were checked.
    pub(crate) fn of_endpoint(workflow: Arc<Workflow>, parameters: &Map<String, Value>) -> Result<Self> {
        let parameters = serde_json::value::to_raw_value(parameters).map_err(domain::Error::internal)?;
        Ok(Self { is_function_key: true, ..Self::new(Work::Workflow(workflow), parameters) })
    }

    /// A workflow without parameters whose end nobody waits for.
    pub(crate) fn in_background(workflow: Arc<Workflow>) -> Result<Self> {
        let parameters = serde_json::value::to_raw_value(&Map::new()).map_err(domain::Error::internal)?;
        Ok(Self { waits: false, ..Self::new(Work::Workflow(workflow), parameters) })
    }

    /// What a form runs, with parameters that were [checked].
    pub(crate) fn of_form(
        form: FormId,
        work: Work,
        parameters: &Map<String, Value>,
        startup: Option<RawJson>,
    ) -> Result<Self> {
        let parameters = serde_json::value::to_raw_value(parameters).map_err(domain::Error::internal)?;
        Ok(Self { form_id: Some(form.0), startup, ..Self::new(work, parameters) })
    }

    /// What an execution did, once more: its code, or its workflow as that is now.
    pub(super) async fn again(
        app: &AppState,
        scope: &OrgScope,
        id: ExecutionId,
        old: Repeatable,
    ) -> Result<Self, Problem> {
        let (work, parameters) = match (old.workflow_id, old.code) {
            (Some(workflow), _) => {
                let input = serde_json::from_str(old.parameters.get()).map_err(domain::Error::internal)?;
                let (work, parameters) =
                    checked(app, scope, &workflow.to_string(), input, in_input_data).await?;
                (work, serde_json::value::to_raw_value(&parameters).map_err(domain::Error::internal)?)
            }
            (None, code) => {
                let script_name = old.script_name.unwrap_or_else(|| UNNAMED.into());
                (Work::Inline { code: code.unwrap_or_default(), script_name }, old.parameters)
            }
        };
        Ok(Self {
            form_id: old.form_id,
            startup: old.startup,
            transient: old.transient,
            priority: old.priority,
            rerun_of: Some(id),
            ..Self::new(work, parameters)
        })
    }

    /// Submits it and answers: at once, or at its end if the workflow is synchronous.
    pub(crate) async fn start(
        self,
        app: &AppState,
        scope: &OrgScope,
        idempotency: Option<Idempotency>,
        headers: &HeaderMap,
    ) -> Result<Response, Problem> {
        let ran = self.run(app, scope, idempotency, headers).await?;
        let replayed = ran.replayed;
        let mut response = self.answer(ran, Reader::of(scope)).into_response();
        if replayed {
            mark_replayed(response.headers_mut());
        }
        Ok(response)
    }

    /// Submits it, and waits for its end if the workflow is synchronous.
    pub(crate) async fn run(
        &self,
        app: &AppState,
        scope: &OrgScope,
        idempotency: Option<Idempotency>,
        headers: &HeaderMap,
    ) -> Result<Ran, Problem> {
        let id = ExecutionId::generate();
        // Before the start: an end that comes at once is not missed then.
        let watch = self.patience(app).map(|patience| (app.platform.events.watch(id, false), patience));
        let new = self.submission(id, idempotency, headers);
        let submitted = deadline::in_time(app.platform.submitter.submit(scope, new)).await?;
        observe::submitted(scope, submitted.id);
        let outcome = match watch {
            _ if submitted.replayed => executions::get(app, scope.clone(), submitted.id).await?.into(),
            Some((watch, patience)) => wait::until_ended(app, scope, id, watch, patience).await,
            None => Outcome::unknown(submitted.status),
        };
        let is_late = self.waits && !outcome.status.is_terminal();
        let status = if is_late { StatusCode::ACCEPTED } else { StatusCode::OK };
        Ok(Ran { id: submitted.id, outcome, status, replayed: submitted.replayed })
    }

    /// Submits it and waits for its end whatever its mode, as long as a request may wait.
    pub(crate) async fn finish(
        self,
        app: &AppState,
        scope: &OrgScope,
        headers: &HeaderMap,
    ) -> Result<Outcome, Problem> {
        let id = ExecutionId::generate();
        let watch = app.platform.events.watch(id, false);
        let new = self.submission(id, None, headers);
        deadline::in_time(app.platform.submitter.submit(scope, new)).await?;
        observe::submitted(scope, id);
        Ok(wait::until_ended(app, scope, id, watch, self.longest(app)).await)
    }

    fn submission(
        &self,
        id: ExecutionId,
        idempotency: Option<Idempotency>,
        headers: &HeaderMap,
    ) -> NewExecution {
        NewExecution {
            id,
            traceparent: observe::traceparent(headers),
            idempotency,
            priority: self.priority,
            form_id: self.form_id,
            startup: self.startup.clone(),
            transient: self.transient,
            is_function_key: self.is_function_key,
            run_at: self.run_at,
            rerun_of: self.rerun_of,
            ..NewExecution::new(self.work.clone(), self.parameters.clone())
        }
    }

    /// How long the request waits for the end; `None`: not at all.
    fn patience(&self, app: &AppState) -> Option<Duration> {
        (self.waits && self.run_at.is_none()).then(|| self.longest(app))
    }

    /// How long a request may wait for it.
    fn longest(&self, app: &AppState) -> Duration {
        let wait = app.platform.settings.sync_wait_seconds;
        Duration::from_secs(match &self.work {
            Work::Workflow(workflow) => u64::try_from(workflow.timeout_seconds).unwrap_or_default().min(wait),
            Work::Inline { .. } => wait,
        })
    }

    fn answer(&self, ran: Ran, reader: Reader) -> (StatusCode, Json<WorkflowExecutionResponse>) {
        let Ran { id, outcome, status, .. } = ran;
        let (workflow_id, workflow_name) = match &self.work {
            Work::Workflow(workflow) => (Some(workflow.id.to_string()), workflow.name.clone()),
            Work::Inline { script_name, .. } => (None, script_name.clone()),
        };
        let body = WorkflowExecutionResponse {
            execution_id: id.to_string(),
            workflow_id,
            workflow_name: Some(workflow_name),
            status: outcome.status.into(),
            result: outcome.result.and_then(visibility::result),
            error: reader.error(outcome.error_message.as_deref(), outcome.is_user_error),
            error_type: outcome.error_type,
            details: None,
            duration_ms: outcome.duration_ms,
            started_at: outcome.started_at,
            completed_at: outcome.completed_at,
            logs: None,
            variables: None,
            is_transient: self.transient,
        };
        (status, Json(body))
    }
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

fn in_input_data(name: &str) -> String {
    below("/input_data", name)
}

/// The workflow of this id or unambiguous name, and the parameters as it takes them; `at` points to one in the request.
pub(crate) async fn checked(
    app: &AppState,
    scope: &OrgScope,
    workflow: &str,
    input: Map<String, Value>,
    at: impl Fn(&str) -> String,
) -> Result<(Work, Map<String, Value>), Problem> {
    let find = app.platform.catalog.get(&app.platform.db, scope, workflow);
    let workflow = deadline::in_time(find).await?;
    let parameters = check_at(&workflow.parameters, input, at)?;
    Ok((Work::Workflow(workflow), parameters))
}

/// The key with the fingerprint of what it stands for. Members of maps are sorted, so that only the meaning
/// of a body counts.
pub(crate) fn idempotency(
    route: impl Into<Cow<'static, str>>,
    key: String,
    request: &impl Serialize,
    scope: &OrgScope,
) -> Result<Idempotency> {
    let body = serde_json::to_value(request).map_err(domain::Error::internal)?;
    let organization = scope.owner()?.map(|org| org.to_string());
    let mut digest = Sha256::new();
    digest.update(canonical(body));
    digest.update(organization.unwrap_or_default());
    Ok(Idempotency { route: route.into(), key, fingerprint: digest.finalize().to_vec() })
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
