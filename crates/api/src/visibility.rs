//! Who sees what of an execution: one class for platform administrators, one for everybody else.
//!
//! The invariant: a reader without platform rights gets neither DEBUG and TRACEBACK lines, nor variables, nor
//! the text of an error that was not written for users.

use domain::OrgScope;
use domain::events::LiveLine;
use domain::executions::{Execution, RawJson, shown_error};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The class of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Sees everything.
    Admin,
    /// Sees what was written for users.
    User,
}

impl Reader {
    /// The class of whoever acts in this scope.
    pub(crate) fn of(scope: &OrgScope) -> Self {
        if scope.actor().is_platform_admin { Self::Admin } else { Self::User }
    }

    /// Whether all lines, variables and resource numbers are shown.
    pub(crate) fn sees_everything(self) -> bool {
        self == Self::Admin
    }

    /// The number of a line in this reader's own counting; `None` hides it.
    pub(crate) fn sequence(self, line: &LiveLine) -> Option<i64> {
        match self {
            Self::Admin => Some(line.sequence),
            Self::User => line.user_sequence,
        }
    }

    /// The error text this reader gets.
    pub(crate) fn error(self, message: Option<&str>, is_user_error: bool) -> Option<String> {
        shown_error(message, is_user_error, self.sees_everything())
    }

    /// What hides the rest from a reader without platform rights.
    pub(crate) fn redact(self, execution: &mut Execution) {
        execution.error_message = self.error(execution.error_message.as_deref(), execution.is_user_error);
        if !self.sees_everything() {
            execution.variables = None;
            execution.peak_memory_bytes = None;
            execution.cpu_total_seconds = None;
        }
    }
}

/// The result as the schema admits it: a bare number or truth value becomes its JSON text, null nothing.
pub(crate) fn result(raw: RawJson) -> Option<RawJson> {
    match raw.get().trim_start().as_bytes().first() {
        Some(b'{' | b'[' | b'"') => Some(raw),
        Some(b'n') => None,
        _ => Some(to_raw(raw.get())),
    }
}

/// The data of a line together with the attempt that logged it.
pub(crate) fn data(line: &LiveLine) -> RawJson {
    let Some(data) = &line.data else {
        return raw(format!(r#"{{"attempt":{}}}"#, line.attempt));
    };
    let mut members = match serde_json::from_str(data.get()) {
        Ok(Value::Object(members)) => members,
        Ok(other) => Map::from_iter([("value".to_owned(), other)]),
        Err(_) => Map::new(),
    };
    members.insert("attempt".into(), line.attempt.into());
    to_raw(&members)
}

fn to_raw(value: &(impl serde::Serialize + ?Sized)) -> RawJson {
    serde_json::value::to_raw_value(value).expect("text and maps are always JSON")
}

fn raw(json: String) -> RawJson {
    RawValue::from_string(json).expect("it was written as JSON")
}

#[cfg(test)]
mod tests {
    use domain::executions::NEUTRAL_ERROR;

    use super::*;

    fn line(data: Option<&str>) -> LiveLine {
        LiveLine {
            sequence: 7,
            user_sequence: None,
            attempt: 2,
            level: "DEBUG".into(),
            message: "m".into(),
            data: data.map(|data| raw(data.into())),
            logged_at: chrono::Utc::now(),
        }
    }

    #[test]
    fn a_bare_result_becomes_text_and_null_nothing() {
        let shown = |json: &str| result(raw(json.into())).map(|raw| raw.get().to_owned());
        assert_eq!(shown("42"), Some("\"42\"".into()));
        assert_eq!(shown("true"), Some("\"true\"".into()));
        assert_eq!(shown("{\"a\":1}"), Some("{\"a\":1}".into()));
        assert_eq!(shown("\"text\""), Some("\"text\"".into()));
        assert_eq!(shown("null"), None);
    }

    #[test]
    fn the_data_of_a_line_names_its_attempt() {
        assert_eq!(data(&line(None)).get(), r#"{"attempt":2}"#);
        assert_eq!(data(&line(Some(r#"{"a":1}"#))).get(), r#"{"a":1,"attempt":2}"#);
        assert_eq!(data(&line(Some("[1]"))).get(), r#"{"attempt":2,"value":[1]}"#);
    }

    #[test]
    fn users_see_neither_hidden_lines_nor_foreign_errors() {
        assert_eq!(Reader::User.sequence(&line(None)), None);
        assert_eq!(Reader::User.error(Some("KeyError: 'x'"), false).as_deref(), Some(NEUTRAL_ERROR));
        assert_eq!(Reader::User.error(Some("no such site"), true).as_deref(), Some("no such site"));
        assert_eq!(Reader::Admin.error(Some("KeyError: 'x'"), false).as_deref(), Some("KeyError: 'x'"));
        assert_eq!(Reader::User.error(None, false), None);
    }
}
