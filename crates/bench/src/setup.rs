//! One configuration of Bifrost, from the release binaries, on a database and queues of its own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::process::Command;
use uuid::Uuid;

use crate::http::{Connection, Requests};
use crate::ledger::Ledger;
use crate::processes::{Footprint, Part, Reach};
use crate::services::Services;

const START_PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
const EMAIL: &str = "bench@example.com";

/// How Bifrost runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `bifrost-api` and `bifrost-jobs`, with RabbitMQ and Redis between them.
    Rabbitmq,
    /// `bifrost up` with neither.
    Embedded,
}

/// A running configuration, with an administrator who is signed in and acts within an organization.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) requests: Requests,
    /// The request that signs its administrator in.
    pub(crate) login: Vec<u8>,
    pub(crate) database: String,
    /// The superuser in its database: past row-level security, to count what is there.
    pub(crate) postgres: PgConnection,
    pub(crate) footprint: Footprint,
    pub(crate) started: Instant,
    workflows: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Tokens {
    access_token: String,
}

#[derive(Deserialize)]
struct Made {
    id: String,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    name: String,
}

impl Kind {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rabbitmq => "rabbitmq",
            Self::Embedded => "embedded",
        }
    }
}

impl Setup {
    /// Starts it, with settings beside the usual ones, and waits until `workflows` can be run.
    pub(crate) async fn start(
        kind: Kind,
        root: &Path,
        services: &Services,
        ledger: &Ledger,
        slots: usize,
        workflows: &[&str],
        settings: &[(&'static str, String)],
    ) -> anyhow::Result<Self> {
        // Letters and digits: it becomes the name of a database, a login and queues.
        let name = format!("bench{}", Uuid::now_v7().simple());
        let address = free_address()?;
        let directory = tempfile::Builder::new().prefix("bifrost-bench-").tempdir()?;
        let path = directory.path().to_owned();
        // Runs may be of another user, who must reach the sockets below but need not list anything.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711))?;
        ledger.directory(directory);
        // Forms are mirrored into it.
        let workspace = path.join("workspace");
        std::fs::create_dir(&workspace)?;
        testkit::copy_folder(&root.join("workspace"), &workspace)?;
        std::fs::write(workspace.join("hostile.py"), testkit::HOSTILE)?;

        let mut superuser = services.connect("postgres").await?;
        ledger.database(&name);
        ledger.login(&name);
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut superuser).await?;
        let mut environment = environment(kind, root, services, &name, address, &path, slots)?;
        environment.extend_from_slice(settings);
        migrate(root, &environment).await?;

        let started = Instant::now();
        let mut footprint = vec![
            (Part::Postgres, services.postgres_pid, Reach::Tree),
            (Part::Generator, std::process::id(), Reach::Itself),
        ];
        match kind {
            Kind::Rabbitmq => {
                ledger.queue_prefix(&format!("{name}-"));
                let api = ledger.spawn("bifrost-api", command(root, "bifrost-api", &environment), &path)?;
                let jobs =
                    ledger.spawn("bifrost-jobs", command(root, "bifrost-jobs", &environment), &path)?;
                footprint.extend([
                    (Part::Api, api, Reach::Itself),
                    (Part::Jobs, jobs, Reach::Itself),
                    (Part::Python, jobs, Reach::Below),
                    (Part::Rabbitmq, services.rabbitmq_pid, Reach::Tree),
                    (Part::Redis, services.redis_pid, Reach::Tree),
                ]);
            }
            Kind::Embedded => {
                let mut up = command(root, "bifrost", &environment);
                up.arg("up").arg("--state-dir").arg(path.join("state"));
                let bifrost = ledger.spawn("bifrost-up", up, &path)?;
                footprint
                    .extend([(Part::Bifrost, bifrost, Reach::Itself), (Part::Python, bifrost, Reach::Below)]);
            }
        }
        let postgres = services.connect(&name).await?;
        let requests = Requests::anonymous(address);
        let mut setup = Self {
            kind,
            requests,
            login: Vec::new(),
            database: name,
            postgres,
            footprint: Footprint(footprint),
            started,
            workflows: HashMap::new(),
        };
        setup.wait_until_ready(ledger).await?;
        setup.sign_in().await?;
        setup.enter_organization().await?;
        setup.wait_for_workflows(ledger, workflows).await?;
        Ok(setup)
    }

    /// A connection to its api.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.requests.address()).await
    }

    /// The request that runs a workflow.
    pub(crate) fn execute(&self, workflow: &str, input: &serde_json::Value) -> anyhow::Result<Vec<u8>> {
        let id = self.workflows.get(workflow).with_context(|| format!("there is no workflow {workflow}"))?;
        Ok(self
            .requests
            .post_json("/api/workflows/execute", &json!({ "workflow_id": id, "input_data": input })))
    }

    async fn wait_until_ready(&self, ledger: &Ledger) -> anyhow::Result<()> {
        let request = self.requests.get("/health/ready");
        wait(ledger, "the api to be ready", async || {
            let mut connection = self.connect().await?;
            let reply = connection.call(&request).await?;
            ensure!(reply.status == 200, "status {}", reply.status);
            Ok(())
        })
        .await
    }

