//! What the tests of this crate share: an engine on a database of its own, and workflow files to run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::executions::list;
use domain::executions::submit::{NewExecution, Work};
use domain::executions::{Execution, logs};
use domain::forms::{self, AccessLevel, Form, NewForm};
use domain::id::{ExecutionId, OrgId, UserId};
use domain::settings::Settings;
use domain::{Actor, OrgScope, Platform};
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;
use testkit::TestEnv;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);
/// Whoever administers the platform here: a run has an administrator's rights only while there is such a user.
const ADMIN: UserId = UserId(uuid::Uuid::from_u128(2));

/// A worker, an indexer and the clockwork in this process.
pub(crate) struct Engine {
    pub(crate) platform: Platform,
    pub(crate) workspace: PathBuf,
    pub(crate) test: TestEnv,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    _folders: Vec<TempDir>,
}

impl Engine {
    /// Runs the examples of the repository.
    pub(crate) async fn on_examples() -> Self {
        Self::start(repository().join("workspace"), Vec::new(), |_| {}).await
    }

    /// Runs files made for the test.
    pub(crate) async fn on_files(files: &[(&str, &str)]) -> Self {
        Self::with_settings(files, |_| {}).await
    }

    /// Runs files made for the test, with settings changed.
    pub(crate) async fn with_settings(files: &[(&str, &str)], change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::Builder::new().prefix("bifrost-workspace-").tempdir().expect("a folder");
        open_to_runs(folder.path());
        for (path, content) in files {
            write_file(folder.path(), path, content);
        }
        Self::start(folder.path().to_owned(), vec![folder], change).await
    }

    async fn start(
        workspace: PathBuf,
        mut folders: Vec<TempDir>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let test = TestEnv::create().await;
        let temp = tempfile::Builder::new().prefix("bifrost-temp-").tempdir().expect("a folder");
        open_to_runs(temp.path());
        let mut settings = test.settings_in_process();
        settings.workspace_path.clone_from(&workspace);
        settings.platform_path = repository().join("platform");
        settings.temp_path = temp.path().to_owned();
        settings.shutdown_grace_seconds = 1;
        change(&mut settings);
        folders.push(temp);
        insert_admin(&test).await;
        let platform = Platform::open(settings).expect("opens");
        let indexed = jobs::index_once(&platform).await.expect("indexes");
        assert!(indexed.active > 0 || indexed.problems > 0, "the workspace has something in it");
        let stop = CancellationToken::new();
        let running = tokio::spawn(jobs::run(platform.clone(), stop.clone()));
        Self { platform, workspace, test, stop, running, _folders: folders }
    }

    /// Somebody of no organization who administers the platform.
    pub(crate) fn admin() -> OrgScope {
        OrgScope::for_run(None, actor("admin", true))
    }

    /// Submits without waiting.
    pub(crate) async fn submit(&self, scope: &OrgScope, workflow: &str, parameters: Value) -> ExecutionId {
        submit(&self.platform, scope, workflow, parameters).await
    }

    pub(crate) async fn submit_code(&self, scope: &OrgScope, code: &str) -> ExecutionId {
        let work = Work::Inline { code: code.into(), script_name: "script".into() };
        let new = NewExecution::new(work, RawValue::from_string("{}".into()).expect("JSON"));
        self.platform.submitter.submit(scope, new).await.expect("accepted").id
    }

    /// Waits for the end and reads the row.
    pub(crate) async fn ended(&self, id: ExecutionId) -> Execution {
        let mut watch = self.platform.events.watch(id, false);
        let end = async {
            loop {
                let execution = self.get(id).await;
                if execution.status.is_terminal() {
                    return execution;
                }
                watch.terminal(Duration::from_millis(500)).await;
            }
        };
        tokio::time::timeout(PATIENCE, end)
            .await
            .unwrap_or_else(|_| panic!("{id} did not end within {PATIENCE:?}"))
    }

    /// Submits and waits for the end.
    pub(crate) async fn run(&self, scope: &OrgScope, workflow: &str, parameters: Value) -> Execution {
        let id = self.submit(scope, workflow, parameters).await;
        self.ended(id).await
    }

    pub(crate) async fn get(&self, id: ExecutionId) -> Execution {
        get(&self.platform, id).await
    }

    pub(crate) async fn lines(&self, id: ExecutionId) -> Vec<logs::Line> {
        lines(&self.platform, id).await
    }

