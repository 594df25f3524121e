//! A GitHub of one's own: a real server on this machine that answers the REST interface for one token, and serves repositories
//! of a folder as git expects them over HTTP.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::settings::Settings;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The server. It stops when it is dropped.
#[derive(Debug)]
pub struct GithubServer {
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    base: String,
    token: String,
    root: PathBuf,
    made: Mutex<Vec<Value>>,
    /// Where every request to git is sent on to.
    moved_to: Mutex<Option<String>>,
}

type Server = State<Arc<Shared>>;

impl GithubServer {
    /// Starts it for one token, over the repositories of a folder.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(token: &str, root: &std::path::Path) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let shared = Arc::new(Shared {
            base,
            token: token.to_owned(),
            root: root.to_owned(),
            made: Mutex::default(),
            moved_to: Mutex::default(),
        });
        let router = Router::new()
            .route("/api/user/repos", get(list).post(create))
            .route("/api/orgs/{organization}/repos", post(create))
            .route("/api/repos/{owner}/{name}/branches", get(branches))
            .route("/{owner}/{name}/{*rest}", any(serve_git))
            .with_state(shared.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serves until it is dropped");
        });
        Self { shared, serving }
    }

    /// Settings that take it for GitHub.
    pub fn configure(&self, settings: &mut Settings) {
        settings.outbound_admit = self.shared.base.trim_start_matches("http://").to_owned();
        settings.github_url.clone_from(&self.shared.base);
        settings.github_api_url = format!("{}/api", self.shared.base);
    }

    /// What it was asked to make.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn made(&self) -> Vec<Value> {
        self.shared.made.lock().expect("no panic").clone()
    }

    /// Sends whoever asks for a repository on to another address.
    ///
    /// # Panics
    /// Never.
    pub fn move_to(&self, address: Option<String>) {
        *self.shared.moved_to.lock().expect("no panic") = address;
    }
}

impl Drop for GithubServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn check(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let is_known = given == Some(format!("Bearer {}", self.token).as_str());
        if is_known { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
    }

    fn repository(&self, owner: &str, name: &str) -> Value {
        json!({
            "id": 1, "name": name, "full_name": format!("{owner}/{name}"), "description": null, "private": true,
            "html_url": format!("{}/{owner}/{name}", self.base),
            "clone_url": format!("{}/{owner}/{name}.git", self.base),
        })
    }
}

async fn list(
    State(shared): Server,
    headers: HeaderMap,
    Query(query): Query<std::collections::HashMap<String, String>>,
) -> Result<Json<Value>, StatusCode> {
    shared.check(&headers)?;
    // More than a page of them.
    let page: usize = query.get("page").and_then(|page| page.parse().ok()).unwrap_or(1);
    let size: usize = query.get("per_page").and_then(|size| size.parse().ok()).unwrap_or(30);
    let names = (0..60).map(|n| if n == 0 { "flows".to_owned() } else { format!("other-{n}") });
    let shown: Vec<Value> =
        names.skip((page - 1) * size).take(size).map(|name| shared.repository("acme", &name)).collect();
    Ok(Json(json!(shown)))
}

async fn create(
    State(shared): Server,
    headers: HeaderMap,
    organization: Option<Path<String>>,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Value>), StatusCode> {
    shared.check(&headers)?;
    let name = body["name"].as_str().unwrap_or_default().to_owned();
    if name == "taken" {
        return Err(StatusCode::UNPROCESSABLE_ENTITY);
    }
    let owner = organization.map_or_else(|| "ada".to_owned(), |Path(organization)| organization);
    shared.made.lock().expect("no panic").push(body);
    Ok((StatusCode::CREATED, Json(shared.repository(&owner, &name))))
}

async fn branches(
    State(shared): Server,
    headers: HeaderMap,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Json<Value>, StatusCode> {
    shared.check(&headers)?;
    if (owner.as_str(), name.as_str()) != ("acme", "flows") {
        return Err(StatusCode::NOT_FOUND);
    }
    Ok(Json(json!([
        {"name": "main", "protected": true, "commit": {"sha": "1c002dd4b536e7479fe34593e72e6c6c1819e53b"}},
        {"name": "next", "protected": false, "commit": {"sha": "2c002dd4b536e7479fe34593e72e6c6c1819e53b"}},
    ])))
}

/// Git's own program for servers, as a web server runs it.
async fn serve_git(State(shared): Server, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if let Some(address) = shared.moved_to.lock().expect("no panic").clone() {
        let to = format!("{address}{}", parts.uri);
        return (StatusCode::FOUND, [(header::LOCATION, to)]).into_response();
    }
    let expected = format!("Basic {}", STANDARD.encode(format!("x-access-token:{}", shared.token)));
    let text = |name: &str| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    if text("authorization") != expected {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"git\"")])
            .into_response();
    }
    let body: Bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &shared.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("REQUEST_METHOD", if parts.method == Method::POST { "POST" } else { "GET" })
        .env("CONTENT_TYPE", text("content-type"))
        .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", text("git-protocol"))
        .env("REMOTE_USER", "ada")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git is installed");
    let mut input = child.stdin.take().expect("is piped");
    let write = async move {
        let _ = input.write_all(&body).await;
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output.expect("ends").stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(output.len());
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        match line.split_once(": ") {
            Some(("Status", status)) => {
                let code = status.split(' ').next().and_then(|code| code.parse::<u16>().ok()).unwrap_or(500);
                response = response.status(code);
            }
            Some((name, value)) => response = response.header(name, value),
            None => {}
        }
    }
    response
        .body(Body::from(output.get(end + 4..).unwrap_or_default().to_vec()))
        .expect("headers of git are valid")
}
