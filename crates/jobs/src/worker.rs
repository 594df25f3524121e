//! The worker: takes wake-ups when slots are free, claims that many rows in one statement, acknowledges, runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use domain::Platform;
use domain::events::Event;
use domain::executions::claim::{self, Claimed};
use domain::gather::Gather;
use domain::id::{ExecutionId, WorkerId};
use domain::sabotage::{self, Fault};
use domain::system_events::{Category, Level, NewEvent};
use domain::telemetry::{metrics, scrape};
use domain::wakeup::{Delivery, Wakeup};
use domain::{in_time, workers};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ahead::Ahead;
use crate::execute::{self, Engine};
use crate::patience::{HEARTBEAT, PAUSE_WITHOUT_DATABASE};
use crate::record::Recorder;
use crate::slots::{Slot, Slots};
use crate::stop::Stop;
use crate::templates::Templates;
use crate::trace::AttemptTrace;

/// Deliveries held beyond the slots, so that a slot that becomes free does not wait for the broker.
const PREFETCH_AHEAD: usize = 16;
/// Short enough for another try before the leases end.
const BEAT_PATIENCE: Duration = Duration::from_secs(3);

/// One worker of one process.
#[derive(Debug)]
pub(crate) struct Worker {
    id: WorkerId,
    platform: Platform,
    engine: Engine,
    slots: Slots,
    running: Mutex<HashMap<ExecutionId, Running>>,
    /// What was submitted last, as far as it was told.
    submitted: watch::Sender<Vec<ExecutionId>>,
}

/// An attempt under way, as others of the process see it.
#[derive(Debug, Clone)]
struct Running {
    attempt: i32,
    stop: Stop,
}

impl Worker {
    pub(crate) fn new(platform: Platform, templates: Templates) -> Self {
        let recorder = Recorder::start(&platform);
        Self {
            id: WorkerId::generate(),
            slots: Slots::new(platform.settings.worker_slots),
            running: Mutex::default(),
            submitted: watch::Sender::default(),
            engine: Engine { platform: platform.clone(), templates, recorder },
            platform,
        }
    }

