//! The SDK's routes: keys act as their user and no more, configuration and files stay where they belong, and the package
//! is one that pip installs.

use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::Client;

use crate::support::{PASSWORD, Person, World};

/// A client with a new SDK key of this person.
async fn with_key(world: &World, person: &Person) -> Client {
    let made = person.client.post("/api/sdk/keys", &json!({"name": "laptop"})).await;
    world.nobody().with_bearer(made.expect_status(StatusCode::CREATED).text("key"))
}

/// A world with a workspace of its own, an organization and one of its users.
async fn world() -> (World, Person) {
    let world =
        World::with_files(&[("readme.txt", "shared"), ("docs/a.txt", "shared a"), (".overlays/.keep", "")])
            .await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    (world, ada)
}

#[tokio::test]
async fn a_key_is_shown_once_counted_and_dead_when_revoked_expired_or_deleted() {
    let (world, ada) = world().await;
    let made = ada.client.post("/api/sdk/keys", &json!({"name": "laptop", "expires_in_days": 30})).await;
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let made = made.expect_status(StatusCode::CREATED).json();
    let key = made["key"].as_str().expect("shown once").to_owned();
    assert!(key.starts_with("bfsk_") && key.len() == 48);
    assert_eq!(made["key_prefix"], key[..12]);
    let client = world.nobody().with_bearer(&key);
    for _ in 0..3 {
        client.get("/api/sdk/context").await.expect_status(StatusCode::OK);
    }
    let listed = ada.client.get("/api/sdk/keys").await.expect_status(StatusCode::OK);
    assert!(!listed.body.contains(&key[12..]));
    let row = &listed.json()["keys"][0];
    assert_eq!(
        (&row["use_count"], &row["is_active"], &row["name"]),
        (&json!(3), &json!(true), &json!("laptop"))
    );
    assert!(row["last_used_at"].is_string() && row["expires_at"].is_string());
    let audit = world.admin.client.get("/api/audit").await.body;
    assert!(audit.contains("sdk_key.created") && !audit.contains(&key[12..]));

    let id = made["id"].as_str().expect("an id");
    let revoked = ada.client.patch(&format!("/api/sdk/keys/{id}/revoke"), &Value::Null).await;
    assert_eq!(revoked.expect_status(StatusCode::OK).json()["is_active"], false);
    client.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);
    ada.client.delete(&format!("/api/sdk/keys/{id}")).await.expect_status(StatusCode::NO_CONTENT);
    ada.client.delete(&format!("/api/sdk/keys/{id}")).await.expect_status(StatusCode::NOT_FOUND);

    let mut dead = 0;
    for ending in [
        "UPDATE sdk_keys SET expires_at = now() WHERE name = 'laptop'",
        "UPDATE users SET is_active = FALSE WHERE email = 'ada@acme.example'",
        "UPDATE organizations SET is_active = FALSE WHERE name = 'acme'",
    ] {
        world.sql("UPDATE users SET is_active = TRUE").await;
        world.sql("DELETE FROM sdk_keys").await;
        let ada = Person { client: world.nobody().sign_in(&ada.email, PASSWORD).await, ..ada.clone() };
        let client = with_key(&world, &ada).await;
        client.get("/api/sdk/context").await.expect_status(StatusCode::OK);
        world.sql(ending).await;
        for (method, path) in [(Method::GET, "/api/sdk/context"), (Method::POST, "/api/sdk/config/list")] {
            let reply = client.send(client.request(method, path).json(&json!({}))).await;
            reply.expect_status(StatusCode::UNAUTHORIZED);
        }
        dead += 1;
    }
    println!("sdk keys: dead at once {} of 5", dead + 2);
    world.close().await;
}

#[tokio::test]
async fn the_keys_of_somebody_deleted_stay_dead_when_they_come_back() {
    let (world, ada) = world().await;
    let key = with_key(&world, &ada).await;
    key.get("/api/sdk/context").await.expect_status(StatusCode::OK);
    let path = format!("/api/users/{}", ada.id);
    world.admin.client.delete(&path).await.expect_status(StatusCode::NO_CONTENT);
    key.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);

    world.admin.client.patch(&path, &json!({"is_active": true})).await.expect_status(StatusCode::OK);
    key.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);
    let ada = world.nobody().sign_in(&ada.email, PASSWORD).await;
    let listed = ada.get("/api/sdk/keys").await.expect_status(StatusCode::OK).json();
    assert_eq!(listed["keys"][0]["is_active"], false);
    world.close().await;
}

