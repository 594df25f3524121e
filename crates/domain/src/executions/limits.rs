//! Limits: how many more runs of a workflow, key or organization may start now (ADR 13).
//!
//! Slots are not stored anywhere: what is free is the limit less the rows that run, so a slot cannot leak. A row counts
//! until its outcome is written or the reaper has ended it. Whoever starts runs by these numbers holds [`lock`].

use std::collections::{HashMap, VecDeque};

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::logs::storable;
use super::queue::Waiting;
use crate::Result;
use crate::id::{OrgId, WorkflowId};
use crate::workflows::Workflow;

/// Longest key that is kept as it is.
const LONGEST_KEY: usize = 200;

/// Why a run that is due may not start yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// As many runs of the workflow run as may.
    Workflow { limit: i64 },
    /// As many runs with its key run in its organization as may.
    Key { limit: i64 },
    /// As many runs of the organization run as may.
    Organization { limit: i64 },
    /// As many runs of the workflow were started as may within this time.
    Rate { limit: i64, seconds: i64 },
}

/// What is free, for the workflows and organizations it was loaded for.
#[derive(Debug, Default)]
pub(super) struct Room {
    workflows: HashMap<WorkflowId, WorkflowLimits>,
    organizations: HashMap<OrgId, i64>,
    running_workflow: HashMap<WorkflowId, i64>,
    running_key: HashMap<(Option<OrgId>, String), i64>,
    /// Runs that no other run waits for.
    running_root: HashMap<Option<OrgId>, i64>,
    /// All runs: the share of an organization.
    running: HashMap<Option<OrgId>, i64>,
}

#[derive(Debug)]
struct WorkflowLimits {
    concurrency: Option<i64>,
    /// Whether the limit is one of each key. A key that the file has given up counts no more, though rows still have it.
    has_key: bool,
    /// Most starts, in so many seconds, and how many there were.
    rate: Option<(i64, i64)>,
    starts: i64,
}

/// The key of a run: the workflow's template with the values of parameters for their `{names}`.
pub(super) fn key_of(workflow: &Workflow, parameters: &RawValue) -> Option<String> {
    let template = workflow.definition.get("concurrency_key")?.as_str()?;
    let parameters: Map<String, Value> = serde_json::from_str(parameters.get()).unwrap_or_default();
    let mut key = String::new();
    let mut rest = template;
    while let Some((before, name, after)) = rest
        .split_once('{')
        .and_then(|(before, after)| after.split_once('}').map(|(name, after)| (before, name, after)))
    {
        key.push_str(before);
        match parameters.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => key.push_str(text),
            Some(value) => key.push_str(&value.to_string()),
        }
        rest = after;
    }
    key.push_str(rest);
    let key = storable(&key);
    if key.chars().count() <= LONGEST_KEY {
        return Some(key);
    }
    Some(format!("sha256:{}", hex::encode(Sha256::digest(key.as_bytes()))))
}

/// Makes this transaction the only one that starts limited runs, until it ends.
pub(super) async fn lock(conn: &mut PgConnection) -> Result<()> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('bifrost.claim'))").execute(conn).await?;
    Ok(())
}

/// Whether anything is limited at all.
pub(super) async fn are_any(conn: &mut PgConnection) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM workflows WHERE concurrency_limit IS NOT NULL OR rate_limit_starts IS NOT NULL)
               OR EXISTS (SELECT FROM organizations WHERE concurrency_limit IS NOT NULL) AS "any!""#,
    )
    .fetch_one(conn)
    .await?)
}

/// Remembers the starts of runs whose workflow has a rate limit.
pub(super) async fn remember_starts(conn: &mut PgConnection, started: &[WorkflowId]) -> Result<()> {
    if started.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = started.iter().map(|id| id.0).collect();
    sqlx::query!(
        "INSERT INTO workflow_starts (workflow_id, started_at)
         SELECT id, clock_timestamp() FROM UNNEST($1::uuid[]) AS started (id)",
        &ids,
    )
    .execute(conn)
    .await?;
    Ok(())
}

impl Room {
    /// What is free now, as far as it concerns these.
    pub(super) async fn load(conn: &mut PgConnection, waiting: &[Waiting]) -> Result<Self> {
        let mut workflows: Vec<Uuid> =
            waiting.iter().filter_map(|one| one.workflow_id).map(|id| id.0).collect();
        let mut organizations: Vec<Uuid> =
            waiting.iter().filter_map(|one| one.organization_id).map(|id| id.0).collect();
        for ids in [&mut workflows, &mut organizations] {
            ids.sort_unstable();
            ids.dedup();
        }
        let mut room = Self::default();
        room.load_limits(conn, &workflows, &organizations).await?;
        room.load_running(conn).await?;
        Ok(room)
    }

