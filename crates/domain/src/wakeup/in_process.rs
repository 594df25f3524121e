//! Wake-ups within one process: bounded queues with acknowledgements, as the broker's.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::Message;
use super::dead_letters::DeadLetter;
use super::queue::Queue as Name;
use crate::telemetry::metrics::{self, Published};

/// More is dropped: the rows are the truth, and the sweeper repeats a lost wake-up.
const CAPACITY: usize = 100_000;
const DEAD_CAPACITY: usize = 1_000;

/// The queues. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct InProcess {
    executions: Arc<Shared>,
    git_sync: Arc<Shared>,
    packages_install: Arc<Shared>,
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
pub struct Consumer<M> {
    name: Name,
    shared: Arc<Shared>,
    message: PhantomData<fn() -> M>,
}

/// A wake-up; dropped without [`Delivery::ack`] it goes back to the front.
#[derive(Debug)]
pub struct Delivery<M: Message> {
    wakeup: M,
    shared: Option<Arc<Shared>>,
}

impl InProcess {
    pub(super) fn publish(&self, name: Name, mut batch: impl Iterator<Item = Vec<u8>>) {
        let shared = self.of(name);
        let (taken, dropped) = shared.with(|queue| {
            let before = queue.waiting.len();
            queue.waiting.extend(batch.by_ref().take(CAPACITY.saturating_sub(before)));
            (queue.waiting.len() - before, batch.count())
        });
        metrics::published(Published::Confirmed, taken);
        metrics::published(Published::Dropped, dropped);
        shared.arrived.notify_one();
    }

    pub(super) fn depth(&self, name: Name) -> usize {
        self.of(name).with(|queue| queue.waiting.len())
    }

    pub(super) fn counts(&self) -> [(u64, u64); 3] {
        Name::ALL
            .map(|name| self.of(name).with(|queue| (queue.waiting.len() as u64, queue.dead.len() as u64)))
    }

    pub(super) fn dead_letters(&self, name: Name, limit: usize) -> Vec<DeadLetter> {
        self.of(name).with(|queue| queue.dead.iter().take(limit).cloned().collect())
    }

    /// Puts these back to be delivered again; says which there were.
    pub(super) fn replay_dead(&self, name: Name, chosen: impl Fn(&DeadLetter) -> bool) -> Vec<DeadLetter> {
        let shared = self.of(name);
        let back = shared.with(|queue| {
            let back = queue.take_dead(chosen);
            queue.waiting.extend(back.iter().map(|letter| letter.payload.clone()));
            back
        });
        shared.arrived.notify_one();
        back
    }

    /// Forgets these; says which there were.
    pub(super) fn drop_dead(&self, name: Name, chosen: impl Fn(&DeadLetter) -> bool) -> Vec<DeadLetter> {
        self.of(name).with(|queue| queue.take_dead(chosen))
    }

    pub(super) fn consume<M: Message>(&self, name: Name) -> Consumer<M> {
        Consumer { name, shared: self.of(name).clone(), message: PhantomData }
    }

    fn of(&self, name: Name) -> &Arc<Shared> {
        match name {
            Name::Executions => &self.executions,
            Name::GitSync => &self.git_sync,
            Name::PackagesInstall => &self.packages_install,
        }
    }
}

impl Queue {
    fn take_dead(&mut self, chosen: impl Fn(&DeadLetter) -> bool) -> Vec<DeadLetter> {
        let (taken, dead): (Vec<_>, Vec<_>) = self.dead.drain(..).partition(chosen);
        self.dead = dead.into();
        taken
    }
}

impl<M: Message> Consumer<M> {
    pub(super) async fn next(&mut self, limit: usize) -> Vec<Delivery<M>> {
        loop {
            let arrived = self.shared.arrived.notified();
            let taken = self.take(limit);
            if !taken.is_empty() {
                return taken;
            }
            arrived.await;
        }
    }

    fn take(&self, limit: usize) -> Vec<Delivery<M>> {
        self.shared.with(|queue| {
            let mut taken = Vec::new();
            while taken.len() < limit
                && let Some(payload) = queue.waiting.pop_front()
            {
                match M::decode(&payload) {
                    Ok(wakeup) => taken.push(Delivery { wakeup, shared: Some(self.shared.clone()) }),
                    Err(reason) => {
                        tracing::warn!(%reason, "a message is no wake-up, moved to the dead letters");
                        queue.dead.truncate(DEAD_CAPACITY - 1);
                        let died_at = Some(chrono::Utc::now());
                        queue.dead.push_back(DeadLetter::new(self.name, "rejected", 1, died_at, payload));
                    }
                }
            }
            taken
        })
    }
}

impl<M: Message> Delivery<M> {
    pub(super) fn wakeup(&self) -> &M {
        &self.wakeup
    }

    pub(super) fn ack(mut self) {
        self.shared = None;
    }
}

impl<M: Message> Drop for Delivery<M> {
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
