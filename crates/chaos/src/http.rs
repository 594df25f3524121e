//! Talking to the replicas: every answer is kept with how long it took, and no failure is a panic.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::Utc;
use reqwest::Method;
use serde_json::Value;

use crate::history::{Answer, lock};

/// A client gives up after this: twice what any answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that was answered.
pub(crate) type Answers = Arc<Mutex<Vec<Answer>>>;

/// Somebody who is signed in, at every replica.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    http: reqwest::Client,
    pub(crate) bases: Arc<Vec<String>>,
    pub(crate) bearer: Option<String>,
    answers: Answers,
}

/// A request, before it is known who is asked.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    /// For the table of answers.
    pub(crate) name: &'static str,
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) body: Option<&'a Value>,
    pub(crate) key: Option<&'a str>,
    /// How long the answer is waited for.
    pub(crate) patience: Duration,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl<'a> Ask<'a> {
    pub(crate) fn get(name: &'static str, path: &'a str) -> Self {
        Self { name, method: Method::GET, path, body: None, key: None, patience: PATIENCE }
    }

    pub(crate) fn post(name: &'static str, path: &'a str, body: &'a Value) -> Self {
        Self { method: Method::POST, body: Some(body), ..Self::get(name, path) }
    }
}

impl Reply {
    pub(crate) fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A text of the body.
    pub(crate) fn text(&self, member: &str) -> Option<String> {
        self.body.get(member)?.as_str().map(ToOwned::to_owned)
    }
}

impl Caller {
    pub(crate) fn nobody(bases: Vec<String>, answers: Answers) -> anyhow::Result<Self> {
        // A connection of a frozen replica must not be waited for by the next request.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(8).build()?;
        Ok(Self { http, bases: Arc::new(bases), bearer: None, answers })
    }

    pub(crate) fn with_bearer(&self, bearer: String) -> Self {
        Self { bearer: Some(bearer), ..self.clone() }
    }

    pub(crate) fn request(&self, replica: usize, method: Method, path: &str) -> reqwest::RequestBuilder {
        let base = &self.bases[replica % self.bases.len()];
        let request = self.http.request(method, format!("{base}{path}"));
        match &self.bearer {
            Some(bearer) => request.bearer_auth(bearer),
            None => request,
        }
    }

    /// Asks one replica; nothing when it did not answer in time, or not whole.
    pub(crate) async fn ask(&self, replica: usize, ask: Ask<'_>) -> Option<Reply> {
        let mut request = self.request(replica, ask.method, ask.path).timeout(ask.patience);
        if let Some(body) = ask.body {
            request = request.json(body);
        }
        if let Some(key) = ask.key {
            request = request.header("Idempotency-Key", key);
        }
        let (at, began) = (Utc::now(), Instant::now());
        let answer = request.send().await.ok()?;
        let (status, retry_after) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
        let text = answer.text().await.ok()?;
        self.remember(Answer {
            replica: replica % self.bases.len(),
            at,
            seconds: began.elapsed().as_secs_f64(),
            status,
            has_retry_after: retry_after,
            request: ask.name,
        });
        Some(Reply { status, body: serde_json::from_str(&text).unwrap_or(Value::Null) })
    }

    fn remember(&self, answer: Answer) {
        lock(&self.answers).push(answer);
    }
}
