//! A secret that a run hands to its child reaches the child, and is shown nowhere.

use chrono::{TimeDelta, Utc};
use domain::executions::submit::{NewExecution, Work};
use domain::executions::{Execution, Status, bulk};
use domain::id::ExecutionId;
use domain::wakeup::Wakeup;
use domain::{Error, OrgScope};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::{Engine, result, user_of};

const CANARY: &str = "s3cret/canary+value?";
const FLOWS: &str = r#"
import logging
from bifrost import config, secrets, workflow, workflows

logger = logging.getLogger(__name__)

@workflow()
async def hands_over():
    token = await secrets.get("api_token")
    given = {"token": token, "header": {"Authorization": "Bearer " + token}, "site": "Bern"}
    child = await workflows.execute("takes", given)
    plain = await workflows.execute("takes", {"token": "nothing", "header": {}, "site": "Bern"})
    return {"child": child["execution_id"], "returned": child["result"], "plain": plain["execution_id"]}

@workflow(retry_policy={"max_attempts": 2, "backoff": 0})
async def takes(token: str, header: dict, site: str):
    logger.info("got %s for %s", token, site)
    print("bare", header.get("Authorization", "").removeprefix("Bearer "))
    if await config.get("tried") is None:
        await config.set("tried", True)
        raise ConnectionError("down with " + token)
    below = await workflows.execute("ends", {"token": token})
    return {"length": len(token), "token": token, "below": below["execution_id"]}

@workflow()
def ends(token: str):
    print("below", token)
    return len(token)
"#;

fn id(value: &Value) -> ExecutionId {
    value.as_str().expect("text").parse().expect("an id")
}

fn parameters(execution: &Execution) -> Value {
    serde_json::from_str(execution.parameters.get()).expect("JSON")
}

async fn sealed(engine: &Engine, id: ExecutionId) -> Option<Vec<u8>> {
    let mut conn = engine.test.db.connect().await;
    sqlx::query_scalar::<_, Option<Vec<u8>>>("SELECT sealed_parameters FROM executions WHERE id = $1")
        .bind(id.0)
        .fetch_one(&mut conn)
        .await
        .expect("is there")
}

async fn repeatable(engine: &Engine, id: ExecutionId) -> Result<bulk::Repeatable, Error> {
    let mut tx = engine.platform.db.begin(&Engine::admin().widened()).await.expect("begins");
    bulk::repeatable(&mut tx, id).await
}

/// Submits a run, lets it start only when the sealed parameters of another are in its row, and waits for its end.
async fn run_with_sealed_of(engine: &Engine, scope: &OrgScope, other: ExecutionId) -> Execution {
    let workflow = engine.platform.catalog.get(&engine.platform.db, scope, "ends").await.expect("is indexed");
    let given = RawValue::from_string(r#"{"token":"***"}"#.into()).expect("JSON");
    let new = NewExecution {
        run_at: Some(Utc::now() + TimeDelta::hours(1)),
        ..NewExecution::new(Work::Workflow(workflow), given)
    };
    let id = engine.platform.submitter.submit(scope, new).await.expect("accepted").id;
    let mut conn = engine.test.db.connect().await;
    sqlx::query(
        "UPDATE executions
         SET sealed_parameters = (SELECT sealed_parameters FROM executions WHERE id = $2), due_at = now(),
             queue_rank = now() - interval '5 minutes'
         WHERE id = $1",
    )
    .bind(id.0)
    .bind(other.0)
    .execute(&mut conn)
    .await
    .expect("updates");
    engine.platform.wakeups.publish(vec![Wakeup::new(id, scope.owner().expect("has one"), 5, None)]);
    engine.ended(id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_handed_to_a_child_reaches_it_and_is_shown_nowhere() {
    let engine = Engine::on_files(&[("flows.py", FLOWS)]).await;
    let acme = user_of(engine.org("acme").await);
    engine.set_secret(&acme, "api_token", CANARY).await;

    let parent = engine.run(&acme, "hands_over", json!({})).await;

    assert_eq!(parent.status, Status::Success, "{:?}", parent.error_message);
    let returned = result(&parent);
    assert_eq!(
        (&returned["returned"]["length"], &returned["returned"]["token"]),
        (&json!(CANARY.len()), &json!("***")),
        "the child had all of it, and says nothing of it"
    );
    let child = engine.get(id(&returned["child"])).await;
    let below = engine.get(id(&returned["returned"]["below"])).await;
    let plain = engine.get(id(&returned["plain"])).await;
    assert_eq!(child.attempt, 2, "it was opened for each attempt");
    let shown = json!({ "token": "***", "header": { "Authorization": "Bearer ***" }, "site": "Bern" });
    assert_eq!((parameters(&child), parameters(&below)), (shown, json!({ "token": "***" })));
    assert_eq!(result(&below), json!(CANARY.len()));

    let (mut written, mut messages) = (Vec::new(), Vec::new());
    for run in [&parent, &child, &below] {
        written.push(run.parameters.get().to_owned());
        written.extend([&run.result, &run.variables].into_iter().flatten().map(|json| json.get().to_owned()));
        written.extend(run.error_message.clone());
        for line in engine.lines(run.id).await {
            written.push(format!("{} {:?}", line.message, line.data));
            messages.push(line.message);
        }
    }
    let leaks: Vec<&String> = written.iter().filter(|text| text.contains("canary")).collect();
    println!("a secret handed to two runs: leaks {} of {} texts", leaks.len(), written.len());
    assert!(leaks.is_empty(), "{leaks:#?}");
    for expected in ["got *** for Bern", "bare ***", "below ***"] {
        assert!(messages.iter().any(|message| message == expected), "{expected:?} in {messages:#?}");
    }
    let bytes = sealed(&engine, child.id).await.expect("is sealed");
    assert!(!bytes.windows(6).any(|window| window == b"canary"));

    // What holds no secret is stored as it always was.
    let given = json!({ "token": "nothing", "header": {}, "site": "Bern" });
    assert_eq!((parameters(&plain), sealed(&engine, plain.id).await), (given, None));
    // Another run would get what is shown.
    assert!(repeatable(&engine, plain.id).await.is_ok());
    let refused = repeatable(&engine, child.id).await;
    assert!(
        matches!(&refused, Err(Error::Impossible(why)) if why.contains("handed it a secret")),
        "{refused:?}"
    );

    let moved = run_with_sealed_of(&engine, &acme, child.id).await;
    assert_eq!((moved.status, moved.error_type.as_deref()), (Status::Failed, Some("WorkerCrash")));
    let why = moved.error_message.unwrap_or_default();
    assert!(why.contains("does not open"), "{why}");
    engine.close().await;
}
