//! Following one execution: its state, every stored line, then what happens, without gap or reordering.
//!
//! Events are hints and may be lost, doubled or early; the rows are the truth. So the watch begins before the
//! rows are read, a line ahead of its turn is held back until the lines before it are found, and the rows are
//! looked at again every [`RECONCILE`]. The invariant: lines leave in the reader's own counting, each once,
//! and the terminal update leaves last, after all of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::events::{Event, LiveLine, Update, Watch};
use domain::executions::{Execution, RawJson, Status, list, logs};
use domain::id::ExecutionId;
use domain::{Error, OrgScope, Result};
use serde::Serialize;
use tokio::time::Instant;

use crate::AppState;
use crate::visibility::{self, Reader};

/// How often the rows are looked at when nothing seems to be missing: a lost event costs this much.
const RECONCILE: Duration = Duration::from_secs(2);
/// How soon they are looked at when a line is held back.
const GAP: Duration = Duration::from_millis(100);
/// Lines read at once.
const PAGE: i64 = 1_000;
/// Lines held back; what is beyond is read from the rows when its turn comes.
const MOST_HELD: usize = 4_096;
/// Results beyond this are fetched by the client.
const MAX_INLINE_RESULT: usize = 64 * 1024;

/// Something to tell a follower.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Frame {
    Update(Box<UpdateFrame>),
    Log(LogFrame),
}

/// The state of an execution.
#[derive(Debug, Serialize)]
pub(crate) struct UpdateFrame {
    r#type: &'static str,
    #[serde(rename = "executionId")]
    execution_id: ExecutionId,
    status: Status,
    /// Rises with every change of state.
    version: i64,
    /// Marks the state at joining; what happens follows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    snapshot: bool,
    timestamp: DateTime<Utc>,
    workflow_name: String,
    executed_by: domain::id::UserId,
    executed_by_name: String,
    started_at: Option<DateTime<Utc>>,
    completed_at: Option<DateTime<Utc>>,
    #[serde(rename = "waitReason", skip_serializing_if = "Option::is_none")]
    wait_reason: Option<&'static str>,
    #[serde(flatten)]
    end: Option<End>,
}

/// What an update says at the end only.
#[derive(Debug, Serialize)]
struct End {
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<RawJson>,
    result_type: Option<String>,
    error: Option<String>,
    error_type: Option<String>,
    duration_ms: Option<i64>,
    #[serde(rename = "durationMs")]
    duration_twin: Option<i64>,
}

/// A line.
#[derive(Debug, Serialize)]
pub(crate) struct LogFrame {
    r#type: &'static str,
    #[serde(rename = "executionId")]
    execution_id: ExecutionId,
    pub(crate) sequence: i64,
    level: String,
    message: String,
    timestamp: DateTime<Utc>,
    data: RawJson,
    metadata: RawJson,
}

/// A follower of one execution.
#[derive(Debug)]
pub(crate) struct Follow {
    app: AppState,
    scope: OrgScope,
    id: ExecutionId,
    watch: Watch,
    lines: Lines,
    /// Version of the last update told.
    version: i64,
    ready: VecDeque<Frame>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// There may be rows that were not read yet.
    CatchingUp,
    /// Events arrive; the rows are read again at this time.
    Live(Instant),
    Ended,
}

impl Follow {
    /// Begins to follow, after line `after` in the reader's own counting.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Forbidden`] as for reading the execution.
    pub(crate) async fn open(app: AppState, scope: &OrgScope, id: ExecutionId, after: i64) -> Result<Self> {
        let scope = scope.clone().widened();
        // Before the row is read: what happens in between is then among the events.
        let watch = app.platform.events.watch(id, true);
        let mut tx = app.platform.db.begin(&scope).await?;
        let execution = list::get(&mut tx, id).await?;
        tx.commit().await?;
        let reader = Reader::of(&scope);
        let snapshot = UpdateFrame { snapshot: true, ..UpdateFrame::of_row(&execution, reader) };
        Ok(Self {
            version: snapshot.version,
            ready: VecDeque::from([Frame::Update(Box::new(snapshot))]),
            lines: Lines::after(reader, after),
            phase: Phase::CatchingUp,
            app,
            scope,
            id,
            watch,
        })
    }

