//! `bifrost settings`, and the files that name settings: they name only those there are.

use std::collections::BTreeSet;

use domain::settings::Settings;
use serde_json::Value;
use testkit::{Launch, repository};

const SECRET: &str = "Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_TeQ";

/// Read by the logger and not by us.
const OF_OTHERS: [&str; 1] = ["RUST_LOG"];

fn names() -> BTreeSet<String> {
    Settings::table().into_iter().map(|setting| setting.variable).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of compose, here and in `ops/`, one after the other.
fn compose_files() -> String {
    let folders = [repository(), repository().join("ops")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("is there").flatten());
    files
        .filter(|file| file.file_name().to_string_lossy().starts_with("docker-compose"))
        .map(|file| std::fs::read_to_string(file.path()).expect("is text"))
        .collect()
}

/// The variables that a text takes from the environment: `${NAME}`, `${NAME:-default}`, `${NAME:?message}`.
fn taken_from_environment(text: &str) -> BTreeSet<String> {
    let parts = text.split("${").skip(1);
    parts.map(|part| part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()).collect()
}

/// `NAME=` at the start of a line, also where it is commented out.
fn assigned(line: &str) -> Option<String> {
    let (name, _) = line.trim_start_matches("# ").split_once('=')?;
    let is_name =
        name.len() > 1 && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    is_name.then(|| name.to_owned())
}

#[tokio::test]
async fn every_setting_is_listed_with_whether_it_is_set_and_without_its_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let told = |arguments: &'static [&'static str]| {
        let launch = Launch::new("bifrost", folder.path()).args(arguments);
        launch
            .env("SECRET_KEY", SECRET)
            .env("BIFROST_REDIS_URL", "redis://:hunter2@cache")
            .env("SMTP_URL", "")
    };
    let people = told(&["settings"]).finish().await;
    let scripts = told(&["settings", "--json"]).finish().await;
    let documents = told(&["settings", "--markdown"]).finish().await;

    for ended in [&people, &scripts, &documents] {
        assert_eq!(ended.code, Some(0), "{}", ended.all());
        assert!(!ended.all().contains(SECRET) && !ended.all().contains("hunter2"), "{}", ended.all());
        let missing: Vec<_> =
            names().into_iter().filter(|name| !ended.all().contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?} are not listed");
    }
    let listed: Value = serde_json::from_str(&scripts.stdout).expect("JSON");
    let set: Vec<&str> = (listed.as_array().expect("a list").iter())
        .filter(|one| one["is_set"] == true)
        .filter_map(|one| one["variable"].as_str())
        .filter(|name| ["SECRET_KEY", "REDIS_URL", "SMTP_URL", "WORKER_SLOTS"].contains(name))
        .collect();
    assert_eq!(set, ["REDIS_URL", "SECRET_KEY"]);
    assert!(people.stdout.contains("SECRET_KEY  set\n"), "{}", people.stdout);
    assert!(people.stdout.contains("WORKER_SLOTS  default 16\n"), "{}", people.stdout);
    println!("{} settings are listed", names().len());
}

#[tokio::test]
async fn the_list_of_the_manual_is_what_is_declared() {
    let folder = tempfile::tempdir().expect("a folder");
    let printed = Launch::new("bifrost", folder.path()).args(&["settings", "--markdown"]).finish().await;
    let manual = read("docs/operations.md");
    let (_, list) = manual.split_once("<!-- settings: begin").expect("a list");
    let (list, _) = list.split_once("<!-- settings: end").expect("an end");
    let (_, list) = list.split_once('\n').expect("lines");
    assert_eq!(list.trim(), printed.expect_code(0).stdout.trim(), "run scripts/generate");
}

#[test]
fn the_files_of_compose_name_only_settings_that_exist() {
    let (settings, compose) = (names(), read("docker-compose.yml"));
    let is_known = |name: &str| settings.contains(name) || OF_OTHERS.contains(&name);
    let taken = taken_from_environment(&compose_files());
    let example: BTreeSet<String> = read(".env.example").lines().filter_map(assigned).collect();

    // What the example sets reaches a container, under a name that is read there or in a part of an address.
    let lost: Vec<_> = example.difference(&taken).collect();
    assert!(lost.is_empty(), "no compose file uses {lost:?} of .env.example");

    let shared =
        compose.split("x-settings:").nth(1).and_then(|rest| rest.split("\nx-").next()).expect("settings");
    let given: Vec<&str> = (shared.lines())
        .filter_map(|line| line.strip_prefix("  ")?.split_once(": "))
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with('#'))
        .collect();
    let unknown: Vec<_> = given.iter().filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?} are given to the containers, and no settings");
    assert!(given.len() > 40 && example.len() > 20, "{} and {}", given.len(), example.len());
    println!("{} settings of docker-compose.yml and {} of .env.example exist", given.len(), example.len());
}
