//! What the tests of this crate share: a served api on a database of its own, people, and a worker that is
//! played step by step, so that every test decides what happens when.

use std::time::Duration;

use api::AppState;
use domain::events::{Event, Lines, LiveLine, Update};
use domain::executions::claim::{self, Claimed};
use domain::executions::finish::{self, Outcome, Recorded};
use domain::executions::submit::{NewExecution, Work};
use domain::executions::{RawJson, Status, logs};
use domain::id::{ExecutionId, NotificationId, OrgId, UserId, WorkerId};
use domain::notifications::{self, Category, NewNotification};
use domain::settings::Settings;
use domain::{Actor, OrgScope, Permission, Platform};
use reqwest::StatusCode;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use testkit::{Client, Reply, TestEnv, eventually};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) const PASSWORD: &str = "a long enough password";
/// Within this a logout, a demotion or a deactivation must act everywhere.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(5);

/// One replica, serving on a port of its own.
pub(crate) struct Replica {
    pub(crate) platform: Platform,
    /// A client of it, as nobody.
    pub(crate) nobody: Client,
    serving: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Replica {
    pub(crate) async fn start(settings: Settings) -> Self {
        let platform = Platform::open(settings).expect("opens");
        let state = AppState::new(platform.clone()).expect("there is a key");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let serving = tokio::spawn(api::serve(listener, state, CancellationToken::new()));
        Self { platform, nobody: Client::new(format!("http://{address}")), serving }
    }

    /// The same person at this replica.
    pub(crate) fn at(&self, client: &Client) -> Client {
        self.nobody.with_bearer(client.bearer().expect("signed in"))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) client: Client,
    pub(crate) id: UserId,
    pub(crate) email: String,
}

impl Person {
    async fn of(client: Client) -> Self {
        let me = client.get("/auth/me").await.expect_status(StatusCode::OK);
        Self { id: me.text("id").parse().expect("an id"), email: me.text("email"), client }
    }
}

/// A served installation with its platform administrator.
pub(crate) struct World {
    pub(crate) replica: Replica,
    pub(crate) admin: Person,
    pub(crate) test: TestEnv,
}

impl World {
    /// Without broker and Redis.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with settings changed.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let test = TestEnv::create().await;
        let mut settings = test.settings_in_process();
        change(&mut settings);
        Self::on(test, settings).await
    }

    /// With Redis between the replicas and the worker.
    pub(crate) async fn with_redis() -> Self {
        let test = TestEnv::create().await;
        let settings = Settings { rabbitmq_url: None, ..test.settings() };
        Self::on(test, settings).await
    }

    /// With a workspace of its own, holding these files.
    pub(crate) async fn with_files(files: &[(&str, &str)]) -> Self {
        let test = TestEnv::with_files(files).await;
        let settings = test.settings_in_process();
        Self::on(test, settings).await
    }

    /// On what the test has prepared.
    pub(crate) async fn on(test: TestEnv, settings: Settings) -> Self {
        let replica = Replica::start(settings).await;
        let admin = Person::of(replica.nobody.register("admin@platform.example", PASSWORD).await).await;
        Self { replica, admin, test }
    }

    pub(crate) fn nobody(&self) -> &Client {
        &self.replica.nobody
    }

    pub(crate) fn platform(&self) -> &Platform {
        &self.replica.platform
    }

    pub(crate) fn worker(&self) -> Worker {
        Worker { platform: self.platform().clone(), id: WorkerId::generate() }
    }

    /// An organization with the domain `<name>.example`.
    pub(crate) async fn org(&self, name: &str) -> OrgId {
        let body = json!({"name": name, "domain": format!("{name}.example")});
        let created = self.admin.client.post("/api/organizations", &body).await;
        created.expect_status(StatusCode::CREATED).text("id").parse().expect("an id")
    }

    /// Registers somebody into the organization of the e-mail's domain and signs them in.
    pub(crate) async fn person(&self, email: &str) -> Person {
        Person::of(self.nobody().register(email, PASSWORD).await).await
    }

    /// Gives somebody a role of this organization with these permissions.
    pub(crate) async fn grant(
        &self,
        organization: impl ToString,
        person: &Person,
        permissions: &[Permission],
    ) {
        let names: Vec<&str> = permissions.iter().map(|permission| permission.as_str()).collect();
        let body =
            json!({"name": "Holders", "organization_id": organization.to_string(), "permissions": names});
        let role = self.admin.client.post("/api/roles", &body).await.expect_status(StatusCode::CREATED);
        let path = format!("/api/roles/{}/users", role.text("id"));
        let body = json!({"user_ids": [person.email]});
        self.admin.client.post(&path, &body).await.expect_status(StatusCode::NO_CONTENT);
    }

