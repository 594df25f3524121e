//! Following one execution: its state, every stored line, then what happens, without gap or reordering.
//!
//! Events are hints and may be lost, doubled or early; the rows are the truth. So the watch begins before the
//! rows are read, a line ahead of its turn is held back until the lines before it are found, and the rows are
//! looked at again every [`RECONCILE`]. The invariant: lines leave in the reader's own counting, each once but for what a lost
//! attempt said in vain, and the terminal update leaves last, after all of them.

use std::collections::VecDeque;
use std::time::Duration;

use domain::events::{Event, Watch};
use domain::executions::{Execution, explain, list, logs};
use domain::id::ExecutionId;
use domain::{Error, OrgScope, Result, in_time};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::visibility::Reader;
use crate::{AppState, deadline};

mod frame;
mod last_line;
mod lines;

pub(crate) use frame::{Frame, UpdateFrame};
pub(crate) use last_line::LastLine;

use frame::LogFrame;
use lines::Lines;

/// How often the rows are looked at when nothing seems to be missing: a lost event costs this much.
const RECONCILE: Duration = Duration::from_secs(2);
/// The least between two looks at the place in the queue.
const PLACE: Duration = Duration::from_secs(1);
/// Looks for it at one time in this process.
static LOOKS_AT_ONCE: Semaphore = Semaphore::const_new(4);
/// How long one may take, for which everything else of its follower waits.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);
/// How soon they are looked at when a line is held back.
const GAP: Duration = Duration::from_millis(100);
/// Lines read at once.
const PAGE: i64 = 1_000;

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
    /// While it waits.
    waiting: Option<Waiting>,
    ready: VecDeque<Frame>,
    phase: Phase,
}

/// What a follower knows of an execution that waits.
#[derive(Debug)]
struct Waiting {
    /// The update that told of it: told again with every other place in the queue.
    update: Box<UpdateFrame>,
    /// The place that was told.
    position: Option<i64>,
    /// When the place is looked at again.
    look_at: Instant,
}

/// What the rows say.
struct Rows {
    execution: Execution,
    /// The last line they have of the attempt that was told and those before, where another has begun.
    counted: i64,
    stored: Vec<logs::Line>,
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
    /// Begins to follow, after the line that the reader has.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Forbidden`] as for reading the execution.
    pub(crate) async fn open(
        app: AppState,
        scope: &OrgScope,
        id: ExecutionId,
        after: LastLine,
    ) -> Result<Self> {
        let scope = scope.clone().widened();
        // Before the row is read: what happens in between is then among the events.
        let watch = app.platform.events.watch(id, true);
        let execution = deadline::in_time(Box::pin(async {
            let mut tx = app.platform.db.begin(&scope).await?;
            let execution = list::get(&mut tx, id).await?;
            tx.commit().await?;
            Ok(execution)
        }))
        .await?;
        let reader = Reader::of(&scope);
        let update = UpdateFrame::of_row(&execution, reader);
        Ok(Self {
            version: update.version,
            waiting: Waiting::since(&update),
            ready: VecDeque::from([Frame::Update(Box::new(update.into_snapshot()))]),
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
                Phase::Live(until) => {
                    let look_at = self.waiting.as_ref().map_or(until, |waiting| waiting.look_at);
                    tokio::select! {
                        event = self.watch.next() => self.take(&event),
                        () = tokio::time::sleep_until(until) => self.phase = Phase::CatchingUp,
                        () = tokio::time::sleep_until(look_at), if self.waiting.is_some() => {
                            self.look_at_position().await;
                        }
                    }
                }
            }
        }
    }

    /// Reads what the rows have beyond what was told.
    async fn catch_up(&mut self) {
        match self.read().await {
            Ok(rows) => self.take_rows(&rows),
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

    async fn read(&self) -> Result<Rows> {
        // A stream outlives its request: nothing else ends the wait for a connection that died without a word.
        deadline::in_time(Box::pin(async {
            let mut tx = self.app.platform.db.begin(&self.scope).await?;
            // The row first: once it is terminal, all its lines are there.
            let execution = list::get(&mut tx, self.id).await?;
            let all_levels = self.lines.reader.sees_everything();
            let (told, attempt) = (self.lines.told, self.lines.attempt());
            let counted = if attempt > 0 && execution.attempt > attempt {
                logs::last_until(&mut tx, self.id, attempt, all_levels).await?
            } else {
                told
            };
            let stored = logs::list(&mut tx, self.id, told.min(counted), PAGE, all_levels).await?;
            tx.commit().await?;
            Ok(Rows { execution, counted, stored })
        }))
        .await
    }

    fn take_rows(&mut self, Rows { execution, counted, stored }: &Rows) {
        if execution.attempt > self.lines.attempt() {
            self.lines.begin_attempt(execution.attempt, *counted);
        }
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
            Event::Answered(_)
            | Event::Cancel { .. }
            | Event::Submitted(_)
            | Event::WorkspaceChanged
            | Event::PackagesSwitched
            | Event::Progress(_)
            | Event::Notice(_)
            | Event::Happened(_) => {}
        }
    }

    /// Tells the place in the queue if it is another than was told.
    async fn look_at_position(&mut self) {
        let looked = match LOOKS_AT_ONCE.try_acquire() {
            Ok(_look) => {
                let position = explain::position(&self.app.platform.db, self.id);
                Some(Box::pin(in_time(LOOK_PATIENCE, position)).await)
            }
            // Where much is followed the place is told less often: requests need the connections more.
            Err(_) => None,
        };
        let Some(waiting) = &mut self.waiting else { return };
        // From its end on: a slow answer must not make the next look follow at once.
        waiting.look_at = Instant::now() + PLACE;
        let Some(position) = looked else { return };
        match position {
            // What stands in no queue any more was claimed, and that is told elsewhere; or it is held back until it stands there again.
            Ok(None) => waiting.position = None,
            Ok(Some(position)) if waiting.position == Some(position) => {}
            Ok(Some(position)) => {
                waiting.position = Some(position);
                self.ready.push_back(Frame::Update(Box::new(waiting.update.at_position(position))));
            }
            Err(error) => {
                tracing::debug!(execution.id = %self.id, %error, "cannot tell the place in the queue, trying again");
            }
        }
    }

    /// Tells a change of state, unless a later one was told.
    fn tell(&mut self, update: UpdateFrame) {
        if update.version > self.version {
            self.version = update.version;
            self.waiting = Waiting::since(&update);
            self.ready.push_back(Frame::Update(Box::new(update)));
        }
    }

    fn ready_lines(&mut self) {
        let id = self.id;
        self.ready
            .extend(self.lines.drain().map(|(sequence, line)| Frame::Log(LogFrame::new(id, sequence, line))));
    }
}

impl Waiting {
    /// What is known from this update on, if it tells of an execution that waits.
    fn since(update: &UpdateFrame) -> Option<Self> {
        update.is_pending().then(|| Self {
            update: Box::new(update.clone()),
            position: None,
            look_at: Instant::now(),
        })
    }
}
