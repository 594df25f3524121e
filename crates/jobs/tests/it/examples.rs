//! The examples of `workspace/`, each run through the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::OrgScope;
use domain::executions::Status;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Engine, actor, result, user_of};

#[tokio::test]
async fn device_inventory_reports_on_five_thousand_devices() {
    let engine = Engine::on_examples().await;

    let run = engine.run(&Engine::admin(), "device_inventory", json!({})).await;

    assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
    assert_eq!(run.result_type.as_deref(), Some("html"));
    let html = result(&run).as_str().expect("text").to_owned();
    assert!(html.contains("5,000") || html.contains("5000"), "the report counts the devices");
    let lines = engine.lines(run.id).await;
    assert!(lines.len() >= 10, "progress is logged: {} lines", lines.len());
    assert!(lines.iter().zip(1..).all(|(line, sequence)| line.sequence == sequence), "without gaps");
    let one_site = engine.run(&Engine::admin(), "device_inventory", json!({ "site": "no such site" })).await;
    assert_ne!(result(&one_site), result(&run), "the filter is used");
    engine.close().await;
}

#[tokio::test]
async fn check_endpoints_retries_a_real_api_with_its_secret() {
    const TOKEN: &str = "monitoring-token-canary";
    let engine = Engine::on_examples().await;
    let scope = user_of(engine.org("acme").await);
    engine.set_secret(&scope, "monitoring_api_token", TOKEN).await;
    let (address, calls) = flaky_api(TOKEN).await;

    let run = engine.run(&scope, "check_endpoints", json!({ "base_url": format!("http://{address}") })).await;

    assert!(
        matches!(run.status, Status::Success | Status::CompletedWithErrors),
        "{:?}: {:?}",
        run.status,
        run.error_message
    );
    assert!(calls.load(Ordering::Relaxed) > 2, "the first answers were errors, so it asked again");
    let everything = format!(
        "{:?} {:?} {:?}",
        run.result.as_ref().map(|r| r.get()),
        run.variables.as_ref().map(|v| v.get()),
        engine.lines(run.id).await
    );
    assert!(!everything.contains(TOKEN), "the secret shows up nowhere");
    engine.close().await;
}

/// A local API: 503 to the first two requests, 401 without the token, else 200.
async fn flaky_api(token: &'static str) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("is bound");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let (status, body) = match counted.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => ("503 Service Unavailable", "{}"),
                _ if !request.contains(token) => ("401 Unauthorized", "{}"),
                _ => ("200 OK", r#"{"status": "ok"}"#),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, calls)
}

#[tokio::test]
async fn password_audit_computes() {
    let engine = Engine::on_examples().await;
    let run = engine.run(&Engine::admin(), "password_audit", json!({})).await;
    assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
    assert!(run.cpu_total_seconds.is_some_and(|seconds| seconds > 0.0));
    engine.close().await;
}

#[tokio::test]
async fn patch_all_sites_fans_out_over_child_runs() {
    // One slot: parents that held theirs while they wait would never end.
    let engine = Engine::with_settings(&[], |settings| {
        settings.worker_slots = 1;
        settings.workspace_path = crate::support::repository().join("workspace");
    })
    .await;

    let run = engine.run(&Engine::admin(), "patch_all_sites", json!({})).await;

    assert_eq!(
        run.status,
        Status::CompletedWithErrors,
        "some sites of the list do not exist: {:?}",
        run.error_message
    );
    assert_eq!(result(&run)["success"], Value::Bool(false));
    let mut tx = engine.platform.db.begin(&Engine::admin()).await.expect("begins");
    let filters =
        domain::executions::list::Filters { workflow_name: Some("patch_site".into()), ..Default::default() };
    let children = domain::executions::list::list(&mut tx, &filters, 1000, None).await.expect("lists");
    drop(tx);
    assert!(children.len() > 3, "{} child runs", children.len());
    assert!(children.iter().all(|child| child.status.is_terminal()));
    engine.close().await;
}

#[tokio::test]
async fn reconcile_invoices_fails_with_advice() {
    let engine = Engine::on_examples().await;
    let run = engine.run(&Engine::admin(), "reconcile_invoices", json!({})).await;
    assert_eq!(
        (run.status, run.error_type.as_deref(), run.is_user_error),
        (Status::Failed, Some("UserError"), true)
    );
    assert!(run.error_message.expect("says why").contains("Correct the amounts"));
    engine.close().await;
}

#[tokio::test]
async fn stream_syslog_streams_a_thousand_lines() {
    let engine = Engine::on_examples().await;
    let run = engine.run(&Engine::admin(), "stream_syslog", json!({ "lines": 1000 })).await;
    assert_eq!(run.status, Status::Success, "{:?}", run.error_message);
    let lines = engine.lines(run.id).await;
    assert!(lines.len() >= 1000, "{} lines", lines.len());
    let visible = lines.iter().filter_map(|line| line.user_sequence).collect::<Vec<_>>();
    assert!(
        visible.iter().zip(1..).all(|(sequence, expected)| *sequence == expected),
        "the users' own count has no gaps"
    );
    assert!(lines.iter().zip(1..).all(|(line, expected)| line.sequence == expected));
    engine.close().await;
}

#[tokio::test]
async fn pooled_runs_of_one_organization_share_a_process_and_of_two_do_not() {
    let files = [(
        "who.py",
        "import os\nfrom bifrost import workflow\n\n@workflow(isolation='pooled')\ndef who():\n    return {'pid': os.getpid(), 'ns': os.readlink('/proc/self/ns/pid')}\n",
    )];
    let engine = Engine::on_files(&files).await;
    let (acme, rival) = (user_of(engine.org("acme").await), user_of(engine.org("rival").await));

    let first = result(&engine.run(&acme, "who", json!({})).await);
    let second = result(&engine.run(&acme, "who", json!({})).await);
    let third = result(&engine.run(&rival, "who", json!({})).await);
    let global = result(&engine.run(&OrgScope::for_run(None, actor("a", true)), "who", json!({})).await);

    assert_eq!(first, second, "one warm process for one organization");
    assert!(first != third && third != global && first != global, "never one for two");
    engine.close().await;
}
