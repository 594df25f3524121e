//! What the parts can do at best on this machine, at this hour: the figures that Bifrost is judged against.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ConnectionProperties};
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::http::Requests;
use crate::ledger::Ledger;
use crate::load::{self, Action, percentile};
use crate::processes::{Footprint, Part, Reach};
use crate::services::Services;

const PYTHON_SOURCE: &str = include_str!("floors.py");
/// What PostgreSQL's log and a quorum queue's log write at least, about.
const BLOCK: usize = 8 * 1024;
const BLOCKS: u64 = 2_048;
const BATCH_ROWS: usize = 100;
const COPY_LINES: usize = 1_000;
const CLIENTS: usize = 32;
const WINDOW: usize = 200;
/// About the size of a wake-up, and of a start frame.
const MESSAGE: [u8; 250] = [b'x'; 250];
const FRAME_PAYLOAD: usize = 400;

/// The floors; rates are per second.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Floors {
    pub(crate) syncs: f64,
    pub(crate) sync_p50_ms: f64,
    pub(crate) commits_one_client: f64,
    pub(crate) commits_32_clients: f64,
    pub(crate) batched_rows: f64,
    pub(crate) copied_lines: f64,
    pub(crate) publishes_window_1: f64,
    pub(crate) publishes_window_200: f64,
    pub(crate) forks: f64,
    pub(crate) fork_p50_ms: f64,
    pub(crate) round_trips: f64,
    pub(crate) hello_requests: f64,
    pub(crate) hello_cpu_ms: f64,
}

impl Floors {
    /// Measures all of them, each for `length`.
    pub(crate) async fn measure(
        root: &Path,
        services: &Services,
        ledger: &Ledger,
        length: Duration,
        say: impl Fn(String),
    ) -> anyhow::Result<Self> {
        let mut floors = Self::default();
        (floors.syncs, floors.sync_p50_ms) = syncs(&services.directory, length).await?;
        say(format!("floor: fdatasync {:.0}/s, p50 {:.2} ms", floors.syncs, floors.sync_p50_ms));
        Box::pin(floors.measure_postgres(services, ledger, length)).await.context("PostgreSQL's floors")?;
        say(format!(
            "floor: PostgreSQL {:.0} and {:.0} commits/s, {:.0} rows/s batched, {:.0} lines/s copied",
            floors.commits_one_client, floors.commits_32_clients, floors.batched_rows, floors.copied_lines
        ));
        (floors.publishes_window_1, floors.publishes_window_200) =
            Box::pin(publishes(services, length)).await.context("RabbitMQ's floors")?;
        say(format!(
            "floor: RabbitMQ {:.0} and {:.0} confirmed publishes/s",
            floors.publishes_window_1, floors.publishes_window_200
        ));
        (floors.forks, floors.fork_p50_ms) = forks(root, length).await?;
        floors.round_trips = round_trips(root, length).await?;
        say(format!("floor: Python {:.0} forks/s, {:.0} round trips/s", floors.forks, floors.round_trips));
        (floors.hello_requests, floors.hello_cpu_ms) =
            hello(ledger, length).await.context("the hello route")?;
        say(format!("floor: hello route {:.0} requests/s", floors.hello_requests));
        Ok(floors)
    }

    async fn measure_postgres(
        &mut self,
        services: &Services,
        ledger: &Ledger,
        length: Duration,
    ) -> anyhow::Result<()> {
        let name = format!("benchfloor{}", Uuid::now_v7().simple());
        ledger.database(&name);
        let mut superuser = services.connect("postgres").await?;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut superuser).await?;
        let mut postgres = services.connect(&name).await?;
        sqlx::raw_sql(
            "CREATE TABLE floor (id UUID PRIMARY KEY, payload TEXT NOT NULL);
             CREATE TABLE line (id UUID NOT NULL, sequence BIGINT NOT NULL, message TEXT NOT NULL,
                 PRIMARY KEY (id, sequence))",
        )
        .execute(&mut postgres)
        .await?;
        self.commits_one_client = commits(services, &name, 1, length).await?;
        self.commits_32_clients = commits(services, &name, CLIENTS, length).await?;
        self.batched_rows = batched_rows(&mut postgres, length).await?;
        self.copied_lines = copied_lines(&mut postgres, length).await?;
        postgres.close().await?;
        Ok(())
    }
}

