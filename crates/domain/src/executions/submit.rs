//! Submit: the pending row, its idempotency key and its audit record, in one statement for many submissions.
//!
//! A lane takes whatever arrived while the last batch was being committed: unloaded, a submission waits for
//! nothing; under load, hundreds share one commit. Publishing the wake-ups follows the commit and is never
//! waited for: the sweeper repeats a lost one (ADR 3).

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{RawJson, Status};
use crate::events::Events;
use crate::id::{ExecutionId, OrgId, WorkflowId};
use crate::organizations::Activity;
use crate::telemetry::traces::{Part, Span};
use crate::wakeup::Wakeups;
use crate::workflows::Workflow;
use crate::{Db, Error, OrgScope, Result, SystemScope, SystemTx};

mod columns;
mod lane;

use columns::Columns;
use lane::{BATCH, Entry, Lane, replay};

const SCOPE: SystemScope =
    SystemScope::because("a batch holds submissions of many organizations, each with its own scope");

/// A submission.
#[derive(Debug, Clone)]
pub struct NewExecution {
    /// Chosen by the caller, so that it can listen for the end before the start.
    pub id: ExecutionId,
    /// What runs.
    pub work: Work,
    /// Checked input, a JSON object.
    pub parameters: RawJson,
    /// What it runs with instead ([`super::sealed::seal`]); then `parameters` only show it.
    pub sealed_parameters: Option<Vec<u8>>,
    /// The form it came from.
    pub form_id: Option<Uuid>,
    /// What the form's launch workflow returned.
    pub startup: Option<RawJson>,
    /// The run that started this one.
    pub parent_id: Option<ExecutionId>,
    /// The execution that this one repeats.
    pub rerun_of: Option<ExecutionId>,
    /// Whether the run that started it waits for its end.
    pub is_awaited: bool,
    /// Kept out of lists and metrics.
    pub transient: bool,
    /// Started by a key or at a public endpoint, not by a person.
    pub is_function_key: bool,
    /// 1 to 10, 10 first.
    pub priority: i16,
    /// Not before this time.
    pub run_at: Option<DateTime<Utc>>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// Makes a repeated submission one execution.
    pub idempotency: Option<Idempotency>,
}

/// What runs.
#[derive(Debug, Clone)]
pub enum Work {
    /// A workflow of the workspace.
    Workflow(Arc<Workflow>),
    /// Source code given with the request.
    Inline {
        /// Python source.
        code: String,
        /// What to call it.
        script_name: String,
    },
}

/// An idempotency key, valid for one caller, organization and route.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// Operation it was sent to.
    pub route: Cow<'static, str>,
    /// 1 to 255 visible ASCII characters.
    pub key: String,
    /// Digest of the body: the same key with another body is refused.
    pub fingerprint: Vec<u8>,
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The execution: new, or the one the idempotency key already names.
    pub id: ExecutionId,
    /// Its state now.
    pub status: Status,
    /// Whether the key named an earlier submission.
    pub replayed: bool,
}

/// Where submissions go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Submitter {
    queue: mpsc::Sender<Entry>,
    activity: Activity,
    db: Db,
}

impl Submitter {
    /// Starts the lane; it ends when the last submitter is dropped.
    pub fn start(db: Db, wakeups: Wakeups, events: Events) -> Self {
        let (queue, entries) = mpsc::channel(BATCH * 4);
        let activity = Activity::new(db.clone());
        tokio::spawn(Lane { db: db.clone(), wakeups, events }.run(entries));
        Self { queue, activity, db }
    }

    /// Writes the pending row. When this returns, the execution is durable.
    ///
    /// # Errors
    /// [`Error::Forbidden`] without an organization context, [`Error::Impossible`] for an inactive one, [`Error::Invalid`] for an idempotency key that
    /// was used with another body, [`Error::Unavailable`] when PostgreSQL is away: then nothing was written.
    pub async fn submit(&self, scope: &OrgScope, new: NewExecution) -> Result<Submitted> {
        let _span = Span::start(Part::Internal, "submit", new.traceparent.as_deref());
        let owner = self.owner(scope).await?;
        let (answer, submitted) = oneshot::channel();
        let entry = Entry { scope: scope.clone(), owner, new, answer };
        self.queue.send(entry).await.map_err(|_| Error::internal("the submit lane is gone"))?;
        submitted.await.map_err(|_| Error::internal("the submit lane dropped its batch"))?
    }

    /// What an earlier submission of this key became, if there was one: also when today it could not be made any more.
    ///
    /// # Errors
    /// [`Error::Forbidden`] without an organization context, [`Error::Invalid`] for a key that was used with another body,
    /// [`Error::Unavailable`] when PostgreSQL is away.
    pub async fn replay(&self, scope: &OrgScope, idempotency: &Idempotency) -> Result<Option<Submitted>> {
        replay(&self.db, scope.owner()?, scope.actor().id, idempotency).await
    }

    /// The organization that what is submitted in this scope belongs to, if anything may run in it.
    ///
    /// # Errors
    /// [`Error::Forbidden`] without an organization context, [`Error::Impossible`] for an inactive one.
    pub(crate) async fn owner(&self, scope: &OrgScope) -> Result<Option<OrgId>> {
        let owner = scope.owner()?;
        if let Some(organization) = owner {
            self.activity.require(organization).await?;
        }
        Ok(owner)
    }
}

