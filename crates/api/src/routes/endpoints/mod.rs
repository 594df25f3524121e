//! Endpoints: workflows that machines call over HTTP, with a key, or publicly where the workflow says so.
//!
//! In this order: the key, the workflow, the method, the signature, the caller's limit, the input, the run. The invariant:
//! what runs acts in the organization of the key that was verified, as the SYSTEM user, and never as an administrator.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::header::{ALLOW, AUTHORIZATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use domain::executions::RawJson;
use domain::executions::submit::Idempotency;
use domain::id::WorkflowKeyId;
use domain::workflows::signature::{Refused, SignatureRule};
use domain::workflows::{Endpoint, Workflow};
use domain::{Error, OrgScope, secrets, workflow_keys};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Client, IdempotencyKey, Path, RawBody, bearer_of, check_text};
use crate::limits::Rate;
use crate::problem::{Problem, Problems};
use crate::routes::workflows::answer::{Ran, earlier, mark_replayed};
use crate::routes::workflows::run::{Run, idempotency};
use crate::visibility::Reader;
use crate::{AppState, deadline, limits};

pub(crate) mod document;
mod input;

const KEY_HEADER: &str = "x-bifrost-key";
/// Methods that a workflow may answer to.
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
/// Calls from one address at public endpoints.
const PUBLIC: Rate = Rate { most: 60, window: Duration::from_secs(60) };
/// How runs that no person started are listed.
const CALLER: &str = "System";

pub(crate) fn router() -> OpenApiRouter<AppState> {
    let (schemas, paths, methods) = routes!(get_endpoint, post_endpoint, put_endpoint, delete_endpoint);
    OpenApiRouter::new().routes((schemas, paths, methods.fallback(other_method)))
}

/// What became of a call.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "execution_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "status": "Success", "message": null,
    "result": {"greeting": "Hello Grace"}, "error": null, "duration_ms": 12,
}))]
pub(crate) struct EndpointExecuteResponse {
    execution_id: String,
    /// `Pending`, `Running`, or how it ended.
    status: String,
    /// What to do next, while it has not ended.
    message: Option<String>,
    /// What the workflow returned, as it is.
    #[schema(value_type = Option<Value>)]
    result: Option<RawJson>,
    /// Why it failed, as far as it was written for callers.
    error: Option<String>,
    duration_ms: Option<i64>,
}

/// Everything of a request that matters to the call.
struct Call {
    app: AppState,
    client: Client,
    method: Method,
    /// Name of the workflow, or its id where the name is ambiguous.
    workflow: String,
    idempotency_key: Option<String>,
    headers: HeaderMap,
    query: Option<String>,
    body: RawBody,
}

/// Who was let in.
struct Admitted {
    scope: OrgScope,
    workflow: Arc<Workflow>,
    endpoint: Endpoint,
    /// The key it came with; none at public endpoints.
    key: Option<WorkflowKeyId>,
}

macro_rules! endpoint {
    ($(#[$doc:meta])* $method:ident, $name:ident) => {
        $(#[$doc])*
        #[utoipa::path(
            $method, path = "/api/endpoints/{workflow_name}", tag = "Endpoints",
            security(("BifrostApiKey" = []), ("bearer" = []), ()),
            params(
                ("workflow_name" = String, Path, description = "Name of the workflow, or its id where several bear the name."),
                ("X-Bifrost-Key" = Option<String>, Header, description = "A workflow key; also taken as `Authorization: Bearer`. Not needed at public endpoints."),
                ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters, kept a day."),
            ),
            request_body(content = Option<Object>, content_type = "application/json", description = "Members override query parameters of their name."),
            responses(
                (status = 200, body = EndpointExecuteResponse),
                (status = 202, body = EndpointExecuteResponse, description = "Not ended yet; the run goes on."),
                (status = 405, description = "The workflow does not answer to this method; `Allow` names those it does."),
                (status = 409, description = "Several workflows bear the name."),
                (status = 429, description = "More calls than `endpoint_rate_limit` of the workflow takes from one caller, or more than 60 a minute without a key from this address; `Retry-After` says when to try again."),
                Problems,
            ),
        )]
        #[expect(clippy::too_many_arguments, reason = "extractors: what a request consists of")]
        async fn $name(
            State(app): State<AppState>,
            client: Client,
            method: Method,
            Path(workflow): Path<String>,
            IdempotencyKey(idempotency_key): IdempotencyKey,
            headers: HeaderMap,
            RawQuery(query): RawQuery,
            body: RawBody,
        ) -> Result<Response, Problem> {
            answer(Call { app, client, method, workflow, idempotency_key, headers, query, body }).await
        }
    };
}

