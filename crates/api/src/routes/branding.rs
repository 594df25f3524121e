//! Branding: anybody sees it, platform administrators change it.

use axum::extract::multipart::MultipartError;
use axum::extract::{DefaultBodyLimit, Multipart, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::branding::{self, Branding, LARGEST_LOGO, LogoType};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{Admin, Json, Path};
use crate::problem::{Problem, Problems, PublicProblems};
use crate::{AppState, deadline};

/// What a form needs around its file.
const AROUND: usize = 64 * 1024;
/// A logo is looked at and never run, wherever it is opened.
const HARMLESS: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox";

pub(crate) fn router() -> OpenApiRouter<AppState> {
    let logos = OpenApiRouter::new()
        .routes(routes!(get_logo, upload_logo, delete_logo))
        .layer(DefaultBodyLimit::max(LARGEST_LOGO + AROUND));
    OpenApiRouter::new()
        .routes(routes!(get_branding, update_branding, reset_branding))
        .routes(routes!(delete_color))
        .merge(logos)
}

/// How the pages look.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "square_logo_url": "/api/branding/logo/square?v=9f86d081884c7d65", "rectangle_logo_url": null, "primary_color": "#0a7",
}))]
struct BrandingSettings {
    /// Address of the square logo on this server; another one when it changes.
    square_logo_url: Option<String>,
    /// Address of the rectangular logo, the same way.
    rectangle_logo_url: Option<String>,
    /// `#rgb` or `#rrggbb`.
    primary_color: Option<String>,
}

impl From<Branding> for BrandingSettings {
    fn from(branding: Branding) -> Self {
        let url = |kind: LogoType, etag: Option<String>| {
            etag.map(|etag| format!("/api/branding/logo/{}?v={etag}", kind.as_str()))
        };
        Self {
            square_logo_url: url(LogoType::Square, branding.square_logo),
            rectangle_logo_url: url(LogoType::Rectangle, branding.rectangle_logo),
            primary_color: branding.primary_color,
        }
    }
}

/// What to change.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"primary_color": "#00aa77"}))]
struct BrandingUpdateRequest {
    /// `#rgb` or `#rrggbb`; without it nothing changes.
    primary_color: Option<String>,
}

/// A file in a form.
#[derive(ToSchema)]
struct LogoUpload {
    /// A PNG, JPEG or SVG image of at most 5 MiB.
    #[schema(value_type = String, format = Binary)]
    #[expect(dead_code, reason = "describes the form; the handler reads its fields as they come")]
    file: Vec<u8>,
}

/// The colour and the logos.
///
/// For anybody: the sign-in page shows them.
#[utoipa::path(get, path = "/api/branding", tag = "Branding", responses((status = 200, body = BrandingSettings), PublicProblems))]
async fn get_branding(State(app): State<AppState>) -> Result<Json<BrandingSettings>, Problem> {
    Ok(Json(branding::get(&app.platform.db).await?.into()))
}

/// Sets the colour.
#[utoipa::path(
    put, path = "/api/branding", tag = "Branding", security(("bearer" = [])), request_body = BrandingUpdateRequest,
    responses((status = 200, body = BrandingSettings), Problems),
)]
async fn update_branding(
    State(app): State<AppState>,
    admin: Admin,
    Json(input): Json<BrandingUpdateRequest>,
) -> Result<Json<BrandingSettings>, Problem> {
    let Some(color) = input.primary_color else { return get_branding(State(app)).await };
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let changed = branding::set_color(&mut tx, Some(&color)).await?;
    tx.commit().await?;
    Ok(Json(changed.into()))
}

/// Removes the colour and both logos.
#[utoipa::path(
    delete, path = "/api/branding", tag = "Branding", security(("bearer" = [])),
    responses((status = 200, body = BrandingSettings), Problems),
)]
async fn reset_branding(
    State(app): State<AppState>,
    admin: Admin,
) -> Result<Json<BrandingSettings>, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let changed = branding::reset(&mut tx).await?;
    tx.commit().await?;
    Ok(Json(changed.into()))
}

