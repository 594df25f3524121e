//! The SDK as a package that `pip` installs, made from the files this server runs with, so that both are one version.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use domain::Error;
use flate2::Compression;
use flate2::write::GzEncoder;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::problem::{Problem, PublicProblems};

/// The folder in the archive, and its name without the ending.
const NAME: &str = concat!("bifrost-", env!("CARGO_PKG_VERSION"));
/// What of the platform's folder is the package; tests and tools are not.
const PARTS: [&str; 6] = ["pyproject.toml", "build_backend.py", "README.md", "bifrost", "shared", "src"];
/// More is not our package.
const MOST_BYTES: usize = 16 * 1024 * 1024;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(download_sdk))
}

/// The bytes of the package.
#[derive(utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "the document's name for what is sent as it is")]
struct SdkArchive(Vec<u8>);

/// The SDK as a package.
///
/// `pip install https://…/api/sdk/download` installs it; it needs nothing else.
#[utoipa::path(
    get, path = "/api/sdk/download", tag = "SDK",
    responses((status = 200, description = "A `.tar.gz` with the package `bifrost`.", body = SdkArchive, content_type = "application/gzip"), PublicProblems),
)]
async fn download_sdk(State(app): State<AppState>) -> Result<Response, Problem> {
    let root = app.platform.settings.platform_path.clone();
    let pack = async { tokio::task::spawn_blocking(move || pack(&root)).await.map_err(Error::internal)? };
    let archive = app.sdk_archive.get_or_try_init(|| pack).await?.clone();
    let disposition = format!("attachment; filename=\"{NAME}.tar.gz\"");
    Ok(([(CONTENT_TYPE, "application/gzip".to_owned()), (CONTENT_DISPOSITION, disposition)], archive)
        .into_response())
}

/// The archive: the same bytes for the same files.
fn pack(root: &Path) -> Result<Bytes, Error> {
    let mut files = Vec::new();
    for part in PARTS {
        collect(&root.join(part), &mut files)?;
    }
    files.sort();
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    let mut size = 0;
    for file in files {
        let content = std::fs::read(&file).map_err(Error::internal)?;
        size += content.len();
        if size > MOST_BYTES {
            return Err(Error::internal("the folder of the SDK holds more than a package"));
        }
        let name = file.strip_prefix(root).map_err(Error::internal)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive
            .append_data(&mut header, Path::new(NAME).join(name), content.as_slice())
            .map_err(Error::internal)?;
    }
    let mut packed = archive.into_inner().map_err(Error::internal)?;
    packed.flush().map_err(Error::internal)?;
    Ok(packed.finish().map_err(Error::internal)?.into())
}

/// The files of a part, without what Python leaves behind.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(Error::internal)? {
        let path = entry.map_err(Error::internal)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_source = path.is_dir() || name.ends_with(".py") || name == "py.typed";
        if is_source && !name.starts_with('.') && name != "__pycache__" && !name.ends_with(".egg-info") {
            collect(&path, files)?;
        }
    }
    Ok(())
}
