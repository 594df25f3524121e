//! Asking data providers: the functions that fill the options of forms.
//!
//! A provider runs like a workflow, as an execution of a kind that nothing lists and that is removed at its end (ADR 30).
//! Answers are kept per organization, provider and inputs until their time is over or the file changes. Who asks while
//! an answer is being computed, on whichever replica, waits for that computation.
//!
//! The invariant: an answer that may be shared is computed without rights beyond the organization's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use tokio::time::Instant;

use super::parameters::check_at;
use super::{Parameter, Workflow};
use crate::events::{Event, Watch};
use crate::executions::{RawJson, Status, logs};
use crate::id::{ExecutionId, OrgId, WorkflowId};
use crate::json::{canonical, pointer_below};
use crate::wakeup::Wakeup;
use crate::{Error, OrgScope, OrgTx, Platform, Result, SystemScope};

/// Limit of one run.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// How long an answer is waited for, the queue included.
pub const PATIENCE: Duration = Duration::from_secs(75);
/// How often the row of a run is looked at: what a lost event costs.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long the end of a run that nobody has settled is an answer; who waited for it may have gone away.
const UNSETTLED: Duration = Duration::from_secs(5);
/// Somebody looks at an empty field, so these go before most.
const PRIORITY: i16 = 8;
/// Seconds an answer is kept if the decorator says nothing.
pub const DEFAULT_TTL: i64 = 300;
const MAX_OPTIONS: usize = 10_000;
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// Answers kept per organization and provider; what is beyond is computed each time.
const MAX_KEPT: i64 = 1_000;
/// Lines of a failed run that are shown.
const MAX_LINES: i64 = 200;
/// Runs that one question follows, should their rows vanish before it saw their end.
const MAX_TURNS: u32 = 3;

/// A data provider that can be asked.
#[derive(Debug, Clone)]
pub struct Provider {
    definition: Workflow,
    content_hash: String,
}

/// What became of a question.
#[derive(Debug)]
pub enum Answer {
    /// The options.
    Options(Options),
    /// The provider failed.
    Failed(Failure),
    /// It takes longer than anybody waits.
    Unfinished,
}

/// The options of a field.
#[derive(Debug, Clone)]
pub struct Options {
    /// A list of objects with at least `label` and `value`.
    pub list: RawJson,
    /// Whether they were kept from before.
    pub cached: bool,
    /// Until when they are kept; `None`: they are not.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Why there are none.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub message: String,
    /// Whether that was written for the person who asks.
    pub is_user_error: bool,
    /// What the run logged last, for those who may read it.
    pub lines: Vec<logs::Line>,
}

/// Whose turn it is to compute.
enum Turn {
    Kept(Options),
    Ours,
    Theirs(ExecutionId),
}

/// How a run ended, as far as an answer needs it.
struct Outcome {
    status: Status,
    result: Option<RawJson>,
    message: Option<String>,
    is_user_error: bool,
}

/// The active data provider of this name: the organization's own first, then a global one.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] when several active ones bear the name.
pub async fn get(tx: &mut OrgTx, name: &str) -> Result<Provider> {
    let org = tx.scope().org();
    let mut rows = sqlx::query!(
        r#"SELECT id AS "id: WorkflowId", organization_id AS "organization_id: OrgId", path, name, description, category,
               execution_mode, timeout_seconds, max_attempts, parameters AS "parameters: Json<Vec<Parameter>>",
               definition AS "definition: Json<Value>", content_hash
           FROM workflows
           WHERE is_active AND kind = 'data_provider' AND (organization_id IS NULL OR organization_id = $1) AND name = $2
           ORDER BY organization_id NULLS LAST
           LIMIT 2"#,
        org as _,
        name,
    )
    .fetch_all(tx.conn())
    .await?;
    if let [first, second] = rows.as_slice()
        && first.organization_id == second.organization_id
    {
        return Err(Error::Conflict(format!("several data providers are called {name}")));
    }
    if rows.is_empty() {
        return Err(Error::NotFound("data provider"));
    }
    let row = rows.remove(0);
    Ok(Provider {
        content_hash: row.content_hash,
        definition: Workflow {
            id: row.id,
            organization_id: row.organization_id,
            path: row.path,
            name: row.name,
            description: row.description,
            category: row.category,
            execution_mode: row.execution_mode,
            timeout_seconds: row.timeout_seconds,
            max_attempts: row.max_attempts,
            parameters: row.parameters,
            definition: row.definition,
        },
    })
}

