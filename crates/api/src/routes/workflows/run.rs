//! Running a workflow or inline code: submit, and for synchronous workflows wait for the end.
//!
//! The hot path: the row is written in a shared batch, the answer comes from the event of its end.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::executions::RawJson;
use domain::executions::bulk::Repeatable;
use domain::executions::submit::{Idempotency, NewExecution, Work};
use domain::id::{ExecutionId, FormId};
use domain::json::{canonical, pointer_below};
use domain::workflows::{Workflow, check_at};
use domain::{OrgScope, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::answer::{self, Ran, Told};
use super::wait::{self, Outcome};
use crate::problem::Problem;
use crate::routes::executions;
use crate::{AppState, deadline, observe};

pub(super) const DEFAULT_PRIORITY: i16 = 5;
/// What inline code is called if it has no name.
pub(super) const UNNAMED: &str = "inline_script";

/// A checked request: what is to run, with what.
pub(crate) struct Run {
    pub(super) work: Work,
    pub(super) parameters: RawJson,
    pub(super) form_id: Option<Uuid>,
    pub(super) startup: Option<RawJson>,
    pub(super) transient: bool,
    pub(super) priority: i16,
    pub(super) is_function_key: bool,
    pub(super) waits: bool,
    pub(super) run_at: Option<DateTime<Utc>>,
    pub(super) rerun_of: Option<ExecutionId>,
}

impl Run {
    pub(super) fn new(work: Work, parameters: RawJson) -> Self {
        Self {
            waits: matches!(&work, Work::Workflow(workflow) if workflow.is_sync()),
            work,
            parameters,
            form_id: None,
            startup: None,
            transient: false,
            priority: DEFAULT_PRIORITY,
            is_function_key: false,
            run_at: None,
            rerun_of: None,
        }
    }

    /// A workflow that a key or a public endpoint runs, with parameters that were checked.
    pub(crate) fn of_endpoint(workflow: Arc<Workflow>, parameters: &Map<String, Value>) -> Result<Self> {
        let parameters = serde_json::value::to_raw_value(parameters).map_err(domain::Error::internal)?;
        Ok(Self { is_function_key: true, ..Self::new(Work::Workflow(workflow), parameters) })
    }

    /// A workflow without parameters whose end nobody waits for.
    ///
    /// # Errors
    /// [`domain::Error::Invalid`] when the workflow requires some.
    pub(crate) fn in_background(workflow: Arc<Workflow>) -> Result<Self> {
        let parameters = check_at(&workflow.parameters, Map::new(), in_input_data)?;
        let parameters = serde_json::value::to_raw_value(&parameters).map_err(domain::Error::internal)?;
        Ok(Self { waits: false, ..Self::new(Work::Workflow(workflow), parameters) })
    }

    /// What a form runs, with parameters that were [checked].
    pub(crate) fn of_form(
        form: FormId,
        work: Work,
        parameters: &Map<String, Value>,
        startup: Option<RawJson>,
    ) -> Result<Self> {
        let parameters = serde_json::value::to_raw_value(parameters).map_err(domain::Error::internal)?;
        Ok(Self { form_id: Some(form.0), startup, ..Self::new(work, parameters) })
    }

    /// What an execution did, once more: its code, or its workflow as that is now.
    pub(super) async fn again(
        app: &AppState,
        scope: &OrgScope,
        id: ExecutionId,
        old: Repeatable,
    ) -> Result<Self, Problem> {
        let (work, parameters) = match (old.workflow_id, old.code) {
            (Some(workflow), _) => {
                let input = serde_json::from_str(old.parameters.get()).map_err(domain::Error::internal)?;
                let (work, parameters) =
                    checked(app, scope, &workflow.to_string(), input, in_input_data).await?;
                (work, serde_json::value::to_raw_value(&parameters).map_err(domain::Error::internal)?)
            }
            (None, code) => {
                let script_name = old.script_name.unwrap_or_else(|| UNNAMED.into());
                (Work::Inline { code: code.unwrap_or_default(), script_name }, old.parameters)
            }
        };
        Ok(Self {
            form_id: old.form_id,
            startup: old.startup,
            transient: old.transient,
            priority: old.priority,
            rerun_of: Some(id),
            ..Self::new(work, parameters)
        })
    }

    /// Submits it and answers: at once, or at its end if the workflow is synchronous.
    pub(crate) async fn start(
        self,
        app: &AppState,
        scope: &OrgScope,
        idempotency: Option<Idempotency>,
        headers: &HeaderMap,
    ) -> Result<Response, Problem> {
        let ran = self.run(app, scope, idempotency, headers).await?;
        Ok(answer::respond(app, scope, Told::of(&self.work, self.transient), ran).await)
    }

    /// Starts what was prepared for a request. One that could not be made today, since the workflow has changed, but was made before
    /// with this key, is answered with what became of it then: the execution is what it was.
    ///
    /// # Errors
    /// The problem of a request that was never made.
    pub(crate) async fn start_or_replay(
        prepared: Result<Self, Problem>,
        app: &AppState,
        scope: &OrgScope,
        idempotency: Option<Idempotency>,
        headers: &HeaderMap,
    ) -> Result<Response, Problem> {
        match prepared {
            Ok(run) => run.start(app, scope, idempotency, headers).await,
            Err(problem) => Box::pin(answer::replayed_or(app, scope, idempotency, problem)).await,
        }
    }

    /// Submits it, and waits for its end if the workflow is synchronous.
    pub(crate) async fn run(
        &self,
        app: &AppState,
        scope: &OrgScope,
        idempotency: Option<Idempotency>,
        headers: &HeaderMap,
    ) -> Result<Ran, Problem> {
        let id = ExecutionId::generate();
        // Before the start: an end that comes at once is not missed then.
        let watch = self.patience(app).map(|patience| (app.platform.events.watch(id, false), patience));
        let new = self.submission(id, idempotency, headers);
        let submitted = deadline::in_time(app.platform.submitter.submit(scope, new)).await?;
        observe::submitted(scope, submitted.id);
        let outcome = match watch {
            _ if submitted.replayed => executions::get(app, scope.clone(), submitted.id).await?.into(),
            Some((watch, patience)) => wait::until_ended(app, scope, id, watch, patience).await,
            None => Outcome::unknown(submitted.status),
        };
        Ok(Ran::new(submitted.id, outcome, self.waits, submitted.replayed))
    }

    /// Submits it and waits for its end whatever its mode, as long as a request may wait.
    pub(crate) async fn finish(
        self,
        app: &AppState,
        scope: &OrgScope,
        headers: &HeaderMap,
    ) -> Result<Outcome, Problem> {
        let id = ExecutionId::generate();
        let watch = app.platform.events.watch(id, false);
        let new = self.submission(id, None, headers);
        deadline::in_time(app.platform.submitter.submit(scope, new)).await?;
        observe::submitted(scope, id);
        Ok(wait::until_ended(app, scope, id, watch, self.longest(app)).await)
    }

    fn submission(
        &self,
        id: ExecutionId,
        idempotency: Option<Idempotency>,
        headers: &HeaderMap,
    ) -> NewExecution {
        NewExecution {
            id,
            traceparent: observe::traceparent(headers),
            idempotency,
            priority: self.priority,
            form_id: self.form_id,
            startup: self.startup.clone(),
            transient: self.transient,
            is_function_key: self.is_function_key,
            run_at: self.run_at,
            rerun_of: self.rerun_of,
            ..NewExecution::new(self.work.clone(), self.parameters.clone())
        }
    }

    /// How long the request waits for the end; `None`: not at all.
    fn patience(&self, app: &AppState) -> Option<Duration> {
        (self.waits && self.run_at.is_none()).then(|| self.longest(app))
    }

    /// How long a request may wait for it.
    fn longest(&self, app: &AppState) -> Duration {
        let wait = app.platform.settings.sync_wait_seconds;
        Duration::from_secs(match &self.work {
            Work::Workflow(workflow) => u64::try_from(workflow.timeout_seconds).unwrap_or_default().min(wait),
            Work::Inline { .. } => wait,
        })
    }
}

/// Where the body of `POST /api/workflows/execute` holds a parameter.
pub(super) fn in_input_data(name: &str) -> String {
    pointer_below("/input_data", name)
}

/// The workflow of this id or unambiguous name, and the parameters as it takes them; `at` points to one in the request.
pub(crate) async fn checked(
    app: &AppState,
    scope: &OrgScope,
    workflow: &str,
    input: Map<String, Value>,
    at: impl Fn(&str) -> String,
) -> Result<(Work, Map<String, Value>), Problem> {
    let find = app.platform.catalog.get(&app.platform.db, scope, workflow);
    let workflow = deadline::in_time(find).await?;
    let parameters = check_at(&workflow.parameters, input, at)?;
    Ok((Work::Workflow(workflow), parameters))
}

/// The key with the fingerprint of what it stands for. Members of maps are sorted, so that only the meaning
/// of a body counts.
pub(crate) fn idempotency(
    route: impl Into<Cow<'static, str>>,
    key: String,
    request: &impl Serialize,
    scope: &OrgScope,
) -> Result<Idempotency> {
    let body = serde_json::to_value(request).map_err(domain::Error::internal)?;
    let organization = scope.owner()?.map(|org| org.to_string());
    let mut digest = Sha256::new();
    digest.update(canonical(body));
    digest.update(organization.unwrap_or_default());
    Ok(Idempotency { route: route.into(), key, fingerprint: digest.finalize().to_vec() })
}
