//! `bifrost executions`: what ran, what it said, and stopping it.

use clap::builder::PossibleValuesParser;
use domain::executions::Status;
use serde_json::Value;
use uuid::Uuid;

use super::follow::{self, Printer};
use super::{Api, Target};
use crate::failure::Failure;
use crate::output::{self, Paint, harmless};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// The newest executions.
    List(List),
    /// One execution.
    Show(Show),
    /// What an execution logged.
    Logs(Logs),
    /// Stop an execution.
    Cancel(Show),
    /// Say why an execution does not run yet.
    Explain(Show),
    /// Run an execution again, with the parameters it had.
    Rerun(Show),
}

#[derive(clap::Args)]
pub(crate) struct List {
    /// Only this workflow.
    #[arg(long)]
    workflow: Option<String>,
    /// Only this state.
    #[arg(long, value_parser = PossibleValuesParser::new(Status::ALL.map(Status::as_str)))]
    status: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(crate) struct Show {
    /// Id of the execution.
    id: Uuid,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(crate) struct Logs {
    /// Id of the execution.
    id: Uuid,
    /// Go on until the execution has ended; the exit code tells how.
    #[arg(long, conflicts_with = "json")]
    follow: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(command: Command) -> Result<u8, Failure> {
    match command {
        Command::List(args) => list(args).await,
        Command::Show(args) => show(args).await,
        Command::Logs(args) => logs(args).await,
        Command::Cancel(args) => cancel(args).await,
        Command::Explain(args) => explain(args).await,
        Command::Rerun(args) => rerun(args).await,
    }
}

async fn list(args: List) -> Result<u8, Failure> {
    let mut api = Api::open(&args.target)?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &args.limit.to_string());
    for (name, value) in [("workflowName", &args.workflow), ("status", &args.status)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let page = api.get(&format!("/api/executions?{}", query.finish())).await?;
    if args.json {
        output::say(&format!("{page:#}"));
        return Ok(0);
    }
    let executions = page.get("executions").and_then(Value::as_array).cloned().unwrap_or_default();
    if executions.is_empty() {
        output::note("No executions. Run a workflow with: bifrost run WORKFLOW");
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = executions
        .iter()
        .map(|row| {
            let text = |name| text(row, name).unwrap_or_else(|| "–".into());
            vec![
                text("execution_id"),
                text("workflow_name"),
                text("status"),
                when(row, "started_at"),
                duration(row),
                text("executed_by_name"),
            ]
        })
        .collect();
    output::say(&output::table(&["execution", "workflow", "status", "started", "duration", "by"], &rows));
    if page.get("continuation_token").is_some_and(|token| !token.is_null()) {
        output::note("There are more: --limit N shows up to 1000");
    }
    Ok(0)
}

async fn show(args: Show) -> Result<u8, Failure> {
    let mut api = Api::open(&args.target)?;
    let record = api.get(&format!("/api/executions/{}", args.id)).await?;
    if args.json {
        output::say(&format!("{record:#}"));
        return Ok(0);
    }
    let paint = Paint::for_stdout();
    let line = |label: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            output::say(&format!("{}  {value}", paint.bold(&format!("{label:<10}"))));
        }
    };
    line("Execution", text(&record, "execution_id"));
    line("Workflow", text(&record, "workflow_name"));
    line("Status", text(&record, "status").map(|status| follow::painted(&status, paint)));
    line("By", text(&record, "executed_by_name"));
    line("Started", Some(when(&record, "started_at")));
    line("Ended", Some(when(&record, "completed_at")));
    line("Duration", Some(duration(&record)));
    line("Parameters", record.get("input_data").map(|value| harmless(&value.to_string())));
    line("Error", text(&record, "error_message"));
    line("Result", record.get("result").filter(|value| !value.is_null()).map(shortened));
    let lines = record.get("logs").and_then(Value::as_array).map_or(0, Vec::len);
    line("Log", Some(format!("{lines} lines: bifrost executions logs {}", args.id)));
    Ok(0)
}

async fn logs(args: Logs) -> Result<u8, Failure> {
    let mut api = Api::open(&args.target)?;
    let id = args.id.to_string();
    if args.json {
        output::say(&format!("{:#}", api.get(&format!("/api/executions/{id}/logs")).await?));
        return Ok(0);
    }
    let mut printer = Printer::to_stdout();
    if !args.follow {
        follow::print_stored(&mut api, &id, &mut printer).await?;
        return Ok(0);
    }
    api.get(&format!("/api/executions/{id}")).await?; // says at once that there is no such execution
    let end = follow::to_the_end(&mut api, &id, &mut printer).await?;
    output::note(&end.painted(Paint::for_stderr()));
    Ok(end.exit_code())
}

async fn cancel(args: Show) -> Result<u8, Failure> {
    let mut api = Api::open(&args.target)?;
    let record = api.post(&format!("/api/executions/{}/cancel", args.id), &Value::Null).await?;
    if args.json {
        output::say(&format!("{record:#}"));
    } else {
        output::say(&text(&record, "status").unwrap_or_else(|| "Cancelling".into()));
    }
    Ok(0)
}

async fn explain(args: Show) -> Result<u8, Failure> {
    let mut api = Api::open(&args.target)?;
    let explained = api.get(&format!("/api/executions/{}/explain", args.id)).await?;
    if args.json {
        output::say(&format!("{explained:#}"));
        return Ok(0);
    }
    output::say(&text(&explained, "status").unwrap_or_default());
    for reason in explained.get("reasons").and_then(Value::as_array).into_iter().flatten() {
        output::say(&format!("- {}", text(reason, "message").unwrap_or_default()));
    }
    Ok(0)
}

async fn rerun(args: Show) -> Result<u8, Failure> {
    let mut api = Api::open(&args.target)?;
    let record = api.post(&format!("/api/executions/{}/rerun", args.id), &Value::Null).await?;
    if args.json {
        output::say(&format!("{record:#}"));
    } else {
        output::say(&text(&record, "execution_id").unwrap_or_default());
    }
    Ok(0)
}

fn text(record: &Value, name: &str) -> Option<String> {
    record.get(name).and_then(Value::as_str).map(harmless)
}

fn when(record: &Value, name: &str) -> String {
    let time = record
        .get(name)
        .and_then(Value::as_str)
        .and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
    time.map_or_else(
        || "–".into(),
        |time| time.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

fn duration(record: &Value) -> String {
    let millis = record.get("duration_ms").and_then(Value::as_u64);
    millis.map_or_else(|| "–".into(), |millis| output::duration(std::time::Duration::from_millis(millis)))
}

/// The beginning of a value: the whole of it is what `--json` is for.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 400;
    let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let text = harmless(&text).replace('\n', " ");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
