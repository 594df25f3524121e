//! The repository of the workspace: connecting, commits, pushes, pulls, conflicts, taking back. Repositories are real ones.

use std::os::unix::ffi::OsStrExt as _;

use domain::workspace_trees::Tree;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Origin, TestDb, TestEnv};

use crate::support::World;

mod conflicts;
mod github;
mod hostile;
mod inward;
mod killed;
mod turn;

const CONTENT: &str = "/api/editor/files/content";
const WORKFLOW: &str = "from bifrost import workflow\n\n@workflow(name=\"pulled\", description=\"d\")\ndef pulled():\n    return 1\n";

/// A world whose workspace may be connected with repositories of this machine.
async fn world(files: &[(&str, &str)]) -> World {
    let test = TestEnv::with_files(files).await;
    let mut settings = test.settings_in_process();
    settings.git_local_remotes = true;
    World::on(test, settings).await
}

/// The same, connected.
async fn connected(origin: &Origin) -> World {
    let world = world(&[("own.txt", "own\n")]).await;
    let status = init(&world.admin.client, &origin.address()).await;
    assert_eq!((&status["success"], &status["error"]), (&json!(true), &Value::Null));
    world
}

async fn init(admin: &Client, address: &str) -> Value {
    post(admin, "init", json!({"repo_url": address, "auth_token": "", "branch": "main"})).await
}

async fn post(admin: &Client, operation: &str, body: Value) -> Value {
    admin.post(&format!("/api/github/{operation}"), &body).await.expect_status(StatusCode::OK).json()
}

async fn get(admin: &Client, operation: &str) -> Value {
    admin.get(&format!("/api/github/{operation}")).await.expect_status(StatusCode::OK).json()
}

async fn save(admin: &Client, path: &str, content: &str) {
    admin.put(CONTENT, &json!({"path": path, "content": content})).await.expect_status(StatusCode::OK);
}

/// What the editor shows of a file; `None`: there is none.
async fn read(admin: &Client, path: &str) -> Option<String> {
    let reply = admin.send(admin.request(Method::GET, CONTENT).query(&[("path", path)])).await;
    (reply.status == StatusCode::OK).then(|| reply.json()["content"].as_str().expect("text").to_owned())
}

/// Who has the turn, and until when.
async fn lease(db: &TestDb) -> Option<(String, f64)> {
    sqlx::query_as(
        "SELECT lease::text, EXTRACT(EPOCH FROM lease_expires_at)::float8 FROM git_repository WHERE lease IS NOT NULL",
    )
    .fetch_optional(&mut db.connect().await)
    .await
    .expect("reads")
}

fn succeeded(answer: &Value) {
    assert_eq!((&answer["success"], &answer["error"]), (&json!(true), &Value::Null), "{answer}");
}

fn failed(answer: &Value, words: &str) {
    assert_eq!(answer["success"], json!(false), "{answer}");
    let error = answer["error"].as_str().expect("says why");
    assert!(error.contains(words), "{error}");
}

/// Path and letter of each changed file.
fn changes(status: &Value) -> Vec<(String, String)> {
    let files = status["changed_files"].as_array().expect("a list");
    files.iter().map(|file| (text(&file["path"]), text(&file["status"]))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(path, status)| ((*path).to_owned(), (*status).to_owned())).collect()
}

