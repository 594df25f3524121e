//! Logs of the process: human text or JSON lines on standard error, filtered by `RUST_LOG`.

use tracing_subscriber::EnvFilter;

use crate::settings::Settings;

/// Installs the log output of this process; a second call does nothing.
pub fn init(settings: &Settings) {
    init_with(settings, "info,lapin=off,sqlx=warn");
}

/// As [`init`], with the filter to use while `RUST_LOG` is unset.
pub fn init_with(settings: &Settings, filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // The first caller of a process wins; tests call it many times.
    let _ = if settings.log_format == "json" {
        logs.json().flatten_event(true).try_init()
    } else {
        logs.with_target(false).compact().try_init()
    };
}
