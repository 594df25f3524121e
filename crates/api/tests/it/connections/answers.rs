//! Answers of providers as they come: spelt in their own way, or of no use.

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::Client;

use super::failing::{connect_service, with_provider};

async fn refresh(admin: &Client, name: &str) -> Value {
    let path = format!("/api/oauth/connections/{name}/refresh");
    admin.post(&path, &Value::Null).await.expect_status(StatusCode::OK).json()
}

async fn credentials(admin: &Client, name: &str) -> Value {
    let path = format!("/api/oauth/credentials/{name}");
    admin.get(&path).await.expect_status(StatusCode::OK).json()["credentials"].clone()
}

#[tokio::test]
async fn ordinary_answers_bring_a_token_whatever_their_spelling() {
    let (provider, world) = with_provider().await;
    connect_service(&provider, &world).await;
    let admin = &world.admin.client;
    let rest = "SELECT extract(EPOCH FROM expires_at - now())::bigint FROM oauth_connections";
    let cases: [(Value, &str, i64); 6] = [
        (json!({"expires_in": "7200"}), "", 7200),
        (json!({"expires_in": 5400.5, "token_type": "bearer"}), "", 5400),
        // Without a lifetime that means anything it is an hour.
        (json!({"expires_in": -5}), "", 3600),
        (json!({"token_type": null, "scope": ["a", "b"]}), "a b", 3600),
        (json!({"scope": "a,b"}), "a b", 3600),
        (json!({"scope": "a b"}), "a b", 3600),
    ];
    for (kind, (answer, scopes, lifetime)) in
        ["application/json", "text/html"].into_iter().cycle().zip(&cases)
    {
        let mut answer = answer.clone();
        answer["access_token"] = json!(format!("token of {answer}"));
        provider.answers(StatusCode::OK, kind, answer.to_string());
        assert_eq!(refresh(admin, "service").await["success"], true, "{answer}");
        let now = credentials(admin, "service").await;
        assert_eq!(now["access_token"], answer["access_token"]);
        assert_eq!((&now["token_type"], &now["scopes"]), (&json!("Bearer"), &json!(scopes)), "{answer}");
        let rest = world.count(rest).await;
        assert!((rest - lifetime).abs() <= 60, "{answer}: {rest} s");
    }
    println!("ordinary answers: {} of {} brought a token", cases.len(), cases.len());
    world.close().await;
}

#[tokio::test]
async fn an_answer_of_no_use_is_a_refusal_and_the_next_one_is_taken() {
    let (provider, world) = with_provider().await;
    connect_service(&provider, &world).await;
    let admin = &world.admin.client;
    let cases = [
        (json!({"access_token": ""}), "access_token is empty"),
        (json!({"access_token": "x".repeat(100_000)}), "access_token may have at most 64 KiB"),
        (json!({"access_token": "a", "token_type": "a\0b"}), "token_type must not contain NUL"),
        (json!({"access_token": "a", "scope": "a\0b"}), "scope must not contain NUL"),
        (json!({}), "200 OK without a token"),
    ];
    for (answer, why) in &cases {
        provider.gives(answer);
        let refused = refresh(admin, "service").await;
        assert_eq!(refused["success"], false, "{why}");
        assert!(refused["message"].as_str().expect("says why").ends_with(why), "{refused}");
        assert_eq!(credentials(admin, "service").await["access_token"], "access", "the good one stays");
    }
    provider.answers(StatusCode::NOT_FOUND, "text/html", "<h1>Nothing here</h1>".into());
    let refused = refresh(admin, "service").await;
    assert_eq!(refused["message"], "the provider answered 404 Not Found without a token");
    provider.gives(&json!({"access_token": "next"}));
    assert_eq!(refresh(admin, "service").await["success"], true);
    assert_eq!(credentials(admin, "service").await["access_token"], "next");
    println!("answers of no use: {} of {} are refusals", cases.len() + 1, cases.len() + 1);
    world.close().await;
}

#[tokio::test]
async fn a_redirect_address_stays_as_it_is_given_and_an_empty_refresh_token_replaces_none() {
    let (provider, world) = with_provider().await;
    let admin = &world.admin.client;
    let body = json!({
        "connection_name": "graph", "oauth_flow_type": "authorization_code", "client_id": "client",
        "authorization_url": format!("http://{}/authorize", provider.address),
        "token_url": format!("http://{}/token", provider.address),
    });
    admin.post("/api/oauth/connections", &body).await.expect_status(StatusCode::CREATED);
    let page = "https://app.test";
    let connect = async || {
        let path = format!("/api/oauth/connections/graph/authorize?redirect_uri={page}");
        let begun = admin.post(&path, &Value::Null).await.expect_status(StatusCode::OK);
        let url = url::Url::parse(&begun.text("authorization_url")).expect("an address");
        let sent =
            url.query_pairs().find(|(name, _)| name == "redirect_uri").expect("is sent").1.into_owned();
        assert_eq!(sent, page);
        let body = json!({"code": "code", "state": begun.text("state"), "redirect_uri": page});
        admin.post("/api/oauth/callback/graph", &body).await.expect_status(StatusCode::OK).json()
    };
    provider.gives(&json!({"access_token": "", "refresh_token": "wrong"}));
    let ended = connect().await;
    assert_eq!((&ended["success"], &ended["status"]), (&json!(false), &json!("failed")));

    provider.gives(&json!({"access_token": "first", "refresh_token": "refresh"}));
    assert_eq!(connect().await["success"], true);
    provider.gives(&json!({"access_token": "second", "refresh_token": ""}));
    assert_eq!(refresh(admin, "graph").await["success"], true);
    let now = credentials(admin, "graph").await;
    assert_eq!((&now["access_token"], &now["refresh_token"]), (&json!("second"), &json!("refresh")));

    for wrong in ["%20https://app.test", "https://app.test/%00", "https://app.test/%23part"] {
        let path = format!("/api/oauth/connections/graph/authorize?redirect_uri={wrong}");
        let refused = admin.post(&path, &Value::Null).await;
        assert_eq!(refused.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["?redirect_uri"]);
    }
    world.close().await;
}
