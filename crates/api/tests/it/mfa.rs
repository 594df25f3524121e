//! The second factor: enrolment, codes that are good once, recovery codes, trusted devices, and the policy.

use chrono::Utc;
use domain::settings::{Environment, Settings};
use domain::users::links::{self, Purpose};
use futures::future::join_all;
use reqwest::header::{COOKIE, USER_AGENT};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use testkit::{Client, Reply};
use totp_rs::{Builder, Secret, Totp};

use crate::support::{PASSWORD, Person, Replica, World, cookie};

/// An authenticator app.
struct App(Totp);

impl App {
    fn of(secret: &str) -> Self {
        let secret = Secret::try_from_base32(secret).expect("base32");
        Self(Builder::new().with_secret(secret).with_account_name("a").build().expect("valid"))
    }

    /// The code of the step `ahead` of this one.
    fn code(&self, ahead: i64) -> String {
        let now = Utc::now().timestamp() + 30 * ahead;
        self.0.generate(u64::try_from(now).expect("after 1970")).to_string()
    }
}

/// A trigger that fails whatever it guards.
const REFUSE: &str =
    "CREATE FUNCTION refuse() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$";

/// Makes every code good again, as the passing of half a minute does.
async fn half_a_minute_passes(world: &World) {
    world.sql("UPDATE mfa_methods SET last_step = last_step - 3").await;
}

/// Enrolls somebody; their app and recovery codes.
async fn enroll(world: &World, person: &Person) -> (App, Vec<String>) {
    let begun = person.client.post("/auth/mfa/totp/setup", &Value::Null).await.expect_status(StatusCode::OK);
    let app = App::of(&begun.text("secret"));
    let body = json!({"code": app.code(0)});
    let ended = person.client.post("/auth/mfa/totp/verify", &body).await.expect_status(StatusCode::OK).json();
    half_a_minute_passes(world).await;
    let codes = ended["recovery_codes"].as_array().expect("a list").iter();
    (app, codes.map(|code| code.as_str().expect("text").to_owned()).collect())
}

async fn password(nobody: &Client, email: &str) -> Value {
    let form = [("username", email), ("password", PASSWORD)];
    let reply = nobody.send(nobody.request(Method::POST, "/auth/login").form(&form)).await;
    reply.expect_status(StatusCode::OK).json()
}

async fn second(nobody: &Client, asked: &Value, code: &str) -> Reply {
    nobody.post("/auth/mfa/login", &json!({"mfa_token": asked["mfa_token"], "code": code})).await
}

#[tokio::test]
async fn a_sign_in_asks_for_the_second_factor_and_takes_each_code_once() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let (app, codes) = enroll(&world, &ada).await;
    assert_eq!(codes.len(), 10);

    let asked = password(world.nobody(), &ada.email).await;
    assert_eq!((&asked["mfa_required"], &asked["access_token"]), (&json!(true), &Value::Null));
    assert_eq!(asked["available_methods"], json!(["totp", "recovery_code"]));
    let code = app.code(0);
    let wrong = if code == "000000" { "000001" } else { "000000" };
    second(world.nobody(), &asked, wrong).await.expect_status(StatusCode::UNAUTHORIZED);
    let signed = second(world.nobody(), &asked, &code).await.expect_status(StatusCode::OK);
    let client = world.nobody().with_bearer(signed.text("access_token"));
    client.get("/auth/me").await.expect_status(StatusCode::OK);

    // The same code again, and an older one, are refused; of racing uses of a new one, one wins.
    second(world.nobody(), &asked, &code).await.expect_status(StatusCode::UNAUTHORIZED);
    second(world.nobody(), &asked, &app.code(-1)).await.expect_status(StatusCode::UNAUTHORIZED);
    let next = app.code(1);
    let racers = (0..10).map(|_| second(world.nobody(), &asked, &next));
    let won = join_all(racers).await.iter().filter(|reply| reply.status.is_success()).count();
    println!("one-time code: 10 racers, accepted {won}");
    assert_eq!(won, 1);
    world.close().await;
}

