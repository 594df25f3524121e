//! What GitHub is asked over its REST interface, with the token of an administrator.
//!
//! The invariant: the token goes to `GITHUB_API_URL` and nowhere else, and answers are bounded.

use http::{Method, Request, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::names::{full_name, is_repository};
use crate::outbound::Failure;
use crate::{Error, Platform, Result};

/// Repositories, or branches, that one page of an answer has.
const PAGE: usize = 50;
/// Pages that are read.
const PAGES: usize = 10;

/// A repository that the token opens.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Repository {
    /// Its name.
    pub name: String,
    /// `owner/name`.
    pub full_name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The page of it.
    pub html_url: String,
    /// Whether only some can see it.
    pub private: bool,
    /// What git clones.
    pub clone_url: String,
}

/// A branch.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Branch {
    /// Its name.
    pub name: String,
    /// Whether rules protect it.
    #[serde(default)]
    pub protected: bool,
    /// Its latest commit.
    pub commit: Tip,
}

/// The latest commit of a branch.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Tip {
    /// Its name.
    pub sha: String,
}

/// A repository to make.
#[derive(Debug, Clone, Serialize)]
pub struct NewRepository {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Whether only some can see it.
    pub private: bool,
}

/// The repositories that the token opens, those that changed last first.
///
/// # Errors
/// [`Error::Impossible`] when GitHub refuses the token, [`Error::Unavailable`] when it is away.
pub async fn repositories(platform: &Platform, token: &SecretString) -> Result<Vec<Repository>> {
    pages(platform, token, "/user/repos?sort=updated", "repository").await
}

/// The branches of a repository.
///
/// # Errors
/// [`Error::Invalid`] for what is no `owner/name`, [`Error::NotFound`] when the token does not open it; and as
/// [`repositories`].
pub async fn branches(platform: &Platform, token: &SecretString, repository: &str) -> Result<Vec<Branch>> {
    let (owner, name) = full_name(repository)
        .ok_or_else(|| Error::invalid("?repo", "must be `owner/name` of a repository"))?;
    pages(platform, token, &format!("/repos/{owner}/{name}/branches?"), "repository").await
}

/// Makes an empty repository, of the token's owner or of an organization.
///
/// # Errors
/// [`Error::Invalid`] for a bad name, [`Error::Conflict`] when GitHub has one of this name or refuses it; and as
/// [`repositories`].
pub async fn create(
    platform: &Platform,
    token: &SecretString,
    new: &NewRepository,
    organization: Option<&str>,
) -> Result<Repository> {
    if !is_repository(&new.name) {
        return Err(Error::invalid("/name", "must be letters, digits, `-`, `_` and `.`, 100 at most"));
    }
    let path = match organization {
        None => "/user/repos".to_owned(),
        Some(organization) if is_repository(organization) => format!("/orgs/{organization}/repos"),
        Some(_) => {
            return Err(Error::invalid("/organization", "must be the name of an organization on GitHub"));
        }
    };
    let body = json!({
        "name": new.name, "description": new.description, "private": new.private, "auto_init": false,
    });
    let (status, answer) = call(platform, token, Method::POST, &path, Some(body)).await?;
    match status {
        StatusCode::CREATED => serde_json::from_slice(&answer).map_err(|_| strange()),
        StatusCode::UNPROCESSABLE_ENTITY => {
            Err(Error::Conflict(format!("GitHub refuses the repository {}; it may exist already", new.name)))
        }
        status => Err(refusal(status, "organization")),
    }
}

async fn pages<T: for<'de> Deserialize<'de>>(
    platform: &Platform,
    token: &SecretString,
    path: &str,
    what: &'static str,
) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for page in 1..=PAGES {
        let path = format!("{path}&per_page={PAGE}&page={page}");
        let (status, answer) = call(platform, token, Method::GET, &path, None).await?;
        if status != StatusCode::OK {
            return Err(refusal(status, what));
        }
        let found: Vec<T> = serde_json::from_slice(&answer).map_err(|_| strange())?;
        let is_last = found.len() < PAGE;
        all.extend(found);
        if is_last {
            break;
        }
    }
    Ok(all)
}

async fn call(
    platform: &Platform,
    token: &SecretString,
    method: Method,
    path: &str,
    body: Option<serde_json::Value>,
) -> Result<(StatusCode, Vec<u8>)> {
    let base = platform.settings.github_api_url.trim_end_matches('/');
    let request = Request::builder()
        .method(method)
        .uri(format!("{base}{path}"))
        .header("Accept", "application/vnd.github+json")
        .header("X-GitHub-Api-Version", "2022-11-28")
        .header("Content-Type", "application/json")
        .header("Authorization", format!("Bearer {}", token.expose_secret()))
        .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
        .map_err(Error::internal)?;
    match platform.outbound.send(request).await {
        Ok(answer) => Ok((answer.status(), answer.into_body())),
        Err(Failure::Refused(refused)) => Err(Error::Impossible(format!("GitHub: {refused}"))),
        Err(failure) => Err(Error::Unavailable { service: "GitHub", source: failure.into() }),
    }
}

fn refusal(status: StatusCode, what: &'static str) -> Error {
    match status {
        StatusCode::UNAUTHORIZED => {
            Error::Impossible("GitHub does not know this token; make a new one".into())
        }
        StatusCode::FORBIDDEN => Error::Impossible(
            "GitHub does not allow this with the token, or not so often; look at its rights".into(),
        ),
        StatusCode::NOT_FOUND => Error::NotFound(what),
        status => Error::Unavailable { service: "GitHub", source: format!("it answered {status}").into() },
    }
}

fn strange() -> Error {
    Error::Unavailable { service: "GitHub", source: "an answer that cannot be read".into() }
}
