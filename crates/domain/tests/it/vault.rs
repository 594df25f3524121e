//! Configuration and secrets: cascade, sealing, tenants apart.

use domain::config::NewValue;
use domain::vault::Vault;
use domain::{OrgScope, Platform, config, data_keys, process, secrets};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::support::{Fixture, actor, scope_of};

#[tokio::test]
async fn an_organization_overrides_the_global_value() {
    let fixture = Fixture::embedded().await;
    let (acme, rival) = (scope_of(fixture.org("acme").await), scope_of(fixture.org("rival").await));
    let global = OrgScope::for_run(None, actor("admin", true));
    let (db, vault) = (&fixture.platform.db, &fixture.platform.vault);
    for (scope, value) in [(&global, json!(30)), (&acme, json!({"days": 7}))] {
        let mut tx = db.begin(scope).await.expect("begins");
        let (value_type, text) = config::text_of(&value);
        let new = NewValue { key: "retention", value_type, text: &text, description: None, may_keep: false };
        config::put(&mut tx, vault, new).await.expect("sets");
        tx.commit().await.expect("commits");
    }

    for (scope, expected) in [(&acme, json!({"days": 7})), (&rival, json!(30)), (&global, json!(30))] {
        let mut tx = db.begin(scope).await.expect("begins");
        let found = config::find(&mut tx, vault, "retention").await.expect("finds").expect("is set");
        assert_eq!(found.value, expected);
    }
    let mut tx = db.begin(&rival).await.expect("begins");
    assert!(
        !config::delete(&mut tx, "retention").await.expect("asks"),
        "the global row is not theirs to delete"
    );
    drop(tx);
    fixture.close().await;
}

#[tokio::test]
async fn a_secret_is_sealed_and_opens_for_its_own_organization() {
    let fixture = Fixture::embedded().await;
    let org = fixture.org("acme").await;
    let (acme, rival) = (scope_of(org), scope_of(fixture.org("rival").await));
    let (db, vault) = (&fixture.platform.db, &fixture.platform.vault);
    let mut tx = db.begin(&acme).await.expect("begins");
    secrets::set(&mut tx, vault, "token", &"plain-text-canary".into()).await.expect("sets");
    tx.commit().await.expect("commits");

    let mut tx = db.begin(&acme).await.expect("begins");
    let secret = secrets::find(&mut tx, vault, "token").await.expect("finds").expect("is set");
    assert_eq!(secret.expose_secret(), "plain-text-canary");
    drop(tx);
    let mut tx = db.begin(&rival).await.expect("begins");
    assert!(secrets::find(&mut tx, vault, "token").await.expect("asks").is_none());
    assert!(secrets::list(&mut tx).await.expect("lists").is_empty());
    drop(tx);

    let mut conn = fixture.test.db.connect().await;
    let stored: Vec<u8> =
        sqlx::query_scalar("SELECT sealed FROM secrets").fetch_one(&mut conn).await.expect("reads");
    assert!(!String::from_utf8_lossy(&stored).contains("canary"));
    // The same bytes under another organization are refused.
    sqlx::query("UPDATE secrets SET organization_id = NULL").execute(&mut conn).await.expect("moves");
    let mut tx = db.begin(&acme).await.expect("begins");
    assert!(secrets::find(&mut tx, vault, "token").await.is_err(), "a moved ciphertext does not open");
    drop(tx);
    fixture.close().await;
}

/// As many organizations as take more than one batch, each with a secret.
async fn sealed(fixture: &Fixture, vault: &Vault, count: usize) -> Vec<OrgScope> {
    let mut scopes = Vec::new();
    for number in 0..count {
        let scope = scope_of(fixture.org(&format!("org-{number}")).await);
        let mut tx = fixture.platform.db.begin(&scope).await.expect("begins");
        secrets::set(&mut tx, vault, "token", &format!("value-{number}").into()).await.expect("sets");
        tx.commit().await.expect("commits");
        scopes.push(scope);
    }
    scopes
}

async fn read(fixture: &Fixture, vault: &Vault, scope: &OrgScope) -> domain::Result<String> {
    let mut tx = fixture.platform.db.begin(scope).await.expect("begins");
    let secret = secrets::find(&mut tx, vault, "token").await?.expect("is set");
    tx.commit().await.expect("commits");
    Ok(secret.expose_secret().to_owned())
}

