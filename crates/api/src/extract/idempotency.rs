//! The key that makes a repeated submission one execution.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::AppState;
use crate::problem::Problem;

const HEADER: &str = "idempotency-key";
const LONGEST: usize = 255;

/// The header `Idempotency-Key`, if there is one: 1 to 255 visible ASCII characters.
#[derive(Debug)]
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

impl FromRequestParts<AppState> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(HEADER) else { return Ok(Self(None)) };
        let sane =
            |bytes: &[u8]| (1..=LONGEST).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
        match value.to_str() {
            Ok(key) if sane(key.as_bytes()) => Ok(Self(Some(key.to_owned()))),
            _ => {
                Err(Problem::invalid("header:Idempotency-Key", "must have 1 to 255 visible ASCII characters"))
            }
        }
    }
}
