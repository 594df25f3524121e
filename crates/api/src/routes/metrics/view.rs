//! How metrics look to their reader.
//!
//! Success rates are percent of what succeeded or failed: what was cancelled says nothing. Where only failures are
//! counted, they are those of every kind: `Failed`, `CompletedWithErrors` and `Timeout`.

use chrono::{DateTime, Utc};
use domain::id::{ExecutionId, OrgId};
use domain::metrics::{self, Dashboard, Day, Failure, OrganizationSums, Snapshot, WorkflowSums};
use serde::Serialize;
use utoipa::ToSchema;

use crate::visibility::Reader;

/// Comes before the ids of organizations here.
pub(super) const ORGANIZATION_PREFIX: &str = "ORG:";

/// What the caller may see, as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "workflow_count": 12, "data_provider_count": 3, "form_count": 5,
    "execution_stats": {
        "total_executions": 1204, "success_count": 1180, "failed_count": 20, "running_count": 1, "pending_count": 0,
        "success_rate": 98.33, "avg_duration_seconds": 2.41,
    },
    "recent_failures": [{
        "execution_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "workflow_name": "nightly_report",
        "error_message": "no such site", "started_at": "2026-11-26T05:00:00.412Z",
    }],
}))]
pub(super) struct DashboardMetricsResponse {
    /// Active workflows in reach.
    workflow_count: i64,
    /// Active data providers in reach.
    data_provider_count: i64,
    /// Active forms that the caller may use.
    form_count: i64,
    execution_stats: ExecutionStats,
    /// The newest ten.
    recent_failures: Vec<RecentFailure>,
}

/// Counts of executions, over all time.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExecutionStats {
    /// All of them, what waits and runs included.
    total_executions: i64,
    success_count: i64,
    /// `Failed`, `CompletedWithErrors` and `Timeout`.
    failed_count: i64,
    running_count: i64,
    pending_count: i64,
    /// Percent of what succeeded or failed.
    success_rate: f64,
    avg_duration_seconds: f64,
}

/// An execution that failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecentFailure {
    #[schema(value_type = String, format = Uuid)]
    execution_id: ExecutionId,
    workflow_name: String,
    /// For users without platform rights neutral, unless it was written for them.
    #[schema(required = true)]
    error_message: Option<String>,
    /// When it was first claimed.
    #[schema(required = true)]
    started_at: Option<DateTime<Utc>>,
}

/// Numbers of the whole platform.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "workflow_count": 40, "form_count": 25, "data_provider_count": 6, "organization_count": 12, "user_count": 180,
    "total_executions": 250_412, "total_success": 246_000, "total_failed": 4_100, "executions_24h": 3_120,
    "success_24h": 3_080, "failed_24h": 35, "running_count": 4, "pending_count": 0, "avg_duration_ms_24h": 1_830,
    "total_memory_bytes_24h": 130_862_284_800_u64, "total_cpu_seconds_24h": 912.4, "success_rate_all_time": 98.36,
    "success_rate_24h": 98.88, "refreshed_at": "2026-11-26T05:00:00Z",
}))]
pub(super) struct PlatformMetricsResponse {
    /// Active ones.
    workflow_count: i64,
    /// Active ones.
    form_count: i64,
    /// Active ones.
    data_provider_count: i64,
    /// Active ones.
    organization_count: i64,
    /// Active ones.
    user_count: i64,
    /// That ended.
    total_executions: i64,
    total_success: i64,
    total_failed: i64,
    /// That ended in the last 24 hours.
    executions_24h: i64,
    success_24h: i64,
    failed_24h: i64,
    running_count: i64,
    pending_count: i64,
    avg_duration_ms_24h: i64,
    /// The peak of each, added up.
    total_memory_bytes_24h: i64,
    total_cpu_seconds_24h: f64,
    /// Percent.
    success_rate_all_time: f64,
    /// Percent.
    success_rate_24h: f64,
    refreshed_at: DateTime<Utc>,
}

