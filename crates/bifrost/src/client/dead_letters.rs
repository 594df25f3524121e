//! `bifrost dead-letters`: messages that no worker could handle, to see, to put back and to drop.

use serde_json::{Value, json};

use super::{Api, Target};
use crate::failure::{Failure, USAGE};
use crate::output::{self, harmless};

/// Letters that are looked through for one.
const MOST: u16 = 1_000;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// The oldest dead letters of each queue.
    List(List),
    /// One dead letter with its message.
    Show(Show),
    /// Put dead letters back into their queue.
    Replay(Which),
    /// Drop dead letters for good.
    Drop(Which),
}

#[derive(clap::Args)]
pub(crate) struct List {
    /// Only this queue: workflow.executions, git.sync or packages.install.
    #[arg(long)]
    queue: Option<String>,
    /// How many of each queue.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(crate) struct Show {
    /// Id of the letter.
    id: String,
    /// Only in this queue: workflow.executions, git.sync or packages.install. The same message has the same id in each.
    #[arg(long)]
    queue: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(crate) struct Which {
    /// Ids of the letters.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All letters of the queue.
    #[arg(long)]
    all: bool,
    /// The queue: workflow.executions, git.sync or packages.install.
    #[arg(long, default_value = "workflow.executions")]
    queue: String,
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
        Command::Replay(args) => decide(args, "replay", "replayed").await,
        Command::Drop(args) => decide(args, "drop", "dropped").await,
    }
}

async fn list(args: List) -> Result<u8, Failure> {
    let mut api = Api::open(&args.target)?;
    let answer = api.get(&path(args.queue.as_deref(), args.limit)).await?;
    if args.json {
        output::say(&format!("{answer:#}"));
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = letters(&answer)
        .iter()
        .map(|letter| {
            let text =
                |name: &str| letter.get(name).and_then(Value::as_str).map_or_else(|| "–".into(), harmless);
            let deliveries = letter.get("deliveries").map_or_else(String::new, ToString::to_string);
            vec![text("id"), text("queue"), text("died_at"), deliveries, text("reason")]
        })
        .collect();
    if rows.is_empty() {
        output::note("No dead letters.");
    } else {
        output::say(&output::table(&["letter", "queue", "died", "deliveries", "reason"], &rows));
    }
    Ok(0)
}

async fn show(args: Show) -> Result<u8, Failure> {
    let mut api = Api::open(&args.target)?;
    let answer = api.get(&path(args.queue.as_deref(), MOST)).await?;
    let found =
        letters(&answer).iter().find(|letter| letter.get("id").and_then(Value::as_str) == Some(&args.id));
    let letter = found.ok_or_else(|| {
        Failure::new(format!("no dead letter {} among the oldest {MOST} of each queue", harmless(&args.id)))
            .next("bifrost dead-letters list")
            .code(USAGE)
    })?;
    if args.json {
        output::say(&format!("{letter:#}"));
        return Ok(0);
    }
    for name in ["id", "queue", "reason", "deliveries", "died_at", "payload"] {
        let value = letter.get(name).unwrap_or(&Value::Null);
        let text = value.as_str().map_or_else(|| format!("{value:#}"), ToOwned::to_owned);
        output::say(&format!("{name:<10}  {}", harmless(&text)));
    }
    Ok(0)
}

async fn decide(args: Which, verb: &str, done: &str) -> Result<u8, Failure> {
    let mut api = Api::open(&args.target)?;
    let body = if args.all {
        json!({ "queue": args.queue, "all": true })
    } else {
        json!({ "queue": args.queue, "ids": args.ids })
    };
    let answer = api.post(&format!("/api/dead-letters/{verb}"), &body).await?;
    let count = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    if args.json {
        output::say(&format!("{answer:#}"));
    } else {
        output::say(&format!("{} {done}", count(done)));
    }
    match count("failed") {
        0 => Ok(0),
        failed => {
            let why = if args.all {
                "refused by the broker; they are dead still"
            } else {
                "no such dead letters of this queue, or refused by the broker"
            };
            Err(Failure::new(format!("{failed} not {done}: {why}")).next("bifrost dead-letters list"))
        }
    }
}

fn letters(answer: &Value) -> &[Value] {
    answer.get("dead_letters").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn path(queue: Option<&str>, limit: u16) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &limit.to_string());
    if let Some(queue) = queue {
        query.append_pair("queue", queue);
    }
    format!("/api/dead-letters?{}", query.finish())
}
