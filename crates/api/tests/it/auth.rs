//! Signing in, refreshing, signing out, and how soon each of it acts.

use std::time::Instant;

use domain::settings::Environment;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Reply, Socket, eventually};

use crate::support::{AT_ONCE, PASSWORD, Replica, World};

async fn sign_in(client: &Client, email: &str, password: &str) -> Reply {
    let form = [("username", email), ("password", password)];
    client.send(client.request(Method::POST, "/auth/login").form(&form)).await
}

async fn refresh(client: &Client, token: &str) -> Reply {
    client.post("/auth/refresh", &json!({"refresh_token": token})).await
}

/// How long until the client is refused with 401.
async fn until_refused(client: &Client) -> std::time::Duration {
    let began = Instant::now();
    eventually("the session to end", || async {
        (client.get("/auth/me").await.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    began.elapsed()
}

#[tokio::test]
async fn a_form_and_a_multipart_form_sign_in_alike() {
    let world = World::start().await;
    let nobody = world.nobody();
    let email = world.admin.email.as_str();
    let part = |name: &str, value: &str| {
        format!("--frame\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let multipart = nobody
        .request(Method::POST, "/auth/login")
        .header("content-type", "multipart/form-data; boundary=frame")
        .body(format!(
            "{}{}--frame--\r\n",
            part("username", "  Admin@Platform.EXAMPLE "),
            part("password", PASSWORD)
        ));

    for reply in [sign_in(nobody, email, PASSWORD).await, nobody.send(multipart).await] {
        let reply = reply.expect_status(StatusCode::OK);
        let answer = reply.json();
        assert_eq!(
            (&answer["token_type"], &answer["expires_in"], &answer["mfa_required"]),
            (&json!("bearer"), &json!(900), &json!(false))
        );
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let client = nobody.with_bearer(reply.text("access_token"));
        assert_eq!(client.get("/auth/me").await.text("email"), email);
    }
    world.close().await;
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_account_are_one_answer() {
    let world = World::start().await;
    world.org("acme").await;
    world.person("ada@acme.example").await;
    world.sql("UPDATE users SET password_hash = NULL WHERE email = 'ada@acme.example'").await;
    let mut answers = Vec::new();
    for email in [world.admin.email.as_str(), "nobody@platform.example", "ada@acme.example"] {
        let reply = sign_in(world.nobody(), email, "a wrong password").await;
        let mut answer = reply.expect_status(StatusCode::UNAUTHORIZED).json();
        answer["request_id"] = Value::Null;
        answers.push(answer);
    }
    assert_eq!(answers[0]["detail"], "Incorrect email or password");
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:#?}");
    world.close().await;
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_its_reuse_ends_the_session() {
    let world = World::start().await;
    let nobody = world.nobody();
    let first = sign_in(nobody, &world.admin.email, PASSWORD).await.text("refresh_token");

    let second = refresh(nobody, &first).await.expect_status(StatusCode::OK);
    assert_eq!(second.header("cache-control"), Some("no-store"));
    let client = nobody.with_bearer(second.text("access_token"));
    client.get("/auth/me").await.expect_status(StatusCode::OK);
    let cookie = format!("refresh_token={}", second.text("refresh_token"));
    let by_cookie = nobody.request(Method::POST, "/auth/refresh").header("cookie", &cookie);
    let third = nobody.send(by_cookie).await.expect_status(StatusCode::OK).text("refresh_token");
    let both = nobody
        .request(Method::POST, "/auth/refresh")
        .header("cookie", format!("refresh_token={third}"))
        .json(&json!({"refresh_token": "nonsense"}));
    nobody.send(both).await.expect_status(StatusCode::UNAUTHORIZED);

    refresh(nobody, &first).await.expect_status(StatusCode::UNAUTHORIZED);
    refresh(nobody, &third).await.expect_status(StatusCode::UNAUTHORIZED);
    let took = until_refused(&client).await;
    println!("refresh reuse: sessions left 0, access refused after {took:?}");
    assert!(took < AT_ONCE, "{took:?}");
    world.admin.client.get("/auth/me").await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn of_racing_refreshes_one_wins() {
    let world = World::start().await;
    let token = sign_in(world.nobody(), &world.admin.email, PASSWORD).await.text("refresh_token");
    let replies = join_all((0..20).map(|_| refresh(world.nobody(), &token))).await;
    let won: Vec<String> = replies
        .iter()
        .filter(|reply| reply.status == StatusCode::OK)
        .map(|reply| reply.text("refresh_token"))
        .collect();
    assert!(replies.iter().all(|reply| matches!(reply.status.as_u16(), 200 | 401)));
    let mut successors = 0;
    for token in &won {
        successors += usize::from(refresh(world.nobody(), token).await.status == StatusCode::OK);
    }
    println!("refresh race: 20 racers, winners {}, successors left {successors}", won.len());
    assert_eq!(won.len(), 1);
    assert!(successors <= 1);
    world.close().await;
}

#[tokio::test]
async fn a_logout_acts_at_once_here_and_within_seconds_elsewhere() {
    let world = World::start().await;
    let other = Replica::start(world.test.settings_in_process()).await;
    let reply = sign_in(world.nobody(), &world.admin.email, PASSWORD).await;
    let here = world.nobody().with_bearer(reply.text("access_token"));
    let there = other.at(&here);
    there.get("/auth/me").await.expect_status(StatusCode::OK);

    let began = Instant::now();
    let left = here.post("/auth/logout", &Value::Null).await.expect_status(StatusCode::OK);
    assert_eq!(left.text("message"), "Logged out successfully");
    here.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    until_refused(&there).await;
    println!("logout: refused elsewhere after {:?}", began.elapsed());
    assert!(began.elapsed() < AT_ONCE);
    refresh(world.nobody(), &reply.text("refresh_token")).await.expect_status(StatusCode::UNAUTHORIZED);
    world.close().await;
}

#[tokio::test]
async fn a_logout_ends_the_session_of_the_refresh_token_it_names() {
    let world = World::start().await;
    let other = sign_in(world.nobody(), &world.admin.email, PASSWORD).await;
    let body = json!({"refresh_token": other.text("refresh_token")});
    world.admin.client.post("/auth/logout", &body).await.expect_status(StatusCode::OK);

    let other = world.nobody().with_bearer(other.text("access_token"));
    other.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    world.admin.client.get("/auth/me").await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn demotion_and_deactivation_act_within_seconds() {
    let world = World::start().await;
    let acme = world.org("acme").await;
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);

    world.sql("UPDATE users SET is_active = FALSE WHERE email = 'ada@acme.example'").await;
    let user = until_refused(&ada.client).await;
    sign_in(world.nobody(), &ada.email, PASSWORD).await.expect_status(StatusCode::FORBIDDEN);

    let path = format!("/api/organizations/{acme}");
    world.admin.client.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    let organization = until_refused(&bob.client).await;
    sign_in(world.nobody(), &bob.email, PASSWORD).await.expect_status(StatusCode::FORBIDDEN);

    world.sql("UPDATE users SET is_superuser = FALSE WHERE is_superuser").await;
    let began = Instant::now();
    eventually("the demotion to act", || async {
        let reply = world.admin.client.get("/api/organizations").await;
        (reply.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    let demoted = began.elapsed();
    println!("acts after: user {user:?}, organization {organization:?}, demotion {demoted:?}");
    assert!([user, organization, demoted].iter().all(|took| *took < AT_ONCE));
    world.close().await;
}

#[tokio::test]
async fn of_racing_first_registrations_one_becomes_the_administrator() {
    let test = testkit::TestEnv::create().await;
    let replica = Replica::start(test.settings_in_process()).await;
    let status = replica.nobody.get("/auth/status").await.expect_status(StatusCode::OK).json();
    assert_eq!((&status["needs_setup"], &status["password_login_enabled"]), (&json!(true), &json!(true)));

    let replies = join_all((0..10).map(|n| {
        let body = json!({"email": format!("racer{n}@platform.example"), "password": PASSWORD});
        let nobody = replica.nobody.clone();
        async move { nobody.post("/auth/register", &body).await }
    }))
    .await;
    let winners: Vec<Value> =
        replies.iter().filter(|reply| reply.status == StatusCode::CREATED).map(Reply::json).collect();
    println!("registration race: administrators {}", winners.len());
    assert_eq!(winners.len(), 1);
    assert_eq!(
        (&winners[0]["is_superuser"], &winners[0]["user_type"], &winners[0]["organization_id"]),
        (&json!(true), &json!("PLATFORM"), &Value::Null)
    );
    assert_eq!(replies.iter().filter(|reply| reply.status == StatusCode::BAD_REQUEST).count(), 9);
    let status = replica.nobody.get("/auth/status").await.json();
    assert_eq!(status["needs_setup"], json!(false));
    drop(replica);
    test.close().await;
}

#[tokio::test]
async fn who_one_is_comes_from_the_row() {
    let world = World::start().await;
    world.sql("UPDATE users SET name = 'Grace Hopper' WHERE is_superuser").await;
    let me = world.admin.client.get("/auth/me").await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&me["name"], &me["roles"]),
        (&json!("Grace Hopper"), &json!(["authenticated", "PlatformAdmin"]))
    );
    world.close().await;
}

#[tokio::test]
async fn guessing_is_limited_per_account_and_per_address() {
    let world = World::with(|settings| settings.environment = Environment::Development).await;
    world.sql("DELETE FROM audit_log").await;
    let email = world.admin.email.as_str();
    let mut checked = 0;
    // One sign-in came before, that of the administrator.
    for _ in 0..9 {
        let reply = sign_in(world.nobody(), email, "a wrong password").await;
        checked += i32::from(reply.status == StatusCode::UNAUTHORIZED);
    }
    for (name, value) in [("x-forwarded-for", "203.0.113.7"), ("x-real-ip", "203.0.113.7"), ("x-none", "1")] {
        let form = [("username", email), ("password", PASSWORD)];
        let request = world.nobody().request(Method::POST, "/auth/login").header(name, value).form(&form);
        let reply = world.nobody().send(request).await.expect_status(StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(reply.problem_type(), "/problems/too-many-requests");
        let pause: u64 = reply.header("retry-after").and_then(|text| text.parse().ok()).expect("Retry-After");
        assert!((1..=60).contains(&pause));
    }

    let elsewhere =
        reqwest::Client::builder().no_proxy().local_address(std::net::IpAddr::from([127, 0, 0, 2]));
    let elsewhere = elsewhere.build().expect("the options are valid");
    let from_elsewhere = async |email: &str| {
        let request = elsewhere.post(format!("{}/auth/login", world.nobody().base()));
        let form = [("username", email), ("password", "a wrong password")];
        request.form(&form).send().await.expect("the api answers").status()
    };
    assert_eq!(from_elsewhere(email).await, StatusCode::TOO_MANY_REQUESTS, "the account is limited");
    assert_eq!(from_elsewhere("other@platform.example").await, StatusCode::UNAUTHORIZED, "nobody else is");
    println!("login limit: {checked} guesses checked, then 429");
    assert_eq!(checked, 9);
    world.close().await;
}

#[tokio::test]
async fn an_operation_below_api_auth_is_the_same_as_below_auth() {
    let world = World::start().await;
    let admin = &world.admin.client;
    for (method, path) in [
        (Method::GET, "/auth/me"),
        (Method::GET, "/auth/status"),
        (Method::POST, "/auth/login"),
        (Method::POST, "/auth/refresh"),
        (Method::POST, "/auth/register"),
        (Method::GET, "/auth/logout"),
        (Method::GET, "/auth/nothing"),
    ] {
        let plain = admin.send(admin.request(method.clone(), path)).await;
        let alias = admin.send(admin.request(method, &format!("/api{path}"))).await;
        let shape = |reply: &Reply| {
            let mut body = reply.json();
            if let Some(members) = body.as_object_mut() {
                members.remove("request_id");
            }
            (reply.status, body)
        };
        assert_eq!(shape(&plain), shape(&alias), "{path}");
    }
    let token = sign_in(world.nobody(), &world.admin.email, PASSWORD).await.text("refresh_token");
    let reply = world.nobody().post("/api/auth/refresh", &json!({"refresh_token": token})).await;
    reply.expect_status(StatusCode::OK);
    admin.post("/api/auth/logout", &Value::Null).await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn a_session_that_ends_closes_its_sockets() {
    let world = World::start().await;
    let other = Replica::start(world.test.settings_in_process()).await;
    let mut socket = Socket::connect(&other.at(&world.admin.client), "/ws/connect").await;
    assert_eq!(socket.next().await.expect("a frame")["type"], "connected");

    let began = Instant::now();
    world.admin.client.post("/auth/logout", &Value::Null).await.expect_status(StatusCode::OK);
    assert_eq!(socket.close_code().await, Some(4001));
    println!("logout: socket closed after {:?}", began.elapsed());
    assert!(began.elapsed() < AT_ONCE);
    world.close().await;
}
