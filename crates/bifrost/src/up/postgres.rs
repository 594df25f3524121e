//! The private PostgreSQL: 127.0.0.1 only, passwords nobody chose, gone when we are gone.
//!
//! The invariant: the holder of the state directory's lock is the only one who starts or stops it, so one that
//! is found running has lost its owner and is ended before a new one starts.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use secrecy::{ExposeSecret, SecretString};
use tokio::process::{Child, ChildStdin, Command};

use super::binaries::{self, Binaries};
use super::state::{StateDir, last_lines, set_mode};
use crate::env;
use crate::failure::{Failure, chain};
use crate::output::Progress;

const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
const DATABASE: &str = "bifrost";
const LOGIN: &str = "bifrost";
const SUPERUSER: &str = "postgres";
const LONGEST_LOG: u64 = 10 * 1024 * 1024;

/// Stands between us and PostgreSQL where no program can bind it to our life: when the pipe from us closes,
/// it asks for a fast shutdown.
const WATCHDOG: &str = "
import signal, subprocess, sys, threading
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
stop = lambda *_: server.send_signal(signal.SIGINT)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
threading.Thread(target=lambda: (sys.stdin.buffer.read(), stop()), daemon=True).start()
sys.exit(server.wait())
";

/// A running private PostgreSQL.
#[derive(Debug)]
pub(crate) struct Postgres {
    child: Child,
    /// Held open where closing it ends the server.
    _life: Option<ChildStdin>,
    port: u16,
    version: String,
    folder: PathBuf,
    superuser_password: SecretString,
    login_password: SecretString,
}

