//! Metrics: the dashboard of a caller; the snapshot and the sums for platform administrators.
//!
//! The dashboard is as of now; everything else is as of the last snapshot, and costs the sums and not the history.

use axum::extract::State;
use domain::id::OrgId;
use domain::metrics::{self, Sort};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::{Admin, Json, Query, Signed, whole_number};
use crate::problem::{Problem, Problems};
use crate::visibility::Reader;

mod view;

use view::{
    DailyMetricsEntry, DailyMetricsResponse, DashboardMetricsResponse, ORGANIZATION_PREFIX,
    OrganizationMetricsResponse, PlatformMetricsResponse, ResourceMetricsEntry, ResourceMetricsResponse,
    WorkflowMetricsResponse, organization_text,
};

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_metrics))
        .routes(routes!(get_metrics_snapshot))
        .routes(routes!(list_daily_metrics))
        .routes(routes!(list_organization_metrics))
        .routes(routes!(list_resource_metrics))
        .routes(routes!(list_workflow_metrics))
}

/// Which days, and whose.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DailyQuery {
    /// How many days, today included.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 365, default = 30)]
    days: Option<String>,
    /// Of this organization, `ORG:<uuid>` or `<uuid>`; all of the scope together if not given.
    #[param(example = "ORG:0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11")]
    organization_id: Option<String>,
}

/// Which days.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DaysQuery {
    /// How many days, today included.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 365, default = 30)]
    days: Option<String>,
}

/// Which days, and how many organizations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OrganizationsQuery {
    /// How many days, today included.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 365, default = 30)]
    days: Option<String>,
    /// How many organizations.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100, default = 20)]
    limit: Option<String>,
}

/// Which days, and which workflows.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WorkflowsQuery {
    /// How many days, today included.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 365, default = 30)]
    days: Option<String>,
    /// `executions`, or the mean of `memory`, `duration` or `cpu`; the most first.
    #[param(value_type = Option<String>, default = "executions")]
    sort_by: Option<String>,
    /// How many workflows.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100, default = 20)]
    limit: Option<String>,
}

/// The dashboard: what the caller may see, as it is now.
///
/// Users count their own executions, platform administrators and users with the permission `executions.read` those of the
/// scope; without `X-Organization-Id` an administrator counts the whole platform.
#[utoipa::path(
    get, path = "/api/metrics", tag = "Metrics", security(("bearer" = [])),
    responses((status = 200, body = DashboardMetricsResponse), Problems),
)]
async fn get_metrics(
    State(app): State<AppState>,
    signed: Signed,
) -> Result<Json<DashboardMetricsResponse>, Problem> {
    let reader = Reader::of(&signed.scope);
    let mut tx = app.platform.db.begin(&signed.scope).await?;
    let dashboard = metrics::dashboard(&mut tx).await?;
    tx.commit().await?;
    Ok(Json(DashboardMetricsResponse::new(dashboard, reader)))
}

/// Numbers of the whole platform.
///
/// Taken every two minutes by one worker; 404 before the first time. The last 24 hours are to the minute.
#[utoipa::path(
    get, path = "/api/metrics/snapshot", tag = "Metrics", security(("bearer" = [])),
    responses((status = 200, body = PlatformMetricsResponse), Problems),
)]
async fn get_metrics_snapshot(
    State(app): State<AppState>,
    _: Admin,
) -> Result<Json<PlatformMetricsResponse>, Problem> {
    Ok(Json(metrics::latest(&app.platform.db).await?.into()))
}

/// What ended, day by day.
///
/// As of the last snapshot. Of the organization given, else of the scope; without `X-Organization-Id` of the whole
/// platform. Days without any are left out.
#[utoipa::path(
    get, path = "/api/metrics/executions/daily", tag = "Metrics", security(("bearer" = [])), params(DailyQuery),
    responses((status = 200, body = DailyMetricsResponse), Problems),
)]
async fn list_daily_metrics(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<DailyQuery>,
) -> Result<Json<DailyMetricsResponse>, Problem> {
    let days = days_of(query.days.as_deref())?;
    let organization = query.organization_id.as_deref().map(organization_of).transpose()?;
    let mut tx = app.platform.db.begin(&admin.scope).await?;
    let daily = metrics::daily(&mut tx, days, organization).await?;
    tx.commit().await?;
    let (id, name) =
        daily.organization.map_or((None, None), |(id, name)| (Some(organization_text(id)), Some(name)));
    let days: Vec<_> =
        daily.days.iter().map(|day| DailyMetricsEntry::new(day, id.clone(), name.clone())).collect();
    Ok(Json(DailyMetricsResponse { total_days: days.len(), days }))
}

