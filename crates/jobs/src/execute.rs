//! One execution, from the claimed row to the recorded outcome: the heart, kept short.
//!
//! Whatever happens, exactly one outcome goes to the recorder, unless the fence is lost. What an end comes to is in `outcome`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::events::{Event, Lines, Update};
use domain::executions::claim::{self, Claimed};
use domain::executions::{Kind, Status, logs, sealed};
use domain::telemetry::traces::{Part, Span};
use domain::{Platform, in_time};
use runner::{Ended, Failure, Frame, Isolation, Limits, Log, ResultFrame, Run, Start, Template, WorkflowRef};
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tracing::Instrument as _;

use crate::calls::{self, Caller};
use crate::enclosure::MAX_PROCESSES;
use crate::known::Handed;
use crate::record::{Finished, Recorder};
use crate::slots::Slot;
use crate::stop::Stop;
use crate::templates::Templates;
use crate::trace::AttemptTrace;
use crate::transcript::{MARKER, Transcript};

mod outcome;

/// From the request to end until the kill.
const GRACE: Duration = Duration::from_secs(3);
/// How long a process may take to read its start frame. One that a run before has stopped never would.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// A run that has taken longer gives way to those that take less (ADR 55).
const SHORT: Duration = Duration::from_millis(100);
/// Lines that wait to be stored while the run goes on, at most, and for how long.
const FLUSH_LINES: usize = 1_000;
const FLUSH_PERIOD: Duration = Duration::from_millis(100);
/// Pause before what was given back is taken again.
const GIVEN_BACK: Duration = Duration::from_secs(1);
/// A run that was given back so often, for whatever reason, fails when its template is gone: it may be the one that no machine can
/// start.
const MOST_GIVEN_BACK: i32 = 20;
/// What a person reads of a run whose secret cannot be had.
const DOES_NOT_OPEN: &str = "what the run was handed by the one that started it does not open: SECRETS_MASTER_KEY must still hold the key it was sealed with";
const MAX_RESULT: u64 = 16 * 1024 * 1024;
const MAX_OPEN_FILES: u64 = 1_024;
/// The kernel counts processes per user: [`MAX_PROCESSES`] where a run has its own, and this where it shares one with all.
const MAX_SHARED_PROCESSES: u64 = 4_096;
const MAX_FILE_SIZE: u64 = 1024 * 1024 * 1024;

/// What executions are run with.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) platform: Platform,
    pub(crate) templates: Templates,
    pub(crate) recorder: Recorder,
}

/// How an attempt ended.
enum End {
    /// The process returned or raised.
    Result(Box<ResultFrame>),
    /// The process ended without a result.
    Died(Ended),
    /// It was stopped from outside.
    Stopped(Reason),
    /// It could not be started.
    NotStarted(Failure),
    /// Nothing of it has run, because this machine does not have now what it needs, such as packages or processes, or stops:
    /// another may, or this one later.
    GivenBack,
    /// Its fence is lost: nothing of it counts.
    Fenced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    TimedOut,
    Cancelled,
    ShutDown,
}

/// Runs a claimed execution and records its outcome.
pub(crate) async fn execute(engine: &Engine, claimed: Claimed, slot: Slot, stop: Stop, trace: AttemptTrace) {
    let log = trace.log(&claimed);
    Box::pin(drive(engine, claimed, slot, stop, trace)).instrument(log).await;
}

async fn drive(engine: &Engine, claimed: Claimed, slot: Slot, stop: Stop, mut trace: AttemptTrace) {
    let began = Instant::now();
    let update = claimed.update(Status::Running);
    if claimed.kind == Kind::Workflow {
        engine.platform.events.publish(update.clone().into());
    }
    let run = trace.step("run");
    let mut attempt = Attempt::new(engine, &claimed, slot, run.traceparent());
    let end = attempt.drive(&stop).await;
    drop(run);
    if matches!(end, End::Fenced) {
        tracing::warn!(execution.id = %claimed.id, attempt = claimed.attempt, "the fence is lost, the attempt was killed");
        return;
    }
    let outcome = attempt.outcome(end, began.elapsed());
    trace.ended(&outcome);
    let finished = Finished {
        update: Update { last_sequence: Some(attempt.transcript.last_sequence()), ..update },
        outcome,
        kind: claimed.kind,
        priority: claimed.priority,
    };
    // The slot is free before the outcome is durable: the next run need not wait for the disk.
    drop(attempt);
    let _record = trace.step("record");
    engine.recorder.finish(finished).await;
}

