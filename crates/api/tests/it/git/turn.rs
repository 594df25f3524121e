//! Whose turn it is: one operation at a time over all replicas, by a lease that ends soon after whoever held it.

use std::fs::File;
use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{Client, Origin, TestEnv, eventually};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{connected, failed, get, init, lease, post, read, save, succeeded, world};
use crate::support::{PASSWORD, World};

const STOPPED: &str = "was stopped, since another one may have begun";
const BY_ANOTHER: &str =
    "UPDATE git_repository SET lease = gen_random_uuid(), lease_expires_at = now() + interval '1 hour'";
const BY_NOBODY: &str = "UPDATE git_repository SET lease = NULL, lease_expires_at = NULL";

/// Gives the turn to somebody else, or to nobody.
async fn held(world: &World, statement: &'static str) {
    sqlx::query(statement).execute(&mut world.test.db.connect().await).await.expect("writes");
}

fn begin(admin: &Client, operation: &'static str, body: Value) -> JoinHandle<Value> {
    let admin = admin.clone();
    tokio::spawn(async move { post(&admin, operation, body).await })
}

/// Keeps trees from being exchanged, as somebody does who saves a file.
fn saving(workspace: &Path) -> File {
    let lock = File::open(workspace).expect("is there");
    lock.lock_shared().expect("nobody exchanges");
    lock
}

/// Waits for a tree that lacks nothing but its exchange.
async fn built(workspace: &Path) {
    let is_complete = || {
        let trees = std::fs::read_dir(workspace.join(".trees")).ok()?.flatten();
        let mut building = trees.filter(|entry| entry.file_name().to_string_lossy().starts_with("building-"));
        building.any(|entry| entry.path().join("files/.overlays").is_symlink()).then_some(())
    };
    eventually("a complete tree", || async { is_complete() }).await;
}

#[tokio::test]
async fn an_operation_keeps_its_turn_as_long_as_it_lasts_and_stops_when_it_loses_it() {
    // A server that says nothing, for longer than any transaction may stand still.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("bound").to_string();
    let test = TestEnv::with_files(&[("own.txt", "own\n")]).await;
    let mut settings = test.settings_in_process();
    settings.outbound_admit.clone_from(&address);
    let world = World::on(test, settings).await;
    let admin = &world.admin.client;
    let body = json!({"repo_url": format!("http://{address}/x.git"), "auth_token": "", "branch": "main"});
    let connecting = begin(admin, "init", body);
    let (first, ends) = eventually("a turn", || lease(&world.test.db)).await;
    let extended = || async { lease(&world.test.db).await.filter(|(_, later)| *later > ends) };
    let (second, _) = eventually("a longer turn", extended).await;
    assert_eq!(first, second);
    assert!(!connecting.is_finished());

    held(&world, BY_ANOTHER).await;
    failed(&connecting.await.expect("ends"), STOPPED);
    assert_ne!(lease(&world.test.db).await.expect("is the other's").0, first);
    drop(silent);
    world.close().await;
}

#[tokio::test]
async fn who_has_lost_the_turn_exchanges_nothing_and_drops_no_commit_of_others() {
    let origin = Origin::with(&[("a.txt", "1\n"), ("b.txt", "1\n")]);
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    origin.write(&[("a.txt", "2\n")]);
    origin.commit("from Bob");
    save(admin, "b.txt", "mine\n").await;

    let saving = saving(world.test.workspace());
    let pulling = begin(admin, "pull", json!({}));
    built(world.test.workspace()).await;
    held(&world, BY_NOBODY).await;
    // It changes the branch, and no file.
    let committed = post(admin, "commit", json!({"message": "meanwhile"})).await;
    succeeded(&committed);
    drop(saving);
    failed(&pulling.await.expect("ends"), STOPPED);
    assert_eq!(get(admin, "status").await["commit_history"][0]["sha"], committed["commit_sha"]);
    assert_eq!(read(admin, "a.txt").await.as_deref(), Some("1\n"));

    succeeded(&post(admin, "pull", json!({})).await);
    assert_eq!(read(admin, "a.txt").await.as_deref(), Some("2\n"));
    assert_eq!(read(admin, "b.txt").await.as_deref(), Some("mine\n"));
    world.close().await;
}

#[tokio::test]
async fn who_has_lost_the_turn_connects_nothing() {
    let origin = Origin::with(&[("a.txt", "1\n")]);
    let world = world(&[("own.txt", "own\n")]).await;
    let admin = &world.admin.client;
    let saving = saving(world.test.workspace());
    let body = json!({"repo_url": origin.address(), "auth_token": "", "branch": "main"});
    let connecting = begin(admin, "init", body);
    built(world.test.workspace()).await;
    held(&world, BY_ANOTHER).await;
    drop(saving);
    failed(&connecting.await.expect("ends"), STOPPED);
    assert_eq!(get(admin, "config").await["configured"], json!(false));
    assert_eq!(read(admin, "own.txt").await.as_deref(), Some("own\n"));
    held(&world, BY_NOBODY).await;
    succeeded(&init(admin, &origin.address()).await);
    world.close().await;
}

#[tokio::test]
async fn those_who_wait_for_their_turn_keep_no_connection_from_others() {
    let test = TestEnv::with_files(&[("own.txt", "own\n")]).await;
    let mut settings = test.settings_in_process();
    settings.git_local_remotes = true;
    settings.database_connections = 2;
    let world = World::on(test, settings).await;
    let admin = &world.admin.client;
    let origin = Origin::with(&[("a.txt", "1\n")]);
    succeeded(&init(admin, &origin.address()).await);

    held(&world, BY_ANOTHER).await;
    let waiting: Vec<_> = (0..6).map(|_| begin(admin, "commit", json!({}))).collect();
    for _ in 0..3 {
        world.nobody().sign_in(&world.admin.email, PASSWORD).await;
        admin.get("/api/github/config").await.expect_status(StatusCode::OK);
    }
    assert!(waiting.iter().all(|one| !one.is_finished()));
    // The turn of whoever is gone runs out.
    held(&world, "UPDATE git_repository SET lease_expires_at = now() + interval '100 ms'").await;
    for one in waiting {
        failed(&one.await.expect("ends"), "nothing to commit");
    }
    world.close().await;
}

#[tokio::test]
async fn a_repository_is_disconnected_after_what_is_under_way() {
    let origin = Origin::with(&[("a.txt", "1\n")]);
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    held(&world, BY_ANOTHER).await;
    let disconnecting = begin(admin, "disconnect", json!(null));
    for _ in 0..5 {
        assert_eq!(get(admin, "config").await["configured"], json!(true));
    }
    assert!(!disconnecting.is_finished());
    held(&world, BY_NOBODY).await;
    assert_eq!(disconnecting.await.expect("ends")["success"], json!(true));
    assert_eq!(get(admin, "config").await["configured"], json!(false));
    world.close().await;
}
