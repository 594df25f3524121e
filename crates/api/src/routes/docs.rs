//! The OpenAPI document and a page to read it, whose files are in the binary: works without the internet.
//!
//! In production both need a signed-in user.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use domain::Error;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::Config;

use crate::AppState;
use crate::problem::{Problem, PublicProblems};
use crate::routes::endpoints::document::Documents;

/// Without a validator the page sends nothing to the internet.
static CONFIG: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("/openapi.json").validator_url("none")));

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_openapi))
}

/// This document.
///
/// With a path for each workflow that has an endpoint, a few seconds after its file. In production it needs a signed-in
/// user.
#[utoipa::path(
    get, path = "/openapi.json", tag = "health",
    responses((status = 200, body = Object, description = "OpenAPI 3.1"), PublicProblems),
)]
async fn get_openapi(
    State(app): State<AppState>,
    Extension(documents): Extension<Arc<Documents>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    check_reader(&app, &headers).await?;
    let document = documents.get(&app.platform).await?;
    Ok(([(CONTENT_TYPE, "application/json")], document.to_string()).into_response())
}

/// The page names its files relative to itself, so it needs the slash.
pub(crate) async fn redirect() -> Redirect {
    Redirect::permanent("/docs/")
}

/// The page.
pub(crate) async fn get_index(app: State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    get_file(app, Path("index.html".into()), headers).await
}

/// A file of the page.
pub(crate) async fn get_file(
    State(app): State<AppState>,
    Path(file): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    check_reader(&app, &headers).await?;
    let found = utoipa_swagger_ui::serve(&file, CONFIG.clone())
        .map_err(|error| Error::internal(error.to_string()))?;
    let file = found.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND).detail("no such page"))?;
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => axum::body::Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    Ok(([(CONTENT_TYPE, file.content_type)], bytes).into_response())
}

async fn check_reader(app: &AppState, headers: &HeaderMap) -> Result<(), Problem> {
    if app.platform.settings.is_production() {
        app.authenticate(headers).await?;
    }
    Ok(())
}