    /// Makes the workflows of these tests known: `greet` waits for its end, `collect` does not.
    pub(crate) async fn with_workflows(self) -> Self {
        let workflow = |name: &str, mode: &str, parameters: Value| {
            json!({
                "function": name, "name": name, "category": "Tests", "execution_mode": mode,
                "timeout_seconds": 60, "parameters": parameters,
            })
        };
        let parameter = |name: &str, kind: &str, required: bool| json!({"name": name, "type": kind, "required": required});
        let greet = json!([
            parameter("name", "string", true),
            parameter("times", "int", false),
            parameter("loud", "bool", false),
            parameter("options", "json", false),
        ]);
        let index = json!({"files": [{
            "path": "tools.py", "sha256": "1", "data_providers": [], "problems": [],
            "workflows": [workflow("greet", "sync", greet), workflow("collect", "async", json!([]))],
        }]});
        let index = serde_json::from_value(index).expect("an index");
        testkit::sync_workflows(&self.platform().db, &index).await.expect("indexes");
        self
    }

    /// Makes workflows with endpoints known, each `{"name": …}` with what its decorator says besides.
    pub(crate) async fn with_endpoints(&self, endpoints: &[Value]) {
        let parameter = |name: &str, kind: &str| json!({"name": name, "type": kind, "required": false});
        let workflows: Vec<Value> = endpoints
            .iter()
            .map(|said| {
                let name = said["name"].as_str().expect("a name");
                let mut workflow = json!({
                    "function": name, "category": "Tests", "execution_mode": "sync", "timeout_seconds": 60,
                    "endpoint_enabled": true, "allowed_methods": ["GET", "POST"],
                    "parameters": [parameter("site", "string"), parameter("count", "int"), parameter("loud", "bool")],
                });
                workflow.as_object_mut().expect("an object").extend(said.as_object().expect("an object").clone());
                workflow
            })
            .collect();
        // One file each, so that two may bear one name.
        let files: Vec<Value> = workflows
            .into_iter()
            .enumerate()
            .map(|(number, workflow)| {
                let path = format!("endpoint_{number}.py");
                let sha256 = uuid::Uuid::now_v7().to_string();
                json!({"path": path, "sha256": sha256, "data_providers": [], "problems": [], "workflows": [workflow]})
            })
            .collect();
        let index = serde_json::from_value(json!({"files": files})).expect("an index");
        testkit::sync_workflows(&self.platform().db, &index).await.expect("indexes");
    }

    /// Makes a key in the scope of this client, as an administrator; its text.
    pub(crate) async fn workflow_key(client: &Client, body: &Value) -> String {
        client.post("/api/workflow-keys", body).await.expect_status(StatusCode::CREATED).text("raw_key")
    }

    /// Submits as this person, past the api: over HTTP only administrators may.
    pub(crate) async fn submit(&self, person: &Person, org: Option<OrgId>) -> ExecutionId {
        let actor = Actor {
            id: person.id,
            name: person.email.clone(),
            email: person.email.clone(),
            is_platform_admin: person.id == self.admin.id,
        };
        let work = Work::Inline { code: "x = 1".into(), script_name: "script".into() };
        let new = NewExecution::new(work, raw("{}"));
        let submitted = self.platform().submitter.submit(&OrgScope::for_run(org, actor), new).await;
        submitted.expect("accepted").id
    }

    /// Makes a notification for this person in this organization, as what goes on in the background does.
    pub(crate) async fn notify(&self, person: &Person, org: OrgId, title: &str) -> NotificationId {
        let actor = Actor {
            id: person.id,
            name: person.email.clone(),
            email: person.email.clone(),
            is_platform_admin: false,
        };
        self.notify_in(&OrgScope::for_run(Some(org), actor), NewNotification::new(Category::System, title))
            .await
    }

    /// The same in this scope.
    pub(crate) async fn notify_in(&self, scope: &OrgScope, new: NewNotification) -> NotificationId {
        let mut tx = self.platform().db.begin(scope).await.expect("begins");
        let made = notifications::create(&mut tx, new).await.expect("makes it");
        tx.commit().await.expect("commits");
        let id = made.id;
        made.announce(&self.platform().events);
        id
    }

    /// Runs a statement behind the application's back.
    pub(crate) async fn sql(&self, statement: impl Into<String>) {
        let mut conn = self.test.db.connect().await;
        sqlx::query(sqlx::AssertSqlSafe(statement.into()))
            .execute(&mut conn)
            .await
            .expect("the statement runs");
    }

    /// A text behind the application's back.
    pub(crate) async fn text(&self, query: &'static str) -> String {
        let mut conn = self.test.db.connect().await;
        sqlx::query_scalar(query).fetch_one(&mut conn).await.expect("the query runs")
    }

    /// A number behind the application's back.
    pub(crate) async fn count(&self, query: &'static str) -> i64 {
        let mut conn = self.test.db.connect().await;
        sqlx::query_scalar(query).fetch_one(&mut conn).await.expect("the query runs")
    }

    pub(crate) async fn close(self) {
        drop(self.replica);
        self.test.close().await;
    }
}

