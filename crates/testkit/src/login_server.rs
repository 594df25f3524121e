//! Login providers to sign in with: real servers on this machine that speak as Google, Microsoft, GitHub and any OpenID
//! Connect provider do, and lie when a test tells them to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use aws_lc_rs::{digest, hmac};
use axum::extract::{Form, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use domain::settings::Settings;
use serde_json::{Value, json};
use uuid::Uuid;

const CLIENT: &str = "bifrost-client";
const SECRET: &str = "the-secret-of-the-client";
/// The tenant of people at Microsoft.
pub const TENANT: &str = "6a1f0c52-7f0a-4f5e-9a3b-2d5e8c1b4f70";

/// The providers of one test. They stop when it is dropped.
#[derive(Debug)]
pub struct LoginServer {
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
}

/// Who sits in front of the browser, as the provider knows them.
#[derive(Debug, Clone, Default)]
pub struct Visitor {
    /// Claims over the usual ones, `null` to leave one out.
    pub claims: Value,
    /// What the user-info endpoint says.
    pub user_info: Value,
    /// What GitHub says of the user.
    pub github_user: Value,
    /// What GitHub says of the user's addresses.
    pub github_emails: Value,
}

/// How ID tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// As they should be.
    Right,
    /// With a key that the provider does not publish, under the name of one that it does.
    OtherKey,
    /// Not at all.
    Nothing,
    /// With the secret of the client.
    ClientSecret,
}

/// What the browser is sent back with.
#[derive(Debug, Clone)]
pub struct Back {
    /// Where to.
    pub redirect_uri: String,
    /// The code.
    pub code: String,
    /// The state.
    pub state: String,
}

#[derive(Debug)]
struct Shared {
    base: String,
    told: Mutex<Told>,
    grants: Mutex<HashMap<String, Grant>>,
    requests: AtomicUsize,
}

#[derive(Debug)]
struct Told {
    visitor: Visitor,
    signing: Signing,
    key_id: String,
    issuer: Option<String>,
}

#[derive(Debug, Clone)]
struct Grant {
    visitor: Visitor,
    redirect_uri: String,
    challenge: String,
    nonce: Option<String>,
}

type Server = State<Arc<Shared>>;
type Params = HashMap<String, String>;

impl Visitor {
    /// Somebody whose address every provider vouches for.
    #[must_use]
    pub fn new(subject: u64, email: &str) -> Self {
        Self {
            claims: json!({
                "sub": subject.to_string(), "email": email, "email_verified": true, "name": "Ada Lovelace",
                "tid": TENANT, "xms_edov": true,
            }),
            user_info: json!({}),
            github_user: json!({"id": subject, "login": "ada", "name": "Ada Lovelace"}),
            github_emails: json!([
                {"email": "other@elsewhere.example", "primary": false, "verified": true},
                {"email": email, "primary": true, "verified": true},
            ]),
        }
    }

    /// The same with another claim.
    #[must_use]
    pub fn claiming(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }
}

