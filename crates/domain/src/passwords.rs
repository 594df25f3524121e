//! Passwords: argon2id on a bounded pool, with the same work done for an unknown user.
//!
//! Hashes of bcrypt, as imported accounts bring them, are verified and replaced at the first sign-in.

use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params, PasswordHasher, PasswordVerifier};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::{self, Runtime};
use zxcvbn::zxcvbn;

use crate::{Error, Result};

/// Guesses, as a power of ten, that a password must take somebody who tries common ones first, with the usual changes.
const LEAST_GUESSES: f64 = 8.0;

/// How far checks stand back for everything else that wants a core: a request that takes a fraction of a millisecond
/// does not wait for one that takes tens.
const NICENESS: i32 = 10;

/// A check takes 19 MiB and a core for tens of milliseconds; more at once than cores only queue up in memory, and one
/// core stays free for everything else. The threads are its own, because a thread that has stood back cannot step
/// forward again.
static BENCH: LazyLock<Runtime> = LazyLock::new(|| {
    // Each is about the calling thread alone, and a system that refuses it only loses the courtesy.
    let stand_back = || {
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let _ = leave_a_core();
    };
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    runtime::Builder::new_multi_thread()
        .worker_threads(cores.saturating_sub(1).max(1))
        .thread_name("passwords")
        .on_thread_start(stand_back)
        .build()
        .expect("threads can be started")
});

/// What an unknown user's password is checked against, so that the answer takes as long.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    Argon2::default().hash_password(b"nobody").expect("the default parameters are valid").to_string()
});

/// Keeps the calling thread off the first core it may use: whoever wakes up there never waits for the end of its slice.
fn leave_a_core() -> rustix::io::Result<()> {
    let mut cores = sched_getaffinity(None)?;
    if cores.count() > 1
        && let Some(first) = (0..CpuSet::MAX_CPU).find(|core| cores.is_set(*core))
    {
        cores.unset(first);
        sched_setaffinity(None, &cores)?;
    }
    Ok(())
}

/// Hashes a new password as an Argon2id PHC string with the parameters OWASP recommends.
///
/// # Errors
/// [`Error::Internal`] if hashing fails, which the default parameters never do.
pub async fn hash(password: SecretString) -> Result<String> {
    on_bench(move || {
        Argon2::default().hash_password(password.expose_secret().as_bytes()).map(|hash| hash.to_string())
    })
    .await?
    .map_err(|error| Error::internal(error.to_string()))
}

/// Whether the password fits the hash; `None` (no such user, or none set) costs the same and never fits.
///
/// # Errors
/// [`Error::Internal`] if the pool is shut down.
pub async fn verify(password: SecretString, hash: Option<String>) -> Result<bool> {
    on_bench(move || {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODY.clone());
        fits(password.expose_secret(), &hash) && known
    })
    .await
}

/// Whether a hash is of another kind, or of less work, than those made today.
pub fn is_outdated(hash: &str) -> bool {
    let parsed = PasswordHash::new(hash).ok();
    let params = parsed
        .filter(|hash| hash.algorithm.as_str() == "argon2id")
        .and_then(|hash| Params::try_from(&hash).ok());
    params.is_none_or(|params| {
        let today = Params::default();
        params.m_cost() < today.m_cost() || params.t_cost() < today.t_cost()
    })
}

fn fits(password: &str, hash: &str) -> bool {
    if hash.starts_with("$2") {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// The rule for new passwords: at least 12 characters in production, and none that is among the first a guesser tries;
/// 8 elsewhere.
///
/// # Errors
/// [`Error::Invalid`] pointing at `/password`.
pub fn check_strength(password: &SecretString, production: bool) -> Result<()> {
    let least = if production { 12 } else { 8 };
    if password.expose_secret().chars().count() < least {
        return Err(Error::invalid("/password", format!("must have at least {least} characters")));
    }
    if production && zxcvbn(password.expose_secret(), &["bifrost"]).guesses_log10() < LEAST_GUESSES {
        return Err(Error::invalid("/password", "is too common; choose one that is harder to guess"));
    }
    Ok(())
}

async fn on_bench<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    BENCH.spawn(async move { work() }).await.map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_and_no_other() {
        let hash = hash("correct horse battery".into()).await.expect("hashes");

        assert!(hash.starts_with("$argon2id$"));
        assert!(verify("correct horse battery".into(), Some(hash.clone())).await.expect("checks"));
        assert!(!verify("correct horse".into(), Some(hash)).await.expect("checks"));
        assert!(!verify("nobody".into(), None).await.expect("checks"), "an unknown user never signs in");
    }

    #[tokio::test]
    async fn a_check_leaves_a_core_to_everything_else() {
        let cores = || sched_getaffinity(None).expect("a thread may see its cores").count();

        let (all, of_checks) = (cores(), on_bench(cores).await.expect("checks"));

        assert_eq!(of_checks, (all - 1).max(1));
    }

    #[tokio::test]
    async fn an_imported_hash_fits_and_is_outdated() {
        let imported = bcrypt::hash("correct horse battery", 4).expect("hashes");

        assert!(verify("correct horse battery".into(), Some(imported.clone())).await.expect("checks"));
        assert!(!verify("correct horse".into(), Some(imported.clone())).await.expect("checks"));
        assert!(is_outdated(&imported) && is_outdated("nonsense"));
        let weaker = Argon2::new(
            argon2::Algorithm::Argon2id,
            argon2::Version::V0x13,
            Params::new(8, 1, 1, None).expect("valid"),
        );
        assert!(is_outdated(&weaker.hash_password(b"correct horse battery").expect("hashes").to_string()));
        assert!(!is_outdated(&hash("correct horse battery".into()).await.expect("hashes")));
    }

    #[test]
    fn production_refuses_what_a_guesser_tries_first() {
        for common in [
            "password1234",
            "Password1234!",
            "123456789012",
            "qwertyuiop123",
            "aaaaaaaaaaaa",
            "administrator",
            "iloveyou1234",
            "bifrostbifrost",
            "letmein12345",
            "P@ssw0rdP@ssw0rd",
        ] {
            let refused = check_strength(&common.into(), true);
            assert!(matches!(refused, Err(Error::Invalid(_))), "{common} is taken");
            assert!(check_strength(&common.into(), false).is_ok(), "{common} is refused while developing");
        }
        for good in [
            "correct horse battery",
            "a long enough password",
            "vK3!pq9Lz#7w",
            "drei Chinesen mit dem Kontrabass",
        ] {
            assert!(check_strength(&good.into(), true).is_ok(), "{good} is refused");
        }
    }

    #[test]
    fn production_asks_for_longer_passwords() {
        let password = SecretString::from("ten chars!");

        assert!(check_strength(&password, false).is_ok());
        assert!(matches!(check_strength(&password, true), Err(Error::Invalid(_))));
    }
}
