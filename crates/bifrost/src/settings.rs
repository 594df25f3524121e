//! `bifrost settings`: every setting, what it means, its default, and whether it is set here.
//!
//! Which there are is declared in [`domain::settings`]. The invariant: no value that somebody set is ever printed.

use domain::settings::{Setting, Settings};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::Paint;
use crate::{env, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON document instead, for scripts.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print the tables of docs/operations.md instead, which are the same everywhere.
    #[arg(long)]
    markdown: bool,
}

#[expect(clippy::unnecessary_wraps, reason = "every command returns an exit code or a failure")]
pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let settings = Settings::table();
    let text = match args {
        Args { json: true, .. } => format!("{:#}", settings.iter().map(document).collect::<Value>()),
        Args { markdown: true, .. } => by_group(&settings, markdown),
        _ => by_group(&settings, list),
    };
    output::say(&text);
    Ok(0)
}

fn by_group(settings: &[Setting], write: impl Fn(&str, &[Setting]) -> String) -> String {
    let groups = settings.chunk_by(|one, other| one.group == other.group);
    let written = groups.map(|group| write(group.first().map_or("", |first| first.group), group));
    written.collect::<Vec<_>>().join("\n\n")
}

fn list(heading: &str, group: &[Setting]) -> String {
    let paint = Paint::for_stdout();
    let entries = group.iter().map(|setting| {
        let state = match &setting.default {
            _ if env::is_set(&setting.variable) => paint.green("set"),
            Some(default) => format!("default {default}"),
            None => "not set".to_owned(),
        };
        format!("  {}  {state}\n      {}", paint.bold(&setting.variable), setting.meaning)
    });
    format!("{}\n{}", paint.bold(heading), entries.collect::<Vec<_>>().join("\n"))
}

fn document(setting: &Setting) -> Value {
    json!({
        "variable": setting.variable, "group": setting.group, "meaning": setting.meaning,
        "default": setting.default, "is_set": env::is_set(&setting.variable),
    })
}

fn markdown(heading: &str, group: &[Setting]) -> String {
    let rows = group.iter().map(|setting| {
        let default = setting.default.as_ref().map(|default| format!("`{default}`")).unwrap_or_default();
        format!("\n| `{}` | {default} | {} |", setting.variable, setting.meaning)
    });
    format!("### {heading}\n\n| variable | default | meaning |\n|---|---|---|{}", rows.collect::<String>())
}
