//! The transcript of one run: numbers its lines, masks secrets, keeps within the limits.

use chrono::{DateTime, Utc};
use domain::executions::claim::Claimed;
use domain::executions::{RawJson, logs};
use runner::Log;
use sqlx::types::Json;

use crate::mask::Mask;

/// Lines of one execution, at most.
const MAX_LINES: i64 = 20_000;
/// Bytes of messages and data of one execution, at most.
const MAX_BYTES: usize = 10 * 1024 * 1024;
/// Levels that readers without platform rights do not see.
const HIDDEN: [&str; 2] = ["DEBUG", "TRACEBACK"];
const LEVELS: [&str; 6] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "TRACEBACK"];

/// Counts and shapes the lines of one attempt.
#[derive(Debug)]
pub(crate) struct Transcript {
    attempt: i32,
    sequence: i64,
    user_sequence: i64,
    bytes: usize,
    full: bool,
}

impl Transcript {
    pub(crate) fn new(claimed: &Claimed) -> Self {
        Self {
            attempt: claimed.attempt,
            sequence: claimed.last_sequence,
            user_sequence: claimed.last_user_sequence,
            bytes: 0,
            full: false,
        }
    }

    /// The line with its numbers; `None` once the limit is reached, after one line that says so.
    pub(crate) fn line(&mut self, log: Log, mask: &mut Mask) -> Option<logs::Line> {
        if self.full {
            return None;
        }
        // Output without line ends arrives in pieces, and a secret may lie across two of them.
        let message = mask.piece(&log.message, log.goes_on, log.continues).into_owned();
        let data = log.data.map(|data| Json(mask.json(data)));
        self.bytes += message.len() + data.as_ref().map_or(0, |data| data.get().len());
        if self.sequence + 1 >= MAX_LINES || self.bytes > MAX_BYTES {
            self.full = true;
            return Some(self.number(
                "WARNING".into(),
                "log limit reached, later lines are not kept".into(),
                None,
                Utc::now(),
            ));
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
