//! What the SDK asks for: answered in the execution's own scope, over the run's private socket.
//!
//! Python never sees a connection string or a key. An organization other than the run's own is for platform
//! administrators.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::config::{NewValue, ValueType};
use domain::events::Update;
use domain::executions::claim::Claimed;
use domain::executions::list::{self, Filters};
use domain::executions::logs::Line;
use domain::executions::submit::{NewExecution, Work};
use domain::executions::{Execution, Status, read};
use domain::id::{ExecutionId, OrgId};
use domain::{Error, OrgScope, OrgTx, Platform, config, secrets, workflows};
use runner::{Call, Replier};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};

use crate::mask::Mask;
use crate::slots::Slot;

mod files;
mod forms;
mod oauth;
mod organizations;
mod roles;
mod uploads;

/// How often a waiting parent looks at the row of its child, should an event be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How deep runs may wait for runs: each level keeps a process.
const DEEPEST: i64 = 32;
const MAX_LISTED: i64 = 1_000;
const MAX_LINES: i64 = 20_000;

/// Who asks: one run.
pub(crate) struct Caller {
    platform: Platform,
    scope: OrgScope,
    execution_id: ExecutionId,
    form_id: Option<uuid::Uuid>,
    slot: Slot,
    /// The files that the run is made of, once it has begun.
    workspace: OnceLock<PathBuf>,
    /// Context of the run, for what it starts.
    traceparent: Option<String>,
    /// That of the process once there is one: a run may still hold what a run before it has read.
    mask: OnceLock<Arc<Mutex<Mask>>>,
}

/// A refusal, as the SDK raises it.
struct Refusal {
    kind: &'static str,
    message: String,
}

type Answer = Result<Value, Refusal>;

impl Caller {
    pub(crate) fn new(
        platform: Platform,
        claimed: &Claimed,
        slot: Slot,
        traceparent: Option<String>,
    ) -> Self {
        Self {
            platform,
            scope: claimed.scope(),
            execution_id: claimed.id,
            form_id: claimed.form_id,
            slot,
            workspace: OnceLock::new(),
            traceparent,
            mask: OnceLock::new(),
        }
    }

    /// Says which files the run is made of: what it reads is of the same state as its code.
    pub(crate) fn runs_in(&self, workspace: &Path) {
        let _ = self.workspace.set(workspace.to_owned()); // a second try begins in the same
    }

    /// Says what masks the output of the process that the run is in.
    pub(crate) fn share_mask(&self, mask: Arc<Mutex<Mask>>) {
        let _ = self.mask.set(mask); // before anything is masked
    }

