//! Dead letters: messages that could not be handled, listed, put back into their queue, or dropped.
//!
//! A letter stays where it is until it was put back and the broker has confirmed it, or until it is dropped; whatever
//! fails in between leaves it dead, or at worst both dead and back, which harms nobody: a message is a hint.
//!
//! A broker shows a letter only to whoever takes it out for a while, and has it at the end when it comes back. So one connection
//! at a time does so, over all processes; and whoever lists looks at all of them, since their order says nothing.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ErrorKind};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout, timeout_at};

use super::queue::Queue;
use super::rabbit::{Rabbit, depth};
use super::topology::DELIVERY_LIMIT;
use super::{JobWakeup, Message, Wakeup, Wakeups, away};
use crate::Result;

/// Letters that one call looks at.
pub const MOST: usize = 10_000;
/// Bytes of a message that are shown.
pub const SHOWN: usize = 16 * 1024;
/// Letters that are moved together. A broker carries out some thirty words about a quorum queue at a time, and keeps more than these
/// back; what it keeps back is forgotten when the connection ends, and letters that were taken off would be there again.
const BATCH: usize = 16;
/// How long an operation may take, its wait for the turn included.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// After so much of it nothing further is begun, so that what was done is told before the patience ends.
const ENOUGH: Duration = Duration::from_secs(12);
/// A letter that was looked at so often is written anew: brokers drop what is handed back too often.
const WEARY: i64 = 10;
/// Between two looks whether letters are back.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two looks whether another connection is done: each costs a channel, and a line in the broker's log.
const TURN_AGAIN: Duration = Duration::from_millis(250);
/// How long letters may take to come back.
const WAY_BACK: Duration = Duration::from_secs(1);
/// Reply code of the broker for a queue that another connection has for itself.
const RESOURCE_LOCKED: u16 = 405;

/// A message that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Stands for what it is: messages alike in every byte that died at the same moment share it.
    pub id: String,
    /// The queue it was in.
    pub queue: Queue,
    /// Why it is dead.
    pub reason: String,
    /// How often it was delivered.
    pub deliveries: i64,
    /// Since when it is dead.
    pub died_at: Option<DateTime<Utc>>,
    /// The message as it came.
    pub payload: Vec<u8>,
    /// Whether that is only its beginning.
    pub is_cut: bool,
}

/// What became of letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Put back into their queue, or dropped.
    pub moved: usize,
    /// Refused by the broker, so that they are dead still; and ids that no letter has, or whose letter was not come to in time.
    pub failed: usize,
}

impl Moved {
    /// All of these letters were moved, which was wanted for these ids.
    fn all(ids: Option<&[String]>, letters: &[DeadLetter]) -> Self {
        let found = letters.iter().map(|letter| letter.id.clone()).collect();
        Self { moved: letters.len(), failed: unknown(ids, &found) }
    }
}

/// How many of these ids no letter has that was found.
fn unknown(ids: Option<&[String]>, found: &HashSet<String>) -> usize {
    ids.unwrap_or_default()
        .iter()
        .collect::<HashSet<_>>()
        .into_iter()
        .filter(|id| !found.contains(*id))
        .count()
}

/// What to do with letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Replay,
    Drop,
}

impl DeadLetter {
    pub(super) fn new(
        queue: Queue,
        cause: &str,
        deliveries: i64,
        died_at: Option<DateTime<Utc>>,
        payload: Vec<u8>,
    ) -> Self {
        let reason = match (cause, fault(queue, &payload)) {
            ("rejected", Some(fault)) => format!("rejected: {fault}"),
            _ => cause.to_owned(),
        };
        let mut digest = Sha256::new();
        digest.update(died_at.map_or(0, |time| time.timestamp()).to_be_bytes());
        digest.update(&payload);
        let id = hex::encode(&digest.finalize()[..16]);
        Self { id, queue, reason, deliveries, died_at, payload, is_cut: false }
    }

    /// What is shown of it: anybody who can publish may have made it as large as the broker takes.
    fn shown(mut self) -> Self {
        self.is_cut = self.payload.len() > SHOWN;
        self.payload.truncate(SHOWN);
        self.payload.shrink_to_fit();
        self
    }

    fn is_among(&self, ids: Option<&[String]>) -> bool {
        ids.is_none_or(|ids| ids.contains(&self.id))
    }
}

