//! Configuration and secrets: cascade, sealing, tenants apart.

use domain::{OrgScope, config, secrets};
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
        config::set(&mut tx, vault, "retention", &value, false).await.expect("sets");
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
