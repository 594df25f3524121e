//! The command line as a client: what it prints where, and the exit codes that scripts rely on.

use std::path::Path;

use serde_json::{Value, json};
use testkit::{Ended, Launch, binary};
use tokio::net::{TcpListener, TcpStream};
use totp_rs::{Builder, Secret};

use crate::support::{
    EMAIL, Installation, PASSWORD, mode_of, open_folder, status_of, submit, wait_for_end, wait_for_status,
};

#[tokio::test]
async fn runs_print_their_log_result_and_exit_code_where_scripts_look_for_them() {
    let site = Installation::start().await;
    let said = site.log_in().await;
    assert!(said.stdout.contains(EMAIL), "{}", said.stdout);
    let credentials = site.env.folder().join(".bifrost/credentials.json");
    assert_eq!(mode_of(&credentials), 0o600);
    let kept = std::fs::read_to_string(&credentials).expect("they were written");
    assert!(!kept.contains(PASSWORD), "a password that a person chose is not kept");
    let run = async |arguments: &[&str]| site.bifrost(&["run"]).args(arguments).finish().await;

    let greeted = run(&["greet", "name=Grace Hopper", "times=2"]).await.expect_code(0);
    assert_eq!(greeted.json(), json!({ "greeting": "Hello Grace Hopper Hello Grace Hopper" }));
    assert!(greeted.stderr.contains("greeting Grace Hopper") && greeted.stderr.contains("Success"));

    let text = run(&["says_so"]).await.expect_code(0);
    assert_eq!(text.stdout, "plain text\n", "text is printed as it is");

    let record = run(&["greet", "name=Ada", "--json"]).await.expect_code(0).json();
    assert_eq!((&record["status"], &record["input_data"]["name"]), (&json!("Success"), &json!("Ada")));

    let failed = run(&["fails"]).await.expect_code(1);
    assert!(
        failed.stderr.contains("Failed") && failed.stderr.contains("the printer is on fire"),
        "{}",
        failed.stderr
    );
    assert_eq!(failed.stdout, "", "a failed run has no result");
    assert_eq!(run(&["fails", "--json"]).await.expect_code(1).json()["status"], "Failed");

    let late = run(&["dawdles"]).await.expect_code(124);
    assert!(late.stderr.contains("Timeout"), "{}", late.stderr);

    let id = run(&["says_so", "--no-wait"]).await.expect_code(0).stdout;
    assert_eq!(wait_for_end(&site.client, id.trim()).await["status"], "Success");
    site.close().await;
}

#[tokio::test]
async fn wrong_usage_says_what_is_wrong_and_what_to_do() {
    let site = Installation::start().await;
    let nobody = site.bifrost(&["run", "greet", "--url", site.api.url()]).finish().await.expect_code(1);
    says(&nobody, &["not signed in", "next:  bifrost login"]);
    let wrong = ["login", "--url", site.api.url(), "--email", EMAIL, "--password-stdin"];
    let refused = site.bifrost(&wrong).input("not the password").finish().await.expect_code(1);
    let again = format!("next:  bifrost login --url {} --email {EMAIL}", site.api.url());
    says(&refused, &["request ", &again]);
    assert!(!site.env.folder().join(".bifrost").exists(), "nobody is signed in");
    site.log_in().await;

    for (arguments, code, expected) in [
        (&["run", "no_such_workflow"][..], 2, &["no such workflow", "404", "request ", "next:"][..]),
        (&["run", "greet", "name=Ada", "times=often"], 2, &["/input_data/times", "422", "request "]),
        (&["run", "greet"], 2, &["/input_data/name", "422"]),
        (&["run", "greet", "name"], 2, &["name is not KEY=VALUE", "next:"]),
        (&["run"], 2, &["WORKFLOW"]),
        (&["run", "greet", "--url", "http://127.0.0.1:9"], 1, &["not signed in to http://127.0.0.1:9"]),
        (&["executions", "show", "not-a-uuid"], 2, &["not-a-uuid"]),
        (
            &["executions", "show", "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11"],
            2,
            &["404", "request ", "next:  bifrost executions list"],
        ),
        (&["executions", "list", "--status", "success"], 2, &["--status", "CompletedWithErrors"]),
        (&["healthcheck", "--url", "junk"], 2, &["junk is not an address", "next:"]),
        (&["executions", "list", "--limit", "0"], 2, &["--limit"]),
    ] {
        let ended = site.bifrost(arguments).finish().await;
        assert_eq!((ended.code, &*ended.stdout), (Some(code), ""), "{arguments:?}: {}", ended.stderr);
        says(&ended, expected);
    }
    site.close().await;
}