const OLD: &str = "old:an-old-master-key-of-enough-bytes-000";
const NEW: &str = "new:a-new-master-key-of-enough-bytes-0000";

#[tokio::test]
async fn the_master_key_rotates_while_values_are_read_and_written() {
    let fixture = Fixture::embedded().await;
    let old = Vault::new(&OLD.into());
    let both = Vault::new(&format!("{NEW},{OLD}").into());
    let new = Vault::new(&NEW.into());
    let scopes = sealed(&fixture, &old, 230).await;
    let db = &fixture.platform.db;

    // A rotation that dies after its first batch has done that batch.
    let interrupted = std::cell::Cell::new(0);
    let first = data_keys::rotate(db, &both, |done| interrupted.set(done));
    let mut first = Box::pin(first);
    while interrupted.get() == 0 {
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(first.as_mut().poll(cx).is_ready())).await;
        assert!(!polled, "there is more than one batch");
        tokio::task::yield_now().await;
    }
    drop(first);

    // The rest goes on beside readers and writers that have both keys.
    let traffic = async {
        for (number, scope) in scopes.iter().enumerate() {
            assert_eq!(read(&fixture, &both, scope).await.expect("opens"), format!("value-{number}"));
            let mut tx = db.begin(scope).await.expect("begins");
            secrets::set(&mut tx, &both, "token", &format!("again-{number}").into()).await.expect("sets");
            tx.commit().await.expect("commits");
        }
    };
    let (rest, ()) = tokio::join!(data_keys::rotate(db, &both, |_| ()), traffic);
    assert_eq!(interrupted.get() + rest.expect("rotates"), 230);
    assert_eq!(data_keys::rotate(db, &both, |_| ()).await.expect("asks"), 0, "nothing is left to do");

    let (mut opened, mut refused) = (0, 0);
    for (number, scope) in scopes.iter().enumerate() {
        opened += usize::from(read(&fixture, &new, scope).await.expect("opens") == format!("again-{number}"));
        refused += usize::from(read(&fixture, &old, scope).await.is_err());
    }
    println!("rotation: {opened} of 230 open with the new key alone, {refused} refuse the old one");
    assert_eq!((opened, refused), (230, 230));
    let unopened = async |vault: &Vault| data_keys::count_unopened(db, vault).await.expect("asks");
    let another = Vault::new(&"new:another-master-key-of-the-same-id-00".into());
    let counts =
        [unopened(&new).await, unopened(&both).await, unopened(&old).await, unopened(&another).await];
    assert_eq!(counts, [0, 0, 230, 230]);
    fixture.close().await;
}

#[tokio::test]
async fn each_process_that_starts_with_another_master_key_says_so() {
    let fixture = Fixture::embedded().await;
    sealed(&fixture, &fixture.platform.vault, 1).await;
    process::report_dependencies(fixture.platform.clone()).await;

    for _ in 0..2 {
        let mut settings = domain::settings::Settings::clone(&fixture.platform.settings);
        settings.secrets_master_key = Some("other:a-master-key-of-another-installation".into());
        let other = Platform::open(settings).expect("opens");
        process::report_dependencies(other.clone()).await;
        other.close().await;
    }

    let said: Vec<(String, String)> =
        sqlx::query_as("SELECT level, message FROM system_events WHERE category = 'secret'")
            .fetch_all(&mut fixture.test.db.connect().await)
            .await
            .expect("asks");
    let expected = "SECRETS_MASTER_KEY does not open the secrets of 1 organizations (global ones count as one): runs that need them fail";
    assert_eq!(said, vec![("critical".to_owned(), expected.to_owned()); 2]);
    fixture.close().await;
}

