//! Submitting a run and following it: live over the WebSocket, and by asking while there is none.
//!
//! The invariant: every line is printed once, in order, and the end is never missed.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{Either, select};
use reqwest::Method;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use uuid::Uuid;

use super::{Api, read};
use crate::failure::Failure;
use crate::output::{self, Paint, harmless};

/// Pause before the next look or connection.
const PAUSE: Duration = Duration::from_millis(500);
/// A live connection that says nothing for so long is looked behind.
const SILENCE: Duration = Duration::from_secs(20);
/// Looks that may fail in a row: a server that restarts is waited for.
const MAX_FAILED_LOOKS: u32 = 20;

/// How a run ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) status: String,
    pub(crate) error: Option<String>,
    /// The whole record.
    pub(crate) record: Value,
}

impl End {
    /// The exit code that scripts rely on.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.status.as_str() {
            "Success" => 0,
            "Timeout" => 124,
            "Cancelled" => 130,
            _ => 1,
        }
    }

    /// The state in the colour it deserves.
    pub(crate) fn painted(&self, paint: Paint) -> String {
        painted(&self.status, paint)
    }
}

/// A state in the colour it deserves.
pub(crate) fn painted(status: &str, paint: Paint) -> String {
    match status {
        "Success" => paint.green(status),
        "CompletedWithErrors" | "Cancelled" | "Cancelling" => paint.yellow(status),
        "Failed" | "Timeout" => paint.red(status),
        _ => harmless(status),
    }
}

/// Prints log lines, each once.
#[derive(Debug)]
pub(crate) struct Printer {
    paint: Paint,
    on_stdout: bool,
    last: i64,
}

impl Printer {
    pub(crate) fn to_stdout() -> Self {
        Self { paint: Paint::for_stdout(), on_stdout: true, last: 0 }
    }

    pub(crate) fn to_stderr() -> Self {
        Self { paint: Paint::for_stderr(), on_stdout: false, last: 0 }
    }

    /// Prints a line unless it was printed before. Both the live frame and the stored line look like this.
    fn line(&mut self, line: &Value) {
        let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
        // Sequences have no gaps, so a stored line without one is the next.
        let sequence = line.get("sequence").and_then(Value::as_i64).unwrap_or(self.last + 1);
        if sequence <= self.last {
            return;
        }
        self.last = sequence;
        let level = text("level");
        let painted = match level {
            "DEBUG" => self.paint.dim(&format!("{level:<8}")),
            "WARNING" => self.paint.yellow(&format!("{level:<8}")),
            "ERROR" | "CRITICAL" | "TRACEBACK" => self.paint.red(&format!("{level:<8}")),
            _ => format!("{:<8}", harmless(level)),
        };
        let time = clock(text("timestamp"));
        let message = harmless(text("message")).replace('\n', "\n                       ");
        let line = format!("  {} {painted} {message}", self.paint.dim(&time));
        if self.on_stdout { output::say(&line) } else { output::note(&line) }
    }
}

/// Submits a run and returns its id at once, also for a workflow whose request waits for the end.
pub(crate) async fn submit(api: &mut Api, body: &Value) -> Result<String, Failure> {
    api.get("/auth/me").await?; // renews an expired session, which the two requests below could not share
    // The request of a synchronous workflow waits for the end, and only its answer names the execution. A second
    // one with the same key answers at once with the execution of the first, whichever comes first.
    let key = Uuid::now_v7().to_string();
    let request = |api: &Api| {
        let request =
            api.request(Method::POST, "/api/workflows/execute").header("Idempotency-Key", &key).json(body);
        let url = api.url().to_owned();
        tokio::spawn(async move { read::<Value>(&url, request).await })
    };
    let (one, other) = (request(api), request(api));
    let first = match select(one, other).await {
        Either::Left((first, _)) | Either::Right((first, _)) => first,
    };
    let answer = first.map_err(|error| Failure::new(format!("the request broke: {error}")))??;
    let id = answer.get("execution_id").and_then(Value::as_str);
    id.map(ToOwned::to_owned).ok_or_else(|| Failure::new("the api accepted the run without naming it"))
}

