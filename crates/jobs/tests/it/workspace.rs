//! Changes of the workspace are in use without a restart, and a broken file breaks nothing else.

use domain::executions::Status;
use serde_json::json;

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
