//! What a run cannot reach, whatever it tries: other runs, other organizations' files, the worker, and, where the setting
//! asks for it, the services of the platform. Each test says which pieces of the isolation were in force.

use std::os::unix::fs::PermissionsExt;

use domain::Platform;
use domain::executions::Status;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Engine, repository, result, user_of, write_file};

const CANARY: &str = "c4nary-of-somebody-else";

const FLOWS: &str = r#"
import logging, os, signal, socket, tempfile, time
from bifrost import files, workflow

log = logging.getLogger(__name__)

@workflow()
def keeps_a_secret(canary: str):
    files.write("private/canary.txt", canary)
    files.write("canary.txt", canary, location="temp")
    os.environ["CANARY"] = canary
    log.info("folder %s", tempfile.gettempdir())
    time.sleep(600)

def everything_below(folder, most=2000):
    found = []
    for place, _, names in os.walk(folder):
        found.extend(os.path.join(place, name) for name in names)
        if len(found) > most:
            break
    return found

@workflow()
def pries(canary: str, folders: list, files_: list):
    read, tried = [], 0
    own = os.readlink("/proc/self")
    places = list(files_)
    for folder in folders:
        tried += 1
        try:
            if os.listdir(folder): read.append(folder + "/")
        except OSError: pass
        places += everything_below(folder)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if pid != own:
            places += [f"/proc/{pid}/{what}" for what in ("environ", "mem", "maps", "root/etc/hostname", "cwd/canary.txt")]
    for place in places:
        tried += 1
        try:
            with open(place, "rb") as file:
                content = file.read(1 << 16)
        except OSError:
            continue
        if content: read.append(place)
    for way in ("/workspace/.overlays", "../.overlays", ".overlays", "private/canary.txt", ".env"):
        tried += 1
        try:
            if canary in files.read(way): read.append(way)
        except (OSError, ValueError): pass
    return {"tried": tried, "read": read}

@workflow()
def connects(ports: list, sockets: list):
    reached = []
    for port in ports:
        try:
            socket.create_connection(("127.0.0.1", port), 3).close()
            reached.append(port)
        except OSError: pass
    for path in sockets:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(3)
            try:
                s.connect(path)
                if s.recv(1): reached.append(path)
            except OSError: pass
    return reached
"#;

/// The pieces that runs of this engine have, as the interpreter says.
async fn pieces(engine: &Engine) -> Vec<String> {
    let pieces = jobs::isolation(&engine.platform.settings).await.expect("says");
    pieces.into_iter().filter(|piece| piece.used).map(|piece| piece.name).collect()
}

#[tokio::test]
async fn a_run_reads_nothing_of_others_and_nothing_of_the_platform() {
    let engine = Engine::on_files(&[("flows.py", FLOWS), (".env", CANARY), ("shared.txt", "for all")]).await;
    let in_force = pieces(&engine).await;
    // Without these the test would pass by luck; all of them need no rights.
    for piece in ["process tree", "system calls", "file system"] {
        assert!(in_force.iter().any(|used| used == piece), "{piece} is not in force: {in_force:?}");
    }
    let (acme, rival) = (user_of(engine.org("acme").await), user_of(engine.org("rival").await));
    let keeper = engine.submit(&acme, "keeps_a_secret", json!({ "canary": CANARY })).await;
    let line = engine.logged(keeper, "folder ").await.message;
    let other_run = line.trim_start_matches("folder ").to_owned();
    assert_eq!(std::fs::read_to_string(format!("{other_run}/canary.txt")).expect("is there"), CANARY);
    let settings = &engine.platform.settings;
    let private = tempfile::tempdir().expect("a folder");
    for (name, content) in
        [("master.key", settings.secrets_master_key.as_ref()), ("signing.key", settings.secret_key.as_ref())]
    {
        let content = content.expect("is set").expose_secret();
        std::fs::write(private.path().join(name), content).expect("writes");
        // As if somebody had been careless.
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(private.path().join(name), open).expect("is ours");
    }
    std::fs::set_permissions(private.path(), std::fs::Permissions::from_mode(0o755)).expect("is ours");
    let temp = settings.temp_path.display().to_string();
    let overlays = engine.workspace.join(".overlays").display().to_string();
    let folders =
        json!([other_run, temp, overlays, private.path(), settings.uploads_path, "/root", "/var/lib"]);
    let files = json!([
        format!("{other_run}/canary.txt"),
        private.path().join("master.key"),
        private.path().join("signing.key"),
        engine.workspace.join(".env"),
        format!("/proc/{}/environ", std::process::id()),
        "/proc/1/environ",
    ]);

    let parameters = json!({ "canary": CANARY, "folders": folders, "files_": files });
    let run = engine.run(&rival, "pries", parameters).await;

    assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
    let found = result(&run);
    let read: Vec<&Value> = found["read"].as_array().expect("a list").iter().collect();
    println!("canaries: tried {}, read {}; in force: {}", found["tried"], read.len(), in_force.join(", "));
    assert!(read.is_empty(), "{read:?}");
    assert!(found["tried"].as_u64() > Some(50), "{found}");
    engine.close().await;
}

