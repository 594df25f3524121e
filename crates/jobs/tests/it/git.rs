//! Runs go on while the tree under them is exchanged, each in one tree from its first file to its last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::background_jobs::{self, Kind, NewJob, Status as JobStatus};
use domain::events::{Event, News};
use domain::executions::Status;
use domain::git::connect::{self, Wanted};
use domain::git::merge;
use domain::notifications;
use domain::workspace_trees;
use serde_json::{Value, json};
use testkit::{Origin, eventually};

use crate::support::{Engine, result};

const READER: &str = "import os\nimport time\nfrom bifrost import files, workflow\nimport helper\n\n\n@workflow()\ndef reader():\n    \
    first = files.read('one.txt')\n    time.sleep(0.1)\n    second = files.read('deep/two.txt')\n    \
    with open(os.path.join(os.path.dirname(__file__), 'three.txt')) as file:\n        third = file.read()\n    \
    import late\n\n    return {'numbers': [first, second, third], 'helper': helper.HALF, 'late': late.HALF}\n";
const PULLS: u32 = 20;

const WRITER: &str = r#"
import asyncio
import logging
from bifrost import config, files, workflow

@workflow()
async def writes_over_an_exchange():
    logging.getLogger(__name__).info("began")
    while not await config.get("exchanged"):
        await asyncio.sleep(0.01)
    before = files.read("one.txt")
    files.write("one.txt", "mine")
    files.write("new/note.txt", "mine")
    files.delete("two.txt")
    root = list(files.list())
    return {"before": before, "changed": [files.read("one.txt"), files.read("new/note.txt")], "other": files.read("three.txt"),
            "listed": list(files.list("new")), "root": [name in root for name in ("new/", "one.txt", "two.txt")],
            "there": [bool(files.exists(path)) for path in ("new", "new/note.txt", "new/none.txt", "two.txt")]}

@workflow()
async def tells():
    await config.set("exchanged", True)
"#;

fn wanted(origin: &Origin) -> Wanted {
    Wanted { repo_url: origin.address(), branch: "main".into() }
}