#[tokio::test]
async fn a_workspace_is_connected_changed_committed_and_pushed() {
    let origin = Origin::with(&[
        ("a.txt", "1\n"),
        ("ops/b.txt", "1\n"),
        ("flow.py", WORKFLOW),
        (".gitignore", "*.log\n"),
    ]);
    let world = world(&[("own.txt", "own\n"), (".overlays/acme/x.txt", "x")]).await;
    let admin = &world.admin.client;
    let before = get(admin, "status").await;
    assert_eq!(
        (&before["success"], &before["initialized"], &before["configured"]),
        (&json!(true), &json!(false), &json!(false))
    );
    failed(&post(admin, "pull", json!({})).await, "no repository is connected");
    failed(&post(admin, "commit", json!({})).await, "no repository is connected");
    let asked = json!({"repo_url": origin.address(), "auth_token": "", "branch": "main"});
    let analysis = post(admin, "analyze-workspace", asked.clone()).await;
    assert_eq!(
        (&analysis["workspace_status"], &analysis["file_count"]),
        (&json!("has_files_no_git"), &json!(1))
    );

    succeeded(&init(admin, &origin.address()).await);
    assert_eq!(read(admin, "a.txt").await.as_deref(), Some("1\n"));
    assert_eq!(read(admin, "own.txt").await, None, "replaced");
    let kept = std::fs::read_to_string(world.test.workspace().join("own.txt")).expect("is the backup");
    assert_eq!(kept, "own\n");
    let config = get(admin, "config").await;
    assert_eq!(
        (&config["configured"], &config["branch"], &config["backup_path"]),
        (&json!(true), &json!("main"), &json!("."))
    );
    let workflows = admin.get("/api/workflows").await.expect_status(StatusCode::OK).json();
    assert!(
        workflows.as_array().expect("a list").iter().any(|one| one["name"] == "pulled"),
        "indexed before the answer"
    );
    let analysis = post(admin, "analyze-workspace", asked).await;
    assert_eq!(
        (&analysis["workspace_status"], &analysis["requires_confirmation"]),
        (&json!("is_git_repo"), &json!(false))
    );
    let status = get(admin, "status").await;
    assert_eq!(changes(&status), pairs(&[]), "forms aside nothing differs");
    assert_eq!((&status["initialized"], &status["current_branch"]), (&json!(true), &json!("main")));

    save(admin, "a.txt", "1\n2\n").await;
    save(admin, "new/näme with space.txt", "new\n").await;
    save(admin, "ignored.log", "x").await;
    admin.send(admin.request(Method::DELETE, "/api/editor/files").query(&[("path", "ops/b.txt")])).await;
    let status = get(admin, "changes").await;
    assert_eq!(
        changes(&status),
        pairs(&[("a.txt", "M"), ("new/näme with space.txt", "U"), ("ops/b.txt", "D")])
    );
    assert_eq!(
        (&status["changed_files"][0]["additions"], &status["changed_files"][0]["deletions"]),
        (&json!(1), &json!(0))
    );

    let committed = post(admin, "commit", json!({"message": "Second\n\nwith a body"})).await;
    succeeded(&committed);
    assert_eq!(committed["files_committed"], 3);
    failed(&post(admin, "commit", json!({"message": "x"})).await, "nothing to commit");
    let status = get(admin, "status").await;
    assert_eq!(
        (changes(&status), &status["commits_ahead"], &status["commits_behind"]),
        (pairs(&[]), &json!(1), &json!(0))
    );
    let latest = &status["commit_history"][0];
    assert_eq!((&latest["sha"], &latest["is_pushed"]), (&committed["commit_sha"], &json!(false)));
    assert_eq!(latest["message"], "Second\n\nwith a body");

    save(admin, "a.txt", "3\n").await;
    succeeded(&post(admin, "push", json!({"message": "Third"})).await);
    assert_eq!(
        (origin.read("a.txt").as_str(), origin.read("new/näme with space.txt").as_str()),
        ("3", "new")
    );
    let history = get(admin, "commits?limit=2").await;
    assert_eq!((&history["total_commits"], &history["has_more"]), (&json!(3), &json!(true)));
    assert_eq!(
        (&history["commits"][0]["message"], &history["commits"][0]["is_pushed"]),
        (&json!("Third"), &json!(true))
    );
    let rest = get(admin, "commits?limit=2&offset=2").await;
    assert_eq!((&rest["commits"][0]["message"], &rest["has_more"]), (&json!("first"), &json!(false)));
    let overlay = std::fs::read_to_string(world.test.workspace().join(".overlays/acme/x.txt"));
    assert_eq!(overlay.expect("belongs to its organization, not to the repository"), "x");

    let gone = post(admin, "disconnect", json!(null)).await;
    assert_eq!(gone["success"], json!(true));
    assert_eq!(get(admin, "status").await["initialized"], json!(false));
    assert_eq!(read(admin, "a.txt").await.as_deref(), Some("3\n"), "the files stay");
    for action in ["git.connected", "git.committed", "git.pushed", "git.disconnected"] {
        let audited = admin.get(&format!("/api/audit?action={action}")).await.expect_status(StatusCode::OK);
        assert!(audited.body.contains(action), "{action}");
    }
    world.close().await;
}

