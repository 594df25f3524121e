//! The input of a run against the parameters its workflow declares.

use serde_json::{Map, Value};

use super::Parameter;
use crate::error::FieldError;
use crate::json::pointer_below;
use crate::{Error, Result};

/// Checks and converts the input of a run: required parameters are there, numbers and booleans readable,
/// `list` and `json` also from their JSON text. What is not declared passes through.
///
/// # Errors
/// [`Error::Invalid`] with one entry per parameter, pointing below `/input_data`.
pub fn check_parameters(declared: &[Parameter], input: Map<String, Value>) -> Result<Map<String, Value>> {
    check_at(declared, input, |name| pointer_below("/input_data", name))
}

/// The same with the pointers that `at` gives for the names of parameters.
///
/// # Errors
/// [`Error::Invalid`] with one entry per parameter.
pub fn check_at(
    declared: &[Parameter],
    mut input: Map<String, Value>,
    at: impl Fn(&str) -> String,
) -> Result<Map<String, Value>> {
    let mut faults = Vec::new();
    for parameter in declared {
        let fault = match input.get_mut(&parameter.name) {
            None | Some(Value::Null) if parameter.required => Some("is required".to_owned()),
            None | Some(Value::Null) => None,
            Some(value) => convert(&parameter.kind, value).err(),
        };
        if let Some(detail) = fault {
            faults.push(FieldError { pointer: at(&parameter.name), detail });
        }
    }
    if faults.is_empty() { Ok(input) } else { Err(Error::Invalid(faults)) }
}

fn convert(kind: &str, value: &mut Value) -> Result<(), String> {
    match (kind, &*value) {
        ("int", Value::Number(number)) if number.is_i64() || number.is_u64() => {}
        ("int", Value::Number(number))
            if number.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 9e15) =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53, checked above")]
            let whole = number.as_f64().unwrap_or_default() as i64;
            *value = Value::from(whole);
        }
        ("int", Value::String(text)) => {
            *value =
                text.trim().parse::<i64>().map(Value::from).map_err(|_| "must be an integer".to_owned())?;
        }
        ("int", _) => return Err("must be an integer".into()),
        ("float", Value::Number(_)) => {}
        ("float", Value::String(text)) => {
            let number =
                text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).ok_or("must be a number")?;
            *value = Value::from(number);
        }
        ("float", _) => return Err("must be a number".into()),
        ("bool", Value::Bool(_)) => {}
        ("bool", Value::Number(number)) if matches!(number.as_i64(), Some(0 | 1)) => {
            *value = Value::Bool(number.as_i64() == Some(1));
        }
        ("bool", Value::String(text)) => {
            *value = match text.trim().to_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Value::Bool(true),
                "false" | "0" | "no" | "off" => Value::Bool(false),
                _ => return Err("must be true or false".into()),
            };
        }
        ("bool", _) => return Err("must be true or false".into()),
        ("list", Value::String(text)) => {
            if let Ok(list @ Value::Array(_)) = serde_json::from_str(text) {
                *value = list;
            }
        }
        ("json", Value::String(text)) => {
            if let Ok(parsed) = serde_json::from_str(text) {
                *value = parsed;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parameter(name: &str, kind: &str, required: bool) -> Parameter {
        Parameter {
            name: name.into(),
            kind: kind.into(),
            required,
            label: None,
            default_value: None,
            description: None,
            validation: None,
            data_provider: None,
            options: None,
        }
    }

    fn check(kind: &str, value: Value) -> Result<Value, String> {
        let input = Map::from_iter([("p".to_owned(), value)]);
        match check_parameters(&[parameter("p", kind, true)], input) {
            Ok(mut checked) => Ok(checked.remove("p").unwrap_or_default()),
            Err(Error::Invalid(faults)) => Err(format!("{}: {}", faults[0].pointer, faults[0].detail)),
            Err(other) => Err(other.to_string()),
        }
    }

    #[test]
    fn values_are_converted_to_their_declared_type() {
        assert_eq!(check("int", json!("42")), Ok(json!(42)));
        assert_eq!(check("int", json!(42.0)), Ok(json!(42)));
        assert_eq!(check("float", json!("2.5")), Ok(json!(2.5)));
        assert_eq!(check("bool", json!("yes")), Ok(json!(true)));
        assert_eq!(check("list", json!("[1, 2]")), Ok(json!([1, 2])));
        assert_eq!(check("json", json!("{\"a\": 1}")), Ok(json!({"a": 1})));
        assert_eq!(check("string", json!("42")), Ok(json!("42")));
    }

    #[test]
    fn unreadable_and_missing_values_are_named_by_pointer() {
        assert_eq!(check("int", json!("many")), Err("/input_data/p: must be an integer".into()));
        assert_eq!(check("int", json!(1.5)), Err("/input_data/p: must be an integer".into()));
        assert_eq!(check("float", json!("NaN")), Err("/input_data/p: must be a number".into()));
        assert_eq!(check("bool", json!("perhaps")), Err("/input_data/p: must be true or false".into()));
        assert_eq!(check("int", Value::Null), Err("/input_data/p: is required".into()));
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let declared =
            [parameter("a", "int", true), parameter("b/c", "bool", true), parameter("d", "int", false)];

        let Err(Error::Invalid(faults)) = check_parameters(&declared, Map::new()) else {
            panic!("must be refused")
        };

        let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/input_data/a", "/input_data/b~1c"]);
    }
}