    /// Waits until the run has logged this.
    pub(crate) async fn logged(&self, id: ExecutionId, message: &str) -> logs::Line {
        let found = async {
            loop {
                if let Some(line) =
                    self.lines(id).await.into_iter().find(|line| line.message.contains(message))
                {
                    return line;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{id} did not log {message:?}"))
    }

    pub(crate) async fn org(&self, name: &str) -> OrgId {
        let mut tx = self.platform.db.begin(&Self::admin().widened()).await.expect("begins");
        let new = domain::organizations::NewOrganization {
            name: name.into(),
            domain: None,
            is_active: true,
            settings: serde_json::json!({}),
        };
        let organization = domain::organizations::insert(&mut tx, new).await.expect("inserts");
        tx.commit().await.expect("commits");
        organization.id
    }

    /// A form without fields.
    pub(crate) async fn form(&self, scope: &OrgScope, name: &str, access_level: AccessLevel) -> Form {
        let new = NewForm {
            name: name.into(),
            description: None,
            workflow_id: None,
            launch_workflow_id: None,
            default_launch_params: None,
            allowed_query_params: None,
            form_schema: serde_json::value::to_raw_value(&serde_json::json!({ "fields": [] })).expect("JSON"),
            access_level: Some(access_level),
        };
        let mut tx = self.platform.db.begin(scope).await.expect("begins");
        let form = forms::insert(&mut tx, new).await.expect("inserts");
        tx.commit().await.expect("commits");
        form
    }

    pub(crate) async fn set_secret(&self, scope: &OrgScope, key: &str, value: &str) {
        let mut tx = self.platform.db.begin(scope).await.expect("begins");
        domain::secrets::set(&mut tx, &self.platform.vault, key, &value.into()).await.expect("sets");
        tx.commit().await.expect("commits");
    }

    /// Asks for the end of the engine without waiting for it.
    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.running.await.expect("does not panic").expect("stops cleanly");
        self.platform.db.close().await;
        self.test.close().await;
    }
}

/// An installation whose workers are processes of their own; this process submits and looks.
pub(crate) struct Installation {
    pub(crate) platform: Platform,
    pub(crate) settings: Settings,
    pub(crate) test: TestEnv,
    _folder: TempDir,
}

impl Installation {
    /// With one workflow file.
    pub(crate) async fn with_file(source: &str) -> Self {
        Self::with_settings(source, |_| {}).await
    }

    /// With one workflow file, and settings changed.
    pub(crate) async fn with_settings(source: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::Builder::new().prefix("bifrost-apart-").tempdir().expect("a folder");
        open_to_runs(folder.path());
        write_file(&folder.path().join("workspace"), "workflows.py", source);
        let test = TestEnv::create().await;
        let mut settings = test.settings();
        settings.workspace_path = folder.path().join("workspace");
        settings.platform_path = repository().join("platform");
        settings.temp_path = folder.path().to_owned();
        change(&mut settings);
        insert_admin(&test).await;
        let platform = Platform::open(settings.clone()).expect("opens");
        jobs::index_once(&platform).await.expect("indexes");
        Self { platform, settings, test, _folder: folder }
    }

    /// Submits without waiting.
    pub(crate) async fn submit(&self, scope: &OrgScope, workflow: &str, parameters: Value) -> ExecutionId {
        submit(&self.platform, scope, workflow, parameters).await
    }

    pub(crate) async fn get(&self, id: ExecutionId) -> Execution {
        get(&self.platform, id).await
    }

    pub(crate) async fn close(self) {
        self.platform.db.close().await;
        self.test.close().await;
    }
}

async fn submit(platform: &Platform, scope: &OrgScope, workflow: &str, parameters: Value) -> ExecutionId {
    let workflow = platform.catalog.get(&platform.db, scope, workflow).await.expect("is indexed");
    let Value::Object(parameters) = parameters else { panic!("parameters are an object") };
    let parameters =
        domain::workflows::check_parameters(&workflow.parameters, parameters).expect("valid parameters");
    let raw = serde_json::value::to_raw_value(&parameters).expect("JSON");
    let new = NewExecution::new(Work::Workflow(workflow), raw);
    platform.submitter.submit(scope, new).await.expect("accepted").id
}

async fn get(platform: &Platform, id: ExecutionId) -> Execution {
    let mut tx = platform.db.begin(&Engine::admin().widened()).await.expect("begins");
    list::get(&mut tx, id).await.expect("is there")
}

/// Every line of a run, in order.
pub(crate) async fn lines(platform: &Platform, id: ExecutionId) -> Vec<logs::Line> {
    let mut tx = platform.db.begin(&Engine::admin().widened()).await.expect("begins");
    logs::list(&mut tx, id, 0, 100_000, true).await.expect("lists")
}

async fn insert_admin(test: &TestEnv) {
    let mut conn = test.db.connect().await;
    let admin = "INSERT INTO users (id, email, name, user_type, is_superuser, is_verified)
                 VALUES ($1, 'admin@platform.example', 'Admin', 'PLATFORM', TRUE, TRUE)";
    sqlx::query(admin).bind(ADMIN.0).execute(&mut conn).await.expect("inserts");
}

pub(crate) fn actor(name: &str, is_platform_admin: bool) -> Actor {
    Actor {
        id: if is_platform_admin { ADMIN } else { UserId::generate() },
        name: name.into(),
        email: format!("{name}@example.com"),
        is_platform_admin,
    }
}

pub(crate) fn user_of(org: OrgId) -> OrgScope {
    OrgScope::for_run(Some(org), actor("user", false))
}

/// What a run returned.
pub(crate) fn result(execution: &Execution) -> Value {
    let raw = execution.result.as_ref().map_or("null", |result| result.get());
    serde_json::from_str(raw).expect("JSON")
}

pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

pub(crate) fn write_file(root: &Path, path: &str, content: &str) {
    let file = root.join(path);
    std::fs::create_dir_all(file.parent().expect("below the root")).expect("folders");
    std::fs::write(file, content).expect("writes");
}

/// Runs are another user when the tests are root's.
fn open_to_runs(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;

    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("is ours");
}