/// Prints the log until the run has ended.
pub(crate) async fn to_the_end(api: &mut Api, id: &str, printer: &mut Printer) -> Result<End, Failure> {
    let mut failed_looks = 0;
    loop {
        // Whatever happens to the connection, the look behind it finds what it missed.
        live(api, id, printer).await;
        match look(api, id, printer).await {
            Ok(Some(end)) => return Ok(end),
            Ok(None) => failed_looks = 0,
            Err(failure) if failed_looks >= MAX_FAILED_LOOKS => return Err(failure),
            Err(_) => failed_looks += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// As [`to_the_end`]; Ctrl-C cancels the run and goes on following, a second one gives up.
pub(crate) async fn to_the_end_or_cancelled(
    api: &mut Api,
    id: &str,
    printer: &mut Printer,
) -> Result<End, Failure> {
    let interrupted = || async {
        // Without a handler nobody can interrupt us but the kernel.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    if let Some(end) = unless(interrupted(), to_the_end(api, id, printer)).await {
        return end;
    }
    output::note("Cancelling the run; Ctrl-C again leaves it");
    api.post(&format!("/api/executions/{id}/cancel"), &Value::Null).await?;
    match unless(interrupted(), to_the_end(api, id, printer)).await {
        Some(end) => end,
        None => Err(Failure::new("interrupted; the run is being cancelled")
            .next(format!("bifrost executions show {id}"))
            .code(130)),
    }
}

async fn unless<T>(interrupted: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    match select(pin!(interrupted), pin!(work)).await {
        Either::Left(_) => None,
        Either::Right((done, _)) => Some(done),
    }
}

/// Follows over the WebSocket until it says the end, breaks or goes silent.
async fn live(api: &Api, id: &str, printer: &mut Printer) {
    // Behind TLS the looks alone follow: a little later, and nothing is missed.
    let Some(address) = api.url().strip_prefix("http://") else { return };
    let Ok(mut request) = format!("ws://{address}/ws/execution/{id}").into_client_request() else { return };
    let bearer = format!("Bearer {}", api.access_token().unwrap_or_default());
    let Ok(bearer) = HeaderValue::from_str(&bearer) else { return };
    request.headers_mut().insert("authorization", bearer);
    let Ok(Ok((mut socket, _))) =
        tokio::time::timeout(SILENCE, tokio_tungstenite::connect_async(request)).await
    else {
        return;
    };
    while let Ok(Some(Ok(message))) = tokio::time::timeout(SILENCE, socket.next()).await {
        let Message::Text(text) = message else { continue };
        let Ok(frame) = serde_json::from_str::<Value>(&text) else { continue };
        match frame.get("type").and_then(Value::as_str) {
            Some("execution_log") => printer.line(&frame),
            Some("execution_update") if is_terminal(&frame) => return,
            _ => {}
        }
    }
}

/// Reads the record and what it logged since; the end if it has ended.
async fn look(api: &mut Api, id: &str, printer: &mut Printer) -> Result<Option<End>, Failure> {
    // The record first: the lines read after a terminal one are all there are.
    let record = api.get(&format!("/api/executions/{id}")).await?;
    print_stored(api, id, printer).await?;
    if !is_terminal(&record) {
        return Ok(None);
    }
    let text = |name: &str| record.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    Ok(Some(End { status: text("status").unwrap_or_default(), error: text("error_message"), record }))
}

/// Prints the stored lines that were not printed yet.
pub(crate) async fn print_stored(api: &mut Api, id: &str, printer: &mut Printer) -> Result<(), Failure> {
    let lines = api.get(&format!("/api/executions/{id}/logs?after_sequence={}", printer.last)).await?;
    lines.as_array().into_iter().flatten().for_each(|line| printer.line(line));
    Ok(())
}

fn is_terminal(record: &Value) -> bool {
    let status = record.get("status").and_then(Value::as_str).unwrap_or_default();
    matches!(status, "Success" | "CompletedWithErrors" | "Failed" | "Timeout" | "Cancelled")
}

/// The time of day of a timestamp, in the zone of whoever reads it.
fn clock(timestamp: &str) -> String {
    let parsed =
        chrono::DateTime::parse_from_rfc3339(timestamp).map(|time| time.with_timezone(&chrono::Local));
    parsed.map_or_else(|_| " ".repeat(12), |time| time.format("%H:%M:%S%.3f").to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exit_code_tells_how_a_run_ended() {
        let code = |status: &str| End { status: status.into(), error: None, record: Value::Null }.exit_code();

        assert_eq!(
            ["Success", "Failed", "CompletedWithErrors", "Timeout", "Cancelled"].map(code),
            [0, 1, 1, 124, 130]
        );
    }

    #[test]
    fn a_line_is_printed_once() {
        let mut printer = Printer::to_stderr();

        printer.line(&json!({"sequence": 1, "level": "INFO", "message": "one"}));
        printer.line(&json!({"sequence": 1, "level": "INFO", "message": "one"}));
        printer.line(&json!({"level": "INFO", "message": "stored, without a number"}));

        assert_eq!(printer.last, 2);
    }
}
