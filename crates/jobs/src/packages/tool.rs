//! The program that finds versions and installs files: `uv` where there is one, else pip.
//!
//! It is given fixed arguments, files that were written here, and an environment of its own. The invariant: no word of
//! who asked for a package gets onto its command line, no configuration of the machine is read, and nothing is run that
//! came from the index: only wheels are taken, and they are unpacked.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use domain::packages::Package;
use domain::packages::requirements::Name;
use domain::python::{self, Interpreter};
use domain::settings::Settings;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::lock::{Locked, read_lock, read_report};

/// Longest output that is read: a report of pip names every file.
const MAX_OUTPUT: u64 = 64 * 1024 * 1024;
/// Lines that are told, at most, and their length.
const MAX_LINES: usize = 200;
const MAX_LINE: usize = 500;
/// Files that are written for it. People never see them, but what stands in their lines.
const GIVEN: [&str; 4] = ["wanted.txt", "alone.txt", "constraints.txt", "lock.txt"];
/// Last lines that say why it failed.
const LAST_WORDS: usize = 20;
const QUESTION_PATIENCE: Duration = Duration::from_secs(30);
/// What of our own environment it is given: how the network is reached.
const PASSED: [&str; 8] = [
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
];

/// Why nothing came of it.
#[derive(Debug)]
pub(crate) enum Fault {
    /// For who asked.
    Refused(String),
    /// A fault of ours.
    Broken(anyhow::Error),
}

/// What an environment consists of.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) lock: String,
    pub(crate) packages: Vec<Package>,
}

/// The program, for one interpreter.
#[derive(Debug)]
pub(crate) struct Tool {
    kind: Kind,
    interpreter: PathBuf,
    index: SecretString,
}

#[derive(Debug)]
enum Kind {
    Uv(PathBuf),
    /// An interpreter that has pip.
    Pip(PathBuf),
}

type Tell<'a> = &'a (dyn Fn(String) + Sync);

impl Tool {
    /// Finds it.
    pub(crate) async fn find(settings: &Settings, interpreter: &Interpreter) -> Result<Self, Fault> {
        let uv = python::candidates(&settings.uv).into_iter().find(|path| path.is_file());
        let kind = match uv {
            Some(uv) => Some(Kind::Uv(uv)),
            None => find_pip(settings, interpreter).await.map(Kind::Pip),
        };
        let kind = kind.ok_or_else(|| {
            Fault::Refused(
                "Neither uv nor pip is installed where workflows run; install one of them, or name uv in UV."
                    .into(),
            )
        })?;
        Ok(Self { kind, interpreter: interpreter.path.clone(), index: settings.package_index_url.clone() })
    }

    /// Finds a version of everything that is wanted and needed. What is locked already stays as it is where that fits, but
    /// for `newest`.
    pub(crate) async fn resolve(
        &self,
        folder: &Path,
        wanted: &str,
        locked: &str,
        newest: Option<&Name>,
        tell: Tell<'_>,
    ) -> Result<Resolved, Fault> {
        let file = folder.join("wanted.txt");
        write(&file, wanted).await?;
        let found = match &self.kind {
            Kind::Uv(uv) => self.resolve_with_uv(uv, folder, &file, locked, newest, tell).await?,
            Kind::Pip(pip) => self.resolve_with_pip(pip, folder, &file, wanted, locked, newest, tell).await?,
        };
        Ok(Resolved {
            lock: found.iter().map(Locked::line).collect(),
            packages: found.into_iter().map(|one| Package { name: one.name, version: one.version }).collect(),
        })
    }