/// Writes pending rows in somebody else's transaction, which publishes the wake-ups when it has committed. No row may
/// bring an idempotency key: what makes it unique is the transaction's business.
///
/// # Errors
/// [`Error::Forbidden`] without an organization context, [`Error::Unavailable`] when PostgreSQL is away.
pub(crate) async fn insert_in(tx: &mut SystemTx, submissions: &[(OrgScope, NewExecution)]) -> Result<()> {
    if submissions.is_empty() {
        return Ok(());
    }
    let mut columns = Columns::default();
    for (scope, new) in submissions {
        columns.push(scope, scope.owner()?, new);
    }
    insert(tx.conn(), columns).await.map(drop)
}

async fn insert(conn: &mut PgConnection, c: Columns) -> Result<HashSet<Uuid>> {
    let ids = sqlx::query_scalar!(
        r#"WITH input AS (
               SELECT *
               FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                        $9::uuid[], $10::uuid[], $11::bool[], $12::uuid[], $13::text[], $14::text[], $15::bool[],
                        $16::smallint[], $17::int[], $18::int[], $19::text[], $20::text[], $21::text[], $22::text[],
                        $23::bytea[], $24::text[], $25::uuid[], $26::bool[], $27::text[], $28::timestamptz[], $29::bool[],
                        $30::uuid[], $31::bytea[])
                    AS t (id, organization_id, workflow_id, workflow_name, code, script_name, parameters, startup,
                        form_id, parent_id, transient, executed_by, executed_by_name, executed_by_email, is_platform_admin,
                        priority, timeout_seconds, max_attempts, retry_policy, traceparent, route, key,
                        fingerprint, request_id, audit_id, is_function_key, concurrency_key, run_at, is_awaited, rerun_of,
                        sealed_parameters)
           ), keyed AS (
               INSERT INTO idempotency_keys (organization_id, user_id, route, key, fingerprint, execution_id)
               SELECT organization_id, executed_by, route, key, fingerprint, id FROM input WHERE key IS NOT NULL
               ON CONFLICT DO NOTHING
               RETURNING execution_id
           ), accepted AS MATERIALIZED (
               SELECT * FROM input WHERE key IS NULL OR id IN (SELECT execution_id FROM keyed)
           ), audited AS MATERIALIZED (
               SELECT audit_append(array_agg(audit_id), array_agg(organization_id), array_agg(executed_by),
                   array_agg(executed_by_email), array_agg('execution.submitted'::text), array_agg(id::text),
                   array_agg(request_id), array_agg(NULL::text))
               FROM accepted
               HAVING count(*) > 0
           )
           INSERT INTO executions (id, organization_id, workflow_id, workflow_name, code, script_name, parameters, startup,
               form_id, parent_id, transient, executed_by, executed_by_name, executed_by_email, is_platform_admin,
               priority, timeout_seconds, max_attempts, retry_policy, traceparent, is_function_key, concurrency_key,
               is_awaited, rerun_of, sealed_parameters, due_at, queue_rank)
           SELECT id, organization_id, workflow_id, workflow_name, code, script_name, parameters::json, startup::json,
               form_id, parent_id, transient, executed_by, executed_by_name, executed_by_email, is_platform_admin,
               priority, timeout_seconds, max_attempts, retry_policy::json, traceparent, is_function_key, concurrency_key,
               is_awaited, rerun_of, sealed_parameters, GREATEST(run_at, now()), GREATEST(run_at, now()) - make_interval(mins => priority)
           -- Appending is a call: it happens only if its row is asked for.
           FROM accepted CROSS JOIN audited
           RETURNING id"#,
        &c.ids,
        &c.organizations as &[Option<Uuid>],
        &c.workflows as &[Option<Uuid>],
        &c.names,
        &c.codes as &[Option<String>],
        &c.script_names as &[Option<String>],
        &c.parameters,
        &c.startups as &[Option<String>],
        &c.forms as &[Option<Uuid>],
        &c.parents as &[Option<Uuid>],
        &c.transients,
        &c.users,
        &c.user_names,
        &c.emails,
        &c.admins,
        &c.priorities,
        &c.timeouts,
        &c.max_attempts,
        &c.retry_policies as &[Option<String>],
        &c.traceparents as &[Option<String>],
        &c.routes as &[Option<String>],
        &c.keys as &[Option<String>],
        &c.fingerprints as &[Option<Vec<u8>>],
        &c.request_ids as &[Option<String>],
        &c.audit_ids,
        &c.function_keys,
        &c.concurrency_keys as &[Option<String>],
        &c.run_ats as &[Option<DateTime<Utc>>],
        &c.awaited,
        &c.reruns as &[Option<Uuid>],
        &c.sealed_parameters as &[Option<Vec<u8>>],
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().collect())
}

impl Work {
    /// What its runs are called.
    pub fn name(&self) -> &str {
        match self {
            Self::Workflow(workflow) => &workflow.name,
            Self::Inline { script_name, .. } => script_name,
        }
    }
}

impl NewExecution {
    /// A submission with the usual priority and nothing special.
    pub fn new(work: Work, parameters: RawJson) -> Self {
        Self {
            id: ExecutionId::generate(),
            work,
            parameters,
            sealed_parameters: None,
            form_id: None,
            startup: None,
            parent_id: None,
            rerun_of: None,
            is_awaited: false,
            transient: false,
            is_function_key: false,
            priority: 5,
            run_at: None,
            traceparent: None,
            idempotency: None,
        }
    }

    /// The workflow, unless it is inline code.
    pub fn workflow_id(&self) -> Option<WorkflowId> {
        match &self.work {
            Work::Workflow(workflow) => Some(workflow.id),
            Work::Inline { .. } => None,
        }
    }
}
