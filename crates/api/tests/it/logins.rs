//! Signing in with providers: both ways, with each of them, against real ones on this machine; what links to which
//! account; and every attack known of.

mod attacks;

use std::collections::HashMap;

use domain::settings::Settings;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, LoginServer, MailServer, Reply, Visitor};

use crate::support::{AT_ONCE, PASSWORD, Replica, World, cookie};

const PROVIDERS: [&str; 4] = ["google", "microsoft", "github", "oidc"];
const PAGE: &str = "https://app.example/auth/callback";

/// A browser: it keeps cookies, and shows where it is sent instead of going there.
struct Browser {
    http: reqwest::Client,
    base: String,
    cookies: HashMap<String, String>,
}

impl Browser {
    fn new(client: &Client) -> Self {
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.build().expect("the options are valid");
        Self { http, base: client.base().to_owned(), cookies: HashMap::new() }
    }

    async fn send(&mut self, method: Method, path: &str, body: Option<Value>) -> Reply {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        let jar: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !jar.is_empty() {
            request = request.header("cookie", jar.join("; "));
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("the api answers");
        let (status, headers) = (answer.status(), answer.headers().clone());
        let reply = Reply { status, headers, body: answer.text().await.expect("the answer is whole") };
        for name in ["oauth_flow", "access_token", "refresh_token", "csrf_token"] {
            if let Some((value, _)) = cookie(&reply, name) {
                self.cookies.insert(name.into(), value.into());
            }
        }
        reply
    }

    async fn get(&mut self, path: &str) -> Reply {
        self.send(Method::GET, path, None).await
    }

    /// Begins a sign-in from a page; the address at the provider.
    async fn begin(&mut self, provider: &str) -> String {
        let path = format!("/auth/oauth/init/{provider}?redirect_uri={PAGE}");
        self.get(&path).await.expect_status(StatusCode::OK).text("authorization_url")
    }

    async fn end(&mut self, provider: &str, code: &str, state: &str) -> Reply {
        let body = json!({"provider": provider, "code": code, "state": state});
        self.send(Method::POST, "/auth/oauth/callback", Some(body)).await
    }

    /// A whole sign-in from a page.
    async fn sign_in(&mut self, server: &LoginServer, provider: &str) -> Reply {
        let back = server.visit(&self.begin(provider).await).await;
        self.end(provider, &back.code, &back.state).await
    }

    /// A whole sign-in by redirects; the answer to the last.
    async fn follow(&mut self, server: &LoginServer, provider: &str, next: &str) -> Reply {
        let sent = self.get(&format!("/auth/{provider}/authorize?next={next}")).await;
        let sent = sent.expect_status(StatusCode::FOUND);
        let back = server.visit(sent.header("location").expect("an address")).await;
        assert_eq!(back.redirect_uri, format!("https://bifrost.example/auth/{provider}/callback"));
        self.get(&format!("/auth/{provider}/callback?code={}&state={}", back.code, back.state)).await
    }
}

fn configure(server: &LoginServer, settings: &mut Settings) {
    server.configure(settings);
    settings.public_url = "https://bifrost.example".into();
    settings.cors_origins = "https://app.example,https://other.example:8443".into();
}

/// An installation with the organization `acme` that offers all four.
async fn stage() -> (World, LoginServer) {
    let server = LoginServer::start().await;
    let world = World::with(|settings| configure(&server, settings)).await;
    world.org("acme").await;
    (world, server)
}

fn location(reply: &Reply) -> &str {
    reply.header("location").expect("an address")
}

async fn me(world: &World, reply: &Reply) -> Value {
    let client = world.nobody().with_bearer(reply.text("access_token"));
    client.get("/auth/me").await.expect_status(StatusCode::OK).json()
}

#[tokio::test]
async fn people_sign_in_with_every_provider_from_a_page_and_by_redirects() {
    let (world, server) = stage().await;
    let status = world.nobody().get("/auth/status").await.json();
    let offered = world.nobody().get("/auth/oauth/providers").await.json();
    assert_eq!(status["oauth_providers"], offered["providers"]);
    for (provider, found) in PROVIDERS.iter().zip(offered["providers"].as_array().expect("a list")) {
        assert_eq!(found["name"], *provider);
    }
    for (subject, provider) in (10..).zip(PROVIDERS) {
        let email = format!("{provider}@acme.example");
        server.seat(Visitor::new(subject, &email));
        let mut browser = Browser::new(world.nobody());
        let signed = browser.sign_in(&server, provider).await.expect_status(StatusCode::OK);
        assert_eq!(signed.header("cache-control"), Some("no-store"));
        let account = me(&world, &signed).await;
        assert_eq!((&account["email"], &account["is_verified"]), (&json!(email), &json!(true)));
        assert_eq!(account["name"], "Ada Lovelace");

        // The same person by redirects, in another browser, with another address by now: issuer and subject tell.
        server.seat(Visitor::new(subject, "renamed@acme.example"));
        let mut browser = Browser::new(world.nobody());
        let ended = browser.follow(&server, provider, "/forms?tab=1").await.expect_status(StatusCode::FOUND);
        assert_eq!(location(&ended), "/forms?tab=1");
        let again = browser.get("/auth/me").await.expect_status(StatusCode::OK).json();
        assert_eq!((&again["id"], &again["email"]), (&account["id"], &json!(email)));
        let linked = browser.get("/auth/oauth/accounts").await.expect_status(StatusCode::OK).json();
        let linked = linked["accounts"].as_array().expect("a list").clone();
        assert_eq!((linked.len(), &linked[0]["provider"]), (1, &json!(provider)));
        assert_eq!(linked[0]["provider_email"], "renamed@acme.example");
        assert!(linked[0]["last_used_at"].is_string());
    }
    world.close().await;
}

#[tokio::test]
async fn a_verified_address_leads_to_the_account_that_has_it() {
    let (world, server) = stage().await;
    // The first account is verified: it keeps its password beside the login.
    server.seat(Visitor::new(1, "Admin@Platform.example"));
    let mut browser = Browser::new(world.nobody());
    let signed = browser.sign_in(&server, "google").await.expect_status(StatusCode::OK);
    assert_eq!(me(&world, &signed).await["id"], world.admin.id.to_string());
    world.nobody().sign_in(&world.admin.email, PASSWORD).await;

    // Somebody invited is let in by it.
    let body = json!({"email": "grace@elsewhere.example", "organization_id": null, "user_type": "PLATFORM"});
    let invited = world.admin.client.post("/api/users", &body).await;
    let invited = invited.expect_status(StatusCode::CREATED).text("id");
    server.seat(Visitor::new(2, "grace@elsewhere.example"));
    let signed = Browser::new(world.nobody()).sign_in(&server, "github").await.expect_status(StatusCode::OK);
    assert_eq!(me(&world, &signed).await["id"], invited.as_str());

    // A domain of no organization lets nobody in.
    server.seat(Visitor::new(3, "eve@nowhere.example"));
    let refused = Browser::new(world.nobody()).sign_in(&server, "oidc").await;
    let refused = refused.expect_status(StatusCode::FORBIDDEN);
    assert!(refused.detail().contains("nowhere.example"), "{}", refused.detail());

    let actions = "SELECT count(*) FROM audit_log WHERE action IN ('login.linked', 'login.refused')";
    assert_eq!(world.count(actions).await, 3);
    world.close().await;
}

#[tokio::test]
async fn whoever_registered_with_an_address_of_somebody_else_is_put_out_by_its_owner() {
    let (world, server) = stage().await;
    // Nobody asked for a proof of the address when it was registered.
    let squatter = world.person("ada@acme.example").await;
    let body = json!({"code": "no code"});
    squatter.client.post("/auth/mfa/totp/setup", &body).await.expect_status(StatusCode::OK);
    let made = squatter.client.post("/api/sdk/keys", &json!({"name": "laptop"})).await;
    let key = world.nobody().with_bearer(made.expect_status(StatusCode::CREATED).text("key"));
    key.get("/api/sdk/context").await.expect_status(StatusCode::OK);

    server.seat(Visitor::new(1, "ada@acme.example"));
    let signed = Browser::new(world.nobody()).sign_in(&server, "google").await.expect_status(StatusCode::OK);
    assert_eq!(me(&world, &signed).await["id"], squatter.id.to_string());

    let form = [("username", "ada@acme.example"), ("password", PASSWORD)];
    let nobody = world.nobody();
    let by_password = nobody.send(nobody.request(Method::POST, "/auth/login").form(&form)).await;
    by_password.expect_status(StatusCode::UNAUTHORIZED);
    key.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);
    let began = std::time::Instant::now();
    testkit::eventually("the end of the squatter's session", || async {
        let reply = squatter.client.get("/auth/me").await;
        (reply.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    assert!(began.elapsed() < AT_ONCE);
    assert_eq!(world.count("SELECT count(*) FROM mfa_methods").await, 0);
    world.close().await;
}

#[tokio::test]
async fn who_had_an_account_before_its_address_was_proven_has_no_way_back() {
    let (server, mut mails) = (LoginServer::start().await, MailServer::start().await);
    let url = mails.url().to_owned();
    let world = World::with(|settings| {
        configure(&server, settings);
        settings.smtp_url = Some(url.into());
    })
    .await;
    world.org("acme").await;
    let sign_in = async |subject: u64, email: &str, provider: &str| {
        server.seat(Visitor::new(subject, email));
        let signed = Browser::new(world.nobody()).sign_in(&server, provider).await;
        signed.expect_status(StatusCode::OK)
    };
    let mut returned = 0;
    for (subject, is_by_mail) in [(10, true), (20, false)] {
        let signed = sign_in(subject, &format!("eve{subject}@acme.example"), "github").await;
        let account = me(&world, &signed).await["id"].clone();
        let eve = world.nobody().with_bearer(signed.text("access_token"));
        let made = eve.post("/api/sdk/keys", &json!({"name": "laptop"})).await;
        let key = world.nobody().with_bearer(made.expect_status(StatusCode::CREATED).text("key"));
        key.get("/api/sdk/context").await.expect_status(StatusCode::OK);
        // She has a second factor, and whoever manages the users of her organization claims an address for her account.
        world
            .sql(
                "WITH eve AS (SELECT id FROM users WHERE email LIKE 'eve%'),
                 methods AS (INSERT INTO mfa_methods (user_id, sealed, activated_at) SELECT id, '\\x01'::bytea, now() FROM eve),
                 codes AS (INSERT INTO recovery_codes (user_id, code_hash) SELECT id, '\\x01'::bytea FROM eve),
                 devices AS (
                     INSERT INTO trusted_devices (id, user_id, token_hash, user_agent, expires_at)
                     SELECT gen_random_uuid(), id, uuid_send(id), 'a browser', now() + interval '1 day' FROM eve)
                 UPDATE users
                 SET email = replace(email, 'eve', 'owner'), is_verified = FALSE, mfa_enabled = TRUE
                 WHERE email LIKE 'eve%'",
            )
            .await;

        let owner = format!("owner{subject}@acme.example");
        if is_by_mail {
            let asked = world.nobody().post("/auth/forgot-password", &json!({"email": owner})).await;
            asked.expect_status(StatusCode::ACCEPTED);
            let reset = json!({"token": mails.next().await.token(), "password": PASSWORD});
            world.nobody().post("/auth/reset-password", &reset).await.expect_status(StatusCode::OK);
            // Nobody asks the owner for a code of somebody else's app.
            let owner = world.nobody().sign_in(&owner, PASSWORD).await;
            assert_eq!(owner.get("/auth/me").await.expect_status(StatusCode::OK).json()["id"], account);
        } else {
            let signed = sign_in(subject + 1, &owner, "google").await;
            assert_eq!(me(&world, &signed).await["id"], account);
        }

        // The same person there, with another address by now.
        let signed = sign_in(subject, &format!("back{subject}@acme.example"), "github").await;
        returned += usize::from(me(&world, &signed).await["id"] == account);
        key.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);
        for kept in [
            "SELECT count(*) FROM mfa_methods",
            "SELECT count(*) FROM recovery_codes",
            "SELECT count(*) FROM trusted_devices",
            "SELECT count(*) FROM users WHERE mfa_enabled",
        ] {
            assert_eq!(world.count(kept).await, 0, "{kept}");
        }
    }
    println!("accounts whose address was proven by another: 2, entered by their former holder {returned}");
    assert_eq!(returned, 0);
    world.close().await;
}

#[tokio::test]
async fn a_login_is_unlinked_unless_it_is_the_last_way_in() {
    let (world, server) = stage().await;
    server.seat(Visitor::new(1, "ada@acme.example"));
    let signed = Browser::new(world.nobody()).sign_in(&server, "google").await.expect_status(StatusCode::OK);
    let ada = world.nobody().with_bearer(signed.text("access_token"));
    ada.delete("/auth/oauth/accounts/github").await.expect_status(StatusCode::NOT_FOUND);
    let last = ada.delete("/auth/oauth/accounts/google").await.expect_status(StatusCode::BAD_REQUEST);
    assert!(last.detail().contains("last way"), "{}", last.detail());

    Browser::new(world.nobody()).sign_in(&server, "github").await.expect_status(StatusCode::OK);
    // Of two at once one stays.
    let (google, github) =
        tokio::join!(ada.delete("/auth/oauth/accounts/google"), ada.delete("/auth/oauth/accounts/github"),);
    let mut statuses = [google.status.as_u16(), github.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
    assert_eq!(world.count("SELECT count(*) FROM provider_logins").await, 1);
    // What was unlinked links again by its address.
    let again = Browser::new(world.nobody()).sign_in(&server, "google").await.expect_status(StatusCode::OK);
    assert_eq!(me(&world, &again).await["email"], "ada@acme.example");
    world.close().await;
}

#[tokio::test]
async fn a_second_factor_is_asked_for_only_where_the_operator_says_so() {
    let server = LoginServer::start().await;
    let strict = |settings: &mut Settings| {
        configure(&server, settings);
        settings.oauth_require_mfa = true;
        settings.mfa_policy = "required".into();
    };
    let world = World::with(|settings| configure(&server, settings)).await;
    let mut settings = (*world.platform().settings).clone();
    strict(&mut settings);
    let demanding = Replica::start(settings).await;
    server.seat(Visitor::new(1, &world.admin.email));

    Browser::new(world.nobody()).sign_in(&server, "google").await.expect_status(StatusCode::OK);

    let asked = Browser::new(&demanding.nobody).sign_in(&server, "google").await;
    let asked = asked.expect_status(StatusCode::ACCEPTED).json();
    assert_eq!((&asked["mfa_setup_required"], &asked["access_token"]), (&json!(true), &Value::Null));
    let between = demanding.nobody.with_bearer(asked["mfa_token"].as_str().expect("text"));
    between.post("/auth/mfa/setup", &Value::Null).await.expect_status(StatusCode::OK);
    let mut browser = Browser::new(&demanding.nobody);
    let ended = browser.follow(&server, "google", "/").await.expect_status(StatusCode::FOUND);
    assert!(location(&ended).starts_with("/login#mfa_token=ey"), "{}", location(&ended));
    assert!(!browser.cookies.contains_key("access_token"));
    drop(demanding);
    world.close().await;
}

#[tokio::test]
async fn a_sign_in_begun_at_one_replica_ends_once_at_another() {
    let server = LoginServer::start().await;
    let world = World::with_redis().await;
    let mut settings = (*world.platform().settings).clone();
    configure(&server, &mut settings);
    let (one, other) = (Replica::start(settings.clone()).await, Replica::start(settings).await);
    server.seat(Visitor::new(1, &world.admin.email));

    let mut browser = Browser::new(&one.nobody);
    let back = server.visit(&browser.begin("oidc").await).await;
    browser.base = other.nobody.base().to_owned();
    let ended = browser.end("oidc", &back.code, &back.state).await;
    ended.expect_status(StatusCode::OK);

    // Of ten who bring the same state one is heard.
    let back = server.visit(&browser.begin("oidc").await).await;
    let racers = (0..10).map(|_| {
        let mut racer = Browser::new(&one.nobody);
        racer.cookies = browser.cookies.clone();
        let back = back.clone();
        async move { racer.end("oidc", &back.code, &back.state).await.status }
    });
    let won = futures::future::join_all(racers).await.into_iter().filter(|s| s.is_success()).count();
    println!("one state: 10 racers, sessions {won}");
    assert_eq!(won, 1);
    drop((one, other));
    world.close().await;
}

#[tokio::test]
async fn the_documents_of_a_provider_are_remembered_and_new_keys_fetched() {
    let (world, server) = stage().await;
    server.seat(Visitor::new(1, &world.admin.email));
    let mut browser = Browser::new(world.nobody());
    browser.sign_in(&server, "google").await.expect_status(StatusCode::OK);
    let before = server.requests();
    browser.sign_in(&server, "google").await.expect_status(StatusCode::OK);
    assert_eq!(server.requests() - before, 2, "the page and the token");
    server.rotate_keys();
    browser.sign_in(&server, "google").await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn an_address_that_only_the_user_info_holds_is_asked_for() {
    let (world, server) = stage().await;
    let mut visitor = Visitor::new(7, "ada@acme.example")
        .claiming("email", Value::Null)
        .claiming("email_verified", Value::Null);
    visitor.user_info = json!({"sub": "7", "email": "ada@acme.example", "email_verified": true});
    server.seat(visitor);
    let signed = Browser::new(world.nobody()).sign_in(&server, "oidc").await.expect_status(StatusCode::OK);
    assert_eq!(me(&world, &signed).await["email"], "ada@acme.example");
    world.close().await;
}

#[tokio::test]
async fn a_provider_that_is_away_is_named_as_such() {
    let server = LoginServer::start().await;
    let world = World::with(|settings| configure(&server, settings)).await;
    let mut browser = Browser::new(world.nobody());
    browser.begin("google").await;
    drop(server);
    let path = format!("/auth/oauth/init/oidc?redirect_uri={PAGE}");
    let away = browser.get(&path).await.expect_status(StatusCode::SERVICE_UNAVAILABLE);
    assert!(away.detail().contains("login provider") && away.header("retry-after").is_some());
    world.close().await;
}
