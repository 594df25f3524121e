//! GitHub's REST interface and repositories over HTTP, with a token that must show nowhere.

use domain::background_jobs::Kind;
use domain::background_jobs::work::{self, Outcome};
use domain::git::Failed;
use domain::git::connect::{self, Wanted};
use domain::id::WorkerId;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{GithubServer, Origin, TestEnv};

use super::{failed, get, post, read, save, succeeded, text};
use crate::support::World;

const TOKEN: &str = "github_pat_11ABCDEFG0123456789";

async fn world(origin: &Origin) -> (World, GithubServer) {
    let server = GithubServer::start(TOKEN, origin.root()).await;
    let test = TestEnv::with_files(&[("own.txt", "own\n")]).await;
    let mut settings = test.settings_in_process();
    server.configure(&mut settings);
    (World::on(test, settings).await, server)
}

#[tokio::test]
async fn a_token_is_validated_sealed_and_opens_repositories() {
    let origin = Origin::with(&[("a.txt", "1\n")]);
    let (world, server) = world(&origin).await;
    let admin = &world.admin.client;
    for path in ["repositories", "branches?repo=acme/flows"] {
        let reply = admin.get(&format!("/api/github/{path}")).await.expect_status(StatusCode::BAD_REQUEST);
        assert!(reply.body.contains("no token"), "{}", reply.body);
    }
    let configure = json!({"repo_url": "acme/flows", "auth_token": "", "branch": "main"});
    admin.post("/api/github/configure", &configure).await.expect_status(StatusCode::BAD_REQUEST);
    let wrong = admin.post("/api/github/validate", &json!({"token": "wrong"})).await;
    assert!(wrong.expect_status(StatusCode::BAD_REQUEST).body.contains("does not know this token"));
    assert_eq!(get(admin, "config").await["token_saved"], json!(false));

    let mut answers = vec![post(admin, "validate", json!({"token": TOKEN})).await];
    assert_eq!(answers[0]["repositories"].as_array().map(Vec::len), Some(60), "both pages");
    assert_eq!(answers[0]["repositories"][0]["full_name"], "acme/flows");
    let branches = get(admin, "branches?repo=acme/flows").await;
    assert_eq!(
        (&branches["branches"][0]["name"], &branches["branches"][0]["protected"]),
        (&json!("main"), &json!(true))
    );
    admin.get("/api/github/branches?repo=acme/none").await.expect_status(StatusCode::NOT_FOUND);
    let made = post(admin, "create-repository", json!({"name": "made", "organization": "acme"})).await;
    assert_eq!(made["full_name"], "acme/made");
    assert_eq!(server.made()[0]["private"], json!(true));
    admin
        .post("/api/github/create-repository", &json!({"name": "taken"}))
        .await
        .expect_status(StatusCode::CONFLICT);

    // The same token opens the repository itself, for git.
    answers.push(post(admin, "init", configure).await);
    succeeded(&answers[1]);
    assert_eq!(read(admin, "a.txt").await.as_deref(), Some("1\n"));
    let listed = get(admin, "repositories").await;
    assert_eq!(listed["detected_repo"], json!({"full_name": "acme/flows", "branch": "main"}));
    save(admin, "a.txt", "2\n").await;
    answers.push(post(admin, "push", json!({"message": "over HTTP"})).await);
    succeeded(&answers[2]);
    assert_eq!(origin.read("a.txt"), "2");
    origin.update();
    origin.write(&[("a.txt", "3\n")]);
    origin.commit("by Bob");
    answers.push(post(admin, "pull", json!({})).await);
    succeeded(&answers[3]);
    for operation in ["status", "config", "commits", "repositories"] {
        answers.push(get(admin, operation).await);
    }

    // A token that the server of the repository refuses, and a server that sends us elsewhere.
    let refused = json!({"repo_url": "acme/flows", "auth_token": "another-token", "branch": "main"});
    answers.push(post(admin, "init", refused).await);
    let still = answers.last().expect("one");
    failed(still, "refused the token");
    assert_eq!((&still["initialized"], &still["configured"]), (&json!(true), &json!(true)), "{still}");
    assert!(!still["commit_history"].as_array().expect("a list").is_empty(), "{still}");
    // The token that opened it is the one that is kept.
    answers.push(post(admin, "pull", json!({})).await);
    succeeded(answers.last().expect("one"));
    answers.push(get(admin, "repositories").await);
    assert_eq!(answers.last().expect("one")["detected_repo"]["full_name"], "acme/flows");
    server.move_to(Some("http://127.0.0.1:9".into()));
    answers.push(post(admin, "pull", json!({})).await);
    failed(answers.last().expect("one"), "has moved");

    let needles = [TOKEN, "another-token", "eC1hY2Nlc3MtdG9rZW4"];
    let mut seen = answers
        .iter()
        .filter(|answer| needles.iter().any(|needle| answer.to_string().contains(needle)))
        .count();
    seen += files_with(world.test.workspace(), &needles);
    for table in ["audit_log", "git_repository", "background_jobs"] {
        let rows = rows(&world, table).await;
        seen += usize::from(needles.iter().any(|needle| rows.contains(needle)));
    }
    println!("git tokens: in {} answers, all files of the workspace and 3 tables seen {seen}", answers.len());
    assert_eq!(seen, 0);
    world.close().await;
}

