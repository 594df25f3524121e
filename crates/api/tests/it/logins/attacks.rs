//! Attacks on sign-ins with providers. Whatever is tried here must leave no session, no account and no link behind.

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{LoginServer, Signing, Visitor};

use super::{Browser, PAGE, PROVIDERS, location, stage};
use crate::support::World;

/// Counts what was tried, and what must not come of it.
struct Tally {
    tried: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn expect(
        &mut self,
        attack: &str,
        found: impl std::fmt::Debug + PartialEq,
        expected: impl std::fmt::Debug,
    ) {
        self.tried += 1;
        let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
        if found != expected {
            self.wrong.push(format!("{attack}: {found} instead of {expected}"));
        }
    }
}

async fn standing(world: &World) -> (i64, i64, i64) {
    (
        world.count("SELECT count(*) FROM sessions").await,
        world.count("SELECT count(*) FROM users").await,
        world.count("SELECT count(*) FROM provider_logins").await,
    )
}

#[tokio::test]
async fn no_attack_ends_in_a_session() {
    let (world, server) = stage().await;
    let deactivated = world.person("gone@acme.example").await;
    let path = format!("/api/users/{}", deactivated.id);
    world.admin.client.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    // The victim, whose login is known.
    server.seat(Visitor::new(1, "victim@acme.example"));
    Browser::new(world.nobody()).sign_in(&server, "google").await.expect_status(StatusCode::OK);
    let before = standing(&world).await;
    let mut tally = Tally { tried: 0, wrong: Vec::new() };

    states(&world, &server, &mut tally).await;
    addresses(&world, &mut tally).await;
    tokens(&world, &server, &mut tally).await;
    people(&world, &server, &mut tally).await;

    assert!(tally.wrong.is_empty(), "{}", tally.wrong.join("\n"));
    let after = standing(&world).await;
    println!("logins: {} attacks, sessions from attacks {}", tally.tried, after.0 - before.0);
    assert_eq!(after, before);
    assert!(tally.tried > 80, "{}", tally.tried);
    world.close().await;
}

/// Codes and states that were not given to this browser for this.
async fn states(world: &World, server: &LoginServer, tally: &mut Tally) {
    server.seat(Visitor::new(1, "victim@acme.example"));
    for provider in PROVIDERS {
        let mut browser = Browser::new(world.nobody());
        let back = server.visit(&browser.begin(provider).await).await;
        for state in ["", "guessed", &back.code] {
            let reply = browser.end(provider, &back.code, state).await;
            tally.expect("a guessed state", reply.status.as_u16(), 400);
        }
        // The sign-in of an attacker, put under a victim's browser: with no cookie, and with its own.
        let reply = Browser::new(world.nobody()).end(provider, &back.code, &back.state).await;
        tally.expect("a state without its browser", reply.status.as_u16(), 400);
        let mut victim = Browser::new(world.nobody());
        victim.begin(provider).await;
        let back = server.visit(&browser.begin(provider).await).await;
        let reply = victim.end(provider, &back.code, &back.state).await;
        tally.expect("a state of another browser", reply.status.as_u16(), 400);
        let reply = browser.end(provider, &back.code, &back.state).await;
        tally.expect("a state that was presented elsewhere", reply.status.as_u16(), 400);
        let path = format!("/auth/{provider}/callback?code={}&state={}", back.code, back.state);
        tally.expect("the same by redirect", location(&victim.get(&path).await), "/login?error=state");

        // A code that was given to another sign-in: the verifier does not fit.
        let stolen = server.visit(&victim.begin(provider).await).await;
        let own = server.visit(&browser.begin(provider).await).await;
        let reply = browser.end(provider, &stolen.code, &own.state).await;
        tally.expect("a code of another sign-in", reply.status.as_u16(), 400);

        // A state for one way of ending is none for the other, nor for another provider.
        let back = server.visit(&browser.begin(provider).await).await;
        let path = format!("/auth/{provider}/callback?code={}&state={}", back.code, back.state);
        tally.expect("a page's state by redirect", location(&browser.get(&path).await), "/login?error=state");
        let sent = browser.get(&format!("/auth/{provider}/authorize")).await;
        let back = server.visit(location(&sent)).await;
        let reply = browser.end(provider, &back.code, &back.state).await;
        tally.expect("a redirect's state from a page", reply.status.as_u16(), 400);
        let other = PROVIDERS[(PROVIDERS.iter().position(|p| *p == provider).expect("is one") + 1) % 4];
        let back = server.visit(&browser.begin(provider).await).await;
        let reply = browser.end(other, &back.code, &back.state).await;
        tally.expect("a state of another provider", reply.status.as_u16(), 400);
        // Another issuer answers (RFC 9207), and a provider that says no.
        for (extra, error) in [("&iss=https://evil.example", "exchange"), ("&error=access_denied", "denied")]
        {
            let sent = browser.get(&format!("/auth/{provider}/authorize")).await;
            let back = server.visit(location(&sent)).await;
            if provider == "github" || (provider == "microsoft" && error == "exchange") {
                continue;
            }
            let path = format!("/auth/{provider}/callback?code={}&state={}{extra}", back.code, back.state);
            let expected = format!("/login?error={error}");
            tally.expect(
                "an answer of somebody else",
                location(&browser.get(&path).await).to_owned(),
                expected,
            );
        }
    }
}

