//! Fields of a form, whichever of the two ways a browser or script encodes them.

use std::collections::HashMap;

use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;

use super::{body, from_texts};
use crate::problem::Problem;
use crate::{AppState, deadline};

/// `application/x-www-form-urlencoded` or `multipart/form-data`, as a struct of texts.
#[derive(Debug)]
pub(crate) struct Form<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<AppState> for Form<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        let media_type =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let texts =
            match media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
                "application/x-www-form-urlencoded" => {
                    url::form_urlencoded::parse(&body(request, app).await?).into_owned().collect()
                }
                "multipart/form-data" => deadline::of_body(multipart(request, app)).await?,
                _ => {
                    let text = "send application/x-www-form-urlencoded or multipart/form-data";
                    return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE).detail(text));
                }
            };
        from_texts(texts, "/").map(Self)
    }
}

async fn multipart(request: Request, app: &AppState) -> Result<HashMap<String, String>, Problem> {
    let mut form =
        Multipart::from_request(request, app).await.map_err(|_| Problem::invalid("", "has no boundary"))?;
    let mut texts = HashMap::new();
    while let Some(field) = form.next_field().await.map_err(fault)? {
        let Some(name) = field.name().map(str::to_owned) else { continue };
        let text = field.text().await.map_err(fault)?;
        texts.insert(name, text);
    }
    Ok(texts)
}

fn fault(error: MultipartError) -> Problem {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(StatusCode::PAYLOAD_TOO_LARGE),
        _ => Problem::invalid("", "must be a well-formed multipart form"),
    }
}
