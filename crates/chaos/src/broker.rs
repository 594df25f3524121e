//! The broker as somebody hostile uses it: looks at the queue, purges it, doubles and invents messages.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use domain::id::ExecutionId;
use domain::wakeup::Wakeup;
use domain::wakeup::queue::Queue as Name;
use domain::wakeup::topology::Topology;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use url::Url;
use uuid::Uuid;

use crate::cluster::QUEUE_PREFIX;
use crate::history::{Queue, lock};

const SAMPLE_PERIOD: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(3);
/// How often each wake-up is doubled, and how many executions are invented.
const TIMES: usize = 3;
const INVENTED: usize = 20;

/// Looks at the queue until it is dropped.
pub(crate) async fn watch_queue(url: Url, samples: Arc<Mutex<Vec<Queue>>>) {
    let mut open: Option<(Connection, Channel)> = None;
    let topology = Topology::new(QUEUE_PREFIX);
    loop {
        if open.is_none() {
            open = connect(&url).await.ok();
        }
        let consumers = match &open {
            None => None,
            Some((_, channel)) => {
                let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let asked = channel.queue_declare(
                    topology.queue(Name::Executions).into(),
                    passive,
                    FieldTable::default(),
                );
                match tokio::time::timeout(PATIENCE, asked).await {
                    Ok(Ok(queue)) => Some(queue.consumer_count()),
                    _ => None,
                }
            }
        };
        if consumers.is_none() {
            open = None;
        }
        lock(&samples).push(Queue { at: Utc::now(), consumers });
        tokio::time::sleep(SAMPLE_PERIOD).await;
    }
}

/// Forgets every wake-up that waits.
pub(crate) async fn purge(url: &Url) -> anyhow::Result<()> {
    let (connection, channel) = connect(url).await?;
    channel
        .queue_purge(Topology::new(QUEUE_PREFIX).queue(Name::Executions).into(), QueuePurgeOptions::default())
        .await?;
    Ok(connection.close(200, "done".into()).await?)
}

/// Publishes wake-ups of known executions again; returns how many.
pub(crate) async fn duplicate(url: &Url, known: &[Uuid]) -> anyhow::Result<usize> {
    let mut payloads = Vec::new();
    for id in known {
        payloads.extend(std::iter::repeat_n(wakeup(*id)?, TIMES));
    }
    publish(url, payloads).await
}

/// Publishes what nobody sent; returns how many.
pub(crate) async fn invent(url: &Url) -> anyhow::Result<usize> {
    let mut payloads =
        vec![b"{\"v\": 1".to_vec(), b"\xff\xfe".to_vec(), vec![b' '; 64 * 1024], b"{}".to_vec()];
    let other_version = String::from_utf8(wakeup(Uuid::now_v7())?)?.replace("\"v\":1", "\"v\":9");
    payloads.push(other_version.into_bytes());
    for _ in 0..INVENTED {
        payloads.push(wakeup(Uuid::now_v7())?);
    }
    publish(url, payloads).await
}

fn wakeup(id: Uuid) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Wakeup::new(ExecutionId(id), None, 10, None))?)
}

async fn publish(url: &Url, payloads: Vec<Vec<u8>>) -> anyhow::Result<usize> {
    let (connection, channel) = connect(url).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let topology = Topology::new(QUEUE_PREFIX);
    for payload in &payloads {
        let published = channel.basic_publish(
            topology.direct().into(),
            topology.key_of(Name::Executions).into(),
            BasicPublishOptions::default(),
            payload,
            BasicProperties::default(),
        );
        published.await?.await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(payloads.len())
}

async fn connect(url: &Url) -> anyhow::Result<(Connection, Channel)> {
    let open = async {
        let connection = Connection::connect(url.as_str(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok::<_, lapin::Error>((connection, channel))
    };
    Ok(tokio::time::timeout(PATIENCE, open).await??)
}
