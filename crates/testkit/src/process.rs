//! The real binaries as processes, killed when the test ends.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{Client, PATIENCE, TestEnv, eventually};

/// A running binary. Dropping it kills it with SIGKILL, as a crash would.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    url: Option<String>,
}

impl Process {
    /// Starts `bifrost-api` on a free port and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn api(env: &TestEnv) -> Self {
        let port = free_port();
        let mut command = command("bifrost-api", env);
        command.env("LISTEN", format!("127.0.0.1:{port}"));
        let mut process = Self::start("bifrost-api", command, env.folder());
        process.url = Some(format!("http://127.0.0.1:{port}"));
        process.wait_until_ready().await;
        process
    }

    /// Starts `bifrost-jobs` and waits until it is alive.
    ///
    /// # Panics
    /// When it does not come alive.
    pub async fn jobs(env: &TestEnv) -> Self {
        // A folder each: the file that says a worker lives must be this one's.
        let temp = env.folder().join(format!("run-{}", free_port()));
        let mut command = command("bifrost-jobs", env);
        command.env("TEMP_PATH", &temp);
        let mut process = Self::start("bifrost-jobs", command, env.folder());
        let alive = temp.join("jobs.alive");
        process.wait_for("the worker is alive", || std::future::ready(alive.exists())).await;
        process
    }

    /// Starts `bifrost` with these arguments and variables and nothing else of ours but the search path.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn bifrost(folder: &Path, arguments: &[&str], variables: &[(&str, String)]) -> Self {
        let mut command = bare("bifrost");
        command.args(arguments).envs(variables.iter().map(|(name, value)| (name, value))).current_dir(folder);
        Self::start("bifrost", command, folder)
    }

    fn start(name: &str, mut command: Command, folder: &Path) -> Self {
        let log = folder.join(format!("{name}-{}.log", free_port()));
        let output = File::create(&log).expect("the log can be made");
        let errors = output.try_clone().expect("a descriptor can be copied");
        // A group of its own, so that killing it leaves none of its children behind.
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0).spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("{} does not start: {error}; run `cargo build --workspace` first", binary(name).display())
        });
        Self { name: name.to_owned(), child, log, url: None }
    }

    /// The address of the api.
    ///
    /// # Panics
    /// When this is no api.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_deref().expect("this process serves an api")
    }

    /// A client of its api, as nobody.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.url())
    }

    /// What it printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `/health/ready` says so.
    ///
    /// # Panics
    /// When it ends or does not get ready in time.
    pub async fn wait_until_ready(&mut self) {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(2))
            .build()
            .expect("the options are valid");
        let address = format!("{}/health/ready", self.url());
        self.wait_for("it is ready", || {
            let request = http.get(&address).send();
            async { request.await.is_ok_and(|answer| answer.status().is_success()) }
        })
        .await;
    }

    /// Waits until it has printed this.
    ///
    /// # Panics
    /// When it ends or does not print it in time.
    pub async fn wait_for_output(&mut self, text: &str) {
        let log = self.log.clone();
        let printed =
            || std::future::ready(std::fs::read_to_string(&log).is_ok_and(|log| log.contains(text)));
        self.wait_for(&format!("it prints {text:?}"), printed).await;
    }

    async fn wait_for<F: Future<Output = bool>>(&mut self, what: &str, mut holds: impl FnMut() -> F) {
        let began = Instant::now();
        while !holds().await {
            let ended = self.child.try_wait().expect("the process is our child");
            let in_time = began.elapsed() < PATIENCE;
            assert!(
                ended.is_none() && in_time,
                "{} until {what}: ended {ended:?}, after {:?}\n{}",
                self.name,
                began.elapsed(),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("the process is our child");
        self.ended().await
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = std::sync::Mutex::new(&mut self.child);
        let ask = || {
            let mut child = child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            std::future::ready(child.try_wait().expect("the process is our child"))
        };
        eventually("the end of a process", ask).await
    }

    /// Kills it as a crash would (SIGKILL), with its process group, and waits for the kernel.
    pub fn kill(&mut self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// A port of the loopback interface that nobody listens on.
///
/// # Panics
/// When there is none left.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

fn command(name: &str, env: &TestEnv) -> Command {
    let mut command = bare(name);
    command.envs(env.variables()).env_remove("ADMIN_DATABASE_URL").current_dir(env.folder());
    command
}

/// A command that inherits nothing which could change what it does.
fn bare(name: &str) -> Command {
    let mut command = Command::new(binary(name));
    command.env_clear();
    for inherited in ["PATH", "HOME", "LANG", "RUST_LOG", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(inherited) {
            command.env(inherited, value);
        }
    }
    command
}

/// Where cargo puts binaries: beside the folder `deps` that tests run from.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test knows itself");
    let folder = std::env::var_os("BIFROST_TEST_BINARIES").map(PathBuf::from);
    folder
        .unwrap_or_else(|| test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_path_buf())
        .join(name)
}
