//! Registration and sessions: races have one winner, reuse is punished.

use std::time::Instant;

use domain::users::directory::UserKey;
use domain::users::links::{self, Purpose};
use domain::users::manage::{self, Changes};
use domain::{Error, OrgScope, Permission, PermissionSet, passwords, sessions};
use sqlx::Connection as _;

use crate::support::{Fixture, PASSWORD, actor};

#[tokio::test]
async fn of_racing_first_users_one_becomes_administrator() {
    let fixture = Fixture::embedded().await;
    assert!(domain::users::needs_setup(&fixture.platform.db).await.expect("asks"));

    let emails: Vec<String> = (0..5).map(|n| format!("racer{n}@nowhere.example")).collect();
    let outcomes = futures::future::join_all(emails.iter().map(|email| fixture.register(email))).await;

    let admins = outcomes.iter().filter(|o| o.as_ref().is_ok_and(|user| user.is_superuser)).count();
    let refused = outcomes.iter().filter(|o| matches!(o, Err(Error::Impossible(_)))).count();
    assert_eq!((admins, refused), (1, 4));
    assert!(!domain::users::needs_setup(&fixture.platform.db).await.expect("asks"));
    fixture.close().await;
}

#[tokio::test]
async fn a_domain_leads_to_its_organization() {
    let fixture = Fixture::embedded().await;
    fixture.register("Admin@Example.com").await.expect("registers");
    let org = fixture.org("acme").await;

    let user = fixture.register("jo@acme.example").await.expect("registers");

    assert_eq!((user.organization_id, user.is_superuser, user.user_type.as_str()), (Some(org), false, "ORG"));
    assert!(
        matches!(fixture.register("jo@acme.example").await, Err(Error::Impossible(text)) if text == "Email already registered")
    );
    assert!(matches!(fixture.register("no e-mail").await, Err(Error::Invalid(_))));
    fixture.close().await;
}

#[tokio::test]
async fn wrong_passwords_and_unknown_people_are_one_answer() {
    let fixture = Fixture::embedded().await;
    fixture.register("admin@example.com").await.expect("registers");
    let sign_in = async |email: &str, password: &str| {
        sessions::authenticate(&fixture.platform.db, email, password.into(), false, None).await
    };

    assert!(matches!(sign_in("admin@example.com", "wrong").await, Err(Error::Unauthenticated)));
    assert!(matches!(sign_in("nobody@example.com", PASSWORD).await, Err(Error::Unauthenticated)));
    assert!(matches!(sign_in("system@bifrost.invalid", "").await, Err(Error::Unauthenticated)));
    assert!(sign_in("ADMIN@example.com", PASSWORD).await.is_ok());
    fixture.close().await;
}

#[tokio::test]
async fn of_fifty_racing_refreshes_one_wins() {
    let fixture = Fixture::embedded().await;
    fixture.register("admin@example.com").await.expect("registers");
    let started = fixture.sign_in("admin@example.com").await;

    let (db, began) = (&fixture.platform.db, Instant::now());
    let racers = (0..50).map(|_| sessions::refresh(db, &started.refresh_token, 7, began, None));
    let successors = futures::future::join_all(racers).await.into_iter().filter(Result::is_ok).count();

    println!("refresh: 50 racers, successors {successors}");
    assert_eq!(successors, 1);
    fixture.close().await;
}

#[tokio::test]
async fn a_reused_refresh_token_ends_the_session() {
    let fixture = Fixture::embedded().await;
    fixture.register("admin@example.com").await.expect("registers");
    let first = fixture.sign_in("admin@example.com").await;
    let db = &fixture.platform.db;

    let second = sessions::refresh(db, &first.refresh_token, 7, Instant::now(), None).await.expect("rotates");
    assert_eq!(second.principal.session_id, first.principal.session_id);
    assert!(sessions::refresh(db, &first.refresh_token, 7, Instant::now(), None).await.is_err(), "spent");

    assert!(
        sessions::find(db, first.principal.session_id).await.expect("asks").is_none(),
        "the family is revoked"
    );
    assert!(
        sessions::refresh(db, &second.refresh_token, 7, Instant::now(), None).await.is_err(),
        "its last token too"
    );
    fixture.close().await;
}

#[tokio::test]
async fn a_revoked_session_is_nobody() {
    let fixture = Fixture::embedded().await;
    fixture.register("admin@example.com").await.expect("registers");
    let principal = fixture.principal("admin@example.com").await;
    let db = &fixture.platform.db;

    assert_eq!(sessions::find(db, principal.session_id).await.expect("asks"), Some(principal.clone()));
    sessions::revoke(db, principal.session_id, &actor("test", true), None).await.expect("revokes");
    assert_eq!(sessions::find(db, principal.session_id).await.expect("asks"), None);
    fixture.close().await;
}

