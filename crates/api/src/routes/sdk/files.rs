//! Files for code on a developer's machine: the workspace, and a folder for temporary files.
//!
//! A platform administrator reads and writes the shared files. Everybody else reads their organization's overlay in front
//! of them, and writes only there; of the shared files they do not have those of forms, which are of all organizations.

use std::path::PathBuf;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::Utc;
use domain::audit::{self, Action};
use domain::editor::MAX_FILE;
use domain::workspace_files::{FilePath, Files, make_overlay};
use domain::workspace_trees::OVERLAYS;
use domain::{Error, OrgScope};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::own_scope;
use crate::AppState;
use crate::extract::{Json, Sdk};
use crate::indexing::{self, Changed};
use crate::problem::{Problem, Problems};

/// Temporary files are removed at this age, and this many may be there at once.
const TEMPORARY: Duration = Duration::from_secs(24 * 3600);
const MOST_TEMPORARY: usize = 1_000;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(read_sdk_file))
        .routes(routes!(write_sdk_file))
        .routes(routes!(list_sdk_files))
        .routes(routes!(delete_sdk_file))
}

/// Where a file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(default = "workspace")]
enum Location {
    /// Files of this user, at one replica, that are removed a day later when another is written.
    Temp,
    /// The workspace.
    #[default]
    Workspace,
}

/// Which file.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"path": "reports/latest.csv"}))]
struct SDKFileReadRequest {
    path: String,
    #[serde(default)]
    #[schema(inline)]
    location: Location,
}

/// A file to write.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"path": "reports/latest.csv", "content": "site,count\nLON-01,3\n"}))]
struct SDKFileWriteRequest {
    path: String,
    /// UTF-8 text.
    content: String,
    #[serde(default)]
    #[schema(inline)]
    location: Location,
}

/// Which folder.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"directory": "reports"}))]
struct SDKFileListRequest {
    #[serde(default)]
    #[schema(default = "")]
    directory: String,
    #[serde(default)]
    #[schema(inline)]
    location: Location,
}

/// Which file.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"path": "reports/latest.csv"}))]
struct SDKFileDeleteRequest {
    path: String,
    #[serde(default)]
    #[schema(inline)]
    location: Location,
}

/// Where a caller's files are: read in this order, written to the first.
#[derive(Clone)]
struct Roots {
    scope: OrgScope,
    roots: Vec<PathBuf>,
    location: Location,
}

/// Reads a text file.
///
/// For a user the organization's own, else the shared one.
#[utoipa::path(
    post, path = "/api/sdk/files/read", tag = "SDK", security(("bearer" = [])), request_body = SDKFileReadRequest,
    responses(
        (status = 200, body = String, content_type = "application/json"),
        (status = 400, description = "Outside of the workspace, or no text."),
        Problems,
    ),
)]
async fn read_sdk_file(
    State(app): State<AppState>,
    sdk: Sdk,
    Json(input): Json<SDKFileReadRequest>,
) -> Result<Json<String>, Problem> {
    let roots = Roots::of(&app, &sdk, input.location)?;
    let path = FilePath::parse(&input.path)?;
    let bytes =
        blocking(move || roots.first(|files| files.read(&path, MAX_FILE).map(|content| content.bytes)))
            .await?;
    let text = String::from_utf8(bytes);
    Ok(Json(text.map_err(|_| Error::Impossible("the file is not UTF-8 text".into()))?))
}

