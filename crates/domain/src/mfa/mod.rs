//! The second factor: one-time codes (RFC 6238) and recovery codes. Devices that need none are in `devices.rs`.
//!
//! The invariant: nothing is accepted twice. A code's 30-second step must be later than the last accepted one, and a
//! recovery code is spent by the statement that finds it.

pub mod devices;

use rand::seq::IndexedRandom as _;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use totp_rs::{Builder, Secret, Totp};

use crate::audit::{self, Action};
use crate::id::UserId;
use crate::sessions::{self, Authenticated, Started};
use crate::vault::{Place, Vault};
use crate::{Db, Error, OrgTx, Result, SystemScope, SystemTx, data_keys};

/// What authenticator apps show beside the account.
pub const ISSUER: &str = "Bifrost";
/// Recovery codes of one enrolment.
const RECOVERY_CODES: usize = 10;
const RECOVERY_LENGTH: usize = 8;
/// Without what is easily mistaken for something else.
const RECOVERY_ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
/// Bytes of a secret: 160 bits, as RFC 4226 recommends.
const SECRET_BYTES: usize = 20;

const SCOPE: SystemScope = SystemScope::because("a second factor belongs to a user, not to an organization");

/// Whose second factor it is, and which request is about it.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// The user.
    pub user: UserId,
    /// E-mail address, for the authenticator app and the audit log.
    pub email: &'a str,
    /// The request, for the audit log.
    pub request_id: Option<&'a str>,
}

/// A secret to be put into an authenticator app, shown once.
#[derive(Debug)]
pub struct Enrolment {
    /// Base32 text, to be typed.
    pub secret: SecretString,
    /// `otpauth://` address, to be scanned.
    pub uri: SecretString,
}

/// What a user has enrolled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether codes are asked for.
    pub enabled: bool,
    /// Recovery codes handed out.
    pub recovery_codes: i64,
    /// Of these, not used yet.
    pub recovery_codes_left: i64,
}

/// Begins an enrolment, in place of one that was begun before, of somebody who proved the credentials of this version.
///
/// # Errors
/// [`Error::Unauthenticated`] when the credentials changed since, [`Error::Impossible`] when one is active already.
pub async fn begin(
    db: &Db,
    vault: &Vault,
    holder: Holder<'_>,
    credentials_version: i64,
) -> Result<Enrolment> {
    let mut tx = db.begin_system(&SCOPE).await?;
    hold(&mut tx, holder, credentials_version).await?;
    let secret: [u8; SECRET_BYTES] = rand::random();
    let totp = totp(Secret::from(secret), holder.email)?;
    let base32 = totp.secret().to_base32();
    let key = data_keys::get_or_create(tx.conn(), vault, None).await?;
    let sealed = key.seal(place(&holder.user.to_string()), &base32)?;
    let begun = sqlx::query!(
        "INSERT INTO mfa_methods (user_id, sealed)
         VALUES ($1, $2)
         ON CONFLICT (user_id) DO UPDATE
         SET sealed = EXCLUDED.sealed, created_at = now(), last_step = NULL
         WHERE mfa_methods.activated_at IS NULL",
        holder.user as _,
        sealed,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if begun == 0 {
        return Err(Error::Impossible("a second factor is enrolled already; remove it first".into()));
    }
    record(&mut tx, Action::MfaBegun, holder).await?;
    tx.commit().await?;
    let uri = totp.to_url().map_err(|error| Error::internal(error.to_string()))?;
    Ok(Enrolment { secret: base32.into(), uri: uri.into() })
}

/// Ends an enrolment by its first code, of somebody who proved the credentials of this version; gives the recovery codes,
/// which are shown once.
///
/// # Errors
/// [`Error::Unauthenticated`] when the credentials changed since, [`Error::Impossible`] for a wrong code, or when nothing
/// was begun.
pub async fn activate(
    db: &Db,
    vault: &Vault,
    holder: Holder<'_>,
    credentials_version: i64,
    code: &str,
) -> Result<Vec<SecretString>> {
    let mut tx = db.begin_system(&SCOPE).await?;
    let codes = activate_in(&mut tx, vault, holder, credentials_version, code).await?;
    tx.commit().await?;
    Ok(codes)
}

/// Does the same and starts a session, or neither: recovery codes that nobody was shown would be lost.
///
/// # Errors
/// As [`activate`].
pub async fn activate_and_start(
    db: &Db,
    vault: &Vault,
    user: &Authenticated,
    code: &str,
    lifetime_days: i64,
    user_agent: Option<&str>,
    request_id: Option<&str>,
) -> Result<(Vec<SecretString>, Started)> {
    let holder = Holder { user: user.user_id, email: &user.email, request_id };
    let mut tx = db.begin_system(&SCOPE).await?;
    let codes = activate_in(&mut tx, vault, holder, user.credentials_version, code).await?;
    let started = sessions::start_on(tx.conn(), user, lifetime_days, user_agent, request_id).await?;
    tx.commit().await?;
    Ok((codes, started))
}

async fn activate_in(
    tx: &mut SystemTx,
    vault: &Vault,
    holder: Holder<'_>,
    credentials_version: i64,
    code: &str,
) -> Result<Vec<SecretString>> {
    hold(tx, holder, credentials_version).await?;
    let step = match method(tx, vault, holder, false).await? {
        None => return Err(Error::Impossible("no enrolment was begun".into())),
        Some(totp) => matching_step(&totp, code),
    };
    let activated = match step {
        Some(step) => sqlx::query!(
            "WITH activated AS (
                 UPDATE mfa_methods SET activated_at = now(), last_step = $2
                 WHERE user_id = $1 AND activated_at IS NULL
                 RETURNING user_id
             )
             UPDATE users SET mfa_enabled = TRUE FROM activated WHERE users.id = activated.user_id",
            holder.user as _,
            step,
        )
        .execute(tx.conn())
        .await?
        .rows_affected(),
        None => 0,
    };
    if activated == 0 {
        return Err(Error::Impossible("the code is wrong".into()));
    }
    let codes = new_recovery_codes(tx, holder.user).await?;
    record(tx, Action::MfaActivated, holder).await?;
    Ok(codes)
}

