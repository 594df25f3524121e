//! The client side: talks HTTP to an api as anybody could, with the session that `bifrost login` keeps.
//!
//! The invariants: stored credentials go only to the address they were stored for, and no refresh token is used twice.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::failure::{Failure, USAGE, chain};
use crate::output::harmless;

pub(crate) mod admin;
pub(crate) mod credentials;
pub(crate) mod dead_letters;
pub(crate) mod executions;
pub(crate) mod follow;
pub(crate) mod html;
pub(crate) mod login;
pub(crate) mod run;

use credentials::Credentials;

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// A synchronous request may wait for its run.
const PATIENCE: Duration = Duration::from_secs(120);

/// What ends a missing session, in short.
const LOG_IN: &str = "bifrost login";
/// What the api says it does not have, and what shows what it has.
const LISTS: [(&str, &str); 2] = [
    ("no such execution", "bifrost executions list"),
    ("no such workflow", "name one of those that GET /api/workflows lists"),
];

/// Which api, and for which organization.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Target {
    /// Address of the api: by default the one last signed in to, else http://127.0.0.1:8000.
    #[arg(long, env = "BIFROST_URL")]
    url: Option<String>,
    /// Organization to act in, for platform administrators.
    #[arg(long, value_name = "ID")]
    org: Option<Uuid>,
}

/// An api, as a signed-in user.
#[derive(Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    credentials: Credentials,
    org: Option<Uuid>,
    /// Whether new tokens belong into the credentials file.
    keep: bool,
}

/// An RFC 9457 problem document, as far as a person cares.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    request_id: Option<String>,
    errors: Vec<FieldProblem>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FieldProblem {
    pointer: String,
    detail: String,
}

#[derive(Deserialize)]
struct Tokens {
    access_token: Option<String>,
    refresh_token: Option<String>,
    #[serde(default)]
    mfa_required: bool,
    #[serde(default)]
    mfa_setup_required: bool,
    mfa_token: Option<String>,
}

/// How far the password alone has led.
pub(crate) enum SignIn {
    /// All the way.
    Done,
    /// To the question for a second factor, which [`Api::give_code`] answers.
    Asked {
        /// Names this sign-in.
        mfa_token: String,
    },
}

/// Where new tokens came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewed {
    /// The api gave them.
    Now,
    /// Another command had stored them, some time ago.
    Before,
}

impl Api {
    /// The api of `target`, with the stored session for it.
    pub(crate) fn open(target: &Target) -> Result<Self, Failure> {
        let stored = Credentials::load(credentials::FILE.as_ref())?;
        let asked = target.url.as_deref().map(normal_url).transpose()?;
        let stored = match (stored, asked) {
            (Some(stored), Some(asked)) if stored.url != asked => return Err(not_signed_in(&asked)),
            (Some(stored), _) => stored,
            (None, asked) => {
                return Err(not_signed_in(&asked.unwrap_or_else(|| credentials::DEFAULT_URL.into())));
            }
        };
        let mut api = Self::with(stored)?;
        api.org = target.org;
        api.keep = true;
        Ok(api)
    }

    /// An api with these credentials, which are not written anywhere until [`Self::keep`].
    pub(crate) fn with(credentials: Credentials) -> Result<Self, Failure> {
        Ok(Self { http: http(&credentials.url)?, credentials, org: None, keep: false })
    }

    pub(crate) fn email(&self) -> &str {
        &self.credentials.email
    }

    pub(crate) fn url(&self) -> &str {
        &self.credentials.url
    }

    pub(crate) fn access_token(&self) -> Option<&str> {
        self.credentials.access_token.as_deref()
    }

    /// Writes the credentials file, now and whenever tokens change.
    pub(crate) async fn keep(&mut self) -> Result<(), Failure> {
        let file = Path::new(credentials::FILE);
        let _lock = credentials::lock(file).await?;
        self.keep = true;
        self.credentials.store(file)
    }

    /// Signs in with the password.
    pub(crate) async fn sign_in(&mut self) -> Result<SignIn, Failure> {
        let password = self.credentials.password.clone().ok_or_else(|| not_signed_in(self.url()))?;
        let form = [("username", self.credentials.email.as_str()), ("password", password.as_str())];
        let request = self.http.post(self.address("/auth/login")).form(&form);
        let tokens = self.read_tokens(request).await?;
        if tokens.mfa_setup_required {
            return Err(Failure::new("this account must set up a second factor first")
                .next(format!("sign in with a browser: {}", self.url())));
        }
        match tokens.mfa_token.clone().filter(|_| tokens.mfa_required) {
            Some(mfa_token) => Ok(SignIn::Asked { mfa_token }),
            None => self.take(tokens).map(|()| SignIn::Done),
        }
    }

