//! `bifrost-chaos`: breaks a whole installation by a plan that a seed gives, and judges whether it kept its promises.
//!
//! `plan` says what happens, `cluster` and its lines are what it happens to, `load` and `follow` use it meanwhile, `observe`
//! writes the history down, `verify` judges it, `report` tells. `prove` shows that the judgement is worth something.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

use crate::cluster::Options;
use crate::plan::{Plan, WORKERS};
use crate::run::Settings;

mod broker;
mod cluster;
mod follow;
mod history;
mod http;
mod load;
mod observe;
mod patience;
mod plan;
mod prove;
mod report;
mod run;
mod verify;

/// Breaks an installation and checks what it promises.
#[derive(Debug, Parser)]
struct Arguments {
    /// Repeats a plan.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Submissions.
    #[arg(long, default_value_t = 10_000)]
    executions: usize,
    /// Faults.
    #[arg(long, default_value_t = 60)]
    faults: usize,
    /// A run of about a minute: 500 submissions, 14 faults.
    #[arg(long, conflicts_with_all = ["executions", "faults"])]
    short: bool,
    /// Prints the verdicts as JSON.
    #[arg(long)]
    json: bool,
    /// Shows that faults built into the sabotaged binaries are found; with a name only that one.
    #[arg(long, num_args = 0..=1, default_missing_value = "", value_name = "FAULT")]
    prove: Option<String>,
    /// Prints the plan and does nothing.
    #[arg(long)]
    plan: bool,
    /// The repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// The folder of the binaries; by default that of this one.
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Where logs go when a promise was broken.
    #[arg(long, default_value = "target/chaos-logs")]
    logs: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match work(Arguments::parse()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The number of violations.
async fn work(arguments: Arguments) -> anyhow::Result<usize> {
    let (executions, faults) =
        if arguments.short { (500, 14) } else { (arguments.executions, arguments.faults) };
    let plan = Plan::new(arguments.seed, executions, faults);
    if arguments.plan {
        for fault in &plan.faults {
            println!(
                "{:>7.1} s  {} for {:.1} s",
                fault.at.as_secs_f64(),
                fault.blow,
                fault.lasts.as_secs_f64()
            );
        }
        return Ok(0);
    }
    let own = std::env::current_exe()?;
    let beside = own.parent().context("a program is in a folder")?.to_owned();
    let settings = Settings {
        cluster: Options {
            root: arguments.root.canonicalize()?,
            binaries: arguments.binaries.unwrap_or(beside).canonicalize()?,
            suffix: "",
            variables: vec![("RUST_LOG", "info".to_owned())],
            workers: WORKERS,
        },
        quiet: Duration::from_secs(60),
        logs: arguments.logs,
        says: !arguments.json,
    };
    if let Some(only) = arguments.prove {
        let settings = Settings { quiet: Duration::from_secs(25), ..settings };
        let only = Some(only.as_str()).filter(|only| !only.is_empty());
        return until_interrupted(prove::prove(&settings, only)).await;
    }
    let report = until_interrupted(run::run(&plan, &settings)).await?;
    if arguments.json {
        println!("{:#}", report.json());
    } else {
        report.print();
    }
    Ok(report.violations())
}

/// Dropping a run ends all that it had started.
async fn until_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
}
