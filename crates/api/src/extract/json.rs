//! JSON bodies: size and depth are bounded. What is wrong with one that does not fit its type is in `faults`.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{body, faults};
use crate::AppState;
use crate::problem::Problem;

/// Deeper bodies are refused before they are parsed.
const MAX_DEPTH: usize = 64;

/// A JSON body, in or out.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// A JSON body that may be missing or `null`.
#[derive(Debug)]
pub(crate) struct OptionalJson<T>(pub(crate) Option<T>);

/// The body as it came, for what is signed or may be of any media type.
#[derive(Debug)]
pub(crate) struct RawBody(pub(crate) Bytes);

impl RawBody {
    /// The members of the JSON object that it holds; none when it is empty or of another media type.
    ///
    /// # Errors
    /// 422 for what calls itself JSON and is malformed or no object.
    pub(crate) fn members(&self, headers: &HeaderMap) -> Result<Map<String, Value>, Problem> {
        if !is_json(headers) || self.0.trim_ascii().is_empty() {
            return Ok(Map::new());
        }
        parse(&self.0)
    }
}

impl FromRequest<AppState> for RawBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        body(request, app).await.map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE).detail("send application/json"));
        }
        parse(&body(request, app).await?).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let body = body(request, app).await?;
        if body.trim_ascii().is_empty() {
            return Ok(Self(None));
        }
        if !is_json {
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE).detail("send application/json"));
        }
        parse::<Option<T>>(&body).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let text = str::from_utf8(body).map_err(|_| Problem::invalid("", "must be UTF-8"))?;
    // The parser would take a list for the members in their order.
    if text.trim_start().starts_with('[') {
        return Err(Problem::invalid("", "must be an object"));
    }
    if nests_deeper(body, MAX_DEPTH) {
        return Err(Problem::invalid("", format!("nests deeper than {MAX_DEPTH} levels")));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        Problem::from(domain::Error::Invalid(faults::of_body::<T>(text, error.path(), error.inner())))
    })?;
    json.end().map_err(|error| Problem::invalid("", format!("malformed JSON: {error}")))?;
    Ok(value)
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// Whether brackets outside of strings open deeper than `limit`.
fn nests_deeper(json: &[u8], limit: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Order {
        #[expect(dead_code, reason = "only its type matters")]
        lines: Vec<Line>,
    }

    #[derive(Debug, Deserialize)]
    struct Line {
        #[expect(dead_code, reason = "only its type matters")]
        count: u8,
    }

    /// The document an order is refused with.
    fn fault(json: &str) -> String {
        let problem = parse::<Order>(json.as_bytes()).expect_err("must be refused");
        format!("{problem:?}")
    }

    #[test]
    fn a_fault_is_named_by_its_pointer() {
        assert!(
            fault(r#"{"lines": [{"count": 1}, {"count": "two"}]}"#).contains(r#"pointer: "/lines/1/count""#)
        );
        let missing = fault(r#"{"lines": [{}]}"#);
        assert!(
            missing.contains(r#"pointer: "/lines/0/count""#) && missing.contains("is required"),
            "{missing}"
        );
        assert!(fault("{").contains("malformed JSON"));
        assert!(fault(r#"{"lines": []} x"#).contains("malformed JSON"));
    }

    #[test]
    fn a_fault_does_not_repeat_the_input() {
        for json in [
            r#"{"lines": [{"count": "canary"}]}"#,
            r#"{"lines": [{"count": "canary, expected nothing"}]}"#,
            r#"{"lines": "canary"}"#,
            r#"{"lines": ["canary"]}"#,
            r#"{"lines": [{"count": 987654321}]}"#,
        ] {
            let fault = fault(json);
            assert!(!fault.contains("canary") && !fault.contains("98765"), "{fault}");
            assert!(fault.contains("must be "), "{fault}");
        }
        // Nor where more is wrong than that.
        for json in [r#"{"lines": "canary", x}"#, r#"{"lines": [{"count": 987654321}], "#] {
            let fault = fault(json);
            assert!(!fault.contains("canary") && !fault.contains("98765"), "{fault}");
            assert!(fault.contains("malformed JSON"), "{fault}");
        }
    }

    #[test]
    fn a_fault_is_told_in_words_for_people() {
        for json in [r#"{"lines": [{"count": "1"}]}"#, r#"{"lines": [{"count": 256}]}"#] {
            let fault = fault(json);
            assert!(fault.contains("must be a whole number") && !fault.contains("u8"), "{fault}");
        }
        let told = [
            (parse::<f64>(br#""1""#).map(drop), "must be a number"),
            (parse::<Map<String, Value>>(b"[1]").map(drop), "must be an object"),
            (parse::<Order>(b" [[]]").map(drop), "must be an object"),
            (parse::<Vec<u8>>(b"{}").map(drop), "must be a list"),
            (parse::<Map<String, Value>>(b"{\"a\": \"\xff\"}").map(drop), "must be UTF-8"),
            (parse::<uuid::Uuid>(br#""junk""#).map(drop), "must be a UUID"),
            (parse::<uuid::Uuid>(br#""00""#).map(drop), "must be a UUID"),
        ];
        for (refused, detail) in told {
            let fault = format!("{:?}", refused.expect_err("must be refused"));
            assert!(fault.contains(detail), "{fault}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!nests_deeper(nested(64).as_bytes(), 64));
        assert!(nests_deeper(nested(65).as_bytes(), 64));
        assert!(!nests_deeper(format!(r#"["{}\"{}"]"#, "[".repeat(99), "{".repeat(99)).as_bytes(), 64));
    }
}
