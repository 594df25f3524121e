//! The last line that a follower has, as it is told and told back: `<sequence>.<attempt>`, or the sequence alone.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::Deserialize;

/// The last line that a follower has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Told")]
pub(crate) struct LastLine {
    /// Its number in the reader's own counting; 0 before the first.
    pub(crate) sequence: i64,
    /// The attempt that it is of; 0 where that is not known.
    pub(crate) attempt: i32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Sequence(i64),
    Text(String),
}

const NO_LINE: &str = "must be the sequence of a line, or `<sequence>.<attempt>`";

impl Display for LastLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.sequence, self.attempt)
    }
}

impl FromStr for LastLine {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (sequence, attempt) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        let sequence = sequence.parse::<i64>().map_err(|_| NO_LINE)?.max(0);
        let attempt = attempt.parse::<i32>().map_err(|_| NO_LINE)?.max(0);
        Ok(Self { sequence, attempt })
    }
}

impl TryFrom<Told> for LastLine {
    type Error = &'static str;

    fn try_from(told: Told) -> Result<Self, &'static str> {
        match told {
            Told::Sequence(sequence) => Ok(Self { sequence: sequence.max(0), attempt: 0 }),
            Told::Text(text) => text.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn a_line_is_told_back_as_it_was_told_or_by_its_number() {
        let line = |sequence, attempt| LastLine { sequence, attempt };
        let read = |value: Value| from_value::<LastLine>(value).ok();
        for (told, expected) in [
            (json!(41), Some(line(41, 0))),
            (json!(line(41, 2).to_string()), Some(line(41, 2))),
            (json!("41"), Some(line(41, 0))),
            (json!(-1), Some(line(0, 0))),
            (json!("x"), None),
            (json!("1.x"), None),
            (json!(true), None),
        ] {
            assert_eq!(read(told.clone()), expected, "{told}");
        }
    }
}
