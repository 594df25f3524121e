//! Packages of the workspace: what its Python code may import. Building them is the business of the jobs process.

use axum::extract::State;
use axum::http::HeaderMap;
use domain::Error;
use domain::packages::requirements::{Name, Version};
use domain::packages::{self, Change};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::extract::{Admin, Json, Path, Signed};
use crate::observe::traceparent;
use crate::problem::{Problem, Problems};
use crate::{AppState, deadline};

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_packages))
        .routes(routes!(list_package_updates))
        .routes(routes!(install_package))
        .routes(routes!(roll_back_packages))
        .routes(routes!(uninstall_package))
}

/// A package of the workspace's environment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"name": "requests", "version": "2.32.3"}))]
struct InstalledPackage {
    /// Normalized name.
    name: String,
    version: String,
}

/// The workspace's environment.
#[derive(Debug, Serialize, ToSchema)]
struct InstalledPackagesResponse {
    /// By name: what was asked for, and what that needs.
    #[schema(required = false)]
    packages: Vec<InstalledPackage>,
    #[schema(required = false)]
    total_count: usize,
}

/// A package with a newer version.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"name": "requests", "current_version": "2.31.0", "latest_version": "2.32.3"}))]
struct PackageUpdate {
    name: String,
    current_version: String,
    /// The newest version that is neither withdrawn nor a pre-release, and comes as a wheel.
    latest_version: String,
}

/// What is newer at the index.
#[derive(Debug, Serialize, ToSchema)]
struct PackageUpdatesResponse {
    #[schema(required = false)]
    updates_available: Vec<PackageUpdate>,
    #[schema(required = false)]
    total_count: usize,
}

/// A package to install.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"package_name": "requests", "version": ">=2.31,<3"}))]
struct InstallPackageRequest {
    /// A PEP 508 name.
    #[schema(min_length = 1)]
    package_name: String,
    /// A version, or PEP 440 specifiers; the newest that fits if not given.
    version: Option<String>,
}

/// A change that was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "package_name": "requests", "version": "2.32.3", "status": "queued", "message": "requests is going to be installed.",
    "job_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11", "notification_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b12",
}))]
struct PackageInstallResponse {
    package_name: String,
    /// As it was asked for.
    version: Option<String>,
    /// `queued`: the channel `package:{user}` tells how it goes.
    status: String,
    message: String,
    /// The job that does it.
    job_id: Uuid,
    /// The notification that follows it.
    notification_id: Option<Uuid>,
}

/// A change that was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "message": "requests is going to be removed.", "status": "queued", "job_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11",
    "notification_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b12",
}))]
struct PackageChangeResponse {
    message: String,
    /// `queued`: the channel `package:{user}` tells how it goes.
    status: String,
    /// The job that does it.
    job_id: Uuid,
    /// The notification that follows it.
    notification_id: Option<Uuid>,
}

/// The packages of the workspace's environment.
///
/// What was asked for, and what that needs; not what the interpreter of the workers brings along.
#[utoipa::path(
    get, path = "/api/packages", tag = "Packages", security(("bearer" = [])),
    responses((status = 200, body = InstalledPackagesResponse), Problems),
)]
async fn list_packages(
    State(app): State<AppState>,
    _signed: Signed,
) -> Result<Json<InstalledPackagesResponse>, Problem> {
    let environment = packages::current(&app.platform.db).await?;
    let shown =
        |package: packages::Package| InstalledPackage { name: package.name, version: package.version };
    let packages: Vec<_> = environment.packages.into_iter().map(shown).collect();
    Ok(Json(InstalledPackagesResponse { total_count: packages.len(), packages }))
}

/// What is newer at the package index.
///
/// Empty when the index does not answer within ten seconds. Answers are remembered for five minutes.
#[utoipa::path(
    get, path = "/api/packages/updates", tag = "Packages", security(("bearer" = [])),
    responses((status = 200, body = PackageUpdatesResponse), Problems),
)]
async fn list_package_updates(
    State(app): State<AppState>,
    _signed: Signed,
) -> Result<Json<PackageUpdatesResponse>, Problem> {
    deadline::may_wait(deadline::OTHERS);
    let environment = packages::current(&app.platform.db).await?;
    let updates = app.platform.updates.of(&environment).await;
    let updates_available: Vec<_> = updates
        .iter()
        .map(|update| PackageUpdate {
            name: update.name.clone(),
            current_version: update.current.clone(),
            latest_version: update.latest.clone(),
        })
        .collect();
    Ok(Json(PackageUpdatesResponse { total_count: updates_available.len(), updates_available }))
}

