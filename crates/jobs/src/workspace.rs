//! The workspace: indexed at start and at every change, without importing it; each state has its template.
//!
//! A change, also of the packages, starts the next template while the old one finishes its runs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use domain::events::{Event, at_each};
use domain::forms::files::{self, Synced};
use domain::packages::{self, Environment};
use domain::python::{self, Interpreter};
use domain::settings::Settings;
use domain::system_events::{Category, Level, NewEvent};
use domain::workflows::{self, Index, Reading};
use domain::workspace_files::is_form_file;
use domain::workspace_trees;
use domain::{Platform, in_time};
use notify::{RecursiveMode, Watcher};
use runner::Template;
use runner::cgroups::Cgroups;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::enclosure::enclosure;
use crate::packages::environments::{Environments, Held};
use crate::templates::{LookAgain, Templates};

/// Editors write in bursts; what changes within this is one change.
const SETTLE: Duration = Duration::from_millis(200);
/// Looks again even if no change was told, for file systems that tell none.
const LOOK_AGAIN: Duration = Duration::from_secs(8);
const INDEX_TIMEOUT: Duration = Duration::from_secs(60);
/// How long PostgreSQL may take for what is read and written here, all rows included.
const DATABASE_PATIENCE: Duration = Duration::from_secs(30);
/// Faults of files that a log entry names.
const MOST_FAULTS_TOLD: usize = 20;
const RETRY: Duration = Duration::from_secs(2);
/// Longest pause after the workspace could not be used.
const LONGEST_PAUSE: u32 = 15;

/// Keeps rows and template equal to the files.
pub struct Indexer {
    platform: Platform,
    templates: watch::Sender<Option<Arc<Template>>>,
    synced: Option<String>,
    seen: Option<String>,
    seen_forms: Option<String>,
    started: u32,
    cgroups: Option<Arc<Cgroups>>,
}

