//! What is measured, as data: the configurations, the workflows, and the lines of the report.

use crate::setup::Kind;

/// The smallest workflow of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workflow {
    pub(crate) name: &'static str,
    /// A warm process serves many runs; otherwise each has a process of its own.
    pub(crate) pooled: bool,
    /// The answer to the request is the outcome.
    pub(crate) sync: bool,
}

/// One line of the report, or a few that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Runs of a workflow that does nothing.
    Runs { workflow: Workflow, clients: usize, count: usize },
    /// Runs that only log.
    Logs,
    /// Submits that nobody waits for.
    Submits,
    /// Light runs, alone and beside CPU-bound ones.
    Mixed,
    /// Light runs, alone and beside one that floods the log.
    Flood,
    /// Light runs, alone and beside a tenant that takes all it can get.
    Hostile,
    /// Sign-ins of many at once, beside somebody who reads.
    SignIns,
    /// Reads of one execution.
    ReadOne,
    /// Reads of the list.
    ReadList,
    /// Reads of pages of large lists by name.
    ReadDirectory,
    /// Reads of a large history.
    ReadHistory,
}

/// How much of everything is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) runs: usize,
    pub(crate) many_runs: usize,
    pub(crate) lone_runs: usize,
    pub(crate) log_runs: usize,
    pub(crate) submits: usize,
    pub(crate) reads: usize,
    pub(crate) list_reads: usize,
    /// Executions of a large history, and how often each of its pages is read.
    pub(crate) history: i64,
    pub(crate) history_reads: usize,
    pub(crate) sign_ins: usize,
    pub(crate) warm_up: usize,
}

impl Scale {
    /// What the figures are published from.
    pub(crate) const FULL: Self = Self {
        runs: 2_000,
        many_runs: 10_000,
        lone_runs: 200,
        log_runs: 200,
        submits: 3_200,
        reads: 10_000,
        list_reads: 2_000,
        history: 1_000_000,
        history_reads: 400,
        sign_ins: 1_000,
        warm_up: 200,
    };
    /// Enough to see that it works.
    pub(crate) const QUICK: Self = Self {
        runs: 200,
        many_runs: 400,
        lone_runs: 20,
        log_runs: 40,
        submits: 320,
        reads: 1_000,
        list_reads: 200,
        history: 20_000,
        history_reads: 100,
        sign_ins: 100,
        warm_up: 64,
    };
}

pub(crate) const CLIENTS: usize = 32;
pub(crate) const LOG_CLIENTS: usize = 16;
pub(crate) const LINES_PER_RUN: usize = 100;
pub(crate) const SIGN_IN_CLIENTS: usize = 20;
pub(crate) const SUBMIT_CLIENTS: usize = 64;
pub(crate) const LIGHT_RUNS: usize = 40;
pub(crate) const LIGHT_CLIENTS: usize = 8;
pub(crate) const HEAVY_RUNS: usize = 10;
/// Light runs beside a flood, and the lines of it: it has to outlast them.
pub(crate) const LIGHT_RUNS_BESIDE_FLOOD: usize = 400;
pub(crate) const FLOOD_LINES: usize = 400_000;

/// Light runs beside a hostile tenant, whose own last five seconds.
pub(crate) const LIGHT_RUNS_BESIDE_HOSTILE: usize = 200;
/// What the hostile tenant runs, and how many of each at once.
pub(crate) const HOSTILE_RUNS: [(&str, usize); 4] =
    [("hostile_forks", 1), ("hostile_memory", 1), ("hostile_lines", 1), ("hostile_result", 4)];

pub(crate) const WORKFLOWS: [Workflow; 4] = [
    Workflow { name: "noop_pooled", pooled: true, sync: false },
    Workflow { name: "noop_pooled_sync", pooled: true, sync: true },
    Workflow { name: "noop", pooled: false, sync: false },
    Workflow { name: "noop_sync", pooled: false, sync: true },
];
pub(crate) const LOGGING_WORKFLOW: &str = "log_lines";
pub(crate) const HEAVY_WORKFLOW: &str = "password_audit";
/// A process of its own, as runs have by default.
pub(crate) const LIGHT_WORKFLOW: &str = "noop_sync";
pub(crate) const SUBMITTED_WORKFLOW: &str = "noop_pooled";

impl Plan {
    /// Everything of one configuration. Lines that count commits come first and one after the other, so that
    /// each need not wait for the statistics of an unrelated one.
    pub(crate) fn of(kind: Kind, scale: &Scale) -> Vec<Self> {
        let mut plans = Vec::new();
        for workflow in WORKFLOWS {
            plans.push(Self::Runs { workflow, clients: CLIENTS, count: scale.runs });
            if kind == Kind::Rabbitmq && (workflow.pooled || workflow.sync) {
                plans.push(Self::Runs { workflow, clients: CLIENTS, count: scale.many_runs });
            }
        }
        if kind == Kind::Rabbitmq {
            plans.push(Self::Logs);
        }
        plans.extend(WORKFLOWS.map(|workflow| Self::Runs { workflow, clients: 1, count: scale.lone_runs }));
        if kind == Kind::Rabbitmq {
            plans.extend([Self::Submits, Self::Mixed, Self::Flood, Self::Hostile, Self::SignIns]);
        }
        plans.extend([Self::ReadOne, Self::ReadList]);
        if kind == Kind::Rabbitmq {
            // Last, for they fill the tables.
            plans.extend([Self::ReadHistory, Self::ReadDirectory]);
        }
        plans
    }

    /// What `--only` is matched against.
    pub(crate) fn slug(&self, kind: Kind) -> String {
        let what = match self {
            Self::Runs { workflow, clients, count } => format!("{}/{clients}x{count}", workflow.name),
            Self::Logs => "logs".to_owned(),
            Self::Submits => "submits".to_owned(),
            Self::Mixed => "mixed".to_owned(),
            Self::Flood => "flood".to_owned(),
            Self::Hostile => "hostile".to_owned(),
            Self::SignIns => "sign-ins".to_owned(),
            Self::ReadOne => "read-one".to_owned(),
            Self::ReadList => "read-list".to_owned(),
            Self::ReadDirectory => "read-directory".to_owned(),
            Self::ReadHistory => "read-history".to_owned(),
        };
        format!("{}/{what}", kind.name())
    }
}