impl LoginServer {
    /// Starts them.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let shared = Arc::new(Shared {
            base,
            told: Mutex::new(Told {
                visitor: Visitor::new(1, "ada@acme.example"),
                signing: Signing::Right,
                key_id: "first".into(),
                issuer: None,
            }),
            grants: Mutex::default(),
            requests: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/{provider}/.well-known/openid-configuration", get(discovery))
            .route("/microsoft/{tenant}/v2.0/.well-known/openid-configuration", get(tenant_discovery))
            .route("/{provider}/jwks", get(jwks))
            .route("/{provider}/authorize", get(authorize))
            .route("/{provider}/token", post(token))
            .route("/{provider}/userinfo", get(user_info))
            .route("/{provider}/login/oauth/authorize", get(authorize))
            .route("/{provider}/login/oauth/access_token", post(token))
            .route("/github/api/user", get(github_user))
            .route("/github/api/user/emails", get(github_emails))
            .with_state(shared.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serves until it is dropped");
        });
        Self { shared, serving }
    }

    /// Settings that offer the sign-in with all four.
    pub fn configure(&self, settings: &mut Settings) {
        let base = &self.shared.base;
        let (id, secret) = (|| Some(CLIENT.to_owned()), || Some(SECRET.into()));
        settings.outbound_admit = base.trim_start_matches("http://").to_owned();
        (settings.google_client_id, settings.google_client_secret) = (id(), secret());
        (settings.microsoft_client_id, settings.microsoft_client_secret) = (id(), secret());
        (settings.github_client_id, settings.github_client_secret) = (id(), secret());
        (settings.oidc_client_id, settings.oidc_client_secret) = (id(), secret());
        settings.google_issuer = format!("{base}/google");
        settings.microsoft_url = format!("{base}/microsoft");
        settings.github_url = format!("{base}/github");
        settings.github_api_url = format!("{base}/github/api");
        settings.oidc_discovery_url = Some(format!("{base}/oidc/.well-known/openid-configuration"));
    }

    /// Seats somebody in front of the browser.
    pub fn seat(&self, visitor: Visitor) {
        self.told().visitor = visitor;
    }

    /// Tells how to sign from now on.
    pub fn sign(&self, signing: Signing) {
        self.told().signing = signing;
    }

    /// Replaces the signing key by another.
    pub fn rotate_keys(&self) {
        self.told().key_id = format!("key-{}", Uuid::new_v4().simple());
    }

    /// Tells which issuer to name in discovery documents.
    pub fn pretend_to_be(&self, issuer: Option<&str>) {
        self.told().issuer = issuer.map(ToOwned::to_owned);
    }

    /// The address of it all.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.shared.base
    }

    /// How many requests there were.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Opens the page of the provider, as a browser does, and signs in there.
    ///
    /// # Panics
    /// When the provider does not send the browser back.
    pub async fn visit(&self, authorization_url: &str) -> Back {
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.build().expect("the options are valid");
        let answer = http.get(authorization_url).send().await.expect("the provider answers");
        let status = answer.status();
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        let Some(location) = location.map(ToOwned::to_owned) else {
            panic!("{authorization_url}: {status} {}", answer.text().await.unwrap_or_default())
        };
        let mut url = url::Url::parse(&location).expect("an address");
        let found: Params = url.query_pairs().into_owned().collect();
        url.set_query(None);
        Back { redirect_uri: url.into(), code: found["code"].clone(), state: found["state"].clone() }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.shared.told.lock().expect("nobody panics with it")
    }
}

impl Drop for LoginServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Keys are dear to make: all tests of a process share them.
fn key(id: &str) -> &'static RsaKeyPair {
    static KEYS: OnceLock<[RsaKeyPair; 3]> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        std::array::from_fn(|_| RsaKeyPair::generate(KeySize::Rsa2048).expect("keys can be made"))
    });
    match id {
        "first" => &keys[0],
        "other" => &keys[1],
        _ => &keys[2],
    }
}

async fn discovery(State(shared): Server, Path(provider): Path<String>) -> Json<Value> {
    let issuer = format!("{}/{provider}", shared.base);
    Json(document(&shared, &provider, issuer))
}

async fn tenant_discovery(State(shared): Server, Path(tenant): Path<String>) -> Json<Value> {
    let tenant = if matches!(tenant.as_str(), "common" | "organizations") { "{tenantid}" } else { &tenant };
    let issuer = format!("{}/microsoft/{tenant}/v2.0", shared.base);
    Json(document(&shared, "microsoft", issuer))
}

