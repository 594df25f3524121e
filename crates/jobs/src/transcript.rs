//! The transcript of one run: numbers its lines, masks secrets, keeps within the limits, which hold for all attempts together.

use chrono::{DateTime, Utc};
use domain::executions::claim::Claimed;
use domain::executions::{RawJson, logs};
use runner::Log;
use sqlx::types::Json;

use crate::mask::Mask;

/// Lines of one execution, at most; one that has more to say has the marker after them.
pub(crate) const MAX_LINES: i64 = 20_000;
/// Bytes of messages and data of one execution, at most.
const MAX_BYTES: i64 = 10 * 1024 * 1024;
/// The last line of an execution that has more to say.
pub(crate) const MARKER: &str = "log limit reached, later lines are not kept";
/// Levels that readers without platform rights do not see.
const HIDDEN: [&str; 2] = ["DEBUG", "TRACEBACK"];
const LEVELS: [&str; 6] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "TRACEBACK"];

/// Counts and shapes the lines of one attempt.
#[derive(Debug)]
pub(crate) struct Transcript {
    attempt: i32,
    sequence: i64,
    user_sequence: i64,
    bytes: i64,
    full: bool,
}

impl Transcript {
    pub(crate) fn new(claimed: &Claimed) -> Self {
        Self {
            attempt: claimed.attempt,
            sequence: claimed.last_sequence,
            user_sequence: claimed.last_user_sequence,
            bytes: 0,
            full: claimed.last_sequence > MAX_LINES,
        }
    }

    /// Counts what earlier attempts have stored.
    pub(crate) fn follow(&mut self, earlier: logs::Stored) {
        self.bytes += earlier.bytes;
        self.full |= earlier.is_full;
    }

    /// The line with its numbers; `None` once the limit is reached, after one line that says so.
    pub(crate) fn line(&mut self, log: Log, mask: &mut Mask) -> Option<logs::Line> {
        if self.full {
            return None;
        }
        // Output without line ends arrives in pieces, and a secret may lie across two of them.
        let message = mask.piece(&log.message, log.goes_on, log.continues).into_owned();
        let data = log.data.map(|data| Json(mask.json(data)));
        let bytes = message.len() + data.as_ref().map_or(0, |data| data.get().len());
        self.bytes = self.bytes.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        if self.sequence >= MAX_LINES || self.bytes > MAX_BYTES {
            self.full = true;
            return Some(self.number("WARNING".into(), MARKER.into(), None, Utc::now()));
        }
        let level = if LEVELS.contains(&log.level.as_str()) { log.level } else { "INFO".into() };
        let at = DateTime::from_timestamp_micros(log.at).unwrap_or_else(Utc::now);
        Some(self.number(level, message, data, at))
    }

    /// Sequence of the last line.
    pub(crate) fn last_sequence(&self) -> i64 {
        self.sequence
    }

    fn number(
        &mut self,
        level: String,
        message: String,
        data: Option<Json<RawJson>>,
        logged_at: DateTime<Utc>,
    ) -> logs::Line {
        self.sequence += 1;
        let visible = !HIDDEN.contains(&level.as_str());
        self.user_sequence += i64::from(visible);
        logs::Line {
            sequence: self.sequence,
            user_sequence: visible.then_some(self.user_sequence),
            attempt: self.attempt,
            level,
            message,
            data,
            logged_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(attempt: i32, last_sequence: i64, earlier: logs::Stored) -> Transcript {
        let full = last_sequence > MAX_LINES;
        let mut transcript =
            Transcript { attempt, sequence: last_sequence, user_sequence: last_sequence, bytes: 0, full };
        transcript.follow(earlier);
        transcript
    }

    /// Messages of the lines that are kept when so many of this length are said.
    fn say(transcript: &mut Transcript, lines: usize, length: usize) -> Vec<String> {
        let mut mask = Mask::default();
        let log = || Log {
            level: "INFO".into(),
            message: "x".repeat(length),
            data: None,
            at: 0,
            continues: false,
            goes_on: false,
        };
        (0..lines).filter_map(|_| transcript.line(log(), &mut mask)).map(|line| line.message).collect()
    }

    #[test]
    fn limits_go_on_where_earlier_attempts_have_stopped() {
        let stored = |bytes, is_full| logs::Stored { bytes, is_full };
        // Of the number of lines.
        let kept = say(&mut attempt(2, MAX_LINES - 2, stored(0, false)), 5, 1);
        assert_eq!(kept, ["x", "x", MARKER]);
        assert!(say(&mut attempt(3, MAX_LINES + 1, stored(0, true)), 5, 1).is_empty());
        // Of bytes.
        let kept = say(&mut attempt(2, 10, stored(MAX_BYTES - 2_500, false)), 5, 1_000);
        assert_eq!((kept.len(), kept[2].as_str()), (3, MARKER));
        assert!(
            say(&mut attempt(3, 13, stored(MAX_BYTES - 500, true)), 5, 1).is_empty(),
            "one marker is enough"
        );
    }

    #[test]
    fn as_many_lines_as_the_limit_need_no_marker() {
        let nothing = logs::Stored::default();
        assert_eq!(say(&mut attempt(1, MAX_LINES - 2, nothing), 2, 1), ["x", "x"]);
        assert_eq!(say(&mut attempt(2, MAX_LINES, nothing), 2, 1), [MARKER], "what another attempt adds");
    }
}