    /// Works with the secrets that this run, and those before it in the same process, have read so far.
    pub(crate) fn with_mask<T>(&self, work: impl FnOnce(&mut Mask) -> T) -> T {
        work(&mut self.mask.get_or_init(Arc::default).lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn remember_secret(&self, value: &str) {
        self.with_mask(|mask| mask.add(value));
    }

    /// The run's own scope, or another organization's for a platform administrator.
    fn scope(&self, org_id: Option<&str>) -> Result<OrgScope, Refusal> {
        let Some(wanted) = org_id else { return Ok(self.scope.clone()) };
        let own = self.scope.owner()?;
        let org = match wanted {
            "GLOBAL" => None,
            id => Some(id.parse::<OrgId>().map_err(|_| Refusal::value("org_id is not an organization id"))?),
        };
        if org == own {
            return Ok(self.scope.clone());
        }
        if !self.scope.actor().is_platform_admin {
            return Err(Refusal {
                kind: "PermissionError",
                message: "only a platform admin may name another organization".into(),
            });
        }
        Ok(OrgScope::for_run(org, self.scope.actor().clone()))
    }

    async fn begin(&self, org_id: Option<&str>) -> Result<OrgTx, Refusal> {
        let scope = self.scope(org_id)?;
        Ok(self.platform.db.begin(&scope).await?)
    }

    /// Over all organizations; for what only platform administrators may do.
    async fn begin_as_admin(&self, what: &str) -> Result<OrgTx, Refusal> {
        if !self.scope.actor().is_platform_admin {
            let message = format!("only a platform admin may {what}");
            return Err(Refusal { kind: "PermissionError", message });
        }
        Ok(self.platform.db.begin(&self.scope.clone().widened()).await?)
    }
}

/// Answers a call; a run that is gone by then needs no answer.
pub(crate) async fn answer(caller: &Caller, replier: &Replier, call: Call) {
    let answered = match dispatch(caller, &call).await {
        Ok(value) => replier.reply(call.id, &value).await,
        Err(refusal) => replier.refuse(call.id, refusal.kind, &refusal.message).await,
    };
    if let Err(error) = answered {
        tracing::debug!(%error, method = call.method, "a run ended before it was answered");
    }
}

async fn dispatch(caller: &Caller, call: &Call) -> Answer {
    let args = call.args.get();
    match call.method.as_str() {
        "config.get" => config_get(caller, read(args)?).await,
        "config.set" => config_set(caller, read(args)?).await,
        "config.list" => config_list(caller, read(args)?).await,
        "config.delete" => config_delete(caller, read(args)?).await,
        "secrets.get" => secrets_get(caller, read(args)?).await,
        "secrets.set" => secrets_set(caller, read(args)?).await,
        "secrets.list" => secrets_list(caller, read(args)?).await,
        "secrets.delete" => secrets_delete(caller, read(args)?).await,
        "workflows.list" => workflows_list(caller).await,
        "workflows.execute" => workflows_execute(caller, read(args)?).await,
        "workflows.get" | "executions.get" => executions_get(caller, read(args)?).await,
        "executions.list" => executions_list(caller, read(args)?).await,
        "oauth.get" => oauth::get(caller, read(args)?).await,
        "oauth.refresh_token" => oauth::refresh_token(caller, read(args)?).await,
        "oauth.set_token" => oauth::set_token(caller, read(args)?).await,
        "oauth.list_providers" => oauth::list_providers(caller, read(args)?).await,
        "oauth.delete_token" => oauth::delete_token(caller, read(args)?).await,
        "files.read" => files::read(caller, read(args)?).await,
        "files.write" => files::write(caller, read(args)?).await,
        "files.list" => files::list(caller, read(args)?).await,
        "files.exists" => files::exists(caller, read(args)?).await,
        "files.delete" => files::delete(caller, read(args)?).await,
        "forms.list" => forms::list(caller).await,
        "forms.get" => forms::get(caller, read(args)?).await,
        "roles.list" => roles::list(caller).await,
        "roles.get" => roles::get(caller, read(args)?).await,
        "roles.create" => roles::create(caller, read(args)?).await,
        "roles.update" => roles::update(caller, read(args)?).await,
        "roles.delete" => roles::delete(caller, read(args)?).await,
        "roles.list_users" => roles::list_users(caller, read(args)?).await,
        "roles.list_forms" => roles::list_forms(caller, read(args)?).await,
        "roles.assign_users" => roles::assign_users(caller, read(args)?).await,
        "roles.assign_forms" => roles::assign_forms(caller, read(args)?).await,
        "uploads.read" => uploads::read(caller, read(args)?).await,
        "uploads.exists" => uploads::exists(caller, read(args)?).await,
        "uploads.list" => uploads::list(caller).await,
        "organizations.get" => organizations::get(caller, read(args)?).await,
        "organizations.list" => organizations::list(caller).await,
        "organizations.create" => organizations::create(caller, read(args)?).await,
        "organizations.update" => organizations::update(caller, read(args)?).await,
        "organizations.delete" => organizations::delete(caller, read(args)?).await,
        other => Err(Refusal { kind: "RuntimeError", message: format!("the worker knows no call {other}") }),
    }
}

#[derive(Deserialize)]
struct Key {
    key: String,
    org_id: Option<String>,
}

#[derive(Deserialize)]
struct Org {
    org_id: Option<String>,
}

#[derive(Deserialize)]
struct SetConfig {
    key: String,
    value: Value,
    #[serde(default)]
    is_secret: bool,
    org_id: Option<String>,
}

#[derive(Deserialize)]
struct SetSecret {
    key: String,
    value: SecretString,
    org_id: Option<String>,
}

#[derive(Deserialize)]
struct Execute {
    workflow: String,
    #[serde(default)]
    params: Option<Map<String, Value>>,
    #[serde(default = "yes")]
    wait: bool,
}

#[derive(Deserialize)]
struct Get {
    execution_id: String,
}

#[derive(Deserialize)]
struct List {
    workflow_name: Option<String>,
    status: Option<String>,
    start_date: Option<DateTime<Utc>>,
    end_date: Option<DateTime<Utc>>,
    limit: Option<i64>,
}

async fn config_get(caller: &Caller, args: Key) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let found = config::find(&mut tx, &caller.platform.vault, &args.key).await?;
    tx.commit().await?;
    Ok(match found {
        Some(found) => json!({ "found": true, "value": caller.shown(found) }),
        None => json!({ "found": false, "value": null }),
    })
}

async fn config_set(caller: &Caller, args: SetConfig) -> Answer {
    let (value_type, text) = config::text_of(&args.value);
    let value_type = if args.is_secret { ValueType::Secret } else { value_type };
    if args.is_secret {
        caller.remember_secret(&text);
    }
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let new = NewValue { key: &args.key, value_type, text: &text, description: None };
    config::put(&mut tx, &caller.platform.vault, new).await?;
    tx.commit().await?;
    Ok(Value::Null)
}

async fn config_list(caller: &Caller, args: Org) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let values = config::list(&mut tx, &caller.platform.vault).await?;
    tx.commit().await?;
    Ok(values.into_iter().map(|(key, found)| (key, caller.shown(found))).collect::<Map<_, _>>().into())
}