/// What is known while an attempt runs.
struct Attempt<'a> {
    engine: &'a Engine,
    claimed: &'a Claimed,
    caller: Arc<Caller>,
    transcript: Transcript,
    pending: Vec<logs::Line>,
    /// What it gets in the place of the parameters that are shown.
    handed: Option<Handed>,
    /// Trace context of the run.
    traceparent: Option<String>,
}

impl<'a> Attempt<'a> {
    fn new(engine: &'a Engine, claimed: &'a Claimed, slot: Slot, traceparent: Option<String>) -> Self {
        let caller = Caller::new(engine.platform.clone(), claimed, slot, traceparent.clone());
        Self {
            engine,
            claimed,
            traceparent,
            caller: Arc::new(caller),
            transcript: Transcript::new(claimed),
            pending: Vec::new(),
            handed: None,
        }
    }

    async fn drive(&mut self, stop: &Stop) -> End {
        let prepared = tokio::select! {
            prepared = self.prepare() => prepared,
            why = stopped(stop) => return match why {
                None => End::Fenced,
                // Nothing of it has run.
                Some(Reason::ShutDown) => End::GivenBack,
                Some(why) => End::Stopped(why),
            },
        };
        let template = match prepared {
            Ok(template) => template,
            Err(end) => return end,
        };
        self.caller.runs_in(template.workspace());
        let process = self.step("process");
        let started = tokio::select! {
            started = self.start(&template) => started,
            why = stopped(stop) => return why.map_or(End::Fenced, End::Stopped),
        };
        match started {
            Ok(mut run) => {
                drop(process);
                self.caller.share_known(run.0.kept());
                for secret in self.handed.iter().flat_map(|handed| &handed.secrets) {
                    self.caller.remember_secret(secret);
                }
                let _call = self.step("call");
                self.follow(run, stop).await
            }
            Err(end) => end,
        }
    }

    /// Gets what a process is started with: the packages, what was sealed for the run, what earlier attempts have logged.
    async fn prepare(&mut self) -> Result<Arc<Template>, End> {
        let packages = self.engine.templates.with_packages(self.claimed.environment_version);
        let template = packages.await.ok_or(End::GivenBack)?;
        // Boxed: few runs need these, and every run would carry the room for them.
        if self.claimed.sealed_parameters.is_some() {
            self.handed = Box::pin(self.open()).await?;
        }
        if self.claimed.last_sequence > 0 {
            let stored = logs::stored(&self.engine.platform.db, self.claimed.id, MARKER);
            let stored = Box::pin(in_time(claim::PATIENCE, stored)).await.map_err(|error| {
                tracing::warn!(%error, "cannot ask what earlier attempts have logged, giving it back");
                End::GivenBack
            })?;
            self.transcript.follow(stored);
        }
        Ok(template)
    }

    /// What the run that started this one has handed to it beside what is shown.
    async fn open(&self) -> Result<Option<Handed>, End> {
        let platform = &self.engine.platform;
        let broken = || End::NotStarted(failure("WorkerCrash", DOES_NOT_OPEN));
        let opened = sealed::open(&platform.db, &platform.vault, self.claimed);
        match in_time(claim::PATIENCE, opened).await {
            Ok(None) => Ok(None),
            Ok(Some(plain)) => Handed::read(&plain).map(Some).map_err(|_| broken()),
            Err(error) if error.is_unavailable() => {
                tracing::warn!(%error, "cannot open what a run was handed, giving it back");
                Err(End::GivenBack)
            }
            Err(error) => {
                tracing::error!(%error, "what a run was handed does not open");
                Err(broken())
            }
        }
    }

    /// Begins a step of the run's span, which ends when it is dropped.
    fn step(&self, name: &str) -> Span {
        Span::start(Part::Internal, name, self.traceparent.as_deref())
    }