fn document(shared: &Shared, provider: &str, issuer: String) -> Value {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let base = format!("{}/{provider}", shared.base);
    let pretended = shared.told.lock().expect("nobody panics with it").issuer.clone();
    json!({
        "issuer": pretended.unwrap_or(issuer),
        "authorization_endpoint": format!("{base}/authorize"),
        "token_endpoint": format!("{base}/token"),
        "userinfo_endpoint": format!("{base}/userinfo"),
        "jwks_uri": format!("{base}/jwks"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported":
            if provider == "microsoft" { json!(["client_secret_post"]) } else { json!(["client_secret_basic"]) },
        "code_challenge_methods_supported": ["S256"],
    })
}

async fn jwks(State(shared): Server) -> Json<Value> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let id = shared.told.lock().expect("nobody panics with it").key_id.clone();
    // RSAPublicKey of 2,048 bits: nine bytes of structure, then the modulus; the exponent is 65537.
    let modulus = URL_SAFE_NO_PAD.encode(&key(&id).public_key().as_ref()[9..265]);
    Json(json!({"keys": [
        {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": id, "n": modulus, "e": "AQAB"},
    ]}))
}

async fn authorize(State(shared): Server, Query(given): Query<Params>) -> Response {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let is = |name: &str, value: &str| given.get(name).is_some_and(|given| given == value);
    let sane = is("client_id", CLIENT) && is("response_type", "code") && is("code_challenge_method", "S256");
    let (Some(redirect_uri), Some(challenge), Some(state), true) =
        (given.get("redirect_uri"), given.get("code_challenge"), given.get("state"), sane)
    else {
        return (StatusCode::BAD_REQUEST, format!("{given:?}")).into_response();
    };
    let code = Uuid::new_v4().simple().to_string();
    let grant = Grant {
        visitor: shared.told.lock().expect("nobody panics with it").visitor.clone(),
        redirect_uri: redirect_uri.clone(),
        challenge: challenge.clone(),
        nonce: given.get("nonce").cloned(),
    };
    shared.grants.lock().expect("nobody panics with it").insert(code.clone(), grant);
    let mut url = url::Url::parse(redirect_uri).expect("an address");
    url.query_pairs_mut().append_pair("code", &code).append_pair("state", state);
    (StatusCode::FOUND, [(header::LOCATION, url.to_string())]).into_response()
}

async fn token(
    State(shared): Server,
    Path(provider): Path<String>,
    headers: HeaderMap,
    Form(given): Form<Params>,
) -> Response {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let refusal = if provider == "github" { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let refuse = |error: &str| (refusal, Json(json!({"error": error}))).into_response();
    if !knows_secret(&headers, &given) {
        return refuse("invalid_client");
    }
    let code = given.get("code").map(String::as_str).unwrap_or_default();
    // A code is good once, whatever becomes of it.
    let Some(grant) = shared.grants.lock().expect("nobody panics with it").remove(code) else {
        return refuse("invalid_grant");
    };
    let verifier = given.get("code_verifier").map(String::as_str).unwrap_or_default();
    let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
    if challenge != grant.challenge || given.get("redirect_uri") != Some(&grant.redirect_uri) {
        return refuse("invalid_grant");
    }
    let access_token = Uuid::new_v4().simple().to_string();
    let mut answer = json!({"access_token": access_token, "token_type": "bearer", "expires_in": 3600});
    if provider != "github" {
        answer["id_token"] = json!(id_token(&shared, &provider, &grant));
    }
    shared.grants.lock().expect("nobody panics with it").insert(access_token, grant);
    Json(answer).into_response()
}

fn knows_secret(headers: &HeaderMap, given: &Params) -> bool {
    let basic = format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{SECRET}")));
    let by_header = headers.get(header::AUTHORIZATION).is_some_and(|header| header == basic.as_str());
    let by_body = given.get("client_id").is_some_and(|id| id == CLIENT)
        && given.get("client_secret").is_some_and(|secret| secret == SECRET);
    by_header || by_body
}

fn id_token(shared: &Shared, provider: &str, grant: &Grant) -> String {
    let told = shared.told.lock().expect("nobody panics with it");
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let mut claims = json!({
        "iss": format!("{}/{provider}", shared.base), "aud": CLIENT, "iat": now, "exp": now + 300,
        "nonce": grant.nonce,
    });
    for (name, value) in grant.visitor.claims.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    if provider == "microsoft" && grant.visitor.claims["iss"].is_null() {
        let tenant = claims["tid"].as_str().unwrap_or_default();
        claims["iss"] = json!(format!("{}/microsoft/{tenant}/v2.0", shared.base));
    }
    claims.as_object_mut().expect("claims").retain(|_, value| !value.is_null());
    let algorithm = match told.signing {
        Signing::Nothing => "none",
        Signing::ClientSecret => "HS256",
        _ => "RS256",
    };
    let header = json!({"alg": algorithm, "typ": "JWT", "kid": told.key_id});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = match told.signing {
        Signing::Nothing => Vec::new(),
        Signing::ClientSecret => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
            hmac::sign(&key, signed.as_bytes()).as_ref().to_vec()
        }
        Signing::Right => signature(&told.key_id, &signed),
        Signing::OtherKey => signature("other", &signed),
    };
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn signature(key_id: &str, signed: &str) -> Vec<u8> {
    let key = key(key_id);
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .expect("the key signs");
    signature
}

/// Who an access token is of.
fn holder(shared: &Shared, headers: &HeaderMap) -> Result<Visitor, StatusCode> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|header| header.strip_prefix("Bearer ")).ok_or(StatusCode::UNAUTHORIZED)?;
    let grants = shared.grants.lock().expect("nobody panics with it");
    grants.get(token).map(|grant| grant.visitor.clone()).ok_or(StatusCode::UNAUTHORIZED)
}

async fn user_info(State(shared): Server, headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    Ok(Json(holder(&shared, &headers)?.user_info))
}

async fn github_user(State(shared): Server, headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    Ok(Json(holder(&shared, &headers)?.github_user))
}

async fn github_emails(State(shared): Server, headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    Ok(Json(holder(&shared, &headers)?.github_emails))
}
