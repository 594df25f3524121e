//! What operators do with the queue from the command line: dead letters, later starts, explanations, repetitions.

use domain::wakeup::Wakeups;
use serde_json::json;
use testkit::eventually;

use crate::support::{Installation, submit, wait_for_end};

#[tokio::test]
async fn dead_letters_are_listed_shown_replayed_and_dropped() {
    let site = Installation::start().await;
    site.log_in().await;
    let letters = async |arguments: &[&str]| site.bifrost(&["dead-letters"]).args(arguments).finish().await;
    let none = letters(&["list"]).await.expect_code(0);
    assert!(none.stderr.contains("No dead letters"), "{}", none.stderr);

    let settings = site.env.settings();
    let url = settings.rabbitmq_url.clone().expect("the services are up");
    let wakeups = Wakeups::rabbit(&url, &settings.queue_prefix).expect("the URL is read");
    for message in ["one", "two", "three"] {
        wakeups.publish_raw(message.into()).await.expect("confirmed");
    }
    let listed = async || letters(&["list", "--json"]).await.expect_code(0).json()["dead_letters"].clone();
    let dead = eventually("three dead letters", || async {
        Some(listed().await).filter(|list| list.as_array().is_some_and(|list| list.len() == 3))
    })
    .await;
    let id = |payload: &str| {
        let list = dead.as_array().expect("a list").iter();
        let found = list.clone().find(|letter| letter["payload"] == payload).expect("is listed");
        found["id"].as_str().expect("an id").to_owned()
    };
    let table = letters(&["list", "--queue", "workflow.executions"]).await.expect_code(0).stdout;
    assert!(table.contains("rejected: expected") && table.contains(&id("one")), "{table}");
    let shown = letters(&["show", &id("two")]).await.expect_code(0).stdout;
    assert!(shown.contains("workflow.executions") && shown.contains("two"), "{shown}");

    assert_eq!(letters(&["drop", &id("one")]).await.expect_code(0).stdout, "1 dropped\n");
    for verb in ["drop", "replay"] {
        let unknown = letters(&[verb, "nope"]).await.expect_code(1);
        assert!(unknown.stderr.contains("next:  bifrost dead-letters list"), "{}", unknown.stderr);
    }
    let replayed = letters(&["replay", "--all", "--json"]).await.expect_code(0).json();
    assert_eq!(replayed, json!({"replayed": 2, "failed": 0}));
    // They are poison still, and die again.
    eventually("two dead letters", || async {
        listed().await.as_array().is_some_and(|list| list.len() == 2).then_some(())
    })
    .await;
    assert_eq!(letters(&["drop", "--all"]).await.expect_code(0).stdout, "2 dropped\n");
    for (arguments, code) in [
        (&["drop"][..], 2),
        (&["replay", "x", "--all"], 2),
        (&["show", "nothing"], 2),
        (&["list", "--queue", "x"], 2),
    ] {
        letters(arguments).await.expect_code(code);
    }
    println!("dead letters from the command line: 1 of 1 dropped, 2 of 2 replayed");
    site.close().await;
}

#[tokio::test]
async fn runs_start_later_are_explained_and_repeated() {
    let site = Installation::start().await;
    site.log_in().await;
    let bifrost = async |arguments: &[&str]| site.bifrost(arguments).finish().await;
    let later = bifrost(&["run", "says_so", "--in", "1h"]).await.expect_code(0).stdout.trim().to_owned();
    let explained = bifrost(&["executions", "explain", &later]).await.expect_code(0).stdout;
    assert!(explained.starts_with("Pending\n- is to start at "), "{explained}");
    bifrost(&["executions", "cancel", &later]).await.expect_code(0);

    let at = (chrono::Utc::now() + chrono::TimeDelta::seconds(2)).to_rfc3339();
    let soon = bifrost(&["run", "says_so", "--at", &at]).await.expect_code(0).stdout.trim().to_owned();
    let ended = wait_for_end(&site.client, &soon).await;
    let started = ended["started_at"]
        .as_str()
        .expect("a time")
        .parse::<chrono::DateTime<chrono::Utc>>()
        .expect("a time");
    let late = started - at.parse::<chrono::DateTime<chrono::Utc>>().expect("a time");
    println!("a run with a time started {:.3} s after it", late.as_seconds_f64());
    assert!((0.0..5.0).contains(&late.as_seconds_f64()));

    let first = submit(&site.client, "greet", &json!({"name": "Ada"})).await;
    wait_for_end(&site.client, &first).await;
    let again = bifrost(&["executions", "rerun", &first]).await.expect_code(0).stdout.trim().to_owned();
    let record = wait_for_end(&site.client, &again).await;
    assert_eq!((&record["result"], &record["rerun_of"]), (&json!({"greeting": "Hello Ada"}), &json!(first)));
    let explained = bifrost(&["executions", "explain", &again, "--json"]).await.expect_code(0).json();
    assert_eq!(explained["reasons"][0]["code"], "ended");
    for wrong in [&["run", "says_so", "--in", "soon"][..], &["run", "says_so", "--at", "soon"]] {
        bifrost(wrong).await.expect_code(2);
    }
    site.close().await;
}