#[tokio::test]
async fn whoever_moves_to_another_organization_takes_neither_session_nor_key_along() {
    let (world, ada) = world().await;
    let rival = world.org("rival").await;
    let acme =
        ada.client.get("/auth/me").await.expect_status(StatusCode::OK).json()["organization_id"].clone();
    let key = with_key(&world, &ada).await;
    let path = format!("/api/users/{}", ada.id);
    let move_to = async |organization: Value| {
        let body = json!({"organization_id": organization});
        world.admin.client.patch(&path, &body).await.expect_status(StatusCode::OK);
    };
    // Who is told to stay has not moved.
    move_to(acme.clone()).await;
    ada.client.get("/auth/me").await.expect_status(StatusCode::OK);
    key.get("/api/sdk/context").await.expect_status(StatusCode::OK);

    move_to(json!(rival)).await;
    ada.client.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    key.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);
    let anew = world.nobody().sign_in(&ada.email, PASSWORD).await;
    let listed = anew.get("/api/sdk/keys").await.expect_status(StatusCode::OK).json();
    assert_eq!(listed["keys"][0]["is_active"], false);

    move_to(acme).await;
    for client in [&ada.client, &anew] {
        client.get("/auth/me").await.expect_status(StatusCode::UNAUTHORIZED);
    }
    key.get("/api/sdk/context").await.expect_status(StatusCode::UNAUTHORIZED);
    world.close().await;
}

#[tokio::test]
async fn a_key_opens_the_sdk_and_no_other_door() {
    let (world, ada) = world().await;
    let mut opened = Vec::new();
    let mut tried = 0;
    for client in [with_key(&world, &ada).await, with_key(&world, &world.admin).await] {
        for path in [
            "/auth/me",
            "/api/sdk/keys",
            "/api/executions",
            "/api/config",
            "/api/users",
            "/api/workflows",
            "/api/workflow-keys",
            "/api/schedules",
        ] {
            tried += 1;
            if client.get(path).await.status != StatusCode::UNAUTHORIZED {
                opened.push(path);
            }
        }
        let cookie = format!("access_token={}", client.bearer().expect("a key"));
        for path in ["/auth/me", "/api/sdk/context"] {
            tried += 1;
            let reply = world
                .nobody()
                .send(world.nobody().request(Method::GET, path).header("cookie", &cookie))
                .await;
            if reply.status != StatusCode::UNAUTHORIZED {
                opened.push(path);
            }
        }
        let put = client.put("/api/sdk/context", &json!({})).await;
        tried += 1;
        if put.status != StatusCode::UNAUTHORIZED {
            opened.push("put /api/sdk/context");
        }
    }
    println!("sdk keys at other doors: {tried} tried, opened {}", opened.len());
    assert!(opened.is_empty(), "{opened:?}");
    world.close().await;
}

#[tokio::test]
async fn a_key_has_the_rights_that_its_user_has_now() {
    let (world, ada) = world().await;
    let rival = world.org("rival").await;
    let key = with_key(&world, &world.admin).await;
    let in_rival = json!({"key": "a", "value": 1, "org_id": rival});
    key.post("/api/sdk/config/set", &in_rival).await.expect_status(StatusCode::NO_CONTENT);
    let users = with_key(&world, &ada).await;
    for path in ["set", "get", "delete", "list"] {
        let reply = users.post(&format!("/api/sdk/config/{path}"), &in_rival).await;
        assert_eq!(
            reply.expect_status(StatusCode::FORBIDDEN).detail(),
            "Access denied to organization",
            "{path}"
        );
    }
    users
        .post("/api/sdk/config/list", &json!({"org_id": "GLOBAL"}))
        .await
        .expect_status(StatusCode::FORBIDDEN);
    // Somebody who is demoted takes their keys along.
    world
        .sql(
            "UPDATE users SET is_superuser = FALSE, user_type = 'ORG' WHERE email = 'admin@platform.example'",
        )
        .await;
    key.post("/api/sdk/config/set", &in_rival).await.expect_status(StatusCode::FORBIDDEN);
    world.close().await;
}

