//! Following executions by server-sent events and over WebSockets, with connections that are given up in the middle.
//!
//! A follower that comes back says which line it has; what it is told over all its connections must have no gap.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use uuid::Uuid;

use crate::history::Followed;
use crate::http::Caller;
use crate::patience::Patience;
use crate::plan::Following;

/// A stream that says nothing for so long is given up; servers say something every fifteen seconds.
const SILENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);

/// Follows until it is told the end.
pub(crate) async fn follow(
    caller: &Caller,
    id: Uuid,
    how: Following,
    number: usize,
    patience: &Patience,
) -> Followed {
    let mut told = Followed { execution: id, ..Followed::default() };
    while told.terminal.is_none() && !patience.is_over() {
        told.connections += 1;
        // The first connections are given up early, each a little later than the one before.
        let most = if told.connections <= 3 { 4 + number % 9 + told.connections } else { usize::MAX };
        let replica = number + told.connections;
        let connection = async {
            match how {
                Following::Events => events(caller, replica, id, most, &mut told).await,
                Following::Socket => socket(caller, replica, id, most, &mut told).await,
            }
        };
        // A stream may go on for ever and say nothing but that it is there.
        tokio::select! {
            _ = connection => {}
            () = patience.over() => {}
        }
        if told.terminal.is_none() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    told
}

/// Notes a frame; whether it was the last one.
fn note(frame: &Value, told: &mut Followed) -> bool {
    // A socket also tells what else its user started.
    if frame["executionId"] != told.execution.to_string() {
        return false;
    }
    match frame["type"].as_str() {
        Some("execution_log") => {
            told.lines.extend(frame["attempt"].as_i64().zip(frame["sequence"].as_i64()));
            told.lines_after_end += usize::from(told.terminal.is_some());
        }
        // The state at joining may be an end already; the lines before it still come.
        Some("execution_update") if frame["snapshot"] != true => {
            let status = frame["status"].as_str().unwrap_or_default();
            if !matches!(status, "Pending" | "Running" | "Cancelling") {
                told.terminal = Some(status.to_owned());
            }
        }
        _ => {}
    }
    told.terminal.is_some()
}

async fn events(caller: &Caller, replica: usize, id: Uuid, most: usize, told: &mut Followed) -> Option<()> {
    let mut request = caller.request(replica, Method::GET, &format!("/api/executions/{id}/stream"));
    if !told.lines.is_empty() {
        request = request.header("Last-Event-ID", told.last_line());
    }
    let mut answer = tokio::time::timeout(SILENCE, request.send()).await.ok()?.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let (mut text, mut count) = (Vec::new(), 0);
    loop {
        let chunk = tokio::time::timeout(SILENCE, answer.chunk()).await.ok()?.ok()??;
        text.extend_from_slice(&chunk);
        while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let event = String::from_utf8_lossy(&event).into_owned();
            let data = event.lines().filter_map(|line| line.strip_prefix("data:")).collect::<String>();
            let Ok(frame) = serde_json::from_str(data.trim_start()) else { continue };
            count += 1;
            if note(&frame, told) || count >= most {
                return None;
            }
        }
    }
}

async fn socket(caller: &Caller, replica: usize, id: Uuid, most: usize, told: &mut Followed) -> Option<()> {
    let base = &caller.bases[replica % caller.bases.len()];
    let mut request = format!("{}/ws/connect", base.replacen("http", "ws", 1)).into_client_request().ok()?;
    let bearer = format!("Bearer {}", caller.bearer.as_deref().unwrap_or_default());
    request.headers_mut().insert("authorization", bearer.parse().ok()?);
    let connecting = tokio_tungstenite::connect_async(request);
    let (mut stream, _) = tokio::time::timeout(SILENCE, connecting).await.ok()?.ok()?;
    let channel = format!("execution:{id}");
    let subscribe =
        json!({"type": "subscribe", "channels": [channel], "after": {&channel: told.last_line()}});
    stream.send(Message::text(subscribe.to_string())).await.ok()?;
    let mut count = 0;
    loop {
        let message = tokio::time::timeout(SILENCE, stream.next()).await.ok()??.ok()?;
        let Message::Text(text) = message else { continue };
        let Ok(frame) = serde_json::from_str::<Value>(&text) else { continue };
        count += 1;
        // A subscription that was refused for the moment is asked for again.
        if frame["type"] == "error" || note(&frame, told) || count >= most {
            return None;
        }
    }
}
