//! Files for forms: announced by whoever may use the form, then sent to a signed URL without another credential.

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use domain::id::FormId;
use domain::uploads::{self, NewUpload, Received};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::usable;
use crate::envelope::{NO_STORE, NoStore};
use crate::extract::{Json, Path, Signed, check_text};
use crate::problem::{Problem, Problems, PublicProblems};
use crate::{AppState, deadline};

pub(super) fn router() -> OpenApiRouter<AppState> {
    // The announced size bounds a body while it streams; it is never held in memory.
    let receiving = OpenApiRouter::new().routes(routes!(receive_upload)).layer(DefaultBodyLimit::disable());
    OpenApiRouter::new().routes(routes!(announce_upload)).merge(receiving)
}

/// The file that is to be uploaded.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"file_name": "contract.pdf", "content_type": "application/pdf", "file_size": 48213}))]
struct FileUploadRequest {
    file_name: String,
    /// MIME type.
    content_type: String,
    /// Bytes; no more than these are taken.
    #[schema(minimum = 0)]
    file_size: i64,
}

/// Where to send it.
#[derive(Debug, Serialize, ToSchema)]
struct FileUploadResponse {
    /// `PUT` the bytes here; no other credential is needed.
    upload_url: String,
    /// `uploads/<form>/<id>/<name>`.
    blob_uri: String,
    /// When the URL ends.
    expires_at: DateTime<Utc>,
    file_metadata: UploadedFileMetadata,
}

/// What the form submits as the value of its field.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "name": "contract.pdf", "container": "uploads", "content_type": "application/pdf", "size": 48213,
    "path": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11/0198c5a2-90aa-7b60-8c1e-5b1f3d2e4a00/contract.pdf",
}))]
struct UploadedFileMetadata {
    name: String,
    /// `uploads`.
    container: &'static str,
    /// What `files.read(path, location="uploads")` takes.
    path: String,
    content_type: String,
    size: i64,
}

/// What was stored.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"size": 48213}))]
struct UploadReceived {
    /// Bytes.
    size: u64,
}

/// Announces a file for a form.
///
/// For whoever may use the form. If the form has file fields, type and size must fit one of them. The answer has a URL that
/// takes the bytes once, within ten minutes, and the metadata that the form submits. Runs of the form read the file with
/// `files.read(path, location="uploads")`.
#[utoipa::path(
    post, path = "/api/forms/{form_id}/upload", tag = "Forms", security(("bearer" = [])),
    params(("form_id" = Uuid, Path, description = "The form.")), request_body = FileUploadRequest,
    responses((status = 200, body = FileUploadResponse), Problems),
)]
async fn announce_upload(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<FormId>,
    Json(input): Json<FileUploadRequest>,
) -> Result<(NoStore, Json<FileUploadResponse>), Problem> {
    let scope = signed.scope.clone().narrowed();
    scope.owner()?;
    let form = usable(&app, signed.scope, id).await?;
    check_text("/file_name", &input.file_name)?;
    check_text("/content_type", &input.content_type)?;
    let FileUploadRequest { file_name, content_type, file_size } = input;
    let platform = &app.platform;
    let mut tx = platform.db.begin(&scope).await?;
    let new = NewUpload { file_name, content_type, file_size };
    let upload = uploads::insert(&mut tx, &platform.uploads, &form, new).await?;
    tx.commit().await?;
    let token = platform.uploads.sign(&upload)?;
    let answer = FileUploadResponse {
        upload_url: format!("{}/api/uploads/{token}", platform.settings.public_url.trim_end_matches('/')),
        blob_uri: format!("uploads/{}", upload.path),
        expires_at: upload.expires_at,
        file_metadata: UploadedFileMetadata {
            name: upload.name,
            container: "uploads",
            path: upload.path,
            content_type: upload.content_type,
            size: upload.announced_bytes,
        },
    };
    Ok((NO_STORE, Json(answer)))
}

/// Takes the bytes of an announced file.
///
/// The URL is the credential. It works once: a body that is too long or breaks off leaves nothing and may be sent again.
#[utoipa::path(
    put, path = "/api/uploads/{token}", tag = "Forms",
    params(("token" = String, Path, description = "From `upload_url`.")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = UploadReceived),
        (status = 403, description = "The URL has expired, was used, or is none of ours."),
        (status = 413, description = "More bytes than announced."),
        PublicProblems,
    ),
)]
async fn receive_upload(
    State(app): State<AppState>,
    Path(token): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UploadReceived>, Problem> {
    let id = app.platform.uploads.verify(&token)?;
    if headers.contains_key("content-range") {
        return Err(Problem::new(StatusCode::BAD_REQUEST).detail("send the whole file in one request"));
    }
    let platform = app.platform.clone();
    // A client that hangs up must not leave the row as if it were still sending.
    let receiving = deadline::to_the_end(uploads::LIFETIME, async move {
        let body = body.into_data_stream();
        uploads::receive(&platform.db, &platform.uploads, id, body).await
    });
    match receiving.await? {
        Received::Stored(size) => Ok(Json(UploadReceived { size })),
        Received::TooLarge => {
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE).detail("the file is larger than was announced"))
        }
        Received::Interrupted => {
            Err(Problem::new(StatusCode::BAD_REQUEST).detail("the upload was interrupted; send it again"))
        }
    }
}