    /// Works until `stop`, then drains.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        self.show_slots();
        self.report("A worker started");
        let runs = TaskTracker::new();
        let watching = CancellationToken::new();
        tokio::spawn(watching.clone().run_until_cancelled_owned(self.clone().keep_leases()));
        tokio::spawn(watching.clone().run_until_cancelled_owned(self.clone().hear_events()));
        Box::pin(self.clone().take_work(&runs, &stop)).await;
        self.drain(runs).await;
        watching.cancel();
        // Whoever cannot take leave is missed within ten seconds.
        let _ = in_time(BEAT_PATIENCE, workers::leave(&self.platform.db, self.id)).await;
        self.report("A worker stopped");
        self.platform.system_events.drain().await;
    }

    /// Has each scrape look at the slots, as long as they are there.
    fn show_slots(&self) {
        let (all, slots) = (self.platform.settings.worker_slots, Arc::downgrade(self.slots.running()));
        scrape::at_each_scrape(move || {
            if let Some(slots) = slots.upgrade() {
                metrics::slots(all, slots.available_permits());
            }
        });
    }

    /// Tells that it came or went.
    fn report(&self, message: &str) {
        let details = json!({"worker": self.id, "slots": self.platform.settings.worker_slots});
        let event = NewEvent::new(Category::System, Level::Info, message).with(details);
        self.platform.system_events.report(event);
    }

    /// Claims and begins runs until `stop`. It stops where it waits and nowhere else: a claim dropped on its way may be
    /// committed, and its runs would fail as those of a lost worker.
    async fn take_work(self: Arc<Self>, runs: &TaskTracker, stop: &CancellationToken) {
        // Without an interpreter nothing can run, so nothing is taken.
        if stop.run_until_cancelled(self.engine.templates.ready()).await != Some(true) {
            return;
        }
        let slots = self.platform.settings.worker_slots;
        let prefetch = u16::try_from(slots + PREFETCH_AHEAD).unwrap_or(u16::MAX);
        let mut consumer = self.platform.wakeups.consume(prefetch);
        let mut waiting = Vec::new();
        let mut gather = Gather::default();
        let mut submitted = self.submitted.subscribe();
        let mut ahead = Ahead::default();
        loop {
            if waiting.is_empty() {
                tokio::select! {
                    // What waits comes before what was just submitted.
                    biased;
                    () = stop.cancelled() => return,
                    deliveries = consumer.next(slots) => waiting = deliveries,
                    // The broker syncs a message before it hands it over; the row is there already.
                    Ok(()) = submitted.changed() => {
                        let submitted = submitted.borrow_and_update().clone();
                        if self.running().is_empty() {
                            self.begin_ahead(runs, &submitted, &mut ahead, stop).await;
                        }
                        continue;
                    }
                }
            }
            if ahead.take(waiting.iter().map(named)) {
                consumer.ack(std::mem::take(&mut waiting)).await;
                continue;
            }
            let lingers_until = gather.lingers_until();
            if let Some(until) = lingers_until {
                let free = self.slots.running().available_permits();
                while waiting.len() < free
                    && let Ok(more) = timeout_at(until, consumer.next(free - waiting.len())).await
                {
                    ahead.take(more.iter().map(named));
                    waiting.extend(more);
                }
            }
            // What cannot be run here is left to others.
            if stop.run_until_cancelled(self.engine.templates.ready()).await != Some(true) {
                return;
            }
            // No slot is held while nothing waits: a parent that takes its own back could need it.
            let wanted = waiting.len();
            if sabotage::is(Fault::AckBeforeClaim) {
                consumer.ack(std::mem::take(&mut waiting)).await;
            }
            let Some(permits) = stop.run_until_cancelled(self.permits(wanted, lingers_until)).await else {
                return;
            };
            gather.saw(permits.len());
            let claimed_since = SystemTime::now();
            let claimed = self.claim(permits.len(), stop).await;
            // What woke it stays unacknowledged, for others.
            if claimed.is_empty() && stop.is_cancelled() {
                return;
            }
            let later = waiting.split_off(permits.len().min(waiting.len()));
            consumer.ack(std::mem::replace(&mut waiting, later)).await;
            self.begin_all(runs, claimed, permits, claimed_since);
        }
    }

    /// Claims and begins what was submitted, before its wake-ups are here; `ahead` remembers which these will be. If something
    /// else waits, what is in turn is begun instead.
    async fn begin_ahead(
        self: &Arc<Self>,
        runs: &TaskTracker,
        submitted: &[ExecutionId],
        ahead: &mut Ahead,
        stop: &CancellationToken,
    ) {
        if stop.run_until_cancelled(self.engine.templates.ready()).await != Some(true) {
            return;
        }
        let permits = self.permits(submitted.len(), None).await;
        let claimed_since = SystemTime::now();
        let submitted = &submitted[..permits.len().min(submitted.len())];
        let claimed = match claim::claim_submitted(&self.platform.db, self.id, submitted).await {
            Ok(claimed) if claimed.is_empty() => self.claim(permits.len(), stop).await,
            Ok(claimed) => {
                ahead.remember(&claimed);
                claimed
            }
            Err(error) => {
                tracing::warn!(%error, "cannot claim what was submitted, leaving it to its wake-up");
                return;
            }
        };
        self.begin_all(runs, claimed, permits, claimed_since);
    }

    /// Waits for a free slot, then takes what else is free, up to `wanted`; given `until`, also what is free by then.
    async fn permits(&self, wanted: usize, until: Option<Instant>) -> Vec<OwnedSemaphorePermit> {
        let slots = || self.slots.running().clone();
        let mut permits = vec![slots().acquire_owned().await.expect("the slots are never closed")];
        let mut take_free = || {
            while permits.len() < wanted
                && let Ok(permit) = slots().try_acquire_owned()
            {
                permits.push(permit);
            }
            permits.len()
        };
        if take_free() < wanted
            && let Some(until) = until
        {
            sleep_until(until).await;
            take_free();
        }
        permits
    }

    /// Claims; while PostgreSQL is away it waits, until `stop`, and the deliveries stay unacknowledged.
    async fn claim(&self, limit: usize, stop: &CancellationToken) -> Vec<Claimed> {
        loop {
            match Box::pin(claim::claim(&self.platform.db, self.id, limit)).await {
                Ok(claimed) => return claimed,
                Err(error) => {
                    tracing::warn!(%error, "cannot claim, trying again");
                    let pause = tokio::time::sleep(PAUSE_WITHOUT_DATABASE);
                    if stop.run_until_cancelled(pause).await.is_none() {
                        return Vec::new();
                    }
                }
            }
        }
    }

    fn begin_all(
        self: &Arc<Self>,
        runs: &TaskTracker,
        claimed: Vec<Claimed>,
        permits: Vec<OwnedSemaphorePermit>,
        claimed_since: SystemTime,
    ) {
        for (claimed, permit) in claimed.into_iter().zip(permits) {
            let slot = self.slots.slot(permit);
            let trace = AttemptTrace::begin(&claimed, claimed_since);
            self.begin(runs, claimed, slot, trace);
        }
    }

    fn begin(self: &Arc<Self>, runs: &TaskTracker, claimed: Claimed, slot: Slot, trace: AttemptTrace) {
        let stop = Stop::default();
        let (id, attempt) = (claimed.id, claimed.attempt);
        // What waits for the slot it gives back was found unable to start, and needs a new wake-up.
        let next =
            claimed.is_limited.then(|| Wakeup::new(id, claimed.organization_id, claimed.priority, None));
        let before = self.running().insert(id, Running { attempt, stop: stop.clone() });
        // Of an attempt that runs here still, nobody hears again: heartbeats know the new one.
        if let Some(before) = before {
            before.stop.fenced.cancel();
        }
        let listed = Listed { worker: self.clone(), id, attempt };
        runs.spawn(async move {
            let worker = &listed.worker;
            execute::execute(&worker.engine, claimed, slot, stop, trace).await;
            if let Some(next) = next {
                worker.platform.wakeups.publish(vec![next]);
            }
        });
    }

    /// Keeps what runs, and says that this worker is alive.
    async fn keep_leases(self: Arc<Self>) {
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let slots = self.platform.settings.worker_slots;
        loop {
            beat.tick().await;
            self.extend_leases().await;
            let taken = slots.saturating_sub(self.slots.running().available_permits());
            if let Err(error) =
                in_time(BEAT_PATIENCE, workers::beat(&self.platform.db, self.id, slots, taken)).await
            {
                tracing::debug!(%error, "cannot say that this worker is alive");
            }
        }
    }

    /// Extends the leases of what runs, and stops what is cancelled or no longer ours.
    async fn extend_leases(&self) {
        let before = self.running().clone();
        if before.is_empty() {
            return;
        }
        let ids: Vec<ExecutionId> = before.keys().copied().collect();
        let held = match in_time(BEAT_PATIENCE, claim::heartbeat(&self.platform.db, self.id, &ids)).await {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(%error, running = ids.len(), "cannot extend leases");
                return;
            }
        };
        for (id, running) in before {
            match held.iter().find(|held| held.id == id && held.attempt == running.attempt) {
                Some(held) if held.cancelling => running.stop.cancelled.cancel(),
                Some(_) => {}
                None if sabotage::is(Fault::NoFence) => {}
                // It may just have been recorded; then there is nothing left to kill.
                None => running.stop.fenced.cancel(),
            }
        }
    }

    /// Stops runs as soon as somebody asks, and tells of submissions; what is missed here is found by the
    /// heartbeat, and by the wake-up.
    async fn hear_events(self: Arc<Self>) {
        let mut events = self.platform.events.orders();
        loop {
            match events.recv().await {
                Ok(event) => {
                    if let Event::Submitted(ids) = &*event {
                        self.submitted.send_replace(ids.clone());
                    }
                    if let Event::Cancel { execution_id, attempt } = &*event
                        && let Some(running) = self.running().get(execution_id)
                        && running.attempt == *attempt
                    {
                        running.stop.cancelled.cancel();
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Lets runs end within the grace, then ends and records them.
    async fn drain(&self, runs: TaskTracker) {
        runs.close();
        let grace = Duration::from_secs(self.platform.settings.shutdown_grace_seconds);
        if !runs.is_empty() {
            tracing::info!(running = runs.len(), ?grace, "waiting for runs to end");
        }
        if tokio::time::timeout(grace, runs.wait()).await.is_err() {
            tracing::warn!(running = runs.len(), "ending runs that did not end in time");
            for running in self.running().values() {
                running.stop.shut_down.cancel();
            }
            runs.wait().await;
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<ExecutionId, Running>> {
        // The map is consistent after every statement, so a panic elsewhere does not spoil it.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that is among what runs; it is taken off when this is dropped, though the attempt has panicked: else its lease would
/// be kept for ever.
struct Listed {
    worker: Arc<Worker>,
    id: ExecutionId,
    attempt: i32,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut running = self.worker.running();
        // A later attempt may run here already; that entry stays.
        if running.get(&self.id).is_some_and(|running| running.attempt == self.attempt) {
            running.remove(&self.id);
        }
    }
}

/// The execution that a wake-up names.
fn named(delivery: &Delivery) -> ExecutionId {
    delivery.wakeup().execution_id
}
