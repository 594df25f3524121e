//! Changes of the workspace are in use without a restart, and a broken file breaks nothing else.

use std::path::Path;

use domain::executions::{Execution, Status};
use futures::FutureExt as _;
use rustix::process::{Pid, Signal, getpid, kill_process};
use serde_json::json;
use testkit::eventually;

use crate::support::{Engine, PATIENCE, result, write_file};

fn answering(text: &str) -> String {
    format!(
        "from bifrost import workflow\nimport helper_module\n\n@workflow()\ndef answer():\n    return {{'own': '{text}', 'helper': helper_module.TEXT}}\n"
    )
}

#[tokio::test]
async fn a_changed_file_is_used_by_the_next_run() {
    let engine =
        Engine::on_files(&[("answer.py", &answering("one")), ("helper_module.py", "TEXT = 'one'\n")]).await;
    let scope = Engine::admin();
    assert_eq!(
        result(&engine.run(&scope, "answer", json!({})).await),
        json!({ "own": "one", "helper": "one" })
    );

    write_file(&engine.workspace, "helper_module.py", "TEXT = 'two'\n");
    write_file(&engine.workspace, "answer.py", &answering("two"));
    let changed = async {
        while result(&engine.run(&scope, "answer", json!({})).await)
            != json!({ "own": "two", "helper": "two" })
        {}
    };
    tokio::time::timeout(PATIENCE, changed).await.expect("the change is used");
    engine.close().await;
}

/// The interpreter that the processes of this engine are forked from.
fn template_of(engine: &Engine) -> Pid {
    let folder = engine.platform.settings.temp_path.display().to_string();
    let parent = format!("PPid:\t{}\n", getpid().as_raw_nonzero());
    let is_it = |process: &Path| {
        let read = |file: &str| std::fs::read_to_string(process.join(file)).unwrap_or_default();
        let command = read("cmdline");
        command.contains("bifrost._host.template")
            && command.contains(&folder)
            && read("status").contains(&parent)
    };
    let mut processes = std::fs::read_dir("/proc").expect("reads /proc").flatten().map(|entry| entry.path());
    let template = processes.find(|process| is_it(process)).expect("it runs");
    let number = template.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a number");
    Pid::from_raw(number).expect("not 0")
}

/// An engine whose template is ready.
async fn engine_of_quick_runs() -> Engine {
    let source = "from bifrost import workflow\n\n@workflow()\ndef quick():\n    return 1\n";
    let engine = Engine::on_files(&[("quick.py", source)]).await;
    assert_eq!(engine.run(&Engine::admin(), "quick", json!({})).await.status, Status::Success);
    engine
}

/// More runs than there are processes that stand ready.
async fn run_many(engine: &Engine) -> Vec<Execution> {
    let scope = Engine::admin();
    let runs = (0..8).map(|_| engine.run(&scope, "quick", json!({})).boxed());
    let runs = futures::future::join_all(runs).await;
    let failed: Vec<_> = runs.iter().filter(|run| run.status != Status::Success).collect();
    println!("runs whose template is gone: failed {} of {}", failed.len(), runs.len());
    assert!(failed.is_empty(), "{failed:?}");
    runs
}

/// Goes on when this is dropped, and so ends when nobody needs it.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_hangs_is_replaced_and_fails_no_run() {
    let engine = engine_of_quick_runs().await;

    let template = Stopped(template_of(&engine));
    kill_process(template.0, Signal::STOP).expect("is there");
    let runs = run_many(&engine).await;

    assert!(runs.iter().any(|run| run.attempt > 1), "some wait for a process, and are given back");
    let counted = "SELECT count(*) FROM executions WHERE attempt - given_back <> 1";
    let mut conn = engine.test.db.connect().await;
    let counted: i64 = sqlx::query_scalar(counted).fetch_one(&mut conn).await.expect("counts");
    assert_eq!(counted, 0, "which does not count");
    drop(template);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_template_is_replaced_and_fails_no_run() {
    let engine = engine_of_quick_runs().await;

    let template = template_of(&engine);
    kill_process(template, Signal::KILL).expect("is there");
    let process = format!("/proc/{}", template.as_raw_nonzero());
    eventually("its end to be heard of", || async { (!Path::new(&process).exists()).then_some(()) }).await;

    run_many(&engine).await;

    assert_ne!(template_of(&engine), template);
    engine.close().await;
}