async fn rows(world: &World, table: &'static str) -> String {
    let mut conn = world.test.db.connect().await;
    let query = sqlx::AssertSqlSafe(format!("SELECT COALESCE(string_agg(t::text, ' '), '') FROM {table} t"));
    sqlx::query_scalar(query).fetch_one(&mut conn).await.expect("is readable")
}

fn files_with(folder: &std::path::Path, needles: &[&str]) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(folder).expect("is there").flatten() {
        let path = entry.path();
        if entry.file_type().expect("has one").is_dir() {
            found += files_with(&path, needles);
        } else if let Ok(content) = std::fs::read(&path) {
            let content = String::from_utf8_lossy(&content);
            found += usize::from(needles.iter().any(|needle| content.contains(needle)));
        }
    }
    found
}

#[tokio::test]
async fn a_job_connects_and_tells_how_far_it_is() {
    let origin = Origin::with(&[("a.txt", "1\n")]);
    let (world, _server) = world(&origin).await;
    let admin = &world.admin.client;
    post(admin, "validate", json!({"token": TOKEN})).await;
    let wanted = json!({"repo_url": "acme/flows", "auth_token": "", "branch": "main"});
    let queued = post(admin, "configure", wanted).await;
    assert_eq!(queued["status"], "queued");
    let payload = rows(&world, "background_jobs").await;
    assert!(payload.contains(&text(&queued["job_id"])) && payload.contains("Pending"), "{payload}");
    assert_eq!(get(admin, "status").await["initialized"], Value::Bool(false), "nobody works on it here");
    world.close().await;
}

/// Carries the oldest job out, as its worker would; the words of a refusal.
async fn carry_out(world: &World) -> Option<String> {
    let platform = world.platform();
    let claimed = work::claim(&platform.db, WorkerId::generate(), &[Kind::GitSync]).await;
    let job = claimed.expect("asks").expect("waits");
    let wanted: Wanted = serde_json::from_value(job.payload.clone()).expect("is one");
    let refusal = match Box::pin(connect::connect(platform, &job.scope(), &wanted, Some(&job), |_| {})).await
    {
        Ok(()) => None,
        Err(Failed::Said(words)) => Some(words),
        Err(Failed::Broken(error)) => panic!("{error}"),
    };
    assert!(work::finish(platform, &job, &Outcome::failure("ended")).await.expect("writes"));
    refusal
}

#[tokio::test]
async fn a_job_that_was_asked_for_before_the_repository_was_disconnected_connects_nothing() {
    let origin = Origin::with(&[("a.txt", "1\n")]);
    let (world, _server) = world(&origin).await;
    let admin = &world.admin.client;
    let wanted = json!({"repo_url": "acme/flows", "auth_token": "", "branch": "main"});
    post(admin, "validate", json!({"token": TOKEN})).await;
    post(admin, "configure", wanted.clone()).await;
    assert_eq!(post(admin, "disconnect", json!(null)).await["success"], json!(true));
    // Also when a token has come again since.
    post(admin, "validate", json!({"token": TOKEN})).await;
    let refusal = carry_out(&world).await.expect("is refused");
    assert!(refusal.contains("was disconnected after this was asked for"), "{refusal}");
    assert_eq!(get(admin, "config").await["configured"], json!(false));
    assert_eq!(read(admin, "own.txt").await.as_deref(), Some("own\n"), "nothing has changed");

    post(admin, "configure", wanted).await;
    assert_eq!(carry_out(&world).await, None, "asked for after it");
    assert_eq!(read(admin, "a.txt").await.as_deref(), Some("1\n"));
    world.close().await;
}
