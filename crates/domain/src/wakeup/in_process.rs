//! Wake-ups within one process: a bounded queue with acknowledgements, as the broker's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::Wakeup;
use super::dead_letters::{DeadLetter, Queue as Name};
use crate::telemetry::metrics::{self, Published};

/// More is dropped: the rows are the truth, and the sweeper repeats a lost wake-up.
const CAPACITY: usize = 100_000;
const DEAD_CAPACITY: usize = 1_000;

/// The queue. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct InProcess {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Vec<u8>>,
    dead: VecDeque<DeadLetter>,
}

/// Takes deliveries.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
}

/// A wake-up; dropped without [`Delivery::ack`] it goes back to the front.
#[derive(Debug)]
pub struct Delivery {
    wakeup: Wakeup,
    shared: Option<Arc<Shared>>,
}

impl InProcess {
    pub(super) fn publish(&self, batch: impl Iterator<Item = Vec<u8>>) {
        let (taken, dropped) = self.shared.with(|queue| {
            let before = queue.waiting.len();
            let mut batch = batch;
            queue.waiting.extend(batch.by_ref().take(CAPACITY.saturating_sub(before)));
            (queue.waiting.len() - before, batch.count())
        });
        metrics::published(Published::Confirmed, taken);
        metrics::published(Published::Dropped, dropped);
        self.shared.arrived.notify_one();
    }

    pub(super) fn depth(&self) -> usize {
        self.shared.with(|queue| queue.waiting.len())
    }

    pub(super) fn counts(&self) -> [(u64, u64); 3] {
        self.shared.with(|queue| {
            Name::ALL.map(|name| {
                let waiting = if name == Name::Executions { queue.waiting.len() } else { 0 };
                let dead = queue.dead.iter().filter(|letter| letter.queue == name).count();
                (waiting as u64, dead as u64)
            })
        })
    }

    pub(super) fn dead_letters(&self, name: Name, limit: usize) -> Vec<DeadLetter> {
        let of_queue = |letter: &&DeadLetter| letter.queue == name;
        self.shared.with(|queue| queue.dead.iter().filter(of_queue).take(limit).cloned().collect())
    }

    /// Puts these back to be delivered again; says how many there were.
    pub(super) fn replay_dead(&self, chosen: impl Fn(&DeadLetter) -> bool) -> usize {
        let count = self.shared.with(|queue| {
            let (back, dead): (Vec<_>, Vec<_>) = queue.dead.drain(..).partition(chosen);
            queue.dead = dead.into();
            queue.waiting.extend(back.iter().map(|letter| letter.payload.clone()));
            back.len()
        });
        self.shared.arrived.notify_one();
        count
    }

    /// Forgets these; says how many there were.
    pub(super) fn drop_dead(&self, chosen: impl Fn(&DeadLetter) -> bool) -> usize {
        self.shared.with(|queue| {
            let before = queue.dead.len();
            queue.dead.retain(|letter| !chosen(letter));
            before - queue.dead.len()
        })
    }

    pub(super) fn consume(&self) -> Consumer {
        Consumer { shared: self.shared.clone() }
    }
}

impl Consumer {
    pub(super) async fn next(&mut self, limit: usize) -> Vec<Delivery> {
        loop {
            let arrived = self.shared.arrived.notified();
            let taken = self.take(limit);
            if !taken.is_empty() {
                return taken;
            }
            arrived.await;
        }
    }

    fn take(&self, limit: usize) -> Vec<Delivery> {
        self.shared.with(|queue| {
            let mut taken = Vec::new();
            while taken.len() < limit
                && let Some(payload) = queue.waiting.pop_front()
            {
                match Wakeup::decode(&payload) {
                    Ok(wakeup) => taken.push(Delivery { wakeup, shared: Some(self.shared.clone()) }),
                    Err(reason) => {
                        tracing::warn!(%reason, "a message is no wake-up, moved to the dead letters");
                        queue.dead.truncate(DEAD_CAPACITY - 1);
                        let died_at = Some(chrono::Utc::now());
                        queue.dead.push_back(DeadLetter::new(
                            Name::Executions,
                            "rejected",
                            1,
                            died_at,
                            payload,
                        ));
                    }
                }
            }
            taken
        })
    }
}

impl Delivery {
    pub(super) fn wakeup(&self) -> &Wakeup {
        &self.wakeup
    }

    pub(super) fn ack(mut self) {
        self.shared = None;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.with(|queue| queue.waiting.push_front(self.wakeup.encode()));
            shared.arrived.notify_one();
        }
    }
}

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut Queue) -> T) -> T {
        // The queue is consistent after every statement, so a panic elsewhere does not spoil it.
        work(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
