//! Reading executions: one by id, pages by keyset.
//!
//! A page is found in one of three ways, by its filters. Each reads about as many rows as it shows, however many there are,
//! but for what ADR 51 names.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{Execution, RawJson, Status};
use crate::id::{ExecutionId, OrgId, UserId, WorkflowId};
use crate::page::{Cursor, Place};
use crate::{Error, OrgScope, OrgTx, Permission, Result};

/// Organizations, and the global scope, into each of which an administrator's filtered list looks; with more it goes by the
/// order of the list.
const MOST_OWNERS: i64 = 2_000;

/// What a list shows; part of its continuation token.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Filters {
    /// Exact workflow name.
    pub workflow_name: Option<String>,
    /// State.
    pub status: Option<Status>,
    /// Created at or after.
    pub since: Option<DateTime<Utc>>,
    /// Created at or before.
    pub until: Option<DateTime<Utc>>,
    /// Only this user's.
    pub executed_by: Option<UserId>,
}

/// One execution of the scope. Another user's is [`Error::Forbidden`] for a user without platform rights.
///
/// # Errors
/// [`Error::NotFound`] also when it belongs to another organization.
pub async fn get(tx: &mut OrgTx, id: ExecutionId) -> Result<Execution> {
    let execution = executions!(
        "SELECT",
        "e.result",
        "e.variables",
        ["FROM executions e
         WHERE e.id = $1 AND e.kind = 'workflow'"],
        id as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("execution"))?;
    check_owner(tx.scope(), &execution)?;
    Ok(execution)
}

/// A user without platform rights reads their own executions only, unless a role opens those of the organization.
pub(super) fn check_owner(scope: &OrgScope, execution: &Execution) -> Result<()> {
    if execution.executed_by == scope.actor().id || scope.permits(Permission::ExecutionsRead) {
        return Ok(());
    }
    Err(Error::Forbidden("this execution belongs to another user".into()))
}

/// Executions of the scope, newest first, at most `limit`, after `after`, with their results. Transient ones are left out, and so
/// are variables and logs.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(
    tx: &mut OrgTx,
    filters: &Filters,
    limit: i64,
    after: Option<Cursor>,
) -> Result<Vec<Execution>> {
    let place = Place::of(filters.since, filters.until, after);
    if let Some(user) = filters.executed_by {
        return own(tx, filters, user, limit, place).await;
    }
    if is_selective(filters)
        && let Some(owners) = owners(tx, filters).await?
    {
        return selected(tx, filters, &owners, limit, place).await;
    }
    in_order(tx, filters, limit, place).await
}

/// Whether few may be on the page. Most end with success: the list in its order comes to them soon, to others perhaps at
/// its end.
fn is_selective(filters: &Filters) -> bool {
    filters.workflow_name.is_some() || filters.status.is_some_and(|status| status != Status::Success)
}

/// A statement that finds a page. All of them ask the same of a row, with the arguments 1 to 7, and look for it elsewhere.
macro_rules! page {
    ($way:ident, $filters:expr, $limit:expr, $place:expr, [$($where_from:tt)*] $(, $argument:expr)*) => {
        page!(
            @$way
            " AND id < $1 AND id >= $2 AND ($3::text IS NULL OR workflow_name = $3) AND ($4::text IS NULL OR status = $4)
              AND ($5::timestamptz IS NULL OR created_at >= $5) AND ($6::timestamptz IS NULL OR created_at <= $6) ",
            [$($where_from)*],
            $place.before,
            $place.from,
            $filters.workflow_name,
            $filters.status.map(Status::as_str),
            $filters.since,
            $filters.until,
            $limit $(, $argument)*
        )
    };
    // Out of the order of ids.
    (@in_order $asked:tt, [$owner:tt], $($arguments:tt)*) => {
        executions!(
            "SELECT",
            "e.result",
            "NULL::json",
            ["FROM executions e WHERE NOT transient " + $owner + $asked + "ORDER BY id DESC LIMIT $7"],
            $($arguments)*
        )
    };
    // What has ended by an index on just that, what waits and what runs by those of the queue. OFFSET 0: else PostgreSQL
    // would look for the few that wait in the order of ids, among all there are.
    (@merged $asked:tt, [$before:tt, $columns:tt, $of_ended:tt, $after:tt, $of_others:tt], $($arguments:tt)*) => {
        executions!(
            "SELECT",
            "e.result",
            "NULL::json",
            [
                "FROM ((" + $before + "SELECT " + $columns + " FROM executions
                       WHERE NOT transient AND status NOT IN ('Pending', 'Running', 'Cancelling') " + $of_ended + $asked
                    + "ORDER BY id DESC LIMIT $7" + $after + ")
                 UNION ALL
                 (SELECT * FROM executions WHERE NOT transient AND status = 'Pending' " + $of_others + $asked + "OFFSET 0)
                 UNION ALL
                 (SELECT * FROM executions
                  WHERE NOT transient AND status IN ('Running', 'Cancelling') " + $of_others + $asked + "OFFSET 0)
                 ) AS e
                 ORDER BY id DESC
                 LIMIT $7"
            ],
            $($arguments)*
        )
    };
}

