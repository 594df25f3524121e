//! What a form's schema may say. Members that are not named here pass: clients know more than the server checks, and
//! expressions are the browser's (§4 of the contract).

use serde_json::{Map, Value};

use crate::json::pointer_below;
use crate::{Error, FieldError, Result};

const MAX_FIELDS: usize = 50;
const TYPES: [&str; 11] = [
    "text", "email", "number", "select", "checkbox", "textarea", "radio", "datetime", "markdown", "html",
    "file",
];
/// Types that show something and ask nothing.
const SHOWN: [&str; 2] = ["markdown", "html"];
/// The member that each mode of a data provider's input needs, and takes alone.
const MODES: [(&str, &str); 3] =
    [("static", "value"), ("fieldRef", "field_name"), ("expression", "expression")];
const TEXTS: [&str; 8] = [
    "name",
    "label",
    "placeholder",
    "help_text",
    "visibility_expression",
    "data_provider",
    "content",
    "type",
];
const FLAGS: [&str; 3] = ["required", "multiple", "allow_as_query_param"];

/// Checks a schema.
///
/// # Errors
/// [`Error::Invalid`] with the pointer of every member that breaks a rule, below `/form_schema`.
pub fn check(schema: &Value) -> Result<()> {
    let Some(schema) = schema.as_object() else {
        return Err(Error::invalid("/form_schema", "must be an object"));
    };
    let Some(fields) = schema.get("fields").and_then(Value::as_array) else {
        return Err(Error::invalid("/form_schema/fields", "must be a list"));
    };
    if fields.len() > MAX_FIELDS {
        return Err(Error::invalid("/form_schema/fields", format!("may hold at most {MAX_FIELDS} fields")));
    }
    let mut faults = Faults::default();
    let mut names = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let at = format!("/form_schema/fields/{index}");
        let Some(field) = field.as_object() else {
            faults.add(at, "must be an object");
            continue;
        };
        check_field(&mut faults, &at, field);
        if let Some(name) = text(field, "name").filter(|name| !name.is_empty()) {
            if names.contains(&name) {
                faults.add(format!("{at}/name"), "is the name of another field");
            }
            names.push(name);
        }
    }
    faults.into_result()
}

/// Names of fields that a query parameter may fill.
pub fn query_fields(schema: &Value) -> Vec<&str> {
    let fields = schema.get("fields").and_then(Value::as_array).into_iter().flatten();
    let flagged = |field: &&Value| field.get("allow_as_query_param") == Some(&Value::Bool(true));
    fields.filter(flagged).filter_map(|field| field.get("name").and_then(Value::as_str)).collect()
}

/// Names of the data providers that fields take their options from.
pub fn data_providers(schema: &Value) -> Vec<&str> {
    let fields = schema.get("fields").and_then(Value::as_array).into_iter().flatten();
    fields.filter_map(|field| field.get("data_provider").and_then(Value::as_str)).collect()
}

/// Whether there is no such text, or an empty one; what is no text has its own fault.
fn is_missing(field: &Map<String, Value>, name: &str) -> bool {
    match field.get(name) {
        None | Some(Value::Null) => true,
        Some(value) => value.as_str().is_some_and(|text| text.trim().is_empty()),
    }
}

fn check_field(faults: &mut Faults, at: &str, field: &Map<String, Value>) {
    for name in
        TEXTS.iter().filter(|name| !matches!(field.get(**name), None | Some(Value::Null | Value::String(_))))
    {
        faults.add(format!("{at}/{name}"), "must be text");
    }
    for name in
        FLAGS.iter().filter(|name| !matches!(field.get(**name), None | Some(Value::Null | Value::Bool(_))))
    {
        faults.add(format!("{at}/{name}"), "must be true or false");
    }
    if is_missing(field, "name") {
        faults.add(format!("{at}/name"), "is required");
    }
    let kind = text(field, "type").unwrap_or_default();
    if !TYPES.contains(&kind) {
        faults.add(format!("{at}/type"), &format!("must be one of {}", TYPES.join(", ")));
    }
    let needed = if SHOWN.contains(&kind) { "content" } else { "label" };
    if is_missing(field, needed) {
        faults.add(format!("{at}/{needed}"), "is required");
    }
    check_validation(faults, &format!("{at}/validation"), field.get("validation"));
    check_inputs(faults, at, field);
    check_options(faults, &format!("{at}/options"), field.get("options"));
    if let Some(types) = field.get("allowed_types").filter(|types| !types.is_null())
        && types.as_array().is_none_or(|types| !types.iter().all(Value::is_string))
    {
        faults.add(format!("{at}/allowed_types"), "must be a list of texts");
    }
    if let Some(size) = field.get("max_size_mb").filter(|size| !size.is_null())
        && size.as_u64().is_none_or(|size| size == 0)
    {
        faults.add(format!("{at}/max_size_mb"), "must be a whole number of at least 1");
    }
}

