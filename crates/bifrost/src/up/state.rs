//! The state directory of `bifrost up`: who runs, generated secrets, where the private PostgreSQL lives.
//!
//! The invariant: whoever holds the lock owns everything below it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::env;
use crate::failure::{Failure, USAGE};

/// A state directory.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    path: PathBuf,
}

/// The right to run on a state directory; ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

/// Who holds the lock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) url: String,
}

/// What is remembered of the private PostgreSQL.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PostgresState {
    /// Its port on 127.0.0.1.
    pub(crate) port: Option<u16>,
    /// Where its binaries were found last.
    pub(crate) binaries: Option<PathBuf>,
}

impl StateDir {
    /// The directory that was asked for, or where this user's state belongs.
    pub(crate) fn locate(given: Option<PathBuf>) -> Result<Self, Failure> {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
        let path = match given {
            Some(path) => std::path::absolute(path).map_err(|error| Failure::new(error.to_string()))?,
            None if env::is_root() => "/var/lib/bifrost".into(),
            None => std::env::var_os("XDG_STATE_HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .or_else(home)
                .ok_or_else(|| {
                    Failure::new("there is no HOME to keep state in")
                        .next("bifrost up --state-dir DIR")
                        .code(USAGE)
                })?
                .join("bifrost"),
        };
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it. When we are root, less privileged processes must be able to walk through it, so it lets
    /// everybody pass and nobody look.
    pub(crate) fn create(&self) -> Result<(), Failure> {
        let mode = if env::is_root() { 0o711 } else { 0o700 };
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(&self.path);
        made.and_then(|()| std::fs::create_dir_all(self.secrets()))
            .and_then(|()| set_mode(&self.secrets(), 0o700))
            .map_err(|error| {
                Failure::new(format!("cannot make the state directory {}: {error}", self.path.display()))
                    .next("choose another: bifrost up --state-dir DIR")
            })?;
        if env::is_root() { self.check_reachable() } else { Ok(()) }
    }

    /// Takes the lock, or says who has it.
    pub(crate) fn lock(&self) -> Result<Lock, Failure> {
        let cannot =
            |error: std::io::Error| Failure::new(format!("cannot lock {}: {error}", self.path.display()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.lock_file());
        let file = file.map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { file }),
            Err(std::fs::TryLockError::Error(error)) => Err(cannot(error)),
            Err(std::fs::TryLockError::WouldBlock) => Err(match self.holder() {
                Some(holder) => Failure::new(format!("Bifrost runs already: {}, process {}, state in {}", holder.url, holder.pid, self.path.display()))
                    .next(format!("use it, stop it with `kill {}`, or run another one: bifrost up --state-dir DIR --listen 127.0.0.1:0", holder.pid)),
                None => Failure::new(format!("Bifrost runs already, state in {}", self.path.display()))
                    .next("use it, or run another one: bifrost up --state-dir DIR --listen 127.0.0.1:0"),
            }),
        }
    }

    /// Who holds the lock, if anybody does.
    pub(crate) fn running(&self) -> Option<Holder> {
        let file = File::open(self.lock_file()).ok()?;
        match file.try_lock_shared() {
            Err(std::fs::TryLockError::WouldBlock) => self.holder(),
            _ => None,
        }
    }

    /// A secret that is generated once.
    pub(crate) fn secret(&self, name: &str) -> Result<SecretString, Failure> {
        if let Some(secret) = self.known_secret(name)? {
            return Ok(secret);
        }
        let file = self.secrets().join(name);
        let secret = generate();
        write_private(&file, secret.expose_secret().as_bytes())
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
        Ok(secret)
    }

    /// A secret, if it was generated before.
    pub(crate) fn known_secret(&self, name: &str) -> Result<Option<SecretString>, Failure> {
        let file = self.secrets().join(name);
        match std::fs::read_to_string(&file) {
            Ok(text) if text.trim().is_empty() => Err(Failure::new(format!("{} is empty", file.display()))
                .next("restore it from a backup; without a database that needs it, remove it")),
            Ok(text) => Ok(Some(text.trim().into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::new(format!("cannot read {}: {error}", file.display()))),
        }
    }

    /// Takes a secret back that nothing was done with yet; the file that it was in.
    pub(crate) fn forget_secret(&self, name: &str) -> Result<PathBuf, Failure> {
        let file = self.secrets().join(name);
        std::fs::remove_file(&file)
            .map_err(|error| Failure::new(format!("cannot remove {}: {error}", file.display())))?;
        Ok(file)
    }

    /// Folder of the private PostgreSQL.
    pub(crate) fn postgres(&self) -> PathBuf {
        self.path.join("postgres")
    }

    /// Folder of downloaded binaries.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.path.join("downloads")
    }

    /// Folder for sockets and the private directories of runs.
    pub(crate) fn temp(&self) -> PathBuf {
        self.path.join("run")
    }

    /// Folder of what users upload.
    pub(crate) fn uploads(&self) -> PathBuf {
        self.path.join("uploads")
    }

    /// The first administrator, for whoever comes from another directory.
    pub(crate) fn administrator(&self) -> PathBuf {
        self.secrets().join("administrator.json")
    }

    pub(crate) fn postgres_state(&self) -> PostgresState {
        let stored = std::fs::read(self.path.join("postgres.json")).ok();
        stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    pub(crate) fn remember_postgres(&self, state: &PostgresState) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(state).expect("numbers and paths are JSON");
        let file = self.path.join("postgres.json");
        write_private(&file, &text)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))
    }

    pub(crate) fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    fn holder(&self) -> Option<Holder> {
        serde_json::from_slice(&std::fs::read(self.lock_file()).ok()?).ok()
    }

    /// Whether a process without privileges gets here: PostgreSQL refuses to run as root.
    fn check_reachable(&self) -> Result<(), Failure> {
        match first_closed(&self.path) {
            None => Ok(()),
            Some(closed) => Err(Failure::new(format!(
                "the state directory {} is out of reach for PostgreSQL, which does not run as root: {} is closed to others",
                self.path.display(),
                closed.display()
            ))
            .next("bifrost up --state-dir /var/lib/bifrost")
            .code(USAGE)),
        }
    }
}

