//! Proving an e-mail address by mail: confirming it, setting a new password, and what production makes of it.

use std::time::{Duration, Instant};

use domain::settings::Environment;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, MailServer, Reply};

use crate::support::{PASSWORD, World};

const NEW_PASSWORD: &str = "another long password";

async fn sign_in(client: &Client, email: &str, password: &str) -> Reply {
    let form = [("username", email), ("password", password)];
    client.send(client.request(Method::POST, "/auth/login").form(&form)).await
}

/// Production with a mail server. Each call takes an address of its own, so that limits do not get in the way.
async fn production(server: &MailServer) -> World {
    let url = server.url().to_owned();
    World::with(move |settings| {
        settings.environment = Environment::Production;
        settings.smtp_url = Some(url.into());
        settings.public_url = "https://bifrost.example.com".into();
        settings.trusted_proxies = "127.0.0.1".into();
    })
    .await
}

/// A client at an address that nobody else has.
async fn post(world: &World, path: &str, body: &Value) -> Reply {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    let address =
        std::net::Ipv4Addr::from(0xC633_0000 + NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let request = world.nobody().request(Method::POST, path).header("x-forwarded-for", address.to_string());
    world.nobody().send(request.json(body)).await
}

async fn invite(world: &World, email: &str) {
    let organization = world.org(email.split(['@', '.']).nth(1).expect("a domain")).await;
    let invitation = json!({"email": email, "name": "Grace", "organization_id": organization});
    world.admin.client.post("/api/users", &invitation).await.expect_status(StatusCode::CREATED);
}

#[tokio::test]
async fn an_invited_person_signs_in_after_the_mailed_link_and_not_before() {
    let mut server = MailServer::start().await;
    let world = production(&server).await;
    let email = "grace@acme.example";
    invite(&world, email).await;

    let account = json!({"email": email, "password": PASSWORD});
    let registered = post(&world, "/auth/register", &account).await.expect_status(StatusCode::CREATED);
    assert_eq!(registered.json()["is_verified"], false);
    let mail = server.next().await;
    assert_eq!(mail.to, email);
    assert!(mail.text.contains("https://bifrost.example.com/verify-email?token="), "{}", mail.text);
    let refused = sign_in(world.nobody(), email, PASSWORD).await.expect_status(StatusCode::FORBIDDEN);
    assert!(refused.text("detail").contains("not confirmed"));

    let token = json!({"token": mail.token()});
    post(&world, "/auth/verify", &token).await.expect_status(StatusCode::OK);
    sign_in(world.nobody(), email, PASSWORD).await.expect_status(StatusCode::OK);
    post(&world, "/auth/verify", &token).await.expect_status(StatusCode::BAD_REQUEST);
    let again = post(&world, "/auth/register", &account).await.expect_status(StatusCode::BAD_REQUEST);
    assert_eq!(again.text("detail"), "Email already registered");
    world.close().await;
}

#[tokio::test]
async fn registering_with_a_changed_address_does_not_get_its_account() {
    let mut server = MailServer::start().await;
    let world = production(&server).await;
    invite(&world, "grace@acme.example").await;
    let account = json!({"email": "grace@acme.example", "password": PASSWORD});
    post(&world, "/auth/register", &account).await.expect_status(StatusCode::CREATED);
    let token = json!({"token": server.next().await.token()});
    post(&world, "/auth/verify", &token).await.expect_status(StatusCode::OK);
    sign_in(world.nobody(), "grace@acme.example", PASSWORD).await.expect_status(StatusCode::OK);
    // As an administrator of her organization leaves it.
    world.sql("UPDATE users SET email = 'hopper@acme.example', is_verified = FALSE WHERE email = 'grace@acme.example'").await;

    let stranger = json!({"email": "hopper@acme.example", "password": NEW_PASSWORD});
    let refused = post(&world, "/auth/register", &stranger).await.expect_status(StatusCode::BAD_REQUEST);
    assert_eq!(refused.text("detail"), "Email already registered");
    sign_in(world.nobody(), "hopper@acme.example", NEW_PASSWORD)
        .await
        .expect_status(StatusCode::UNAUTHORIZED);

    // Who has the mailbox has the account.
    post(&world, "/auth/forgot-password", &json!({"email": "hopper@acme.example"})).await;
    let reset = json!({"token": server.next().await.token(), "password": NEW_PASSWORD});
    post(&world, "/auth/reset-password", &reset).await.expect_status(StatusCode::OK);
    sign_in(world.nobody(), "hopper@acme.example", NEW_PASSWORD).await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn who_only_knows_an_invited_address_has_no_hold_on_it() {
    let mut server = MailServer::start().await;
    let world = production(&server).await;
    let email = "grace@acme.example";
    invite(&world, email).await;
    let register = async |password: &str| {
        let account = json!({"email": email, "password": password});
        post(&world, "/auth/register", &account).await.expect_status(StatusCode::CREATED);
    };

    register("the password of a stranger").await;
    let strangers = server.next().await.token();
    register(PASSWORD).await;
    let own = server.next().await.token();

    // The stranger's link died with the password it would have confirmed.
    let verify = async |token: &str| {
        let body = json!({"token": token});
        post(&world, "/auth/verify", &body).await.status
    };
    assert_eq!(verify(&strangers).await, StatusCode::BAD_REQUEST);
    assert_eq!(verify(&own).await, StatusCode::OK);
    sign_in(world.nobody(), email, "the password of a stranger")
        .await
        .expect_status(StatusCode::UNAUTHORIZED);
    sign_in(world.nobody(), email, PASSWORD).await.expect_status(StatusCode::OK);
    // An account that is confirmed is not registered over.
    let late = json!({"email": email, "password": "the password of a stranger"});
    post(&world, "/auth/register", &late).await.expect_status(StatusCode::BAD_REQUEST);
    sign_in(world.nobody(), email, PASSWORD).await.expect_status(StatusCode::OK);
    println!("accounts taken by whoever knows an invited address: 0");
    world.close().await;
}

#[tokio::test]
async fn a_forgotten_password_is_set_by_mail_once_and_ends_all_sessions() {
    let mut server = MailServer::start().await;
    let world = production(&server).await;
    let email = world.admin.email.clone();
    let forgot = post(&world, "/auth/forgot-password", &json!({"email": " Admin@Platform.Example"})).await;
    let unknown = post(&world, "/auth/forgot-password", &json!({"email": "nobody@platform.example"})).await;
    for reply in [&forgot, &unknown] {
        assert_eq!((reply.status, reply.text("message")), (StatusCode::ACCEPTED, unknown.text("message")));
    }
    let mail = server.next().await;
    assert!(mail.text.contains("https://bifrost.example.com/reset-password?token="), "{}", mail.text);

    let reset = async |token: &str, password: &str| {
        let body = json!({"token": token, "password": password});
        post(&world, "/auth/reset-password", &body).await
    };
    let weak = reset(&mail.token(), "password1234").await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(weak.json()["errors"][0]["pointer"], "/password");
    post(&world, "/auth/verify", &json!({"token": mail.token()}))
        .await
        .expect_status(StatusCode::BAD_REQUEST);
    let token = mail.token();
    let racers = futures::future::join_all((0..10).map(|_| reset(&token, NEW_PASSWORD))).await;
    let won = racers.iter().filter(|reply| reply.status == StatusCode::OK).count();
    assert!(racers.iter().all(|reply| matches!(reply.status.as_u16(), 200 | 400)));
    println!("uses of a password link that 10 racers tried: {won}");
    assert_eq!(won, 1);

    world.admin.client.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    sign_in(world.nobody(), &email, PASSWORD).await.expect_status(StatusCode::UNAUTHORIZED);
    sign_in(world.nobody(), &email, NEW_PASSWORD).await.expect_status(StatusCode::OK);
    assert!(!server.has_more(), "nobody else was written to");
    world.close().await;
}

#[tokio::test]
async fn an_expired_link_is_good_for_nothing_and_hashes_alone_are_stored() {
    let mut server = MailServer::start().await;
    let world = production(&server).await;
    post(&world, "/auth/forgot-password", &json!({"email": world.admin.email})).await;
    let token = server.next().await.token();
    let stored = world.text("SELECT string_agg(l::text, ' ') FROM account_links l").await;
    assert!(!stored.contains(&token), "{stored}");

    world.sql("UPDATE account_links SET expires_at = now() - interval '1 second'").await;
    let body = json!({"token": token, "password": NEW_PASSWORD});
    post(&world, "/auth/reset-password", &body).await.expect_status(StatusCode::BAD_REQUEST);
    sign_in(world.nobody(), &world.admin.email, PASSWORD).await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn a_new_address_or_password_ends_the_links_that_were_mailed() {
    let mut server = MailServer::start().await;
    let world = production(&server).await;
    let (old, new) = ("grace@acme.example", "hopper@acme.example");
    invite(&world, old).await;
    let account = json!({"email": old, "password": PASSWORD});
    let registered = post(&world, "/auth/register", &account).await.expect_status(StatusCode::CREATED);
    let path = format!("/api/users/{}", registered.text("id"));
    let verification = server.next().await.token();
    let change = async |body: Value| {
        world.admin.client.patch(&path, &body).await.expect_status(StatusCode::OK);
    };
    let forgot = async |email: &str| post(&world, "/auth/forgot-password", &json!({"email": email})).await;
    let reset = async |token: &str| {
        let body = json!({"token": token, "password": NEW_PASSWORD});
        post(&world, "/auth/reset-password", &body).await.status
    };
    forgot(old).await.expect_status(StatusCode::ACCEPTED);
    let link = server.next().await.token();

    // What was mailed to the old address leads nowhere, and neither does what its holder chose: nobody had proved it.
    change(json!({"email": new})).await;
    let verified = post(&world, "/auth/verify", &json!({"token": verification})).await;
    assert_eq!(verified.status, StatusCode::BAD_REQUEST);
    assert_eq!(reset(&link).await, StatusCode::BAD_REQUEST);
    sign_in(world.nobody(), new, PASSWORD).await.expect_status(StatusCode::UNAUTHORIZED);

    // The same address in other letters is no new one.
    forgot(new).await.expect_status(StatusCode::ACCEPTED);
    let link = server.next().await.token();
    change(json!({"email": " Hopper@Acme.example"})).await;
    assert_eq!(reset(&link).await, StatusCode::OK);
    sign_in(world.nobody(), new, NEW_PASSWORD).await.expect_status(StatusCode::OK);

    // Who proved an address keeps the password at another one.
    change(json!({"email": old})).await;
    sign_in(world.nobody(), old, NEW_PASSWORD).await.expect_status(StatusCode::OK);
    forgot(old).await.expect_status(StatusCode::ACCEPTED);
    let link = server.next().await.token();
    change(json!({"password": PASSWORD})).await;
    assert_eq!(reset(&link).await, StatusCode::BAD_REQUEST);
    sign_in(world.nobody(), old, PASSWORD).await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn whoever_knows_an_address_causes_little_mail() {
    let mut server = MailServer::start().await;
    let world = production(&server).await;
    for _ in 0..10 {
        // From a new address each time: the limit per address is not what holds here.
        post(&world, "/auth/forgot-password", &json!({"email": world.admin.email}))
            .await
            .expect_status(StatusCode::ACCEPTED);
        world.platform().mailer.drain().await;
    }
    let mut mails = 0;
    while server.has_more() {
        server.next().await;
        mails += 1;
    }
    println!("mails to one account by 10 requests from 10 addresses: {mails}");
    assert_eq!(mails, 3);

    let from_one = async || {
        let request = world
            .nobody()
            .request(Method::POST, "/auth/forgot-password")
            .header("x-forwarded-for", "192.0.2.7");
        world.nobody().send(request.json(&json!({"email": "nobody@platform.example"}))).await.status.as_u16()
    };
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(from_one().await);
    }
    assert_eq!(statuses, [202, 202, 202, 429]);
    world.close().await;
}

#[tokio::test]
async fn production_without_a_mail_server_says_so() {
    let world = World::with(|settings| settings.environment = Environment::Production).await;
    invite(&world, "grace@acme.example").await;

    let account = json!({"email": "grace@acme.example", "password": PASSWORD});
    world.nobody().post("/auth/register", &account).await.expect_status(StatusCode::SERVICE_UNAVAILABLE);
    let completed =
        world.count("SELECT count(*) FROM users WHERE email LIKE 'grace@%' AND is_registered").await;
    assert_eq!(completed, 0, "nobody could prove the address");
    // Who would be refused anyway hears why.
    for (email, status) in
        [("eve@acme.example", StatusCode::FORBIDDEN), (world.admin.email.as_str(), StatusCode::BAD_REQUEST)]
    {
        let account = json!({"email": email, "password": PASSWORD});
        world.nobody().post("/auth/register", &account).await.expect_status(status);
    }
    for path in ["/auth/forgot-password", "/auth/request-verify-token"] {
        let refused = world.nobody().post(path, &json!({"email": world.admin.email})).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(!refused.text("detail").contains("SMTP"), "settings are nobody's business");
    }
    world.close().await;
}

/// The middle of some durations.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// How far the answers to somebody who has an account, and to one without a password, are apart in time from those to
/// nobody: medians of calls that take turns, so that whatever else the machine does hits all alike.
async fn apart(world: &World, operation: &str) -> [Duration; 2] {
    const ROUNDS: usize = 31;
    let people = [world.admin.email.as_str(), "ada@acme.example", "nobody@platform.example"];
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (person, times) in people.iter().zip(&mut times) {
            let began = Instant::now();
            let reply = match operation {
                "/auth/login" => sign_in(world.nobody(), person, "a wrong password").await,
                _ => world.nobody().post(operation, &json!({"email": person})).await,
            };
            times.push(began.elapsed());
            assert!(matches!(reply.status.as_u16(), 202 | 401));
        }
    }
    let [known, without_password, nobody] = times.map(median);
    [known.abs_diff(nobody), without_password.abs_diff(nobody)]
}

#[tokio::test]
async fn neither_text_nor_time_tells_whether_there_is_an_account() {
    const MOST: Duration = Duration::from_millis(5);
    let world = World::start().await;
    world.org("acme").await;
    world.person("ada@acme.example").await;
    world.sql("UPDATE users SET password_hash = NULL WHERE email = 'ada@acme.example'").await;

    for operation in ["/auth/login", "/auth/forgot-password"] {
        let mut found = apart(&world, operation).await;
        // Noise comes and goes; a check that is left out shows every time.
        for _ in 0..2 {
            if found.iter().any(|apart| *apart >= MOST) {
                found = apart(&world, operation).await;
            }
        }
        println!(
            "{operation}: an account differs from none by {:?}, one without a password by {:?}",
            found[0], found[1]
        );
        assert!(found.iter().all(|apart| *apart < MOST), "{operation} tells by its time: {found:?}");
    }
    world.close().await;
}
