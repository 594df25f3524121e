//! Cancel, timeout and shutdown end the whole process tree, within seconds.

use std::time::{Duration, Instant};

use domain::executions::{Status, cancel};
use domain::id::ExecutionId;
use domain::wakeup::Wakeup;
use domain::{OrgScope, Platform};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::Connection;
use testkit::eventually;
use tokio_util::sync::CancellationToken;

use crate::support::{Engine, Installation, PATIENCE};

/// Shapes of process trees that are hard to kill. Each writes the pids of what must be gone, as the host sees them.
const TREES: &str = r#"
import os, signal, subprocess, sys, time, logging
import asyncio
from bifrost import config, workflow

log = logging.getLogger(__name__)
MARK = "bifrost-survivor"

def linger():
    while True:
        time.sleep(60)

def sleeper(mark, *options):
    return subprocess.Popen(["sh", "-c", f"exec -a {mark} sleep 600"], executable="/bin/bash", **dict(options))

@workflow(timeout_seconds=2)
def plain(mark: str):
    sleeper(mark)
    log.info("ready")
    linger()

@workflow(timeout_seconds=2)
def new_session(mark: str):
    sleeper(mark, ("start_new_session", True))
    log.info("ready")
    linger()

@workflow(timeout_seconds=2)
def double_fork(mark: str):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv("/bin/bash", ["bash", "-c", f"exec -a {mark} sleep 600"])
        os._exit(0)
    os.wait()
    log.info("ready")
    linger()

@workflow(timeout_seconds=2)
def ignores_sigterm(mark: str):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["/bin/bash", "-c", f"trap '' TERM; exec -a {mark} sleep 600"])
    log.info("ready")
    linger()

@workflow(timeout_seconds=2)
def many_children(mark: str):
    for _ in range(200):
        sleeper(mark)
    log.info("ready")
    linger()

@workflow(timeout_seconds=2)
def daemon(mark: str):
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            os.chdir("/")
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.closerange(3, 1 << 16)
            os.execv("/bin/bash", ["bash", "-c", f"exec -a {mark} sleep 600"])
        os._exit(0)
    os.close(write)
    os.wait()
    os.read(read, 1)  # the daemon has closed everything
    log.info("ready")
    linger()

@workflow(timeout_seconds=2)
def busy(mark: str):
    sleeper(mark)
    log.info("ready")
    while True:
        pass

@workflow(isolation="pooled")
async def serves_on(mark: str = "", text: str = ""):
    if mark:
        shows_its_parent = sleeper(mark)
        log.info("ready")
        while not await config.get("go"):
            await asyncio.sleep(0.02)
        shows_its_parent.kill()
        shows_its_parent.wait()
    return len(text)

@workflow()
async def says_go():
    await config.set("go", True)
"#;
/// The switch to an environment of packages that no machine can make.
const UNMAKEABLE: &str = "
    WITH environment AS (
        INSERT INTO package_environments (id, lock, packages) VALUES (repeat('0', 32), 'no such lock', '[]') RETURNING id
    )
    INSERT INTO package_switches (environment_id, requirements, file_is_due, job_id, switched_by)
    SELECT id, '', FALSE, gen_random_uuid(), 'ada@acme.example' FROM environment";
const SHAPES: [&str; 6] =
    ["new_session", "double_fork", "daemon", "ignores_sigterm", "many_children", "busy"];

/// Processes whose command line bears the mark.
fn survivors(mark: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("reads /proc").flatten();
    processes
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
        })
        .count()
}

/// The parent of the process that bears the mark.
fn parent_of(mark: &str) -> Pid {
    let processes = std::fs::read_dir("/proc").expect("reads /proc").flatten();
    let status = processes
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).starts_with(mark))
        })
        .find_map(|entry| std::fs::read_to_string(entry.path().join("status")).ok())
        .expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("it has a parent");
    Pid::from_raw(parent.trim().parse().expect("a number")).expect("not 0")
}

