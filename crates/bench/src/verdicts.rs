//! The figures that Bifrost is asked to hold, and whether it does.

use serde::Serialize;

use crate::floors::Floors;
use crate::line::{Line, largest};
use crate::plan::{CLIENTS, LIGHT_CLIENTS, LOG_CLIENTS, SIGN_IN_CLIENTS, SUBMIT_CLIENTS, WORKFLOWS};
use crate::processes::Part;
use crate::setup::Kind;

/// Labels of the lines that are no workflow.
pub(crate) const LOGS: &str = "100 log lines a run";
pub(crate) const SUBMITS: &str = "submits (noop_pooled)";
pub(crate) const SIGN_INS: &str = "sign-ins by password";
pub(crate) const UNLOADED: &str = "GET /auth/me alone";
pub(crate) const BESIDE_SIGN_INS: &str = "GET /auth/me beside sign-ins";
pub(crate) const BESIDE_FLOOD: &str = "light runs beside a log flood";
pub(crate) const BESIDE_HOSTILE: &str = "light runs beside a hostile tenant";
/// Each page of a large history has a line, which begins so.
pub(crate) const HISTORY: &str = "history";
pub(crate) const READ_ONE: &str = "GET one execution";
pub(crate) const READ_LIST: &str = "GET list of 25";
pub(crate) const READ_DIRECTORY: [(&str, &str); 4] = [
    ("GET 100 of 100,000 users", "/api/users?limit=100"),
    ("GET 100 of 100,000 roles", "/api/roles?limit=100"),
    ("GET 100 of 100,000 forms", "/api/forms?limit=100"),
    ("GET 100 of 100,000 organizations", "/api/organizations?limit=100"),
];

const POOLED_CPU_MS: f64 = 0.7;
const PROCESS_CPU_MS: f64 = 2.5;
/// A run cannot end before its row, its wake-up and its outcome are on the disk.
pub(crate) const SERIAL_SYNCS: f64 = 3.0;
const SYNC_FACTOR: f64 = 3.0;
const FORK_FACTOR: f64 = 2.0;
const COMMITS: f64 = 2.5;
const LINES_PER_SECOND: f64 = 40_000.0;
const SUBMIT_P99_MS: f64 = 100.0;
/// Over as many bare checks at once, and over the same requests alone.
const SIGN_IN_FACTOR: f64 = 4.0;
const BESIDE_FACTOR: f64 = 2.0;
/// Over the same runs alone.
const NEIGHBOUR_FACTOR: f64 = 3.0;
const READ_CPU_MS: f64 = 0.15;
const DIRECTORY_P95_MS: f64 = 10.0;
const HISTORY_P95_MS: f64 = 50.0;

/// One figure that is asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) asked: f64,
    pub(crate) at_least: bool,
    pub(crate) measured: f64,
    /// Where it was measured, and how the asked figure came to be.
    pub(crate) why: String,
}

impl Verdict {
    /// Whether the figure is held.
    pub(crate) fn holds(&self) -> bool {
        if self.at_least { self.measured >= self.asked } else { self.measured <= self.asked }
    }

    fn at_most(what: impl Into<String>, asked: f64, measured: f64, why: String) -> Self {
        Self { what: what.into(), asked, at_least: false, measured, why }
    }
}

