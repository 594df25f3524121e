//! The credentials file: who is signed in where. Readable by its owner alone.
//!
//! The invariant: whoever replaces it holds the lock beside it.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::up::state::write_private;

/// Where it lies, relative to the current directory.
pub(crate) const FILE: &str = ".bifrost/credentials.json";
/// Where an api is looked for when nothing says otherwise.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8000";
/// How long a command waits for another one that replaces the file.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(10);

/// A way into one api. The password is kept only for an administrator that was generated here.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Credentials {
    pub(crate) url: String,
    pub(crate) email: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refresh_token: Option<String>,
}

/// The right to replace the file; ends when it is dropped, and with the process however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Waits until no other command replaces the file.
pub(crate) async fn lock(file: &Path) -> Result<Lock, Failure> {
    // Beside the file and not on it: storing puts another file in its place.
    let beside = file.with_extension("lock");
    let cannot = |error: std::io::Error| Failure::new(format!("cannot lock {}: {error}", beside.display()));
    let folder = file.parent().unwrap_or(Path::new("."));
    let opened = std::fs::create_dir_all(folder)
        .and_then(|()| OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&beside));
    let opened = opened.map_err(cannot)?;
    let began = Instant::now();
    loop {
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            // A disk without locks: commands that take turns by themselves are still right.
            Ok(()) | Err(Errno::NOTSUP | Errno::NOLCK) => return Ok(Lock { _file: opened }),
            Err(Errno::WOULDBLOCK | Errno::INTR) if began.elapsed() < PATIENCE => {
                tokio::time::sleep(RETRY).await;
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(Failure::new(format!(
                    "another command has been renewing the session in {} for {} seconds",
                    file.display(),
                    PATIENCE.as_secs()
                ))
                .next("wait until it has ended, or end it, and try again"));
            }
            Err(error) => return Err(cannot(error.into())),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Credentials {
    pub(crate) fn new(url: &str, email: &str, password: Option<String>) -> Self {
        Self {
            url: url.to_owned(),
            email: email.to_owned(),
            password,
            access_token: None,
            refresh_token: None,
        }
    }

    /// What is stored, if anything is.
    pub(crate) fn load(file: &Path) -> Result<Option<Self>, Failure> {
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::new(format!("cannot read {}: {error}", file.display()))),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::new(format!("{} is broken: {error}", file.display()))
                .next("remove it and sign in: bifrost login")
        })
    }

    /// Replaces what is stored; only for whoever holds the [`lock`].
    pub(crate) fn store(&self, file: &Path) -> Result<(), Failure> {
        let folder = file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)
            .and_then(|()| write_private(file, &self.to_json()))
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("strings are JSON")
    }

    pub(crate) fn forget_tokens(&mut self) {
        self.access_token = None;
        self.refresh_token = None;
    }

    /// Whether these are for the same person at the same api.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        (&self.url, &self.email) == (&other.url, &other.email)
    }

    /// Whether these hold the same tokens.
    pub(crate) fn has_tokens_of(&self, other: &Self) -> bool {
        (&self.access_token, &self.refresh_token) == (&other.access_token, &other.refresh_token)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_command_at_a_time_replaces_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/credentials.json");

        let held = lock(&file).await.unwrap();
        assert!(lock(&file).now_or_never().is_none(), "two have the lock");
        drop(held);

        assert!(lock(&file).now_or_never().is_some_and(|lock| lock.is_ok()), "nobody has the lock");
        let mode = std::fs::metadata(file.with_extension("lock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
