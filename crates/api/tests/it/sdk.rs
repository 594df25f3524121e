//! The SDK's routes: keys act as their user and no more, configuration and files stay where they belong, and the package
//! is one that pip installs.

use std::process::Command;

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::Client;

use crate::support::{Person, World};

mod files;
mod keys;

/// A client with a new SDK key of this person.
async fn with_key(world: &World, person: &Person) -> Client {
    let made = person.client.post("/api/sdk/keys", &json!({"name": "laptop"})).await;
    world.nobody().with_bearer(made.expect_status(StatusCode::CREATED).text("key"))
}

/// A world with a workspace of its own, an organization and one of its users.
async fn world() -> (World, Person) {
    let world =
        World::with_files(&[("readme.txt", "shared"), ("docs/a.txt", "shared a"), (".overlays/.keep", "")])
            .await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    (world, ada)
}

#[tokio::test]
async fn configuration_is_typed_cascades_and_shows_no_secret() {
    let (world, ada) = world().await;
    let (admin, user) = (with_key(&world, &world.admin).await, with_key(&world, &ada).await);
    let set = async |client: &Client, key: &str, value: Value, is_secret: bool| {
        let body = json!({"key": key, "value": value, "is_secret": is_secret});
        client.post("/api/sdk/config/set", &body).await.expect_status(StatusCode::NO_CONTENT)
    };
    let get =
        async |client: &Client, key: &str| client.post("/api/sdk/config/get", &json!({"key": key})).await;
    for (key, value, kind) in [
        ("text", json!("on"), "string"),
        ("number", json!(30), "int"),
        ("fraction", json!(2.5), "json"),
        ("flag", json!(true), "bool"),
        ("list", json!([1, {"a": null}]), "json"),
    ] {
        set(&admin, key, value.clone(), false).await;
        let found = get(&user, key).await.expect_status(StatusCode::OK).json();
        assert_eq!(found, json!({"key": key, "value": value, "config_type": kind}), "the global one");
    }
    set(&user, "number", json!(7), false).await;
    assert_eq!(get(&user, "number").await.json()["value"], 7);
    assert_eq!(get(&admin, "number").await.json()["value"], 30, "the organization's own row");
    assert_eq!(get(&user, "nothing").await.expect_status(StatusCode::OK).json(), Value::Null);

    set(&user, "token", json!("canary-4711"), true).await;
    let refused = get(&user, "token").await.expect_status(StatusCode::FORBIDDEN);
    let listed = user.post("/api/sdk/config/list", &json!({})).await.expect_status(StatusCode::OK);
    assert_eq!(
        (&listed.json()["token"], &listed.json()["number"], &listed.json()["flag"]),
        (&json!("[SECRET]"), &json!(7), &json!(true))
    );
    assert!(!refused.body.contains("canary") && !listed.body.contains("canary"));
    let stored = world
        .count("SELECT count(*) FROM config WHERE key = 'token' AND sealed IS NOT NULL AND value IS NULL")
        .await;
    assert_eq!(stored, 1);

    let delete = async |client: &Client, key: &str| {
        client.post("/api/sdk/config/delete", &json!({"key": key})).await.expect_status(StatusCode::OK).json()
    };
    assert_eq!((delete(&user, "number").await, delete(&user, "number").await), (json!(true), json!(false)));
    assert_eq!(get(&user, "number").await.json()["value"], 30);
    for (key, value, pointer) in [
        ("a b", json!(1), "/key"),
        ("", json!(1), "/key"),
        ("a", json!("x".repeat(70_000)), "/value"),
        ("a", json!("\0"), "/value"),
    ] {
        let reply = user.post("/api/sdk/config/set", &json!({"key": key, "value": value})).await;
        assert_eq!(reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), [pointer]);
    }
    let reply = user.post("/api/sdk/config/get", &json!({"key": "a", "org_id": "acme"})).await;
    assert_eq!(reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/org_id"]);
    world.close().await;
}