/// Who PostgreSQL runs as when we are root, which it refuses to be.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    name: &'static str,
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// Starts it, making the cluster the first time, and waits until it answers. Call it on the main thread:
    /// its life is bound to the thread that starts it.
    pub(crate) async fn start(state: &StateDir, progress: Progress) -> Result<Self, Failure> {
        let folder = state.postgres();
        let account = account()?;
        prepare_folder(&folder, account.as_ref()).map_err(|error| cannot("prepare its folder", &error))?;
        end_orphan(&folder).await?;

        let data = folder.join("data");
        let binaries = binaries::find(state, major_of(&data)?, progress).await?;
        let superuser_password = state.secret("postgres_superuser_password")?;
        let login_password = state.secret("postgres_login_password")?;
        if !data.join("PG_VERSION").exists() {
            progress.say(format!("Making a PostgreSQL {} cluster in {}", binaries.version, data.display()));
            init(&binaries, &folder, account.as_ref(), &superuser_password).await?;
        }

        let mut remembered = state.postgres_state();
        let port = free_port(remembered.port).map_err(|error| cannot("find a free port", &error))?;
        remembered.port = Some(port);
        remembered.binaries = Some(binaries.folder.clone());
        state.remember_postgres(&remembered)?;

        let mut child =
            spawn(&binaries, &folder, port, account.as_ref()).map_err(|error| cannot("start", &error))?;
        let mut started = Self {
            // Whoever waits for a child closes its input.
            _life: child.stdin.take(),
            child,
            port,
            version: binaries.version,
            folder,
            superuser_password,
            login_password,
        };
        if let Err(failure) = started.wait_until_ready().await {
            started.stop().await;
            return Err(failure);
        }
        Ok(started)
    }

    /// What to say about it.
    pub(crate) fn describe(&self) -> String {
        format!(
            "PostgreSQL {} ready on 127.0.0.1:{} (private, data in {})",
            self.version,
            self.port,
            self.folder.join("data").display()
        )
    }

    /// For migrations.
    pub(crate) fn admin_url(&self) -> SecretString {
        url(SUPERUSER, &self.superuser_password, self.port, DATABASE)
    }

    /// For everything else.
    pub(crate) fn url(&self) -> SecretString {
        url(LOGIN, &self.login_password, self.port, DATABASE)
    }

    /// Waits until it ends, which it should not.
    pub(crate) async fn ended(&mut self) -> Failure {
        let status =
            self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        Failure::new(format!("the private PostgreSQL ended: {status}\n{}", last_lines(&self.log(), 10)))
            .next(format!("see {}; then run `bifrost up` again", self.log().display()))
    }

    /// Stops it: disconnects everybody, writes a checkpoint. One that does not end in time is killed, which
    /// costs a recovery at the next start and no data.
    pub(crate) async fn stop(mut self) {
        signal(&self.child, Signal::INT);
        if tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await.is_err() {
            signal(&self.child, Signal::QUIT);
            let _ = tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await;
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        let maintenance = url(SUPERUSER, &self.superuser_password, self.port, "postgres");
        loop {
            if let Ok(Some(_)) = self.child.try_wait() {
                return Err(self.ended().await);
            }
            match domain::schema::ensure_database(&maintenance, DATABASE).await {
                Ok(()) => return Ok(()),
                Err(error)
                    if error.is_unavailable()
                        && !error.is_refused_login()
                        && began.elapsed() < START_PATIENCE => {}
                Err(error) => {
                    return Err(Failure::new(format!(
                        "the private PostgreSQL is not usable: {}\n{}",
                        chain(&error),
                        last_lines(&self.log(), 10)
                    ))
                    .next(format!("see {}", self.log().display())));
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// Address of the private PostgreSQL of a state directory, as the application's login, if there is one.
pub(crate) fn known_url(state: &StateDir) -> Option<SecretString> {
    let port = state.postgres_state().port?;
    let password = state.known_secret("postgres_login_password").ok()??;
    Some(url(LOGIN, &password, port, DATABASE))
}

/// The same as the superuser.
pub(crate) fn known_admin_url(state: &StateDir) -> Option<SecretString> {
    let port = state.postgres_state().port?;
    let password = state.known_secret("postgres_superuser_password").ok()??;
    Some(url(SUPERUSER, &password, port, DATABASE))
}

fn url(login: &str, password: &SecretString, port: u16, database: &str) -> SecretString {
    format!("postgres://{login}:{}@127.0.0.1:{port}/{database}", password.expose_secret()).into()
}

/// The service's own account if the system has one, else the one every system has.
fn account() -> Result<Option<Account>, Failure> {
    if !env::is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    ["bifrost", "nobody"]
        .into_iter()
        .find_map(|name| {
            let (uid, gid) = look_up(&passwd, name)?;
            (uid != 0).then_some(Account { name, uid, gid })
        })
        .map(Some)
        .ok_or_else(|| {
            Failure::new("PostgreSQL does not run as root, and there is no other user for it")
                .next("useradd --system bifrost")
        })
}

/// User and group of a name, from the text of `/etc/passwd`.
fn look_up(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn prepare_folder(folder: &Path, account: Option<&Account>) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    set_mode(folder, 0o700)?;
    let log = folder.join("log");
    if std::fs::metadata(&log).is_ok_and(|meta| meta.len() > LONGEST_LOG) {
        std::fs::rename(&log, folder.join("log.old"))?;
    }
    if let Some(account) = account {
        chown(folder, Some(account.uid), Some(account.gid))?;
    }
    Ok(())
}

/// The major version that wrote the data, if there is data.
fn major_of(data: &Path) -> Result<Option<u32>, Failure> {
    match std::fs::read_to_string(data.join("PG_VERSION")) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| {
            Failure::new(format!("{} is not readable as a version", data.join("PG_VERSION").display()))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("look at its data", &error)),
    }
}

/// Makes the cluster beside its place and moves it there when it is whole.
async fn init(
    binaries: &Binaries,
    folder: &Path,
    account: Option<&Account>,
    password: &SecretString,
) -> Result<(), Failure> {
    let (fresh, password_file) = (folder.join("data.new"), folder.join("password.new"));
    let _ = std::fs::remove_dir_all(&fresh);
    let _ = std::fs::remove_file(&password_file);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&password_file).and_then(
        |mut file| {
            std::io::Write::write_all(&mut file, password.expose_secret().as_bytes())?;
            account.map_or(Ok(()), |account| chown(&password_file, Some(account.uid), Some(account.gid)))
        },
    );
    written.map_err(|error| cannot("hand over the password", &error))?;

    let mut command = as_account(Command::new(binaries.folder.join("initdb")), account);
    command.current_dir("/").arg("-D").arg(&fresh).args([
        "-U",
        SUPERUSER,
        "-A",
        "scram-sha-256",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
    ]);
    let output = command.arg("--pwfile").arg(&password_file).stdin(Stdio::null()).output().await;
    let _ = std::fs::remove_file(&password_file);
    let output = output.map_err(|error| cannot("run initdb", &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let who = account.map_or("this user", |account| account.name);
        return Err(Failure::new(format!("initdb failed as {who}: {}", said.trim())).next(format!(
            "make sure that {} and {} are within reach of {who}",
            binaries.folder.display(),
            folder.display()
        )));
    }
    std::fs::rename(&fresh, folder.join("data"))
        .map_err(|error| cannot("move the new cluster to its place", &error))
}

fn spawn(binaries: &Binaries, folder: &Path, port: u16, account: Option<&Account>) -> std::io::Result<Child> {
    let Bound { mut command, .. } = bound_to_our_life(account);
    command.current_dir("/").arg(binaries.folder.join("postgres")).arg("-D").arg(folder.join("data"));
    let port = format!("port={port}");
    for setting in [
        port.as_str(),
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "password_encryption=scram-sha-256",
        "max_connections=100",
        "shared_buffers=128MB",
        "logging_collector=off",
        "cluster_name=bifrost",
    ] {
        command.args(["-c", setting]);
    }
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(folder.join("log"))?;
    // A group of its own: Ctrl-C is for us, and we stop it when the work has ended.
    command.process_group(0).stdout(log.try_clone()?).stderr(log).spawn()
}

/// A command whose life is bound to ours.
pub(crate) struct Bound {
    /// The program and its arguments are added to it.
    pub(crate) command: Command,
    /// Whether it ends when its standard input closes, so that this is held for as long as it is to live.
    pub(crate) is_by_pipe: bool,
}

/// A command that gets SIGINT when our process ends, however it ends.
pub(crate) fn bound_to_our_life(account: Option<&Account>) -> Bound {
    let can = |option: &str| {
        let help = std::process::Command::new("setpriv").arg("--help").output();
        help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains(option))
    };
    if cfg!(target_os = "linux") && can("--pdeathsig") {
        let mut command = as_account(Command::new("setpriv"), account);
        command.args(["--pdeathsig", "INT", "--"]).stdin(Stdio::null());
        Bound { command, is_by_pipe: false }
    } else {
        let mut command = as_account(Command::new("python3"), account);
        command.args(["-c", WATCHDOG]).stdin(Stdio::piped());
        Bound { command, is_by_pipe: true }
    }
}

fn as_account(mut command: Command, account: Option<&Account>) -> Command {
    command.env("LC_ALL", "C.UTF-8");
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// Ends a server that outlived its owner, which happens when we were killed and it was busy.
async fn end_orphan(folder: &Path) -> Result<(), Failure> {
    let Some(pid) = running_server(&folder.join("data")) else { return Ok(()) };
    let began = Instant::now();
    while running_server(&folder.join("data")) == Some(pid) {
        let signal = if began.elapsed() < STOP_PATIENCE { Signal::INT } else { Signal::QUIT };
        let _ = kill_process(pid, signal);
        if began.elapsed() > STOP_PATIENCE * 2 {
            return Err(Failure::new(format!(
                "a PostgreSQL that outlived its Bifrost does not end: process {}",
                pid.as_raw_nonzero()
            ))
            .next(format!("kill -9 {}", pid.as_raw_nonzero())));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// The server that runs on this data. A pid proves nothing by itself: it may be a stranger's by now.
fn running_server(data: &Path) -> Option<Pid> {
    let file = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(file.lines().next()?.trim().parse().ok()?)?;
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let names_data =
        command.split(|byte| *byte == 0).any(|argument| argument == data.as_os_str().as_encoded_bytes());
    names_data.then_some(pid)
}

/// The remembered port if nobody took it, else another.
fn free_port(remembered: Option<u16>) -> std::io::Result<u16> {
    let kept = remembered.and_then(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    let listener = kept.map_or_else(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), Ok)?;
    Ok(listener.local_addr()?.port())
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal); // it may have ended by itself
    }
}

fn cannot(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(format!("the private PostgreSQL cannot {what}: {error}"))
        .next("use one of your own: DATABASE_URL=postgres://LOGIN:PASSWORD@HOST:PORT/DATABASE bifrost up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_their_whole_name() {
        let passwd = "nobody2:x:7:7::/:/bin/sh\nnobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n";

        assert_eq!(look_up(passwd, "nobody"), Some((65534, 65533)));
        assert_eq!(look_up(passwd, "bifrost"), None);
    }
}
