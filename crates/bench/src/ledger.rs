//! What was started and made, so that all of it is ended and removed, however this program ends.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use domain::wakeup::Wakeups;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, PgConnection};
use tempfile::TempDir;
use tokio::process::{Child, ChildStdout, Command};

use crate::services::{self, Services};

/// From the request to end until the kill: a little more than a process is given to drain.
const PATIENCE: Duration = Duration::from_secs(35);
/// Lines of a log that are shown when its process broke.
const TAIL: usize = 20;

/// What is to be ended and removed.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Mutex<Entries>,
    services: Mutex<Option<StartedServices>>,
}

#[derive(Debug, Default)]
struct Entries {
    processes: Vec<Started>,
    databases: Vec<String>,
    logins: Vec<String>,
    queue_prefixes: Vec<String>,
    directories: Vec<TempDir>,
}

#[derive(Debug)]
struct Started {
    name: String,
    child: Child,
    log: PathBuf,
}

#[derive(Debug)]
struct StartedServices {
    root: PathBuf,
    /// `None` until they answer.
    services: Option<Services>,
    ours: bool,
}

impl Ledger {
    /// Starts the private services, or takes those that answer already.
    pub(crate) async fn start_services(&self, root: PathBuf) -> anyhow::Result<Services> {
        let ours = !services::are_up(&root).await?;
        *lock(&self.services) = Some(StartedServices { root: root.clone(), services: None, ours });
        let services = services::start(&root).await?;
        if let Some(started) = lock(&self.services).as_mut() {
            started.services = Some(services.clone());
        }
        Ok(services)
    }

    /// Starts a process whose output goes to `<name>.log` in `directory`; returns its id.
    pub(crate) fn spawn(
        &self,
        name: &str,
        mut command: Command,
        directory: &std::path::Path,
    ) -> anyhow::Result<u32> {
        let log = directory.join(format!("{name}.log"));
        let output = std::fs::File::create(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        Ok(self.keep(name, command, log)?.0)
    }

    /// Starts a process whose standard output is read here.
    pub(crate) fn spawn_piped(&self, name: &str, mut command: Command) -> anyhow::Result<(u32, ChildStdout)> {
        command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        let (pid, output) = self.keep(name, command, PathBuf::new())?;
        Ok((pid, output.context("standard output was asked for")?))
    }

    fn keep(
        &self,
        name: &str,
        mut command: Command,
        log: PathBuf,
    ) -> anyhow::Result<(u32, Option<ChildStdout>)> {
        // A group of its own: Ctrl-C reaches this program alone, which ends the others in order.
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}; is it built?"))?;
        let (pid, output) = (child.id().context("it has just been started")?, child.stdout.take());
        self.entries().processes.push(Started { name: name.to_owned(), child, log });
        Ok((pid, output))
    }

    /// An error with the end of its log when a process has ended by itself.
    pub(crate) fn check_alive(&self) -> anyhow::Result<()> {
        for started in &mut self.entries().processes {
            if let Some(status) = started.child.try_wait()? {
                let log = std::fs::read_to_string(&started.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
                bail!("{} ended ({status}):\n{tail}", started.name);
            }
        }
        Ok(())
    }

    /// Remembers a database to drop.
    pub(crate) fn database(&self, name: &str) {
        self.entries().databases.push(name.to_owned());
    }

    /// Remembers a login to drop.
    pub(crate) fn login(&self, name: &str) {
        self.entries().logins.push(name.to_owned());
    }

    /// Remembers a prefix of queues and exchanges to delete.
    pub(crate) fn queue_prefix(&self, prefix: &str) {
        self.entries().queue_prefixes.push(prefix.to_owned());
    }

    /// Remembers a directory to remove.
    pub(crate) fn directory(&self, directory: TempDir) {
        self.entries().directories.push(directory);
    }

    /// Ends all processes and removes all that was made, but for the services.
    pub(crate) async fn settle(&self) {
        let entries = std::mem::take(&mut *self.entries());
        end_all(entries.processes).await;
        let services = lock(&self.services).as_ref().and_then(|started| started.services.clone());
        let Some(services) = services else { return };
        if let Err(error) = drop_databases(&services, &entries.databases, &entries.logins).await {
            eprintln!("bench: cannot remove a database: {error:#}");
        }
        for prefix in &entries.queue_prefixes {
            if let Err(error) = remove_queues(&services, prefix).await {
                eprintln!("bench: cannot remove the queues {prefix}*: {error:#}");
            }
        }
    }

    /// Ends and removes everything.
    pub(crate) async fn close(&self) {
        self.settle().await;
        let started = lock(&self.services).take();
        if let Some(StartedServices { root, ours: true, .. }) = started
            && let Err(error) = services::stop(&root).await
        {
            eprintln!("bench: {error:#}; end them with `scripts/services down --name bench`");
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        lock(&self.entries)
    }
}

/// Asks all to end, and makes those that do not.
async fn end_all(mut processes: Vec<Started>) {
    for started in &processes {
        let pid = started.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    for started in &mut processes {
        if tokio::time::timeout(PATIENCE, started.child.wait()).await.is_err() {
            eprintln!("bench: {} did not end when asked, killing it", started.name);
            let _ = started.child.kill().await;
        }
    }
}

async fn drop_databases(services: &Services, databases: &[String], logins: &[String]) -> anyhow::Result<()> {
    if databases.is_empty() {
        return Ok(());
    }
    let mut postgres: PgConnection = services.connect("postgres").await?;
    let drop_databases = databases.iter().map(|name| format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
    let drop_logins = logins.iter().map(|name| format!("DROP ROLE IF EXISTS {name}"));
    // The names are made of letters and digits, by this program.
    for statement in drop_databases.chain(drop_logins) {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut postgres).await?;
    }
    Ok(())
}

async fn remove_queues(services: &Services, prefix: &str) -> anyhow::Result<()> {
    let url = secrecy::SecretString::from(services.rabbitmq.to_string());
    Ok(Wakeups::rabbit(&url, prefix)?.remove_topology().await?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
