//! Whether the server lives, is ready, and what it depends on.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use domain::{Error, Result};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::Json;
use crate::problem::{Problem, PublicProblems};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long a dependency may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_root))
        .routes(routes!(get_health))
        .routes(routes!(get_live))
        .routes(routes!(get_ready))
        .routes(routes!(get_detailed))
}

/// What answers here.
#[derive(Debug, Serialize, ToSchema)]
struct Root {
    #[schema(example = "Bifrost")]
    name: &'static str,
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// Where to read on.
    #[schema(example = "/docs")]
    docs: &'static str,
}

/// A sign of life.
#[derive(Debug, Serialize, ToSchema)]
struct HealthCheck {
    #[schema(example = "healthy")]
    status: &'static str,
    timestamp: DateTime<Utc>,
    version: &'static str,
    #[schema(example = "production")]
    environment: &'static str,
}

/// A sign of life with the state of every dependency.
#[derive(Debug, Serialize, ToSchema)]
struct DetailedHealthCheck {
    /// `healthy`; `degraded` while the broker or Redis is away; `unhealthy` without the database.
    #[schema(example = "healthy")]
    status: &'static str,
    timestamp: DateTime<Utc>,
    version: &'static str,
    environment: &'static str,
    /// `database`, `redis` and `rabbitmq`.
    #[schema(value_type = BTreeMap<String, Object>)]
    components: BTreeMap<&'static str, Component>,
}

#[derive(Debug, Serialize)]
struct Component {
    status: &'static str,
    r#type: &'static str,
    /// For platform administrators only.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Name and version of the server.
///
/// For whoever wonders what listens here.
#[utoipa::path(get, path = "/", tag = "health", responses((status = 200, body = Root)))]
async fn get_root() -> Json<Root> {
    Json(Root { name: "Bifrost", version: VERSION, docs: "/docs" })
}

/// A sign of life.
///
/// Answers without touching a dependency.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, body = HealthCheck)))]
async fn get_health(State(app): State<AppState>) -> Json<HealthCheck> {
    Json(alive(&app, "healthy"))
}

/// Whether the process lives.
///
/// Answers without touching a dependency: a process that does not answer should be restarted.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = HealthCheck)))]
async fn get_live(State(app): State<AppState>) -> Json<HealthCheck> {
    Json(alive(&app, "healthy"))
}

/// Whether requests should be sent here.
///
/// Not while the process stops, the database is away or its schema is not there. The broker and Redis are not
/// required: submissions are accepted without them.
#[utoipa::path(get, path = "/health/ready", tag = "health", responses((status = 200, body = HealthCheck), PublicProblems))]
async fn get_ready(State(app): State<AppState>) -> Result<Json<HealthCheck>, Problem> {
    if app.draining.is_cancelled() {
        return Err(Error::Unavailable { service: "this process", source: "it stops".into() }.into());
    }
    in_time("PostgreSQL", app.platform.db.ping()).await?;
    Ok(Json(alive(&app, "ready")))
}

/// The state of every dependency.
///
/// Platform administrators also read what went wrong.
#[utoipa::path(get, path = "/health/detailed", tag = "health", responses((status = 200, body = DetailedHealthCheck)))]
async fn get_detailed(State(app): State<AppState>, headers: HeaderMap) -> Json<DetailedHealthCheck> {
    let platform = &app.platform;
    let (caller, database, redis, rabbitmq) = tokio::join!(
        app.authenticate(&headers),
        in_time("PostgreSQL", platform.db.ping()),
        in_time("Redis", platform.cache.ping()),
        in_time("RabbitMQ", platform.wakeups.ping()),
    );
    let tell = caller.is_ok_and(|caller| caller.principal.is_superuser);
    let status = match (&database, &redis, &rabbitmq) {
        (Err(_), ..) => "unhealthy",
        (Ok(()), Ok(()), Ok(())) => "healthy",
        _ => "degraded",
    };
    // What is not configured is done by the process itself, and then always there.
    let kind = |name, is_configured| if is_configured { name } else { "in-process" };
    let settings = &platform.settings;
    let components = BTreeMap::from([
        ("database", component("postgresql", &database, tell)),
        ("redis", component(kind("redis", settings.redis_url.is_some()), &redis, tell)),
        ("rabbitmq", component(kind("rabbitmq", settings.rabbitmq_url.is_some()), &rabbitmq, tell)),
    ]);
    let HealthCheck { timestamp, version, environment, .. } = alive(&app, status);
    Json(DetailedHealthCheck { status, timestamp, version, environment, components })
}

fn alive(app: &AppState, status: &'static str) -> HealthCheck {
    let environment = app.platform.settings.environment.as_str();
    HealthCheck { status, timestamp: Utc::now(), version: VERSION, environment }
}

async fn in_time(service: &'static str, ping: impl Future<Output = Result<()>>) -> Result<()> {
    match tokio::time::timeout(PATIENCE, ping).await {
        Ok(answer) => answer,
        Err(late) => Err(Error::Unavailable { service, source: late.into() }),
    }
}

fn component(kind: &'static str, answer: &Result<()>, tell: bool) -> Component {
    let error = answer.as_ref().err().filter(|_| tell).map(|error| match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    });
    Component { status: if answer.is_ok() { "healthy" } else { "unhealthy" }, r#type: kind, error }
}
