//! JSON where the order of members matters: a canonical text that means the same whatever their order was, and objects
//! that keep it.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::executions::RawJson;

/// Deeper values are refused.
pub const MAX_DEPTH: usize = 64;
/// What the parser calls whole numbers.
const INTEGERS: [&str; 12] =
    ["i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16", "u32", "u64", "u128", "usize"];

/// The text of a value with the members of every object in the order of their names: equal for equal meaning.
pub fn canonical(value: Value) -> String {
    sorted(value).to_string()
}

/// The pointer (RFC 6901) of a member of the object at another.
pub fn pointer_below(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// What the parser says of JSON that does not fit, in words for people: the name of the member that is missing below where it
/// was, if that is the fault, and what is wrong.
pub fn unfit(said: &str) -> (Option<&str>, String) {
    // The parser appends where it stood, which a path says better.
    let said = said.rsplit_once(" at line ").map_or(said, |(text, _)| text);
    match said.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        Some(name) => (Some(name), "is required".into()),
        None => (None, without_input(said)),
    }
}

/// The parser quotes what it got, which may be a secret in the wrong place; what it expected says enough.
fn without_input(said: &str) -> String {
    if said.starts_with("UUID parsing failed") {
        return "must be a UUID".into();
    }
    match said.rsplit_once(", expected ") {
        Some((_, expected)) if expected == "a map" || expected.starts_with("struct ") => {
            "must be an object".into()
        }
        Some((_, "a sequence")) => "must be a list".into(),
        Some((_, expected)) if INTEGERS.contains(&expected) => "must be a whole number".into(),
        Some((_, "f32" | "f64")) => "must be a number".into(),
        Some((_, expected)) => format!("must be {expected}"),
        None => said.to_owned(),
    }
}

/// What is said of text that holds NUL.
pub const NUL_RULE: &str = "must not contain NUL";

/// Whether a text or a name in it holds NUL, which PostgreSQL cannot.
pub fn contains_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(contains_nul),
        Value::Object(members) => {
            members.iter().any(|(name, value)| name.contains('\0') || contains_nul(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether this JSON text has a whole number of more than 64 bits, which a [`Value`] holds rounded.
pub fn has_long_integer(json: &str) -> bool {
    let (mut is_text, mut is_escaped) = (false, false);
    let mut numbers = json.split(|c: char| {
        let was_text = is_text;
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_text = !is_text,
            _ => {}
        }
        was_text || !(c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'))
    });
    numbers.any(|number| {
        let digits = number.strip_prefix('-').unwrap_or(number);
        let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_whole && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
    })
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

/// A value whose objects keep the order of their members, and whose numbers and texts stay as they were written.
#[derive(Debug, Clone)]
pub enum Tree {
    /// An object.
    Object(Vec<(String, Tree)>),
    /// A list.
    List(Vec<Tree>),
    /// Anything else.
    Leaf(RawJson),
}

impl Tree {
    /// Reads JSON text.
    ///
    /// # Errors
    /// When it is none, or nests deeper than [`MAX_DEPTH`].
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        Self::parse_at(text, 0)
    }

    fn parse_at(text: &str, depth: usize) -> serde_json::Result<Self> {
        if depth > MAX_DEPTH {
            return Err(serde::de::Error::custom(format!("nests deeper than {MAX_DEPTH} levels")));
        }
        let raw: RawJson = serde_json::from_str(text)?;
        match raw.get().as_bytes().first() {
            Some(b'{') => {
                let Members(members) = serde_json::from_str(raw.get())?;
                let parse =
                    |(name, value): (String, RawJson)| Ok((name, Self::parse_at(value.get(), depth + 1)?));
                members.into_iter().map(parse).collect::<serde_json::Result<_>>().map(Self::Object)
            }
            Some(b'[') => {
                let items: Vec<RawJson> = serde_json::from_str(raw.get())?;
                let parse = |item: &RawJson| Self::parse_at(item.get(), depth + 1);
                items.iter().map(parse).collect::<serde_json::Result<_>>().map(Self::List)
            }
            _ => Ok(Self::Leaf(raw)),
        }
    }

    /// The first member that has one of these names, unless it is null.
    pub fn find(&self, names: &[&str]) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        let found = members.iter().find(|(name, _)| names.contains(&name.as_str()));
        found.map(|(_, value)| value).filter(|value| !matches!(value, Self::Leaf(raw) if raw.get() == "null"))
    }

    /// Gives members of an object other names.
    pub fn rename(&mut self, names: &[(&str, &str)]) {
        let Self::Object(members) = self else { return };
        for (name, _) in members {
            if let Some((_, new)) = names.iter().find(|(old, _)| old == name) {
                (*new).clone_into(name);
            }
        }
    }

    /// The member of this name, to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        let Self::Object(members) = self else { return None };
        members.iter_mut().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// As compact text.
    pub fn to_raw(&self) -> RawJson {
        serde_json::value::to_raw_value(self).expect("what was JSON is JSON")
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Object(members) => {
                serializer.collect_map(members.iter().map(|(name, value)| (name, value)))
            }
            Self::List(items) => serializer.collect_seq(items),
            Self::Leaf(raw) => raw.serialize(serializer),
        }
    }
}

/// The members of an object in the order they were given.
struct Members(Vec<(String, RawJson)>);

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
    fn integers_are_long_where_64_bits_do_not_hold_them() {
        for held in [
            "18446744073709551615",
            "-9223372036854775808",
            "1e300",
            "0.10000000000000000000000001",
            r#"{"99999999999999999999": "\\\"99999999999999999999 ", "a": [true, false, null, -1]}"#,
        ] {
            assert!(serde_json::from_str::<Value>(held).is_ok() && !has_long_integer(held), "{held}");
        }
        for long in
            ["18446744073709551616", "-9223372036854775809", r#"{"a":["\"",[10000000000000000000000]]}"#]
        {
            assert!(serde_json::from_str::<Value>(long).is_ok() && has_long_integer(long), "{long}");
        }
    }

    #[test]
    fn a_tree_keeps_order_and_spelling() {
        let text = r#"{"z":1.0,"a":{"y":false,"b":"\u00e9"},"m":[[],{},1e3]}"#;
        let mut tree = Tree::parse(text).expect("JSON");
        assert_eq!(tree.to_raw().get(), text);
        tree.rename(&[("z", "last"), ("nothing", "x")]);
        assert!(tree.to_raw().get().starts_with(r#"{"last":1.0,"a""#));
        assert!(tree.find(&["q", "a"]).is_some_and(|a| a.find(&["b"]).is_some()));
        assert!(Tree::parse(r#"{"a":null}"#).expect("JSON").find(&["a"]).is_none());
        assert!(Tree::parse("{").is_err() && Tree::parse("1 2").is_err());
        assert!(Tree::parse(&"[".repeat(100_000)).is_err());
        assert!(Tree::parse(&format!("{}{}", "[".repeat(80), "]".repeat(80))).is_err());
    }
}
