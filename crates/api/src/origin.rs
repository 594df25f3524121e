//! Which pages are ours: the server's own, those of `PUBLIC_URL`, and those of `CORS_ORIGINS`.

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};
use domain::settings::Settings;

/// Whether the page that a browser names as the origin of a request is ours. A request without one comes from no page,
/// and is not.
pub(crate) fn is_ours(settings: &Settings, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text(ORIGIN) else { return false };
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let same_host = authority.is_some() && authority == text(HOST);
    same_host || named(settings).any(|ours| ours == origin)
}

/// The origins that the settings name.
pub(crate) fn named(settings: &Settings) -> impl Iterator<Item = &str> {
    settings.origins().chain([settings.public_url.as_str()]).map(|origin| origin.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_may_bring_cookies() {
        let settings = Settings { cors_origins: "https://app.example.com".into(), ..Settings::default() };
        let ours = |origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "bifrost.example.com".parse().expect("a header value"));
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().expect("a header value"));
            }
            is_ours(&settings, &headers)
        };
        assert!(ours(Some("https://bifrost.example.com")));
        assert!(ours(Some("https://app.example.com")));
        assert!(!ours(Some("https://evil.example.com")));
        assert!(!ours(Some("null")));
        assert!(!ours(None));
    }
}