/// Whether this is a current one-time code, which is spent by asking.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn prove_code(db: &Db, vault: &Vault, holder: Holder<'_>, code: &str) -> Result<bool> {
    let mut tx = db.begin_system(&SCOPE).await?;
    let Some(totp) = method(&mut tx, vault, holder, true).await? else { return Ok(false) };
    let Some(step) = matching_step(&totp, code) else { return Ok(false) };
    let spent = sqlx::query!(
        "UPDATE mfa_methods
         SET last_step = $2
         WHERE user_id = $1 AND activated_at IS NOT NULL AND (last_step IS NULL OR last_step < $2)",
        holder.user as _,
        step,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    tx.commit().await?;
    Ok(spent > 0)
}

/// Whether this is a one-time code or a recovery code, either of which is spent by asking.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn prove(db: &Db, vault: &Vault, holder: Holder<'_>, code: &str) -> Result<bool> {
    let Some(recovery) = recovery_code(code) else { return prove_code(db, vault, holder, code).await };
    let mut tx = db.begin_system(&SCOPE).await?;
    let spent = sqlx::query!(
        "UPDATE recovery_codes SET used_at = now() WHERE user_id = $1 AND code_hash = $2 AND used_at IS NULL",
        holder.user as _,
        hash_of(holder.user, &recovery),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if spent > 0 {
        record(&mut tx, Action::RecoveryCodeUsed, holder).await?;
    }
    tx.commit().await?;
    Ok(spent > 0)
}

/// What a user has enrolled.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn status(db: &Db, user: UserId) -> Result<Status> {
    let mut conn = db.system(&SCOPE).await?;
    Ok(sqlx::query_as!(
        Status,
        r#"SELECT EXISTS (SELECT FROM mfa_methods WHERE user_id = $1 AND activated_at IS NOT NULL) AS "enabled!",
               count(*) AS "recovery_codes!", count(*) FILTER (WHERE used_at IS NULL) AS "recovery_codes_left!"
           FROM recovery_codes
           WHERE user_id = $1"#,
        user as _,
    )
    .fetch_one(&mut *conn)
    .await?)
}

/// Removes the second factor, its recovery codes and all trusted devices.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn remove(db: &Db, holder: Holder<'_>) -> Result<()> {
    let mut tx = db.begin_system(&SCOPE).await?;
    sqlx::query!(
        // A trigger takes the rest.
        "UPDATE users SET mfa_enabled = FALSE WHERE id = $1",
        holder.user as _,
    )
    .execute(tx.conn())
    .await?;
    record(&mut tx, Action::MfaRemoved, holder).await?;
    tx.commit().await
}

/// Removes the same of a user of the scope, with what else changes of them; whoever asks records it.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn remove_of(tx: &mut OrgTx, user: UserId) -> Result<()> {
    // No scope sees more of it than this; a trigger takes the rest.
    sqlx::query!("UPDATE users SET mfa_enabled = FALSE WHERE id = $1", user as _).execute(tx.conn()).await?;
    Ok(())
}

/// New recovery codes in place of the old ones, which are dead from then on.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn regenerate(db: &Db, holder: Holder<'_>) -> Result<Vec<SecretString>> {
    let mut tx = db.begin_system(&SCOPE).await?;
    let codes = new_recovery_codes(&mut tx, holder.user).await?;
    record(&mut tx, Action::RecoveryCodesReplaced, holder).await?;
    tx.commit().await?;
    Ok(codes)
}

