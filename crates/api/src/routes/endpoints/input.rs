//! The input of a call: query parameters, converted by declared type, and the members of a JSON object over them.

use domain::Result;
use domain::json::pointer_below;
use domain::workflows::{Parameter, check_at};
use serde_json::{Map, Value};

use crate::extract::{check_json, check_text};
use crate::problem::Problem;

/// Reads and checks it.
///
/// # Errors
/// 422 naming every fault where it was sent: `?name`, or `/name` in the body.
pub(super) fn read(
    declared: &[Parameter],
    query: Option<&str>,
    members: Map<String, Value>,
) -> Result<Map<String, Value>, Problem> {
    members.iter().try_for_each(|member| check_json(&pointer_below("", member.0), [member]))?;
    let mut input = Map::new();
    for (name, text) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        check_text(&format!("?{name}"), &name)?;
        check_text(&format!("?{name}"), &text)?;
        let is_list = declared.iter().any(|parameter| parameter.name == name && parameter.kind == "list");
        put(&mut input, name.into_owned(), text.into_owned(), is_list);
    }
    // One value may be a whole list as JSON.
    for value in input.values_mut() {
        if let Value::Array(items) = value
            && let [Value::String(text)] = &items[..]
            && let Ok(list @ Value::Array(_)) = serde_json::from_str(text)
        {
            *value = list;
        }
    }
    let in_body: Vec<String> = members.keys().cloned().collect();
    input.extend(members);
    let source = |name: &str| match in_body.iter().any(|member| member == name) {
        true => pointer_below("", name),
        false => format!("?{name}"),
    };
    Ok(check_at(declared, input, source)?)
}

/// A parameter is a list of its values where a list is declared, however many they are; elsewhere the last one counts.
fn put(input: &mut Map<String, Value>, name: String, text: String, is_list: bool) {
    match input.get_mut(&name) {
        Some(Value::Array(items)) => items.push(text.into()),
        _ if is_list => {
            input.insert(name, vec![text].into());
        }
        _ => {
            input.insert(name, text.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn declared() -> Vec<Parameter> {
        let parameter = |name: &str, kind: &str, required: bool| json!({"name": name, "type": kind, "required": required, "label": null, "default_value": null, "description": null});
        serde_json::from_value(json!([
            parameter("site", "string", true),
            parameter("count", "int", false),
            parameter("loud", "bool", false),
            parameter("tags", "list", false),
        ]))
        .expect("parameters")
    }

    fn input(query: &str, body: Value) -> Result<Value, Vec<String>> {
        let members = body.as_object().expect("an object").clone();
        match read(&declared(), Some(query), members) {
            Ok(input) => Ok(Value::Object(input)),
            Err(problem) => Err(vec![format!("{problem:?}")]),
        }
    }

    #[test]
    fn the_query_is_converted_and_the_body_wins() {
        assert_eq!(
            input("site=Bern&count=3&loud=on&tags=a&tags=b&other=x", json!({"count": 4})),
            Ok(json!({"site": "Bern", "count": 4, "loud": true, "tags": ["a", "b"], "other": "x"}))
        );
        for truth in ["true", "1", "yes", "on"] {
            assert_eq!(
                input(&format!("site=a&loud={truth}"), json!({})),
                Ok(json!({"site": "a", "loud": true}))
            );
        }
        assert_eq!(input("site=a&site=b%20c", json!({})), Ok(json!({"site": "b c"})));
        assert_eq!(input("site=a&tags=[1,2]", json!({})), Ok(json!({"site": "a", "tags": [1, 2]})));
        for (query, tags) in [
            ("tags=a", json!(["a"])),
            ("tags=", json!([""])),
            ("tags=3", json!(["3"])),
            ("tags=[a", json!(["[a"])),
            ("tags=[]", json!([])),
            ("tags=[1]&tags=b", json!(["[1]", "b"])),
        ] {
            assert_eq!(input(&format!("site=a&{query}"), json!({})), Ok(json!({"site": "a", "tags": tags})));
        }
        assert_eq!(input("site=a&tags=a", json!({"tags": [2]})), Ok(json!({"site": "a", "tags": [2]})));
    }

    #[test]
    fn a_fault_is_named_where_it_was_sent() {
        let fault = |query: &str, body: Value| input(query, body).expect_err("refused").remove(0);
        assert!(fault("", json!({})).contains(r#"pointer: "?site""#));
        assert!(fault("site=a&count=many", json!({})).contains(r#"pointer: "?count""#));
        assert!(fault("site=a&count=1", json!({"count": "many"})).contains(r#"pointer: "/count""#));
        assert!(fault("site=%00", json!({})).contains(r#"pointer: "?site""#));
        assert!(fault("site=a", json!({"x": "\0"})).contains(r#"pointer: "/x""#));
    }
}