    /// The next frame; `None` after the terminal update.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            match self.phase {
                Phase::Ended => return None,
                Phase::CatchingUp => self.catch_up().await,
                Phase::Live(until) => tokio::select! {
                    event = self.watch.next() => self.take(&event),
                    () = tokio::time::sleep_until(until) => self.phase = Phase::CatchingUp,
                },
            }
        }
    }

    /// Reads what the rows have beyond what was told.
    async fn catch_up(&mut self) {
        match self.read().await {
            Ok((execution, stored)) => self.take_rows(&execution, &stored),
            Err(error @ (Error::NotFound(_) | Error::Forbidden(_))) => {
                tracing::debug!(execution.id = %self.id, %error, "following ends");
                self.phase = Phase::Ended;
            }
            Err(error) => {
                tracing::warn!(execution.id = %self.id, %error, "cannot read the rows of a followed execution, trying again");
                self.phase = Phase::Live(Instant::now() + RECONCILE);
            }
        }
    }

    async fn read(&self) -> Result<(Execution, Vec<logs::Line>)> {
        let mut tx = self.app.platform.db.begin(&self.scope).await?;
        // The row first: once it is terminal, all its lines are there.
        let execution = list::get(&mut tx, self.id).await?;
        let all_levels = self.lines.reader.sees_everything();
        let stored = logs::list(&mut tx, self.id, self.lines.told, PAGE, all_levels).await?;
        tx.commit().await?;
        Ok((execution, stored))
    }

    fn take_rows(&mut self, execution: &Execution, stored: &[logs::Line]) {
        for line in stored {
            self.lines.take_stored(line.into());
        }
        self.ready_lines();
        let more = stored.len() as i64 == PAGE;
        let update = UpdateFrame::of_row(execution, self.lines.reader);
        if more {
            self.phase = Phase::CatchingUp;
        } else if execution.status.is_terminal() {
            self.ready.push_back(Frame::Update(Box::new(update)));
            self.phase = Phase::Ended;
        } else {
            self.tell(update);
            let pause = if self.lines.has_gap() { GAP } else { RECONCILE };
            self.phase = Phase::Live(Instant::now() + pause);
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            // The row is terminal by now, and only the rows say whether all lines were told.
            Event::Update(update) if update.status.is_terminal() => self.phase = Phase::CatchingUp,
            Event::Update(update) => self.tell(UpdateFrame::of_event(update, self.lines.reader)),
            Event::Lines(lines) => {
                for line in &lines.lines {
                    self.lines.take_live(line.clone());
                }
                self.ready_lines();
                if let (true, Phase::Live(until)) = (self.lines.has_gap(), self.phase) {
                    self.phase = Phase::Live(until.min(Instant::now() + GAP));
                }
            }
            Event::Cancel { .. } | Event::WorkspaceChanged => {}
        }
    }

    /// Tells a change of state, unless a later one was told.
    fn tell(&mut self, update: UpdateFrame) {
        if update.version > self.version {
            self.version = update.version;
            self.ready.push_back(Frame::Update(Box::new(update)));
        }
    }

    fn ready_lines(&mut self) {
        let id = self.id;
        self.ready
            .extend(self.lines.drain().map(|(sequence, line)| Frame::Log(LogFrame::new(id, sequence, line))));
    }
}

/// Puts lines in order: those in turn are due, those ahead are held, those behind are dropped.
#[derive(Debug)]
struct Lines {
    reader: Reader,
    /// Sequence of the last line told or due.
    told: i64,
    /// The highest attempt a line came from.
    attempt: i32,
    due: Vec<(i64, LiveLine)>,
    held: BTreeMap<i64, LiveLine>,
}

impl Lines {
    fn after(reader: Reader, told: i64) -> Self {
        Self { reader, told, attempt: 0, due: Vec::new(), held: BTreeMap::new() }
    }

    /// A line of the rows: these are complete and in order, so it is in turn.
    fn take_stored(&mut self, line: LiveLine) {
        if let Some(sequence) = self.reader.sequence(&line).filter(|sequence| *sequence > self.told) {
            self.told = sequence;
            self.due.push((sequence, line));
            self.release();
        }
    }

    /// A line of an event: it may be early, late or doubled.
    fn take_live(&mut self, line: LiveLine) {
        let Some(sequence) = self.reader.sequence(&line).filter(|sequence| *sequence > self.told) else {
            return;
        };
        if line.attempt > self.attempt {
            // A later attempt counts on from what was stored: what a lost one said beyond was never accepted.
            self.attempt = line.attempt;
            self.held.split_off(&sequence);
        }
        if self.held.len() < MOST_HELD {
            self.held.insert(sequence, line);
        }
        self.release();
    }

    /// Moves the held lines whose turn has come to the due ones.
    fn release(&mut self) {
        while let Some(first) = self.held.first_entry().filter(|first| *first.key() <= self.told + 1) {
            let (sequence, line) = first.remove_entry();
            if sequence > self.told {
                self.told = sequence;
                self.due.push((sequence, line));
            }
        }
    }

    fn has_gap(&self) -> bool {
        !self.held.is_empty()
    }

    fn drain(&mut self) -> impl Iterator<Item = (i64, LiveLine)> {
        self.due.drain(..)
    }
}

