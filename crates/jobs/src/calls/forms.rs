//! `forms.*`: what the caller of the run may see, by the same check that guards forms over HTTP.

use domain::forms::{self, access};
use domain::id::FormId;
use domain::page::NameCursor;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Caller, parse_id};

const MOST_FORMS: i64 = 1_000;

#[derive(Deserialize)]
pub(super) struct OneForm {
    form_id: String,
}

pub(super) async fn list(caller: &Caller) -> Answer {
    let mut tx = caller.begin(None).await?;
    let found = forms::list(&mut tx, MOST_FORMS, &NameCursor::START).await?;
    tx.commit().await?;
    Ok(found.iter().map(show).collect())
}

pub(super) async fn get(caller: &Caller, args: OneForm) -> Answer {
    let id: FormId = parse_id("form_id", &args.form_id)?;
    let mut tx = caller.begin(None).await?;
    let found = access::get_usable(&mut tx, id).await?;
    tx.commit().await?;
    Ok(show(&found))
}

fn show(form: &forms::Form) -> Value {
    json!({
        "id": form.id,
        "name": form.name,
        "description": form.description,
        "linked_workflow": form.workflow_id,
        "form_schema": form.form_schema.0,
        "is_active": form.is_active,
        "created_by": form.created_by,
        "created_at": form.created_at,
        "updated_at": form.updated_at,
    })
}
