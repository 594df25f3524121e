//! `workflows.list` and `workflows.execute`: what there is, and child runs as the same caller.
//!
//! The invariant: a secret that a run has read and hands to its child is shown nowhere: not among the child's parameters, and not
//! where the child writes it.

use std::time::Duration;

use domain::events::Update;
use domain::executions::submit::{NewExecution, Work};
use domain::executions::{Execution, RawJson, Status, read, sealed, shown_error};
use domain::id::ExecutionId;
use domain::{Error, workflows};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};

use super::{Answer, Caller, Refusal, yes};

/// How often a waiting parent looks at the row of its child, should an event be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How deep runs may wait for runs: each level keeps a process.
const DEEPEST: i64 = 32;

#[derive(Deserialize)]
pub(super) struct Execute {
    workflow: String,
    #[serde(default)]
    params: Option<Map<String, Value>>,
    #[serde(default = "yes")]
    wait: bool,
}

/// A child run, as its parent is told of it.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Child {
    Started {
        execution_id: ExecutionId,
        status: Status,
    },
    Ended {
        execution_id: ExecutionId,
        status: Status,
        result: Option<RawJson>,
        error: Option<String>,
        error_type: Option<String>,
        duration_ms: Option<i64>,
    },
}

pub(super) async fn list(caller: &Caller) -> Answer {
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
pub(super) async fn execute(caller: &Caller, args: Execute) -> Answer<Child> {
    let platform = &caller.platform;
    if args.wait && read::depth(&platform.db, caller.execution_id).await? >= DEEPEST {
        return Err(Refusal::runtime(format!("runs wait for runs {DEEPEST} deep already")));
    }
    let workflow = platform.catalog.get(&platform.db, &caller.scope, &args.workflow).await?;
    let parameters = workflows::check_parameters(&workflow.parameters, args.params.unwrap_or_default())?;
    let id = ExecutionId::generate();
    let (parameters, sealed_parameters) = hand_over(caller, id, &parameters).await?;
    let child = NewExecution {
        id,
        sealed_parameters,
        parent_id: Some(caller.execution_id),
        is_awaited: args.wait,
        traceparent: caller.traceparent.clone(),
        ..NewExecution::new(Work::Workflow(workflow), parameters)
    };
    let mut watch = platform.events.watch(id, false);
    let submitted = platform.submitter.submit(&caller.scope, child).await?;
    if !args.wait {
        return Ok(Child::Started { execution_id: submitted.id, status: submitted.status });
    }
    let wait = async {
        loop {
            if let Some(update) = watch.terminal(LOOK_AGAIN).await
                && !update.result_omitted
            {
                return Ok::<_, Refusal>(Child::of_update(caller, update));
            }
            let child = read::get(&platform.db, &caller.scope, submitted.id).await?;
            if child.status.is_terminal() {
                return Ok(Child::of_row(caller, child));
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

/// What is shown of the parameters of a child run, and what it gets instead, sealed, if a secret is in them.
async fn hand_over(
    caller: &Caller,
    id: ExecutionId,
    parameters: &Map<String, Value>,
) -> Result<(RawJson, Option<Vec<u8>>), Refusal> {
    let text = to_raw_value(parameters).map_err(Error::internal)?;
    let Some((shown, handed)) = caller.with_known(|known| known.hide(parameters, &text)) else {
        return Ok((text, None));
    };
    let mut tx = caller.begin(None).await?;
    let sealed = sealed::seal(&mut tx, &caller.platform.vault, id, &handed.sealable()).await?;
    tx.commit().await?;
    Ok((shown, Some(sealed)))
}

impl Child {
    fn of_update(caller: &Caller, update: Update) -> Self {
        let error = update.error_message.as_deref();
        Self::Ended {
            execution_id: update.execution_id,
            status: update.status,
            result: update.result,
            error: shown_error(error, update.is_user_error, caller.sees_everything()),
            error_type: update.error_type,
            duration_ms: update.duration_ms,
        }
    }

    fn of_row(caller: &Caller, execution: Execution) -> Self {
        let error = execution.error_message.as_deref();
        Self::Ended {
            execution_id: execution.id,
            status: execution.status,
            result: execution.result.map(|result| result.0),
            error: shown_error(error, execution.is_user_error, caller.sees_everything()),
            error_type: execution.error_type,
            duration_ms: execution.duration_ms,
        }
    }
}
