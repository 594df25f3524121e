//! One run: start, load, break, mend, wait for quiet, read, judge.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::Utc;
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Options};
use crate::history::{History, Injected, Service, Sort, lock};
use crate::http::Caller;
use crate::load::Load;
use crate::plan::{Blow, Fault, Node, Plan};
use crate::report::Report;
use crate::verify::verify;
use crate::{broker, observe};

const WORKFLOWS: &str = include_str!("workflows.py");
/// What a slow line adds to each piece.
const DELAY: Duration = Duration::from_millis(150);
/// Known executions whose wake-ups are doubled at once.
const DOUBLED: usize = 30;

/// How a run is made.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) cluster: Options,
    /// From the last repair until nothing may wait or run any more.
    pub(crate) quiet: Duration,
    /// Where the logs of all processes go when something was broken.
    pub(crate) logs: PathBuf,
    pub(crate) says: bool,
}

/// Carries the plan out and judges what came of it.
pub(crate) async fn run(plan: &Plan, settings: &Settings) -> anyhow::Result<Report> {
    let whole = Instant::now();
    let say = Say(settings.says, whole);
    say.line("starting PostgreSQL, RabbitMQ and Redis");
    let cluster = Arc::new(Cluster::prepare(settings.cluster.clone(), WORKFLOWS).await?);
    let database = cluster.database();
    observe::remember(&database).await?;
    cluster.start().await?;
    let answers = Arc::new(Mutex::new(Vec::new()));
    let load = Arc::new(Load::prepare(&Caller::nobody(cluster.bases(), answers.clone())?).await?);
    let first_tick = observe::set_schedules_back(&database).await?;
    let queue = Arc::new(Mutex::new(Vec::new()));
    let mut watching = JoinSet::new();
    watching.spawn(broker::watch_queue(cluster.url(Service::Rabbitmq).clone(), queue.clone()));
    watching.spawn(load.clone().poll(plan.seed));
    say.line(&format!(
        "{} nodes are up; {} submissions and {} faults within {:.0} s",
        cluster.nodes().count(),
        plan.orders.len(),
        plan.faults.len(),
        plan.span().as_secs_f64()
    ));

    let mut history = History {
        workers: u32::try_from(settings.cluster.workers).unwrap_or_default(),
        ..History::default()
    };
    let began = Instant::now();
    let loading = tokio::spawn({
        let (load, plan) = (load.clone(), plan.clone());
        async move { load.run(&plan, began).await }
    });
    break_and_mend(&cluster, &load, plan, began, &say, &mut history).await?;
    load.give_up_after(settings.quiet);
    say.line("everything is mended; waiting for quiet");
    loading.await?;
    history.quiet_after = observe::wait_until_quiet(&database, settings.quiet).await;
    load.probe(&mut history).await;
    load.reach(&mut history).await?;
    watching.shutdown().await;
    observe::read(&database, &cluster.effects(), first_tick, &mut history).await?;
    load.remembered(&mut history);
    history.answers = std::mem::take(&mut *lock(&answers));
    history.queue = std::mem::take(&mut *lock(&queue));
    say.line("ending all processes");
    history.left_over = cluster.stop().await?;
    history.stubborn = cluster.stubborn();
    let report = Report::new(plan, whole.elapsed(), verify(&history));
    if report.violations() > 0 {
        cluster.keep_logs(&settings.logs)?;
        say.line(&format!("the logs of all processes are in {}", settings.logs.display()));
    }
    if let Ok(cluster) = Arc::try_unwrap(cluster) {
        cluster.close().await?;
    }
    Ok(report)
}

/// Injects every fault in its time; returns when all are undone.
async fn break_and_mend(
    cluster: &Arc<Cluster>,
    load: &Arc<Load>,
    plan: &Plan,
    began: Instant,
    say: &Say,
    history: &mut History,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let turns = Turns::default();
    for fault in plan.faults.iter().copied() {
        let (cluster, load, say, turns) = (cluster.clone(), load.clone(), *say, turns.clone());
        tasks.spawn(async move {
            tokio::time::sleep((began + fault.at).saturating_duration_since(Instant::now())).await;
            // A service that is being killed cannot be told anything, nor killed again.
            let _turn = turns.take(fault.blow).await;
            say.line(&format!("{} for {:.1} s", fault.blow, fault.lasts.as_secs_f64()));
            let began = Utc::now();
            let messages = inject(&cluster, &load, fault).await?;
            let injected =
                Injected { name: fault.blow.to_string(), sort: sort(fault.blow), began, healed: Utc::now() };
            Ok::<_, anyhow::Error>((injected, messages))
        });
    }
    while let Some(done) = tasks.join_next().await {
        let (injected, messages) = done??;
        history.faults.push(injected);
        history.foreign_messages += messages;
    }
    history.faults.sort_by_key(|fault| fault.began);
    Ok(())
}

