//! Who sent a request: by the bearer token, the cookie or, in development alone, by none.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use domain::{Error, Result};

use crate::extract::bearer_of;
use crate::state::{App, Caller};
use crate::{cookies, dev};

impl App {
    /// Who sent these headers: the bearer token decides, and only without one the cookie.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]; [`Error::Unavailable`] when nobody can tell.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller> {
        let (token, by_cookie) = match headers.get(AUTHORIZATION) {
            Some(header) => (bearer_of(header).ok_or(Error::Unauthenticated)?.to_owned(), false),
            None => match self.cookie_token(headers) {
                Some(token) => (token, true),
                None => return dev::caller(self, headers).await,
            },
        };
        let session = self.tokens.verify(&token).ok_or(Error::Unauthenticated)?;
        let principal = self.live_session(session).await?.ok_or(Error::Unauthenticated)?;
        Ok(Caller { principal, by_cookie })
    }

    fn cookie_token(&self, headers: &HeaderMap) -> Option<String> {
        cookies::find(headers, cookies::access_name(self.platform.settings.is_production()))
    }
}