    /// Ends a sign-in with a one-time or a recovery code.
    pub(crate) async fn give_code(&mut self, mfa_token: &str, code: &str) -> Result<(), Failure> {
        let body = json!({ "mfa_token": mfa_token, "code": code });
        let request = self.http.post(self.address("/auth/mfa/login")).json(&body);
        let tokens = self.read_tokens(request).await?;
        self.take(tokens)
    }

    /// Reads a resource.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, None).await
    }

    /// Does something.
    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// The value a run returned.
    pub(crate) async fn result(&mut self, id: &str) -> Result<Value, Failure> {
        self.get(&format!("/api/executions/{id}/result")).await
    }

    /// A request as this user; whoever sends it deals with an expired token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, self.address(path));
        if let Some(token) = self.access_token() {
            request = request.bearer_auth(token);
        }
        match self.org {
            Some(org) => request.header("X-Organization-Id", org.to_string()),
            None => request,
        }
    }

    async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let build = |api: &Self| {
            let request = api.request(method.clone(), path);
            if let Some(body) = body { request.json(body) } else { request }
        };
        // Twice, for tokens that another command stored may have expired since.
        for _ in 0..2 {
            if self.access_token().is_some() {
                let answer = build(self).send().await.map_err(|error| unreachable(self.url(), &error))?;
                if answer.status() != StatusCode::UNAUTHORIZED {
                    return parse(answer).await;
                }
            }
            if self.renew().await? == Renewed::Now {
                break;
            }
        }
        read(self.url(), build(self)).await
    }

    /// Another access token than the one that was refused: the stored one, if another command has renewed the session,
    /// else a new one. Commands that share the file take turns, because a refresh token is good once, and the api ends the
    /// session of whoever presents a spent one.
    async fn renew(&mut self) -> Result<Renewed, Failure> {
        if !self.keep {
            return self.ask_for_tokens().await.map(|()| Renewed::Now);
        }
        let file = Path::new(credentials::FILE);
        let _lock = credentials::lock(file).await?;
        let stored = Credentials::load(file)?.filter(|stored| stored.is_of(&self.credentials));
        let Some(stored) = stored else { return Err(self.no_longer_signed_in()) };
        let refused = std::mem::replace(&mut self.credentials, stored);
        if self.access_token().is_some() && !self.credentials.has_tokens_of(&refused) {
            return Ok(Renewed::Before);
        }
        self.ask_for_tokens().await.map(|()| Renewed::Now)
    }

    /// A new access token from the api: for the refresh token, else for the password.
    async fn ask_for_tokens(&mut self) -> Result<(), Failure> {
        if let Some(refresh_token) = self.credentials.refresh_token.clone() {
            let request = self
                .http
                .post(self.address("/auth/refresh"))
                .json(&json!({ "refresh_token": refresh_token }));
            let answer = request.send().await.map_err(|error| unreachable(self.url(), &error))?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                let tokens = parse(answer).await?;
                return self.take(tokens);
            }
        }
        match self.sign_in().await? {
            SignIn::Done => Ok(()),
            SignIn::Asked { .. } => Err(not_signed_in(self.url())),
        }
    }

    /// What a sign-in is answered with; who is refused is told to sign in there again.
    async fn read_tokens(&self, request: RequestBuilder) -> Result<Tokens, Failure> {
        let answer = request.send().await.map_err(|error| unreachable(self.url(), &error))?;
        let is_refused = answer.status() == StatusCode::UNAUTHORIZED;
        let tokens = parse(answer).await;
        tokens.map_err(|failure| if is_refused { failure.next(self.log_in()) } else { failure })
    }

    fn log_in(&self) -> String {
        format!("{LOG_IN} --url {} --email {}", self.url(), self.email())
    }

    fn no_longer_signed_in(&self) -> Failure {
        let (email, url) = (self.email(), self.url());
        let file = credentials::FILE;
        Failure::new(format!("{file} is no longer that of {email} at {url}, and the session must be renewed"))
            .next(self.log_in())
    }

    fn take(&mut self, tokens: Tokens) -> Result<(), Failure> {
        self.credentials.access_token = tokens.access_token;
        self.credentials.refresh_token = tokens.refresh_token;
        if self.keep { self.credentials.store(credentials::FILE.as_ref()) } else { Ok(()) }
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.credentials.url)
    }
}

