//! Providers that fail for a while, and say so in the words of a refusal.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use domain::connections;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::World;

/// A token endpoint that gives the answer it is told to give: status, media type and body.
#[derive(Clone)]
pub(super) struct Provider {
    answer: Arc<Mutex<(StatusCode, &'static str, String)>>,
    pub(super) address: String,
}

impl Provider {
    /// One that gives tokens.
    async fn serve() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let provider = Self { answer: Arc::default(), address };
        provider.gives(&json!({"access_token": "access", "token_type": "Bearer", "expires_in": 3600}));
        let app = axum::Router::new().fallback(answer).with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        provider
    }

    fn fails(&self, status: StatusCode, error: &str) {
        let body = json!({"error": error, "error_description": "not now"});
        self.answers(status, "application/json", body.to_string());
    }

    pub(super) fn gives(&self, tokens: &Value) {
        self.answers(StatusCode::OK, "application/json", tokens.to_string());
    }

    pub(super) fn answers(&self, status: StatusCode, kind: &'static str, body: String) {
        *self.answer.lock().expect("no test panics while it holds this") = (status, kind, body);
    }
}

async fn answer(State(provider): State<Provider>) -> impl IntoResponse {
    let (status, kind, body) = provider.answer.lock().expect("no test panics while it holds this").clone();
    (status, [(header::CONTENT_TYPE, kind)], body)
}

/// A provider, and a world that may call it.
pub(super) async fn with_provider() -> (Provider, World) {
    let provider = Provider::serve().await;
    let admitted = provider.address.clone();
    let world = World::with(|settings| settings.outbound_admit = admitted).await;
    (provider, world)
}

/// Makes the connection `service`, which has its token at once.
pub(super) async fn connect_service(provider: &Provider, world: &World) {
    let body = json!({
        "connection_name": "service", "oauth_flow_type": "client_credentials", "client_id": "client",
        "client_secret": "client-secret-text", "token_url": format!("http://{}/token", provider.address),
    });
    let made = world.admin.client.post("/api/oauth/connections", &body).await;
    assert_eq!(made.expect_status(StatusCode::CREATED).json()["status"], "completed");
}

#[tokio::test]
async fn a_provider_that_fails_or_is_busy_has_refused_nothing() {
    let (provider, world) = with_provider().await;
    connect_service(&provider, &world).await;
    let admin = &world.admin.client;
    let refresh = async || {
        let reply = admin.post("/api/oauth/connections/service/refresh", &Value::Null).await;
        let reply = reply.expect_status(StatusCode::OK).json();
        assert_eq!(reply["success"], false);
        reply["message"].as_str().expect("says why").to_owned()
    };
    let refusals = "SELECT refusals::bigint FROM oauth_connections";
    let due = async || {
        world.sql("UPDATE oauth_connections SET expires_at = now() + interval '20 minutes'").await;
        world.sql("DELETE FROM job_runs").await;
        let platform = world.platform();
        let report = connections::refresh_due(&platform.db, &platform.refresher).await.expect("runs");
        report.expect("nobody else ran").needed
    };

    let passing = [
        (StatusCode::TOO_MANY_REQUESTS, "invalid_request"),
        (StatusCode::SERVICE_UNAVAILABLE, "invalid_client"),
        (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
        (StatusCode::BAD_REQUEST, "server_error"),
        (StatusCode::BAD_REQUEST, "temporarily_unavailable"),
        (StatusCode::OK, "temporarily_unavailable"),
    ];
    for (status, error) in passing {
        provider.fails(status, error);
        let message = refresh().await;
        assert!(message.contains(error) && message.contains("not now"), "{status}: {message}");
        assert_eq!(world.count(refusals).await, 0, "{status} {error}");
    }
    assert_eq!(due().await, 1, "the periodic refresh goes on");

    for times in 1..=3 {
        provider.fails(StatusCode::BAD_REQUEST, "invalid_client");
        refresh().await;
        assert_eq!(world.count(refusals).await, times);
    }
    assert_eq!(due().await, 0, "it keeps off after three refusals");
    println!("answers of a provider that fails for a while: {}, taken for refusals 0", passing.len());
    world.close().await;
}
