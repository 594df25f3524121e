//! An HTTP client that keeps statuses and problems for the test to look at.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// A client of one api, as one user or as nobody.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    bearer: Option<String>,
    organization: Option<String>,
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
    /// Body, as it came.
    pub body: String,
}

impl Client {
    /// A client of the api at `base`, as nobody.
    ///
    /// # Panics
    /// Never: the options are fixed.
    #[must_use]
    pub fn new(base: impl Into<String>) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(90))
            .build()
            .expect("the options are valid");
        Self { http, base: base.into().trim_end_matches('/').to_owned(), bearer: None, organization: None }
    }

    /// The same api with this access token.
    #[must_use]
    pub fn with_bearer(&self, token: impl Into<String>) -> Self {
        Self { bearer: Some(token.into()), ..self.clone() }
    }

    /// The same user in this organization.
    #[must_use]
    pub fn in_organization(&self, id: impl ToString) -> Self {
        Self { organization: Some(id.to_string()), ..self.clone() }
    }

    /// The address of the api.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The access token.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        self.bearer.as_deref()
    }

    /// Registers an account; the first of an installation is the administrator. Gives a client that is signed in.
    ///
    /// # Panics
    /// When the api refuses.
    pub async fn register(&self, email: &str, password: &str) -> Self {
        let body = json!({ "email": email, "password": password, "name": email });
        self.post("/auth/register", &body).await.expect_status(StatusCode::CREATED);
        self.sign_in(email, password).await
    }

    /// Signs in and gives a client that is.
    ///
    /// # Panics
    /// When the api refuses.
    pub async fn sign_in(&self, email: &str, password: &str) -> Self {
        let form = [("username", email), ("password", password)];
        let reply = self
            .send(self.request(Method::POST, "/auth/login").form(&form))
            .await
            .expect_status(StatusCode::OK);
        self.with_bearer(reply.text("access_token"))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// PUT with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// PATCH with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// A request with the credentials of this client, to be completed and sent.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer);
        }
        match &self.organization {
            Some(id) => request.header("X-Organization-Id", id),
            None => request,
        }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn send(&self, request: RequestBuilder) -> Reply {
        let answer = request.send().await.expect("the api answers");
        let (status, headers) = (answer.status(), answer.headers().clone());
        Reply { status, headers, body: answer.text().await.expect("the answer is whole") }
    }
}

impl Reply {
    /// The body as JSON; null when it is empty.
    ///
    /// # Panics
    /// When it is neither.
    #[must_use]
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the answer {}: {}", self.status, self.body))
    }

    /// A text member of the body.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn text(&self, member: &str) -> String {
        let json = self.json();
        json.get(member)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("no text `{member}` in {}: {json}", self.status))
            .to_owned()
    }

    /// `type` of a problem document, such as `/problems/not-found`.
    ///
    /// # Panics
    /// When the answer is no problem document.
    #[must_use]
    pub fn problem_type(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "no problem document: {} {}",
            self.status,
            self.body
        );
        self.text("type")
    }

    /// `detail` of a problem document.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn detail(&self) -> String {
        self.text("detail")
    }

    /// The pointers of the fields that a 422 names.
    #[must_use]
    pub fn pointers(&self) -> Vec<String> {
        let json = self.json();
        let errors = json.get("errors").and_then(Value::as_array).into_iter().flatten();
        errors.filter_map(|error| error.get("pointer")?.as_str().map(ToOwned::to_owned)).collect()
    }

    /// A header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The reply itself, if it has this status.
    ///
    /// # Panics
    /// When it has another, showing the body.
    pub fn expect_status(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}