impl Wakeups {
    /// The oldest dead letters of these queues, at most `limit` of each; they stay where they are. Of a large one the beginning.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the broker is away.
    pub async fn dead_letters(&self, queues: &[Queue], limit: usize) -> Result<Vec<DeadLetter>> {
        match self {
            Self::InProcess(own) => {
                let letters = queues.iter().flat_map(|queue| own.dead_letters(*queue, limit));
                Ok(letters.map(DeadLetter::shown).collect())
            }
            Self::Rabbit(rabbit) => {
                with_channel(rabbit, async |channel, enough| {
                    let mut letters = Vec::new();
                    for queue in queues {
                        letters.extend(list(rabbit, channel, *queue, limit, enough).await?);
                    }
                    Ok(letters)
                })
                .await
            }
        }
    }

    /// How many dead letters each queue has.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the broker is away.
    pub async fn count_dead_letters(&self) -> Result<Vec<(Queue, u64)>> {
        match self {
            Self::InProcess(own) => {
                Ok(Queue::ALL.into_iter().zip(own.counts()).map(|(queue, (_, dead))| (queue, dead)).collect())
            }
            // In turn: what somebody holds who looks at it would not be counted.
            Self::Rabbit(rabbit) => {
                with_channel(rabbit, async |channel, _| {
                    let mut counts = Vec::new();
                    for queue in Queue::ALL {
                        counts.push((queue, depth(channel, rabbit.topology().dead_of(queue)).await?));
                    }
                    Ok(counts)
                })
                .await
            }
        }
    }

    /// Puts dead letters back into their queue: those with these ids, or all.
    ///
    /// # Errors
    /// [`crate::Error::Unavailable`] when the broker is away before anything was done. Once something was, the answer says
    /// how much; what is left is dead still, and for the next call.
    pub async fn replay_dead_letters(&self, queue: Queue, ids: Option<&[String]>) -> Result<Moved> {
        match self {
            Self::InProcess(own) => {
                Ok(Moved::all(ids, &own.replay_dead(queue, |letter| letter.is_among(ids))))
            }
            Self::Rabbit(rabbit) => {
                with_channel(rabbit, async |channel, enough| {
                    decide(rabbit, channel, queue, ids, Fate::Replay, enough).await
                })
                .await
            }
        }
    }

    /// Forgets dead letters: those with these ids, or all.
    ///
    /// # Errors
    /// As [`Self::replay_dead_letters`].
    pub async fn drop_dead_letters(&self, queue: Queue, ids: Option<&[String]>) -> Result<Moved> {
        match self {
            Self::InProcess(own) => Ok(Moved::all(ids, &own.drop_dead(queue, |letter| letter.is_among(ids)))),
            Self::Rabbit(rabbit) => {
                with_channel(rabbit, async |channel, enough| {
                    decide(rabbit, channel, queue, ids, Fate::Drop, enough).await
                })
                .await
            }
        }
    }
}

/// Does it over a connection of its own, when no other does: what it holds goes back when that ends, and publishing goes on
/// beside it. `work` is told when it must begin nothing further; where the wait for the turn took until then, nothing is done.
async fn with_channel<T>(
    rabbit: &Rabbit,
    work: impl AsyncFnOnce(&Channel, Instant) -> lapin::Result<T>,
) -> Result<T> {
    let enough = Instant::now() + ENOUGH;
    let all = async {
        let (connection, channel) = rabbit.open().await.map_err(|error| away(error.to_string()))?;
        let turn = take_turn(&connection, rabbit.topology().turn());
        let outcome = match timeout_at(enough, turn).await {
            Ok(Ok(())) => work(&channel, enough).await.map_err(|error| away(error.to_string())),
            Ok(Err(error)) => Err(away(error.to_string())),
            Err(_) => Err(away("the turn to look at dead letters did not come in time")),
        };
        // Whether the goodbye arrives makes no difference.
        let _ = connection.close(200, "done".into()).await;
        outcome
    };
    timeout(PATIENCE, all).await.map_err(away)?
}

/// Waits until no other connection looks at dead letters, and keeps the others waiting as long as this one lasts.
async fn take_turn(connection: &Connection, name: String) -> lapin::Result<()> {
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    loop {
        // The broker ends a channel with what it refuses.
        let channel = connection.create_channel().await?;
        match channel.queue_declare(name.as_str().into(), exclusive, FieldTable::default()).await {
            Ok(_) => return Ok(()),
            Err(error) if is_locked(&error) => tokio::time::sleep(TURN_AGAIN).await,
            Err(error) => return Err(error),
        }
    }
}