    async fn sign_in(&mut self) -> anyhow::Result<()> {
        let password = format!("bench-{}", Uuid::now_v7().simple());
        let mut connection = self.connect().await?;
        let account = json!({ "email": EMAIL, "password": password, "name": "Bench" });
        let reply = connection.call(&self.requests.post_json("/auth/register", &account)).await?;
        ensure!(reply.status == 201, "cannot register: {}", String::from_utf8_lossy(reply.body));
        (self.requests, self.login) = sign_in(&mut connection, &self.requests, EMAIL, &password).await?;
        Ok(())
    }

    /// Makes a customer, in whose scope everything runs from here: tenancy is part of what is measured.
    async fn enter_organization(&mut self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        let organization = json!({ "name": "Bench", "domain": "bench.example.com" });
        let reply = connection.call(&self.requests.post_json("/api/organizations", &organization)).await?;
        ensure!(reply.status == 201, "cannot make an organization: {}", String::from_utf8_lossy(reply.body));
        let made: Made = serde_json::from_slice(reply.body)?;
        self.requests = self.requests.clone().within(made.id);
        Ok(())
    }

    async fn wait_for_workflows(&mut self, ledger: &Ledger, wanted: &[&str]) -> anyhow::Result<()> {
        let request = self.requests.get("/api/workflows");
        let found = wait(ledger, "the workflows to be listed", async || {
            let mut connection = self.connect().await?;
            let reply = connection.call(&request).await?;
            ensure!(reply.status == 200, "status {}", reply.status);
            let listed: Vec<Listed> = serde_json::from_slice(reply.body)?;
            let found: HashMap<String, String> =
                listed.into_iter().map(|listed| (listed.name, listed.id)).collect();
            let missing: Vec<&&str> = wanted.iter().filter(|name| !found.contains_key(**name)).collect();
            ensure!(missing.is_empty(), "{missing:?} not found yet");
            Ok(found)
        })
        .await?;
        self.workflows = found;
        Ok(())
    }
}

/// Signs somebody in: what they send from then on, and the request that did it.
pub(crate) async fn sign_in(
    connection: &mut Connection,
    requests: &Requests,
    email: &str,
    password: &str,
) -> anyhow::Result<(Requests, Vec<u8>)> {
    let login = requests.post_form("/auth/login", &[("username", email), ("password", password)]);
    let reply = connection.call(&login).await?;
    ensure!(reply.status == 200, "cannot sign in: {}", String::from_utf8_lossy(reply.body));
    let tokens: Tokens = serde_json::from_slice(reply.body)?;
    Ok((Requests::signed_in(requests.address(), tokens.access_token), login))
}

/// Tries until it works, something ended, or time is up.
async fn wait<T>(
    ledger: &Ledger,
    what: &str,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        ledger.check_alive()?;
        if began.elapsed() > START_PATIENCE {
            bail!("waited {} s for {what}: {error:#}", START_PATIENCE.as_secs());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The settings: production's, but for the rate limits, which would stop a load generator.
fn environment(
    kind: Kind,
    root: &Path,
    services: &Services,
    name: &str,
    address: SocketAddr,
    directory: &Path,
    slots: usize,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut login = services.database(name);
    login.set_username(name).ok().context("the URL has a user")?;
    login.set_password(Some(&secret())).ok().context("the URL has a password")?;
    let shown = |path: &Path| path.display().to_string();
    let mut environment = vec![
        ("DATABASE_URL", login.to_string()),
        ("ADMIN_DATABASE_URL", services.database(name).to_string()),
        ("ENVIRONMENT", "testing".to_owned()),
        ("SECRET_KEY", secret()),
        ("SECRETS_MASTER_KEY", secret()),
        // Longer than everything that is measured on one configuration.
        ("ACCESS_TOKEN_MINUTES", "720".to_owned()),
        ("LISTEN", address.to_string()),
        ("WORKSPACE_PATH", shown(&directory.join("workspace"))),
        ("PLATFORM_PATH", shown(&root.join("platform"))),
        ("TEMP_PATH", shown(&directory.join("temp"))),
        ("WORKER_SLOTS", slots.to_string()),
    ];
    if kind == Kind::Rabbitmq {
        environment.extend([
            ("RABBITMQ_URL", services.rabbitmq.to_string()),
            ("REDIS_URL", services.redis.to_string()),
            ("QUEUE_PREFIX", format!("{name}-")),
            ("REDIS_PREFIX", name.to_owned()),
        ]);
    }
    Ok(environment)
}

/// A release binary that sees these settings and nothing of the caller's.
fn command(root: &Path, binary: &str, environment: &[(&'static str, String)]) -> Command {
    let mut command = Command::new(root.join("target/release").join(binary));
    command.current_dir(root).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    for kept in ["PATH", "HOME", "LANG"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

async fn migrate(root: &Path, environment: &[(&'static str, String)]) -> anyhow::Result<()> {
    let mut migrate = command(root, "bifrost", environment);
    let output =
        migrate.arg("migrate").output().await.context("cannot run target/release/bifrost; is it built?")?;
    ensure!(output.status.success(), "bifrost migrate failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A random text that no settings reader takes for a number.
fn secret() -> String {
    format!("k{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