    /// Installs exactly what the lock says into a new folder.
    pub(crate) async fn install(
        &self,
        folder: &Path,
        lock: &str,
        target: &Path,
        tell: Tell<'_>,
    ) -> Result<(), Fault> {
        let file = folder.join("lock.txt");
        write(&file, lock).await?;
        let mut command = match &self.kind {
            Kind::Uv(uv) => {
                let mut command = self.uv(uv, folder);
                command.args(["pip", "install", "--compile-bytecode", "--python"]).arg(&self.interpreter);
                command
            }
            Kind::Pip(pip) => {
                let mut command = self.pip(pip, folder);
                command.args(["install", "--no-warn-script-location", "--progress-bar", "off"]);
                command
            }
        };
        command.args(["--no-deps", "--require-hashes", "--only-binary", ":all:", "--target"]).arg(target);
        command.arg("--requirement").arg(&file);
        self.run(command, folder, tell).await.map(drop)
    }

    async fn resolve_with_uv(
        &self,
        uv: &Path,
        folder: &Path,
        wanted: &Path,
        locked: &str,
        newest: Option<&Name>,
        tell: Tell<'_>,
    ) -> Result<Vec<Locked>, Fault> {
        let file = folder.join("lock.txt");
        // What stands in it is preferred.
        write(&file, locked).await?;
        let mut command = self.uv(uv, folder);
        command.args([
            "pip",
            "compile",
            "--generate-hashes",
            "--no-header",
            "--no-annotate",
            "--no-emit-index-url",
        ]);
        command.args(["--only-binary", ":all:", "--python"]).arg(&self.interpreter);
        command.arg("--output-file").arg(&file);
        if let Some(name) = newest {
            // A normalized name: it begins with a letter or a digit.
            command.arg(format!("--upgrade-package={name}"));
        }
        command.arg(wanted);
        self.run(command, folder, tell).await?;
        let text = tokio::fs::read_to_string(&file).await.context("reading what uv found")?;
        Ok(read_lock(&text)?)
    }

