//! Exchanges, queues and bindings: declared by every process at start, and proven by a probe.
//!
//! Working queues are quorum queues that dead-letter after five deliveries, at least once, and refuse what
//! does not fit. Nothing has a time to live: waiting work is never dead-lettered.

use lapin::options::{
    BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, ErrorKind, ExchangeKind};

use super::queue::Queue;

/// Deliveries of a message before it is dead.
pub const DELIVERY_LIMIT: i64 = 5;
/// What ends a [`TopologyError::Conflict`].
pub const END_OF_CONFLICT: &str = "delete it at the broker, or choose another QUEUE_PREFIX";
/// Reply code of the broker to a declaration that differs from what stands.
const PRECONDITION_FAILED: u16 = 406;

const QUEUES: [(&str, &str); 3] = [
    ("workflow.executions", "workflow.execute"),
    ("git.sync", "git.sync"),
    ("packages.install", "packages.install"),
];

/// The names of one installation; a prefix keeps installations apart that share a broker.
#[derive(Debug, Clone)]
pub struct Topology {
    prefix: String,
}

impl Topology {
    /// Names with this prefix.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The exchange that work is published to.
    pub fn direct(&self) -> String {
        format!("{}bifrost.direct", self.prefix)
    }

    /// A queue of work.
    pub fn queue(&self, queue: Queue) -> String {
        format!("{}{}", self.prefix, queue.as_str())
    }

    /// The queue of a queue's dead letters.
    pub fn dead(&self, queue: &str) -> String {
        format!("{queue}.dead")
    }

    /// The queue of the dead letters of a queue of work.
    pub(super) fn dead_of(&self, queue: Queue) -> String {
        self.dead(&self.queue(queue))
    }

    /// The routing key of a queue of work.
    pub fn key_of(&self, queue: Queue) -> &'static str {
        match queue {
            Queue::Executions => QUEUES[0].1,
            Queue::GitSync | Queue::PackagesInstall => queue.as_str(),
        }
    }

    /// The queue that only one connection has at a time: whoever looks at dead letters.
    pub(super) fn turn(&self) -> String {
        format!("{}bifrost.dead-letters", self.prefix)
    }

    pub(super) fn dead_exchange(&self) -> String {
        format!("{}bifrost.dlx", self.prefix)
    }

    /// Declares everything; what stands already is left alone.
    ///
    /// # Errors
    /// [`TopologyError::Conflict`] when something stands with other arguments.
    pub async fn declare(&self, channel: &Channel) -> Result<(), TopologyError> {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        for exchange in [self.direct(), self.dead_exchange()] {
            let name = exchange.as_str().into();
            let declared =
                channel.exchange_declare(name, ExchangeKind::Direct, durable, FieldTable::default()).await;
            declared.map_err(|error| TopologyError::of(&exchange, error))?;
        }
        for (name, routing_key) in QUEUES {
            let queue = format!("{}{name}", self.prefix);
            let dead = self.dead(&queue);
            self.declare_queue(channel, &queue, self.working_arguments(&dead)).await?;
            self.declare_queue(channel, &dead, quorum()).await?;
            self.bind(channel, &queue, &self.direct(), routing_key).await?;
            self.bind(channel, &dead, &self.dead_exchange(), &dead).await?;
        }
        Ok(())
    }

    /// Publishes a probe to each dead-letter route; it expires at once. `channel` must confirm.
    ///
    /// # Errors
    /// [`TopologyError::Unrouted`] for a route that leads nowhere.
    pub async fn probe(&self, channel: &Channel) -> Result<(), TopologyError> {
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let fleeting =
            BasicProperties::default().with_expiration("0".into()).with_type("bifrost.probe".into());
        for (name, _) in QUEUES {
            let dead = self.dead(&format!("{}{name}", self.prefix));
            let confirm = channel
                .basic_publish(
                    self.dead_exchange().into(),
                    dead.as_str().into(),
                    mandatory,
                    b"{}",
                    fleeting.clone(),
                )
                .await?
                .await?;
            if !matches!(confirm, Confirmation::Ack(None)) {
                return Err(TopologyError::Unrouted(dead));
            }
        }
        Ok(())
    }

    /// Deletes everything with this prefix.
    ///
    /// # Errors
    /// [`lapin::Error`].
    pub async fn remove(&self, channel: &Channel) -> lapin::Result<()> {
        for (name, _) in QUEUES {
            let queue = format!("{}{name}", self.prefix);
            channel.queue_delete(self.dead(&queue).into(), QueueDeleteOptions::default()).await?;
            channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        }
        for exchange in [self.direct(), self.dead_exchange()] {
            channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
        }
        Ok(())
    }

    async fn declare_queue(
        &self,
        channel: &Channel,
        queue: &str,
        arguments: FieldTable,
    ) -> Result<(), TopologyError> {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), durable, arguments).await;
        declared.map(drop).map_err(|error| TopologyError::of(queue, error))
    }

    async fn bind(&self, channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
        channel
            .queue_bind(
                queue.into(),
                exchange.into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
    }

    fn working_arguments(&self, dead: &str) -> FieldTable {
        let mut arguments = quorum();
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
        for (name, value) in [
            ("x-dead-letter-exchange", self.dead_exchange().as_str()),
            ("x-dead-letter-routing-key", dead),
            ("x-dead-letter-strategy", "at-least-once"),
            ("x-overflow", "reject-publish"),
        ] {
            arguments.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        arguments
    }
}

/// Why the topology is not usable.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// Something of this name stands with other arguments; nothing but [`END_OF_CONFLICT`] helps.
    #[error("{name} stands with other arguments at the broker: {said}")]
    Conflict {
        /// A queue or an exchange.
        name: String,
        /// What the broker says to it.
        said: String,
    },
    /// The broker failed.
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
    /// A dead-letter route leads nowhere.
    #[error("the dead-letter route to {0} leads nowhere")]
    Unrouted(String),
}

impl TopologyError {
    /// Why the queue or exchange `name` could not be declared.
    fn of(name: &str, error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(said) if said.get_id() == PRECONDITION_FAILED => {
                Self::Conflict { name: name.to_owned(), said: said.get_message().to_string() }
            }
            _ => error.into(),
        }
    }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}
