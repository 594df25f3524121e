//! What the tests of this crate share: folders to start in, an installation of separate processes, a signed-in
//! command line.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Client, Ended, Launch, Process, TestEnv, eventually};

pub(crate) const EMAIL: &str = "ada@example.com";
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// Workflows that end in every way, and one that waits for a file.
pub(crate) const WORKFLOWS: &str = r#"
import logging
import os
import time

from bifrost import UserError, workflow

log = logging.getLogger(__name__)


@workflow()
def greet(name: str, times: int = 1):
    log.info("greeting %s", name)
    return {"greeting": " ".join([f"Hello {name}"] * times)}


@workflow()
def says_so():
    return "plain text"


@workflow()
def fails():
    raise UserError("the printer is on fire")


@workflow(timeout_seconds=1)
def dawdles():
    time.sleep(600)


def until_there(path):
    log.info("waiting for a file")
    while not os.path.exists(path):
        time.sleep(0.02)
    log.info("it is there")
    return "waited"


@workflow()
def waits(path: str):
    return until_there(path)


@workflow(execution_mode="sync")
def waits_in_sync(path: str):
    return until_there(path)
"#;

/// An api and a worker as processes of their own on the shared services, and somebody who administers them.
pub(crate) struct Installation {
    pub(crate) env: TestEnv,
    pub(crate) api: Process,
    pub(crate) jobs: Process,
    /// Signed in.
    pub(crate) client: Client,
}

impl Installation {
    pub(crate) async fn start() -> Self {
        let env = TestEnv::with_files(&[("workflows.py", WORKFLOWS)]).await;
        let (api, jobs) = tokio::join!(Process::api(&env), Process::jobs(&env));
        let client = api.client().register(EMAIL, PASSWORD).await;
        wait_for_workflow(&client, "waits_in_sync").await;
        Self { env, api, jobs, client }
    }

    /// `bifrost` with these arguments, where the session is kept.
    pub(crate) fn bifrost(&self, arguments: &[&str]) -> Launch {
        Launch::bifrost(self.env.folder(), arguments)
    }

    /// Signs the command line in.
    pub(crate) async fn log_in(&self) -> Ended {
        let arguments = ["login", "--url", self.api.url(), "--email", EMAIL, "--password-stdin"];
        self.bifrost(&arguments).input(PASSWORD).finish().await.expect_code(0)
    }

    /// A file that `waits` can see when it is there.
    pub(crate) fn gate(&self) -> PathBuf {
        self.env.folder().join("gate")
    }

    pub(crate) async fn close(self) {
        let Self { env, api, jobs, .. } = self;
        drop((api, jobs));
        env.close().await;
    }
}

/// Submits a run that the request does not wait for.
pub(crate) async fn submit(client: &Client, workflow: &str, parameters: &Value) -> String {
    let body = json!({ "workflow_id": workflow, "input_data": parameters });
    let reply = client.post("/api/workflows/execute", &body).await;
    assert!(reply.status.is_success(), "{}", reply.body);
    reply.text("execution_id")
}

pub(crate) async fn wait_for_workflow(client: &Client, name: &str) {
    eventually(&format!("the workflow {name}"), || async {
        client.get("/api/workflows").await.body.contains(&format!("\"{name}\"")).then_some(())
    })
    .await;
}

pub(crate) async fn wait_for_status(client: &Client, id: &str, status: &str) {
    eventually(&format!("{id} to be {status}"), || async {
        (status_of(client, id).await == status).then_some(())
    })
    .await;
}

/// The record of a run when it has ended.
pub(crate) async fn wait_for_end(client: &Client, id: &str) -> Value {
    eventually(&format!("the end of {id}"), || async {
        let record = client.get(&format!("/api/executions/{id}")).await.json();
        let status = record["status"].as_str().unwrap_or_default().to_owned();
        matches!(&*status, "Success" | "CompletedWithErrors" | "Failed" | "Timeout" | "Cancelled")
            .then_some(record)
    })
    .await
}

pub(crate) async fn status_of(client: &Client, id: &str) -> String {
    client.get(&format!("/api/executions/{id}")).await.text("status")
}

/// A folder that unprivileged processes get through to, too.
pub(crate) fn open_folder() -> TempDir {
    let folder = TempDir::with_prefix("bifrost-cli-").expect("a temporary folder can be made");
    set_mode(folder.path(), 0o755);
    folder
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

pub(crate) fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").expect("the kernel shows us").uid() == 0
}
