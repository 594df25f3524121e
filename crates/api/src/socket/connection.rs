//! One connection: frames of the client in, frames of its channels out, until one side ends it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use domain::events::{Event, News, Notice, Progress};
use domain::id::ExecutionId;
use domain::notifications::Notification;
use domain::{Error, Result};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::task::AbortOnDropHandle;

use super::channel::Channel;
use super::outbox::Outbox;
use super::{BEHIND, Listener, MOST_CHANNELS, RESTARTING, Refusal, UNAUTHENTICATED};
use crate::AppState;
use crate::live::{Follow, Frame, LastLine, UpdateFrame};
use crate::routes::notifications::NotificationPublic;
use crate::visibility::Reader;

/// How often the session is looked at; with the age of what is remembered of it, less than five seconds.
const SESSION_CHECK: Duration = Duration::from_secs(2);
/// How often a silent connection is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Executions whose state is remembered: what overtakes another does so within a moment, in which all may happen that events
/// have room for.
const REMEMBERED: usize = 4_096;

/// What a connection begins with: its first frame, and the channels granted.
#[derive(Debug)]
pub(super) struct Joined {
    hello: Value,
    channels: HashSet<Channel>,
    follows: Vec<(ExecutionId, Follow)>,
}

/// A frame of a client. What is not known is ignored.
#[derive(Debug, Deserialize)]
struct Request {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    channels: Vec<String>,
    channel: Option<String>,
    /// By channel: the last line the client has.
    #[serde(default)]
    after: HashMap<String, LastLine>,
}

impl Request {
    /// Reads a frame, or says what is wrong with it.
    fn read(frame: &[u8]) -> Result<Self, &'static str> {
        match serde_json::from_slice::<Value>(frame) {
            Ok(frame @ Value::Object(_)) => {
                serde_json::from_value(frame).map_err(|_| "a member of the frame has the wrong type")
            }
            _ => Err("a frame must be a JSON object"),
        }
    }
}

