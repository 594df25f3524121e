//! Live events: what happens to executions, told to whoever watches, on any replica.
//!
//! Nothing relies on an event arriving: a watcher that misses one finds the state in the rows. Two arms, Redis
//! publish/subscribe and the process itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_redis::redis::io::tcp::TcpSettings;
use deadpool_redis::redis::{self, IntoConnectionInfo};
use futures::StreamExt;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};

use crate::background_jobs;
use crate::executions::{Kind, RawJson, Status, logs};
use crate::id::{ExecutionId, JobId, NotificationId, OrgId, UserId};
use crate::notifications::Notification;
use crate::telemetry::metrics;
use crate::{Error, Result};

/// Results beyond this are read from the row instead.
const MAX_INLINE_RESULT: usize = 64 * 1024;
/// Events a watcher may be behind before it has to look at the rows.
const BACKLOG: usize = 1_024;
const RECONNECT: Duration = Duration::from_millis(500);
/// How often a subscription asks whether the other side is there, and how long it waits for an answer: a connection
/// that is dead without a word would be silent like one on which nothing happens.
const PING_PERIOD: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// An execution changed its state.
    Update(Box<Update>),
    /// A data provider ended: told to who waits for it, and to nobody else.
    Answered(Box<Update>),
    /// An execution logged.
    Lines(Lines),
    /// Somebody asked to stop a running attempt.
    Cancel {
        /// The execution.
        execution_id: ExecutionId,
        /// The attempt that runs.
        attempt: i32,
    },
    /// Something was submitted: a worker that idles may look at once instead of waiting for its wake-up.
    Submitted,
    /// The workspace changed and was indexed again.
    WorkspaceChanged,
    /// The workspace has another environment of packages.
    PackagesSwitched,
    /// A background job tells who asked for it how far it is.
    Progress(Box<Progress>),
    /// A notification of somebody appeared, changed or went away.
    Notice(Notice),
    /// Something happened to the platform; for administrators.
    Happened(Box<Happened>),
}

/// A system event that was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as the fields of a log entry")]
pub struct Happened {
    pub id: uuid::Uuid,
    pub at: DateTime<Utc>,
    pub category: String,
    pub level: String,
    pub message: String,
}

/// What became of a notification.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Notice {
    Created(Box<Notification>),
    Updated(Box<Notification>),
    Dismissed { id: NotificationId, user_id: UserId, for_admins: bool },
}

/// How far a background job is. Nothing stores it: the end is in the row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// The job.
    pub job_id: JobId,
    /// What it belongs to: the channel.
    pub topic: Topic,
    /// Who asked for it.
    pub user_id: UserId,
    /// What there is to tell.
    pub news: News,
}

/// What a background job belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Topic {
    Package,
    Git,
}

/// News of a background job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum News {
    /// A line.
    Log {
        /// `info`, `warning` or `error`.
        level: String,
        /// In words.
        message: String,
    },
    /// The end.
    Complete {
        /// `success`, `error` or `conflict`.
        status: String,
        /// In words.
        message: String,
        /// Further members of the frame: an object or null.
        result: serde_json::Value,
    },
}

/// A change of state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Update {
    /// The execution.
    pub execution_id: ExecutionId,
    /// Its organization.
    pub org_id: Option<OrgId>,
    /// Its workflow.
    pub workflow_name: String,
    /// Who started it.
    pub executed_by: UserId,
    /// Display name of who started it.
    pub executed_by_name: String,
    /// State now.
    pub status: Status,
    /// Current attempt.
    pub attempt: i32,
    /// First claim.
    pub started_at: Option<DateTime<Utc>>,
    /// End.
    pub completed_at: Option<DateTime<Utc>>,
    /// At the end: duration of the last attempt.
    pub duration_ms: Option<i64>,
    /// At the end: the result, up to 64 KiB.
    pub result: Option<RawJson>,
    /// `json`, `html` or `text`.
    pub result_type: Option<String>,
    /// Whether `result` was left out because of its size.
    pub result_omitted: bool,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Class of the exception or name of the platform.
    pub error_type: Option<String>,
    /// Whether the message was written for the person who runs it.
    pub is_user_error: bool,
    /// Sequence of the last line logged, at the end.
    pub last_sequence: Option<i64>,
}

/// Lines just logged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lines {
    /// The execution.
    pub execution_id: ExecutionId,
    /// In order.
    pub lines: Vec<LiveLine>,
}

