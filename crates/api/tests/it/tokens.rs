//! Access tokens that were forged, altered or meant for another door: none of them lets anybody in.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use testkit::Socket;

use crate::support::{PASSWORD, World};

/// Makes tokens with the installation's own key out of the parts of a good one.
pub(crate) struct Forge {
    key: Vec<u8>,
    header: Value,
    claims: Value,
    good: String,
}

impl Forge {
    pub(crate) fn of(world: &World) -> Self {
        let good = world.admin.client.bearer().expect("signed in").to_owned();
        let key = world.test.settings().secret_key.expect("there is a key");
        let part = |n: usize| {
            let part = good.split('.').nth(n).expect("three parts");
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
        };
        Self { key: key.expose_secret().as_bytes().to_vec(), header: part(0), claims: part(1), good }
    }

    /// A good token with one claim replaced; null removes it.
    pub(crate) fn with(&self, claim: &str, value: Value) -> String {
        self.sign(&self.header, &replaced(&self.claims, claim, value))
    }

    fn with_header(&self, member: &str, value: Value) -> String {
        self.sign(&replaced(&self.header, member, value), &self.claims)
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        signed(header, claims, &self.key, Algorithm::HS256)
    }
}

fn replaced(object: &Value, member: &str, value: Value) -> Value {
    let mut object = object.clone();
    let members = object.as_object_mut().expect("an object");
    match value {
        Value::Null => members.remove(member),
        value => members.insert(member.to_owned(), value),
    };
    object
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn signed(header: &Value, claims: &Value, key: &[u8], algorithm: Algorithm) -> String {
    let message = unsigned(header, claims);
    let key = EncodingKey::from_secret(key);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).expect("signs");
    format!("{message}.{signature}")
}

/// What is wrong with each token, and the token.
fn corpus(forge: &Forge, refresh_token: &str) -> Vec<(String, String)> {
    let now = chrono::Utc::now().timestamp();
    let mut corpus: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, token: String| corpus.push((name.to_owned(), token));

    for (claim, value) in [
        ("exp", json!(now - 60)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!((now + 600).to_string())),
        ("exp", json!(true)),
        ("exp", json!([now + 600])),
        ("exp", Value::Null),
        ("iss", json!("bifrost")),
        ("iss", json!("BIFROST-API")),
        ("iss", Value::Null),
        ("aud", json!("bifrost-api")),
        ("aud", json!(["somebody-else"])),
        ("aud", Value::Null),
        ("typ", json!("refresh")),
        ("typ", json!("mfa")),
        ("typ", json!("Access")),
        ("typ", Value::Null),
        ("sid", json!(uuid::Uuid::now_v7())),
        ("sid", json!("' OR 1=1 --")),
        ("sid", forge.claims["sub"].clone()),
        ("sid", Value::Null),
        ("sub", Value::Null),
        ("exp", json!({})),
        ("exp", json!(1.5)),
        ("nbf", json!(now + 600)),
        ("nbf", json!("later")),
        ("iss", json!(["bifrost-api"])),
        ("aud", json!(["bifrost-client", "somebody-else"])),
        ("aud", json!({"bifrost-client": true})),
        ("typ", json!(["access"])),
        ("sid", json!([forge.claims["sid"]])),
    ] {
        add(&format!("{claim} = {value}"), forge.with(claim, value));
    }

    for (member, value) in [
        ("kid", json!("default")),
        ("kid", json!("../../../../dev/null")),
        ("kid", json!("' UNION SELECT 'x' --")),
        ("kid", json!("")),
        ("kid", Value::Null),
        ("alg", json!("none")),
        ("alg", json!("hs256")),
        ("alg", json!("HS512")),
        ("alg", json!("RS256")),
        ("alg", Value::Null),
    ] {
        add(&format!("header {member} = {value}"), forge.with_header(member, value));
    }

    for none in ["none", "None", "NONE", "nOnE"] {
        let header = replaced(&forge.header, "alg", json!(none));
        add(&format!("alg {none} without signature"), format!("{}.", unsigned(&header, &forge.claims)));
    }
    for (name, algorithm) in [("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)] {
        let header = replaced(&forge.header, "alg", json!(name));
        add(&format!("honest {name}"), signed(&header, &forge.claims, &forge.key, algorithm));
    }
    // A key of one's own, which the header offers to verify by.
    for (member, value) in [
        ("jwk", json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode("a key of one's own")})),
        ("jku", json!("http://127.0.0.1:9/keys.json")),
        ("x5u", json!("http://127.0.0.1:9/chain.pem")),
    ] {
        let header = replaced(&forge.header, member, value);
        add(
            &format!("a key offered by {member}"),
            signed(&header, &forge.claims, b"a key of one's own", Algorithm::HS256),
        );
    }
    for (name, key) in [("another", b"Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_Te".as_slice()), ("an empty", b"")] {
        add(&format!("signed by {name} key"), signed(&forge.header, &forge.claims, key, Algorithm::HS256));
    }

    let (message, signature) = forge.good.rsplit_once('.').expect("three parts");
    let (header, payload) = message.split_once('.').expect("two parts");
    let admin = URL_SAFE_NO_PAD.encode(replaced(&forge.claims, "is_superuser", json!(false)).to_string());
    add("no signature", format!("{message}."));
    add("two parts", message.to_owned());
    add("four parts", format!("{}.x", forge.good));
    add("a cut signature", format!("{message}.{}", &signature[..signature.len() - 4]));
    add("a signature of other claims", format!("{header}.{admin}.{signature}"));
    add("padding", format!("{header}.{payload}.{signature}="));
    add("the standard alphabet", {
        let decoded = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        format!("{message}.{}", STANDARD.encode(decoded))
    });
    add("claims that are no object", forge.sign(&forge.header, &json!([1])));
    add("a header that is no object", forge.sign(&json!("HS256"), &forge.claims));
    add("five parts, as if encrypted", format!("{header}.{payload}.{payload}.{payload}.{signature}"));
    add("a space within", format!("{header}. {payload}.{signature}"));
    add("nothing", String::new());
    add("dots", "..".to_owned());
    add("a refresh token", refresh_token.to_owned());
    add("an SDK key", "bfsk_0123456789abcdef0123456789abcdef".to_owned());
    add("a very long token", format!("{message}.{}", "A".repeat(6_000)));
    corpus
}

