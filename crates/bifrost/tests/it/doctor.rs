//! `doctor`, `healthcheck` and `openapi`: what is wrong is named, with what to do about it.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use testkit::{Launch, Process, TestEnv, free_port, repository};

use crate::support::WORKFLOWS;

#[tokio::test]
async fn a_healthy_installation_has_nothing_to_repair() {
    let env = TestEnv::create().await;

    let findings = doctor(&env).finish().await.expect_code(0).json();

    let parts =
        ["settings", "PostgreSQL", "migrations", "row security", "RabbitMQ", "Redis", "Python", "SDK"];
    for part in parts.into_iter().chain(["workspace", "uploads", "disk", "isolation"]) {
        assert!(finding(&findings, part).is_some(), "nothing about {part} in {findings:#}");
    }
    let space = env.settings().uploads_path.display().to_string();
    assert!(findings.to_string().contains(&format!("free for {space}")), "{findings:#}");
    let bucket = doctor(&env).env("S3_BUCKET", "scans").finish().await.json();
    let found = finding(&bucket, "uploads").map(|finding| &finding["found"]);
    assert!(found.is_some_and(|found| found.to_string().contains("bucket scans")), "{bucket:#}");
    assert_eq!(of_verdict(&findings, "error"), Vec::<&Value>::new());
    let pieces: Vec<&str> = findings
        .as_array()
        .into_iter()
        .flatten()
        .filter(|finding| finding["part"] == "isolation")
        .filter_map(|finding| finding["found"].as_str())
        .collect();
    for piece in ["process tree", "user", "system calls", "file system", "network", "memory"] {
        assert!(pieces.iter().any(|found| found.starts_with(&format!("{piece}: "))), "{piece} in {pieces:?}");
    }
    let off = doctor(&env).env("ISOLATION", "off").finish().await.json();
    let unused =
        of_verdict(&off, "warning").into_iter().filter(|finding| finding["part"] == "isolation").count();
    assert!(unused >= 2, "{off:#}");
    let said = doctor(&env).finish().await;
    assert!(!said.all().contains("bifrost_test:"), "no login with its password");
    let text = Launch::bifrost(env.folder(), &["doctor"]).in_env(&env).finish().await.expect_code(0);
    assert!(text.stdout.contains("PostgreSQL") && !text.stdout.contains("error"), "{}", text.stdout);
    env.close().await;
}

#[tokio::test]
async fn what_is_wrong_is_named_with_what_to_do() {
    let env = TestEnv::with_files(&[
        ("workflows.py", WORKFLOWS),
        ("broken/mistake.py", "from bifrost import workflow\n\n@workflow()\ndef mistake(:\n    pass\n"),
    ])
    .await;
    let closed = free_port();
    let database = format!("postgres://ada:hush-hush@127.0.0.1:{closed}/bifrost");
    let broker = format!("amqp://ada:hush-hush@127.0.0.1:{closed}/%2f");
    let redis = format!("redis://:hush-hush@127.0.0.1:{closed}/0");
    let port = closed.to_string();
    // Variable, its wrong value, the part that is wrong, what is said about it, what to do.
    for (variable, value, part, found, advice) in [
        ("DATABASE_URL", &*database, "PostgreSQL", &*port, "DATABASE_URL"),
        ("RABBITMQ_URL", &broker, "RabbitMQ", &port, "RABBITMQ_URL"),
        ("REDIS_URL", &redis, "Redis", &port, "REDIS_URL"),
        ("PYTHON", "/nowhere/python3", "Python", "/nowhere/python3", "PYTHON"),
        ("PLATFORM_PATH", "/nowhere", "SDK", "/nowhere", "PLATFORM_PATH"),
        ("WORKSPACE_PATH", "/nowhere", "workspace", "/nowhere", "WORKSPACE_PATH"),
        ("UPLOADS_PATH", "/dev/null/uploads", "uploads", "/dev/null/uploads", "UPLOADS_PATH"),
        ("SECRET_KEY", "hush-hush", "settings", "SECRET_KEY", ".env.example"),
        ("WORKER_SLOTS", "many", "settings", "many", "environment variable"),
    ] {
        let ended = doctor(&env).env(variable, value).finish().await.expect_code(1);
        let findings = ended.json();
        let errors = of_verdict(&findings, "error");
        let named = errors.iter().find(|finding| finding["part"] == part);
        let named = named.unwrap_or_else(|| panic!("{variable}: {part} is well in {findings:#}"));
        assert!(named["found"].as_str().is_some_and(|text| text.contains(found)), "{variable}: {named:#}");
        assert!(named["advice"].as_str().is_some_and(|text| text.contains(advice)), "{variable}: {named:#}");
        assert!(!ended.all().contains("hush-hush"), "{variable}: a password is shown");
    }

    // A mistake in one file is its author's business and stops nobody else.
    let findings = doctor(&env).finish().await.expect_code(0).json();
    let warnings = of_verdict(&findings, "warning");
    let named = warnings.iter().find(|finding| finding["part"] == "workspace").expect("it is found");
    assert!(
        named["found"].as_str().is_some_and(|text| text.starts_with("broken/mistake.py:4: ")),
        "{named:#}"
    );
    assert!(named["advice"].is_string(), "{named:#}");
    env.close().await;
}

