//! The order of lines, whatever order they arrive in.
//!
//! A later attempt counts on from what is stored of those before. What a lost one said beyond was told, but never counted: its
//! numbers come again, also to a reader who was away meanwhile and says which attempt their last line is of.

use std::collections::BTreeMap;

use domain::events::LiveLine;

use super::LastLine;
use crate::visibility::Reader;

/// Lines held back; what is beyond is read from the rows when its turn comes.
const MOST_HELD: usize = 4_096;

/// Puts lines in order: those in turn are due, those ahead are held, those behind are dropped.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) reader: Reader,
    /// Sequence of the last line told or due.
    pub(super) told: i64,
    /// The attempt whose lines are told; 0 until one is known.
    attempt: i32,
    /// The highest attempt a line came from. While it is above the other, its lines are held until the rows have said where they
    /// begin.
    newest: i32,
    due: Vec<(i64, LiveLine)>,
    held: BTreeMap<i64, LiveLine>,
}

impl Lines {
    /// Nothing told yet beyond the line `last`.
    pub(super) fn after(reader: Reader, last: LastLine) -> Self {
        let LastLine { sequence: told, attempt } = last;
        Self { reader, told, attempt, newest: attempt, due: Vec::new(), held: BTreeMap::new() }
    }

    /// The attempt whose lines are told; 0 until one is known.
    pub(super) fn attempt(&self) -> i32 {
        self.attempt
    }

    /// Goes on with a later attempt; `counted` is the last line that the rows have of the one that was told and those before.
    pub(super) fn begin_attempt(&mut self, attempt: i32, counted: i64) {
        self.told = self.told.min(counted);
        self.attempt = attempt;
        self.newest = self.newest.max(attempt);
        self.held.retain(|_, line| line.attempt >= attempt);
        self.release();
    }

    /// A line of the rows: these are complete and in order, so it is in turn.
    pub(super) fn take_stored(&mut self, line: LiveLine) {
        if let Some(sequence) = self.reader.sequence(&line).filter(|sequence| *sequence > self.told) {
            self.told = sequence;
            self.due.push((sequence, line));
            self.release();
        }
    }

    /// A line of an event: it may be early, late or doubled.
    pub(super) fn take_live(&mut self, line: LiveLine) {
        let Some(sequence) = self.reader.sequence(&line) else { return };
        if line.attempt > self.newest {
            self.newest = line.attempt;
            self.held.clear();
            if self.attempt == 0 {
                self.attempt = line.attempt;
            }
        }
        let is_told = self.newest == self.attempt && sequence <= self.told;
        // What counts of an attempt that is lost is in the rows.
        let is_lost = line.attempt < self.newest;
        if !is_told && !is_lost && self.held.len() < MOST_HELD {
            self.held.insert(sequence, line);
        }
        self.release();
    }

    /// Moves the held lines whose turn has come to the due ones.
    fn release(&mut self) {
        if self.newest > self.attempt {
            return;
        }
        while let Some(first) = self.held.first_entry().filter(|first| *first.key() <= self.told + 1) {
            let (sequence, line) = first.remove_entry();
            if sequence > self.told {
                self.told = sequence;
                self.due.push((sequence, line));
            }
        }
    }

    /// Whether a line waits for the ones before it.
    pub(super) fn has_gap(&self) -> bool {
        !self.held.is_empty()
    }

    /// The lines that are due, in order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (i64, LiveLine)> {
        self.due.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    fn line(sequence: i64, user_sequence: Option<i64>, attempt: i32) -> LiveLine {
        LiveLine {
            sequence,
            user_sequence,
            attempt,
            level: "INFO".into(),
            message: format!("line {sequence} of attempt {attempt}"),
            data: None,
            logged_at: Utc::now(),
        }
    }

    fn told(lines: &mut Lines) -> Vec<i64> {
        lines.drain().map(|(sequence, _)| sequence).collect()
    }

    #[test]
    fn early_lines_wait_and_doubled_ones_vanish() {
        let mut lines = Lines::after(Reader::Admin, LastLine::default());
        for sequence in [3, 2, 3] {
            lines.take_live(line(sequence, None, 1));
        }
        assert_eq!(told(&mut lines), [0_i64; 0]);
        assert!(lines.has_gap());

        lines.take_stored(line(1, None, 1));
        assert_eq!(told(&mut lines), [1, 2, 3]);
        lines.take_live(line(2, None, 1));
        lines.take_stored(line(3, None, 1));
        lines.take_live(line(4, None, 1));
        assert_eq!(told(&mut lines), [4]);
        assert!(!lines.has_gap());
    }

    #[test]
    fn a_user_gets_their_own_counting() {
        let mut lines = Lines::after(Reader::User, LastLine::default());
        for (sequence, own) in [(1, Some(1)), (2, None), (3, Some(2))] {
            lines.take_live(line(sequence, own, 1));
        }
        assert_eq!(told(&mut lines), [1, 2]);
    }

    #[test]
    fn what_a_lost_attempt_said_beyond_the_rows_gives_way_to_the_next() {
        let mut lines = Lines::after(Reader::Admin, LastLine::default());
        lines.take_live(line(3, None, 1));
        lines.take_live(line(2, None, 2));
        lines.take_stored(line(1, None, 1));
        lines.begin_attempt(2, 1);
        lines.take_live(line(3, None, 2));

        let attempts: Vec<(i64, i32)> =
            lines.drain().map(|(sequence, line)| (sequence, line.attempt)).collect();
        assert_eq!(attempts, [(1, 1), (2, 2), (3, 2)]);
    }

    #[test]
    fn a_reader_who_was_away_gets_what_came_in_the_place_of_a_lost_line() {
        let mut lines = Lines::after(Reader::Admin, LastLine { sequence: 3, attempt: 1 });
        lines.take_live(line(2, None, 2));
        lines.take_live(line(3, None, 2));
        assert_eq!(told(&mut lines), [0_i64; 0], "the rows must say where it begins");
        lines.begin_attempt(2, 1);
        assert_eq!(told(&mut lines), [2, 3]);
    }

    #[test]
    fn what_was_told_of_a_lost_attempt_hides_nothing_of_the_next() {
        let mut lines = Lines::after(Reader::Admin, LastLine::default());
        for sequence in 1..=3 {
            lines.take_live(line(sequence, None, 1));
        }
        assert_eq!(told(&mut lines), [1, 2, 3]);

        // Only the first line was stored.
        lines.take_live(line(2, None, 2));
        lines.take_live(line(4, None, 1));
        assert!(lines.has_gap(), "the rows must say where it begins");
        lines.begin_attempt(2, 1);
        lines.take_live(line(3, None, 2));

        let attempts: Vec<(i64, i32)> =
            lines.drain().map(|(sequence, line)| (sequence, line.attempt)).collect();
        assert_eq!(attempts, [(2, 2), (3, 2)]);
    }
}
