//! The editor's files: contents and etags, moves that keep ids, what is indexed before the answer, and searching.

use std::pin::pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::forms::files;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Reply, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PASSWORD, World};

const CONTENT: &str = "/api/editor/files/content";
/// Longer than a request may take that waits for nothing.
const LONG: Duration = Duration::from_secs(5);
const WORKFLOW: &str = "from bifrost import workflow\n\n@workflow(name=\"greeter\", description=\"d\")\ndef greeter():\n    return 1\n";

async fn put(client: &Client, path: &str, content: &str) -> Reply {
    client.put(CONTENT, &json!({"path": path, "content": content})).await
}

async fn get(client: &Client, path: &str) -> Reply {
    client.send(client.request(Method::GET, CONTENT).query(&[("path", path)])).await
}

async fn list(client: &Client, path: &str) -> Vec<Value> {
    let request = client.request(Method::GET, "/api/editor/files").query(&[("path", path)]);
    client.send(request).await.expect_status(StatusCode::OK).json().as_array().expect("a list").clone()
}

async fn rename(client: &Client, old: &str, new: &str) -> Reply {
    let request = client.request(Method::POST, "/api/editor/files/rename");
    client.send(request.query(&[("old_path", old), ("new_path", new)])).await
}

async fn delete(client: &Client, path: &str) -> Reply {
    client.send(client.request(Method::DELETE, "/api/editor/files").query(&[("path", path)])).await
}

async fn search(client: &Client, body: Value) -> Value {
    client.post("/api/editor/search", &body).await.expect_status(StatusCode::OK).json()
}

/// Ids of the active workflows by name.
async fn workflow(client: &Client, name: &str) -> Option<(String, String)> {
    let all = client.get("/api/workflows").await.expect_status(StatusCode::OK).json();
    let found = all.as_array().expect("a list").iter().find(|one| one["name"] == name)?;
    let text = |member: &str| found[member].as_str().expect("text").to_owned();
    Some((text("id"), text("source_file_path")))
}

#[tokio::test]
async fn a_file_is_stored_only_over_what_its_writer_has_seen() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let stored =
        put(admin, "/workspace/notes/deep/a.txt", "hello").await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&stored["path"], &stored["size"], &stored["encoding"]),
        (&json!("notes/deep/a.txt"), &json!(5), &json!("utf-8"))
    );
    assert_eq!(stored["etag"], "5d41402abc4b2a76b9719d911017c592");
    let read = get(admin, "/notes/deep/a.txt").await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&read["content"], &read["etag"], &read["modified"]),
        (&json!("hello"), &stored["etag"], &stored["modified"])
    );

    let expecting = |path: &str, content: &str, etag: &Value| json!({"path": path, "content": content, "expected_etag": etag});
    let bodies = (0..10)
        .map(|n| expecting("notes/deep/a.txt", &format!("by {n}"), &stored["etag"]))
        .collect::<Vec<_>>();
    let replies = join_all(bodies.iter().map(|body| admin.put(CONTENT, body))).await;
    let (won, lost): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == StatusCode::OK);
    assert_eq!((won.len(), lost.len()), (1, 9), "of racing writers one has seen what it replaces");
    for reply in &lost {
        let body = reply.clone().expect_status(StatusCode::CONFLICT).json();
        assert_eq!(body["reason"], "content_changed");
        assert_eq!(body["message"], "somebody else has changed the file");
    }
    assert_eq!(get(admin, "notes/deep/a.txt").await.json()["content"], won[0].json()["content"]);
    println!("expected_etag: of 10 racing writers {} stored, {} conflicts", won.len(), lost.len());
    let gone = admin.put(CONTENT, &expecting("notes/none.txt", "x", &stored["etag"])).await;
    assert_eq!(gone.expect_status(StatusCode::CONFLICT).json()["reason"], "path_not_found");
    get(admin, "notes/none.txt").await.expect_status(StatusCode::NOT_FOUND);
    let audited = world.count("SELECT count(*) FROM audit_log WHERE action = 'file.written'").await;
    assert_eq!(audited, 2, "a refused write is not in the audit log");

    // What is no text travels as Base64, both ways, byte by byte.
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let body = json!({"path": "image.png", "content": STANDARD.encode(&bytes), "encoding": "base64"});
    admin.put(CONTENT, &body).await.expect_status(StatusCode::OK);
    let read = get(admin, "image.png").await.json();
    assert_eq!((&read["encoding"], &read["size"]), (&json!("base64"), &json!(70_000)));
    assert_eq!(STANDARD.decode(read["content"].as_str().expect("text")).expect("Base64"), bytes);
    let largest = "\n".repeat(10 * 1024 * 1024);
    put(admin, "large.txt", &largest).await.expect_status(StatusCode::OK);
    assert_eq!(get(admin, "large.txt").await.json()["size"], json!(largest.len()));
    world.close().await;
}

