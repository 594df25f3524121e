//! Submissions as arrays: one message to the server, whatever their number (ADR 10).

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{NewExecution, Work};
use crate::OrgScope;
use crate::executions::limits;
use crate::id::OrgId;

/// Columns of a batch, as arrays.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) ids: Vec<Uuid>,
    pub(super) organizations: Vec<Option<Uuid>>,
    pub(super) workflows: Vec<Option<Uuid>>,
    pub(super) names: Vec<String>,
    pub(super) codes: Vec<Option<String>>,
    pub(super) script_names: Vec<Option<String>>,
    pub(super) parameters: Vec<String>,
    pub(super) sealed_parameters: Vec<Option<Vec<u8>>>,
    pub(super) startups: Vec<Option<String>>,
    pub(super) forms: Vec<Option<Uuid>>,
    pub(super) parents: Vec<Option<Uuid>>,
    pub(super) transients: Vec<bool>,
    pub(super) function_keys: Vec<bool>,
    pub(super) users: Vec<Uuid>,
    pub(super) user_names: Vec<String>,
    pub(super) emails: Vec<String>,
    pub(super) admins: Vec<bool>,
    pub(super) priorities: Vec<i16>,
    pub(super) timeouts: Vec<i32>,
    pub(super) max_attempts: Vec<i32>,
    pub(super) retry_policies: Vec<Option<String>>,
    pub(super) traceparents: Vec<Option<String>>,
    pub(super) routes: Vec<Option<String>>,
    pub(super) keys: Vec<Option<String>>,
    pub(super) fingerprints: Vec<Option<Vec<u8>>>,
    pub(super) request_ids: Vec<Option<String>>,
    pub(super) audit_ids: Vec<Uuid>,
    pub(super) concurrency_keys: Vec<Option<String>>,
    pub(super) run_ats: Vec<Option<DateTime<Utc>>>,
    pub(super) awaited: Vec<bool>,
    pub(super) reruns: Vec<Option<Uuid>>,
}

impl Columns {
    pub(super) fn push(&mut self, scope: &OrgScope, owner: Option<OrgId>, new: &NewExecution) {
        let actor = scope.actor();
        let json = |raw: &RawValue| raw.get().to_owned();
        self.ids.push(new.id.0);
        self.organizations.push(owner.map(|org| org.0));
        match &new.work {
            Work::Workflow(workflow) => {
                self.workflows.push(Some(workflow.id.0));
                self.names.push(workflow.name.clone());
                self.codes.push(None);
                self.script_names.push(None);
                self.timeouts.push(workflow.timeout_seconds);
                self.max_attempts.push(workflow.max_attempts);
                let policy =
                    (workflow.max_attempts > 1).then(|| workflow.definition.get("retry_policy")).flatten();
                self.retry_policies.push(policy.map(ToString::to_string));
                self.concurrency_keys.push(limits::key_of(workflow, &new.parameters));
            }
            Work::Inline { code, script_name } => {
                self.workflows.push(None);
                self.names.push(script_name.clone());
                self.codes.push(Some(code.clone()));
                self.script_names.push(Some(script_name.clone()));
                self.timeouts.push(1800);
                self.max_attempts.push(1);
                self.retry_policies.push(None);
                self.concurrency_keys.push(None);
            }
        }
        self.parameters.push(json(&new.parameters));
        self.sealed_parameters.push(new.sealed_parameters.clone());
        self.startups.push(new.startup.as_deref().map(json));
        self.forms.push(new.form_id);
        self.parents.push(new.parent_id.map(|id| id.0));
        self.transients.push(new.transient);
        self.function_keys.push(new.is_function_key);
        self.users.push(actor.id.0);
        self.user_names.push(actor.name.clone());
        self.emails.push(actor.email.clone());
        self.admins.push(actor.is_platform_admin);
        self.priorities.push(new.priority);
        self.traceparents.push(new.traceparent.clone());
        let idempotency = new.idempotency.as_ref();
        self.routes.push(idempotency.map(|i| i.route.to_string()));
        self.keys.push(idempotency.map(|i| i.key.clone()));
        self.fingerprints.push(idempotency.map(|i| i.fingerprint.clone()));
        self.request_ids.push(scope.request_id().map(str::to_owned));
        self.audit_ids.push(Uuid::now_v7());
        self.run_ats.push(new.run_at);
        self.awaited.push(new.is_awaited);
        self.reruns.push(new.rerun_of.map(|id| id.0));
    }
}