endpoint!(
    /// Calls a workflow with GET.
    ///
    /// Its parameters are query parameters, converted to their declared types.
    get, get_endpoint
);
endpoint!(
    /// Calls a workflow with POST.
    ///
    /// Its parameters are query parameters, overridden by the members of a JSON object.
    post, post_endpoint
);
endpoint!(
    /// Calls a workflow with PUT.
    ///
    /// As POST does.
    put, put_endpoint
);
endpoint!(
    /// Calls a workflow with DELETE.
    ///
    /// As POST does.
    delete, delete_endpoint
);

/// A method that no workflow answers to. Whoever is let in is told those of the workflow, everybody else those there are.
async fn other_method(
    State(app): State<AppState>,
    client: Client,
    method: Method,
    Path(workflow): Path<String>,
    headers: HeaderMap,
) -> Response {
    let body = RawBody(Bytes::new());
    let call = Call { app, client, method, workflow, idempotency_key: None, headers, query: None, body };
    match admit(&call).await {
        Ok(admitted) => not_allowed(&admitted.endpoint.allowed_methods),
        Err(_) => not_allowed(&METHODS.map(str::to_owned)),
    }
}

async fn answer(call: Call) -> Result<Response, Problem> {
    let Admitted { scope, workflow, endpoint, key } = admit(&call).await?;
    if !endpoint.allowed_methods.iter().any(|allowed| allowed == call.method.as_str()) {
        return Ok(not_allowed(&endpoint.allowed_methods));
    }
    let event = match &endpoint.signature {
        Some(rule) => verify(&call, &scope, &workflow, rule).await?,
        None => None,
    };
    if let Some(rate) = endpoint.rate_limit {
        limits::by_caller(&call.app, workflow.id, key, call.client.address, rate).await?;
    }
    let members = call.body.members(&call.headers)?;
    let idempotency = match (event, call.idempotency_key) {
        // A repeated event is one execution whatever its body: its sender signed it.
        (Some(event), _) => Some(Idempotency {
            route: format!("endpoints.event:{}", workflow.id).into(),
            key: event,
            fingerprint: Vec::new(),
        }),
        (None, Some(key_of_call)) => {
            // Whose idempotency keys are whose: strangers do not get each other's executions.
            let public = || format!("public:{}", limits::network(call.client.address));
            let caller = key.map_or_else(public, |key| key.to_string());
            let route = format!("endpoints.call:{}:{caller}", workflow.id);
            // Of what was sent: what is made of it changes with the workflow.
            let mut query: Vec<(Cow<'_, str>, Cow<'_, str>)> = call
                .query
                .as_deref()
                .map_or_else(Vec::new, |query| url::form_urlencoded::parse(query.as_bytes()).collect());
            // By name alone: of a list the order counts.
            query.sort_by(|one, other| one.0.cmp(&other.0));
            let sent = json!({"query": query, "body": members});
            Some(idempotency(route, key_of_call, &sent, &scope)?)
        }
        (None, None) => None,
    };
    let parameters = match input::read(&workflow.parameters, call.query.as_deref(), members) {
        Ok(parameters) => parameters,
        Err(problem) => match earlier(&call.app, &scope, idempotency.as_ref()).await? {
            Some(execution) => {
                return Ok(respond(Ran::replayed(execution, workflow.is_sync()), Reader::of(&scope)));
            }
            None => return Err(problem),
        },
    };
    let run = Run::of_endpoint(workflow, &parameters)?;
    let ran = run.run(&call.app, &scope, idempotency, &call.headers).await?;
    Ok(respond(ran, Reader::of(&scope)))
}