/// Installs a package, or another version of it.
///
/// A job builds an environment with it beside the one in use, from the full pinned set, and switches to it together with
/// `requirements.txt`. Runs under way keep the old one; a build that fails changes nothing. Only wheels are installed.
#[utoipa::path(
    post, path = "/api/packages/install", tag = "Packages", security(("bearer" = [])),
    request_body = InstallPackageRequest,
    responses((status = 200, body = PackageInstallResponse), Problems),
)]
async fn install_package(
    State(app): State<AppState>,
    admin: Admin,
    headers: HeaderMap,
    Json(input): Json<InstallPackageRequest>,
) -> Result<Json<PackageInstallResponse>, Problem> {
    let name: Name = input.package_name.parse().map_err(|fault| Problem::invalid("/package_name", fault))?;
    let version: Option<Version> = match input.version.as_deref() {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|fault| Problem::invalid("/version", fault))?),
    };
    let change = Change::Install { name: name.clone(), version };
    let message = format!("{name} is going to be installed.");
    let PackageChangeResponse { message, status, job_id, notification_id } =
        request(&app, admin, &headers, &change, message).await?;
    let version = input.version;
    Ok(Json(PackageInstallResponse {
        package_name: name.to_string(),
        version,
        status,
        message,
        job_id,
        notification_id,
    }))
}

/// Goes back to the packages before the last change.
///
/// Doing it twice leads back to where it began.
#[utoipa::path(
    post, path = "/api/packages/rollback", tag = "Packages", security(("bearer" = [])),
    responses(
        (status = 200, body = PackageChangeResponse),
        (status = 400, description = "There is nothing to go back to."),
        Problems,
    ),
)]
async fn roll_back_packages(
    State(app): State<AppState>,
    admin: Admin,
    headers: HeaderMap,
) -> Result<Json<PackageChangeResponse>, Problem> {
    let current = packages::current(&app.platform.db).await?;
    if packages::before(&app.platform.db, current.version).await?.is_none() {
        return Err(Error::Impossible("There is no environment to go back to".into()).into());
    }
    let message = "The packages before are going to be used again.".to_owned();
    Ok(Json(request(&app, admin, &headers, &Change::RollBack, message).await?))
}

/// Removes a package, and what only that one needs.
///
/// It stays as long as another package needs it.
#[utoipa::path(
    delete, path = "/api/packages/{package_name}", tag = "Packages", security(("bearer" = [])),
    params(("package_name" = String, Path, description = "The package.", example = "requests")),
    responses(
        (status = 200, body = PackageChangeResponse),
        (status = 400, description = "It is not installed."),
        Problems,
    ),
)]
async fn uninstall_package(
    State(app): State<AppState>,
    admin: Admin,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<PackageChangeResponse>, Problem> {
    let name: Name = name.parse().map_err(|fault| Problem::invalid("path:package_name", fault))?;
    let environment = packages::current(&app.platform.db).await?;
    if !environment.packages.iter().any(|package| package.name == name.as_str()) {
        return Err(Error::Impossible(format!("{name} is not installed")).into());
    }
    let message = format!("{name} is going to be removed.");
    Ok(Json(request(&app, admin, &headers, &Change::Uninstall { name }, message).await?))
}

async fn request(
    app: &AppState,
    admin: Admin,
    headers: &HeaderMap,
    change: &Change,
    message: String,
) -> Result<PackageChangeResponse, Problem> {
    // The workspace is one, whatever organization the administrator looks at.
    let scope = admin.scope.of_owner(None);
    let mut tx = app.platform.db.begin(&scope).await?;
    let job = packages::request(&mut tx, change, traceparent(headers)).await?;
    tx.commit().await?;
    let (job_id, notification_id) = (job.id.0, Some(job.notification.id.0));
    job.announce(&app.platform);
    Ok(PackageChangeResponse { message, status: "queued".into(), job_id, notification_id })
}
