//! What a process tells about itself: log lines, figures for Prometheus, spans of traces.
//!
//! The invariant: nothing of it decides anything. A collector that is away, slow or full costs what it would have been
//! told, and nothing else.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;

use crate::settings::Settings;

mod lines;
pub mod metrics;
pub mod scrape;
pub mod traces;

/// Installs the log output and the export of traces of this process; a second call does nothing.
pub fn init(settings: &Settings) {
    init_with(settings, "info,lapin=off,sqlx=warn");
}

/// As [`init`], with the filter to use while `RUST_LOG` is unset.
pub fn init_with(settings: &Settings, filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let mut logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if !std::io::stderr().is_terminal() {
        // Colours are for eyes; in a file they are noise.
        logs = logs.with_ansi(false);
    }
    // The first caller of a process wins; tests call it many times.
    let _ = if settings.log_format == "json" {
        logs.fmt_fields(JsonFields::new()).event_format(lines::JsonLines).try_init()
    } else {
        logs.with_target(false).compact().try_init()
    };
    traces::init(settings);
}