#[tokio::test]
async fn an_enrolment_counts_only_after_its_first_code_and_is_not_replaced_by_another() {
    let world = World::start().await;
    let admin = &world.admin;
    let first = admin.client.post("/auth/mfa/setup", &Value::Null).await.expect_status(StatusCode::OK).json();
    assert!(first["provisioning_uri"].as_str().expect("text").starts_with("otpauth://totp/Bifrost"));
    assert_eq!(first["account_name"], admin.email);
    assert_eq!(password(world.nobody(), &admin.email).await["mfa_required"], false, "not active yet");

    let again = admin.client.post("/auth/mfa/setup", &Value::Null).await.expect_status(StatusCode::OK);
    let (old, new) = (App::of(first["secret"].as_str().expect("text")), App::of(&again.text("secret")));
    let body = json!({"code": old.code(0)});
    admin.client.post("/auth/mfa/verify", &body).await.expect_status(StatusCode::BAD_REQUEST);
    let body = json!({"code": new.code(0)});
    let ended = admin.client.post("/auth/mfa/verify", &body).await.expect_status(StatusCode::OK);
    assert!(cookie(&ended, "access_token").is_some() && ended.header("cache-control") == Some("no-store"));
    // The code that ended the enrolment does not open a session too.
    let asked = password(world.nobody(), &admin.email).await;
    second(world.nobody(), &asked, &new.code(0)).await.expect_status(StatusCode::UNAUTHORIZED);

    // Neither a session nor the token of a sign-in replaces what is active.
    admin.client.post("/auth/mfa/setup", &Value::Null).await.expect_status(StatusCode::BAD_REQUEST);
    let between = world.nobody().with_bearer(asked["mfa_token"].as_str().expect("text"));
    between.post("/auth/mfa/setup", &Value::Null).await.expect_status(StatusCode::UNAUTHORIZED);
    world.close().await;
}

#[tokio::test]
async fn a_token_between_the_factors_opens_no_other_door() {
    let world = World::start().await;
    let (_, _) = enroll(&world, &world.admin).await;
    let asked = password(world.nobody(), &world.admin.email).await;
    let between = world.nobody().with_bearer(asked["mfa_token"].as_str().expect("text"));
    let mut opened = 0;
    for path in ["/auth/me", "/api/executions", "/api/organizations", "/auth/mfa/status", "/auth/sessions"] {
        opened += usize::from(between.get(path).await.status != StatusCode::UNAUTHORIZED);
    }
    let as_refresh = json!({"refresh_token": asked["mfa_token"]});
    opened += usize::from(
        world.nobody().post("/auth/refresh", &as_refresh).await.status != StatusCode::UNAUTHORIZED,
    );
    // Nor does another token open this one.
    for token in [world.admin.client.bearer().expect("signed in"), "bfsk_x", "a.b.c", ""] {
        let reply = second(world.nobody(), &json!({"mfa_token": token}), "123456").await;
        opened += usize::from(reply.status != StatusCode::UNAUTHORIZED);
    }
    println!("tokens at the doors of other kinds: opened {opened} of 10");
    assert_eq!(opened, 0);
    world.close().await;
}