#[tokio::test]
async fn the_healthcheck_of_a_container_tells_the_living_from_the_dead() {
    let env = TestEnv::with_files(&[("workflows.py", WORKFLOWS)]).await;
    let check =
        |arguments: &[&str]| Launch::bifrost(env.folder(), &["healthcheck"]).in_env(&env).args(arguments);
    let api = Process::api(&env).await;

    let well = check(&["--url", api.url()]).finish().await.expect_code(0);
    assert_eq!(well.all(), "", "a probe that is content says nothing");
    let listen = api.url().trim_start_matches("http://").to_owned();
    check(&[]).env("LISTEN", &listen).finish().await.expect_code(0);
    let url = api.url().to_owned();
    assert!(api.stop().await.success());
    let away = check(&["--url", &url]).finish().await.expect_code(1);
    assert!(away.stderr.contains("refused"), "{}", away.stderr);

    let temp = env.folder().join("worker");
    let jobs = Process::jobs_with(&env, &[]).await;
    let of_worker = |temp: &Path| check(&["--jobs"]).env("TEMP_PATH", temp);
    let alive = alive_file(env.folder());
    of_worker(alive.parent().expect("it has a folder")).finish().await.expect_code(0);
    drop(jobs);
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options()
        .write(true)
        .open(&alive)
        .and_then(|file| file.set_modified(hour_ago))
        .expect("it is ours");
    let stale = of_worker(alive.parent().expect("it has a folder")).finish().await.expect_code(1);
    assert!(stale.stderr.contains("the worker has not touched"), "{}", stale.stderr);
    of_worker(&temp).finish().await.expect_code(1);
    env.close().await;
}

#[tokio::test]
async fn a_stale_openapi_document_is_told_with_its_first_line() {
    let folder = crate::support::open_folder();
    let openapi = |arguments: &[&str]| Launch::bifrost(folder.path(), &["openapi"]).args(arguments);

    let document = openapi(&[]).finish().await.expect_code(0);

    assert!(document.json()["paths"]["/api/executions"].is_object());
    std::fs::write(folder.path().join("fresh.json"), &document.stdout).expect("the folder is ours");
    openapi(&["--check", "fresh.json"]).finish().await.expect_code(0);
    let stale: Vec<String> = document
        .stdout
        .lines()
        .enumerate()
        .map(|(n, line)| if n == 2 { format!("{line} ") } else { line.to_owned() })
        .collect();
    std::fs::write(folder.path().join("stale.json"), stale.join("\n")).expect("the folder is ours");
    let told = openapi(&["--check", "stale.json"]).finish().await.expect_code(1);
    assert!(told.stderr.contains("line 3") && told.stderr.contains("bifrost openapi > "), "{}", told.stderr);
    openapi(&["--check", "missing.json"]).finish().await.expect_code(2);
}

#[tokio::test]
async fn the_openapi_document_of_the_repository_is_what_the_handlers_say() {
    let folder = crate::support::open_folder();
    let document = repository().join("docs/openapi.json").display().to_string();
    Launch::bifrost(folder.path(), &["openapi", "--check", &document]).finish().await.expect_code(0);
}

/// `bifrost doctor --json` as a process beside others would see the world.
fn doctor(env: &TestEnv) -> Launch {
    Launch::bifrost(env.folder(), &["doctor", "--json"]).in_env(env).env("BIFROST_STATE_DIR", env.folder())
}

fn finding<'a>(findings: &'a Value, part: &str) -> Option<&'a Value> {
    findings.as_array()?.iter().find(|finding| finding["part"] == part)
}

fn of_verdict<'a>(findings: &'a Value, verdict: &str) -> Vec<&'a Value> {
    let all = findings.as_array().expect("a list of findings");
    all.iter().filter(|finding| finding["verdict"] == verdict).collect()
}

/// The file that the only worker of this folder touches.
fn alive_file(folder: &Path) -> std::path::PathBuf {
    let folders = std::fs::read_dir(folder).expect("it is there").flatten();
    let mut files = folders.map(|entry| entry.path().join("jobs.alive")).filter(|file| file.exists());
    files.next().expect("the worker came alive")
}
