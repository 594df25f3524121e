//! Conflicts that are more than two versions of a file: a folder in its place, a deletion, another name. Each waits for somebody to
//! decide, and nobody's work is dropped meanwhile.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Origin};

use super::{changes, connected, failed, get, pairs, post, read, save, succeeded};
use crate::support::World;

/// What somebody does to files: `None` deletes.
type Deeds = [(&'static str, Option<&'static str>)];

async fn remove(admin: &Client, path: &str) {
    let request = admin.request(Method::DELETE, "/api/editor/files").query(&[("path", path)]);
    admin.send(request).await.expect_status(StatusCode::NO_CONTENT);
}

async fn carry_out(admin: &Client, deeds: &Deeds) {
    for &(path, content) in deeds {
        match content {
            Some(content) => save(admin, path, content).await,
            None => remove(admin, path).await,
        }
    }
}

/// A world where both sides have gone on from the same files, and what the pull says then.
async fn diverged(base: &[(&str, &str)], mine: &Deeds, theirs: &Deeds) -> (Origin, World, Value) {
    let origin = Origin::with(base);
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    carry_out(admin, mine).await;
    succeeded(&post(admin, "commit", json!({"message": "mine"})).await);
    for &(path, content) in theirs {
        match content {
            Some(content) => origin.write(&[(path, content)]),
            None => drop(origin.git(&["rm", "--quiet", path])),
        }
    }
    origin.commit("theirs");
    let pulled = post(admin, "pull", json!({})).await;
    failed(&pulled, "resolve the conflicts");
    (origin, world, pulled)
}

fn conflict(path: &str, current: &str, incoming: &str, base: Option<&str>) -> Value {
    json!([{"file_path": path, "current_content": current, "incoming_content": incoming, "base_content": base}])
}

/// Nothing is committed or pushed while nobody has decided.
async fn is_open(origin: &Origin, admin: &Client, path: &str) {
    let before = origin.head();
    for operation in ["commit", "push"] {
        failed(&post(admin, operation, json!({})).await, &format!("there are conflicts in {path};"));
    }
    let status = get(admin, "status").await;
    assert_eq!((&status["merging"], &origin.head()), (&json!(true), &before));
    assert!(changes(&status).contains(&(path.to_owned(), "C".to_owned())), "{status}");
}

/// Decides, pushes, and compares the files that both have then.
async fn ends(origin: &Origin, admin: &Client, deeds: &Deeds, expected: &[(&str, &str)]) {
    carry_out(admin, deeds).await;
    succeeded(&post(admin, "push", json!({"message": "Merge"})).await);
    origin.update();
    let names: Vec<&str> = expected.iter().map(|(path, _)| *path).collect();
    assert_eq!(origin.git(&["ls-files"]).lines().collect::<Vec<_>>(), names);
    for (path, content) in expected {
        assert_eq!(read(admin, path).await.as_deref(), Some(*content), "{path}");
        assert_eq!(origin.read(path), content.trim_end(), "{path}");
    }
    let status = get(admin, "status").await;
    assert_eq!((&status["merging"], changes(&status)), (&json!(false), pairs(&[])));
}

/// What both sides did, and what is told of it.
struct Case<'a> {
    base: &'a [(&'a str, &'a str)],
    mine: &'a Deeds,
    theirs: &'a Deeds,
    /// The path of the conflict, and how it is told.
    told: (&'a str, Value),
    /// A file that is in the workspace until somebody decides.
    kept: (&'a str, &'a str),
}

impl Case<'_> {
    /// The conflict stays until somebody decides, whichever way: what they do, and the files then.
    async fn waits_for(&self, decisions: &[(&Deeds, &[(&str, &str)])]) {
        let ((path, told), (kept, content)) = (&self.told, self.kept);
        for (deeds, expected) in decisions {
            let (origin, world, pulled) = diverged(self.base, self.mine, self.theirs).await;
            let admin = &world.admin.client;
            assert_eq!(&pulled["conflicts"], told, "the real path");
            assert_eq!(&get(admin, "conflicts").await["conflicts"], told);
            is_open(&origin, admin, path).await;
            assert_eq!(read(admin, kept).await.as_deref(), Some(content), "to be decided on");
            ends(&origin, admin, deeds, expected).await;
            world.close().await;
        }
    }
}

