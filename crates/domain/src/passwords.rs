//! Passwords: argon2id on a bounded pool, with the same work done for an unknown user.

use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use crate::{Error, Result};

/// A check takes 19 MiB and a core for tens of milliseconds; more at once than cores only queue up in memory.
static BENCH: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(2, |n| n.get())));

/// What an unknown user's password is checked against, so that the answer takes as long.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    Argon2::default().hash_password(b"nobody").expect("the default parameters are valid").to_string()
});

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
        let fits = PasswordHash::new(&hash).is_ok_and(|hash| {
            Argon2::default().verify_password(password.expose_secret().as_bytes(), &hash).is_ok()
        });
        fits && known
    })
    .await
}

/// The rule for new passwords: at least 12 characters in production, 8 elsewhere.
///
/// # Errors
/// [`Error::Invalid`] pointing at `/password`.
pub fn check_strength(password: &SecretString, production: bool) -> Result<()> {
    let least = if production { 12 } else { 8 };
    if password.expose_secret().chars().count() < least {
        return Err(Error::invalid("/password", format!("must have at least {least} characters")));
    }
    Ok(())
}

async fn on_bench<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let _seat = BENCH.acquire().await.map_err(Error::internal)?;
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)
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

    #[test]
    fn production_asks_for_longer_passwords() {
        let password = SecretString::from("ten chars!");

        assert!(check_strength(&password, false).is_ok());
        assert!(matches!(check_strength(&password, true), Err(Error::Invalid(_))));
    }
}
