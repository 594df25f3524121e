//! `bifrost run`: runs a workflow as part of a shell script would want it.

use std::io::IsTerminal;

use serde_json::{Map, Value, json};

use super::follow::{self, Printer};
use super::{Api, Target};
use crate::failure::{Failure, USAGE};
use crate::output::{self, Paint, harmless};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name or id of the workflow.
    workflow: String,
    /// Parameters; a value that is JSON is taken as JSON, any other as text.
    #[arg(value_name = "KEY=VALUE")]
    parameters: Vec<String>,
    /// Print the whole record as JSON instead of the result.
    #[arg(long)]
    json: bool,
    /// Print the id and do not wait for the end.
    #[arg(long)]
    no_wait: bool,
    /// Start at this time (2026-01-05T09:30:00Z), and do not wait for the end.
    #[arg(long, value_name = "TIME", conflicts_with = "after")]
    at: Option<String>,
    /// Start after this time (90s, 15m, 2h, 1d), and do not wait for the end.
    #[arg(long = "in", value_name = "DURATION")]
    after: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let parameters = parse(&args.parameters)?;
    let run_at = match &args.after {
        Some(after) => Some((chrono::Utc::now() + delay(after)?).to_rfc3339()),
        None => args.at.clone(),
    };
    let mut api = Api::open(&args.target)?;
    let mut request = json!({ "workflow_id": args.workflow, "input_data": parameters });
    if let Some(run_at) = &run_at {
        request["run_at"] = json!(run_at);
    }
    let id = follow::submit(&mut api, &request).await?;
    if args.no_wait || run_at.is_some() {
        output::say(&if args.json { json!({ "execution_id": id }).to_string() } else { id });
        return Ok(0);
    }
    let end = follow::to_the_end_or_cancelled(&mut api, &id, &mut Printer::to_stderr()).await?;
    if args.json {
        output::say(&format!("{:#}", end.record));
        return Ok(end.exit_code());
    }
    output::note(&format!("{} {}", end.painted(Paint::for_stderr()), Paint::for_stderr().dim(&id)));
    if let Some(error) = &end.error {
        output::note(&harmless(error));
    }
    match api.result(&id).await? {
        Value::Null => {}
        // A pipe gets the text as it is; a terminal must not be steered by it.
        Value::String(text) if std::io::stdout().is_terminal() => output::say(&harmless(&text)),
        Value::String(text) => output::say(&text),
        other => output::say(&format!("{other:#}")),
    }
    Ok(end.exit_code())
}

/// A number and its unit.
fn delay(text: &str) -> Result<chrono::TimeDelta, Failure> {
    const LONGEST: i64 = 366 * 86_400;
    let seconds =
        [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)].into_iter().find_map(|(unit, seconds)| {
            let number: i64 = text.trim().strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(seconds).filter(|seconds| (0..=LONGEST).contains(seconds))
        });
    seconds.map(chrono::TimeDelta::seconds).ok_or_else(|| {
        Failure::new(format!("{} is no duration", harmless(text)))
            .next("write one such as --in 90s, 15m, 2h or 1d")
            .code(USAGE)
    })
}

fn parse(parameters: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut parsed = Map::new();
    for parameter in parameters {
        let (key, value) = parameter.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
            Failure::new(format!("{parameter} is not KEY=VALUE"))
                .next("bifrost run WORKFLOW site=Leeds stale_after_days=14")
                .code(USAGE)
        })?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        if parsed.insert(key.to_owned(), value).is_some() {
            return Err(Failure::new(format!("{key} is given twice")).code(USAGE));
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json_where_they_parse_and_text_elsewhere() {
        let given =
            ["n=3", "flag=true", "name=Berlin HQ", "equation=a=b", "list=[1,2]", "empty="].map(String::from);

        let parsed = Value::Object(parse(&given).unwrap());

        assert_eq!(
            parsed,
            json!({"n": 3, "flag": true, "name": "Berlin HQ", "equation": "a=b", "list": [1, 2], "empty": ""})
        );
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), (" 2 h", 7_200), ("1d", 86_400), ("0s", 0)] {
            assert_eq!(delay(text).unwrap().num_seconds(), seconds);
        }
        for wrong in ["", "5", "m", "-1s", "1.5h", "2w", "9999999999999999d"] {
            assert!(delay(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_parameter_without_a_key_or_given_twice_is_refused() {
        assert!(parse(&["=3".into()]).is_err());
        assert!(parse(&["n".into()]).is_err());
        assert!(parse(&["n=1".into(), "n=2".into()]).is_err());
    }
}
