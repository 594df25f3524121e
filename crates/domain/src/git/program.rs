//! The one place that starts `git`: with fixed arguments, an environment of ours, and bounds.
//!
//! The invariant: what a repository, its configuration, its attributes or the files of the workspace say starts no program, opens
//! no other connection and leads to no other folder. The configuration in the git directory is written anew before each
//! use, and ours stands above it; what could run something is off by value, not by hope.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::remote::Remote;
use super::turn::{self, Turn};
use super::{Failed, Outcome, disk, on_thread, tame};
use crate::workspace_trees::Tree;
use crate::{Actor, Error};

/// How long a step may take that stays on this machine.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long one may take that speaks with a server.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest output that is read.
pub(super) const MAX_OUTPUT: u64 = 32 * 1024 * 1024;
const MAX_ERRORS: u64 = 64 * 1024;

/// What stands above every other configuration.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.symlinks", "false"),
    ("core.fileMode", "false"),
    ("core.autocrlf", "false"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.sshCommand", "/bin/false"),
    ("core.gitProxy", "/bin/false"),
    ("core.askPass", "/bin/false"),
    ("core.editor", "/bin/false"),
    ("core.pager", "cat"),
    ("core.quotePath", "false"),
    ("core.alternateRefsCommand", "/bin/false"),
    ("credential.helper", ""),
    ("credential.interactive", "false"),
    ("protocol.allow", "never"),
    ("http.followRedirects", "false"),
    ("http.proxy", ""),
    ("http.sslVerify", "true"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "30"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("push.recurseSubmodules", "no"),
    ("diff.ignoreSubmodules", "all"),
    ("fetch.fsckObjects", "true"),
    // Faults of old programs that harm nobody.
    ("fetch.fsck.zeroPaddedFilemode", "ignore"),
    ("fetch.fsck.missingSpaceBeforeDate", "ignore"),
    ("fetch.fsck.badTimezone", "ignore"),
    ("transfer.bundleURI", "false"),
    ("fetch.writeCommitGraph", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("commit.gpgSign", "false"),
    ("push.gpgSign", "false"),
    ("gpg.program", "/bin/false"),
    ("merge.renames", "true"),
    ("safe.bareRepository", "explicit"),
];
/// `git` in one tree.
#[derive(Debug, Clone)]
pub(super) struct Git {
    tree: Tree,
    identity: Option<(String, String)>,
    /// Cancelled when whoever uses it has lost the turn.
    lost: CancellationToken,
}

/// One call of it, under preparation.
#[derive(Debug)]
pub(super) struct Call<'a> {
    git: &'a Git,
    arguments: Vec<OsString>,
    input: Vec<u8>,
    remote: Option<&'a Remote>,
    index: Option<PathBuf>,
    most: u64,
}

/// How a call ended.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: i32,
    pub(super) output: Vec<u8>,
    pub(super) errors: String,
}

/// The version of the program; `None` when there is none.
pub async fn version() -> Option<String> {
    let mut command = Command::new("git");
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(5), command.output()).await.ok()?.ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    said.trim().strip_prefix("git version ").map(ToOwned::to_owned)
}

impl Git {
    /// Makes the git directory of a tree one that can be worked with. Whoever has the turn is alone, so that locks of git in it are
    /// left from somebody who is gone; who only looks has none.
    pub(super) async fn open(tree: &Tree, turn: Option<&Turn>) -> Outcome<Self> {
        let (folder, is_alone) = (tree.git.clone(), turn.is_some());
        on_thread(move || tame::tame(&folder, is_alone)).await?;
        let lost = turn.map(Turn::lost).unwrap_or_default();
        Ok(Self { tree: tree.clone(), identity: None, lost })
    }

    /// The same on behalf of somebody, whose name commits have.
    pub(super) fn of(mut self, actor: &Actor) -> Self {
        let clean =
            |text: &str| text.replace(|c: char| c.is_control() || "<>".contains(c), "").trim().to_owned();
        let name = Some(clean(&actor.name)).filter(|name| !name.is_empty());
        self.identity = Some((name.unwrap_or_else(|| "Bifrost".into()), clean(&actor.email)));
        self
    }

