//! What is newer at the index than what is in use. Only asked, never installed.
//!
//! The index speaks JSON (PEP 691) or HTML (PEP 503). The invariant: its answers are bounded in size and time, and whatever
//! goes wrong with them is an empty answer, never an error.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use pep440_rs::Version;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::{Environment, Package};
use crate::{Error, Result};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Packages asked for at once.
const AT_ONCE: usize = 8;
/// Longest answer about one package; the longest of PyPI have a few MiB.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How long an answer is good for.
const REMEMBERED: Duration = Duration::from_secs(300);
const JSON: &str = "application/vnd.pypi.simple.v1+json";
const ACCEPT: &str =
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

/// A package with a newer version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Normalized name.
    pub name: String,
    /// The version in use.
    pub current: String,
    /// The newest one that is neither withdrawn nor a pre-release.
    pub latest: String,
}

/// Asks the index. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Updates {
    client: reqwest::Client,
    index: Arc<SecretString>,
    remembered: moka::future::Cache<String, Arc<Vec<Update>>>,
}

/// What an index says of a package, as far as it is read.
#[derive(Debug, Deserialize)]
struct Project {
    #[serde(default)]
    files: Vec<File>,
}

#[derive(Debug, Deserialize)]
struct File {
    filename: String,
    /// `false`, or why it is withdrawn.
    #[serde(default)]
    yanked: serde_json::Value,
}

impl Updates {
    /// Asks the index at this address.
    ///
    /// # Errors
    /// [`Error::Internal`] when there can be no client.
    pub fn new(index: &SecretString) -> Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::limited(3))
            .build()
            .map_err(Error::internal)?;
        let remembered = moka::future::Cache::builder().max_capacity(4).time_to_live(REMEMBERED).build();
        Ok(Self { client, index: Arc::new(index.clone()), remembered })
    }

    /// What is newer, by name; nothing when the index does not answer in time.
    pub async fn of(&self, environment: &Environment) -> Arc<Vec<Update>> {
        let Some(id) = environment.id.clone() else { return Arc::default() };
        let asked = self.remembered.try_get_with(id, async {
            let questions: Vec<_> =
                environment.packages.iter().map(|package| self.of_package(package)).collect();
            let answers = futures::stream::iter(questions).buffered(AT_ONCE).collect::<Vec<_>>();
            let answers =
                tokio::time::timeout(PATIENCE, answers).await.map_err(|_| "it did not answer in time")?;
            let found: Result<Vec<Option<Update>>, &'static str> = answers.into_iter().collect();
            Ok::<_, &'static str>(Arc::new(found?.into_iter().flatten().collect()))
        });
        asked.await.unwrap_or_else(|reason| {
            tracing::warn!(%reason, "the package index says nothing of updates");
            Arc::default()
        })
    }

    async fn of_package(&self, package: &Package) -> Result<Option<Update>, &'static str> {
        let Ok(current) = Version::from_str(&package.version) else { return Ok(None) };
        let versions = self.versions(&package.name).await?;
        let latest = versions.into_iter().filter(|version| version.is_stable()).max();
        Ok(latest.filter(|latest| *latest > current).map(|latest| Update {
            name: package.name.clone(),
            current: package.version.clone(),
            latest: latest.to_string(),
        }))
    }

    /// Versions that can be installed: those with a wheel.
    async fn versions(&self, name: &str) -> Result<Vec<Version>, &'static str> {
        let base = self.index.expose_secret().trim_end_matches('/');
        let address = Url::parse(&format!("{base}/{name}/")).map_err(|_| "its address cannot be read")?;
        let request = self.client.get(address).header("accept", ACCEPT);
        let mut answer = request.send().await.map_err(|_| "it cannot be reached")?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        if !answer.status().is_success() {
            return Err("it refused to answer");
        }
        let is_json = answer
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().starts_with(JSON.as_bytes()));
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|_| "its answer broke off")? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err("its answer is too long");
            }
            body.extend_from_slice(&chunk);
        }
        if is_json {
            let project: Project = serde_json::from_slice(&body).map_err(|_| "its answer cannot be read")?;
            let present = project.files.iter().filter(|file| {
                matches!(file.yanked, serde_json::Value::Null | serde_json::Value::Bool(false))
            });
            return Ok(present.filter_map(|file| version_of(&file.filename)).collect());
        }
        Ok(anchors(&String::from_utf8_lossy(&body)).filter_map(version_of).collect())
    }
}

/// The version in the name of a wheel.
fn version_of(file: &str) -> Option<Version> {
    let parts: Vec<&str> = file.strip_suffix(".whl")?.split('-').collect();
    if parts.len() < 5 { None } else { Version::from_str(parts[1]).ok() }
}

/// The texts of links that are not withdrawn.
fn anchors(page: &str) -> impl Iterator<Item = &str> {
    page.split("<a ").skip(1).filter_map(|link| {
        let (attributes, rest) = link.split_once('>')?;
        let text = rest.split_once('<')?.0.trim();
        (!attributes.contains("data-yanked")).then_some(text)
    })
}

/// Whether the text is an address of an index.
pub(crate) fn is_address(text: &str, https_only: bool) -> bool {
    Url::parse(text).is_ok_and(|url| {
        url.has_host() && (url.scheme() == "https" || (url.scheme() == "http" && !https_only))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_wheels_and_withdrawn_ones_are_left_out() {
        let page = r#"<html><a href="x#sha256=1">six-1.16.0-py2.py3-none-any.whl</a>
            <a href="y" data-yanked="broken">six-1.18.0-py3-none-any.whl</a><a href="z">six-1.17.0.tar.gz</a></html>"#;
        let found: Vec<String> =
            anchors(page).filter_map(version_of).map(|version| version.to_string()).collect();
        assert_eq!(found, ["1.16.0"]);
        assert!(version_of("six-1.16.0.whl").is_none());
    }
}
