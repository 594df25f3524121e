//! The judgement: a pure function from the history to verdicts. It knows no clock, no process and no database.
//!
//! Each check says how much it has looked at, so that a promise that was never put to the test is not mistaken for one
//! that was kept.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::history::{History, Injected, Kind, Line, Row, Sort, Time};

mod recovery;
mod streams;

/// Violations that are told in words; all are counted.
const TOLD: usize = 5;

/// What became of one promise.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// Its number in the list of guarantees, or a word where it has none.
    pub(crate) promise: &'static str,
    pub(crate) what: &'static str,
    /// How many cases were looked at.
    pub(crate) cases: usize,
    /// What was measured, in words.
    pub(crate) figure: String,
    pub(crate) violations: usize,
    /// The first of them, in words.
    pub(crate) told: Vec<String>,
}

/// Judges everything.
pub(crate) fn verify(history: &History) -> Vec<Verdict> {
    let facts = Facts::of(history);
    vec![
        accepted(&facts),
        one_end(&facts),
        fenced(&facts),
        recovery::in_time(&facts),
        recovery::quiet(history),
        once_per_key(&facts),
        no_phantoms(&facts),
        recovery::consuming(history),
        limits(history),
        right_ends(&facts),
        ticks(&facts),
        streams::lines(&facts),
        streams::followers(&facts),
        isolated(&facts),
        answers(history),
        draining(history),
        left_over(history),
    ]
}

/// The history, with what several checks look up.
struct Facts<'a> {
    history: &'a History,
    rows: HashMap<Uuid, &'a Row>,
    lines: HashMap<Uuid, Vec<&'a Line>>,
}

impl<'a> Facts<'a> {
    fn of(history: &'a History) -> Self {
        let mut lines: HashMap<Uuid, Vec<&Line>> = HashMap::new();
        for line in &history.lines {
            lines.entry(line.execution).or_default().push(line);
        }
        Self { history, rows: history.rows.iter().map(|row| (row.id, row)).collect(), lines }
    }
}

fn verdict(
    promise: &'static str,
    what: &'static str,
    cases: usize,
    figure: String,
    mut told: Vec<String>,
) -> Verdict {
    let violations = told.len();
    told.truncate(TOLD);
    Verdict { promise, what, cases, figure, violations, told }
}

fn is_terminal(status: &str) -> bool {
    matches!(status, "Success" | "CompletedWithErrors" | "Failed" | "Timeout" | "Cancelled")
}

/// R1: whatever was answered with an id is there, and has ended.
fn accepted(facts: &Facts<'_>) -> Verdict {
    let ids: HashSet<Uuid> =
        facts.history.submissions.iter().flat_map(|one| one.ids.iter().copied()).collect();
    let mut told = Vec::new();
    for id in &ids {
        match facts.rows.get(id) {
            None => told.push(format!("{id} was accepted and is not there")),
            Some(row) if !is_terminal(&row.status) => told.push(format!("{id} is {} for ever", row.status)),
            Some(_) => {}
        }
    }
    verdict("R1", "every accepted execution ends", ids.len(), format!("lost {}", told.len()), told)
}

/// R2: exactly one end, which never changes, whoever looks.
fn one_end(facts: &Facts<'_>) -> Verdict {
    let mut told = Vec::new();
    let mut ends: HashMap<Uuid, usize> = HashMap::new();
    for change in &facts.history.transitions {
        if is_terminal(&change.from) {
            told.push(format!("{} went from {} to {}", change.execution, change.from, change.to));
        }
        if is_terminal(&change.to) {
            *ends.entry(change.execution).or_default() += 1;
        }
    }
    for row in facts.history.rows.iter().filter(|row| is_terminal(&row.status)) {
        let count = ends.get(&row.id).copied().unwrap_or_default();
        if count != 1 {
            told.push(format!("{} ended {count} times", row.id));
        }
    }
    for seen in facts.history.seen.iter().filter(|seen| is_terminal(&seen.status)) {
        if let Some(row) = facts.rows.get(&seen.execution)
            && row.status != seen.status
        {
            told.push(format!("{} was read as {} and is {}", row.id, seen.status, row.status));
        }
    }
    let figure = format!("violations {}, {} read on the way", told.len(), facts.history.seen.len());
    verdict("R2", "one end, never changed", ends.len(), figure, told)
}

