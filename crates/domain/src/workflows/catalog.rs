//! Finding the definition that a run names, by id or name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Parameter, Workflow};
use crate::id::{OrgId, WorkflowId};
use crate::remembered::get_or_find;
use crate::{Db, Error, OrgScope, Reach, Result};

/// How long a process that was not told may act on a definition that has changed since.
const CATALOG_TTL: Duration = Duration::from_secs(1);

/// Definitions by id or name, remembered for a second: a submit does not read the same row again and again.
#[derive(Debug, Clone)]
pub struct Catalog {
    known: moka::future::Cache<(u64, String, Option<OrgId>), Arc<Workflow>>,
    /// How often it was told to forget. Part of the key, so that what was being read meanwhile is forgotten too.
    changes: Arc<AtomicU64>,
}

impl Default for Catalog {
    fn default() -> Self {
        let known = moka::future::Cache::builder().max_capacity(10_000).time_to_live(CATALOG_TTL).build();
        Self { known, changes: Arc::default() }
    }
}

impl Catalog {
    /// Forgets all definitions, because they have changed.
    pub fn forget(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The active workflow with this id or name: the organization's own first, then a global one.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when several active ones bear the name.
    pub async fn get(&self, db: &Db, scope: &OrgScope, id_or_name: &str) -> Result<Arc<Workflow>> {
        let org = match scope.reach() {
            Reach::Org(org) => Some(org),
            Reach::Global | Reach::Platform => None,
            Reach::Nothing => return Err(Error::NotFound("workflow")),
        };
        let key = (self.changes.load(Ordering::Relaxed), id_or_name.to_owned(), org);
        get_or_find(&self.known, key, async || find(db, scope, id_or_name).await).await
    }
}

async fn find(db: &Db, scope: &OrgScope, id_or_name: &str) -> Result<Arc<Workflow>> {
    let scope = scope.clone().narrowed();
    let id = id_or_name.parse::<Uuid>().ok();
    let mut tx = db.begin(&scope).await?;
    let mut rows = sqlx::query_as!(
        Workflow,
        r#"SELECT id AS "id: WorkflowId", organization_id AS "organization_id: OrgId", path, name, description, category,
               execution_mode, timeout_seconds, max_attempts, parameters AS "parameters: Json<Vec<Parameter>>",
               definition AS "definition: Json<Value>"
           FROM workflows
           WHERE is_active AND kind = 'workflow' AND (organization_id IS NULL OR organization_id = $1)
             AND (id = $2 OR ($2 IS NULL AND name = $3))
           ORDER BY organization_id NULLS LAST
           LIMIT 2"#,
        scope.org() as _,
        id,
        id_or_name,
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    match rows.as_slice() {
        [] => Err(Error::NotFound("workflow")),
        [first, second] if first.organization_id == second.organization_id => {
            Err(Error::Conflict(format!("several workflows are called {id_or_name}; address one by its id")))
        }
        _ => Ok(Arc::new(rows.remove(0))),
    }
}