/// Grants what may be granted of the channels asked for; the rest is left out.
///
/// # Errors
/// What keeps an execution from being looked at: whoever is not told so would take it for a refusal and never ask again.
pub(super) async fn join_channels(app: &AppState, listener: &Listener, names: &[String]) -> Result<Joined> {
    let own = Channel::User(listener.principal.user_id);
    let mut channels = HashSet::from([own]);
    let mut granted = vec![own.to_string()];
    let mut follows = Vec::new();
    for name in names {
        let Ok(channel) = name.parse::<Channel>() else { continue };
        if !channel.is_open_to(&listener.principal) || !channels.insert(channel) {
            continue;
        }
        if let Channel::Execution(id) = channel {
            match Follow::open(app.clone(), &listener.scope, id, LastLine::default()).await {
                Ok(follow) => follows.push((id, follow)),
                Err(Error::NotFound(_) | Error::Forbidden(_)) => {
                    channels.remove(&channel);
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        granted.push(channel.to_string());
    }
    let hello = json!({"type": "connected", "channels": granted, "userId": listener.principal.user_id});
    Ok(Joined { hello, channels, follows })
}

/// Grants one execution, or refuses the whole connection.
///
/// # Errors
/// As for reading the execution.
pub(super) async fn join_execution(app: &AppState, listener: &Listener, id: ExecutionId) -> Result<Joined> {
    let follow = Follow::open(app.clone(), &listener.scope, id, LastLine::default()).await?;
    Ok(Joined {
        hello: json!({"type": "connected", "executionId": id}),
        channels: HashSet::from([Channel::User(listener.principal.user_id), Channel::Execution(id)]),
        follows: vec![(id, follow)],
    })
}

/// Serves a connection to its end.
pub(super) async fn serve(socket: WebSocket, app: AppState, listener: Listener, joined: Joined) {
    let (sink, mut frames) = socket.split();
    let (outbox, writer) = Outbox::start(sink);
    outbox.send(&joined.hello).await;
    let mut connection = Connection {
        reader: Reader::of(&listener.scope),
        channels: joined.channels,
        follows: HashMap::new(),
        notices: app.platform.events.notices(),
        events: None,
        states: States::default(),
        outbox: outbox.clone(),
        app: app.clone(),
        listener,
    };
    connection.listen();
    for (id, follow) in joined.follows {
        connection.begin(id, follow);
    }
    let mut session_check = tokio::time::interval(SESSION_CHECK);
    let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
    let (code, reason) = loop {
        tokio::select! {
            () = outbox.behind() => break BEHIND,
            () = app.draining.cancelled() => break RESTARTING,
            _ = session_check.tick() => if let Some(refusal) = connection.check_session().await { break refusal },
            _ = keep_alive.tick() => outbox.ping().await,
            frame = frames.next() => match frame {
                Some(Ok(Message::Text(text))) => connection.answer(text.as_bytes()).await,
                Some(Ok(Message::Binary(bytes))) => connection.answer(&bytes).await,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                // Gone, or going: the answer to its close is on its way.
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            notice = connection.notices.recv() => match notice {
                Ok(notice) => connection.tell(&notice).await,
                Err(RecvError::Lagged(_)) => break BEHIND,
                Err(RecvError::Closed) => break RESTARTING,
            },
            event = next_event(&mut connection.events) => match event {
                Ok(event) => connection.tell(&event).await,
                Err(RecvError::Lagged(_)) => break BEHIND,
                Err(RecvError::Closed) => break RESTARTING,
            },
        }
    };
    // The followers stop before the close, so that nothing comes after it.
    drop(connection);
    writer.close(code, reason).await;
}

struct Connection {
    app: AppState,
    listener: Listener,
    reader: Reader,
    channels: HashSet<Channel>,
    follows: HashMap<ExecutionId, AbortOnDropHandle<()>>,
    /// What becomes of notifications: the own user channel is always joined.
    notices: broadcast::Receiver<Arc<Event>>,
    /// What happens everywhere, while a channel is told of it.
    events: Option<broadcast::Receiver<Arc<Event>>>,
    /// What histories were told.
    states: States,
    outbox: Outbox,
}

/// The states that were told last of the latest executions. Events of several processes may overtake each other; what is told of an
/// execution only rises.
#[derive(Debug, Default)]
struct States {
    versions: HashMap<ExecutionId, i64>,
    /// In the order in which they were told first.
    order: VecDeque<ExecutionId>,
}

impl States {
    /// Whether this version is later than all that were told.
    fn is_later(&mut self, id: ExecutionId, version: i64) -> bool {
        if let Some(known) = self.versions.get_mut(&id) {
            let is_later = version > *known;
            *known = version.max(*known);
            return is_later;
        }
        if self.order.len() == REMEMBERED
            && let Some(first) = self.order.pop_front()
        {
            self.versions.remove(&first);
        }
        self.order.push_back(id);
        self.versions.insert(id, version);
        true
    }
}

impl Connection {
    /// Why the connection must end, if its session did.
    async fn check_session(&self) -> Option<Refusal> {
        match self.app.live_session(self.listener.principal.session_id).await {
            // Whoever's rights changed (promoted, moved, another role) signs in to the socket again.
            Ok(Some(principal)) if principal.has_same_rights(&self.listener.principal) => None,
            Ok(_) => Some(UNAUTHENTICATED),
            Err(error) => {
                tracing::debug!(%error, "cannot look at the session of a WebSocket, it goes on");
                None
            }
        }
    }

    async fn answer(&mut self, frame: &[u8]) {
        let request = match Request::read(frame) {
            Ok(request) => request,
            Err(detail) => return self.outbox.send(&json!({"type": "error", "detail": detail})).await,
        };
        let names = || request.channels.iter().chain(&request.channel);
        match request.r#type.as_str() {
            "ping" => self.outbox.send(&json!({"type": "pong"})).await,
            "subscribe" => {
                for name in names() {
                    self.subscribe(name, request.after.get(name).copied().unwrap_or_default()).await;
                }
            }
            "unsubscribe" => {
                for name in names() {
                    self.unsubscribe(name).await;
                }
            }
            _ => {}
        }
    }

    async fn subscribe(&mut self, name: &str, after: LastLine) {
        let follow = match self.grant(name, after).await {
            Ok(follow) => follow,
            Err(detail) => {
                return self.outbox.send(&json!({"type": "error", "channel": name, "detail": detail})).await;
            }
        };
        self.outbox.send(&json!({"type": "subscribed", "channel": name})).await;
        if let Some((id, follow)) = follow {
            self.begin(id, follow);
        }
    }

    /// Joins a channel; answers what there is to follow, or why not.
    async fn grant(
        &mut self,
        name: &str,
        after: LastLine,
    ) -> Result<Option<(ExecutionId, Follow)>, &'static str> {
        // One text for what does not exist and what belongs to somebody else.
        const REFUSED: &str = "no such channel";
        let channel = name.parse::<Channel>().map_err(|()| REFUSED)?;
        if !channel.is_open_to(&self.listener.principal) {
            return Err(REFUSED);
        }
        if self.channels.len() >= MOST_CHANNELS && !self.channels.contains(&channel) {
            return Err("too many channels");
        }
        let follow = match channel {
            // Subscribing again resumes after the line named.
            Channel::Execution(id) => {
                let follow = Follow::open(self.app.clone(), &self.listener.scope, id, after).await;
                Some((
                    id,
                    follow
                        .map_err(|error| if error.is_unavailable() { "try again later" } else { REFUSED })?,
                ))
            }
            Channel::User(_)
            | Channel::Notification(_)
            | Channel::AdminNotifications
            | Channel::Package(_)
            | Channel::Git(_)
            | Channel::History(_)
            | Channel::System => None,
        };
        self.channels.insert(channel);
        self.listen();
        Ok(follow)
    }

    async fn unsubscribe(&mut self, name: &str) {
        if let Ok(channel) = name.parse::<Channel>() {
            // The own user channel is always joined.
            if channel != Channel::User(self.listener.principal.user_id) {
                self.channels.remove(&channel);
            }
            if let Channel::Execution(id) = channel {
                self.follows.remove(&id);
            }
            self.listen();
        }
        self.outbox.send(&json!({"type": "unsubscribed", "channel": name})).await;
    }

    /// Begins to tell what a follower finds, replacing an earlier one of the same execution.
    fn begin(&mut self, id: ExecutionId, mut follow: Follow) {
        // Before the new one starts, so that their frames do not mix.
        self.follows.remove(&id);
        let outbox = self.outbox.clone();
        let task = tokio::spawn(async move {
            while let Some(frame) = follow.next().await {
                outbox.send(&frame).await;
            }
        });
        self.follows.insert(id, AbortOnDropHandle::new(task));
    }

    /// Begins or ends to hear what happens everywhere, as the channels need it.
    fn listen(&mut self) {
        let wanted = self.channels.iter().any(|channel| {
            matches!(channel, Channel::History(_) | Channel::System | Channel::Package(_) | Channel::Git(_))
        });
        if !wanted {
            self.events = None;
        } else if self.events.is_none() {
            self.events = Some(self.app.platform.events.everything());
        }
    }

    async fn tell(&mut self, event: &Event) {
        match event {
            Event::Update(update) => {
                // First, for most of what happens everywhere is told to most connections by none of their channels.
                if !self.channels.iter().any(|channel| channel.tells(update, &self.listener.principal)) {
                    return;
                }
                let frame = UpdateFrame::of_event(update, self.reader);
                if self.states.is_later(update.execution_id, frame.version) {
                    self.outbox.send(&Frame::Update(Box::new(frame))).await;
                }
            }
            Event::Progress(progress) => {
                let channel = Channel::of_job(progress);
                if self.channels.contains(&channel) {
                    self.outbox.send(&job_frame(channel, progress)).await;
                }
            }
            Event::Notice(notice) => self.tell_notice(notice).await,
            Event::WorkspaceChanged if self.channels.contains(&Channel::System) => {
                self.outbox.send(&json!({"type": "system_event", "eventType": "workspace_changed"})).await;
            }
            Event::Happened(happened)
                if self.channels.contains(&Channel::System) && self.listener.principal.is_superuser =>
            {
                let event = json!({
                    "event_id": happened.id, "timestamp": happened.at, "category": happened.category,
                    "level": happened.level, "message": happened.message,
                });
                self.outbox.send(&json!({"type": "system_event", "eventType": "log", "event": event})).await;
            }
            Event::Submitted(_)
            | Event::WorkspaceChanged
            | Event::PackagesSwitched
            | Event::Happened(_)
            | Event::Answered(_)
            | Event::Lines(_)
            | Event::Cancel { .. } => {}
        }
    }

    /// Tells what became of a notification, once, whichever of its channels are joined.
    async fn tell_notice(&self, notice: &Notice) {
        if !self.channels.iter().any(|channel| channel.tells_of(notice)) {
            return;
        }
        let frame = match notice {
            Notice::Created(notification) => {
                json!({"type": "notification_created", "notification": NotificationPublic::from(Notification::clone(notification))})
            }
            Notice::Updated(notification) => {
                json!({"type": "notification_updated", "notification": NotificationPublic::from(Notification::clone(notification))})
            }
            Notice::Dismissed { id, .. } => json!({"type": "notification_dismissed", "notification_id": id}),
        };
        self.outbox.send(&frame).await;
        let is_own = self.channels.contains(&Channel::User(notice.user_id()));
        if let Notice::Updated(ended) = notice
            && is_own
            && ended.status.is_terminal()
        {
            self.outbox.send(&end_frame(ended)).await;
        }
    }
}

/// The end of what a user waited for, for clients that show a line and keep no list.
fn end_frame(ended: &Notification) -> Value {
    let message = ended.error.as_ref().or(ended.description.as_ref());
    json!({
        "type": "notification", "notificationType": ended.status.as_str(), "title": ended.title,
        "message": message.map_or("", String::as_str),
    })
}

/// What a background job tells, as it goes over the wire.
fn job_frame(channel: Channel, progress: &Progress) -> Value {
    let mut frame = match &progress.news {
        News::Log { level, message } => json!({"type": "log", "level": level, "message": message}),
        News::Complete { status, message, result } => {
            let mut frame = result.as_object().cloned().unwrap_or_default();
            frame.extend([
                ("type".to_owned(), json!("complete")),
                ("status".to_owned(), json!(status)),
                ("message".to_owned(), json!(message)),
            ]);
            Value::Object(frame)
        }
    };
    frame["channel"] = json!(channel.to_string());
    frame["jobId"] = json!(progress.job_id);
    frame
}

/// The next event of the installation, if anybody listens to it.
async fn next_event(events: &mut Option<broadcast::Receiver<Arc<Event>>>) -> Result<Arc<Event>, RecvError> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
