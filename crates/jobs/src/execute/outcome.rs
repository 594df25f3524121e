//! What the end of an attempt comes to: its outcome, or another attempt.
//!
//! What a process says of itself is written by whoever wrote the workflow: texts are masked and numbers bounded before they are stored.

use std::sync::LazyLock;
use std::thread::available_parallelism;
use std::time::Duration;

use domain::executions::Status;
use domain::executions::finish::Outcome;
use domain::sabotage::{self, Fault};
use runner::{Ended, Failure, ResultFrame, Usage};

use super::{Attempt, End, GIVEN_BACK, Reason, failure};

/// CPU time that a process may have used before it was a run's, which its own usage includes.
const BEFORE: Duration = Duration::from_secs(60);
/// Cores that a run may use. The system is asked once: it opens files of control groups each time.
static CORES: LazyLock<f64> =
    LazyLock::new(|| available_parallelism().map_or(1.0, |cores| cores.get() as f64));
/// How many times the memory that it may hold a run may have seen at most: some is not counted, such as what it shares.
const UNCOUNTED: u64 = 16;
/// The same where a run may hold as much as there is.
const MOST_MEMORY: i64 = 1 << 50;

impl Attempt<'_> {
    /// What an end comes to: a last state, or another attempt.
    pub(super) fn outcome(&mut self, end: End, took: Duration) -> Outcome {
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
            End::Result(frame) => self.returned(&mut outcome, *frame, took),
            End::Died(ended) => {
                let (kind, message) = why_it_died(&ended, self.engine.platform.settings.run_memory_mb);
                self.used(&mut outcome, ended.usage, took);
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

    fn returned(&self, outcome: &mut Outcome, frame: ResultFrame, took: Duration) {
        if let Some(usage) = frame.usage {
            self.used(outcome, usage, took);
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
        outcome.result_type =
            frame.result_type.map(|kind| self.caller.with_mask(|mask| mask.text(&kind).into_owned()));
        outcome.result = frame.result.map(|result| self.caller.with_mask(|mask| mask.json(result)));
    }

    fn used(&self, outcome: &mut Outcome, usage: Usage, took: Duration) {
        let usage = plausible(usage, took, self.engine.platform.settings.run_memory_mb);
        outcome.peak_memory_bytes = Some(usage.peak_memory_bytes);
        outcome.cpu_total_seconds = Some(usage.cpu_seconds);
    }

    /// A failure, or another attempt if the policy grants one.
    fn failed(&self, outcome: &mut Outcome, failure: Failure) {
        if let Some(pause) = self.retry(&failure) {
            outcome.status = Status::Pending;
            outcome.retry_in = pause;
        }
        outcome.error_message = Some(self.caller.with_mask(|mask| mask.text(&failure.message).into_owned()));
        outcome.error_type = Some(self.caller.with_mask(|mask| mask.text(&failure.kind).into_owned()));
        outcome.is_user_error = failure.user_error;
    }

    fn retry(&self, failure: &Failure) -> Option<Duration> {
        let policy = self.claimed.retry_policy.as_ref()?;
        let attempt = self.claimed.attempt - self.claimed.given_back;
        if attempt >= self.claimed.max_attempts || failure.user_error {
            return None;
        }
        let named = |name: &String| *name == failure.kind || failure.mro.contains(name);
        let listed = match &policy.retry_on {
            Some(names) => failure.kind == "WorkerLost" || names.iter().any(named),
            None => failure.kind != "TimeoutError",
        };
        // ± 20 %, so that what failed together does not come back together.
        let jitter = 0.8 + 0.4 * f64::from(self.claimed.id.0.as_bytes()[14]) / 255.0;
        let pause = policy.pause_after(attempt);
        listed.then(|| pause.mul_f64(jitter))
    }
}

/// The usage as far as it can be: sums over many runs are made of it, and must hold whatever one of them has claimed.
fn plausible(usage: Usage, took: Duration, memory_mb: u64) -> Usage {
    let most_cpu = (took + BEFORE).as_secs_f64() * *CORES;
    let most_memory = i64::try_from(memory_mb.saturating_mul(UNCOUNTED * 1024 * 1024)).unwrap_or(i64::MAX);
    Usage {
        cpu_seconds: if usage.cpu_seconds.is_nan() { 0.0 } else { usage.cpu_seconds.clamp(0.0, most_cpu) },
        peak_memory_bytes: usage.peak_memory_bytes.clamp(0, most_memory.min(MOST_MEMORY)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_that_cannot_be_is_cut_to_what_can() {
        let took = Duration::from_secs(10);
        let usage =
            |cpu_seconds, peak_memory_bytes| plausible(Usage { cpu_seconds, peak_memory_bytes }, took, 1_024);
        let true_usage = Usage { cpu_seconds: 9.5, peak_memory_bytes: 700 << 20 };
        assert_eq!(usage(9.5, 700 << 20), true_usage, "what can be stays as it is");
        for cpu in [1e300, f64::INFINITY] {
            let cut = usage(cpu, i64::MAX);
            assert!((70.0..=70.0 * 4_096.0).contains(&cut.cpu_seconds), "{cut:?}");
            assert_eq!(cut.peak_memory_bytes, 16 << 30);
        }
        for cpu in [-1.0, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(usage(cpu, i64::MIN), Usage::default(), "{cpu}");
        }
        let boundless = plausible(Usage { cpu_seconds: 0.0, peak_memory_bytes: i64::MAX }, took, u64::MAX);
        assert_eq!(boundless.peak_memory_bytes, MOST_MEMORY);
    }
}