#[tokio::test]
async fn a_file_whose_place_is_a_folder_on_the_other_side_stays_until_somebody_decides() {
    let case = Case {
        base: &[("a.txt", "1\n")],
        mine: &[("notes", Some("MY NOTES\n"))],
        theirs: &[("notes/in.txt", Some("theirs\n"))],
        told: ("notes", conflict("notes", "MY NOTES\n", "", None)),
        kept: ("notes", "MY NOTES\n"),
    };
    case.waits_for(&[
        (&[("notes", Some("MY NOTES\n"))], &[("a.txt", "1\n"), ("notes", "MY NOTES\n")]),
        (&[("notes", None)], &[("a.txt", "1\n"), ("notes/in.txt", "theirs\n")]),
        (
            &[("notes", None), ("notes/in.txt", Some("both\n"))],
            &[("a.txt", "1\n"), ("notes/in.txt", "both\n")],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_folder_whose_place_is_a_file_on_the_other_side_stays_until_somebody_decides() {
    let case = Case {
        base: &[("a.txt", "1\n")],
        mine: &[("ee/in.txt", Some("mine\n"))],
        theirs: &[("ee", Some("theirs\n"))],
        told: ("ee", conflict("ee", "", "theirs\n", None)),
        kept: ("ee/in.txt", "mine\n"),
    };
    case.waits_for(&[
        (&[("ee/in.txt", Some("mine\n"))], &[("a.txt", "1\n"), ("ee/in.txt", "mine\n")]),
        (&[("ee", None)], &[("a.txt", "1\n"), ("ee", "theirs\n")]),
        (&[("ee/in.txt", None)], &[("a.txt", "1\n"), ("ee", "theirs\n")]),
        (&[("ee", None), ("ee", Some("both\n"))], &[("a.txt", "1\n"), ("ee", "both\n")]),
    ])
    .await;
}

#[tokio::test]
async fn what_was_deleted_here_and_changed_there_comes_back_until_somebody_decides() {
    let case = Case {
        base: &[("a.txt", "1\n"), ("deep/f.txt", "base\n")],
        mine: &[("deep/f.txt", None)],
        theirs: &[("deep/f.txt", Some("theirs\n"))],
        told: ("deep/f.txt", conflict("deep/f.txt", "", "theirs\n", Some("base\n"))),
        kept: ("deep/f.txt", "theirs\n"),
    };
    case.waits_for(&[
        (&[("deep/f.txt", None)], &[("a.txt", "1\n")]),
        (&[("deep/f.txt", Some("theirs\n"))], &[("a.txt", "1\n"), ("deep/f.txt", "theirs\n")]),
        (&[("deep", None)], &[("a.txt", "1\n")]),
    ])
    .await;
}

#[tokio::test]
async fn what_was_changed_here_and_deleted_there_stays_until_somebody_decides() {
    let base = [("a.txt", "1\n"), ("f.txt", "base\n")];
    let (mine, theirs): (&Deeds, &Deeds) = (&[("f.txt", Some("mine\n"))], &[("f.txt", None)]);
    let (origin, world, pulled) = diverged(&base, mine, theirs).await;
    let admin = &world.admin.client;
    assert_eq!(pulled["conflicts"], conflict("f.txt", "mine\n", "", Some("base\n")));
    is_open(&origin, admin, "f.txt").await;
    ends(&origin, admin, &[("f.txt", None)], &[("a.txt", "1\n")]).await;
    world.close().await;
}

#[tokio::test]
async fn what_has_another_name_there_is_decided_on_under_that_name() {
    const BASE: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
    const MINE: &str = "1\n2\n3\n4\nmine\n6\n7\n8\n9\n";
    const THEIRS: &str = "1\n2\n3\n4\ntheirs\n6\n7\n8\n9\n";
    let (mine, theirs) = (&[("a.txt", Some(MINE))], &[("a.txt", None), ("b.txt", Some(THEIRS))]);
    let (origin, world, pulled) = diverged(&[("a.txt", BASE)], mine, theirs).await;
    let admin = &world.admin.client;
    assert_eq!(pulled["conflicts"], conflict("b.txt", MINE, THEIRS, Some(BASE)));
    is_open(&origin, admin, "b.txt").await;
    assert_eq!(read(admin, "b.txt").await.as_deref(), Some(MINE), "without marks of conflicts");
    ends(&origin, admin, &[("b.txt", Some("both\n"))], &[("b.txt", "both\n")]).await;
    world.close().await;
}

#[tokio::test]
async fn a_merge_of_folders_and_deletions_is_given_up_without_trace() {
    let base = [(".gitignore", "*.log\n"), ("a.txt", "1\n"), ("f.log", "base\n")];
    let mine = [("f.log", None), ("notes", Some("mine\n")), ("ee/in.txt", Some("mine\n"))];
    let theirs = [("f.log", Some("theirs\n")), ("notes/in.txt", Some("theirs\n")), ("ee", Some("theirs\n"))];
    let origin = Origin::with(&base[..2]);
    // One that `.gitignore` names and the repository has all the same.
    origin.write(&base[2..]);
    origin.git(&["add", "--force", "f.log"]);
    origin.commit("a log");
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    carry_out(admin, &mine).await;
    succeeded(&post(admin, "commit", json!({"message": "mine"})).await);
    for (path, content) in theirs {
        origin.write(&[(path, content.expect("writes all of them"))]);
    }
    origin.commit("theirs");
    let pulled = post(admin, "pull", json!({})).await;
    failed(&pulled, "resolve the conflicts");
    assert_eq!(pulled["conflicts"].as_array().expect("a list").len(), 3, "{pulled}");
    assert_eq!(read(admin, "f.log").await.as_deref(), Some("theirs\n"));
    carry_out(admin, &[("notes", None), ("notes/in.txt", Some("half\n"))]).await;
    carry_out(admin, &[("ee", None), ("ee", Some("half\n"))]).await;
    let aborted = post(admin, "abort-merge", json!(null)).await;
    assert_eq!(aborted["success"], json!(true), "{aborted}");
    let status = get(admin, "status").await;
    assert_eq!((&status["merging"], changes(&status)), (&json!(false), pairs(&[])));
    for (path, content) in mine {
        assert_eq!(read(admin, path).await.as_deref(), content, "{path}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_folder_that_a_merge_brings_is_not_dropped_for_a_file_that_was_saved_meanwhile() {
    let (mine, theirs) =
        (&[("a.txt", Some("mine\n"))], &[("a.txt", Some("theirs\n")), ("docs/in.txt", Some("theirs\n"))]);
    let (origin, world, _) = diverged(&[("a.txt", "base\n")], mine, theirs).await;
    let admin = &world.admin.client;
    carry_out(admin, &[("a.txt", Some("both\n")), ("docs", Some("meanwhile\n"))]).await;
    failed(&post(admin, "push", json!({})).await, "would overwrite uncommitted changes of docs;");
    ends(&origin, admin, &[("docs", None)], &[("a.txt", "both\n"), ("docs/in.txt", "theirs\n")]).await;
    world.close().await;
}

#[tokio::test]
async fn a_pull_overwrites_no_file_that_gitignore_names() {
    let origin = Origin::with(&[(".gitignore", "*.log\nlogs/\n"), ("a.txt", "1\n")]);
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    let refused = async |name: &str| {
        failed(
            &post(admin, "pull", json!({})).await,
            &format!("would overwrite uncommitted changes of {name};"),
        );
        assert_eq!(read(admin, name).await.as_deref(), Some("mine\n"));
        assert_eq!(get(admin, "status").await["merging"], json!(false));
    };
    let theirs = |files: &[(&str, &str)]| {
        origin.write(files);
        for (path, _) in files {
            origin.git(&["add", "--force", path]);
        }
        origin.commit("theirs");
    };
    for path in ["run.log", "logs/1.txt", "merge.log"] {
        save(admin, path, "mine\n").await;
    }
    theirs(&[("run.log", "theirs\n"), ("a.txt", "2\n")]);
    refused("run.log").await;
    assert_eq!(read(admin, "a.txt").await.as_deref(), Some("1\n"), "nothing of it came");
    remove(admin, "run.log").await;
    succeeded(&post(admin, "pull", json!({})).await);
    assert_eq!(read(admin, "run.log").await.as_deref(), Some("theirs\n"));

    // In a folder that would have to go.
    theirs(&[("logs", "theirs\n")]);
    refused("logs/1.txt").await;
    remove(admin, "logs").await;
    succeeded(&post(admin, "pull", json!({})).await);

    // With a conflict no merge begins.
    save(admin, "a.txt", "mine\n").await;
    succeeded(&post(admin, "commit", json!({"message": "mine"})).await);
    theirs(&[("a.txt", "theirs\n"), ("merge.log", "theirs\n")]);
    refused("merge.log").await;
    world.close().await;
}