fn check_validation(faults: &mut Faults, at: &str, validation: Option<&Value>) {
    let Some(validation) = validation.filter(|validation| !validation.is_null()) else { return };
    let Some(validation) = validation.as_object() else { return faults.add(at, "must be an object") };
    for name in ["pattern", "message"] {
        if !matches!(validation.get(name), None | Some(Value::Null | Value::String(_))) {
            faults.add(format!("{at}/{name}"), "must be text");
        }
    }
    for name in ["min", "max"] {
        if !matches!(validation.get(name), None | Some(Value::Null | Value::Number(_))) {
            faults.add(format!("{at}/{name}"), "must be a number");
        }
    }
    let bound = |name: &str| validation.get(name).and_then(Value::as_f64);
    if bound("min").zip(bound("max")).is_some_and(|(min, max)| min > max) {
        faults.add(format!("{at}/max"), "must not be less than min");
    }
}

fn check_options(faults: &mut Faults, at: &str, options: Option<&Value>) {
    let Some(options) = options.filter(|options| !options.is_null()) else { return };
    let options = options.as_array().filter(|options| options.iter().all(Value::is_object));
    let Some(options) = options else { return faults.add(at, "must be a list of objects") };
    for (index, option) in options.iter().enumerate() {
        for (name, _) in option.as_object().into_iter().flatten().filter(|(_, value)| !value.is_string()) {
            faults.add(pointer_below(&format!("{at}/{index}"), name), "must be text");
        }
    }
}