/// Every other commit changes data alone, which no Python file tells of.
fn write(origin: &Origin, n: u32) {
    let (number, half) = (n.to_string(), format!("HALF = {}\n", n / 2));
    origin.write(&[
        ("one.txt", &number),
        ("deep/two.txt", &number),
        ("three.txt", &number),
        ("helper.py", &half),
        ("late.py", &half),
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_run_sees_the_files_of_one_commit_while_they_are_pulled() {
    let origin = Origin::empty();
    origin.write(&[("reader.py", READER)]);
    write(&origin, 0);
    origin.commit("0");
    let half = "HALF = 0\n";
    let files = [
        ("reader.py", READER),
        ("one.txt", "0"),
        ("deep/two.txt", "0"),
        ("three.txt", "0"),
        ("helper.py", half),
        ("late.py", half),
    ];
    let engine = Engine::with_settings(&files, |settings| settings.git_local_remotes = true).await;
    let scope = Engine::admin();
    let stop = Arc::new(AtomicBool::new(false));
    let running = async {
        let (mut runs, mut mixed, mut seen) = (0, 0, std::collections::BTreeSet::new());
        while !stop.load(Ordering::Relaxed) {
            let round = (0..3).map(|_| engine.run(&scope, "reader", json!({})));
            for run in futures::future::join_all(round).await {
                assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
                let found = result(&run);
                let number: u32 = found["numbers"][0].as_str().expect("text").parse().expect("a number");
                let expected = json!({
                    "numbers": vec![number.to_string(); 3], "helper": number / 2, "late": number / 2,
                });
                runs += 1;
                mixed += i32::from(found != expected);
                seen.insert(number);
            }
        }
        (runs, mixed, seen)
    };
    let pulling = async {
        connect::connect(&engine.platform, &scope, &wanted(&origin), None, |_| {}).await.expect("connects");
        for n in 1..=PULLS {
            write(&origin, n);
            origin.commit(&n.to_string());
            let pulled = merge::pull(&engine.platform, &scope).await.expect("pulls");
            assert!(pulled.conflicts.is_empty() && pulled.updated.len() >= 3);
        }
        let is_new = || async {
            let run = engine.run(&scope, "reader", json!({})).await;
            (result(&run)["numbers"][0] == json!(PULLS.to_string())).then_some(())
        };
        eventually("a run of the last commit", is_new).await;
        stop.store(true, Ordering::Relaxed);
    };
    let ((runs, mixed, seen), ()) = tokio::join!(running, pulling);
    println!("git: {PULLS} pulls under {runs} runs, of {} commits, mixed {mixed}", seen.len());
    assert_eq!(mixed, 0);
    assert!(seen.len() > 3, "runs went on meanwhile: {seen:?}");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_connects_the_workspace_and_tells_who_asked() {
    let origin = Origin::with(&[(
        "answer.py",
        "from bifrost import workflow\n\n\n@workflow()\ndef answer():\n    return 42\n",
    )]);
    let before = [("old.py", "from bifrost import workflow\n\n\n@workflow()\ndef old():\n    return 1\n")];
    let engine = Engine::with_settings(&before, |settings| settings.git_local_remotes = true).await;
    let scope = Engine::admin();
    for (address, status, words) in [
        (origin.bare().join("nothing").display().to_string(), JobStatus::Failed, "no such repository"),
        (origin.address(), JobStatus::Success, "is connected"),
    ] {
        let mut events = engine.platform.events.everything();
        let mut tx = engine.platform.db.begin(&scope).await.expect("begins");
        let new = NewJob {
            kind: Kind::GitSync,
            payload: json!(Wanted { repo_url: address, branch: "main".into() }),
            title: "Connecting".into(),
            timeout: std::time::Duration::from_secs(60),
            traceparent: None,
        };
        let job = background_jobs::submit(&mut tx, new).await.expect("submits");
        tx.commit().await.expect("commits");
        let (job_id, notification_id) = (job.id, job.notification.id);
        job.announce(&engine.platform);
        let mut logs = 0;
        let end = loop {
            let event = events.recv().await.expect("is told");
            let Event::Progress(progress) = &*event else { continue };
            if progress.job_id != job_id {
                continue;
            }
            assert_eq!(progress.user_id, scope.actor().id);
            match &progress.news {
                News::Log { .. } => logs += 1,
                News::Complete { message, .. } => break message.clone(),
            }
        };
        assert!(end.contains(words) && logs >= 2, "{end}");
        let mut tx = engine.platform.db.begin(&scope).await.expect("begins");
        assert_eq!(background_jobs::get(&mut tx, job_id).await.expect("is there").status, status);
        let shown = notifications::get(&mut tx, notification_id).await.expect("is there");
        assert_eq!(shown.status == notifications::Status::Completed, status == JobStatus::Success);
        let words_shown = shown.error.or(shown.description).unwrap_or_default();
        assert!(words_shown.contains(words), "{words_shown}");
    }
    let ask = || async {
        let workflow = engine.platform.catalog.get(&engine.platform.db, &scope, "answer").await;
        workflow.is_ok().then_some(())
    };
    eventually("the index of the new files", ask).await;
    assert_eq!(result(&engine.run(&scope, "answer", json!({})).await), Value::from(42));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reads_what_it_has_written_since_its_tree_was_exchanged_and_all_else_as_it_was() {
    let first = [("writer.py", WRITER), ("one.txt", "0"), ("two.txt", "0"), ("three.txt", "0")];
    let origin = Origin::with(&first);
    let engine = Engine::with_settings(&first, |settings| settings.git_local_remotes = true).await;
    let scope = Engine::admin();
    connect::connect(&engine.platform, &scope, &wanted(&origin), None, |_| {}).await.expect("connects");
    let run = engine.submit(&scope, "writes_over_an_exchange", json!({})).await;
    engine.logged(run, "began").await;
    origin.write(&[("one.txt", "1"), ("three.txt", "1")]);
    origin.commit("second");
    merge::pull(&engine.platform, &scope).await.expect("pulls");

    engine.run(&scope, "tells", json!({})).await;
    let run = engine.ended(run).await;

    assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
    let expected = json!({
        "before": "0", "changed": ["mine", "mine"], "other": "0", "listed": ["note.txt"], "root": [true, true, false],
        "there": [true, true, false, false],
    });
    assert_eq!(result(&run), expected);
    let now = workspace_trees::current(&engine.workspace);
    let read = |path: &str| std::fs::read_to_string(now.join(path)).ok();
    assert_eq!((read("one.txt").as_deref(), read("three.txt").as_deref()), (Some("mine"), Some("1")));
    assert_eq!((read("new/note.txt").as_deref(), read("two.txt")), (Some("mine"), None));
    engine.close().await;
}