#[tokio::test]
async fn output_that_cannot_be_written_is_a_failure_and_never_a_panic() {
    let folder = open_folder();
    let program = binary("bifrost").display().to_string();
    for (command, code, said) in [
        ("openapi > /dev/full", 1, "cannot write to standard output"),
        ("openapi --check nothing 2> /dev/full", 2, ""),
        // A reader that has seen enough.
        ("openapi | head -c 1", 0, ""),
    ] {
        let script = format!("'{program}' {command}");
        let ended = Launch::of(Path::new("/bin/sh"), folder.path()).args(&["-c", &script]).finish().await;
        let ended = ended.expect_code(code);
        assert!(ended.stderr.contains(said) && !ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_second_factor_is_asked_for_and_given() {
    let site = Installation::start().await;
    let begun = site.client.post("/auth/mfa/totp/setup", &json!({})).await.text("secret");
    let secret = Secret::try_from_base32(&begun).expect("base32");
    let app = Builder::new().with_secret(secret).with_account_name("a").build().expect("valid");
    let now = u64::try_from(chrono::Utc::now().timestamp()).expect("after 1970");
    let body = json!({ "code": app.generate(now).to_string() });
    let enrolled = site.client.post("/auth/mfa/totp/verify", &body).await.json();
    let recovery = enrolled["recovery_codes"][0].as_str().expect("a code").to_owned();
    let log_in = async |more: &[&str]| {
        let arguments = ["login", "--url", site.api.url(), "--email", EMAIL, "--password-stdin"];
        site.bifrost(&arguments).args(more).input(PASSWORD).finish().await
    };

    says(&log_in(&[]).await.expect_code(2), &["second factor", "next:  bifrost login --code CODE"]);
    says(&log_in(&["--code", "not a code"]).await.expect_code(1), &["request "]);
    assert!(!site.env.folder().join(".bifrost").exists(), "the password alone signs nobody in");
    log_in(&["--code", &recovery]).await.expect_code(0);
    let ran = site.bifrost(&["run", "says_so"]).finish().await.expect_code(0);
    assert_eq!(ran.stdout, "plain text\n");
    site.close().await;
}

/// A way to the api on which a request can be held back.
struct Door {
    listener: TcpListener,
    api: String,
}

impl Door {
    /// Waits for the next connection, which stays where it is.
    async fn hold(&self) -> TcpStream {
        self.listener.accept().await.expect("the listener is ours").0
    }

    /// Lets a connection through.
    fn pass(&self, mut client: TcpStream) {
        let api = self.api.clone();
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(api).await {
                // It ends when either side does.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }

    /// Lets everybody through until this is done.
    async fn open_until<T>(&self, done: impl Future<Output = T>) -> T {
        let passing = async {
            while let Ok((client, _)) = self.listener.accept().await {
                self.pass(client);
            }
        };
        tokio::select! {
            done = done => done,
            () = passing => panic!("the listener is ours"),
        }
    }
}

/// Changes a member of the stored credentials.
fn set(credentials: &Path, member: &str, value: &str) {
    let mut stored: Value = serde_json::from_str(&stored(credentials)).expect("is JSON");
    stored[member] = json!(value);
    std::fs::write(credentials, stored.to_string()).expect("the folder is ours");
}

fn stored(credentials: &Path) -> String {
    std::fs::read_to_string(credentials).expect("they were written")
}

#[tokio::test]
async fn commands_that_share_a_session_renew_it_without_ending_it_for_each_other() {
    let site = Installation::start().await;
    site.log_in().await;
    let credentials = site.env.folder().join(".bifrost/credentials.json");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let door = Door { listener, api: site.api.url().trim_start_matches("http://").to_owned() };
    let address = door.listener.local_addr().expect("it is bound");
    set(&credentials, "url", &format!("http://{address}"));
    let list = || site.bifrost(&["executions", "list"]);

    // One that has read its tokens before another one replaced them takes the new ones.
    set(&credentials, "access_token", "expired");
    let late = list().start();
    let held = door.hold().await;
    door.open_until(list().finish()).await.expect_code(0);
    let renewed = stored(&credentials);
    assert!(!renewed.contains("expired"), "the session was not renewed");
    door.pass(held);
    door.open_until(late.finish()).await.expect_code(0);
    assert_eq!(stored(&credentials), renewed, "the session was renewed once more");

    // Two that find it out at once take turns.
    set(&credentials, "access_token", "expired");
    let both = [list().start(), list().start()];
    let held = [door.hold().await, door.hold().await];
    held.into_iter().for_each(|connection| door.pass(connection));
    for command in both {
        door.open_until(command.finish()).await.expect_code(0);
    }

    // New ones may have expired since. No password is kept, so it is the same session that goes on.
    set(&credentials, "access_token", "expired");
    let late = list().start();
    let held = door.hold().await;
    set(&credentials, "access_token", "expired later");
    door.pass(held);
    door.open_until(late.finish()).await.expect_code(0);
    assert!(!stored(&credentials).contains("expired"), "the session was not renewed");
    assert_eq!([mode_of(&credentials), mode_of(&credentials.with_extension("lock"))], [0o600, 0o600]);

    // What somebody else has stored meanwhile is theirs.
    set(&credentials, "access_token", "expired");
    let late = list().start();
    let held = door.hold().await;
    set(&credentials, "email", "grace@example.com");
    let theirs = stored(&credentials);
    door.pass(held);
    let refused = door.open_until(late.finish()).await.expect_code(1);
    says(&refused, &["no longer that of ada@example.com", "next:  bifrost login"]);
    assert_eq!(stored(&credentials), theirs);
    site.close().await;
}

#[tokio::test]
async fn lines_come_while_the_run_goes_on_and_ctrl_c_cancels_it() {
    let site = Installation::start().await;
    site.log_in().await;
    let gate = format!("path={}", site.gate().display());

    let mut waiting = site.bifrost(&["run", "waits", &gate]).start();
    waiting.wait_for_output("waiting for a file").await;
    assert!(waiting.stderr().contains("waiting for a file") && waiting.stdout().is_empty());
    std::fs::write(site.gate(), "").expect("the folder is ours");
    let waited = waiting.finish().await.expect_code(0);
    assert_eq!(waited.stdout, "waited\n");
    assert_eq!(waited.stderr.matches("waiting for a file").count(), 1, "{}", waited.stderr);
    assert_eq!(waited.stderr.matches("it is there").count(), 1, "{}", waited.stderr);

    let mut endless = site.bifrost(&["run", "waits", "path=/never"]).start();
    endless.wait_for_output("waiting for a file").await;
    let running = newest(&site).await;
    endless.interrupt();
    let cancelled = endless.finish().await.expect_code(130);
    says(&cancelled, &["Cancelling the run", "Cancelled"]);
    assert_eq!(status_of(&site.client, &running).await, "Cancelled");
    site.close().await;
}

#[tokio::test]
async fn executions_are_listed_shown_read_and_cancelled() {
    let site = Installation::start().await;
    site.log_in().await;
    let executions = async |arguments: &[&str]| site.bifrost(&["executions"]).args(arguments).finish().await;
    let failed = submit(&site.client, "fails", &json!({})).await;
    let greeted = submit(&site.client, "greet", &json!({ "name": "Ada" })).await;
    wait_for_end(&site.client, &failed).await;
    wait_for_end(&site.client, &greeted).await;

    let list = executions(&["list"]).await.expect_code(0).stdout;
    assert!(list.starts_with("execution ") && list.contains(&failed) && list.contains(&greeted), "{list}");
    let list = executions(&["list", "--status", "Failed", "--workflow", "fails"]).await.expect_code(0).stdout;
    assert!(list.contains(&failed) && !list.contains(&greeted), "{list}");
    let list = executions(&["list", "--json", "--limit", "1"]).await.expect_code(0).json();
    assert_eq!(list["executions"].as_array().map(Vec::len), Some(1), "{list:#}");

    let shown = executions(&["show", &failed]).await.expect_code(0).stdout;
    for expected in ["Failed", "fails", "the printer is on fire"] {
        assert!(shown.contains(expected), "no {expected:?} in\n{shown}");
    }
    let shown = executions(&["show", &greeted, "--json"]).await.expect_code(0).json();
    assert_eq!(shown["result"], json!({ "greeting": "Hello Ada" }), "{shown:#}");

    assert!(executions(&["logs", &greeted]).await.expect_code(0).stdout.contains("greeting Ada"));
    let lines = executions(&["logs", &greeted, "--json"]).await.expect_code(0).json();
    assert_eq!(lines[0]["message"], "greeting Ada", "{lines:#}");
    let followed = executions(&["logs", &failed, "--follow"]).await.expect_code(1);
    says(&followed, &["Failed"]);

    let endless = submit(&site.client, "waits", &json!({ "path": "/never" })).await;
    wait_for_status(&site.client, &endless, "Running").await;
    let cancelled = executions(&["cancel", &endless]).await.expect_code(0).stdout;
    assert!(cancelled.starts_with("Cancel"), "{cancelled}");
    assert_eq!(wait_for_end(&site.client, &endless).await["status"], "Cancelled");
    let endless = submit(&site.client, "waits", &json!({ "path": "/never" })).await;
    let cancelled = executions(&["cancel", &endless, "--json"]).await.expect_code(0).json();
    assert!(cancelled["status"].as_str().is_some_and(|status| status.starts_with("Cancel")), "{cancelled:#}");
    assert_eq!(wait_for_end(&site.client, &endless).await["status"], "Cancelled");
    site.close().await;
}

async fn newest(site: &Installation) -> String {
    let page = site.client.get("/api/executions?limit=1").await.json();
    page["executions"][0]["execution_id"].as_str().expect("there is one").to_owned()
}

#[track_caller]
fn says(ended: &Ended, expected: &[&str]) {
    for text in expected {
        assert!(ended.stderr.contains(text), "no {text:?} in\n{}", ended.stderr);
    }
}