fn respond(ran: Ran, reader: Reader) -> Response {
    let Ran { id, outcome, status, replayed } = ran;
    let message = (!outcome.status.is_terminal()).then(|| match status {
        StatusCode::ACCEPTED => "it takes longer than a request waits, and goes on".to_owned(),
        _ => "accepted".to_owned(),
    });
    let body = EndpointExecuteResponse {
        execution_id: id.to_string(),
        status: outcome.status.to_string(),
        message,
        result: outcome.result,
        error: reader.error(outcome.error_message.as_deref(), outcome.is_user_error),
        duration_ms: outcome.duration_ms,
    };
    let mut response = (status, axum::Json(body)).into_response();
    if replayed {
        mark_replayed(response.headers_mut());
    }
    response
}

/// Lets a call in: by its key, or without one where the workflow is public.
async fn admit(call: &Call) -> Result<Admitted, Problem> {
    check_text("path:workflow_name", &call.workflow)?;
    let request_id = call.client.request_id.clone();
    let Some(key) = presented_key(&call.headers) else {
        limits::by_address_at(&call.app, "endpoints", call.client.address, PUBLIC).await?;
        let scope = OrgScope::for_system(None, CALLER, request_id);
        let found = match find(call, &scope).await {
            // Without a key nobody learns which workflows there are.
            Err(Error::NotFound(_) | Error::Conflict(_)) => None,
            found => Some(found?),
        };
        let public = found.and_then(|workflow| {
            let endpoint = workflow.endpoint().filter(|endpoint| endpoint.public_endpoint)?;
            Some((workflow, endpoint))
        });
        let (workflow, endpoint) =
            public.ok_or_else(|| Problem::invalid("header:X-Bifrost-Key", "is required"))?;
        return Ok(Admitted { scope, workflow, endpoint, key: None });
    };
    let open = workflow_keys::open(&call.app.platform.db, key, &call.workflow);
    let opening =
        deadline::in_time(open).await?.filter(|opening| !opening.is_shut_out).ok_or_else(bad_key)?;
    let scope = OrgScope::for_system(opening.organization_id, CALLER, request_id);
    let workflow = find(call, &scope).await?;
    // The key may be that of a workflow which bore this name before.
    if opening.workflow_id.is_some_and(|own| own != workflow.id) {
        return Err(bad_key());
    }
    let endpoint = workflow.endpoint().ok_or(Error::NotFound("workflow"))?;
    if endpoint.disable_global_key && opening.workflow_id.is_none() {
        return Err(bad_key());
    }
    Ok(Admitted { scope, workflow, endpoint, key: Some(opening.id) })
}

async fn find(call: &Call, scope: &OrgScope) -> Result<Arc<Workflow>, Error> {
    let platform = &call.app.platform;
    deadline::in_time(platform.catalog.get(&platform.db, scope, &call.workflow)).await
}

/// The key of a request. One that is no text is a key that opens nothing.
fn presented_key(headers: &HeaderMap) -> Option<&str> {
    match headers.get(KEY_HEADER) {
        Some(value) => Some(value.to_str().unwrap_or_default()),
        None => bearer_of(headers.get(AUTHORIZATION)?),
    }
}

fn bad_key() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED).detail("Invalid or expired API key")
}

fn not_allowed(allowed: &[String]) -> Response {
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED).into_response();
    if let Ok(allowed) = HeaderValue::from_str(&allowed.join(", ")) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// Makes sure that who knows the secret sent this, and lately. Gives the id of the event it tells of.
async fn verify(
    call: &Call,
    scope: &OrgScope,
    workflow: &Workflow,
    rule: &SignatureRule,
) -> Result<Option<String>, Problem> {
    let refused = |Refused| {
        Problem::new(StatusCode::UNAUTHORIZED).detail("the signature is missing, wrong or not of this time")
    };
    let header = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok());
    // What costs nothing comes first: the secret is read, and its reading recorded, for plausible requests only.
    let claim = rule.read(header, Utc::now()).map_err(refused)?;
    let platform = &call.app.platform;
    let read = async {
        let mut tx = platform.db.begin(scope).await?;
        let secret = secrets::find(&mut tx, &platform.vault, &rule.secret).await?;
        tx.commit().await?;
        Ok(secret)
    };
    let Some(secret) = deadline::in_time(read).await? else {
        tracing::warn!(workflow.id = %workflow.id, secret = %rule.secret, "an endpoint's secret is not set, so every call is refused");
        return Err(refused(Refused));
    };
    rule.verify(claim, &secret, &call.body.0).map_err(refused)
}