    /// Gets a process and sends it the start frame. A process that died while it stood ready is replaced.
    async fn start(&self, template: &Arc<Template>) -> Result<(Run, runner::Replier), End> {
        let claimed = self.claimed;
        if claimed.code.is_none() && claimed.path.is_none() {
            let why = "the workflow is not in the workspace any more";
            return Err(End::NotStarted(failure("WorkflowNotFound", why)));
        }
        let isolation = match claimed.isolation.as_deref() {
            Some("pooled") => Isolation::Pooled,
            _ => Isolation::Process,
        };
        let scope = claimed.organization_id.map_or_else(|| "GLOBAL".to_owned(), |org| org.to_string());
        let mut tries = 0;
        loop {
            tries += 1;
            let started = async {
                let mut run = template.run(isolation, &scope).await?;
                let sent = self.send_start(&mut run, &scope, template);
                let late = |_| runner::Error::Fork(std::io::ErrorKind::TimedOut.into());
                let replier = timeout(START_PATIENCE, sent).await.map_err(late)??;
                Ok::<_, runner::Error>((run, replier))
            };
            match started.await {
                Ok(started) => return Ok(started),
                Err(error) if template.is_gone() && self.claimed.given_back < MOST_GIVEN_BACK => {
                    tracing::warn!(%error, "the template is gone, giving the run back for the next one");
                    return Err(End::GivenBack);
                }
                Err(error) if tries < 3 => {
                    tracing::debug!(%error, "a process was gone before its start, taking another")
                }
                Err(error) => return Err(End::NotStarted(failure("WorkerCrash", &error.to_string()))),
            }
        }
    }

    async fn send_start(
        &self,
        run: &mut Run,
        scope: &str,
        template: &Template,
    ) -> Result<runner::Replier, runner::Error> {
        let claimed = self.claimed;
        let (id, user_id) = (claimed.id.to_string(), claimed.executed_by.to_string());
        let organization = claimed.organization_id.map(|_| runner::Organization {
            id: scope,
            name: claimed.organization_name.as_deref().unwrap_or_default(),
            is_active: claimed.organization_is_active.unwrap_or(false),
        });
        let workflow = claimed.path.as_deref().zip(claimed.function_name.as_deref());
        let parameters: &RawValue = match &self.handed {
            Some(handed) => &handed.parameters,
            None => &claimed.parameters,
        };
        let start = Start {
            execution_id: &id,
            attempt: claimed.attempt,
            workflow: workflow.map(|(path, function)| WorkflowRef {
                path,
                function,
                name: &claimed.workflow_name,
            }),
            code: claimed.code.as_deref(),
            script_name: claimed.script_name.as_deref(),
            kind: match claimed.kind {
                Kind::Workflow => runner::Kind::Workflow,
                Kind::DataProvider => runner::Kind::DataProvider,
            },
            parameters,
            startup: claimed.startup.as_ref().map(|startup| &*startup.0),
            context: runner::Context {
                user_id: &user_id,
                email: &claimed.executed_by_email,
                name: &claimed.executed_by_name,
                scope,
                organization,
                is_platform_admin: claimed.is_platform_admin,
                is_function_key: claimed.is_function_key,
                traceparent: self.traceparent.as_deref(),
            },
            limits: self.limits(template.has_own_users()),
            temp_dir: None,
            capture_variables: true,
            pooled: run.is_pooled(),
            generation: template.generation(),
        };
        run.start(&start).await
    }

    fn limits(&self, has_own_user: bool) -> Limits {
        let settings = &self.engine.platform.settings;
        Limits {
            memory_bytes: Some(settings.run_memory_mb * 1024 * 1024),
            // Longer than the timeout allows on one core; the timeout itself is kept on this side.
            cpu_seconds: u64::try_from(self.claimed.timeout_seconds)
                .ok()
                .map(|seconds| seconds.saturating_mul(4)),
            processes: Some(if has_own_user { MAX_PROCESSES } else { MAX_SHARED_PROCESSES }),
            file_size_bytes: Some(MAX_FILE_SIZE),
            open_files: Some(MAX_OPEN_FILES),
            result_bytes: MAX_RESULT,
        }
    }