/// A worker, played by the test.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) platform: Platform,
    id: WorkerId,
}

impl Worker {
    /// Claims the next execution, waiting until there is one.
    pub(crate) async fn claim(&self) -> Claimed {
        eventually("an execution to claim", || async {
            claim::claim(&self.platform.db, self.id, 1).await.expect("claims").pop()
        })
        .await
    }

    /// Stores lines.
    pub(crate) async fn store(&self, claimed: &Claimed, lines: &[logs::Line]) {
        let written =
            finish::record(&self.platform.db, &[batch(claimed, lines)], &[]).await.expect("appends");
        assert_eq!(written.dropped_lines, 0, "the worker holds the fence");
    }

    /// Tells of lines.
    pub(crate) fn tell(&self, claimed: &Claimed, lines: &[logs::Line]) {
        let lines = lines.iter().map(LiveLine::from).collect();
        self.platform.events.publish(Event::Lines(Lines { execution_id: claimed.id, lines }));
    }

    /// Records an outcome; nobody hears of it.
    pub(crate) async fn record(&self, outcome: &Outcome) -> Recorded {
        let outcomes = std::slice::from_ref(outcome);
        finish::record(&self.platform.db, &[], outcomes).await.expect("finishes").recorded[0]
    }

    /// Tells of a recorded outcome.
    pub(crate) fn announce(&self, claimed: &Claimed, outcome: &Outcome, recorded: Recorded) {
        let update = claimed.update(recorded.status);
        let update = Update {
            completed_at: recorded.completed_at,
            duration_ms: Some(outcome.duration_ms),
            result_type: outcome.result_type.clone(),
            error_message: outcome.error_message.clone(),
            error_type: outcome.error_type.clone(),
            is_user_error: outcome.is_user_error,
            ..update
        };
        self.platform.events.publish(update.with_result(outcome.result.clone()).of_kind(claimed.kind));
    }

    /// Tells that a claimed execution runs.
    pub(crate) fn announce_start(&self, claimed: &Claimed) {
        self.platform.events.publish(Event::from(claimed.update(Status::Running)));
    }

    /// Records an outcome and tells of it.
    pub(crate) async fn finish(&self, claimed: &Claimed, outcome: &Outcome) {
        let recorded = self.record(outcome).await;
        self.announce(claimed, outcome, recorded);
    }
}

pub(crate) fn success(claimed: &Claimed, result: &str) -> Outcome {
    Outcome {
        id: claimed.id,
        attempt: claimed.attempt,
        status: Status::Success,
        retry_in: Duration::ZERO,
        is_given_back: false,
        result: Some(raw(result)),
        result_type: Some("json".into()),
        error_message: None,
        error_type: None,
        is_user_error: false,
        variables: Some(raw(r#"{"answer": 42}"#)),
        duration_ms: 7,
        peak_memory_bytes: Some(1_000_000),
        cpu_total_seconds: Some(0.25),
        lines: None,
    }
}

pub(crate) fn failure(claimed: &Claimed, message: &str, is_user_error: bool) -> Outcome {
    Outcome {
        status: Status::Failed,
        result: None,
        result_type: None,
        error_message: Some(message.into()),
        error_type: Some(if is_user_error { "UserError" } else { "KeyError" }.into()),
        is_user_error,
        ..success(claimed, "null")
    }
}

/// Lines `from` to `to`; every third is for platform administrators only.
pub(crate) fn lines(from: i64, to: i64) -> Vec<logs::Line> {
    (from..=to)
        .map(|sequence| {
            let hidden = sequence % 3 == 0;
            logs::Line {
                sequence,
                user_sequence: (!hidden).then_some(sequence - sequence / 3),
                attempt: 1,
                level: if hidden { "DEBUG" } else { "INFO" }.into(),
                message: format!("line {sequence}"),
                data: None,
                logged_at: chrono::Utc::now(),
            }
        })
        .collect()
}

/// How many of the first `count` lines a user sees.
pub(crate) fn shown_to_users(count: i64) -> i64 {
    count - count / 3
}

pub(crate) fn batch(claimed: &Claimed, lines: &[logs::Line]) -> logs::Batch {
    logs::Batch {
        execution_id: claimed.id,
        organization_id: claimed.organization_id,
        attempt: claimed.attempt,
        lines: lines.to_vec(),
    }
}

pub(crate) fn raw(text: &str) -> RawJson {
    RawValue::from_string(text.into()).expect("JSON")
}

/// The value of a cookie that an answer sets, and its attributes.
pub(crate) fn cookie<'a>(reply: &'a Reply, name: &str) -> Option<(&'a str, &'a str)> {
    let mut set = reply.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
    set.find_map(|cookie| {
        let (pair, attributes) = cookie.split_once(';')?;
        let (found, value) = pair.split_once('=')?;
        (found == name).then_some((value, attributes))
    })
}
