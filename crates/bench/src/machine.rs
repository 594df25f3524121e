//! Where it was measured: versions, the machine, its load.

use std::path::Path;

use tokio::process::Command;

use crate::services::Services;

/// What a reader needs to compare figures with others.
pub(crate) async fn describe(
    root: &Path,
    services: &Services,
    slots: usize,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("measured", chrono::Utc::now().format("%Y-%m-%d %H:%M UTC").to_string()),
        (
            "commit",
            said(root, "git", &["describe", "--always", "--dirty"])
                .await
                .unwrap_or_else(|| "not committed".into()),
        ),
        ("PostgreSQL", services.postgres_version().await?),
        ("RabbitMQ", services.rabbitmq_version()?),
        ("Redis", services.redis_version()?),
        ("Python", said(root, "python3", &["--version"]).await.unwrap_or_default().replace("Python ", "")),
        ("rustc", said(root, "rustc", &["--version"]).await.unwrap_or_default().replace("rustc ", "")),
        (
            "kernel",
            std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        ),
        ("processor", format!("{} × {}", cores(), processor().unwrap_or_else(|| "unknown".into()))),
        ("memory", memory().unwrap_or_default()),
        ("worker slots", slots.to_string()),
        ("load before", load_average()),
    ])
}

/// The load averages of the last 1, 5 and 15 minutes.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

async fn said(root: &Path, program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(root).output().await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory() -> Option<String> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes: f64 = text.lines().next()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(format!("{:.1} GiB", kibibytes / 1024.0 / 1024.0))
}
