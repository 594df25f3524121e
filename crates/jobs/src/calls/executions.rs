//! `executions.*` and `workflows.get`: what ran; one's own for everybody, all of it for platform administrators.
//!
//! Results go through as the text they are stored as. The invariant: what is held of them for one answer is bounded, however large
//! they are and however many are asked for.

use chrono::{DateTime, Utc};
use domain::executions::list::{self, Filters};
use domain::executions::logs::Line;
use domain::executions::{Execution, RawJson, Status, read, shown_error};
use domain::id::{ExecutionId, UserId};
use domain::page::Cursor;
use runner::MAX_FRAME;
use serde::{Deserialize, Serialize};

use super::{Answer, Caller, Refusal, is_readable, parse_id, told};
use crate::transcript::MAX_LINES;

const MAX_LISTED: i64 = 1_000;
/// Executions that are read at once: so many more results than fit into an answer are held at most.
const PAGE: i64 = 16;
/// Bytes of an answer that are left to what is around parameters, result and lines.
const AROUND: usize = 2 * 1024 * 1024;

#[derive(Deserialize)]
pub(super) struct Get {
    execution_id: String,
}

#[derive(Deserialize)]
pub(super) struct List {
    workflow_name: Option<String>,
    status: Option<String>,
    start_date: Option<DateTime<Utc>>,
    end_date: Option<DateTime<Utc>>,
    limit: Option<i64>,
}

/// An execution, as the SDK shows it.
#[derive(Serialize)]
pub(super) struct Shown {
    id: ExecutionId,
    workflow_name: String,
    workflow_version: Option<String>,
    status: Status,
    executed_by: UserId,
    executed_by_name: String,
    parameters: RawJson,
    result: Option<RawJson>,
    error_message: Option<String>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    completed_at: Option<DateTime<Utc>>,
    duration_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<Vec<RawJson>>,
}

/// A line of its log.
#[derive(Serialize)]
struct ShownLine {
    level: String,
    message: String,
    metadata: Option<RawJson>,
    timestamp: DateTime<Utc>,
}

pub(super) async fn get(caller: &Caller, args: Get) -> Answer<Shown> {
    let id = parse_id("execution_id", &args.execution_id)?;
    let (db, scope) = (&caller.platform.db, caller.scope_by_id());
    // All there can be, and the marker.
    let most = MAX_LINES + 1;
    let (execution, lines) = read::get_with_lines(db, &scope, id, most, caller.sees_everything()).await?;
    let shown = Shown::new(caller, execution);
    let room = MAX_FRAME.saturating_sub(AROUND + shown.bytes());
    Ok(Shown { logs: Some(first_lines(lines, room)?), ..shown })
}

pub(super) async fn list(caller: &Caller, args: List) -> Answer<Vec<Shown>> {
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
    let mut left = args.limit.unwrap_or(50).clamp(1, MAX_LISTED);
    let (mut shown, mut bytes, mut after) = (Vec::new(), 0, None);
    let mut tx = caller.begin(None).await?;
    while left > 0 {
        let wanted = left.min(PAGE);
        let page = list::list(&mut tx, &filters, wanted, after).await?;
        let is_last = (page.len() as i64) < wanted;
        left -= wanted;
        for execution in page {
            after = Some(Cursor(execution.id.0));
            let one = Shown::new(caller, execution);
            bytes += one.bytes();
            if bytes > MAX_FRAME {
                return Err(Refusal::runtime(too_large(shown.len() + 1)));
            }
            shown.push(one);
        }
        if is_last {
            break;
        }
    }
    tx.commit().await?;
    Ok(shown)
}

fn too_large(count: usize) -> String {
    format!(
        "the answer is too large: parameters and results of the newest {count} of these executions have more than {} MiB; ask for fewer with limit=",
        MAX_FRAME / 1024 / 1024,
    )
}

/// As many lines as fit, and one that says so if these are not all.
fn first_lines(lines: Vec<Line>, mut room: usize) -> Answer<Vec<RawJson>> {
    let mut shown = Vec::with_capacity(lines.len());
    for line in lines {
        let timestamp = line.logged_at;
        // What Python cannot read must not keep it from the rest.
        let metadata = line.data.map(|data| data.0).filter(|data| is_readable(data.get()));
        let text = told(ShownLine { level: line.level, message: line.message, metadata, timestamp })?;
        if text.get().len() >= room {
            let message = "later lines are left out here: with them the answer would be too large".into();
            shown.push(told(ShownLine { level: "WARNING".into(), message, metadata: None, timestamp })?);
            break;
        }
        room -= text.get().len() + 1;
        shown.push(text);
    }
    Ok(shown)
}

impl Shown {
    fn new(caller: &Caller, execution: Execution) -> Self {
        let error = execution.error_message.as_deref();
        Self {
            error_message: shown_error(error, execution.is_user_error, caller.sees_everything()),
            id: execution.id,
            workflow_name: execution.workflow_name,
            workflow_version: None,
            status: execution.status,
            executed_by: execution.executed_by,
            executed_by_name: execution.executed_by_name,
            parameters: execution.parameters.0,
            result: execution.result.map(|result| result.0),
            created_at: execution.created_at,
            started_at: execution.started_at,
            completed_at: execution.completed_at,
            duration_ms: execution.duration_ms,
            logs: None,
        }
    }

    /// About how many it takes in an answer.
    fn bytes(&self) -> usize {
        self.parameters.get().len() + self.result.as_ref().map_or(0, |result| result.get().len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn line(sequence: i64) -> Line {
        Line {
            sequence,
            user_sequence: Some(sequence),
            attempt: 1,
            level: "INFO".into(),
            message: "x".repeat(1_000),
            data: None,
            logged_at: Utc::now(),
        }
    }

    #[test]
    fn of_the_lines_as_many_are_shown_as_fit_and_one_that_says_so() {
        for (room, expected) in [(1 << 20, 10), (3_500, 4), (0, 1)] {
            let Ok(shown) = first_lines((1..=10).map(line).collect(), room) else { panic!("is shown") };
            assert_eq!(shown.len(), expected);
            let last: Value = serde_json::from_str(shown[expected - 1].get()).expect("JSON");
            let is_marker = last["message"].as_str().is_some_and(|text| text.starts_with("later lines"));
            assert_eq!(is_marker, expected < 10);
        }
    }
}