async fn config_delete(caller: &Caller, args: Key) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let deleted = config::delete(&mut tx, &args.key).await?;
    tx.commit().await?;
    Ok(deleted.into())
}

async fn secrets_get(caller: &Caller, args: Key) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let found = secrets::find(&mut tx, &caller.platform.vault, &args.key).await?;
    tx.commit().await?;
    let Some(secret) = found else { return Ok(Value::Null) };
    caller.remember_secret(secret.expose_secret());
    Ok(secret.expose_secret().into())
}

async fn secrets_set(caller: &Caller, args: SetSecret) -> Answer {
    caller.remember_secret(args.value.expose_secret());
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    secrets::set(&mut tx, &caller.platform.vault, &args.key, &args.value).await?;
    tx.commit().await?;
    Ok(Value::Null)
}

async fn secrets_list(caller: &Caller, args: Org) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let names = secrets::list(&mut tx).await?;
    tx.commit().await?;
    Ok(names.into())
}

async fn secrets_delete(caller: &Caller, args: Key) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let deleted = secrets::delete(&mut tx, &args.key).await?;
    tx.commit().await?;
    Ok(deleted.into())
}

async fn workflows_list(caller: &Caller) -> Answer {
    let mut tx = caller.begin(None).await?;
    let found = workflows::list(&mut tx).await?;
    tx.commit().await?;
    let shown = found.into_iter().map(|workflow| {
        json!({
            "name": workflow.name,
            "description": workflow.description,
            "parameters": workflow.parameters.0,
            "executionMode": workflow.execution_mode,
            "endpointEnabled": workflow.definition.get("endpoint_enabled").cloned().unwrap_or(Value::Bool(false)),
        })
    });
    Ok(shown.collect())
}

/// A child run as the same caller. While it is waited for, the parent lends its slot.
async fn workflows_execute(caller: &Caller, args: Execute) -> Answer {
    let platform = &caller.platform;
    if args.wait && read::depth(&platform.db, caller.execution_id).await? >= DEEPEST {
        return Err(Refusal::runtime(format!("runs wait for runs {DEEPEST} deep already")));
    }
    let workflow = platform.catalog.get(&platform.db, &caller.scope, &args.workflow).await?;
    let parameters = workflows::check_parameters(&workflow.parameters, args.params.unwrap_or_default())?;
    let parameters = to_raw_value(&parameters).map_err(Error::internal)?;
    let child = NewExecution {
        parent_id: Some(caller.execution_id),
        is_awaited: args.wait,
        traceparent: caller.traceparent.clone(),
        ..NewExecution::new(Work::Workflow(workflow), parameters)
    };
    let mut watch = platform.events.watch(child.id, false);
    let submitted = platform.submitter.submit(&caller.scope, child).await?;
    if !args.wait {
        return Ok(json!({ "execution_id": submitted.id, "status": submitted.status }));
    }
    let wait = async {
        loop {
            if let Some(update) = watch.terminal(LOOK_AGAIN).await
                && !update.result_omitted
            {
                return Ok(outcome_of(update));
            }
            let child = get(caller, submitted.id).await?;
            if child.status.is_terminal() {
                return Ok(outcome_of_row(child));
            }
        }
    };
    let lent = caller.slot.lend(wait).await;
    lent.unwrap_or_else(|| {
        let message =
            format!("too many runs wait for others; {} was started, and is not waited for", submitted.id);
        Err(Refusal::runtime(message))
    })
}

