//! The workspace: indexed at start and at every change, without importing it; each state has its template.
//!
//! A change starts the next template while the old one finishes its runs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use domain::Platform;
use domain::events::Event;
use domain::forms::files::{self, Synced, is_form_file};
use domain::settings::Settings;
use domain::system_events::{Category, Level, NewEvent};
use domain::workflows::{self, Index};
use notify::{RecursiveMode, Watcher};
use runner::Template;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::worker::Templates;

/// Editors write in bursts; what changes within this is one change.
const SETTLE: Duration = Duration::from_millis(200);
/// Looks again even if no change was told, for file systems that tell none.
const LOOK_AGAIN: Duration = Duration::from_secs(8);
const INDEX_TIMEOUT: Duration = Duration::from_secs(60);
/// Faults of files that a log entry names.
const MOST_FAULTS_TOLD: usize = 20;
const RETRY: Duration = Duration::from_secs(2);
/// Who runs are when we are root.
const NOBODY: (u32, u32) = (65_534, 65_534);

/// Keeps rows and template equal to the files.
pub struct Indexer {
    platform: Platform,
    templates: watch::Sender<Option<Arc<Template>>>,
    synced: Option<String>,
    seen: Option<String>,
    seen_forms: Option<String>,
    started: u32,
}

impl Indexer {
    /// Starts it; the template comes with the first index.
    pub(crate) fn start(platform: Platform, stop: CancellationToken) -> (JoinHandle<()>, Templates) {
        let (templates, current) = watch::channel(None);
        let indexer = Self { platform, templates, synced: None, seen: None, seen_forms: None, started: 0 };
        let work = async move {
            stop.run_until_cancelled(indexer.run()).await;
        };
        (tokio::spawn(work), current)
    }

