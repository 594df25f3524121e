//! Files: what whose key sees and changes, and that no path leads out of the workspace.

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::Client;

use super::{with_key, world};

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
