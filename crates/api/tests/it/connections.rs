//! OAuth connections over HTTP, against a provider on this machine.

use std::time::Duration;

use domain::connections::{self, Refreshed};
use domain::id::OrgId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Reply, TokenServer, eventually};

use crate::support::{PASSWORD, Person, Replica, World};

mod answers;
mod changing;
mod failing;

const PAGE: &str = "https://app.example/oauth/callback";

struct Stage {
    world: World,
    server: TokenServer,
    address: String,
    acme: OrgId,
    /// The administrator, in the organization.
    admin: Client,
}

impl Stage {
    async fn set() -> Self {
        Self::admitting("").await
    }

    /// Where another address may be called, too.
    async fn admitting(another: &str) -> Self {
        let (server, address) = TokenServer::start().await;
        let admitted = format!("{address},{another}");
        let world = World::with(|settings| settings.outbound_admit = admitted).await;
        let acme = world.org("acme").await;
        let admin = world.admin.client.in_organization(acme);
        Self { admin, world, server, address, acme }
    }

    fn body(&self, name: &str, flow: &str) -> Value {
        json!({
            "connection_name": name, "oauth_flow_type": flow, "client_id": "client", "client_secret": "client-secret-text",
            "authorization_url": format!("http://{}/authorize?tenant=7", self.address),
            "token_url": format!("http://{}/token", self.address), "scopes": "mail.read,files.read",
        })
    }

    async fn create(&self, name: &str, flow: &str) -> Value {
        let created = self.admin.post("/api/oauth/connections", &self.body(name, flow)).await;
        created.expect_status(StatusCode::CREATED).json()
    }

    async fn begin(&self, name: &str) -> Reply {
        let path = format!("/api/oauth/connections/{name}/authorize?redirect_uri={PAGE}");
        self.admin.post(&path, &Value::Null).await.expect_status(StatusCode::OK)
    }

    async fn complete(&self, client: &Client, name: &str, code: &str, state: Option<&str>) -> Reply {
        let body = json!({"code": code, "state": state, "redirect_uri": null});
        client.post(&format!("/api/oauth/callback/{name}"), &body).await
    }

    /// A connection with a token by consent.
    async fn connect(&self, name: &str) {
        self.create(name, "authorization_code").await;
        let begun = self.begin(name).await;
        let (code, state) = self.server.consent(&begun.text("authorization_url")).await;
        let ended = self.complete(&self.admin, name, &code, Some(&state)).await;
        assert_eq!(ended.expect_status(StatusCode::OK).json()["success"], true);
    }

    async fn get(&self, name: &str) -> Value {
        let path = format!("/api/oauth/connections/{name}");
        self.admin.get(&path).await.expect_status(StatusCode::OK).json()
    }

    async fn credentials(&self, name: &str) -> Value {
        let path = format!("/api/oauth/credentials/{name}");
        self.admin.get(&path).await.expect_status(StatusCode::OK).json()
    }

    async fn refresh(&self, name: &str) -> Value {
        let path = format!("/api/oauth/connections/{name}/refresh");
        self.admin.post(&path, &Value::Null).await.expect_status(StatusCode::OK).json()
    }

    /// Lets every token end now.
    async fn tokens_end(&self) {
        self.world.sql("UPDATE oauth_connections SET expires_at = now() - interval '1 second'").await;
    }
}

