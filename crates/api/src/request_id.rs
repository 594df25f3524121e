//! The id of a request: told in the answer, in log lines, in the audit log and in every problem.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use uuid::Uuid;

/// The header that carries the request id, both ways.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_ID: usize = 128;

/// The id of a request: the caller's if it is sane, else a new one.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

impl RequestId {
    /// That of a request with these headers.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
        match given.filter(|id| {
            (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        }) {
            Some(id) => Self(id.into()),
            None => Self(Uuid::now_v7().to_string().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn id_for(value: &str) -> String {
        let headers =
            HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_str(value).expect("a header value"))]);
        RequestId::of(&headers).0.to_string()
    }

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(id_for("order-42"), "order-42");
        assert!(Uuid::parse_str(&id_for("two words")).is_ok());
        assert!(Uuid::parse_str(&id_for("")).is_ok());
        assert!(Uuid::parse_str(&id_for(&"x".repeat(129))).is_ok());
    }
}
