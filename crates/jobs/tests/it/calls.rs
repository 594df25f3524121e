//! What the SDK asks for is answered in the run's own scope.

use domain::executions::Status;
use serde_json::json;

use crate::support::{Engine, result, user_of};

const SDK: &str = r#"
from bifrost import UserError, config, context, secrets, organizations, executions, workflows, workflow
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
async def leaks_in_every_way():
    import json, os, sys, textwrap
    value, logger = await secrets.get("api_token"), logging.getLogger(__name__)
    forms = {
        "plain": value, "repr": repr(value), "json": json.dumps(value), "json in json": json.dumps({"inner": json.dumps({"v": value})}),
        "base64": base64.b64encode(value.encode()).decode(), "url-safe": base64.urlsafe_b64encode(value.encode()).decode(),
        "quote": urllib.parse.quote(value), "quote all": urllib.parse.quote(value, safe=""), "plus": urllib.parse.quote_plus(value),
        "form": urllib.parse.urlencode({"v": value}), "url": "https://user:" + urllib.parse.quote(value, safe="") + "@example.com/",
        "mime": base64.encodebytes(value.encode()).decode(),
        "openssl": "\n".join(textwrap.wrap(base64.b64encode(value.encode()).decode(), 64)),
    }
    for before in range(4):
        forms["inside %d" % before] = base64.b64encode(b"u" * before + value.encode() + b"xyz").decode().rstrip("=")
    for name, form in forms.items():
        logger.info("%s: %s", name, form, extra={"form": form, "list": [form], form: 1})
        print(name, form)
        os.write(1, (name + ": " + form + "\n").encode())
    for character in value:
        print(character, end="")
        sys.stdout.flush()
    print()
    for line in value.splitlines():
        logger.info(line)
    # A secret that lies across the limit of a line, printed and written past Python's streams.
    print("x" * (256 * 1024 - 10) + value.replace("\n", " "))
    os.write(1, b"y" * (64 * 1024 - 12) + value.split("\n")[0].encode() + b"\n")
    # One that lies across two pieces of a line, with a line of another stream between them.
    print("z" * (256 * 1024 - 10) + value.replace("\n", " "), end="")
    print("between", file=sys.stderr)
    print()
    try:
        raise KeyError(value)
    except KeyError:
        logger.exception("failed with %s", value)
    held = {"forms": forms, value: [value, (value,)]}
    return {"forms": forms, value: forms, "held": len(held)}

KEPT = None

@workflow(isolation="pooled")
async def keeps_secret():
    global KEPT
    is_first = KEPT is None
    KEPT = KEPT or await secrets.get("api_token")
    print("kept", KEPT)
    return {"first": is_first, "token": KEPT}

@workflow(isolation="pooled")
async def goes_down(level: int = 1):
    try:
        return (await workflows.execute("goes_down", {"level": level + 1}))["result"]
    except RuntimeError as refused:
        return f"{level}: {refused}"

@workflow()
async def raises_key_error():
    raise KeyError(await secrets.get("api_token"))

@workflow()
async def uses_every_function(org_id: str = ""):
    there = org_id or None
    async def refused(call):
        try:
            await call
        except Exception as error:
            return type(error).__name__
    result = {}
    await config.set("cfg_token", "from-config-type", org_id=there, is_secret=True)
    await config.set("number", 7, org_id=there)
    await secrets.set("own-token", "stored-by-the-run", org_id=there)
    result["kinds"] = {key: type(value).__name__ for key, value in (await config.list(org_id=there)).items()}
    result["decrypted"] = (await config.list(org_id=there))["cfg_token"] == "from-config-type"
    result["secret"] = (await secrets.get("own-token", org_id=there)) == "stored-by-the-run"
    result["falls back"] = (await secrets.get("cfg_token", org_id=there)) == "from-config-type"
    result["no fallback to plain"] = await secrets.get("number", org_id=there)
    result["missing"] = [await secrets.get("nothing", org_id=there), await config.get("nothing", org_id=there),
                         await config.get("nothing", default=3, org_id=there)]
    result["names"] = await secrets.list(org_id=there)
    result["deleted"] = [await secrets.delete("own-token", org_id=there), await secrets.delete("own-token", org_id=there),
                         await config.delete("number", org_id=there), await config.delete("number", org_id=there)]
    result["after"] = [await secrets.get("own-token", org_id=there), await config.get("number", org_id=there)]
    result["bad"] = [await refused(config.set("no dashes-please", 1, org_id=there)), await refused(secrets.set("", "x", org_id=there)),
                     await refused(secrets.set("k", 4242424242, org_id=there)), await refused(config.get("k", org_id="no id"))]
    return result