fn check_inputs(faults: &mut Faults, at: &str, field: &Map<String, Value>) {
    let at = format!("{at}/data_provider_inputs");
    let Some(inputs) = field.get("data_provider_inputs").filter(|inputs| !inputs.is_null()) else { return };
    let Some(inputs) = inputs.as_object() else { return faults.add(at, "must be an object") };
    if !inputs.is_empty() && text(field, "data_provider").is_none_or(str::is_empty) {
        faults.add(at.as_str(), "needs data_provider");
    }
    for (name, input) in inputs {
        let at = pointer_below(&at, name);
        let Some(input) = input.as_object() else {
            faults.add(at, "must be an object");
            continue;
        };
        let mode = text(input, "mode").unwrap_or_default();
        let Some((_, needed)) = MODES.iter().find(|(known, _)| *known == mode) else {
            faults.add(format!("{at}/mode"), "must be static, fieldRef or expression");
            continue;
        };
        for (_, member) in MODES {
            let given = input.get(member).filter(|value| !value.is_null());
            match given {
                None if member != *needed => {}
                Some(_) if member != *needed => {
                    faults.add(format!("{at}/{member}"), &format!("does not belong to mode {mode}"));
                }
                // A value may well be empty; the name of a field and an expression are none then.
                Some(Value::String(text)) if member == "value" || !text.is_empty() => {}
                None | Some(Value::String(_)) => {
                    faults.add(format!("{at}/{member}"), &format!("is required in mode {mode}"));
                }
                Some(_) => faults.add(format!("{at}/{member}"), "must be text"),
            }
        }
    }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: impl Into<String>, detail: &str) {
        self.0.push(FieldError { pointer: pointer.into(), detail: detail.to_owned() });
    }

    fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(field: Value) -> Vec<String> {
        match check(&json!({"fields": [field]})) {
            Ok(()) => Vec::new(),
            Err(Error::Invalid(errors)) => errors
                .into_iter()
                .map(|error| error.pointer.trim_start_matches("/form_schema/fields/0").to_owned())
                .collect(),
            Err(other) => panic!("{other}"),
        }
    }

    fn with(members: Value) -> Value {
        let mut field = json!({"name": "site", "label": "Site", "type": "text"});
        field.as_object_mut().expect("an object").extend(members.as_object().expect("an object").clone());
        field
    }

    #[test]
    fn every_broken_rule_is_pointed_at() {
        let input =
            |input: Value| with(json!({"data_provider": "p", "data_provider_inputs": {"a/b": input}}));
        let corpus: Vec<(Value, &[&str])> = vec![
            (json!(5), &[""]),
            (json!({}), &["/name", "/type", "/label"]),
            (json!({"name": " ", "label": "L", "type": "text"}), &["/name"]),
            (json!({"name": 5, "label": "L", "type": "text"}), &["/name"]),
            (json!({"name": "n", "label": true, "type": "text"}), &["/label"]),
            (with(json!({"type": "password"})), &["/type"]),
            (with(json!({"type": null})), &["/type"]),
            (with(json!({"label": ""})), &["/label"]),
            (with(json!({"label": null})), &["/label"]),
            (with(json!({"label": 1})), &["/label"]),
            (json!({"name": "m", "type": "markdown"}), &["/content"]),
            (json!({"name": "m", "type": "html", "content": " "}), &["/content"]),
            (json!({"name": "m", "type": "html", "label": "L"}), &["/content"]),
            (with(json!({"required": "yes"})), &["/required"]),
            (with(json!({"multiple": 1})), &["/multiple"]),
            (with(json!({"allow_as_query_param": "true"})), &["/allow_as_query_param"]),
            (with(json!({"placeholder": 1})), &["/placeholder"]),
            (with(json!({"help_text": []})), &["/help_text"]),
            (with(json!({"visibility_expression": true})), &["/visibility_expression"]),
            (with(json!({"validation": []})), &["/validation"]),
            (with(json!({"validation": {"pattern": 5}})), &["/validation/pattern"]),
            (with(json!({"validation": {"message": 5}})), &["/validation/message"]),
            (with(json!({"validation": {"min": "1"}})), &["/validation/min"]),
            (with(json!({"validation": {"max": true}})), &["/validation/max"]),
            (with(json!({"validation": {"min": 5, "max": 4}})), &["/validation/max"]),
            (with(json!({"options": {}})), &["/options"]),
            (with(json!({"options": ["a"]})), &["/options"]),
            (
                with(json!({"options": [{"label": "a", "value": "b"}, {"label": 5, "value": true}]})),
                &["/options/1/label", "/options/1/value"],
            ),
            (with(json!({"allowed_types": "image/*"})), &["/allowed_types"]),
            (with(json!({"allowed_types": [1]})), &["/allowed_types"]),
            (with(json!({"max_size_mb": 0})), &["/max_size_mb"]),
            (with(json!({"max_size_mb": -1})), &["/max_size_mb"]),
            (with(json!({"max_size_mb": 1.5})), &["/max_size_mb"]),
            (
                with(json!({"data_provider_inputs": {"a": {"mode": "static", "value": "x"}}})),
                &["/data_provider_inputs"],
            ),
            (with(json!({"data_provider": "p", "data_provider_inputs": []})), &["/data_provider_inputs"]),
            (input(json!("x")), &["/data_provider_inputs/a~1b"]),
            (input(json!({})), &["/data_provider_inputs/a~1b/mode"]),
            (input(json!({"mode": "other"})), &["/data_provider_inputs/a~1b/mode"]),
            (input(json!({"mode": "static"})), &["/data_provider_inputs/a~1b/value"]),
            (
                input(json!({"mode": "fieldRef", "value": "x"})),
                &["/data_provider_inputs/a~1b/value", "/data_provider_inputs/a~1b/field_name"],
            ),
            (
                input(json!({"mode": "expression", "expression": null})),
                &["/data_provider_inputs/a~1b/expression"],
            ),
            (input(json!({"mode": "static", "value": 5})), &["/data_provider_inputs/a~1b/value"]),
            (input(json!({"mode": "fieldRef", "field_name": 5})), &["/data_provider_inputs/a~1b/field_name"]),
            (
                input(json!({"mode": "fieldRef", "field_name": ""})),
                &["/data_provider_inputs/a~1b/field_name"],
            ),
            (
                input(json!({"mode": "expression", "expression": {}})),
                &["/data_provider_inputs/a~1b/expression"],
            ),
            (
                input(json!({"mode": "static", "value": "x", "expression": "y"})),
                &["/data_provider_inputs/a~1b/expression"],
            ),
        ];
        for (field, expected) in &corpus {
            assert_eq!(faults(field.clone()), *expected, "{field}");
        }
        println!("bad fields: pointed at {} of {}", corpus.len(), corpus.len());
    }

    #[test]
    fn what_clients_send_passes() {
        for field in [
            with(json!({})),
            with(json!({"default_value": false, "unknown": {"a": 1}, "placeholder": null})),
            with(json!({"validation": {"pattern": "^a", "min": 1, "max": 1, "message": "m", "other": []}})),
            with(json!({"type": "select", "options": [{"label": "a", "value": "b"}]})),
            with(
                json!({"type": "file", "allowed_types": ["image/*", ".pdf"], "max_size_mb": 5, "multiple": true}),
            ),
            with(
                json!({"data_provider": "p", "data_provider_inputs": {"a": {"mode": "static", "value": "", "expression": null}}}),
            ),
            json!({"name": "m", "type": "markdown", "content": "# Hello"}),
        ] {
            assert_eq!(faults(field.clone()), [""; 0], "{field}");
        }
        let many = |count: usize| json!({"fields": (0..count).map(|n| with(json!({"name": format!("f{n}")}))).collect::<Vec<_>>()});
        assert!(check(&many(50)).is_ok());
        assert!(check(&many(51)).is_err());
        let twice = json!({"fields": [with(json!({})), with(json!({}))]});
        assert!(
            matches!(check(&twice), Err(Error::Invalid(errors)) if errors[0].pointer == "/form_schema/fields/1/name")
        );
        for wrong in [json!([]), json!({}), json!({"fields": {}}), Value::Null] {
            assert!(check(&wrong).is_err(), "{wrong}");
        }
    }
}