async fn executions_get(caller: &Caller, args: Get) -> Answer {
    let id = args.execution_id.parse().map_err(|_| Refusal::value("execution_id is not an id"))?;
    let all_levels = caller.scope.actor().is_platform_admin;
    let (execution, lines) =
        read::get_with_lines(&caller.platform.db, &caller.scope, id, MAX_LINES, all_levels).await?;
    let mut shown = show(execution);
    shown["logs"] = lines.into_iter().map(show_line).collect();
    Ok(shown)
}

async fn executions_list(caller: &Caller, args: List) -> Answer {
    let status = match args.status {
        Some(name) => Some(
            name.parse::<Status>().map_err(|()| Refusal::value(&format!("no status is called {name}")))?,
        ),
        None => None,
    };
    let actor = caller.scope.actor();
    let filters = Filters {
        workflow_name: args.workflow_name,
        status,
        since: args.start_date,
        until: args.end_date,
        executed_by: (!actor.is_platform_admin).then_some(actor.id),
    };
    let mut tx = caller.begin(None).await?;
    let found = list::list(&mut tx, &filters, args.limit.unwrap_or(50).clamp(1, MAX_LISTED), None).await?;
    tx.commit().await?;
    Ok(found.into_iter().map(show).collect())
}

impl Caller {
    /// The value for the run; a secret is remembered, so that it can be masked.
    fn shown(&self, found: config::Effective) -> Value {
        if found.is_secret {
            self.remember_secret(found.value.as_str().unwrap_or_default());
        }
        found.value
    }
}

async fn get(caller: &Caller, id: ExecutionId) -> Result<Execution, Refusal> {
    Ok(read::get(&caller.platform.db, &caller.scope, id).await?)
}

fn outcome_of(update: Update) -> Value {
    json!({
        "execution_id": update.execution_id,
        "status": update.status,
        "result": update.result,
        "error": update.error_message,
        "error_type": update.error_type,
        "duration_ms": update.duration_ms,
    })
}

fn outcome_of_row(execution: Execution) -> Value {
    json!({
        "execution_id": execution.id,
        "status": execution.status,
        "result": execution.result,
        "error": execution.error_message,
        "error_type": execution.error_type,
        "duration_ms": execution.duration_ms,
    })
}

fn show(execution: Execution) -> Value {
    json!({
        "id": execution.id,
        "workflow_name": execution.workflow_name,
        "workflow_version": null,
        "status": execution.status,
        "executed_by": execution.executed_by,
        "executed_by_name": execution.executed_by_name,
        "parameters": execution.parameters,
        "result": execution.result,
        "error_message": execution.error_message,
        "created_at": execution.created_at,
        "started_at": execution.started_at,
        "completed_at": execution.completed_at,
        "duration_ms": execution.duration_ms,
    })
}

fn show_line(line: Line) -> Value {
    json!({ "level": line.level, "message": line.message, "metadata": line.data, "timestamp": line.logged_at })
}

fn read<'a, T: Deserialize<'a>>(args: &'a str) -> Result<T, Refusal> {
    serde_json::from_str(args).map_err(|error| {
        // The parser quotes what it got, which may be a secret; what it expected says enough.
        let text = error.to_string();
        let message = match text.rsplit_once(", expected ") {
            Some((_, expected)) => format!("an argument does not fit: expected {expected}"),
            None => text,
        };
        Refusal { kind: "TypeError", message }
    })
}

fn parse_id<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| Refusal::value(&format!("{name}: not an id")))
}

fn yes() -> bool {
    true
}

impl Refusal {
    fn value(message: &str) -> Self {
        Self { kind: "ValueError", message: message.into() }
    }

    fn runtime(message: String) -> Self {
        Self { kind: "RuntimeError", message }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NotFound(_) | Error::Invalid(_) | Error::Conflict(_) | Error::Impossible(_) => {
                "ValueError"
            }
            Error::Forbidden(_) | Error::Unauthenticated => "PermissionError",
            Error::TooMany { .. } | Error::Unavailable { .. } | Error::Internal(_) => "RuntimeError",
        };
        let message = match &error {
            Error::Invalid(faults) => faults
                .iter()
                .map(|fault| format!("{}: {}", fault.pointer, fault.detail))
                .collect::<Vec<_>>()
                .join("; "),
            Error::Internal(source) => {
                tracing::error!(%source, "a call of a run failed");
                "the platform could not answer this call".into()
            }
            other => other.to_string(),
        };
        Self { kind, message }
    }
}