/// Creates or replaces a text file, and the folders it is in.
///
/// For a user in the organization's own files; readers see the old file or the new one. What a shared file declares is indexed
/// before the answer.
#[utoipa::path(
    post, path = "/api/sdk/files/write", tag = "SDK", security(("bearer" = [])), request_body = SDKFileWriteRequest,
    responses((status = 204, description = "Written."), (status = 400, description = "Outside of the workspace."), Problems),
)]
async fn write_sdk_file(
    State(app): State<AppState>,
    sdk: Sdk,
    Json(input): Json<SDKFileWriteRequest>,
) -> Result<StatusCode, Problem> {
    let roots = Roots::of(&app, &sdk, input.location)?;
    let path = FilePath::parse(&input.path)?;
    if input.location == Location::Temp && !is_cleaned(&path) {
        return Err(Problem::invalid(
            "/path",
            "of a temporary file may hold no name that begins with a dot, and 32 folders",
        ));
    }
    if roots.are_shared() {
        // Nothing is expected to be there, so nothing clashes.
        let _ = indexing::write(app, roots.scope, path, input.content.into_bytes(), None).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    roots.record(&app, Action::FileWritten, &path).await?;
    blocking(move || {
        let files = roots.writable()?;
        if roots.location == Location::Temp {
            clean(&files)?;
        }
        files.write(&path, input.content.as_bytes()).map(drop)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The names in a folder, folders with a trailing `/`.
///
/// For a user the organization's own files and the shared ones together.
#[utoipa::path(
    post, path = "/api/sdk/files/list", tag = "SDK", security(("bearer" = [])), request_body = SDKFileListRequest,
    responses((status = 200, body = Vec<String>), (status = 400, description = "Outside of the workspace."), Problems),
)]
async fn list_sdk_files(
    State(app): State<AppState>,
    sdk: Sdk,
    Json(input): Json<SDKFileListRequest>,
) -> Result<Json<Vec<String>>, Problem> {
    let roots = Roots::of(&app, &sdk, input.location)?;
    let folder = FilePath::parse(&input.directory)?;
    Ok(Json(blocking(move || roots.names(&folder)).await?))
}

/// Removes a file.
///
/// For a user from the organization's own files; the shared ones stay. What a shared file declared is inactive before the answer.
#[utoipa::path(
    post, path = "/api/sdk/files/delete", tag = "SDK", security(("bearer" = [])), request_body = SDKFileDeleteRequest,
    responses(
        (status = 204, description = "Removed."),
        (status = 400, description = "Outside of the workspace, or a folder."),
        (status = 409, description = "It is the file of a form."),
        Problems,
    ),
)]
async fn delete_sdk_file(
    State(app): State<AppState>,
    sdk: Sdk,
    Json(input): Json<SDKFileDeleteRequest>,
) -> Result<StatusCode, Problem> {
    let roots = Roots::of(&app, &sdk, input.location)?;
    let path = FilePath::parse(&input.path)?;
    let (there, named) = (roots.clone(), path.clone());
    blocking(move || there.check_removable(&named)).await?;
    if roots.are_shared() {
        let changed = Changed::by(&path);
        indexing::delete(app, roots.scope, path, changed).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    roots.record(&app, Action::FileDeleted, &path).await?;
    blocking(move || roots.writable()?.remove(&path)).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Roots {
    fn of(app: &AppState, sdk: &Sdk, location: Location) -> Result<Self, Problem> {
        let settings = &app.platform.settings;
        let scope = own_scope(&sdk.principal, sdk.request_id.as_deref())?;
        let own = scope.owner()?;
        let shared = settings.workspace_path.clone();
        let roots = match (location, own) {
            (Location::Temp, _) => {
                vec![settings.temp_path.join("sdk").join(sdk.principal.user_id.to_string())]
            }
            (Location::Workspace, None) => vec![shared],
            (Location::Workspace, Some(org)) => vec![shared.join(OVERLAYS).join(org.to_string()), shared],
        };
        Ok(Self { scope, roots, location })
    }

    /// Whether the caller changes the workspace that everybody sees: then it is as in the editor.
    fn are_shared(&self) -> bool {
        self.location == Location::Workspace && self.roots.len() == 1
    }

    /// Writes down who changes what, before it happens: a file has no transaction.
    async fn record(&self, app: &AppState, action: Action, path: &FilePath) -> Result<(), Problem> {
        let mut tx = app.platform.db.begin(&self.scope).await?;
        audit::record(&mut tx, action, format!("file/{path}"), &json!({"location": self.location})).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Where what is not shared is written; it comes with its first file.
    fn writable(&self) -> Result<Files, Error> {
        let root = self.roots.first().ok_or_else(|| Error::internal("no root"))?;
        match self.location {
            Location::Workspace => make_overlay(root)?,
            Location::Temp => std::fs::create_dir_all(root).map_err(|error| Error::Unavailable {
                service: "the disk of the workspace",
                source: error.into(),
            })?,
        }
        self.open(root)
    }

    /// Opens one of the roots; the shared workspace is the last one there.
    fn open(&self, root: &std::path::Path) -> Result<Files, Error> {
        let is_shared =
            self.location == Location::Workspace && self.roots.last().is_some_and(|last| last == root);
        if !is_shared {
            return Files::open(root);
        }
        let files = Files::open_workspace(root)?;
        Ok(if self.roots.len() > 1 { files.without_forms() } else { files })
    }

    /// Whether there is such a file where the caller may write.
    fn check_removable(&self, path: &FilePath) -> Result<(), Error> {
        let root = self.roots.first().filter(|root| root.is_dir()).ok_or(Error::NotFound("file"))?;
        match self.open(root)?.entry(path)?.is_folder {
            true => Err(Error::Impossible(format!("{path} is a folder"))),
            false => Ok(()),
        }
    }

    /// What the first root that has it gives.
    fn first<T>(&self, ask: impl Fn(&Files) -> Result<T, Error>) -> Result<T, Error> {
        for root in self.existing() {
            match ask(&self.open(root)?) {
                Err(Error::NotFound(_)) => {}
                other => return other,
            }
        }
        Err(Error::NotFound("file"))
    }

    fn names(&self, folder: &FilePath) -> Result<Vec<String>, Error> {
        let mut names = std::collections::BTreeSet::new();
        let mut found = folder.is_root();
        for root in self.existing() {
            match self.open(root)?.list(folder) {
                Err(Error::NotFound(_)) => continue,
                Err(error) => return Err(error),
                Ok(entries) => {
                    found = true;
                    let shown = entries.into_iter().filter(|entry| !entry.path.name().starts_with('.'));
                    names.extend(shown.map(|entry| {
                        let slash = if entry.is_folder { "/" } else { "" };
                        format!("{}{slash}", entry.path.name())
                    }));
                }
            }
        }
        if found { Ok(names.into_iter().collect()) } else { Err(Error::NotFound("folder")) }
    }

    fn existing(&self) -> impl Iterator<Item = &PathBuf> {
        self.roots.iter().filter(|root| root.is_dir())
    }
}

/// Whether [`clean`] comes by a file of this path: [`Files::find`] passes some names by, and ends at some depth.
fn is_cleaned(path: &FilePath) -> bool {
    let parts: Vec<&str> = path.as_str().split('/').collect();
    parts.len() <= 32 && !parts.iter().any(|part| part.starts_with('.') || *part == "__pycache__")
}

/// Removes temporary files whose time is over, and refuses more than may be there.
fn clean(files: &Files) -> Result<(), Error> {
    let now = Utc::now();
    let (old, young): (Vec<_>, Vec<_>) = files
        .find(|_| true)?
        .into_iter()
        .partition(|entry| (now - entry.modified).to_std().is_ok_and(|age| age > TEMPORARY));
    for entry in old {
        files.remove(&entry.path)?;
    }
    if young.len() >= MOST_TEMPORARY {
        return Err(Error::Impossible(format!(
            "you have {MOST_TEMPORARY} temporary files; remove some first"
        )));
    }
    Ok(())
}

/// Works with files on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Problem> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(Error::internal)??)
}
