//! The parameters of a path, parsed.

use std::str::FromStr;

use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use crate::AppState;
use crate::problem::Problem;

/// The one parameter of the path. One that does not parse is 422 with the pointer `path:<name>`.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: FromStr + Send> FromRequestParts<AppState> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let params = raw(parts, app).await?;
        Ok(Self(parsed(&mut params.iter())?))
    }
}

/// The two parameters of the path, in its order.
#[derive(Debug)]
pub(crate) struct PathPair<A, B>(pub(crate) A, pub(crate) B);

impl<A: FromStr + Send, B: FromStr + Send> FromRequestParts<AppState> for PathPair<A, B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let params = raw(parts, app).await?;
        let mut params = params.iter();
        Ok(Self(parsed(&mut params)?, parsed(&mut params)?))
    }
}

async fn raw(parts: &mut Parts, app: &AppState) -> Result<RawPathParams, Problem> {
    if let Ok(params) = RawPathParams::from_request_parts(parts, app).await {
        return Ok(params);
    }
    let name = undecodable(parts, app).await.unwrap_or_default();
    Err(Problem::invalid(format!("path:{name}"), "must be UTF-8"))
}

/// The name of the parameter that is no text, which only axum's other extractor tells.
async fn undecodable(parts: &mut Parts, app: &AppState) -> Option<String> {
    type Params = axum::extract::Path<Vec<(String, String)>>;
    match Params::from_request_parts(parts, app).await {
        Err(PathRejection::FailedToDeserializePathParams(failed)) => match failed.into_kind() {
            ErrorKind::InvalidUtf8InPathParam { key } => Some(key),
            _ => None,
        },
        _ => None,
    }
}

fn parsed<'a, T: FromStr>(params: &mut impl Iterator<Item = (&'a str, &'a str)>) -> Result<T, Problem> {
    let (name, value) = params.next().expect("a route has as many parameters as its extractor");
    value.parse().map_err(|_| Problem::invalid(format!("path:{name}"), "must be a UUID"))
}