/// Judges what was measured; what was not measured has no verdict.
pub(crate) fn judge(lines: &[Line], floors: &Floors) -> Vec<Verdict> {
    let (kind, mut verdicts) = (Kind::Rabbitmq, Vec::new());
    let runs = |line: &Line| format!("{}, {} × {}", line.what, line.clients, line.count);
    for workflow in WORKFLOWS {
        let Some(line) = largest(lines, kind, workflow.name, CLIENTS) else { continue };
        let asked = if workflow.pooled { POOLED_CPU_MS } else { PROCESS_CPU_MS };
        if let Some(cpu) = line.cpu_total() {
            verdicts.push(Verdict::at_most(
                format!("{}: CPU ms a run", workflow.name),
                asked,
                cpu,
                runs(line),
            ));
        }
        if let Some(commits) = line.commits {
            verdicts.push(Verdict::at_most(
                format!("{}: commits a run", workflow.name),
                COMMITS,
                commits,
                runs(line),
            ));
        }
    }
    for workflow in WORKFLOWS.into_iter().filter(|workflow| workflow.sync) {
        let Some(line) = largest(lines, kind, workflow.name, 1) else { continue };
        let sync = line.sync_ms.unwrap_or(floors.sync_p50_ms);
        let syncs = format!("{SYNC_FACTOR} × {SERIAL_SYNCS} syncs of {sync:.2} ms");
        let (asked, why) = match workflow.pooled {
            true => (SYNC_FACTOR * SERIAL_SYNCS * sync, syncs),
            false => (
                SYNC_FACTOR * SERIAL_SYNCS * sync + FORK_FACTOR * floors.fork_p50_ms,
                format!("{syncs} + {FORK_FACTOR} × fork and wait of {:.2} ms", floors.fork_p50_ms),
            ),
        };
        verdicts.push(Verdict::at_most(
            format!("{}: p50 ms, unloaded", workflow.name),
            asked,
            line.p50_ms,
            why,
        ));
    }
    if let Some(line) = largest(lines, kind, LOGS, LOG_CLIENTS)
        && let Some(measured) = line.lines_per_second
    {
        let what = "log lines a second, every one found".to_owned();
        verdicts.push(Verdict { what, asked: LINES_PER_SECOND, at_least: true, measured, why: runs(line) });
    }
    if let Some(line) = largest(lines, kind, SUBMITS, SUBMIT_CLIENTS) {
        verdicts.push(Verdict::at_most(
            "submit: p99 ms at 64 clients",
            SUBMIT_P99_MS,
            line.p99_ms,
            runs(line),
        ));
    }
    for what in [BESIDE_FLOOD, BESIDE_HOSTILE] {
        if let Some(line) = largest(lines, kind, what, LIGHT_CLIENTS)
            && let Some(floor) = &line.floor
        {
            let why = format!("p95 over {}", floor.floor);
            verdicts.push(Verdict::at_most(what, NEIGHBOUR_FACTOR, floor.value, why));
        }
    }
    for (what, clients, factor) in
        [(SIGN_INS, SIGN_IN_CLIENTS, SIGN_IN_FACTOR), (BESIDE_SIGN_INS, 1, BESIDE_FACTOR)]
    {
        if let Some(line) = largest(lines, kind, what, clients)
            && let Some(floor) = &line.floor
        {
            let asked = factor * line.p99_ms / floor.value;
            let why = format!("{factor} × {}", floor.floor);
            verdicts.push(Verdict::at_most(format!("{what}: p99 ms"), asked, line.p99_ms, why));
        }
    }
    for (what, _) in READ_DIRECTORY {
        if let Some(line) = largest(lines, kind, what, 1) {
            let why = "one client, in one organization".to_owned();
            verdicts.push(Verdict::at_most(format!("{what}: p95 ms"), DIRECTORY_P95_MS, line.p95_ms, why));
        }
    }
    let history = lines.iter().filter(|line| line.what.starts_with(HISTORY));
    if let Some(slowest) = history.max_by(|one, other| one.p95_ms.total_cmp(&other.p95_ms)) {
        verdicts.push(Verdict::at_most(
            "a page of a large history: p95 ms",
            HISTORY_P95_MS,
            slowest.p95_ms,
            format!("the slowest, {}", runs(slowest)),
        ));
    }
    if let Some(line) = largest(lines, kind, READ_ONE, CLIENTS) {
        let of = |part: Part| line.cpu_ms.get(&part).copied().unwrap_or_default();
        let cpu = of(Part::Api) + of(Part::Postgres) + of(Part::Redis);
        verdicts.push(Verdict::at_most(
            "GET one execution: CPU ms",
            READ_CPU_MS,
            cpu,
            "api + PostgreSQL + Redis".to_owned(),
        ));
    }
    for line in lines.iter().filter(|line| !line.verified) {
        verdicts.push(Verdict::at_most(
            format!("{}: runs not found as they should be", runs(line)),
            0.0,
            1.0,
            line.note.clone(),
        ));
    }
    verdicts
}
