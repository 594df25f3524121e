//! What runs are enclosed in, as it is asked of the interpreter, and which pieces of it can be had here.
//!
//! The pieces themselves are put on in Python, in the process that becomes the run (`platform/bifrost/_host`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use crate::Error;
use crate::cgroups::Cgroups;

const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// How runs are enclosed.
#[derive(Debug, Clone)]
pub struct Enclosure {
    /// `required`, `best-effort` or `off`.
    pub mode: String,
    /// `open`, `none`, or the TCP ports that runs may connect to, separated by commas.
    pub network: String,
    /// What runs may read besides the interpreter, the system's libraries and the workspace.
    pub readable: Vec<PathBuf>,
    /// Who runs are, when we are root. The template itself stays root, which lets it make PID namespaces.
    pub run_as: Option<RunAs>,
    /// Where each process gets a control group, and what one may have; `None` where there is none to be had.
    pub cgroup: Option<(Arc<Cgroups>, Together)>,
}

/// What a process and all it has started may have together.
#[derive(Debug, Clone, Copy)]
pub struct Together {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// The users of runs. With more than one each process has its own, so that its files and its count of processes are
/// nobody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User and group id of the first.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// One piece of the isolation.
#[derive(Debug, Clone, Deserialize)]
pub struct Piece {
    /// `process tree`, `user`, `system calls`, `file system`, `network`, `memory` or `control group`.
    pub name: String,
    /// Whether it can be had here.
    pub available: bool,
    /// Whether runs have it.
    pub used: bool,
    /// Whether `required` insists on it.
    pub needed: bool,
    /// What it does, or why it cannot be had.
    pub detail: String,
}

impl Enclosure {
    /// As options of the template and of the probe.
    pub(crate) fn options(&self) -> Vec<OsString> {
        let mut options: Vec<OsString> =
            vec!["--isolation".into(), (&self.mode).into(), "--network".into(), (&self.network).into()];
        for path in &self.readable {
            options.extend(["--readable".into(), path.into()]);
        }
        if let Some(RunAs { first, count }) = self.run_as {
            options.extend(["--run-as".into(), format!("{first}:{first}").into()]);
            options.extend(["--run-as-count".into(), count.to_string().into()]);
        }
        if let Some((cgroups, Together { memory_bytes, processes })) = &self.cgroup {
            options.extend(["--cgroup".into(), cgroups.path().into()]);
            options.extend(["--cgroup-memory".into(), memory_bytes.to_string().into()]);
            options.extend(["--cgroup-processes".into(), processes.to_string().into()]);
        }
        options
    }
}

/// Tries every piece, without starting a template.
///
/// # Errors
/// [`Error::Spawn`], and [`Error::Template`] with the last words of the interpreter.
pub async fn probe(python: &Path, platform: &Path, enclosure: &Enclosure) -> Result<Vec<Piece>, Error> {
    let mut command = Command::new(python);
    command
        .args(["-s", "-P", "-m", "bifrost._host.probe"])
        .args(enclosure.options())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("PYTHONPATH", platform)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PROBE_TIMEOUT, command.output())
        .await
        .map_err(|_| Error::Template("the probe of the isolation does not answer".into()))?
        .map_err(|source| Error::Spawn { python: python.display().to_string(), source })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let last =
            words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it ended without a word");
        return Err(Error::Template(last.to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| Error::Template(error.to_string()))
}