    async fn load_limits(
        &mut self,
        conn: &mut PgConnection,
        workflows: &[Uuid],
        organizations: &[Uuid],
    ) -> Result<()> {
        let limited = sqlx::query!(
            r#"SELECT w.id AS "id: WorkflowId", w.concurrency_limit, w.concurrency_key IS NOT NULL AS "has_key!",
                   w.rate_limit_starts, w.rate_limit_seconds,
                   CASE WHEN w.rate_limit_starts IS NULL THEN 0 ELSE (
                       SELECT count(*) FROM workflow_starts s
                       WHERE s.workflow_id = w.id AND s.started_at > clock_timestamp() - make_interval(secs => w.rate_limit_seconds)
                   ) END AS "starts!"
               FROM workflows w
               WHERE w.id = ANY ($1) AND (w.concurrency_limit IS NOT NULL OR w.rate_limit_starts IS NOT NULL)"#,
            workflows,
        )
        .fetch_all(&mut *conn)
        .await?;
        self.workflows = limited
            .into_iter()
            .map(|row| {
                let rate = row.rate_limit_starts.zip(row.rate_limit_seconds);
                let limits = WorkflowLimits {
                    concurrency: row.concurrency_limit.map(i64::from),
                    has_key: row.has_key,
                    rate: rate.map(|(starts, seconds)| (starts.into(), seconds.into())),
                    starts: row.starts,
                };
                (row.id, limits)
            })
            .collect();
        let limited = sqlx::query!(
            r#"SELECT id AS "id: OrgId", concurrency_limit AS "limit!"
               FROM organizations
               WHERE id = ANY ($1) AND concurrency_limit IS NOT NULL"#,
            organizations,
        )
        .fetch_all(conn)
        .await?;
        self.organizations = limited.into_iter().map(|row| (row.id, row.limit.into())).collect();
        Ok(())
    }

    async fn load_running(&mut self, conn: &mut PgConnection) -> Result<()> {
        // The bound on the lease keeps the look at the index short; the reaper has ended whatever is older.
        let running = sqlx::query!(
            r#"SELECT organization_id AS "organization_id: OrgId", workflow_id AS "workflow_id: WorkflowId", concurrency_key,
                   count(*) AS "running!", count(*) FILTER (WHERE NOT is_awaited) AS "root!"
               FROM executions
               WHERE status IN ('Running', 'Cancelling') AND lease_expires_at > now() - interval '1 minute'
               GROUP BY 1, 2, 3"#,
        )
        .fetch_all(conn)
        .await?;
        for row in running {
            *self.running.entry(row.organization_id).or_default() += row.running;
            *self.running_root.entry(row.organization_id).or_default() += row.root;
            if let Some(workflow) = row.workflow_id {
                *self.running_workflow.entry(workflow).or_default() += row.running;
            }
            if let Some(key) = row.concurrency_key {
                *self.running_key.entry((row.organization_id, key)).or_default() += row.running;
            }
        }
        Ok(())
    }

    /// The limits that keep this one from starting; none: it may.
    pub(super) fn full(&self, one: &Waiting) -> Vec<Full> {
        let mut full = Vec::new();
        if let Some((id, limits)) = one.workflow_id.and_then(|id| Some((id, self.workflows.get(&id)?))) {
            match (limits.concurrency, one.concurrency_key.as_ref().filter(|_| limits.has_key)) {
                (Some(limit), Some(key)) if self.running_with(one.organization_id, key) >= limit => {
                    full.push(Full::Key { limit });
                }
                (Some(limit), None) if count(&self.running_workflow, &id) >= limit => {
                    full.push(Full::Workflow { limit });
                }
                _ => {}
            }
            if let Some((limit, seconds)) = limits.rate.filter(|(limit, _)| limits.starts >= *limit) {
                full.push(Full::Rate { limit, seconds });
            }
        }
        // A child runs in the slot of the run that waits for it: else all slots could be held by waiting parents.
        if let Some(limit) = one.organization_id.and_then(|id| self.organizations.get(&id)).copied()
            && !one.is_awaited
            && count(&self.running_root, &one.organization_id) >= limit
        {
            full.push(Full::Organization { limit });
        }
        full
    }

    /// Counts this one as started.
    fn take(&mut self, one: &Waiting) {
        *self.running.entry(one.organization_id).or_default() += 1;
        if !one.is_awaited {
            *self.running_root.entry(one.organization_id).or_default() += 1;
        }
        if let Some(id) = one.workflow_id {
            *self.running_workflow.entry(id).or_default() += 1;
            if let Some(limits) = self.workflows.get_mut(&id) {
                limits.starts += 1;
            }
        }
        if let Some(key) = &one.concurrency_key {
            *self.running_key.entry((one.organization_id, key.clone())).or_default() += 1;
        }
    }

    /// Up to `limit` of these that may start together: always the most urgent of the organization that runs least.
    pub(super) fn choose(&mut self, mut waiting: Vec<Waiting>, limit: usize) -> Vec<Waiting> {
        waiting.sort_by_key(|one| (one.queue_rank, one.id));
        let mut queues: HashMap<Option<OrgId>, VecDeque<Waiting>> = HashMap::new();
        for one in waiting {
            queues.entry(one.organization_id).or_default().push_back(one);
        }
        let mut chosen = Vec::new();
        while chosen.len() < limit {
            let turn = |(organization, queue): (&Option<OrgId>, &VecDeque<Waiting>)| {
                let head = queue.front()?;
                Some((count(&self.running, organization), head.queue_rank, head.id, *organization))
            };
            let Some((.., organization)) = queues.iter().filter_map(turn).min() else { break };
            let Some(one) = queues.get_mut(&organization).and_then(VecDeque::pop_front) else { break };
            // What is full stays so: starting others frees nothing.
            if self.full(&one).is_empty() {
                self.take(&one);
                chosen.push(one);
            }
        }
        chosen
    }