/// Asks: what is kept is given at once, else the provider runs. `fresh` computes anew whatever is kept.
///
/// # Errors
/// [`Error::Invalid`] when inputs are missing or unreadable, with pointers below `/inputs`; [`Error::Forbidden`] without
/// an organization context; [`Error::Unavailable`] when PostgreSQL is away.
pub async fn ask(
    platform: &Platform,
    scope: &OrgScope,
    provider: &Provider,
    inputs: Map<String, Value>,
    fresh: bool,
) -> Result<Answer> {
    let owner = platform.submitter.owner(scope).await?;
    let inputs = check_at(&provider.definition.parameters, inputs, |name| pointer_below("/inputs", name))?;
    let inputs = canonical(Value::Object(inputs));
    let question =
        Question { platform, scope, owner, provider, hash: Sha256::digest(&inputs).to_vec(), inputs };
    let deadline = Instant::now() + PATIENCE;
    for turn in 0..MAX_TURNS {
        let own = ExecutionId::generate();
        // Before the start: an end that comes at once is not missed then.
        let mut watch = platform.events.watch(own, false);
        let run = match question.begin(own, fresh && turn == 0).await? {
            Turn::Kept(options) => return Ok(Answer::Options(options)),
            Turn::Ours => {
                platform.wakeups.publish(vec![Wakeup::new(own, owner, PRIORITY, None)]);
                platform.events.publish(Event::Submitted(vec![own]));
                own
            }
            Turn::Theirs(theirs) => {
                watch = platform.events.watch(theirs, false);
                theirs
            }
        };
        match question.wait(run, watch, deadline).await? {
            Some(outcome) => return question.settle(run, outcome).await,
            None if Instant::now() >= deadline => return Ok(Answer::Unfinished),
            // Whoever computed it has settled it while nobody told us: then it is kept, or it failed.
            None => {}
        }
    }
    Ok(Answer::Unfinished)
}

struct Question<'a> {
    platform: &'a Platform,
    scope: &'a OrgScope,
    owner: Option<OrgId>,
    provider: &'a Provider,
    /// Canonical.
    inputs: String,
    hash: Vec<u8>,
}

