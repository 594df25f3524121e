//! The development user and its bypass; imported passwords; the change of a signing key.

use domain::settings::Environment;
use reqwest::{Method, StatusCode};
use serde_json::json;
use testkit::{Client, Reply, Socket, TestEnv};

use crate::support::{PASSWORD, Replica, World};

async fn sign_in(client: &Client, email: &str, password: &str) -> Reply {
    let form = [("username", email), ("password", password)];
    client.send(client.request(Method::POST, "/auth/login").form(&form)).await
}

/// An installation in development that nobody has registered at.
async fn development(test: &TestEnv, bypass: &str) -> Replica {
    let mut settings = test.settings_in_process();
    settings.environment = Environment::Development;
    settings.dev_user_email = "admin@localhost".into();
    settings.dev_auth_bypass = bypass.into();
    let replica = Replica::start(settings).await;
    testkit::eventually("the development user", || async {
        let status = replica.nobody.get("/auth/status").await.expect_status(StatusCode::OK);
        (status.json()["needs_setup"] == false).then_some(())
    })
    .await;
    replica
}

#[tokio::test]
async fn development_has_an_administrator_with_a_known_password() {
    let test = TestEnv::create().await;
    let replica = development(&test, "false").await;

    let signed = sign_in(&replica.nobody, "admin@localhost", "admin").await.expect_status(StatusCode::OK);
    let me = replica.nobody.with_bearer(signed.text("access_token")).get("/auth/me").await.json();
    assert_eq!((&me["is_superuser"], &me["user_type"]), (&json!(true), &json!("PLATFORM")));
    replica.nobody.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);

    // A second start, with another password, changes nobody.
    let mut settings = test.settings_in_process();
    settings.environment = Environment::Development;
    settings.dev_user_email = "admin@localhost".into();
    settings.dev_user_password = "changed".into();
    let second = Replica::start(settings).await;
    sign_in(&second.nobody, "admin@localhost", "changed").await.expect_status(StatusCode::UNAUTHORIZED);
    drop((replica, second));
    test.close().await;
}

#[tokio::test]
async fn the_bypass_acts_as_the_development_user_for_requests_without_a_credential() {
    let test = TestEnv::create().await;
    let replica = development(&test, "true").await;
    let nobody = &replica.nobody;

    assert_eq!(nobody.get("/auth/me").await.expect_status(StatusCode::OK).text("email"), "admin@localhost");
    nobody.post("/api/organizations", &json!({"name": "Acme"})).await.expect_status(StatusCode::CREATED);
    let ended = nobody.post("/auth/revoke-all", &json!({})).await;
    ended.expect_status(StatusCode::OK);
    nobody.get("/auth/me").await.expect_status(StatusCode::OK);

    // What is there and wrong is not overlooked, and no page of another site profits.
    nobody.with_bearer("nonsense").get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    for (name, value) in [
        ("authorization", "Basic YWRtaW46YWRtaW4="),
        ("cookie", "access_token=nonsense"),
        ("origin", "http://evil.example.com"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("host", "evil.example.com"),
    ] {
        let request = nobody.request(Method::GET, "/auth/me").header(name, value);
        let reply = nobody.send(request).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{name}: {value}");
    }
    drop(replica);
    test.close().await;
}

#[tokio::test]
async fn outside_development_there_is_neither() {
    let world = World::with(|settings| {
        settings.dev_user_email = "admin@localhost".into();
        settings.dev_auth_bypass = "any-interface".into();
    })
    .await;

    world.nobody().get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    sign_in(world.nobody(), "admin@localhost", "admin").await.expect_status(StatusCode::UNAUTHORIZED);
    assert_eq!(world.count("SELECT count(*) FROM users WHERE email = 'admin@localhost'").await, 0);
    world.close().await;
}

#[tokio::test]
async fn an_imported_password_signs_in_and_is_hashed_anew() {
    let world = World::start().await;
    world.org("acme").await;
    world.person("ada@acme.example").await;
    // bcrypt of "correct horse battery", as another system stored it.
    world
        .sql(
            "UPDATE users SET password_hash = '$2b$04$Q4fTBKJ1EQGVHWVZ0s7dFu8Fe96bujMg6bxFjqzaV9vEsc5AnZk.6'
             WHERE email = 'ada@acme.example'",
        )
        .await;

    sign_in(world.nobody(), "ada@acme.example", "correct horse")
        .await
        .expect_status(StatusCode::UNAUTHORIZED);
    sign_in(world.nobody(), "ada@acme.example", "correct horse battery").await.expect_status(StatusCode::OK);
    let stored = world.text("SELECT password_hash FROM users WHERE email = 'ada@acme.example'").await;
    assert!(stored.starts_with("$argon2id$"), "{stored}");
    sign_in(world.nobody(), "ada@acme.example", "correct horse battery").await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn the_signing_key_is_replaced_without_signing_anybody_out() {
    const NEXT: &str = "Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_Te";
    let world = World::start().await;
    let old = world.test.settings_in_process();
    let key = |keys: String| {
        let mut settings = world.test.settings_in_process();
        settings.secret_key = Some(keys.into());
        settings
    };
    let current = secrecy::ExposeSecret::expose_secret(old.secret_key.as_ref().expect("is set")).to_owned();
    let both = Replica::start(key(format!("{NEXT},{current}"))).await;
    let next = Replica::start(key(NEXT.into())).await;

    both.at(&world.admin.client).get("/auth/me").await.expect_status(StatusCode::OK);
    next.at(&world.admin.client).get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    let signed = sign_in(&both.nobody, &world.admin.email, PASSWORD).await.text("access_token");
    next.nobody.with_bearer(signed.clone()).get("/auth/me").await.expect_status(StatusCode::OK);
    let mut socket = Socket::connect(&next.nobody.with_bearer(signed), "/ws/connect").await;
    assert_eq!(socket.next().await.expect("a frame")["type"], "connected");
    world.close().await;
}