fn is_locked(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(said) if said.get_id() == RESOURCE_LOCKED)
}

async fn list(
    rabbit: &Rabbit,
    channel: &Channel,
    queue: Queue,
    limit: usize,
    enough: Instant,
) -> lapin::Result<Vec<DeadLetter>> {
    let dead = rabbit.topology().dead_of(queue);
    let (mut letters, mut held) = (Vec::new(), Vec::new());
    while held.len() < MOST
        && Instant::now() < enough
        && let Some(message) = channel.basic_get(dead.as_str().into(), BasicGetOptions::default()).await?
    {
        letters.push(read(queue, &message).shown());
        held.push(to_go_back(message));
        // As many in memory as are to be seen, and some.
        if letters.len() >= limit.saturating_mul(2) {
            keep_oldest(&mut letters, limit);
        }
    }
    give_all_back(rabbit, channel, queue, held).await?;
    keep_oldest(&mut letters, limit);
    Ok(letters)
}

/// Sorts the letters and forgets those that are too many.
fn keep_oldest(letters: &mut Vec<DeadLetter>, limit: usize) {
    letters.sort_by(|a, b| (a.died_at, &a.id).cmp(&(b.died_at, &b.id)));
    letters.truncate(limit);
}

/// A message that is held to go back. The broker has it still; only what is written anew is needed whole.
fn to_go_back(mut message: BasicGetMessage) -> BasicGetMessage {
    if !is_weary(&message) {
        message.delivery.data = Vec::new();
    }
    message
}

fn is_weary(message: &BasicGetMessage) -> bool {
    returns(message) >= WEARY
}

async fn decide(
    rabbit: &Rabbit,
    channel: &Channel,
    queue: Queue,
    ids: Option<&[String]>,
    fate: Fate,
    enough: Instant,
) -> lapin::Result<Moved> {
    let topology = rabbit.topology();
    let dead = topology.dead_of(queue);
    // What dies meanwhile is for the next call.
    let mut left = depth(channel, dead.clone()).await?.min(MOST as u64);
    let (mut moved, mut kept, mut found) = (Moved::default(), Vec::new(), HashSet::new());
    let work = async {
        while left > 0 && Instant::now() < enough {
            let mut batch = Vec::new();
            while left > 0 && batch.len() < BATCH && Instant::now() < enough {
                let Some(message) =
                    channel.basic_get(dead.as_str().into(), BasicGetOptions::default()).await?
                else {
                    left = 0;
                    break;
                };
                left -= 1;
                let letter = read(queue, &message);
                if letter.is_among(ids) {
                    if ids.is_some() {
                        found.insert(letter.id);
                    }
                    batch.push(message)
                } else {
                    kept.push(to_go_back(message))
                }
            }
            let accepted = match fate {
                Fate::Drop => vec![true; batch.len()],
                Fate::Replay => {
                    publish(channel, &topology.direct(), topology.key_of(queue), &batch, fresh).await?
                }
            };
            let (done, refused) = split(batch, accepted);
            moved.failed += refused.len();
            kept.extend(refused.into_iter().map(to_go_back));
            moved.moved += ack(&done).await?;
        }
        give_all_back(rabbit, channel, queue, std::mem::take(&mut kept)).await
    };
    let done: lapin::Result<()> = work.await;
    match done {
        // What was done is told, for it must be audited; what is held goes back with the connection.
        Err(error) if moved.moved > 0 => tracing::warn!(%error, moved = moved.moved, "the broker broke off"),
        done => done?,
    }
    moved.failed += unknown(ids, &found);
    Ok(moved)
}

/// Publishes the messages with these properties; says of each whether the broker took it.
async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    messages: &[BasicGetMessage],
    properties: fn(&BasicGetMessage) -> BasicProperties,
) -> lapin::Result<Vec<bool>> {
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut confirms = Vec::with_capacity(messages.len());
    for message in messages {
        let data = &message.delivery.data;
        let sent =
            channel.basic_publish(exchange.into(), key.into(), mandatory, data, properties(message)).await?;
        confirms.push(sent);
    }
    let mut accepted = Vec::with_capacity(confirms.len());
    for confirm in confirms {
        accepted.push(matches!(confirm.await?, Confirmation::Ack(None)));
    }
    Ok(accepted)
}

/// The properties of a message that begins anew.
fn fresh(_: &BasicGetMessage) -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into())
}

