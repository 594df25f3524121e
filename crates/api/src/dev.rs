//! The development user, and requests without a credential that act as it.
//!
//! The invariant: this is off unless the process was told so, in development, on a listener that only this machine
//! reaches (or by the word `any-interface`); and no page of another origin profits from it.

use std::net::SocketAddr;

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};
use domain::settings::Settings;
use domain::users::developer;
use domain::{Error, Result};

use crate::state::{App, Caller};
use crate::{AppState, origin};

/// Makes the development user, and opens the bypass if this listener may have it. Does nothing outside development.
pub(crate) async fn prepare(app: &AppState, listener: SocketAddr) {
    let settings = &app.platform.settings;
    if !settings.is_development() || settings.dev_user_email.is_empty() {
        return;
    }
    match developer::ensure(&app.platform.db, settings).await {
        Ok(Some(user)) => tracing::warn!(
            user.email,
            "development: made an administrator with the password of DEV_USER_PASSWORD"
        ),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "development: cannot make the development user"),
    }
    if is_allowed(settings, listener) {
        tracing::warn!("development: requests without a credential act as {}", settings.dev_user_email);
        app.allow_bypass();
    } else if !matches!(settings.dev_auth_bypass.as_str(), "" | "false") {
        tracing::warn!(%listener, "DEV_AUTH_BYPASS is ignored: the listener is no loopback address");
    }
}

fn is_allowed(settings: &Settings, listener: SocketAddr) -> bool {
    let here = listener.ip().to_canonical().is_loopback();
    settings.is_development()
        && match settings.dev_auth_bypass.as_str() {
            "true" => here,
            "any-interface" => true,
            _ => false,
        }
}

/// Who a request without a credential acts as.
///
/// # Errors
/// [`Error::Unauthenticated`] where the bypass is closed, or the request comes from a page of another origin.
pub(crate) async fn caller(app: &App, headers: &HeaderMap) -> Result<Caller> {
    let bypass = app.bypass().ok_or(Error::Unauthenticated)?;
    if !is_from_here(&app.platform.settings, headers) {
        return Err(Error::Unauthenticated);
    }
    let mut session = bypass.0.lock().await;
    if let Some(id) = *session
        && let Some(principal) = app.live_session(id).await?
    {
        return Ok(Caller { principal, by_cookie: false });
    }
    let started = developer::sign_in(&app.platform.db, &app.platform.settings).await?;
    *session = Some(started.principal.session_id);
    Ok(Caller { principal: started.principal.into(), by_cookie: false })
}

/// Whether no other site can have caused the request: a page of another origin says so in `Origin` or
/// `Sec-Fetch-Site`, and one that had its own name resolved to this machine names it in `Host`.
fn is_from_here(settings: &Settings, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_here = matches!(name, "localhost" | "127.0.0.1" | "[::1]")
        || origin::named(settings).any(|ours| ours.split_once("://").is_some_and(|(_, ours)| ours == host));
    let is_cross_site = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    is_here && !is_cross_site && (!headers.contains_key(ORIGIN) || origin::is_ours(settings, headers))
}

#[cfg(test)]
mod tests {
    use domain::settings::Environment;

    use super::*;

    #[test]
    fn the_bypass_is_for_development_on_this_machine() {
        let allowed = |environment, bypass: &str, listener: &str| {
            let settings = Settings { environment, dev_auth_bypass: bypass.into(), ..Settings::default() };
            is_allowed(&settings, listener.parse().expect("an address"))
        };
        let development = Environment::Development;

        assert!(allowed(development, "true", "127.0.0.1:8000"));
        assert!(allowed(development, "true", "[::1]:8000"));
        assert!(allowed(development, "any-interface", "0.0.0.0:8000"));
        assert!(!allowed(development, "true", "0.0.0.0:8000"));
        assert!(!allowed(development, "true", "192.0.2.1:8000"));
        assert!(!allowed(development, "false", "127.0.0.1:8000"));
        assert!(!allowed(development, "", "127.0.0.1:8000"));
        for other in [Environment::Testing, Environment::Production] {
            assert!(!allowed(other, "true", "127.0.0.1:8000"));
            assert!(!allowed(other, "any-interface", "127.0.0.1:8000"));
        }
    }

    #[test]
    fn pages_of_other_origins_do_not_profit() {
        let settings = Settings { cors_origins: "http://app.example.com:3000".into(), ..Settings::default() };
        let from_here = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a header value")));
            is_from_here(&settings, &headers.collect())
        };

        assert!(from_here(&[("host", "localhost:8000")]));
        assert!(from_here(&[("host", "127.0.0.1:8000"), ("origin", "http://127.0.0.1:8000")]));
        assert!(from_here(&[("host", "[::1]:8000")]));
        assert!(from_here(&[("host", "localhost:8000"), ("origin", "http://app.example.com:3000")]));
        assert!(!from_here(&[("host", "localhost:8000"), ("origin", "http://evil.example.com")]));
        assert!(!from_here(&[("host", "localhost:8000"), ("origin", "null")]));
        assert!(!from_here(&[("host", "localhost:8000"), ("sec-fetch-site", "cross-site")]));
        assert!(!from_here(&[("host", "evil.example.com:8000")]), "a name that was made to lead here");
        assert!(!from_here(&[("host", "evil.example.com:8000"), ("origin", "http://evil.example.com:8000")]));
    }
}
