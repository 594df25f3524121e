//! The warm template: started once per state of the workspace, forked for every process.
//!
//! Processes that stand ready are forked ahead of time, so that a run does not wait for its fork. Warm ones
//! that serve many runs are kept per organization and never serve two.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cgroups::Cgroups;
use crate::folders::Folder;
use crate::isolation::Enclosure;
use crate::process::Process;
use crate::protocol::{self, Control, Exit};
use crate::{Error, Run};

/// How long an interpreter may take to import what runs need.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a template may give no process before it counts as gone: a fork takes milliseconds.
const FORK_PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a fork that failed; longer with each that follows.
const FORK_PAUSE: Duration = Duration::from_millis(50);
/// Runs after which a pooled process is replaced, so that what it leaks is bounded.
const MAX_SERVED: u32 = 2_000;

/// How a template is started.
#[derive(Debug, Clone)]
pub struct Config {
    /// The interpreter.
    pub python: PathBuf,
    /// Folder of the Python package `bifrost`.
    pub platform: PathBuf,
    /// The workflow files.
    pub workspace: PathBuf,
    /// Private folder for the socket; made with mode 0700.
    pub socket_dir: PathBuf,
    /// Where the private directories of processes are.
    pub temp_dir: PathBuf,
    /// What processes are enclosed in.
    pub enclosure: Enclosure,
    /// Names the state of the workspace.
    pub generation: String,
    /// Processes that stand ready.
    pub standby: usize,
    /// Pooled processes kept warm, over all organizations.
    pub warm: usize,
    /// Folder of the packages that runs may import besides the interpreter's.
    pub packages: Option<PathBuf>,
    /// Rises with every change of these packages.
    pub environment_version: i64,
    /// Kept open as long as the template lives, for a lock on that folder.
    pub held: Option<Arc<std::fs::File>>,
}

/// What the template says when it is ready.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    /// Process id.
    pub pid: i32,
    /// Version of Python.
    pub python: String,
    /// `pid_namespace`, `reaper` or `session`.
    pub isolation: String,
    /// Names of the pieces that runs are enclosed in.
    pub pieces: Vec<String>,
    /// Modules it has loaded.
    pub modules: u32,
    /// Time it took.
    pub startup_ms: u32,
}

/// How a run is isolated from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A process of its own.
    Process,
    /// A warm process of the same organization.
    Pooled,
}

/// A template that is ready. Dropping the last handle ends it, with all its processes.
#[derive(Debug)]
pub struct Template {
    config: Config,
    ready: Ready,
    exits: Arc<Exits>,
    standby: tokio::sync::Mutex<mpsc::Receiver<Process>>,
    warm: Mutex<Vec<(String, Process)>>,
    gone: CancellationToken,
    _folder: Folder,
    /// Held open: the template ends when it closes.
    _lifeline: ChildStdin,
}

/// Ends of processes, by pid: told before or after somebody asks.
#[derive(Debug, Default)]
struct Exits {
    by_pid: Mutex<HashMap<i32, Expected>>,
}

#[derive(Debug)]
enum Expected {
    Awaited(oneshot::Sender<Exit>),
    Happened(Exit),
}

impl Template {
    /// Starts a template and waits until it listens.
    ///
    /// # Errors
    /// [`Error::Spawn`] or [`Error::Template`], with what the interpreter said on standard error in the log.
    pub async fn start(config: Config) -> Result<Arc<Self>, Error> {
        let socket = config.socket_dir.join("template.sock");
        prepare_folder(&config)?;
        let name = config.socket_dir.file_name().unwrap_or_default().to_string_lossy();
        let folder = Folder::create(&config.temp_dir, &name)?;
        let mut child = command(&config, &socket, folder.path())
            .spawn()
            .map_err(|source| Error::Spawn { python: config.python.display().to_string(), source })?;
        let lifeline =
            child.stdin.take().ok_or_else(|| Error::Template("it has no standard input".into()))?;
        let mut control =
            child.stdout.take().ok_or_else(|| Error::Template("it has no standard output".into()))?;
        let mut buffer = BytesMut::new();
        let ready = timeout(START_TIMEOUT, first_frame(&mut control, &mut buffer))
            .await
            .map_err(|_| Error::Template(format!("not ready after {} s", START_TIMEOUT.as_secs())))??;
        let exits = Arc::<Exits>::default();
        tokio::spawn(follow(control, buffer, exits.clone()));
        let gone = CancellationToken::new();
        tokio::spawn({
            let gone = gone.clone().drop_guard();
            async move {
                let status = child.wait().await;
                tracing::debug!(?status, "a Python template ended");
                drop(gone);
            }
        });
        let (sender, standby) = mpsc::channel(config.standby.max(1));
        let cgroups = config.enclosure.cgroup.as_ref().map(|(cgroups, _)| cgroups.clone());
        let folders = folder.path().to_owned();
        tokio::spawn(keep_ready(socket, folders, cgroups, exits.clone(), gone.clone(), sender));
        Ok(Arc::new(Self {
            config,
            ready,
            exits,
            standby: standby.into(),
            warm: Mutex::default(),
            gone,
            _folder: folder,
            _lifeline: lifeline,
        }))
    }

    /// What it said when it was ready.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Whether the interpreter has ended, or gives no processes any more. Runs that have theirs go on.
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Whether each process is a user of its own, so that what the kernel counts per user is counted per process.
    pub fn has_own_users(&self) -> bool {
        self.config.enclosure.run_as.is_some_and(|users| users.count > 1)
    }

    /// The state of the workspace it was started for.
    pub fn generation(&self) -> &str {
        &self.config.generation
    }

    /// The files that its runs are made of.
    pub fn workspace(&self) -> &Path {
        &self.config.workspace
    }