/// Which reading of the workspace the rows are equal to.
async fn reading(engine: &Engine) -> i64 {
    let mut conn = engine.test.db.connect().await;
    sqlx::query_scalar("SELECT reading FROM workspace_index").fetch_one(&mut conn).await.expect("reads")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_saved_and_indexed_meanwhile_is_not_deactivated_by_an_older_reading() {
    let declaring =
        |name: &str| format!("from bifrost import workflow\n\n@workflow()\ndef {name}():\n    return 1\n");
    let (kept, saved) = (declaring("kept"), declaring("saved"));
    let engine = Engine::on_files(&[("kept.py", &kept), ("saved.py", &saved)]).await;
    // The first is that of the engine, the second that of its indexer.
    eventually("the indexer", || async { (reading(&engine).await >= 2).then_some(()) }).await;
    let mut conn = engine.test.db.connect().await;
    let row = "SELECT xmin::text || is_active FROM workflows WHERE path = 'saved.py'";
    let before: String = sqlx::query_scalar(row).fetch_one(&mut conn).await.expect("is there");

    // The indexer reads the workspace without the file, and comes to the rows after somebody who read it with the file.
    let mut editor = engine.test.db.connect().await;
    sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock(hashtext('bifrost.workspace'))")
        .execute(&mut editor)
        .await
        .expect("locks");
    std::fs::remove_file(engine.workspace.join("saved.py")).expect("removes");
    engine.test.db.lock_is_awaited_by("bifrost.workspace").await;
    write_file(&engine.workspace, "saved.py", &saved);
    let later: i64 = sqlx::query_scalar(
        "UPDATE workspace_index SET reading = nextval('workspace_readings') RETURNING reading",
    )
    .fetch_one(&mut editor)
    .await
    .expect("applies");
    sqlx::raw_sql("COMMIT").execute(&mut editor).await.expect("unlocks");

    eventually("the next reading", || async { (reading(&engine).await > later).then_some(()) }).await;
    let after: String = sqlx::query_scalar(row).fetch_one(&mut conn).await.expect("is there");
    assert_eq!(after, before, "nobody has touched it");
    engine.close().await;
}

#[tokio::test]
async fn a_syntax_error_is_reported_with_its_line_and_hides_no_other_file() {
    let broken = "from bifrost import workflow\n\n@workflow()\ndef broken(:\n    return 1\n";
    let fine = "from bifrost import workflow\n\n@workflow()\ndef fine():\n    return 'fine'\n";
    let engine = Engine::on_files(&[("a_broken.py", broken), ("fine.py", fine)]).await;

    assert_eq!(result(&engine.run(&Engine::admin(), "fine", json!({})).await), json!("fine"));
    let problems = domain::workflows::list_problems(&engine.platform.db, 100).await.expect("lists");
    let problem = &problems[0];
    assert_eq!((problem.path.as_str(), problem.line, problem.severity.as_str()), ("a_broken.py", 4, "error"));
    engine.close().await;
}

#[tokio::test]
async fn a_file_that_fails_to_load_is_a_failure_of_its_run() {
    let source = "from bifrost import workflow\nimport no_such_module_anywhere\n\n@workflow()\ndef needs_it():\n    return 1\n";
    let engine = Engine::on_files(&[("needs.py", source)]).await;
    let run = engine.run(&Engine::admin(), "needs_it", json!({})).await;
    assert_eq!((run.status, run.error_type.as_deref()), (Status::Failed, Some("WorkflowLoadError")));
    assert!(run.error_message.expect("says why").contains("no_such_module_anywhere"));
    engine.close().await;
}

#[tokio::test]
async fn inline_code_runs() {
    let engine = Engine::on_files(&[(
        "any.py",
        "from bifrost import workflow\n\n@workflow()\ndef any_flow():\n    return 1\n",
    )])
    .await;
    let id = engine
        .submit_code(
            &Engine::admin(),
            "import logging\nlogging.getLogger(__name__).info('inline')\nx = 40 + 2\n",
        )
        .await;
    let run = engine.ended(id).await;
    assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
    assert!(engine.lines(id).await.iter().any(|line| line.message == "inline"));
    assert!(run.variables.expect("are captured").get().contains("42"));
    engine.close().await;
}