impl UpdateFrame {
    /// What a row says.
    pub(crate) fn of_row(execution: &Execution, reader: Reader) -> Self {
        let end = execution.status.is_terminal().then(|| End {
            result: execution
                .result
                .as_ref()
                .filter(|result| result.get().len() <= MAX_INLINE_RESULT)
                .and_then(|result| visibility::result(result.0.clone())),
            result_type: execution.result_type.clone(),
            error: reader.error(execution.error_message.as_deref(), execution.is_user_error),
            error_type: execution.error_type.clone(),
            duration_ms: execution.duration_ms,
            duration_twin: execution.duration_ms,
        });
        Self {
            r#type: "execution_update",
            execution_id: execution.id,
            status: execution.status,
            version: version(execution.status, execution.attempt),
            snapshot: false,
            timestamp: Utc::now(),
            workflow_name: execution.workflow_name.clone(),
            executed_by: execution.executed_by,
            executed_by_name: execution.executed_by_name.clone(),
            started_at: execution.started_at,
            completed_at: execution.completed_at,
            wait_reason: (execution.status == Status::Pending).then_some("queued"),
            end,
        }
    }

    /// What an event says.
    pub(crate) fn of_event(update: &Update, reader: Reader) -> Self {
        let end = update.status.is_terminal().then(|| End {
            result: update.result.clone().and_then(visibility::result),
            result_type: update.result_type.clone(),
            error: reader.error(update.error_message.as_deref(), update.is_user_error),
            error_type: update.error_type.clone(),
            duration_ms: update.duration_ms,
            duration_twin: update.duration_ms,
        });
        Self {
            r#type: "execution_update",
            execution_id: update.execution_id,
            status: update.status,
            version: version(update.status, update.attempt),
            snapshot: false,
            timestamp: Utc::now(),
            workflow_name: update.workflow_name.clone(),
            executed_by: update.executed_by,
            executed_by_name: update.executed_by_name.clone(),
            started_at: update.started_at,
            completed_at: update.completed_at,
            wait_reason: (update.status == Status::Pending).then_some("queued"),
            end,
        }
    }
}

impl LogFrame {
    fn new(execution_id: ExecutionId, sequence: i64, line: LiveLine) -> Self {
        let data = visibility::data(&line);
        Self {
            r#type: "execution_log",
            execution_id,
            sequence,
            level: line.level,
            message: line.message,
            timestamp: line.logged_at,
            metadata: data.clone(),
            data,
        }
    }
}

/// Rises along every way an execution can go: within an attempt Running, Cancelling, Pending again (a retry
/// waits), then the end; every attempt lies above the one before.
fn version(status: Status, attempt: i32) -> i64 {
    let step = match status {
        Status::Running => 1,
        Status::Cancelling => 2,
        Status::Pending => 5,
        Status::Success
        | Status::CompletedWithErrors
        | Status::Failed
        | Status::Timeout
        | Status::Cancelled => 9,
    };
    i64::from(attempt) * 10 + step
}

#[cfg(test)]
mod tests {
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
        let mut lines = Lines::after(Reader::Admin, 0);
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
        let mut lines = Lines::after(Reader::User, 0);
        for (sequence, own) in [(1, Some(1)), (2, None), (3, Some(2))] {
            lines.take_live(line(sequence, own, 1));
        }
        assert_eq!(told(&mut lines), [1, 2]);
    }

    #[test]
    fn what_a_lost_attempt_said_beyond_the_rows_gives_way_to_the_next() {
        let mut lines = Lines::after(Reader::Admin, 0);
        lines.take_live(line(3, None, 1));
        lines.take_live(line(2, None, 2));
        lines.take_stored(line(1, None, 1));
        lines.take_live(line(3, None, 2));

        let attempts: Vec<(i64, i32)> =
            lines.drain().map(|(sequence, line)| (sequence, line.attempt)).collect();
        assert_eq!(attempts, [(1, 1), (2, 2), (3, 2)]);
    }

    #[test]
    fn the_version_rises_along_every_way() {
        let ways: [&[(Status, i32)]; 4] = [
            &[(Status::Pending, 0), (Status::Running, 1), (Status::Success, 1)],
            &[(Status::Pending, 0), (Status::Cancelled, 0)],
            &[(Status::Pending, 0), (Status::Running, 1), (Status::Cancelling, 1), (Status::Cancelled, 1)],
            &[(Status::Running, 1), (Status::Pending, 1), (Status::Running, 2), (Status::Failed, 2)],
        ];
        for way in ways {
            let versions: Vec<i64> = way.iter().map(|(status, attempt)| version(*status, *attempt)).collect();
            assert!(versions.is_sorted_by(|a, b| a < b), "{way:?}: {versions:?}");
        }
    }
}