/// One line; see [`logs::Line`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as the fields of logs::Line")]
pub struct LiveLine {
    pub sequence: i64,
    pub user_sequence: Option<i64>,
    pub attempt: i32,
    pub level: String,
    pub message: String,
    pub data: Option<RawJson>,
    pub logged_at: DateTime<Utc>,
}

/// Where events go and come from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    hub: Arc<Hub>,
    bus: Bus,
}

#[derive(Debug, Clone)]
enum Bus {
    InProcess,
    Redis(Redis),
}

#[derive(Debug, Clone)]
struct Redis {
    outbox: mpsc::Sender<Arc<Event>>,
    subscriptions: mpsc::UnboundedSender<Subscription>,
}

#[derive(Debug)]
enum Subscription {
    Begin(ExecutionId),
    End(ExecutionId),
}

/// Watchers of this process.
#[derive(Debug)]
struct Hub {
    watchers: Mutex<HashMap<ExecutionId, Vec<Watcher>>>,
    everything: broadcast::Sender<Arc<Event>>,
    /// Apart, since every connection hears them, and most need nothing else of everything.
    notices: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    events: mpsc::Sender<Arc<Event>>,
}

/// The events of one execution, from now on. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    execution_id: ExecutionId,
    id: u64,
    events: mpsc::Receiver<Arc<Event>>,
    from: Events,
    with_logs: bool,
}

impl Events {
    /// Events of this process.
    pub fn in_process() -> Self {
        Self { hub: Arc::new(Hub::new()), bus: Bus::InProcess }
    }

    /// Events through Redis, every channel under `prefix`; connects in the background and goes on trying.
    ///
    /// # Errors
    /// [`Error::Internal`] when the URL cannot be read.
    pub fn redis(url: &SecretString, prefix: &str) -> Result<Self> {
        // Nagle's algorithm would hold a large batch of events back for the 40 ms of a delayed acknowledgement.
        let settings = TcpSettings::default().set_nodelay(true);
        let server =
            url.expose_secret().into_connection_info().map_err(Error::internal)?.set_tcp_settings(settings);
        let client = redis::Client::open(server).map_err(Error::internal)?;
        let hub = Arc::new(Hub::new());
        let (outbox, events) = mpsc::channel(16 * BACKLOG);
        let (subscriptions, wanted) = mpsc::unbounded_channel();
        let channels = Channels { prefix: prefix.to_owned() };
        tokio::spawn(publish_forever(client.clone(), channels.clone(), events));
        tokio::spawn(subscribe_forever(client, channels, hub.clone(), wanted));
        Ok(Self { hub, bus: Bus::Redis(Redis { outbox, subscriptions }) })
    }

    /// Tells it to everybody who watches. Never waits; what does not fit is lost, and found in the rows.
    pub fn publish(&self, event: Event) {
        if let Event::Update(update) = &event
            && update.status.is_terminal()
        {
            // Whoever ends an execution says so here, and nobody else does.
            let took = update.duration_ms.and_then(|took| u64::try_from(took).ok());
            metrics::ended(update.status, took.map(Duration::from_millis));
        }
        let event = Arc::new(event);
        match &self.bus {
            Bus::InProcess => self.hub.dispatch(&event),
            Bus::Redis(redis) => {
                if redis.outbox.try_send(event).is_err() {
                    tracing::debug!("the event publisher is behind, watchers will look at the rows");
                }
            }
        }
    }

    /// Watches one execution, with its log lines or only its changes of state.
    pub fn watch(&self, execution_id: ExecutionId, with_logs: bool) -> Watch {
        let (sender, events) = mpsc::channel(BACKLOG);
        let id = self.hub.add(execution_id, sender);
        if with_logs && let Bus::Redis(redis) = &self.bus {
            let _ = redis.subscriptions.send(Subscription::Begin(execution_id));
        }
        Watch { execution_id, id, events, from: self.clone(), with_logs }
    }

    /// Every change of state and cancel request of the installation, for workers and history channels.
    pub fn everything(&self) -> broadcast::Receiver<Arc<Event>> {
        self.hub.everything.subscribe()
    }

    /// What becomes of the notifications of everybody.
    pub fn notices(&self) -> broadcast::Receiver<Arc<Event>> {
        self.hub.notices.subscribe()
    }
}

impl Watch {
    /// The next event.
    pub async fn next(&mut self) -> Arc<Event> {
        match self.events.recv().await {
            Some(event) => event,
            // The hub keeps the sender as long as this watch lives.
            None => std::future::pending().await,
        }
    }