#[tokio::test]
async fn what_a_file_declares_is_known_before_the_answer_and_keeps_its_id_when_it_moves() {
    let world = World::start().await;
    let admin = &world.admin.client;
    put(admin, "tools/greeter.py", WORKFLOW).await.expect_status(StatusCode::OK);
    let (id, path) = workflow(admin, "greeter").await.expect("is indexed");
    assert_eq!(path, "tools/greeter.py");
    let listed = list(admin, "tools").await;
    assert_eq!(
        (&listed[0]["name"], &listed[0]["is_workflow"], &listed[0]["extension"]),
        (&json!("greeter.py"), &json!(true), &json!("py"))
    );

    let renamed =
        rename(admin, "tools/greeter.py", "other/place/hello.py").await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&renamed["path"], &renamed["is_workflow"], &renamed["type"]),
        (&json!("other/place/hello.py"), &json!(true), &json!("file"))
    );
    assert_eq!(workflow(admin, "greeter").await, Some((id.clone(), "other/place/hello.py".into())));
    rename(admin, "other", "moved").await.expect_status(StatusCode::OK);
    assert_eq!(workflow(admin, "greeter").await, Some((id.clone(), "moved/place/hello.py".into())));

    // A file that does not parse is stored, keeps its workflow, and keeps it when it moves, too.
    put(admin, "moved/place/hello.py", "def broken(:").await.expect_status(StatusCode::OK);
    rename(admin, "moved/place/hello.py", "hello.py").await.expect_status(StatusCode::OK);
    assert_eq!(workflow(admin, "greeter").await, Some((id.clone(), "hello.py".into())));
    let problems = admin.get("/api/workflows/problems").await.json();
    assert_eq!(problems[0]["path"], "hello.py");

    // Removed and put back: the same id; and where it was before, another file makes another.
    delete(admin, "hello.py").await.expect_status(StatusCode::NO_CONTENT);
    assert_eq!(workflow(admin, "greeter").await, None);
    put(admin, "hello.py", WORKFLOW).await.expect_status(StatusCode::OK);
    assert_eq!(workflow(admin, "greeter").await, Some((id.clone(), "hello.py".into())));
    rename(admin, "hello.py", "tools/greeter.py").await.expect_status(StatusCode::OK);
    assert_eq!(workflow(admin, "greeter").await, Some((id, "tools/greeter.py".into())));

    // The answer tells what the file is by its new name.
    for (old, new, is_workflow) in [("py", "txt", false), ("txt", "py", true)] {
        let (old, new) = (format!("tools/greeter.{old}"), format!("tools/greeter.{new}"));
        let renamed = rename(admin, &old, &new).await.expect_status(StatusCode::OK).json();
        assert_eq!(renamed["is_workflow"], is_workflow, "{new}");
    }
    for action in [
        "SELECT count(*) FROM audit_log WHERE action = 'file.renamed'",
        "SELECT count(*) FROM audit_log WHERE action LIKE 'file.%'",
    ] {
        assert!(world.count(action).await >= 4);
    }
    world.close().await;
}