@workflow()
async def asks_elsewhere(org_id: str):
    calls = [config.get("k", org_id=org_id), config.set("k", 1, org_id=org_id), config.list(org_id=org_id), config.delete("k", org_id=org_id),
             secrets.get("k", org_id=org_id), secrets.set("k", "v", org_id=org_id), secrets.list(org_id=org_id), secrets.delete("k", org_id=org_id)]
    allowed = 0
    for call in calls:
        try:
            await call
            allowed += 1
        except PermissionError:
            pass
    return allowed

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
def fails(kind: str):
    raise UserError("choose a site") if kind == "user" else ValueError("internal detail")

@workflow()
async def reads_errors(kind: str):
    child = await workflows.execute("fails", {"kind": kind})
    run = child["execution_id"]
    listed = await executions.list(workflow_name="fails", limit=1)
    return [child["error"], (await executions.get(run))["error_message"], (await workflows.get(run))["error_message"],
            listed[0]["error_message"]]

@workflow()
def echoes(text: str):
    return text

@workflow()
async def asks_oddly(unknown: str):
    async def said(call):
        try:
            return repr(await call)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    nul = [config.set("k", "a\0b"), config.set("k", {"a": ["\0"]}), secrets.get("k\0"), organizations.create("a\0b")]
    nowhere = [config.set("k", 1, org_id=unknown), config.get("k", org_id=unknown), organizations.get(unknown)]
    no_id = [organizations.get("zz"), organizations.update("zz", name="x"), organizations.delete("zz"), config.get("k", org_id="zz"),
             executions.get("zz")]
    odd = [config.get(5), secrets.set("s", None), config.set("k", [10 ** 30]), config.set("k", 10 ** 30)]
    seen = {name: [await said(call) for call in calls] for name, calls in
            (("nul", nul), ("nowhere", nowhere), ("no id", no_id), ("odd", odd))}
    await config.set("k", [2 ** 64 - 1, "\\u0000"])
    seen["kept"] = await config.get("k") == [2 ** 64 - 1, "\\u0000"]
    seen["handed over"] = (await workflows.execute("echoes", {"text": "a\0b"}))["result"] == "a\0b"
    return seen

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
async fn a_secret_leaks_in_no_form_that_a_run_can_write_it_in() {
    const CANARY: &str = "c4nary \"quoted\" it's \\ /slash+plus?ü\nsecond-line-c4nary&more";
    let engine = Engine::on_files(&[("sdk.py", SDK)]).await;
    let acme = user_of(engine.org("acme").await);
    engine.set_secret(&acme, "api_token", CANARY).await;

    let run = engine.run(&acme, "leaks_in_every_way", json!({})).await;
    assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
    let failed = engine.run(&acme, "raises_key_error", json!({})).await;
    assert_eq!(failed.status, Status::Failed);
    let mut written: Vec<String> = Vec::new();
    for run in [&run, &failed] {
        written.extend(
            engine.lines(run.id).await.iter().map(|line| format!("{} {:?}", line.message, line.data)),
        );
        written.extend([&run.result, &run.variables].into_iter().flatten().map(|json| json.get().to_owned()));
        written.extend(run.error_message.clone());
    }
    // The shortest parts that tell something: of the text and of its Base64 in each alignment.
    let needles = [
        "c4na", "quoted", "/slash", "plus?", "second-l", "YzRuYXJ5", "M0bmFye", "jNG5hcn", "c2Vjb25k",
        "NlY29uZ", "zZWNvbm",
    ];
    let leaks: Vec<&String> =
        written.iter().filter(|text| needles.iter().any(|needle| text.contains(needle))).collect();
    println!("secret in {} lines, results, variables and errors: leaks {}", written.len(), leaks.len());
    let short = |text: &&String| {
        text.chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect::<String>()
    };
    assert!(leaks.is_empty(), "{:#?}", leaks.iter().map(short).collect::<Vec<_>>());
    assert!(written.len() > 60 && result(&run)["forms"]["plain"] == "***", "{} texts", written.len());
    engine.close().await;
}

