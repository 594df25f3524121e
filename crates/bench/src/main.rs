//! `bifrost-bench`: measures Bifrost beside the floors of the machine it runs on.
//!
//! Started by `scripts/bench`, which builds the release binaries first. Everything it starts is ended by the
//! ledger, whether it finishes, fails or is interrupted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use floors::Floors;
use ledger::Ledger;
use measure::Stage;
use plan::{HEAVY_WORKFLOW, HOSTILE_RUNS, LOGGING_WORKFLOW, Plan, Scale, WORKFLOWS};
use progress::Progress;
use report::Report;
use services::Services;
use setup::{Kind, Setup};

mod breakdown;
mod floors;
mod follow;
mod history;
mod http;
mod ledger;
mod line;
mod load;
mod machine;
mod measure;
mod neighbours;
mod plan;
mod processes;
mod progress;
mod report;
mod services;
mod setup;
mod sign_in;
mod table;
mod verdicts;

const DOCUMENT: &str = "docs/performance.md";
const FLOOR_LENGTH: Duration = Duration::from_secs(3);
const QUICK_FLOOR_LENGTH: Duration = Duration::from_millis(500);

/// Measure Bifrost beside the floors of this machine, and write docs/performance.md.
#[derive(Parser)]
#[command(name = "scripts/bench", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a route that says hello, to be measured.
    #[command(hide = true)]
    HelloServer,
}

#[derive(clap::Args)]
struct Options {
    /// A tenth of the load, without the waits for statistics and idle memory; writes no document.
    #[arg(long)]
    quick: bool,
    /// Only lines whose name holds this text, or one of several: `rabbitmq/noop_pooled/32|read`; writes no
    /// document.
    #[arg(long, value_name = "TEXT[|TEXT…]")]
    only: Option<String>,
    /// Also write everything that was measured here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// WORKER_SLOTS of the worker.
    #[arg(long, value_name = "N", default_value_t = 16)]
    slots: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match cli.command {
        Some(Command::HelloServer) => floors::serve_hello().await,
        None => Box::pin(bench(&cli.options)).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(options: &Options) -> anyhow::Result<()> {
    let root = std::env::current_dir()?;
    ensure!(root.join("scripts/services").exists(), "start it as scripts/bench");
    let (ledger, mut report) = (Ledger::default(), Report::default());
    let measured = tokio::select! {
        measured = Box::pin(measure_all(options, &root, &ledger, &mut report)) => measured,
        () = interrupted() => Err(anyhow::anyhow!("interrupted; what follows is not complete")),
    };
    ledger.close().await;

    report.machine.push(("load after", machine::load_average()));
    if let Some(floors) = &report.floors {
        report.verdicts = verdicts::judge(&report.lines, floors);
    }
    println!("{}", report.text());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    measured?;
    if !options.quick && options.only.is_none() {
        report.write_into(&root.join(DOCUMENT))?;
        eprintln!("{DOCUMENT} is written");
    }
    ensure!(
        report.lines.iter().all(|line| line.verified),
        "not every run was found as it should be: see the notes"
    );
    Ok(())
}

async fn measure_all(
    options: &Options,
    root: &Path,
    ledger: &Ledger,
    report: &mut Report,
) -> anyhow::Result<()> {
    let progress = Progress::start();
    let (scale, length) = match options.quick {
        true => (Scale::QUICK, QUICK_FLOOR_LENGTH),
        false => (Scale::FULL, FLOOR_LENGTH),
    };
    let services = ledger.start_services(root.to_owned()).await?;
    services.check_durable().await?;
    report.machine = machine::describe(root, &services, options.slots).await?;

    let floors = Floors::measure(root, &services, ledger, length, |text| progress.say(text)).await?;
    report.floors = Some(floors.clone());
    ledger.settle().await;

    for kind in [Kind::Rabbitmq, Kind::Embedded] {
        let chosen = |plan: &Plan| {
            let slug = plan.slug(kind);
            options.only.as_ref().is_none_or(|only| only.split('|').any(|text| slug.contains(text)))
        };
        let plans: Vec<Plan> = Plan::of(kind, &scale).into_iter().filter(chosen).collect();
        if plans.is_empty() {
            continue;
        }
        let measured =
            Measured { options, root, services: &services, ledger, floors: &floors, scale: &scale, progress };
        measured.configuration(kind, &plans, report).await.with_context(|| kind.name())?;
        ledger.settle().await;
    }
    if breakdown::is_chosen(options.only.as_deref()) {
        progress.say("breakdown: starting a configuration that exports its spans");
        let measured = breakdown::measure(root, &services, ledger, options.slots, scale.lone_runs).await;
        report.breakdowns = measured.context("breakdown")?;
        ledger.settle().await;
    }
    Ok(())
}

/// What a configuration is measured with.
struct Measured<'a> {
    options: &'a Options,
    root: &'a Path,
    services: &'a Services,
    ledger: &'a Ledger,
    floors: &'a Floors,
    scale: &'a Scale,
    progress: Progress,
}

impl Measured<'_> {
    async fn configuration(&self, kind: Kind, plans: &[Plan], report: &mut Report) -> anyhow::Result<()> {
        self.progress.say(format!("{}: starting", kind.name()));
        let workflows: Vec<&str> = WORKFLOWS
            .iter()
            .map(|workflow| workflow.name)
            .chain([LOGGING_WORKFLOW, HEAVY_WORKFLOW])
            .chain(HOSTILE_RUNS.map(|(name, _)| name))
            .collect();
        let setup =
            Setup::start(kind, self.root, self.services, self.ledger, self.options.slots, &workflows, &[])
                .await?;
        let mut stage = Stage {
            setup,
            floors: self.floors,
            scale: self.scale,
            progress: self.progress,
            disk: &self.services.directory,
            thorough: !self.options.quick,
            last_activity: Instant::now(),
        };
        if stage.thorough && self.options.only.is_none() {
            self.progress.say(format!("{}: ready, idle for a while", kind.name()));
            report.idle.push(stage.idle().await);
        }
        self.progress.say(format!("{}: warming up", kind.name()));
        stage.warm_up().await?;
        for plan in plans {
            self.ledger.check_alive()?;
            let lines = Box::pin(stage.carry_out(*plan)).await.with_context(|| plan.slug(kind))?;
            for line in lines {
                let what = format!("{} {}, {} × {}", line.setup, line.what, line.clients, line.count);
                self.progress.say(format!("{what}: {}", line.summary()));
                report.lines.push(line);
            }
        }
        Ok(())
    }
}

/// Returns when somebody wants this to end.
async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Then the signals do what they do by themselves.
        return std::future::pending().await;
    };
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
}
