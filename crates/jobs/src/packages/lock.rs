//! Locks: every package of an environment with its version and the hashes of its files, one a line.
//!
//! The invariant: whatever the index or the installer says, nothing but names, versions and SHA-256 gets into a lock.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use domain::packages::requirements::Name;
use serde::Deserialize;

/// One package of a lock.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Locked {
    pub(super) name: String,
    pub(super) version: String,
    hashes: Vec<String>,
}

impl Locked {
    /// As it stands in a lock.
    pub(super) fn line(&self) -> String {
        let hashes: String = self.hashes.iter().map(|hash| format!(" --hash={hash}")).collect();
        format!("{}=={}{hashes}\n", self.name, self.version)
    }
}

/// Reads a lock, ours or uv's; anything else in it is refused.
pub(super) fn read_lock(text: &str) -> anyhow::Result<Vec<Locked>> {
    let mut found = BTreeMap::new();
    for line in text.replace("\\\n", " ").lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (name, version) =
            words.next().and_then(|pin| pin.split_once("==")).context("a line of the lock")?;
        let hashes = words.map(|word| word.strip_prefix("--hash=").map(str::to_owned));
        let mut hashes: Vec<String> = hashes.collect::<Option<_>>().context("a word of the lock")?;
        hashes.sort();
        found.insert(name.to_owned(), checked(name, version, hashes)?);
    }
    Ok(found.into_values().collect())
}

/// Reads the report of pip.
pub(super) fn read_report(report: &[u8]) -> anyhow::Result<Vec<Locked>> {
    #[derive(Deserialize)]
    struct Report {
        install: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        metadata: Metadata,
        download_info: Download,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
        version: String,
    }
    #[derive(Deserialize)]
    struct Download {
        archive_info: Archive,
    }
    #[derive(Deserialize)]
    struct Archive {
        hash: String,
    }
    let report: Report = serde_json::from_slice(report).context("the report of pip")?;
    let mut found = BTreeMap::new();
    for item in report.install {
        let name: Name = item.metadata.name.parse().map_err(|fault: String| anyhow!(fault))?;
        let hash = item.download_info.archive_info.hash.replacen('=', ":", 1);
        found.insert(name.to_string(), checked(name.as_str(), &item.metadata.version, vec![hash])?);
    }
    Ok(found.into_values().collect())
}

/// A package of a lock, if it is one: whatever the index says, nothing else gets into a lock.
fn checked(name: &str, version: &str, hashes: Vec<String>) -> anyhow::Result<Locked> {
    let name: Name = name.parse().map_err(|fault: String| anyhow!("the name {name:?} {fault}"))?;
    version
        .parse::<domain::packages::requirements::Version>()
        .map_err(|fault| anyhow!("the version {version:?} {fault}"))?;
    let is_hash = |hash: &String| {
        hash.strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    if hashes.is_empty() || !hashes.iter().all(is_hash) || version.contains(char::is_whitespace) {
        return Err(anyhow!("the package {name} has no SHA-256"));
    }
    Ok(Locked { name: name.to_string(), version: version.to_owned(), hashes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_reads_back_and_holds_nothing_else() {
        let hash = format!("sha256:{}", "a".repeat(64));
        let text = format!("beta==1.0 \\\n    --hash={hash}\nalpha==2.0 \\\n    --hash={hash}\n");
        let found = read_lock(&text).expect("reads");
        let lock: String = found.iter().map(Locked::line).collect();
        assert_eq!(lock, format!("alpha==2.0 --hash={hash}\nbeta==1.0 --hash={hash}\n"));
        assert_eq!(read_lock(&lock).expect("reads"), found);
        for wrong in [
            "--index-url=x",
            "alpha",
            "alpha==1.0",
            "alpha @ https://x",
            "alpha==1.0 --hash=md5:00",
            "-e .==1",
        ] {
            assert!(read_lock(&format!("{wrong}\n")).is_err(), "{wrong}");
        }
    }
}
