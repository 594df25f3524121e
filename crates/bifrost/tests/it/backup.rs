//! `bifrost backup`: made under load, checked, brought back; and what is refused.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use testkit::{Client, Launch, Process, TestDb, TestEnv, eventually};

use crate::support::{
    EMAIL, Installation, PASSWORD, WORKFLOWS, open_folder, submit, wait_for_end, wait_for_workflow,
};
use crate::up::Site;

const SECRET: &str = "a value that is stored encrypted";
const USES_SECRET: &str = r#"
from bifrost import secrets, workflow


@workflow()
async def uses_token():
    return len(await secrets.get("token"))
"#;

const OTHER_KEY: &str = "Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_TeQ";

/// A file that was uploaded for a form, as far as the database knows.
const UPLOAD: &str = "
    WITH form AS (
        INSERT INTO forms (id, name, form_schema, created_by)
        VALUES (gen_random_uuid(), 'Scans', '{}', 'ada@example.com')
        RETURNING id)
    INSERT INTO uploads (id, form_id, path, name, content_type, announced_bytes, created_by, created_by_name,
        created_by_email, expires_at, received_at)
    SELECT gen_random_uuid(), id, 'scan.pdf', 'scan.pdf', 'application/pdf', 6, gen_random_uuid(), 'Ada',
        'ada@example.com', now(), now()
    FROM form";

/// A client program of PostgreSQL that says what it was called with, and goes on and on.
const ENDLESS: &str = r#"#!/bin/sh
[ "$1" = --version ] && { echo "client (PostgreSQL) 99.0"; exit; }
printf %s "$*" >"$0.called"
exec sleep 60
"#;

/// Clients that submit while the backup is made.
const CLIENTS: usize = 4;

fn bifrost(installation: &Installation, arguments: &[&str]) -> Launch {
    installation.bifrost(arguments).in_env(&installation.env)
}

/// The same, where it would be restored: another database and other folders.
fn elsewhere(installation: &Installation, db: &TestDb, folder: &Path, arguments: &[&str]) -> Launch {
    bifrost(installation, arguments)
        .env("DATABASE_URL", db.url().expose_secret())
        .env("ADMIN_DATABASE_URL", db.superuser_url().expose_secret())
        .env("WORKSPACE_PATH", folder.join("workspace"))
        .env("UPLOADS_PATH", folder.join("uploads"))
}

/// Submits until told to stop; the ids of what was accepted.
async fn submit_until(client: Client, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut accepted = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        accepted.push(submit(&client, "greet", &json!({ "name": "Ada" })).await);
    }
    accepted
}

#[tokio::test]
async fn everything_accepted_before_a_backup_under_load_is_there_after_it() {
    let installation = Installation::start().await;
    std::fs::create_dir_all(installation.env.folder().join("uploads/forms"))
        .expect("the folder is the test's");
    std::fs::write(installation.env.folder().join("uploads/forms/scan.pdf"), "a scan")
        .expect("so is the file");
    installation.env.write("uses_secret.py", USES_SECRET);
    let secret = json!({ "key": "token", "value": SECRET, "type": "secret" });
    let stored = installation.client.post("/api/config", &secret).await;
    assert!(stored.status.is_success(), "{}", stored.body);

    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> =
        (0..CLIENTS).map(|_| tokio::spawn(submit_until(installation.client.clone(), stop.clone()))).collect();
    let mut accepted = Vec::new();
    for _ in 0..50 {
        accepted.push(submit(&installation.client, "greet", &json!({ "name": "Grace" })).await);
    }
    let backup = installation.env.folder().join("backup");
    let backup = backup.to_str().expect("is text");
    let made = bifrost(&installation, &["backup", "create", backup]).finish().await.expect_code(0);
    stop.store(true, Ordering::Relaxed);
    let mut meanwhile = 0;
    for client in load {
        meanwhile += client.await.expect("submits").len();
    }
    assert!(
        made.stdout.contains("database.dump") && made.stdout.contains("uploads.tar.gz"),
        "{}",
        made.stdout
    );
    assert!(meanwhile > 0, "nothing was submitted while the backup was made");

    let verified =
        bifrost(&installation, &["backup", "verify", "--restore", "--json", backup]).finish().await;
    let verified = verified.expect_code(0).json();
    assert_eq!(verified["damaged"], json!(0));
    assert!(verified["restored"]["executions"].as_u64().expect("a number") >= 50, "{verified}");

    let db = TestDb::create_empty(&installation.env.services.database_url).await;
    let folder = open_folder();
    let restore = ["backup", "restore", backup];
    let restored = elsewhere(&installation, &db, folder.path(), &restore).finish().await.expect_code(0);
    assert!(restored.stdout.contains("Restored as it was at"), "{}", restored.stdout);
    let workflows = std::fs::read_to_string(folder.path().join("workspace/workflows.py")).expect("is there");
    assert_eq!(workflows, WORKFLOWS);
    assert_eq!(
        std::fs::read_to_string(folder.path().join("uploads/forms/scan.pdf")).expect("is there"),
        "a scan"
    );

    let lost = run_restored(&installation, &db, folder.path(), &accepted).await;
    println!("{} accepted before the backup, {meanwhile} beside it: lost {lost}", accepted.len());
    assert_eq!(lost, 0);
    db.close().await;
    installation.close().await;
}

