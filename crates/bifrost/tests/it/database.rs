//! `bifrost audit verify` and `bifrost secrets rotate`: the operator's commands on the database itself.

use domain::vault::Vault;
use domain::{Actor, Db, OrgScope, audit, secrets};
use secrecy::ExposeSecret;
use serde_json::json;
use testkit::{Launch, Services, TestDb};

use crate::support::open_folder;

const OLD: &str = "1:an-old-master-key-of-enough-bytes-00000";
const NEW: &str = "2:a-new-master-key-of-enough-bytes-000000";

/// A database with a sealed secret, which also leaves a row in the audit log.
async fn used() -> TestDb {
    let test = TestDb::create(&Services::from_env().database_url).await;
    let db = Db::open(&test.url(), 1).expect("opens");
    let actor = Actor {
        id: domain::id::UserId::generate(),
        name: "a".into(),
        email: "a@b.example".into(),
        is_platform_admin: true,
    };
    let mut tx = db.begin(&OrgScope::for_run(None, actor)).await.expect("begins");
    secrets::set(&mut tx, &Vault::new(&OLD.into()), "token", &"value".into()).await.expect("sets");
    audit::record(&mut tx, audit::Action::ConfigSet, "config/x", &json!({})).await.expect("records");
    tx.commit().await.expect("commits");
    db.close().await;
    test
}

fn bifrost(db: &TestDb, folder: &std::path::Path, arguments: &[&str]) -> Launch {
    Launch::bifrost(folder, arguments).env("DATABASE_URL", db.url().expose_secret())
}

#[tokio::test]
async fn the_audit_log_is_verified_and_a_tampered_row_is_named() {
    let (db, folder) = (used().await, open_folder());
    let verify = ["audit", "verify"];
    let intact = bifrost(&db, folder.path(), &verify).finish().await.expect_code(0);
    assert!(intact.stdout.contains("(none)") && intact.stdout.contains("intact"), "{}", intact.stdout);

    let unknown = ["audit", "verify", "--org", "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11"];
    let unknown = bifrost(&db, folder.path(), &unknown).finish().await.expect_code(2);
    assert!(unknown.stderr.contains("no audit chain") && unknown.stdout.is_empty(), "{}", unknown.all());

    let mut conn = db.connect().await;
    sqlx::query("UPDATE audit_log SET actor = 'mallory' WHERE sequence = 2")
        .execute(&mut conn)
        .await
        .expect("a superuser can");
    let broken = bifrost(&db, folder.path(), &verify).finish().await.expect_code(1);
    assert!(
        broken.stdout.contains("row 2") && broken.stdout.contains("not as it was written"),
        "{}",
        broken.stdout
    );
    let broken = bifrost(&db, folder.path(), &["audit", "verify", "--json"]).finish().await.expect_code(1);
    assert_eq!(
        (&broken.json()["broken"], &broken.json()["chains"][0]["fault"]["sequence"]),
        (&json!(1), &json!(2))
    );
    drop(conn);
    db.close().await;
}

#[tokio::test]
async fn the_master_key_is_rotated_once_and_a_missing_one_is_named() {
    let (db, folder) = (used().await, open_folder());
    let rotate =
        |keys: &str| bifrost(&db, folder.path(), &["secrets", "rotate"]).env("SECRETS_MASTER_KEY", keys);

    let refused = rotate(NEW).finish().await.expect_code(1);
    assert!(
        refused.stderr.contains("next:") && !refused.stderr.contains("a-new-master-key"),
        "{}",
        refused.stderr
    );
    let both = format!("{NEW},{OLD}");
    let done = rotate(&both).finish().await.expect_code(0);
    assert!(done.stdout.contains("1 data key is wrapped with master key `2` now"), "{}", done.stdout);
    let again = rotate(&both).args(&["--json"]).finish().await.expect_code(0);
    assert_eq!(again.json(), json!({"master_key": "2", "wrapped": 0}));
    db.close().await;
}

#[tokio::test]
async fn without_a_database_the_commands_say_what_to_do() {
    let folder = open_folder();
    let state = folder.path().join("state");
    for command in [["audit", "verify"], ["secrets", "rotate"]] {
        let launch = Launch::bifrost(folder.path(), &command).env("BIFROST_STATE_DIR", &state);
        let refused = launch.without("DATABASE_URL").finish().await.expect_code(2);
        assert!(refused.stderr.contains("set DATABASE_URL, or start `bifrost up`"), "{}", refused.stderr);
    }
}
