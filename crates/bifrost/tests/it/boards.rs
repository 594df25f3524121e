//! The board and the alert rules in `ops/`: whatever they ask for, the product exports.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{Figures, repository};

use crate::observing::Watched;

/// Names of ours in an expression.
fn metrics_in(expression: &str) -> impl Iterator<Item = String> + '_ {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expression.split(move |c| !is_part(c));
    words
        .filter(|word| ["bifrost_", "http_server_", "process_"].iter().any(|ours| word.starts_with(ours)))
        .map(str::to_owned)
}

fn expressions_of_board(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("expr").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| expressions_of_board(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| expressions_of_board(item, found)),
        _ => {}
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[tokio::test]
async fn every_metric_of_the_board_and_the_rules_is_exported() {
    let board: Value = serde_json::from_str(&read("ops/grafana/bifrost.json")).expect("the board is JSON");
    let mut expressions = Vec::new();
    expressions_of_board(&board, &mut expressions);
    let of_board = expressions.len();
    let rules = read("ops/prometheus/alerts.yml");
    expressions
        .extend(rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned));
    assert_eq!(
        expressions.len() - of_board,
        rules.matches("- alert: ").count(),
        "each rule has its expression on one line"
    );
    let wanted: BTreeSet<String> = expressions.iter().flat_map(|expression| metrics_in(expression)).collect();
    let watched = Watched::start(&[]).await;
    watched.run("says_so", &json!({})).await;

    let [api, jobs] = watched.ports;
    let figures = [Figures::scrape(api).await, Figures::scrape(jobs).await];

    let missing: Vec<&String> =
        wanted.iter().filter(|name| !figures.iter().any(|figures| figures.has(name))).collect();
    assert!(missing.is_empty(), "nobody exports {missing:?}");
    assert!(wanted.len() >= 10, "{wanted:?}");
    println!(
        "{} panels' expressions and {} rules name {} metrics, all exported",
        of_board,
        expressions.len() - of_board,
        wanted.len()
    );
    watched.close().await;
}
