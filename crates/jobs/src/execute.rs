//! One execution, from the claimed row to the recorded outcome: the heart, kept short.
//!
//! Whatever happens, exactly one outcome goes to the recorder, unless the fence is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Platform;
use domain::events::{Event, Lines, Update};
use domain::executions::claim::Claimed;
use domain::executions::finish::Outcome;
use domain::executions::{Kind, Status, logs};
use domain::sabotage::{self, Fault};
use domain::telemetry::traces::{Part, Span};
use runner::{Ended, Failure, Frame, Isolation, Limits, Log, ResultFrame, Run, Start, Template, WorkflowRef};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tracing::Instrument as _;

use crate::calls::{self, Caller};
use crate::enclosure::MAX_PROCESSES;
use crate::record::{Finished, Recorder};
use crate::slots::Slot;
use crate::stop::Stop;
use crate::templates::Templates;
use crate::trace::AttemptTrace;
use crate::transcript::Transcript;

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
    /// This machine does not have the packages it needs: another may, or this one later.
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
    let update = running(&claimed);
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
        }
    }

    async fn drive(&mut self, stop: &Stop) -> End {
        let template = tokio::select! {
            template = self.engine.templates.with_packages(self.claimed.environment_version) => template,
            why = stopped(stop) => return why.map_or(End::Fenced, End::Stopped),
        };
        let Some(template) = template else { return End::GivenBack };
        self.caller.runs_in(template.workspace());
        let process = self.step("process");
        let started = tokio::select! {
            started = self.start(&template) => started,
            why = stopped(stop) => return why.map_or(End::Fenced, End::Stopped),
        };
        match started {
            Ok(mut run) => {
                drop(process);
                self.caller.share_mask(run.0.kept());
                let _call = self.step("call");
                self.follow(run, stop).await
            }
            Err(failure) => End::NotStarted(failure),
        }
    }

    /// Begins a step of the run's span, which ends when it is dropped.
    fn step(&self, name: &str) -> Span {
        Span::start(Part::Internal, name, self.traceparent.as_deref())
    }

    /// Gets a process and sends it the start frame. A process that died while it stood ready is replaced.
    async fn start(&self, template: &Arc<Template>) -> Result<(Run, runner::Replier), Failure> {
        let claimed = self.claimed;
        if claimed.code.is_none() && claimed.path.is_none() {
            return Err(failure("WorkflowNotFound", "the workflow is not in the workspace any more"));
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
                Err(error) if tries < 3 => {
                    tracing::debug!(%error, "a process was gone before its start, taking another")
                }
                Err(error) => return Err(failure("WorkerCrash", &error.to_string())),
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
            parameters: &claimed.parameters,
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

    fn outcome(&mut self, end: End, took: Duration) -> Outcome {
        let mut outcome = Outcome {
            id: self.claimed.id,
            attempt: self.claimed.attempt,
            status: Status::Failed,
            retry_in: Duration::ZERO,
            is_given_back: false,
            result: None,
            result_type: None,
            error_message: None,
            error_type: None,
            is_user_error: false,
            variables: None,
            duration_ms: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
            peak_memory_bytes: None,
            cpu_total_seconds: None,
            lines: self.batch(),
        };
        match end {
            End::Result(frame) => self.returned(&mut outcome, *frame),
            End::Died(ended) => {
                let (kind, message) = why_it_died(&ended, self.engine.platform.settings.run_memory_mb);
                outcome.peak_memory_bytes = Some(ended.usage.peak_memory_bytes);
                outcome.cpu_total_seconds = Some(ended.usage.cpu_seconds);
                self.failed(&mut outcome, failure(kind, &message));
            }
            End::NotStarted(failure) => self.failed(&mut outcome, failure),
            End::Stopped(Reason::TimedOut) => {
                let message = format!("did not end within {} s", self.claimed.timeout_seconds);
                self.failed(&mut outcome, failure("TimeoutError", &message));
                if outcome.status == Status::Failed {
                    outcome.status = Status::Timeout;
                }
            }
            End::Stopped(Reason::Cancelled) => outcome.status = Status::Cancelled,
            End::Stopped(Reason::ShutDown) => {
                self.failed(
                    &mut outcome,
                    failure("WorkerLost", "the worker was stopped before the run had ended"),
                );
            }
            End::GivenBack => {
                outcome.status = Status::Pending;
                outcome.retry_in = GIVEN_BACK;
                outcome.is_given_back = true;
            }
            End::Fenced => unreachable!("a fenced attempt has no outcome"),
        }
        outcome
    }

    fn returned(&self, outcome: &mut Outcome, frame: ResultFrame) {
        if let Some(usage) = frame.usage {
            outcome.peak_memory_bytes = Some(usage.peak_memory_bytes);
            outcome.cpu_total_seconds = Some(usage.cpu_seconds);
        }
        outcome.variables =
            frame.variables.map(|variables| self.caller.with_mask(|mask| mask.json(variables)));
        outcome.status = match frame.outcome {
            runner::Outcome::Failed if frame.error.is_none() && sabotage::is(Fault::UnknownStatus) => {
                Status::Success
            }
            runner::Outcome::Success => Status::Success,
            runner::Outcome::CompletedWithErrors => Status::CompletedWithErrors,
            runner::Outcome::Failed => {
                let unknown = || failure("WorkerCrash", "the run ended with an unknown outcome");
                return self.failed(outcome, frame.error.unwrap_or_else(unknown));
            }
        };
        outcome.result_type = frame.result_type;
        outcome.result = frame.result.map(|result| self.caller.with_mask(|mask| mask.json(result)));
    }

    /// A failure, or another attempt if the policy grants one.
    fn failed(&self, outcome: &mut Outcome, failure: Failure) {
        if let Some(pause) = self.retry(&failure) {
            outcome.status = Status::Pending;
            outcome.retry_in = pause;
        }
        outcome.error_message = Some(self.caller.with_mask(|mask| mask.text(&failure.message).into_owned()));
        outcome.error_type = Some(failure.kind);
        outcome.is_user_error = failure.user_error;
    }

    fn retry(&self, failure: &Failure) -> Option<Duration> {
        let policy = self.claimed.retry_policy.as_ref()?;
        if self.claimed.attempt >= self.claimed.max_attempts || failure.user_error {
            return None;
        }
        let named = |name: &String| *name == failure.kind || failure.mro.contains(name);
        let listed = match &policy.retry_on {
            Some(names) => failure.kind == "WorkerLost" || names.iter().any(named),
            None => failure.kind != "TimeoutError",
        };
        // ± 20 %, so that what failed together does not come back together.
        let jitter = 0.8 + 0.4 * f64::from(self.claimed.id.0.as_bytes()[14]) / 255.0;
        listed.then(|| policy.pause_after(self.claimed.attempt).mul_f64(jitter))
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

fn why_it_died(ended: &Ended, memory_mb: u64) -> (&'static str, String) {
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    const SIGXFSZ: i32 = 25;
    if ended.broke_protocol {
        return ("WorkerCrash", "the run wrote to its connection to the worker".into());
    }
    if ended.out_of_memory {
        let message = format!(
            "the run and what it had started held more memory together than they may: {memory_mb} MiB (RUN_MEMORY_MB)"
        );
        return ("ResourceLimit", message);
    }
    match (ended.code, ended.signal) {
        (Some(code), _) => {
            ("NoResult", format!("the process ended with exit code {code} before the workflow returned"))
        }
        (_, Some(SIGXCPU)) => ("ResourceLimit", "the run used more CPU time than it may".into()),
        (_, Some(SIGXFSZ)) => ("ResourceLimit", "the run wrote a larger file than it may".into()),
        (_, Some(SIGKILL)) => {
            ("WorkerCrash", "the process was killed (signal 9), most likely for want of memory".into())
        }
        (_, Some(signal)) => ("WorkerCrash", format!("the process was ended by signal {signal}")),
        (None, None) => ("WorkerCrash", "the process ended without a result".into()),
    }
}

fn failure(kind: &str, message: &str) -> Failure {
    Failure { kind: kind.into(), message: message.into(), user_error: false, mro: Vec::new() }
}

fn running(claimed: &Claimed) -> Update {
    Update {
        execution_id: claimed.id,
        org_id: claimed.organization_id,
        workflow_name: claimed.workflow_name.clone(),
        executed_by: claimed.executed_by,
        executed_by_name: claimed.executed_by_name.clone(),
        status: Status::Running,
        attempt: claimed.attempt,
        started_at: claimed.started_at,
        completed_at: None,
        duration_ms: None,
        result: None,
        result_type: None,
        result_omitted: false,
        error_message: None,
        error_type: None,
        is_user_error: false,
        last_sequence: None,
    }
}
