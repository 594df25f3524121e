//! What is remembered between the two ends of a sign-in with a provider: for ten minutes, once, for one browser.
//!
//! The invariant: whoever presents a state uses it up, whether it was theirs or not.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Provider;
use crate::cache::Cache;
use crate::{Error, Result, opaque};

const LIFETIME: Duration = Duration::from_secs(600);

/// A sign-in that was begun.
#[derive(Clone, Serialize, Deserialize)]
pub struct Flow {
    /// With whom.
    pub provider: Provider,
    /// Where the provider sends the browser back to.
    pub redirect_uri: String,
    /// Where the browser goes afterwards; none when a page of ours asked for JSON.
    pub next: Option<String>,
    /// What the ID token must repeat.
    pub nonce: String,
    /// What proves to the provider that the code was ours to use.
    pub verifier: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    browser: String,
    flow: Flow,
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("provider", &self.provider).finish_non_exhaustive()
    }
}

impl Flow {
    /// Remembers it under `state`, for the browser that holds `browser` as a cookie.
    ///
    /// # Errors
    /// [`Error::Internal`] never: it is always JSON.
    pub async fn keep(self, cache: &Cache, state: &str, browser: &str) -> Result<()> {
        let kept = Kept { browser: digest(browser), flow: self };
        let text = serde_json::to_string(&kept).map_err(Error::internal)?;
        cache.put(&key(state), &text, LIFETIME).await;
        Ok(())
    }

    /// Takes what `state` stands for, if this browser began it.
    pub async fn take(cache: &Cache, state: &str, browser: Option<&str>) -> Option<Self> {
        let text = cache.take(&key(state)).await?;
        let kept: Kept = serde_json::from_str(&text).ok()?;
        // Digests of random values are compared: the time tells nothing of either.
        (kept.browser == digest(browser?)).then_some(kept.flow)
    }
}

/// The cache is shared and less guarded than the database: it learns no state that could be presented.
fn key(state: &str) -> String {
    format!("login:{}", digest(state))
}

fn digest(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(opaque::hash(text))
}
