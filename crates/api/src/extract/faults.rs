//! What is wrong with JSON that does not fit its type: every fault, by the pointer of its member.
//!
//! The parser stops at the first. What is at fault is put right then, with whatever fits there, and the rest is read again.
//! Nothing of what was sent is repeated.

use std::collections::VecDeque;

use domain::FieldError;
use domain::json::{pointer_below, unfit};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::{Path, Segment};

/// As many are told of at once.
const MOST: usize = 20;
/// As many are put right, those of stand-ins included.
const MOST_READINGS: usize = 2 * MOST;
/// What is said of a thing that is no name where one of several is wanted.
const NO_NAME: &str = "must be string or map";
/// Of a larger body the first alone is told of, for each takes reading it some ten times.
const MOST_BYTES: usize = 64 * 1024;

/// The fault of the member at `path`, of which the parser says `message`.
fn locate(path: &Path, message: &str) -> FieldError {
    let mut pointer = String::new();
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } | Segment::Enum { variant: key } => pointer = pointer_below(&pointer, key),
            Segment::Unknown => {}
        }
    }
    let (missing, detail) = unfit(message);
    if let Some(name) = missing {
        pointer = pointer_below(&pointer, name);
    }
    FieldError { pointer, detail }
}

/// The faults of a body that was read as far as `path`, where the parser said this.
pub(super) fn of_body<T: DeserializeOwned>(
    body: &str,
    path: &Path,
    said: &serde_json::Error,
) -> Vec<FieldError> {
    let value = match serde_json::from_str::<Value>(body) {
        Ok(value) => value,
        // What was said may quote a member that came before; this one knows of no members.
        Err(broken) => {
            return vec![FieldError { pointer: String::new(), detail: format!("malformed JSON: {broken}") }];
        }
    };
    match fault_of::<T>(&value) {
        Some(first) if body.len() <= MOST_BYTES => all::<T>(value, first),
        Some(first) => vec![first],
        // A member that is there twice is a fault of the text alone.
        None => vec![locate(path, &said.to_string())],
    }
}

/// All faults of named texts that do not fit.
pub(super) fn of_texts<T: DeserializeOwned>(texts: Value) -> Vec<FieldError> {
    fault_of::<T>(&texts).map(|first| all::<T>(texts, first)).unwrap_or_default()
}

fn all<T: DeserializeOwned>(mut value: Value, first: FieldError) -> Vec<FieldError> {
    let mut at = first.pointer.clone();
    let mut faults = vec![first];
    for _ in 0..MOST_READINGS {
        let Some(next) = put_right::<T>(&mut value, &at) else { break };
        at.clone_from(&next.pointer);
        // What lacks in a stand-in was not asked of anybody.
        let covers = |known: &FieldError| {
            let below = next.pointer.strip_prefix(&known.pointer);
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        };
        if !faults.iter().any(covers) {
            faults.push(next);
        }
        if faults.len() == MOST {
            break;
        }
    }
    faults
}

/// The first fault of a value; `None` where it fits.
fn fault_of<T: DeserializeOwned>(value: &Value) -> Option<FieldError> {
    let fault = plain_fault_of::<T>(value)?;
    if fault.detail != NO_NAME {
        return Some(fault);
    }
    // Which names there are, the parser says only to one who gives a name.
    let mut named = value.clone();
    place(&mut named, &fault.pointer, Some(json!("")));
    plain_fault_of::<T>(&named).filter(|again| again.pointer == fault.pointer).or(Some(fault))
}

fn plain_fault_of<T: DeserializeOwned>(value: &Value) -> Option<FieldError> {
    let error = serde_path_to_error::deserialize::<_, T>(value).err()?;
    Some(locate(error.path(), &error.inner().to_string()))
}