#[tokio::test]
async fn configuration_is_typed_cascades_and_shows_no_secret() {
    let (world, ada) = world().await;
    let (admin, user) = (with_key(&world, &world.admin).await, with_key(&world, &ada).await);
    let set = async |client: &Client, key: &str, value: Value, is_secret: bool| {
        let body = json!({"key": key, "value": value, "is_secret": is_secret});
        client.post("/api/sdk/config/set", &body).await.expect_status(StatusCode::NO_CONTENT)
    };
    let get =
        async |client: &Client, key: &str| client.post("/api/sdk/config/get", &json!({"key": key})).await;
    for (key, value, kind) in [
        ("text", json!("on"), "string"),
        ("number", json!(30), "int"),
        ("fraction", json!(2.5), "json"),
        ("flag", json!(true), "bool"),
        ("list", json!([1, {"a": null}]), "json"),
    ] {
        set(&admin, key, value.clone(), false).await;
        let found = get(&user, key).await.expect_status(StatusCode::OK).json();
        assert_eq!(found, json!({"key": key, "value": value, "config_type": kind}), "the global one");
    }
    set(&user, "number", json!(7), false).await;
    assert_eq!(get(&user, "number").await.json()["value"], 7);
    assert_eq!(get(&admin, "number").await.json()["value"], 30, "the organization's own row");
    assert_eq!(get(&user, "nothing").await.expect_status(StatusCode::OK).json(), Value::Null);

    set(&user, "token", json!("canary-4711"), true).await;
    let refused = get(&user, "token").await.expect_status(StatusCode::FORBIDDEN);
    let listed = user.post("/api/sdk/config/list", &json!({})).await.expect_status(StatusCode::OK);
    assert_eq!(
        (&listed.json()["token"], &listed.json()["number"], &listed.json()["flag"]),
        (&json!("[SECRET]"), &json!(7), &json!(true))
    );
    assert!(!refused.body.contains("canary") && !listed.body.contains("canary"));
    let stored = world
        .count("SELECT count(*) FROM config WHERE key = 'token' AND sealed IS NOT NULL AND value IS NULL")
        .await;
    assert_eq!(stored, 1);

    let delete = async |client: &Client, key: &str| {
        client.post("/api/sdk/config/delete", &json!({"key": key})).await.expect_status(StatusCode::OK).json()
    };
    assert_eq!((delete(&user, "number").await, delete(&user, "number").await), (json!(true), json!(false)));
    assert_eq!(get(&user, "number").await.json()["value"], 30);
    for (key, value, pointer) in [
        ("a b", json!(1), "/key"),
        ("", json!(1), "/key"),
        ("a", json!("x".repeat(70_000)), "/value"),
        ("a", json!("\0"), "/value"),
    ] {
        let reply = user.post("/api/sdk/config/set", &json!({"key": key, "value": value})).await;
        assert_eq!(reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), [pointer]);
    }
    let reply = user.post("/api/sdk/config/get", &json!({"key": "a", "org_id": "acme"})).await;
    assert_eq!(reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/org_id"]);
    world.close().await;
}

