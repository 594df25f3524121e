//! The files of the workspace, for platform administrators.

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::editor::{self, Clash, Listed, Stored};
use domain::workspace_files::FilePath;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Admin, Json, Query, check_text, time};
use crate::indexing::{self, Changed, PATIENCE};
use crate::problem::{Problem, Problems};
use crate::{AppState, deadline};

/// Longest body that stores a file: ten MiB as Base64, or as text with what JSON escapes of it.
const MAX_BODY: usize = 24 * 1024 * 1024;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    let content =
        OpenApiRouter::new().routes(routes!(read_file, write_file)).layer(DefaultBodyLimit::max(MAX_BODY));
    OpenApiRouter::new()
        .routes(routes!(list_files, delete_file))
        .routes(routes!(create_folder))
        .routes(routes!(rename_file))
        .routes(routes!(search_files))
        .merge(content)
}

/// Something in a folder.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "path": "ops/cleanup.py", "name": "cleanup.py", "type": "file", "size": 1204, "extension": "py",
    "modified": "2026-11-26T09:30:00Z", "is_workflow": true, "is_data_provider": false,
}))]
struct FileMetadata {
    /// Relative to the workspace.
    path: String,
    name: String,
    r#type: FileType,
    /// Bytes of a file.
    size: Option<i64>,
    /// What follows the last dot of a file's name.
    extension: Option<String>,
    /// When it was changed last.
    modified: String,
    /// Whether workflows are declared in it.
    #[schema(default = false, required = false)]
    is_workflow: bool,
    /// Whether data providers are declared in it.
    #[schema(default = false, required = false)]
    is_data_provider: bool,
}

/// File or folder.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum FileType {
    File,
    Folder,
}

/// A file with its content.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "path": "ops/cleanup.py", "content": "from bifrost import workflow\n", "encoding": "utf-8", "size": 29,
    "etag": "9e107d9d372bb6826bd81d3542a419d6", "modified": "2026-11-26T09:30:00Z",
}))]
struct FileContentResponse {
    /// Relative to the workspace.
    path: String,
    content: String,
    /// `utf-8`, or `base64` for what is no text.
    encoding: String,
    /// Bytes.
    size: i64,
    /// MD5 of the bytes, hexadecimal.
    etag: String,
    modified: String,
}

/// A file to store.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "path": "ops/cleanup.py", "content": "from bifrost import workflow\n", "expected_etag": "9e107d9d372bb6826bd81d3542a419d6",
}))]
struct FileContentRequest {
    path: String,
    content: String,
    /// `utf-8` or `base64`.
    #[serde(default = "utf8")]
    #[schema(default = "utf-8", required = false)]
    encoding: String,
    /// Stores only if the file still has this etag.
    expected_etag: Option<String>,
}

/// What to look for.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"query": "send_mail", "include_pattern": "**/*.py"}))]
struct SearchRequest {
    #[schema(min_length = 1)]
    query: String,
    #[serde(default)]
    #[schema(default = false, required = false)]
    case_sensitive: bool,
    /// Whether `query` is a regular expression, which is matched in linear time.
    #[serde(default)]
    #[schema(default = false, required = false)]
    is_regex: bool,
    /// Which files, as in `.gitignore`; `**/*` if not given.
    #[schema(default = "**/*")]
    include_pattern: Option<String>,
    #[serde(default = "thousand")]
    #[schema(default = 1000, minimum = 1, maximum = 10000, required = false)]
    max_results: i64,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
struct SearchResponse {
    query: String,
    /// Matches in `results`.
    total_matches: i64,
    files_searched: i64,
    results: Vec<SearchResult>,
    /// Whether there are more than `max_results`.
    truncated: bool,
    search_time_ms: i64,
}

/// One match.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "file_path": "ops/cleanup.py", "line": 12, "column": 4, "match_text": "    send_mail(owner)",
    "context_before": "if owner:", "context_after": null,
}))]
struct SearchResult {
    file_path: String,
    /// From 1.
    #[schema(minimum = 1)]
    line: i64,
    /// Characters in front of the match.
    #[schema(minimum = 0)]
    column: i64,
    /// The line.
    match_text: String,
    /// The line before.
    context_before: Option<String>,
    /// The line after.
    context_after: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PathQuery {
    path: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RenameQuery {
    old_path: Option<String>,
    new_path: Option<String>,
}

impl From<Listed> for FileMetadata {
    fn from(listed: Listed) -> Self {
        let Listed { entry, is_workflow, is_data_provider } = listed;
        let name = entry.path.name().to_owned();
        let extension = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty() && !entry.is_folder);
        Self {
            path: entry.path.to_string(),
            r#type: if entry.is_folder { FileType::Folder } else { FileType::File },
            size: (!entry.is_folder).then(|| i64::try_from(entry.size).unwrap_or(i64::MAX)),
            extension: extension.map(|(_, extension)| extension.to_owned()),
            modified: time::text(entry.modified),
            name,
            is_workflow,
            is_data_provider,
        }
    }
}

impl From<Stored> for FileContentResponse {
    fn from(stored: Stored) -> Self {
        let size = i64::try_from(stored.bytes.len()).unwrap_or(i64::MAX);
        // Text with NUL is no text to an editor.
        let (content, encoding) = match String::from_utf8(stored.bytes) {
            Ok(text) if !text.contains('\0') => (text, "utf-8"),
            Ok(text) => (STANDARD.encode(text), "base64"),
            Err(bytes) => (STANDARD.encode(bytes.as_bytes()), "base64"),
        };
        Self {
            path: stored.path.to_string(),
            content,
            encoding: encoding.into(),
            size,
            etag: stored.etag,
            modified: time::text(stored.modified),
        }
    }
}

/// What is in a folder of the workspace.
///
/// Folders first, then by name. A leading `/` or `/workspace/` of a path is ignored.
#[utoipa::path(
    get, path = "/api/editor/files", tag = "Editor", security(("bearer" = [])),
    params(("path" = String, Query, description = "The folder; empty: the workspace itself.")),
    responses(
        (status = 200, body = Vec<FileMetadata>),
        (status = 400, description = "The path leads outside of the workspace."),
        Problems,
    ),
)]
async fn list_files(
    State(app): State<AppState>,
    _admin: Admin,
    Query(query): Query<PathQuery>,
) -> Result<Json<Vec<FileMetadata>>, Problem> {
    let path = FilePath::parse(query.path.as_deref().unwrap_or_default())?;
    let listed = editor::list(&app.platform, path).await?;
    Ok(Json(listed.into_iter().map(Into::into).collect()))
}

