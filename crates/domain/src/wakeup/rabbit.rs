//! Wake-ups through RabbitMQ: one publishing connection, one per consumer, each with its own reconnect loop.
//!
//! Publishing is persistent, mandatory and confirmed; confirms are awaited together. A nack and a return are
//! failures, and a failure is left to the sweeper.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::try_join_all;
use lapin::Acker;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::queue::Queue;
use super::topology::{END_OF_CONFLICT, Topology, TopologyError};
use super::{Message, away};
use crate::telemetry::metrics::{self, Published};
use crate::{Error, Result};

/// Publishes without a confirm, at most.
const WINDOW: usize = 4_096;
/// How long a confirm is waited for.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// How long any other answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead peer is noticed after two of these.
const HEARTBEAT_SECONDS: u16 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// The publishing side. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rabbit {
    uri: Arc<AMQPUri>,
    topology: Topology,
    orders: mpsc::Sender<Order>,
    standing: watch::Receiver<Standing>,
}

/// What the publishing connection has last found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Nothing yet, or a broker that is away.
    Away,
    Usable,
    /// Queues that are none of ours; in words.
    Conflict(String),
}

#[derive(Debug)]
enum Order {
    Publish(Queue, Vec<Vec<u8>>, Option<oneshot::Sender<Result<()>>>),
    Depth(Queue, oneshot::Sender<Result<usize>>),
    Counts(oneshot::Sender<Result<[(u64, u64); 3]>>),
    RemoveTopology(oneshot::Sender<Result<()>>),
}

/// A stream of deliveries over whatever connection there is.
#[derive(Debug)]
pub struct Consumer<M> {
    deliveries: mpsc::Receiver<Delivery<M>>,
    _stop: DropGuard,
}

/// A delivery of one connection; an acknowledgement after that connection broke has no effect, and the
/// message comes again.
#[derive(Debug)]
pub struct Delivery<M> {
    wakeup: M,
    acker: Acker,
    channel: u64,
}

impl Rabbit {
    pub(super) fn start(url: &SecretString, prefix: &str) -> Result<Self> {
        let mut uri: AMQPUri = url.expose_secret().parse().map_err(Error::internal)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let (orders, inbox) = mpsc::channel(1_024);
        let (stands, standing) = watch::channel(Standing::Away);
        let rabbit = Self { uri: Arc::new(uri), topology: Topology::new(prefix), orders, standing };
        tokio::spawn(publish_forever(rabbit.uri.clone(), rabbit.topology.clone(), inbox, stands));
        Ok(rabbit)
    }

    pub(super) fn publish(&self, queue: Queue, payloads: Vec<Vec<u8>>) {
        let count = payloads.len();
        if count > 0 && self.orders.try_send(Order::Publish(queue, payloads, None)).is_err() {
            metrics::published(Published::Dropped, count);
            tracing::debug!(count, "the publisher is behind, the sweeper will repeat these wake-ups");
        }
    }

    pub(super) async fn publish_confirmed(&self, queue: Queue, payloads: Vec<Vec<u8>>) -> Result<()> {
        if payloads.is_empty() {
            return Ok(());
        }
        self.ask(|answer| Order::Publish(queue, payloads, Some(answer)), CONFIRM_TIMEOUT).await
    }

    pub(super) async fn depth(&self, queue: Queue) -> Result<usize> {
        self.ask(|answer| Order::Depth(queue, answer), ANSWER_TIMEOUT).await
    }

    pub(super) async fn counts(&self) -> Result<[(u64, u64); 3]> {
        self.ask(Order::Counts, ANSWER_TIMEOUT).await
    }

    /// A connection of its own, with the topology declared. It is not probed: an expired probe stays, and is counted, behind a
    /// dead letter until that is gone.
    pub(super) async fn open(&self) -> Result<(Connection, Channel), TopologyError> {
        open(&self.uri, &self.topology).await
    }

