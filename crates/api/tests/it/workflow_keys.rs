//! Workflow keys: made once, shown masked, bound to their scope, ended at once.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::World;

#[tokio::test]
async fn a_key_is_shown_once_and_only_its_digest_is_stored() {
    let world = World::start().await;
    world.with_endpoints(&[json!({"name": "greet"})]).await;
    let admin = &world.admin.client;
    let body = json!({"workflow_name": "greet", "expires_in_days": 90, "description": "Tickets", "disable_global_key": true});
    let made = admin.post("/api/workflow-keys", &body).await.expect_status(StatusCode::CREATED);
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let made = made.json();
    let key = made["raw_key"].as_str().expect("shown once");
    assert_eq!(key.len(), 43, "256 bits");

    let listed = admin.get("/api/workflow-keys").await.expect_status(StatusCode::OK);
    assert!(!listed.body.contains(key));
    let row = &listed.json()[0];
    assert_eq!(
        (&row["id"], &row["workflow_name"], &row["description"], &row["created_by"]),
        (&made["id"], &json!("greet"), &json!("Tickets"), &json!(world.admin.email))
    );
    assert_eq!(
        (&row["raw_key"], &row["revoked"], &row["disable_global_key"]),
        (&Value::Null, &json!(false), &json!(true))
    );
    assert_eq!(row["masked_key"], format!("{}****{}", &key[..4], &key[39..]));
    assert!(row["expires_at"].is_string() && row["last_used_at"].is_null());

    let audit = admin.get("/api/audit").await.expect_status(StatusCode::OK).body;
    assert!(audit.contains("workflow_key.created") && !audit.contains(key));
    let stored = world.count("SELECT count(*) FROM workflow_keys WHERE length(key_hash) = 32").await;
    assert_eq!(stored, 1);
    let mut conn = world.test.db.connect().await;
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT k::text FROM workflow_keys k").fetch_all(&mut conn).await.expect("reads");
    assert!(rows.iter().all(|row| !row.contains(key)), "the key itself is nowhere");
    drop(conn);
    world.close().await;
}

#[tokio::test]
async fn a_workflow_has_one_active_key_in_each_scope() {
    let world = World::start().await;
    world.with_endpoints(&[json!({"name": "greet"})]).await;
    let acme = world.org("acme").await;
    let admin = &world.admin.client;
    let greet = json!({"workflow_name": "greet"});
    let listed = admin.post("/api/workflow-keys", &greet).await.expect_status(StatusCode::CREATED).text("id");
    let second = admin.post("/api/workflow-keys", &greet).await.expect_status(StatusCode::BAD_REQUEST);
    assert_eq!(second.detail(), "this workflow has an active key already; revoke it first");
    let in_acme = admin.in_organization(acme);
    in_acme.post("/api/workflow-keys", &greet).await.expect_status(StatusCode::CREATED);
    for _ in 0..2 {
        admin.post("/api/workflow-keys", &json!({})).await.expect_status(StatusCode::CREATED);
    }

    let path = format!("/api/workflow-keys/{listed}");
    admin.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    admin.delete(&path).await.expect_status(StatusCode::BAD_REQUEST);
    admin.post("/api/workflow-keys", &greet).await.expect_status(StatusCode::CREATED);
    // An expired key is active no more.
    world
        .sql("UPDATE workflow_keys SET expires_at = now() - interval '1 day' WHERE workflow_id IS NOT NULL")
        .await;
    admin.post("/api/workflow-keys", &greet).await.expect_status(StatusCode::CREATED);

    let count = async |path: &str| {
        admin.get(path).await.expect_status(StatusCode::OK).json().as_array().map_or(0, Vec::len)
    };
    assert_eq!(count("/api/workflow-keys").await, 3, "strictly the scope");
    assert_eq!(count("/api/workflow-keys?workflow_id=greet").await, 1);
    assert_eq!(count(&format!("/api/workflow-keys?workflow_id={listed}&include_revoked=true")).await, 3);
    assert_eq!(count("/api/workflow-keys?include_revoked=true").await, 5);

    let first = admin.get("/api/workflow-keys?limit=2").await;
    let token = first.header("x-continuation-token").expect("there is more").to_owned();
    let rest = admin.get(&format!("/api/workflow-keys?limit=2&continuationToken={token}")).await;
    assert_eq!((rest.json().as_array().map_or(0, Vec::len), rest.header("x-continuation-token")), (1, None));
    let other =
        admin.get(&format!("/api/workflow-keys?include_revoked=true&continuationToken={token}")).await;
    other.expect_status(StatusCode::BAD_REQUEST);

    let global = admin.get("/api/workflow-keys").await.json();
    let global = global
        .as_array()
        .expect("rows")
        .iter()
        .find(|row| row["workflow_name"].is_null())
        .expect("a global key");
    let path = format!("/api/workflow-keys/{}", global["id"].as_str().expect("its own id"));
    in_acme.delete(&path).await.expect_status(StatusCode::NOT_FOUND);
    admin.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    admin.delete(&path).await.expect_status(StatusCode::BAD_REQUEST);
    world.close().await;
}

#[tokio::test]
async fn of_racing_makers_one_gets_the_key() {
    let world = World::start().await;
    world.with_endpoints(&[json!({"name": "greet"})]).await;
    let greet = json!({"workflow_name": "greet"});
    let makers = (0..10).map(|_| world.admin.client.post("/api/workflow-keys", &greet));
    let made = futures::future::join_all(makers).await;
    let created = made.iter().filter(|reply| reply.status == StatusCode::CREATED).count();
    let refused = made.iter().filter(|reply| reply.status == StatusCode::BAD_REQUEST).count();
    println!("racing makers of a key: 10, made {created}");
    assert_eq!((created, refused), (1, 9));
    world.close().await;
}

#[tokio::test]
async fn a_key_opens_nothing_while_its_organization_is_inactive() {
    let world = World::start().await;
    world.with_endpoints(&[json!({"name": "greet", "execution_mode": "async"})]).await;
    let acme = world.org("acme").await;
    let admin = &world.admin.client;
    let own = World::workflow_key(&admin.in_organization(acme), &json!({})).await;
    let global = World::workflow_key(admin, &json!({})).await;
    let organization = format!("/api/organizations/{acme}");
    let call = async |key: &str| {
        let request = world.nobody().request(Method::POST, "/api/endpoints/greet");
        world.nobody().send(request.header("x-bifrost-key", key)).await
    };

    for is_active in [true, false, true] {
        admin.patch(&organization, &json!({"is_active": is_active})).await.expect_status(StatusCode::OK);
        let reply = call(&own).await;
        if is_active {
            reply.expect_status(StatusCode::OK);
        } else {
            assert_eq!(reply.expect_status(StatusCode::UNAUTHORIZED).detail(), "Invalid or expired API key");
        }
        call(&global).await.expect_status(StatusCode::OK);
    }
    world.close().await;
}