impl Indexer {
    /// Starts it; the template comes with the first index.
    pub(crate) fn start(
        platform: Platform,
        cgroups: Option<Arc<Cgroups>>,
        stop: CancellationToken,
    ) -> (JoinHandle<()>, Templates) {
        let (templates, current) = watch::channel(None);
        let (told, changes) = mpsc::channel(1);
        let look_again = LookAgain::through(told.clone());
        // At once when the workspace got another environment of packages.
        let switched = look_again.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(at_each(
            platform.events.orders(),
            |event| matches!(event, Event::PackagesSwitched),
            move || switched.now(),
        )));
        let indexer =
            Self { platform, templates, synced: None, seen: None, seen_forms: None, started: 0, cgroups };
        let work = async move {
            stop.run_until_cancelled(Box::pin(indexer.run(told, changes))).await;
        };
        (tokio::spawn(work), Templates::new(current, look_again))
    }

    async fn run(mut self, told: mpsc::Sender<()>, mut changes: mpsc::Receiver<()>) {
        let workspace = self.platform.settings.workspace_path.clone();
        let mut watched = None;
        let mut failures = 0;
        loop {
            // Another tree is watched anew; what is left of the ones before it changes for nobody.
            let root = workspace_trees::current(&workspace);
            if watched.as_ref().is_none_or(|(watched, _)| *watched != root) {
                let watcher = watch_files(&workspace, &root, told.clone());
                watched = Some((root, watcher));
            }
            if let Err(error) = self.refresh_forms().await {
                tracing::warn!(%error, "forms and their files differ, trying again");
            }
            match self.refresh().await {
                Ok(is_current) => {
                    failures = 0;
                    if !is_current {
                        // Soon, and together with what else may be changing.
                        let _ = told.try_send(());
                    }
                }
                Err(error) => {
                    failures += 1;
                    let retry_in = RETRY * failures.min(LONGEST_PAUSE);
                    self.report(&error, retry_in);
                    tokio::time::sleep(retry_in).await;
                    continue;
                }
            }
            let told = tokio::time::timeout(LOOK_AGAIN, changes.recv()).await;
            if matches!(told, Ok(Some(()))) {
                tokio::time::sleep(SETTLE).await;
                let _ = changes.try_recv();
            }
        }
    }

    fn report(&self, error: &anyhow::Error, retry_in: Duration) {
        let event = NewEvent::new(
            Category::Discovery,
            Level::Error,
            "The workspace is not in use as it stands; runs go on with what it was before",
        );
        self.platform.system_events.report(event.with(json!({"error": error.to_string()})));
        tracing::warn!(
            error = format!("{error:#}"),
            ?retry_in,
            "the workspace is not in use as it stands, trying again"
        );
    }

    /// Makes forms and their files equal, if the files changed or a form waits for its own.
    async fn refresh_forms(&mut self) -> anyhow::Result<()> {
        let fingerprint =
            fingerprint(&workspace_trees::current(&self.platform.settings.workspace_path), is_form_file)?;
        if self.seen_forms.as_ref() == Some(&fingerprint)
            && !in_time(DATABASE_PATIENCE, files::is_any_due(&self.platform.db)).await?
        {
            return Ok(());
        }
        // Without a limit: it writes files, hundreds of them after a restore, and must not be cut off between the two.
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

    /// Brings the template and then the rows up to date, if the files or the packages changed. `false` when somebody has read the
    /// files later and written the rows before: the template may be older than they are.
    async fn refresh(&mut self) -> anyhow::Result<bool> {
        let db = &self.platform.db;
        let environment = in_time(DATABASE_PATIENCE, packages::current(db)).await?;
        // One tree for all of this: another one may take its place meanwhile.
        let root = workspace_trees::current(&self.platform.settings.workspace_path);
        let fingerprint = fingerprint(&root, is_python)?;
        if self.seen.as_ref() == Some(&fingerprint)
            && self.synced.is_some()
            && !self.template_is_gone()
            && self.has_packages(&environment)
        {
            return Ok(true);
        }
        let reading = in_time(DATABASE_PATIENCE, Reading::begin(db)).await?;
        let index = index(&self.platform.settings, &root).await?;
        let generation = generation(&index, &root)?;
        if self.template_is_gone()
            || !self.has_packages(&environment)
            || self.templates.borrow().as_ref().is_none_or(|t| t.generation() != generation)
        {
            let template = self.start_template(generation.clone(), &root, &environment).await?;
            self.templates.send_replace(Some(template));
            self.collect(&environment).await?;
        }
        if self.synced.as_ref() != Some(&generation) {
            let synced =
                in_time(DATABASE_PATIENCE, Box::pin(reading.sync(&self.platform.db, &index))).await?;
            let Some(synced) = synced else {
                // What the rows are equal to now is not known here.
                self.synced = None;
                return Ok(false);
            };
            tracing::info!(
                workflows = synced.active,
                deactivated = synced.deactivated,
                problems = synced.problems,
                "indexed the workspace"
            );
            self.platform.catalog.forget();
            self.platform.events.publish(Event::WorkspaceChanged);
            self.platform.system_events.report(indexed(&index, &synced, &generation));
            self.synced = Some(generation);
        }
        self.seen = Some(fingerprint);
        Ok(true)
    }

    fn template_is_gone(&self) -> bool {
        self.templates.borrow().as_ref().is_none_or(|template| template.is_gone())
    }

    fn has_packages(&self, environment: &Environment) -> bool {
        let template = self.templates.borrow();
        template.as_ref().is_some_and(|template| template.environment_version() >= environment.version)
    }

    /// Removes environments of this machine that nobody uses, and nobody would go back to.
    async fn collect(&self, current: &Environment) -> anyhow::Result<()> {
        let before = in_time(DATABASE_PATIENCE, packages::before(&self.platform.db, current.version)).await?;
        let keep = current.id.iter().cloned().chain(before.and_then(|before| before.id)).collect();
        let environments = Environments::of(&self.platform.settings);
        tokio::task::spawn_blocking(move || environments.collect(&keep)).await?;
        Ok(())
    }

    async fn start_template(
        &mut self,
        generation: String,
        root: &Path,
        environment: &Environment,
    ) -> anyhow::Result<Arc<Template>> {
        let settings = &self.platform.settings;
        self.started += 1;
        let interpreter = Interpreter::choose(settings);
        let held = match &environment.id {
            Some(id) => Some(Environments::of(settings).materialise(id, &environment.lock).await?),
            None => None,
        };
        let (packages, held) = held.map(|Held { path, lock }| (path, lock)).unzip();
        let mut enclosure = enclosure(&interpreter, settings, self.cgroups.clone());
        enclosure.readable.extend(packages.clone());
        let template = Template::start(runner::Config {
            python: interpreter.path,
            platform: std::path::absolute(&settings.platform_path)?,
            workspace: std::path::absolute(root)?,
            socket_dir: settings.temp_path.join(format!("runner-{}-{}", std::process::id(), self.started)),
            temp_dir: settings.temp_path.clone(),
            enclosure,
            generation,
            standby: settings.worker_slots.min(4),
            warm: settings.worker_slots,
            packages,
            environment_version: environment.version,
            held,
        })
        .await?;
        let ready = template.ready();
        tracing::info!(
            python = ready.python,
            isolation = ready.isolation,
            pieces = ready.pieces.join(", "),
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
    let reading = Reading::begin(&platform.db).await?;
    let root = workspace_trees::current(&platform.settings.workspace_path);
    let index = index(&platform.settings, &root).await?;
    let synced = reading.sync(&platform.db, &index).await?;
    synced.context("somebody else has indexed the workspace meanwhile")
}

/// Reads the workspace in a process of its own, by the parser of the interpreter that will run it.
async fn index(settings: &Settings, root: &Path) -> anyhow::Result<Index> {
    let mut command = python::reader(settings, "bifrost._host.index", root)?;
    command.stdin(Stdio::null());
    let output = tokio::time::timeout(INDEX_TIMEOUT, command.output()).await??;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("indexing the workspace failed ({}): {}", output.status, words.trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Names the state of the workspace: its Python files and their content, and the tree they are in. Runs of a template see
/// the tree that it was started in, and no other (ADR 43).
fn generation(index: &Index, root: &Path) -> std::io::Result<String> {
    let mut files: BTreeMap<_, _> =
        index.files.iter().map(|file| (PathBuf::from(&file.path), file.sha256.clone())).collect();
    // What holds no workflows, for its name begins with `_`, is imported by those that do.
    walk(root, is_python, |path, _| {
        let inside = path.strip_prefix(root).unwrap_or(&path).to_owned();
        if let Entry::Vacant(helper) = files.entry(inside) {
            // What cannot be read cannot be imported.
            helper.insert(
                std::fs::read(&path).map(|content| hex::encode(Sha256::digest(content))).unwrap_or_default(),
            );
        }
        Ok(())
    })?;
    let mut digest = Sha256::new();
    digest.update(root.as_os_str().as_encoded_bytes());
    for (path, content) in files {
        digest.update([0]);
        digest.update(path.as_os_str().as_encoded_bytes());
        digest.update([0]);
        digest.update(content);
    }
    Ok(hex::encode(&digest.finalize()[..16]))
}

fn is_python(name: &str) -> bool {
    name.ends_with(".py")
}

/// Path, size and time of every file of these names: cheap to take, and different after any change.
fn fingerprint(root: &Path, wanted: fn(&str) -> bool) -> std::io::Result<String> {
    let mut digest = Sha256::new();
    walk(root, wanted, |path, metadata| {
        digest.update(path.as_os_str().as_encoded_bytes());
        digest.update(metadata.len().to_le_bytes());
        let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        digest.update(modified.as_nanos().to_le_bytes());
        Ok(())
    })?;
    Ok(hex::encode(digest.finalize()))
}

/// Shows every file of these names, in a stable order.
fn walk(
    root: &Path,
    wanted: fn(&str) -> bool,
    mut show: impl FnMut(PathBuf, Metadata) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if folder == root => return Err(error),
            // It vanished meanwhile, or nothing in it can be imported either.
            Err(_) => continue,
        };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let hidden = name.as_encoded_bytes().starts_with(b".") || name == "__pycache__";
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && !hidden {
                folders.push(entry.path());
            } else if name.to_str().is_some_and(wanted) {
                show(entry.path(), metadata)?;
            }
        }
    }
    Ok(())
}

fn watch_files(workspace: &Path, root: &Path, told: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let tell = move |change: notify::Result<notify::Event>| {
        if change.is_ok_and(|event| !event.kind.is_access()) {
            // One pending change says all.
            let _ = told.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        if root != workspace {
            // The link that names the tree in use, without the trees.
            watcher.watch(&workspace.join(workspace_trees::TREES), RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    watcher.inspect_err(|error| tracing::warn!(%error, every = ?LOOK_AGAIN, "changes are not told, looking at the files instead")).ok()
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
