//! Following an execution by server-sent events: for scripts, which need no WebSocket this way.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use domain::id::ExecutionId;
use domain::sessions::Principal;
use futures::{Stream, StreamExt as _, stream};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::envelope::NO_STORE;
use crate::extract::{Path, Signed};
use crate::live::{Follow, Frame};
use crate::problem::{Problem, Problems};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// As for WebSockets: together with the age of what is remembered of a session, less than five seconds.
const SESSION_CHECK: Duration = Duration::from_secs(2);

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(stream_execution))
}

/// Follows an execution.
///
/// Server-sent events `execution_update` and `execution_log`, as on the WebSocket: the present state, every
/// stored line, then what happens; the terminal update comes last and ends the stream. Lines carry
/// `<sequence>.<attempt>` as `id`, so a client that reconnects with `Last-Event-ID` misses and repeats nothing. Where an
/// attempt was lost with lines that were never stored, the next `attempt` gives their numbers anew, also to a client that was
/// away meanwhile. The sequence alone is accepted too.
#[utoipa::path(
    get, path = "/api/executions/{execution_id}/stream", tag = "Executions", security(("bearer" = [])),
    params(
        ("execution_id" = Uuid, Path, description = "The execution."),
        ("Last-Event-ID" = Option<String>, Header, description = "The last line the client has: its `id`, or its sequence."),
    ),
    responses((status = 200, body = String, content_type = "text/event-stream"), Problems),
)]
async fn stream_execution(
    State(app): State<AppState>,
    signed: Signed,
    Path(id): Path<ExecutionId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let follow = Follow::open(app.clone(), &signed.scope, id, last.unwrap_or_default()).await?;
    let end = end_of_welcome(app, signed.principal);
    let events = frames(follow).map(|frame| Ok::<_, Infallible>(event(&frame))).take_until(Box::pin(end));
    Ok((NO_STORE, Sse::new(events).keep_alive(KeepAlive::default())).into_response())
}

fn frames(follow: Follow) -> impl Stream<Item = Frame> {
    stream::unfold(follow, |mut follow| async move {
        let frame = follow.next().await?;
        Some((frame, follow))
    })
}

fn event(frame: &Frame) -> Event {
    let event = match frame {
        Frame::Update(_) => Event::default().event("execution_update"),
        Frame::Log(log) => Event::default().event("execution_log").id(log.line().to_string()),
    };
    event.data(serde_json::to_string(frame).expect("a frame is always JSON"))
}

/// Resolves when the session ends, its owner's rights change or the process stops.
async fn end_of_welcome(app: AppState, principal: Arc<Principal>) {
    let session_ends = async {
        loop {
            tokio::time::sleep(SESSION_CHECK).await;
            match app.live_session(principal.session_id).await {
                Ok(Some(now)) if now.has_same_rights(&principal) => {}
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, "cannot look at the session of a stream, it goes on"),
            }
        }
    };
    tokio::select! {
        () = session_ends => {}
        () = app.draining.cancelled() => {}
    }
}