#[tokio::test]
async fn a_link_that_leads_outside_is_neither_read_nor_replaced() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let outside = world.test.folder().join("outside.txt");
    std::fs::write(&outside, "outside").expect("writes");
    for (name, target) in [("there.txt", outside.clone()), ("dangling.txt", world.test.folder().join("none"))]
    {
        let link = world.test.workspace().join(name);
        std::os::unix::fs::symlink(target, &link).expect("links");
        get(admin, name).await.expect_status(StatusCode::BAD_REQUEST);
        put(admin, name, "x").await.expect_status(StatusCode::BAD_REQUEST);
        assert!(link.is_symlink(), "{name}");
    }
    // A move that is refused has moved nothing, and one that is done is recorded, also of a link that leads elsewhere then.
    rename(admin, "there.txt", "moved.txt").await.expect_status(StatusCode::BAD_REQUEST);
    let refused = rename(admin, "dangling.txt", "moved.txt").await;
    assert!(matches!(refused.status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND), "{}", refused.status);
    for name in ["there.txt", "dangling.txt"] {
        assert!(world.test.workspace().join(name).is_symlink(), "{name}");
    }
    assert!(!world.test.workspace().join("moved.txt").is_symlink());
    let moves = "SELECT count(*) FROM audit_log WHERE action = 'file.renamed'";
    assert_eq!(world.count(moves).await, 0);
    put(admin, "deep/target.txt", "x").await.expect_status(StatusCode::OK);
    let inside = world.test.workspace().join("deep/link.txt");
    std::os::unix::fs::symlink("target.txt", inside).expect("links");
    let moved = rename(admin, "deep/link.txt", "link.txt").await.expect_status(StatusCode::OK).json();
    assert_eq!((&moved["path"], world.count(moves).await), (&json!("link.txt"), 1));
    assert!(world.test.workspace().join("link.txt").is_symlink());
    assert_eq!(std::fs::read_to_string(&outside).expect("reads"), "outside");
    world.close().await;
}

#[tokio::test]
async fn folders_are_made_listed_moved_and_removed() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let folder =
        |path: &str| admin.request(Method::POST, "/api/editor/files/folder").query(&[("path", path)]);
    let made = admin.send(folder("/a/b/")).await.expect_status(StatusCode::CREATED).json();
    assert_eq!(
        (&made["path"], &made["type"], &made["size"]),
        (&json!("a/b"), &json!("folder"), &Value::Null)
    );
    admin.send(folder("a/b")).await.expect_status(StatusCode::CONFLICT);
    put(admin, "a/one.txt", "1").await.expect_status(StatusCode::OK);
    admin.send(folder("a/one.txt")).await.expect_status(StatusCode::CONFLICT);
    put(admin, "a/.hidden", "1").await.expect_status(StatusCode::OK);
    world.test.write(".overlays/org/secret.txt", "s");
    world.test.write(".git/config", "s");
    let names: Vec<Value> = list(admin, "a").await.into_iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["b", ".hidden", "one.txt"]);
    let root: Vec<Value> = list(admin, "").await.into_iter().map(|one| one["name"].clone()).collect();
    assert!(
        root.contains(&json!("a")) && !root.contains(&json!(".overlays")) && !root.contains(&json!(".git")),
        "{root:?}"
    );
    put(admin, "b.txt", "2").await.expect_status(StatusCode::OK);
    rename(admin, "a", "b.txt").await.expect_status(StatusCode::CONFLICT);
    rename(admin, "a", "a/b/c").await.expect_status(StatusCode::BAD_REQUEST);
    delete(admin, "a").await.expect_status(StatusCode::NO_CONTENT);
    delete(admin, "a").await.expect_status(StatusCode::NOT_FOUND);

    // The file of a form follows it and its form, and cannot be removed on its own.
    let body = json!({"name": "Laptop", "form_schema": {"fields": []}});
    let form = admin.post("/api/forms", &body).await.expect_status(StatusCode::CREATED).json();
    let path = form["file_path"].as_str().expect("a path");
    delete(admin, path).await.expect_status(StatusCode::CONFLICT);
    delete(admin, "forms").await.expect_status(StatusCode::CONFLICT);
    rename(admin, path, "it/laptop.form.json").await.expect_status(StatusCode::OK);
    // By its name it is known as what only some may see.
    for other in ["it/laptop.json", "it/laptop.txt", "it/.laptop.form.json"] {
        rename(admin, "it/laptop.form.json", other).await.expect_status(StatusCode::CONFLICT);
    }
    let mut file = get(admin, "it/laptop.form.json").await.json();
    let mut document: Value =
        serde_json::from_str(file["content"].take().as_str().expect("text")).expect("JSON");
    document["name"] = json!("Notebook");
    put(admin, "it/laptop.form.json", &document.to_string()).await.expect_status(StatusCode::OK);
    let read = admin.get(&format!("/api/forms/{}", form["id"].as_str().expect("an id"))).await.json();
    assert_eq!((&read["name"], &read["file_path"]), (&json!("Notebook"), &json!("it/laptop.form.json")));

    // That of a deleted form can, and stays away; a form that is active again has a file again.
    let form = format!("/api/forms/{}", form["id"].as_str().expect("an id"));
    admin.delete(&form).await.expect_status(StatusCode::NO_CONTENT);
    delete(admin, "it").await.expect_status(StatusCode::NO_CONTENT);
    files::sync(world.platform()).await.expect("syncs");
    get(admin, "it/laptop.form.json").await.expect_status(StatusCode::NOT_FOUND);
    let written = "SELECT count(*) FROM forms WHERE file_path IS NOT NULL OR file_is_due";
    assert_eq!(world.count(written).await, 0);
    admin.patch(&form, &json!({"is_active": true})).await.expect_status(StatusCode::OK);
    files::sync(world.platform()).await.expect("syncs");
    assert_eq!(world.count("SELECT count(*) FROM forms WHERE file_path IS NOT NULL").await, 1);
    world.close().await;
}