#[tokio::test]
async fn an_account_is_connected_with_consent_and_its_tokens_are_sealed() {
    let stage = Stage::set().await;
    let made = stage.create("graph", "authorization_code").await;
    assert_eq!((&made["status"], &made["scopes"]), (&json!("not_connected"), &json!("mail.read files.read")));
    let again = stage.admin.post("/api/oauth/connections", &stage.body("graph", "authorization_code")).await;
    again.expect_status(StatusCode::CONFLICT);
    let nothing = stage.admin.post("/api/oauth/connections/graph/refresh", &Value::Null).await;
    nothing.expect_status(StatusCode::BAD_REQUEST);
    assert_eq!(stage.credentials("graph").await["credentials"], Value::Null);

    let begun = stage.begin("graph").await;
    assert_eq!(stage.get("graph").await["status"], "waiting_callback");
    let (code, state) = stage.server.consent(&begun.text("authorization_url")).await;
    assert_eq!(state, begun.text("state"));
    let page = stage.server.asked().pop().expect("was opened");
    for (name, value) in [
        ("tenant", "7"),
        ("response_type", "code"),
        ("client_id", "client"),
        ("redirect_uri", PAGE),
        ("scope", "mail.read files.read"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(page.get(name).map(String::as_str), Some(value), "{name}");
    }
    let ended = stage.complete(&stage.admin, "graph", &code, Some(&state)).await;
    let ended = ended.expect_status(StatusCode::OK).json();
    assert_eq!((&ended["success"], &ended["status"]), (&json!(true), &json!("completed")));
    assert_eq!(ended["warning_message"], Value::Null);
    let exchange = stage.server.asked().pop().expect("was asked");
    assert_eq!(exchange["scope"], "mail.read files.read");
    assert!(exchange["code_verifier"].len() >= 43 && exchange["client_secret"] == "client-secret-text");

    let shown = stage.credentials("graph").await;
    let token = shown["credentials"]["access_token"].as_str().expect("text").to_owned();
    assert!(token.starts_with("access-") && shown["credentials"]["token_type"] == "Bearer");
    let refresh = shown["credentials"]["refresh_token"].as_str().expect("text").to_owned();

    // Neither another route nor the database shows any of it.
    let mut seen = String::new();
    for path in ["/api/oauth/connections", "/api/oauth/connections/graph", "/api/audit?limit=100"] {
        seen += &stage.admin.get(path).await.expect_status(StatusCode::OK).body;
    }
    let changed = json!({"name": "Graph", "client_secret": "another-secret", "scopes": ["a", "b"]});
    let changed = stage.admin.put("/api/oauth/connections/graph", &changed).await;
    let changed = changed.expect_status(StatusCode::OK);
    assert_eq!((&changed.json()["scopes"], &changed.json()["name"]), (&json!("a b"), &json!("Graph")));
    seen += &changed.body;
    let mut conn = stage.world.test.db.connect().await;
    let rows: String = sqlx::query_scalar("SELECT string_agg(c::text, '') FROM oauth_connections c")
        .fetch_one(&mut conn)
        .await
        .expect("readable");
    seen += &rows;
    let secrets = [token.as_str(), &refresh, "client-secret-text", "another-secret"];
    let leaks = secrets.iter().filter(|secret| seen.contains(**secret)).count();
    println!("connections: secrets seen elsewhere {leaks} of {}", secrets.len());
    assert_eq!(leaks, 0);
    assert!(stage.world.count("SELECT count(*) FROM audit_log WHERE action = 'connection.read'").await >= 2);
    let unnamed = "SELECT count(*) FROM audit_log WHERE action LIKE 'connection.%' AND request_id IS NULL";
    assert_eq!(stage.world.count(unnamed).await, 0, "each says which request it was");

    stage.admin.delete("/api/oauth/connections/graph").await.expect_status(StatusCode::NO_CONTENT);
    stage.admin.get("/api/oauth/credentials/graph").await.expect_status(StatusCode::NOT_FOUND);
    stage.world.close().await;
}

#[tokio::test]
async fn a_state_is_good_once_for_one_connection_and_the_user_who_began() {
    let stage = Stage::set().await;
    stage.create("one", "authorization_code").await;
    stage.create("two", "authorization_code").await;
    let other_admin = {
        let body = json!({"email": "second@platform.example", "user_type": "PLATFORM"});
        stage.world.admin.client.post("/api/users", &body).await.expect_status(StatusCode::CREATED);
        stage.world.person("second@platform.example").await
    };
    let ada = stage.world.person("ada@acme.example").await;
    let mut accepted = 0;
    let mut tried = 0;
    let mut attempt = async |client: &Client, name: &str, code: &str, state: Option<&str>| {
        tried += 1;
        let reply = stage.complete(client, name, code, state).await;
        accepted += usize::from(reply.status != StatusCode::BAD_REQUEST);
    };
    let consent = async |name: &str| {
        let begun = stage.begin(name).await;
        stage.server.consent(&begun.text("authorization_url")).await
    };
    let (code, state) = consent("one").await;
    attempt(&stage.admin, "one", &code, None).await;
    attempt(&stage.admin, "one", &code, Some("")).await;
    attempt(&stage.admin, "one", &code, Some("guessed")).await;
    attempt(&stage.admin, "two", &code, Some(&state)).await;
    attempt(&stage.admin, "one", &code, Some(&state)).await;
    for client in [&other_admin.client, &ada.client] {
        let (code, state) = consent("one").await;
        attempt(client, "one", &code, Some(&state)).await;
        attempt(&stage.admin, "one", &code, Some(&state)).await;
    }
    // A newer authorization and a cancellation void what was begun.
    let (code, state) = consent("one").await;
    consent("one").await;
    attempt(&stage.admin, "one", &code, Some(&state)).await;
    let (code, state) = consent("one").await;
    let path = "/api/oauth/connections/one/cancel";
    let cancelled = stage.admin.post(path, &Value::Null).await.expect_status(StatusCode::OK).json();
    assert_eq!(cancelled["status"], "not_connected");
    attempt(&stage.admin, "one", &code, Some(&state)).await;
    // Another address than the one it began with.
    let (code, state) = consent("one").await;
    let body = json!({"code": code, "state": state, "redirect_uri": "https://evil.example/"});
    let reply = stage.admin.post("/api/oauth/callback/one", &body).await;
    reply.expect_status(StatusCode::BAD_REQUEST);
    println!("connections: {tried} states that were not given for this, accepted {accepted}");
    assert_eq!(accepted, 0);

    // The organization comes from the state: the header says nothing.
    let (code, state) = consent("one").await;
    let done = stage.complete(&stage.world.admin.client, "one", &code, Some(&state)).await;
    assert_eq!(done.expect_status(StatusCode::OK).json()["success"], true);
    assert_eq!(stage.get("one").await["status"], "completed");
    stage.world.close().await;
}

#[tokio::test]
async fn who_administers_the_platform_no_more_completes_nothing() {
    let stage = Stage::set().await;
    let rival = stage.world.org("rival").await;
    stage.create("one", "authorization_code").await;
    let second = stage.world.person("second@rival.example").await;
    let promotion = json!({"is_superuser": true});
    stage
        .world
        .admin
        .client
        .patch(&format!("/api/users/{}", second.id), &promotion)
        .await
        .expect_status(StatusCode::OK);
    let second = Person { client: stage.world.nobody().sign_in(&second.email, PASSWORD).await, ..second };
    let path = format!("/api/oauth/connections/one/authorize?redirect_uri={PAGE}");
    let begun = second.client.in_organization(stage.acme).post(&path, &Value::Null).await;
    let begun = begun.expect_status(StatusCode::OK);
    let (code, state) = stage.server.consent(&begun.text("authorization_url")).await;

    let path = format!("/api/users/{}", second.id);
    let demotion = json!({"is_superuser": false, "organization_id": rival});
    stage.world.admin.client.patch(&path, &demotion).await.expect_status(StatusCode::OK);
    // A new session: the old one is remembered as it was for a moment.
    let demoted = stage.world.nobody().sign_in(&second.email, PASSWORD).await;
    let refused = stage.complete(&demoted, "one", &code, Some(&state)).await;
    refused.expect_status(StatusCode::BAD_REQUEST);
    assert_eq!(stage.get("one").await["status"], "waiting_callback");
    assert_eq!(stage.credentials("one").await["credentials"], Value::Null);
    stage.world.close().await;
}

#[tokio::test]
async fn a_provider_that_says_no_is_quoted_and_nothing_is_lost() {
    let stage = Stage::set().await;
    stage.connect("graph").await;
    stage.server.refuse(true);
    let refused = stage.refresh("graph").await;
    assert_eq!(refused["success"], false);
    let now = stage.get("graph").await;
    assert_eq!(now["status"], "failed");
    let message = now["status_message"].as_str().expect("says why");
    assert!(message.contains("invalid_client") && message.contains("the account says no"), "{message}");
    // The token is good yet.
    assert!(stage.credentials("graph").await["credentials"]["access_token"].is_string());
    stage.tokens_end().await;
    assert_eq!(stage.credentials("graph").await["credentials"], Value::Null);
    let began = stage.begin("graph").await;
    let (code, state) = stage.server.consent(&began.text("authorization_url")).await;
    let ended = stage.complete(&stage.admin, "graph", &code, Some(&state)).await;
    let ended = ended.expect_status(StatusCode::OK).json();
    assert_eq!((&ended["success"], &ended["status"]), (&json!(false), &json!("failed")));
    assert!(ended["error_message"].as_str().expect("says why").contains("invalid_client"));

    stage.server.refuse(false);
    assert_eq!(stage.refresh("graph").await["success"], true);
    assert_eq!(stage.get("graph").await["status"], "completed");
    stage.world.close().await;
}

#[tokio::test]
async fn client_credentials_fetch_their_token_at_once_and_consent_without_refresh_token_warns() {
    let stage = Stage::set().await;
    let made = stage.create("service", "client_credentials").await;
    assert_eq!((&made["status"], &made["status_message"]), (&json!("completed"), &Value::Null));
    let asked = stage.server.asked().pop().expect("was asked");
    assert_eq!(
        (asked["grant_type"].as_str(), asked["scope"].as_str()),
        ("client_credentials", "mail.read files.read")
    );
    let path = format!("/api/oauth/connections/service/authorize?redirect_uri={PAGE}");
    stage.admin.post(&path, &Value::Null).await.expect_status(StatusCode::BAD_REQUEST);

    let mut wrong = stage.body("wrong", "client_credentials");
    wrong["client_secret"] = json!("wrong");
    let made = stage.admin.post("/api/oauth/connections", &wrong).await.expect_status(StatusCode::CREATED);
    assert_eq!(made.json()["status"], "failed");
    assert!(made.json()["status_message"].as_str().expect("says why").contains("invalid_client"));

    // A private address is refused where it is connected to, if not before.
    let mut private = stage.body("private", "client_credentials");
    private["token_url"] = json!("https://localhost/token");
    let made = stage.admin.post("/api/oauth/connections", &private).await.expect_status(StatusCode::CREATED);
    assert_eq!(made.json()["status"], "failed");
    assert!(made.json()["status_message"].as_str().expect("says why").contains("not a public one"));

    stage.server.without_refresh(true);
    stage.create("once", "authorization_code").await;
    let begun = stage.begin("once").await;
    let (code, state) = stage.server.consent(&begun.text("authorization_url")).await;
    let ended = stage.complete(&stage.admin, "once", &code, Some(&state)).await;
    let ended = ended.expect_status(StatusCode::OK).json();
    assert!(ended["warning_message"].as_str().expect("warns").contains("no refresh token"));
    stage.world.close().await;
}

#[tokio::test]
async fn five_hundred_who_want_an_expired_token_cause_one_refresh() {
    let stage = Stage::set().await;
    stage.connect("graph").await;
    let other = Replica::start((*stage.world.platform().settings).clone()).await;
    stage.server.delay(Duration::from_millis(300));
    let mut worst = 0;
    for round in 1..=3 {
        stage.tokens_end().await;
        let before = stage.server.refreshes();
        let scope = domain::OrgScope::for_run(
            Some(stage.acme),
            domain::Actor {
                id: stage.world.admin.id,
                name: "admin".into(),
                email: stage.world.admin.email.clone(),
                is_platform_admin: true,
            },
        );
        let users = (0..500).map(|number| {
            // Half of them at each process, most as runs and some over HTTP.
            let replica = if number % 2 == 0 { &stage.world.replica } else { &other };
            let (scope, refresher) = (scope.clone(), replica.platform.refresher.clone());
            let client = replica.at(&stage.admin).in_organization(stage.acme);
            async move {
                if number % 25 == 0 {
                    let reply = client.get("/api/oauth/credentials/graph").await;
                    return reply.json()["credentials"]["access_token"].as_str().map(ToOwned::to_owned);
                }
                let found = refresher.credentials_for_run(&scope, "graph").await.expect("there is one");
                let token = found?.access_token?;
                Some(secrecy::ExposeSecret::expose_secret(&token).to_owned())
            }
        });
        let mut tokens = futures::future::join_all(users).await;
        tokens.dedup();
        assert_eq!(tokens.len(), 1, "all have the same token: {tokens:?}");
        assert!(tokens[0].is_some());
        let refreshes = stage.server.refreshes() - before;
        println!("round {round}: 500 users of an expired token at two processes, refreshes {refreshes}");
        worst = worst.max(refreshes);
    }
    println!("refreshes per expiry {worst}, refresh tokens used twice {}", stage.server.punished());
    assert_eq!((worst, stage.server.punished()), (1, 0));
    drop(other);
    stage.world.close().await;
}

#[tokio::test]
async fn a_refresh_survives_a_failing_server_a_lost_answer_a_crash_and_whoever_asked_leaving() {
    let stage = Stage::set().await;
    stage.connect("graph").await;
    stage.server.fail(2);
    assert_eq!(stage.refresh("graph").await["success"], true, "the third try is answered");

    // The answer is lost; the provider lets the token be used again for a moment.
    stage.server.grace(true);
    stage.server.lose(1);
    assert_eq!(stage.refresh("graph").await["success"], true);
    assert_eq!(stage.server.punished(), 0);
    // One that does not: the connection says so instead of hanging, and consent mends it.
    stage.server.grace(false);
    stage.server.lose(1);
    assert_eq!(stage.refresh("graph").await["success"], false);
    assert_eq!(stage.get("graph").await["status"], "failed");
    let begun = stage.begin("graph").await;
    let (code, state) = stage.server.consent(&begun.text("authorization_url")).await;
    stage.complete(&stage.admin, "graph", &code, Some(&state)).await.expect_status(StatusCode::OK);

    // A process died while it held the lease: the next one takes over when it has run out, and not before.
    let lease = "UPDATE oauth_connections
                 SET lease = gen_random_uuid(), lease_expires_at = now() + interval '1 second'";
    stage.world.sql(lease).await;
    let began = std::time::Instant::now();
    assert_eq!(stage.refresh("graph").await["success"], true);
    assert!(began.elapsed() > Duration::from_millis(800), "{:?}", began.elapsed());

    // Whoever asked leaves; the answer is stored all the same.
    stage.server.delay(Duration::from_millis(500));
    let before = stage.credentials("graph").await["credentials"]["access_token"].clone();
    let refreshes = stage.server.refreshes();
    let request = stage.admin.request(Method::POST, "/api/oauth/connections/graph/refresh");
    let left = request.timeout(Duration::from_millis(200)).send().await;
    assert!(left.is_err(), "the client left");
    let after = eventually("the token that nobody waits for", || async {
        let now = stage.credentials("graph").await["credentials"]["access_token"].clone();
        (now != before).then_some(now)
    })
    .await;
    assert!(after.is_string());
    assert_eq!((stage.server.refreshes() - refreshes, stage.server.punished()), (1, 1));
    stage.world.close().await;
}

#[tokio::test]
async fn what_ends_soon_is_refreshed_by_one_replica_and_the_run_is_reported() {
    let stage = Stage::set().await;
    stage.connect("graph").await;
    stage.create("service", "client_credentials").await;
    stage.create("idle", "authorization_code").await;
    let status = "/api/oauth/refresh_job_status";
    let none = stage.admin.get(status).await.expect_status(StatusCode::OK).json();
    assert_eq!((&none["last_run"], &none["enabled"]), (&Value::Null, &json!(true)));

    stage
        .world
        .sql("UPDATE oauth_connections SET expires_at = now() + interval '20 minutes' WHERE name = 'graph'")
        .await;
    let before = stage.server.refreshes();
    let other = Replica::start((*stage.world.platform().settings).clone()).await;
    let run = |replica: &Replica| {
        let platform = replica.platform.clone();
        async move { connections::refresh_due(&platform.db, &platform.refresher).await.expect("runs") }
    };
    let (one, two) = tokio::join!(run(&stage.world.replica), run(&other));
    let report = one.or(two).expect("one of them ran");
    assert_eq!((report.total, report.needed, report.refreshed, report.failed), (3, 1, 1, 0));
    assert_eq!(stage.server.refreshes() - before, 1);
    assert!(run(&other).await.is_none(), "not again within fifteen minutes");
    let told = stage.admin.get(status).await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&told["last_run"]["status"], &told["last_run"]["refreshed_successfully"]),
        (&json!("completed"), &json!(1))
    );

    let all =
        stage.admin.post("/api/oauth/refresh_all", &Value::Null).await.expect_status(StatusCode::OK).json();
    assert_eq!((&all["connections_queued"], &all["refreshed_successfully"]), (&json!(2), &json!(2)));
    stage.server.refuse(true);
    let all =
        stage.admin.post("/api/oauth/refresh_all", &Value::Null).await.expect_status(StatusCode::OK).json();
    assert_eq!((&all["refresh_failed"], &all["triggered"]), (&json!(2), &json!(true)));
    drop(other);
    stage.world.close().await;
}

