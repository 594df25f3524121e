//! An api that is killed while it pulls.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Origin, Process, TestEnv, eventually};

use super::{changes, get, init, lease, pairs, post, succeeded};
use crate::support::PASSWORD;

const KILLS: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn an_api_killed_in_the_middle_of_a_pull_leaves_the_old_or_the_new_files() {
    let filler: Vec<(String, String)> =
        (0..200).map(|n| (format!("many/{n}.txt"), "x".repeat(4_000))).collect();
    let mut first: Vec<(&str, &str)> =
        filler.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    first.extend([("one.txt", "0"), ("two.txt", "0")]);
    let origin = Origin::with(&first);
    let env = TestEnv::with_files(&[("own.txt", "own\n")]).await;
    let local = [("GIT_LOCAL_REMOTES", "true")];
    let mut api = Process::api_with(&env, &local).await;
    let mut admin = api.client().register("admin@platform.example", PASSWORD).await;
    succeeded(&init(&admin, &origin.address()).await);
    let (mut old, mut new, mut mixed) = (0, 0, 0);
    for n in 1..=KILLS {
        let now = n.to_string();
        origin.write(&[("one.txt", &now), ("two.txt", &now)]);
        origin.commit("next");
        let before = numbers(env.workspace());
        // The turn of the operation before is given back after its answer.
        eventually("a free turn", async || lease(&env.db).await.is_none().then_some(())).await;
        let pull =
            tokio::spawn(admin.request(reqwest::Method::POST, "/api/github/pull").json(&json!({})).send());
        eventually("the turn of the pull, or its answer", async || {
            (pull.is_finished() || lease(&env.db).await.is_some()).then_some(())
        })
        .await;
        // Not to wait for anything: the moment at which it is killed.
        tokio::time::sleep(Duration::from_millis(15 * n)).await;
        api.kill();
        pull.abort();
        end_turn(&env).await;
        let (one, two) = numbers(env.workspace());
        match (one == two, (&one, &two) == (&before.0, &before.1)) {
            (true, true) => old += 1,
            (true, false) => new += 1,
            _ => mixed += 1,
        }
        api = Process::api_with(&env, &local).await;
        admin = api.client().sign_in("admin@platform.example", PASSWORD).await;
        let status = get(&admin, "status").await;
        assert_eq!(
            (changes(&status), &status["error"]),
            (pairs(&[]), &Value::Null),
            "files and repository agree"
        );
        succeeded(&post(&admin, "pull", json!({})).await);
        assert_eq!(numbers(env.workspace()), (now.clone(), now));
    }
    println!("git pulls killed: {KILLS}, old {old}, new {new}, mixed {mixed}");
    assert_eq!(mixed, 0);
    api.kill();
    env.close().await;
}

/// What the lease of a killed process does by itself within ten seconds.
async fn end_turn(env: &TestEnv) {
    sqlx::query("UPDATE git_repository SET lease = NULL, lease_expires_at = NULL")
        .execute(&mut env.db.connect().await)
        .await
        .expect("writes");
}

fn numbers(workspace: &Path) -> (String, String) {
    let files = workspace.join(".trees/current/files").canonicalize().expect("is there");
    let read = |name: &str| std::fs::read_to_string(files.join(name)).expect("is there");
    (read("one.txt"), read("two.txt"))
}
