//! Wake-ups: hints that something waits. Ids only, versioned, safe to lose, double, delay or reorder.
//!
//! Two arms, RabbitMQ and the process itself, held to the same conformance tests. The row is the truth: a
//! worker that is woken claims whatever is most urgent, and the sweeper repeats what got lost.

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::id::{ExecutionId, JobId, OrgId};
use crate::{Error, Result};

pub mod dead_letters;
mod in_process;
pub mod queue;
mod rabbit;
pub mod topology;

use in_process::InProcess;
use queue::Queue;
use rabbit::Rabbit;

/// Version of the message; any other is a poison message.
const VERSION: u8 = 1;
/// Longest message that is read.
const MAX_BYTES: usize = 16 * 1024;

/// The message on `workflow.executions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wakeup {
    v: u8,
    /// The execution that was submitted.
    pub execution_id: ExecutionId,
    /// Its organization.
    pub org_id: Option<OrgId>,
    /// Its priority.
    pub priority: i16,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// When it was published.
    pub created_at: DateTime<Utc>,
}

/// The message on `git.sync` and `packages.install`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobWakeup {
    v: u8,
    /// The job that was submitted.
    pub job_id: JobId,
    /// Its organization.
    pub org_id: Option<OrgId>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// When it was published.
    pub created_at: DateTime<Utc>,
}

/// What travels on a queue. Bytes that are none of it are poison.
pub trait Message: Send + Sized + 'static {
    /// The bytes on the wire.
    fn encode(&self) -> Vec<u8>;

    /// Reads them.
    ///
    /// # Errors
    /// Why they are no such message, in words.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
}

/// Where wake-ups go and come from. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Wakeups {
    /// Within one process.
    InProcess(InProcess),
    /// Through RabbitMQ.
    Rabbit(Rabbit),
}

/// A stream of deliveries.
#[derive(Debug)]
pub enum Consumer<M: Message = Wakeup> {
    /// Within one process.
    InProcess(in_process::Consumer<M>),
    /// Through RabbitMQ.
    Rabbit(rabbit::Consumer<M>),
}

/// A wake-up that must be acknowledged; dropped without, it is delivered again.
#[derive(Debug)]
pub enum Delivery<M: Message = Wakeup> {
    /// Within one process.
    InProcess(in_process::Delivery<M>),
    /// Through RabbitMQ.
    Rabbit(rabbit::Delivery<M>),
}

impl Wakeup {
    /// A wake-up for an execution.
    pub fn new(
        execution_id: ExecutionId,
        org_id: Option<OrgId>,
        priority: i16,
        traceparent: Option<String>,
    ) -> Self {
        Self { v: VERSION, execution_id, org_id, priority, traceparent, created_at: Utc::now() }
    }
}

impl Message for Wakeup {
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a wake-up is always JSON")
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        read(bytes)
    }
}

impl JobWakeup {
    /// A wake-up for a background job.
    pub fn new(job_id: JobId, org_id: Option<OrgId>, traceparent: Option<String>) -> Self {
        Self { v: VERSION, job_id, org_id, traceparent, created_at: Utc::now() }
    }
}

impl Message for JobWakeup {
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a wake-up is always JSON")
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        read(bytes)
    }
}

/// What messages of all versions have.
#[derive(Deserialize)]
struct Versioned {
    v: u8,
}

