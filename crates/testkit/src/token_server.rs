//! A provider of tokens for connections: codes with PKCE, client credentials, and refresh tokens that are good once. Who
//! presents a spent one loses everything, as with the strict among the real ones, unless the test allows a moment's grace.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest;
use axum::extract::{Form, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use uuid::Uuid;

type Params = HashMap<String, String>;

/// The provider. It stops when it is dropped.
#[derive(Debug)]
pub struct TokenServer {
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Accounts>,
    asked: Mutex<Vec<Params>>,
    refreshes: AtomicUsize,
    punished: AtomicUsize,
    /// Milliseconds an answer takes.
    delay: AtomicU64,
    /// Answers that get lost after the work is done.
    losing: AtomicUsize,
    /// Requests that fail before any work is done.
    failing: AtomicUsize,
    lifetime: AtomicU64,
}

#[derive(Debug, Default)]
struct Accounts {
    codes: HashMap<String, (String, String)>,
    /// The refresh token that is good, and the answer that came with the one before it.
    current: Option<String>,
    before: Option<(String, Value)>,
    grace: bool,
    without_refresh: bool,
    refusing: bool,
    next: u64,
}

impl TokenServer {
    /// Starts it.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> (Self, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let shared = Arc::new(Shared { lifetime: AtomicU64::new(3_600), ..Shared::default() });
        let router = Router::new()
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .with_state(shared.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serves until it is dropped");
        });
        (Self { shared, serving }, address)
    }

    /// What it was asked, form by form.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn asked(&self) -> Vec<Params> {
        self.shared.asked.lock().expect("nobody panics with it").clone()
    }

    /// Tokens that were given for refresh tokens or client credentials.
    #[must_use]
    pub fn refreshes(&self) -> usize {
        self.shared.refreshes.load(Ordering::SeqCst)
    }

    /// Uses of spent refresh tokens that were punished.
    #[must_use]
    pub fn punished(&self) -> usize {
        self.shared.punished.load(Ordering::SeqCst)
    }

    /// Lets every answer take this long.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay.store(delay.as_millis().try_into().unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Loses the next answers after the work is done.
    pub fn lose(&self, answers: usize) {
        self.shared.losing.store(answers, Ordering::SeqCst);
    }

    /// Fails the next requests with 503.
    pub fn fail(&self, requests: usize) {
        self.shared.failing.store(requests, Ordering::SeqCst);
    }

    /// Lifetime of tokens from now on, in seconds.
    pub fn lifetime(&self, seconds: u64) {
        self.shared.lifetime.store(seconds, Ordering::SeqCst);
    }

    /// Whether the refresh token before the current one gives the same answer again.
    pub fn grace(&self, grace: bool) {
        self.accounts().grace = grace;
    }

    /// Whether to give no refresh tokens.
    pub fn without_refresh(&self, without: bool) {
        self.accounts().without_refresh = without;
    }

    /// Whether to refuse everything.
    pub fn refuse(&self, refusing: bool) {
        self.accounts().refusing = refusing;
    }

    /// Opens the page, as a browser does, and consents; code and state.
    ///
    /// # Panics
    /// When the page does not send the browser back.
    pub async fn consent(&self, authorization_url: &str) -> (String, String) {
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let answer =
            http.build().expect("valid options").get(authorization_url).send().await.expect("answers");
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        let location = url::Url::parse(location.expect("sends the browser back")).expect("an address");
        let found: Params = location.query_pairs().into_owned().collect();
        (found["code"].clone(), found["state"].clone())
    }

    fn accounts(&self) -> std::sync::MutexGuard<'_, Accounts> {
        self.shared.state.lock().expect("nobody panics with it")
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn authorize(State(shared): State<Arc<Shared>>, Query(given): Query<Params>) -> Response {
    let (Some(redirect), Some(state), Some(challenge)) =
        (given.get("redirect_uri"), given.get("state"), given.get("code_challenge"))
    else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let code = Uuid::new_v4().simple().to_string();
    let grant = (challenge.clone(), redirect.clone());
    shared.state.lock().expect("nobody panics with it").codes.insert(code.clone(), grant);
    let mut url = url::Url::parse(redirect).expect("an address");
    url.query_pairs_mut().append_pair("code", &code).append_pair("state", state);
    shared.asked.lock().expect("nobody panics with it").push(given);
    (StatusCode::FOUND, [(header::LOCATION, url.to_string())]).into_response()
}

async fn token(State(shared): State<Arc<Shared>>, Form(given): Form<Params>) -> Response {
    shared.asked.lock().expect("nobody panics with it").push(given.clone());
    if take_one(&shared.failing) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let answer = answer(&shared, &given);
    tokio::time::sleep(Duration::from_millis(shared.delay.load(Ordering::SeqCst))).await;
    if take_one(&shared.losing) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    match answer {
        Ok(tokens) => Json(tokens).into_response(),
        Err(error) => {
            let body = json!({"error": error, "error_description": "the account says no"});
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

fn take_one(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn answer(shared: &Shared, given: &Params) -> Result<Value, &'static str> {
    let text = |name: &str| given.get(name).map(String::as_str).unwrap_or_default();
    let mut accounts = shared.state.lock().expect("nobody panics with it");
    if accounts.refusing || text("client_id").is_empty() || text("client_secret") == "wrong" {
        return Err("invalid_client");
    }
    match text("grant_type") {
        "client_credentials" => {
            shared.refreshes.fetch_add(1, Ordering::SeqCst);
            accounts.next += 1;
            Ok(json!({
                "access_token": format!("access-{}", accounts.next), "token_type": "Bearer",
                "expires_in": shared.lifetime.load(Ordering::SeqCst),
            }))
        }
        "authorization_code" => {
            let (challenge, redirect) = accounts.codes.remove(text("code")).ok_or("invalid_grant")?;
            let verifier =
                URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text("code_verifier").as_bytes()));
            if challenge != verifier || redirect != text("redirect_uri") {
                return Err("invalid_grant");
            }
            Ok(accounts.pair(shared))
        }
        "refresh_token" => {
            let presented = text("refresh_token").to_owned();
            if accounts.current.as_ref() == Some(&presented) {
                shared.refreshes.fetch_add(1, Ordering::SeqCst);
                let pair = accounts.pair(shared);
                accounts.before = Some((presented, pair.clone()));
                return Ok(pair);
            }
            match &accounts.before {
                Some((before, pair)) if accounts.grace && *before == presented => Ok(pair.clone()),
                _ => {
                    shared.punished.fetch_add(1, Ordering::SeqCst);
                    accounts.current = None;
                    Err("invalid_grant")
                }
            }
        }
        _ => Err("unsupported_grant_type"),
    }
}

impl Accounts {
    fn pair(&mut self, shared: &Shared) -> Value {
        self.next += 1;
        let refresh = format!("refresh-{}-{}", self.next, Uuid::new_v4().simple());
        let mut pair = json!({
            "access_token": format!("access-{}", self.next), "token_type": "bearer", "scope": "mail.read files.read",
            "expires_in": shared.lifetime.load(Ordering::SeqCst),
        });
        if !self.without_refresh {
            pair["refresh_token"] = json!(refresh);
            self.current = Some(refresh);
        }
        pair
    }
}
