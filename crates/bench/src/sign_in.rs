//! Signing in under pressure: what twenty at once cost over the bare password check, and what they cost others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use domain::passwords;
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::http::Connection;
use crate::line::{Line, Ratio};
use crate::load::{Action, Outcome, percentile};
use crate::measure::{Load, Stage};
use crate::plan::SIGN_IN_CLIENTS;
use crate::verdicts::{BESIDE_SIGN_INS, SIGN_INS, UNLOADED};

/// Turns of one who reads alone and then beside sign-ins: this machine is not as fast at all times.
const ROUNDS: usize = 5;
/// Bare password checks, for each of those who wait.
const BARE_ROUNDS: usize = 10;
/// The one who reads asks this often. In a closed loop it would keep a core busy by itself, and beside the checks show
/// that two cores are not three.
const READ_PERIOD: Duration = Duration::from_millis(2);

impl Stage<'_> {
    /// Sign-ins of twenty clients, beside one that reads; each against its floor.
    pub(crate) async fn sign_ins(&mut self) -> anyhow::Result<Vec<Line>> {
        let (alone, at_once) = bare_checks().await?;
        let sign_in = Action::Read(vec![self.setup.login.clone()].into());
        let (mut rounds, mut together) = (Vec::new(), Outcome::default());
        let (mut unloaded, mut waited) = (Reads::default(), Reads::default());
        for _ in 0..ROUNDS {
            unloaded.add(self.read_alone().await?);
            let reader = self.start_reader().await?;
            let count = self.scale.sign_ins / ROUNDS;
            let load =
                Load { is_undisturbed: true, ..Load::new(SIGN_INS, SIGN_IN_CLIENTS, count, sign_in.clone()) };
            let measured = self.measure(load).await;
            waited.add(reader.stop().await?);
            let (line, outcome) = measured?;
            rounds.push(line);
            together.add_round(outcome);
        }

        let mut sign_ins = Line::of_rounds(&rounds, &together);
        sign_ins.floor = Some(Ratio::new(sign_ins.p99_ms, at_once, "p99 of 20 bare checks at once"));
        sign_ins.add_note(format!(
            "a bare check takes {alone:.1} ms alone, and {at_once:.1} ms (p99) when 20 are asked for at once"
        ));
        let unloaded = read_line(&sign_ins, UNLOADED, &unloaded);
        let mut beside = read_line(&sign_ins, BESIDE_SIGN_INS, &waited);
        beside.floor = Some(Ratio::new(beside.p99_ms, unloaded.p99_ms, "p99 of the same alone"));
        Ok(vec![unloaded, sign_ins, beside])
    }

    /// A round of what is read while nothing else is done.
    async fn read_alone(&self) -> anyhow::Result<Reads> {
        let reader = self.start_reader().await?;
        tokio::time::sleep(READ_PERIOD * u32::try_from(2 * self.scale.list_reads / ROUNDS)?).await;
        reader.stop().await
    }

    async fn start_reader(&self) -> anyhow::Result<Reader> {
        Ok(Reader::start(self.setup.connect().await?, self.setup.requests.get("/auth/me")))
    }
}

/// What one client has read, as a line beside that of the sign-ins.
fn read_line(sign_ins: &Line, what: &str, reads: &Reads) -> Line {
    let milliseconds = |percent| percentile(&reads.waited, percent).as_secs_f64() * 1_000.0;
    Line {
        what: what.to_owned(),
        clients: 1,
        count: reads.waited.len(),
        rate: reads.waited.len() as f64 / reads.within.as_secs_f64(),
        p50_ms: milliseconds(50),
        p95_ms: milliseconds(95),
        p99_ms: milliseconds(99),
        floor: None,
        // They share their CPU time with the sign-ins.
        cpu_ms: std::collections::BTreeMap::new(),
        note: String::new(),
        ..sign_ins.clone()
    }
}

/// How long a password check takes alone (median), and how long at most but for one in a hundred when as many ask at
/// once as sign in, in milliseconds: argon2 on its bounded pool, without HTTP and PostgreSQL.
async fn bare_checks() -> anyhow::Result<(f64, f64)> {
    let password = SecretString::from("a password that is checked");
    let hash = passwords::hash(password.clone()).await?;
    let mut alone = check(&password, &hash, BARE_ROUNDS * 2).await?;
    alone.sort_unstable();
    let mut tasks = JoinSet::new();
    for _ in 0..SIGN_IN_CLIENTS {
        let (password, hash) = (password.clone(), hash.clone());
        tasks.spawn(async move { check(&password, &hash, BARE_ROUNDS).await });
    }
    let mut together = Vec::new();
    while let Some(took) = tasks.join_next().await {
        together.extend(took??);
    }
    together.sort_unstable();
    let milliseconds = |took: Duration| took.as_secs_f64() * 1_000.0;
    Ok((milliseconds(percentile(&alone, 50)), milliseconds(percentile(&together, 99))))
}

async fn check(password: &SecretString, hash: &str, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        ensure!(
            passwords::verify(password.clone(), Some(hash.to_owned())).await?,
            "the password does not fit"
        );
        took.push(began.elapsed());
    }
    Ok(took)
}

/// One client that reads now and then, for as long as it is let.
struct Reader {
    stopped: Arc<AtomicBool>,
    reading: tokio::task::JoinHandle<anyhow::Result<Reads>>,
}

#[derive(Default)]
struct Reads {
    /// How long each took, sorted.
    waited: Vec<Duration>,
    /// All of them together, with the pauses.
    within: Duration,
}

impl Reads {
    fn add(&mut self, other: Self) {
        self.waited.extend(other.waited);
        self.waited.sort_unstable();
        self.within += other.within;
    }
}

impl Reader {
    fn start(mut connection: Connection, request: Vec<u8>) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = stopped.clone();
        let reading = tokio::spawn(async move {
            let (mut waited, began) = (Vec::new(), Instant::now());
            let mut ticks = tokio::time::interval(READ_PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while !flag.load(Ordering::Relaxed) {
                ticks.tick().await;
                let asked = Instant::now();
                let status = connection.call(&request).await?.status;
                ensure!(status == 200, "status {status}");
                waited.push(asked.elapsed());
            }
            let within = began.elapsed();
            waited.sort_unstable();
            Ok(Reads { waited, within })
        });
        Self { stopped, reading }
    }

    async fn stop(self) -> anyhow::Result<Reads> {
        self.stopped.store(true, Ordering::Relaxed);
        self.reading.await?
    }
}