#[tokio::test]
async fn an_empty_repository_gets_the_workspace() {
    let origin = Origin::empty();
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    let status = get(admin, "status").await;
    assert_eq!(changes(&status), pairs(&[("own.txt", "U")]));
    failed(&post(admin, "pull", json!(null)).await, "has no branch main");
    succeeded(&post(admin, "push", json!({"message": "All of it"})).await);
    assert_eq!(origin.read("own.txt"), "own");
    let other = json!({"repo_url": origin.address(), "auth_token": "", "branch": "other"});
    failed(&post(admin, "init", other).await, "has no branch other");
    world.close().await;
}

#[tokio::test]
async fn a_name_that_is_not_utf8_is_refused_and_said_and_never_left_out_of_a_commit() {
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.txt");
    let origin = Origin::with(&[("a.txt", "1\n")]);
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    let tree = Tree::current(world.test.workspace());
    let file = tree.files.join(name);
    std::fs::write(&file, "1\n").expect("the folder is the test's");
    for operation in ["commit", "push"] {
        failed(&post(admin, operation, json!({"message": "x"})).await, "caf\u{fffd}.txt");
    }
    assert_eq!(get(admin, "status").await["commits_ahead"], json!(0), "nothing was committed");

    // One that git has already may be renamed, as was said; a repository within is no part of a commit, whatever its name.
    let (git, files) = (tree.git.display().to_string(), tree.files.display().to_string());
    let in_workspace = ["--git-dir", &git, "--work-tree", &files];
    let run = |arguments: &[&str]| origin.git(&[&in_workspace[..], arguments].concat());
    run(&["add", "--all"]);
    run(&["commit", "--quiet", "--message", "by hand"]);
    std::fs::rename(file, tree.files.join("cafe.txt")).expect("is there");
    let nested = tree.files.join("nested");
    origin.git(&["init", "--quiet", &nested.display().to_string()]);
    std::fs::rename(nested, tree.files.join(name).with_extension("d")).expect("is there");
    let committed = post(admin, "commit", json!({"message": "renamed"})).await;
    succeeded(&committed);
    assert_eq!(committed["files_committed"], 2);
    assert_eq!(run(&["ls-tree", "-r", "--name-only", "HEAD"]), "a.txt\ncafe.txt");
    assert_eq!(changes(&get(admin, "status").await), pairs(&[]));

    std::fs::write(origin.colleague().join(name), "1\n").expect("the folder is the test's");
    origin.commit("of an old machine");
    failed(&post(admin, "pull", json!({})).await, "the repository has caf\u{fffd}.txt");
    failed(&init(admin, &origin.address()).await, "the repository has caf\u{fffd}.txt");
    world.close().await;
}

