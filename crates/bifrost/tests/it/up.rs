//! `bifrost up`: from nothing to a result, and back to nothing.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Client, Figures, Launch, Process, Services, binary, eventually, free_port, repository};

use crate::support::{
    EMAIL, PASSWORD, WORKFLOWS, is_root, mode_of, open_folder, submit, wait_for_end, wait_for_status,
    wait_for_workflow,
};

/// Programs that every user may run, before those that only we may.
const COMMON_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The user that every system has for those who should own nothing.
const NOBODY: u32 = 65_534;

/// A folder with a workspace and the SDK, as somebody has it who unpacked a release.
pub(super) struct Site {
    folder: TempDir,
    postgres: PathBuf,
}

impl Site {
    async fn with_workspace(make: impl FnOnce(&Path)) -> Self {
        let folder = open_folder();
        copy(&repository().join("platform"), folder.path());
        make(folder.path());
        Self { folder, postgres: postgres_binaries().await }
    }

    pub(super) async fn with_examples() -> Self {
        Self::with_workspace(|folder| copy(&repository().join("workspace"), folder)).await
    }

    async fn with_workflows() -> Self {
        Self::with_file(WORKFLOWS).await
    }

    pub(super) async fn with_file(workflows: &str) -> Self {
        Self::with_workspace(|folder| {
            std::fs::create_dir(folder.join("workspace")).expect("the folder is new");
            std::fs::write(folder.join("workspace/workflows.py"), workflows).expect("the folder is new");
        })
        .await
    }

