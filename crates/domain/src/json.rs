//! JSON where the order of members matters: a canonical text that means the same whatever their order was, and objects
//! that keep it.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::executions::RawJson;

/// The text of a value with the members of every object in the order of their names: equal for equal meaning.
pub fn canonical(value: Value) -> String {
    sorted(value).to_string()
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut members: Vec<(String, Value)> =
                map.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(members.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// An object with its members in the order they were given.
#[derive(Debug, Clone, Default)]
pub struct Members(pub Vec<(String, RawJson)>);

impl Members {
    /// The value of the first member that has one of these names, unless it is null.
    pub fn find(&self, names: &[&str]) -> Option<&RawJson> {
        self.0
            .iter()
            .find(|(name, _)| names.contains(&name.as_str()))
            .map(|(_, value)| value)
            .filter(|value| value.get() != "null")
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_meaning_has_one_text() {
        let one = canonical(json!({"b": [{"y": 1, "x": null}], "a": "1"}));
        let other = canonical(serde_json::from_str(r#"{"a":"1","b":[{"x":null,"y":1}]}"#).expect("JSON"));
        assert_eq!(one, other);
        assert_ne!(one, canonical(json!({"b": [{"y": 1, "x": null}], "a": 1})), "types differ");
    }

    #[test]
    fn members_keep_their_order_and_spelling() {
        let text = r#"{"z":1.0,"a":{"y":false,"b":""},"m":[]}"#;
        let members: Members = serde_json::from_str(text).expect("an object");
        assert_eq!(serde_json::to_string(&members).expect("JSON"), text);
        assert!(serde_json::from_str::<Members>("[1]").is_err());
    }
}