    /// Listens to the process until it ends or is ended.
    async fn follow(&mut self, (mut run, replier): (Run, runner::Replier), stop: &Stop) -> End {
        let mut calls = JoinSet::new();
        let timeout = Duration::from_secs(u64::try_from(self.claimed.timeout_seconds).unwrap_or(1));
        let mut deadline = tokio::time::Instant::now() + timeout;
        let mut reason = None;
        let mut flush = tokio::time::Instant::now();
        let is_long_at = flush + SHORT;
        let mut is_long = false;
        loop {
            tokio::select! {
                frames = run.next() => match frames {
                    Ok(frames) => {
                        if let Some(result) = self.take(frames, &replier, &mut calls) {
                            calls.shutdown().await;
                            drop(replier);
                            run.finish();
                            return reason.map_or(End::Result(result), End::Stopped);
                        }
                    }
                    Err(ended) => return reason.map_or(End::Died(ended), End::Stopped),
                },
                () = sleep_until(deadline) => match reason {
                    // Asked, and its grace is over.
                    Some(_) => {
                        run.kill();
                        deadline += timeout;
                    }
                    None => {
                        run.terminate();
                        reason = Some(Reason::TimedOut);
                        deadline = tokio::time::Instant::now() + GRACE;
                    }
                },
                why = stopped(stop), if reason.is_none() => {
                    let Some(why) = why else { return End::Fenced };
                    run.terminate();
                    reason = Some(why);
                    deadline = tokio::time::Instant::now() + GRACE;
                }
                () = sleep_until(is_long_at), if !is_long => {
                    is_long = true;
                    run.stand_back();
                }
                () = sleep_until(flush + FLUSH_PERIOD), if !self.pending.is_empty() => {}
                Some(_) = calls.join_next() => {}
            }
            if self.pending.len() >= FLUSH_LINES || flush.elapsed() >= FLUSH_PERIOD {
                flush = tokio::time::Instant::now();
                if let Some(batch) = self.batch() {
                    self.engine.recorder.lines(batch).await;
                }
            }
        }
    }

    /// Logs, answers calls; returns the result if it is among the frames.
    fn take(
        &mut self,
        frames: Vec<Frame>,
        replier: &runner::Replier,
        calls: &mut JoinSet<()>,
    ) -> Option<Box<ResultFrame>> {
        let first_new = self.pending.len();
        let mut result = None;
        for frame in frames {
            match frame {
                Frame::Log(log) => self.log(log),
                Frame::Call(call) => {
                    let (caller, replier) = (self.caller.clone(), replier.clone());
                    calls
                        .spawn(async move { calls::answer(&caller, &replier, call).await }.in_current_span());
                }
                Frame::Result(frame) => {
                    result = Some(frame);
                    break;
                }
            }
        }
        if let [_, ..] = &self.pending[first_new..] {
            let lines = self.pending[first_new..].iter().map(Into::into).collect();
            self.engine.platform.events.publish(Event::Lines(Lines { execution_id: self.claimed.id, lines }));
        }
        result
    }

    fn log(&mut self, log: Log) {
        let line = self.caller.with_mask(|mask| self.transcript.line(log, mask));
        self.pending.extend(line);
    }

    fn batch(&mut self) -> Option<logs::Batch> {
        (!self.pending.is_empty()).then(|| logs::Batch {
            execution_id: self.claimed.id,
            organization_id: self.claimed.organization_id,
            attempt: self.claimed.attempt,
            lines: std::mem::take(&mut self.pending),
        })
    }
}

/// Waits until the run is to be stopped; `None`: its fence is lost.
async fn stopped(stop: &Stop) -> Option<Reason> {
    tokio::select! {
        () = stop.fenced.cancelled() => None,
        () = stop.cancelled.cancelled() => Some(Reason::Cancelled),
        () = stop.shut_down.cancelled() => Some(Reason::ShutDown),
    }
}

fn failure(kind: &str, message: &str) -> Failure {
    Failure { kind: kind.into(), message: message.into(), user_error: false, mro: Vec::new() }
}
