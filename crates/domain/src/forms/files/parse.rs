//! A form's file as people write it, under any of the names that its members have had.

use serde_json::Value;
use uuid::Uuid;

use crate::executions::RawJson;
use crate::forms::{AccessLevel, check_description, fields, valid_name};
use crate::json::{NUL_RULE, Tree, contains_nul};
use crate::{Error, Result};

/// Other names that members of a file may have.
const FORM_MEMBERS: [(&str, &str); 11] = [
    ("linked_workflow", "workflow_id"),
    ("linkedWorkflow", "workflow_id"),
    ("workflowId", "workflow_id"),
    ("launchWorkflowId", "launch_workflow_id"),
    ("launch_workflow", "launch_workflow_id"),
    ("defaultLaunchParams", "default_launch_params"),
    ("allowedQueryParams", "allowed_query_params"),
    ("formSchema", "form_schema"),
    ("accessLevel", "access_level"),
    ("isActive", "is_active"),
    ("organizationId", "organization_id"),
];
const FIELD_MEMBERS: [(&str, &str); 8] = [
    ("defaultValue", "default_value"),
    ("helpText", "help_text"),
    ("visibilityExpression", "visibility_expression"),
    ("dataProvider", "data_provider"),
    ("dataProviderInputs", "data_provider_inputs"),
    ("allowedTypes", "allowed_types"),
    ("maxSizeMb", "max_size_mb"),
    ("allowAsQueryParam", "allow_as_query_param"),
];
const INPUT_MEMBERS: [(&str, &str); 1] = [("fieldName", "field_name")];

/// A file as understood.
pub(super) struct Parsed {
    pub(super) id: Option<Uuid>,
    pub(super) organization_id: Option<Uuid>,
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) workflow_id: Option<String>,
    pub(super) launch_workflow_id: Option<String>,
    pub(super) default_launch_params: Option<RawJson>,
    pub(super) allowed_query_params: Option<RawJson>,
    pub(super) form_schema: RawJson,
    pub(super) access_level: Option<AccessLevel>,
    pub(super) is_active: Option<bool>,
}

/// What is wrong with a file, and in which line.
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) message: String,
}

/// Reads a file.
pub(super) fn parse(text: &str) -> Result<Parsed, Fault> {
    let mut tree = Tree::parse(text.trim_start_matches('\u{feff}'))
        .map_err(|error| Fault { line: error.line().max(1), message: format!("malformed JSON: {error}") })?;
    if !matches!(tree, Tree::Object(_)) {
        return Err(Fault::of("must be an object"));
    }
    let has_nul = |text: &str| serde_json::from_str(text).is_ok_and(|whole: Value| contains_nul(&whole));
    // The text alone does not tell: what follows a backslash may be one that is escaped itself.
    if text.contains("\\u0000") && has_nul(text) {
        return Err(Fault::of(NUL_RULE));
    }
    tree.rename(&FORM_MEMBERS);
    let schema = match tree.get_mut("form_schema") {
        Some(schema) => {
            rename_fields(schema);
            schema.to_raw()
        }
        // Older files have the fields beside the rest.
        None => {
            let fields =
                tree.find(&["fields"]).cloned().ok_or_else(|| Fault::of("form_schema is required"))?;
            let mut schema = Tree::Object(vec![("fields".to_owned(), fields)]);
            rename_fields(&mut schema);
            schema.to_raw()
        }
    };
    let checked: Value = serde_json::from_str(schema.get()).map_err(|error| Fault::of(&error.to_string()))?;
    fields::check(&checked)?;
    let id = |name: &str| -> Result<Option<Uuid>, Fault> {
        let given = member::<String>(&tree, name)?.filter(|id| !id.is_empty());
        given.map(|id| id.parse().map_err(|_| Fault::of(&format!("{name} must be a UUID")))).transpose()
    };
    let name: String = member(&tree, "name")?.ok_or_else(|| Fault::of("name is required"))?;
    let description: Option<String> = member(&tree, "description")?;
    check_description(description.as_deref())?;
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let object = |name: &str| match tree.find(&[name]) {
        None => Ok(None),
        Some(value @ Tree::Object(_)) => Ok(Some(value.to_raw())),
        Some(_) => Err(Fault::of(&format!("{name} must be an object"))),
    };
    let names: Option<Vec<String>> = member(&tree, "allowed_query_params")?;
    Ok(Parsed {
        id: id("id")?,
        organization_id: id("organization_id")?,
        name: valid_name(&name)?,
        description: filled(description),
        workflow_id: filled(member(&tree, "workflow_id")?),
        launch_workflow_id: filled(member(&tree, "launch_workflow_id")?),
        default_launch_params: object("default_launch_params")?,
        allowed_query_params: names
            .map(|names| serde_json::value::to_raw_value(&names))
            .transpose()
            .map_err(|error| Fault::of(&error.to_string()))?,
        form_schema: schema,
        access_level: member(&tree, "access_level")?,
        is_active: member(&tree, "is_active")?,
    })
}

fn rename_fields(schema: &mut Tree) {
    let Some(Tree::List(fields)) = schema.get_mut("fields") else { return };
    for field in fields {
        field.rename(&FIELD_MEMBERS);
        if let Some(Tree::Object(inputs)) = field.get_mut("data_provider_inputs") {
            inputs.iter_mut().for_each(|(_, input)| input.rename(&INPUT_MEMBERS));
        }
    }
}

fn member<T: serde::de::DeserializeOwned>(tree: &Tree, name: &str) -> Result<Option<T>, Fault> {
    let Some(value) = tree.find(&[name]) else { return Ok(None) };
    serde_json::from_str(value.to_raw().get()).map(Some).map_err(|error| {
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        Fault::of(&format!("{name}: {text}"))
    })
}

impl Fault {
    pub(super) fn of(message: &str) -> Self {
        Self { line: 1, message: message.to_owned() }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let Error::Invalid(faults) = &error else { return Self::of(&error.to_string()) };
        let texts: Vec<String> =
            faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail)).collect();
        Self::of(&texts.join("; "))
    }
}
