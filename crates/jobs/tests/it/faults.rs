//! Nothing is lost when workers and the broker are killed: real processes, killed by pid.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use domain::Platform;
use domain::executions::submit::{NewExecution, Work};
use domain::settings::Settings;
use secrecy::ExposeSecret;
use sqlx::PgConnection;

use crate::support::{Engine, Installation, PATIENCE, repository};

const RUNS: usize = 500;
const WORKER_KILLS: usize = 20;
const WORKFLOW: &str = "import time\nfrom bifrost import workflow\n\n@workflow()\ndef brief():\n    time.sleep(0.01)\n    return 1\n\n@workflow(retry_policy={'max_attempts': 3, 'backoff': 0})\ndef stubborn():\n    time.sleep(0.01)\n    return 1\n";
/// Remembers every change of state, so that the history can be judged afterwards.
const HISTORY: &str = "
    CREATE TABLE history (id BIGSERIAL, execution_id UUID, before TEXT, after TEXT);
    CREATE FUNCTION remember() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO history (execution_id, before, after) VALUES (NEW.id, OLD.status, NEW.status);
        RETURN NULL;
    END $$;
    CREATE TRIGGER remember AFTER UPDATE OF status ON executions FOR EACH ROW
        WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION remember();";
const TERMINAL: &str = "('Success', 'CompletedWithErrors', 'Failed', 'Timeout', 'Cancelled')";

/// A worker process of its own.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(settings: &Settings, number: usize) -> Self {
        let url = |url: &Option<secrecy::SecretString>| {
            url.as_ref().map(|url| url.expose_secret().to_owned()).unwrap_or_default()
        };
        let temp = settings.temp_path.join(format!("worker-{number}"));
        std::fs::create_dir_all(&temp).expect("a folder");
        let child = Command::new(env!("CARGO_BIN_EXE_bifrost-jobs"))
            .env("DATABASE_URL", url(&settings.database_url))
            .env("RABBITMQ_URL", url(&settings.rabbitmq_url))
            .env("REDIS_URL", url(&settings.redis_url))
            .env("QUEUE_PREFIX", &settings.queue_prefix)
            .env("REDIS_PREFIX", &settings.redis_prefix)
            .env("ENVIRONMENT", "testing")
            .env("SECRET_KEY", url(&settings.secret_key))
            .env("SECRETS_MASTER_KEY", url(&settings.secrets_master_key))
            .env("WORKSPACE_PATH", &settings.workspace_path)
            .env("PLATFORM_PATH", &settings.platform_path)
            .env("TEMP_PATH", temp)
            .env("UV", &settings.uv)
            .env("PACKAGE_INDEX_URL", settings.package_index_url.expose_secret())
            .env("WORKER_SLOTS", "4")
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .expect("the worker starts");
        Self(child)
    }
}

