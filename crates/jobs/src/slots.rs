//! Slots: how many executions run at once. A parent that waits for its child runs holds none.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

/// The slot of one run. Dropping it frees it.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Semaphore>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    permit: Option<OwnedSemaphorePermit>,
    waits: usize,
}

impl Slot {
    pub(crate) fn new(slots: Arc<Semaphore>, permit: OwnedSemaphorePermit) -> Self {
        Self { slots, held: Mutex::new(Held { permit: Some(permit), waits: 0 }) }
    }

    /// Waits for something that itself needs a slot, without holding this one.
    pub(crate) async fn lend<T>(&self, wait: impl Future<Output = T>) -> T {
        {
            let mut held = self.held.lock().await;
            held.waits += 1;
            held.permit = None;
        }
        let outcome = wait.await;
        let mut held = self.held.lock().await;
        held.waits -= 1;
        if held.waits == 0 {
            held.permit = self.slots.clone().acquire_owned().await.ok();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiting_run_lends_its_slot_and_takes_one_back() {
        let slots = Arc::new(Semaphore::new(1));
        let slot = Slot::new(slots.clone(), slots.clone().acquire_owned().await.expect("open"));
        assert_eq!(slots.available_permits(), 0);

        // Two waits at once: the slot is free until both are over.
        let both = async {
            tokio::join!(
                slot.lend(async { slots.available_permits() }),
                slot.lend(async { slots.available_permits() })
            )
        };
        assert_eq!(both.await, (1, 1));

        assert_eq!(slots.available_permits(), 0, "taken back");
        drop(slot);
        assert_eq!(slots.available_permits(), 1);
    }
}
