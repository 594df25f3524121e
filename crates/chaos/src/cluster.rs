//! The installation under test: private services, replicas, workers, and a breakable line from each to each service.

use std::collections::HashMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::Connection;
use tempfile::TempDir;
use testkit::Line;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;
use uuid::Uuid;

use crate::history::{Service, lock};
use crate::plan::{APIS, Node, WORKERS};

const START_PATIENCE: Duration = Duration::from_secs(60);
/// A little more than a process is given to drain.
const DRAIN_PATIENCE: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(50);
/// Runs that a worker has at once.
pub(crate) const SLOTS: usize = 6;
/// The database and the login of the installation.
const NAME: &str = "chaos";
pub(crate) const QUEUE_PREFIX: &str = "chaos.";

/// What a cluster is started with.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The repository.
    pub(crate) root: PathBuf,
    /// Where the binaries are.
    pub(crate) binaries: PathBuf,
    /// Put behind their names, for binaries that are built differently.
    pub(crate) suffix: &'static str,
    /// More variables of the processes.
    pub(crate) variables: Vec<(&'static str, String)>,
    pub(crate) workers: usize,
}

/// Everything that runs. Dropping it ends all of it.
#[derive(Debug)]
pub(crate) struct Cluster {
    options: Options,
    services: Services,
    folder: TempDir,
    ports: Vec<u16>,
    variables: HashMap<&'static str, String>,
    lines: HashMap<(usize, Service), Line>,
    children: Mutex<HashMap<usize, Child>>,
    /// Who did not end when it was asked to.
    stubborn: Mutex<Vec<String>>,
}

/// The private services of this run.
#[derive(Debug)]
struct Services {
    root: PathBuf,
    name: String,
    urls: HashMap<Service, Url>,
}