    /// The terminal update, if it comes in time.
    pub async fn terminal(&mut self, patience: Duration) -> Option<Update> {
        let end = async {
            loop {
                if let Event::Update(update) | Event::Answered(update) = &*self.next().await
                    && update.status.is_terminal()
                {
                    return Update::clone(update);
                }
            }
        };
        tokio::time::timeout(patience, end).await.ok()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.from.hub.remove(self.execution_id, self.id);
        if self.with_logs
            && let Bus::Redis(redis) = &self.from.bus
        {
            let _ = redis.subscriptions.send(Subscription::End(self.execution_id));
        }
    }
}

impl Update {
    /// The event that tells of it.
    pub fn of_kind(self, kind: Kind) -> Event {
        match kind {
            Kind::Workflow => Event::Update(Box::new(self)),
            Kind::DataProvider => Event::Answered(Box::new(self)),
        }
    }

    /// Puts the result in, unless it is too large for an event.
    pub fn with_result(mut self, result: Option<RawJson>) -> Self {
        self.result_omitted = result.as_ref().is_some_and(|result| result.get().len() > MAX_INLINE_RESULT);
        self.result = result.filter(|_| !self.result_omitted);
        self
    }
}

impl From<&logs::Line> for LiveLine {
    fn from(line: &logs::Line) -> Self {
        Self {
            sequence: line.sequence,
            user_sequence: line.user_sequence,
            attempt: line.attempt,
            level: line.level.clone(),
            message: line.message.clone(),
            data: line.data.as_ref().map(|data| data.0.clone()),
            logged_at: line.logged_at,
        }
    }
}

impl From<Update> for Event {
    fn from(update: Update) -> Self {
        Self::Update(Box::new(update))
    }
}

impl Event {
    fn execution_id(&self) -> Option<ExecutionId> {
        match self {
            Self::Update(update) | Self::Answered(update) => Some(update.execution_id),
            Self::Lines(lines) => Some(lines.execution_id),
            Self::Cancel { execution_id, .. } => Some(*execution_id),
            Self::Submitted
            | Self::WorkspaceChanged
            | Self::PackagesSwitched
            | Self::Progress(_)
            | Self::Notice(_)
            | Self::Happened(_) => None,
        }
    }
}

impl Notice {
    /// Whose notification it is.
    pub fn user_id(&self) -> UserId {
        match self {
            Self::Created(notification) | Self::Updated(notification) => notification.user_id,
            Self::Dismissed { user_id, .. } => *user_id,
        }
    }

    /// Whether platform administrators are told too.
    pub fn is_for_admins(&self) -> bool {
        match self {
            Self::Created(notification) | Self::Updated(notification) => notification.for_admins,
            Self::Dismissed { for_admins, .. } => *for_admins,
        }
    }
}

impl From<background_jobs::Kind> for Topic {
    fn from(kind: background_jobs::Kind) -> Self {
        match kind {
            background_jobs::Kind::GitSync => Self::Git,
            background_jobs::Kind::PackagesInstall => Self::Package,
        }
    }
}

impl From<&background_jobs::Outcome> for News {
    fn from(outcome: &background_jobs::Outcome) -> Self {
        let status = match outcome.status {
            background_jobs::Status::Success => "success",
            background_jobs::Status::Conflict => "conflict",
            _ => "error",
        };
        Self::Complete {
            status: status.into(),
            message: outcome.message.clone(),
            result: outcome.result.clone(),
        }
    }
}

impl Hub {
    fn new() -> Self {
        Self {
            watchers: Mutex::default(),
            everything: broadcast::channel(BACKLOG * 4).0,
            notices: broadcast::channel(BACKLOG).0,
        }
    }

    fn add(&self, execution_id: ExecutionId, events: mpsc::Sender<Arc<Event>>) -> u64 {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.watchers().entry(execution_id).or_default().push(Watcher { id, events });
        id
    }

    fn remove(&self, execution_id: ExecutionId, id: u64) {
        let mut watchers = self.watchers();
        if let Some(of_execution) = watchers.get_mut(&execution_id) {
            of_execution.retain(|watcher| watcher.id != id);
            if of_execution.is_empty() {
                watchers.remove(&execution_id);
            }
        }
    }

    fn dispatch(&self, event: &Arc<Event>) {
        if let Some(id) = event.execution_id()
            && let Some(of_execution) = self.watchers().get(&id)
        {
            for watcher in of_execution {
                // A full watcher is behind and will look at the rows.
                let _ = watcher.events.try_send(event.clone());
            }
        }
        // Nobody listening is no fault.
        let _ = match &**event {
            Event::Lines(_) | Event::Answered(_) => Ok(0),
            Event::Notice(_) => self.notices.send(event.clone()),
            _ => self.everything.send(event.clone()),
        };
    }