#[tokio::test]
async fn a_search_finds_lines_and_columns_in_text_files_only() {
    let world = World::start().await;
    let admin = &world.admin.client;
    world.test.write("search/one.txt", "first\r\nthe Needle, a needle\nlast\n");
    world.test.write("search/sub/two.py", "# née needle\nneedle");
    world.test.write("search/.hidden.txt", "needle");
    world.test.write("search/.folder/three.txt", "needle");
    world.test.write("search/binary.bin", "needle\0needle");
    world.test.write("search/large.txt", &format!("needle\n{}", "x".repeat(10 * 1024 * 1024)));
    world.test.write(".overlays/org/four.txt", "needle");
    std::os::unix::fs::symlink("/etc/passwd", world.test.workspace().join("search/link.txt"))
        .expect("a link");
    let of = |found: &Value| -> Vec<(String, i64, i64)> {
        let results = found["results"].as_array().expect("a list").iter();
        results
            .map(|one| {
                (
                    one["file_path"].as_str().expect("text").to_owned(),
                    one["line"].as_i64().expect("a line"),
                    one["column"].as_i64().expect("a column"),
                )
            })
            .collect()
    };
    let at = |path: &str, line: i64, column: i64| (format!("search/{path}"), line, column);

    let found = search(admin, json!({"query": "needle", "include_pattern": "search/**"})).await;
    let all = vec![at("one.txt", 2, 4), at("one.txt", 2, 14), at("sub/two.py", 1, 6), at("sub/two.py", 2, 0)];
    assert_eq!(of(&found), all);
    assert_eq!(
        (&found["total_matches"], &found["truncated"], &found["query"]),
        (&json!(4), &json!(false), &json!("needle"))
    );
    let first = &found["results"][0];
    assert_eq!(
        (&first["match_text"], &first["context_before"], &first["context_after"]),
        (&json!("the Needle, a needle"), &json!("first"), &json!("last"))
    );
    let last = &found["results"][3];
    assert_eq!((&last["context_before"], &last["context_after"]), (&json!("# née needle"), &Value::Null));

    let cases = [
        (
            json!({"query": "needle", "case_sensitive": true, "include_pattern": "search/*.txt"}),
            vec![at("one.txt", 2, 14)],
        ),
        (json!({"query": "needle", "include_pattern": "*.py"}), all[2..].to_vec()),
        (json!({"query": "n.e.le", "include_pattern": "search/**"}), vec![]),
        (
            json!({"query": "^n[e]+dle$", "is_regex": true, "include_pattern": "search/**"}),
            vec![all[3].clone()],
        ),
        // In lines that end as on Windows too.
        (
            json!({"query": "st$", "is_regex": true, "include_pattern": "search/**"}),
            vec![at("one.txt", 1, 3), at("one.txt", 3, 2)],
        ),
        (json!({"query": "(x+x+)+y", "is_regex": true, "include_pattern": "search/**"}), vec![]),
        (json!({"query": "root:", "include_pattern": "search/**"}), vec![]),
    ];
    for (body, expected) in cases {
        assert_eq!(of(&search(admin, body.clone()).await), expected, "{body}");
    }
    for (most, truncated) in [(3, true), (4, false)] {
        let found =
            search(admin, json!({"query": "needle", "include_pattern": "search/**", "max_results": most}))
                .await;
        assert_eq!((of(&found).len(), &found["truncated"]), (most, &json!(truncated)));
    }
    world.close().await;
}