    /// Waits until the broker is found to have queues that are none of ours, and says which; for ever, once it was of use.
    pub(super) async fn conflict_at_start(&self) -> String {
        match self.standing_once(|standing| *standing != Standing::Away).await {
            Some(Standing::Conflict(words)) => words,
            _ => std::future::pending().await,
        }
    }

    /// Waits until the standing is as wanted, and says which it is then; nothing when nobody is left who tells.
    async fn standing_once(&self, is_wanted: fn(&Standing) -> bool) -> Option<Standing> {
        let mut standing = self.standing.clone();
        let found = standing.wait_for(is_wanted).await;
        found.ok().map(|found| Standing::clone(&found))
    }

    /// What is in conflict now.
    pub(super) fn conflict(&self) -> Option<String> {
        match &*self.standing.borrow() {
            Standing::Conflict(words) => Some(words.clone()),
            Standing::Away | Standing::Usable => None,
        }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) async fn remove_topology(&self) -> Result<()> {
        self.ask(Order::RemoveTopology, ANSWER_TIMEOUT).await
    }

    pub(super) fn consume<M: Message>(&self, queue: Queue, prefetch: u16) -> Consumer<M> {
        let (sender, deliveries) = mpsc::channel(usize::from(prefetch.max(1)));
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(consume_forever(
            self.uri.clone(),
            self.topology.clone(),
            queue,
            prefetch,
            sender,
        )));
        Consumer { deliveries, _stop: stop.drop_guard() }
    }

    async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T>>) -> Order,
        patience: Duration,
    ) -> Result<T> {
        if let Some(conflict) = self.conflict() {
            return Err(away(conflict));
        }
        let (answer, answered) = oneshot::channel();
        // While the broker is away there may be no place for one more order: that counts as a wait for its answer.
        let asked = async {
            self.orders.send(order(answer)).await.map_err(away)?;
            answered.await.map_err(away)?
        };
        let in_conflict = self.standing_once(|standing| matches!(standing, Standing::Conflict(_)));
        tokio::select! {
            biased;
            answer = tokio::time::timeout(patience, asked) => answer.map_err(away)?,
            Some(Standing::Conflict(words)) = in_conflict => Err(away(words)),
        }
    }
}

impl<M> Consumer<M> {
    pub(super) async fn next(&mut self, limit: usize) -> Vec<Delivery<M>> {
        let mut taken = Vec::new();
        self.deliveries.recv_many(&mut taken, limit).await;
        taken
    }
}

impl<M> Delivery<M> {
    pub(super) fn wakeup(&self) -> &M {
        &self.wakeup
    }
}

/// Acknowledges deliveries in order: one frame per connection they came over.
pub(super) async fn ack<M>(deliveries: Vec<Delivery<M>>) {
    let multiple = BasicAckOptions { multiple: true };
    for same_channel in deliveries.chunk_by(|a, b| a.channel == b.channel) {
        let last = same_channel.last().expect("a chunk is never empty");
        if let Err(error) = last.acker.ack(multiple).await {
            tracing::debug!(%error, "an acknowledgement came too late, the message will come again");
        }
    }
}