#[tokio::test]
async fn pulls_bring_what_is_new_and_keep_what_is_not_committed() {
    let origin = Origin::with(&[("a.txt", "1\n"), ("b.txt", "1\n"), ("c.txt", "1\n")]);
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    succeeded(&post(admin, "pull", json!({})).await);

    origin.write(&[("a.txt", "2\n"), ("deep/new.txt", "new\n")]);
    origin.git(&["rm", "--quiet", "c.txt"]);
    origin.commit("from Bob");
    save(admin, "b.txt", "mine\n").await;
    save(admin, "untracked.txt", "mine\n").await;
    assert_eq!(get(admin, "status").await["commits_behind"], json!(0), "no server is asked");
    let refreshed = post(admin, "refresh", json!(null)).await;
    assert_eq!((&refreshed["success"], &refreshed["commits_behind"]), (&json!(true), &json!(1)));
    let pulled = post(admin, "pull", json!({"connection_id": null})).await;
    succeeded(&pulled);
    assert_eq!(pulled["updated_files"], json!(["a.txt", "c.txt", "deep/new.txt"]));
    assert_eq!((read(admin, "a.txt").await.as_deref(), read(admin, "c.txt").await), (Some("2\n"), None));
    assert_eq!(changes(&get(admin, "status").await), pairs(&[("b.txt", "M"), ("untracked.txt", "U")]));

    // What is not committed, and what git does not know, is never overwritten.
    for (mine, theirs) in [("b.txt", "b.txt"), ("untracked.txt", "untracked.txt")] {
        origin.write(&[(theirs, "theirs\n"), ("a.txt", theirs)]);
        origin.commit("in the way");
        let refused = post(admin, "pull", json!({})).await;
        failed(&refused, "would overwrite uncommitted changes of");
        assert!(text(&refused["error"]).contains(mine), "{refused}");
        assert_eq!(read(admin, mine).await.as_deref(), Some("mine\n"));
        assert_eq!(read(admin, "a.txt").await.as_deref(), Some("2\n"), "nothing of it came");
        origin.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
        origin.git(&["push", "--quiet", "--force", "origin", "main"]);
    }

    // Both sides have gone on, in different files: a merge by itself.
    succeeded(&post(admin, "commit", json!({"message": "mine"})).await);
    origin.write(&[("a.txt", "4\n")]);
    origin.commit("more from Bob");
    failed(&post(admin, "push", json!({})).await, "pull first");
    let pulled = post(admin, "pull", json!({})).await;
    succeeded(&pulled);
    assert_eq!(pulled["updated_files"], json!(["a.txt"]));
    assert_eq!(
        (read(admin, "a.txt").await.as_deref(), read(admin, "b.txt").await.as_deref()),
        (Some("4\n"), Some("mine\n"))
    );
    succeeded(&post(admin, "push", json!({})).await);
    assert_eq!((origin.read("a.txt").as_str(), origin.read("b.txt").as_str()), ("4", "mine"));
    world.close().await;
}

/// A world whose `a.txt` differs on both sides, and a file of Bob's besides.
async fn conflicting() -> (Origin, World) {
    let origin = Origin::with(&[("a.txt", "base\n"), ("b.txt", "base\n"), ("gone.txt", "base\n")]);
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    save(admin, "a.txt", "mine\n").await;
    succeeded(&post(admin, "commit", json!({"message": "mine"})).await);
    origin.write(&[("a.txt", "theirs\n"), ("b.txt", "theirs\n")]);
    origin.commit("theirs");
    let pulled = post(admin, "pull", json!({})).await;
    failed(&pulled, "resolve the conflicts");
    let expected = json!([{"file_path": "a.txt", "current_content": "mine\n", "incoming_content": "theirs\n", "base_content": "base\n"}]);
    assert_eq!(pulled["conflicts"], expected);
    assert_eq!(get(admin, "conflicts").await, json!({"conflicts": expected, "count": 1}));
    (origin, world)
}

#[tokio::test]
async fn a_conflict_is_resolved_by_saving_its_file_and_everything_comes_with_the_commit() {
    let (origin, world) = conflicting().await;
    let admin = &world.admin.client;
    let status = get(admin, "status").await;
    assert_eq!((&status["merging"], changes(&status)), (&json!(true), pairs(&[("a.txt", "C")])));
    assert_eq!(read(admin, "a.txt").await.as_deref(), Some("mine\n"), "what runs goes on running");
    assert_eq!(read(admin, "b.txt").await.as_deref(), Some("base\n"));
    failed(&post(admin, "commit", json!({})).await, "conflicts in a.txt");
    for operation in ["pull", "discard-unpushed"] {
        failed(&post(admin, operation, json!({})).await, "a merge is in progress");
    }
    // What the merge brings must not be lost under what somebody saved meanwhile.
    save(admin, "b.txt", "meanwhile\n").await;
    save(admin, "a.txt", "both\n").await;
    failed(&post(admin, "commit", json!({})).await, "would overwrite uncommitted changes of b.txt");
    save(admin, "b.txt", "base\n").await;
    save(admin, "besides.txt", "new\n").await;
    succeeded(&post(admin, "push", json!({"message": "Merge"})).await);
    let shown = (read(admin, "a.txt").await, read(admin, "b.txt").await, read(admin, "besides.txt").await);
    assert_eq!(shown, (Some("both\n".into()), Some("theirs\n".into()), Some("new\n".into())));
    assert_eq!((origin.read("a.txt").as_str(), origin.read("b.txt").as_str()), ("both", "theirs"));
    let status = get(admin, "status").await;
    assert_eq!(
        (&status["merging"], changes(&status), &status["commits_ahead"]),
        (&json!(false), pairs(&[]), &json!(0))
    );
    assert_eq!(get(admin, "conflicts").await["count"], json!(0));
    world.close().await;
}