#[tokio::test]
async fn calls_start_from_the_context_of_their_user() {
    let (world, ada) = world().await;
    let rival = world.org("rival").await;
    let (admin, user) = (with_key(&world, &world.admin).await, with_key(&world, &ada).await);
    let shown = user.get("/api/sdk/context").await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&shown["user"]["email"], &shown["organization"]["name"]),
        (&json!("ada@acme.example"), &json!("acme"))
    );
    assert_eq!((&shown["default_parameters"], &shown["track_executions"]), (&json!({}), &json!(true)));
    let administrators = admin.get("/api/sdk/context").await.json();
    assert_eq!(administrators["organization"], Value::Null);
    assert_eq!(
        (&shown["is_platform_admin"], &administrators["is_platform_admin"]),
        (&json!(false), &json!(true))
    );

    let foreign = ada.client.put("/api/sdk/context", &json!({"default_org_id": rival})).await;
    foreign.expect_status(StatusCode::FORBIDDEN);
    let body =
        json!({"default_org_id": rival, "default_parameters": {"site": "Bern"}, "track_executions": false});
    let changed =
        world.admin.client.put("/api/sdk/context", &body).await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&changed["organization"]["name"], &changed["default_parameters"]),
        (&json!("rival"), &json!({"site": "Bern"}))
    );
    let kept = json!({"default_org_id": null, "default_parameters": null});
    let kept = world.admin.client.put("/api/sdk/context", &kept).await.expect_status(StatusCode::OK).json();
    assert_eq!(kept, changed, "null leaves what is there");
    admin
        .post("/api/sdk/config/set", &json!({"key": "a", "value": 1}))
        .await
        .expect_status(StatusCode::NO_CONTENT);
    let stored = world.count("SELECT count(*) FROM config c JOIN organizations o ON o.id = c.organization_id WHERE o.name = 'rival'").await;
    assert_eq!(stored, 1);
    let session = ada.client.get("/api/sdk/context").await.expect_status(StatusCode::OK).json();
    assert_eq!(session["user"]["email"], "ada@acme.example");

    let unreadable = world.admin.client.put("/api/sdk/context", &json!({"default_org_id": "rival"})).await;
    let unreadable = unreadable.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assert!(unreadable.body.contains("must be a UUID"), "{}", unreadable.body);
    let clearing = json!({"default_org_id": "", "default_parameters": {}});
    let cleared =
        world.admin.client.put("/api/sdk/context", &clearing).await.expect_status(StatusCode::OK).json();
    assert_eq!((&cleared["organization"], &cleared["default_parameters"]), (&Value::Null, &json!({})));
    assert_eq!(cleared["track_executions"], false, "what is absent stays");
    let own = ada.client.put("/api/sdk/context", &clearing).await.expect_status(StatusCode::OK).json();
    assert_eq!(own["organization"]["name"], "acme", "without a default it is the user's own");
    world.close().await;
}

#[tokio::test]
async fn a_user_sees_the_overlay_and_changes_nothing_shared() {
    let (world, ada) = world().await;
    world.org("rival").await;
    let eve = world.person("eve@rival.example").await;
    let (admin, user, rival) =
        (with_key(&world, &world.admin).await, with_key(&world, &ada).await, with_key(&world, &eve).await);
    let files = async |client: &Client, what: &str, body: Value| {
        client.post(&format!("/api/sdk/files/{what}"), &body).await
    };
    let read = async |client: &Client, path: &str| files(client, "read", json!({"path": path})).await;
    assert_eq!(read(&user, "readme.txt").await.expect_status(StatusCode::OK).json(), "shared");
    files(&user, "write", json!({"path": "readme.txt", "content": "acme's"}))
        .await
        .expect_status(StatusCode::NO_CONTENT);
    files(&user, "write", json!({"path": "new/own.txt", "content": "Grüße"}))
        .await
        .expect_status(StatusCode::NO_CONTENT);
    assert_eq!(read(&user, "/workspace/readme.txt").await.json(), "acme's");
    assert_eq!(read(&admin, "readme.txt").await.json(), "shared");
    assert_eq!(read(&rival, "readme.txt").await.json(), "shared");
    rival_cannot(&read(&rival, "new/own.txt").await);
    let listed = files(&user, "list", json!({})).await.expect_status(StatusCode::OK).json();
    assert_eq!(listed, json!(["docs/", "new/", "readme.txt"]));
    assert_eq!(files(&admin, "list", json!({"directory": "docs"})).await.json(), json!(["a.txt"]));
    files(&admin, "list", json!({"directory": "nothing"})).await.expect_status(StatusCode::NOT_FOUND);

    // Deleting takes the own file away, and the shared one is there again; it cannot be deleted.
    files(&user, "delete", json!({"path": "readme.txt"})).await.expect_status(StatusCode::NO_CONTENT);
    assert_eq!(read(&user, "readme.txt").await.json(), "shared");
    files(&user, "delete", json!({"path": "readme.txt"})).await.expect_status(StatusCode::NOT_FOUND);
    files(&admin, "delete", json!({"path": "docs"})).await.expect_status(StatusCode::BAD_REQUEST);
    files(&admin, "write", json!({"path": "more.txt", "content": "shared too"}))
        .await
        .expect_status(StatusCode::NO_CONTENT);
    assert_eq!(read(&rival, "more.txt").await.json(), "shared too");
    let audit = world.admin.client.get("/api/audit").await.body;
    assert!(
        audit.contains("file.written")
            && audit.contains("file/new/own.txt")
            && audit.contains("file.deleted")
    );

    let temp = |path: &str| json!({"path": path, "content": "t", "location": "temp"});
    files(&user, "write", temp("a.txt")).await.expect_status(StatusCode::NO_CONTENT);
    assert_eq!(files(&user, "read", temp("a.txt")).await.json(), "t");
    files(&rival, "read", temp("a.txt")).await.expect_status(StatusCode::NOT_FOUND);
    files(&admin, "read", temp("a.txt")).await.expect_status(StatusCode::NOT_FOUND);
    let wrong = json!({"path": "a.txt", "location": "uploads"});
    assert_eq!(
        files(&user, "read", wrong).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(),
        ["/location"]
    );
    world.close().await;
}

