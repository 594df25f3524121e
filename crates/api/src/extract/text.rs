//! Text that PostgreSQL can hold: any, except for NUL.

use domain::json::{NUL_RULE, contains_nul};
use serde_json::Value;

use crate::problem::Problem;

/// Refuses text with NUL.
///
/// # Errors
/// 422 with this pointer.
pub(crate) fn check_text(pointer: &str, text: &str) -> Result<(), Problem> {
    if text.contains('\0') { Err(Problem::invalid(pointer, NUL_RULE)) } else { Ok(()) }
}

/// Refuses JSON with NUL in a text or a name, wherever it is.
///
/// # Errors
/// 422 with this pointer.
pub(crate) fn check_json<'a>(
    pointer: &str,
    members: impl IntoIterator<Item = (&'a String, &'a Value)>,
) -> Result<(), Problem> {
    let has_nul = members.into_iter().any(|(name, value)| name.contains('\0') || contains_nul(value));
    if has_nul { Err(Problem::invalid(pointer, NUL_RULE)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nul_is_found_wherever_it_hides() {
        let refused = |value: Value| check_json("/settings", value.as_object().expect("an object")).is_err();
        assert!(refused(json!({"a": "\0"})));
        assert!(refused(json!({"a": [1, {"b": ["x\0"]}]})));
        assert!(refused(json!({"a": {"b\0": 1}})));
        assert!(refused(json!({"\0": 1})));
        assert!(!refused(json!({"a": "\\u0000", "b": [null, 1.5, true]})));
    }
}
