//! What the tests of this crate share: a platform on a fresh database, and a few rows to work with.

use domain::executions::claim::{self, Claimed};
use domain::executions::finish::{self, Outcome, Recorded};
use domain::executions::submit::{NewExecution, Submitted, Work};
use domain::executions::{RawJson, Status, logs};
use domain::id::{ExecutionId, OrgId, UserId, WorkerId};
use domain::organizations::{self, NewOrganization};
use domain::sessions::{self, Principal};
use domain::users::{self, Registration, User};
use domain::{Actor, OrgScope, Platform, SystemScope};
use serde_json::value::RawValue;
use testkit::TestEnv;

pub(crate) const SYSTEM: SystemScope = SystemScope::because("a test looks past the scopes");
pub(crate) const PASSWORD: &str = "a long enough password";

/// A platform on a database of its own.
pub(crate) struct Fixture {
    pub(crate) platform: Platform,
    pub(crate) test: TestEnv,
}

impl Fixture {
    /// With the parts of the process: no broker, no Redis.
    pub(crate) async fn embedded() -> Self {
        let test = TestEnv::create().await;
        Self { platform: Platform::open(test.settings_in_process()).expect("opens"), test }
    }

    pub(crate) async fn org(&self, name: &str) -> OrgId {
        let admin = OrgScope::for_run(None, actor(name, true)).widened();
        let mut tx = self.platform.db.begin(&admin).await.expect("begins");
        let new = NewOrganization {
            name: name.into(),
            domain: Some(format!("{name}.example")),
            is_active: true,
            settings: serde_json::json!({}),
        };
        let organization = organizations::insert(&mut tx, new).await.expect("inserts");
        tx.commit().await.expect("commits");
        organization.id
    }

    pub(crate) async fn register(&self, email: &str) -> domain::Result<User> {
        let registration =
            Registration { email: email.into(), name: None, password: PASSWORD.into(), production: false };
        let Platform { db, mailer, .. } = &self.platform;
        users::register(db, mailer, registration, None).await.map(|done| done.user)
    }

    pub(crate) async fn sign_in(&self, email: &str) -> sessions::Started {
        let db = &self.platform.db;
        let first = sessions::authenticate(db, email, PASSWORD.into(), false, None).await.expect("is known");
        sessions::start(db, &first.user, 7, None, None).await.expect("signs in")
    }

    pub(crate) async fn principal(&self, email: &str) -> Principal {
        self.sign_in(email).await.principal
    }

    pub(crate) async fn submit(
        &self,
        scope: &OrgScope,
        change: impl FnOnce(&mut NewExecution),
    ) -> domain::Result<Submitted> {
        let mut new = NewExecution::new(inline("x = 1"), json("{}"));
        change(&mut new);
        self.platform.submitter.submit(scope, new).await
    }

    pub(crate) async fn claim(&self, worker: WorkerId, limit: usize) -> Vec<Claimed> {
        claim::claim(&self.platform.db, worker, limit).await.expect("claims")
    }

    pub(crate) async fn finish(&self, outcomes: &[Outcome]) -> Vec<Recorded> {
        finish::record(&self.platform.db, &[], outcomes).await.expect("finishes").recorded
    }

    pub(crate) async fn status(&self, id: ExecutionId) -> Status {
        let scope = OrgScope::for_run(None, actor("reader", true)).widened();
        let mut tx = self.platform.db.begin(&scope).await.expect("begins");
        domain::executions::list::get(&mut tx, id).await.expect("is there").status
    }

    /// Changes rows behind the application's back.
    pub(crate) async fn sql(&self, statement: impl Into<String>) {
        let mut conn = self.test.db.connect().await;
        let statement = sqlx::AssertSqlSafe(statement.into());
        sqlx::raw_sql(statement).execute(&mut conn).await.expect("the statement runs");
    }

    /// The number that a query gives.
    pub(crate) async fn count(&self, query: &str) -> i64 {
        let mut conn = self.test.db.connect().await;
        sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut conn)
            .await
            .expect("the query runs")
    }

    pub(crate) async fn close(self) {
        self.platform.db.close().await;
        self.test.close().await;
    }
}

pub(crate) fn actor(name: &str, is_platform_admin: bool) -> Actor {
    Actor {
        id: UserId::generate(),
        name: name.into(),
        email: format!("{name}@example.com"),
        is_platform_admin,
    }
}

pub(crate) fn scope_of(org: OrgId) -> OrgScope {
    OrgScope::for_run(Some(org), actor("user", false))
}

pub(crate) fn inline(code: &str) -> Work {
    Work::Inline { code: code.into(), script_name: "test".into() }
}

pub(crate) fn json(text: &str) -> RawJson {
    RawValue::from_string(text.into()).expect("JSON")
}

/// Lines of an attempt of this run, with these numbers.
pub(crate) fn batch(
    claimed: &Claimed,
    attempt: i32,
    sequences: impl IntoIterator<Item = i64>,
) -> logs::Batch {
    let line = |sequence| logs::Line {
        sequence,
        user_sequence: Some(sequence),
        attempt,
        level: "INFO".into(),
        message: format!("line {sequence}"),
        data: None,
        logged_at: chrono::Utc::now(),
    };
    logs::Batch {
        execution_id: claimed.id,
        organization_id: claimed.organization_id,
        attempt,
        lines: sequences.into_iter().map(line).collect(),
    }
}

pub(crate) fn success(claimed: &Claimed) -> Outcome {
    Outcome {
        id: claimed.id,
        attempt: claimed.attempt,
        status: Status::Success,
        retry_in: std::time::Duration::ZERO,
        is_given_back: false,
        result: Some(json(r#"{"done": true}"#)),
        result_type: Some("json".into()),
        error_message: None,
        error_type: None,
        is_user_error: false,
        variables: None,
        duration_ms: 1,
        peak_memory_bytes: None,
        cpu_total_seconds: None,
        lines: None,
    }
}