#[tokio::test]
async fn a_user_finds_no_file_of_a_form_in_the_shared_workspace() {
    let (world, ada) = world().await;
    let rival = world.org("rival").await;
    let (admin, user) = (with_key(&world, &world.admin).await, with_key(&world, &ada).await);
    let body = json!({"name": "Theirs", "form_schema": {"fields": []}, "access_level": "authenticated"});
    let made = world.admin.client.in_organization(rival).post("/api/forms", &body).await;
    let id = made.expect_status(StatusCode::CREATED).text("id");
    let name = format!("theirs-{}.form.json", &id[..8]);
    let root = world.test.workspace();
    std::fs::copy(root.join("forms").join(&name), root.join("docs/form.json")).expect("copies");
    for (link, target) in [("alias.txt", format!("forms/{name}")), ("other", "forms".into())] {
        std::os::unix::fs::symlink(target, root.join(link)).expect("links");
    }
    let files = async |client: &Client, what: &str, body: Value| {
        client.post(&format!("/api/sdk/files/{what}"), &body).await
    };
    let missing = files(&user, "read", json!({"path": "forms/none.form.json"})).await;
    let paths =
        [format!("forms/{name}"), "docs/form.json".into(), "alias.txt".into(), format!("other/{name}")];
    let mut found = Vec::new();
    for path in &paths {
        let shown = files(&admin, "read", json!({"path": path})).await.expect_status(StatusCode::OK);
        assert!(shown.body.contains(&rival.to_string()), "{path}");
        let read = files(&user, "read", json!({"path": path})).await;
        if read.status != StatusCode::NOT_FOUND || read.detail() != missing.detail() {
            found.push(format!("read {path}: {} {}", read.status, read.body));
        }
        let listed = files(&user, "list", json!({"directory": path})).await;
        if listed.status != StatusCode::NOT_FOUND {
            found.push(format!("list {path}: {} {}", listed.status, listed.body));
        }
    }
    for folder in ["forms", "docs", "other"] {
        let listed = files(&user, "list", json!({"directory": folder})).await.expect_status(StatusCode::OK);
        if listed.body.contains("form.json") {
            found.push(format!("list {folder}: {}", listed.body));
        }
    }
    println!("files of forms, as a user: {} ways, found {}", 2 * paths.len() + 3, found.len());
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert_eq!(files(&admin, "list", json!({"directory": "forms"})).await.json(), json!([name]));

    // A file of such a name in the overlay is the organization's own.
    let own = json!({"path": "forms/own.form.json", "content": "own"});
    files(&user, "write", own.clone()).await.expect_status(StatusCode::NO_CONTENT);
    assert_eq!(files(&user, "read", own).await.expect_status(StatusCode::OK).json(), "own");
    assert_eq!(files(&user, "list", json!({"directory": "forms"})).await.json(), json!(["own.form.json"]));
    world.close().await;
}

