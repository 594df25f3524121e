//! Every call of a run is answered: what cannot be sent or read is refused, in words, and the run goes on.

use domain::executions::Status;
use serde_json::json;

use crate::support::{Engine, result};

const FLOWS: &str = r#"
from bifrost import executions, workflow, workflows

def nested(levels):
    value = 10 ** 400
    for _ in range(levels):
        value = [value]
    return value

def innermost(value):
    while isinstance(value, list):
        value = value[0]
    return value

async def said(call):
    try:
        await call
        return "answered"
    except RuntimeError as error:
        return str(error)

@workflow()
def deep():
    return nested(200)

@workflow()
def too_deep():
    return nested(300)

@workflow()
async def reads_deep():
    run = await workflows.execute("deep")
    again = await executions.get(run["execution_id"])
    listed = await executions.list(workflow_name="deep")
    return [innermost(found["result"]) == 10 ** 400 for found in (run, again, listed[0])]

@workflow()
async def reads_too_deep():
    return await said(workflows.execute("too_deep"))

@workflow()
def echoes(text: str):
    return text

@workflow()
def large():
    return "x" * (7 << 20)

@workflow()
async def reads_large(execution_id: str):
    return [await said(executions.get(execution_id)), await said(executions.list(workflow_name="large", limit=3)),
            await said(executions.list(workflow_name="large", limit=2))]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn results_that_nest_deep_or_hold_huge_numbers_reach_who_asks() {
    let engine = Engine::on_files(&[("flows.py", FLOWS)]).await;
    let scope = Engine::admin();

    let run = engine.run(&scope, "reads_deep", json!({})).await;
    assert_eq!(result(&run), json!([true, true, true]), "{:?}", run.error_message);

    let run = engine.run(&scope, "reads_too_deep", json!({})).await;
    let said = result(&run);
    assert!(said.as_str().is_some_and(|said| said.contains("cannot be read by Python")), "{said}");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_is_refused_in_words() {
    let engine = Engine::on_files(&[("flows.py", FLOWS)]).await;
    let scope = Engine::admin();
    let echo = engine.run(&scope, "echoes", json!({ "text": "x".repeat(11 << 20) })).await;
    assert_eq!(echo.status, Status::Success, "{:?}", echo.error_message);
    for _ in 0..3 {
        let large = engine.run(&scope, "large", json!({})).await;
        assert_eq!(large.status, Status::Success, "{:?}", large.error_message);
    }

    let run = engine.run(&scope, "reads_large", json!({ "execution_id": echo.id.to_string() })).await;

    assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
    let said = result(&run);
    let words = |at: usize| said[at].as_str().expect("text");
    assert!(words(0).starts_with("the answer is too large"), "{said}");
    assert!(words(1).starts_with("the answer is too large") && words(1).contains("limit="), "{said}");
    assert_eq!(words(2), "answered");
    engine.close().await;
}
