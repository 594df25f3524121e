//! The real binaries as processes, killed when the test ends.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use uuid::Uuid;

use crate::launch::{Ended, Launch};
use crate::{Client, TestEnv, eventually_within};

/// A debug build beside other tests takes its time to start and to end.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running binary. Dropping it kills it with SIGKILL, as a crash would.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    url: Option<String>,
}

impl Process {
    pub(crate) fn new(name: String, child: Child, stdout: PathBuf, stderr: PathBuf) -> Self {
        Self { name, child, stdout, stderr, url: None }
    }

    /// Starts `bifrost-api` on a free port and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn api(env: &TestEnv) -> Self {
        Self::api_with(env, &[]).await
    }

    /// The same with some variables changed.
    ///
    /// # Panics
    /// As [`Self::api`].
    pub async fn api_with(env: &TestEnv, changes: &[(&str, &str)]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let mut process = separate("bifrost-api", env, changes).env("LISTEN", &address).start();
        process.serves(format!("http://{address}"));
        process.wait_until_ready().await;
        process
    }

    /// Starts `bifrost-jobs` and waits until it is alive.
    ///
    /// # Panics
    /// When it does not come alive.
    pub async fn jobs(env: &TestEnv) -> Self {
        Self::jobs_with(env, &[]).await
    }

    /// The same with some variables changed.
    ///
    /// # Panics
    /// As [`Self::jobs`].
    pub async fn jobs_with(env: &TestEnv, changes: &[(&str, &str)]) -> Self {
        // A folder each: the file that says a worker lives must be this one's.
        let temp = env.folder().join(format!("run-{}", free_port()));
        let mut process = separate("bifrost-jobs", env, changes).env("TEMP_PATH", &temp).start();
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
        let launch = Launch::bifrost(folder, arguments);
        variables.iter().fold(launch, |launch, (name, value)| launch.env(name, value)).start()
    }

    /// Says where it serves, once that is known.
    pub fn serves(&mut self, url: String) {
        self.url = Some(url);
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
        format!("{}{}", self.stdout(), self.stderr())
    }

    /// What it printed on standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it printed on standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        text(&self.stderr)
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
    pub async fn wait_for_output(&mut self, expected: &str) {
        let (stdout, stderr) = (self.stdout.clone(), self.stderr.clone());
        let printed =
            || std::future::ready([&stdout, &stderr].iter().any(|file| text(file).contains(expected)));
        self.wait_for(&format!("it prints {expected:?}"), printed).await;
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
        self.terminate();
        self.ended().await
    }

    /// Asks it to stop (SIGTERM).
    ///
    /// # Panics
    /// When it has ended already.
    pub fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).expect("the process is our child");
    }

    /// Interrupts it, as Ctrl-C would (SIGINT).
    ///
    /// # Panics
    /// When it has ended already.
    pub fn interrupt(&self) {
        kill_process(self.pid(), Signal::INT).expect("the process is our child");
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let child = Mutex::new(&mut self.child);
        let ask = || {
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            std::future::ready(child.try_wait().expect("the process is our child"))
        };
        eventually_within(PATIENCE, &what, ask).await
    }

    /// Waits until it ends by itself and gives what it left.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn finish(mut self) -> Ended {
        let status = self.ended().await;
        Ended { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Kills it as a crash would (SIGKILL), with its process group, and waits for the kernel.
    pub fn kill(&mut self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }

    /// Kills it (SIGKILL) and none of its children: what becomes of those is what the test asks.
    pub fn kill_alone(&mut self) {
        let _ = self.child.kill();
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

/// A port of the loopback interface that nobody listens on. It is below those that Linux gives to connections, one of which
/// could have it before whoever asked. Nobody in this process has been given it before, and may be about to listen on it.
///
/// # Panics
/// When there is none left.
#[must_use]
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let any = || 10_000 + u16::try_from(Uuid::new_v4().as_u128() % 22_000).expect("is below");
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok() && given.insert(*port);
    std::iter::repeat_with(any).take(1_000).find(is_free).expect("a port is free")
}

/// A process beside others, which never gets to see the superuser's address.
fn separate(name: &str, env: &TestEnv, changes: &[(&str, &str)]) -> Launch {
    let launch = Launch::new(name, env.folder()).in_env(env).without("ADMIN_DATABASE_URL");
    changes.iter().fold(launch, |launch, (name, value)| launch.env(name, value))
}

/// What a process printed, which may be cut off in the middle of a character.
fn text(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
}
