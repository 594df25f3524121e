//! Sessions: sign-in, refresh with rotation, liveness. PostgreSQL holds hashes only; the cache what may be lost.
//!
//! The invariants: of concurrent uses of one refresh token exactly one wins, and presenting a token that was
//! already rotated revokes its whole family; a session starts only while the credentials are those that were proven.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::audit::{self, Action};
use crate::id::{OrgId, SessionId, UserId};
use crate::permissions::PermissionSet;
use crate::{Actor, Db, Error, Result, SystemScope, SystemTx, opaque, passwords};

const SIGN_IN: SystemScope = SystemScope::because("a sign-in finds its user before it has a scope");

pub(crate) const BEFORE_SCOPE: SystemScope =
    SystemScope::because("a request is checked before it has a scope");

/// The active user that a credential leads to, from the rows; `$with` is what the statement does besides, or nothing.
macro_rules! principal {
    ($conn:expr, $session:expr, $with:literal, $credential:literal, $($argument:expr),+ $(,)?) => {{
        let row = sqlx::query!(
            $with
                + r#"SELECT u.id AS "user_id: UserId", u.organization_id AS "organization_id: OrgId", u.email, u.name, u.user_type,
                   u.is_superuser, granted.roles, granted.permissions
               FROM users u "#
                + $credential
                + r#"
               LEFT JOIN organizations o ON o.id = u.organization_id
               -- A role of an organization that the user has left grants nothing.
               CROSS JOIN LATERAL (
                   SELECT array_agg(DISTINCT r.name) AS roles,
                       array_agg(DISTINCT p.name) FILTER (WHERE p.name IS NOT NULL) AS permissions
                   FROM user_roles ur
                   JOIN roles r ON r.id = ur.role_id AND r.is_active
                   LEFT JOIN LATERAL jsonb_array_elements_text(r.permissions) AS p (name) ON TRUE
                   WHERE ur.user_id = u.id AND (r.organization_id IS NULL OR r.organization_id = u.organization_id)
               ) AS granted
               WHERE u.is_active AND COALESCE(o.is_active, TRUE)"#,
            $($argument),+
        )
        .fetch_optional(&mut *$conn)
        .await?;
        row.map(|row| Principal {
            session_id: $session,
            user_id: row.user_id,
            organization_id: row.organization_id,
            email: row.email,
            name: row.name,
            user_type: row.user_type,
            is_superuser: row.is_superuser,
            roles: row.roles.unwrap_or_default(),
            permissions: PermissionSet::from_names(row.permissions.into_iter().flatten()),
        })
    }};
}

/// Who a live session belongs to, as every request sees it: from the rows, never from the token's claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The session.
    pub session_id: SessionId,
    /// The user.
    pub user_id: UserId,
    /// Organization; `None` for platform administrators and users without one.
    pub organization_id: Option<OrgId>,
    /// E-mail address.
    pub email: String,
    /// Display name.
    pub name: String,
    /// `PLATFORM` or `ORG`.
    pub user_type: String,
    /// Platform administrator.
    pub is_superuser: bool,
    /// Names of the active roles the user has, for display.
    pub roles: Vec<String>,
    /// What these roles allow.
    pub permissions: PermissionSet,
}

impl Principal {
    /// Whether somebody may do exactly what this one may: names do not matter.
    pub fn has_same_rights(&self, other: &Self) -> bool {
        let rights = |one: &Self| (one.user_id, one.organization_id, one.is_superuser, one.permissions);
        rights(self) == rights(other)
    }
}

/// A session just started or refreshed, with the refresh token that is shown once.
#[derive(Debug)]
pub struct Started {
    /// Who signed in.
    pub principal: Principal,
    /// Opaque refresh token; only its hash is stored.
    pub refresh_token: SecretString,
}

/// Who proved who they are, and has no session of it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// The user.
    pub user_id: UserId,
    /// E-mail address.
    pub email: String,
    /// Version of the credentials at that time: what was proven is worth nothing once they have changed.
    pub credentials_version: i64,
}

/// Who proved a password, and whether that may not be enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstFactor {
    /// Who it is.
    pub user: Authenticated,
    /// Whether a second factor is enrolled.
    pub has_second: bool,
}

