//! What the SDK asks for is answered in the run's own scope.

use domain::executions::Status;
use serde_json::json;

use crate::support::{Engine, result, user_of};

const SDK: &str = r#"
from bifrost import config, context, secrets, organizations, executions, workflows, workflow
import base64, urllib.parse, logging

@workflow()
async def reads_secret():
    value = await secrets.get("api_token")
    log = logging.getLogger(__name__)
    log.info("token is %s", value)
    log.info("encoded %s", base64.b64encode((value or "").encode()).decode())
    print("quoted", urllib.parse.quote(value or ""))
    return {"token": value, "as_data": [value]}

@workflow()
async def raises_secret():
    raise ValueError("bad token " + await secrets.get("api_token"))

@workflow()
async def sets_and_reads():
    await config.set("days", 30)
    await config.set("flags", {"a": True})
    return {"days": await config.get("days"), "flags": await config.get("flags"), "missing": await config.get("nothing", default="d"),
            "deleted": await config.delete("days"), "after": await config.get("days")}

@workflow()
async def who(other: str = ""):
    refused = None
    if other:
        try:
            await config.get("days", org_id=other)
        except PermissionError as error:
            refused = type(error).__name__
    return {"org": context.org_id, "scope": context.scope, "name": context.organization.name if context.organization else None,
            "admin": context.is_platform_admin, "refused": refused}

@workflow()
async def manages():
    made = await organizations.create("Initech", domain="initech.example")
    renamed = await organizations.update(made.id, name="Initrode")
    names = [one.name for one in await organizations.list()]
    await organizations.delete(made.id)
    return {"made": made.name, "domain": renamed.domain, "listed": "Initrode" in names,
            "active": (await organizations.get(made.id)).is_active,
            "after": "Initrode" in [one.name for one in await organizations.list()]}

@workflow()
async def manages_without_right(org: str):
    refused = []
    for call in (lambda: organizations.create("x"), lambda: organizations.update(org, name="x"),
                 lambda: organizations.delete(org), lambda: organizations.list()):
        try:
            await call()
        except PermissionError as error:
            refused.append(type(error).__name__)
    return {"refused": refused, "own": (await organizations.get(org)).name}

@workflow()
async def environment():
    import os
    seen = dict(os.environ)
    readable = []
    for path in ("/proc/%d/environ" % os.getppid(), "/proc/1/environ"):
        try:
            with open(path, "rb") as file:
                readable.append(file.read().decode(errors="replace"))
        except OSError:
            pass
    return {"environment": seen, "readable": readable}
"#;

#[tokio::test]
async fn a_secret_reaches_the_run_and_nothing_else() {
    const CANARY: &str = "s3cret/canary+value?";
    let engine = Engine::on_files(&[("sdk.py", SDK)]).await;
    let (acme, rival) = (user_of(engine.org("acme").await), user_of(engine.org("rival").await));
    engine.set_secret(&acme, "api_token", CANARY).await;

    let run = engine.run(&acme, "reads_secret", json!({})).await;
    assert_eq!(
        (run.status, &result(&run)),
        (Status::Success, &json!({ "token": "***", "as_data": ["***"] }))
    );
    let lines: String = engine.lines(run.id).await.iter().map(|line| line.message.clone() + "\n").collect();
    assert!(
        lines.contains("token is ***") && lines.contains("encoded ***") && lines.contains("quoted ***"),
        "{lines}"
    );
    assert!(!run.variables.as_ref().map_or("", |variables| variables.get()).contains("canary"));

    let failed = engine.run(&acme, "raises_secret", json!({})).await;
    assert_eq!(failed.error_message.as_deref(), Some("bad token ***"));

    let other = engine.run(&rival, "reads_secret", json!({})).await;
    assert_eq!(result(&other)["token"], json!(null), "another organization has no such secret");
    engine.close().await;
}

#[tokio::test]
async fn configuration_is_typed_and_stays_in_its_organization() {
    let engine = Engine::on_files(&[("sdk.py", SDK)]).await;
    let acme = engine.org("acme").await;
    let rival = engine.org("rival").await;

    let run = engine.run(&user_of(acme), "sets_and_reads", json!({})).await;
    let expected =
        json!({ "days": 30, "flags": { "a": true }, "missing": "d", "deleted": true, "after": null });
    assert_eq!(result(&run), expected, "{:?}", run.error_message);

    let who = engine.run(&user_of(acme), "who", json!({ "other": rival.to_string() })).await;
    let expected = json!({ "org": acme.to_string(), "scope": acme.to_string(), "name": "acme", "admin": false, "refused": "PermissionError" });
    assert_eq!(result(&who), expected, "{:?}", who.error_message);
    engine.close().await;
}

#[tokio::test]
async fn a_run_finds_no_credential_in_its_environment() {
    let engine = Engine::on_files(&[("sdk.py", SDK)]).await;
    let run = engine.run(&Engine::admin(), "environment", json!({})).await;
    let seen = result(&run).to_string();
    for needle in
        ["DATABASE_URL", "RABBITMQ_URL", "REDIS_URL", "SECRET_KEY", "MASTER_KEY", "postgres://", "amqp://"]
    {
        assert!(!seen.contains(needle), "{needle} is readable");
    }
    engine.close().await;
}

#[tokio::test]
async fn organizations_are_managed_by_platform_administrators_alone() {
    let engine = Engine::on_files(&[("sdk.py", SDK)]).await;
    let acme = engine.org("acme").await;

    let run = engine.run(&Engine::admin(), "manages", json!({})).await;
    let expected = json!({ "made": "Initech", "domain": "initech.example", "listed": true, "active": false, "after": false });
    assert_eq!(result(&run), expected, "{:?}", run.error_message);

    let run = engine.run(&user_of(acme), "manages_without_right", json!({ "org": acme.to_string() })).await;
    let expected = json!({ "refused": vec!["PermissionError"; 4], "own": "acme" });
    assert_eq!(result(&run), expected, "{:?}", run.error_message);
    engine.close().await;
}
