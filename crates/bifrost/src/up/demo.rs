//! The demo: signs in as a client would, runs a workflow, follows its log, shows the result.

use std::path::Path;
use std::time::{Duration, Instant};

use domain::settings::Settings;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::state::{StateDir, write_private};
use crate::client::credentials::{Credentials, FILE};
use crate::client::follow::{self, Printer};
use crate::client::{Api, SignIn, admin, html};
use crate::failure::Failure;
use crate::output::{self, Paint, Progress};

const WORKFLOW: &str = "device_inventory";
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of a report fits a screen.
const EXTRACT_LINES: usize = 16;

/// Runs the demo; the exit code is that of the run.
pub(crate) async fn run(
    url: &str,
    state: &StateDir,
    developer: Option<Credentials>,
    progress: Progress,
) -> Result<u8, Failure> {
    wait_until_ready(url).await?;
    progress.say(format!("API ready on {url}"));
    let credentials = administrator(url, state, developer, progress).await?;
    let mut api = Api::with(credentials)?;
    let SignIn::Done = api.sign_in().await? else { return Err(unknown_administrator(url)) };
    api.keep().await?;
    progress.say(format!("Signed in as {}", api.email()));
    wait_for_workflow(&mut api).await?;

    progress.say(format!("Running {WORKFLOW}"));
    let began = Instant::now();
    let id = follow::submit(&mut api, &json!({"workflow_id": WORKFLOW, "input_data": {}})).await?;
    let end = follow::to_the_end(&mut api, &id, &mut Printer::to_stdout()).await?;
    progress.say(format!(
        "{WORKFLOW}: {} after {}",
        end.painted(Paint::for_stdout()),
        output::duration(began.elapsed())
    ));
    if let Some(error) = &end.error {
        output::say(&format!("  {}", output::harmless(error)));
    }
    show_result(&api.result(&id).await?, progress)?;
    progress.say(format!("The password of {} is in {FILE}", api.email()));
    Ok(end.exit_code())
}

/// The development user, where the settings ask for one.
pub(crate) fn developer(settings: &Settings, url: &str) -> Option<Credentials> {
    let wanted = settings.is_development() && !settings.dev_user_email.is_empty();
    let password = settings.dev_user_password.expose_secret().to_owned();
    wanted.then(|| Credentials::new(url, &settings.dev_user_email, Some(password)))
}

/// Somebody who can sign in: whoever is remembered here or beside the data, else the first administrator.
async fn administrator(
    url: &str,
    state: &StateDir,
    developer: Option<Credentials>,
    progress: Progress,
) -> Result<Credentials, Failure> {
    let remembered = [Credentials::load(Path::new(FILE))?, Credentials::load(&state.administrator())?];
    let remembered: Vec<Credentials> =
        remembered.into_iter().flatten().filter(|known| known.password.is_some()).collect();
    if admin::needs_setup(url).await? {
        let known = remembered.into_iter().next();
        let was_known = known.is_some();
        let created = admin::create(url, known, None).await?;
        write_private(&state.administrator(), &created.to_json())
            .map_err(|error| Failure::new(format!("cannot keep the administrator: {error}")))?;
        progress.say(format!("First administrator made: {}", created.email));
        if !was_known {
            output::say(&admin::shown_once(&created));
        }
        return Ok(created);
    }
    for mut known in remembered.into_iter().chain(developer) {
        known.url = url.to_owned();
        known.forget_tokens();
        if matches!(Api::with(known.clone())?.sign_in().await, Ok(SignIn::Done)) {
            return Ok(known);
        }
    }
    Err(unknown_administrator(url))
}

fn unknown_administrator(url: &str) -> Failure {
    Failure::new("an administrator exists, and nothing here can sign in as one").next(format!(
        "start without --demo, then: bifrost login --url {url} --email YOUR_EMAIL; bifrost run {WORKFLOW}"
    ))
}

async fn wait_until_ready(url: &str) -> Result<(), Failure> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()
        .map_err(|error| Failure::new(error.to_string()))?;
    let ready = format!("{url}/health/ready");
    let began = Instant::now();
    loop {
        let said = match client.get(&ready).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => answer.status().to_string(),
            Err(error) => error.to_string(),
        };
        if began.elapsed() > PATIENCE {
            return Err(Failure::new(format!("the api does not get ready: {said}")).next("bifrost doctor"));
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Indexing goes on while the api starts to answer.
async fn wait_for_workflow(api: &mut Api) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let listed = api.get("/api/workflows").await?;
        let workflows = listed.as_array().or_else(|| listed.get("workflows").and_then(Value::as_array));
        let named = |workflow: &Value| workflow.get("name").and_then(Value::as_str) == Some(WORKFLOW);
        if workflows.is_some_and(|workflows| workflows.iter().any(named)) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::new(format!("the workspace has no workflow {WORKFLOW}"))
                .next("use the workspace that comes with Bifrost: bifrost up --demo --workspace DIR; or look for faults: bifrost doctor"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn show_result(result: &Value, progress: Progress) -> Result<(), Failure> {
    match result {
        Value::Null => {}
        Value::String(text) if text.trim_start().starts_with('<') => {
            let file = format!(".bifrost/{WORKFLOW}.html");
            std::fs::write(&file, text)
                .map_err(|error| Failure::new(format!("cannot write {file}: {error}")))?;
            let lines = html::text(text);
            output::say("");
            for line in lines.iter().take(EXTRACT_LINES) {
                output::say(&format!("  {}", output::harmless(line)));
            }
            if lines.len() > EXTRACT_LINES {
                output::say(&format!("  … {} more lines", lines.len() - EXTRACT_LINES));
            }
            output::say("");
            progress.say(format!("Full report in {file}"));
        }
        Value::String(text) => output::say(&format!("\n{}\n", output::harmless(text))),
        Value::Object(members) => show_members(members),
        other => output::say(&format!("\n{other:#}\n")),
    }
    Ok(())
}

fn show_members(members: &Map<String, Value>) {
    output::say("");
    let width = members.keys().map(|name| name.chars().count()).max().unwrap_or_default();
    for (name, value) in members {
        let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        output::say(&format!("  {name:<width$}  {}", output::harmless(&value)));
    }
    output::say("");
}