/// The page out of the list in its order: what is left out on the way is little.
async fn in_order(tx: &mut OrgTx, filters: &Filters, limit: i64, place: Place) -> Result<Vec<Execution>> {
    let executions = if tx.scope().spans_all() {
        page!(in_order, filters, limit, place, [""]).fetch_all(tx.conn()).await?
    } else {
        let owner = tx.scope().org().map_or(Uuid::nil(), |org| org.0);
        page!(
            in_order,
            filters,
            limit,
            place,
            ["AND (CASE WHEN organization_id IS NULL
                  THEN '00000000-0000-0000-0000-000000000000'::uuid ELSE organization_id END) = $8 "],
            owner
        )
        .fetch_all(tx.conn())
        .await?
    };
    Ok(executions)
}

/// The page out of a person's executions.
async fn own(
    tx: &mut OrgTx,
    filters: &Filters,
    user: UserId,
    limit: i64,
    place: Place,
) -> Result<Vec<Execution>> {
    let (spans_all, org) = (tx.scope().spans_all(), tx.scope().org());
    plan_for_arguments(tx).await?;
    // IS NOT DISTINCT FROM, which no index serves: the person narrows it down far more. The ids come out of the index
    // alone, and only rows of the page are read.
    let executions = page!(
        merged,
        filters,
        limit,
        place,
        [
            "SELECT * FROM executions WHERE id IN (",
            "id",
            "AND executed_by = $8 AND ($9 OR organization_id IS NOT DISTINCT FROM $10) ",
            ")",
            "AND executed_by = $8 AND ($9 OR organization_id IS NOT DISTINCT FROM $10) "
        ],
        user as _,
        spans_all,
        org as _
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(executions)
}

/// The page out of those of a workflow or with a state: from each organization the first that have ended, and what has not
/// ended of all of them.
async fn selected(
    tx: &mut OrgTx,
    filters: &Filters,
    owners: &[Uuid],
    limit: i64,
    place: Place,
) -> Result<Vec<Execution>> {
    let (spans_all, org) = (tx.scope().spans_all(), tx.scope().org());
    plan_for_arguments(tx).await?;
    let executions = page!(
        merged,
        filters,
        limit,
        place,
        [
            "SELECT ended.* FROM UNNEST($8::uuid[]) AS owner (id) CROSS JOIN LATERAL (",
            "*",
            "AND (CASE WHEN organization_id IS NULL
                 THEN '00000000-0000-0000-0000-000000000000'::uuid ELSE organization_id END) = owner.id ",
            ") AS ended",
            "AND ($9 OR organization_id IS NOT DISTINCT FROM $10) "
        ],
        owners,
        spans_all,
        org as _
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(executions)
}

/// Whose executions that have ended may be on the page: of the scope, nobody's where the filters admit none. `None` when
/// they are too many to look into each.
async fn owners(tx: &mut OrgTx, filters: &Filters) -> Result<Option<Vec<Uuid>>> {
    if filters.status.is_some_and(|status| !status.is_terminal()) {
        return Ok(Some(Vec::new()));
    }
    if !tx.scope().spans_all() {
        return Ok(Some(vec![tx.scope().org().map_or(Uuid::nil(), |org| org.0)]));
    }
    let mut owners: Vec<Uuid> = sqlx::query_scalar!("SELECT id FROM organizations LIMIT $1", MOST_OWNERS)
        .fetch_all(tx.conn())
        .await?;
    owners.push(Uuid::nil());
    Ok((owners.len() as i64 <= MOST_OWNERS).then_some(owners))
}

/// Which index serves depends on what is asked for, so the next statement is planned with its arguments; and it is over
/// long before it could have been compiled, which PostgreSQL begins with when it expects many owners to cost much.
async fn plan_for_arguments(tx: &mut OrgTx) -> Result<()> {
    sqlx::raw_sql("SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL jit = off")
        .execute(tx.conn())
        .await?;
    Ok(())
}