#[tokio::test]
async fn a_run_gets_no_process_from_the_socket_of_the_template_and_reaches_named_ports_alone() {
    let engine = Engine::with_settings(&[("flows.py", FLOWS)], |settings| {
        settings.run_network = "443".into();
    })
    .await;
    let all = engine.test.settings();
    let urls = [&all.database_url, &all.rabbitmq_url, &all.redis_url];
    let ports: Vec<u16> = urls
        .iter()
        .map(|url| {
            let url = url.as_ref().expect("is set").expose_secret();
            let url: url::Url = url.parse().expect("a URL");
            url.port().unwrap_or_else(|| if url.scheme() == "amqp" { 5672 } else { 6379 })
        })
        .collect();
    for port in &ports {
        std::net::TcpStream::connect(("127.0.0.1", *port)).expect("the service is there");
    }
    // Something must run, so that a template is there.
    engine.run(&Engine::admin(), "connects", json!({ "ports": [], "sockets": [] })).await;
    let sockets: Vec<_> = std::fs::read_dir(&engine.platform.settings.temp_path)
        .expect("reads")
        .flatten()
        .map(|entry| entry.path().join("template.sock"))
        .filter(|path| path.exists())
        .collect();
    assert!(!sockets.is_empty());

    let run = engine.run(&Engine::admin(), "connects", json!({ "ports": ports, "sockets": sockets })).await;

    let in_force = pieces(&engine).await;
    println!(
        "PostgreSQL, RabbitMQ, Redis, template: reached {}; in force: {}",
        result(&run),
        in_force.join(", ")
    );
    assert!(in_force.iter().any(|piece| piece == "network"), "{in_force:?}");
    assert_eq!(result(&run), json!([]), "{:?}", run.error_message);
    engine.close().await;
}

#[tokio::test]
async fn directories_of_runs_are_gone_when_the_runs_are() {
    let source = "import tempfile\nfrom bifrost import workflow\n\n@workflow()\ndef leaves():\n    import os\n    for n in range(20):\n        os.makedirs(tempfile.gettempdir() + f'/{n}/deep')\n    return tempfile.gettempdir()\n\n@workflow(isolation='pooled')\ndef leaves_pooled():\n    open(tempfile.gettempdir() + '/left', 'w').close()\n    return tempfile.gettempdir()\n";
    // Not the engine's own, which would take everything with it.
    let place = tempfile::Builder::new().prefix("bifrost-temp-").tempdir().expect("a folder");
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).expect("is ours");
    let engine = Engine::with_settings(&[("leaves.py", source)], |settings| {
        settings.temp_path = place.path().to_owned();
    })
    .await;
    let scope = Engine::admin();
    let mut seen = Vec::new();
    for name in ["leaves", "leaves", "leaves_pooled", "leaves_pooled"] {
        let run = engine.run(&scope, name, json!({})).await;
        assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
        seen.push(result(&run).as_str().expect("a path").to_owned());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4, "each run has its own: {seen:?}");
    testkit::eventually("the directories are removed", || async {
        (seen.iter().filter(|path| std::path::Path::new(path).exists()).count() <= 1).then_some(())
    })
    .await;
    let temp = place.path();
    engine.close().await;
    testkit::eventually("nothing is left", || async move {
        let entries = std::fs::read_dir(temp).expect("reads").flatten();
        let left = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"runs-")).count();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn required_isolation_that_cannot_be_had_stops_the_start_and_says_why() {
    let engine = Engine::on_files(&[("flows.py", FLOWS)]).await;
    // An interpreter as on a kernel without Landlock, whose calls are unknown there.
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("is ours");
    let python = folder.path().join("python3");
    let platform_path = repository().join("platform").canonicalize().expect("is there");
    let script = format!(
        "#!/usr/bin/python3 -sP\nimport os, sys\nsys.path.insert(0, {:?})\nfrom bifrost._host import seccomp\nfrom bifrost._host.libc import LIBC\nLIBC.prctl(38, 1, 0, 0, 0)\nassert seccomp.take_on(seccomp.refusing(seccomp.machine(), (444, 445, 446), 38))\nos.execv('/usr/bin/python3', ['/usr/bin/python3', *sys.argv[1:]])\n",
        platform_path.display().to_string()
    );
    write_file(folder.path(), "python3", &script);
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).expect("is ours");
    let mut settings = domain::settings::Settings::clone(&engine.platform.settings);
    settings.python = python;
    let missing = jobs::isolation(&settings).await.expect("says");
    let missing: Vec<&str> =
        missing.iter().filter(|piece| piece.needed && !piece.available).map(|piece| &*piece.name).collect();
    assert_eq!(missing, ["file system"]);

    settings.isolation = "required".into();
    let platform = Platform::open(settings).expect("opens");
    let refused = jobs::run(platform.clone(), CancellationToken::new()).await.expect_err("refuses");

    let said = refused.to_string();
    println!("{said}");
    assert!(said.contains("ISOLATION is required") && said.contains("file system: the kernel"), "{said}");
    platform.db.close().await;
    engine.close().await;
}
