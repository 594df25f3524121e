//! What guards browsers: cookies, the CSRF token, origins, headers.

use domain::settings::Environment;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Reply, Socket};

use crate::support::{PASSWORD, World, cookie};

async fn sign_in(world: &World) -> Reply {
    let form = [("username", world.admin.email.as_str()), ("password", PASSWORD)];
    let nobody = world.nobody();
    nobody.send(nobody.request(Method::POST, "/auth/login").form(&form)).await.expect_status(StatusCode::OK)
}

/// The attributes of a cookie, sorted.
fn attributes(reply: &Reply, name: &str) -> Vec<String> {
    let (_, attributes) = cookie(reply, name).unwrap_or_else(|| panic!("no cookie {name}"));
    let mut attributes: Vec<String> =
        attributes.split(';').map(|attribute| attribute.trim().to_owned()).collect();
    attributes.sort();
    attributes
}

/// What a browser sends along.
fn jar(reply: &Reply, access: &str) -> String {
    let value = |name: &str| cookie(reply, name).expect("is set").0;
    format!("{access}={}; csrf_token={}", value(access), value("csrf_token"))
}

async fn write(client: &Client, cookies: &str, csrf: Option<&str>) -> Reply {
    let mut request = client.request(Method::POST, "/api/organizations").header("cookie", cookies);
    if let Some(csrf) = csrf {
        request = request.header("x-csrf-token", csrf);
    }
    client.send(request.json(&json!({"name": "New"}))).await
}

#[tokio::test]
async fn cookies_are_set_at_sign_in_and_cleared_at_sign_out() {
    let world = World::start().await;
    let reply = sign_in(&world).await;
    assert_eq!(attributes(&reply, "access_token"), ["HttpOnly", "Max-Age=900", "Path=/", "SameSite=Lax"]);
    assert_eq!(attributes(&reply, "refresh_token"), ["HttpOnly", "Max-Age=604800", "Path=/", "SameSite=Lax"]);
    assert_eq!(attributes(&reply, "csrf_token"), ["Max-Age=604800", "Path=/", "SameSite=Strict"]);
    assert_eq!(cookie(&reply, "access_token").expect("is set").0, reply.text("access_token"));

    let csrf = cookie(&reply, "csrf_token").expect("is set").0;
    let request = world.nobody().request(Method::POST, "/auth/logout");
    let request = request.header("cookie", jar(&reply, "access_token")).header("x-csrf-token", csrf);
    let left = world.nobody().send(request).await.expect_status(StatusCode::OK);
    for name in ["access_token", "refresh_token", "csrf_token"] {
        assert_eq!(cookie(&left, name).expect("is set").0, "");
        assert!(attributes(&left, name).contains(&"Max-Age=0".to_owned()));
    }
    world.close().await;
}

#[tokio::test]
async fn production_binds_cookies_to_the_host_and_to_tls() {
    let world = World::with(|settings| settings.environment = Environment::Production).await;
    let reply = sign_in(&world).await;
    for name in ["__Host-access_token", "__Host-refresh_token", "csrf_token"] {
        let attributes = attributes(&reply, name);
        assert!(
            attributes.contains(&"Secure".to_owned()) && attributes.contains(&"Path=/".to_owned()),
            "{name}"
        );
        assert!(!attributes.iter().any(|attribute| attribute.starts_with("Domain")), "{name}");
    }
    assert!(cookie(&reply, "access_token").is_none());
    assert!(reply.header("strict-transport-security").is_some());

    let me = |cookies: String| world.nobody().request(Method::GET, "/auth/me").header("cookie", cookies);
    let token = reply.text("access_token");
    world.nobody().send(me(format!("__Host-access_token={token}"))).await.expect_status(StatusCode::OK);
    let reply = world.nobody().send(me(format!("access_token={token}"))).await;
    reply.expect_status(StatusCode::UNAUTHORIZED);
    world.close().await;
}