impl Question<'_> {
    fn ttl(&self) -> i64 {
        let declared = self.provider.definition.definition.get("cache_ttl_seconds").and_then(Value::as_i64);
        declared.unwrap_or(DEFAULT_TTL)
    }

    /// Decides, with everybody who asks the same: what is kept, whom to wait for, or that it is on us.
    async fn begin(&self, own: ExecutionId, fresh: bool) -> Result<Turn> {
        let mut tx = self.platform.db.begin(self.scope).await?;
        // An answer that is never kept is shared with nobody either.
        if self.ttl() > 0 {
            if !fresh {
                if let Some(turn) = self.look(&mut tx).await? {
                    return Ok(turn);
                }
                // One at a time from here on; who had to wait finds what the one before has begun.
                let lock = format!("provider:{:?}:{}", self.owner, self.provider.definition.id);
                sqlx::query!(
                    "SELECT pg_advisory_xact_lock(hashtextextended($1 || encode($2, 'hex'), 0))",
                    lock,
                    &self.hash[..]
                )
                .execute(tx.conn())
                .await?;
                if let Some(turn) = self.look(&mut tx).await? {
                    return Ok(turn);
                }
            }
            self.announce(&mut tx, own).await?;
        }
        self.insert_run(&mut tx, own).await?;
        tx.commit().await?;
        Ok(Turn::Ours)
    }

    /// What is kept and still good, else the run that computes it, or has just done so: until somebody who waits for it has
    /// settled it, its row is where the answer is.
    async fn look(&self, tx: &mut OrgTx) -> Result<Option<Turn>> {
        let found = sqlx::query!(
            r#"SELECT a.options AS "options: Json<RawJson>", a.expires_at, a.expires_at > now() AS "is_good",
                   a.execution_id AS "execution_id: ExecutionId",
                   EXISTS (SELECT FROM executions e
                           WHERE e.id = a.execution_id
                             AND (e.status IN ('Pending', 'Running') OR e.completed_at > now() - make_interval(secs => $5)))
                       AS "is_computed!"
               FROM provider_answers a
               WHERE a.organization_id IS NOT DISTINCT FROM $1 AND a.provider_id = $2 AND a.inputs_hash = $3
                 AND a.content_hash = $4"#,
            self.owner as _,
            self.provider.definition.id as _,
            self.hash,
            self.provider.content_hash,
            UNSETTLED.as_secs_f64(),
        )
        .fetch_optional(tx.conn())
        .await?;
        Ok(found.and_then(|row| match row.options {
            Some(options) if row.is_good == Some(true) => {
                Some(Turn::Kept(Options { list: options.0, cached: true, expires_at: row.expires_at }))
            }
            _ => row.is_computed.then_some(Turn::Theirs(row.execution_id)),
        }))
    }

    /// Says that this run computes the answer now.
    async fn announce(&self, tx: &mut OrgTx, run: ExecutionId) -> Result<()> {
        sqlx::query!(
            "INSERT INTO provider_answers (organization_id, provider_id, inputs_hash, content_hash, execution_id)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (organization_id, provider_id, inputs_hash) DO UPDATE
             SET execution_id = EXCLUDED.execution_id, created_at = now(),
                 options = CASE WHEN provider_answers.content_hash = EXCLUDED.content_hash THEN provider_answers.options END,
                 content_hash = EXCLUDED.content_hash",
            self.owner as _,
            self.provider.definition.id as _,
            self.hash,
            self.provider.content_hash,
            run as _,
        )
        .execute(tx.conn())
        .await?;
        Ok(())
    }

    async fn insert_run(&self, tx: &mut OrgTx, run: ExecutionId) -> Result<()> {
        let actor = self.scope.actor();
        // What an organization's users share must not depend on who happened to ask first.
        let is_platform_admin = actor.is_platform_admin && self.owner.is_none();
        sqlx::query!(
            "INSERT INTO executions (id, kind, organization_id, workflow_id, workflow_name, parameters, transient, is_awaited,
                 executed_by, executed_by_name, executed_by_email, is_platform_admin, priority, timeout_seconds, due_at, queue_rank)
             VALUES ($1, 'data_provider', $2, $3, $4, $5::text::json, TRUE, TRUE, $6, $7, $8, $9, $10, $11, now(),
                 now() - make_interval(mins => $10::smallint))",
            run as _,
            self.owner as _,
            self.provider.definition.id as _,
            self.provider.definition.name,
            self.inputs,
            actor.id as _,
            actor.name,
            actor.email,
            is_platform_admin,
            PRIORITY,
            i32::try_from(TIMEOUT.as_secs()).unwrap_or(i32::MAX),
        )
        .execute(tx.conn())
        .await?;
        Ok(())
    }

    /// Waits for the end of a run; `None`: its row is gone, or it is too late.
    async fn wait(&self, run: ExecutionId, mut watch: Watch, deadline: Instant) -> Result<Option<Outcome>> {
        loop {
            // The row first: the run may have ended before the watch began.
            let Some(row) = self.find_run(run).await? else { return Ok(None) };
            if row.status.is_terminal() {
                return Ok(Some(row));
            }
            let pause = LOOK_AGAIN.min(deadline.saturating_duration_since(Instant::now()));
            if pause.is_zero() {
                return Ok(None);
            }
            if let Some(update) = watch.terminal(pause).await
                && !update.result_omitted
            {
                return Ok(Some(Outcome {
                    status: update.status,
                    result: update.result,
                    message: update.error_message,
                    is_user_error: update.is_user_error,
                }));
            }
        }
    }

    async fn find_run(&self, run: ExecutionId) -> Result<Option<Outcome>> {
        let mut tx = self.platform.db.begin(self.scope).await?;
        let row = sqlx::query!(
            r#"SELECT status AS "status: Status", result AS "result: Json<RawJson>", error_message, is_user_error
               FROM executions
               WHERE id = $1 AND kind = 'data_provider'"#,
            run as _,
        )
        .fetch_optional(tx.conn())
        .await?;
        tx.commit().await?;
        Ok(row.map(|row| Outcome {
            status: row.status,
            result: row.result.map(|result| result.0),
            message: row.error_message,
            is_user_error: row.is_user_error,
        }))
    }

    /// Keeps what a run has answered, and removes the run.
    async fn settle(&self, run: ExecutionId, outcome: Outcome) -> Result<Answer> {
        let options = match (outcome.status, &outcome.result) {
            (Status::Success | Status::CompletedWithErrors, Some(result)) => options_of(result),
            (Status::Success | Status::CompletedWithErrors, None) => Err("it returned nothing".into()),
            (status, _) => Err(outcome.message.unwrap_or_else(|| format!("the run ended as {status}"))),
        };
        let answer = match options {
            Ok(list) => {
                let expires_at = self.keep(run, &list).await?;
                Answer::Options(Options { list, cached: false, expires_at })
            }
            Err(message) => {
                let mut tx = self.platform.db.begin(self.scope).await?;
                let lines = logs::list(&mut tx, run, 0, MAX_LINES, true).await?;
                tx.commit().await?;
                Answer::Failed(Failure { message, is_user_error: outcome.is_user_error, lines })
            }
        };
        let system =
            SystemScope::because("the row of a data provider's run belongs to no user, and is removed");
        let mut conn = self.platform.db.system(&system).await?;
        sqlx::query!(
            "WITH gone AS (DELETE FROM executions WHERE id = $1 AND kind = 'data_provider' RETURNING id)
             DELETE FROM execution_logs WHERE execution_id IN (SELECT id FROM gone) AND execution_id = $1",
            run as _,
        )
        .execute(&mut *conn)
        .await?;
        Ok(answer)
    }

    /// Until when it is kept; a later run that was begun meanwhile keeps its own.
    async fn keep(&self, run: ExecutionId, list: &RawJson) -> Result<Option<DateTime<Utc>>> {
        if self.ttl() == 0 {
            return Ok(None);
        }
        let mut tx = self.platform.db.begin(self.scope).await?;
        let expires_at = sqlx::query_scalar!(
            r#"UPDATE provider_answers a
               SET options = $5::text::json, expires_at = now() + make_interval(secs => $6)
               WHERE a.organization_id IS NOT DISTINCT FROM $1 AND a.provider_id = $2 AND a.inputs_hash = $3
                 AND a.execution_id = $4
                 AND (SELECT count(*) FROM provider_answers o
                      WHERE o.organization_id IS NOT DISTINCT FROM $1 AND o.provider_id = $2 AND o.options IS NOT NULL
                        AND o.inputs_hash <> $3 AND o.expires_at > now()) < $7
               RETURNING a.expires_at AS "expires_at!""#,
            self.owner as _,
            self.provider.definition.id as _,
            self.hash,
            run as _,
            list.get(),
            // An interval in seconds is a float; a year of them is exact.
            self.ttl() as f64,
            MAX_KEPT,
        )
        .fetch_optional(tx.conn())
        .await?;
        tx.commit().await?;
        Ok(expires_at)
    }
}

