//! Cookies of browser sessions, and the token that proves a write was meant.

use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum_extra::extract::cookie::{Cookie, SameSite};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::problem::Problem;

const CSRF_COOKIE: &str = "csrf_token";
const CSRF_HEADER: &str = "x-csrf-token";

/// Name of the access-token cookie. The prefix makes browsers refuse one that another host has set.
pub(crate) fn access_name(production: bool) -> &'static str {
    if production { "__Host-access_token" } else { "access_token" }
}

/// Name of the refresh-token cookie.
pub(crate) fn refresh_name(production: bool) -> &'static str {
    if production { "__Host-refresh_token" } else { "refresh_token" }
}

/// Name of the cookie of a trusted device.
pub(crate) fn device_name(production: bool) -> &'static str {
    if production { "__Host-device_token" } else { "device_token" }
}

/// The cookie of a device that is trusted from now on; with no time left, of one that is not any more.
pub(crate) fn set_device(headers: &mut HeaderMap, production: bool, token: &str, max_age_seconds: i64) {
    append(headers, production, device_name(production), token, max_age_seconds);
}

/// Name of the cookie that ties the sign-ins with providers to the browser that began them.
pub(crate) fn flow_name(production: bool) -> &'static str {
    if production { "__Host-oauth_flow" } else { "oauth_flow" }
}

/// The cookie of a browser that begins a sign-in with a provider.
pub(crate) fn set_flow(headers: &mut HeaderMap, production: bool, value: &str, max_age_seconds: i64) {
    append(headers, production, flow_name(production), value, max_age_seconds);
}

/// The value of a cookie of the request.
pub(crate) fn find(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(Cookie::split_parse)
        .filter_map(Result::ok)
        .find(|cookie| cookie.name() == name)
        .map(|cookie| cookie.value().to_owned())
}

/// The cookies of a session that was just started or refreshed.
pub(crate) fn set(headers: &mut HeaderMap, production: bool, access: (&str, i64), refresh: (&str, i64)) {
    let csrf = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    append(headers, production, access_name(production), access.0, access.1);
    append(headers, production, refresh_name(production), refresh.0, refresh.1);
    append(headers, production, CSRF_COOKIE, &csrf, refresh.1);
}

/// Makes the browser forget its session.
pub(crate) fn clear(headers: &mut HeaderMap, production: bool) {
    for name in [access_name(production), refresh_name(production), CSRF_COOKIE] {
        append(headers, production, name, "", 0);
    }
}

/// Refuses a write that a browser may have been tricked into: the header must repeat the readable cookie,
/// which another site cannot read.
///
/// # Errors
/// 403 when the header is missing or differs.
pub(crate) fn check_csrf(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if !matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return Ok(());
    }
    let Some(given) = headers.get(CSRF_HEADER) else {
        return Err(Problem::forbidden("CSRF token missing"));
    };
    let expected = find(headers, CSRF_COOKIE).filter(|token| !token.is_empty());
    // Digests are compared, so that the time tells nothing of the token.
    match expected {
        Some(expected) if Sha256::digest(&expected) == Sha256::digest(given.as_bytes()) => Ok(()),
        _ => Err(Problem::forbidden("CSRF token mismatch")),
    }
}

fn append(headers: &mut HeaderMap, production: bool, name: &str, value: &str, max_age_seconds: i64) {
    let readable = name == CSRF_COOKIE;
    // Written by hand: the attributes are few, and `Max-Age` needs no date library this way.
    let cookie = Cookie::build((name, value))
        .path("/")
        .http_only(!readable)
        .secure(production)
        .same_site(if readable { SameSite::Strict } else { SameSite::Lax })
        .build();
    let text = format!("{cookie}; Max-Age={max_age_seconds}");
    headers.append(SET_COOKIE, HeaderValue::from_str(&text).expect("tokens are of the URL-safe alphabet"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookie: &str, csrf: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(cookie).expect("a header value"));
        if let Some(csrf) = csrf {
            headers.insert(CSRF_HEADER, HeaderValue::from_str(csrf).expect("a header value"));
        }
        headers
    }

    #[test]
    fn a_cookie_write_must_repeat_the_csrf_token() {
        let good = headers("access_token=a; csrf_token=t1", Some("t1"));
        assert!(check_csrf(&Method::POST, &good).is_ok());
        assert!(check_csrf(&Method::POST, &headers("csrf_token=t1", None)).is_err());
        assert!(check_csrf(&Method::DELETE, &headers("csrf_token=t1", Some("t2"))).is_err());
        assert!(
            check_csrf(&Method::PATCH, &headers("csrf_token=", Some(""))).is_err(),
            "an empty token proves nothing"
        );
        assert!(check_csrf(&Method::GET, &headers("csrf_token=t1", None)).is_ok());
    }

    #[test]
    fn production_cookies_are_bound_to_the_host_and_to_tls() {
        let mut headers = HeaderMap::new();
        set(&mut headers, true, ("access", 900), ("refresh", 604_800));
        let set: Vec<&str> = headers.get_all(SET_COOKIE).iter().map(|v| v.to_str().expect("ASCII")).collect();
        assert!(
            set[0].starts_with("__Host-access_token=access")
                && set[0].contains("HttpOnly")
                && set[0].contains("Secure")
        );
        assert!(set[1].starts_with("__Host-refresh_token=refresh") && set[1].contains("Max-Age=604800"));
        assert!(
            set[2].starts_with("csrf_token=")
                && !set[2].contains("HttpOnly")
                && set[2].contains("SameSite=Strict")
        );
    }
}