/// Starts Bifrost on what was restored, and counts the executions that do not reach their end.
async fn run_restored(installation: &Installation, db: &TestDb, folder: &Path, accepted: &[String]) -> usize {
    let (url, prefix) = (db.url(), format!("restored-{}", uuid::Uuid::now_v7().simple()));
    let (workspace, queues) = (folder.join("workspace"), format!("{prefix}."));
    let changes = [
        ("DATABASE_URL", url.expose_secret()),
        ("WORKSPACE_PATH", workspace.to_str().expect("is text")),
        ("QUEUE_PREFIX", &*queues),
        ("REDIS_PREFIX", &*prefix),
    ];
    let env = &installation.env;
    let (api, jobs) = tokio::join!(Process::api_with(env, &changes), Process::jobs_with(env, &changes));
    let client = api.client().sign_in(EMAIL, PASSWORD).await;
    let mut lost = 0;
    for id in accepted {
        let ended = wait_for_end(&client, id).await;
        // One that was under way has lost its worker, and no second attempt.
        lost += usize::from(ended["status"] != "Success" && ended["error_type"] != "WorkerLost");
    }
    let audit = elsewhere(installation, db, folder, &["audit", "verify"]).finish().await.expect_code(0);
    assert!(!audit.stdout.contains("not what was written"), "{}", audit.stdout);
    wait_for_workflow(&client, "uses_token").await;
    let run = wait_for_end(&client, &submit(&client, "uses_token", &json!({})).await).await;
    assert_eq!(
        run["result"],
        json!(SECRET.len().to_string()),
        "the secret of then is not what it was: {run}"
    );
    drop((api, jobs));
    let wakeups = domain::wakeup::Wakeups::rabbit(&env.services.rabbitmq_url, &queues).expect("opens");
    wakeups.remove_topology().await.expect("the broker is there");
    lost
}

