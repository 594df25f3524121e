//! Packages: built beside the environment in use, switched to as a whole, used by every worker's next run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use domain::background_jobs::{self, Job, Status, upkeep};
use domain::events::{Event, News};
use domain::id::JobId;
use domain::packages::{self, Change, Environment};
use domain::settings::Settings;
use domain::{OrgScope, Platform, executions};
use serde_json::{Value, json};
use testkit::{PackageIndex, Wheel, eventually, eventually_within, repository};

use crate::support::{Engine, PATIENCE, result, write_file};

/// Says which versions a run gets, and where from; `None` for what cannot be imported.
pub(crate) const VERSIONS: &str = "import importlib
from bifrost import workflow

def version(name):
    try:
        return importlib.import_module(name).VERSION
    except ImportError:
        return None

@workflow()
def versions():
    return {'alpha': version('alpha'), 'beta': version('beta')}

@workflow()
def late(path: str):
    import os, time
    print('waiting')
    while not os.path.exists(path):
        time.sleep(0.02)
    return {'alpha': version('alpha'), 'beta': version('beta')}

@workflow()
def place():
    import alpha
    return {'version': alpha.VERSION, 'file': alpha.__file__}
";

/// An index with two packages that only go together in the same version.
pub(crate) async fn index() -> PackageIndex {
    let index = PackageIndex::start().await;
    for version in ["1.0", "2.0"] {
        index.add(&Wheel::new("alpha", version).requires(&format!("beta=={version}")));
        index.add(&Wheel::new("beta", version));
    }
    index
}

async fn engine(index: &PackageIndex, change: impl FnOnce(&mut Settings)) -> Engine {
    Engine::with_settings(&[("versions.py", VERSIONS)], |settings| {
        settings.package_index_url = index.url().into();
        change(settings);
    })
    .await
}

pub(crate) fn install(name: &str, version: Option<&str>) -> Change {
    Change::Install {
        name: name.parse().expect("a name"),
        version: version.map(|version| version.parse().expect("a version")),
    }
}

fn uninstall(name: &str) -> Change {
    Change::Uninstall { name: name.parse().expect("a name") }
}

/// Asks for a change, as the api does.
pub(crate) async fn ask(platform: &Platform, change: &Change) -> JobId {
    let mut tx = platform.db.begin(&Engine::admin()).await.expect("begins");
    let job = packages::request(&mut tx, change, None).await.expect("asks");
    tx.commit().await.expect("commits");
    let id = job.id;
    job.announce(platform);
    id
}

pub(crate) async fn job(platform: &Platform, id: JobId) -> Job {
    let mut tx = platform.db.begin(&Engine::admin()).await.expect("begins");
    background_jobs::get(&mut tx, id).await.expect("is there")
}

pub(crate) async fn ended(platform: &Platform, id: JobId) -> Job {
    eventually_within(PATIENCE, "the end of a build", || async {
        let job = job(platform, id).await;
        job.status.is_terminal().then_some(job)
    })
    .await
}

async fn change(engine: &Engine, change: &Change) -> Job {
    ended(&engine.platform, ask(&engine.platform, change).await).await
}

async fn current(engine: &Engine) -> Environment {
    packages::current(&engine.platform.db).await.expect("reads")
}

async fn versions(engine: &Engine) -> Value {
    result(&engine.run(&Engine::admin(), "versions", json!({})).await)
}

fn requirements(engine: &Engine) -> Option<String> {
    std::fs::read_to_string(engine.workspace.join("requirements.txt")).ok()
}