/// The options in what a provider returned.
fn options_of(result: &RawJson) -> Result<RawJson, String> {
    let value: Value = serde_json::from_str(result.get()).map_err(|error| error.to_string())?;
    let Value::Array(items) = value else {
        return Err("it must return a list".into());
    };
    if items.len() > MAX_OPTIONS {
        return Err(format!("it returned {} options, more than {MAX_OPTIONS}", items.len()));
    }
    let options: Vec<Value> = items
        .into_iter()
        .enumerate()
        .map(|(index, item)| option_of(item).ok_or(index))
        .collect::<Result<_, _>>()
        .map_err(|index| {
            format!("item {index} of its list is neither text nor an object with label and value")
        })?;
    let list = serde_json::value::to_raw_value(&options).map_err(|error| error.to_string())?;
    if list.get().len() > MAX_BYTES {
        return Err(format!("its options are {} bytes, more than {MAX_BYTES}", list.get().len()));
    }
    Ok(list)
}

fn option_of(item: Value) -> Option<Value> {
    match item {
        Value::String(text) => Some(json!({"label": text, "value": text})),
        Value::Object(mut option) => {
            let value = option.get("value").filter(|value| !value.is_null())?;
            let label = match option.get("label")? {
                Value::String(_) => None,
                Value::Number(number) => Some(number.to_string()),
                _ => return None,
            };
            if value.is_array() || value.is_object() {
                return None;
            }
            if let Some(label) = label {
                option.insert("label".into(), label.into());
            }
            Some(Value::Object(option))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(returned: Value) -> Result<Value, String> {
        let raw = serde_json::value::to_raw_value(&returned).expect("JSON");
        options_of(&raw).map(|list| serde_json::from_str(list.get()).expect("JSON"))
    }

    #[test]
    fn texts_become_options_and_objects_stay_as_they_are() {
        let given =
            json!(["a", {"label": "B", "value": "b", "metadata": {"x": 1}}, {"label": 3, "value": 3}]);
        let expected = json!([
            {"label": "a", "value": "a"}, {"label": "B", "value": "b", "metadata": {"x": 1}}, {"label": "3", "value": 3},
        ]);
        assert_eq!(options(given), Ok(expected));
        assert_eq!(options(json!([])), Ok(json!([])));
    }

    #[test]
    fn what_is_no_list_of_options_is_a_failure_that_says_why() {
        assert_eq!(options(json!({"a": 1})), Err("it must return a list".into()));
        for wrong in [
            json!(1),
            json!(null),
            json!({"label": "x"}),
            json!({"value": "x"}),
            json!({"label": [], "value": 1}),
        ] {
            let fault = options(json!(["fine", wrong])).expect_err("no option");
            assert!(fault.starts_with("item 1 of its list"), "{fault}");
        }
        assert!(options(json!(vec!["x"; MAX_OPTIONS + 1])).is_err());
    }
}
