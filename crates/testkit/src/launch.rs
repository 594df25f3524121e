//! How a binary of the workspace is started: with nothing of ours in its environment but what the test gives.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use uuid::Uuid;

use crate::{Process, TestEnv};

/// What every process needs to find other programs, and what a person sets to see more of a failing test.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "RUST_LOG", "RUST_BACKTRACE"];

/// A binary about to be started.
#[derive(Debug)]
pub struct Launch {
    name: String,
    folder: PathBuf,
    command: Command,
}

/// What a process that ended by itself leaves.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Launch {
    /// The binary of this name, in this folder; its output is kept there too.
    #[must_use]
    pub fn new(name: &str, folder: &Path) -> Self {
        Self::of(&binary(name), folder)
    }

    /// The same of a binary that lies elsewhere.
    #[must_use]
    pub fn of(binary: &Path, folder: &Path) -> Self {
        let mut command = Command::new(binary);
        command.env_clear().current_dir(folder).stdin(Stdio::null());
        for inherited in INHERITED {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, folder: folder.to_owned(), command }
    }

    /// `bifrost` with these arguments.
    #[must_use]
    pub fn bifrost(folder: &Path, arguments: &[&str]) -> Self {
        Self::new("bifrost", folder).args(arguments)
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// A variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Not this variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// The variables of a process that works beside others.
    #[must_use]
    pub fn in_env(mut self, env: &TestEnv) -> Self {
        self.command.envs(env.variables());
        self
    }

    /// Text on standard input.
    ///
    /// # Panics
    /// When it cannot be laid ready.
    #[must_use]
    pub fn input(mut self, text: &str) -> Self {
        let file = self.folder.join(format!("input-{}", Uuid::new_v4().simple()));
        std::fs::write(&file, text).expect("the folder is the test's");
        self.command.stdin(File::open(&file).expect("it was just written"));
        std::fs::remove_file(&file).expect("it was just written");
        self
    }

    /// As another user, which only root may ask for.
    #[must_use]
    pub fn as_user(mut self, uid: u32, gid: u32) -> Self {
        self.command.uid(uid).gid(gid);
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When there is no such binary.
    #[must_use]
    pub fn start(mut self) -> Process {
        let log = self.folder.join(format!("{}-{}", self.name, Uuid::new_v4().simple()));
        let (stdout, stderr) = (log.with_extension("out"), log.with_extension("err"));
        let file = |path: &Path| File::create(path).expect("the folder is the test's");
        // A group of its own, so that killing it leaves none of its children behind.
        self.command.stdout(file(&stdout)).stderr(file(&stderr)).process_group(0);
        let child = self.command.spawn().unwrap_or_else(|error| {
            let program = Path::new(self.command.get_program()).display();
            panic!("{program} does not start: {error}; run `cargo build --workspace` first")
        });
        Process::new(self.name, child, stdout, stderr)
    }

    /// Starts it and waits until it has ended.
    ///
    /// # Panics
    /// As [`Self::start`], and when it goes on and on.
    pub async fn finish(self) -> Ended {
        self.start().finish().await
    }
}

impl Ended {
    /// Itself, if this was the exit code.
    ///
    /// # Panics
    /// When it was another, showing what was printed.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n{}{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    /// Both outputs.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Where cargo puts binaries: beside the folder `deps` that tests run from.
///
/// # Panics
/// When the test was moved out of the target directory.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test knows itself");
    let folder = std::env::var_os("BIFROST_TEST_BINARIES").map(PathBuf::from);
    folder
        .unwrap_or_else(|| test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_path_buf())
        .join(name)
}