#[tokio::test]
async fn a_cookie_write_repeats_the_csrf_token() {
    let world = World::start().await;
    let reply = sign_in(&world).await;
    let cookies = jar(&reply, "access_token");
    let csrf = cookie(&reply, "csrf_token").expect("is set").0;
    let nobody = world.nobody();

    let missing = write(nobody, &cookies, None).await.expect_status(StatusCode::FORBIDDEN);
    assert_eq!(missing.detail(), "CSRF token missing");
    let mismatch = write(nobody, &cookies, Some("guess")).await.expect_status(StatusCode::FORBIDDEN);
    assert_eq!(mismatch.detail(), "CSRF token mismatch");
    let token_alone = format!("access_token={}", reply.text("access_token"));
    write(nobody, &token_alone, Some(csrf)).await.expect_status(StatusCode::FORBIDDEN);
    write(nobody, &cookies, Some(csrf)).await.expect_status(StatusCode::CREATED);

    let read = nobody.request(Method::GET, "/api/organizations").header("cookie", &cookies);
    nobody.send(read).await.expect_status(StatusCode::OK);
    // A bearer decides alone: it needs no CSRF token, and a bad one is not saved by a good cookie.
    write(&world.admin.client, &cookies, None).await.expect_status(StatusCode::CREATED);
    write(&nobody.with_bearer("bad"), &cookies, Some(csrf)).await.expect_status(StatusCode::UNAUTHORIZED);
    world.close().await;
}

#[tokio::test]
async fn only_named_origins_may_read_with_credentials() {
    let world =
        World::with(|settings| settings.cors_origins = "https://app.example.com, *, null".into()).await;
    let nobody = world.nobody();
    let preflight = |origin: &'static str| {
        nobody
            .request(Method::OPTIONS, "/api/organizations")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "x-csrf-token,x-organization-id")
    };
    let allowed = nobody.send(preflight("https://app.example.com")).await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(allowed.header("access-control-allow-credentials"), Some("true"));
    let headers = allowed.header("access-control-allow-headers").expect("is set");
    assert!(headers.contains("x-csrf-token") && headers.contains("x-organization-id"));

    let foreign = [
        "https://evil.example.com",
        "null",
        "*",
        "https://app.example.com.evil.com",
        "http://app.example.com",
    ];
    for origin in foreign {
        let refused = nobody.send(preflight(origin)).await;
        assert_eq!(refused.header("access-control-allow-origin"), None, "{origin}");
        let request = nobody.request(Method::GET, "/health").header("origin", origin);
        assert_eq!(nobody.send(request).await.header("access-control-allow-origin"), None, "{origin}");
    }
    println!("origins: {} foreign, allowed 0", foreign.len());
    world.close().await;
}

#[tokio::test]
async fn a_page_of_ours_sees_that_its_request_took_too_long() {
    let world = World::with(|settings| settings.cors_origins = "https://app.example.com".into()).await;
    let mut other = world.test.db.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE forms").execute(&mut other).await.expect("locks");
    let admin = &world.admin.client;
    let request = admin.request(Method::GET, "/api/forms").header("origin", "https://app.example.com");
    let late = admin.send(request).await.expect_status(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(late.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(late.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(late.header("x-content-type-options"), Some("nosniff"));
    assert!(late.header("x-request-id").is_some() && late.header("retry-after").is_some());
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.expect("unlocks");
    world.close().await;
}

#[tokio::test]
async fn a_socket_by_cookie_needs_our_own_origin() {
    let world = World::with(|settings| settings.cors_origins = "https://app.example.com".into()).await;
    let reply = sign_in(&world).await;
    let cookies = jar(&reply, "access_token");
    let nobody = world.nobody();
    let own = nobody.base().to_owned();
    for (origin, welcome) in [
        (Some(own.as_str()), true),
        (Some("https://app.example.com"), true),
        (Some("https://evil.example.com"), false),
        (Some("null"), false),
        (None, false),
    ] {
        let mut headers = vec![("cookie", cookies.clone())];
        headers.extend(origin.map(|origin| ("origin", origin.to_owned())));
        let mut socket = Socket::connect_with(nobody, "/ws/connect", &headers).await;
        if welcome {
            assert_eq!(socket.next().await.expect("a frame")["type"], "connected", "{origin:?}");
        } else {
            assert_eq!(socket.close_code().await, Some(4003), "{origin:?}");
        }
    }
    world.close().await;
}

#[tokio::test]
async fn every_answer_carries_the_headers_that_guard_it() {
    let world = World::start().await;
    let (admin, nobody) = (&world.admin.client, world.nobody());
    let replies = [
        nobody.get("/health").await,
        nobody.get("/api/nothing").await,
        nobody.get("/api/executions").await,
        admin.get("/api/executions").await,
        admin.post("/api/organizations", &Value::Null).await,
        nobody.get("/docs/").await,
    ];
    for reply in &replies {
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("x-frame-options"), Some("DENY"));
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
        assert!(reply.header("x-request-id").is_some());
        assert_eq!(reply.header("strict-transport-security"), None, "only production has TLS for certain");
    }
    let ids: std::collections::HashSet<_> =
        replies.iter().filter_map(|reply| reply.header("x-request-id")).collect();
    assert_eq!(ids.len(), replies.len());
    world.close().await;
}