    pub(super) fn call<I: Into<OsString>>(&self, arguments: impl IntoIterator<Item = I>) -> Call<'_> {
        Call {
            git: self,
            arguments: arguments.into_iter().map(Into::into).collect(),
            input: Vec::new(),
            remote: None,
            index: None,
            most: MAX_OUTPUT,
        }
    }

    /// The output of a call that must succeed.
    pub(super) async fn ask<I: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = I>,
    ) -> Outcome<String> {
        self.call(arguments).text().await
    }

    /// The same, each time ended by NUL.
    pub(super) async fn list<I: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = I>,
    ) -> Outcome<Vec<String>> {
        Ok(fields(&self.call(arguments).done().await?.output))
    }

    /// The commit that a name means; `None`: none.
    pub(super) async fn commit(&self, name: &str) -> Outcome<Option<String>> {
        let wanted = format!("{name}^{{commit}}");
        let answer =
            self.call(["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted]).run().await?;
        Ok((answer.code == 0).then(|| answer.text()))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.tree.git
    }

    fn command(&self, call: &Call<'_>) -> Command {
        let mut command = Command::new("git");
        let never = "/nonexistent";
        command
            .arg("--no-pager")
            .args(&call.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", never)
            .env("XDG_CONFIG_HOME", never)
            .env("LC_ALL", "C.UTF-8")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_SSH_COMMAND", "/bin/false")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_ALLOW_PROTOCOL", call.remote.map_or("none", |remote| remote.transport.scheme()))
            .env("GIT_DIR", &self.tree.git)
            .env("GIT_WORK_TREE", &self.tree.files)
            .current_dir(&self.tree.files)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(index) = &call.index {
            command.env("GIT_INDEX_FILE", index);
        }
        if let Some((name, email)) = &self.identity {
            for who in ["AUTHOR", "COMMITTER"] {
                command.env(format!("GIT_{who}_NAME"), name).env(format!("GIT_{who}_EMAIL"), email);
            }
        }
        for (name, value) in configuration(call.remote) {
            command.env(name, value);
        }
        command
    }
}

/// Our configuration as variables: no argument list shows it, no file holds it.
fn configuration(remote: Option<&Remote>) -> BTreeMap<String, OsString> {
    let mut entries: Vec<(String, OsString)> =
        SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    if let Some(remote) = remote {
        entries.push((format!("protocol.{}.allow", remote.transport.scheme()), "always".into()));
        if let Some(pinned) = remote.pinned() {
            entries.push(("http.curloptResolve".into(), pinned.into()));
        }
        if let Some(header) = remote.authorization() {
            entries.push(("http.extraHeader".into(), header.expose_secret().into()));
        }
    }
    let mut variables = BTreeMap::from([("GIT_CONFIG_COUNT".to_owned(), entries.len().to_string().into())]);
    for (number, (key, value)) in entries.into_iter().enumerate() {
        variables.insert(format!("GIT_CONFIG_KEY_{number}"), key.into());
        variables.insert(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
    variables
}

impl<'a> Call<'a> {
    pub(super) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Paths as the input, each ended by NUL.
    pub(super) fn paths<P: AsRef<[u8]>>(self, paths: &[P]) -> Self {
        let mut input = Vec::new();
        for path in paths {
            input.extend_from_slice(path.as_ref());
            input.push(0);
        }
        self.input(input)
    }

    pub(super) fn at(mut self, remote: &'a Remote) -> Self {
        self.remote = Some(remote);
        self
    }

    /// With another index than that of the tree, if one is named.
    pub(super) fn index(mut self, index: impl Into<Option<PathBuf>>) -> Self {
        self.index = index.into();
        self
    }

    pub(super) fn most(mut self, most: u64) -> Self {
        self.most = most;
        self
    }

    /// The output of a call that must succeed, without the end of its last line.
    pub(super) async fn text(self) -> Outcome<String> {
        Ok(self.done().await?.text())
    }

    /// A call that must succeed.
    pub(super) async fn done(self) -> Outcome<Answer> {
        let (git, remote) = (self.git, self.remote);
        let answer = self.run().await?;
        if answer.code == 0 { Ok(answer) } else { Err(answer.failed(git, remote)) }
    }

    /// Runs it to its end, whatever that is, unless the turn is lost before.
    pub(super) async fn run(self) -> Outcome<Answer> {
        let lost = &self.git.lost;
        if lost.is_cancelled() {
            return Err(turn::lost());
        }
        let timeout = if self.remote.is_some() { REMOTE_TIMEOUT } else { LOCAL_TIMEOUT };
        let mut child = self.git.command(&self).spawn().map_err(missing)?;
        let _group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (input, most) = (self.input, self.most);
        let write = async move {
            if let Some(mut stdin) = stdin {
                // Who reads no more has what it wants, or says why at its end.
                let _ = stdin.write_all(&input).await;
            }
        };
        let work = async {
            let ((), output, errors) = tokio::join!(write, read(stdout, most), read(stderr, MAX_ERRORS));
            let output = output?;
            if output.len() as u64 > most {
                return Ok(None);
            }
            let status = child.wait().await?;
            let errors = String::from_utf8_lossy(&errors?).into_owned();
            Ok::<_, io::Error>(Some(Answer { code: status.code().unwrap_or(-1), output, errors }))
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(timeout, work) => ended,
            () = lost.cancelled() => return Err(turn::lost()),
        };
        match ended {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(Failed::said("the repository is too large for this")),
            Ok(Err(error)) => Err(disk(error)),
            Err(_) => {
                Err(Failed::said(format!("git did not end within {} s and was stopped", timeout.as_secs())))
            }
        }
    }
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).trim_end().to_owned()
    }

    /// What went wrong, for a person: no path, address or token of ours.
    pub(super) fn failed(&self, git: &Git, remote: Option<&Remote>) -> Failed {
        tracing::debug!(code = self.code, "git failed");
        Failed::Said(explain(&self.errors, &git.tree, remote))
    }
}

/// Ends whatever a call has started, together with it.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Mostly nobody is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn read(pipe: Option<impl tokio::io::AsyncRead + Unpin>, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let mut pipe = pipe.take(most + 1);
        pipe.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The parts of an output that are ended by NUL.
pub(super) fn fields(output: &[u8]) -> Vec<String> {
    let parts = output.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// The first of these parts that is no UTF-8, as well as it can be shown. A file of such a name can be told to nobody.
pub(super) fn garbled(output: &[u8]) -> Option<String> {
    let part = output.split(|byte| *byte == 0).find(|part| std::str::from_utf8(part).is_err())?;
    Some(String::from_utf8_lossy(part).into_owned())
}

fn missing(source: io::Error) -> Failed {
    if source.kind() == io::ErrorKind::NotFound {
        return Failed::said("git is not installed on this server");
    }
    Failed::Broken(Error::internal(source))
}

fn explain(errors: &str, tree: &Tree, remote: Option<&Remote>) -> String {
    const KNOWN: &[(&[&str], &str)] = &[
        (
            &[
                "Authentication failed",
                "could not read Username",
                "could not read Password",
                "unable to get password",
                "error: 401",
                "error: 403",
            ],
            "the server refused the token",
        ),
        (
            &["not found", "does not appear to be a git repository", "error: 404", "does not exist"],
            "there is no such repository, or the token does not open it",
        ),
        (
            &["redirect", "error: 301", "error: 302", "error: 307", "error: 308"],
            "the repository has moved; give its new address",
        ),
        (&["refusing to merge unrelated histories"], "the two histories have nothing in common"),
        (&["Could not resolve host"], "the server of the repository is not known"),
        (
            &[
                "Failed to connect",
                "Couldn't connect",
                "timed out",
                "unable to access",
                "Connection refused",
                "hung up",
            ],
            "the server of the repository could not be reached",
        ),
        (
            &["[rejected]", "non-fast-forward", "fetch first"],
            "the branch on the server has commits that are not here; pull first",
        ),
        (
            &["pre-receive hook declined", "protected branch", "remote rejected"],
            "the server refused the commits",
        ),
    ];
    if let Some((_, words)) = KNOWN.iter().find(|(signs, _)| signs.iter().any(|sign| errors.contains(sign))) {
        return (*words).to_owned();
    }
    let is_said = |line: &&str| line.starts_with("fatal: ") || line.starts_with("error: ");
    let line = errors.lines().find(is_said).or_else(|| errors.lines().next()).unwrap_or_default();
    let mut words = line.trim_start_matches("fatal: ").trim_start_matches("error: ").to_owned();
    for path in [&tree.files, &tree.git] {
        words = words.replace(&*path.to_string_lossy(), "");
    }
    if let Some(remote) = remote {
        words = words.replace(&remote.argument(), "the repository");
        if let Some(token) = &remote.token {
            words = words.replace(token.expose_secret(), "…");
        }
    }
    words.truncate(words.floor_char_boundary(300));
    if words.trim().is_empty() { "git failed without saying why".into() } else { format!("git: {words}") }
}