#[tokio::test]
async fn whoever_refreshes_all_waits_for_so_long_and_what_is_under_way_goes_on() {
    let stage = Stage::set().await;
    for number in 1..=9 {
        stage.create(&format!("service-{number}"), "client_credentials").await;
    }
    stage.server.delay(Duration::from_secs(1));
    let ended = "SELECT count(*) FROM oauth_connections WHERE last_refresh_at IS NOT NULL AND generation = 2";
    let before = stage.server.refreshes();
    let platform = stage.world.platform();
    let scope = domain::OrgScope::for_system(Some(stage.acme), "System", None);
    let patience = Duration::from_millis(200);
    let report = connections::refresh_scope(&platform.db, &platform.refresher, &scope, patience).await;
    let report = report.expect("answers");
    assert_eq!((report.needed, report.refreshed, report.failed), (9, 0, 0));
    eventually("the answers that nobody waits for", || async {
        (stage.world.count(ended).await == 8).then_some(())
    })
    .await;
    assert_eq!(stage.server.refreshes() - before, 8, "the ninth was not begun any more");
    stage.world.close().await;
}

#[tokio::test]
async fn connections_belong_to_exactly_one_scope_and_tokens_stay_in_it() {
    let stage = Stage::set().await;
    stage.create("own", "client_credentials").await;
    let everywhere = &stage.world.admin.client;
    let global = everywhere.post("/api/oauth/connections", &stage.body("shared", "client_credentials")).await;
    global.expect_status(StatusCode::CREATED);
    let rival = stage.world.org("rival").await;
    let names = async |client: &Client| {
        let list = client.get("/api/oauth/connections").await.expect_status(StatusCode::OK).json();
        let list = list["connections"].as_array().expect("a list").clone();
        list.iter().map(|one| one["connection_name"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&stage.admin).await, ["own"]);
    assert_eq!(names(everywhere).await, ["shared"]);
    assert!(names(&everywhere.in_organization(rival)).await.is_empty());
    for path in ["/api/oauth/connections/own", "/api/oauth/credentials/own"] {
        everywhere.in_organization(rival).get(path).await.expect_status(StatusCode::NOT_FOUND);
    }

    // A run of the organization has the global one refreshed, which stays global.
    stage.tokens_end().await;
    let ada = stage.world.person("ada@acme.example").await;
    let actor =
        domain::Actor { id: ada.id, name: "Ada".into(), email: ada.email.clone(), is_platform_admin: false };
    let scope = domain::OrgScope::for_run(Some(stage.acme), actor);
    let refresher = &stage.world.platform().refresher;
    let found = refresher.credentials_for_run(&scope, "shared").await.expect("is there").expect("is there");
    assert!(found.connection.organization_id.is_none() && found.access_token.is_some());
    let query = "SELECT count(*) FROM oauth_connections WHERE organization_id IS NULL AND expires_at > now()";
    assert_eq!(stage.world.count(query).await, 1);
    let mut tx = stage.world.platform().db.begin(&scope).await.expect("begins");
    let seen = connections::find(&mut tx, "own").await.expect("reads").expect("is there");
    tx.commit().await.expect("commits");
    assert_eq!(refresher.refresh(&scope, &seen).await.expect("asks"), Refreshed::Fresh);
    stage.world.close().await;
}