/// Where a code, or a browser, must not be sent.
async fn addresses(world: &World, tally: &mut Tally) {
    let mut browser = Browser::new(world.nobody());
    for address in [
        "https://evil.example/auth/callback",
        "https://app.example.evil.example/",
        "https://evil.example/https://app.example/",
        "https://app.example@evil.example/",
        "https://user:secret@app.example/",
        "http://app.example/auth/callback",
        "https://app.example:444/",
        "https://other.example/",
        "https://sub.app.example/",
        "//app.example/",
        "/auth/callback",
        "javascript:alert(1)//https://app.example",
        "data:text/html,x",
        "null",
        "https://app.example%252f@evil.example/",
        "https://app.example%23fragment",
    ] {
        let path = format!("/auth/oauth/init/google?redirect_uri={address}");
        tally.expect(address, browser.get(&path).await.status.as_u16(), 400);
    }
    for next in
        ["//evil.example", "/%5cevil.example", "https://evil.example", "/%09/evil.example", "evil", "%0d%0aa"]
    {
        let path = format!("/auth/google/authorize?next={next}");
        tally.expect(next, browser.get(&path).await.status.as_u16(), 422);
    }
}

/// ID tokens that do not hold.
async fn tokens(world: &World, server: &LoginServer, tally: &mut Tally) {
    let victim = Visitor::new(1, "victim@acme.example");
    let microsoft = format!("{}/microsoft/{}/v2.0", server.base(), "00000000-0000-0000-0000-000000000001");
    let forged: [(&str, Value); 12] = [
        ("iss", json!("https://evil.example")),
        ("iss", json!(format!("{}/github", server.base()))),
        ("iss", json!(microsoft)),
        ("aud", json!("another-client")),
        ("aud", json!(["bifrost-client", "another-client"])),
        ("aud", Value::Null),
        ("exp", json!(1_700_000_000)),
        ("exp", Value::Null),
        ("nonce", json!("another")),
        ("nonce", json!("")),
        ("nonce", Value::Null),
        ("sub", Value::Null),
    ];
    for provider in ["google", "microsoft", "oidc"] {
        for (claim, value) in &forged {
            let mut visitor = victim.clone();
            visitor.claims[*claim] = value.clone();
            server.seat(visitor);
            // The server leaves out what is null, but sets the issuer itself where there is none.
            let reply = Browser::new(world.nobody()).sign_in(server, provider).await;
            tally.expect(&format!("{provider}: {claim} {value}"), reply.status.as_u16(), 400);
        }
        server.seat(victim.clone());
        for signing in [Signing::OtherKey, Signing::Nothing, Signing::ClientSecret] {
            server.sign(signing);
            let reply = Browser::new(world.nobody()).sign_in(server, provider).await;
            tally.expect(&format!("{provider}: {signing:?}"), reply.status.as_u16(), 400);
        }
        server.sign(Signing::Right);
    }
    for tenant in [json!("common"), json!("../evil"), Value::Null] {
        server.seat(victim.clone().claiming("tid", tenant.clone()));
        let reply = Browser::new(world.nobody()).sign_in(server, "microsoft").await;
        tally.expect(&format!("tenant {tenant}"), reply.status.as_u16(), 400);
    }
    let mut visitor = victim.clone().claiming("email", Value::Null);
    visitor.user_info = json!({"sub": "2", "email": "victim@acme.example", "email_verified": true});
    server.seat(visitor);
    let reply = Browser::new(world.nobody()).sign_in(server, "oidc").await;
    tally.expect("user info of somebody else", reply.status.as_u16(), 400);
}