#[tokio::test]
async fn recovery_codes_are_good_once_and_dead_when_replaced() {
    let world = World::start().await;
    let (app, codes) = enroll(&world, &world.admin).await;
    let admin = &world.admin.client;
    let asked = password(world.nobody(), &world.admin.email).await;
    let typed = codes[0].to_lowercase().replace('-', "");
    second(world.nobody(), &asked, &typed).await.expect_status(StatusCode::OK);
    second(world.nobody(), &asked, &codes[0]).await.expect_status(StatusCode::UNAUTHORIZED);
    let count = admin.get("/auth/mfa/recovery-codes/count").await.expect_status(StatusCode::OK).json();
    assert_eq!(count, json!({"total": 10, "remaining": 9}));

    let path = "/auth/mfa/recovery-codes/regenerate";
    let reply = admin.post(path, &json!({"mfa_code": codes[1]})).await;
    assert_eq!(reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/mfa_code"]);
    let new = admin.post(path, &json!({"mfa_code": app.code(0)})).await.expect_status(StatusCode::OK).json();
    assert_eq!(new["count"], 10);
    second(world.nobody(), &asked, &codes[1]).await.expect_status(StatusCode::UNAUTHORIZED);
    let fresh = new["recovery_codes"][0].as_str().expect("text");
    second(world.nobody(), &asked, fresh).await.expect_status(StatusCode::OK);
    let stored = world.count("SELECT count(*) FROM recovery_codes WHERE octet_length(code_hash) <> 32").await;
    assert_eq!(stored, 0, "only hashes are stored");
    world.close().await;
}

#[tokio::test]
async fn a_trusted_device_needs_no_code_and_a_stolen_cookie_does() {
    let world = World::start().await;
    let (app, _) = enroll(&world, &world.admin).await;
    let email = world.admin.email.as_str();
    let nobody = world.nobody();
    let asked = password(nobody, email).await;
    let body = json!({
        "mfa_token": asked["mfa_token"], "code": app.code(0), "trust_device": true, "device_name": "laptop",
    });
    let request = nobody.request(Method::POST, "/auth/mfa/login").header(USER_AGENT, "browser").json(&body);
    let signed = nobody.send(request).await.expect_status(StatusCode::OK);
    let (token, attributes) = cookie(&signed, "device_token").expect("trusted");
    assert!(attributes.contains("HttpOnly") && attributes.contains("Max-Age=2592000"), "{attributes}");

    let sign_in = async |user: &str, cookie: &str, agent: &str| {
        let form = [("username", user), ("password", PASSWORD)];
        let request = nobody.request(Method::POST, "/auth/login").form(&form);
        let request = request.header(COOKIE, format!("device_token={cookie}")).header(USER_AGENT, agent);
        nobody.send(request).await.expect_status(StatusCode::OK).json()["mfa_required"] == json!(false)
    };
    assert!(sign_in(email, token, "browser").await);
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    enroll(&world, &ada).await;
    let mut accepted = 0;
    for (user, cookie, agent) in [
        (email, token, "another browser"),
        (email, "guessed", "browser"),
        (email, "", "browser"),
        (ada.email.as_str(), token, "browser"),
    ] {
        accepted += usize::from(sign_in(user, cookie, agent).await);
    }
    println!("trusted device: stolen or guessed cookies accepted {accepted} of 4");
    assert_eq!(accepted, 0);

    let admin = &world.admin.client;
    let listed = admin.get("/auth/mfa/trusted-devices").await.expect_status(StatusCode::OK).json();
    let device = &listed["devices"][0];
    assert_eq!(
        (&device["device_name"], listed["devices"].as_array().map(Vec::len)),
        (&json!("laptop"), Some(1))
    );
    let path = format!("/auth/mfa/trusted-devices/{}", device["id"].as_str().expect("an id"));
    ada.client.delete(&path).await.expect_status(StatusCode::NOT_FOUND);
    admin.delete(&path).await.expect_status(StatusCode::OK);
    assert!(!sign_in(email, token, "browser").await, "forgotten");
    world.close().await;
}

#[tokio::test]
async fn the_owner_removes_it_by_password_or_code() {
    let world = World::start().await;
    let (app, _) = enroll(&world, &world.admin).await;
    let admin = &world.admin.client;
    let remove =
        async |body: Value| admin.send(admin.request(Method::DELETE, "/auth/mfa").json(&body)).await.status;
    assert_eq!(remove(json!({})).await, StatusCode::BAD_REQUEST);
    assert_eq!(remove(json!({"password": "not the password"})).await, StatusCode::UNAUTHORIZED);
    assert_eq!(remove(json!({"mfa_code": "no code"})).await, StatusCode::UNAUTHORIZED);
    assert_eq!(admin.get("/auth/mfa/status").await.json()["mfa_enabled"], true);
    assert_eq!(remove(json!({"mfa_code": app.code(0)})).await, StatusCode::OK);
    let status = admin.get("/auth/mfa/status").await.json();
    assert_eq!(
        status,
        json!({"mfa_enabled": false, "mfa_required": false, "enforcement_deadline": null,
               "enrolled_methods": [], "recovery_codes_remaining": 0})
    );
    assert_eq!(password(world.nobody(), &world.admin.email).await["mfa_required"], false);

    enroll(&world, &world.admin).await;
    assert_eq!(remove(json!({"password": PASSWORD})).await, StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn an_administrator_removes_it_for_somebody_who_lost_everything() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    enroll(&world, &ada).await;
    let (admin, path) = (&world.admin.client, format!("/api/users/{}", ada.id));
    assert_eq!(admin.get(&path).await.json()["mfa_enabled"], true);
    admin.patch(&path, &json!({"mfa_enabled": true, "name": "Ada"})).await.expect_status(StatusCode::OK);
    assert_eq!(password(world.nobody(), &ada.email).await["mfa_required"], true, "true changes nothing");
    let changed =
        admin.patch(&path, &json!({"mfa_enabled": false})).await.expect_status(StatusCode::OK).json();
    assert_eq!(changed["mfa_enabled"], false);
    assert_eq!(password(world.nobody(), &ada.email).await["mfa_required"], false);
    let audit = admin.get("/api/audit?action=mfa.removed").await.json();
    assert_eq!(audit["entries"][0]["actor"], world.admin.email);

    // One that was only begun goes as well.
    ada.client.post("/auth/mfa/setup", &Value::Null).await.expect_status(StatusCode::OK);
    assert_eq!(world.count("SELECT count(*) FROM mfa_methods").await, 1);
    admin.patch(&path, &json!({"mfa_enabled": false})).await.expect_status(StatusCode::OK);
    assert_eq!(world.count("SELECT count(*) FROM mfa_methods").await, 0);
    world.close().await;
}

#[tokio::test]
async fn a_second_factor_goes_with_the_change_of_its_user_or_neither_happens() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    enroll(&world, &ada).await;
    world.sql(REFUSE).await;
    world.sql("CREATE TRIGGER refused BEFORE DELETE ON recovery_codes EXECUTE FUNCTION refuse()").await;
    let (admin, path) = (&world.admin.client, format!("/api/users/{}", ada.id));
    let body = json!({"is_active": false, "mfa_enabled": false});
    admin.patch(&path, &body).await.expect_status(StatusCode::INTERNAL_SERVER_ERROR);
    let user = admin.get(&path).await.json();
    assert_eq!((&user["is_active"], &user["mfa_enabled"]), (&json!(true), &json!(true)));
    let audited = "SELECT count(*) FROM audit_log WHERE action IN ('user.updated', 'mfa.removed')";
    assert_eq!(world.count(audited).await, 0);

    world.sql("DROP TRIGGER refused ON recovery_codes").await;
    let user = admin.patch(&path, &body).await.expect_status(StatusCode::OK).json();
    assert_eq!((&user["is_active"], &user["mfa_enabled"]), (&json!(false), &json!(false)));
    assert_eq!(world.count(audited).await, 2);
    let left = "SELECT (SELECT count(*) FROM mfa_methods) + (SELECT count(*) FROM recovery_codes)";
    assert_eq!(world.count(left).await, 0);
    world.close().await;
}

#[tokio::test]
async fn an_enrolment_ends_with_a_session_and_shown_codes_or_not_at_all() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let begun = admin.post("/auth/mfa/setup", &Value::Null).await.expect_status(StatusCode::OK);
    let code = json!({"code": App::of(&begun.text("secret")).code(0)});
    world.sql(REFUSE).await;
    world.sql("CREATE TRIGGER refused BEFORE INSERT ON sessions EXECUTE FUNCTION refuse()").await;
    admin.post("/auth/mfa/verify", &code).await.expect_status(StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(admin.get("/auth/mfa/status").await.json()["mfa_enabled"], false);

    world.sql("DROP TRIGGER refused ON sessions").await;
    let ended = admin.post("/auth/mfa/verify", &code).await.expect_status(StatusCode::OK).json();
    assert_eq!(ended["recovery_codes"].as_array().map(Vec::len), Some(10));
    world.close().await;
}

#[tokio::test]
async fn a_policy_that_asks_everybody_leads_through_the_enrolment() {
    let world = World::start().await;
    let settings = Settings { mfa_policy: "required".into(), ..(*world.platform().settings).clone() };
    let strict = Replica::start(settings).await;
    let nobody = &strict.nobody;
    assert_eq!(nobody.get("/auth/status").await.json()["mfa_required_for_password"], true);
    let asked = password(nobody, &world.admin.email).await;
    assert_eq!((&asked["mfa_setup_required"], &asked["access_token"]), (&json!(true), &Value::Null));
    let between = nobody.with_bearer(asked["mfa_token"].as_str().expect("text"));
    second(nobody, &asked, "123456").await.expect_status(StatusCode::UNAUTHORIZED);
    let begun = between.post("/auth/mfa/setup", &Value::Null).await.expect_status(StatusCode::OK);
    let code = json!({"code": App::of(&begun.text("secret")).code(0)});
    let ended = between.post("/auth/mfa/verify", &code).await.expect_status(StatusCode::OK);
    let client = nobody.with_bearer(ended.text("access_token"));
    client.get("/auth/me").await.expect_status(StatusCode::OK);
    world.close().await;
}

/// Sets the password of somebody by a link, as it is mailed.
async fn reset(world: &World, person: &Person) {
    let asked = links::request(&world.platform().db, Purpose::Reset, &person.email, None).await;
    let (_, link) = asked.expect("asks").expect("there is an account");
    let body = json!({"token": link.expose_secret(), "password": "another long password"});
    world.nobody().post("/auth/reset-password", &body).await.expect_status(StatusCode::OK);
}

#[tokio::test]
async fn a_sign_in_begun_with_the_old_password_ends_with_it() {
    let world = World::start().await;
    world.org("acme").await;
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    // Else a reset would take the second factor too, which may be anybody's.
    world.sql("UPDATE users SET is_verified = TRUE").await;
    let settings = Settings { mfa_policy: "required".into(), ..(*world.platform().settings).clone() };
    let strict = Replica::start(settings).await;
    let nobody = &strict.nobody;
    let between = async || {
        let asked = password(nobody, &ada.email).await;
        nobody.with_bearer(asked["mfa_token"].as_str().expect("text"))
    };
    // One who has yet to begin an enrolment, one who has yet to end it, and one whose session this process remembers.
    let (idle, begun, session) = (between().await, between().await, strict.at(&ada.client));
    let setup = begun.post("/auth/mfa/setup", &Value::Null).await.expect_status(StatusCode::OK);
    let code = json!({"code": App::of(&setup.text("secret")).code(0)});
    session.get("/auth/me").await.expect_status(StatusCode::OK);
    reset(&world, &ada).await;

    let mut late = Vec::new();
    for client in [&idle, &begun, &session] {
        late.push(client.post("/auth/mfa/setup", &Value::Null).await.status);
        late.push(client.post("/auth/mfa/verify", &code).await.status);
    }
    late.push(session.post("/auth/mfa/totp/setup", &Value::Null).await.status);
    late.push(session.post("/auth/mfa/totp/verify", &code).await.status);

    // The second factor of somebody enrolled, with a code that is right.
    let (app, _) = enroll(&world, &bob).await;
    let asked = password(world.nobody(), &bob.email).await;
    reset(&world, &bob).await;
    let refused = second(world.nobody(), &asked, &app.code(0)).await;
    assert_ne!(refused.detail(), "Invalid code");
    late.push(refused.status);
    let passed = late.iter().filter(|status| **status != StatusCode::UNAUTHORIZED).count();
    println!("sign-ins begun with the old password: {} steps, passed {passed}", late.len());
    assert_eq!(passed, 0, "{late:?}");
    let live = "SELECT count(*) FROM sessions s JOIN users u ON u.id = s.user_id
                WHERE u.email LIKE '%@acme.example' AND s.revoked_at IS NULL";
    assert_eq!(world.count(live).await, 0);
    let enrolled = "SELECT count(*) FROM mfa_methods m JOIN users u ON u.id = m.user_id
                    WHERE u.email = 'ada@acme.example' AND m.activated_at IS NOT NULL";
    assert_eq!(world.count(enrolled).await, 0);
    world.nobody().sign_in(&ada.email, "another long password").await;
    drop(strict);
    world.close().await;
}

#[tokio::test]
async fn guesses_are_bounded_per_address_and_account() {
    let world = World::with(|settings| settings.environment = Environment::Development).await;
    enroll(&world, &world.admin).await;
    let asked = password(world.nobody(), &world.admin.email).await;
    let mut guesses = 0;
    for number in 0..20 {
        let reply = second(world.nobody(), &asked, &format!("{number:06}")).await;
        guesses += usize::from(reply.status == StatusCode::UNAUTHORIZED);
    }
    println!("second factor: {guesses} guesses a minute from one address");
    assert!(guesses <= 5);
    world.close().await;
}

#[tokio::test]
async fn guesses_count_together_wherever_a_code_is_taken() {
    let world = World::with(|settings| settings.environment = Environment::Development).await;
    let admin = &world.admin.client;
    let mut guesses = 0;
    for _ in 0..5 {
        for (method, path, member) in [
            (Method::POST, "/auth/mfa/verify", "code"),
            (Method::POST, "/auth/mfa/totp/verify", "code"),
            (Method::DELETE, "/auth/mfa", "mfa_code"),
            (Method::POST, "/auth/mfa/recovery-codes/regenerate", "mfa_code"),
        ] {
            let reply = admin.send(admin.request(method, path).json(&json!({member: "000000"}))).await;
            guesses += usize::from(reply.status != StatusCode::TOO_MANY_REQUESTS);
        }
    }
    println!("second factor: {guesses} guesses a minute from one address at four doors");
    assert_eq!(guesses, 5);
    world.close().await;
}

#[tokio::test]
async fn a_browser_may_enroll_by_its_cookie_from_the_same_origin_only() {
    let world = World::start().await;
    let nobody = world.nobody();
    let form = [("username", world.admin.email.as_str()), ("password", PASSWORD)];
    let signed = nobody.send(nobody.request(Method::POST, "/auth/login").form(&form)).await;
    let (token, _) = cookie(&signed, "access_token").expect("signed in");
    let setup = async |path: &str, site: Option<&str>| {
        let request = nobody.request(Method::POST, path).header(COOKIE, format!("access_token={token}"));
        let request = match site {
            Some(site) => request.header("sec-fetch-site", site),
            None => request,
        };
        nobody.send(request).await.status
    };
    assert_eq!(setup("/auth/mfa/setup", Some("same-origin")).await, StatusCode::OK);
    assert_eq!(setup("/api/auth/mfa/totp/setup", Some("same-origin")).await, StatusCode::OK);
    for site in [None, Some("cross-site"), Some("same-site"), Some("none")] {
        assert_eq!(setup("/auth/mfa/setup", site).await, StatusCode::FORBIDDEN, "{site:?}");
    }
    assert_eq!(
        setup("/auth/logout", Some("same-origin")).await,
        StatusCode::FORBIDDEN,
        "exempt is only what must be"
    );
    world.close().await;
}

#[tokio::test]
async fn sessions_are_seen_and_ended_by_their_owner_and_by_administrators() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let other = world.nobody().sign_in(&ada.email, PASSWORD).await;
    let listed = ada.client.get("/auth/sessions").await.expect_status(StatusCode::OK).json();
    let sessions = listed.as_array().expect("a list");
    assert_eq!(sessions.iter().filter(|session| session["is_current"] == json!(true)).count(), 1);
    let not_this = sessions.iter().find(|session| session["is_current"] == json!(false)).expect("another");
    let path = format!("/auth/sessions/{}", not_this["id"].as_str().expect("an id"));
    world.admin.client.delete(&path).await.expect_status(StatusCode::NOT_FOUND);
    // Of many who end it at once, one does, and that is recorded.
    let answers = join_all((0..10).map(|_| ada.client.delete(&path))).await;
    let with = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((with(StatusCode::NO_CONTENT), with(StatusCode::NOT_FOUND)), (1, 9));
    assert_eq!(world.count("SELECT count(*) FROM audit_log WHERE action = 'session.revoked'").await, 1);
    other.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    ada.client.get("/auth/me").await.expect_status(StatusCode::OK);

    let body = json!({"user_id": ada.id});
    let ended = world.admin.client.post("/auth/admin/revoke-user", &body).await.expect_status(StatusCode::OK);
    assert_eq!(ended.json()["sessions_revoked"], 1);
    ada.client.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    let unknown = json!({"user_id": uuid::Uuid::now_v7()});
    world.admin.client.post("/auth/admin/revoke-user", &unknown).await.expect_status(StatusCode::NOT_FOUND);
    let wrong = json!({"user_id": "ada"});
    let reply = world.admin.client.post("/auth/admin/revoke-user", &wrong).await;
    assert_eq!(reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/user_id"]);

    let ended = world.admin.client.post("/auth/revoke-all", &Value::Null).await.expect_status(StatusCode::OK);
    assert!(cookie(&ended, "access_token").is_some_and(|(value, _)| value.is_empty()), "cookies are cleared");
    world.admin.client.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    world.close().await;
}
