//! The endpoints in the OpenAPI document: one path for each workflow that has one, with its parameters and their types.
//!
//! The document of the handlers is fixed; these paths follow the files, at most [`TTL`] behind the rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::remembered::get_or_find;
use domain::workflows::{self, Endpoint, Parameter, Workflow};
use domain::{Platform, Result};
use serde_json::{Map, Value, json};

/// How far the document may be behind.
const TTL: Duration = Duration::from_secs(2);

/// The whole document as text, made anew when it is asked for and old.
#[derive(Debug)]
pub(crate) struct Documents {
    /// What the handlers say.
    fixed: fn() -> &'static Value,
    current: moka::future::Cache<(), Arc<str>>,
}

impl Documents {
    /// On top of what the handlers say.
    pub(crate) fn new(fixed: fn() -> &'static Value) -> Self {
        Self { fixed, current: moka::future::Cache::builder().max_capacity(1).time_to_live(TTL).build() }
    }

    /// The document now.
    ///
    /// # Errors
    /// [`domain::Error::Unavailable`] when PostgreSQL is away.
    pub(crate) async fn get(&self, platform: &Platform) -> Result<Arc<str>> {
        let make = async || {
            let workflows = workflows::list_endpoints(&platform.db).await?;
            let mut document = (self.fixed)().clone();
            if let Some(paths) = document["paths"].as_object_mut() {
                paths.extend(paths_of(&workflows));
            }
            Ok(document.to_string().into())
        };
        get_or_find(&self.current, (), make).await
    }
}

/// The path of each endpoint. Where several workflows bear a name, calls need the id, so that is their path.
fn paths_of(workflows: &[Workflow]) -> impl Iterator<Item = (String, Value)> {
    let mut bearers: BTreeMap<&str, usize> = BTreeMap::new();
    for workflow in workflows {
        *bearers.entry(&workflow.name).or_default() += 1;
    }
    workflows.iter().filter_map(move |workflow| {
        let endpoint = workflow.endpoint()?;
        let id = workflow.id.to_string();
        let is_alone = bearers.get(workflow.name.as_str()) == Some(&1);
        let address = if is_alone { &workflow.name } else { &id };
        let operations = endpoint.allowed_methods.iter().map(|method| {
            let method = method.to_lowercase();
            let operation = operation(workflow, &endpoint, &method, address);
            (method, operation)
        });
        Some((format!("/api/endpoints/{address}"), Value::Object(operations.collect())))
    })
}

fn operation(workflow: &Workflow, endpoint: &Endpoint, method: &str, address: &str) -> Value {
    let in_query = matches!(method, "get" | "delete");
    let mut parameters: Vec<Value> = Vec::new();
    if in_query {
        parameters.extend(workflow.parameters.iter().map(|parameter| {
            json!({
                "name": parameter.name, "in": "query", "required": parameter.required,
                "description": described(parameter), "schema": schema(parameter),
            })
        }));
    }
    parameters.push(json!({
        "name": "Idempotency-Key", "in": "header", "required": false, "schema": {"type": "string", "maxLength": 255},
        "description": "A repeated call with this key is one execution, for a day.",
    }));
    if let Some(rule) = &endpoint.signature {
        let signed = [Some(&rule.header), rule.timestamp_header.as_ref(), rule.event_id_header.as_ref()];
        parameters.extend(signed.into_iter().flatten().map(|name| {
            json!({"name": name, "in": "header", "required": true, "schema": {"type": "string"}, "description": "Of the signature."})
        }));
    }
    let security = match endpoint.public_endpoint {
        true => json!([{}]),
        false => json!([{"BifrostApiKey": []}, {"bearer": []}]),
    };
    let answer = |description: &str| {
        json!({
            "description": description,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EndpointExecuteResponse"}}},
        })
    };
    let problem = |description: &str| {
        json!({
            "description": description,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        })
    };
    let mut operation = json!({
        "tags": ["Endpoints"],
        "operationId": format!("{method}_endpoint_{address}"),
        "summary": workflow.description.as_deref().filter(|text| !text.is_empty()).unwrap_or(&workflow.name),
        "description": format!("Runs the workflow `{}` of the category {}.", workflow.name, workflow.category),
        "parameters": parameters,
        "security": security,
        "responses": {
            "200": answer(if workflow.is_sync() { "How it ended." } else { "Accepted." }),
            "202": answer("Not ended yet; the run goes on."),
            "401": problem("The key or the signature is not good."),
            "422": problem("The input breaks a rule; `errors` names every member."),
            "429": too_many(endpoint),
            "503": problem("A dependency is away; try again after `Retry-After` seconds."),
        },
    });
    if !in_query {
        operation["requestBody"] = json!({"required": requires_any(&workflow.parameters), "content": {"application/json": {"schema": body(&workflow.parameters)}}});
    }
    operation
}

/// What is taken from one caller, for those who are beyond it.
fn too_many(endpoint: &Endpoint) -> Value {
    let caller = if endpoint.public_endpoint { "from one address" } else { "with one key" };
    let mut said = endpoint.rate_limit.map_or_else(String::new, |rate| {
        let (calls, seconds) = (rate.calls, rate.seconds);
        format!("More than {calls} calls {caller} within {seconds} s of the first. ")
    });
    said.push_str("More than 60 calls without a key from one address within a minute.");
    json!({
        "description": said,
        "headers": {"Retry-After": {"description": "Seconds until the next call is taken.", "schema": {"type": "integer"}}},
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    })
}

fn requires_any(parameters: &[Parameter]) -> bool {
    parameters.iter().any(|parameter| parameter.required)
}

fn body(parameters: &[Parameter]) -> Value {
    let properties: Map<String, Value> = parameters
        .iter()
        .map(|parameter| {
            let mut schema = schema(parameter);
            if let Some(text) = described(parameter) {
                schema["description"] = text.into();
            }
            (parameter.name.clone(), schema)
        })
        .collect();
    let required: Vec<&str> = parameters
        .iter()
        .filter(|parameter| parameter.required)
        .map(|parameter| parameter.name.as_str())
        .collect();
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn described(parameter: &Parameter) -> Option<&str> {
    parameter.description.as_deref().or(parameter.label.as_deref())
}

fn schema(parameter: &Parameter) -> Value {
    let mut schema = match parameter.kind.as_str() {
        "int" => json!({"type": "integer"}),
        "float" => json!({"type": "number"}),
        "bool" => json!({"type": "boolean"}),
        "list" => json!({"type": "array", "items": {}}),
        "json" => json!({}),
        "email" => json!({"type": "string", "format": "email"}),
        _ => json!({"type": "string"}),
    };
    if let Some(default) = &parameter.default_value {
        schema["default"] = default.clone();
    }
    schema
}
