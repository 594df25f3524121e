//! `docs/tour.md`, followed word by word: its blocks run in one shell, and print what stands under them.

use std::path::Path;
use std::process::Stdio;

use testkit::repository;
use tokio::process::Command;

use crate::up::Site;

const NEXT_BLOCK: &str = "--- next block ---";

/// The blocks of the document with what each prints.
fn blocks(document: &str) -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut fences = document.split("\n```");
    fences.next();
    // Fences come in pairs: what opens one is followed by what closes it.
    while let (Some(inside), Some(_)) = (fences.next(), fences.next()) {
        match inside.split_once('\n') {
            Some(("sh", commands)) => blocks.push((commands.to_owned(), String::new())),
            Some(("text", printed)) => {
                printed.trim().clone_into(&mut blocks.last_mut().expect("commands come first").1);
            }
            _ => panic!("a block that is neither sh nor text: {inside}"),
        }
    }
    blocks
}

async fn bash(script: &str, folder: &Path, url: &str) -> (String, String) {
    let ended = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(folder)
        .env("BIFROST_URL", url)
        .env_remove("BASH_ENV")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(testkit::PATIENCE * 2, ended).await.expect("the tour ends in time");
    let ended = ended.expect("bash runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(ended.stdout), text(ended.stderr))
}

#[tokio::test]
async fn the_tour_prints_what_it_says() {
    let document = std::fs::read_to_string(repository().join("docs/tour.md")).expect("is there");
    let blocks = blocks(&document);
    let script: String =
        blocks.iter().map(|(commands, _)| format!("{commands}\necho '{NEXT_BLOCK}'\n")).collect();
    let site = Site::with_examples().await;
    let process = site.serve().await;

    let (printed, complaints) = bash(&script, site.path(), process.url()).await;

    let printed: Vec<&str> = printed.split(NEXT_BLOCK).map(str::trim).collect();
    for (n, (commands, expected)) in blocks.iter().enumerate() {
        let found = printed.get(n).copied().unwrap_or_default();
        assert_eq!(found, expected, "printed by\n{commands}\n{complaints}");
    }
    assert_eq!(printed.len(), blocks.len() + 1, "the tour stops early: {complaints}");
    println!("tour: {} blocks, each printed what it says", blocks.len());
}