/// The environments of a folder.
fn environments(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let folders = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    folders
        .filter(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")))
        .collect()
}

/// What an environment lacks of what its records list.
fn missing(environment: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    let mut records = 0;
    for entry in std::fs::read_dir(environment).expect("is there").flatten() {
        let Ok(record) = std::fs::read_to_string(entry.path().join("RECORD")) else { continue };
        records += 1;
        for path in record.lines().filter_map(|line| line.split(',').next()) {
            if !environment.join(path).exists() {
                missing.push(path.to_owned());
            }
        }
    }
    assert!(records > 0, "{} holds packages", environment.display());
    missing
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_installed_changed_removed_and_brought_back() {
    let index = index().await;
    the_life_of_a_package(&index, engine(&index, |_| {}).await, "uv").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_uv_pip_does_the_same() {
    let index = index().await;
    index.speak_html(true);
    let python = repository().join(".bifrost/venv/bin/python");
    assert!(python.exists(), "scripts/python-tools makes it");
    let engine = engine(&index, |settings| {
        settings.uv = "/nowhere/uv".into();
        settings.python = python;
    })
    .await;
    the_life_of_a_package(&index, engine, "pip").await;
}

async fn the_life_of_a_package(index: &PackageIndex, engine: Engine, tool: &str) {
    let mut events = engine.platform.events.everything();
    assert_eq!(versions(&engine).await, json!({"alpha": null, "beta": null}));
    let began = Instant::now();
    let id = ask(&engine.platform, &install("Alpha", Some("<2"))).await;
    let done = ended(&engine.platform, id).await;
    let took = began.elapsed();
    assert_eq!((done.status, done.attempt), (Status::Success, 1), "{:?}", done.message);
    assert_eq!(done.message.as_deref(), Some("Installed alpha 1.0."));
    assert_eq!(versions(&engine).await, json!({"alpha": "1.0", "beta": "1.0"}), "the next run has it");
    assert_eq!(requirements(&engine).as_deref(), Some("alpha<2\n"));
    let listed: Vec<String> =
        current(&engine).await.packages.iter().map(|one| format!("{}=={}", one.name, one.version)).collect();
    assert_eq!(listed, ["alpha==1.0", "beta==1.0"]);
    println!("packages with {tool}: installed after {took:.1?}, {} requests to the index", index.requests());

    let (mut lines, mut told) = (0, None);
    while told.is_none() {
        if let Event::Progress(progress) = &*events.recv().await.expect("is told")
            && progress.job_id == id
        {
            match &progress.news {
                News::Log { message, .. } => {
                    assert!(!message.contains("127.0.0.1"), "{message}");
                    lines += 1;
                }
                News::Complete { status, result, .. } => told = Some((status.clone(), result.clone())),
            }
        }
    }
    let (status, members) = told.expect("was told");
    assert_eq!((status.as_str(), &members["packages"]), ("success", &json!(2)));
    assert!(lines >= 2, "{lines} lines");

    // A run that has begun keeps what it began with.
    let signal = engine.workspace.join("signal");
    let admin = Engine::admin();
    let old = engine.submit(&admin, "late", json!({"path": signal.display().to_string()})).await;
    engine.logged(old, "waiting").await;
    let newer = change(&engine, &install("alpha", None)).await;
    assert_eq!(newer.message.as_deref(), Some("Installed alpha 2.0."));
    assert_eq!(versions(&engine).await, json!({"alpha": "2.0", "beta": "2.0"}));
    assert_eq!(requirements(&engine).as_deref(), Some("alpha==2.0\n"), "the newest is pinned");
    std::fs::write(&signal, "").expect("writes");
    assert_eq!(result(&engine.ended(old).await), json!({"alpha": "1.0", "beta": "1.0"}));

    let removed = change(&engine, &uninstall("alpha")).await;
    assert_eq!(removed.message.as_deref(), Some("Removed alpha."));
    assert_eq!(versions(&engine).await, json!({"alpha": null, "beta": null}));
    assert_eq!((requirements(&engine).as_deref(), current(&engine).await.id), (Some(""), None));

    let back = change(&engine, &Change::RollBack).await;
    assert_eq!(back.status, Status::Success, "{:?}", back.message);
    assert_eq!(versions(&engine).await, json!({"alpha": "2.0", "beta": "2.0"}));
    assert_eq!(requirements(&engine).as_deref(), Some("alpha==2.0\n"));

    // The first one is neither in use nor the one before.
    let root = engine.platform.settings.environments();
    eventually("the first environment to be collected", || async {
        (environments(&root).len() == 1).then_some(())
    })
    .await;
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_changes_nothing() {
    let index = index().await;
    let canary = tempfile::tempdir().expect("a folder");
    let canary = canary.path().join("canary");
    let setup = format!(
        "open({:?}, 'w').write('ran')\nfrom setuptools import setup\nsetup()\n",
        canary.display().to_string()
    );
    index.add_source("evil", "1.0", &setup);
    index.add(&Wheel::new("gamma", "1.0").requires("beta==3.0"));
    index.add(&Wheel::new("delta", "1.0").requires("beta @ https://evil.example/beta-9.0-py3-none-any.whl"));
    index.add(&Wheel::new("climber", "1.0").file("../../climbed.py", "").file("../climbed.py", ""));
    let engine = engine(&index, |_| {}).await;
    change(&engine, &install("alpha", Some("1.0"))).await;
    let before = (current(&engine).await.version, requirements(&engine));

    let mut failed = 0;
    for (name, version) in
        [("nosuch", None), ("alpha", Some("9.9")), ("gamma", None), ("evil", None), ("delta", None)]
    {
        let ended = change(&engine, &install(name, version)).await;
        let message = ended.message.expect("says why");
        assert_eq!(ended.status, Status::Failed, "{name}: {message}");
        assert!(message.starts_with("The packages cannot be installed; nothing was changed.\n"), "{message}");
        assert!(!message.contains("127.0.0.1") && !message.contains("/tmp/"), "{message}");
        failed += 1;
    }
    // Whether the installer refuses it or leaves the file out: it must not lie outside.
    let climbing = change(&engine, &install("climber", None)).await;
    if climbing.status == Status::Success {
        change(&engine, &Change::RollBack).await;
    }
    let temp = &engine.platform.settings.temp_path;
    let outside = [engine.platform.settings.environments(), temp.clone(), temp.join("..")];
    assert!(outside.iter().all(|folder| !folder.join("climbed.py").exists()));
    let before = (current(&engine).await.version, before.1);
    let other = change(&engine, &uninstall("beta")).await;
    assert!(other.message.expect("says why").contains("other packages need it"));
    for line in
        ["--index-url https://evil.example/simple", "evil @ file:///tmp/evil.whl", "-e .", "-r /etc/passwd"]
    {
        write_file(&engine.workspace, "requirements.txt", &format!("alpha==1.0\n{line}\n"));
        let ended = change(&engine, &install("beta", None)).await;
        assert_eq!(ended.status, Status::Failed, "{line}");
        assert!(ended.message.expect("says why").starts_with("requirements.txt, line 2: "), "{line}");
        failed += 1;
    }
    write_file(&engine.workspace, "requirements.txt", "alpha==1.0\n");
    index.fail(true);
    let away = change(&engine, &install("alpha", Some("2.0"))).await;
    assert_eq!(away.status, Status::Failed);
    failed += 1;

    assert_eq!((current(&engine).await.version, requirements(&engine)), before);
    assert_eq!(versions(&engine).await, json!({"alpha": "1.0", "beta": "1.0"}));
    println!(
        "packages: {failed} failed builds, changed 0, code of a source package run {}",
        u8::from(canary.exists())
    );
    assert!(!canary.exists());
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_of_a_package_runs_in_runs_alone() {
    let index = PackageIndex::start().await;
    let mark = tempfile::tempdir().expect("a folder");
    let mark = mark.path().join("mark");
    let code =
        format!("import os\nopen({:?}, 'a').write(f'{{os.getpid()}}\\n')\n", mark.display().to_string());
    index.add(
        &Wheel::new("marker", "1.0")
            .file("marker.pth", "import os, marker.mark\n")
            .file("marker/mark.py", &code),
    );
    let source =
        "import marker.mark\nfrom bifrost import workflow\n\n@workflow()\ndef marked():\n    return 1\n";
    let engine = Engine::with_settings(&[("marked.py", source)], |settings| {
        settings.package_index_url = index.url().into();
    })
    .await;
    let installed = change(&engine, &install("marker", None)).await;
    assert_eq!(installed.status, Status::Success, "{:?}", installed.message);
    let version = current(&engine).await.version;
    // By then the new template has looked at the workspace, which imports it.
    let ended = engine.run(&Engine::admin(), "marked", json!({})).await;
    let ran = std::fs::read_to_string(&mark).map_or(0, |text| text.lines().count());
    println!(
        "packages: code of a package ran {ran} times in the template and one run (environment {version})"
    );
    // Where runs are another user they cannot write the mark, and fail.
    let is_run = u8::from(ended.status == executions::Status::Success);
    assert!(ran <= usize::from(is_run), "nothing but the run imports it");
    engine.close().await;
}

/// Two workers on machines of their own, as far as the environments are concerned.
struct Workers {
    test: testkit::TestEnv,
    platform: Platform,
    settings: Settings,
    _folder: tempfile::TempDir,
}

impl Workers {
    async fn prepare(index: &PackageIndex) -> Self {
        let folder = tempfile::Builder::new().prefix("bifrost-packages-").tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("is ours");
        write_file(&folder.path().join("workspace"), "versions.py", VERSIONS);
        let test = testkit::TestEnv::with_files(&[]).await;
        let mut settings = test.settings();
        settings.workspace_path = folder.path().join("workspace");
        settings.temp_path = folder.path().to_owned();
        settings.package_index_url = index.url().into();
        let platform = Platform::open(settings.clone()).expect("opens");
        jobs::index_once(&platform).await.expect("indexes");
        Self { test, platform, settings, _folder: folder }
    }

    async fn run(&self, workflow: &str) -> Value {
        let scope: OrgScope = Engine::admin();
        let workflow =
            self.platform.catalog.get(&self.platform.db, &scope, workflow).await.expect("is indexed");
        let raw = serde_json::value::RawValue::from_string("{}".into()).expect("JSON");
        let new = executions::submit::NewExecution::new(executions::submit::Work::Workflow(workflow), raw);
        let id = self.platform.submitter.submit(&scope, new).await.expect("accepted").id;
        let execution = eventually_within(PATIENCE, "the end of a run", || async {
            let mut tx = self.platform.db.begin(&scope.clone().widened()).await.expect("begins");
            let execution = executions::list::get(&mut tx, id).await.expect("is there");
            execution.status.is_terminal().then_some(execution)
        })
        .await;
        assert_eq!(execution.status, executions::Status::Success, "{:?}", execution.error_message);
        result(&execution)
    }

    fn environments(&self, worker: usize) -> Vec<PathBuf> {
        environments(&self.settings.temp_path.join(format!("worker-{worker}/environments")))
    }

    async fn close(self) {
        self.platform.db.close().await;
        self.test.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_worker_has_the_new_packages_before_its_next_run() {
    let index = index().await;
    let workers = Workers::prepare(&index).await;
    let running = [
        crate::faults::Worker::start(&workers.settings, 0),
        crate::faults::Worker::start(&workers.settings, 1),
    ];
    let (mut stale, mut places) = (0, std::collections::HashSet::new());
    for round in 0..6 {
        let wanted = if round % 2 == 0 { "1.0" } else { "2.0" };
        let id = ask(&workers.platform, &install("alpha", Some(wanted))).await;
        // From the switch on, whoever runs: also the worker that did not build it and has not heard of it.
        let switched = || async {
            let current = packages::current(&workers.platform.db).await.expect("reads");
            (current.job_id == Some(id)).then_some(())
        };
        eventually_within(PATIENCE, "the switch", switched).await;
        let runs = futures::future::join_all((0..12).map(|_| workers.run("place"))).await;
        for run in runs {
            stale += usize::from(run["version"] != wanted);
            let file = run["file"].as_str().expect("a path").to_owned();
            places.insert(file.split("/environments/").next().expect("before it").to_owned());
        }
        assert_eq!(ended(&workers.platform, id).await.status, Status::Success);
    }
    println!("packages: 6 switches, 72 runs on {} workers, with old packages {stale}", places.len());
    assert_eq!((stale, places.len()), (0, 2));
    drop(running);
    workers.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_get_the_packages_gives_its_runs_back() {
    let index = index().await;
    let workers = Workers::prepare(&index).await;
    let mut cut_off = workers.settings.clone();
    cut_off.package_index_url = "http://127.0.0.1:9/simple".into();
    let running =
        [crate::faults::Worker::start(&workers.settings, 0), crate::faults::Worker::start(&cut_off, 1)];
    let capacity = || async {
        let capacity = domain::workers::capacity(&workers.platform.db).await.expect("reads");
        (capacity.workers == 2).then_some(())
    };
    eventually_within(PATIENCE, "both workers", capacity).await;
    // Whichever gets the job: the one that is cut off fails it, and changes nothing.
    let mut refused = 0;
    while ended(&workers.platform, ask(&workers.platform, &install("alpha", Some("1.0"))).await).await.status
        != Status::Success
    {
        refused += 1;
        assert!(refused < 20, "the other one gets it at some time");
    }
    let began = Instant::now();
    let runs = futures::future::join_all((0..24).map(|_| workers.run("versions"))).await;
    let right = runs.iter().filter(|run| **run == json!({"alpha": "1.0", "beta": "1.0"})).count();
    let mut conn = workers.test.db.connect().await;
    let again: i64 = sqlx::query_scalar("SELECT count(*) FROM executions WHERE attempt > 1")
        .fetch_one(&mut conn)
        .await
        .expect("counts");
    println!(
        "packages: beside a worker that cannot get them {right} of 24 runs have them after {:.1?}; given back {again}",
        began.elapsed()
    );
    assert_eq!(right, 24);
    drop(running);
    workers.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_build_leaves_the_old_environment_or_the_new_one() {
    const KILLS: usize = 20;
    let index = index().await;
    let workers = Workers::prepare(&index).await;
    let platform = &workers.platform;
    let mut worker = crate::faults::Worker::start(&workers.settings, 0);
    let first = ask(platform, &install("alpha", Some("1.0"))).await;
    assert_eq!(ended(platform, first).await.status, Status::Success);
    index.delay(Duration::from_millis(20));
    let (mut old, mut new, mut torn, mut incomplete, mut differing, mut interrupted) = (0, 0, 0, 0, 0, 0);
    let mut conn = workers.test.db.connect().await;
    for kill in 0..KILLS {
        // A version of its own, so that there is something to build.
        let (before, wanted) = (format!("{}.0", kill + 1), format!("{}.0", kill + 2));
        index.add(&Wheel::new("alpha", &wanted).requires(&format!("beta=={wanted}")));
        index.add(&Wheel::new("beta", &wanted));
        let asked = index.requests();
        let id = ask(platform, &install("alpha", Some(&wanted))).await;
        // The kill comes with progress: after so many requests of the build, or when it has switched.
        eventually_within(PATIENCE, "the build to get so far", || async {
            let is_far = index.requests() >= asked + 1 + kill % 10;
            (is_far || job(platform, id).await.status.is_terminal()).then_some(())
        })
        .await;
        drop(worker);
        worker = crate::faults::Worker::start(&workers.settings, 0);
        let seen = workers.run("versions").await;
        match (seen["alpha"].as_str(), seen["beta"].as_str()) {
            (Some(alpha), Some(beta)) if alpha == beta && alpha == before => old += 1,
            (Some(alpha), Some(beta)) if alpha == beta && alpha == wanted => new += 1,
            _ => torn += 1,
        }
        incomplete += workers.environments(0).iter().filter(|one| !missing(one).is_empty()).count();
        // Its worker is dead: the lease need not be waited for.
        let expired = sqlx::query(
            "UPDATE background_jobs SET lease_expires_at = now() - interval '1 second'
             WHERE id = $1 AND status = 'Running' AND attempt = 1",
        )
        .bind(id.0)
        .execute(&mut conn)
        .await
        .expect("writes");
        if expired.rows_affected() > 0 {
            interrupted += 1;
            upkeep::reap(platform).await.expect("reaps");
            upkeep::wake_next(&platform.db, &platform.wakeups).await.expect("wakes");
        }
        let ended = ended(platform, id).await;
        assert_eq!(ended.status, Status::Success, "{:?}", ended.message);
        let file = std::fs::read_to_string(workers.settings.workspace_path.join("requirements.txt"))
            .expect("is there");
        differing += usize::from(file != format!("alpha=={wanted}\n"));
        assert_eq!(workers.run("versions").await, json!({"alpha": wanted, "beta": wanted}));
    }
    println!(
        "packages: {KILLS} kills, {interrupted} within the build; the run after saw the old environment {old} times, the new one {new} times, \
         torn {torn}; incomplete environments {incomplete}, requirements.txt that did not follow {differing}"
    );
    assert_eq!((torn, incomplete, differing, old + new), (0, 0, 0, KILLS));
    assert!(interrupted >= KILLS / 2, "{interrupted}");
    drop(worker);
    workers.close().await;
}