#[tokio::test]
async fn what_an_administrator_writes_is_indexed_before_the_answer() {
    let (world, _) = world().await;
    let admin = with_key(&world, &world.admin).await;
    let files = async |what: &str, body: Value| admin.post(&format!("/api/sdk/files/{what}"), &body).await;
    let is_active = async |name: &str| {
        let all = world.admin.client.get("/api/workflows").await.expect_status(StatusCode::OK).json();
        all.as_array().expect("a list").iter().any(|workflow| workflow["name"] == name)
    };
    let source = "from bifrost import workflow\n\n@workflow()\ndef greeter():\n    return 1\n";
    files("write", json!({"path": "ops/greeter.py", "content": source}))
        .await
        .expect_status(StatusCode::NO_CONTENT);
    assert!(is_active("greeter").await);
    files("delete", json!({"path": "ops/greeter.py"})).await.expect_status(StatusCode::NO_CONTENT);
    assert!(!is_active("greeter").await);
    files("delete", json!({"path": "ops/greeter.py"})).await.expect_status(StatusCode::NOT_FOUND);

    // The file of a form goes with its form.
    let body = json!({"name": "Ours", "form_schema": {"fields": []}, "access_level": "authenticated"});
    let made = world.admin.client.post("/api/forms", &body).await.expect_status(StatusCode::CREATED);
    let path = format!("forms/ours-{}.form.json", &made.text("id")[..8]);
    files("delete", json!({"path": path})).await.expect_status(StatusCode::CONFLICT);
    let deeds = world.count("SELECT count(*) FROM audit_log WHERE action LIKE 'file.%'").await;
    assert_eq!(deeds, 2, "what was refused is no deed");
    world.close().await;
}

#[tokio::test]
async fn what_an_administrator_writes_waits_for_the_editors_turn() {
    let (world, _) = world().await;
    let admin = with_key(&world, &world.admin).await;
    let mut editor = world.test.db.connect().await;
    sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock(hashtext('bifrost.editor'))")
        .execute(&mut editor)
        .await
        .expect("locks");
    let writing = tokio::spawn(async move {
        admin.post("/api/sdk/files/write", &json!({"path": "readme.txt", "content": "new"})).await
    });
    world.test.db.lock_is_awaited_by("bifrost.editor").await;
    let readme = world.test.workspace().join("readme.txt");
    assert_eq!(std::fs::read_to_string(&readme).expect("is there"), "shared");
    sqlx::raw_sql("COMMIT").execute(&mut editor).await.expect("unlocks");
    writing.await.expect("answers").expect_status(StatusCode::NO_CONTENT);
    assert_eq!(std::fs::read_to_string(&readme).expect("is there"), "new");
    drop(editor);
    world.close().await;
}

fn rival_cannot(reply: &testkit::Reply) {
    assert_eq!(reply.status, StatusCode::NOT_FOUND, "{}", reply.body);
}

