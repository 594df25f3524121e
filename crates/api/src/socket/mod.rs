//! WebSockets: who may open one, and what is told there.
//!
//! Refusals accept the socket and then close it, because browsers do not show the status of a refused upgrade.

mod channel;
mod connection;
mod outbox;

use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{OriginalUri, RawPathParams, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use domain::id::ExecutionId;
use domain::sessions::Principal;
use domain::{Error, OrgScope};

use crate::extract::scope_of;
use crate::{AppState, origin};
use connection::Joined;

/// The process stops; connect again, elsewhere.
const RESTARTING: (u16, &str) = (1012, "the server restarts");
/// The reader is too slow; connect again and resume.
const BEHIND: (u16, &str) = (1013, "the consumer falls behind");
/// The other side could not be asked; try again.
const UNAVAILABLE: (u16, &str) = (1013, "try again later");
const UNAUTHENTICATED: (u16, &str) = (4001, "not authenticated");
const NOT_ALLOWED: (u16, &str) = (4003, "not allowed");

/// Longest frame of a client.
const MAX_FRAME: usize = 64 * 1024;
/// Channels of one connection.
const MOST_CHANNELS: usize = 100;

/// Who listens, and within what.
#[derive(Debug, Clone)]
struct Listener {
    principal: Arc<Principal>,
    scope: OrgScope,
}

type Refusal = (u16, &'static str);

/// `/ws/connect?channels=a&channels=b`.
pub(crate) async fn connect(
    State(app): State<AppState>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let listener = admit(&app, &headers).await;
    let channels = requested_channels(&uri);
    accept(app, upgrade, listener, move |app, listener| async move {
        connection::join_channels(&app, &listener, &channels).await.map_err(refusal)
    })
}

/// `/ws/execution/{execution_id}`.
pub(crate) async fn follow_execution(
    State(app): State<AppState>,
    params: RawPathParams,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let listener = admit(&app, &headers).await;
    let id = params.iter().next().and_then(|(_, id)| id.parse::<ExecutionId>().ok());
    accept(app, upgrade, listener, move |app, listener| async move {
        let id = id.ok_or(NOT_ALLOWED)?;
        connection::join_execution(&app, &listener, id).await.map_err(refusal)
    })
}

/// Accepts the upgrade, then serves the listener or closes with the reason why not.
fn accept<J, F>(
    app: AppState,
    upgrade: WebSocketUpgrade,
    listener: Result<Listener, Refusal>,
    join: J,
) -> Response
where
    J: FnOnce(AppState, Listener) -> F + Send + 'static,
    F: Future<Output = Result<Joined, Refusal>> + Send,
{
    let open = app.sockets.token();
    upgrade.max_message_size(MAX_FRAME).max_frame_size(MAX_FRAME).on_upgrade(move |socket| async move {
        let _open = open;
        let joined = match listener {
            Ok(listener) => join(app.clone(), listener.clone()).await.map(|joined| (listener, joined)),
            Err(refusal) => Err(refusal),
        };
        match joined {
            Ok((listener, joined)) => connection::serve(socket, app, listener, joined).await,
            Err(refusal) => refuse(socket, refusal).await,
        }
    })
}

async fn refuse(mut socket: WebSocket, (code, reason): Refusal) {
    // Whoever has hung up needs no answer.
    let _ = socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
}

async fn admit(app: &AppState, headers: &HeaderMap) -> Result<Listener, Refusal> {
    let caller = app.authenticate(headers).await.map_err(refusal)?;
    // Browsers send cookies along wherever the page is from, and preflights do not guard WebSockets.
    if caller.by_cookie && !origin::is_ours(&app.platform.settings, headers) {
        return Err(NOT_ALLOWED);
    }
    let scope = scope_of(app, &caller.principal, headers, None).await.map_err(refusal)?;
    Ok(Listener { principal: caller.principal, scope })
}

fn refusal(error: Error) -> Refusal {
    match error {
        Error::Unauthenticated => UNAUTHENTICATED,
        Error::Unavailable { .. } | Error::Internal(_) | Error::TooMany { .. } => {
            tracing::warn!(%error, "cannot admit a WebSocket");
            UNAVAILABLE
        }
        Error::NotFound(_)
        | Error::Forbidden(_)
        | Error::Impossible(_)
        | Error::Conflict(_)
        | Error::Invalid(_) => NOT_ALLOWED,
    }
}

fn requested_channels(uri: &Uri) -> Vec<String> {
    url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .filter(|(name, _)| name == "channels")
        .map(|(_, channel)| channel.into_owned())
        .take(MOST_CHANNELS)
        .collect()
}