/// Has something that fits stand where the fault is, else nothing, and gives the next one; `None` where there is none any more, or
/// nothing known fits.
fn put_right<T: DeserializeOwned>(value: &mut Value, at: &str) -> Option<FieldError> {
    let mut stand_ins = VecDeque::from([
        Some(json!("")),
        Some(json!("text")),
        Some(json!(1)),
        Some(json!(false)),
        Some(json!([])),
        Some(json!({})),
        Some(json!("00000000-0000-7000-8000-000000000000")),
        Some(json!("2000-01-01T00:00:00Z")),
        None,
    ]);
    let mut knows_names = false;
    while let Some(stand_in) = stand_ins.pop_front() {
        place(value, at, stand_in);
        let fault = fault_of::<T>(value)?;
        if fault.pointer != at {
            return Some(fault);
        }
        // One of the names that it may have.
        if let Some((_, names)) = fault.detail.split_once('`')
            && !std::mem::replace(&mut knows_names, true)
        {
            stand_ins.push_front(names.split('`').next().map(Into::into));
        }
    }
    None
}

/// Puts something at a pointer whose parent is there, or takes away what is.
fn place(value: &mut Value, at: &str, thing: Option<Value>) {
    let Some((parent, name)) = at.rsplit_once('/') else { return };
    let name = name.replace("~1", "/").replace("~0", "~");
    match (value.pointer_mut(parent), thing) {
        (Some(Value::Object(members)), Some(thing)) => drop(members.insert(name, thing)),
        (Some(Value::Object(members)), None) => drop(members.remove(&name)),
        (Some(Value::Array(items)), Some(thing)) => {
            if let Some(item) = name.parse().ok().and_then(|at: usize| items.get_mut(at)) {
                *item = thing;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use uuid::Uuid;

    use super::*;

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only the types matter")]
    struct Order {
        id: Uuid,
        customer: Customer,
        note: Option<String>,
        lines: Vec<Line>,
        kind: Kind,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only the types matter")]
    struct Customer {
        name: String,
        #[serde(rename = "is/known")]
        is_known: bool,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only the types matter")]
    struct Line {
        count: u8,
        price: f64,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Sale,
        Gift,
        Loan,
    }

    fn faults(body: &Value) -> Vec<String> {
        let text = body.to_string();
        let mut json = serde_json::Deserializer::from_str(&text);
        let error = serde_path_to_error::deserialize::<_, Order>(&mut json).err().expect("must be refused");
        let all = of_body::<Order>(&text, error.path(), error.inner());
        all.into_iter().map(|fault| format!("{} {}", fault.pointer, fault.detail)).collect()
    }

    #[test]
    fn every_fault_is_told() {
        let lines = json!([{"count": "two"}, {"count": 1, "price": 2}, 3]);
        let body =
            json!({"customer": {"name": 7, "is/known": 1}, "note": [], "lines": lines, "kind": "sale"});
        let mut told = faults(&body);
        told.sort_unstable();
        assert_eq!(
            told,
            [
                "/customer/is~1known must be a boolean",
                "/customer/name must be a string",
                "/id is required",
                "/lines/0/count must be a whole number",
                "/lines/0/price is required",
                "/lines/2 must be an object",
                "/note must be a string",
            ]
        );
    }

    #[test]
    fn what_a_stand_in_lacks_is_no_fault() {
        let body = json!({"id": "no", "customer": 1, "lines": [], "kind": "sale"});
        assert_eq!(faults(&body), ["/customer must be an object", "/id must be a UUID"]);
    }

    #[test]
    fn one_of_several_names_is_wanted_and_said() {
        for kind in [json!("theft"), json!(5), json!(null), json!([1])] {
            let told = faults(&json!({"kind": kind, "lines": 1}));
            assert_eq!(
                told,
                [
                    "/kind must be one of `sale`, `gift`, `loan`",
                    "/lines must be a list",
                    "/id is required",
                    "/customer is required"
                ]
            );
        }
        let told = faults(&json!({}));
        assert_eq!(told.len(), 4, "a name stands in for what lacks: {told:?}");
        assert_eq!(faults(&json!(1)).len(), 1);
    }

    #[test]
    fn not_any_number_is_told_nor_of_a_large_body() {
        let lines = vec![json!({}); MOST];
        let body = json!({"id": "no", "lines": lines});
        assert_eq!(faults(&body).len(), MOST);
        let body = json!({"id": "no", "lines": [], "note": " ".repeat(MOST_BYTES)});
        assert_eq!(faults(&body).len(), 1);
    }
}
