//! Tests of templates and their runs with real Python processes.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runner::{
    Config, Context, Enclosure, Frame, Isolation, Kind, Limits, Outcome, ResultFrame, Run, Start, Template,
    WorkflowRef,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::value::RawValue;
use tempfile::TempDir;

const ORG: &str = "0190aaaa-0000-7000-8000-000000000002";

const FLOW: &str = r#"
import threading, time

def one():
    return 1

def leaves_a_thread():
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"#;

/// A template over one workflow file, and the folder that all of it is in.
struct Site {
    template: Arc<Template>,
    folder: TempDir,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let workspace = folder.path().join("workspace");
        std::fs::create_dir(&workspace).expect("a folder");
        std::fs::write(workspace.join("flow.py"), FLOW).expect("writes");
        // A shim of that name would need the environment that the template does not get.
        let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        let python = String::from_utf8(asked.expect("there is Python").stdout).expect("a path");
        let template = Template::start(Config {
            python: python.trim().into(),
            platform: Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../platform")).into(),
            workspace,
            socket_dir: folder.path().join("runner"),
            temp_dir: folder.path().to_owned(),
            enclosure: Enclosure {
                mode: "off".into(),
                network: "open".into(),
                readable: Vec::new(),
                run_as: None,
                cgroup: None,
            },
            generation: "first".into(),
            standby: 2,
            warm: 1,
            packages: None,
            environment_version: 0,
            held: None,
        })
        .await
        .expect("starts");
        Self { template, folder }
    }

    /// Takes processes until there are no more.
    async fn exhaust(&self) {
        let mut taken = Vec::new();
        // From here on a pause of the clock is over as soon as there is nothing else to do.
        tokio::time::pause();
        while let Ok(run) = self.template.run(Isolation::Process, ORG).await {
            taken.push(run);
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.template.ready().pid).expect("is no 0");
        kill_process(pid, signal).expect("is there");
    }
}

/// Runs `one` to its result.
async fn one(run: &mut Run) -> Box<ResultFrame> {
    run_to_its_result(run, "one").await
}

async fn run_to_its_result(run: &mut Run, function: &str) -> Box<ResultFrame> {
    let parameters = RawValue::from_string("{}".into()).expect("JSON");
    let start = Start {
        execution_id: "0190aaaa-0000-7000-8000-000000000001",
        attempt: 1,
        workflow: Some(WorkflowRef { path: "flow.py", function, name: function }),
        code: None,
        script_name: None,
        kind: Kind::Workflow,
        parameters: &parameters,
        startup: None,
        context: Context {
            user_id: "0190aaaa-0000-7000-8000-000000000003",
            email: "user@example.com",
            name: "User",
            scope: ORG,
            organization: None,
            is_platform_admin: false,
            is_function_key: false,
            traceparent: None,
        },
        limits: Limits {
            memory_bytes: None,
            cpu_seconds: None,
            processes: None,
            file_size_bytes: None,
            open_files: None,
            result_bytes: 1 << 20,
        },
        temp_dir: None,
        capture_variables: false,
        pooled: run.is_pooled(),
        generation: "first",
    };
    run.start(&start).await.expect("is sent");
    loop {
        for frame in run.next().await.expect("goes on until its result") {
            if let Frame::Result(result) = frame {
                return result;
            }
        }
    }
}

#[tokio::test]
async fn a_template_that_cannot_fork_counts_as_gone() {
    let site = Site::start().await;
    let mut ready = site.template.run(Isolation::Process, ORG).await.expect("is given");
    assert!(!site.template.is_gone());
    std::fs::remove_file(site.folder.path().join("runner/template.sock")).expect("is there");

    site.exhaust().await;

    assert!(site.template.is_gone());
    assert_eq!(one(&mut ready).await.outcome, Outcome::Success, "a run that has its process goes on");
}

#[tokio::test]
async fn a_template_that_hangs_counts_as_gone() {
    let site = Site::start().await;
    site.signal(Signal::STOP);

    site.exhaust().await;

    // It ends by itself, once it can.
    site.signal(Signal::CONT);
    assert!(site.template.is_gone());
}

#[tokio::test]
async fn a_process_that_was_asked_to_end_serves_no_other_run() {
    let site = Site::start().await;
    for is_asked in [false, true] {
        let mut run = site.template.run(Isolation::Pooled, ORG).await.expect("is given");
        assert_eq!(one(&mut run).await.outcome, Outcome::Success);
        let mark = run.kept::<AtomicBool>();
        mark.store(true, Ordering::Relaxed);
        if is_asked {
            run.terminate();
        }
        run.finish();

        let mut next = site.template.run(Isolation::Pooled, ORG).await.expect("is given");
        assert_eq!(next.kept::<AtomicBool>().load(Ordering::Relaxed), !is_asked, "is the same process");
        assert_eq!(one(&mut next).await.outcome, Outcome::Success);
        next.finish();
    }
}

#[tokio::test]
async fn a_process_in_which_a_run_left_a_thread_serves_no_other_run() {
    let site = Site::start().await;
    for (function, is_last) in [("one", false), ("leaves_a_thread", true)] {
        let mut run = site.template.run(Isolation::Pooled, ORG).await.expect("is given");
        let result = run_to_its_result(&mut run, function).await;
        assert_eq!((result.outcome, result.last), (Outcome::Success, is_last), "{function}");
        run.kept::<AtomicBool>().store(true, Ordering::Relaxed);
        run.finish();

        let mut next = site.template.run(Isolation::Pooled, ORG).await.expect("is given");
        assert_eq!(next.kept::<AtomicBool>().load(Ordering::Relaxed), !is_last, "is the same process");
        assert_eq!(one(&mut next).await.outcome, Outcome::Success);
        next.finish();
    }
}