#[tokio::test]
async fn a_damaged_backup_is_named_and_nothing_is_restored_over_something() {
    let installation = Installation::start().await;
    let backup = installation.env.folder().join("backup");
    let path = backup.to_str().expect("is text");
    let create = ["backup", "create", path, "--state-dir", "its-state"];
    let made = bifrost(&installation, &create).finish().await.expect_code(0);
    let next = format!("next:  bifrost backup verify --state-dir its-state --restore {path}");
    assert!(made.stdout.contains(&next), "{}", made.stdout);
    let again = bifrost(&installation, &["backup", "create", path]).finish().await.expect_code(2);
    assert!(again.stderr.contains("is there already"), "{}", again.stderr);

    let (restore, folder) = (["backup", "restore", path], open_folder());
    let own = bifrost(&installation, &restore).env("WORKSPACE_PATH", folder.path().join("workspace"));
    let refused = own.finish().await.expect_code(2);
    assert!(refused.stderr.contains("holds tables already"), "{}", refused.stderr);

    let db = TestDb::create_empty(&installation.env.services.database_url).await;
    std::fs::create_dir(folder.path().join("workspace")).expect("the folder is the test's");
    std::fs::write(folder.path().join("workspace/mine.py"), "").expect("the folder is the test's");
    let refused = elsewhere(&installation, &db, folder.path(), &restore).finish().await.expect_code(2);
    assert!(refused.stderr.contains("is not empty"), "{}", refused.stderr);

    let dump = backup.join("database.dump");
    let mut bytes = std::fs::read(&dump).expect("is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&dump, bytes).expect("the folder is the test's");
    let verified = bifrost(&installation, &["backup", "verify", path]).finish().await.expect_code(1);
    assert!(verified.stdout.contains("not what was written"), "{}", verified.stdout);
    std::fs::remove_file(folder.path().join("workspace/mine.py")).expect("is there");
    let refused = elsewhere(&installation, &db, folder.path(), &restore).finish().await.expect_code(1);
    assert!(refused.stderr.contains("database.dump: its content"), "{}", refused.stderr);

    let empty = domain::schema::is_empty(&db.superuser_url()).await.expect("answers");
    assert!(empty, "a refused restore wrote something");
    let none = bifrost(&installation, &["backup", "verify", folder.path().to_str().expect("is text")]);
    assert!(none.finish().await.expect_code(2).stderr.contains("is no backup"));
    db.close().await;
    installation.close().await;
}

#[tokio::test]
async fn a_backup_that_lacks_the_tree_in_use_is_named_and_none_is_made_without_it() {
    const TREE: &str = "01990000-0000-7000-8000-000000000001";
    let env = TestEnv::with_files(&[]).await;
    env.write(&format!(".trees/{TREE}/files/workflows.py"), WORKFLOWS);
    let link = env.workspace().join(".trees/current");
    symlink(TREE, &link).expect("the folder is the test's");
    let backup = env.folder().join("backup");
    let bifrost =
        async |arguments: &[&str]| Launch::bifrost(env.folder(), arguments).in_env(&env).finish().await;
    // As people name it: from where they are.
    bifrost(&["backup", "create", "backup"]).await.expect_code(0);
    bifrost(&["backup", "verify", "backup"]).await.expect_code(0);

    replace_workspace(&backup, &link);
    let verified = bifrost(&["backup", "verify", "./backup"]).await.expect_code(1);
    assert!(verified.stdout.contains(TREE) && verified.stdout.contains("not in it"), "{}", verified.stdout);

    std::fs::remove_dir_all(env.workspace().join(".trees").join(TREE)).expect("the folder is the test's");
    let other = env.folder().join("other");
    let refused = bifrost(&["backup", "create", other.to_str().expect("is text")]).await.expect_code(1);
    assert!(refused.stderr.contains("names a tree that is not there"), "{}", refused.stderr);
    assert!(!other.exists());
    env.close().await;
}

/// Makes the link to the tree in use all that a backup has of the workspace, with the checksum of that.
fn replace_workspace(backup: &Path, link: &Path) {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    builder.follow_symlinks(false);
    builder.append_path_with_name(link, ".trees/current").expect("is there");
    let archive = builder.into_inner().and_then(GzEncoder::finish).expect("is memory");
    std::fs::write(backup.join("workspace.tar.gz"), &archive).expect("the folder is the test's");

    let file = backup.join("manifest.json");
    let mut manifest: Value =
        serde_json::from_slice(&std::fs::read(&file).expect("is there")).expect("is JSON");
    let pieces = manifest["pieces"].as_array_mut().expect("a list");
    let piece = pieces.iter_mut().find(|piece| piece["name"] == "workspace.tar.gz").expect("it has one");
    piece["bytes"] = json!(archive.len());
    piece["sha256"] = json!(hex::encode(Sha256::digest(&archive)));
    std::fs::write(&file, manifest.to_string()).expect("the folder is the test's");
}

#[tokio::test]
async fn uploads_that_are_not_where_they_should_be_fail_a_backup() {
    let env = TestEnv::with_files(&[]).await;
    let (folder, wrong) = (env.folder().join("uploads"), env.folder().join("upload"));
    let path = |name: &str| env.folder().join(name).display().to_string();
    let create = |name: &str| Launch::bifrost(env.folder(), &["backup", "create", &path(name)]).in_env(&env);
    let unused = create("unused").finish().await.expect_code(0);
    assert!(!unused.stdout.contains("uploads.tar.gz"), "{}", unused.stdout);

    std::fs::create_dir(&folder).expect("the folder is the test's");
    std::fs::write(folder.join("scan.pdf"), "a scan").expect("the folder is the test's");
    let mut conn = env.db.connect().await;
    sqlx::raw_sql(UPLOAD).execute(&mut conn).await.expect("a superuser may");
    drop(conn);
    let refused = create("refused").env("UPLOADS_PATH", &wrong).finish().await.expect_code(2);
    let told = format!("the uploads are not in {}", wrong.display());
    assert!(refused.stderr.contains(&told) && refused.stderr.contains("UPLOADS_PATH"), "{}", refused.stderr);
    assert!(!Path::new(&path("refused")).exists(), "a backup without them was made");

    let bucket = create("bucket").env("UPLOADS_PATH", &wrong).env("S3_BUCKET", "scans").finish().await;
    assert!(!bucket.expect_code(0).stdout.contains("uploads.tar.gz"));
    let made = create("made").finish().await.expect_code(0);
    assert!(made.stdout.contains("uploads.tar.gz"), "{}", made.stdout);
    env.close().await;
}

#[tokio::test]
async fn what_a_signal_stops_leaves_nothing_behind() {
    let env = TestEnv::with_files(&[]).await;
    let db = TestDb::create_empty(&env.services.database_url).await;
    let path = |name: &str| env.folder().join(name).display().to_string();
    let bifrost = |arguments: &[&str]| Launch::bifrost(env.folder(), arguments).in_env(&env);
    bifrost(&["backup", "create", &path("backup")]).finish().await.expect_code(0);
    let tools = endless_tools(env.folder());
    let endless = |arguments: &[&str]| bifrost(arguments).env("BIFROST_PG_BIN", &tools);

    let create = endless(&["backup", "create", &path("other")]).start();
    called(&tools.join("pg_dump")).await;
    assert!(Path::new(&path("other.unfinished")).exists());
    create.interrupt();
    create.finish().await.expect_code(130);
    assert!(!Path::new(&path("other.unfinished")).exists() && !Path::new(&path("other")).exists());

    let verify = endless(&["backup", "verify", "--restore", &path("backup")]).start();
    let said = called(&tools.join("pg_restore")).await;
    let name = said.split(['/', ' ']).find(|part| part.starts_with("bifrost_verify_")).expect("its database");
    verify.terminate();
    verify.finish().await.expect_code(130);
    let mut conn = env.db.connect().await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = $1")
        .bind(name)
        .fetch_one(&mut conn)
        .await
        .expect("a superuser may ask");
    assert_eq!(left, 0, "{name} is still there");
    drop(conn);

    let restore = endless(&["backup", "restore", &path("backup")])
        .env("DATABASE_URL", db.url().expose_secret())
        .env("ADMIN_DATABASE_URL", db.superuser_url().expose_secret())
        .env("WORKSPACE_PATH", path("restored"))
        .start();
    called(&tools.join("pg_restore")).await;
    restore.interrupt();
    restore.finish().await.expect_code(130);
    assert!(domain::schema::is_empty(&db.superuser_url()).await.expect("answers"));
    assert!(!Path::new(&path("restored")).exists());
    db.close().await;
    env.close().await;
}

/// A folder with such programs.
fn endless_tools(folder: &Path) -> PathBuf {
    let (text, tools) = (folder.join("program"), folder.join("tools"));
    std::fs::write(&text, ENDLESS).expect("the folder is the test's");
    for name in ["pg_dump", "pg_restore"] {
        // By another process: a program that somebody still has open for writing cannot be started.
        let (options, places) = (["-D", "-m", "755"], [&text, &tools.join(name)]);
        let made = Command::new("install").args(options).args(places).status();
        assert!(made.is_ok_and(|made| made.success()), "{name} cannot be made");
    }
    tools
}

/// What one of them was called with, when it is; forgotten then.
async fn called(program: &Path) -> String {
    let file = program.with_extension("called");
    let said = eventually("the client program to be called", || async {
        std::fs::read_to_string(&file).ok().filter(|said| !said.is_empty())
    })
    .await;
    std::fs::remove_file(&file).expect("it is there");
    said
}

#[tokio::test]
async fn what_one_up_had_another_has_after_a_restore() {
    let (old, new) = (Site::with_file(USES_SECRET).await, Site::bare().await);
    let running = old.serve().await;
    let client = running.client().register(EMAIL, PASSWORD).await;
    let stored =
        client.post("/api/config", &json!({"key": "token", "value": SECRET, "type": "secret"})).await;
    assert!(stored.status.is_success(), "{}", stored.body);
    wait_for_workflow(&client, "uses_token").await;
    let id = submit(&client, "uses_token", &json!({})).await;
    let before = wait_for_end(&client, &id).await;
    let folder = old.path().join("backup");
    let backup = folder.to_str().expect("is text");
    old.bifrost(&["backup", "create", backup]).finish().await.expect_code(0);
    let verify = ["backup", "verify", "--restore", "--json", backup];
    let verified = old.bifrost(&verify).finish().await.expect_code(0).json();
    assert_eq!((&verified["damaged"], &verified["restored"]["executions"]), (&json!(0), &json!(1)));
    assert!(running.stop().await.success());

    let restored = new.bifrost(&["backup", "restore", backup]).finish().await.expect_code(0);
    assert!(restored.stdout.contains("secrets_master_key"), "{}", restored.stdout);
    let key = new.state().join("secrets/secrets_master_key");
    // Without the key of then it makes none of its own.
    let refused = new.up(&["--listen", "127.0.0.1:0"]).finish().await.expect_code(2);
    assert!(refused.stderr.contains("secrets_master_key") && !key.exists(), "{}", refused.stderr);
    std::fs::copy(old.state().join("secrets/secrets_master_key"), &key).expect("is there");

    let running = new.serve().await;
    let client = running.client().sign_in(EMAIL, PASSWORD).await;
    let after = client.get(&format!("/api/executions/{id}")).await.json();
    for member in ["workflow_name", "status", "result", "started_at", "completed_at", "executed_by"] {
        assert_eq!(after[member], before[member], "{member}");
    }
    let people = client.get("/api/users").await;
    assert!(people.status.is_success() && people.body.contains(EMAIL), "{}", people.body);
    wait_for_workflow(&client, "uses_token").await;
    let again = wait_for_end(&client, &submit(&client, "uses_token", &json!({})).await).await;
    assert_eq!(again["result"], json!(SECRET.len().to_string()), "{again}");
    let audit = new.bifrost(&["audit", "verify"]).finish().await.expect_code(0);
    assert!(audit.stdout.contains("is what was written"), "{}", audit.stdout);
    let findings = new.bifrost(&["doctor", "--json"]).finish().await.json();
    let secrets = findings.as_array().into_iter().flatten().find(|finding| finding["part"] == "secrets");
    assert_eq!(secrets.map(|finding| &finding["verdict"]), Some(&json!("ok")), "{findings:#}");
    println!("restored into another state directory: 1 of 1 users, executions and secrets are there");
    assert!(running.stop().await.success());

    // A key that is set and opens nothing is named.
    let mut other = new.up(&["--listen", "127.0.0.1:0"]).env("SECRETS_MASTER_KEY", OTHER_KEY).start();
    other.wait_for_output("does not open the secrets of 1 ").await;
    let findings = new.bifrost(&["doctor", "--json"]).env("SECRETS_MASTER_KEY", OTHER_KEY).finish().await;
    assert!(findings.expect_code(1).stdout.contains("does not open the secrets"));
    assert!(other.stop().await.success());
}
