//! Workflows: what can run.

use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::workflows::{self, Found, Parameter, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::{Json, Signed};
use crate::problem::{Problem, Problems};

pub(crate) mod answer;
mod execute;
mod pause;
mod problems;
mod providers;
mod rerun;
pub(crate) mod run;
mod validate;
pub(crate) mod wait;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_workflows))
        .merge(problems::router())
        .merge(providers::router())
        .merge(validate::router())
        .merge(execute::router())
        .merge(pause::router())
        .merge(rerun::router())
}

/// A workflow, as its file declares it.
#[derive(Debug, Serialize, ToSchema)]
struct WorkflowMetadata {
    id: String,
    name: String,
    description: Option<String>,
    category: String,
    tags: Vec<String>,
    parameters: Vec<WorkflowParameter>,
    /// `sync` or `async`.
    execution_mode: String,
    /// Limit of one attempt.
    timeout_seconds: i32,
    /// Runs at once: in all, or with a key per organization and key.
    concurrency_limit: Option<i64>,
    /// The template of the key.
    concurrency_key: Option<String>,
    rate_limit: Option<RateLimit>,
    /// Since when nothing of it starts.
    paused_at: Option<DateTime<Utc>>,
    retry_policy: Option<RetryPolicy>,
    /// A cron expression.
    schedule: Option<String>,
    endpoint_enabled: bool,
    allowed_methods: Vec<String>,
    disable_global_key: bool,
    public_endpoint: bool,
    endpoint_rate_limit: Option<EndpointRateLimit>,
    /// Relative to the workspace.
    source_file_path: Option<String>,
    /// The same with `/workspace/` in front.
    relative_file_path: Option<String>,
}

/// A parameter of a workflow.
#[derive(Debug, Serialize, ToSchema)]
struct WorkflowParameter {
    name: String,
    /// `string`, `int`, `float`, `bool`, `list`, `json` or `email`.
    r#type: String,
    required: bool,
    label: Option<String>,
    default_value: Option<Value>,
    description: Option<String>,
    /// For forms; the server does not enforce it.
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<Value>,
}

/// How often it may start.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct RateLimit {
    starts: i64,
    /// Within this time.
    seconds: i64,
}

/// How many calls of its endpoint are taken from one key, or from one address where no key is needed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct EndpointRateLimit {
    calls: i64,
    /// Within this time, counted from the first.
    seconds: i64,
}

/// When a failed attempt is followed by another.
#[derive(Debug, Serialize, ToSchema)]
struct RetryPolicy {
    /// Attempts in all.
    max_attempts: i32,
    /// Pause after the first attempt; doubles with each.
    backoff_seconds: i64,
    max_backoff_seconds: i64,
    /// Classes of exceptions that are retried, their subclasses too; null: all but `TimeoutError`. A `UserError` never is, and a lost
    /// worker always.
    retry_on: Option<Vec<String>>,
}

/// The active workflows in reach, by name.
///
/// Those of the organization and the global ones, as their files declare them.
#[utoipa::path(
    get, path = "/api/workflows", tag = "Workflows", security(("bearer" = [])),
    responses((status = 200, body = Vec<WorkflowMetadata>), Problems),
)]
async fn list_workflows(
    State(app): State<AppState>,
    signed: Signed,
) -> Result<Json<Vec<WorkflowMetadata>>, Problem> {
    let mut tx = app.platform.db.begin(&signed.scope).await?;
    let workflows = workflows::list(&mut tx).await?;
    let paused = workflows::pause::since(&mut tx).await?;
    tx.commit().await?;
    let shown = workflows.into_iter().map(|workflow| {
        let paused_at = paused.get(&workflow.id).copied();
        WorkflowMetadata { paused_at, ..workflow.into() }
    });
    Ok(Json(shown.collect()))
}

impl From<Workflow> for WorkflowMetadata {
    fn from(workflow: Workflow) -> Self {
        let Workflow { id, path, name, description, category, execution_mode, timeout_seconds, .. } =
            workflow;
        Self {
            id: id.to_string(),
            name,
            description,
            category,
            execution_mode,
            timeout_seconds,
            ..Self::said(&workflow.definition, workflow.parameters.0, path)
        }
    }
}

impl WorkflowMetadata {
    /// A workflow that is in no row yet; it has an id only if its decorator gives one.
    fn declared(found: Found, path: String) -> Self {
        let mut definition = found.rest;
        definition
            .insert("retry_policy".into(), serde_json::to_value(&found.retry_policy).unwrap_or_default());
        Self {
            id: found.id.map(|id| id.to_string()).unwrap_or_default(),
            name: found.name,
            description: found.description,
            category: found.category,
            execution_mode: found.execution_mode,
            timeout_seconds: found.timeout_seconds,
            ..Self::said(&Value::Object(definition), found.parameters, path)
        }
    }

    /// What the definition holds; the members that have columns of their own are still to be filled in.
    fn said(definition: &Value, parameters: Vec<Parameter>, path: String) -> Self {
        let said = |name: &str| definition.get(name);
        let flag = |name| said(name).and_then(Value::as_bool).unwrap_or_default();
        let texts = |name| {
            let texts = said(name).and_then(Value::as_array).into_iter().flatten();
            texts.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        Self {
            id: String::new(),
            name: String::new(),
            description: None,
            category: String::new(),
            execution_mode: String::new(),
            timeout_seconds: 0,
            concurrency_limit: said("concurrency_limit").and_then(Value::as_i64),
            concurrency_key: said("concurrency_key").and_then(Value::as_str).map(str::to_owned),
            rate_limit: said("rate_limit").and_then(|rate| RateLimit::deserialize(rate).ok()),
            paused_at: None,
            tags: texts("tags"),
            parameters: parameters.into_iter().map(Into::into).collect(),
            retry_policy: said("retry_policy").and_then(RetryPolicy::read),
            schedule: said("schedule").and_then(Value::as_str).map(str::to_owned),
            endpoint_enabled: flag("endpoint_enabled"),
            allowed_methods: texts("allowed_methods"),
            disable_global_key: flag("disable_global_key"),
            public_endpoint: flag("public_endpoint"),
            endpoint_rate_limit: said("endpoint_rate_limit")
                .and_then(|rate| EndpointRateLimit::deserialize(rate).ok()),
            relative_file_path: Some(format!("/workspace/{path}")),
            source_file_path: Some(path),
        }
    }
}

impl From<Parameter> for WorkflowParameter {
    fn from(parameter: Parameter) -> Self {
        Self {
            name: parameter.name,
            r#type: parameter.kind,
            required: parameter.required,
            label: parameter.label,
            default_value: parameter.default_value,
            description: parameter.description,
            validation: parameter.validation,
            data_provider: parameter.data_provider,
            options: parameter.options,
        }
    }
}

impl RetryPolicy {
    /// The policy in the definition of a workflow; the contract knows whole seconds only.
    fn read(value: &Value) -> Option<Self> {
        let policy = serde_json::from_value::<workflows::RetryPolicy>(value.clone()).ok()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a pause is far below 2^63 seconds, and casts saturate"
        )]
        let whole = |seconds: f64| seconds.ceil() as i64;
        Some(Self {
            max_attempts: policy.max_attempts,
            backoff_seconds: whole(policy.backoff_seconds),
            max_backoff_seconds: whole(policy.max_backoff_seconds),
            retry_on: policy.retry_on,
        })
    }
}
