//! The one parameter of a path, parsed.

use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use crate::AppState;
use crate::problem::Problem;

/// The parameter of the path. One that does not parse is 422 with the pointer `path:<name>`.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: FromStr + Send> FromRequestParts<AppState> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, app)
            .await
            .map_err(|_| Problem::invalid("path:", "must be UTF-8"))?;
        let (name, value) = params.iter().next().expect("a route with this extractor has a parameter");
        let parsed = value.parse().map_err(|_| Problem::invalid(format!("path:{name}"), "must be a UUID"))?;
        Ok(Self(parsed))
    }
}