/// Removes the colour.
#[utoipa::path(
    delete, path = "/api/branding/color", tag = "Branding", security(("bearer" = [])),
    responses((status = 200, body = BrandingSettings), Problems),
)]
async fn delete_color(State(app): State<AppState>, admin: Admin) -> Result<Json<BrandingSettings>, Problem> {
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let changed = branding::set_color(&mut tx, None).await?;
    tx.commit().await?;
    Ok(Json(changed.into()))
}

/// A logo.
///
/// For anybody. With an entity tag, so that a browser asks for the bytes once.
#[utoipa::path(
    get, path = "/api/branding/logo/{logo_type}", tag = "Branding",
    params(("logo_type" = String, Path, description = "`square` or `rectangle`.")),
    responses(
        (status = 200, description = "The image.", content(
            (Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/svg+xml"))),
        (status = 304, description = "It is still the one that `If-None-Match` names."),
        (status = 404, description = "It is not set."),
        PublicProblems,
    ),
)]
async fn get_logo(
    State(app): State<AppState>,
    Path(logo_type): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let logo = branding::logo(&app.platform.db, parse(&logo_type)?).await?;
    let etag = format!("\"{}\"", logo.etag);
    let is_known = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes());
    let harmless = [
        (CONTENT_TYPE, logo.media_type),
        (CONTENT_SECURITY_POLICY, HARMLESS.to_owned()),
        (CACHE_CONTROL, "public, max-age=60".to_owned()),
        (ETAG, etag),
    ];
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, harmless).into_response());
    }
    Ok((harmless, logo.content).into_response())
}

/// Stores a logo.
///
/// What it is is told by its content: PNG, JPEG, or an SVG that draws and does nothing else.
#[utoipa::path(
    post, path = "/api/branding/logo/{logo_type}", tag = "Branding", security(("bearer" = [])),
    params(("logo_type" = String, Path, description = "`square` or `rectangle`.")),
    request_body(content = LogoUpload, content_type = "multipart/form-data"),
    responses((status = 200, body = BrandingSettings), (status = 400, description = "No image that may be shown, or no such logo."), Problems),
)]
async fn upload_logo(
    State(app): State<AppState>,
    admin: Admin,
    Path(logo_type): Path<String>,
    form: Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Result<Json<BrandingSettings>, Problem> {
    let kind = parse(&logo_type)?;
    let form = form.map_err(|_| refused("send the image as multipart/form-data, in the field `file`"))?;
    let content = deadline::of_body(file_of(form)).await?;
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let changed = branding::set_logo(&mut tx, kind, &content).await?;
    tx.commit().await?;
    Ok(Json(changed.into()))
}

/// Removes a logo.
#[utoipa::path(
    delete, path = "/api/branding/logo/{logo_type}", tag = "Branding", security(("bearer" = [])),
    params(("logo_type" = String, Path, description = "`square` or `rectangle`.")),
    responses((status = 200, body = BrandingSettings), (status = 400, description = "No such logo."), Problems),
)]
async fn delete_logo(
    State(app): State<AppState>,
    admin: Admin,
    Path(logo_type): Path<String>,
) -> Result<Json<BrandingSettings>, Problem> {
    let kind = parse(&logo_type)?;
    let mut tx = app.platform.db.begin(&admin.scope.widened()).await?;
    let changed = branding::delete_logo(&mut tx, kind).await?;
    tx.commit().await?;
    Ok(Json(changed.into()))
}

fn parse(logo_type: &str) -> Result<LogoType, Problem> {
    LogoType::parse(logo_type).ok_or_else(|| refused("a logo is `square` or `rectangle`"))
}

/// The field `file` of the form.
async fn file_of(mut form: Multipart) -> Result<axum::body::Bytes, Problem> {
    while let Some(field) = form.next_field().await.map_err(fault)? {
        if field.name() == Some("file") {
            return field.bytes().await.map_err(fault);
        }
    }
    Err(refused("the form has no field `file`"))
}

fn fault(error: MultipartError) -> Problem {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => refused("a logo may have at most 5 MiB"),
        _ => refused("must be a well-formed multipart form"),
    }
}

fn refused(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST).detail(detail)
}