#[tokio::test]
async fn no_path_leads_outside_of_the_workspace() {
    let (world, ada) = world().await;
    let (admin, user) = (with_key(&world, &world.admin).await, with_key(&world, &ada).await);
    let outside = world.test.folder().join("outside.txt");
    std::fs::write(&outside, "canary").expect("writes");
    std::os::unix::fs::symlink(&outside, world.test.workspace().join("link.txt")).expect("links");
    std::os::unix::fs::symlink(world.test.folder(), world.test.workspace().join("folder")).expect("links");
    for name in [".env", ".env.production"] {
        std::fs::write(world.test.workspace().join(name), "canary").expect("writes");
    }
    let other = format!(".overlays/{}/x.txt", uuid::Uuid::now_v7());
    let tricks = [
        "../outside.txt",
        "/../outside.txt",
        "docs/../../outside.txt",
        "/workspace/../outside.txt",
        "link.txt",
        "folder/outside.txt",
        "docs/./../../outside.txt",
        other.as_str(),
        ".git/config",
        ".uploads/x",
        ".env",
        "docs/../.ENV",
        ".env.production",
        "a\0b",
        "",
    ];
    let (mut tried, mut wrong) = (0, Vec::new());
    for (client, is_user) in [(&admin, false), (&user, true)] {
        for path in tricks {
            for what in ["read", "write", "delete"] {
                for location in ["workspace", "temp"] {
                    tried += 1;
                    let body = json!({"path": path, "content": "overwritten", "location": location});
                    let reply = client.post(&format!("/api/sdk/files/{what}"), &body).await;
                    let is_own_temp =
                        location == "temp" && (path.ends_with("link.txt") || path.starts_with("folder"));
                    // A link of the workspace may be replaced or removed, which does not touch what it leads to.
                    let is_link = path == "link.txt" && what != "read";
                    // Below an overlay that does not have the folder, it is an ordinary name.
                    let is_own = is_user && path.starts_with("folder");
                    if !reply.status.is_client_error() && !is_own_temp && !is_link && !is_own
                        || reply.body.contains("canary")
                    {
                        wrong.push(format!("{what} {path:?} in {location}: {} {}", reply.status, reply.body));
                    }
                }
            }
        }
    }
    let refused = user.post("/api/sdk/files/read", &json!({"path": ".env"})).await;
    assert_eq!(
        refused.expect_status(StatusCode::BAD_REQUEST).detail(),
        "the path is not one of the workspace's files"
    );
    let untouched = std::fs::read_to_string(&outside).expect("is there");
    println!("paths of files: {tried} tricks, outside {}", usize::from(untouched != "canary") + wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(untouched, "canary");
    world.close().await;
}

#[tokio::test]
async fn the_package_installs_with_pip_without_an_index_and_asks_this_server() {
    let (world, ada) = world().await;
    let package = world.test.folder().join("bifrost.tar.gz");
    let address = format!("{}/api/sdk/download", world.nobody().base());
    let served = reqwest::get(&address).await.expect("answers");
    assert_eq!(served.headers()["content-type"], "application/gzip");
    let bytes = served.bytes().await.expect("is whole");
    assert_eq!(bytes, reqwest::get(&address).await.expect("answers").bytes().await.expect("is whole"));
    std::fs::write(&package, &bytes).expect("writes");
    let key = with_key(&world, &ada).await.bearer().expect("a key").to_owned();
    let set = json!({"key": "site", "value": "Bern"});
    world
        .nobody()
        .with_bearer(&key)
        .post("/api/sdk/config/set", &set)
        .await
        .expect_status(StatusCode::NO_CONTENT);
    let (venv, base) = (world.test.folder().join("venv"), world.nobody().base().to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let run = |command: &mut Command| {
            let output = command.output().expect("runs");
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(output.status.success(), "{command:?}: {text}");
            text
        };
        run(Command::new("python3").arg("-m").arg("venv").arg(&venv));
        let install = ["-m", "pip", "install", "--no-index", "--no-cache-dir", "--disable-pip-version-check"];
        run(Command::new(venv.join("bin/python")).args(install).arg(&package));
        let program = "import asyncio, bifrost\nfrom bifrost import config, context, files, workflow\n\
            async def main():\n    print(await config.get('site'), context.email, context.org_name)\n    \
            await files.write('from_sdk.txt', 'written')\n    print(await files.read('from_sdk.txt'))\nasyncio.run(main())\n";
        let python = Command::new(venv.join("bin/python"))
            .args(["-c", program])
            .current_dir(venv)
            .env_remove("PYTHONPATH")
            .env("BIFROST_URL", base)
            .env("BIFROST_TOKEN", key)
            .env("NO_PROXY", "*")
            .output()
            .expect("runs");
        format!("{}{}", String::from_utf8_lossy(&python.stdout), String::from_utf8_lossy(&python.stderr))
    });
    let printed = work.await.expect("ends");
    assert_eq!(printed, "Bern ada@acme.example acme\nwritten\n");
    println!("package: {} bytes, installed without an index, asked this server", bytes.len());
    world.close().await;
}
