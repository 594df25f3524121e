//! Data providers in real processes: what they return, how they fail, and that a changed file counts at once.

use domain::workflows::providers::{self, Answer};
use domain::{OrgScope, Platform};
use serde_json::{Map, Value, json};
use testkit::eventually;

use crate::support::{Engine, user_of, write_file};

const FILE: &str = r#"
import logging, os, time
from bifrost import UserError, config, context, data_provider, param

@data_provider(name="sites")
async def sites(prefix: str = ""):
    runs = await config.get("runs", default=0) + 1
    await config.set("runs", runs)
    return [prefix + "London", {"label": "Org", "value": context.org_id or "GLOBAL"}, {"label": "Admin", "value": context.is_platform_admin}]

@data_provider
async def gated(gate: str):
    await config.set("gated_runs", await config.get("gated_runs", default=0) + 1)
    while not os.path.exists(gate):
        time.sleep(0.02)
    return ["open"]

@data_provider
def broken():
    logging.getLogger(__name__).warning("about to fail")
    raise UserError("the inventory is closed")

@data_provider
def shapeless():
    return {"a": 1}
"#;

async fn ask(platform: &Platform, scope: &OrgScope, name: &str, inputs: Value) -> Answer {
    let mut tx = platform.db.begin(scope).await.expect("begins");
    let provider = providers::get(&mut tx, name).await.expect("is indexed");
    tx.commit().await.expect("commits");
    let inputs: Map<String, Value> = inputs.as_object().expect("an object").clone();
    providers::ask(platform, scope, &provider, inputs, false).await.expect("is asked")
}

/// The options and whether they were kept from before.
fn options(answer: Answer) -> (Value, bool) {
    let Answer::Options(options) = answer else { panic!("must answer: {answer:?}") };
    (serde_json::from_str(options.list.get()).expect("JSON"), options.cached)
}

#[tokio::test]
async fn a_provider_runs_as_the_organization_and_a_changed_file_counts() {
    let engine = Engine::on_files(&[("providers.py", FILE)]).await;
    let org = engine.org("acme").await;
    let scope = user_of(org);
    let expected = |first: &str| {
        json!([
            {"label": first, "value": first}, {"label": "Org", "value": org}, {"label": "Admin", "value": false},
        ])
    };

    let answer = ask(&engine.platform, &scope, "sites", json!({"prefix": "North "})).await;
    assert_eq!(options(answer), (expected("North London"), false));
    let answer = ask(&engine.platform, &scope, "sites", json!({"prefix": "North "})).await;
    assert_eq!(options(answer), (expected("North London"), true));
    // An administrator's answer is the same: it is shared.
    let admin = OrgScope::for_run(Some(org), crate::support::actor("admin", true));
    assert_eq!(
        options(ask(&engine.platform, &admin, "sites", json!({"prefix": "x"})).await).0[2]["value"],
        false
    );

    write_file(&engine.workspace, "providers.py", &FILE.replace("London", "Leeds"));
    eventually("the changed file counts", || async {
        let answer = ask(&engine.platform, &scope, "sites", json!({"prefix": "North "})).await;
        (options(answer).0 == expected("North Leeds")).then_some(())
    })
    .await;

    let Answer::Failed(failure) = ask(&engine.platform, &scope, "broken", json!({})).await else {
        panic!("fails")
    };
    assert_eq!((failure.message.as_str(), failure.is_user_error), ("the inventory is closed", true));
    assert!(failure.lines.iter().any(|line| line.message == "about to fail"), "{:?}", failure.lines);
    let Answer::Failed(failure) = ask(&engine.platform, &scope, "shapeless", json!({})).await else {
        panic!("fails")
    };
    assert!(failure.message.contains("must return a list"), "{}", failure.message);
    engine.close().await;
}

#[tokio::test]
async fn many_who_ask_at_once_make_one_run() {
    let engine = Engine::on_files(&[("providers.py", FILE)]).await;
    let scope = user_of(engine.org("acme").await);
    // Another replica, which hears no event of the worker.
    let deaf = Platform::open(engine.test.settings_in_process()).expect("opens");
    let asked = (0..30).map(|n| {
        let platform = if n % 2 == 0 { &engine.platform } else { &deaf };
        ask(platform, &scope, "sites", json!({}))
    });
    let answers = futures::future::join_all(asked).await;
    assert!(answers.into_iter().all(|answer| options(answer).0[0]["value"] == "London"));

    let runs = counted(&engine, &scope, "runs").await;
    println!("data providers: 30 asked on 2 replicas, runs {runs}");
    assert_eq!(runs, json!(1));
    engine.close().await;
}

/// What a provider has counted.
async fn counted(engine: &Engine, scope: &OrgScope, key: &str) -> Value {
    let mut tx = engine.platform.db.begin(scope).await.expect("begins");
    let found = domain::config::find(&mut tx, &engine.platform.vault, key).await.expect("reads");
    found.expect("the provider counted").value
}

#[tokio::test]
async fn an_answer_whose_askers_went_away_is_given_to_who_asks_next() {
    let engine = Engine::on_files(&[("providers.py", FILE)]).await;
    let scope = user_of(engine.org("acme").await);
    let gate = engine.workspace.join("gate");
    let inputs = json!({"gate": gate});
    let conn = tokio::sync::Mutex::new(engine.test.db.connect().await);
    let runs = async |status: &str| -> bool {
        let count = "SELECT count(*) FROM executions WHERE kind = 'data_provider' AND status = $1";
        let mut conn = conn.lock().await;
        sqlx::query_scalar::<_, i64>(count).bind(status).fetch_one(&mut *conn).await.expect("counts") > 0
    };

    let begun = eventually("the run", async || runs("Running").await.then_some(()));
    tokio::select! {
        () = begun => {}
        answer = ask(&engine.platform, &scope, "gated", inputs.clone()) => panic!("answered: {answer:?}"),
    }
    std::fs::write(&gate, "").expect("the workspace is the test's");
    eventually("its end", async || runs("Success").await.then_some(())).await;

    let answer = ask(&engine.platform, &scope, "gated", inputs).await;
    assert_eq!(options(answer).0[0]["value"], "open");
    assert_eq!(counted(&engine, &scope, "gated_runs").await, json!(1), "it is not computed again");
    engine.close().await;
}
