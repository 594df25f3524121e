//! A repository to connect with: a real bare one, and the clone of a colleague who works on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The repository. It is gone when it is dropped.
#[derive(Debug)]
pub struct Origin {
    folder: TempDir,
}

impl Origin {
    /// One without commits, at `acme/flows.git` of its folder.
    ///
    /// # Panics
    /// When git is missing.
    #[must_use]
    pub fn empty() -> Self {
        let folder = TempDir::with_prefix("bifrost-origin-").expect("a temporary folder can be made");
        let origin = Self { folder };
        let bare = origin.bare();
        std::fs::create_dir_all(&bare).expect("the folder is ours");
        git(&bare, &["init", "--quiet", "--bare", "--initial-branch=main"]);
        git(&bare, &["config", "http.receivepack", "true"]);
        git(origin.folder.path(), &["clone", "--quiet", "acme/flows.git", "colleague"]);
        git(&origin.colleague(), &["checkout", "--quiet", "-B", "main"]);
        origin
    }

    /// One whose first commit has these files.
    ///
    /// # Panics
    /// As [`Self::empty`].
    #[must_use]
    pub fn with(files: &[(&str, &str)]) -> Self {
        let origin = Self::empty();
        origin.write(files);
        origin.commit("first");
        origin
    }

    /// The folder that repositories are served from.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The address of the repository on this machine.
    #[must_use]
    pub fn address(&self) -> String {
        self.bare().display().to_string()
    }

    /// The bare repository.
    #[must_use]
    pub fn bare(&self) -> PathBuf {
        self.folder.path().join("acme/flows.git")
    }

    /// The colleague's clone.
    #[must_use]
    pub fn colleague(&self) -> PathBuf {
        self.folder.path().join("colleague")
    }

    /// Writes files in the colleague's clone.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn write(&self, files: &[(&str, &str)]) {
        for (path, content) in files {
            let file = self.colleague().join(path);
            std::fs::create_dir_all(file.parent().expect("a file has a folder"))
                .expect("a folder can be made");
            std::fs::write(file, content).expect("a file can be written");
        }
    }

    /// Brings the colleague up to date.
    ///
    /// # Panics
    /// When git refuses.
    pub fn update(&self) {
        git(&self.colleague(), &["pull", "--quiet", "--rebase", "origin", "main"]);
    }

    /// Commits and pushes what the colleague has done; the new commit.
    ///
    /// # Panics
    /// When git refuses.
    pub fn commit(&self, message: &str) -> String {
        git(&self.colleague(), &["add", "--all"]);
        git(&self.colleague(), &["commit", "--quiet", "--message", message]);
        git(&self.colleague(), &["push", "--quiet", "origin", "main"]);
        self.head()
    }

    /// The same, leaving what is staged for submodules as it is.
    ///
    /// # Panics
    /// When git refuses.
    pub fn commit_rest(&self, message: &str) -> String {
        git(&self.colleague(), &["add", "--all", "--", ":!s"]);
        git(&self.colleague(), &["commit", "--quiet", "--message", message]);
        git(&self.colleague(), &["push", "--quiet", "origin", "main"]);
        self.head()
    }

    /// The latest commit of the repository.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn head(&self) -> String {
        git(&self.bare(), &["rev-parse", "main"])
    }

    /// A file as the repository has it.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn read(&self, path: &str) -> String {
        git(&self.bare(), &["show", &format!("main:{path}")])
    }

    /// Any command in the colleague's clone.
    ///
    /// # Panics
    /// When git refuses.
    pub fn git(&self, arguments: &[&str]) -> String {
        git(&self.colleague(), arguments)
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(folder)
        .env_remove("GIT_DIR")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .envs([("GIT_AUTHOR_NAME", "Bob"), ("GIT_AUTHOR_EMAIL", "bob@acme.example")])
        .envs([("GIT_COMMITTER_NAME", "Bob"), ("GIT_COMMITTER_EMAIL", "bob@acme.example")])
        .output()
        .expect("git is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