/// A file of the workspace.
///
/// As text, or as Base64 if it is none; at most ten MiB.
#[utoipa::path(
    get, path = "/api/editor/files/content", tag = "Editor", security(("bearer" = [])),
    params(("path" = String, Query, description = "The file.")),
    responses(
        (status = 200, body = FileContentResponse),
        (status = 400, description = "The path leads outside of the workspace, or to what is no file."),
        Problems,
    ),
)]
async fn read_file(
    State(app): State<AppState>,
    _admin: Admin,
    Query(query): Query<PathQuery>,
) -> Result<Json<FileContentResponse>, Problem> {
    let path = needed("path", query.path)?;
    Ok(Json(editor::read(&app.platform, path).await?.into()))
}

/// Stores a file of the workspace.
///
/// Atomically, with the folders it is in. What it declares is indexed before the answer; a file that does not parse is stored
/// too. With `expected_etag` a file that somebody else has changed meanwhile is 409, with `reason` `content_changed` or
/// `path_not_found`.
#[utoipa::path(
    put, path = "/api/editor/files/content", tag = "Editor", security(("bearer" = [])),
    request_body = FileContentRequest,
    responses(
        (status = 200, body = FileContentResponse),
        (status = 400, description = "The path leads outside of the workspace, or to a folder."),
        (status = 409, description = "The file is not what was expected."),
        (status = 413, description = "More than ten MiB."),
        Problems,
    ),
)]
async fn write_file(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<FileContentRequest>,
) -> Result<Json<FileContentResponse>, Problem> {
    check_text("/path", &input.path)?;
    let path = FilePath::parse(&input.path)?;
    if path.is_root() {
        return Err(Problem::invalid("/path", "is required"));
    }
    let bytes = match input.encoding.to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" => input.content.into_bytes(),
        "base64" => STANDARD
            .decode(input.content.trim())
            .map_err(|_| Problem::invalid("/content", "must be Base64"))?,
        _ => return Err(Problem::invalid("/encoding", "must be utf-8 or base64")),
    };
    if bytes.len() as u64 > editor::MAX_FILE {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE).detail("a file may have at most 10 MiB"));
    }
    let expected = input.expected_etag.filter(|etag| !etag.is_empty());
    match indexing::write(app, admin.scope, path, bytes, expected).await? {
        Ok(stored) => Ok(Json(stored.into())),
        Err(Clash::ContentChanged) => Err(clash("content_changed", "somebody else has changed the file")),
        Err(Clash::PathNotFound) => Err(clash("path_not_found", "the file is not there any more")),
    }
}