/// Checks a password. Unknown e-mail, wrong password and no password set are one answer in text and time.
///
/// A hash of an older kind is replaced on the way.
///
/// # Errors
/// [`Error::Unauthenticated`]; [`Error::Forbidden`] for a right password of an inactive account or organization, or
/// where `proven` is asked for, of an account whose e-mail address is not.
pub async fn authenticate(
    db: &Db,
    email: &str,
    password: SecretString,
    proven: bool,
    request_id: Option<&str>,
) -> Result<FirstFactor> {
    let email = email.trim().to_lowercase();
    let found = {
        let mut conn = db.system(&SIGN_IN).await?;
        sqlx::query!(
            r#"SELECT u.id AS "id: UserId", u.email, u.password_hash, u.credentials_version, u.is_verified,
                   u.is_active AND COALESCE(o.is_active, TRUE) AS "is_active!",
                   EXISTS (SELECT FROM mfa_methods m WHERE m.user_id = u.id AND m.activated_at IS NOT NULL) AS "has_second!"
               FROM users u
               LEFT JOIN organizations o ON o.id = u.organization_id
               WHERE u.email = $1 AND u.is_registered AND u.user_type <> 'SYSTEM'"#,
            email,
        )
        .fetch_optional(&mut *conn)
        .await?
    };
    let hash = found.as_ref().and_then(|user| user.password_hash.clone());
    let outdated = hash.clone().filter(|hash| passwords::is_outdated(hash));
    let fits = passwords::verify(password.clone(), hash).await?;
    let Some(user) = found.filter(|_| fits) else {
        let mut tx = db.begin_system(&SIGN_IN).await?;
        audit::record_system(&mut tx, Action::SessionRefused, &email, "session", request_id).await?;
        tx.commit().await?;
        return Err(Error::Unauthenticated);
    };
    if !user.is_active {
        return Err(Error::Forbidden("this account is inactive".into()));
    }
    if proven && !user.is_verified {
        return Err(Error::Forbidden(
            "this e-mail address is not confirmed; follow the link that was mailed to it, or ask for another one".into(),
        ));
    }
    if let Some(outdated) = outdated {
        replace_hash(db, user.id, &outdated, password).await?;
    }
    let known =
        Authenticated { user_id: user.id, email: user.email, credentials_version: user.credentials_version };
    Ok(FirstFactor { user: known, has_second: user.has_second })
}

/// Hashes a password anew that was just found right, unless somebody set another one meanwhile. The password stays, and
/// so does the version of the credentials.
async fn replace_hash(db: &Db, user: UserId, outdated: &str, password: SecretString) -> Result<()> {
    let hash = passwords::hash(password).await?;
    let mut conn = db.system(&SIGN_IN).await?;
    sqlx::query!(
        "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2",
        user as _,
        outdated,
        hash,
    )
    .execute(&mut *conn)
    .await?;
    Ok(())
}

/// Starts a session for somebody who proved who they are.
///
/// # Errors
/// [`Error::Unauthenticated`] when the account was deactivated, or its credentials changed, meanwhile.
pub async fn start(
    db: &Db,
    user: &Authenticated,
    lifetime_days: i64,
    user_agent: Option<&str>,
    request_id: Option<&str>,
) -> Result<Started> {
    let mut conn = db.system(&SIGN_IN).await?;
    start_on(&mut conn, user, lifetime_days, user_agent, request_id).await
}

/// The same on a connection of the system role, which may be in a transaction.
pub(crate) async fn start_on(
    conn: &mut PgConnection,
    user: &Authenticated,
    lifetime_days: i64,
    user_agent: Option<&str>,
    request_id: Option<&str>,
) -> Result<Started> {
    let session_id = SessionId::generate();
    let refresh_token = opaque::generate();
    // One statement, which is a transaction: what waits beside a sign-in waits for PostgreSQL most (ADR 39).
    let principal = principal!(
        conn,
        session_id,
        // Whoever is deactivated meanwhile, or proved what is no password any more, gets nothing: the row is looked at again
        // once it is ours.
        "WITH login AS (
             UPDATE users u SET last_login = now()
             WHERE id = $1 AND is_active AND credentials_version = $10
               AND NOT EXISTS (SELECT FROM organizations o WHERE o.id = u.organization_id AND NOT o.is_active)
             RETURNING id
         ), session AS (
             INSERT INTO sessions (id, user_id, refresh_hash, expires_at, user_agent)
             SELECT $2, id, $3, now() + make_interval(days => $4), $5 FROM login
         ), audited AS MATERIALIZED (
             SELECT id, audit_append(ARRAY[$6::uuid], ARRAY[NULL::uuid], ARRAY[id], ARRAY[$7::text], ARRAY[$8::text],
                 ARRAY[$2::uuid::text], ARRAY[$9::text], ARRAY[NULL::text])
             FROM login
         ) ",
        // Appending is a call: it happens only if its row is asked for.
        "JOIN audited ON audited.id = u.id",
        user.user_id as _,
        session_id as _,
        opaque::hash(refresh_token.expose_secret()),
        i32::try_from(lifetime_days).map_err(Error::internal)?,
        user_agent,
        Uuid::now_v7(),
        user.email,
        Action::SessionStarted.as_str(),
        request_id,
        user.credentials_version,
    );
    let principal = principal.ok_or(Error::Unauthenticated)?;
    Ok(Started { principal, refresh_token })
}