#[tokio::test]
async fn a_password_proven_before_it_was_changed_starts_no_session() {
    const EMAIL: &str = "jo@acme.example";
    let fixture = Fixture::embedded().await;
    fixture.register("admin@example.com").await.expect("registers");
    fixture.org("acme").await;
    let jo = fixture.register(EMAIL).await.expect("registers").id;
    let db = &fixture.platform.db;
    let prove = async |password: &str| {
        sessions::authenticate(db, EMAIL, password.into(), false, None).await.expect("is right").user
    };

    let before_reset = prove(PASSWORD).await;
    let (_, link) =
        links::request(db, Purpose::Reset, EMAIL, None).await.expect("asks").expect("there is an account");
    links::reset(db, &link, "another long password".into(), false, None).await.expect("resets");

    let before_change = prove("another long password").await;
    let hash = passwords::hash("a third long password".into()).await.expect("hashes");
    let administrator = OrgScope::for_run(None, actor("admin", true)).widened();
    let mut tx = db.begin(&administrator).await.expect("begins");
    let changes = Changes { password_hash: Some(hash), ..Changes::default() };
    manage::update(&mut tx, db, &UserKey::Id(jo), changes).await.expect("sets it");
    tx.commit().await.expect("commits");

    for late in [before_reset, before_change] {
        let started = sessions::start(db, &late, 7, None, None).await;
        assert!(matches!(started, Err(Error::Unauthenticated)), "{late:?}");
    }
    assert!(sessions::list(db, jo).await.expect("lists").is_empty());
    let current = prove("a third long password").await;
    sessions::start(db, &current, 7, None, None).await.expect("signs in");
    fixture.close().await;
}

#[tokio::test]
async fn a_sign_in_that_waits_for_a_change_of_the_password_starts_no_session() {
    let fixture = Fixture::embedded().await;
    let admin = fixture.register("admin@example.com").await.expect("registers").id;
    let db = &fixture.platform.db;
    let first = sessions::authenticate(db, "admin@example.com", PASSWORD.into(), false, None).await;
    let proven = first.expect("is right").user;
    let mut conn = fixture.test.db.connect().await;
    let mut change = conn.begin().await.expect("begins");
    sqlx::query("UPDATE users SET credentials_version = credentials_version + 1 WHERE id = $1")
        .bind(admin.0)
        .execute(&mut *change)
        .await
        .expect("updates");

    let start = sessions::start(db, &proven, 7, None, None);
    let commit = async {
        fixture.test.db.lock_is_awaited_by("last_login").await;
        change.commit().await.expect("commits");
    };
    let (started, ()) = tokio::join!(start, commit);

    assert!(matches!(started, Err(Error::Unauthenticated)));
    assert!(sessions::list(db, admin).await.expect("lists").is_empty());
    fixture.close().await;
}

#[tokio::test]
async fn what_active_roles_allow_is_part_of_the_session() {
    let fixture = Fixture::embedded().await;
    fixture.register("admin@example.com").await.expect("registers");
    let (acme, rival) = (fixture.org("acme").await, fixture.org("rival").await);
    fixture.register("jo@acme.example").await.expect("registers");
    let jo = fixture.principal("jo@acme.example").await;
    assert!(jo.roles.is_empty() && jo.permissions == PermissionSet::NONE, "nothing comes by itself");

    let mut conn = fixture.test.db.connect().await;
    for (name, organization, is_active, permissions) in [
        ("Leads", Some(acme.0), true, r#"["users.manage"]"#),
        ("Everywhere", None, true, r#"["audit.read"]"#),
        ("Of a later version", Some(acme.0), true, r#"["time.travel"]"#),
        ("Retired", Some(acme.0), false, r#"["secrets.manage"]"#),
        ("Of another organization", Some(rival.0), true, r#"["config.manage"]"#),
    ] {
        sqlx::query(
            "WITH role AS (
                 INSERT INTO roles (id, organization_id, name, is_active, permissions, created_by)
                 VALUES (gen_random_uuid(), $1, $2, $3, $4::jsonb, 'test')
                 RETURNING id
             )
             INSERT INTO user_roles (user_id, role_id, organization_id, assigned_by) SELECT $5, id, $6, 'test' FROM role",
        )
        .bind(organization)
        .bind(name)
        .bind(is_active)
        .bind(permissions)
        .bind(jo.user_id.0)
        .bind(acme.0)
        .execute(&mut conn)
        .await
        .expect("inserts");
    }

    let jo = sessions::find(&fixture.platform.db, jo.session_id).await.expect("asks").expect("is live");
    assert_eq!(jo.roles, ["Everywhere", "Leads", "Of a later version"]);
    let expected = PermissionSet::from_iter([Permission::UsersManage, Permission::AuditRead]);
    assert_eq!(jo.permissions, expected);
    fixture.close().await;
}