#[tokio::test]
async fn every_function_of_config_and_secrets_does_what_it_says() {
    let engine = Engine::on_files(&[("sdk.py", SDK)]).await;
    let (acme, rival) = (engine.org("acme").await, engine.org("rival").await);
    let expected = json!({
        "kinds": { "cfg_token": "str", "number": "int" }, "decrypted": true, "secret": true, "falls back": true,
        "no fallback to plain": null, "missing": [null, null, 3], "names": ["own-token"],
        "deleted": [true, false, true, false], "after": [null, null],
        "bad": ["ValueError", "ValueError", "TypeError", "ValueError"],
    });
    let own = engine.run(&user_of(acme), "uses_every_function", json!({})).await;
    assert_eq!(result(&own), expected, "{:?}", own.error_message);
    let named =
        engine.run(&user_of(acme), "uses_every_function", json!({ "org_id": acme.to_string() })).await;
    assert_eq!(result(&named), expected, "one's own organization may be named: {:?}", named.error_message);
    let admin =
        engine.run(&Engine::admin(), "uses_every_function", json!({ "org_id": rival.to_string() })).await;
    assert_eq!(result(&admin), expected, "an administrator names any: {:?}", admin.error_message);

    let mut allowed = 0;
    for elsewhere in [rival.to_string(), "GLOBAL".to_owned()] {
        let run = engine.run(&user_of(acme), "asks_elsewhere", json!({ "org_id": elsewhere })).await;
        allowed += result(&run).as_u64().expect("a count");
    }
    println!("config and secrets of another organization or all: allowed {allowed} of 16");
    assert_eq!(allowed, 0);
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
async fn an_error_text_that_was_not_written_for_users_reaches_no_run_of_theirs() {
    let engine = Engine::on_files(&[("sdk.py", SDK)]).await;
    let acme = user_of(engine.org("acme").await);
    let neutral = domain::executions::NEUTRAL_ERROR;
    for (scope, kind, expected) in [
        (&acme, "other", neutral),
        (&acme, "user", "choose a site"),
        (&Engine::admin(), "other", "internal detail"),
    ] {
        let run = engine.run(scope, "reads_errors", json!({ "kind": kind })).await;
        assert_eq!(result(&run), json!(vec![expected; 4]), "{:?}", run.error_message);
    }
    engine.close().await;
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_the_name_of_what_is_wrong() {
    let engine = Engine::on_files(&[("sdk.py", SDK)]).await;
    let unknown = "0190aaaa-0000-7000-8000-00000000ffff";

    let run = engine.run(&Engine::admin(), "asks_oddly", json!({ "unknown": unknown })).await;

    let nul = |name: &str| format!("ValueError: {name}: must not contain NUL");
    let long = "ValueError: /value: has a whole number of more than 64 bits, which would come back rounded; set it as text";
    let no_id = "ValueError: org_id: not an id";
    let expected = json!({
        "nul": [nul("value"), nul("value"), nul("key"), nul("name")],
        "nowhere": vec!["ValueError: no such organization"; 3],
        "no id": [no_id, no_id, no_id, no_id, "ValueError: execution_id: not an id"],
        "odd": ["TypeError: key: must be a string", "TypeError: value: is required", long, long],
        "kept": true, "handed over": true,
    });
    assert_eq!(result(&run), expected, "{:?}", run.error_message);
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

#[tokio::test]
async fn what_a_run_before_has_read_is_masked_for_the_next_in_its_process() {
    let engine = Engine::on_files(&[("sdk.py", SDK)]).await;
    let scope = user_of(engine.org("acme").await);
    engine.set_secret(&scope, "api_token", "a token that was kept").await;

    for is_first in [true, false] {
        let run = engine.run(&scope, "keeps_secret", json!({})).await;
        assert_eq!(result(&run), json!({ "first": is_first, "token": "***" }), "{:?}", run.error_message);
        let lines = engine.lines(run.id).await;
        assert!(lines.iter().any(|line| line.message == "kept ***"), "{lines:?}");
    }
    engine.close().await;
}

#[tokio::test]
async fn runs_wait_for_runs_only_so_deep() {
    let engine = Engine::on_files(&[("sdk.py", SDK)]).await;

    let run = engine.run(&Engine::admin(), "goes_down", json!({})).await;

    assert_eq!(result(&run), "32: runs wait for runs 32 deep already", "{:?}", run.error_message);
    engine.close().await;
}
