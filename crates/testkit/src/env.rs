//! Everything one test needs to run the application: a database, names of its own, folders, settings.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use domain::settings::{Environment, Settings};
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{Services, TestDb};

/// The surroundings of one test.
#[derive(Debug)]
pub struct TestEnv {
    /// The shared services.
    pub services: Services,
    /// The database of this test.
    pub db: TestDb,
    /// Put in front of queues, keys and channels.
    prefix: String,
    folder: TempDir,
    workspace: PathBuf,
    secret_key: String,
    secrets_master_key: String,
    /// Whether somebody was told where the broker is, and may have declared queues there.
    knows_broker: AtomicBool,
}

impl TestEnv {
    /// Makes them, with a copy of the workflows of the repository as workspace.
    ///
    /// # Panics
    /// When a service is missing or a folder cannot be made.
    pub async fn create() -> Self {
        let env = Self::with_files(&[]).await;
        copy(&repository().join("workspace"), &env.workspace).expect("the workspace can be copied");
        env
    }

    /// The same with a workspace of its own, holding these files.
    ///
    /// # Panics
    /// As [`Self::create`].
    pub async fn with_files(files: &[(&str, &str)]) -> Self {
        let mut env = Self::with_workspace(PathBuf::new()).await;
        env.workspace = env.folder.path().join("workspace");
        std::fs::create_dir(&env.workspace).expect("a new folder can be made");
        for (path, content) in files {
            env.write(path, content);
        }
        env
    }

    async fn with_workspace(workspace: PathBuf) -> Self {
        let services = Services::from_env();
        let db = TestDb::create(&services.database_url).await;
        let folder = TempDir::with_prefix("bifrost-test-").expect("a temporary folder can be made");
        // Runs of a test that is root have no privileges, and must get through to their sockets.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))
            .expect("the folder is ours");
        std::fs::create_dir(folder.path().join("run")).expect("a new folder can be made");
        let random = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        Self {
            services,
            db,
            prefix: format!("test-{}", Uuid::new_v4().simple()),
            folder,
            workspace,
            secret_key: random(),
            secrets_master_key: random(),
            knows_broker: AtomicBool::new(false),
        }
    }

    /// Writes a file of the workspace, which must be one of its own.
    ///
    /// # Panics
    /// When it cannot, or when the workspace is the repository's.
    pub fn write(&self, path: &str, content: &str) {
        let file = self.workspace.join(path);
        assert!(file.starts_with(self.folder.path()), "only a workspace of the test's own may be changed");
        std::fs::create_dir_all(file.parent().expect("a file has a folder")).expect("a folder can be made");
        std::fs::write(&file, content).expect("a file can be written");
    }

    /// A private folder of this test.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The workspace.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// Settings with every service, as a process beside others has them.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.knows_broker.store(true, Ordering::Relaxed);
        Settings {
            rabbitmq_url: Some(self.services.rabbitmq_url.clone()),
            redis_url: Some(self.services.redis_url.clone()),
            ..self.settings_in_process()
        }
    }

    /// Settings without broker and cache, as the one-process arms have them.
    #[must_use]
    pub fn settings_in_process(&self) -> Settings {
        Settings {
            environment: Environment::Testing,
            database_url: Some(self.db.url()),
            database_connections: 4,
            queue_prefix: self.queue_prefix(),
            redis_prefix: self.prefix.clone(),
            listen: ([127, 0, 0, 1], 0).into(),
            workspace_path: self.workspace.clone(),
            platform_path: repository().join("platform"),
            temp_path: self.folder.path().join("run"),
            uploads_path: self.folder.path().join("uploads"),
            uv: uv(),
            // No test asks the outside.
            package_index_url: "http://127.0.0.1:9/simple".into(),
            worker_slots: 4,
            // A test that wants the development user asks for it.
            dev_user_email: String::new(),
            secret_key: Some(SecretString::from(self.secret_key.as_str())),
            secrets_master_key: Some(SecretString::from(self.secrets_master_key.as_str())),
            ..Settings::default()
        }
    }

    /// The same settings as environment variables, for a real process.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let settings = self.settings();
        let url = |url: &Option<SecretString>| {
            url.as_ref().map(|url| url.expose_secret().to_owned()).unwrap_or_default()
        };
        let path = |path: &Path| path.display().to_string();
        vec![
            ("ENVIRONMENT", settings.environment.as_str().into()),
            ("DATABASE_URL", url(&settings.database_url)),
            ("ADMIN_DATABASE_URL", self.db.superuser_url().expose_secret().to_owned()),
            ("RABBITMQ_URL", url(&settings.rabbitmq_url)),
            ("REDIS_URL", url(&settings.redis_url)),
            ("DATABASE_CONNECTIONS", settings.database_connections.to_string()),
            ("QUEUE_PREFIX", settings.queue_prefix.clone()),
            ("REDIS_PREFIX", settings.redis_prefix.clone()),
            ("WORKSPACE_PATH", path(&settings.workspace_path)),
            ("PLATFORM_PATH", path(&settings.platform_path)),
            ("TEMP_PATH", path(&settings.temp_path)),
            ("UPLOADS_PATH", path(&settings.uploads_path)),
            ("UV", path(&settings.uv)),
            ("PACKAGE_INDEX_URL", settings.package_index_url.expose_secret().to_owned()),
            ("WORKER_SLOTS", settings.worker_slots.to_string()),
            ("SECRET_KEY", self.secret_key.clone()),
            ("SECRETS_MASTER_KEY", self.secrets_master_key.clone()),
        ]
    }

    /// Removes what would outlive the test: its queues, then its database.
    ///
    /// # Panics
    /// When PostgreSQL refuses.
    pub async fn close(self) {
        // Connecting declares the queues, so that is left to tests that may have some. A broker that the test
        // killed has nothing left to remove.
        if self.knows_broker.load(Ordering::Relaxed)
            && let Ok(wakeups) =
                domain::wakeup::Wakeups::rabbit(&self.services.rabbitmq_url, &self.queue_prefix())
        {
            let _ = wakeups.remove_topology().await;
        }
        self.db.close().await;
    }

    fn queue_prefix(&self) -> String {
        format!("{}.", self.prefix)
    }
}

/// Copies a folder with its files into one that is there, whatever is hidden aside.
///
/// # Errors
/// When something cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// The program that builds environments: what `UV` names, else that of `scripts/python-tools`.
#[must_use]
pub fn uv() -> PathBuf {
    std::env::var_os("UV").map_or_else(|| repository().join(".bifrost/venv/bin/uv"), PathBuf::from)
}

/// The root of the repository.
///
/// # Panics
/// Never: it is where this crate was built.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate lies two folders below the root")
        .to_path_buf()
}