/// Makes a folder.
///
/// With the folders it is in.
#[utoipa::path(
    post, path = "/api/editor/files/folder", tag = "Editor", security(("bearer" = [])),
    params(("path" = String, Query, description = "The folder.")),
    responses(
        (status = 201, body = FileMetadata),
        (status = 400, description = "The path leads outside of the workspace."),
        (status = 409, description = "Something is there, or it is the file of a form and its new name does not end in `.form.json`."),
        Problems,
    ),
)]
async fn create_folder(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<PathQuery>,
) -> Result<(StatusCode, Json<FileMetadata>), Problem> {
    let path = needed("path", query.path)?;
    let scope = admin.scope.clone();
    let made =
        deadline::to_the_end(
            PATIENCE,
            async move { editor::create_folder(&app.platform, &scope, path).await },
        )
        .await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Removes a file, or a folder with all it holds.
///
/// Workflows in it become inactive. The file of a form is 409: delete the form.
#[utoipa::path(
    delete, path = "/api/editor/files", tag = "Editor", security(("bearer" = [])),
    params(("path" = String, Query, description = "File or folder.")),
    responses(
        (status = 204, description = "It is gone."),
        (status = 400, description = "The path leads outside of the workspace."),
        (status = 409, description = "A form has its file there."),
        Problems,
    ),
)]
async fn delete_file(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<PathQuery>,
) -> Result<StatusCode, Problem> {
    let path = needed("path", query.path)?;
    // It may be a folder with anything in it.
    indexing::delete(app, admin.scope, path, Changed::ANY).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a file or folder another path.
///
/// Workflows, data providers and forms in it keep their ids.
#[utoipa::path(
    post, path = "/api/editor/files/rename", tag = "Editor", security(("bearer" = [])),
    params(
        ("old_path" = String, Query, description = "Where it is."),
        ("new_path" = String, Query, description = "Where it goes; the folders on the way are made."),
    ),
    responses(
        (status = 200, body = FileMetadata),
        (status = 400, description = "A path leads outside of the workspace, or a folder into itself."),
        (status = 409, description = "Something is there."),
        Problems,
    ),
)]
async fn rename_file(
    State(app): State<AppState>,
    admin: Admin,
    Query(query): Query<RenameQuery>,
) -> Result<Json<FileMetadata>, Problem> {
    let old = needed("old_path", query.old_path)?;
    let new = needed("new_path", query.new_path)?;
    let scope = admin.scope.clone();
    let renamed = deadline::to_the_end(PATIENCE, async move {
        let renamed = editor::rename(&app.platform, &scope, old, new).await?;
        indexing::follow(&app, Changed::ANY).await;
        // With another name it may declare what it did not before, or nothing any more.
        editor::described(&app.platform, renamed).await
    });
    Ok(Json(renamed.await?.into()))
}

/// Searches the text files of the workspace.
///
/// Hidden files, files that are no text and files of more than ten MiB are passed by. A search that takes more than ten
/// seconds gives what it has, `truncated`. Two search at once; whoever waits ten seconds for their turn gets 503.
#[utoipa::path(
    post, path = "/api/editor/search", tag = "Editor", security(("bearer" = [])), request_body = SearchRequest,
    responses(
        (status = 200, body = SearchResponse),
        (status = 400, description = "A pattern that cannot be read."),
        Problems,
    ),
)]
async fn search_files(
    State(app): State<AppState>,
    _admin: Admin,
    Json(input): Json<SearchRequest>,
) -> Result<Json<SearchResponse>, Problem> {
    if input.query.is_empty() {
        return Err(Problem::invalid("/query", "is required"));
    }
    let max_results = usize::try_from(input.max_results)
        .ok()
        .filter(|most| (1..=10_000).contains(most))
        .ok_or_else(|| Problem::invalid("/max_results", "must be a whole number from 1 to 10000"))?;
    let include = input.include_pattern.filter(|pattern| !pattern.trim().is_empty());
    let query = editor::Query {
        text: input.query.clone(),
        case_sensitive: input.case_sensitive,
        is_regex: input.is_regex,
        include: include.unwrap_or_else(|| "**/*".into()),
        max_results,
    };
    deadline::may_wait(editor::SEARCH_PATIENCE);
    let found = editor::search(&app.platform, query).await?;
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    Ok(Json(SearchResponse {
        query: input.query,
        total_matches: number(found.matches.len()),
        files_searched: number(found.files_searched),
        truncated: found.truncated,
        search_time_ms: i64::try_from(found.took.as_millis()).unwrap_or(i64::MAX),
        results: found
            .matches
            .into_iter()
            .map(|one| SearchResult {
                file_path: one.path,
                line: i64::try_from(one.line).unwrap_or(i64::MAX),
                column: number(one.column),
                match_text: one.text,
                context_before: one.before,
                context_after: one.after,
            })
            .collect(),
    }))
}

fn needed(name: &str, path: Option<String>) -> Result<FilePath, Problem> {
    let text = path.ok_or_else(|| Problem::invalid(format!("?{name}"), "is required"))?;
    Ok(FilePath::parse(&text)?)
}

fn clash(reason: &str, detail: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT).detail(detail).with("reason", reason.into())
}

fn utf8() -> String {
    "utf-8".into()
}

fn thousand() -> i64 {
    1_000
}