/// What ended on a day.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "date": "2026-11-25", "organization_id": "ORG:0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "organization_name": "Acme",
    "execution_count": 120, "success_count": 115, "failed_count": 3, "timeout_count": 1, "cancelled_count": 1,
    "avg_duration_ms": 1_830, "max_duration_ms": 42_000, "peak_memory_bytes": 98_304_000_u64,
    "total_memory_bytes": 5_033_164_800_u64, "peak_cpu_seconds": 3.2, "total_cpu_seconds": 35.1,
}))]
pub(super) struct DailyMetricsEntry {
    /// In UTC; the day of the end.
    date: String,
    /// Null: all of them together.
    organization_id: Option<String>,
    organization_name: Option<String>,
    execution_count: i64,
    success_count: i64,
    /// `Failed` and `CompletedWithErrors`.
    failed_count: i64,
    timeout_count: i64,
    cancelled_count: i64,
    avg_duration_ms: i64,
    max_duration_ms: i64,
    peak_memory_bytes: i64,
    /// The peak of each, added up.
    total_memory_bytes: i64,
    peak_cpu_seconds: f64,
    total_cpu_seconds: f64,
}

/// Days on which something ended, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DailyMetricsResponse {
    pub(super) days: Vec<DailyMetricsEntry>,
    /// How many of them.
    pub(super) total_days: usize,
}

/// What ended in an organization.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "organization_id": "ORG:0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "organization_name": "Acme", "total_executions": 3600,
    "success_count": 3540, "failed_count": 48, "success_rate": 98.66, "total_memory_bytes": 150_994_944_000_u64,
    "total_cpu_seconds": 1053.2, "avg_duration_ms": 1_830,
}))]
pub(super) struct OrganizationMetricsSummary {
    organization_id: String,
    organization_name: String,
    total_executions: i64,
    success_count: i64,
    failed_count: i64,
    /// Percent of what succeeded or failed.
    success_rate: f64,
    /// The peak of each, added up.
    total_memory_bytes: i64,
    total_cpu_seconds: f64,
    avg_duration_ms: i64,
}

/// Organizations, most executions first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrganizationMetricsResponse {
    pub(super) organizations: Vec<OrganizationMetricsSummary>,
    /// How many have any, beyond the limit too.
    pub(super) total_organizations: i64,
}

/// What the executions of a day used.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "date": "2026-11-25", "peak_memory_bytes": 98_304_000_u64, "total_memory_bytes": 5_033_164_800_u64,
    "avg_memory_bytes": 41_943_040, "peak_cpu_seconds": 3.2, "total_cpu_seconds": 35.1, "avg_cpu_seconds": 0.29,
    "execution_count": 120,
}))]
pub(super) struct ResourceMetricsEntry {
    /// In UTC; the day of the end.
    date: String,
    peak_memory_bytes: i64,
    /// The peak of each, added up.
    total_memory_bytes: i64,
    avg_memory_bytes: i64,
    peak_cpu_seconds: f64,
    total_cpu_seconds: f64,
    avg_cpu_seconds: f64,
    execution_count: i64,
}

/// Days on which something ended, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ResourceMetricsResponse {
    pub(super) days: Vec<ResourceMetricsEntry>,
    /// How many of them.
    pub(super) total_days: usize,
}

/// What ended of a workflow.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "workflow_name": "nightly_report", "total_executions": 30, "success_count": 29, "failed_count": 1,
    "success_rate": 96.67, "avg_memory_bytes": 41_943_040, "avg_duration_ms": 12_400, "avg_cpu_seconds": 2.1,
    "peak_memory_bytes": 98_304_000_u64, "max_duration_ms": 42_000,
}))]
pub(super) struct WorkflowMetricsSummary {
    workflow_name: String,
    total_executions: i64,
    success_count: i64,
    failed_count: i64,
    /// Percent of what succeeded or failed.
    success_rate: f64,
    avg_memory_bytes: i64,
    avg_duration_ms: i64,
    avg_cpu_seconds: f64,
    peak_memory_bytes: i64,
    max_duration_ms: i64,
}

/// Workflows in the order asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkflowMetricsResponse {
    pub(super) workflows: Vec<WorkflowMetricsSummary>,
    /// How many have any executions, beyond the limit too.
    pub(super) total_workflows: i64,
    /// As asked for.
    pub(super) sort_by: &'static str,
    /// As asked for.
    pub(super) days: i64,
}

/// An id as it is written here.
pub(super) fn organization_text(id: OrgId) -> String {
    format!("{ORGANIZATION_PREFIX}{id}")
}