/// Reads a message of bounded size and of this version.
fn read<M: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<M, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("{} bytes are more than {MAX_BYTES}", bytes.len()));
    }
    // Another version may have other members, so the version is looked at first.
    let Versioned { v } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if v != VERSION {
        return Err(format!("version {v} is not {VERSION}"));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

impl Wakeups {
    /// Wake-ups of this process.
    pub fn in_process() -> Self {
        Self::InProcess(InProcess::default())
    }

    /// Wake-ups through RabbitMQ; connects in the background and goes on trying.
    ///
    /// # Errors
    /// [`Error::Internal`] when the URL cannot be read.
    pub fn rabbit(url: &SecretString, prefix: &str) -> Result<Self> {
        Ok(Self::Rabbit(Rabbit::start(url, prefix)?))
    }

    /// Whether a wake-up is synced to disk before it is delivered, which takes longer than an event.
    pub fn are_synced(&self) -> bool {
        matches!(self, Self::Rabbit(_))
    }

    /// Publishes without waiting: persistent, mandatory, confirmed in the background. A failure is logged and
    /// left to the sweeper.
    pub fn publish(&self, batch: Vec<Wakeup>) {
        match self {
            Self::InProcess(own) => own.publish(Queue::Executions, batch.iter().map(Wakeup::encode)),
            Self::Rabbit(rabbit) => {
                rabbit.publish(Queue::Executions, batch.iter().map(Wakeup::encode).collect());
            }
        }
    }

    /// Publishes a wake-up for a background job as [`Self::publish`] does.
    pub fn publish_job(&self, queue: Queue, wakeup: &JobWakeup) {
        match self {
            Self::InProcess(own) => own.publish(queue, std::iter::once(wakeup.encode())),
            Self::Rabbit(rabbit) => rabbit.publish(queue, vec![wakeup.encode()]),
        }
    }

    /// Publishes and waits until the broker has confirmed all of it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the broker is away, or refused or returned any of it.
    pub async fn publish_confirmed(&self, batch: Vec<Wakeup>) -> Result<()> {
        match self {
            Self::InProcess(own) => {
                own.publish(Queue::Executions, batch.iter().map(Wakeup::encode));
                Ok(())
            }
            Self::Rabbit(rabbit) => {
                let payloads = batch.iter().map(Wakeup::encode).collect();
                rabbit.publish_confirmed(Queue::Executions, payloads).await
            }
        }
    }

    /// Publishes bytes that are no wake-up of an execution, as a broken peer would.
    ///
    /// # Errors
    /// As [`Self::publish_confirmed`].
    pub async fn publish_raw(&self, payload: Vec<u8>) -> Result<()> {
        self.publish_raw_to(Queue::Executions, payload).await
    }

    /// The same to any queue.
    ///
    /// # Errors
    /// As [`Self::publish_confirmed`].
    pub async fn publish_raw_to(&self, queue: Queue, payload: Vec<u8>) -> Result<()> {
        match self {
            Self::InProcess(own) => {
                own.publish(queue, std::iter::once(payload));
                Ok(())
            }
            Self::Rabbit(rabbit) => rabbit.publish_confirmed(queue, vec![payload]).await,
        }
    }

    /// How many wake-ups wait in the queue.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the broker is away.
    pub async fn depth(&self) -> Result<usize> {
        match self {
            Self::InProcess(own) => Ok(own.depth(Queue::Executions)),
            Self::Rabbit(rabbit) => rabbit.depth(Queue::Executions).await,
        }
    }

    /// Messages and dead letters of each queue, in the order of [`Queue::ALL`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the broker is away.
    pub async fn counts(&self) -> Result<[(u64, u64); 3]> {
        match self {
            Self::InProcess(own) => Ok(own.counts()),
            Self::Rabbit(rabbit) => rabbit.counts().await,
        }
    }

    /// Whether the broker answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not.
    pub async fn ping(&self) -> Result<()> {
        self.depth().await.map(|_| ())
    }

    /// Waits until the broker is found to have queues that stand with other arguments, and says which; for ever, once it was of
    /// use.
    pub async fn conflict_at_start(&self) -> String {
        match self {
            Self::InProcess(_) => std::future::pending().await,
            Self::Rabbit(rabbit) => rabbit.conflict_at_start().await,
        }
    }

    /// What the broker has with other arguments now; only [`topology::END_OF_CONFLICT`] ends that.
    pub fn conflict(&self) -> Option<String> {
        match self {
            Self::InProcess(_) => None,
            Self::Rabbit(rabbit) => rabbit.conflict(),
        }
    }

    /// Begins to consume, holding at most `prefetch` deliveries; reconnects by itself.
    pub fn consume(&self, prefetch: u16) -> Consumer {
        self.consume_from(Queue::Executions, prefetch)
    }

    /// The same for wake-ups of background jobs.
    pub fn consume_jobs(&self, queue: Queue, prefetch: u16) -> Consumer<JobWakeup> {
        self.consume_from(queue, prefetch)
    }

    fn consume_from<M: Message>(&self, queue: Queue, prefetch: u16) -> Consumer<M> {
        match self {
            Self::InProcess(own) => Consumer::InProcess(own.consume(queue)),
            Self::Rabbit(rabbit) => Consumer::Rabbit(rabbit.consume(queue, prefetch)),
        }
    }

    /// Removes the exchanges and queues: for tests, which have a prefix of their own.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the broker is away.
    pub async fn remove_topology(&self) -> Result<()> {
        match self {
            Self::InProcess(_) => Ok(()),
            Self::Rabbit(rabbit) => rabbit.remove_topology().await,
        }
    }
}

impl<M: Message> Consumer<M> {
    /// Waits for a delivery, then takes what else is there, up to `limit`. Poison messages never get here:
    /// they go to the dead letters with their reason. Safe to cancel.
    pub async fn next(&mut self, limit: usize) -> Vec<Delivery<M>> {
        match self {
            Self::InProcess(own) => own.next(limit).await.into_iter().map(Delivery::InProcess).collect(),
            Self::Rabbit(rabbit) => rabbit.next(limit).await.into_iter().map(Delivery::Rabbit).collect(),
        }
    }

    /// Acknowledges deliveries that were taken in this order, in as few messages as possible.
    pub async fn ack(&mut self, deliveries: Vec<Delivery<M>>) {
        let mut amqp = Vec::new();
        for delivery in deliveries {
            match delivery {
                Delivery::InProcess(own) => own.ack(),
                Delivery::Rabbit(rabbit) => amqp.push(rabbit),
            }
        }
        rabbit::ack(amqp).await;
    }
}

impl<M: Message> Delivery<M> {
    /// The message.
    pub fn wakeup(&self) -> &M {
        match self {
            Self::InProcess(own) => own.wakeup(),
            Self::Rabbit(rabbit) => rabbit.wakeup(),
        }
    }
}

fn away(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unavailable { service: "RabbitMQ", source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wakeup_of_this_version_is_read() {
        let wakeup = Wakeup::new(ExecutionId::generate(), None, 5, None);
        assert_eq!(Wakeup::decode(&wakeup.encode()), Ok(wakeup.clone()));

        let other_version = serde_json::to_vec(&Wakeup { v: 2, ..wakeup }).expect("JSON");
        assert!(Wakeup::decode(&other_version).expect_err("refused").contains("version 2"));
        assert_eq!(Wakeup::decode(br#"{"v": 2, "execution": 1}"#), Err("version 2 is not 1".into()));
        assert!(Wakeup::decode(b"{\"v\": 1").is_err());
        assert!(Wakeup::decode(&vec![b' '; MAX_BYTES + 1]).expect_err("refused").contains("bytes"));
        assert!(JobWakeup::decode(&other_version).is_err(), "a wake-up of another queue");
    }
}
