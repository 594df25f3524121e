//! PostgreSQL's own programs, `pg_dump` and `pg_restore`. Passwords go by the environment, never by the command line.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use domain::schema;
use secrecy::{ExposeSecret, SecretString};
use tokio::process::Command;
use url::Url;

use crate::failure::{Failure, USAGE, chain};
use crate::up::binaries;
use crate::up::postgres::{Bound, bound_to_our_life};
use crate::up::state::StateDir;

/// Lines of a program's complaint that are passed on.
const COMPLAINT: usize = 5;

/// Where the programs are: folders with the major version of what is in them, the preferred one first.
pub(super) struct Tools {
    found: Vec<(u32, PathBuf)>,
}

impl Tools {
    /// Those of `BIFROST_PG_BIN`, or else of `bifrost up` and of the system.
    pub(super) async fn find(state: &StateDir) -> Result<Self, Failure> {
        let mut folders = binaries::client_folders(state).await;
        folders.retain(|folder| ["pg_dump", "pg_restore"].iter().all(|name| folder.join(name).exists()));
        let named = std::env::var_os("BIFROST_PG_BIN").map(PathBuf::from);
        if named.is_some() && folders.first() == named.as_ref() {
            folders.truncate(1); // it was named, so no other is taken behind its back
        }
        let mut found = Vec::new();
        for folder in folders {
            if let Some(major) = binaries::major_of(&folder.join("pg_dump")).await {
                found.push((major, folder));
            }
        }
        if found.is_empty() {
            return Err(Failure::new("PostgreSQL's programs pg_dump and pg_restore are not here")
                .next("apt-get install postgresql-client, or name them: BIFROST_PG_BIN=/path/to/bin")
                .code(USAGE));
        }
        Ok(Self { found })
    }

    /// Writes the database into an archive, as it is at one instant.
    pub(super) async fn dump(&self, url: &SecretString, archive: &Path) -> Result<(), Failure> {
        let mut command = program(self.for_server(url).await?, "pg_dump", Some(url))?;
        command.args(["--format=custom", "--no-owner"]).arg("--file").arg(archive);
        run(command).await.map_err(|complaint| {
            Failure::new(format!("the database was not written: {complaint}"))
                .next("ADMIN_DATABASE_URL must name the superuser, and pg_dump be as new as the server")
        })
    }

    /// Reads the table of contents of an archive.
    pub(super) async fn list(&self, archive: &Path) -> Result<(), Failure> {
        let mut command = program(self.newest(), "pg_restore", None)?;
        command.arg("--list").arg(archive);
        run(command)
            .await
            .map_err(|complaint| Failure::new(format!("the database cannot be read back: {complaint}")))
    }

    /// Brings an archive back, wholly or not at all.
    pub(super) async fn restore(&self, archive: &Path, url: &SecretString) -> Result<(), Failure> {
        let mut command = program(self.for_server(url).await?, "pg_restore", Some(url))?;
        command.args(["--exit-on-error", "--single-transaction", "--no-owner"]).arg(archive);
        run(command)
            .await
            .map_err(|complaint| Failure::new(format!("the database was not restored: {complaint}")))
    }

    /// The folder for a server, which must be there.
    async fn for_server(&self, url: &SecretString) -> Result<&Path, Failure> {
        let server = schema::inspect(url).await.map_err(|error| Failure::new(chain(&error)))?;
        Ok(self.suited(u32::try_from(server.major).unwrap_or_default()))
    }

    /// The oldest that is as new as the server: an older one refuses it, and a newer one may say what it does not know.
    /// Where all are too old, the newest, whose complaint names both versions.
    fn suited(&self, server: u32) -> &Path {
        let new_enough = self.found.iter().filter(|(major, _)| *major >= server);
        new_enough
            .min_by_key(|(major, _)| *major)
            .map_or_else(|| self.newest(), |(_, folder)| folder.as_path())
    }

    /// Reads the archive of any of them.
    fn newest(&self) -> &Path {
        let newest = self.found.iter().min_by_key(|(major, _)| Reverse(*major));
        newest.map(|(_, folder)| folder.as_path()).expect("none is found without a folder")
    }
}

fn program(folder: &Path, name: &str, url: Option<&SecretString>) -> Result<Command, Failure> {
    // It ends with us, however we end: what it has begun is then rolled back.
    let Bound { mut command, is_by_pipe } = bound_to_our_life(None);
    // What a pipe ends would be left behind by the one that is killed in its place.
    command.arg(folder.join(name)).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(!is_by_pipe);
    // Ctrl-C at a terminal is for us, who end it and remove what it left.
    command.process_group(0);
    if let Some(url) = url {
        let (address, password) = without_password(url)?;
        command.arg("--no-password").arg("--dbname").arg(address).env("PGPASSWORD", password);
    }
    Ok(command)
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
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    // Whoever waits for a child closes its input, which may be what its life is bound to.
    let _life = child.stdin.take();
    let output = child.wait_with_output().await.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let complaint: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(COMPLAINT).collect();
    Err(if complaint.is_empty() { output.status.to_string() } else { complaint.join("\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_are_those_that_suit_the_server_best() {
        let found = [(15, "last"), (18, "newest"), (16, "installed"), (16, "path")];
        let tools = Tools { found: found.map(|(major, folder)| (major, PathBuf::from(folder))).to_vec() };

        assert_eq!(tools.suited(15), Path::new("last"));
        assert_eq!(tools.suited(16), Path::new("installed"));
        assert_eq!(tools.suited(17), Path::new("newest"));
        assert_eq!(tools.suited(19), Path::new("newest"), "it says that it is too old");
    }
}