impl Lock {
    /// Leaves word of where we are.
    pub(crate) fn announce(&mut self, url: &str) -> std::io::Result<()> {
        let holder = Holder { pid: std::process::id(), url: url.to_owned() };
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(&serde_json::to_vec(&holder)?)
    }
}

/// The first folder on the way to `path`, itself included, that lets not everybody pass.
pub(crate) fn first_closed(path: &Path) -> Option<PathBuf> {
    let mut folders: Vec<&Path> = path.ancestors().collect();
    folders.reverse();
    let closed = |path: &&Path| std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o001 == 0);
    folders.into_iter().find(closed).map(Path::to_path_buf)
}

/// 256 random bits in characters that need no escaping anywhere.
pub(crate) fn generate() -> SecretString {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()).into()
}

/// Writes a file only we can read, in one step: no reader ever sees half of it.
pub(crate) fn write_private(file: &Path, content: &[u8]) -> std::io::Result<()> {
    let fresh = file.with_extension(format!("new-{}", std::process::id()));
    let mut opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    opened.write_all(content)?;
    opened.sync_all()?;
    std::fs::rename(&fresh, file)
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// The last lines of a log, for an error that they explain.
pub(crate) fn last_lines(file: &Path, count: usize) -> String {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|mut opened| {
        let length = opened.metadata()?.len();
        opened.seek(std::io::SeekFrom::Start(length.saturating_sub(16 * 1024)))?;
        opened.read_to_end(&mut bytes)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> StateDir {
        let path = std::env::temp_dir().join(format!("bifrost-state-{}", uuid::Uuid::new_v4()));
        let state = StateDir { path };
        state.create().unwrap();
        state
    }

    #[test]
    fn a_secret_is_generated_once_and_only_its_owner_reads_it() {
        let state = scratch();

        let first = state.secret("SECRET_KEY").unwrap();
        let again = state.secret("SECRET_KEY").unwrap();

        assert_eq!(first.expose_secret(), again.expose_secret());
        assert_ne!(first.expose_secret(), state.secret("SECRETS_MASTER_KEY").unwrap().expose_secret());
        let mode = std::fs::metadata(state.secrets().join("SECRET_KEY")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(state.path()).unwrap();
    }

    #[test]
    fn a_second_lock_says_who_has_the_first() {
        let state = scratch();
        let mut lock = state.lock().unwrap();
        lock.announce("http://127.0.0.1:8000").unwrap();

        assert!(format!("{:?}", state.lock().unwrap_err()).contains("http://127.0.0.1:8000"));
        assert_eq!(state.running().unwrap().pid, std::process::id());

        drop(lock);
        assert!(state.running().is_none());
        state.lock().unwrap();
        std::fs::remove_dir_all(state.path()).unwrap();
    }
}