#[tokio::test]
async fn a_file_that_waits_for_the_disk_holds_no_sign_in_up() {
    let world = World::start().await;
    let admin = &world.admin.client;
    // As while the tree in use is exchanged.
    let exchange = std::fs::File::open(world.test.workspace()).expect("opens");
    exchange.lock().expect("locks");
    let waits = "SELECT count(*) FROM pg_locks
                 WHERE locktype = 'advisory' AND granted AND objid = (hashtext('bifrost.editor')::bigint & 4294967295)::oid
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

    let save = put(admin, "a.py", "x = 1");
    let meanwhile = async {
        let waits = || async { (world.count(waits).await > 0).then_some(()) };
        eventually("the file waits", waits).await;
        let signed_in = world.nobody().sign_in(&world.admin.email, PASSWORD).await;
        exchange.unlock().expect("unlocks");
        signed_in
    };
    let (saved, signed_in) = tokio::join!(save, meanwhile);
    saved.expect_status(StatusCode::OK);
    signed_in.get("/auth/me").await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn a_file_that_arrives_slowly_is_stored() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let body = json!({"path": "slow.txt", "content": "slowly"}).to_string();
    let (first, rest) = body.split_at(body.len() / 2);
    let host = admin.base().trim_start_matches("http://");
    let (token, length) = (admin.bearer().expect("signed in"), body.len());
    let mut socket = TcpStream::connect(host).await.expect("connects");
    let head = format!(
        "PUT {CONTENT} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{first}"
    );
    socket.write_all(head.as_bytes()).await.expect("writes");
    let early = timeout(LONG, socket.peek(&mut [0])).await;
    assert!(early.is_err(), "answered before the body was there");
    socket.write_all(rest.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("answers");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(get(admin, "slow.txt").await.json()["content"], "slowly");
    world.close().await;
}

#[tokio::test]
async fn a_search_that_takes_long_is_answered() {
    let world = World::start().await;
    world.test.write("slow.txt", "needle");
    // As while the tree in use is exchanged.
    let exchange = std::fs::File::open(world.test.workspace()).expect("opens");
    exchange.lock().expect("locks");
    let query = json!({"query": "needle", "include_pattern": "slow.txt"});
    let client = world.admin.client.clone();
    let mut searching = pin!(search(&client, query));
    let early = timeout(LONG, &mut searching).await;
    assert!(early.is_err(), "answered before the files were there: {early:?}");
    exchange.unlock().expect("unlocks");
    assert_eq!(searching.await["query"], "needle");
    world.close().await;
}
