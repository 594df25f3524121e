//! Connections that change while something goes on: a consent, or tokens of the server they had.

use domain::connections;
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::TokenServer;

use super::Stage;

#[tokio::test]
async fn a_refresh_in_the_background_does_not_void_an_authorization_that_was_begun() {
    let stage = Stage::set().await;
    stage.connect("graph").await;
    let begun = stage.begin("graph").await;
    let (code, state) = stage.server.consent(&begun.text("authorization_url")).await;
    for _ in 0..2 {
        assert_eq!(stage.refresh("graph").await["success"], true);
        assert_eq!(stage.get("graph").await["status"], "waiting_callback");
    }
    let ended = stage.complete(&stage.admin, "graph", &code, Some(&state)).await;
    assert_eq!(ended.expect_status(StatusCode::OK).json()["success"], true);
    assert_eq!(stage.get("graph").await["status"], "completed");

    // One that nobody came back from within its time is waited for no more.
    stage.begin("graph").await;
    stage.world.sql("UPDATE oauth_connections SET updated_at = now() - interval '11 minutes'").await;
    assert_eq!(stage.refresh("graph").await["success"], true);
    assert_eq!(stage.get("graph").await["status"], "completed");
    let waiting = "SELECT count(*) FROM oauth_connections WHERE pending_state IS NOT NULL";
    assert_eq!(stage.world.count(waiting).await, 0);

    // A token that a run brings is what the connection has from then on.
    let begun = stage.begin("graph").await;
    let (code, state) = stage.server.consent(&begun.text("authorization_url")).await;
    let scope = domain::OrgScope::for_system(Some(stage.acme), "System", None);
    let platform = stage.world.platform();
    let tokens = connections::Tokens {
        access_token: "brought".into(),
        refresh_token: None,
        token_type: "Bearer".into(),
        scopes: None,
        expires_at: None,
    };
    let mut tx = platform.db.begin(&scope).await.expect("begins");
    connections::set_token(&mut tx, &platform.vault, "graph", tokens).await.expect("stores");
    tx.commit().await.expect("commits");
    let late = stage.complete(&stage.admin, "graph", &code, Some(&state)).await;
    late.expect_status(StatusCode::BAD_REQUEST);
    stage.world.close().await;
}

#[tokio::test]
async fn secrets_stay_with_the_server_they_were_given_for() {
    let (other, elsewhere) = TokenServer::start().await;
    let stage = Stage::admitting(&elsewhere).await;
    stage.connect("graph").await;
    stage.create("service", "client_credentials").await;
    let change = async |name: &str, body: Value| {
        stage.admin.put(&format!("/api/oauth/connections/{name}"), &body).await
    };
    let (here, there) = (format!("http://{}/token", stage.address), format!("http://{elsewhere}/token"));

    for name in ["graph", "service"] {
        let refused = change(name, json!({"token_url": there})).await;
        let refused = refused.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.pointers(), ["/client_secret"]);
        assert!(refused.detail().contains("must be given again"), "{}", refused.detail());
        assert_eq!(stage.get(name).await["token_url"], here);
    }
    // Another path at the same server changes nothing of that.
    let moved = change("graph", json!({"token_url": format!("{here}?tenant=7")})).await;
    assert_eq!(moved.expect_status(StatusCode::OK).json()["status"], "completed");
    assert_eq!(stage.refresh("graph").await["success"], true);

    let begun = stage.begin("graph").await;
    let (code, state) = stage.server.consent(&begun.text("authorization_url")).await;
    let body = json!({"token_url": there, "client_secret": "secret-for-there"});
    let moved = change("graph", body.clone()).await.expect_status(StatusCode::OK).json();
    assert_eq!((&moved["status"], &moved["expires_at"]), (&json!("not_connected"), &Value::Null));
    assert_eq!(stage.credentials("graph").await["credentials"], Value::Null);
    let nothing = stage.admin.post("/api/oauth/connections/graph/refresh", &Value::Null).await;
    nothing.expect_status(StatusCode::BAD_REQUEST);
    let late = stage.complete(&stage.admin, "graph", &code, Some(&state)).await;
    late.expect_status(StatusCode::BAD_REQUEST);
    assert!(other.asked().is_empty(), "nothing of the old server is told the new one");

    let moved = change("service", body).await.expect_status(StatusCode::OK).json();
    assert_eq!(moved["status"], "completed", "it fetches its token there at once");
    let secrets: Vec<_> =
        other.asked().into_iter().filter_map(|mut asked| asked.remove("client_secret")).collect();
    assert_eq!(secrets, ["secret-for-there"]);
    stage.world.close().await;
}

#[tokio::test]
async fn whoever_cancels_an_authorization_gets_back_what_was_before() {
    let stage = Stage::set().await;
    stage.connect("graph").await;
    let cancel = async || {
        let reply = stage.admin.post("/api/oauth/connections/graph/cancel", &Value::Null).await;
        let reply = reply.expect_status(StatusCode::OK).json();
        let now = stage.get("graph").await;
        assert_eq!(reply["status"], now["status"]);
        (now["status"].clone(), now["status_message"].clone())
    };
    let completed = (json!("completed"), Value::Null);
    assert_eq!(cancel().await, completed, "nobody is waited for");
    stage.begin("graph").await;
    assert_eq!(cancel().await, completed);

    stage.server.refuse(true);
    assert_eq!(stage.refresh("graph").await["success"], false);
    let now = stage.get("graph").await;
    let failed = (now["status"].clone(), now["status_message"].clone());
    assert!(failed.0 == "failed" && failed.1.is_string(), "{now}");
    assert_eq!(cancel().await, failed, "nobody is waited for");
    stage.begin("graph").await;
    assert_eq!(stage.get("graph").await["status"], "waiting_callback");
    assert_eq!(cancel().await, failed);
    // Refused while somebody is at the provider's page.
    let begun = stage.begin("graph").await;
    assert_eq!(stage.refresh("graph").await["success"], false);
    assert_eq!(cancel().await, failed);
    stage.server.refuse(false);
    let (code, state) = stage.server.consent(&begun.text("authorization_url")).await;
    let late = stage.complete(&stage.admin, "graph", &code, Some(&state)).await;
    late.expect_status(StatusCode::BAD_REQUEST);

    let cancelled = "SELECT count(*) FROM audit_log WHERE action = 'connection.authorization_cancelled'";
    assert_eq!(stage.world.count(cancelled).await, 3);
    stage.world.close().await;
}

#[tokio::test]
async fn of_many_who_delete_a_connection_at_once_one_does() {
    let stage = Stage::set().await;
    stage.create("graph", "authorization_code").await;
    let answers = join_all((0..10).map(|_| stage.admin.delete("/api/oauth/connections/graph"))).await;
    let with = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((with(StatusCode::NO_CONTENT), with(StatusCode::NOT_FOUND)), (1, 9));
    let deleted = "SELECT count(*) FROM audit_log WHERE action = 'connection.deleted'";
    assert_eq!(stage.world.count(deleted).await, 1);
    stage.world.close().await;
}
