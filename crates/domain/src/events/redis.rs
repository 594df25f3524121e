//! Events between processes: Redis publish/subscribe, with a channel for changes of state, one per execution for its
//! log lines, and one for all else. Connects in the background and goes on trying.
//!
//! The invariant: a subscription that is dead without a word is noticed and made anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_redis::redis::io::tcp::TcpSettings;
use deadpool_redis::redis::{self, IntoConnectionInfo};
use futures::StreamExt;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;

use super::{BACKLOG, Event, Hub};
use crate::id::ExecutionId;
use crate::{Error, Result};

const RECONNECT: Duration = Duration::from_millis(500);
/// How often a subscription asks whether the other side is there, and how long it waits for an answer: a connection
/// that is dead without a word would be silent like one on which nothing happens.
const PING_PERIOD: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub(super) struct Redis {
    outbox: mpsc::Sender<Arc<Event>>,
    subscriptions: mpsc::UnboundedSender<Subscription>,
    hears_updates: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Subscription {
    /// Changes of state, for good.
    Updates,
    Begin(ExecutionId),
    End(ExecutionId),
}

impl Redis {
    /// Passes what others publish on to `hub`.
    ///
    /// # Errors
    /// [`Error::Internal`] when the URL cannot be read.
    pub(super) fn open(url: &SecretString, prefix: &str, hub: Arc<Hub>) -> Result<Self> {
        // Nagle's algorithm would hold a large batch of events back for the 40 ms of a delayed acknowledgement.
        let settings = TcpSettings::default().set_nodelay(true);
        let server =
            url.expose_secret().into_connection_info().map_err(Error::internal)?.set_tcp_settings(settings);
        let client = redis::Client::open(server).map_err(Error::internal)?;
        let (outbox, events) = mpsc::channel(16 * BACKLOG);
        let (subscriptions, wanted) = mpsc::unbounded_channel();
        let channels = Channels { prefix: prefix.to_owned() };
        tokio::spawn(publish_forever(client.clone(), channels.clone(), events));
        tokio::spawn(subscribe_forever(client, channels, hub, wanted));
        Ok(Self { outbox, subscriptions, hears_updates: Arc::default() })
    }

    pub(super) fn publish(&self, event: Arc<Event>) {
        if self.outbox.try_send(event).is_err() {
            tracing::debug!("the event publisher is behind, watchers will look at the rows");
        }
    }

    /// Asks for changes of state, once.
    pub(super) fn hear_updates(&self) {
        if !self.hears_updates.swap(true, Ordering::Relaxed) {
            let _ = self.subscriptions.send(Subscription::Updates);
        }
    }

    /// Asks for the log lines of an execution too; as often as [`Self::unsubscribe`] is called.
    pub(super) fn subscribe(&self, id: ExecutionId) {
        let _ = self.subscriptions.send(Subscription::Begin(id));
    }

    pub(super) fn unsubscribe(&self, id: ExecutionId) {
        let _ = self.subscriptions.send(Subscription::End(id));
    }
}

/// Channel names: one for changes of state, one per execution for its log lines, one for all else.
#[derive(Debug, Clone)]
struct Channels {
    prefix: String,
}

impl Channels {
    fn orders(&self) -> String {
        format!("{}:events", self.prefix)
    }

    fn updates(&self) -> String {
        format!("{}:updates", self.prefix)
    }

    fn logs(&self, id: ExecutionId) -> String {
        format!("{}:logs:{id}", self.prefix)
    }

    fn of(&self, event: &Event) -> String {
        match event {
            Event::Lines(lines) => self.logs(lines.execution_id),
            Event::Update(_) | Event::Answered(_) => self.updates(),
            _ => self.orders(),
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
    let mut heard = Heard::default();
    loop {
        match subscribe(&client, &channels, &hub, &mut wanted, &mut heard).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "Redis ended the subscription, connecting again"),
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// What was asked for, and is asked for anew on another connection.
#[derive(Debug, Default)]
struct Heard {
    updates: bool,
    /// By how many the lines of an execution are wanted.
    logs: HashMap<ExecutionId, usize>,
}

/// Runs one subscription; `Ok` when nobody is left who could want one.
async fn subscribe(
    client: &redis::Client,
    channels: &Channels,
    hub: &Arc<Hub>,
    wanted: &mut mpsc::UnboundedReceiver<Subscription>,
    heard: &mut Heard,
) -> redis::RedisResult<()> {
    let (mut sink, mut messages) = answered(client.get_async_pubsub()).await?.split();
    answered(sink.subscribe(channels.orders())).await?;
    if heard.updates {
        answered(sink.subscribe(channels.updates())).await?;
    }
    for id in heard.logs.keys() {
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
                Some(Subscription::Updates) => {
                    heard.updates = true;
                    answered(sink.subscribe(channels.updates())).await?;
                }
                Some(Subscription::Begin(id)) => {
                    let count = heard.logs.entry(id).or_default();
                    *count += 1;
                    if *count == 1 {
                        answered(sink.subscribe(channels.logs(id))).await?;
                    }
                }
                Some(Subscription::End(id)) => {
                    let count = heard.logs.entry(id).or_default();
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        heard.logs.remove(&id);
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
