//! PostgreSQL's own programs, `pg_dump` and `pg_restore`. Passwords go by the environment, never by the command line.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use secrecy::{ExposeSecret, SecretString};
use tokio::process::Command;
use url::Url;

use crate::failure::{Failure, USAGE};
use crate::up::binaries;
use crate::up::state::StateDir;

/// Lines of a program's complaint that are passed on.
const COMPLAINT: usize = 5;

/// Where the programs are.
pub(super) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Those of `bifrost up`, of `BIFROST_PG_BIN`, or of the system.
    pub(super) async fn find(state: &StateDir) -> Result<Self, Failure> {
        let missing = || {
            Failure::new("PostgreSQL's programs pg_dump and pg_restore are not here")
                .next("apt-get install postgresql-client, or name them: BIFROST_PG_BIN=/path/to/bin")
                .code(USAGE)
        };
        let folders = binaries::client_folders(state).await;
        let has_both =
            |folder: &PathBuf| ["pg_dump", "pg_restore"].iter().all(|name| folder.join(name).exists());
        folders.into_iter().find(has_both).map(|folder| Self { folder }).ok_or_else(missing)
    }

    /// Writes the database into an archive, as it is at one instant.
    pub(super) async fn dump(&self, url: &SecretString, archive: &Path) -> Result<(), Failure> {
        let mut command = self.program("pg_dump", Some(url))?;
        command.args(["--format=custom", "--no-owner"]).arg("--file").arg(archive);
        run(command).await.map_err(|complaint| {
            Failure::new(format!("the database was not written: {complaint}"))
                .next("ADMIN_DATABASE_URL must name the superuser, and pg_dump be as new as the server")
        })
    }

    /// Reads the table of contents of an archive.
    pub(super) async fn list(&self, archive: &Path) -> Result<(), Failure> {
        let mut command = self.program("pg_restore", None)?;
        command.arg("--list").arg(archive);
        run(command)
            .await
            .map_err(|complaint| Failure::new(format!("the database cannot be read back: {complaint}")))
    }

    /// Brings an archive back, wholly or not at all.
    pub(super) async fn restore(&self, archive: &Path, url: &SecretString) -> Result<(), Failure> {
        let mut command = self.program("pg_restore", Some(url))?;
        command.args(["--exit-on-error", "--single-transaction", "--no-owner"]).arg(archive);
        run(command)
            .await
            .map_err(|complaint| Failure::new(format!("the database was not restored: {complaint}")))
    }

    fn program(&self, name: &str, url: Option<&SecretString>) -> Result<Command, Failure> {
        let mut command = Command::new(self.folder.join(name));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        if let Some(url) = url {
            let (address, password) = without_password(url)?;
            command.arg("--no-password").arg("--dbname").arg(address).env("PGPASSWORD", password);
        }
        Ok(command)
    }
}

/// An address without its password, and the password as it is.
fn without_password(url: &SecretString) -> Result<(String, String), Failure> {
    let mut url = Url::parse(url.expose_secret())
        .map_err(|_| Failure::new("ADMIN_DATABASE_URL is not an address").code(USAGE))?;
    let password = domain::db::percent_decoded(url.password().unwrap_or_default());
    let _ = url.set_password(None); // only addresses without a host have no place for one
    Ok((url.into(), password))
}

/// The address of another database of the same server.
pub(super) fn database(url: &SecretString, name: &str) -> Result<SecretString, Failure> {
    let mut url = Url::parse(url.expose_secret())
        .map_err(|_| Failure::new("ADMIN_DATABASE_URL is not an address").code(USAGE))?;
    url.set_path(name);
    Ok(String::from(url).into())
}

async fn run(mut command: Command) -> Result<(), String> {
    let output = command.output().await.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let complaint: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(COMPLAINT).collect();
    Err(if complaint.is_empty() { output.status.to_string() } else { complaint.join("\n") })
}
