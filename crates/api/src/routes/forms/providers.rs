//! The options of a form's fields, from data providers.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::executions::RawJson;
use domain::forms::fields;
use domain::id::FormId;
use domain::workflows::providers::{self, Answer, Failure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{parsed, usable};
use crate::extract::{Json, OptionalJson, PathPair, Signed, check_json};
use crate::problem::{Problem, Problems};
use crate::visibility::Reader;
use crate::{AppState, deadline};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(ask_data_provider))
}

/// What to ask.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": {"site": "LON-01"}, "no_cache": false}))]
struct DataProviderRequest {
    /// The provider's parameters by name, as the browser evaluated them.
    #[schema(value_type = Option<Object>)]
    inputs: Option<Map<String, Value>>,
    /// Computes anew, and keeps that. `noCache` is the same.
    #[serde(alias = "noCache")]
    no_cache: Option<bool>,
}

/// The options of a field.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "provider": "sites", "options": [{"label": "London", "value": "LON-01"}], "cached": true,
    "cache_expires_at": "2026-11-26T12:00:00Z",
}))]
struct DataProviderResponse {
    provider: String,
    /// In the order of the provider.
    #[schema(value_type = Vec<DataProviderOption>)]
    options: RawJson,
    /// Whether they were kept from before.
    cached: bool,
    /// Until when they are kept; null: they are not.
    cache_expires_at: Option<DateTime<Utc>>,
}

/// One option.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema matters")]
struct DataProviderOption {
    label: String,
    /// What the form submits.
    value: Value,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    description: Option<String>,
}

/// The options that a data provider has for a form.
///
/// For whoever may use the form, and only providers that a field of it names. Answers are kept per organization, provider
/// and inputs for as long as the provider declares; while one is computed, everybody who asks the same waits for it. A
/// provider that fails is 500, and platform administrators find what it logged in `logs`, and why it failed.
#[utoipa::path(
    post, path = "/api/forms/{form_id}/data-providers/{name}", tag = "Forms", security(("bearer" = [])),
    params(
        ("form_id" = Uuid, Path, description = "The form."),
        ("name" = String, Path, description = "The data provider."),
    ),
    request_body = Option<DataProviderRequest>,
    responses(
        (status = 200, body = DataProviderResponse),
        (status = 500, description = "The provider failed."),
        (status = 504, description = "It takes longer than the server waits."),
        Problems,
    ),
)]
async fn ask_data_provider(
    State(app): State<AppState>,
    signed: Signed,
    PathPair(id, name): PathPair<FormId, String>,
    OptionalJson(request): OptionalJson<DataProviderRequest>,
) -> Result<Json<DataProviderResponse>, Problem> {
    let scope = signed.scope.clone().narrowed();
    scope.owner()?;
    let form = usable(&app, signed.scope, id).await?;
    let request = request.unwrap_or_default();
    let inputs = request.inputs.unwrap_or_default();
    check_json("/inputs", &inputs)?;
    let schema = parsed(&form.form_schema)?;
    if !fields::data_providers(&schema).contains(&name.as_str()) {
        return Err(domain::Error::NotFound("data provider").into());
    }
    let find = async {
        let mut tx = app.platform.db.begin(&scope).await?;
        let provider = providers::get(&mut tx, &name).await?;
        tx.commit().await?;
        Ok(provider)
    };
    let provider = deadline::in_time(find).await?;
    let fresh = request.no_cache.unwrap_or_default();
    deadline::may_wait(providers::PATIENCE);
    match Box::pin(providers::ask(&app.platform, &scope, &provider, inputs, fresh)).await? {
        Answer::Options(options) => Ok(Json(DataProviderResponse {
            provider: name,
            options: options.list,
            cached: options.cached,
            cache_expires_at: options.expires_at,
        })),
        Answer::Failed(failure) => Err(failed(failure, Reader::of(&scope))),
        Answer::Unfinished => Err(Problem::new(StatusCode::GATEWAY_TIMEOUT)
            .detail("the data provider takes longer than the server waits")),
    }
}

/// What the provider says to users; administrators find the rest in `logs`, why it failed last.
fn failed(failure: Failure, reader: Reader) -> Problem {
    let text = Reader::User.error(Some(&failure.message), failure.is_user_error);
    let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR)
        .detail(text.unwrap_or_else(|| "the data provider failed".into()));
    if !reader.sees_everything() {
        return problem;
    }
    let lines = failure.lines.into_iter().map(|line| {
        json!({"level": line.level, "message": line.message, "timestamp": line.logged_at, "data": line.data})
    });
    let why =
        json!({"level": "ERROR", "message": failure.message, "timestamp": Utc::now(), "data": Value::Null});
    problem.with("logs", lines.chain([why]).collect())
}
