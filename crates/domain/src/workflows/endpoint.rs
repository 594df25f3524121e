//! What a workflow says about being called over HTTP.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;

use super::signature::SignatureRule;
use super::{Parameter, Workflow};
use crate::id::{OrgId, WorkflowId};
use crate::{Db, Result, SystemScope};

/// Most endpoints that are described: a document beyond that is of no use to anybody.
const MOST_DESCRIBED: i64 = 2_000;

const DESCRIBE: SystemScope =
    SystemScope::because("global workflows are described to whoever may read the document");

/// The endpoint of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `GET`, `POST`, `PUT`, `DELETE`: those it answers to.
    pub allowed_methods: Vec<String>,
    /// Whether only a key of the workflow itself opens it.
    #[serde(default)]
    pub disable_global_key: bool,
    /// Whether anybody may call it without a key.
    #[serde(default)]
    pub public_endpoint: bool,
    /// How many calls of one caller are taken.
    #[serde(default, rename = "endpoint_rate_limit")]
    pub rate_limit: Option<CallRate>,
    /// How requests must be signed.
    #[serde(default)]
    pub signature: Option<SignatureRule>,
    #[serde(default)]
    endpoint_enabled: bool,
}

/// How many calls are taken from one caller: a key, or an address where no key is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRate {
    /// Calls.
    pub calls: u32,
    /// Within so many seconds, counted from the first.
    pub seconds: u32,
}

impl Workflow {
    /// Its endpoint, if it has one. One whose description cannot be read is none: an endpoint that lost its signature
    /// on the way must not be open.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let endpoint = Endpoint::deserialize(&self.definition.0).ok()?;
        let is_sound = endpoint.signature.as_ref().is_none_or(SignatureRule::is_sound);
        (endpoint.endpoint_enabled && is_sound).then_some(endpoint)
    }
}

/// The global workflows that have an endpoint, by name.
///
/// # Errors
/// [`crate::Error::Unavailable`] when PostgreSQL is away.
pub async fn list_endpoints(db: &Db) -> Result<Vec<Workflow>> {
    let mut conn = db.system(&DESCRIBE).await?;
    Ok(sqlx::query_as!(
        Workflow,
        r#"SELECT id AS "id: WorkflowId", organization_id AS "organization_id: OrgId", path, name, description, category,
               execution_mode, timeout_seconds, max_attempts, parameters AS "parameters: Json<Vec<Parameter>>",
               definition AS "definition: Json<Value>"
           FROM workflows
           WHERE is_active AND kind = 'workflow' AND organization_id IS NULL AND definition @> '{"endpoint_enabled": true}'
           ORDER BY name, id
           LIMIT $1"#,
        MOST_DESCRIBED,
    )
    .fetch_all(&mut *conn)
    .await?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(definition: Value) -> Option<Endpoint> {
        let workflow = Workflow {
            id: WorkflowId::generate(),
            organization_id: None,
            path: "a.py".into(),
            name: "a".into(),
            description: None,
            category: "General".into(),
            execution_mode: "sync".into(),
            timeout_seconds: 60,
            max_attempts: 1,
            parameters: Json(Vec::new()),
            definition: Json(definition),
        };
        workflow.endpoint()
    }

    #[test]
    fn an_endpoint_is_there_only_when_all_of_it_can_be_read() {
        let rule = json!({
            "secret": "hook", "header": "X-Signature", "algorithm": "sha256", "encoding": "hex", "content": "{body}",
            "tolerance_seconds": 300,
        });
        let with = |signature: Value| {
            endpoint(json!({"endpoint_enabled": true, "allowed_methods": ["POST"], "signature": signature}))
        };
        assert!(with(Value::Null).is_some_and(|endpoint| endpoint.signature.is_none()));
        assert!(with(rule.clone()).is_some_and(|endpoint| endpoint.signature.is_some()));
        let mut unsound = rule;
        unsound["content"] = json!("{timestamp}.{body}");
        for broken in [json!({}), json!("github"), json!(true), unsound] {
            assert_eq!(with(broken.clone()), None, "{broken}");
        }
        assert_eq!(endpoint(json!({"endpoint_enabled": false, "allowed_methods": ["POST"]})), None);
        assert_eq!(endpoint(json!({})), None);

        let limited = |limit: Value| {
            endpoint(json!({"endpoint_enabled": true, "allowed_methods": [], "endpoint_rate_limit": limit}))
        };
        let rate = limited(json!({"calls": 30, "seconds": 60})).and_then(|endpoint| endpoint.rate_limit);
        assert_eq!(rate, Some(CallRate { calls: 30, seconds: 60 }));
        assert!(limited(Value::Null).is_some_and(|endpoint| endpoint.rate_limit.is_none()));
        assert_eq!(limited(json!({"calls": -1, "seconds": 60})), None, "a limit that is lost opens nothing");
    }
}