/// Replaces a refresh token by its successor, for a request that `began` then. Of several at once one wins.
///
/// # Errors
/// [`Error::Unauthenticated`] for an unknown, expired or revoked token; a token that was already rotated when the
/// request began also revokes its session.
pub async fn refresh(
    db: &Db,
    token: &SecretString,
    lifetime_days: i64,
    began: Instant,
    request_id: Option<&str>,
) -> Result<Started> {
    let presented = opaque::hash(token.expose_secret());
    let successor = opaque::generate();
    let mut tx = db.begin_system(&SystemScope::because("a refresh token names its session")).await?;
    // What is seen is what there was before the statement waited for whoever rotates the same token now.
    let seen = sqlx::query!(
        r#"WITH seen AS (
               SELECT id FROM sessions WHERE refresh_hash = $1 AND revoked_at IS NULL AND expires_at > now()
           ), rotated AS (
               UPDATE sessions
               SET refresh_hash = $2, rotated_at = now(), expires_at = now() + make_interval(days => $3)
               WHERE refresh_hash = $1 AND revoked_at IS NULL AND expires_at > now()
               RETURNING id, user_id
           ), spent AS (
               INSERT INTO spent_refresh_tokens (refresh_hash, session_id, spent_at)
               SELECT $1, id, clock_timestamp() FROM rotated
           )
           SELECT seen.id AS "session_id: SessionId", rotated.user_id AS "user_id?: UserId", users.email AS "email?"
           FROM seen
           LEFT JOIN rotated ON rotated.id = seen.id
           LEFT JOIN users ON users.id = rotated.user_id"#,
        presented,
        opaque::hash(successor.expose_secret()),
        i32::try_from(lifetime_days).map_err(Error::internal)?,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(seen) = seen else {
        revoke_reused(&mut tx, &presented, began.elapsed(), request_id).await?;
        tx.commit().await?;
        return Err(Error::Unauthenticated);
    };
    let (Some(user), Some(email)) = (seen.user_id, seen.email) else { return Err(Error::Unauthenticated) };
    let user = (user, email.as_str());
    audit::record_of_user(&mut tx, Action::SessionRefreshed, user, seen.session_id, request_id).await?;
    // Before it is committed: whoever comes too late may end the session right after, which takes nothing from this answer.
    let principal = find_in(tx.conn(), seen.session_id).await?.ok_or(Error::Unauthenticated)?;
    tx.commit().await?;
    Ok(Started { principal, refresh_token: successor })
}

/// The owner of a session that is live: not revoked or expired, user and organization active. With what the
/// owner's active roles allow, so that a change of those acts as soon as a change of the session.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn find(db: &Db, id: SessionId) -> Result<Option<Principal>> {
    let mut conn = db.system(&BEFORE_SCOPE).await?;
    find_in(&mut conn, id).await
}

async fn find_in(conn: &mut PgConnection, id: SessionId) -> Result<Option<Principal>> {
    Ok(principal!(
        conn,
        id,
        "",
        "JOIN sessions s ON s.user_id = u.id AND s.id = $1 AND s.revoked_at IS NULL AND s.expires_at > now()",
        id as _
    ))
}

/// The owner of a session that is live, as one who may start another. It is asked of PostgreSQL every time: a session that
/// ended a moment ago may be remembered still, and must not lead to one that lasts.
///
/// # Errors
/// [`Error::Unauthenticated`] when it is not live.
pub async fn owner(db: &Db, id: SessionId) -> Result<Authenticated> {
    let mut conn = db.system(&BEFORE_SCOPE).await?;
    sqlx::query_as!(
        Authenticated,
        r#"SELECT u.id AS "user_id: UserId", u.email, u.credentials_version
           FROM sessions s
           JOIN users u ON u.id = s.user_id
           WHERE s.id = $1 AND s.revoked_at IS NULL AND s.expires_at > now()"#,
        id as _,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(Error::Unauthenticated)
}

/// A user with the rights of now, for a credential that is no session; `id` stands where a session's would.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub(crate) async fn find_user(db: &Db, user: UserId, id: SessionId) -> Result<Option<Principal>> {
    let mut conn = db.system(&BEFORE_SCOPE).await?;
    Ok(principal!(conn, id, "", "JOIN (SELECT $1::uuid AS id) wanted ON wanted.id = u.id", user as _))
}