/// Holds the account as it is until the transaction ends, if its credentials are those of this version: who knew the
/// password before it was changed enrolls nothing after.
async fn hold(tx: &mut SystemTx, holder: Holder<'_>, credentials_version: i64) -> Result<()> {
    let held = sqlx::query_scalar!(
        r#"SELECT id AS "id: UserId" FROM users WHERE id = $1 AND is_active AND credentials_version = $2 FOR UPDATE"#,
        holder.user as _,
        credentials_version,
    )
    .fetch_optional(tx.conn())
    .await?;
    held.map(|_| ()).ok_or(Error::Unauthenticated)
}

async fn method(tx: &mut SystemTx, vault: &Vault, holder: Holder<'_>, active: bool) -> Result<Option<Totp>> {
    let sealed = sqlx::query_scalar!(
        "SELECT sealed FROM mfa_methods WHERE user_id = $1 AND (activated_at IS NOT NULL) = $2",
        holder.user as _,
        active,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(sealed) = sealed else { return Ok(None) };
    let key = data_keys::find(tx.conn(), vault, None).await?;
    let key = key.ok_or_else(|| Error::internal("a sealed value without a data key"))?;
    let base32 = key.open(place(&holder.user.to_string()), &sealed)?;
    let secret = Secret::try_from_base32(base32.expose_secret());
    let secret = secret.map_err(|error| Error::internal(error.to_string()))?;
    totp(secret, holder.email).map(Some)
}

/// Six digits, 30 seconds, SHA-1: what every authenticator app can do. The step before and the one after count too.
fn totp(secret: Secret, account: &str) -> Result<Totp> {
    let builder = Builder::new().with_secret(secret).with_issuer(Some(ISSUER)).with_account_name(account);
    builder.build().map_err(|error| Error::internal(error.to_string()))
}

fn matching_step(totp: &Totp, code: &str) -> Option<i64> {
    let code = code.trim();
    let is_code = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
    is_code.then(|| totp.check_current(code)).flatten().and_then(|step| i64::try_from(step).ok())
}

async fn new_recovery_codes(tx: &mut SystemTx, user: UserId) -> Result<Vec<SecretString>> {
    let codes: Vec<String> = (0..RECOVERY_CODES).map(|_| random_recovery_code()).collect();
    let hashes: Vec<Vec<u8>> = codes.iter().map(|code| hash_of(user, code)).collect();
    sqlx::query!("DELETE FROM recovery_codes WHERE user_id = $1", user as _).execute(tx.conn()).await?;
    sqlx::query!(
        "INSERT INTO recovery_codes (user_id, code_hash) SELECT $1, UNNEST($2::bytea[])",
        user as _,
        &hashes,
    )
    .execute(tx.conn())
    .await?;
    Ok(codes.into_iter().map(|code| format!("{}-{}", &code[..4], &code[4..]).into()).collect())
}

fn random_recovery_code() -> String {
    let mut random = rand::rng();
    loop {
        let letter =
            || char::from(*RECOVERY_ALPHABET.choose(&mut random).expect("the alphabet is not empty"));
        let code: String = std::iter::repeat_with(letter).take(RECOVERY_LENGTH).collect();
        // All digits would be taken for a one-time code.
        if recovery_code(&code).is_some() {
            return code;
        }
    }
}

/// Eight characters, not all of them digits; a dash does not matter, nor does the case.
fn recovery_code(text: &str) -> Option<String> {
    let code: String = text.trim().chars().filter(|c| *c != '-').collect::<String>().to_ascii_uppercase();
    let fits = code.len() == RECOVERY_LENGTH && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (fits && !code.bytes().all(|byte| byte.is_ascii_digit())).then_some(code)
}

fn hash_of(user: UserId, code: &str) -> Vec<u8> {
    Sha256::new().chain_update(user.0.as_bytes()).chain_update(code).finalize().to_vec()
}

fn place(name: &str) -> Place<'_> {
    Place { table: "mfa_methods", organization: None, name }
}

async fn record(tx: &mut SystemTx, action: Action, holder: Holder<'_>) -> Result<()> {
    audit::record_of_user(tx, action, (holder.user, holder.email), holder.user, holder.request_id).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_code_is_told_from_a_one_time_code() {
        assert_eq!(recovery_code("abcd-2345").as_deref(), Some("ABCD2345"));
        assert_eq!(recovery_code(" ABCD2345 ").as_deref(), Some("ABCD2345"));
        for other in ["123456", "12345678", "1234-5678", "ABCD234", "ABCD-23456", "ÄBCD234", ""] {
            assert_eq!(recovery_code(other), None, "{other}");
        }
        for _ in 0..1_000 {
            assert!(recovery_code(&random_recovery_code()).is_some());
        }
    }

    #[test]
    fn only_six_digits_are_a_code() {
        let totp = totp(Secret::from([7; SECRET_BYTES]), "ada@example.com").expect("valid");
        let code = totp.generate_current().to_string();
        assert!(matching_step(&totp, &code).is_some());
        for wrong in ["", "12345", "1234567", "12345a", "１２３４５６"] {
            assert_eq!(matching_step(&totp, wrong), None, "{wrong}");
        }
    }
}