/// Injects one fault and undoes it; returns how many messages it made up.
async fn inject(cluster: &Cluster, load: &Load, fault: Fault) -> anyhow::Result<usize> {
    let rabbitmq = cluster.url(Service::Rabbitmq);
    match fault.blow {
        Blow::Kill(node) => {
            cluster.kill(node);
            tokio::time::sleep(fault.lasts).await;
            cluster.launch(node)?;
            cluster.wait_until_up(node).await?;
        }
        Blow::Stop(node) => {
            cluster.signal(node, Signal::STOP);
            tokio::time::sleep(fault.lasts).await;
            cluster.signal(node, Signal::CONT);
        }
        Blow::Terminate(node) => {
            cluster.terminate(node).await?;
            cluster.launch(node)?;
            cluster.wait_until_up(node).await?;
        }
        Blow::KillService(service) => {
            cluster.kill_service(service).await?;
            tokio::time::sleep(fault.lasts).await;
            cluster.start_service(service).await?;
        }
        Blow::FlushRedis => cluster.flush_redis().await?,
        Blow::PurgeQueue => broker::purge(rabbitmq).await?,
        Blow::DuplicateMessages => {
            let known = load.known();
            let latest: Vec<_> = known.iter().rev().take(DOUBLED).map(|(_, id)| *id).collect();
            return broker::duplicate(rabbitmq, &latest).await;
        }
        Blow::InventMessages => return broker::invent(rabbitmq).await,
        Blow::Cut(node, service) => cluster.line(node, service).cut(),
        Blow::HalfOpen(node, service) => cluster.line(node, service).half_open(),
        Blow::Silence(node, service) => {
            cluster.line(node, service).silence(true);
            tokio::time::sleep(fault.lasts).await;
            cluster.line(node, service).silence(false);
        }
        Blow::Slow(node, service) => {
            cluster.line(node, service).slow(DELAY);
            tokio::time::sleep(fault.lasts).await;
            cluster.line(node, service).slow(Duration::ZERO);
        }
    }
    Ok(0)
}

fn sort(blow: Blow) -> Sort {
    match blow {
        Blow::KillService(Service::Postgres) => Sort::Database,
        Blow::KillService(Service::Rabbitmq) | Blow::Cut(Node::Worker(_), Service::Rabbitmq) => Sort::Broker,
        Blow::Stop(Node::Api(api)) => Sort::FrozenApi(api),
        Blow::Kill(Node::Worker(_)) | Blow::Stop(Node::Worker(_)) | Blow::Terminate(Node::Worker(_)) => {
            Sort::Worker
        }
        // Until somebody notices, the server counts a consumer that is not there, or misses one that is.
        Blow::Silence(Node::Worker(_), _)
        | Blow::HalfOpen(Node::Worker(_), _)
        | Blow::Slow(Node::Worker(_), _) => Sort::Worker,
        _ => Sort::Other,
    }
}

/// One thing at a time is done to each service as a whole.
#[derive(Debug, Clone, Default)]
struct Turns(Arc<Mutex<HashMap<Service, Arc<tokio::sync::Mutex<()>>>>>);

impl Turns {
    async fn take(&self, blow: Blow) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        let service = match blow {
            Blow::KillService(service) => service,
            Blow::FlushRedis => Service::Redis,
            Blow::PurgeQueue | Blow::DuplicateMessages | Blow::InventMessages => Service::Rabbitmq,
            _ => return None,
        };
        let turn = lock(&self.0).entry(service).or_default().clone();
        Some(turn.lock_owned().await)
    }
}

/// Progress for people.
#[derive(Debug, Clone, Copy)]
struct Say(bool, Instant);

impl Say {
    fn line(&self, text: &str) {
        if self.0 {
            eprintln!("{:>6.1} s  {text}", self.1.elapsed().as_secs_f64());
        }
    }
}