/// The session of this user whose current refresh token this is, live or not.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn find_by_refresh_token(db: &Db, user: UserId, token: &SecretString) -> Result<Option<SessionId>> {
    let mut conn = db.system(&SystemScope::because("a refresh token names its session")).await?;
    Ok(sqlx::query_scalar!(
        r#"SELECT id AS "id: SessionId" FROM sessions WHERE refresh_hash = $1 AND user_id = $2"#,
        opaque::hash(token.expose_secret()),
        user as _,
    )
    .fetch_optional(&mut *conn)
    .await?)
}

/// Ends a session; whether it had not ended before. Ending one twice changes nothing.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn revoke(db: &Db, id: SessionId, actor: &Actor, request_id: Option<&str>) -> Result<bool> {
    let mut tx =
        db.begin_system(&SystemScope::because("a session belongs to a user, not to an organization")).await?;
    let ended = sqlx::query!(
        "UPDATE sessions SET revoked_at = now(), revoked_reason = 'logout' WHERE id = $1 AND revoked_at IS NULL",
        id as _,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if ended == 0 {
        return Ok(false);
    }
    let actor = (actor.id, actor.email.as_str());
    audit::record_of_user(&mut tx, Action::SessionRevoked, actor, id, request_id).await?;
    tx.commit().await?;
    Ok(true)
}

/// Ends all sessions of a user; which they were.
///
/// # Errors
/// [`Error::NotFound`] for an unknown user.
pub async fn revoke_all(
    db: &Db,
    user: UserId,
    actor: &Actor,
    request_id: Option<&str>,
) -> Result<Vec<SessionId>> {
    let mut tx =
        db.begin_system(&SystemScope::because("a session belongs to a user, not to an organization")).await?;
    let known = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM users WHERE id = $1 AND user_type <> 'SYSTEM') AS "known!""#,
        user as _
    )
    .fetch_one(tx.conn())
    .await?;
    if !known {
        return Err(Error::NotFound("user"));
    }
    let ended = sqlx::query_scalar!(
        r#"UPDATE sessions
           SET revoked_at = now(), revoked_reason = 'revoked'
           WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now()
           RETURNING id AS "id: SessionId""#,
        user as _,
    )
    .fetch_all(tx.conn())
    .await?;
    let (actor, revoked) = ((actor.id, actor.email.as_str()), format!("user/{user}"));
    audit::record_of_user(&mut tx, Action::SessionRevoked, actor, revoked, request_id).await?;
    tx.commit().await?;
    Ok(ended)
}

/// A live session of a user, as its owner sees it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Id.
    pub id: SessionId,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When its refresh token was last replaced.
    pub rotated_at: DateTime<Utc>,
    /// When it ends if it is not refreshed.
    pub expires_at: DateTime<Utc>,
    /// What the browser or script called itself.
    pub user_agent: Option<String>,
}

/// The live sessions of a user, the newest first.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(db: &Db, user: UserId) -> Result<Vec<Session>> {
    let mut conn =
        db.system(&SystemScope::because("a session belongs to a user, not to an organization")).await?;
    Ok(sqlx::query_as!(
        Session,
        r#"SELECT id AS "id: SessionId", created_at, rotated_at, expires_at, user_agent
           FROM sessions
           WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now()
           ORDER BY id DESC"#,
        user as _,
    )
    .fetch_all(&mut *conn)
    .await?)
}

/// Revokes the session of a token that was rotated before whoever presents it began to, `age` ago. A request that was under
/// way by then has lost a race, and takes nothing from the one that won.
async fn revoke_reused(
    tx: &mut SystemTx,
    presented: &[u8],
    age: Duration,
    request_id: Option<&str>,
) -> Result<()> {
    let family = sqlx::query_scalar!(
        r#"UPDATE sessions
           SET revoked_at = now(), revoked_reason = 'refresh token reused'
           FROM spent_refresh_tokens spent
           WHERE spent.refresh_hash = $1 AND sessions.id = spent.session_id AND sessions.revoked_at IS NULL
               AND spent.spent_at < clock_timestamp() - make_interval(secs => $2)
           RETURNING sessions.id AS "id: SessionId""#,
        presented,
        age.as_secs_f64(),
    )
    .fetch_optional(tx.conn())
    .await?;
    if let Some(id) = family {
        tracing::warn!(session.id = %id, "a rotated refresh token was presented again, session revoked");
        audit::record_system(tx, Action::SessionRevoked, "refresh token reused", id, request_id).await?;
    }
    Ok(())
}