#[tokio::test]
async fn a_merge_is_given_up_and_leaves_no_trace() {
    let (_origin, world) = conflicting().await;
    let admin = &world.admin.client;
    save(admin, "a.txt", "half\n").await;
    save(admin, "besides.txt", "new\n").await;
    let aborted = post(admin, "abort-merge", json!(null)).await;
    assert_eq!(aborted["success"], json!(true), "{aborted}");
    let status = get(admin, "status").await;
    assert_eq!((&status["merging"], changes(&status)), (&json!(false), pairs(&[("besides.txt", "U")])));
    assert_eq!(read(admin, "a.txt").await.as_deref(), Some("mine\n"));
    failed(&post(admin, "abort-merge", json!(null)).await, "no merge is in progress");
    world.close().await;
}

#[tokio::test]
async fn commits_that_nobody_else_has_are_taken_back() {
    let origin = Origin::with(&[("a.txt", "0\n")]);
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    failed(&post(admin, "discard-unpushed", json!(null)).await, "no commit to discard");
    let mut shas = vec![origin.head()];
    for n in 1..=3 {
        save(admin, "a.txt", &format!("{n}\n")).await;
        save(admin, &format!("file-{n}.txt"), "x").await;
        shas.push(text(
            &post(admin, "commit", json!({"message": format!("number {n}")})).await["commit_sha"],
        ));
    }
    save(admin, "untouched.txt", "mine\n").await;
    failed(&post(admin, "discard-commit", json!({"commit_sha": shas[0]})).await, "pushed already");
    failed(&post(admin, "discard-commit", json!({"commit_sha": "0".repeat(40)})).await, "no such commit");
    let discarded = post(admin, "discard-commit", json!({"commit_sha": shas[2]})).await;
    succeeded(&discarded);
    let messages: Vec<String> = discarded["discarded_commits"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| text(&one["message"]))
        .collect();
    assert_eq!(
        (messages, text(&discarded["new_head"])),
        (vec!["number 3".into(), "number 2".into()], shas[1].clone())
    );
    assert_eq!((read(admin, "a.txt").await.as_deref(), read(admin, "file-2.txt").await), (Some("1\n"), None));
    assert_eq!(changes(&get(admin, "status").await), pairs(&[("untouched.txt", "U")]));

    save(admin, "a.txt", "uncommitted\n").await;
    failed(
        &post(admin, "discard-unpushed", json!(null)).await,
        "would overwrite uncommitted changes of a.txt",
    );
    assert_eq!(read(admin, "a.txt").await.as_deref(), Some("uncommitted\n"));
    save(admin, "a.txt", "1\n").await;
    let discarded = post(admin, "discard-unpushed", json!(null)).await;
    succeeded(&discarded);
    assert_eq!(text(&discarded["new_head"]), shas[0]);
    assert_eq!((read(admin, "a.txt").await.as_deref(), read(admin, "file-1.txt").await), (Some("0\n"), None));
    world.close().await;
}

#[tokio::test]
async fn editors_save_while_trees_are_exchanged_and_lose_nothing() {
    let origin = Origin::with(&[("a.txt", "0\n")]);
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    let saving = async {
        for n in 1..=40 {
            save(admin, "notes.txt", &format!("{n}\n")).await;
            assert_eq!(read(admin, "notes.txt").await, Some(format!("{n}\n")), "what was saved is there");
        }
    };
    let pulling = async {
        let (mut pulls, mut busy) = (0, 0);
        for n in 1..=8 {
            origin.write(&[("a.txt", &format!("{n}\n"))]);
            origin.commit("next");
            let pulled = post(admin, "pull", json!({})).await;
            if pulled["success"] == json!(true) { pulls += 1 } else { busy += 1 }
        }
        (pulls, busy)
    };
    let ((), (pulls, busy)) = tokio::join!(saving, pulling);
    println!("editors: 40 saves during {pulls} pulls ({busy} told to try again), lost 0");
    assert_eq!(read(admin, "notes.txt").await.as_deref(), Some("40\n"));
    assert!(pulls > 0);
    world.close().await;
}