#[tokio::test]
async fn a_ciphertext_that_was_tampered_with_or_moved_does_not_open() {
    let fixture = Fixture::embedded().await;
    let vault = &fixture.platform.vault;
    let statements = [
        ("a flipped bit", "UPDATE secrets SET sealed = set_byte(sealed, length(sealed) - 1, get_byte(sealed, length(sealed) - 1) # 1)"),
        ("a flipped nonce", "UPDATE secrets SET sealed = set_byte(sealed, 17, get_byte(sealed, 17) # 1)"),
        ("an unknown version", "UPDATE secrets SET sealed = set_byte(sealed, 0, 3)"),
        ("the version without a key's id", "UPDATE secrets SET sealed = set_byte(sealed, 0, 1)"),
        ("another key's id", "UPDATE secrets SET sealed = set_byte(sealed, 16, get_byte(sealed, 16) # 1)"),
        ("a data key under another id", "UPDATE data_keys SET id = gen_random_uuid()"),
        ("a cut end", "UPDATE secrets SET sealed = substr(sealed, 1, length(sealed) - 1)"),
        ("nothing", "UPDATE secrets SET sealed = ''"),
        ("another name", "UPDATE secrets SET key = 'token' WHERE key = 'other'; DELETE FROM secrets WHERE FALSE"),
        ("another organization", "WITH a AS (SELECT sealed, organization_id FROM secrets WHERE key = 'token' ORDER BY id)
             UPDATE secrets s SET sealed = (SELECT a.sealed FROM a WHERE a.organization_id <> s.organization_id LIMIT 1) WHERE key = 'token'"),
        ("another data key", "WITH k AS (SELECT wrapped, organization_id FROM data_keys)
             UPDATE data_keys d SET wrapped = (SELECT k.wrapped FROM k WHERE k.organization_id <> d.organization_id LIMIT 1)"),
        ("another master key's name", "UPDATE data_keys SET master_key_id = 'unknown'"),
    ];
    let mut accepted = 0;
    for (number, (what, statement)) in statements.iter().enumerate() {
        let mut conn = fixture.test.db.connect().await;
        sqlx::raw_sql("DELETE FROM secrets; DELETE FROM data_keys").execute(&mut conn).await.expect("clears");
        let (one, two) =
            (fixture.org(&format!("one-{number}")).await, fixture.org(&format!("two-{number}")).await);
        for org in [one, two] {
            let mut tx = fixture.platform.db.begin(&scope_of(org)).await.expect("begins");
            let key = if what.contains("name") && !what.contains("master") { "other" } else { "token" };
            secrets::set(&mut tx, vault, key, &format!("of {org}").into()).await.expect("sets");
            tx.commit().await.expect("commits");
        }
        sqlx::raw_sql(*statement).execute(&mut conn).await.expect("a superuser can");
        for org in [one, two] {
            if read(&fixture, vault, &scope_of(org)).await.is_ok() {
                accepted += 1;
                println!("{what} was accepted");
            }
        }
    }
    println!("ciphertexts tampered with or moved: accepted {accepted} of {}", 2 * statements.len());
    assert_eq!(accepted, 0);
    fixture.close().await;
}

#[tokio::test]
async fn all_values_are_listed_with_one_key_each_and_reading_secrets_is_audited() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    let global = OrgScope::for_run(None, actor("admin", true));
    let (db, vault) = (&fixture.platform.db, &fixture.platform.vault);
    for (scope, key, value_type, text) in [
        (&scope, "token", config::ValueType::Secret, "mine"),
        (&global, "token", config::ValueType::Secret, "everybody's"),
        (&global, "shared", config::ValueType::Secret, "for all"),
        (&global, "days", config::ValueType::Int, "30"),
    ] {
        let mut tx = db.begin(scope).await.expect("begins");
        config::put(&mut tx, vault, NewValue { key, value_type, text, description: None, may_keep: false })
            .await
            .expect("sets");
        tx.commit().await.expect("commits");
    }
    let mut tx = db.begin(&scope).await.expect("begins");
    let values = config::list(&mut tx, vault).await.expect("lists");
    tx.commit().await.expect("commits");
    let shown: Vec<_> =
        values.iter().map(|(key, found)| (key.as_str(), found.value.clone(), found.is_secret)).collect();
    assert_eq!(
        shown,
        [("days", json!(30), false), ("shared", json!("for all"), true), ("token", json!("mine"), true)]
    );
    let mut conn = fixture.test.db.connect().await;
    let audited: Vec<String> =
        sqlx::query_scalar("SELECT resource FROM audit_log WHERE action = 'secret.read' ORDER BY sequence")
            .fetch_all(&mut conn)
            .await
            .expect("reads");
    assert_eq!(audited, ["config/shared", "config/token"]);
    fixture.close().await;
}