/// People who are whom they say they are there, and nobody here.
async fn people(world: &World, server: &LoginServer, tally: &mut Tally) {
    let unverified = [json!(false), Value::Null];
    for email in ["victim@acme.example", "admin@platform.example", "new@acme.example"] {
        for verified in &unverified {
            for provider in ["google", "oidc"] {
                server.seat(Visitor::new(66, email).claiming("email_verified", verified.clone()));
                let reply = Browser::new(world.nobody()).sign_in(server, provider).await;
                tally.expect(&format!("{provider}: {email} unverified"), reply.status.as_u16(), 403);
            }
        }
        // A tenant's administrator types any address; `email_verified` of theirs says nothing either.
        for owner in [json!(false), json!("0"), Value::Null] {
            server.seat(Visitor::new(66, email).claiming("xms_edov", owner.clone()));
            let reply = Browser::new(world.nobody()).sign_in(server, "microsoft").await;
            tally.expect(&format!("microsoft: {email}, owner {owner}"), reply.status.as_u16(), 403);
        }
        for emails in [
            json!([{"email": email, "primary": true, "verified": false}]),
            json!([{"email": email, "primary": false, "verified": true}]),
            json!([
                {"email": "eve@nowhere.example", "primary": true, "verified": true},
                {"email": email, "primary": false, "verified": true},
            ]),
            json!([]),
        ] {
            let mut visitor = Visitor::new(66, email);
            visitor.github_emails = emails.clone();
            server.seat(visitor);
            let reply = Browser::new(world.nobody()).sign_in(server, "github").await;
            tally.expect(&format!("github: {emails}"), reply.status.as_u16(), 403);
        }
    }
    for (who, visitor) in [
        ("the next holder of the victim's address", Visitor::new(2, "victim@acme.example")),
        ("a deactivated account", Visitor::new(3, "gone@acme.example")),
        ("the platform itself", Visitor::new(4, "system@bifrost.invalid")),
        ("somebody of no organization", Visitor::new(5, "eve@nowhere.example")),
        ("two addresses in one", Visitor::new(6, "eve@evil.example@acme.example")),
        ("no address at all", Visitor::new(7, "acme.example")),
    ] {
        server.seat(visitor);
        let reply = Browser::new(world.nobody()).sign_in(server, "google").await;
        tally.expect(who, reply.status.as_u16(), 403);
    }
    let mut browser = Browser::new(world.nobody());
    let ended = browser.follow(server, "google", "/").await;
    tally.expect("the last by redirect", location(&ended), "/login?error=account");
}

#[tokio::test]
async fn a_discovery_document_of_another_issuer_is_not_believed() {
    let (world, server) = stage().await;
    server.pretend_to_be(Some("https://accounts.google.com"));
    for provider in ["google", "microsoft", "oidc"] {
        let path = format!("/auth/oauth/init/{provider}?redirect_uri={PAGE}");
        let reply = Browser::new(world.nobody()).get(&path).await;
        reply.expect_status(StatusCode::SERVICE_UNAVAILABLE);
    }
    world.close().await;
}
