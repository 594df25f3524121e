//! The private services that everything is measured on: PostgreSQL with durable settings, RabbitMQ, Redis.
//!
//! `scripts/services` starts and ends them; this file asks it, and asks them who they are.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sqlx::{Connection, PgConnection};
use tokio::process::Command;
use url::Url;

use crate::http::find;

/// Name of the set of services: never the one that tests use.
const NAME: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(5);

/// Services that answer.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    /// PostgreSQL, as superuser.
    pub(crate) postgres: Url,
    pub(crate) rabbitmq: Url,
    pub(crate) redis: Url,
    pub(crate) postgres_pid: u32,
    pub(crate) rabbitmq_pid: u32,
    pub(crate) redis_pid: u32,
    /// Where their data lies, and so the disk that is synced.
    pub(crate) directory: PathBuf,
}

/// Whether all of them answer already: then somebody else started them, and they are left alone.
pub(crate) async fn are_up(root: &Path) -> anyhow::Result<bool> {
    Ok(command(root, &["status"]).output().await.context("cannot run scripts/services")?.status.success())
}

/// Starts what does not answer.
pub(crate) async fn start(root: &Path) -> anyhow::Result<Services> {
    let started =
        command(root, &["up", "--durable"]).status().await.context("cannot run scripts/services")?;
    ensure!(started.success(), "the private services did not start");
    let (environment, status) = (read(root, &["env", "--json"]).await?, read(root, &["status"]).await?);
    let urls: serde_json::Value = serde_json::from_str(&environment)?;
    let url = |name: &str| {
        let url = urls[name].as_str().with_context(|| format!("scripts/services told no {name}"))?;
        Ok::<_, anyhow::Error>(url.parse::<Url>()?)
    };
    Ok(Services {
        postgres: url("DATABASE_URL")?,
        rabbitmq: url("RABBITMQ_URL")?,
        redis: url("REDIS_URL")?,
        postgres_pid: pid_of(&status, "postgres")?,
        rabbitmq_pid: pid_of(&status, "rabbitmq")?,
        redis_pid: pid_of(&status, "redis")?,
        directory: directory_of(&status).context("scripts/services told no state directory")?,
    })
}

/// Ends them.
pub(crate) async fn stop(root: &Path) -> anyhow::Result<()> {
    let stopped = command(root, &["down"]).status().await.context("cannot run scripts/services")?;
    ensure!(stopped.success(), "the private services did not stop");
    Ok(())
}

impl Services {
    /// A connection of the superuser to a database.
    pub(crate) async fn connect(&self, database: &str) -> anyhow::Result<PgConnection> {
        PgConnection::connect(self.database(database).as_str()).await.context("cannot connect to PostgreSQL")
    }

    /// The superuser's URL of a database.
    pub(crate) fn database(&self, name: &str) -> Url {
        let mut url = self.postgres.clone();
        url.set_path(name);
        url
    }

    /// Refuses to measure a database that promises less than production does.
    pub(crate) async fn check_durable(&self) -> anyhow::Result<()> {
        let mut postgres = self.connect("postgres").await?;
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let value: String = sqlx::query_scalar("SELECT current_setting($1)")
                .bind(setting)
                .fetch_one(&mut postgres)
                .await?;
            ensure!(
                value == "on",
                "PostgreSQL runs with {setting} = {value}: not durable, so not worth measuring"
            );
        }
        Ok(())
    }

    /// Version of PostgreSQL.
    pub(crate) async fn postgres_version(&self) -> anyhow::Result<String> {
        let mut postgres = self.connect("postgres").await?;
        let version: String =
            sqlx::query_scalar("SELECT current_setting('server_version')").fetch_one(&mut postgres).await?;
        Ok(version.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Version of RabbitMQ, from the first frame it sends.
    pub(crate) fn rabbitmq_version(&self) -> anyhow::Result<String> {
        // A frame: seven bytes, the last four of which are the length of what follows, and a closing one.
        let whole = |said: &[u8]| {
            let length = said.get(3..7).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            length.is_some_and(|length| said.len() > 7 + length as usize)
        };
        let said = converse(&self.rabbitmq, b"AMQP\x00\x00\x09\x01", whole)?;
        // A member of the server's properties: its name, the type `S`, four bytes of length, the text.
        let begin = find(&said, b"\x07versionS").context("RabbitMQ did not tell its version")? + 9;
        let length = said.get(begin + 3).copied().unwrap_or_default();
        let text = said.get(begin + 4..begin + 4 + usize::from(length)).unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// Version of Redis.
    pub(crate) fn redis_version(&self) -> anyhow::Result<String> {
        let ask = format!("AUTH {}\r\nINFO server\r\n", self.redis.password().unwrap_or_default());
        let said = converse(&self.redis, ask.as_bytes(), |said| find(said, b"redis_mode").is_some())?;
        let text = String::from_utf8_lossy(&said);
        let version = text.lines().find_map(|line| line.trim_end().strip_prefix("redis_version:"));
        Ok(version.context("Redis did not tell its version")?.to_owned())
    }
}

/// Says something to a service and listens until it has said enough.
fn converse(url: &Url, words: &[u8], enough: impl Fn(&[u8]) -> bool) -> anyhow::Result<Vec<u8>> {
    let port = url.port().context("the URL of a private service names its port")?;
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(words)?;
    let (mut said, mut chunk) = (Vec::new(), [0; 4_096]);
    while !enough(&said) {
        match stream.read(&mut chunk)? {
            0 => bail!("the service hung up"),
            read => said.extend_from_slice(&chunk[..read]),
        }
    }
    Ok(said)
}

fn command(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(root.join("scripts/services"));
    // A group of its own: Ctrl-C must not catch it half-way.
    command.args(arguments).args(["--name", NAME]).current_dir(root).stdin(Stdio::null()).process_group(0);
    command
}

async fn read(root: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = command(root, arguments).output().await.context("cannot run scripts/services")?;
    ensure!(output.status.success(), "scripts/services {} failed", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// `redis     up on 127.0.0.1:6379 (pid 12)` names the process that serves.
fn pid_of(status: &str, service: &str) -> anyhow::Result<u32> {
    let line = status.lines().find(|line| line.split(' ').next() == Some(service));
    let pid = line.and_then(|line| line.rsplit_once("(pid ")?.1.trim_end_matches(')').parse().ok());
    pid.with_context(|| format!("scripts/services told no process of {service}"))
}

/// `state     /var/lib/… (PostgreSQL: durable)` names the directory.
fn directory_of(status: &str) -> Option<PathBuf> {
    let line = status.lines().find_map(|line| line.strip_prefix("state "))?;
    Some(line.rsplit_once(" (")?.0.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_names_processes_and_the_directory() {
        let status = "postgres  up on 127.0.0.1:20001 (pid 11)\nredis     up on 127.0.0.1:20002 (pid 12)\n\
                      state     /var/lib/bifrost-services/bench (PostgreSQL: durable)\n";

        assert_eq!(pid_of(status, "redis").ok(), Some(12));
        assert!(pid_of(status, "rabbitmq").is_err());
        assert_eq!(directory_of(status), Some("/var/lib/bifrost-services/bench".into()));
    }
}
