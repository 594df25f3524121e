//! Slots: how many executions run at once. A parent that waits for its child runs holds none, but there may not be
//! any number of such parents, for each keeps its process.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

/// For each slot, so many runs may wait for others.
const WAITING_PER_SLOT: usize = 16;

/// The slots of one worker. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// The slot of one run. Dropping it frees it.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    running: Option<OwnedSemaphorePermit>,
    waiting: Option<OwnedSemaphorePermit>,
    waits: usize,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(count)),
            waiting: Arc::new(Semaphore::new(count * WAITING_PER_SLOT)),
        }
    }

    /// Those that runs are taken for and given.
    pub(crate) fn running(&self) -> &Arc<Semaphore> {
        &self.running
    }

    /// The slot that `permit`, one of [`Self::running`], stands for.
    pub(crate) fn slot(&self, permit: OwnedSemaphorePermit) -> Slot {
        let held = Held { running: Some(permit), waiting: None, waits: 0 };
        Slot { slots: self.clone(), held: Mutex::new(held) }
    }
}

impl Slot {
    /// Waits for something that itself needs a slot, without holding this one; `None` where too many do already.
    pub(crate) async fn lend<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        {
            let mut held = self.held.lock().await;
            if held.waiting.is_none() {
                held.waiting = Some(self.slots.waiting.clone().try_acquire_owned().ok()?);
            }
            held.waits += 1;
            held.running = None;
        }
        let outcome = wait.await;
        let mut held = self.held.lock().await;
        held.waits -= 1;
        if held.waits == 0 {
            held.running = self.slots.running.clone().acquire_owned().await.ok();
            held.waiting = None;
        }
        Some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn taken(slots: &Slots) -> Slot {
        slots.slot(slots.running.clone().acquire_owned().await.expect("open"))
    }

    #[tokio::test]
    async fn a_waiting_run_lends_its_slot_and_takes_one_back() {
        let slots = Slots::new(1);
        let slot = taken(&slots).await;
        let free = || slots.running.available_permits();
        assert_eq!(free(), 0);

        // Two waits at once: the slot is free until both are over.
        let both = async { tokio::join!(slot.lend(async { free() }), slot.lend(async { free() })) };
        assert_eq!(both.await, (Some(1), Some(1)));

        assert_eq!(free(), 0, "taken back");
        drop(slot);
        assert_eq!(free(), 1);
    }

    #[tokio::test]
    async fn not_any_number_of_runs_may_wait() {
        let slots = Slots::new(1);
        let mut waiting = Vec::new();
        for _ in 0..WAITING_PER_SLOT {
            let slot = taken(&slots).await;
            waiting.push(tokio::spawn(async move { slot.lend(std::future::pending::<()>()).await }));
        }

        let one_more = taken(&slots).await;
        assert_eq!(one_more.lend(async {}).await, None);
        assert_eq!(slots.running.available_permits(), 0, "it holds its slot still");

        let first = waiting.remove(0);
        first.abort();
        let _ = first.await;
        assert_eq!(one_more.lend(async {}).await, Some(()), "there is room again");
    }
}