async fn until_gone(mark: &str) -> Duration {
    let began = Instant::now();
    while survivors(mark) > 0 {
        assert!(began.elapsed() < PATIENCE, "processes with the mark {mark} survive");
        tokio::task::yield_now().await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_kills_the_whole_tree() {
    let engine = Engine::on_files(&[("trees.py", TREES)]).await;
    let scope = Engine::admin();
    let runs = SHAPES.map(|shape| {
        let (engine, scope) = (&engine, &scope);
        async move {
            let mark = format!("survivor-{shape}-{}", uuid::Uuid::now_v7().simple());
            let run = engine.run(scope, shape, json!({ "mark": mark })).await;
            assert_eq!(
                (run.status, run.error_type.as_deref()),
                (Status::Timeout, Some("TimeoutError")),
                "{shape}"
            );
            (shape, mark)
        }
    });
    let mut worst = Duration::ZERO;
    for (shape, mark) in futures::future::join_all(runs).await {
        let took = until_gone(&mark).await;
        worst = worst.max(took);
        println!("timeout, {shape}: survivors 0 after {took:?}");
    }
    println!("timeout: {} shapes, survivors 0 after at most {worst:?}", SHAPES.len());
    assert!(worst < Duration::from_secs(5), "{worst:?}");
    engine.close().await;
}

async fn cancel_running(engine: &Engine, scope: &OrgScope, id: ExecutionId) {
    let mut tx = engine.platform.db.begin(scope).await.expect("begins");
    let cancelled = cancel::cancel(&mut tx, id).await.expect("cancels");
    tx.commit().await.expect("commits");
    assert_eq!(cancelled.status, Status::Cancelling);
    let event = domain::events::Event::Cancel { execution_id: id, attempt: cancelled.attempt };
    engine.platform.events.publish(event);
}

/// Stops the warm process, and submits a run that it would have to take.
async fn submit_to_a_stopped_process(engine: &Engine, scope: &OrgScope) -> ExecutionId {
    let mark = format!("child-{}", uuid::Uuid::now_v7().simple());
    let first = engine.submit(scope, "serves_on", json!({ "mark": mark })).await;
    engine.logged(first, "ready").await;
    let process = parent_of(&mark);
    engine.run(scope, "says_go", json!({})).await;
    assert_eq!(engine.ended(first).await.status, Status::Success);
    kill_process(process, Signal::STOP).expect("stops");

    // More than the connection holds.
    let stuck = engine.submit(scope, "serves_on", json!({ "text": "x".repeat(1 << 20) })).await;
    eventually("the run to be claimed", || async {
        (engine.get(stuck).await.status == Status::Running).then_some(())
    })
    .await;
    stuck
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_process_does_not_take_its_start_gets_another() {
    let engine = Engine::on_files(&[("trees.py", TREES)]).await;

    let stuck = submit_to_a_stopped_process(&engine, &Engine::admin()).await;

    assert_eq!(engine.ended(stuck).await.status, Status::Success);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_process_does_not_take_its_start_can_be_cancelled() {
    let engine = Engine::on_files(&[("trees.py", TREES)]).await;
    let scope = Engine::admin();
    let stuck = submit_to_a_stopped_process(&engine, &scope).await;

    cancel_running(&engine, &scope, stuck).await;

    assert_eq!(engine.ended(stuck).await.status, Status::Cancelled);
    assert_eq!(engine.run(&scope, "serves_on", json!({})).await.status, Status::Success);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_a_running_process_and_kills_its_tree() {
    let trees = TREES.replace("timeout_seconds=2", "timeout_seconds=600");
    let engine = Engine::on_files(&[("trees.py", &trees)]).await;
    let scope = Engine::admin();
    let mut worst = Duration::ZERO;
    for shape in SHAPES {
        let mark = format!("survivor-{shape}-{}", uuid::Uuid::now_v7().simple());
        let id = engine.submit(&scope, shape, json!({ "mark": mark })).await;
        engine.logged(id, "ready").await;
        let asked = Instant::now();
        cancel_running(&engine, &scope, id).await;

        let run = engine.ended(id).await;
        assert_eq!(run.status, Status::Cancelled);
        let took = until_gone(&mark).await;
        worst = worst.max(took);
        println!(
            "cancel, {shape}: ended {:?} after it was asked, survivors 0 after {took:?}",
            asked.elapsed()
        );
        assert!(asked.elapsed() < Duration::from_secs(8));
    }
    println!("cancel: {} shapes, survivors 0 after at most {worst:?}", SHAPES.len());
    assert!(worst < Duration::from_secs(5), "{worst:?}");
    engine.close().await;
}

#[tokio::test]
async fn a_cancel_that_nobody_told_is_found_by_the_heartbeat() {
    let trees = TREES.replace("timeout_seconds=2", "timeout_seconds=600");
    let engine = Engine::on_files(&[("trees.py", &trees)]).await;
    let scope = Engine::admin();
    let id = engine.submit(&scope, "plain", json!({ "mark": "unheard" })).await;
    engine.logged(id, "ready").await;
    let mut tx = engine.platform.db.begin(&scope).await.expect("begins");
    cancel::cancel(&mut tx, id).await.expect("cancels");
    tx.commit().await.expect("commits");

    assert_eq!(engine.ended(id).await.status, Status::Cancelled);
    engine.close().await;
}

#[tokio::test]
async fn finally_blocks_run_when_a_run_is_stopped() {
    let source = "import time, logging\nfrom bifrost import workflow\n\n@workflow(timeout_seconds=1)\ndef careful():\n    log = logging.getLogger(__name__)\n    try:\n        time.sleep(60)\n    finally:\n        log.info('cleaned up')\n";
    let engine = Engine::on_files(&[("careful.py", source)]).await;
    let run = engine.run(&Engine::admin(), "careful", json!({})).await;
    assert_eq!(run.status, Status::Timeout);
    assert!(engine.lines(run.id).await.iter().any(|line| line.message == "cleaned up"));
    engine.close().await;
}

#[tokio::test]
async fn a_stopping_worker_ends_and_records_what_outlives_its_grace() {
    let trees = TREES.replace("timeout_seconds=2", "timeout_seconds=600");
    let engine = Engine::on_files(&[("trees.py", &trees)]).await;
    let mark = format!("survivor-shutdown-{}", uuid::Uuid::now_v7().simple());
    let id = engine.submit(&Engine::admin(), "double_fork", json!({ "mark": mark })).await;
    engine.logged(id, "ready").await;

    engine.begin_stop();
    let run = engine.ended(id).await;

    assert_eq!((run.status, run.error_type.as_deref()), (Status::Failed, Some("WorkerLost")));
    until_gone(&mark).await;
    engine.close().await;
}

#[tokio::test]
async fn a_run_that_has_not_begun_when_its_worker_stops_is_given_back() {
    let engine = Engine::on_files(&[("trees.py", TREES)]).await;
    // From then on the worker takes runs, whatever packages they need.
    assert_eq!(engine.run(&Engine::admin(), "says_go", json!({})).await.status, Status::Success);
    let mut conn = engine.test.db.connect().await;
    sqlx::raw_sql(UNMAKEABLE).execute(&mut conn).await.expect("inserts");
    let id = engine.submit(&Engine::admin(), "says_go", json!({})).await;
    eventually("the run to wait for its packages", || async {
        (engine.get(id).await.status == Status::Running).then_some(())
    })
    .await;

    engine.begin_stop();
    let run = eventually("what becomes of it", || async {
        Some(engine.get(id).await).filter(|run| run.status != Status::Running)
    })
    .await;

    assert_eq!((run.status, run.error_type.as_deref()), (Status::Pending, None));
    let given_back = "SELECT given_back FROM executions WHERE status = 'Pending'";
    let given_back: i32 = sqlx::query_scalar(given_back).fetch_one(&mut conn).await.expect("is there");
    assert_eq!((run.attempt, given_back), (1, 1), "the attempt does not count");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_ends_when_its_worker_begins_the_next_one() {
    let trees = TREES.replace("timeout_seconds=2", "timeout_seconds=600");
    let engine = Engine::on_files(&[("trees.py", &trees)]).await;
    let scope = Engine::admin();
    let mark = format!("survivor-earlier-{}", uuid::Uuid::now_v7().simple());
    let id = engine.submit(&scope, "plain", json!({ "mark": mark })).await;
    engine.logged(id, "ready").await;
    assert_eq!(survivors(&mark), 1);

    // As the reaper does when the worker was not heard of for long; it goes on, and is the one that takes it again.
    let lost = "UPDATE executions SET status = 'Pending', max_attempts = 2, lease_owner = NULL, lease_expires_at = NULL,
                    due_at = now(), queue_rank = now() - interval '5 minutes'";
    let mut conn = engine.test.db.connect().await;
    sqlx::query(lost).execute(&mut conn).await.expect("updates");
    engine.platform.wakeups.publish(vec![Wakeup::new(id, None, 5, None)]);
    eventually("the second attempt", || async {
        let lines = engine.lines(id).await;
        lines.iter().any(|line| line.attempt == 2 && line.message == "ready").then_some(())
    })
    .await;

    eventually("the end of the first", || async { (survivors(&mark) == 1).then_some(()) }).await;
    let run = engine.get(id).await;
    assert_eq!((run.status, run.attempt), (Status::Running, 2));
    cancel_running(&engine, &scope, id).await;
    assert_eq!(engine.ended(id).await.status, Status::Cancelled);
    engine.close().await;
}

#[tokio::test]
async fn a_flood_of_lines_is_bounded_and_does_not_stop_others() {
    let source = "import logging\nfrom bifrost import workflow\n\n@workflow()\ndef flood():\n    log = logging.getLogger(__name__)\n    for n in range(30000):\n        log.info('line %d', n)\n    return 'done'\n\n@workflow()\ndef quick():\n    return 1\n";
    let engine = Engine::on_files(&[("flood.py", source)]).await;
    let scope = Engine::admin();
    let flood = engine.submit(&scope, "flood", Value::Object(serde_json::Map::new())).await;

    let quick = engine.run(&scope, "quick", json!({})).await;
    assert_eq!(quick.status, Status::Success);
    assert_eq!(engine.ended(flood).await.status, Status::Success);
    let lines = engine.lines(flood).await;
    assert_eq!(lines.len(), 20_001, "and the one that says so");
    assert_eq!(lines[19_999].message, "line 19999");
    assert!(lines.last().expect("there are").message.contains("log limit reached"));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_claimed_while_a_worker_stops_is_run_to_its_end() {
    let site =
        Installation::with_file("from bifrost import workflow\n\n@workflow()\ndef quick():\n    return 1\n")
            .await;
    let id = site.submit(&Engine::admin(), "quick", json!({})).await;
    let mut conn = site.test.db.connect().await;
    let mut lock = conn.begin().await.expect("begins");
    sqlx::query("LOCK TABLE executions IN SHARE MODE").execute(&mut *lock).await.expect("locks");

    let stop = CancellationToken::new();
    let platform = Platform::open(site.settings.clone()).expect("opens");
    let worker = tokio::spawn(jobs::run(platform, stop.clone()));
    site.test.db.lock_is_awaited_by("pending_lanes").await;
    stop.cancel();
    lock.commit().await.expect("unlocks");
    worker.await.expect("does not panic").expect("stops cleanly");

    let run = site.get(id).await;
    assert_eq!((run.status, run.attempt), (Status::Success, 1));
    site.close().await;
}