impl Drop for Worker {
    /// As `kill -9` does.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The broker of this test alone, so that killing it disturbs no other.
struct Broker;

impl Broker {
    fn call(arguments: &[&str]) -> String {
        let output = Command::new(repository().join("scripts/services"))
            .args(arguments)
            .args(["--name", "faults"])
            .output()
            .expect("runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn start() -> String {
        Self::call(&["up", "--only", "rabbitmq"]);
        let urls: serde_json::Value = serde_json::from_str(&Self::call(&["env", "--json"])).expect("JSON");
        urls["RABBITMQ_URL"].as_str().expect("is listed").to_owned()
    }

    fn kill_and_restart() {
        Self::call(&["kill", "rabbitmq"]);
        Self::call(&["start", "rabbitmq"]);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ =
            Command::new(repository().join("scripts/services")).args(["down", "--name", "faults"]).output();
    }
}

async fn count(conn: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(conn).await.expect("counts")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_workers_and_the_broker_are_killed() {
    let broker = Broker;
    let url = tokio::task::spawn_blocking(Broker::start).await.expect("starts");
    let site =
        Installation::with_settings(WORKFLOW, |settings| settings.rabbitmq_url = Some(url.into())).await;
    let mut conn = site.test.db.connect().await;
    sqlx::raw_sql(HISTORY).execute(&mut conn).await.expect("remembers");
    let mut workers: Vec<Worker> = (0..2).map(|number| Worker::start(&site.settings, number)).collect();

    let submitting = tokio::spawn(submit_all(site.platform.clone()));
    let mut broker_kills = Vec::new();
    for kill in 1..=WORKER_KILLS {
        // The next fault comes with progress, not with time: every 20 ends.
        let due = i64::try_from(kill * 20).expect("small");
        let waiting_since = Instant::now();
        while count(&mut conn, "SELECT count(*) FROM executions WHERE completed_at IS NOT NULL").await < due {
            assert!(waiting_since.elapsed() < PATIENCE, "no progress before fault {kill}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let victim = kill % 2;
        workers[victim] = Worker::start(&site.settings, 2 + kill);
        if kill == 7 || kill == 14 {
            broker_kills.push(tokio::task::spawn_blocking(Broker::kill_and_restart));
        }
    }
    for restarted in broker_kills {
        restarted.await.expect("restarts");
    }
    let accepted = submitting.await.expect("submits");
    let last_fault = Instant::now();
    let unfinished = format!("SELECT count(*) FROM executions WHERE status NOT IN {TERMINAL}");
    let unfinished: &'static str = unfinished.leak();
    let mut stuck = count(&mut conn, unfinished).await;
    while stuck > 0 && last_fault.elapsed() < Duration::from_secs(40) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stuck = count(&mut conn, unfinished).await;
    }
    let took = last_fault.elapsed();

    let lost =
        i64::try_from(accepted).expect("small") - count(&mut conn, "SELECT count(*) FROM executions").await;
    let out_of_terminal: &'static str =
        format!("SELECT count(*) FROM history WHERE before IN {TERMINAL}").leak();
    let terminal_twice: &'static str = format!(
        "SELECT count(*) FROM (SELECT FROM history WHERE after IN {TERMINAL} GROUP BY execution_id HAVING count(*) <> 1) AS twice"
    )
    .leak();
    let double = count(&mut conn, out_of_terminal).await + count(&mut conn, terminal_twice).await;
    let succeeded = count(&mut conn, "SELECT count(*) FROM executions WHERE status = 'Success'").await;
    let worker_lost =
        count(&mut conn, "SELECT count(*) FROM executions WHERE error_type = 'WorkerLost'").await;
    let retried =
        count(&mut conn, "SELECT count(*) FROM executions WHERE status = 'Success' AND attempt > 1").await;
    println!(
        "faults: {accepted} executions, {WORKER_KILLS} workers and 2 brokers killed; lost {lost}, double terminal {double}, \
         stuck {stuck} after {took:.1?} ({succeeded} succeeded, {retried} of them in a later attempt, {worker_lost} ended as WorkerLost)"
    );
    assert_eq!((accepted, lost, double, stuck), (RUNS, 0, 0, 0));
    assert_eq!(succeeded + worker_lost, i64::try_from(RUNS).expect("small"), "every end has its reason");
    assert!(took < Duration::from_secs(20), "{took:?}");

    drop(workers);
    drop(broker);
    site.close().await;
}

/// Submits while everything around is killed; what is accepted must not be lost.
async fn submit_all(platform: Platform) -> usize {
    let scope = Engine::admin();
    let mut accepted = 0;
    for number in 0..RUNS {
        let name = if number % 2 == 0 { "brief" } else { "stubborn" };
        let workflow = platform.catalog.get(&platform.db, &scope, name).await.expect("is indexed");
        let parameters = serde_json::value::RawValue::from_string("{}".into()).expect("JSON");
        platform
            .submitter
            .submit(&scope, NewExecution::new(Work::Workflow(workflow), parameters))
            .await
            .expect("accepted");
        accepted += 1;
    }
    accepted
}