/// Syncs a second of a block in a file that has its full length, as logs have, and the median of one in ms.
pub(crate) async fn syncs(directory: &Path, length: Duration) -> anyhow::Result<(f64, f64)> {
    let file = directory.join(format!("fdatasync-{}", std::process::id()));
    tokio::task::spawn_blocking(move || {
        let measured = sync_blocks(&file, length);
        let _ = std::fs::remove_file(&file);
        measured.with_context(|| format!("cannot sync {}", file.display()))
    })
    .await?
}

fn sync_blocks(path: &PathBuf, length: Duration) -> anyhow::Result<(f64, f64)> {
    let file = File::create(path)?;
    let block = [7; BLOCK];
    for number in 0..BLOCKS {
        file.write_all_at(&block, number * BLOCK as u64)?;
    }
    file.sync_all()?;
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < length {
        let at = Instant::now();
        file.write_all_at(&block, times.len() as u64 % BLOCKS * BLOCK as u64)?;
        file.sync_data()?;
        times.push(at.elapsed());
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_unstable();
    Ok((rate, percentile(&times, 50).as_secs_f64() * 1_000.0))
}

/// Single-row inserts a second, each its own commit.
async fn commits(
    services: &Services,
    database: &str,
    clients: usize,
    length: Duration,
) -> anyhow::Result<f64> {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(services.connect(database).await?);
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut postgres in connections {
        tasks.spawn(async move {
            let mut done = 0_u32;
            while began.elapsed() < length {
                sqlx::query("INSERT INTO floor (id, payload) VALUES ($1, $2)")
                    .bind(Uuid::now_v7())
                    .bind("a row about as small as they come")
                    .execute(&mut postgres)
                    .await?;
                done += 1;
            }
            Ok::<_, sqlx::Error>(done)
        });
    }
    let mut all = 0;
    while let Some(done) = tasks.join_next().await {
        all += done??;
    }
    Ok(f64::from(all) / began.elapsed().as_secs_f64())
}

async fn batched_rows(postgres: &mut PgConnection, length: Duration) -> anyhow::Result<f64> {
    let payloads = vec!["a row about as small as they come".to_owned(); BATCH_ROWS];
    let (began, mut rows) = (Instant::now(), 0);
    while began.elapsed() < length {
        let ids: Vec<Uuid> = (0..BATCH_ROWS).map(|_| Uuid::now_v7()).collect();
        sqlx::query("INSERT INTO floor (id, payload) SELECT * FROM unnest($1::uuid[], $2::text[])")
            .bind(ids)
            .bind(&payloads)
            .execute(&mut *postgres)
            .await?;
        rows += BATCH_ROWS;
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}

async fn copied_lines(postgres: &mut PgConnection, length: Duration) -> anyhow::Result<f64> {
    let (began, mut lines) = (Instant::now(), 0);
    while began.elapsed() < length {
        let id = Uuid::now_v7();
        let text: String =
            (0..COPY_LINES).map(|number| format!("{id}\t{number}\tline {number} of many\n")).collect();
        let mut copy = postgres.copy_in_raw("COPY line (id, sequence, message) FROM STDIN").await?;
        copy.send(text.as_bytes()).await?;
        copy.finish().await?;
        lines += COPY_LINES;
    }
    Ok(lines as f64 / began.elapsed().as_secs_f64())
}

/// Confirmed publishes a second to a quorum queue: one at a time, and with a window of them.
async fn publishes(services: &Services, length: Duration) -> anyhow::Result<(f64, f64)> {
    let connection =
        lapin::Connection::connect(services.rabbitmq.as_str(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let queue = format!("benchfloor{}", Uuid::now_v7().simple());
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), durable, arguments).await?;
    let one = publish(&channel, &queue, 1, length).await;
    let many = publish(&channel, &queue, WINDOW, length).await;
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
    connection.close(200, "done".into()).await?;
    Ok((one?, many?))
}

async fn publish(
    channel: &lapin::Channel,
    queue: &str,
    window: usize,
    length: Duration,
) -> anyhow::Result<f64> {
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (began, mut confirmed, mut pending) = (Instant::now(), 0_u32, VecDeque::new());
    loop {
        let more = began.elapsed() < length;
        if more {
            pending.push_back(
                channel.basic_publish("".into(), queue.into(), options, &MESSAGE, persistent.clone()).await?,
            );
        }
        if pending.len() >= window || !more {
            let Some(oldest) = pending.pop_front() else { break };
            ensure!(oldest.await?.is_ack(), "a publish was refused");
            confirmed += 1;
        }
    }
    Ok(f64::from(confirmed) / began.elapsed().as_secs_f64())
}

/// Fork and wait of a Python as warm as the template: how many a second, and the median in ms.
async fn forks(root: &Path, length: Duration) -> anyhow::Result<(f64, f64)> {
    let seconds = length.as_secs_f64().to_string();
    let output =
        python(root, &["fork", &seconds]).stdin(Stdio::null()).stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "Python could not fork");
    let mut times: Vec<f64> = serde_json::from_slice(&output.stdout)?;
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().context("not one fork")?;
    Ok((times.len() as f64 * 1_000.0 / times.iter().sum::<f64>(), median))
}

/// Calls a second to one Python process: a frame of JSON there, one back.
async fn round_trips(root: &Path, length: Duration) -> anyhow::Result<f64> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = python(root, &["echo"]).stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
    let called = tokio::task::spawn_blocking(move || call_until(ours, length)).await?;
    // The socket is closed: it ends by itself.
    child.wait().await?;
    called.context("Python's round trips")
}