    fn watchers(&self) -> std::sync::MutexGuard<'_, HashMap<ExecutionId, Vec<Watcher>>> {
        // The map is consistent after every statement, so a panic elsewhere does not spoil it.
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Channel names: one for changes of state, one per execution for its log lines.
#[derive(Debug, Clone)]
struct Channels {
    prefix: String,
}

impl Channels {
    fn updates(&self) -> String {
        format!("{}:events", self.prefix)
    }

    fn logs(&self, id: ExecutionId) -> String {
        format!("{}:logs:{id}", self.prefix)
    }

    fn of(&self, event: &Event) -> String {
        match event {
            Event::Lines(lines) => self.logs(lines.execution_id),
            _ => self.updates(),
        }
    }
}

async fn publish_forever(client: redis::Client, channels: Channels, mut events: mpsc::Receiver<Arc<Event>>) {
    let mut batch = Vec::new();
    let mut connection = None;
    while events.recv_many(&mut batch, BACKLOG).await > 0 {
        let mut pipe = redis::pipe();
        for event in batch.drain(..) {
            let payload = serde_json::to_vec(&*event).expect("an event is always JSON");
            pipe.publish(channels.of(&event), payload).ignore();
        }
        if connection.is_none() {
            connection = client.get_multiplexed_async_connection().await.ok();
        }
        let Some(open) = &mut connection else {
            tokio::time::sleep(RECONNECT).await;
            continue;
        };
        if let Err(error) = pipe.query_async::<()>(open).await {
            tracing::warn!(%error, "Redis did not take events, watchers will look at the rows");
            connection = None;
        }
    }
}

async fn subscribe_forever(
    client: redis::Client,
    channels: Channels,
    hub: Arc<Hub>,
    mut wanted: mpsc::UnboundedReceiver<Subscription>,
) {
    let mut counts: HashMap<ExecutionId, usize> = HashMap::new();
    loop {
        match subscribe(&client, &channels, &hub, &mut wanted, &mut counts).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "Redis ended the subscription, connecting again"),
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Runs one subscription; `Ok` when nobody is left who could want one.
async fn subscribe(
    client: &redis::Client,
    channels: &Channels,
    hub: &Arc<Hub>,
    wanted: &mut mpsc::UnboundedReceiver<Subscription>,
    counts: &mut HashMap<ExecutionId, usize>,
) -> redis::RedisResult<()> {
    let (mut sink, mut messages) = answered(client.get_async_pubsub()).await?.split();
    answered(sink.subscribe(channels.updates())).await?;
    for id in counts.keys() {
        answered(sink.subscribe(channels.logs(*id))).await?;
    }
    let mut pinging = std::pin::pin!(ping_forever(sink.clone()));
    loop {
        tokio::select! {
            error = &mut pinging => return Err(error),
            message = messages.next() => {
                let Some(message) = message else {
                    return Err(redis::RedisError::from((redis::ErrorKind::Io, "the connection ended")));
                };
                match serde_json::from_slice::<Event>(message.get_payload_bytes()) {
                    Ok(event) => hub.dispatch(&Arc::new(event)),
                    Err(error) => tracing::warn!(%error, "a message is no event"),
                }
            }
            change = wanted.recv() => match change {
                None => return Ok(()),
                Some(Subscription::Begin(id)) => {
                    let count = counts.entry(id).or_default();
                    *count += 1;
                    if *count == 1 {
                        answered(sink.subscribe(channels.logs(id))).await?;
                    }
                }
                Some(Subscription::End(id)) => {
                    let count = counts.entry(id).or_default();
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        counts.remove(&id);
                        answered(sink.unsubscribe(channels.logs(id))).await?;
                    }
                }
            },
        }
    }
}

/// Asks again and again whether the other side is there; gives the error when it is not.
async fn ping_forever(mut sink: redis::aio::PubSubSink) -> redis::RedisError {
    loop {
        tokio::time::sleep(PING_PERIOD).await;
        if let Err(error) = answered(sink.ping::<redis::Value>()).await {
            return error;
        }
    }
}

async fn answered<T>(question: impl Future<Output = redis::RedisResult<T>>) -> redis::RedisResult<T> {
    let late = || redis::RedisError::from((redis::ErrorKind::Io, "no answer in time"));
    tokio::time::timeout(ANSWER_TIMEOUT, question).await.unwrap_or_else(|_| Err(late()))
}
