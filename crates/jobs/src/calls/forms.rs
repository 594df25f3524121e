//! `forms.*`: what the caller of the run may see, by the same check that guards forms over HTTP.

use chrono::{DateTime, Utc};
use domain::executions::RawJson;
use domain::forms::{self, access};
use domain::id::FormId;
use domain::page::NameCursor;
use serde::{Deserialize, Serialize};

use super::{Answer, Caller, parse_id};

const MOST_FORMS: i64 = 1_000;

#[derive(Deserialize)]
pub(super) struct OneForm {
    form_id: String,
}

/// A form, as the SDK shows it.
#[derive(Serialize)]
pub(super) struct Shown {
    id: FormId,
    name: String,
    description: Option<String>,
    linked_workflow: Option<String>,
    form_schema: RawJson,
    is_active: bool,
    created_by: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

pub(super) async fn list(caller: &Caller) -> Answer<Vec<Shown>> {
    let mut tx = caller.begin(None).await?;
    let found = forms::list(&mut tx, MOST_FORMS, &NameCursor::START).await?;
    tx.commit().await?;
    Ok(found.into_iter().map(Shown::from).collect())
}

pub(super) async fn get(caller: &Caller, args: OneForm) -> Answer<Shown> {
    let id: FormId = parse_id("form_id", &args.form_id)?;
    let mut tx = caller.begin_by_id().await?;
    let found = access::get_usable(&mut tx, id).await?;
    tx.commit().await?;
    Ok(found.into())
}

impl From<forms::Form> for Shown {
    fn from(form: forms::Form) -> Self {
        Self {
            id: form.id,
            name: form.name,
            description: form.description,
            linked_workflow: form.workflow_id,
            form_schema: form.form_schema.0,
            is_active: form.is_active,
            created_by: form.created_by,
            created_at: form.created_at,
            updated_at: form.updated_at,
        }
    }
}
