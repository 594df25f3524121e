//! Control groups: what a run and all it has started may have together, and what is left of them afterwards.
//!
//! They need root and version 2 with the memory controller. Where there is none, the same runs show what is promised then:
//! the worker says what is missing, and goes on with a limit for each process.

use std::path::{Path, PathBuf};

use domain::Platform;
use domain::executions::Status;
use runner::cgroups::{self, Cgroups};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{Engine, result, user_of};

const MIB: i64 = 1024 * 1024;
const MEMORY_MB: u64 = 192;
const CHILDREN: i64 = 3;

const FLOWS: &str = r#"
import logging, os, time
from bifrost import workflow

log = logging.getLogger(__name__)

@workflow()
def feeds(children: int, mib: int):
    told, done = os.pipe()
    wait, end = os.pipe()
    for _ in range(children):
        if os.fork() == 0:
            os.close(end)
            held = bytearray(mib << 20)
            for at in range(0, len(held), 4096):
                held[at] = 1
            os.write(done, b"x")
            os.read(wait, 1)
            os._exit(0)
    for _ in range(children):
        os.read(told, 1)
    os.close(end)
    return "all have eaten"

@workflow(timeout_seconds=600)
def sleeps():
    if os.fork() == 0:
        time.sleep(600)
    log.info("folder %s", os.environ["HOME"])
    time.sleep(600)
"#;

async fn engine() -> Engine {
    Engine::with_settings(&[("flows.py", FLOWS)], |settings| settings.run_memory_mb = MEMORY_MB).await
}

/// The groups of processes below those of the workers of this test's process.
fn groups(place: &Path) -> Vec<PathBuf> {
    let prefix = format!("bifrost.runs.{}.", std::process::id());
    let below = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    below(place)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect()
}

#[tokio::test]
async fn children_that_are_each_below_the_limit_are_ended_together() {
    let found = cgroups::find();
    let engine = engine().await;
    let (greedy, other) = (user_of(engine.org("acme").await), user_of(engine.org("rival").await));
    let neighbour = engine.submit(&other, "sleeps", json!({})).await;
    engine.logged(neighbour, "folder ").await;

    let run = engine.run(&greedy, "feeds", json!({ "children": CHILDREN, "mib": 100 })).await;

    match &found {
        Ok(place) => {
            let said = run.error_message.as_deref().unwrap_or_default();
            println!("below {}: {said}; peak {:?}", place.path().display(), run.peak_memory_bytes);
            assert_eq!(
                (run.status, run.error_type.as_deref()),
                (Status::Failed, Some("ResourceLimit")),
                "{said}"
            );
            assert!(said.contains(&format!("{MEMORY_MB} MiB (RUN_MEMORY_MB)")), "{said}");
        }
        Err(missing) => {
            println!("each process is limited, not all together: {missing}");
            assert_eq!((run.status, result(&run)), (Status::Success, json!("all have eaten")));
        }
    }
    assert_eq!(engine.get(neighbour).await.status, Status::Running);
    engine.close().await;
    if let Ok(place) = found {
        assert_eq!(groups(place.path()), Vec::<PathBuf>::new(), "groups are left");
    }
}

#[tokio::test]
async fn the_peak_of_the_whole_tree_is_stored() {
    let engine = engine().await;

    let run = engine.run(&Engine::admin(), "feeds", json!({ "children": CHILDREN, "mib": 40 })).await;

    assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
    let peak = run.peak_memory_bytes.expect("is stored");
    println!("three children of 40 MiB: {} MiB stored", peak / MIB);
    match cgroups::find() {
        Ok(_) => assert!(peak > CHILDREN * 40 * MIB, "{peak}"),
        Err(_) => assert!(peak < CHILDREN * 40 * MIB, "one process alone is measured: {peak}"),
    }
    engine.close().await;
}

#[tokio::test]
async fn the_group_of_a_run_that_takes_long_stands_back() {
    let engine = engine().await;
    let run = engine.submit(&Engine::admin(), "sleeps", json!({})).await;
    engine.logged(run, "folder ").await;
    match cgroups::find() {
        Ok(place) => {
            let ranks = || async {
                let of_processes = groups(place.path()).into_iter().flat_map(|worker| {
                    let below = std::fs::read_dir(worker).into_iter().flatten().flatten();
                    below.map(|group| group.path().join("cpu.weight.nice"))
                });
                let ranks = of_processes.filter_map(|file| std::fs::read_to_string(file).ok());
                let ranks: Vec<String> = ranks.map(|rank| rank.trim().to_owned()).collect();
                ranks.contains(&"10".to_owned()).then_some(ranks)
            };
            let ranks = testkit::eventually("a group of rank 10", ranks).await;
            println!("ranks of the groups of processes: {ranks:?}");
            assert_eq!(ranks.iter().filter(|rank| *rank != "0").count(), 1, "the run's alone: {ranks:?}");
        }
        Err(missing) => println!("the rank of a process group alone: {missing}"),
    }
    engine.close().await;
}

#[tokio::test]
async fn control_groups_that_are_required_and_cannot_be_had_stop_the_start() {
    let engine = engine().await;
    let mut settings = domain::settings::Settings::clone(&engine.platform.settings);
    settings.run_cgroups = "required".into();
    let piece = jobs::isolation(&settings).await.expect("says").pop().expect("is there");
    assert_eq!((&*piece.name, piece.needed), ("control group", true));
    println!("{}", piece.detail);
    let platform = Platform::open(settings).expect("opens");
    let stop = CancellationToken::new();
    match cgroups::find() {
        Ok(place) => {
            assert!(piece.available && piece.used);
            stop.cancel();
            jobs::run(platform.clone(), stop).await.expect("starts, and stops at once");
            assert!(place.path().exists());
        }
        Err(missing) => {
            let refused = jobs::run(platform.clone(), stop).await.expect_err("refuses").to_string();
            assert!(
                refused.contains("RUN_CGROUPS is required") && refused.contains(&missing.to_string()),
                "{refused}"
            );
        }
    }
    platform.db.close().await;
    engine.close().await;
}

#[tokio::test]
async fn what_a_killed_worker_left_is_removed_by_the_next_start_and_nothing_else() {
    let Ok(place) = cgroups::find() else {
        let refused = Cgroups::create().expect_err("there is nothing to make groups in");
        println!("no control groups here: {refused}");
        return;
    };
    let living = Cgroups::create().expect("makes its place");
    let inner = living.path().join("1");
    std::fs::create_dir(&inner).expect("makes a group");
    // As of a worker that is gone: nobody holds the lock, and a process is still in it.
    let left = place.path().join("bifrost.runs.0.1");
    std::fs::create_dir_all(left.join("7")).expect("makes groups");
    let mut process = std::process::Command::new("sleep").arg("600").spawn().expect("starts");
    std::fs::write(left.join("7/cgroup.procs"), process.id().to_string()).expect("moves it");

    let next = Cgroups::create().expect("makes its place");

    assert!(!left.exists());
    assert!(process.wait().expect("ends").code().is_none(), "it was killed");
    assert!(inner.exists() && next.path().exists());
    living.remove().expect("removes it");
    next.remove().expect("removes it");
    assert!(!living.path().exists() && !next.path().exists());
}