    /// Which change of the packages it was started for.
    pub fn environment_version(&self) -> i64 {
        self.config.environment_version
    }

    /// A process for one run. `tenant` keeps pooled processes of organizations apart.
    ///
    /// # Errors
    /// [`Error::Fork`] when the template is gone.
    pub async fn run(self: &Arc<Self>, isolation: Isolation, tenant: &str) -> Result<Run, Error> {
        let process = match (isolation, self.take_warm(isolation, tenant)) {
            (_, Some(warm)) => warm,
            (_, None) => self.take_standby().await?,
        };
        let tenant = (isolation == Isolation::Pooled).then(|| tenant.to_owned());
        Ok(Run::new(process, self.clone(), tenant))
    }

    /// Takes a process back that may serve its organization again.
    pub(crate) fn give_back(&self, tenant: String, mut process: Process) {
        process.served += 1;
        if process.served >= MAX_SERVED {
            return;
        }
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.push((tenant, process));
        if warm.len() > self.config.warm {
            // The one unused for longest is first.
            drop(warm.remove(0));
        }
    }

    fn take_warm(&self, isolation: Isolation, tenant: &str) -> Option<Process> {
        if isolation == Isolation::Process {
            return None;
        }
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let newest = warm.iter().rposition(|(owner, _)| owner == tenant)?;
            let mut process = warm.remove(newest).1;
            if !process.has_ended() {
                return Some(process);
            }
        }
    }

    async fn take_standby(&self) -> Result<Process, Error> {
        let mut standby = self.standby.lock().await;
        loop {
            let gone = || std::io::Error::other("the template ended");
            let mut process = standby.recv().await.ok_or_else(gone)?;
            if !process.has_ended() {
                return Ok(process);
            }
        }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.config.socket_dir);
        self.exits.by_pid.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Exits {
    fn expect(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut by_pid = self.by_pid.lock().unwrap_or_else(PoisonError::into_inner);
        match by_pid.remove(&pid) {
            Some(Expected::Happened(exit)) => {
                let _ = sender.send(exit);
            }
            _ => {
                by_pid.insert(pid, Expected::Awaited(sender));
            }
        }
        receiver
    }

    fn happened(&self, exit: Exit) {
        let mut by_pid = self.by_pid.lock().unwrap_or_else(PoisonError::into_inner);
        match by_pid.remove(&exit.pid) {
            Some(Expected::Awaited(sender)) => {
                let _ = sender.send(exit);
            }
            _ => {
                by_pid.insert(exit.pid, Expected::Happened(exit));
            }
        }
    }
}

fn prepare_folder(config: &Config) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;

    Ok(std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.socket_dir)?)
}

/// The interpreter with an environment of its own: nothing of ours is inherited.
fn command(config: &Config, socket: &Path, folder: &Path) -> Command {
    let mut command = Command::new(&config.python);
    command
        .args(["-s", "-P", "-m", "bifrost._host.template", "--socket"])
        .arg(socket)
        .arg("--workspace")
        .arg(&config.workspace)
        .args(config.enclosure.options())
        .arg("--folder")
        .arg(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
        .env("HOME", "/tmp")
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC")
        .env("PYTHONPATH", &config.platform)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1")
        // Bound lazily, each process would copy the pages of the linker's table again.
        .env("LD_BIND_NOW", "1")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .process_group(0);
    if let Some(packages) = &config.packages {
        command.arg("--packages").arg(packages);
    }
    command
}

async fn first_frame(control: &mut ChildStdout, buffer: &mut BytesMut) -> Result<Ready, Error> {
    loop {
        if let Some(frame) = protocol::take(buffer)? {
            return match serde_json::from_slice(&frame) {
                Ok(Control::Ready(ready)) => Ok(ready),
                Ok(Control::Exit(_)) | Err(_) => {
                    Err(Error::Template("its first word was not `ready`".into()))
                }
            };
        }
        if control.read_buf(buffer).await? == 0 {
            return Err(Error::Template("the interpreter ended; its last words are above".into()));
        }
    }
}

async fn follow(mut control: ChildStdout, mut buffer: BytesMut, exits: Arc<Exits>) {
    loop {
        while let Ok(Some(frame)) = protocol::take(&mut buffer) {
            match serde_json::from_slice(&frame) {
                Ok(Control::Exit(exit)) => exits.happened(exit),
                Ok(Control::Ready(_)) => {}
                Err(error) => tracing::error!(%error, "the template said something unexpected"),
            }
        }
        match control.read_buf(&mut buffer).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
    }
}

/// Forks ahead, until nobody takes the processes any more or the template is gone.
async fn keep_ready(
    socket: PathBuf,
    folders: PathBuf,
    cgroups: Option<Arc<Cgroups>>,
    exits: Arc<Exits>,
    gone: CancellationToken,
    ready: mpsc::Sender<Process>,
) {
    while let Ok(place) = ready.reserve().await {
        let forked = timeout(FORK_PATIENCE, fork(&socket, &folders, cgroups.as_deref(), &exits));
        match gone.run_until_cancelled(forked).await {
            Some(Ok(process)) => place.send(process),
            Some(Err(_)) => {
                tracing::error!(patience = ?FORK_PATIENCE, "the template gives no processes any more");
                break;
            }
            None => break,
        }
    }
    // Whoever waits for a process learns that there will be none; by then the template counts as gone.
    gone.cancel();
}

/// Forks, again and again while that fails.
async fn fork(socket: &Path, folders: &Path, cgroups: Option<&Cgroups>, exits: &Exits) -> Process {
    let mut failures = 0;
    loop {
        match Process::fork(socket, folders, cgroups, |pid| exits.expect(pid)).await {
            Ok(process) => return process,
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, failures, "the template gave no process");
                sleep(FORK_PAUSE * failures).await;
            }
        }
    }
}