/// What ended, by organization.
///
/// As of the last snapshot, most executions first. What belongs to no organization is left out.
#[utoipa::path(
    get, path = "/api/metrics/organizations", tag = "Metrics", security(("bearer" = [])), params(OrganizationsQuery),
    responses((status = 200, body = OrganizationMetricsResponse), Problems),
)]
async fn list_organization_metrics(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<OrganizationsQuery>,
) -> Result<Json<OrganizationMetricsResponse>, Problem> {
    let (days, limit) = (days_of(query.days.as_deref())?, limit_of(query.limit.as_deref())?);
    let mut tx = app.platform.db.begin(&admin.scope).await?;
    let ranked = metrics::organizations(&mut tx, days, limit).await?;
    tx.commit().await?;
    let organizations = ranked.rows.into_iter().map(Into::into).collect();
    Ok(Json(OrganizationMetricsResponse { organizations, total_organizations: ranked.total }))
}

/// What executions used, day by day.
///
/// As of the last snapshot. Means and sums are over executions whose use was measured.
#[utoipa::path(
    get, path = "/api/metrics/resources", tag = "Metrics", security(("bearer" = [])), params(DaysQuery),
    responses((status = 200, body = ResourceMetricsResponse), Problems),
)]
async fn list_resource_metrics(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<DaysQuery>,
) -> Result<Json<ResourceMetricsResponse>, Problem> {
    let days = days_of(query.days.as_deref())?;
    let mut tx = app.platform.db.begin(&admin.scope).await?;
    let daily = metrics::daily(&mut tx, days, None).await?;
    tx.commit().await?;
    let days: Vec<_> = daily.days.iter().map(ResourceMetricsEntry::from).collect();
    Ok(Json(ResourceMetricsResponse { total_days: days.len(), days }))
}

/// What ended, by workflow.
///
/// As of the last snapshot. A name is one workflow, whichever organizations of the scope it ran in.
#[utoipa::path(
    get, path = "/api/metrics/workflows", tag = "Metrics", security(("bearer" = [])), params(WorkflowsQuery),
    responses((status = 200, body = WorkflowMetricsResponse), Problems),
)]
async fn list_workflow_metrics(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<WorkflowsQuery>,
) -> Result<Json<WorkflowMetricsResponse>, Problem> {
    let (days, limit) = (days_of(query.days.as_deref())?, limit_of(query.limit.as_deref())?);
    let sort = sort_of(query.sort_by.as_deref())?;
    let mut tx = app.platform.db.begin(&admin.scope).await?;
    let ranked = metrics::workflows(&mut tx, days, sort, limit).await?;
    tx.commit().await?;
    let workflows = ranked.rows.into_iter().map(Into::into).collect();
    Ok(Json(WorkflowMetricsResponse {
        workflows,
        total_workflows: ranked.total,
        sort_by: sort.as_str(),
        days,
    }))
}

fn days_of(text: Option<&str>) -> Result<i64, Problem> {
    whole_number("days", text, 30, 1..=365)
}

fn limit_of(text: Option<&str>) -> Result<i64, Problem> {
    whole_number("limit", text, 20, 1..=100)
}

fn sort_of(text: Option<&str>) -> Result<Sort, Problem> {
    let Some(text) = text else { return Ok(Sort::Executions) };
    text.trim().parse().map_err(|()| {
        let names = Sort::ALL.map(Sort::as_str).join(", ");
        Problem::invalid("?sort_by", format!("must be one of {names}"))
    })
}

fn organization_of(text: &str) -> Result<OrgId, Problem> {
    let text = text.trim();
    let id = text.strip_prefix(ORGANIZATION_PREFIX).unwrap_or(text);
    id.parse().map_err(|_| {
        Problem::invalid("?organization_id", format!("must be a UUID, or one after `{ORGANIZATION_PREFIX}`"))
    })
}
