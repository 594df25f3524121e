//! Query parameters, in both spellings that clients use.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::{check_text, from_texts};
use crate::AppState;
use crate::problem::Problem;

/// The query as a struct of optional texts with names in snake case: `workflowName` and `workflow_name` are
/// one parameter. An empty value counts as absent, and of a repeated one the last counts.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let texts = texts(parts.uri.query().unwrap_or_default());
        for (given, text) in texts.values() {
            check_text(&format!("?{given}"), text)?;
        }
        from_texts(texts.into_iter().map(|(name, (_, text))| (name, text)).collect(), "?").map(Self)
    }
}

/// Reads a whole number of a query.
///
/// # Errors
/// 422 pointing at `?name` when it is none or out of range.
pub(crate) fn whole_number(
    name: &str,
    text: Option<&str>,
    default: i64,
    range: RangeInclusive<i64>,
) -> Result<i64, Problem> {
    let Some(text) = text else { return Ok(default) };
    let number = text.trim().parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let rule = match (*range.start(), *range.end()) {
            (least, i64::MAX) => format!("must be a whole number of at least {least}"),
            (least, most) => format!("must be a whole number from {least} to {most}"),
        };
        Problem::invalid(format!("?{name}"), rule)
    })
}

/// Each parameter by its name in snake case: the name as the client has spelt it, for a pointer, and the text.
fn texts(query: &str) -> HashMap<String, (String, String)> {
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (snake_case(&name), (name.into_owned(), value.into_owned())))
        .collect()
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_one_parameter() {
        let one = |name: &str, given: &str, text: &str| {
            HashMap::from([(name.to_owned(), (given.to_owned(), text.to_owned()))])
        };
        assert_eq!(texts("workflowName=a%20b"), one("workflow_name", "workflowName", "a b"));
        assert_eq!(texts("workflow_name=a+b"), one("workflow_name", "workflow_name", "a b"));
        assert_eq!(texts("workflow_name=a&workflowName=b"), one("workflow_name", "workflowName", "b"));
        assert_eq!(texts("status=&limit=5"), one("limit", "limit", "5"));
    }

    #[test]
    fn a_number_out_of_range_is_refused() {
        assert_eq!(whole_number("limit", None, 25, 1..=1000).ok(), Some(25));
        assert_eq!(whole_number("limit", Some("1000"), 25, 1..=1000).ok(), Some(1000));
        for wrong in ["0", "1001", "many", "-1", "2.5"] {
            assert!(whole_number("limit", Some(wrong), 25, 1..=1000).is_err(), "{wrong}");
        }
    }
}