/// Connects, with growing pauses; declares and proves the topology. `tell` hears how each try ended.
async fn connect(uri: &AMQPUri, topology: &Topology, tell: impl Fn(Standing)) -> (Connection, Channel) {
    let mut pause = FIRST_PAUSE;
    loop {
        match tokio::time::timeout(ANSWER_TIMEOUT, try_connect(uri, topology)).await {
            Ok(Ok(connected)) => {
                tell(Standing::Usable);
                return connected;
            }
            Ok(Err(error @ TopologyError::Conflict { .. })) => {
                tracing::error!(%error, retry_in = ?pause, "RabbitMQ is not usable: {END_OF_CONFLICT}");
                tell(Standing::Conflict(error.to_string()));
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, retry_in = ?pause, "RabbitMQ is not usable, trying again");
                tell(Standing::Away);
            }
            Err(_) => {
                tracing::warn!(retry_in = ?pause, "RabbitMQ does not answer, trying again");
                tell(Standing::Away);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn try_connect(uri: &AMQPUri, topology: &Topology) -> Result<(Connection, Channel), TopologyError> {
    let (connection, channel) = open(uri, topology).await?;
    topology.probe(&channel).await?;
    Ok((connection, channel))
}

async fn open(uri: &AMQPUri, topology: &Topology) -> Result<(Connection, Channel), TopologyError> {
    let connection = Connection::connect_uri(uri.clone(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    topology.declare(&channel).await?;
    Ok((connection, channel))
}

async fn publish_forever(
    uri: Arc<AMQPUri>,
    topology: Topology,
    mut orders: mpsc::Receiver<Order>,
    stands: watch::Sender<Standing>,
) {
    let window = Arc::new(Semaphore::new(WINDOW));
    let tell = |standing| drop(stands.send_replace(standing));
    loop {
        let (connection, channel) = tokio::select! {
            connected = connect(&uri, &topology, &tell) => connected,
            // Nobody is left to publish for, and a broker that stays away would never let it be noticed.
            () = stands.closed() => return,
        };
        tracing::info!("publishing to RabbitMQ");
        loop {
            let Some(order) = orders.recv().await else {
                let _ = connection.close(200, "done".into()).await;
                return;
            };
            if let Err(error) = carry_out(&channel, &topology, &window, order).await {
                tracing::warn!(%error, "the publishing connection broke");
                break;
            }
        }
    }
}

/// Carries out one order; an error means that the channel is of no more use.
async fn carry_out(
    channel: &Channel,
    topology: &Topology,
    window: &Arc<Semaphore>,
    order: Order,
) -> lapin::Result<()> {
    match order {
        Order::Publish(queue, payloads, answer) => {
            publish(channel, topology, window, queue, payloads, answer).await
        }
        Order::Depth(queue, answer) => {
            let depth = depth(channel, topology.queue(queue)).await;
            give(answer, depth.map(|count| count as usize))
        }
        Order::Counts(answer) => give(answer, counts(channel, topology).await),
        Order::RemoveTopology(answer) => give(answer, topology.remove(channel).await),
    }
}

/// Messages that wait in a queue.
pub(super) async fn depth(channel: &Channel, queue: String) -> lapin::Result<u64> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
    Ok(declared.message_count().into())
}

async fn counts(channel: &Channel, topology: &Topology) -> lapin::Result<[(u64, u64); 3]> {
    let mut counts = [(0, 0); 3];
    for (queue, counts) in Queue::ALL.into_iter().zip(&mut counts) {
        let waiting = depth(channel, topology.queue(queue)).await?;
        *counts = (waiting, depth(channel, topology.dead_of(queue)).await?);
    }
    Ok(counts)
}

/// Hands the answer over; what failed also ends the channel.
fn give<T>(answer: oneshot::Sender<Result<T>>, outcome: lapin::Result<T>) -> lapin::Result<()> {
    let (answered, kept) = match outcome {
        Ok(value) => (Ok(value), Ok(())),
        Err(error) => (Err(away(error.to_string())), Err(error)),
    };
    // Whoever asked may have stopped waiting.
    let _ = answer.send(answered);
    kept
}

async fn publish(
    channel: &Channel,
    topology: &Topology,
    window: &Arc<Semaphore>,
    queue: Queue,
    payloads: Vec<Vec<u8>>,
    answer: Option<oneshot::Sender<Result<()>>>,
) -> lapin::Result<()> {
    let seats = u32::try_from(payloads.len().min(WINDOW)).unwrap_or(u32::MAX);
    let seats = window.clone().acquire_many_owned(seats).await.expect("the window is never closed");
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let persistent =
        BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
    let count = payloads.len();
    let mut confirms = Vec::with_capacity(count);
    for payload in &payloads {
        let sent = channel
            .basic_publish(
                topology.direct().into(),
                topology.key_of(queue).into(),
                mandatory,
                payload,
                persistent.clone(),
            )
            .await;
        match sent {
            Ok(confirm) => confirms.push(confirm),
            Err(error) => {
                metrics::published(Published::Failed, count);
                if let Some(answer) = answer {
                    let _ = answer.send(Err(away(error.to_string())));
                }
                return Err(error);
            }
        }
    }
    tokio::spawn(async move {
        let outcome = match tokio::time::timeout(CONFIRM_TIMEOUT, try_join_all(confirms)).await {
            Ok(Ok(confirmations)) => {
                match confirmations.iter().filter(|c| !matches!(c, Confirmation::Ack(None))).count() {
                    0 => Ok(()),
                    refused => Err(away(format!("{refused} messages were refused or returned"))),
                }
            }
            Ok(Err(error)) => Err(away(error.to_string())),
            Err(timeout) => Err(away(timeout)),
        };
        if let Err(Error::Unavailable { source, .. }) = &outcome {
            tracing::warn!(error = %source, "wake-ups were not confirmed, the sweeper will repeat them");
        }
        let told = if outcome.is_ok() { Published::Confirmed } else { Published::Failed };
        metrics::published(told, count);
        if let Some(answer) = answer {
            let _ = answer.send(outcome);
        }
        drop(seats);
    });
    Ok(())
}

async fn consume_forever<M: Message>(
    uri: Arc<AMQPUri>,
    topology: Topology,
    queue: Queue,
    prefetch: u16,
    deliveries: mpsc::Sender<Delivery<M>>,
) {
    let mut epoch = 0;
    loop {
        epoch += 1;
        let (connection, channel) = connect(&uri, &topology, drop).await;
        match consume(&channel, &topology.queue(queue), prefetch, epoch, &deliveries).await {
            Ok(()) => tracing::warn!("RabbitMQ ended the consumer, connecting again"),
            Err(error) => tracing::warn!(%error, "the consuming connection broke, connecting again"),
        }
        // A half-dead connection must not hold its deliveries back.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, connection.close(200, "again".into())).await;
        if deliveries.is_closed() {
            return;
        }
    }
}

async fn consume<M: Message>(
    channel: &Channel,
    queue: &str,
    prefetch: u16,
    epoch: u64,
    deliveries: &mpsc::Sender<Delivery<M>>,
) -> lapin::Result<()> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let mut stream = channel
        .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    tracing::info!("consuming from RabbitMQ");
    while let Some(message) = stream.next().await {
        let message = message?;
        match M::decode(&message.data) {
            Ok(wakeup) => {
                let delivery = Delivery { wakeup, acker: message.acker, channel: epoch };
                if deliveries.send(delivery).await.is_err() {
                    return Ok(());
                }
            }
            Err(reason) => {
                tracing::warn!(%reason, "a message is no wake-up, moved to the dead letters");
                message.acker.reject(BasicRejectOptions { requeue: false }).await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody listens there.
    const NOWHERE: &str = "amqp://127.0.0.1:1";

    #[tokio::test]
    async fn a_question_keeps_its_patience_though_there_is_no_place_for_it() {
        let rabbit = Rabbit::start(&NOWHERE.into(), "test").expect("the URL is read");
        for _ in 0..2_000 {
            rabbit.publish(Queue::Executions, vec![Vec::new()]);
        }
        assert_eq!(rabbit.orders.capacity(), 0);

        let asked = tokio::time::timeout(ANSWER_TIMEOUT * 2, rabbit.depth(Queue::Executions)).await;

        assert!(matches!(asked, Ok(Err(Error::Unavailable { .. }))), "{asked:?}");
    }

    #[tokio::test]
    async fn a_publisher_ends_with_its_last_handle_though_the_broker_is_away() {
        let uri: AMQPUri = NOWHERE.parse().expect("the URL is read");
        let (orders, inbox) = mpsc::channel(1);
        let (stands, standing) = watch::channel(Standing::Away);
        let publisher = tokio::spawn(publish_forever(Arc::new(uri), Topology::new("test"), inbox, stands));
        drop((orders, standing));
        let ended = tokio::time::timeout(ANSWER_TIMEOUT, publisher).await;
        ended.expect("ends").expect("without a panic");
    }
}