    /// Without a workspace: there is none yet.
    pub(super) async fn bare() -> Self {
        Self::with_workspace(|_| {}).await
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// `bifrost up`, with the PostgreSQL that the tests use anyway.
    pub(super) fn up(&self, arguments: &[&str]) -> Launch {
        self.bifrost(&["up"]).args(arguments)
    }

    /// Another command, on the same state.
    pub(super) fn bifrost(&self, arguments: &[&str]) -> Launch {
        Launch::bifrost(self.path(), arguments)
            .env("HOME", self.path())
            .env("BIFROST_STATE_DIR", self.state())
            .env("BIFROST_PG_BIN", &self.postgres)
    }

    /// Starts it and waits until it serves.
    pub(super) async fn serve(&self) -> Process {
        let address = format!("127.0.0.1:{}", free_port());
        let mut process = self.up(&["--listen", &address]).start();
        process.serves(format!("http://{address}"));
        process.wait_for_output("Ready;").await;
        process
    }

    /// Processes that have to do with this folder.
    fn survivors(&self) -> Vec<String> {
        processes_of(self.path())
    }
}

#[tokio::test]
async fn one_process_shows_the_figures_of_both_its_halves() {
    let site = Site::with_workflows().await;
    let (port, address) = (free_port(), format!("127.0.0.1:{}", free_port()));
    let mut process = site.up(&["--listen", &address]).env("METRICS_PORT", port.to_string()).start();
    process.serves(format!("http://{address}"));
    process.wait_for_output("Ready;").await;
    let client = process.client().register(EMAIL, PASSWORD).await;
    wait_for_workflow(&client, "says_so").await;
    let id = submit(&client, "says_so", &json!({})).await;
    wait_for_end(&client, &id).await;

    let figures = Figures::scrape(port).await;

    assert_eq!(figures.get("bifrost_executions_total", &[("status", "Success")]), 1.0);
    assert_eq!(figures.get("bifrost_worker_slots", &[("state", "free")]), 16.0);
    assert_eq!(figures.get("bifrost_queue_depth", &[("queue", "workflow.executions")]), 0.0);
    assert!(figures.has("http_server_request_duration_seconds_count"));
    assert!(process.stop().await.success());
}

#[tokio::test]
async fn the_demo_shows_a_result_and_leaves_nothing_running() {
    let site = Site::with_examples().await;
    let demo = ["--demo", "--once", "--listen", "127.0.0.1:0"];

    let first = site.up(&demo).finish().await.expect_code(0);

    for expected in ["Device inventory: all sites", "5000 devices, 77 faults", "checked 5000 of 5000 devices"]
    {
        assert!(first.stdout.contains(expected), "no {expected:?} in\n{}", first.stdout);
    }
    let credentials = site.path().join(".bifrost/credentials.json");
    let password = password_in(&credentials);
    assert_eq!(first.all().matches(&password).count(), 1, "the password is shown once\n{}", first.stdout);
    assert_eq!(mode_of(&credentials), 0o600);
    assert_eq!(readable_by_others(&site.state().join("secrets")), Vec::<PathBuf>::new());
    assert!(site.path().join(".bifrost/device_inventory.html").exists());
    assert_eq!(site.survivors(), Vec::<String>::new());

    let second = site.up(&demo).finish().await.expect_code(0);

    assert!(!second.all().contains(&password), "the password is shown again\n{}", second.stdout);
    assert!(second.stdout.contains("5000 devices, 77 faults"), "{}", second.stdout);
    assert_eq!(password_in(&credentials), password, "the administrator is still the same");
    let ready = second.stdout.lines().find(|line| line.contains("API ready on")).expect("it says when");
    assert!(ready.starts_with('[') && ready.contains(" s]"), "{ready}");
    println!("second start to ready: {ready}");
    assert_eq!(site.survivors(), Vec::<String>::new());
}

#[tokio::test]
async fn nobody_in_particular_can_run_the_demo() {
    if !is_root() {
        return; // then the demo above ran as an ordinary user already
    }
    let site = Site::with_examples().await;
    let home = site.path().join("home");
    std::fs::create_dir(&home).expect("the folder is new");
    for folder in [site.path(), &home] {
        chown(folder, Some(NOBODY), Some(NOBODY)).expect("we are root");
    }
    // The checkout may lie where only root gets to.
    let bifrost = site.path().join("bifrost");
    std::fs::copy(binary("bifrost"), &bifrost).expect("there is room for a copy");
    let path = format!("{COMMON_PATH}:{}", std::env::var("PATH").unwrap_or_default());

    let ended = Launch::of(&bifrost, site.path())
        .args(&["up", "--demo", "--once", "--listen", "127.0.0.1:0"])
        .env("HOME", &home)
        .env("PATH", path)
        .env("BIFROST_PG_BIN", &site.postgres)
        .as_user(NOBODY, NOBODY)
        .finish()
        .await
        .expect_code(0);

    assert!(ended.stdout.contains("5000 devices, 77 faults"), "{}", ended.stdout);
    let state = home.join(".local/state/bifrost");
    assert_eq!(readable_by_others(&state.join("secrets")), Vec::<PathBuf>::new());
    assert_eq!(mode_of(&site.path().join(".bifrost/credentials.json")), 0o600);
    assert_eq!(site.survivors(), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_up_leaves_no_process_and_the_next_one_ends_its_run() {
    let site = Site::with_workflows().await;
    let mut first = site.serve().await;
    let client = first.client().register(EMAIL, PASSWORD).await;
    wait_for_workflow(&client, "waits").await;
    let id = submit(&client, "waits", &json!({ "path": site.path().join("never") })).await;
    wait_for_status(&client, &id, "Running").await;
    assert!(site.survivors().len() > 2, "PostgreSQL and Python run: {:#?}", site.survivors());

    first.kill_alone();

    eventually("PostgreSQL and Python to end by themselves", || async {
        site.survivors().is_empty().then_some(())
    })
    .await;
    let second = site.serve().await;
    let client = second.client().sign_in(EMAIL, PASSWORD).await;
    let run = wait_for_end(&client, &id).await;
    assert_eq!((&run["status"], &run["error_type"]), (&json!("Failed"), &json!("WorkerLost")), "{run:#}");
    let id = submit(&client, "says_so", &json!({})).await;
    assert_eq!(wait_for_end(&client, &id).await["status"], "Success");

    assert!(second.stop().await.success());
    assert_eq!(site.survivors(), Vec::<String>::new());
}

#[tokio::test]
async fn where_setpriv_is_missing_a_watchdog_ends_postgres() {
    let site = Site::with_workflows().await;
    // Python and nothing else, as on systems without util-linux.
    let programs = site.path().join("programs");
    std::fs::create_dir(&programs).expect("the folder is new");
    std::os::unix::fs::symlink(python(), programs.join("python3")).expect("the folder is new");
    let mut up = site.up(&["--listen", "127.0.0.1:0"]).env("PATH", &programs).start();
    up.wait_for_output("Ready;").await;
    assert!(site.survivors().iter().any(|line| line.contains("subprocess.Popen")), "the watchdog is there");

    up.kill_alone();

    eventually("PostgreSQL to be ended", || async { site.survivors().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_second_up_says_where_the_first_one_is() {
    let site = Site::with_workflows().await;
    let first = site.serve().await;

    let second = site.up(&["--listen", "127.0.0.1:0"]).finish().await.expect_code(1);

    for expected in
        ["runs already", first.url(), &first.id().to_string(), &site.state().display().to_string()]
    {
        assert!(second.stderr.contains(expected), "no {expected:?} in\n{}", second.stderr);
    }
    assert!(Client::new(first.url()).get("/health/ready").await.status.is_success(), "the first one goes on");
    assert!(first.stop().await.success());
}

#[tokio::test]
async fn a_configured_service_that_is_away_is_waited_for_and_never_replaced() {
    let site = Site::with_workflows().await;
    let port = free_port();
    for (variable, url) in [
        ("DATABASE_URL", format!("postgres://ada:hush-hush@127.0.0.1:{port}/bifrost")),
        ("RABBITMQ_URL", format!("amqp://ada:hush-hush@127.0.0.1:{port}/%2f")),
        ("REDIS_URL", format!("redis://:hush-hush@127.0.0.1:{port}/0")),
    ] {
        let began = std::time::Instant::now();
        let ended = site
            .up(&["--listen", "127.0.0.1:0", "--patience", "1"])
            .env(variable, url)
            .finish()
            .await
            .expect_code(1);

        assert!(began.elapsed() < Duration::from_secs(15), "gives up when its patience ends");
        for expected in
            [format!("127.0.0.1:{port}"), "refused".into(), format!("next:  start it, correct {variable}")]
        {
            assert!(ended.stderr.contains(&expected), "no {expected:?} in\n{}", ended.stderr);
        }
        assert!(!ended.all().contains("hush-hush"), "the password is no part of the address");
        assert!(!site.state().join("postgres").exists(), "{variable}: nothing takes its place");
    }
}

#[tokio::test]
async fn what_others_may_reach_is_production_unless_somebody_says_otherwise() {
    let site = Site::with_workflows().await;
    for (host, environment) in [("127.0.0.1", "development"), ("0.0.0.0", "production")] {
        let port = free_port();
        let mut process = site.up(&["--listen", &format!("{host}:{port}")]).start();
        process.serves(format!("http://127.0.0.1:{port}"));
        process.wait_for_output(&format!("running as `{environment}`")).await;
        process.wait_for_output("Ready;").await;
        let health = process.client().get("/health").await.expect_status(StatusCode::OK).json();
        assert_eq!(health["environment"], environment, "{host}");
        assert!(process.stop().await.success());
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_before_anything_starts() {
    let site = Site::with_workflows().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();

    let ended = site.up(&["--listen", &address]).finish().await.expect_code(1);

    for expected in [&*format!("cannot listen on {address}"), "in use", "next:", "--listen"] {
        assert!(ended.stderr.contains(expected), "no {expected:?} in\n{}", ended.stderr);
    }
    assert!(!site.state().join("postgres").exists());
}

#[tokio::test]
async fn an_up_whose_postgres_dies_says_so_and_ends() {
    let site = Site::with_workflows().await;
    let up = site.serve().await;
    let pid = std::fs::read_to_string(site.state().join("postgres/data/postmaster.pid")).expect("it runs");
    let pid = pid.lines().next().expect("the first line is the pid");
    assert!(Command::new("kill").args(["-9", pid]).status().expect("kill is there").success());

    let ended = up.finish().await.expect_code(1);

    assert!(ended.stderr.contains("the private PostgreSQL ended"), "{}", ended.stderr);
    eventually("the rest of it to end", || async { site.survivors().is_empty().then_some(()) }).await;
    let again = site.serve().await;
    assert!(again.stop().await.success());
}

/// A Python that other users may run, if there is one.
fn python() -> PathBuf {
    let find = |path: &str| {
        let said = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .env("PATH", path)
            .output();
        said.ok()
            .filter(|said| said.status.success())
            .map(|said| String::from_utf8_lossy(&said.stdout).trim().into())
    };
    find(COMMON_PATH)
        .or_else(|| find(&std::env::var("PATH").unwrap_or_default()))
        .expect("the tests need Python")
}

/// Where the server of the tests has its programs: an `up` of a test need not look for others.
async fn postgres_binaries() -> PathBuf {
    let services = Services::from_env();
    let db = testkit::TestDb::create_empty(&services.database_url).await;
    let mut conn = db.connect().await;
    let folder: String = sqlx::query_scalar("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        .fetch_one(&mut conn)
        .await
        .expect("a superuser may ask");
    drop(conn);
    db.close().await;
    folder.into()
}

fn copy(from: &Path, into: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(into).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {}", from.display());
}

fn password_in(credentials: &Path) -> String {
    let stored = std::fs::read(credentials).expect("the demo keeps them");
    let stored: Value = serde_json::from_slice(&stored).expect("JSON");
    stored["password"].as_str().expect("it was generated").to_owned()
}

/// Files of a folder that are not their owner's alone. There must be some files.
fn readable_by_others(folder: &Path) -> Vec<PathBuf> {
    let files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("it is there").flatten().map(|entry| entry.path()).collect();
    assert!(files.len() >= 4, "{files:?}");
    files.into_iter().filter(|file| mode_of(file) != 0o600).collect()
}

/// Command lines of processes that name the folder or work in it.
fn processes_of(folder: &Path) -> Vec<String> {
    let name = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").expect("the kernel shows processes").flatten();
    let lines = processes.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok().filter(|line| !line.is_empty())?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let works_there =
            || std::fs::read_link(entry.path().join("cwd")).is_ok_and(|folder| folder.starts_with(&name));
        (line.contains(&name) || works_there()).then_some(line)
    });
    lines.collect()
}
