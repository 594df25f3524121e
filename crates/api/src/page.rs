//! Pages of lists that the contract answers as plain arrays: the way on is in a header, so that the body stays what
//! clients know (ADR 21).

use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use domain::page::{Cursor, NameCursor};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::extract::{Json, whole_number};
use crate::problem::Problem;

/// The header with the token for the next page.
pub(crate) const X_CONTINUATION_TOKEN: HeaderName = HeaderName::from_static("x-continuation-token");

/// The longest page, and the one given to clients that know no pages.
const MOST: i64 = 1_000;

/// Which page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// How many, 1000 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 1000)]
    pub(crate) limit: Option<String>,
    /// `X-Continuation-Token` of the answer before, for the rows after it; the filters must be the same.
    #[param(rename = "continuationToken")]
    pub(crate) continuation_token: Option<String>,
}

/// A page asked for.
#[derive(Debug)]
pub(crate) struct Page<C> {
    pub(crate) limit: i64,
    pub(crate) after: C,
}

impl PageQuery {
    /// The page of a list by name with these filters.
    ///
    /// # Errors
    /// 422 for a limit out of range, 400 for a token of another list.
    pub(crate) fn by_name(&self, filters: &impl Serialize) -> Result<Page<NameCursor>, Problem> {
        let after = match &self.continuation_token {
            Some(token) => NameCursor::parse(token, filters)?,
            None => NameCursor::START,
        };
        Ok(Page { limit: self.limit()?, after })
    }

    /// The page of a list by id with these filters.
    ///
    /// # Errors
    /// As [`Self::by_name`].
    pub(crate) fn by_id(&self, filters: &impl Serialize) -> Result<Page<Option<Cursor>>, Problem> {
        let after =
            self.continuation_token.as_deref().map(|token| Cursor::parse(token, filters)).transpose()?;
        Ok(Page { limit: self.limit()?, after })
    }

    fn limit(&self) -> Result<i64, Problem> {
        whole_number("limit", self.limit.as_deref(), MOST, 1..=MOST)
    }
}

/// The rows of a page, and the way on if there is more.
#[derive(Debug)]
pub(crate) struct Paged<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<NextPage>,
}

/// The token for the next page, on its way into the header.
#[derive(Debug)]
pub(crate) struct NextPage(String);

impl<T> Paged<T> {
    /// Cuts rows, of which one more than `limit` were asked for, to their page; `token` names the place of the last.
    pub(crate) fn new<R: Into<T>>(mut rows: Vec<R>, limit: i64, token: impl FnOnce(&R) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or_default();
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).map(|last| NextPage(token(last)));
        Self { items: rows.into_iter().map(Into::into).collect(), next }
    }
}

impl IntoResponseParts for NextPage {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        let token = HeaderValue::from_str(&self.0).expect("base64 is a header value");
        parts.headers_mut().insert(X_CONTINUATION_TOKEN, token);
        Ok(parts)
    }
}

impl<T: Serialize> IntoResponse for Paged<T> {
    fn into_response(self) -> Response {
        (self.next, Json(self.items)).into_response()
    }
}