    /// Whether starts of this workflow are counted.
    pub(super) fn has_rate(&self, id: WorkflowId) -> bool {
        self.workflows.get(&id).is_some_and(|limits| limits.rate.is_some())
    }

    fn running_with(&self, organization: Option<OrgId>, key: &str) -> i64 {
        self.running_key.get(&(organization, key.to_owned())).copied().unwrap_or_default()
    }
}

fn count<K: std::hash::Hash + Eq>(counts: &HashMap<K, i64>, key: &K) -> i64 {
    counts.get(key).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::id::ExecutionId;

    fn waiting(organization: OrgId, workflow: WorkflowId, key: Option<&str>, rank: i64) -> Waiting {
        Waiting {
            id: ExecutionId::generate(),
            organization_id: Some(organization),
            workflow_id: Some(workflow),
            concurrency_key: key.map(Into::into),
            is_awaited: false,
            priority: 5,
            queue_rank: DateTime::<Utc>::UNIX_EPOCH + chrono::TimeDelta::seconds(rank),
            traceparent: None,
        }
    }

    fn limited(workflow: WorkflowId, concurrency: i64) -> Room {
        let limits = WorkflowLimits { concurrency: Some(concurrency), has_key: true, rate: None, starts: 0 };
        Room { workflows: HashMap::from([(workflow, limits)]), ..Room::default() }
    }

    #[test]
    fn shares_are_equal_and_within_a_share_the_most_urgent_goes_first() {
        let (a, b, workflow) = (OrgId::generate(), OrgId::generate(), WorkflowId::generate());
        let mut queue: Vec<Waiting> = (0..10).map(|rank| waiting(a, workflow, None, rank)).collect();
        queue.extend([101, 100].map(|rank| waiting(b, workflow, None, rank)));
        let chosen = Room::default().choose(queue, 5);
        let order: Vec<_> =
            chosen.iter().map(|one| (one.organization_id == Some(a), one.queue_rank.timestamp())).collect();
        assert_eq!(order, [(true, 0), (false, 100), (true, 1), (false, 101), (true, 2)]);
    }

    #[test]
    fn what_one_limit_refuses_takes_no_slot_of_another() {
        let (a, b, workflow) = (OrgId::generate(), OrgId::generate(), WorkflowId::generate());
        let mut room = limited(workflow, 1);
        room.organizations.insert(a, 1);
        room.running_root.insert(Some(a), 1);
        let chosen = room.choose(vec![waiting(a, workflow, None, 0), waiting(b, workflow, None, 1)], 5);
        assert_eq!(chosen.iter().map(|one| one.organization_id).collect::<Vec<_>>(), [Some(b)]);
    }

    #[test]
    fn keys_are_counted_apart_and_per_organization() {
        let (a, b, workflow) = (OrgId::generate(), OrgId::generate(), WorkflowId::generate());
        let queue =
            [(a, "x"), (a, "x"), (a, "y"), (b, "x")].map(|(org, key)| waiting(org, workflow, Some(key), 0));
        assert_eq!(limited(workflow, 1).choose(queue.to_vec(), 9).len(), 3);
    }

    #[test]
    fn a_key_that_was_given_up_counts_no_more() {
        let (org, workflow) = (OrgId::generate(), WorkflowId::generate());
        let mut room = limited(workflow, 1);
        room.workflows.get_mut(&workflow).expect("is limited").has_key = false;
        let queue = ["x", "y"].map(|key| waiting(org, workflow, Some(key), 0));
        assert_eq!(room.choose(queue.to_vec(), 9).len(), 1);
    }

    #[test]
    fn a_child_that_is_waited_for_needs_no_slot_of_its_organization() {
        let (org, workflow) = (OrgId::generate(), WorkflowId::generate());
        let mut room = Room { organizations: HashMap::from([(org, 1)]), ..Room::default() };
        let child = Waiting { is_awaited: true, ..waiting(org, workflow, None, 2) };
        let queue = vec![waiting(org, workflow, None, 0), waiting(org, workflow, None, 1), child];
        assert_eq!(room.choose(queue, 9).iter().map(|one| one.is_awaited).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_rate_bounds_the_starts() {
        let (org, workflow) = (OrgId::generate(), WorkflowId::generate());
        let limits = WorkflowLimits { concurrency: None, has_key: false, rate: Some((5, 60)), starts: 3 };
        let mut room = Room { workflows: HashMap::from([(workflow, limits)]), ..Room::default() };
        let queue = (0..9).map(|rank| waiting(org, workflow, None, rank)).collect();
        assert_eq!(room.choose(queue, 9).len(), 2);
        assert_eq!(room.full(&waiting(org, workflow, None, 0)), [Full::Rate { limit: 5, seconds: 60 }]);
    }
}