/// An HTTP client for this address; a proxy is never in the way of our own machine.
pub(crate) fn http(url: &str) -> Result<reqwest::Client, Failure> {
    let host =
        url::Url::parse(url).ok().and_then(|url| url.host_str().map(ToOwned::to_owned)).unwrap_or_default();
    let own = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_PATIENCE)
        .timeout(PATIENCE)
        .user_agent(concat!("bifrost/", env!("CARGO_PKG_VERSION")));
    if own {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| Failure::new(chain(&error)))
}

/// `http(s)://host[:port]` without a trailing slash.
pub(crate) fn normal_url(url: &str) -> Result<String, Failure> {
    let readable = url::Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    readable.map(|url| url.to_string().trim_end_matches('/').to_owned()).ok_or_else(|| {
        Failure::new(format!("{url} is not an address of an api"))
            .next("give one such as --url http://127.0.0.1:8000")
            .code(USAGE)
    })
}

/// Sends a request and reads the answer, or the problem in it.
pub(crate) async fn read<T: DeserializeOwned>(url: &str, request: RequestBuilder) -> Result<T, Failure> {
    parse(request.send().await.map_err(|error| unreachable(url, &error))?).await
}

async fn parse<T: DeserializeOwned>(answer: reqwest::Response) -> Result<T, Failure> {
    let status = answer.status();
    let body = answer
        .bytes()
        .await
        .map_err(|error| Failure::new(format!("the answer broke off: {}", chain(&error))))?;
    if !status.is_success() {
        return Err(serde_json::from_slice::<Problem>(&body).unwrap_or_default().failure(status));
    }
    let body = if body.is_empty() { b"null".as_slice() } else { &body };
    serde_json::from_slice(body)
        .map_err(|error| Failure::new(format!("the answer is not what a Bifrost api says: {error}")))
}

impl Problem {
    fn failure(self, status: StatusCode) -> Failure {
        let what = [&self.detail, &self.title]
            .into_iter()
            .find(|text| !text.is_empty())
            .map_or_else(|| status.to_string(), |text| harmless(text));
        let mut message = what;
        for field in self.errors {
            message.push_str(&format!("\n- {}: {}", harmless(&field.pointer), harmless(&field.detail)));
        }
        if let Some(id) = self.request_id {
            message.push_str(&format!("\n(status {}, request {})", status.as_u16(), harmless(&id)));
        }
        let list = LISTS.iter().find(|(missing, _)| message.starts_with(missing));
        let failure = Failure::new(&message);
        match (status.as_u16(), list) {
            (404, Some((_, list))) => failure.next(list).code(USAGE),
            (401, _) => failure.next(LOG_IN),
            (403, _) => failure.next("sign in as somebody who may: bifrost login --email EMAIL"),
            (404 | 409 | 422, _) => failure.code(USAGE),
            (429 | 503, _) => failure.next("try again in a moment"),
            (500.., _) => failure.next("look for the request id in the log of the api"),
            _ => failure,
        }
    }
}

fn unreachable(url: &str, error: &reqwest::Error) -> Failure {
    if error.is_timeout() && !error.is_connect() {
        return Failure::new(format!("{url} took too long to answer")).next("bifrost executions list");
    }
    // The chain repeats the address, and its end is the reason.
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    Failure::new(format!("cannot reach {url}: {reason}"))
        .next("start it with `bifrost up`, or name another: --url URL")
}

fn not_signed_in(url: &str) -> Failure {
    Failure::new(format!("not signed in to {url}")).next(format!("{LOG_IN} --url {url} --email EMAIL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_an_error_with_its_request_id() {
        let problem: Problem = serde_json::from_value(json!({
            "type": "/problems/invalid", "title": "Invalid", "status": 422, "detail": "site: is required", "request_id": "r-1",
            "errors": [{"pointer": "/input_data/site", "detail": "is required"}],
        }))
        .unwrap();

        let failure = format!("{:?}", problem.failure(StatusCode::UNPROCESSABLE_ENTITY));

        assert!(failure.contains("/input_data/site: is required") && failure.contains("r-1"), "{failure}");
    }

    #[test]
    fn addresses_are_compared_without_a_trailing_slash() {
        assert_eq!(normal_url("http://127.0.0.1:8000/").unwrap(), "http://127.0.0.1:8000");
        assert!(normal_url("127.0.0.1:8000").is_err());
    }
}