#[tokio::test]
async fn no_forged_token_is_accepted_at_any_door() {
    let world = World::start().await;
    let nobody = world.nobody();
    let login = [("username", world.admin.email.as_str()), ("password", PASSWORD)];
    let reply = nobody.send(nobody.request(Method::POST, "/auth/login").form(&login)).await;
    let forge = Forge::of(&world);
    let corpus = corpus(&forge, &reply.text("refresh_token"));
    assert!(corpus.len() >= 60);

    let by_bearer = |token: &str| {
        nobody.request(Method::GET, "/auth/me").header("authorization", format!("Bearer {token}"))
    };
    let by_cookie = |token: &str| {
        nobody.request(Method::GET, "/auth/me").header("cookie", format!("access_token={token}"))
    };
    for good in [forge.good.clone(), forge.with("name", json!("another name"))] {
        nobody.send(by_bearer(&good)).await.expect_status(StatusCode::OK);
        nobody.send(by_cookie(&good)).await.expect_status(StatusCode::OK);
    }

    let mut accepted = Vec::new();
    for (name, token) in &corpus {
        for request in [by_bearer(token), by_cookie(token)] {
            let reply = nobody.send(request).await;
            if reply.status != StatusCode::UNAUTHORIZED {
                accepted.push(format!("{name}: {}", reply.status));
            }
        }
        let mut socket = Socket::connect(&nobody.with_bearer(token.as_str()), "/ws/connect").await;
        let code = socket.close_code().await;
        if code != Some(4001) {
            accepted.push(format!("{name} at the socket: {code:?}"));
        }
        let refresh = json!({"refresh_token": token});
        let is_refresh_token = name == "a refresh token";
        if !is_refresh_token
            && nobody.post("/auth/refresh", &refresh).await.status != StatusCode::UNAUTHORIZED
        {
            accepted.push(format!("{name} to refresh"));
        }
    }
    let reply = nobody.post("/auth/refresh", &json!({"refresh_token": forge.good})).await;
    reply.expect_status(StatusCode::UNAUTHORIZED);
    println!("tokens: {} forged, accepted {}", corpus.len(), accepted.len());
    assert!(accepted.is_empty(), "{accepted:#?}");
    world.close().await;
}

#[tokio::test]
async fn what_a_token_claims_beyond_its_session_changes_nothing() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let own = Forge { good: String::new(), ..Forge::of(&world) };
    let session = ada.client.bearer().and_then(|token| token.split('.').nth(1)).expect("three parts");
    let session: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(session).expect("base64")).expect("JSON");
    let mut claims = own.claims.clone();
    claims["sid"] = session["sid"].clone();
    let promoted = world.nobody().with_bearer(own.sign(&own.header, &claims));

    let me = promoted.get("/auth/me").await.expect_status(StatusCode::OK).json();
    assert_eq!((&me["email"], &me["is_superuser"]), (&json!("ada@acme.example"), &json!(false)));
    promoted.get("/api/organizations").await.expect_status(StatusCode::FORBIDDEN);
    world.close().await;
}