/// The properties of a letter that stays what it is, but was never looked at.
fn rested(message: &BasicGetMessage) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in message.delivery.properties.headers().iter().flat_map(FieldTable::inner) {
        if name.as_str() != "x-delivery-count" {
            headers.insert(name.clone(), value.clone());
        }
    }
    message.delivery.properties.clone().with_headers(headers)
}

/// Puts letters back among the dead, and waits until the next one who looks can see them.
async fn give_all_back(
    rabbit: &Rabbit,
    channel: &Channel,
    queue: Queue,
    held: Vec<BasicGetMessage>,
) -> lapin::Result<()> {
    let (exchange, dead) = (rabbit.topology().dead_exchange(), rabbit.topology().dead_of(queue));
    let all = held.len();
    // Letters age together, as each look takes them all.
    let (mut weary, others): (Vec<_>, Vec<_>) = held.into_iter().partition(is_weary);
    hand_back(&others).await?;
    are_back(channel, &dead, others.len()).await?;
    while !weary.is_empty() {
        let batch: Vec<_> = weary.drain(..weary.len().min(BATCH)).collect();
        let accepted = publish(channel, &exchange, &dead, &batch, rested).await?;
        let (done, refused) = split(batch, accepted);
        hand_back(&refused).await?;
        ack(&done).await?;
    }
    are_back(channel, &dead, all).await
}

/// Waits until so many can be seen, for as long as that may take.
async fn are_back(channel: &Channel, dead: &str, count: usize) -> lapin::Result<()> {
    let began = Instant::now();
    while depth(channel, dead.to_owned()).await? < count as u64 && began.elapsed() < WAY_BACK {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Those that the broker took, and the others.
fn split(batch: Vec<BasicGetMessage>, accepted: Vec<bool>) -> (Vec<BasicGetMessage>, Vec<BasicGetMessage>) {
    let mut accepted = accepted.into_iter();
    batch.into_iter().partition(|_| accepted.next().unwrap_or_default())
}

/// Takes letters off the dead; says how many.
async fn ack(letters: &[BasicGetMessage]) -> lapin::Result<usize> {
    for letter in letters {
        letter.delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(letters.len())
}

/// Has the broker put letters back where they were.
async fn hand_back(letters: &[BasicGetMessage]) -> lapin::Result<()> {
    let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
    for letter in letters {
        letter.delivery.acker.nack(requeue).await?;
    }
    Ok(())
}

/// How often the letter was looked at.
fn returns(message: &BasicGetMessage) -> i64 {
    header(message, "x-delivery-count").and_then(number).unwrap_or_default()
}

fn read(queue: Queue, message: &BasicGetMessage) -> DeadLetter {
    let cause = header(message, "x-first-death-reason").and_then(text).unwrap_or_else(|| "unknown".into());
    let death = header(message, "x-death").and_then(|deaths| match deaths {
        AMQPValue::FieldArray(deaths) => deaths.as_slice().first(),
        _ => None,
    });
    let of_death = |name: &str| match death {
        Some(AMQPValue::FieldTable(death)) => death.inner().get(name),
        _ => None,
    };
    let died_at = match of_death("time") {
        Some(AMQPValue::Timestamp(seconds)) => {
            i64::try_from(*seconds).ok().and_then(|seconds| Utc.timestamp_opt(seconds, 0).single())
        }
        _ => None,
    };
    // What is rejected dies of its first delivery; what dies of the limit was delivered as often as it allows.
    let each = if cause == "delivery_limit" { DELIVERY_LIMIT } else { 1 };
    let deliveries = of_death("count").and_then(number).unwrap_or(1).saturating_mul(each);
    DeadLetter::new(queue, &cause, deliveries, died_at, message.delivery.data.clone())
}

fn header<'a>(message: &'a BasicGetMessage, name: &str) -> Option<&'a AMQPValue> {
    message.delivery.properties.headers().as_ref().and_then(|headers| headers.inner().get(name))
}

fn number(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::LongLongInt(number) => Some(*number),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        _ => None,
    }
}

fn text(value: &AMQPValue) -> Option<String> {
    value.as_long_string().map(ToString::to_string)
}

/// Why a message that was rejected is none of this queue's, in words.
fn fault(queue: Queue, payload: &[u8]) -> Option<String> {
    match queue {
        Queue::Executions => Wakeup::decode(payload).err(),
        Queue::GitSync | Queue::PackagesInstall => JobWakeup::decode(payload).err(),
    }
}
