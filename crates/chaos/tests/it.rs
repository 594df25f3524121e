//! A short run, as part of the suite: the whole installation, broken in fourteen ways within half a minute.

use std::process::{Command, Stdio};

#[test]
fn a_short_run_keeps_every_promise() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let logs = std::env::temp_dir().join("bifrost-chaos-logs");
    let output = Command::new(env!("CARGO_BIN_EXE_bifrost-chaos"))
        .args(["--short", "--seed", "20", "--root", root, "--logs"])
        .arg(&logs)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "the logs of its processes are in {}", logs.display());
}