    async fn run(mut self) {
        let (told, mut changes) = mpsc::channel(1);
        let _watcher = watch_files(&self.platform.settings.workspace_path, told);
        loop {
            if let Err(error) = self.refresh_forms().await {
                tracing::warn!(%error, "forms and their files differ, trying again");
            }
            if let Err(error) = self.refresh().await {
                let event = NewEvent::new(
                    Category::Discovery,
                    Level::Error,
                    "The workspace is not in use as it stands; runs go on with what it was before",
                );
                self.platform.system_events.report(event.with(json!({"error": error.to_string()})));
                tracing::warn!(%error, "the workspace is not in use as it stands, trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let told = tokio::time::timeout(LOOK_AGAIN, changes.recv()).await;
            if matches!(told, Ok(Some(()))) {
                tokio::time::sleep(SETTLE).await;
                let _ = changes.try_recv();
            }
        }
    }

    /// Makes forms and their files equal, if the files changed or a form waits for its own.
    async fn refresh_forms(&mut self) -> anyhow::Result<()> {
        let fingerprint = fingerprint(&self.platform.settings.workspace_path, is_form_file)?;
        if self.seen_forms.as_ref() == Some(&fingerprint) && !files::is_any_due(&self.platform.db).await? {
            return Ok(());
        }
        let synced = Box::pin(files::sync(&self.platform)).await?;
        if synced != Synced::default() {
            tracing::info!(
                synced.written,
                synced.imported,
                synced.problems,
                "forms and their files are equal"
            );
        }
        self.seen_forms = Some(fingerprint);
        Ok(())
    }

    /// Brings the template and then the rows up to date, if the files changed.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        let fingerprint = fingerprint(&self.platform.settings.workspace_path, is_python)?;
        if self.seen.as_ref() == Some(&fingerprint) && self.synced.is_some() && !self.template_is_gone() {
            return Ok(());
        }
        let index = index(&self.platform.settings).await?;
        let generation = generation(&index);
        if self.template_is_gone()
            || self.templates.borrow().as_ref().is_none_or(|t| t.generation() != generation)
        {
            let template = self.start_template(generation.clone()).await?;
            self.templates.send_replace(Some(template));
        }
        if self.synced.as_ref() != Some(&generation) {
            let synced = workflows::sync(&self.platform.db, &index).await?;
            tracing::info!(
                workflows = synced.active,
                deactivated = synced.deactivated,
                problems = synced.problems,
                "indexed the workspace"
            );
            self.platform.events.publish(Event::WorkspaceChanged);
            self.platform.system_events.report(indexed(&index, &synced, &generation));
            self.synced = Some(generation);
        }
        self.seen = Some(fingerprint);
        Ok(())
    }

    fn template_is_gone(&self) -> bool {
        self.templates.borrow().as_ref().is_none_or(|template| template.is_gone())
    }

    async fn start_template(&mut self, generation: String) -> anyhow::Result<Arc<Template>> {
        let settings = &self.platform.settings;
        self.started += 1;
        let interpreter = Interpreter::choose(settings);
        let template = Template::start(runner::Config {
            python: interpreter.path,
            platform: std::path::absolute(&settings.platform_path)?,
            workspace: std::path::absolute(&settings.workspace_path)?,
            socket_dir: settings.temp_path.join(format!("runner-{}-{}", std::process::id(), self.started)),
            sandbox: settings.sandbox.clone(),
            generation,
            standby: settings.worker_slots.min(4),
            warm: settings.worker_slots,
            run_as: interpreter.run_as,
        })
        .await?;
        let ready = template.ready();
        tracing::info!(
            python = ready.python,
            isolation = ready.isolation,
            modules = ready.modules,
            startup_ms = ready.startup_ms,
            "the Python template is ready"
        );
        Ok(template)
    }
}

/// Indexes the workspace and brings the rows up to date, once.
///
/// # Errors
/// When the interpreter cannot be started or PostgreSQL is away.
pub async fn index_once(platform: &Platform) -> anyhow::Result<workflows::Synced> {
    let index = index(&platform.settings).await?;
    Ok(workflows::sync(&platform.db, &index).await?)
}

/// Reads the workspace in a process of its own, by the parser of the interpreter that will run it.
async fn index(settings: &Settings) -> anyhow::Result<Index> {
    let mut command = Command::new(Interpreter::choose(settings).path);
    command
        .args(["-s", "-P", "-m", "bifrost._host.index"])
        .arg(std::path::absolute(&settings.workspace_path)?)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LANG", "C.UTF-8")
        .env("PYTHONPATH", std::path::absolute(&settings.platform_path)?)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(INDEX_TIMEOUT, command.output()).await??;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("indexing the workspace failed ({}): {}", output.status, words.trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Names the state of the workspace: its Python files and their content.
fn generation(index: &Index) -> String {
    let mut files: Vec<_> = index.files.iter().map(|file| (&file.path, &file.sha256)).collect();
    files.sort();
    let mut digest = Sha256::new();
    for (path, content) in files {
        digest.update(path);
        digest.update([0]);
        digest.update(content);
    }
    hex::encode(&digest.finalize()[..16])
}

fn is_python(name: &str) -> bool {
    name.ends_with(".py")
}

/// Path, size and time of every file of these names: cheap to take, and different after any change.
fn fingerprint(root: &Path, wanted: fn(&str) -> bool) -> std::io::Result<String> {
    let mut digest = Sha256::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(&folder)?.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let hidden = name.as_encoded_bytes().starts_with(b".") || name == "__pycache__";
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && !hidden {
                folders.push(entry.path());
            } else if name.to_str().is_some_and(wanted) {
                digest.update(entry.path().as_os_str().as_encoded_bytes());
                digest.update(metadata.len().to_le_bytes());
                let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                digest.update(modified.as_nanos().to_le_bytes());
            }
        }
    }
    Ok(hex::encode(digest.finalize()))
}

fn watch_files(root: &Path, told: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let tell = move |change: notify::Result<notify::Event>| {
        if change.is_ok_and(|event| !event.kind.is_access()) {
            // One pending change says all.
            let _ = told.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watcher.inspect_err(|error| tracing::warn!(%error, every = ?LOOK_AGAIN, "changes are not told, looking at the files instead")).ok()
}

/// The interpreter of runs, and the user they are when we are root.
struct Interpreter {
    path: PathBuf,
    run_as: Option<(u32, u32)>,
}

impl Interpreter {
    /// When we are root, runs are somebody else: the first interpreter on the PATH that everybody can use is
    /// taken. Where that user could not read the files it needs, runs keep our user, and the log says why.
    fn choose(settings: &Settings) -> Self {
        let candidates = candidates(&settings.python);
        let first = Self { path: candidates.first().unwrap_or(&settings.python).clone(), run_as: None };
        if !rustix::process::geteuid().is_root() {
            return first;
        }
        let needed = [&settings.workspace_path, &settings.platform_path, &settings.temp_path];
        if let Some(path) = needed.into_iter().find(|path| !open_to_all(path)) {
            tracing::warn!(path = %path.display(), "runs keep our user, since another could not read this folder");
            return first;
        }
        match candidates.into_iter().find(|path| open_to_all(path)) {
            Some(path) => Self { path, run_as: Some(NOBODY) },
            None => {
                tracing::warn!(python = %first.path.display(), "runs keep our user, since another could not use this interpreter");
                first
            }
        }
    }
}

/// The interpreter as set, or everything of that name on the PATH.
fn candidates(python: &Path) -> Vec<PathBuf> {
    if python.components().count() > 1 {
        return vec![python.to_owned()];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(python)).filter(|file| file.is_file()).collect()
}

/// Whether every folder up to the root lets everybody pass.
fn open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    let Ok(path): Result<PathBuf, _> = path.canonicalize() else { return false };
    path.ancestors()
        .all(|folder| folder.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0))
}

/// What an indexing found, for the log: every replica indexes the same, so one of them tells.
fn indexed(index: &Index, synced: &workflows::Synced, generation: &str) -> NewEvent {
    let faults: Vec<_> = index
        .files
        .iter()
        .flat_map(|file| file.problems.iter().map(move |problem| (file, problem)))
        .take(MOST_FAULTS_TOLD)
        .map(|(file, problem)| json!({"path": file.path, "line": problem.line, "message": problem.message}))
        .collect();
    let (level, message) = match synced.problems {
        0 => (
            Level::Info,
            format!("The workspace was indexed: {} workflows and data providers", synced.active),
        ),
        faults => (Level::Warning, format!("The workspace was indexed; its files have {faults} faults")),
    };
    let hour = chrono::Utc::now().format("%Y%m%d%H");
    let details = json!({"active": synced.active, "deactivated": synced.deactivated, "files": faults});
    NewEvent::new(Category::Discovery, level, message)
        .with(details)
        .once(format!("indexed:{generation}:{hour}"))
}