fn call_until(mut socket: UnixStream, length: Duration) -> anyhow::Result<f64> {
    let body = serde_json::json!({ "id": 1, "payload": "x".repeat(FRAME_PAYLOAD) }).to_string();
    let mut frame = u32::try_from(body.len())?.to_be_bytes().to_vec();
    frame.extend_from_slice(body.as_bytes());
    let mut call = || {
        socket.write_all(&frame)?;
        let mut size = [0; 4];
        socket.read_exact(&mut size)?;
        let mut answer = vec![0; u32::from_be_bytes(size) as usize];
        socket.read_exact(&mut answer)
    };
    call()?; // its imports are done when it answers
    let (began, mut calls) = (Instant::now(), 0_u32);
    while began.elapsed() < length {
        call()?;
        calls += 1;
    }
    Ok(f64::from(calls) / began.elapsed().as_secs_f64())
}

fn python(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg("-c").arg(PYTHON_SOURCE).args(arguments).env("PYTHONPATH", root.join("platform"));
    command.process_group(0).kill_on_drop(true);
    command
}

/// The smallest route of the same web framework, in a process of its own, read by the same client: requests
/// a second, and the server's CPU milliseconds for each.
async fn hello(ledger: &Ledger, length: Duration) -> anyhow::Result<(f64, f64)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("hello-server");
    let (pid, output) = ledger.spawn_piped("hello-server", command)?;
    let address = BufReader::new(output).lines().next_line().await?.context("it told no address")?;
    let address: SocketAddr = address.parse()?;
    let read = Action::Read(Arc::from([Requests::anonymous(address).get("/")]));
    let footprint = Footprint(vec![(Part::Api, pid, Reach::Itself)]);
    // A short load tells how long a load must be.
    let probe = load::run(address, CLIENTS, 5_000, &read).await?;
    let count = (probe.rate() * length.as_secs_f64()) as usize;
    let before = footprint.cpu();
    let outcome = load::run(address, CLIENTS, count, &read).await?;
    ensure!(outcome.failed == 0, "{:?}", outcome.faults);
    let cpu = (&footprint.cpu() - &before).milliseconds_each(count);
    Ok((outcome.rate(), cpu.get(&Part::Api).copied().unwrap_or_default()))
}

/// Serves the hello route until killed, having told its address on standard output.
pub(crate) async fn serve_hello() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    let app = axum::Router::new().route("/", axum::routing::get(async || "hello"));
    Ok(axum::serve(listener, app).await?)
}