    #[expect(clippy::too_many_arguments, reason = "what is wanted, as text and as file, and what there is")]
    async fn resolve_with_pip(
        &self,
        pip: &Path,
        folder: &Path,
        wanted: &Path,
        text: &str,
        locked: &str,
        newest: Option<&Name>,
        tell: Tell<'_>,
    ) -> Result<Vec<Locked>, Fault> {
        let ask = async |wanted: &Path, constraints: Option<&Path>, tell: Tell<'_>| {
            let mut command = self.pip(pip, folder);
            command.args(["install", "--dry-run", "--ignore-installed", "--quiet", "--only-binary", ":all:"]);
            command.args(["--report", "-", "--requirement"]).arg(wanted);
            if let Some(constraints) = constraints {
                command.arg("--constraint").arg(constraints);
            }
            self.run(command, folder, tell).await
        };
        let mut kept = read_lock(locked)?;
        if let Some(name) = newest {
            // pip has no preferences, only constraints: what the newest needs is left out of them.
            let alone = folder.join("alone.txt");
            write(&alone, &lines_of(text, name)).await?;
            let moving = read_report(&ask(&alone, None, tell).await?)?;
            kept.retain(|one| moving.iter().all(|moved| moved.name != one.name));
        }
        let constraints = folder.join("constraints.txt");
        let kept: String = kept.iter().map(|one| format!("{}=={}\n", one.name, one.version)).collect();
        write(&constraints, &kept).await?;
        let report = match ask(wanted, Some(&constraints), &|_| {}).await {
            // Perhaps something else has to move too.
            Err(Fault::Refused(_)) if !kept.is_empty() => ask(wanted, None, tell).await?,
            answer => answer?,
        };
        Ok(read_report(&report)?)
    }

    fn uv(&self, uv: &Path, folder: &Path) -> Command {
        let mut command = bare(uv, folder);
        command
            .env("UV_DEFAULT_INDEX", self.index.expose_secret())
            .env("UV_NO_CONFIG", "1")
            .env("UV_CACHE_DIR", folder.join("cache"))
            .env("UV_PYTHON_DOWNLOADS", "never")
            .env("UV_KEYRING_PROVIDER", "disabled")
            .env("UV_NO_PROGRESS", "1")
            .env("UV_HTTP_RETRIES", "1")
            .args(["--color", "never"]);
        command
    }

    fn pip(&self, pip: &Path, folder: &Path) -> Command {
        let mut command = bare(pip, folder);
        command
            .env("PIP_INDEX_URL", self.index.expose_secret())
            .env("PIP_CONFIG_FILE", "/dev/null")
            .env("PIP_NO_INPUT", "1")
            .env("PIP_NO_CACHE_DIR", "1")
            .env("PIP_KEYRING_PROVIDER", "disabled")
            .env("PIP_RETRIES", "1")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .args(["-s", "-P", "-m", "pip"]);
        if pip != self.interpreter {
            command.arg("--python").arg(&self.interpreter);
        }
        command
    }

    /// Runs it to its end, telling what it says; answers its standard output.
    async fn run(&self, mut command: Command, folder: &Path, tell: Tell<'_>) -> Result<Vec<u8>, Fault> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Group(command.spawn().context("starting the installer")?);
        let (stdout, stderr) = (child.0.stdout.take(), child.0.stderr.take());
        let stdout = stdout.context("the installer has no output")?;
        let stderr = stderr.context("the installer has no error output")?;
        let given = given(folder).await;
        let clean = |line: &str| self.clean(line, folder, &given);
        let (output, last_words) = tokio::join!(read_bounded(stdout), follow(stderr, &clean, tell));
        let status = child.0.wait().await.context("waiting for the installer")?;
        if status.success() {
            return output.context("the output of the installer").map_err(Fault::Broken);
        }
        tracing::warn!(%status, words = last_words.join("\n"), "the installer refused");
        Err(Fault::Refused(format!(
            "The packages cannot be installed; nothing was changed.\n{}",
            last_words.join("\n")
        )))
    }

    /// A line without what is nobody's business: credentials of the index, and our files and folders.
    fn clean(&self, line: &str, folder: &Path, given: &[(String, String)]) -> String {
        let index = self.index.expose_secret().trim_end_matches('/');
        let line =
            given.iter().fold(line.to_owned(), |line, (file, text)| with_requirements(&line, file, text));
        let mut line = line.replace(index, "the package index").replace(&*folder.to_string_lossy(), "");
        if let Some((secret, _)) = index.split_once("://").and_then(|(_, rest)| rest.split_once('@')) {
            line = line.replace(secret, "…");
        }
        line.chars().filter(|char| !char.is_control()).take(MAX_LINE).collect()
    }
}

/// Which interpreters share an environment.
pub(crate) async fn tag(interpreter: &Interpreter) -> anyhow::Result<String> {
    let mut command = bare(&interpreter.path, Path::new("/"));
    command.args([
        "-I",
        "-c",
        "import sys, sysconfig; print(sys.implementation.cache_tag, sysconfig.get_platform())",
    ]);
    let output = tokio::time::timeout(QUESTION_PATIENCE, command.output())
        .await
        .context("asking the interpreter")??;
    let words = String::from_utf8(output.stdout).unwrap_or_default();
    let tag: String =
        words.trim().chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '_' }).collect();
    if output.status.success() && !tag.is_empty() {
        Ok(tag)
    } else {
        Err(anyhow!("the interpreter does not say what it is"))
    }
}

/// A program with an environment of its own.
fn bare(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin")),
        )
        .env("HOME", folder)
        .env("TMPDIR", folder)
        .env("LANG", "C.UTF-8")
        .env("NO_COLOR", "1")
        .envs(PASSED.iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value))))
        .current_dir(folder)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    command
}

async fn find_pip(settings: &Settings, interpreter: &Interpreter) -> Option<PathBuf> {
    let mut candidates = vec![interpreter.path.clone()];
    candidates.extend(python::candidates(&settings.python));
    for candidate in candidates {
        let mut command = bare(&candidate, Path::new("/"));
        command.args(["-I", "-m", "pip", "--version"]);
        let answer = tokio::time::timeout(QUESTION_PATIENCE, command.output()).await;
        if matches!(answer, Ok(Ok(output)) if output.status.success()) {
            return Some(candidate);
        }
    }
    None
}

async fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    tokio::fs::write(file, text).await.context("writing a file for the installer")
}

/// A process and all it has started, killed when dropped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // An id that is there belongs to a process that was not waited for, so to nobody else.
        if let Some(pid) =
            self.0.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

async fn read_bounded(stream: impl AsyncRead + Unpin) -> anyhow::Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut stream = stream.take(MAX_OUTPUT + 1);
    stream.read_to_end(&mut output).await?;
    if output.len() as u64 > MAX_OUTPUT {
        // Whoever goes on writing is ended with its pipe.
        return Err(anyhow!("more than {MAX_OUTPUT} bytes"));
    }
    Ok(output)
}

/// Tells lines as they come; answers the last ones.
async fn follow(
    stream: impl AsyncRead + Unpin,
    clean: &(dyn Fn(&str) -> String + Sync),
    tell: Tell<'_>,
) -> Vec<String> {
    let mut reader = BufReader::new(stream.take(MAX_OUTPUT));
    let (mut told, mut last, mut line) = (0, Vec::new(), Vec::new());
    while reader.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        let text = clean(String::from_utf8_lossy(&line).trim_end());
        line.clear();
        if text.trim().is_empty() {
            continue;
        }
        if told < MAX_LINES {
            tell(text.clone());
            told += 1;
        }
        if last.len() == LAST_WORDS {
            last.remove(0);
        }
        last.push(text);
    }
    last
}

/// Path and text of the files that are given to the installer.
async fn given(folder: &Path) -> Vec<(String, String)> {
    let mut given = Vec::new();
    for name in GIVEN {
        let file = folder.join(name);
        // Not every step has all of them.
        if let Ok(text) = tokio::fs::read_to_string(&file).await {
            given.push((file.to_string_lossy().into_owned(), text));
        }
    }
    given
}

/// A line that names requirements themselves where pip names their place, as in `-r FILE (line 2)`.
fn with_requirements(line: &str, file: &str, text: &str) -> String {
    let place = format!("{file} (line ");
    let (mut shown, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once(&place) {
        let requirement = |number: &str| text.lines().nth(number.parse::<usize>().ok()?.checked_sub(1)?);
        let found = after.split_once(')').and_then(|(number, after)| Some((requirement(number)?, after)));
        let Some((requirement, after)) = found else { break };
        shown += before.strip_suffix("-r ").or_else(|| before.strip_suffix("-c ")).unwrap_or(before);
        // Hashes say nothing to people.
        shown += requirement.split(" --").next().unwrap_or_default().trim_end_matches(['\\', ' ']);
        rest = after;
    }
    shown + rest
}

/// The requirements of one package.
fn lines_of(wanted: &str, name: &Name) -> String {
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '-';
    let lines = wanted.lines().filter(|line| line.split(|char| !is_name(char)).next() == Some(name.as_str()));
    lines.map(|line| format!("{line}\n")).collect()
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_requirements_and_not_where_they_were_written() {
        let (file, text) = ("/tmp/w/wanted.txt", "alpha==1.0\nbeta==2.0 --hash=sha256:00 \\\n");
        let shown = |line: &str| with_requirements(line, file, text);
        assert_eq!(
            shown("ERROR: Cannot install -r /tmp/w/wanted.txt (line 1) and beta==2.0 because they conflict."),
            "ERROR: Cannot install alpha==1.0 and beta==2.0 because they conflict."
        );
        assert_eq!(
            shown("x (from -r /tmp/w/wanted.txt (line 2)) and -c /tmp/w/wanted.txt (line 1)"),
            "x (from beta==2.0) and alpha==1.0"
        );
        for other in ["plain", "-r /tmp/w/wanted.txt (line 9)", "-r /tmp/w/wanted.txt (line x)"] {
            assert_eq!(shown(other), other);
        }
    }
}