impl DashboardMetricsResponse {
    pub(super) fn new(dashboard: Dashboard, reader: Reader) -> Self {
        let Dashboard { workflows, data_providers, forms, stats, failures } = dashboard;
        Self {
            workflow_count: workflows,
            data_provider_count: data_providers,
            form_count: forms,
            execution_stats: ExecutionStats {
                total_executions: stats.total(),
                success_count: stats.successes,
                failed_count: stats.failures,
                running_count: stats.running,
                pending_count: stats.pending,
                success_rate: stats.success_rate(),
                avg_duration_seconds: stats.avg_duration_seconds(),
            },
            recent_failures: failures
                .into_iter()
                .map(|failure| RecentFailure::new(failure, reader))
                .collect(),
        }
    }
}

impl RecentFailure {
    fn new(failure: Failure, reader: Reader) -> Self {
        Self {
            execution_id: failure.id,
            error_message: reader.error(failure.error_message.as_deref(), failure.is_user_error),
            workflow_name: failure.workflow_name,
            started_at: failure.started_at,
        }
    }
}

impl From<Snapshot> for PlatformMetricsResponse {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            workflow_count: snapshot.workflows,
            form_count: snapshot.forms,
            data_provider_count: snapshot.data_providers,
            organization_count: snapshot.organizations,
            user_count: snapshot.users,
            total_executions: snapshot.executions,
            total_success: snapshot.successes,
            total_failed: snapshot.failures,
            executions_24h: snapshot.executions_24h,
            success_24h: snapshot.successes_24h,
            failed_24h: snapshot.failures_24h,
            running_count: snapshot.running,
            pending_count: snapshot.pending,
            avg_duration_ms_24h: snapshot.avg_duration_ms_24h,
            total_memory_bytes_24h: snapshot.memory_bytes_24h,
            total_cpu_seconds_24h: snapshot.cpu_microseconds_24h as f64 / 1e6,
            success_rate_all_time: metrics::success_rate(snapshot.successes, snapshot.failures),
            success_rate_24h: metrics::success_rate(snapshot.successes_24h, snapshot.failures_24h),
            refreshed_at: snapshot.taken_at,
        }
    }
}

impl DailyMetricsEntry {
    pub(super) fn new(Day { day, sums }: &Day, id: Option<String>, name: Option<String>) -> Self {
        Self {
            date: day.to_string(),
            organization_id: id,
            organization_name: name,
            execution_count: sums.executions,
            success_count: sums.successes,
            failed_count: sums.failures,
            timeout_count: sums.timeouts,
            cancelled_count: sums.cancellations,
            avg_duration_ms: sums.avg_duration_ms(),
            max_duration_ms: sums.max_duration_ms,
            peak_memory_bytes: sums.peak_memory_bytes,
            total_memory_bytes: sums.memory_bytes,
            peak_cpu_seconds: sums.peak_cpu_seconds(),
            total_cpu_seconds: sums.total_cpu_seconds(),
        }
    }
}

impl From<&Day> for ResourceMetricsEntry {
    fn from(Day { day, sums }: &Day) -> Self {
        Self {
            date: day.to_string(),
            peak_memory_bytes: sums.peak_memory_bytes,
            total_memory_bytes: sums.memory_bytes,
            avg_memory_bytes: sums.avg_memory_bytes(),
            peak_cpu_seconds: sums.peak_cpu_seconds(),
            total_cpu_seconds: sums.total_cpu_seconds(),
            avg_cpu_seconds: sums.avg_cpu_seconds(),
            execution_count: sums.executions,
        }
    }
}

impl From<OrganizationSums> for OrganizationMetricsSummary {
    fn from(OrganizationSums { organization_id, name, sums }: OrganizationSums) -> Self {
        Self {
            organization_id: organization_text(organization_id),
            organization_name: name,
            total_executions: sums.executions,
            success_count: sums.successes,
            failed_count: sums.all_failures(),
            success_rate: sums.success_rate(),
            total_memory_bytes: sums.memory_bytes,
            total_cpu_seconds: sums.total_cpu_seconds(),
            avg_duration_ms: sums.avg_duration_ms(),
        }
    }
}

impl From<WorkflowSums> for WorkflowMetricsSummary {
    fn from(WorkflowSums { name, sums }: WorkflowSums) -> Self {
        Self {
            workflow_name: name,
            total_executions: sums.executions,
            success_count: sums.successes,
            failed_count: sums.all_failures(),
            success_rate: sums.success_rate(),
            avg_memory_bytes: sums.avg_memory_bytes(),
            avg_duration_ms: sums.avg_duration_ms(),
            avg_cpu_seconds: sums.avg_cpu_seconds(),
            peak_memory_bytes: sums.peak_memory_bytes,
            max_duration_ms: sums.max_duration_ms,
        }
    }
}