#[tokio::test]
async fn calls_start_from_the_context_of_their_user() {
    let (world, ada) = world().await;
    let rival = world.org("rival").await;
    let (admin, user) = (with_key(&world, &world.admin).await, with_key(&world, &ada).await);
    let shown = user.get("/api/sdk/context").await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&shown["user"]["email"], &shown["organization"]["name"]),
        (&json!("ada@acme.example"), &json!("acme"))
    );
    assert_eq!((&shown["default_parameters"], &shown["track_executions"]), (&json!({}), &json!(true)));
    let administrators = admin.get("/api/sdk/context").await.json();
    assert_eq!(administrators["organization"], Value::Null);
    assert_eq!(
        (&shown["is_platform_admin"], &administrators["is_platform_admin"]),
        (&json!(false), &json!(true))
    );

    let foreign = ada.client.put("/api/sdk/context", &json!({"default_org_id": rival})).await;
    foreign.expect_status(StatusCode::FORBIDDEN);
    let body =
        json!({"default_org_id": rival, "default_parameters": {"site": "Bern"}, "track_executions": false});
    let changed =
        world.admin.client.put("/api/sdk/context", &body).await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&changed["organization"]["name"], &changed["default_parameters"]),
        (&json!("rival"), &json!({"site": "Bern"}))
    );
    let kept = json!({"default_org_id": null, "default_parameters": null});
    let kept = world.admin.client.put("/api/sdk/context", &kept).await.expect_status(StatusCode::OK).json();
    assert_eq!(kept, changed, "null leaves what is there");
    admin
        .post("/api/sdk/config/set", &json!({"key": "a", "value": 1}))
        .await
        .expect_status(StatusCode::NO_CONTENT);
    let stored = world.count("SELECT count(*) FROM config c JOIN organizations o ON o.id = c.organization_id WHERE o.name = 'rival'").await;
    assert_eq!(stored, 1);
    let session = ada.client.get("/api/sdk/context").await.expect_status(StatusCode::OK).json();
    assert_eq!(session["user"]["email"], "ada@acme.example");

    let unreadable = world.admin.client.put("/api/sdk/context", &json!({"default_org_id": "rival"})).await;
    let unreadable = unreadable.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assert!(unreadable.body.contains("must be a UUID"), "{}", unreadable.body);
    let clearing = json!({"default_org_id": "", "default_parameters": {}});
    let cleared =
        world.admin.client.put("/api/sdk/context", &clearing).await.expect_status(StatusCode::OK).json();
    assert_eq!((&cleared["organization"], &cleared["default_parameters"]), (&Value::Null, &json!({})));
    assert_eq!(cleared["track_executions"], false, "what is absent stays");
    let own = ada.client.put("/api/sdk/context", &clearing).await.expect_status(StatusCode::OK).json();
    assert_eq!(own["organization"]["name"], "acme", "without a default it is the user's own");
    world.close().await;
}

#[tokio::test]
async fn the_package_installs_with_pip_without_an_index_and_asks_this_server() {
    let (world, ada) = world().await;
    let package = world.test.folder().join("bifrost.tar.gz");
    let address = format!("{}/api/sdk/download", world.nobody().base());
    let served = reqwest::get(&address).await.expect("answers");
    assert_eq!(served.headers()["content-type"], "application/gzip");
    let bytes = served.bytes().await.expect("is whole");
    assert_eq!(bytes, reqwest::get(&address).await.expect("answers").bytes().await.expect("is whole"));
    std::fs::write(&package, &bytes).expect("writes");
    let key = with_key(&world, &ada).await.bearer().expect("a key").to_owned();
    let set = json!({"key": "site", "value": "Bern"});
    world
        .nobody()
        .with_bearer(&key)
        .post("/api/sdk/config/set", &set)
        .await
        .expect_status(StatusCode::NO_CONTENT);
    let (venv, base) = (world.test.folder().join("venv"), world.nobody().base().to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let run = |command: &mut Command| {
            let output = command.output().expect("runs");
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(output.status.success(), "{command:?}: {text}");
            text
        };
        run(Command::new("python3").arg("-m").arg("venv").arg(&venv));
        let install = ["-m", "pip", "install", "--no-index", "--no-cache-dir", "--disable-pip-version-check"];
        run(Command::new(venv.join("bin/python")).args(install).arg(&package));
        let program = "import asyncio, bifrost\nfrom bifrost import config, context, files, workflow\n\
            async def main():\n    print(await config.get('site'), context.email, context.org_name)\n    \
            await files.write('from_sdk.txt', 'written')\n    print(await files.read('from_sdk.txt'))\nasyncio.run(main())\n";
        let python = Command::new(venv.join("bin/python"))
            .args(["-c", program])
            .current_dir(venv)
            .env_remove("PYTHONPATH")
            .env("BIFROST_URL", base)
            .env("BIFROST_TOKEN", key)
            .env("NO_PROXY", "*")
            .output()
            .expect("runs");
        format!("{}{}", String::from_utf8_lossy(&python.stdout), String::from_utf8_lossy(&python.stderr))
    });
    let printed = work.await.expect("ends");
    assert_eq!(printed, "Bern ada@acme.example acme\nwritten\n");
    println!("package: {} bytes, installed without an index, asked this server", bytes.len());
    world.close().await;
}