impl Cluster {
    /// Starts the services, makes the database and opens the lines; no process runs yet.
    pub(crate) async fn prepare(options: Options, workflows: &str) -> anyhow::Result<Self> {
        let services = Services::start(options.root.clone()).await?;
        let folder = tempfile::Builder::new().prefix("bifrost-chaos-").tempdir()?;
        // Runs are another user, who must get through to sockets and to the file of effects.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
        let effects = folder.path().join("effects");
        File::create(&effects)?;
        std::fs::set_permissions(&effects, std::fs::Permissions::from_mode(0o666))?;
        let workspace = folder.path().join("workspace");
        std::fs::create_dir(&workspace)?;
        std::fs::set_permissions(&workspace, std::fs::Permissions::from_mode(0o755))?;
        std::fs::write(
            workspace.join("chaos.py"),
            workflows.replace("@EFFECTS@", &effects.display().to_string()),
        )?;
        let mut lines = HashMap::new();
        for node in 0..APIS + WORKERS {
            for service in Service::ALL {
                let port = services.port(service)?;
                lines.insert((node, service), Line::to(port).await?);
            }
        }
        let secret = || format!("k{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let variables = HashMap::from([
            ("ENVIRONMENT", "testing".to_owned()),
            // Its workflows write down what they did in one file, which an enclosed run could not.
            ("ISOLATION", "off".to_owned()),
            ("SECRET_KEY", secret()),
            ("SECRETS_MASTER_KEY", secret()),
            ("DATABASE_PASSWORD", secret()),
            ("ACCESS_TOKEN_MINUTES", "720".to_owned()),
            ("WORKER_SLOTS", SLOTS.to_string()),
            ("QUEUE_PREFIX", QUEUE_PREFIX.to_owned()),
            ("WORKSPACE_PATH", workspace.display().to_string()),
            ("PLATFORM_PATH", options.root.join("platform").display().to_string()),
            ("UPLOADS_PATH", folder.path().join("uploads").display().to_string()),
        ]);
        let ports = (0..APIS).map(|_| testkit::free_port()).collect();
        let cluster = Self {
            options,
            services,
            folder,
            ports,
            variables,
            lines,
            children: Mutex::default(),
            stubborn: Mutex::default(),
        };
        cluster.migrate().await?;
        Ok(cluster)
    }

    /// Starts every process and waits until the replicas are ready.
    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        self.nodes().try_for_each(|node| self.launch(node))?;
        for node in self.nodes() {
            self.wait_until_up(node).await?;
        }
        Ok(())
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        (0..APIS).map(Node::Api).chain((0..self.options.workers).map(Node::Worker))
    }

    pub(crate) fn bases(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect()
    }

    /// What runs have written down.
    pub(crate) fn effects(&self) -> PathBuf {
        self.folder.path().join("effects")
    }

    /// PostgreSQL as its superuser, without a line in between.
    pub(crate) fn database(&self) -> String {
        let mut url = self.services.urls[&Service::Postgres].clone();
        url.set_path(NAME);
        url.into()
    }

    /// A service without a line in between.
    pub(crate) fn url(&self, service: Service) -> &Url {
        &self.services.urls[&service]
    }

    pub(crate) fn line(&self, node: Node, service: Service) -> &Line {
        &self.lines[&(number(node), service)]
    }

    /// `kill -9` of the process itself: what becomes of its children is its own business.
    pub(crate) fn kill(&self, node: Node) {
        if let Some(mut child) = self.children().remove(&number(node)) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn signal(&self, node: Node, signal: Signal) {
        if let Some(child) = self.children().get(&number(node)) {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// SIGTERM, and the wait for its end.
    pub(crate) async fn terminate(&self, node: Node) -> anyhow::Result<()> {
        let Some(mut child) = self.children().remove(&number(node)) else { return Ok(()) };
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let began = Instant::now();
        while child.try_wait()?.is_none() {
            if began.elapsed() > DRAIN_PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                let told = format!(
                    "{node} did not end within {} s:\n{}",
                    DRAIN_PATIENCE.as_secs(),
                    self.log_tail(node)
                );
                lock(&self.stubborn).push(told);
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Who did not end when it was asked to.
    pub(crate) fn stubborn(&self) -> Vec<String> {
        lock(&self.stubborn).clone()
    }

    /// Starts a process without waiting for it.
    pub(crate) fn launch(&self, node: Node) -> anyhow::Result<()> {
        let temp = self.temp(node);
        std::fs::create_dir_all(&temp)?;
        // The file that says that a worker lives must be this life's.
        let _ = std::fs::remove_file(temp.join("jobs.alive"));
        let (binary, mut command) = self.command(node);
        let log = File::options().create(true).append(true).open(temp.with_extension("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {binary}; is it built?"))?;
        self.children().insert(number(node), child);
        Ok(())
    }

    pub(crate) async fn wait_until_up(&self, node: Node) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.is_up(node).await {
            let ended = match self.children().get_mut(&number(node)) {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if ended.is_some() || began.elapsed() > START_PATIENCE {
                bail!("{node} does not start ({ended:?}):\n{}", self.log_tail(node));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn is_up(&self, node: Node) -> bool {
        match node {
            Node::Worker(_) => self.temp(node).join("jobs.alive").exists(),
            Node::Api(api) => {
                let Ok(answer) = converse(self.ports[api], b"GET /health/ready HTTP/1.0\r\n\r\n").await
                else {
                    return false;
                };
                answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200")
            }
        }
    }

    pub(crate) fn log_tail(&self, node: Node) -> String {
        let log = std::fs::read(self.temp(node).with_extension("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Keeps the logs of all processes somewhere else.
    pub(crate) fn keep_logs(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for node in self.nodes() {
            let log = self.temp(node).with_extension("log");
            std::fs::copy(&log, folder.join(log.file_name().context("a log has a name")?))?;
        }
        Ok(())
    }

    pub(crate) async fn kill_service(&self, service: Service) -> anyhow::Result<()> {
        self.services.call(&["kill", service.as_str()]).await.map(drop)
    }

    pub(crate) async fn start_service(&self, service: Service) -> anyhow::Result<()> {
        self.services.call(&["start", service.as_str()]).await.map(drop)
    }

    /// Forgets everything in Redis.
    pub(crate) async fn flush_redis(&self) -> anyhow::Result<()> {
        let url = self.url(Service::Redis);
        let words = format!("AUTH {}\r\nFLUSHALL\r\nQUIT\r\n", url.password().unwrap_or_default());
        let said = converse(self.services.port(Service::Redis)?, words.as_bytes()).await?;
        ensure!(said.starts_with(b"+OK\r\n+OK"), "Redis refused: {}", String::from_utf8_lossy(&said));
        Ok(())
    }

    /// Ends all processes in order; returns how many of theirs are left a moment later.
    pub(crate) async fn stop(&self) -> anyhow::Result<usize> {
        for node in self.nodes() {
            self.signal(node, Signal::CONT);
        }
        let ends = self.nodes().map(|node| self.terminate(node));
        for end in futures::future::join_all(ends).await {
            end?;
        }
        let began = Instant::now();
        loop {
            let left = processes_below(self.folder.path());
            if left == 0 || began.elapsed() > Duration::from_secs(5) {
                return Ok(left);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends the services and removes their data.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.services.call(&["down", "--purge"]).await.map(drop)
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        let mut postgres = sqlx::PgConnection::connect(self.url(Service::Postgres).as_str()).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {NAME}"))).execute(&mut postgres).await?;
        let mut command = Command::new(self.options.binaries.join("bifrost"));
        let login = self.login(self.services.port(Service::Postgres)?)?;
        command.arg("migrate").env("DATABASE_URL", login).env("ADMIN_DATABASE_URL", self.database());
        let output = tokio::task::spawn_blocking(move || command.output()).await?;
        let output = output.context("cannot run bifrost; is it built?")?;
        ensure!(output.status.success(), "bifrost migrate: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn command(&self, node: Node) -> (String, Command) {
        let name = match node {
            Node::Api(_) => "bifrost-api",
            Node::Worker(_) => "bifrost-jobs",
        };
        let name = format!("{name}{}", self.options.suffix);
        let mut command = Command::new(self.options.binaries.join(&name));
        command.env_clear().current_dir(self.folder.path());
        for kept in ["PATH", "HOME", "LANG", "RUST_LOG"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.envs(self.variables.iter().filter(|(name, _)| **name != "DATABASE_PASSWORD"));
        command.envs(self.options.variables.iter().map(|(name, value)| (name, value)));
        command.env("TEMP_PATH", self.temp(node));
        if let Node::Api(api) = node {
            command.env("LISTEN", format!("127.0.0.1:{}", self.ports[api]));
        }
        let port = |service| self.line(node, service).port;
        let through = |service: Service| {
            let mut url = self.url(service).clone();
            let _ = url.set_port(Some(port(service)));
            url.to_string()
        };
        command
            .env("DATABASE_URL", self.login(port(Service::Postgres)).unwrap_or_default())
            .env("RABBITMQ_URL", through(Service::Rabbitmq))
            .env("REDIS_URL", through(Service::Redis));
        (name, command)
    }

    /// The installation's own login, over this port.
    fn login(&self, port: u16) -> anyhow::Result<String> {
        let mut url: Url = self.database().parse()?;
        let password = &self.variables["DATABASE_PASSWORD"];
        url.set_username(NAME).ok().context("the URL has a user")?;
        url.set_password(Some(password)).ok().context("the URL has a password")?;
        url.set_port(Some(port)).ok().context("the URL has a port")?;
        Ok(url.into())
    }

    fn temp(&self, node: Node) -> PathBuf {
        let name = match node {
            Node::Api(number) => format!("api-{number}"),
            Node::Worker(number) => format!("worker-{number}"),
        };
        self.folder.path().join(name)
    }

    fn children(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Child>> {
        lock(&self.children)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, mut child) in self.children().drain() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Services {
    async fn start(root: PathBuf) -> anyhow::Result<Self> {
        let name = format!("chaos-{}", std::process::id());
        let mut services = Self { root, name, urls: HashMap::new() };
        // Without fsync a killed server may lose what it has confirmed, and that is not what is tested.
        services.call(&["up", "--durable"]).await?;
        let told: HashMap<String, Url> = serde_json::from_str(&services.call(&["env", "--json"]).await?)?;
        let names = [
            ("DATABASE_URL", Service::Postgres),
            ("RABBITMQ_URL", Service::Rabbitmq),
            ("REDIS_URL", Service::Redis),
        ];
        for (name, service) in names {
            let url = told.get(name).with_context(|| format!("scripts/services told no {name}"))?;
            services.urls.insert(service, url.clone());
        }
        Ok(services)
    }

    fn port(&self, service: Service) -> anyhow::Result<u16> {
        self.urls[&service].port().context("the URL of a private service names its port")
    }

    async fn call(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::new(self.root.join("scripts/services"));
        command.args(arguments).args(["--name", &self.name]).stdin(Stdio::null()).process_group(0);
        let output = command.output().await.context("cannot run scripts/services")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "scripts/services {}: {said}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Services {
    /// Also when this program fails half-way; after an orderly end there is nothing left to do.
    fn drop(&mut self) {
        let _ = Command::new(self.root.join("scripts/services"))
            .args(["down", "--purge", "--name", &self.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn number(node: Node) -> usize {
    match node {
        Node::Api(api) => api,
        Node::Worker(worker) => APIS + worker,
    }
}

/// Says something and listens until the other side hangs up.
async fn converse(port: u16, words: &[u8]) -> anyhow::Result<Vec<u8>> {
    let talk = async {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(words).await?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await?;
        Ok::<_, std::io::Error>(said)
    };
    Ok(tokio::time::timeout(Duration::from_secs(2), talk).await??)
}

/// Processes whose command line or working directory names the folder, this one aside.
fn processes_below(folder: &Path) -> usize {
    let name = folder.display().to_string();
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| {
            let path = entry.path();
            let is_number = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
            let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
            let place = std::fs::read_link(path.join("cwd")).unwrap_or_default();
            is_number
                && entry.file_name().to_string_lossy() != own
                && (String::from_utf8_lossy(&line).contains(&name) || place.starts_with(folder))
        })
        .count()
}