/// R3: nothing of an attempt counts once a later one has begun, and no attempt begins twice.
fn fenced(facts: &Facts<'_>) -> Verdict {
    let mut told = Vec::new();
    for change in &facts.history.transitions {
        if change.attempt < change.attempt_before {
            told.push(format!(
                "{} went back from attempt {} to {}",
                change.execution, change.attempt_before, change.attempt
            ));
        }
    }
    let retried = facts.history.rows.iter().filter(|row| row.attempt > 1).count();
    for row in &facts.history.rows {
        if let Some(stamp) = &row.stamp
            && stamp.attempt != row.attempt
        {
            told.push(format!(
                "{} has the result of attempt {} in attempt {}",
                row.id, stamp.attempt, row.attempt
            ));
        }
    }
    let mut begun: HashMap<(Uuid, i32), usize> = HashMap::new();
    for start in &facts.history.starts {
        *begun.entry((start.execution, start.attempt)).or_default() += 1;
    }
    for ((id, attempt), count) in &begun {
        if *count > 1 {
            told.push(format!("attempt {attempt} of {id} began {count} times"));
        }
        if facts.rows.get(id).is_some_and(|row| row.attempt < *attempt) {
            told.push(format!("attempt {attempt} of {id} began and was never claimed"));
        }
    }
    for (id, lines) in &facts.lines {
        if lines.windows(2).any(|two| two[1].attempt < two[0].attempt) {
            told.push(format!("{id} has lines of an earlier attempt after those of a later one"));
        }
        let foreign = lines.iter().find(|line| {
            let said =
                line.message.strip_prefix("attempt ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            said.is_some_and(|said: i32| said != line.attempt)
        });
        if let Some(line) = foreign {
            told.push(format!("{id} has the line {:?} in attempt {}", line.message, line.attempt));
        }
    }
    let figure = format!("accepted {}, {retried} with several attempts", told.len());
    verdict("R3", "nothing of a stale attempt counts", begun.len(), figure, told)
}

/// R5: one execution per key, and never two of one intent.
fn once_per_key(facts: &Facts<'_>) -> Verdict {
    let mut told = Vec::new();
    let mut of_token: HashMap<&str, Vec<Uuid>> = HashMap::new();
    for row in &facts.history.rows {
        if let Some(token) = &row.token {
            of_token.entry(token).or_default().push(row.id);
        }
    }
    for (token, ids) in of_token.iter().filter(|(_, ids)| ids.len() > 1) {
        told.push(format!("{token} became {} executions", ids.len()));
    }
    let mut repeated = 0;
    for one in &facts.history.submissions {
        let different: HashSet<&Uuid> = one.ids.iter().collect();
        repeated += usize::from(one.ids.len() > 1);
        if different.len() > 1 {
            told.push(format!("{} was answered with {} ids", one.token, different.len()));
        }
    }
    let figure = format!("extra {}, {repeated} answered more than once", told.len());
    verdict("R5", "an idempotency key is one execution", of_token.len(), figure, told)
}

/// R6: what was not submitted is not executed, whatever messages there are.
fn no_phantoms(facts: &Facts<'_>) -> Verdict {
    let tokens: HashSet<&str> = facts.history.submissions.iter().map(|one| one.token.as_str()).collect();
    let mut told = Vec::new();
    for row in facts.history.rows.iter().filter(|row| row.kind != Some(Kind::Scheduled)) {
        if !row.token.as_deref().is_some_and(|token| tokens.contains(token)) {
            told.push(format!("nobody submitted {}", row.id));
        }
    }
    for start in &facts.history.starts {
        if !facts.rows.contains_key(&start.execution) {
            told.push(format!("{} ran and is no execution", start.execution));
        }
    }
    let messages = facts.history.foreign_messages;
    let figure = format!("extra effects {} of {messages} messages", told.len());
    verdict("R6", "doubled and invented messages do nothing", messages, figure, told)
}

/// Limits hold at every moment, and at the end every slot is free.
fn limits(history: &History) -> Verdict {
    let mut running: HashMap<&str, HashSet<Uuid>> = HashMap::new();
    let mut told = Vec::new();
    let mut starts = 0;
    for change in &history.transitions {
        let Some((lane, most)) = &change.lane else { continue };
        let lane = running.entry(lane).or_default();
        match change.to.as_str() {
            "Running" => {
                starts += 1;
                lane.insert(change.execution);
                if lane.len() > *most {
                    told.push(format!("{} run at once at {}", lane.len(), change.at));
                }
            }
            "Cancelling" => {}
            _ => {
                lane.remove(&change.execution);
            }
        }
    }
    for (workflow, seconds) in &history.probes {
        if seconds.is_none() {
            told.push(format!("a last {workflow} did not end: its slot is not free"));
        }
    }
    let slowest = history.probes.iter().filter_map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    let figure = format!("exceeded or leaked {}, free at the end in {slowest:.1} s", told.len());
    verdict("R4", "limits hold, no slot leaks", starts, figure, told)
}

/// R14 and what was asked for: each kind ends as it must, or as the loss of its worker explains.
fn right_ends(facts: &Facts<'_>) -> Verdict {
    let mut told = Vec::new();
    let mut cases = 0;
    for one in &facts.history.submissions {
        let rows = one.ids.first().and_then(|id| facts.rows.get(id));
        let Some(row) = rows.filter(|row| is_terminal(&row.status)) else { continue };
        cases += 1;
        let error = row.error_type.as_deref();
        // The worker that ran it is gone, or could not find a process for it.
        let is_excused = row.status == "Failed" && matches!(error, Some("WorkerLost"));
        let is_right = match one.kind {
            Kind::Failing => row.status == "Failed" && error == Some("ValueError"),
            Kind::Undefined => row.status == "Failed" && error == Some("WorkerCrash"),
            Kind::Cancelled => row.status == "Cancelled" || !one.cancelled,
            _ => row.status == "Success",
        };
        let is_undone = one.cancelled && row.status != "Cancelled";
        if is_undone || !(is_right || is_excused) {
            told.push(format!("{} ({}) ended as {} {:?}", row.id, one.kind.workflow(), row.status, error));
        }
        if let (Some(run_at), Some(started)) = (one.run_at, row.started_at)
            && started < run_at
        {
            told.push(format!("{} began {} before its time", row.id, run_at - started));
        }
    }
    verdict("R14", "each ends as it must", cases, format!("wrong {}", told.len()), told)
}

/// R17: one tick a minute, started once.
fn ticks(facts: &Facts<'_>) -> Verdict {
    let mut told = Vec::new();
    let mut cases = 0;
    for table in &facts.history.timetables {
        let mut minute = table.first;
        while minute <= table.last {
            cases += 1;
            let fired: Vec<_> = facts
                .history
                .ticks
                .iter()
                .filter(|tick| tick.schedule == table.schedule && tick.fire_at == minute)
                .collect();
            match fired.as_slice() {
                [tick] if tick.outcome == "started" => {}
                [] => told.push(format!("{} missed {minute}", table.schedule)),
                _ => told.push(format!(
                    "{} at {minute}: {}, {} times",
                    table.schedule,
                    fired[0].outcome,
                    fired.len()
                )),
            }
            minute += chrono::TimeDelta::minutes(1);
        }
    }
    let mut of_ticks: HashSet<Uuid> = HashSet::new();
    for tick in &facts.history.ticks {
        let Some(id) = tick.execution else { continue };
        if !of_ticks.insert(id) || !facts.rows.contains_key(&id) {
            told.push(format!("the tick {} of {} has no execution of its own", tick.fire_at, tick.schedule));
        }
    }
    for row in facts.history.rows.iter().filter(|row| row.kind == Some(Kind::Scheduled)) {
        if !of_ticks.contains(&row.id) {
            told.push(format!("{} was started by no tick", row.id));
        }
    }
    verdict(
        "R17",
        "every tick once, over all replicas",
        cases,
        format!("missed or doubled {}", told.len()),
        told,
    )
}

/// Nobody sees, gets or runs what belongs to another organization.
fn isolated(facts: &Facts<'_>) -> Verdict {
    let mut told = Vec::new();
    let mut cases = 0;
    for one in &facts.history.submissions {
        for id in &one.ids {
            let Some(row) = facts.rows.get(id) else { continue };
            cases += 1;
            let scope =
                row.stamp.as_ref().map(|stamp| (stamp.scope.as_str(), stamp.token.as_str(), stamp.execution));
            let own = one.organization.to_string();
            let is_own = scope.is_none_or(|found| found == (own.as_str(), one.token.as_str(), row.id));
            if row.organization != Some(one.organization) || !is_own {
                told.push(format!("{id} is of {:?}, ran as {scope:?}", row.organization));
            }
        }
    }
    for reach in &facts.history.reach {
        for id in &reach.listed {
            cases += 1;
            if facts.rows.get(id).is_none_or(|row| row.organization != Some(reach.organization)) {
                told.push(format!("{} lists {id} of another", reach.organization));
            }
        }
        for (id, status) in &reach.foreign {
            cases += 1;
            if *status != 404 {
                told.push(format!("{} gets {status} for {id} of another", reach.organization));
            }
        }
    }
    verdict("S1", "organizations see their own only", cases, format!("leaks {}", told.len()), told)
}

/// R11: answers are a success, or a 503 that says when to come back, and none of them takes long.
fn answers(history: &History) -> Verdict {
    /// What a request may take, and what a crowded machine adds to it.
    const MOST_SECONDS: f64 = 6.5;
    let mut told = Vec::new();
    let (mut slowest, mut unavailable) = (0.0_f64, 0);
    for answer in &history.answers {
        unavailable += usize::from(answer.status == 503);
        let is_expected = match answer.status {
            200..300 => true,
            503 => answer.has_retry_after,
            404 => answer.request == "read of another's",
            // What has ended cannot be cancelled.
            400..500 => answer.request == "cancel",
            _ => false,
        };
        if !is_expected {
            told.push(format!("{} was answered with {} at {}", answer.request, answer.status, answer.at));
        }
        let until = answer.at + seconds(answer.seconds);
        let is_frozen = |fault: &Injected| {
            fault.sort == Sort::FrozenApi(answer.replica) && fault.began <= until && answer.at <= fault.healed
        };
        if !history.faults.iter().any(is_frozen) {
            slowest = slowest.max(answer.seconds);
            if answer.seconds > MOST_SECONDS {
                told.push(format!("{} took {:.1} s at {}", answer.request, answer.seconds, answer.at));
            }
        }
    }
    let figure = format!("wrong {}, slowest {slowest:.1} s, {unavailable} × 503", told.len());
    verdict("R11", "answers are right or 503, and prompt", history.answers.len(), figure, told)
}

/// R18: whoever is asked to end does so, whatever is away just then.
fn draining(history: &History) -> Verdict {
    let asked = history.faults.iter().filter(|fault| fault.name.starts_with("terminate")).count();
    let told = history.stubborn.clone();
    verdict("R18", "who is asked to end does", asked + 1, format!("refused {}", told.len()), told)
}

fn left_over(history: &History) -> Verdict {
    let told = (history.left_over > 0).then(|| format!("{} processes are left", history.left_over));
    let figure = format!("left {}", history.left_over);
    verdict("R22", "no process outlives its worker", 1, figure, told.into_iter().collect())
}

fn seconds(seconds: f64) -> chrono::TimeDelta {
    chrono::TimeDelta::milliseconds((seconds * 1_000.0) as i64)
}

/// How much of a span faults of a sort explain, each with what it takes to get over it.
fn explained(faults: &[Injected], sort: Sort, after: f64, from: Time, until: Time) -> f64 {
    let overlap = |fault: &Injected| {
        let (began, over) = (fault.began.max(from), (fault.healed + seconds(after)).min(until));
        (over - began).as_seconds_f64().max(0.0)
    };
    faults.iter().filter(|fault| fault.sort == sort).map(overlap).sum()
}

#[cfg(test)]
mod tests;
